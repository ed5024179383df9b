"""Writing the rows of a split as blocks: what every format of shards shares.

Rows gather in a matrix of one block, column by column. A full one goes to a
thread that writes it while the next is filled, and a finished shard to another
that syncs it while the next is being written.
"""

from __future__ import annotations

import abc
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from streamtrain import durable
from streamtrain.errors import StreamtrainError
from streamtrain.store.entry_buffer import EntryBuffer
from streamtrain.store.manifest import BagRun, Block, Shard
from streamtrain.store.schema import StoredColumns, StoredFeatures
from streamtrain.store.written_digests import ContentsDigest, HashingFile

SHARD_BYTES = 128 << 20

OnBlock = Callable[[npt.NDArray[Any]], None]


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
