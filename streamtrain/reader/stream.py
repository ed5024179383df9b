"""From windows to batches: consecutive whole batches, handed over as slices.

A batch may span windows, so the sizes of both are independent: rows left over
at the end of a window move to a spill of one batch, which the next window fills.

    window 0  [ b0 ][ b1 ][ b2 ][ b3 |     window 1   | b3 ][ b4 ] ...
                                 `---- spill ----------'
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

from streamtrain.errors import ConfigError, StreamtrainError
from streamtrain.reader.order import Cursor, OrderSettings, epoch_windows
from streamtrain.reader.prefetch import prefetch
from streamtrain.reader.windows import (
    Floats,
    HandOver,
    Rows,
    Window,
    WindowFiller,
    allocate_rows,
    batch_entries,
)
from streamtrain.store.dataset import Dataset, IoMethod


@dataclass(frozen=True)
class Segment:
    """Consecutive batches of an epoch, in one piece of memory.

    Parameters
    ----------
    rows : Rows
        Views, valid until the next segment; batch k is rows k B to (k + 1) B.
    batch_size : int
        B; the last batch of an epoch may have fewer rows.
    epoch, first_row : int
        Cursor of its first row.
    """

    rows: Rows
    batch_size: int
    epoch: int
    first_row: int

    @property
    def n_batches(self) -> int:
        """Number of batches, the short one included."""
        return -(-self.rows.n_rows // self.batch_size)

    def cursor_after(self, n_batches: int) -> Cursor:
        """Return the cursor after `n_batches` of them."""
        n = min(n_batches * self.batch_size, self.rows.n_rows)
        return Cursor(self.epoch, self.first_row + n)


class EpochReader:
    """Read epochs of one split as segments of batches.

    Parameters
    ----------
    dataset : Dataset
    split : str
    settings : OrderSettings
    batch_size : int
    depth : int
        Windows filled ahead by a thread of their own; it costs one window of
        memory each. With 0 each is filled when it is asked for, while the system
        fetches what follows.
    n_readers : int
    drop_last : bool
        Leave out a last batch that is not whole.
    io : {"pread", "mmap"}
    class_values : (C,) float32 or None

    Notes
    -----
    **Promise**: each row exactly once an epoch, in an order that depends on
    `settings` alone.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        settings: OrderSettings,
        *,
        batch_size: int,
        depth: int = 0,
        n_readers: int = 1,
        drop_last: bool = False,
        io: IoMethod = "pread",
        class_values: Floats | None = None,
    ) -> None:
        self.n_rows = dataset.n_rows(split)
        self.batch_size = batch_size
        self.drop_last = drop_last
        self._settings = settings
        self._depth = depth
        self._block_rows = [block.n_rows for _, block in dataset.manifest.blocks(split)]
        self._filler = WindowFiller(
            dataset,
            split,
            settings,
            window_rows=largest_window(self._block_rows, settings.window_blocks),
            n_buffers=depth + 1,
            n_readers=n_readers,
            io=io,
            class_values=class_values,
        )
        self.times = self._filler.times
        self._spill = allocate_rows(
            dataset,
            min(batch_size, self.n_rows),
            batch_entries(dataset, split, settings.window_blocks, batch_size),
        )
        self._hand_over = HandOver(dataset, batch_size)

    def close(self) -> None:
        """Let the reading threads end."""
        self._filler.close()

    def __enter__(self) -> EpochReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rows_in_epoch(self) -> int:
        """Return the rows that an epoch delivers: all, or whole batches with `drop_last`."""
        if self.drop_last:
            return self.n_rows // self.batch_size * self.batch_size
        return self.n_rows

    def epoch(self, cursor: Cursor) -> Generator[Segment, None, None]:
        """Yield the segments of an epoch from `cursor` to its end.

        Raises
        ------
        CorruptShardError
            If a block is not what was written.
        """
        windows = epoch_windows(self._settings, self._block_rows, cursor.epoch)
        plans = [w for w in windows if w.first_row + w.n_rows > cursor.row]
        end = self.rows_in_epoch()
        position = cursor.row
        spill, n_spilt, size = self._spill, 0, self.batch_size
        with closing(prefetch(self._filler.fill_all(plans), depth=self._depth)) as filled:
            for window in self._waited(filled):
                at = position + n_spilt - window.plan.first_row
                n = window.plan.n_rows
                if n_spilt:
                    take = min(size - n_spilt, n - at)
                    spill.put(n_spilt, window.rows.slice(at, at + take))
                    n_spilt, at = n_spilt + take, at + take
                    if n_spilt == size:
                        yield from self._segments(spill.slice(0, size), cursor.epoch, position)
                        position, n_spilt = position + size, 0
                whole = (n - at) // size * size
                if whole:
                    rows = window.rows.slice(at, at + whole)
                    yield from self._segments(rows, cursor.epoch, position)
                    position, at = position + whole, at + whole
                if at < n:
                    spill.put(n_spilt, window.rows.slice(at, n))
                    n_spilt += n - at
                self._filler.give_back(window)
        if n_spilt and position < end:
            yield from self._segments(spill.slice(0, n_spilt), cursor.epoch, position)
            position += n_spilt
        if position != end:
            raise StreamtrainError(
                f"the epoch delivered {position} rows, expected {end}",
                where=f"epoch {cursor.epoch}",
            )

    def _segments(self, rows: Rows, epoch: int, first_row: int) -> Iterator[Segment]:
        for piece in self._hand_over.pieces(rows):
            yield Segment(piece, self.batch_size, epoch, first_row)
            first_row += piece.n_rows

    def _waited(self, windows: Iterator[Window]) -> Iterator[Window]:
        while True:
            start = time.perf_counter()
            window = next(windows, None)
            self.times.wait_s += time.perf_counter() - start
            if window is None:
                return
            yield window


def largest_window(block_rows: list[int], window_blocks: int) -> int:
    """Return the rows of the largest window that any order can make."""
    return sum(sorted(block_rows, reverse=True)[:window_blocks])


def choose_window_blocks(block_rows: list[int], *, row_bytes: int, budget_bytes: int) -> int:
    """Return the blocks of a window: about 131,072 rows, or what the budget holds.

    Parameters
    ----------
    block_rows : list of int
        Rows of each block of the split.
    row_bytes : int
        Bytes of a row in memory.
    budget_bytes : int
        For one window.

    Notes
    -----
    With rows that were not shuffled at ingest the number of blocks decides how
    well a window mixes; 256 blocks of 512 rows reach 1 % of the loss of a full
    shuffle on data sorted by target (docs/determinism.md).
    """
    largest = max(block_rows)
    rows = min(_WINDOW_ROWS, budget_bytes // row_bytes)
    return max(1, min(rows // largest, len(block_rows)))


_WINDOW_ROWS = 131_072


def check_batch_size(batch_size: int, n_rows: int) -> None:
    """Refuse a batch that the split cannot fill.

    Raises
    ------
    ConfigError
        If it is larger than the split.
    """
    if batch_size > n_rows:
        raise ConfigError(
            f"a batch of {batch_size:,} rows is larger than the split of {n_rows:,} rows",
            where="--batch-size",
            remedy=f"give at most {n_rows}",
        )
