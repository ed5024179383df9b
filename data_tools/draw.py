"""Which split a row goes to, and by which key it is shuffled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamtrain.kernels import packing


@dataclass(frozen=True)
class BlockSplits:
    """The split of every block, where a row goes with its block.

    Parameters
    ----------
    starts : (m,) uint64
        Ordinal of the first row of each, rising.
    splits : (m,) uint8
        0, 1, 2: train, valid, test.
    """

    starts: npt.NDArray[np.uint64]
    splits: npt.NDArray[np.uint8]

    def of(self, ordinals: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
        """Return the split of each row, (n,) uint8."""
        at = np.searchsorted(self.starts, ordinals, side="right") - 1
        return self.splits[at]


@dataclass(frozen=True)
class Draw:
    """Keys of the splits and the shuffle.

    Parameters
    ----------
    split_key, shuffle_key : int
    limits : (2,) uint64
        See `packing.draw_splits`.
    shuffled : bool
    blocks : BlockSplits or None
        In place of a draw.
    """

    split_key: int
    shuffle_key: int
    limits: npt.NDArray[np.uint64]
    shuffled: bool
    blocks: BlockSplits | None = None

    def splits_of(
        self, ordinals: npt.NDArray[np.uint64], hashes: npt.NDArray[np.uint64] | None
    ) -> npt.NDArray[np.uint8]:
        """Return the split of each row, (n,) uint8: by what it hashes to, else by its ordinal."""
        if self.blocks is not None:
            return self.blocks.of(ordinals)
        splits = np.empty(len(ordinals), np.uint8)
        drawn = ordinals if hashes is None else hashes
        packing.draw_splits(np.uint64(self.split_key), drawn, self.limits, splits)
        return splits
