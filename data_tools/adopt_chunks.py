"""Where the chunks of a Zarr array lie, and how one of them is decoded."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_tools.array_source import ArraySource
from data_tools.zarr_source import ZarrSource, inner_chunks, shard_index_of
from streamtrain.errors import SourceError
from streamtrain.store.adopted_manifest import AdoptedArray

_MARKS = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")


@dataclass(frozen=True)
class Located:
    """A range of a file: the `number`-th chunk of it.

    Parameters
    ----------
    path : Path
    number : int
    offset, n_bytes : int
    """

    path: Path
    number: int
    offset: int
    n_bytes: int


class ZarrChunks:
    """The chunks of an array, each by its place in the grid.

    Parameters
    ----------
    source : ZarrSource
        Whose chunks are all there.
    """

    def __init__(self, source: ZarrSource) -> None:
        self._array: Any = source.array
        self._folder = source.folder
        self._name = source.name
        self._index = shard_index_of(source.array)
        self._shards: dict[Path, npt.NDArray[np.uint64]] = {}
        self.chunk: tuple[int, ...] = tuple(source.array.chunks)

    def find(self, place: tuple[int, ...]) -> Located:
        """Return where a chunk lies.

        Raises
        ------
        SourceError
            If it is not there.
        """
        array = self._array
        if self._index is None:
            path = self._folder / array.metadata.encode_chunk_key(place)
            return Located(path, 0, 0, path.stat().st_size)
        inner = [s // c for s, c in zip(array.shards, array.chunks, strict=True)]
        shard = tuple(p // n for p, n in zip(place, inner, strict=True))
        path = self._folder / array.metadata.encode_chunk_key(shard)
        if path not in self._shards:
            self._shards.clear()  # blocks go from shard to shard
            entries = inner_chunks(path, math.prod(inner), self._index)
            if entries is None:
                raise SourceError("cut short", where=str(path))
            self._shards[path] = entries
        number = int(
            np.ravel_multi_index([p % n for p, n in zip(place, inner, strict=True)], inner)
        )
        offset, n_bytes = map(int, self._shards[path][number])
        if offset + n_bytes > path.stat().st_size:
            raise SourceError(f"its chunk {number} does not lie in it", where=str(path))
        return Located(path, number, offset, n_bytes)

    def described(self) -> AdoptedArray:
        """Return how a chunk is decoded: what its metadata says, of an array of one chunk."""
        chunk = list(self.chunk)
        dtype = np.dtype(self._array.dtype)
        if (self._folder / "zarr.json").is_file():
            told: Any = json.loads((self._folder / "zarr.json").read_bytes())
            codecs = told["codecs"]
            if self._index is not None:
                codecs = codecs[0]["configuration"]["codecs"]
            told |= {
                "shape": chunk,
                "codecs": codecs,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
                "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
                "attributes": {},
            }
            told.pop("dimension_names", None)
            names = [codec["name"] for codec in codecs]
            endian = (codecs[0].get("configuration") or {}).get("endian", "little")
            dtype = dtype.newbyteorder(">" if endian == "big" else "<")
            kind = {("bytes",): "plain", ("bytes", "zstd"): "zstd"}.get(tuple(names), "zarr")
        else:
            told = json.loads((self._folder / ".zarray").read_bytes())
            told |= {"shape": chunk, "chunks": chunk}
            dtype = np.dtype(told["dtype"])
            kind = "zarr"
            if told["order"] == "C" and not told.get("filters"):
                compressor = told["compressor"]
                kind = {None: "plain", "zstd": "zstd"}.get(compressor and compressor["id"], kind)
        text = json.dumps(told) if kind == "zarr" else ""
        return AdoptedArray(self.chunk, dtype.str, kind, text)  # type: ignore[arg-type]


class NpyRows:
    """The rows of a .npy of targets: any range of them is a part.

    Parameters
    ----------
    path : Path
    source : ArraySource
        One-dimensional, and of the size that its header says.
    """

    chunk = (0,)

    def __init__(self, path: Path, source: ArraySource) -> None:
        self._path = path
        self._dtype = source.dtype
        self._first = path.stat().st_size - source.shape[0] * source.dtype.itemsize

    def find_rows(self, first: int, n_rows: int, number: int) -> Located:
        """Return where rows lie, as the `number`-th block of the file."""
        size = self._dtype.itemsize
        return Located(self._path, number, self._first + first * size, n_rows * size)

    def described(self) -> AdoptedArray:
        """Return how rows are decoded."""
        return AdoptedArray((0,), self._dtype.str, "plain", "")


def metadata_files(folder: Path, array: Path) -> list[Path]:
    """Return the files of metadata of an array and of the groups around it, in a directory."""
    found = []
    while True:
        found += [array / mark for mark in _MARKS if (array / mark).is_file()]
        if array in {folder, array.parent}:
            return found
        array = array.parent
