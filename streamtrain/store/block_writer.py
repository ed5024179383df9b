"""Writing the rows of a split as blocks: what every format of shards shares.

Rows gather in a matrix of one block, column by column. A full one goes to a
thread that writes it while the next is filled, and a finished shard to another
that syncs it while the next is being written.
"""

from __future__ import annotations

import abc
import contextlib
import io
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from streamtrain import durable
from streamtrain.errors import ConfigError, StreamtrainError
from streamtrain.kernels.bags import gather_entries, pack_entries
from streamtrain.store.manifest import MAX_BLOCK_ENTRIES, BagRun, Block, Shard
from streamtrain.store.schema import StoredColumns, StoredFeatures

SHARD_BYTES = 128 << 20

OnBlock = Callable[[npt.NDArray[Any]], None]


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


class ContentsDigest:
    """xxh3-128 of the values of a split, as they are in memory before any format.

    Of each block of a table in turn, each column's n values as 4 little-endian
    bytes (float32 or int32), then for each bag the bytes of each row's entries and
    the entries; of a block of arrays, each row's features and its targets. So it
    depends on values, on the order of the rows, and for a table on the boundaries
    of blocks.
    """

    def __init__(self) -> None:
        self._digest = xxhash.xxh3_128()

    def update(self, block: npt.NDArray[Any], bags: Sequence[EntryBuffer] = ()) -> None:
        """Add a block, as `BlockWriter` holds it: its rows, or its columns, are contiguous."""
        self._update(block)
        for bag in bags:
            self._digest.update(bag.lengths().data)
            self._digest.update(np.ascontiguousarray(bag.words).data)

    def _update(self, block: npt.NDArray[Any]) -> None:
        if block.flags.c_contiguous:
            self._digest.update(block.data)
            return
        for column in block:
            self._digest.update(column.data)

    def hexdigest(self) -> str:
        """Return the digest of all blocks so far."""
        return self._digest.hexdigest()


class HashingFile(io.RawIOBase):
    """An append-only file that digests what passes, for the file and for each block."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb", buffering=0)
        self.path = path
        self.position = 0
        self.whole = xxhash.xxh3_128()
        self.block = xxhash.xxh3_64()
        self._kept = False

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: object) -> int:
        """Append all of `data`."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        if self._file.closed:
            return len(view)  # abandoned: Arrow still empties its buffer as it goes
        rest = view
        while rest:
            rest = rest[self._file.write(rest) :]
        self.whole.update(view)
        self.block.update(view)
        self.position += len(view)
        return len(view)

    def tell(self) -> int:
        """Return the bytes so far."""
        return self.position

    def flush(self) -> None:
        """Do nothing that was not done: Arrow calls this when it is closing, too."""
        if not self._file.closed:
            self._file.flush()

    def finish(self) -> None:
        """Sync and close.

        Raises
        ------
        DiskError
            If the disk is full or fails.
        """
        try:
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            raise durable.as_stream_error(error, self.path) from error

    def keep_open(self) -> None:
        """Leave the file open when Arrow lets go of it, until `finish`."""
        self._kept = True

    def close(self) -> None:
        """Close the file, unless it was asked to stay open."""
        if not self._file.closed and not self._kept:
            # A full disk was reported already, by the write that met it.
            with contextlib.suppress(OSError):
                self._file.close()
        super().close()


class BlockWriter(abc.ABC):
    """Write the rows of one split as blocks of exactly `block_rows` rows.

    Parameters
    ----------
    folder : Path
        The dataset being written.
    split : str
    stored : StoredColumns or StoredFeatures
        A block of a table of k columns is gathered in `matrix` as (k, block_rows)
        int32, the bits of its values; one of arrays as (block_rows, bytes) uint8,
        each row's features, then its targets, then its weight.
    block_rows : int
        Rows of every block but the last.
    max_block_rows : int
        Most of them that the format can have.
    on_block : callable or None
        Receives every block before it is written, as `matrix` holds it. It is
        called in order, on the thread that writes.

    Notes
    -----
    Rows arrive through `append`, or are written in place, from row `n_filled` of
    `matrix` on, then `advance`. Shards end where their rows alone say so.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        stored: StoredColumns | StoredFeatures,
        *,
        block_rows: int,
        max_block_rows: int,
        on_block: OnBlock | None = None,
    ) -> None:
        if not 0 < block_rows <= max_block_rows:
            raise StreamtrainError(f"a block of {block_rows} rows is not possible")
        self._folder = folder
        self._split = split
        self._stored = stored
        self._block_rows = block_rows
        self._on_block = on_block
        # One block is filled while another thread writes the one before.
        self._spare = self._empty_block()
        self.matrix = self._empty_block()
        self.n_filled = 0
        n_bags = len(stored.bags) if isinstance(stored, StoredColumns) else 0
        self.bags = [EntryBuffer(block_rows) for _ in range(n_bags)]
        """Of the block that is filled: every row of `matrix` is appended to each of them."""
        self._spare_bags = [EntryBuffer(block_rows) for _ in range(n_bags)]
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="write-shard")
        self._written: Future[None] | None = None
        self._syncing = ThreadPoolExecutor(1, thread_name_prefix="sync-shard")
        self._synced: list[Future[None]] = []
        self._contents = ContentsDigest()
        self._turn = threading.Lock()
        self.shards: list[Shard] = []
        self.files: dict[str, str] = {}
        """xxh3-128 of other files that the format wants, by path; known after `close`."""

    def __enter__(self) -> BlockWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    @property
    def contents(self) -> str:
        """Digest of the values written so far."""
        return self._contents.hexdigest()

    def append(
        self,
        columns: Sequence[npt.NDArray[np.generic]],
        bags: Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]] = (),
    ) -> None:
        """Append rows of a table.

        Parameters
        ----------
        columns : sequence of (n,) arrays
            Contiguous, in schema order.
        bags : sequence of ((n + 1,) int64, (m, 2) int32)
            For each bag the entries before each row and of all, and the entries.

        Raises
        ------
        DiskError
            If the disk is full or fails.
        """
        n = len(columns[0])
        done = 0
        while done < n:
            take = min(n - done, self._block_rows - self.n_filled)
            for buffer, column in zip(self._typed(self.matrix), columns, strict=True):
                buffer[self.n_filled : self.n_filled + take] = column[done : done + take]
            for bag, (offsets, words) in zip(self.bags, bags, strict=True):
                part = offsets[done : done + take + 1]
                bag.append(part[:-1], np.diff(part), words)
            self.advance(take)
            done += take

    def advance(self, n: int) -> None:
        """Take note that `n` more columns of `matrix` are filled; a full block is written."""
        self.n_filled += n
        if self.n_filled == self._block_rows:
            self._hand_over()

    def end_block(self) -> None:
        """Write what is buffered as a block of fewer rows."""
        if self.n_filled:
            self._hand_over()
        self._wait_for_block()

    def close(self) -> None:
        """Write what is left and make every shard durable."""
        self.end_block()
        self._end_shard()
        self._writing.shutdown()
        self._wait_for_sync()
        self._syncing.shutdown()
        if self.shards:
            self._write_metadata()

    def abandon(self) -> None:
        """Close the open files and leave what was written as it is."""
        self._writing.shutdown()
        self._close_files()
        self._syncing.shutdown()

    def _empty_block(self) -> npt.NDArray[Any]:
        if isinstance(self._stored, StoredFeatures):
            return np.empty((self._block_rows, self._stored.row_bytes), np.uint8)
        return np.empty((len(self._stored.names), self._block_rows), np.int32)

    def _typed(self, matrix: npt.NDArray[np.int32]) -> list[npt.NDArray[Any]]:
        assert isinstance(self._stored, StoredColumns)
        first = len(self._stored.numeric)
        last = first + len(self._stored.categorical)
        return [row if first <= i < last else row.view(np.float32) for i, row in enumerate(matrix)]

    def _hand_over(self) -> None:
        self._wait_for_block()
        if any(bag.n_rows != self.n_filled for bag in self.bags):
            raise StreamtrainError("a block's bags do not have its rows")
        self._written = self._writing.submit(self._put, self.matrix, self.n_filled, self.bags)
        self.matrix, self._spare = self._spare, self.matrix
        self.bags, self._spare_bags = self._spare_bags, self.bags
        for bag in self.bags:
            bag.clear()
        self.n_filled = 0

    def take_turns(self, turn: threading.Lock) -> None:
        """Write a block only while nobody else holds `turn`: encoding takes memory."""
        self._turn = turn

    def _put(self, matrix: npt.NDArray[Any], n: int, bags: Sequence[EntryBuffer]) -> None:
        values = matrix[:n] if isinstance(self._stored, StoredFeatures) else matrix[:, :n]
        if self._on_block is not None:
            self._on_block(values)
        self._contents.update(values, bags)
        try:
            with self._turn:
                self._write_block(values, n, bags)
        except OSError as error:
            raise durable.as_stream_error(error, self._folder / self._split) from error

    def _wait_for_block(self) -> None:
        if self._written is not None:
            written, self._written = self._written, None
            written.result()

    def _sync(self, files: Sequence[HashingFile]) -> None:
        """Sync finished files on another thread, after those of the shard before."""
        self._wait_for_sync()
        self._synced = [self._syncing.submit(file.finish) for file in files]

    def _wait_for_sync(self) -> None:
        synced, self._synced = self._synced, []
        for each in synced:
            each.result()

    @abc.abstractmethod
    def _write_block(self, values: npt.NDArray[Any], n: int, bags: Sequence[EntryBuffer]) -> None:
        """Write a block of n rows, as `matrix` holds them; the writing thread calls this."""

    @abc.abstractmethod
    def _end_shard(self) -> None:
        """Finish the shard that is open, if one is."""

    @abc.abstractmethod
    def _close_files(self) -> None:
        """Close what is open, without a word about errors."""

    def _write_metadata(self) -> None:  # noqa: B027 (a format without any writes none)
        """Write what the format keeps beside its shards, durably, and note it in `files`."""


def shard_of(
    split_file: str,
    file: HashingFile,
    blocks: Sequence[Block],
    *,
    array: str = "",
    runs: Sequence[tuple[BagRun, ...]] = (),
) -> Shard:
    """Return the entry of a finished file."""
    return Shard(
        name=split_file,
        n_rows=sum(block.n_rows for block in blocks),
        n_bytes=file.position,
        digest=file.whole.hexdigest(),
        blocks=tuple(blocks),
        array=array,
        runs=tuple(runs),
    )
