"""Writing shards: plain Parquet that other tools read and that needs no decoding here.

Every stored column is 4 bytes wide (float32 or int32), required, PLAIN encoded
and uncompressed, one page in each row group. A block (row group) of n rows and
k columns is then k runs of a page header and 4 n bytes of values, all of one
length, and a reader finds any value by arithmetic, without the footer:

    | header | n values of column 0 | header | n values of column 1 | ...

Bags come last. Each is a column of byte arrays, a row's entries of 8 bytes, in runs
whose lengths the manifest has:

    | header | bytes of row 0, its entries | bytes of row 1, its entries | ...

`ShardWriter` checks this layout against the footer of every shard it closes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from streamtrain import durable
from streamtrain.errors import StreamtrainError
from streamtrain.store.block_writer import SHARD_BYTES, BlockWriter, OnBlock, shard_of
from streamtrain.store.entry_buffer import EntryBuffer
from streamtrain.store.manifest import BagRun, Block
from streamtrain.store.schema import StoredColumns
from streamtrain.store.written_digests import HashingFile

MAX_BLOCK_ROWS = 16_384
"""Arrow starts a new page after 20,000 rows; a block must be one page."""
_BUFFER_BYTES = 4 << 20
MAX_CHUNKS = 4096
"""Column chunks of a shard, about, and as many as blocks of 8192 rows have in one of 128 MiB.

Arrow keeps some 2 kB of each until the shard ends: blocks of 512 rows had 65,536.
"""


def arrow_schema(columns: StoredColumns) -> pa.Schema:
    """Return the Parquet schema of a dataset's shards."""
    n_codes = len(columns.categorical)
    first = len(columns.numeric)
    return pa.schema(
        [
            pa.field(
                name, pa.int32() if first <= i < first + n_codes else pa.float32(), nullable=False
            )
            for i, name in enumerate(columns.names)
        ]
        + [pa.field(name, pa.large_binary(), nullable=False) for name in columns.bags]
    )


def as_arrow(values: npt.NDArray[np.generic]) -> pa.Array:
    """Return a contiguous array of numbers as an Arrow array of the same memory.

    Not `pa.array`, which imports pandas where it is installed: 50 MB of memory.
    """
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def _as_binary(bag: EntryBuffer) -> pa.Array:
    """Return each row's entries as an Arrow value of bytes."""
    n = bag.n_rows
    offsets = pa.py_buffer(8 * bag.offsets[: n + 1])
    return pa.Array.from_buffers(
        pa.large_binary(), n, [None, offsets, pa.py_buffer(np.ascontiguousarray(bag.words))]
    )


class ShardWriter(BlockWriter):
    """Write the rows of one split as Parquet.

    Parameters
    ----------
    folder, split, columns, block_rows, on_block
        As in `BlockWriter`.
    shard_bytes : int
        A shard ends at the first block that brings it to this, or to `MAX_CHUNKS`.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        columns: StoredColumns,
        *,
        block_rows: int,
        on_block: OnBlock | None = None,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        super().__init__(
            folder,
            split,
            columns,
            block_rows=block_rows,
            max_block_rows=MAX_BLOCK_ROWS,
            on_block=on_block,
        )
        self._schema = arrow_schema(columns)
        self._n_fixed = len(columns.names)
        self._runs: list[tuple[BagRun, ...]] = []
        self._shard_bytes = shard_bytes
        self._file: HashingFile | None = None
        self._writer: pq.ParquetWriter | None = None
        self._blocks: list[Block] = []

    def end_shard(self) -> None:
        """End the block and the shard here: the next rows begin new ones."""
        self.end_block()
        self._end_shard()

    def _end_shard(self) -> None:
        if self._writer is not None:
            self._close_shard()

    def _close_files(self) -> None:
        if self._file is not None:
            self._file.close()

    def _write_block(
        self, values: npt.NDArray[np.int32], n: int, bags: Sequence[EntryBuffer]
    ) -> None:
        if self._writer is None:
            self._open_shard()
        assert self._writer is not None
        assert self._file is not None
        start = self._file.position
        self._file.block.reset()
        table = pa.Table.from_arrays(
            [*map(as_arrow, self._typed(values)), *map(_as_binary, bags)], schema=self._schema
        )
        self._writer.write_table(table, row_group_size=n)
        self._sink.flush()
        if start == 0:
            raise StreamtrainError("the Parquet writer no longer starts with its magic")
        self._blocks.append(
            Block(n, start, self._file.position - start, self._file.block.hexdigest())
        )
        self._runs.append(tuple(BagRun(bag.n_entries, 0) for bag in bags))
        n_chunks = len(self._blocks) * len(self._schema)
        if self._file.position >= self._shard_bytes or n_chunks >= MAX_CHUNKS:
            self._close_shard()

    def _open_shard(self) -> None:
        folder = self._folder / self._split
        folder.mkdir(exist_ok=True)
        self._file = HashingFile(folder / f"part-{len(self.shards):05d}.parquet")
        # One large write for a block: Arrow alone writes each page and header by itself.
        block_bytes = self._n_fixed * (4 * self._block_rows + 256)
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
            # The next shard's sink replaces this one's, which then closes its file.
            file.keep_open()
            self._sync([file])
        except OSError as error:
            raise durable.as_stream_error(error, file.path) from error
        runs = self._runs if self._n_fixed < len(self._schema) else []
        name = f"{self._split}/{file.path.name}"
        self.shards.append(shard_of(name, file, self._blocks, runs=runs))
        self._blocks, self._runs = [], []
        self._file = self._writer = None

    def _check_layout(self, footer: pq.FileMetaData) -> None:
        for g, block in enumerate(self._blocks):
            group = footer.row_group(g)
            chunks = [group.column(c) for c in range(len(self._schema))]
            sizes = [chunk.total_compressed_size for chunk in chunks]
            self._runs[g] = tuple(
                BagRun(run.n_entries, size)
                for run, size in zip(self._runs[g], sizes[self._n_fixed :], strict=True)
            )
            end = block.offset
            plain = len(set(sizes[: self._n_fixed])) == 1 and group.num_rows == block.n_rows
            plain &= sum(sizes) == block.n_bytes
            for chunk in chunks:
                plain &= chunk.data_page_offset == end and not chunk.has_dictionary_page
                plain &= chunk.compression == "UNCOMPRESSED"
                end += chunk.total_compressed_size
            if not plain:
                raise StreamtrainError(f"the Parquet writer's layout changed in row group {g}")
