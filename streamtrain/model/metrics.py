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
from streamtrain.model import class_metrics as classes
from streamtrain.model import value_metrics as values
from streamtrain.model.class_metrics import LIKELIHOOD_FLOOR, N_CALIBRATION_BINS
from streamtrain.model.ranking import RankingArea, plan_ranking_bytes
from streamtrain.model.value_metrics import ValueMeasures

__all__ = ["LIKELIHOOD_FLOOR", "N_CALIBRATION_BINS", "MetricSet", "plan_metrics_bytes"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Task = Literal["binary", "classes", "regression"]

DEFAULT_AUC_ROWS = 2_000_000

_BLOCK_ROWS = 8192
_CHUNK_VALUES = 1 << 17
_FLOAT32_MAX = float(np.finfo(np.float32).max)
# Softmax in float32 rounds: probabilities may leave [0, 1] by a few units in the last place.
_PROBABILITY_SLACK = 2.0**-20


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
    measures : ValueMeasures
        A deviance or a quantile to be measured; regression only.

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
    - auc, average_precision: see `RankingArea`; scores are ranked as float32.
    - top_5_accuracy, of more than five classes: the true class is among the five of
      greatest probability, the first of equals.
    - accuracy_low, accuracy_high, auc_low, auc_high: 95 % intervals, of Wilson and of
      DeLong; a weighted stream counts as (sum w)^2 / sum w^2 rows (Kish).
    - rmse, mae, r2 = 1 - SSE / sum w (y - mean)^2. Source of the merge: Chan,
      Golub and LeVeque 1983, "Algorithms for computing the sample variance",
      equation 2.1, with weights.
    - deviance: 1/W sum w * `unit_deviance`, with means of at least 2**-126; d2 = 1 -
      deviance / that of the best constant rate, times the exposure. Source: Cameron
      and Windmeijer 1997, "An R-squared measure of goodness of fit for some common
      nonlinear regression models".
    - pinball: 1/W sum w max(tau (y - s), (1 - tau) (s - y)); coverage: the share of
      targets at or below the prediction, tau for a model that is right.
    """

    def __init__(
        self,
        task: Task,
        *,
        n_classes: int = 2,
        probabilities: bool = True,
        auc_rows: int = DEFAULT_AUC_ROWS,
        measures: ValueMeasures = ValueMeasures(),  # noqa: B008 (frozen)
    ) -> None:
        if task not in {"binary", "classes", "regression"}:
            raise ValueError(f"task: {task!r}, expected binary, classes or regression")
        if n_classes < 2 or (task == "binary" and n_classes != 2):
            raise ValueError(f"n_classes: {n_classes}, expected 2 (binary) or more (classes)")
        if task == "classes" and not probabilities:
            raise ValueError("probabilities: classes are scored by probabilities alone")
        self._settings = (task, n_classes, probabilities, auc_rows, measures)
        self.task: Task = task
        self.n_classes = n_classes
        self.probabilities = probabilities
        self._measures = measures
        self._ranking: RankingArea | None = None
        if task == "binary":
            self._ranking = RankingArea(max_rows=auc_rows, probabilities=probabilities)
        self._n_rows = 0
        n_columns, n_state = measures.n_columns, values.N_STATE
        if task != "regression":
            n_columns = classes.n_columns(n_classes, probabilities=probabilities)
            n_state = classes.n_state(n_classes)
        self._block: Floats = np.empty((n_columns, _BLOCK_ROWS))
        self._n_pending = 0
        self._state: Floats = np.zeros(n_state)

    def update(
        self,
        prediction: Array,
        target: Array,
        weight: Array | None = None,
        exposure: Array | None = None,
    ) -> None:
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
        exposure : (n,) float32, optional
            Positive; 1 if left out. Only the explained deviance looks at it.

        Raises
        ------
        DivergedError
            If a prediction is not finite, or beyond the range of float32.
        ValueError
            If shapes do not fit; if a probability is not within [0, 1], a class
            index not within [0, C), a target not finite, a weight negative or
            not finite, an exposure not positive; if a deviance is not defined
            for a target.
        """
        prediction, target = np.asarray(prediction), np.asarray(target)
        n_rows = target.shape[0] if target.ndim == 1 else -1
        shape = (n_rows, self.n_classes) if self.task == "classes" else (n_rows,)
        if prediction.shape != shape or target.ndim != 1:
            raise ValueError(f"prediction {prediction.shape} does not fit target {target.shape}")
        weight = None if weight is None else np.asarray(weight)
        exposure = None if exposure is None else np.asarray(exposure)
        for name, given in (("weight", weight), ("exposure", exposure)):
            if given is not None and given.shape != (n_rows,):
                raise ValueError(f"{name} {given.shape} does not fit target {target.shape}")
        if n_rows == 0:
            return
        self._check(prediction, target, weight)
        if self._measures.power is not None:
            self._check_deviance(target, exposure)
        self._n_rows += n_rows
        chunk_rows = min(_BLOCK_ROWS, max(1, _CHUNK_VALUES // math.prod(shape[1:])))
        for start in range(0, n_rows, chunk_rows):
            part = slice(start, start + chunk_rows)
            scores = prediction[part].astype(np.float64, order="C")
            targets = target[part].astype(np.float64)
            weights = np.ones(targets.shape[0], np.float32)
            exposures = None
            if exposure is not None and self._measures.power is not None:
                exposures = exposure[part].astype(np.float64)
            if weight is not None:
                weights = weight[part].astype(np.float32)
                if not weights.all():
                    counts = weights > 0
                    scores, targets, weights = scores[counts], targets[counts], weights[counts]
                    exposures = None if exposures is None else exposures[counts]
            self._append(scores, targets, weights, exposures)

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
            `macro_f1`, `logloss`, `brier`, `ece`, `top_5_accuracy`, `auc`,
            `average_precision`, with `_low`, `_high` and `_error_bound` where there
            are such, or `rmse` and `mae` (units of the target), `r2`, `deviance`,
            `d2`, `pinball`, `coverage`. Never NaN or infinite: what is undefined
            (no weight, one class, a constant target) is None.
        """
        state = self._state
        if self._n_pending:
            state = self._combined(state, self._summed(self._block[:, : self._n_pending]))
        if self.task == "regression":
            return {"rows": self._n_rows, **values.results(state, self._measures)}
        metrics = classes.results(state, probabilities=self.probabilities)
        if self._ranking is not None:
            metrics |= self._ranking.measures()
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

    def _check_deviance(self, target: Array, exposure: Array | None) -> None:
        least = float(target.min())
        if least < 0 or (least == 0 and self._measures.power == 2):
            raise ValueError(f"target: {least}, expected 0 or more, above 0 for power 2")
        if exposure is not None:
            least, greatest = float(exposure.min()), float(exposure.max())
            if not (least > 0 and greatest <= _FLOAT32_MAX):
                raise ValueError(f"exposure: [{least}, {greatest}], expected finite, above 0")

    def _append(
        self,
        scores: Floats,
        targets: Floats,
        weights: npt.NDArray[np.float32],
        exposures: Floats | None,
    ) -> None:
        """Reduce checked rows to columns, row by row, and buffer them."""
        columns: Floats = np.empty((self._block.shape[0], targets.shape[0]))
        columns[values.TARGET] = targets
        columns[values.WEIGHT] = weights
        if self.task == "regression":
            columns[values.PREDICTED] = scores
            if columns.shape[0] > values.EXPOSURE:
                columns[values.EXPOSURE] = 1.0 if exposures is None else exposures
        elif not self.probabilities:
            classes.fill_margins(scores, columns)
        else:
            np.clip(scores, 0.0, 1.0, out=scores)
            fill = classes.fill_binary if self.task == "binary" else classes.fill_classes
            fill(scores, columns)
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
            return values.summed(block, self._measures)
        return classes.summed(block, self.n_classes)

    def _combined(self, first: Floats, second: Floats) -> Floats:
        if self.task == "regression":
            return values.combined(first, second)
        return first + second


def plan_metrics_bytes(task: Task, *, n_classes: int = 2, auc_rows: int = DEFAULT_AUC_ROWS) -> int:
    """Return the most bytes that one `MetricSet` takes, in work and at rest.

    Parameters
    ----------
    task, n_classes, auc_rows
        As of `MetricSet`.
    """
    rows = 3 * 8 * 8 * _BLOCK_ROWS
    chunks = 4 * 8 * max(_CHUNK_VALUES, n_classes) if task == "classes" else 0
    states = 5 * 8 * classes.n_state(n_classes)
    return rows + chunks + states + (plan_ranking_bytes(auc_rows) if task == "binary" else 0)
