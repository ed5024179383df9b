"""The formats of shards behind one interface: what a block's bytes are, and its writer.

A block reaches the reader as one checked run of bytes for each of its parts. A
format says whether those bytes can be the block's rows, and scatters them.
Another format is one class here and one row in each table.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from streamtrain.errors import CorruptShardError, ManifestError
from streamtrain.kernels.bags import Bags, scatter_entries
from streamtrain.kernels.scatter import scatter_block, scatter_bytes, scatter_rows, tile_rows
from streamtrain.store.adopted import AdoptedParquet
from streamtrain.store.adopted_zarr import AdoptedZarr
from streamtrain.store.block_writer import BlockWriter, OnBlock
from streamtrain.store.chunk_codecs import Compression, chunk_codec
from streamtrain.store.manifest import MAX_BLOCK_ROWS as MAX_ZARR_ROWS
from streamtrain.store.manifest import BagRun, Manifest, StoredBlock
from streamtrain.store.schema import Schema, StoredColumns
from streamtrain.store.shards import MAX_BLOCK_ROWS as MAX_PARQUET_ROWS
from streamtrain.store.shards import ShardWriter
from streamtrain.store.zarr_layout import BagArray, ZarrArray, bag_chunk_bytes, plan_arrays
from streamtrain.store.zarr_shards import ZarrWriter

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]
_MAX_HEADER_BYTES = 4096


class BlockFormat(Protocol):
    """How the rows of a block lie in its bytes; any number of threads may use one."""

    @property
    def scratch_bytes(self) -> int:
        """Memory of a reading thread beside the bytes of a block."""
        ...

    @property
    def shared_bytes(self) -> int:
        """Memory that all reading threads share."""
        ...

    def check(self, block: StoredBlock) -> None:
        """Refuse a block whose bytes cannot be its rows.

        Raises
        ------
        CorruptShardError
            So that nothing is read beyond what is there.
        """
        ...

    def scatter(
        self,
        block: StoredBlock,
        chunks: Sequence[Bytes],
        places: Codes,
        *,
        numeric: npt.NDArray[Any],
        codes: Codes,
        target: Floats,
        weight: Floats,
        exposure: Floats,
        bags: Bags,
        entries_at: int,
    ) -> int:
        """Put every row of a block in its place of the window.

        Parameters
        ----------
        block : StoredBlock
            Checked.
        chunks : sequence of (n_bytes,) uint8
            The bytes of each part, which match their digests.
        places : (n,) int32
        numeric : (n, D)
            float32, or the type of an array's features.
        codes, target, weight, exposure
            The rest of the window, as in `kernels.scatter`.
        bags : Bags of n rows
        entries_at : int
            Where the first entry of the block goes; those of all its bags follow.

        Returns
        -------
        int
            A stored column, bags last, with a code out of range, or -1.
        """
        ...


class ParquetBlocks:
    """Runs of one length, one for each column, which end in its values."""

    shared_bytes = 0

    def __init__(self, schema: Schema, root: str) -> None:
        self._root = root
        row_bytes = 4 * (len(schema.numeric) + len(schema.categorical))
        self.scratch_bytes = row_bytes * tile_rows(row_bytes)
        self._n_columns = len(schema.value_names)
        self._cardinality = np.array(schema.stored.cardinalities, np.int32)
        self._bag_sizes = schema.stored.bag_sizes
        self._longest = tuple(c.bag.longest for c in schema.bags)

    def check(self, block: StoredBlock) -> None:
        """Refuse what is no such run for each column."""
        n_bytes = block.parts[0].block.n_bytes
        for run in block.runs:
            n_bytes -= run.n_bytes
            if not 0 <= run.n_bytes - _payload(block, run) <= _MAX_HEADER_BYTES:
                raise _unfit(self._root, block, 0, f"{run.n_entries} entries")
        stride, rest = divmod(n_bytes, self._n_columns)
        if rest or not 0 <= stride - 4 * block.n_rows <= _MAX_HEADER_BYTES:
            raise _unfit(self._root, block, 0, f"{self._n_columns} columns")

    def scatter(
        self,
        block: StoredBlock,
        chunks: Sequence[Bytes],
        places: Codes,
        *,
        numeric: npt.NDArray[Any],
        codes: Codes,
        target: Floats,
        weight: Floats,
        exposure: Floats,
        bags: Bags,
        entries_at: int,
    ) -> int:
        """Scatter column by column, in tiles of rows."""
        (chunk,) = chunks
        at = len(chunk) - sum(run.n_bytes for run in block.runs)
        stride = at // self._n_columns
        cardinality = self._cardinality
        payloads = []
        for run in block.runs:
            payloads.append(chunk[at + run.n_bytes - _payload(block, run) : at + run.n_bytes])
            at += run.n_bytes
        bad = scatter_bags(
            block, payloads, self._bag_sizes, self._longest, places, bags, entries_at
        )
        if bad >= 0:
            return self._n_columns + bad
        return int(
            scatter_block(
                chunk,
                block.n_rows,
                stride,
                places,
                numeric,
                codes,
                target,
                weight,
                exposure,
                cardinality,
            )
        )


class ZarrBlocks:
    """A chunk of each array, row-major, plain or as one frame of zstd or Blosc."""

    shared_bytes = 0

    def __init__(self, manifest: Manifest, root: str) -> None:
        self._root = root
        schema = manifest.schema
        self.arrays = plan_arrays(schema.stored_array or schema.stored)
        self._is_table = schema.array is None
        self._at = {array.name: i for i, array in enumerate(self.arrays)}
        self._cardinality = np.array(schema.stored.cardinalities, np.int32)
        self._bag_sizes = schema.stored.bag_sizes
        self._longest = tuple(c.bag.longest for c in schema.bags)
        self._n_columns = len(schema.value_names)
        self._first_code = len(schema.numeric)
        self._compression: Compression | None = None
        if not isinstance(manifest.compression, msgspec.UnsetType):
            self._compression = manifest.compression
        # All chunks of a split have the rows of its first block, the last one filled up.
        self._chunk_rows = {
            shard.name: shards[0].blocks[0].n_rows
            for shards in manifest.splits.values()
            for shard in shards
            if shards[0].blocks
        }
        self._local = threading.local()
        runs = [run for shards in manifest.splits.values() for s in shards for run in s.runs]
        self._most_entries = max((sum(r.n_entries for r in each) for each in runs), default=0)

    @property
    def scratch_bytes(self) -> int:
        """What a reading thread decodes into, beside the bytes of a block."""
        if self._compression is None:
            return 0
        row_bytes = sum(array.row_bytes for array in self.arrays)
        decoded = max(self._chunk_rows.values(), default=0) * row_bytes
        decoded += len(self._bag_sizes) * (4 + 8 * self._most_entries)
        return decoded + chunk_codec(self._compression).scratch_bytes()

    def check(self, block: StoredBlock) -> None:
        """Refuse a chunk whose bytes are not rows x width."""
        if self._compression is not None:
            if block.n_rows > self._chunk_rows[block.parts[0].shard.name]:
                raise _unfit(self._root, block, 0, "a chunk of fewer")
            return
        for i, (part, array) in enumerate(zip(block.parts, self.arrays, strict=True)):
            if part.block.n_bytes != self._plain_bytes(array, block, i, block.n_rows):
                raise _unfit(self._root, block, i, f"{array.row_bytes} bytes")

    def scatter(
        self,
        block: StoredBlock,
        chunks: Sequence[Bytes],
        places: Codes,
        *,
        numeric: npt.NDArray[Any],
        codes: Codes,
        target: Floats,
        weight: Floats,
        exposure: Floats,
        bags: Bags,
        entries_at: int,
    ) -> int:
        """Copy rows."""
        if self._compression is not None:
            chunks = [
                self._decoded(block, i, chunk, self._compression) for i, chunk in enumerate(chunks)
            ]
        if not self._is_table:
            n, width = block.n_rows, self.arrays[0].row_bytes
            features = numeric.view(np.uint8).reshape(len(numeric), width)
            rows_of = chunks[0].reshape(n, width)
            target_rows = chunks[1].view(np.float32).reshape(n, -1)
            targets = target.reshape(len(target), -1)
            scatter_bytes(rows_of, target_rows, places, features, targets)
            if len(weight):
                # Rows of four bytes; the targets get the same values once more.
                weight_rows, weights = chunks[2].reshape(n, 4), weight.view(np.uint8)
                scatter_bytes(weight_rows, target_rows, places, weights.reshape(-1, 4), targets)
            return -1

        def rows(name: str, *tail: int) -> npt.NDArray[Any]:
            at = self._at.get(name)
            if at is None:
                return np.empty((block.n_rows, *tail) if tail else 0, np.float32)
            array = self.arrays[at]
            return chunks[at].view(array.dtype).reshape(block.n_rows, *array.tail)

        found: npt.NDArray[Any] = np.empty((block.n_rows, 0), np.uint8)
        if "codes" in self._at:
            found = rows("codes", 0)
        n_beyond = scatter_rows(
            rows("numeric", 0),
            found,
            rows("target"),
            rows("weight"),
            rows("exposure"),
            self._cardinality,
            places,
            numeric,
            codes,
            target,
            weight,
            exposure,
        )
        payloads = [
            # Behind the number of rows.
            chunk[4:]
            for chunk, array in zip(chunks, self.arrays, strict=True)
            if isinstance(array, BagArray)
        ]
        bad = scatter_bags(
            block, payloads, self._bag_sizes, self._longest, places, bags, entries_at
        )
        if bad >= 0:
            return self._n_columns + bad
        if n_beyond == 0:
            return -1
        beyond = (found < 0) | (found >= self._cardinality)
        return self._first_code + int(beyond.any(axis=0).argmax())

    def _decoded(self, block: StoredBlock, i: int, chunk: Bytes, compression: Compression) -> Bytes:
        """Return the rows of a chunk; its size is what the manifest says, never the frame."""
        codec = getattr(self._local, "codec", None)
        if codec is None:
            codec = self._local.codec = chunk_codec(compression)
        part, array = block.parts[i], self.arrays[i]
        n_bytes = self._plain_bytes(array, block, i, self._chunk_rows[part.shard.name])
        try:
            data: Bytes = codec.decompress(chunk, n_bytes)
        except (OSError, ValueError, RuntimeError) as error:
            raise CorruptShardError(
                f"cannot be decoded to {n_bytes} bytes: {error}",
                where=f"{self._root}/{part.shard.name}, block {part.number}",
            ) from error
        return data[: self._plain_bytes(array, block, i, block.n_rows)]

    @staticmethod
    def _plain_bytes(array: ZarrArray, block: StoredBlock, i: int, n_rows: int) -> int:
        """Return the bytes that `n_rows` rows of a block's chunk take without a codec."""
        if isinstance(array, BagArray):
            part = block.parts[i]
            return bag_chunk_bytes(n_rows, part.shard.runs[part.number][0].n_entries)
        return n_rows * array.row_bytes


def scatter_bags(
    block: StoredBlock,
    payloads: Sequence[Bytes],
    sizes: Sequence[int],
    longest: Sequence[int],
    places: Codes,
    bags: Bags,
    at: int,
) -> int:
    """Copy the entries of a block's bags; return a bag whose entries make no sense, or -1."""
    for v, (run, payload) in enumerate(zip(block.runs, payloads, strict=True)):
        found = scatter_entries(
            payload, block.n_rows, places, v, at, sizes[v], longest[v], bags.ranges, bags.codes,
            bags.values,
        )  # fmt: skip
        if found != run.n_entries:
            return v
        at += run.n_entries
    return -1


def _payload(block: StoredBlock, run: BagRun) -> int:
    return 4 * block.n_rows + 8 * run.n_entries


def _unfit(root: str, block: StoredBlock, part: int, width: str) -> CorruptShardError:
    where = block.parts[part]
    return CorruptShardError(
        f"{where.block.n_bytes} bytes cannot hold {block.n_rows} rows of {width}",
        where=f"{root}/{where.shard.name}, block {where.number}",
    )


def block_format(manifest: Manifest, *, where: str) -> BlockFormat:
    """Return the format of a dataset's blocks.

    Raises
    ------
    ManifestError
        If it is unknown, or the shards are not those of the format.
    """
    expected: tuple[str, ...] = ("",)
    found: BlockFormat
    if not isinstance(manifest.adopted, msgspec.UnsetType):
        if manifest.schema.array is not None:
            adopted = AdoptedZarr(manifest, manifest.adopted, where)
            found, expected = adopted, adopted.arrays
        else:
            found = AdoptedParquet(manifest.schema, manifest.adopted, where)
    elif manifest.format == "parquet" and isinstance(manifest.compression, msgspec.UnsetType):
        found = ParquetBlocks(manifest.schema, where)
    elif manifest.format == "zarr":
        chunks = ZarrBlocks(manifest, where)
        found, expected = chunks, tuple(array.name for array in chunks.arrays)
    else:
        raise ManifestError(
            f"the format {manifest.format!r} is unknown", where=where, remedy="upgrade streamtrain"
        )
    for split, shards in manifest.splits.items():
        arrays = tuple(dict.fromkeys(shard.array for shard in shards))
        if shards and arrays != expected:
            raise ManifestError(
                f"{split} has the arrays {', '.join(map(repr, arrays))}, "
                f"expected {', '.join(map(repr, expected))}",
                where=where,
                remedy="ingest again",
            )
    return found


MAX_BLOCK_ROWS = {"parquet": MAX_PARQUET_ROWS, "zarr": MAX_ZARR_ROWS}
"""Most rows of a block in each format."""


def open_writer(
    file_format: str,
    folder: Path,
    split: str,
    columns: StoredColumns,
    *,
    block_rows: int,
    on_block: OnBlock | None = None,
    compression: Compression | None = None,
    bag_row_bytes: int = 0,
) -> BlockWriter:
    """Return the writer of a split in one of the formats of `MAX_BLOCK_ROWS`.

    `bag_row_bytes` is about what the entries of a row take.
    """
    if file_format == "zarr":
        return ZarrWriter(
            folder,
            split,
            columns,
            block_rows=block_rows,
            on_block=on_block,
            compression=compression,
            bag_row_bytes=bag_row_bytes,
        )
    return ShardWriter(folder, split, columns, block_rows=block_rows, on_block=on_block)
