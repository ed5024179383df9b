"""What is found of an array and its targets as they are read."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from data_tools.judge import TargetSpan
from data_tools.statistics import Moments
from data_tools.target import TargetCounter, Task
from streamtrain.errors import SourceError
from streamtrain.store.schema import (
    MAX_POSITIONS,
    ArrayFeatures,
    NumericStatistics,
    Schema,
    StoredFeatures,
    Target,
)

TARGET = "target"


def read_targets(
    targets: npt.NDArray[Any], first: int, counter: TargetCounter, *, where: str
) -> npt.NDArray[np.float32]:
    """Return targets as they are stored, (n,) float32, and take in their range.

    Parameters
    ----------
    targets : (n,) array
    first : int
        Row of the first one in the array.
    counter : TargetCounter
    where : str

    Raises
    ------
    SourceError
        If one is missing or not finite.
    """
    wide = targets.astype(np.float64)
    with np.errstate(over="ignore"):
        values = wide.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        what = "missing (NaN)" if np.isnan(wide[bad[0]]) else "not finite"
        raise SourceError(
            f"the target of row {first + int(bad[0])} is {what}",
            where=where,
            remedy="leave such rows out of both arrays",
        )
    rounded = bool(((wide != values) & (wide == np.floor(wide))).any())
    counter.update_span(TargetSpan(float(wide.min()), float(wide.max()), rounded))
    return values


def array_schema(
    stored: StoredFeatures,
    statistics: ArrayStatistics,
    task: Task,
    counter: TargetCounter,
    *,
    missing: tuple[str, ...],
) -> Schema:
    """Return the schema of a dataset of arrays."""
    return Schema(
        columns=(),
        target=Target(
            name=TARGET,
            task=task.name,  # type: ignore[arg-type]
            classes=task.classes,
            values=task.values,
            is_text=False,
            counts=task.counts,
            statistics=statistics.target(),
            run_length=counter.run_length,
        ),
        missing=missing,
        header=False,
        delimiter="",
        features=ArrayFeatures(stored.dtype, stored.shape, statistics.features()),
    )


class ArrayStatistics:
    """Statistics of the train split, gathered as its blocks are written."""

    def __init__(self, stored: StoredFeatures) -> None:
        self._stored = stored
        self._shared = stored.n_values > MAX_POSITIONS
        self._n = 1 if self._shared else stored.n_values
        self._features = Moments(self._n)
        self._target = Moments(1)

    def update(self, block: npt.NDArray[np.uint8]) -> None:
        """Add a block: (n, bytes) uint8, features and then the target."""
        width = self._stored.feature_bytes
        rows = np.ascontiguousarray(block[:, :width]).view(self._stored.dtype)
        columns = rows.reshape(1, -1) if self._shared else rows.T
        self._features.update(np.ascontiguousarray(columns, np.float32))
        target = np.ascontiguousarray(block[:, width:]).view(np.float32)
        self._target.update(target.reshape(1, -1))

    def features(self) -> tuple[NumericStatistics, ...]:
        """Return those of each position, or of all values together."""
        return tuple(self._features.statistics(c) for c in range(self._n))

    def target(self) -> NumericStatistics:
        """Return those of the target."""
        return self._target.statistics(0)
