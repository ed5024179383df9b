"""What scores mean: predictions, and losses in float64 NumPy, in the target's own units.

The kernels compute losses row by row (kernels/losses.py). docs/losses.md has the
formulas and their sources.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from streamtrain.errors import SchemaError
from streamtrain.model.losses import LOG_LINKS, STANDARDISED, domain_text, in_domain

if TYPE_CHECKING:
    from streamtrain.model.architecture import Architecture

Floats = npt.NDArray[np.float32]
Wide = npt.NDArray[np.float64]


def _linear_predictor(scores: Wide, exposure: Floats | None) -> Wide:
    if exposure is None or not len(exposure):
        return scores
    # As the kernels have it: the log rounded to float32.
    return scores + np.log(exposure.astype(np.float64)).astype(np.float32)


def predictions(architecture: Architecture, scores: Floats, exposure: Floats | None = None) -> Wide:
    """Return what a model says of rows, from their scores.

    Parameters
    ----------
    scores : (n, C) float32
    exposure : (n,) float32, (0,) or None
        Positive; only log links look at it.

    Returns
    -------
    (n,) values (squared, absolute, huber, quantile), means (poisson, gamma,
    tweedie: times the exposure), probabilities of the positive class (logistic)
    or margins (hinge); (n, C) probabilities (softmax); of M > 1 targets (n, M)
    values, or probabilities of 1 (logistic). float64.
    """
    loss = architecture.loss
    wide = scores.astype(np.float64)
    if architecture.n_targets > 1:
        if loss == "logistic":
            return _logistic(wide)
        means, scales = architecture.means_and_scales
        wide /= scales
        wide += means
        return wide
    if loss == "softmax":
        wide -= wide.max(axis=1, keepdims=True)
        np.exp(wide, out=wide)
        wide /= wide.sum(axis=1, keepdims=True)
        return wide
    flat: Wide = wide[:, 0]
    if loss in STANDARDISED:
        return flat / architecture.target_scale + architecture.target_mean
    if loss in LOG_LINKS:
        with np.errstate(over="ignore"):
            mean: Wide = np.exp(_linear_predictor(flat, exposure))
        return mean
    if loss == "logistic":
        return _logistic(flat)
    return flat


def _logistic(scores: Wide) -> Wide:
    small = np.exp(-np.abs(scores))
    result: Wide = np.where(scores >= 0, 1.0, small) / (1.0 + small)
    return result


def row_losses(
    architecture: Architecture, scores: Floats, target: Floats, exposure: Floats | None = None
) -> Wide:
    """Return the loss of each row, (n,) float64, in the target's own units.

    Parameters
    ----------
    scores : (n, C) float32
    target : (n,) float32, or (n, M)
        The class index (logistic, hinge, softmax), else the value. Of M > 1 targets
        the loss is the mean over them.
    exposure : (n,) float32, (0,) or None
    """
    loss = architecture.loss
    wide, y = scores.astype(np.float64), target.astype(np.float64)
    eps = architecture.label_smoothing
    if architecture.n_targets > 1:
        if loss == "logistic":
            several = _logistic_losses(wide, y, eps)
        else:
            several = _error_losses(architecture, predictions(architecture, scores) - y)
        # Along the rows of a C array: the sum of a row is the same whatever rows are beside it.
        mean: Wide = np.ascontiguousarray(several).mean(axis=1)
        return mean
    if loss == "softmax":
        top = wide.max(axis=1)
        total = np.log(np.exp(wide - top[:, None]).sum(axis=1)) + top
        true = wide[np.arange(len(wide)), target.astype(np.intp)]
        smoothed: Wide = total - (1.0 - eps) * true - eps * wide.mean(axis=1)
        return smoothed
    if loss in LOG_LINKS:
        return _log_link_losses(architecture, _linear_predictor(wide[:, 0], exposure), y)
    if loss in STANDARDISED:
        return _error_losses(architecture, predictions(architecture, scores) - y)
    if loss == "hinge":
        losses: Wide = np.maximum(1.0 - (2.0 * y - 1.0) * wide[:, 0], 0.0)
        return losses
    return _logistic_losses(wide[:, 0], y, eps)


def _logistic_losses(scores: Wide, y: Wide, eps: float) -> Wide:
    margin = (2.0 * y - 1.0) * scores
    losses: Wide = np.logaddexp(0.0, -margin) + 0.5 * eps * margin
    return losses


def _error_losses(architecture: Architecture, error: Wide) -> Wide:
    size: Wide = np.abs(error)
    if architecture.loss == "squared":
        return error * error
    if architecture.loss == "huber":
        bound = architecture.huber_delta
        huber: Wide = np.where(size <= bound, 0.5 * size * size, bound * (size - 0.5 * bound))
        return huber
    if architecture.loss == "quantile":
        tau = architecture.quantile
        pinball: Wide = np.where(error > 0, (1.0 - tau) * size, tau * size)
        return pinball
    return size


def _log_link_losses(architecture: Architecture, t: Wide, y: Wide) -> Wide:
    with np.errstate(over="ignore", invalid="ignore"):
        if architecture.loss == "poisson":
            losses: Wide = np.exp(t) - y * t
        elif architecture.loss == "gamma":
            losses = y * np.exp(-t) + t
        else:
            p = architecture.tweedie_power
            low = np.where(y > 0, y * np.exp((1.0 - p) * t), 0.0)
            losses = low / (p - 1.0) + np.exp((2.0 - p) * t) / (2.0 - p)
    return losses


def require_domain(
    architecture: Architecture, target: Floats, exposure: Floats | None, *, where: str
) -> None:
    """Refuse targets or exposures of some rows that a log link, or labels, are not defined for.

    Parameters
    ----------
    architecture : Architecture
    target : (n,) float32, or (n, M)
    exposure : (n,) float32, (0,) or None
    where : str
        Named by the error.

    Raises
    ------
    SchemaError
        If a target is below the loss's domain, one of several is not 0 or 1 (logistic),
        or not finite, or an exposure is not positive.
    """
    loss = architecture.loss
    if architecture.n_targets > 1:
        labels = loss == "logistic"
        if not (((target == 0) | (target == 1)) if labels else np.isfinite(target)).all():
            what = "0 or 1" if labels else "finite numbers"
            raise SchemaError(f"a target is not one of several that are {what}", where=where)
        return
    if loss not in LOG_LINKS or not len(target):
        return
    least = float(target.min())
    if not in_domain(loss, target.min()):
        raise SchemaError(f"{loss} needs targets {domain_text(loss)}, found {least:g}", where=where)
    if exposure is not None and len(exposure) and not float(exposure.min()) > 0:
        raise SchemaError(f"an exposure is {float(exposure.min()):g}, not positive", where=where)
