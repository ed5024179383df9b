"""Statistics of an array dataset's train split, gathered as its blocks are written."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from data_tools.statistics import Moments
from streamtrain.store.schema import MAX_POSITIONS, NumericStatistics, StoredFeatures


class ArrayStatistics:
    """Those of each position in a row, or of all values together, and of target and weight.

    Parameters
    ----------
    stored : StoredFeatures
    """

    def __init__(self, stored: StoredFeatures) -> None:
        self._stored = stored
        self._shared = stored.n_values > MAX_POSITIONS
        self._n = 1 if self._shared else stored.n_values
        self._features = Moments(self._n)
        self._beside = Moments(stored.n_targets + (1 if stored.weighted else 0))

    def update(self, block: npt.NDArray[np.uint8]) -> None:
        """Add a block: (n, bytes) uint8, features, then the targets, then the weight."""
        width = self._stored.feature_bytes
        rows: npt.NDArray[Any] = np.ascontiguousarray(block[:, :width]).view(self._stored.dtype)
        columns = rows.reshape(1, -1) if self._shared else rows.T
        self._features.update(np.ascontiguousarray(columns, np.float32))
        beside = np.ascontiguousarray(block[:, width:]).view(np.float32)
        self._beside.update(np.ascontiguousarray(beside.T))

    def features(self) -> tuple[NumericStatistics, ...]:
        """Return those of each position, or of all values together."""
        return tuple(self._features.statistics(c) for c in range(self._n))

    def target(self) -> NumericStatistics:
        """Return those of the target, of M values those of all together."""
        outputs = self.outputs()
        if not outputs:
            return self._beside.statistics(0)
        # As many of each: the variance is the mean of theirs and that of their means.
        means = np.array([s.mean for s in outputs])
        variance = np.square([s.std for s in outputs]).mean() + means.var()
        return NumericStatistics(
            sum(s.count for s in outputs),
            0,
            float(means.mean()),
            float(np.sqrt(variance)),
            min(s.minimum for s in outputs),
            max(s.maximum for s in outputs),
        )

    def outputs(self) -> tuple[NumericStatistics, ...]:
        """Return those of each of M > 1 targets, () of one."""
        n = self._stored.n_targets
        return tuple(self._beside.statistics(m) for m in range(n)) if n > 1 else ()

    def weight(self) -> NumericStatistics | None:
        """Return those of the row weights, None where there are none."""
        if not self._stored.weighted:
            return None
        return self._beside.statistics(self._stored.n_targets)
