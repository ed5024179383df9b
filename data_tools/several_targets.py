"""Targets of several values: what each output holds, and the task that all of them suggest."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from data_tools.target import Task
from streamtrain.errors import ConfigError, SourceError


class OutputsCounter:
    """Range and runs of targets of M values, fed in source order.

    Parameters
    ----------
    n_outputs : int
        M.
    """

    def __init__(self, n_outputs: int) -> None:
        self.n_rows = 0
        self.low = np.full(n_outputs, np.inf, np.float32)
        self.high = np.full(n_outputs, -np.inf, np.float32)
        self.are_labels = True
        self.ones = np.zeros(n_outputs, np.int64)
        self._n_runs = 0
        self._last: npt.NDArray[np.float32] | None = None

    def update(self, values: npt.NDArray[np.float32], train: npt.NDArray[np.bool_]) -> None:
        """Add consecutive rows that are kept, (n, M), and which are in the train split."""
        if not len(values):
            return
        self.n_rows += len(values)
        np.minimum(self.low, values.min(axis=0), out=self.low)
        np.maximum(self.high, values.max(axis=0), out=self.high)
        if self.are_labels:
            ones = values == 1
            self.are_labels = bool((ones | (values == 0)).all())
            self.ones += ones[train].sum(axis=0)
        self._n_runs += int(np.count_nonzero((values[1:] != values[:-1]).any(axis=1)))
        self._n_runs += self._last is None or bool((self._last != values[0]).any())
        self._last = values[-1].copy()

    @property
    def run_length(self) -> float:
        """Mean length of runs of rows whose targets are all equal."""
        return self.n_rows / max(self._n_runs, 1)


def refuse_positive(positive: str | None, n_outputs: int) -> None:
    """Refuse a positive class where a row has several targets.

    Raises
    ------
    ConfigError
        If there is one.
    """
    if positive is not None and n_outputs > 1:
        raise ConfigError(
            f"a row has {n_outputs:,} targets, none of them is a class",
            where="--positive",
            remedy="leave it out: of labels 1 is positive",
        )


def decide_outputs(counter: OutputsCounter, column: str) -> Task:
    """Return labels where every value is 0 or 1, else a regression.

    Raises
    ------
    SourceError
        If each output has one value.
    """
    if not (counter.low < counter.high).any():
        raise SourceError(
            f"each of the {len(counter.low):,} values of the target is the same in all "
            f"{counter.n_rows:,} rows: nothing to learn",
            where=f"column {column!r}",
            remedy="choose another --target-file",
        )
    if counter.are_labels:
        return Task("labels", (), (), tuple(counter.ones.tolist()), None)
    return Task("regression", (), (), (), None)


def read_outputs(targets: npt.NDArray[Any], first: int, *, where: str) -> npt.NDArray[np.float32]:
    """Return targets as they are stored, (n, M) float32.

    Parameters
    ----------
    targets : (n, M) array
    first : int
        Row of the first one in the array.
    where : str

    Raises
    ------
    SourceError
        If one is missing or not finite, naming the first.
    """
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(targets, np.float32)
    good = np.isfinite(values)
    if not good.all():
        row, output = divmod(int(np.argmin(good)), values.shape[1])
        what = "missing (NaN)" if np.isnan(targets[row, output]) else "not finite"
        raise SourceError(
            f"value {output} of the target of row {first + row} is {what}",
            where=where,
            remedy="leave such rows out of every array",
        )
    return values
