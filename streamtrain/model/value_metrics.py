"""Sums over rows that have a value, and the metrics that follow from them.

A block of rows is (3 or 4, n): prediction, target, weight, and the exposure where
a deviance is measured. Its state is one float64 vector; of two streams it adds up
but for the mean and the spread of the targets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Metrics = dict[str, float | int | None]

PREDICTED, TARGET, WEIGHT, EXPOSURE = range(4)
# The state: of every regression,
_TOTAL, _MEAN, _SPREAD, _SQUARED_ERROR, _ABSOLUTE_ERROR = range(5)
# of a deviance: its sum, and what that of a constant rate needs,
_DEVIANCE, _SATURATED, _ACTUAL, _EXPECTED = range(5, 9)
# of a quantile.
_PINBALL, _COVERED = range(9, 11)
N_STATE = 11

MEAN_FLOOR = 2.0**-126
# A null deviance below this share of its terms is their rounding.
_NULL_FLOOR = 1e-11


@dataclass(frozen=True)
class ValueMeasures:
    """What is measured of values besides rmse, mae and r2.

    Parameters
    ----------
    power : float or None
        p of the variance mean^p whose deviance is measured: 1 Poisson, 2 gamma,
        between them Tweedie.
    quantile : float or None
        tau of the pinball loss.
    """

    power: float | None = None
    quantile: float | None = None

    @property
    def n_columns(self) -> int:
        """Columns of a block."""
        return 3 if self.power is None else 4


def unit_deviance(target: Floats, mean: Floats, power: float) -> Floats:
    """Return the deviance of each row, (n,) float64, 0 or more.

    Parameters
    ----------
    target : (n,) float64
        0 or more; above 0 for power 2.
    mean : (n,) float64
        Above 0.
    power : float
        1 <= p <= 2.

    Notes
    -----
    p = 1    2 (y log(y / m) - y + m)
    p = 2    2 (log(m / y) + y / m - 1)
    between  2 (y^(2-p) / ((1-p)(2-p)) - y m^(1-p) / (1-p) + m^(2-p) / (2-p))

    Source: Jorgensen 1987, "Exponential dispersion models"; McCullagh and Nelder
    1989, "Generalized linear models", section 2.3.
    """
    if power == 1:
        half = _x_log(target, target / mean) - target + mean
    elif power == 2:
        half = np.log(mean / target) + target / mean - 1
    else:
        p = power
        half = target ** (2 - p) / ((1 - p) * (2 - p))
        half -= target * mean ** (1 - p) / (1 - p)
        half += mean ** (2 - p) / (2 - p)
    # Where both are equal the terms cancel to their rounding.
    deviance: Floats = 2 * np.maximum(half, 0.0)
    return deviance


def _x_log(x: Floats, y: Floats) -> Floats:
    """Return x log(y), 0 where x is."""
    found: Floats = x * np.log(np.where(x > 0, y, 1.0))
    return found


def summed(block: Floats, measures: ValueMeasures) -> Floats:
    """Sum a block of n > 0 rows with positive weights to its state."""
    prediction, target, weight = block[:3]
    state: Floats = np.zeros(N_STATE)
    total = weight.sum()
    # Relative to the first, so that a constant target has no spread at all.
    shifted = target - target[0]
    shift = (weight * shifted).sum() / total
    error = prediction - target
    state[_TOTAL] = total
    state[_MEAN] = target[0] + shift
    state[_SPREAD] = (weight * np.square(shifted - shift)).sum()
    state[_SQUARED_ERROR] = (weight * np.square(error)).sum()
    state[_ABSOLUTE_ERROR] = (weight * np.abs(error)).sum()
    if measures.power is not None:
        state[_DEVIANCE : _EXPECTED + 1] = _deviance_sums(block, measures.power)
    if measures.quantile is not None:
        tau = measures.quantile
        state[_PINBALL] = (weight * np.maximum((1 - tau) * error, -tau * error)).sum()
        state[_COVERED] = (weight * (error >= 0)).sum()
    return state


def _deviance_sums(block: Floats, power: float) -> tuple[float, float, float, float]:
    """Return the deviance, and three sums that give that of any constant rate r.

    With a mean r e it is 2 (saturated - actual r^(1-p) / (1-p) + expected
    r^(2-p) / (2-p)), least at r = actual / expected.
    """
    prediction, target, weight, exposure = block
    mean = np.maximum(prediction, MEAN_FLOOR)
    deviance = (weight * unit_deviance(target, mean, power)).sum()
    rate = target / exposure
    if power == 1:
        saturated = weight * _x_log(target, rate)
    elif power == 2:
        saturated = -weight * np.log(rate)
    else:
        saturated = weight * target ** (2 - power) / ((1 - power) * (2 - power))
    actual = weight * target * exposure ** (1 - power)
    expected = weight * exposure ** (2 - power)
    return float(deviance), float(saturated.sum()), float(actual.sum()), float(expected.sum())


def combined(first: Floats, second: Floats) -> Floats:
    """Return the state of two streams."""
    if first[_TOTAL] == 0 or second[_TOTAL] == 0:
        return first + second
    both = first + second
    delta = second[_MEAN] - first[_MEAN]
    share = second[_TOTAL] / both[_TOTAL]
    both[_MEAN] = first[_MEAN] + delta * share
    both[_SPREAD] += delta * delta * first[_TOTAL] * share
    return both


def results(state: Floats, measures: ValueMeasures) -> Metrics:
    """Return the metrics of a state; None for what is not defined."""
    total = float(state[_TOTAL])
    metrics: Metrics = {"weight": total, "rmse": None, "mae": None, "r2": None}
    if measures.power is not None:
        metrics |= {"deviance": None, "d2": None}
    if measures.quantile is not None:
        metrics |= {"pinball": None, "coverage": None}
    if not total > 0:
        return metrics
    squared, spread = float(state[_SQUARED_ERROR]), float(state[_SPREAD])
    metrics["rmse"] = math.sqrt(squared / total)
    metrics["mae"] = float(state[_ABSOLUTE_ERROR]) / total
    metrics["r2"] = _explained(squared, spread)
    if measures.power is not None:
        deviance = float(state[_DEVIANCE])
        metrics["deviance"] = deviance / total
        metrics["d2"] = _explained(deviance, _null_deviance(state, measures.power))
    if measures.quantile is not None:
        metrics["pinball"] = float(state[_PINBALL]) / total
        metrics["coverage"] = float(state[_COVERED]) / total
    return metrics


def _explained(left: float, spread: float) -> float | None:
    unexplained = left / spread if spread > 0 else math.inf
    return 1.0 - unexplained if math.isfinite(unexplained) else None


def _null_deviance(state: Floats, power: float) -> float:
    """Return the deviance of the best constant rate; 0 where rounding is all of it."""
    saturated, actual, expected = (float(state[k]) for k in (_SATURATED, _ACTUAL, _EXPECTED))
    if not actual > 0:
        return 0.0
    rate = actual / expected
    if power == 1:
        fitted = actual * math.log(rate)
    elif power == 2:
        fitted = -expected * math.log(rate)
    else:
        fitted = actual * rate ** (1 - power) / ((1 - power) * (2 - power))
    # The scale of what was added: a constant target leaves its rounding alone.
    scale = abs(saturated) + abs(fitted) + actual * rate ** (1 - power)
    null = saturated - fitted
    return 2 * null if null > _NULL_FLOOR * scale else 0.0
