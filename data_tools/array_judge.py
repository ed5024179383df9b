"""The verdict on rows of arrays: what they are stored as, and which are refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from data_tools.array_plan import ArrayPlan
from data_tools.array_schema import read_targets
from data_tools.array_set import ArraySet, needs_target
from data_tools.labels import Labels
from data_tools.rejects import RejectFile
from data_tools.several_targets import OutputsCounter, decide_outputs, read_outputs
from data_tools.target import TargetCounter, Task, decide_labels, decide_task
from streamtrain.errors import SourceError
from streamtrain.store.adopted_zarr import narrowed

_EXACT = 1 << 24
"""Integers up to this have a float32 each."""


class IntegerSpan:
    """The range of features that are wide integers.

    Attributes
    ----------
    low, high : int
        Least and greatest.
    n_rounded : int
        Those that are no float32.
    """

    def __init__(self) -> None:
        self.low, self.high, self.n_rounded = 0, 0, 0
        self._is_first = True

    def update(self, values: npt.NDArray[Any]) -> None:
        """Take in some of them, at least one."""
        low, high = int(values.min()), int(values.max())
        if self._is_first:
            self.low, self.high, self._is_first = low, high, False
        self.low, self.high = min(self.low, low), max(self.high, high)
        if low < -_EXACT or high > _EXACT:
            self.n_rounded += count_rounded(values)


class RowJudge:
    """Rows of several sources in turn, as they are stored.

    Parameters
    ----------
    plan : ArrayPlan
    rejects : RejectFile
    reasons : Counter
        Of rejected rows, counted here.

    Attributes
    ----------
    counter : TargetCounter
    outputs : OutputsCounter
        In its place where a row has several targets.
    texts : list of str
        Of a target that is text: targets are places in it.
    span : IntegerSpan
        Of features that are wide integers.
    """

    def __init__(self, plan: ArrayPlan, rejects: RejectFile, reasons: Counter[str]) -> None:
        self._plan = plan
        self._rejects = rejects
        self._reasons = reasons
        self.counter = TargetCounter()
        self.outputs = OutputsCounter(plan.packed.n_targets)
        self._places: dict[str, int] = {}
        self.is_text = False
        self._arrays: ArraySet | None = None
        self.span = IntegerSpan()

    @property
    def texts(self) -> list[str]:
        """Every text so far, in order of first sight."""
        return list(self._places)

    def begin(self, arrays: ArraySet) -> None:
        """Go on with the rows of another source.

        Raises
        ------
        SourceError
            If its target is text and others' are not, or the other way round.
        """
        target = needs_target(arrays)
        is_text = isinstance(target, Labels)
        if self._arrays is not None and is_text != self.is_text:
            raise SourceError(
                "the targets of some sources are text, of others numbers", where=target.name
            )
        self.is_text = is_text
        self._arrays = arrays
        self._target = target

    def targets(self, targets: npt.NDArray[Any], first: int) -> npt.NDArray[np.float32]:
        """Return targets as they are packed, (n,) or (n, M): values, or places in `texts`.

        Raises
        ------
        SourceError
            If one is missing or not finite.
        """
        if self._plan.packed.n_targets > 1:
            return read_outputs(targets, first, where=self._target.name)
        if isinstance(self._target, Labels):
            read_targets(targets, first, None, where=self._target.name)
            texts = self._target.texts
            places = [self._places.setdefault(text, len(self._places)) for text in texts]
            return np.array(places, np.float32)[targets.reshape(-1).astype(np.int64)]
        return read_targets(targets, first, self.counter, where=self._target.name)

    def count(self, values: npt.NDArray[np.float32], train: npt.NDArray[np.bool_]) -> None:
        """Take note of the targets of rows that are kept, and which are in the train split."""
        if self._plan.packed.n_targets > 1:
            self.outputs.update(values, train)
            return
        self.counter.update_runs(values.view(np.int32))
        self.counter.update_numbers(values, train)

    def task(self, column: str, *, positive: str | None) -> Task:
        """Return the task that all targets suggest.

        Raises
        ------
        SourceError, SchemaError, ConfigError
            As `decide_task`, `decide_labels` and `decide_outputs`.
        """
        if self._plan.packed.n_targets > 1:
            return decide_outputs(self.outputs, column)
        if self.is_text:
            return decide_labels(self.counter, self.texts, column, positive=positive)
        return decide_task(self.counter, column, is_text=False, positive=positive)

    @property
    def run_length(self) -> float:
        """Mean length of runs of equal targets."""
        if self._plan.packed.n_targets > 1:
            return self.outputs.run_length
        return self.counter.run_length

    def weights(self, weights: npt.NDArray[Any], first: int) -> npt.NDArray[np.float32]:
        """Return row weights as they are stored, (n,).

        Raises
        ------
        SourceError
            If one is missing, negative or not finite.
        """
        with np.errstate(over="ignore"):
            values = weights.reshape(-1).astype(np.float32)
        bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
        if len(bad):
            assert self._arrays is not None
            assert self._arrays.weight is not None
            raise SourceError(
                f"the weight of row {first + int(bad[0])} is {weights.reshape(-1)[bad[0]]}, "
                "expected 0 or more",
                where=self._arrays.weight.name,
                remedy="give a row that does not count the weight 0",
            )
        return values

    def features(
        self, rows: npt.NDArray[Any], first: int
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Return rows as they are packed, (n, D), and which hold no infinity.

        NaN is a missing value.
        """
        if self._plan.is_wide:
            self.span.update(rows)
        stored = narrowed(rows, self._plan.packed)
        if stored.dtype.kind != "f":
            return stored, np.ones(len(stored), np.bool_)
        good: npt.NDArray[np.bool_] = ~np.isinf(stored).any(axis=1)
        assert self._arrays is not None
        for i in np.flatnonzero(~good).tolist():
            self._rejects.add(
                self._arrays.features.name, first + i + 1, "not finite", b"", unit="row"
            )
            self._reasons["not finite"] += 1
        return stored, good


def count_rounded(values: npt.NDArray[Any]) -> int:
    """Return how many integers are no float32: of more than 24 bits between their ones.

    Examples
    --------
    >>> count_rounded(np.array([2**24, 2**24 + 1, 2**24 + 2, -(2**63), 2**62 + 1]))
    2
    """
    large = values[(values > _EXACT) | (values < -_EXACT)]
    if large.dtype.kind == "i":
        # Of the least one the bits of its absolute value are its own.
        large = np.where(large < 0, np.negative(large), large).view(f"u{large.dtype.itemsize}")
    bits = large.astype(np.uint64)
    lowest = bits & (~bits + np.uint64(1))
    return int(np.count_nonzero(bits // lowest >= _EXACT))
