"""Loss of one row, its derivative by the scores, and what weighs the row.

The order of LOSSES is the number that kernels take; files name losses, never
number them. docs/losses.md has each loss with its link and its source.
"""

from __future__ import annotations

import math

import numpy as np

from streamtrain.kernels._jit import inline

LOSSES = (
    "squared", "logistic", "softmax", "hinge", "absolute", "huber", "quantile", "poisson", "gamma",
    "tweedie",
)  # fmt: skip
(
    SQUARED, LOGISTIC, SOFTMAX, HINGE, ABSOLUTE, HUBER, QUANTILE, POISSON, GAMMA, TWEEDIE,
) = range(10)  # fmt: skip

# Places in `shape`, the float32 array of a loss's settings.
S_HUBER_DELTA, S_QUANTILE, S_POWER, S_SMOOTHING = range(4)
N_SHAPE = 4

# exp(x) is infinite a little above.
_MAX_EXPONENT = 709.0
_FLOAT32_MAX = np.float32(np.finfo(np.float32).max)


@inline
def log_exposure(exposure, row):
    """Return the float32 log of a row's exposure, 0 where `exposure`, (N,) float32, is empty."""
    if exposure.shape[0] == 0:
        return np.float32(0.0)
    return np.float32(math.log(np.float64(exposure[row])))


@inline
def row_weight(weight, class_weights, row, y, weight_scale):
    """Return what a row's loss is multiplied by, float32.

    Parameters
    ----------
    weight : (N,) float32 or empty, read
    class_weights : (C,) float32 or empty, read
    row : int
    y : float32
        Class index of the row, where there are class weights.
    weight_scale : float32
    """
    found = np.float32(1.0)
    if weight.shape[0] > 0:
        found = weight[row] * weight_scale
    if class_weights.shape[0] > 0:
        found *= class_weights[int(y)]
    return found


@inline
def _exp(x):
    # Without the compiler math.exp raises where it should overflow. NaN passes.
    return np.inf if x > _MAX_EXPONENT else math.exp(x)


@inline
def _log_link_loss(loss, score, y, power):
    """Return (loss, d loss / d score) of a mean exp(score), all float64.

    The negative log-likelihood without the terms of y alone, for unit dispersion.
    """
    if loss == POISSON:
        mean = _exp(score)
        return mean - y * score, mean - y
    if loss == GAMMA:
        ratio = y * _exp(-score)
        return ratio + score, 1.0 - ratio
    # y = 0 must not meet an infinite factor: a mean close to 0 is right there.
    low = y * _exp((1.0 - power) * score) if y > 0.0 else 0.0
    high = _exp((2.0 - power) * score)
    return low / (power - 1.0) + high / (2.0 - power), high - low


@inline
def _softmax_loss(scores, k, smoothing, delta):
    """Return the softmax loss of class `k`, and write the derivative by the scores."""
    n = scores.shape[0]
    top = scores[0]
    for c in range(1, n):
        top = max(top, scores[c])
    total = 0.0
    mean = 0.0
    for c in range(n):
        e = np.float32(math.exp(scores[c] - top))
        delta[c] = e
        total += np.float64(e)
        mean += np.float64(scores[c]) / np.float64(n)
    scale = np.float32(1.0 / total)
    share = smoothing / np.float32(n)
    for c in range(n):
        delta[c] = delta[c] * scale - share
    delta[k] -= np.float32(1.0) - smoothing
    eps = np.float64(smoothing)
    # Without smoothing too: 0 times an infinite mean is NaN, and seen.
    return math.log(total) + np.float64(top) - (1.0 - eps) * np.float64(scores[k]) - eps * mean


@inline
def logistic_parts(score, y, half):
    """Return (d loss / d score, e, rest) of a logistic loss, which is rest + log(1 + e).

    Parameters
    ----------
    score, y : float32
        y is 0 or 1.
    half : float
        Half the label smoothing.

    Returns
    -------
    float, float, float
        float32, and two float64; 0 <= e <= 1. All may be NaN; e or rest is not
        finite where the score is not.
    """
    sign = np.float32(2.0) * y - np.float32(1.0)
    margin = np.float64(sign * score)
    # exp(-|m|) cannot overflow, whatever the margin's sign.
    e = math.exp(-abs(margin))
    p_other = (e if margin > 0.0 else 1.0) / (1.0 + e)
    # Without smoothing too: 0 times an infinite margin is NaN, and seen.
    return -sign * np.float32(p_other - half), e, max(-margin, 0.0) + half * margin


@inline
def loss_and_delta(loss, scores, y, exposure_log, shape, delta):
    """Return the loss of a row, and write d loss / d score to `delta`.

    Parameters
    ----------
    loss : int
        Number in LOSSES.
    scores : (C,) float32, read
    y : float32
        0 or 1 (logistic, hinge), class index (softmax), else the value.
    exposure_log : float32
        Log of the row's exposure (`log_exposure`); poisson, gamma, tweedie only.
    shape : (N_SHAPE,) float32, read
        Huber's delta, the quantile tau, Tweedie's power p, label smoothing eps.
    delta : (C,) float32, overwritten

    Returns
    -------
    float
        float64; NaN or infinite where a score is, or where delta does not fit
        float32.

    Notes
    -----
    squared   (s - y)^2
    logistic  log(1 + exp(-m)) + eps/2 m, m = (2 y - 1) s
    softmax   log sum_c exp(s_c) - (1 - eps) s_y - eps mean_c s_c
    hinge     max(0, 1 - m)
    absolute  |s - y|
    huber     e^2 / 2 where |e| <= delta, else delta (|e| - delta / 2); e = s - y
    quantile  tau (y - s) where y >= s, else (1 - tau) (s - y)
    and with a mean exp(t), t = s + exposure_log,
    poisson   exp(t) - y t
    gamma     y exp(-t) + t
    tweedie   y exp((1 - p) t) / (p - 1) + exp((2 - p) t) / (2 - p)

    At a kink the derivative is 0 (absolute, quantile), or that of the flat
    side (hinge). Sources: docs/losses.md.
    """
    if loss == SOFTMAX:
        return _softmax_loss(scores, int(y), shape[S_SMOOTHING], delta)
    s = scores[0]
    if loss == SQUARED:
        d = s - y
        delta[0] = np.float32(2.0) * d
        # By comparison: `isfinite` subtracts, and reassociated (2 d) - (2 d) forgets the 2.
        return np.float64(d) * np.float64(d) if abs(delta[0]) <= _FLOAT32_MAX else np.inf
    if loss == LOGISTIC:
        delta[0], e, rest = logistic_parts(s, y, 0.5 * np.float64(shape[S_SMOOTHING]))
        return rest + math.log1p(e)
    if loss == HINGE:
        sign = np.float32(2.0) * y - np.float32(1.0)
        margin = np.float64(sign * s)
        if margin < 1.0:
            delta[0] = -sign
            return 1.0 - margin
        # A score that is not finite has margin < 1 false: it must not pass as no loss.
        delta[0] = np.float32(0.0)
        return margin - margin
    if loss >= POISSON:
        t = np.float64(s) + np.float64(exposure_log)
        value, slope = _log_link_loss(loss, t, np.float64(y), np.float64(shape[S_POWER]))
        delta[0] = np.float32(slope)
        # A step that float32 cannot hold would be seen one batch too late, and a score
        # that is not finite must not pass as a mean of 0.
        return value if abs(t) < np.inf and abs(delta[0]) <= _FLOAT32_MAX else np.inf
    error = np.float64(s) - np.float64(y)
    size = abs(error)
    if loss == HUBER:
        bound = np.float64(shape[S_HUBER_DELTA])
        if size <= bound:
            delta[0] = np.float32(error)
            return 0.5 * error * error
        delta[0] = np.float32(math.copysign(bound, error))
        return bound * (size - 0.5 * bound)
    # What a unit of error costs: 1 either way (absolute), or by its side.
    above = 1.0
    below = 1.0
    if loss == QUANTILE:
        below = np.float64(shape[S_QUANTILE])
        above = 1.0 - below
    if error > 0.0:
        delta[0] = np.float32(above)
        return above * error
    delta[0] = np.float32(-below) if error < 0.0 else np.float32(0.0)
    return below * size


@inline
def losses_of_targets(loss, scores, targets, row, learnt, shapes, shares, delta):
    """Return the loss of a row of M targets, and write the derivative of the sum of its losses.

    Parameters
    ----------
    loss : int
        Number in LOSSES; one whose target takes one score, without an exposure.
    scores : (M,) float32, read
    targets : (N M,) float32, read
        The M targets of each row, one row behind another.
    row : int
    learnt : (2, M) float32, read
        A target y of output m is learnt as (y - learnt[0, m]) learnt[1, m].
    shapes : (M, N_SHAPE) float32, read
        Settings of the loss, for each output in its learnt units.
    shares : (M,) float64, read
        What the loss of each output counts in what is returned.
    delta : (M,) float32, overwritten

    Returns
    -------
    float
        sum_m shares[m] loss(scores[m], y_m), float64; not finite where one is not.
        The derivative is that of sum_m loss(scores[m], y_m), whatever the shares:
        each output learns as it would by itself.
    """
    n_targets = shares.shape[0]
    total = 0.0
    for m in range(n_targets):
        y = (targets[row * n_targets + m] - learnt[0, m]) * learnt[1, m]
        total += shares[m] * loss_and_delta(
            loss, scores[m : m + 1], y, np.float32(0.0), shapes[m], delta[m : m + 1]
        )
    return total
