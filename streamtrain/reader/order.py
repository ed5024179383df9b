"""Which rows when: pure functions of a seed and a position, without any file.

    blocks        0 1 2 3 4 5 6 7 8         of the split, in shard order
    permuted      5 0 7 | 2 8 1 | 3 6 4     keyed by (seed, epoch, fingerprint)
    windows       [  0  ] [  1  ] [  2  ]   consecutive groups of n blocks
    rows          every window's rows in an order keyed by (seed, epoch, window)

Everything follows from `OrderSettings` and a `Cursor`; threads, depth, timing
and interruptions never show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamtrain.kernels.permute import permute
from streamtrain.seeds import derive_key


@dataclass(frozen=True)
class Cursor:
    """A position in the stream: the epoch, and the rows of it already consumed."""

    epoch: int = 0
    row: int = 0


@dataclass(frozen=True)
class OrderSettings:
    """What the order depends on, besides the cursor.

    Parameters
    ----------
    fingerprint : str
        Of the dataset.
    seed : int
    window_blocks : int
        Blocks of a window: more mix better and take more memory.
    shuffle : bool
        False reads blocks and rows as they lie.
    """

    fingerprint: str
    seed: int
    window_blocks: int
    shuffle: bool = True


@dataclass(frozen=True)
class WindowPlan:
    """One window: its blocks, and where each one's rows begin in its permutation.

    Parameters
    ----------
    epoch, number : int
    first_row : int
        Rows of the epoch before this window.
    blocks : tuple of int
        Numbers of blocks of the split.
    n_rows : int
    """

    epoch: int
    number: int
    first_row: int
    blocks: tuple[int, ...]
    n_rows: int


def epoch_windows(
    settings: OrderSettings, block_rows: Sequence[int], epoch: int
) -> list[WindowPlan]:
    """Return the windows of an epoch, in order: every block exactly once."""
    order = np.arange(len(block_rows), dtype=np.int64)
    if settings.shuffle:
        key = derive_key("blocks", settings.seed, epoch, settings.fingerprint)
        permute(np.uint64(key), order)
    windows = []
    first_row = 0
    for number, start in enumerate(range(0, len(order), settings.window_blocks)):
        blocks = tuple(int(b) for b in order[start : start + settings.window_blocks])
        n_rows = sum(block_rows[b] for b in blocks)
        windows.append(WindowPlan(epoch, number, first_row, blocks, n_rows))
        first_row += n_rows
    return windows


def window_places(
    settings: OrderSettings, window: WindowPlan, out: npt.NDArray[np.int32]
) -> npt.NDArray[np.int32]:
    """Return, for each row of the window's blocks in turn, its place in the window.

    Parameters
    ----------
    out : (n,) int32
        Buffer of at least the window's rows.
    """
    places = out[: window.n_rows]
    if settings.shuffle:
        key = derive_key("rows", settings.seed, window.epoch, window.number, settings.fingerprint)
        permute(np.uint64(key), places)
    else:
        places[:] = np.arange(window.n_rows, dtype=np.int32)
    return places
