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
N_KNOTS = len(QUANTILE_PROBABILITIES)


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

    def statistics(self, c: int, sample: RowSample | None = None) -> NumericStatistics:
        """Return the statistics of column `c`, quantiles and knots from a sample."""
        quantiles = sample.quantiles(c) if sample else ()
        knots, ranks = sample.knots(c) if sample else ((), ())
        count, mean, squares, low, high = self._state[c].tolist()
        if count == 0:
            return NumericStatistics(0, self._n_rows, 0.0, 0.0, 0.0, 0.0)
        std = float(np.sqrt(squares / count))
        return NumericStatistics(
            int(count), self._n_rows - int(count), mean, std, low, high, quantiles, knots, ranks
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

    def knots(self, c: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the knots of column `c` and their ranks; see `NumericStatistics`."""
        values = self._rows[c].astype(np.float64)
        values, counts = np.unique(values[~np.isnan(values)], return_counts=True)
        if not len(values):
            return (), ()
        ranks = (np.cumsum(counts) - 0.5 * counts) / counts.sum()
        picked = pick_knots(counts, N_KNOTS)
        return tuple(values[picked].tolist()), tuple(ranks[picked].tolist())


def pick_knots(counts: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.int64]:
    """Return the places of at most n of some rising values, by how often each occurs.

    Parameters
    ----------
    counts : (m,) int64
        Each at least 1.
    n : int
        At least 2.

    Returns
    -------
    (<= n,) int64
        Rising. The first and the last value are among them, and every value that
        occurs more often than the others would at their share; these are picked
        at equal distances of their own count.
    """
    m = len(counts)
    if m <= n:
        return np.arange(m)
    heavy = np.zeros(m, np.bool_)
    heavy[[0, -1]] = True
    while (left := n - int(heavy.sum())) > 0:
        light_count = int(counts[~heavy].sum())
        more = ~heavy & (counts * left > light_count)
        if not more.any():
            break
        # The heaviest first: they are at most as many as places.
        order = np.argsort(-counts[more], kind="stable")[:left]
        heavy[np.flatnonzero(more)[order]] = True
    light = np.flatnonzero(~heavy)
    passed = np.cumsum(counts[light])
    at = (np.arange(max(left, 0)) + 0.5) / max(left, 1) * passed[-1]
    chosen = light[np.searchsorted(passed, at)]
    return np.union1d(np.flatnonzero(heavy), chosen)
