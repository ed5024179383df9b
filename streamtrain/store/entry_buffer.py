"""The entries of bags in a block that is being filled."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streamtrain.errors import ConfigError
from streamtrain.kernels.bags import gather_entries, pack_entries
from streamtrain.store.manifest import MAX_BLOCK_ENTRIES


class EntryBuffer:
    """The entries of one bag in a block, row by row.

    Parameters
    ----------
    n_rows : int
        Most rows of a block.

    Attributes
    ----------
    offsets : (n_rows + 1,) int64
        Entries before each row that is there, and of all.
    """

    def __init__(self, n_rows: int) -> None:
        self.offsets = np.zeros(n_rows + 1, np.int64)
        self.n_rows = 0
        self._words = np.empty((1024, 2), np.int32)

    @property
    def n_entries(self) -> int:
        """Entries of all rows."""
        return int(self.offsets[self.n_rows])

    @property
    def words(self) -> npt.NDArray[np.int32]:
        """The entries, (n_entries, 2) int32: codes, and the bits of float32 values."""
        return self._words[: self.n_entries]

    def clear(self) -> None:
        """Begin a new block."""
        self.n_rows = 0

    def append(
        self,
        starts: npt.NDArray[np.int64],
        counts: npt.NDArray[np.int64],
        words: npt.NDArray[np.int32],
    ) -> None:
        """Append rows.

        Parameters
        ----------
        starts, counts : (n,) int64
            Where each row's entries begin in `words`, and how many there are.
        words : (m, 2) int32
        """
        at = self.n_entries
        needed = at + int(counts.sum())
        if needed >= MAX_BLOCK_ENTRIES:
            raise ConfigError(
                f"a block would hold {needed:,} entries of text or lists, "
                f"fewer than {MAX_BLOCK_ENTRIES:,} are possible",
                where="--block-rows",
                remedy="give fewer rows",
            )
        if needed > len(self._words):
            grown = np.empty((max(needed, 2 * len(self._words)), 2), np.int32)
            grown[:at] = self._words[:at]
            self._words = grown
        n = len(counts)
        gather_entries(starts, counts, words, self._words[at:needed])
        ends = self.offsets[self.n_rows + 1 : self.n_rows + n + 1]
        np.cumsum(counts, out=ends)
        ends += at
        self.n_rows += n

    def lengths(self) -> npt.NDArray[np.uint32]:
        """Return the bytes of each row's entries, (n_rows,) uint32."""
        return (8 * np.diff(self.offsets[: self.n_rows + 1])).astype(np.uint32)

    def packed(self) -> npt.NDArray[np.int32]:
        """Return the rows as they lie in a shard: the bytes of each, then its entries."""
        out = np.empty(self.n_rows + 2 * self.n_entries, np.int32)
        pack_entries(self.offsets[: self.n_rows + 1], self._words, out)
        return out
