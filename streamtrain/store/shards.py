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
from collections.abc import Sequence
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
_MAGIC_BYTES = 4


class _HashingFile(io.RawIOBase):
    """An append-only file that digests what passes, for the file and for each block."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb", buffering=1 << 20)
        self.path = path
        self.position = 0
        self.whole = xxhash.xxh3_128()
        self.block = xxhash.xxh3_64()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        self._file.write(view)
        self.whole.update(view)
        self.block.update(view)
        self.position += len(view)
        return len(view)

    def tell(self) -> int:
        return self.position

    def finish(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def close(self) -> None:
        if not self._file.closed:
            # A full disk was reported already, by the write that met it.
            with contextlib.suppress(OSError):
                self._file.close()
        super().close()


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

    Notes
    -----
    Shards end at the first block that brings them to 128 MiB, so their
    boundaries depend on the rows alone.
    """

    def __init__(self, folder: Path, split: str, schema: pa.Schema, *, block_rows: int) -> None:
        if not 0 < block_rows <= MAX_BLOCK_ROWS:
            raise StreamtrainError(f"a block of {block_rows} rows is not possible")
        self._folder = folder
        self._split = split
        self._schema = schema
        self._block_rows = block_rows
        self._buffers: list[npt.NDArray[np.generic]] = [
            np.empty(block_rows, field.type.to_pandas_dtype()) for field in schema
        ]
        self._n_buffered = 0
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
        elif self._file is not None:
            self._file.close()

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
            take = min(n - done, self._block_rows - self._n_buffered)
            for buffer, column in zip(self._buffers, columns, strict=True):
                buffer[self._n_buffered : self._n_buffered + take] = column[done : done + take]
            self._n_buffered += take
            done += take
            if self._n_buffered == self._block_rows:
                self._write_block()

    def close(self) -> None:
        """Write what is left and make every shard durable."""
        if self._n_buffered:
            self._write_block()
        if self._writer is not None:
            self._close_shard()

    def _write_block(self) -> None:
        n = self._n_buffered
        try:
            if self._writer is None:
                self._open_shard()
            assert self._writer is not None
            assert self._file is not None
            start = self._file.position
            self._file.block.reset()
            table = pa.Table.from_arrays(
                [pa.array(buffer[:n]) for buffer in self._buffers], schema=self._schema
            )
            self._writer.write_table(table, row_group_size=n)
            # Arrow writes the magic with the first row group or before: it is no part of a block.
            if start == 0:
                raise StreamtrainError("the Parquet writer no longer starts with its magic")
        except OSError as error:
            raise durable.as_stream_error(error, self._folder / self._split) from error
        self._blocks.append(
            Block(n, start, self._file.position - start, self._file.block.hexdigest())
        )
        self._n_buffered = 0
        if self._file.position >= _SHARD_BYTES:
            self._close_shard()

    def _open_shard(self) -> None:
        folder = self._folder / self._split
        folder.mkdir(exist_ok=True)
        self._file = _HashingFile(folder / f"part-{len(self.shards):05d}.parquet")
        self._writer = pq.ParquetWriter(
            pa.PythonFile(self._file, mode="w"),
            self._schema,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            store_schema=False,
            data_page_size=1 << 30,
            version="2.6",
        )

    def _close_shard(self) -> None:
        file, writer = self._file, self._writer
        assert file is not None
        assert writer is not None
        try:
            writer.close()
            file.finish()
        except OSError as error:
            raise durable.as_stream_error(error, file.path) from error
        self._check_layout(pq.read_metadata(file.path))
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
                plain &= chunk.total_compressed_size == stride and chunk.compression == "UNCOMPRESSED"
                end += chunk.total_compressed_size
            if not plain:
                raise StreamtrainError(f"the Parquet writer's layout changed in row group {g}")
