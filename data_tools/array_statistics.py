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
        self._beside = Moments(2 if stored.weighted else 1)

    def update(self, block: npt.NDArray[np.uint8]) -> None:
        """Add a block: (n, bytes) uint8, features, then the target, then the weight."""
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
        """Return those of the target."""
        return self._beside.statistics(0)

    def weight(self) -> NumericStatistics | None:
        """Return those of the row weights, None where there are none."""
        return self._beside.statistics(1) if self._stored.weighted else None
