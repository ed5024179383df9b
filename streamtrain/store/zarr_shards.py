"""Writing shards: Zarr v3 arrays whose chunks are read without Zarr."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from streamtrain import durable
from streamtrain.errors import ConfigError, StreamtrainError
from streamtrain.store.block_writer import SHARD_BYTES, BlockWriter, OnBlock, shard_of
from streamtrain.store.chunk_codecs import (
    MAX_BLOSC_BYTES,
    ChunkCodec,
    Compression,
    chunk_codec,
)
from streamtrain.store.entry_buffer import EntryBuffer
from streamtrain.store.manifest import MAX_BLOCK_ROWS, BagRun, Block
from streamtrain.store.schema import StoredColumns, StoredFeatures
from streamtrain.store.written_digests import HashingFile
from streamtrain.store.zarr_layout import (
    BagArray,
    ZarrArray,
    group_metadata,
    plan_arrays,
    shard_index,
)


class _OpenShard:
    """One Zarr shard of one array while it is written."""

    def __init__(self, array: ZarrArray, path: Path, name: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.array = array
        self.name = name
        self.file = HashingFile(path)
        self.blocks: list[Block] = []
        self.ends: list[int] = []
        self.runs: list[tuple[BagRun, ...]] = []

    def write(self, rows: npt.NDArray[Any], *, padding: int, codec: ChunkCodec | None) -> None:
        """Append a chunk: rows, and `padding` rows that no block holds."""
        self._write(len(rows), [rows.data], padding=padding, codec=codec)

    def write_bag(self, bag: EntryBuffer, *, padding: int, codec: ChunkCodec | None) -> None:
        """Append a chunk of a bag: the number of its rows comes first."""
        head = np.array([bag.n_rows + padding], "<u4")
        self._write(bag.n_rows, [head.data, bag.packed().data], padding=padding, codec=codec)
        self.runs.append((BagRun(bag.n_entries, self.blocks[-1].n_bytes),))

    def _write(
        self, n: int, data: Sequence[memoryview], *, padding: int, codec: ChunkCodec | None
    ) -> None:
        start = self.file.position
        self.file.block.reset()
        filling = bytes(padding * self.array.row_bytes)
        if codec is not None:
            # A chunk is one frame: what fills it up is in it, and under its digest.
            whole = b"".join([*data, filling])
            self.file.write(codec.compress(whole, self.array.item_bytes))
        else:
            for part in data:
                self.file.write(part)
        digest = self.file.block.hexdigest()
        self.blocks.append(Block(n, start, self.file.position - start, digest))
        if codec is None and padding:
            self.file.write(filling)
        self.ends.append(self.file.position)


class ZarrWriter(BlockWriter):
    """Write the rows of one split as the arrays of a Zarr group.

    Parameters
    ----------
    folder, split, stored, block_rows, on_block
        As in `BlockWriter`.
    compression : {None, "zstd", "blosc"}
        Of each chunk by itself.
    shard_bytes : int
        A Zarr shard has as many chunks as fit into this, over all arrays and
        before compression.
    bag_row_bytes : int
        About how many bytes the entries of a row take.

    Notes
    -----
    Zarr's chunks all have one size, so only the last block may be shorter; its
    chunk is padded with zeros. A split of one block has a chunk of its own size.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        stored: StoredColumns | StoredFeatures,
        *,
        block_rows: int,
        on_block: OnBlock | None = None,
        compression: Compression | None = None,
        shard_bytes: int = SHARD_BYTES,
        bag_row_bytes: int = 0,
    ) -> None:
        super().__init__(
            folder,
            split,
            stored,
            block_rows=block_rows,
            max_block_rows=MAX_BLOCK_ROWS,
            on_block=on_block,
        )
        self._arrays = plan_arrays(stored)
        row_bytes = sum(array.row_bytes for array in self._arrays) + bag_row_bytes
        self._shard_chunks = max(1, shard_bytes // (row_bytes * block_rows))
        self._compression = compression
        self._codec = chunk_codec(compression) if compression else None
        largest = block_rows * max(array.row_bytes for array in self._arrays)
        if compression == "blosc" and largest > MAX_BLOSC_BYTES:
            raise ConfigError(
                f"a chunk of {largest:,} bytes, Blosc holds at most {MAX_BLOSC_BYTES:,}",
                where="--block-rows",
                remedy="give fewer, or --compression zstd",
            )
        self._open: list[_OpenShard] = []
        self._n_rows = self._n_blocks = self._n_shards = 0
        self._ended = False

    def _write_block(self, values: npt.NDArray[Any], n: int, bags: Sequence[EntryBuffer]) -> None:
        if self._ended:
            raise StreamtrainError("only the last block of a Zarr array may be shorter")
        self._ended = n < self._block_rows
        if not self._open:
            self._open_shard()
        padding = self._block_rows - n if self._n_blocks else 0
        for shard in self._open:
            if isinstance(shard.array, BagArray):
                shard.write_bag(bags[shard.array.bag], padding=padding, codec=self._codec)
            else:
                shard.write(shard.array.pack(values), padding=padding, codec=self._codec)
        self._n_blocks += 1
        self._n_rows += n
        if len(self._open[0].blocks) == self._shard_chunks:
            self._end_shard()

    def _open_shard(self) -> None:
        for array in self._arrays:
            name = f"{self._split}.zarr/{array.chunk_key(self._n_shards)}"
            self._open.append(_OpenShard(array, self._folder / name, name))

    def _end_shard(self) -> None:
        if not self._open:
            return
        n_chunks = len(self._open[0].blocks)
        # The only shard of a split has room for what it holds.
        n_entries = self._shard_chunks if self._n_shards else n_chunks
        try:
            for shard in self._open:
                shard.file.write(shard_index(shard.ends, n_entries=n_entries))
        except OSError as error:
            raise durable.as_stream_error(error, self._folder / self._split) from error
        self._sync([shard.file for shard in self._open])
        self.shards += [
            shard_of(shard.name, shard.file, shard.blocks, array=shard.array.name, runs=shard.runs)
            for shard in self._open
        ]
        self._open = []
        self._n_shards += 1

    def _close_files(self) -> None:
        for shard in self._open:
            shard.file.close()

    def _write_metadata(self) -> None:
        group = f"{self._split}.zarr"
        for key, data in group_metadata(
            self._arrays,
            n_rows=self._n_rows,
            chunk_rows=self._block_rows if self._n_blocks > 1 else self._n_rows,
            shard_chunks=self._shard_chunks if self._n_shards > 1 else self._n_blocks,
            compression=self._compression,
        ).items():
            name = f"{group}/{key}"
            durable.write_directory_file(self._folder / name, data)
            self.files[name] = xxhash.xxh3_128_hexdigest(data)
