"""Statistics of the train split, gathered as its blocks are written.

Blocks are the same for every thread count and budget, and so are these.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streamtrain.kernels.moments import merge_moments
from streamtrain.kernels.row_key import row_keys
from streamtrain.store.schema import QUANTILE_PROBABILITIES, NumericStatistics

SAMPLE_ROWS = 16_384


class Moments:
    """Count, mean, deviation and range of D columns.

    Parameters
    ----------
    n_columns : int
    """

    def __init__(self, n_columns: int) -> None:
        self._n_rows = 0
        self._state = np.zeros((n_columns, 5))
        self._state[:, 3], self._state[:, 4] = np.inf, -np.inf

    def update(self, block: npt.NDArray[np.float32]) -> None:
        """Add a block, (D, n) float32."""
        merge_moments(block, self._state)
        self._n_rows += block.shape[1]

    def statistics(self, c: int, quantiles: tuple[float, ...] = ()) -> NumericStatistics:
        """Return the statistics of column `c`."""
        count, mean, squares, low, high = self._state[c].tolist()
        if count == 0:
            return NumericStatistics(0, self._n_rows, 0.0, 0.0, 0.0, 0.0, quantiles)
        std = float(np.sqrt(squares / count))
        return NumericStatistics(
            int(count), self._n_rows - int(count), mean, std, low, high, quantiles
        )


class RowSample:
    """A uniform sample of rows: those with the least keys.

    Parameters
    ----------
    key : int
        Of the sample's stream.
    n_columns : int
    """

    def __init__(self, key: int, n_columns: int) -> None:
        self._key = np.uint64(key)
        self._keys = np.zeros(0, np.uint64)
        self._rows = np.zeros((n_columns, 0), np.float32)
        self._limit = np.uint64(0xFFFFFFFFFFFFFFFF)

    def update(
        self,
        ordinals: npt.NDArray[np.uint64],
        values: npt.NDArray[np.float32],
        columns: npt.NDArray[np.int64],
    ) -> None:
        """Offer rows: ordinals (n,), their values (k, n), and which columns to keep (D,)."""
        keys = np.empty(len(ordinals), np.uint64)
        row_keys(self._key, ordinals, keys)
        near = np.flatnonzero(keys < self._limit)
        if not len(near):
            return
        self._keys = np.concatenate([self._keys, keys[near]])
        self._rows = np.concatenate([self._rows, values[np.ix_(columns, near)]], axis=1)
        if len(self._keys) > SAMPLE_ROWS:
            least = np.argpartition(self._keys, SAMPLE_ROWS - 1)[:SAMPLE_ROWS]
            self._keys, self._rows = self._keys[least], self._rows[:, least]
            self._limit = self._keys.max()

    def quantiles(self, c: int) -> tuple[float, ...]:
        """Return the quantiles of column `c`, () if it has no value."""
        values = self._rows[c].astype(np.float64)
        values = values[~np.isnan(values)]
        if not len(values):
            return ()
        # No interpolation between values: each quantile is a value of the column.
        found = np.quantile(values, QUANTILE_PROBABILITIES, method="inverted_cdf")
        return tuple(found.tolist())
