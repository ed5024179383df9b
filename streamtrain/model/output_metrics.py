"""Metrics of a stream of rows that have M targets each, in bounded memory.

As in model/metrics.py rows gather in blocks that are summed when they are full, and
blocks are counted from the first row: the same rows in the same order give the same
bits however they are cut. A block is (rows, M), and its state (K, M): what holds for
all outputs is computed for all of them at once.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from streamtrain.model.class_metrics import LIKELIHOOD_FLOOR
from streamtrain.model.ranking import N_BINS, RankingArea, plan_ranking_bytes

Floats = npt.NDArray[np.float64]
Kind = Literal["values", "labels"]

MAX_SHOWN = 100
"""Outputs whose metrics are told one by one."""
MAX_RANKED = 32
"""Outputs up to which each has an area under its curve."""
_BLOCK_VALUES = 1 << 17
_MIN_ROWS, _MAX_ROWS = 16, 8192

# The state of values, of each output,
_MEAN, _SPREAD, _SQUARED, _ABSOLUTE, _PINBALL, _COVERED = range(6)
# and of labels.
_HITS, _GUESSED, _THERE, _BOTH, _LOGLOSS, _BRIER = range(6)
_N_STATE = 6
# Of all outputs together: weights, weighted losses, weight of rows that are right in each.
_TOTAL, _LOSS, _EXACT = range(3)


def block_rows(n_outputs: int) -> int:
    """Return the rows of a block: those of 2^17 values, 16 to 8,192."""
    return max(_MIN_ROWS, min(_MAX_ROWS, _BLOCK_VALUES // n_outputs))


def plan_output_metrics_bytes(kind: Kind, n_outputs: int, *, auc_rows: int) -> int:
    """Return the most bytes that one `OutputMetrics` takes, in work and at rest."""
    # The block, what a call adds to it, and four arrays as large while it is summed.
    rows = 8 * 8 * block_rows(n_outputs) * n_outputs
    areas = 0
    if kind == "labels" and n_outputs <= MAX_RANKED:
        # Rows are shared among the outputs, and so are the bins of their histograms.
        areas = plan_ranking_bytes(auc_rows)
    return rows + 8 * 3 * _N_STATE * n_outputs + areas


class OutputMetrics:
    """All metrics of M outputs, streamed.

    Parameters
    ----------
    kind : {"values", "labels"}
    n_outputs : int
        M.
    quantile : float or None
        tau of a pinball loss; values only.
    auc_rows : int
        Rows kept for exact areas, shared by at most 32 outputs of labels; 17 bytes each.

    Notes
    -----
    Let W be the sum of weights. Rows of weight 0 change nothing but `rows`.

    - loss: 1/W sum w (mean over outputs of the loss).
    - rmse, mae: over all M W values; r2: the plain mean of the outputs' own, those left
      out that have none, as scikit-learn's `r2_score` by default.
    - accuracy: the share of labels that are right, 1 predicted above a probability of
      0.5; exact_match: of rows whose labels are all right.
    - micro_f1: 2 both / (predicted + there) over all labels; macro_f1: the plain mean of
      the outputs', of those that are predicted or there.
    - logloss, brier: means over all labels, as of a binary target.
    - auc: the plain mean of the outputs', of those with both classes; its bound that of
      their bounds.
    """

    def __init__(
        self,
        kind: Kind,
        n_outputs: int,
        *,
        quantile: float | None = None,
        auc_rows: int = 2_000_000,
    ) -> None:
        self._settings = (kind, n_outputs, quantile, auc_rows)
        self._kind = kind
        self._n_outputs = n_outputs
        self._quantile = quantile
        self._areas: list[RankingArea] = []
        if kind == "labels" and n_outputs <= MAX_RANKED:
            bins = N_BINS >> (n_outputs - 1).bit_length()
            self._areas = [
                RankingArea(max_rows=auc_rows // n_outputs, n_bins=bins) for _ in range(n_outputs)
            ]
        self._n_rows = self._n_pending = 0
        n = block_rows(n_outputs)
        self._predicted: Floats = np.empty((n, n_outputs))
        self._target: Floats = np.empty((n, n_outputs))
        # Of each row its weight and its loss.
        self._beside: Floats = np.empty((n, 2))
        self._state: Floats = np.zeros((_N_STATE, n_outputs))
        self._shared: Floats = np.zeros(3)

    def update(
        self,
        predicted: npt.NDArray[Any],
        target: npt.NDArray[Any],
        losses: Floats,
        weight: npt.NDArray[Any] | None = None,
    ) -> None:
        """Take in some rows. Nothing is taken in if an argument is refused.

        Parameters
        ----------
        predicted : (n, M)
            Values, or probabilities of 1.
        target : (n, M)
            Finite; of labels each 0 or 1.
        losses : (n,) float64
            Of each row, the mean over its outputs.
        weight : (n,) or None
            Finite, not negative.

        Raises
        ------
        ValueError
            If shapes do not fit, a target is none, or a weight is negative or not finite.
        """
        n = len(target)
        shapes = (predicted.shape, target.shape, losses.shape)
        if shapes != ((n, self._n_outputs), (n, self._n_outputs), (n,)):
            raise ValueError(f"shapes {shapes} do not fit {self._n_outputs} outputs")
        weights = np.ones(n) if weight is None else np.asarray(weight, np.float64)
        if weights.shape != (n,) or not (np.isfinite(weights) & (weights >= 0)).all():
            raise ValueError("weight: expected one for each row, finite and 0 or more")
        good = np.isfinite(target) if self._kind == "values" else (target == 0) | (target == 1)
        if not good.all():
            what = "finite numbers" if self._kind == "values" else "0 or 1"
            raise ValueError(f"target: expected {what}")
        self._n_rows += n
        if not weights.all():
            counts = weights > 0
            predicted, target = predicted[counts], target[counts]
            losses, weights = losses[counts], weights[counts]
        self._buffer(predicted, target, np.stack([weights, losses], axis=1))
        if len(target):
            # No larger pieces: a column of each is copied for its area.
            for m, area in enumerate(self._areas):
                scores = predicted[:, m].astype(np.float32)
                area.update(scores, target[:, m] > 0, weights.astype(np.float32))

    def merge(self, other: OutputMetrics) -> None:
        """Take in all rows of another set, which stays as it is.

        Raises
        ------
        ValueError
            If the two were made with different settings.
        """
        if self._settings != other._settings:
            raise ValueError(f"{other._settings} cannot be merged into {self._settings}")
        self._state, self._shared = self._combined(other._state, other._shared)
        self._n_rows += other._n_rows
        n = other._n_pending
        # Copies: a set may be merged with itself.
        pending = (other._predicted[:n], other._target[:n], other._beside[:n])
        self._buffer(*(part.copy() for part in pending))
        for mine, theirs in zip(self._areas, other._areas, strict=True):
            mine.merge(theirs)

    def result(self) -> dict[str, Any]:
        """Return the metrics of all rows so far; the stream may go on.

        Returns
        -------
        dict
            `rows`, `weight`, `loss`, then by kind `rmse`, `mae`, `r2`, `pinball`,
            `coverage`, or `accuracy`, `exact_match`, `micro_f1`, `macro_f1`, `logloss`,
            `brier`, `auc`, `auc_error_bound`; `outputs`, a list of the same of each of
            the first 100. What is not defined is None.
        """
        state, shared = self._state, self._shared
        if self._n_pending:
            state, shared = self._combined(*self._summed())
        total = float(shared[_TOTAL])
        found: dict[str, Any] = {"rows": self._n_rows, "weight": total, "loss": None}
        if total > 0:
            found["loss"] = float(shared[_LOSS]) / total
        tell = self._values if self._kind == "values" else self._labels
        return {**found, **tell(state, shared)}

    def _buffer(
        self, predicted: npt.NDArray[Any], target: npt.NDArray[Any], beside: Floats
    ) -> None:
        done, size = 0, len(self._beside)
        while done < len(beside):
            n = min(len(beside) - done, size - self._n_pending)
            place, part = slice(self._n_pending, self._n_pending + n), slice(done, done + n)
            self._predicted[place] = predicted[part]
            self._target[place] = target[part]
            self._beside[place] = beside[part]
            done += n
            self._n_pending += n
            if self._n_pending == size:
                self._state, self._shared = self._combined(*self._summed())
                self._n_pending = 0

    def _summed(self) -> tuple[Floats, Floats]:
        """Return the state of the rows that wait, at least one."""
        n = self._n_pending
        predicted, target = self._predicted[:n], self._target[:n]
        weight = self._beside[:n, :1]
        shared: Floats = np.zeros(3)
        shared[_TOTAL] = weight.sum()
        shared[_LOSS] = (weight[:, 0] * self._beside[:n, 1]).sum()
        state: Floats = np.zeros((_N_STATE, self._n_outputs))
        if self._kind == "values":
            # Relative to the first, so that a constant target has no spread at all.
            shifted = target - target[0]
            shift = (weight * shifted).sum(axis=0) / shared[_TOTAL]
            state[_MEAN] = target[0] + shift
            shifted -= shift
            state[_SPREAD] = (weight * np.square(shifted, out=shifted)).sum(axis=0)
            error = predicted - target
            state[_ABSOLUTE] = (weight * np.abs(error)).sum(axis=0)
            if self._quantile is not None:
                tau = self._quantile
                state[_PINBALL] = (weight * np.maximum((1 - tau) * error, -tau * error)).sum(axis=0)
                state[_COVERED] = (weight * (error >= 0)).sum(axis=0)
            state[_SQUARED] = (weight * np.square(error, out=error)).sum(axis=0)
            return state, shared
        guessed, there = predicted > 0.5, target > 0
        hit = guessed == there
        shared[_EXACT] = weight[hit.all(axis=1)].sum()
        state[_HITS] = (weight * hit).sum(axis=0)
        state[_GUESSED] = (weight * guessed).sum(axis=0)
        state[_THERE] = (weight * there).sum(axis=0)
        state[_BOTH] = (weight * (guessed & there)).sum(axis=0)
        likelihood = np.where(there, predicted, 1.0 - predicted)
        np.maximum(likelihood, LIKELIHOOD_FLOOR, out=likelihood)
        state[_LOGLOSS] = -(weight * np.log(likelihood, out=likelihood)).sum(axis=0)
        state[_BRIER] = (weight * np.square(predicted - target)).sum(axis=0)
        return state, shared

    def _combined(self, state: Floats, shared: Floats) -> tuple[Floats, Floats]:
        """Return the state of the rows so far and of others.

        Source: Chan, Golub and LeVeque 1983, equation 2.1, with weights.
        """
        both, total = self._state + state, self._shared + shared
        if self._kind == "values" and self._shared[_TOTAL] > 0 and shared[_TOTAL] > 0:
            delta = state[_MEAN] - self._state[_MEAN]
            share = shared[_TOTAL] / total[_TOTAL]
            both[_MEAN] = self._state[_MEAN] + delta * share
            both[_SPREAD] += delta * delta * self._shared[_TOTAL] * share
        return both, total

    def _values(self, state: Floats, shared: Floats) -> dict[str, Any]:
        total, m = float(shared[_TOTAL]), self._n_outputs
        names = ["rmse", "mae", "r2"]
        if self._quantile is not None:
            names += ["pinball", "coverage"]
        if not total > 0:
            return {**dict.fromkeys(names), "outputs": [dict.fromkeys(names)] * min(m, MAX_SHOWN)}
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            explained = 1.0 - state[_SQUARED] / state[_SPREAD]
        columns = {
            "rmse": np.sqrt(state[_SQUARED] / total),
            "mae": state[_ABSOLUTE] / total,
            "r2": np.where(state[_SPREAD] > 0, explained, np.nan),
            "pinball": state[_PINBALL] / total,
            "coverage": state[_COVERED] / total,
        }
        found: dict[str, Any] = {name: _mean(columns[name]) for name in names}
        found["rmse"] = math.sqrt(float(state[_SQUARED].sum()) / (total * m))
        return {**found, "outputs": _rows({name: columns[name] for name in names})}

    def _labels(self, state: Floats, shared: Floats) -> dict[str, Any]:
        total = float(shared[_TOTAL])
        columns: dict[str, Floats] = {}
        found: dict[str, Any] = dict.fromkeys(("accuracy", "exact_match", "micro_f1", "macro_f1"))
        sums = state[_GUESSED] + state[_THERE]
        with np.errstate(divide="ignore", invalid="ignore"):
            columns["accuracy"] = state[_HITS] / total
            columns["f1"] = 2 * state[_BOTH] / sums
            columns["logloss"] = state[_LOGLOSS] / total
            columns["brier"] = state[_BRIER] / total
        areas = [area.result() for area in self._areas]
        for name, column in (("auc", 0), ("auc_error_bound", 1)):
            if areas:
                told = [area[column] for area in areas]
                columns[name] = np.array([np.nan if x is None else x for x in told])
        found |= {name: _mean(column) for name, column in columns.items() if name != "f1"}
        found["macro_f1"] = _mean(columns["f1"])
        if total > 0:
            found["exact_match"] = float(shared[_EXACT]) / total
            if sums.sum() > 0:
                found["micro_f1"] = 2 * float(state[_BOTH].sum()) / float(sums.sum())
        return {**found, "outputs": _rows(columns) if total > 0 else _rows(columns, nothing=True)}


def _mean(column: Floats) -> float | None:
    """Return the plain mean of what is defined, None of nothing."""
    defined = column[np.isfinite(column)]
    return float(defined.mean()) if len(defined) else None


def _rows(columns: dict[str, Floats], *, nothing: bool = False) -> list[dict[str, float | None]]:
    """Return an object of the metrics of each of the first outputs."""
    shown = {name: column[:MAX_SHOWN].tolist() for name, column in columns.items()}
    return [
        {
            name: None if nothing or not math.isfinite(value) else value
            for name, value in zip(shown, row, strict=True)
        }
        for row in zip(*shown.values(), strict=True)
    ]
