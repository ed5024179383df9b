"""Loss of one row and its derivative by the scores.

The order of LOSSES is the number that kernels take; files name losses, never
number them.
"""

from __future__ import annotations

import math

import numpy as np

from streamtrain.kernels._jit import inline

LOSSES = ("squared", "logistic", "softmax", "hinge")
SQUARED, LOGISTIC, SOFTMAX, HINGE = range(4)


@inline
def loss_and_delta(loss, scores, y, delta):
    """Return the loss of a row, and write d loss / d score to `delta`.

    Parameters
    ----------
    loss : int
        Number in LOSSES.
    scores : (C,) float32, read
    y : float32
        The value (squared), 0 or 1 (logistic, hinge), class index (softmax).
    delta : (C,) float32, overwritten

    Notes
    -----
    squared   (s - y)^2
    logistic  log(1 + exp(-m)), m = (2 y - 1) s
    softmax   log sum_c exp(s_c) - s_y
    hinge     max(0, 1 - m)
    """
    if loss == SOFTMAX:
        n = scores.shape[0]
        top = scores[0]
        for c in range(1, n):
            top = max(top, scores[c])
        total = np.float32(0.0)
        for c in range(n):
            e = np.float32(math.exp(scores[c] - top))
            delta[c] = e
            total += e
        scale = np.float32(1.0) / total
        for c in range(n):
            delta[c] *= scale
        k = int(y)
        delta[k] -= np.float32(1.0)
        return math.log(np.float64(total)) + np.float64(top) - np.float64(scores[k])
    s = scores[0]
    if loss == SQUARED:
        d = s - y
        delta[0] = np.float32(2.0) * d
        return np.float64(d) * np.float64(d)
    sign = np.float32(2.0) * y - np.float32(1.0)
    margin = np.float64(sign * s)
    if loss == HINGE:
        if margin < 1.0:
            delta[0] = -sign
            return 1.0 - margin
        # A score that is not finite has margin < 1 false: it must not pass as no loss.
        delta[0] = np.float32(0.0)
        return margin - margin
    # exp(-|m|) cannot overflow, whatever the margin's sign.
    e = math.exp(-abs(margin))
    p_other = (e if margin > 0.0 else 1.0) / (1.0 + e)
    delta[0] = -sign * np.float32(p_other)
    return max(-margin, 0.0) + math.log1p(e)
