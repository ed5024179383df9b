"""Sums over classified rows, and the metrics that follow from them.

A block of rows is (7 or 8, n): the columns below; margins have the first three
alone. Its state is one float64 vector, and the state of two streams is the sum.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Metrics = dict[str, float | int | None]

N_CALIBRATION_BINS = 15
LIKELIHOOD_FLOOR = 2.0**-24
TOP = 5
"""Classes among which the true one should be, where there are more."""
Z_95 = 1.959963984540054
"""Standard deviations on either side that hold 95 % of a normal distribution."""

# Columns of a block.
PREDICTED, TARGET, WEIGHT = range(3)
_LIKELIHOOD, _CONFIDENCE, _OUTCOME, _BRIER, _IN_TOP = range(3, 8)
# The state: four sums, a sum per calibration bin, then for each class the weight of
# rows that are hit, predicted and there.
_LOGLOSS_SUM, _BRIER_SUM, _SQUARES, _TOP_SUM, _BINS = 0, 1, 2, 3, slice(4, 4 + N_CALIBRATION_BINS)
_HEAD = _BINS.stop


def n_columns(n_classes: int, *, probabilities: bool) -> int:
    """Return the columns of a block."""
    if not probabilities:
        return 3
    return 8 if n_classes > TOP else 7


def n_state(n_classes: int) -> int:
    """Return the length of a state."""
    return _HEAD + 3 * n_classes


def fill_margins(margin: Floats, columns: Floats) -> None:
    """Fill the columns of binary rows that have a margin (n,)."""
    columns[PREDICTED] = margin > 0


def fill_binary(probability: Floats, columns: Floats) -> None:
    """Fill the columns of binary rows; probability (n,) of class 1."""
    target = columns[TARGET]
    columns[PREDICTED] = probability > 0.5
    columns[_LIKELIHOOD] = np.where(target > 0, probability, 1.0 - probability)
    columns[_CONFIDENCE] = probability
    columns[_OUTCOME] = target
    columns[_BRIER] = np.square(probability - target)


def fill_classes(probability: Floats, columns: Floats) -> None:
    """Fill the columns of rows with probability (n, C), which is overwritten."""
    target = columns[TARGET].astype(np.intp)
    row = np.arange(target.shape[0])
    predicted = probability.argmax(axis=1)
    likelihood = probability[row, target]
    columns[PREDICTED] = predicted
    columns[_LIKELIHOOD] = likelihood
    columns[_CONFIDENCE] = probability[row, predicted]
    columns[_OUTCOME] = predicted == target
    if columns.shape[0] > _IN_TOP:
        # Of equals the first counts as the greater, as in the class predicted.
        ahead = (probability > likelihood[:, None]).sum(axis=1)
        equal = probability == likelihood[:, None]
        equal &= np.arange(probability.shape[1]) < target[:, None]
        columns[_IN_TOP] = ahead + equal.sum(axis=1) < TOP
    # The true class apart, so that a sure and right row costs exactly nothing.
    probability[row, target] = 1.0 - likelihood
    columns[_BRIER] = np.square(probability, out=probability).sum(axis=1)


def summed(block: Floats, n_classes: int) -> Floats:
    """Sum a block of rows to its state."""
    predicted, target = block[PREDICTED].astype(np.intp), block[TARGET].astype(np.intp)
    weight = block[WEIGHT]
    state: Floats = np.zeros(n_state(n_classes))
    hit, guessed, there = state[_HEAD:].reshape(3, n_classes)
    hit[:] = np.bincount(target, np.where(predicted == target, weight, 0.0), n_classes)
    guessed[:] = np.bincount(predicted, weight, n_classes)
    there[:] = np.bincount(target, weight, n_classes)
    state[_SQUARES] = np.square(weight).sum()
    if block.shape[0] > _LIKELIHOOD:
        confidence, outcome = block[_CONFIDENCE], block[_OUTCOME]
        likelihood = np.maximum(block[_LIKELIHOOD], LIKELIHOOD_FLOOR)
        state[_LOGLOSS_SUM] = -(weight * np.log(likelihood)).sum()
        state[_BRIER_SUM] = (weight * block[_BRIER]).sum()
        bins = np.maximum(np.ceil(confidence * N_CALIBRATION_BINS), 1.0).astype(np.intp) - 1
        state[_BINS] = np.bincount(bins, weight * (confidence - outcome), N_CALIBRATION_BINS)
    if block.shape[0] > _IN_TOP:
        state[_TOP_SUM] = (weight * block[_IN_TOP]).sum()
    return state


def results(state: Floats, *, probabilities: bool) -> Metrics:
    """Return the metrics of a state; None for what is not defined."""
    hit, guessed, there = state[_HEAD:].reshape(3, -1)
    weight, n_classes = float(there.sum()), there.shape[0]
    names = ["accuracy", "accuracy_low", "accuracy_high", "macro_f1"]
    top = f"top_{TOP}_accuracy"
    if probabilities:
        names += ["logloss", "brier", "ece", *([top] if n_classes > TOP else [])]
    metrics: Metrics = {"weight": weight, **dict.fromkeys(names)}
    if weight > 0:
        seen = guessed + there > 0
        accuracy = float(hit.sum()) / weight
        metrics["accuracy"] = accuracy
        # As many rows of equal weight as would know as much.
        n_rows = weight / float(state[_SQUARES]) * weight
        metrics["accuracy_low"], metrics["accuracy_high"] = wilson_interval(accuracy, n_rows)
        metrics["macro_f1"] = float((2 * hit[seen] / (guessed + there)[seen]).mean())
        if probabilities:
            metrics["logloss"] = float(state[_LOGLOSS_SUM]) / weight
            metrics["brier"] = float(state[_BRIER_SUM]) / weight
            metrics["ece"] = float(np.abs(state[_BINS]).sum()) / weight
        if top in metrics:
            metrics[top] = float(state[_TOP_SUM]) / weight
    return metrics


def wilson_interval(share: float, n_rows: float) -> tuple[float, float]:
    """Return the 95 % interval of a share that was seen in `n_rows` rows.

    Source: Wilson 1927, "Probable inference, the law of succession, and
    statistical inference".
    """
    z2 = Z_95 * Z_95 / n_rows
    middle = (share + z2 / 2) / (1 + z2)
    half = Z_95 / (1 + z2) * math.sqrt(max(share * (1 - share), 0.0) / n_rows + z2 / (4 * n_rows))
    # Rounding must not leave the share outside.
    return max(min(middle - half, share), 0.0), min(max(middle + half, share), 1.0)
