"""Progressive validation: every row is scored before the step it is part of."""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

from streamtrain.model.architecture import Architecture
from streamtrain.model.evaluation import Evaluation
from streamtrain.reader.windows import Rows
from streamtrain.scoring import SCORING_ROWS, scoring_rows


class Progressive:
    """Metrics of the rows of a first epoch, none of which the model has learnt from.

    Parameters
    ----------
    architecture : Architecture
    n_classes : int
        Of the target; 0 for a regression.
    auc_rows : int
        Rows up to which areas are exact.
    on : bool
        If not, nothing is measured and nothing costs.

    Notes
    -----
    Source: Blum, Kalai and Langford 1999, "Beating the hold-out: bounds for k-fold
    and progressive cross-validation". Rows are as good as held out, but the model
    grows while it is measured: the figures lag behind those of its last state.
    """

    def __init__(
        self, architecture: Architecture, *, n_classes: int, auc_rows: int, on: bool
    ) -> None:
        self._evaluation: Evaluation | None = None
        if on:
            self._evaluation = Evaluation(architecture, n_classes=n_classes, auc_rows=auc_rows)
        self._n_scores = architecture.n_scores
        self._n_targets = architecture.n_targets
        self._scores: npt.NDArray[np.float32] = np.empty((0, self._n_scores), np.float32)

    def max_steps(self, batch_size: int) -> int:
        """Return the most steps of one call, which bounds the rows scored at a time."""
        rows = min(SCORING_ROWS, scoring_rows(self._n_targets))
        return max(1, rows // batch_size) if self._evaluation else sys.maxsize

    def scores(self, rows: Rows) -> npt.NDArray[np.float32] | None:
        """Return the array for the scores of rows, (n, C) float32, or None if there is none.

        It is valid until the next call.
        """
        if self._evaluation is None:
            return None
        if len(self._scores) < rows.n_rows:
            self._scores = np.empty((rows.n_rows, self._n_scores), np.float32)
        return self._scores[: rows.n_rows]

    def update(self, rows: Rows, n_rows: int) -> None:
        """Measure the first `n_rows` rows, whose scores the array of `scores` holds."""
        if self._evaluation is None:
            return
        done = rows.slice(0, n_rows)
        self._evaluation.update(
            self._scores[: done.n_rows], done.target, done.weight, done.exposure
        )

    def result(self) -> dict[str, float | int | None]:
        """Return the metrics, and in `metrics_rows` of how many rows.

        Fewer than the epoch has if the run was resumed in it: the rows before
        were measured by a process that is gone. Nothing if nothing is measured.
        """
        if self._evaluation is None:
            return {}
        found = self._evaluation.result()
        n_rows = found.pop("rows")
        del found["loss"]
        found.pop("outputs", None)
        return {"metrics_rows": n_rows, **found}

    def end(self) -> None:
        """Let go of what was measured; what follows is measured no more."""
        self._evaluation = None
        self._scores = np.empty((0, self._n_scores), np.float32)
