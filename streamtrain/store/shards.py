"""Writing shards: plain Parquet that other tools read and that needs no decoding here.

Every stored column is 4 bytes wide (float32 or int32), required, PLAIN encoded
and uncompressed, one page in each row group. A block (row group) of n rows and
k columns is then k runs of a page header and 4 n bytes of values, all of one
length, and a reader finds any value by arithmetic, without the footer:

    | header | n values of column 0 | header | n values of column 1 | ...

`ShardWriter` checks this layout against the footer of every shard it closes.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from streamtrain import durable
from streamtrain.errors import StreamtrainError
from streamtrain.store.manifest import Block, Shard
from streamtrain.store.schema import Schema

MAX_BLOCK_ROWS = 16_384
"""Arrow starts a new page after 20,000 rows; a block must be one page."""
_SHARD_BYTES = 128 << 20
_BUFFER_BYTES = 4 << 20


class _HashingFile(io.RawIOBase):
    """An append-only file that digests what passes, for the file and for each block."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb", buffering=0)
        self.path = path
        self.position = 0
        self.whole = xxhash.xxh3_128()
        self.block = xxhash.xxh3_64()
        self._kept = False

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
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
        return self.position

    def flush(self) -> None:
        # Arrow calls this when it is closing, too.
        if not self._file.closed:
            self._file.flush()

    def finish(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()

    def keep_open(self) -> None:
        """Leave the file open when Arrow lets go of it, until `finish`."""
        self._kept = True

    def close(self) -> None:
        if not self._file.closed and not self._kept:
            # A full disk was reported already, by the write that met it.
            with contextlib.suppress(OSError):
                self._file.close()
        super().close()


def _finish(file: _HashingFile) -> None:
    try:
        file.finish()
    except OSError as error:
        raise durable.as_stream_error(error, file.path) from error


def arrow_schema(schema: Schema) -> pa.Schema:
    """Return the Parquet schema of a dataset's shards."""
    n_codes = len(schema.categorical)
    first = len(schema.numeric)
    return pa.schema(
        [
            pa.field(
                name, pa.int32() if first <= i < first + n_codes else pa.float32(), nullable=False
            )
            for i, name in enumerate(schema.value_names)
        ]
    )


def as_arrow(values: npt.NDArray[np.generic]) -> pa.Array:
    """Return a contiguous array of numbers as an Arrow array of the same memory.

    Not `pa.array`, which imports pandas where it is installed: 50 MB of memory.
    """
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


class ShardWriter:
    """Write the rows of one split as blocks of exactly `block_rows` rows.

    Parameters
    ----------
    folder : Path
        The dataset being written.
    split : str
        Name of the split and of its directory.
    schema : pa.Schema
        From `arrow_schema`.
    block_rows : int
        Rows of every block but the last.
    on_block : callable or None
        Receives every block before it is written: (k, n) int32, its values' bits. It is
        called in order, on the thread that writes.

    Notes
    -----
    Rows arrive through `append`, or are written in place: columns `n_filled` and
    on of `matrix`, then `advance`. Shards end at the first block that brings them
    to 128 MiB, so their boundaries depend on the rows alone.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        schema: pa.Schema,
        *,
        block_rows: int,
        on_block: Callable[[npt.NDArray[np.int32]], None] | None = None,
    ) -> None:
        if not 0 < block_rows <= MAX_BLOCK_ROWS:
            raise StreamtrainError(f"a block of {block_rows} rows is not possible")
        self._folder = folder
        self._split = split
        self._schema = schema
        self._block_rows = block_rows
        self._on_block = on_block
        # One block is filled while another thread writes the one before.
        self._spare: npt.NDArray[np.int32] = np.empty((len(schema), block_rows), np.int32)
        self.matrix: npt.NDArray[np.int32] = np.empty((len(schema), block_rows), np.int32)
        self.n_filled = 0
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="write-shard")
        self._written: Future[None] | None = None
        # A shard is synced while the next one is being written.
        self._syncing = ThreadPoolExecutor(1, thread_name_prefix="sync-shard")
        self._synced: Future[None] | None = None
        self._file: _HashingFile | None = None
        self._writer: pq.ParquetWriter | None = None
        self._blocks: list[Block] = []
        self.shards: list[Shard] = []

    def __enter__(self) -> ShardWriter:
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

    def append(self, columns: Sequence[npt.NDArray[np.generic]]) -> None:
        """Append rows, one contiguous 1-D array for each column, in schema order.

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
            self.advance(take)
            done += take

    def advance(self, n: int) -> None:
        """Take note that `n` more columns of `matrix` are filled; a full block is written."""
        self.n_filled += n
        if self.n_filled == self._block_rows:
            self._hand_over()

    def _typed(self, matrix: npt.NDArray[np.int32]) -> list[npt.NDArray[np.generic]]:
        return [
            row.view(field.type.to_pandas_dtype())
            for row, field in zip(matrix, self._schema, strict=True)
        ]

    def _hand_over(self) -> None:
        self._wait_for_block()
        self._written = self._writing.submit(self._write_block, self.matrix, self.n_filled)
        self.matrix, self._spare = self._spare, self.matrix
        self.n_filled = 0

    def _wait_for_block(self) -> None:
        if self._written is not None:
            written, self._written = self._written, None
            written.result()

    def end_block(self) -> None:
        """Write what is buffered as a block of fewer rows."""
        if self.n_filled:
            self._hand_over()
        self._wait_for_block()

    def end_shard(self) -> None:
        """End the block and the shard here: the next rows begin new ones."""
        self.end_block()
        if self._writer is not None:
            self._close_shard()

    def close(self) -> None:
        """Write what is left and make every shard durable."""
        self.end_shard()
        self._writing.shutdown()
        self._wait_for_sync()
        self._syncing.shutdown()

    def abandon(self) -> None:
        """Close the open file and leave what was written as it is."""
        self._writing.shutdown()
        if self._file is not None:
            self._file.close()
        self._syncing.shutdown()

    def _wait_for_sync(self) -> None:
        if self._synced is not None:
            self._synced.result()
            self._synced = None

    def _write_block(self, matrix: npt.NDArray[np.int32], n: int) -> None:
        if self._on_block is not None:
            self._on_block(matrix[:, :n])
        try:
            if self._writer is None:
                self._open_shard()
            assert self._writer is not None
            assert self._file is not None
            start = self._file.position
            self._file.block.reset()
            table = pa.Table.from_arrays(
                [as_arrow(column[:n]) for column in self._typed(matrix)],
                schema=self._schema,
            )
            self._writer.write_table(table, row_group_size=n)
            self._sink.flush()
            if start == 0:
                raise StreamtrainError("the Parquet writer no longer starts with its magic")
        except OSError as error:
            raise durable.as_stream_error(error, self._folder / self._split) from error
        self._blocks.append(
            Block(n, start, self._file.position - start, self._file.block.hexdigest())
        )
        if self._file.position >= _SHARD_BYTES:
            self._close_shard()

    def _open_shard(self) -> None:
        folder = self._folder / self._split
        folder.mkdir(exist_ok=True)
        self._file = _HashingFile(folder / f"part-{len(self.shards):05d}.parquet")
        # One large write for a block: Arrow alone writes each page and header by itself.
        block_bytes = len(self._schema) * (4 * self._block_rows + 256)
        self._sink = pa.BufferedOutputStream(
            pa.PythonFile(self._file, mode="w"), min(block_bytes, _BUFFER_BYTES)
        )
        self._writer = pq.ParquetWriter(
            self._sink,
            self._schema,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            store_schema=False,
            data_page_size=1 << 30,
            version="2.6",
        )
        self._sink.flush()  # the magic: it is no part of a block

    def _close_shard(self) -> None:
        file, writer = self._file, self._writer
        assert file is not None
        assert writer is not None
        try:
            writer.close()
            self._sink.flush()
            file.flush()
            self._check_layout(pq.read_metadata(file.path))
            self._wait_for_sync()
            # The next shard's sink replaces this one's, which then closes its file.
            file.keep_open()
            self._synced = self._syncing.submit(_finish, file)
        except OSError as error:
            raise durable.as_stream_error(error, file.path) from error
        self.shards.append(
            Shard(
                name=f"{self._split}/{file.path.name}",
                n_rows=sum(block.n_rows for block in self._blocks),
                n_bytes=file.position,
                digest=file.whole.hexdigest(),
                blocks=tuple(self._blocks),
            )
        )
        self._blocks = []
        self._file = self._writer = None

    def _check_layout(self, footer: pq.FileMetaData) -> None:
        for g, block in enumerate(self._blocks):
            group = footer.row_group(g)
            stride, rest = divmod(block.n_bytes, len(self._schema))
            end = block.offset
            plain = rest == 0 and group.num_rows == block.n_rows
            for c in range(len(self._schema)):
                chunk = group.column(c)
                plain &= chunk.data_page_offset == end and not chunk.has_dictionary_page
                plain &= (
                    chunk.total_compressed_size == stride and chunk.compression == "UNCOMPRESSED"
                )
                end += chunk.total_compressed_size
            if not plain:
                raise StreamtrainError(f"the Parquet writer's layout changed in row group {g}")
