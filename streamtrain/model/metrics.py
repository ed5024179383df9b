"""Metrics of a stream of predictions, in bounded memory.

Rows pass three stations:

    checked and reduced     buffered                  summed
    update(), row by row    (n_columns, BLOCK_ROWS)   one small float64 array, the state

A block is summed only when it is full, and blocks are counted from the first
row, so the same rows in the same order give the same bits however they are cut
into updates. States of two streams are combined into that of both, equal to
the rounding of float64 sums. The ranking (model/ranking.py) keeps its own rows.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from streamtrain.errors import DivergedError
from streamtrain.model.ranking import RankingArea, plan_ranking_bytes

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Task = Literal["binary", "classes", "regression"]

N_CALIBRATION_BINS = 15
LIKELIHOOD_FLOOR = 2.0**-24
DEFAULT_AUC_ROWS = 2_000_000

_BLOCK_ROWS = 8192
_CHUNK_VALUES = 1 << 17
_FLOAT32_MAX = float(np.finfo(np.float32).max)
# Softmax in float32 rounds: probabilities may leave [0, 1] by a few units in the last place.
_PROBABILITY_SLACK = 2.0**-20

# Columns of a block of classified rows; margins have the first three alone.
_PREDICTED, _TARGET, _WEIGHT, _LIKELIHOOD, _CONFIDENCE, _OUTCOME, _BRIER = range(7)
# The state of classified rows: two sums, a sum per calibration bin, then for each
# class the weight of rows that are hit, predicted and there.
_LOGLOSS_SUM, _BRIER_SUM, _BINS = 0, 1, slice(2, 2 + N_CALIBRATION_BINS)
_HEAD = _BINS.stop
# The state of regression.
_TOTAL, _MEAN, _SPREAD, _SQUARED_ERROR, _ABSOLUTE_ERROR = range(5)


class MetricSet:
    """All metrics of a task, streamed.

    Parameters
    ----------
    task : {"binary", "classes", "regression"}
    n_classes : int
        C, at least 2, and 2 for a binary task.
    probabilities : bool
        Whether binary predictions are probabilities. If not (hinge) they are
        margins, and logloss, Brier score and calibration are left out.
    auc_rows : int
        Rows kept for an exact AUC. A larger value keeps longer streams exact
        and costs 17 bytes per row; binary tasks only.

    Raises
    ------
    ValueError
        If the settings do not fit each other.

    Notes
    -----
    Let W be the sum of weights. Rows of weight zero are checked and counted
    in `rows`, and change nothing else.

    - accuracy: a binary row is positive if its probability is over 0.5, or its
      margin over 0; else the class of greatest probability, the first of equals.
    - macro_f1: the plain mean of 2 hits / (predicted + there) over the classes
      that are predicted or there.
    - logloss: 1/W sum w * -log(p of the true class), in nats, p at least 2**-24
      (a float32 probability near 1 knows no better), so a row costs at most 16.6.
    - brier: binary 1/W sum w (p - y)^2, within [0, 1]; classes
      1/W sum w sum_c (p_c - [c = y])^2, within [0, 2]. Source: Brier 1950,
      "Verification of forecasts expressed in terms of probability", equation 2
      (the binary one is half of it).
    - ece: 15 bins of equal width on (0, 1], closed above, 0 in the first;
      1/W sum_bins |sum w (p - outcome)|. Binary: p of the positive class against
      its share; classes: p of the predicted class against its accuracy. Source:
      Guo et al. 2017, "On calibration of modern neural networks", equations 2-5.
    - auc: see `RankingArea`; scores are ranked as float32.
    - rmse, mae, r2 = 1 - SSE / sum w (y - mean)^2. Source of the merge: Chan,
      Golub and LeVeque 1983, "Algorithms for computing the sample variance",
      equation 2.1, with weights.
    """

    def __init__(
        self,
        task: Task,
        *,
        n_classes: int = 2,
        probabilities: bool = True,
        auc_rows: int = DEFAULT_AUC_ROWS,
    ) -> None:
        if task not in {"binary", "classes", "regression"}:
            raise ValueError(f"task: {task!r}, expected binary, classes or regression")
        if n_classes < 2 or (task == "binary" and n_classes != 2):
            raise ValueError(f"n_classes: {n_classes}, expected 2 (binary) or more (classes)")
        if task == "classes" and not probabilities:
            raise ValueError("probabilities: classes are scored by probabilities alone")
        self._settings = (task, n_classes, probabilities, auc_rows)
        self.task: Task = task
        self.n_classes = n_classes
        self.probabilities = probabilities
        self._ranking: RankingArea | None = None
        if task == "binary":
            self._ranking = RankingArea(max_rows=auc_rows, probabilities=probabilities)
        few = task == "regression" or not probabilities
        self._n_rows = 0
        self._block: Floats = np.empty((3 if few else 7, _BLOCK_ROWS))
        self._n_pending = 0
        self._state: Floats = np.zeros(5 if task == "regression" else _HEAD + 3 * n_classes)

    def update(self, prediction: Array, target: Array, weight: Array | None = None) -> None:
        """Take in some rows. Nothing is taken in if an argument is refused.

        Parameters
        ----------
        prediction : (n,) or (n, C) float32
            Probability of class 1 or margin (binary), probabilities of all
            classes, or value. float64 is welcome too.
        target : (n,) float32
            0 or 1, class index, or value. Integers are welcome too.
        weight : (n,) float32, optional
            Not negative; 1 if left out. Other types are rounded to float32.

        Raises
        ------
        DivergedError
            If a prediction is not finite, or beyond the range of float32.
        ValueError
            If shapes do not fit; if a probability is not within [0, 1], a class
            index not within [0, C), a target not finite, a weight negative or
            not finite.
        """
        prediction, target = np.asarray(prediction), np.asarray(target)
        n_rows = target.shape[0] if target.ndim == 1 else -1
        shape = (n_rows, self.n_classes) if self.task == "classes" else (n_rows,)
        if prediction.shape != shape or target.ndim != 1:
            raise ValueError(f"prediction {prediction.shape} does not fit target {target.shape}")
        if weight is not None:
            weight = np.asarray(weight)
            if weight.shape != (n_rows,):
                raise ValueError(f"weight {weight.shape} does not fit target {target.shape}")
        if n_rows == 0:
            return
        self._check(prediction, target, weight)
        self._n_rows += n_rows
        chunk_rows = min(_BLOCK_ROWS, max(1, _CHUNK_VALUES // math.prod(shape[1:])))
        for start in range(0, n_rows, chunk_rows):
            part = slice(start, start + chunk_rows)
            scores = prediction[part].astype(np.float64, order="C")
            targets = target[part].astype(np.float64)
            weights = np.ones(targets.shape[0], np.float32)
            if weight is not None:
                weights = weight[part].astype(np.float32)
                if not weights.all():
                    counts = weights > 0
                    scores, targets, weights = scores[counts], targets[counts], weights[counts]
            self._append(scores, targets, weights)

    def merge(self, other: MetricSet) -> None:
        """Take in all rows of another set, which stays as it is.

        Raises
        ------
        ValueError
            If the two were made with different settings.
        """
        if self._settings != other._settings:
            raise ValueError(f"{other._settings} cannot be merged into {self._settings}")
        # Right for a set merged with itself too: rows are read before they are written over.
        pending = other._block[:, : other._n_pending]
        self._state = self._combined(self._state, other._state)
        self._n_rows += other._n_rows
        self._buffer(pending)
        if self._ranking is not None and other._ranking is not None:
            self._ranking.merge(other._ranking)

    def result(self) -> dict[str, float | int | None]:
        """Return the metrics of all rows so far; the stream may go on.

        Returns
        -------
        dict of str to float, int or None
            `rows` (count), `weight` (sum of weights), and by task `accuracy`,
            `macro_f1`, `logloss`, `brier`, `ece`, `auc`, `auc_error_bound`, or
            `rmse` and `mae` (units of the target), `r2`. Never NaN or infinite:
            what is undefined (no weight, one class, a constant target) is None.
        """
        state = self._state
        if self._n_pending:
            state = self._combined(state, self._summed(self._block[:, : self._n_pending]))
        if self.task == "regression":
            return {"rows": self._n_rows, **_regression_metrics(state)}
        metrics = _classified_metrics(state, probabilities=self.probabilities)
        if self._ranking is not None:
            metrics["auc"], metrics["auc_error_bound"] = self._ranking.result()
        return {"rows": self._n_rows, **metrics}

    def _check(self, prediction: Array, target: Array, weight: Array | None) -> None:
        """Refuse what `update` must not take in; at least one row."""
        # Comparisons that NaN fails; least and greatest need no temporary arrays.
        low, high = float(prediction.min()), float(prediction.max())
        if not (low >= -_FLOAT32_MAX and high <= _FLOAT32_MAX):
            flat = prediction.reshape(-1).astype(np.float64)
            first = np.flatnonzero(~((flat >= -_FLOAT32_MAX) & (flat <= _FLOAT32_MAX)))[0]
            row = first // math.prod(prediction.shape[1:])
            raise DivergedError(
                f"{flat[first]:g} in row {row} of a batch, expected a finite float32",
                where="prediction",
                remedy="train with a smaller learning rate or clip gradients",
            )
        if self.probabilities and self.task != "regression":
            within = low >= -_PROBABILITY_SLACK and high <= 1 + _PROBABILITY_SLACK
            if not within:
                raise ValueError(f"prediction: [{low}, {high}], expected within [0, 1]")
        least, greatest = float(target.min()), float(target.max())
        if self.task == "regression":
            if not (least >= -_FLOAT32_MAX and greatest <= _FLOAT32_MAX):
                raise ValueError(f"target: [{least}, {greatest}], expected finite numbers")
        elif not (least >= 0 and greatest < self.n_classes and (np.floor(target) == target).all()):
            raise ValueError(
                f"target: [{least}, {greatest}], expected whole numbers below {self.n_classes}"
            )
        if weight is not None:
            least, greatest = float(weight.min()), float(weight.max())
            if not (least >= 0 and greatest <= _FLOAT32_MAX):
                raise ValueError(f"weight: [{least}, {greatest}], expected finite, 0 or more")

    def _append(self, scores: Floats, targets: Floats, weights: npt.NDArray[np.float32]) -> None:
        """Reduce checked rows to columns, row by row, and buffer them."""
        columns: Floats = np.empty((self._block.shape[0], targets.shape[0]))
        columns[_TARGET] = targets
        columns[_WEIGHT] = weights
        if self.task == "regression":
            columns[_PREDICTED] = scores
        elif not self.probabilities:
            columns[_PREDICTED] = scores > 0
        else:
            np.clip(scores, 0.0, 1.0, out=scores)
            (_binary_columns if self.task == "binary" else _class_columns)(scores, columns)
        self._buffer(columns)
        if self._ranking is not None:
            self._ranking.update(scores.astype(np.float32), targets > 0, weights)

    def _buffer(self, columns: Floats) -> None:
        done = 0
        while done < columns.shape[1]:
            n_rows = min(columns.shape[1] - done, _BLOCK_ROWS - self._n_pending)
            place = slice(self._n_pending, self._n_pending + n_rows)
            self._block[:, place] = columns[:, done : done + n_rows]
            done += n_rows
            self._n_pending += n_rows
            if self._n_pending == _BLOCK_ROWS:
                self._state = self._combined(self._state, self._summed(self._block))
                self._n_pending = 0

    def _summed(self, block: Floats) -> Floats:
        if self.task == "regression":
            return _regression_state(block)
        return _classified_state(block, self.n_classes)

    def _combined(self, first: Floats, second: Floats) -> Floats:
        if self.task == "regression":
            return _combined_regression(first, second)
        return first + second


def plan_metrics_bytes(task: Task, *, n_classes: int = 2, auc_rows: int = DEFAULT_AUC_ROWS) -> int:
    """Return the most bytes that one `MetricSet` takes, in work and at rest.

    Parameters
    ----------
    task, n_classes, auc_rows
        As of `MetricSet`.
    """
    rows = 3 * 7 * 8 * _BLOCK_ROWS
    values = 4 * 8 * max(_CHUNK_VALUES, n_classes) if task == "classes" else 0
    states = 5 * 8 * (_HEAD + 3 * n_classes)
    return rows + values + states + (plan_ranking_bytes(auc_rows) if task == "binary" else 0)


def _binary_columns(probability: Floats, columns: Floats) -> None:
    """Fill the columns of binary rows; probability (n,) of class 1."""
    target = columns[_TARGET]
    columns[_PREDICTED] = probability > 0.5
    columns[_LIKELIHOOD] = np.where(target > 0, probability, 1.0 - probability)
    columns[_CONFIDENCE] = probability
    columns[_OUTCOME] = target
    columns[_BRIER] = np.square(probability - target)


def _class_columns(probability: Floats, columns: Floats) -> None:
    """Fill the columns of rows with probability (n, C)."""
    target = columns[_TARGET]
    row = np.arange(target.shape[0])
    predicted = probability.argmax(axis=1)
    likelihood = probability[row, target.astype(np.intp)]
    columns[_PREDICTED] = predicted
    columns[_LIKELIHOOD] = likelihood
    columns[_CONFIDENCE] = probability[row, predicted]
    columns[_OUTCOME] = predicted == target
    # The true class apart, so that a sure and right row costs exactly nothing.
    probability[row, target.astype(np.intp)] = 1.0 - likelihood
    columns[_BRIER] = np.square(probability, out=probability).sum(axis=1)


def _classified_state(block: Floats, n_classes: int) -> Floats:
    """Sum a block of classified rows, (3 or 7, n), to (17 + 3 C,)."""
    predicted, target = block[_PREDICTED].astype(np.intp), block[_TARGET].astype(np.intp)
    weight = block[_WEIGHT]
    state: Floats = np.zeros(_HEAD + 3 * n_classes)
    hit, guessed, there = state[_HEAD:].reshape(3, n_classes)
    hit[:] = np.bincount(target, np.where(predicted == target, weight, 0.0), n_classes)
    guessed[:] = np.bincount(predicted, weight, n_classes)
    there[:] = np.bincount(target, weight, n_classes)
    if block.shape[0] > _LIKELIHOOD:
        confidence, outcome = block[_CONFIDENCE], block[_OUTCOME]
        likelihood = np.maximum(block[_LIKELIHOOD], LIKELIHOOD_FLOOR)
        state[_LOGLOSS_SUM] = -(weight * np.log(likelihood)).sum()
        state[_BRIER_SUM] = (weight * block[_BRIER]).sum()
        bins = np.maximum(np.ceil(confidence * N_CALIBRATION_BINS), 1.0).astype(np.intp) - 1
        state[_BINS] = np.bincount(bins, weight * (confidence - outcome), N_CALIBRATION_BINS)
    return state


def _classified_metrics(state: Floats, *, probabilities: bool) -> dict[str, float | int | None]:
    hit, guessed, there = state[_HEAD:].reshape(3, -1)
    weight = float(there.sum())
    names = ["accuracy", "macro_f1", *(["logloss", "brier", "ece"] if probabilities else [])]
    metrics: dict[str, float | int | None] = {"weight": weight, **dict.fromkeys(names)}
    if weight > 0:
        seen = guessed + there > 0
        metrics["accuracy"] = float(hit.sum()) / weight
        metrics["macro_f1"] = float((2 * hit[seen] / (guessed + there)[seen]).mean())
        if probabilities:
            metrics["logloss"] = float(state[_LOGLOSS_SUM]) / weight
            metrics["brier"] = float(state[_BRIER_SUM]) / weight
            metrics["ece"] = float(np.abs(state[_BINS]).sum()) / weight
    return metrics


def _regression_state(block: Floats) -> Floats:
    """Sum a block of rows, (3, n) with n > 0 and positive weights, to (5,)."""
    prediction, target, weight = block
    total = weight.sum()
    # Relative to the first, so that a constant target has no spread at all.
    shifted = target - target[0]
    shift = (weight * shifted).sum() / total
    spread = (weight * np.square(shifted - shift)).sum()
    error = prediction - target
    squared, absolute = (weight * np.square(error)).sum(), (weight * np.abs(error)).sum()
    return np.array([total, target[0] + shift, spread, squared, absolute])


def _combined_regression(first: Floats, second: Floats) -> Floats:
    if first[_TOTAL] == 0 or second[_TOTAL] == 0:
        return first + second
    combined = first + second
    delta = second[_MEAN] - first[_MEAN]
    share = second[_TOTAL] / combined[_TOTAL]
    combined[_MEAN] = first[_MEAN] + delta * share
    combined[_SPREAD] += delta * delta * first[_TOTAL] * share
    return combined


def _regression_metrics(state: Floats) -> dict[str, float | int | None]:
    total, _, spread, squared, absolute = (float(value) for value in state)
    metrics: dict[str, float | int | None] = {"weight": total, "rmse": None, "mae": None}
    metrics["r2"] = None
    if total > 0:
        metrics["rmse"] = math.sqrt(squared / total)
        metrics["mae"] = absolute / total
        unexplained = squared / spread if spread > 0 else math.inf
        metrics["r2"] = 1.0 - unexplained if math.isfinite(unexplained) else None
    return metrics
