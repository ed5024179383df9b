"""Blocks of Zarr arrays that were adopted: chunks of any codec, decoded from checked bytes.

A block is the rows of one chunk of `features` along the first axis. Its parts are
the chunks that hold them, over the other axes in C order, then those of `target`:

    features  | c/0/0/0 | c/0/1/0 |        target | c/0 (rows 0 to 999) |
    (n, h, w) | c/1/0/0 | c/1/1/0 |               | c/1                 |
               block 1: c/1/0/0, c/1/1/0 of features, and what of target has its rows

A target of other chunks than the features is decoded for each block anew; a block
that needs fewer chunks of it than others names the last one again.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streamtrain.errors import CorruptShardError, ManifestError
from streamtrain.kernels.bags import Bags
from streamtrain.kernels.scatter import scatter_bytes
from streamtrain.store.adopted_manifest import Adopted, AdoptedArray
from streamtrain.store.chunk_codecs import chunk_codec
from streamtrain.store.manifest import Manifest, StoredBlock
from streamtrain.store.schema import StoredFeatures

Bytes = npt.NDArray[np.uint8]
_REMEDY = "restore the file, or adopt the files again"


def grid_of(shape: Sequence[int], chunk: Sequence[int]) -> tuple[int, ...]:
    """Return how many chunks a row of features spans along each of its axes."""
    return tuple(-(-n // c) for n, c in zip(shape, chunk[1:], strict=True))


def part_names(shape: Sequence[int], chunk: Sequence[int], n_targets: int) -> tuple[str, ...]:
    """Return the names of a block's parts, in order."""
    places = np.ndindex(*grid_of(shape, chunk))
    features = tuple("/".join(["features", *map(str, place)]) for place in places)
    return (*features, *(f"target/{k}" for k in range(n_targets)))


class ChunkDecoder:
    """Decodes the chunks of one array.

    Parameters
    ----------
    array : AdoptedArray

    Notes
    -----
    Any number of threads may use one.
    """

    def __init__(self, array: AdoptedArray) -> None:
        self._array = array
        self._dtype = np.dtype(array.dtype)
        self._n_bytes = math.prod(array.chunk) * self._dtype.itemsize
        self._local = threading.local()
        if array.codec == "zarr":
            self._zarr()  # its memory is there before any is planned

    def decode(self, data: Bytes) -> npt.NDArray[Any]:
        """Return the values of a chunk, in its shape; a .npy's rows, as many as there are.

        Raises
        ------
        Exception
            Whatever a codec makes of bytes that are no chunk.
        """
        array = self._array
        if array.chunk == (0,):
            return data.view(self._dtype)
        if array.codec == "plain":
            return data.view(self._dtype).reshape(array.chunk)
        if array.codec == "zstd":
            codec = getattr(self._local, "codec", None) or chunk_codec("zstd")
            self._local.codec = codec
            # Its size is that of a chunk, whatever the frame says.
            return codec.decompress(data, self._n_bytes).view(self._dtype).reshape(array.chunk)
        files, opened, key, wrap = self._zarr()
        files[key] = wrap(data.tobytes())
        try:
            return np.asarray(opened[...])
        finally:
            del files[key]

    def _zarr(self) -> tuple[dict[str, Any], Any, str, Any]:
        """Return the files of this thread's array of one chunk, the array, and the chunk's name."""
        kept = getattr(self._local, "zarr", None)
        if kept is None:
            import zarr
            from zarr.core.buffer import cpu
            from zarr.storage import MemoryStore

            wrap = cpu.Buffer.from_bytes
            text = self._array.metadata
            name = "zarr.json" if '"node_type"' in text else ".zarray"
            files: dict[str, Any] = {name: wrap(text.encode())}
            opened = zarr.open_array(MemoryStore(store_dict=files), mode="r")
            key = opened.metadata.encode_chunk_key((0,) * opened.ndim)
            if opened.shape != self._array.chunk or opened.chunks != opened.shape:
                raise ValueError("the metadata is that of another chunk")
            kept = self._local.zarr = (files, opened, key, wrap)
        return kept


class AdoptedRows:
    """Rows of features and targets, from the chunks of a block.

    Parameters
    ----------
    adopted : Adopted
    stored : StoredFeatures
    """

    def __init__(self, adopted: Adopted, stored: StoredFeatures) -> None:
        self._features = ChunkDecoder(adopted.arrays["features"])
        self._target = ChunkDecoder(adopted.arrays["target"])
        self._chunk = adopted.arrays["features"].chunk
        self._target_rows = adopted.arrays["target"].chunk[0]
        self._stored = stored
        grid = grid_of(stored.shape, self._chunk)
        self._places = [
            tuple(
                slice(p * c, min((p + 1) * c, n))
                for p, c, n in zip(place, self._chunk[1:], stored.shape, strict=True)
            )
            for place in np.ndindex(*grid)
        ]

    def decode(
        self, chunks: Sequence[Bytes], first_row: int, n_rows: int
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return rows (n, *shape) and targets (n,), each in the type that their array has.

        Raises
        ------
        Exception
            Whatever a codec makes of bytes that are no chunk.
        """
        n_pieces = len(self._places)
        rows: npt.NDArray[Any] | None = None
        for place, data in zip(self._places, chunks[:n_pieces], strict=True):
            values = self._features.decode(data)
            if n_pieces == 1:
                within = tuple(slice(0, n) for n in self._stored.shape)
                rows = values[(slice(0, n_rows), *within)]
                break
            if rows is None:
                rows = np.empty((n_rows, *self._stored.shape), values.dtype)
            within = tuple(slice(0, s.stop - s.start) for s in place)
            rows[(slice(None), *place)] = values[(slice(0, n_rows), *within)]
        assert rows is not None
        return rows, self._targets(chunks[n_pieces:], first_row, n_rows)

    def _targets(self, chunks: Sequence[Bytes], first_row: int, n_rows: int) -> npt.NDArray[Any]:
        size = self._target_rows
        if size == 0:
            return self._target.decode(chunks[0])[:n_rows]
        first, last = first_row // size, (first_row + n_rows - 1) // size
        found = np.concatenate([self._target.decode(c) for c in chunks[: last - first + 1]])
        return found[first_row - first * size :][:n_rows]


class AdoptedZarr:
    """Chunks along the first axis of somebody's arrays.

    Parameters
    ----------
    manifest : Manifest
    adopted : Adopted
    root : str

    Raises
    ------
    ManifestError
        If the manifest does not say how they are decoded.
    """

    shared_bytes = 0

    def __init__(self, manifest: Manifest, adopted: Adopted, root: str) -> None:
        array = manifest.schema.stored_array
        if (
            array is None
            or array.weighted
            or adopted.arrays.keys() != {"features", "target"}
            or len(adopted.arrays["features"].chunk) != 1 + len(array.shape)
        ):
            raise ManifestError("holds no arrays that were adopted", where=root)
        self._root = root
        self._stored = array
        self.scratch_bytes = adopted.decode_bytes
        try:
            self._rows = AdoptedRows(adopted, array)
        except Exception as error:  # whatever zarr makes of hostile metadata
            raise ManifestError(
                "its arrays cannot be decoded", where=root, remedy="adopt them again"
            ) from error
        n_targets = len(
            {s.array for s in manifest.splits["train"] if s.array.startswith("target/")}
        )
        self.arrays = part_names(array.shape, adopted.arrays["features"].chunk, n_targets)
        self._first_rows: Mapping[tuple[str, int], int] = self._positions(manifest, adopted)

    def _positions(self, manifest: Manifest, adopted: Adopted) -> dict[tuple[str, int], int]:
        """Return the first row of each block, by its first part."""
        found = {}
        for split in manifest.splits:
            blocks = manifest.blocks(split)
            rows = adopted.first_rows.get(split, ())
            if len(rows) != len(blocks) or (rows and min(rows) < 0):
                raise ManifestError(f"{split} has blocks without places", where=self._root)
            for (_, block), row in zip(blocks, rows, strict=True):
                part = block.parts[0]
                found[part.shard.name, part.number] = row
        return found

    def check(self, block: StoredBlock) -> None:
        """Refuse nothing: what the chunks decode to shows as they do."""

    def scatter(
        self,
        block: StoredBlock,
        chunks: Sequence[Bytes],
        places: npt.NDArray[np.int32],
        *,
        numeric: npt.NDArray[Any],
        codes: npt.NDArray[np.int32],
        target: npt.NDArray[np.float32],
        weight: npt.NDArray[np.float32],
        exposure: npt.NDArray[np.float32],
        bags: Bags,
        entries_at: int,
    ) -> int:
        """Decode the chunks and copy rows."""
        del codes, weight, exposure, bags, entries_at  # what was adopted has none
        part = block.parts[0]
        n, width = block.n_rows, self._stored.feature_bytes
        try:
            first = self._first_rows[part.shard.name, part.number]
            rows, targets = self._rows.decode(chunks, first, n)
            stored = narrowed(rows, self._stored).view(np.uint8).reshape(n, width)
            values = np.ascontiguousarray(targets, np.float32).reshape(n)
        except Exception as error:
            told = (str(error).splitlines() or [""])[0][:200]
            raise CorruptShardError(
                f"cannot be decoded: {told}",
                where=f"{self._root}/{part.shard.name}, block {part.number}",
                remedy=_REMEDY,
            ) from error
        features = numeric.view(np.uint8).reshape(len(numeric), width)
        scatter_bytes(stored, values.reshape(n, 1), places, features, target.reshape(-1, 1))
        return -1


def narrowed(rows: npt.NDArray[Any], stored: StoredFeatures) -> npt.NDArray[Any]:
    """Return rows in the type that the reader keeps them in, (n, D) in C order."""
    with np.errstate(over="ignore"):  # infinite then; ingest rejects it, and adopt refuses
        return np.ascontiguousarray(rows.reshape(len(rows), -1), stored.dtype)
