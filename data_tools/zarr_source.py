"""Zarr v2 and v3 as a source: whatever its chunks and codecs, some chunks of rows at a time."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xxhash

from data_tools.source import SourceEnd
from streamtrain.errors import SourceError, StreamtrainError

_MARKS = ("zarr.json", ".zarray", ".zgroup")
_ABSENT = 2**64 - 1
_TEXT_BYTES = 64
_CONCURRENCY = 10
"""Chunks that zarr-python decodes at a time unless it is told otherwise."""


def is_zarr(path: Path) -> bool:
    """Return whether a directory is an array or a group of Zarr."""
    return path.is_dir() and any((path / mark).is_file() for mark in _MARKS)


def open_zarr(path: Path, name: str) -> ZarrSource | ZarrGroup:
    """Open an array or a group of Zarr.

    Raises
    ------
    SourceError
        If it cannot be read, or a chunk of it is not there.
    """
    import zarr

    try:
        # Consolidated metadata may be of an earlier state: rows appended since would be lost.
        node = zarr.open(path, mode="r", use_consolidated=False)
    except Exception as error:  # whatever its metadata led to
        raise SourceError(f"not a Zarr array: {_told(error)}", where=name) from error
    return (
        ZarrGroup(node, path, name) if isinstance(node, zarr.Group) else _source(node, path, name)
    )


class ZarrGroup:
    """A group of Zarr.

    Parameters
    ----------
    node : zarr.Group
    path : Path
    name : str
    """

    is_file = False

    def __init__(self, node: Any, path: Path, name: str) -> None:
        self.name = name
        self._node = node
        self._path = path

    def _at(self, path: str) -> Any:
        if any(part in {"", ".", ".."} for part in path.split("/")):
            return None
        try:
            return self._node[path]
        except KeyError:
            return None
        except Exception as error:  # whatever its metadata led to
            raise SourceError(
                f"cannot be read: {_told(error)}", where=self._called(path)
            ) from error

    def _called(self, path: str) -> str:
        return f"{self.name}/{path}"

    def kind(self, path: str) -> Literal["array", "group", ""]:
        """Return what a path names, "" for nothing."""
        node = self._at(path)
        if node is None:
            return ""
        return "array" if hasattr(node, "chunks") else "group"

    def children(self, path: str = "") -> list[str]:
        """Return the names in a group."""
        node = self._at(path) if path else self._node
        try:
            return sorted(node)
        except Exception as error:  # whatever its metadata led to
            raise SourceError(f"cannot be read: {_told(error)}", where=self.name) from error

    def attributes(self, path: str = "") -> Mapping[str, Any]:
        """Return the attributes of an array or a group."""
        node = self._at(path) if path else self._node
        return {} if node is None else dict(node.attrs)

    def open(self, path: str) -> ZarrSource:
        """Open an array of the group."""
        return _source(self._at(path), self._path, self._called(path))


def _source(node: Any, path: Path, name: str) -> ZarrSource:
    try:
        return ZarrSource(node, path, name)
    except StreamtrainError:
        raise
    except Exception as error:  # whatever its metadata led to
        raise SourceError(f"not a Zarr array: {_told(error)}", where=name) from error


class ZarrSource:
    """An array of Zarr.

    Parameters
    ----------
    array : zarr.Array
    path : Path
        Of what was opened: the array, or a group above it.
    name : str

    Raises
    ------
    SourceError
        If it would be unpickled, or a chunk of it is not there: Zarr would give its
        fill value, and nobody could tell it from data.
    """

    def __init__(self, array: Any, path: Path, name: str) -> None:
        self.name = name
        self._digest = xxhash.xxh3_128()
        if any("pickle" in codec for codec in _codecs(array)):
            # numcodecs has such a codec, which runs whatever a chunk says.
            raise SourceError(
                "its chunks are pickled objects, which are never loaded",
                where=name,
                remedy="save it with numbers alone",
            )
        self.array: Any = array
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype: np.dtype[Any] = np.dtype(array.dtype)
        if _is_text(array):
            self.dtype = np.dtypes.StringDType()
        self.folder = path / array.path if array.path else path
        if self.shape:
            self.step: int = array.chunks[0]
            item = _TEXT_BYTES if self.dtype.kind == "T" else self.dtype.itemsize
            chunks_across = math.prod(
                math.ceil(n / c) for n, c in zip(self.shape[1:], array.chunks[1:], strict=True)
            )
            # Those beside each other are decoded at once.
            n_at_once = min(chunks_across, _CONCURRENCY)
            self.chunk_bytes: int = math.prod(array.chunks) * item * n_at_once
            self._before = self._files()

    def slabs(self, n_rows: int) -> Iterator[npt.NDArray[Any]]:
        """Yield consecutive rows."""
        self._digest.reset()
        for first in range(0, self.shape[0], n_rows):
            try:
                rows = np.ascontiguousarray(self.array[first : first + n_rows])
            except Exception as error:  # whatever a codec makes of damaged bytes
                raise SourceError(
                    f"rows {first} and on cannot be read: {_told(error)}", where=self.name
                ) from error
            if self.dtype.kind == "T":
                for text in rows.tolist():
                    self._digest.update(str(text).encode("utf-8", "backslashreplace") + b"\0")
            else:
                self._digest.update(rows.reshape(-1).view(np.uint8).data)
            yield rows

    def end(self) -> SourceEnd:
        """Return the bytes of its files, and the digest of its values."""
        now = self._files()
        if now != self._before:
            raise SourceError(
                "changed while it was being read",
                where=self.name,
                remedy="ingest again when nothing writes to it",
            )
        return SourceEnd(sum(size for size, _ in now.values()), self._digest.hexdigest())

    def _files(self) -> dict[str, tuple[int, int]]:
        """Return size and time of the file of every chunk, all of which must be there."""
        array = self.array
        grid = array.shards or array.chunks
        n_inner = math.prod(g // c for g, c in zip(grid, array.chunks, strict=True))
        counts = [math.ceil(n / g) for n, g in zip(self.shape, grid, strict=True)]
        index = shard_index_of(array)
        files = {}
        for place in itertools.product(*map(range, counts)):
            key = array.metadata.encode_chunk_key(place)
            path = self.folder / key
            try:
                status = path.stat()
            except OSError as error:
                raise self._missing(key) from error
            files[key] = (status.st_size, status.st_mtime_ns)
            if index is not None:
                self._check_inner(path, key, place, n_inner, index)
        return files

    def _check_inner(
        self, path: Path, key: str, place: tuple[int, ...], n_inner: int, index: tuple[bool, int]
    ) -> None:
        """Refuse a Zarr shard that lacks a chunk with rows."""
        entries = inner_chunks(path, n_inner, index)
        if entries is None:
            raise SourceError(f"the shard {key} is cut short", where=self.name)
        array = self.array
        inner = [g // c for g, c in zip(array.shards, array.chunks, strict=True)]
        for number in np.flatnonzero((entries == _ABSENT).all(axis=1)).tolist():
            within = np.unravel_index(number, inner)
            first = [
                p * g + int(w) * c
                for p, g, w, c in zip(place, array.shards, within, array.chunks, strict=True)
            ]
            if all(f < n for f, n in zip(first, self.shape, strict=True)):
                raise self._missing(f"{number} of {key}")

    def _missing(self, key: str) -> SourceError:
        return SourceError(
            f"the chunk {key} is missing, which reads as the fill value",
            where=self.name,
            remedy="restore it, or write the array with write_empty_chunks",
        )


def _codecs(array: Any) -> list[str]:
    """Return the names of every codec and filter of an array, in either version of Zarr."""
    told = array.metadata.to_dict()
    found = [*(told.get("filters") or ()), told.get("compressor"), *(told.get("codecs") or ())]
    return [str(c.get("id", c.get("name", ""))) if isinstance(c, dict) else str(c) for c in found]


def _is_text(array: Any) -> bool:
    kind = np.dtype(array.dtype).kind
    return kind in "TUS" or (kind == "O" and "vlen-utf8" in _codecs(array))


def shard_index_of(array: Any) -> tuple[bool, int] | None:
    """Return whether the index of a Zarr shard is at its end, and the bytes of its checksum."""
    if array.shards is None:
        return None
    codec = json.loads(json.dumps(array.metadata.to_dict()["codecs"], default=str))[0]
    options = codec["configuration"]
    names = [c["name"] for c in options["index_codecs"]]
    return options.get("index_location", "end") == "end", 4 * ("crc32c" in names)


def inner_chunks(
    path: Path, n_inner: int, index: tuple[bool, int]
) -> npt.NDArray[np.uint64] | None:
    """Return offset and bytes of each chunk of a Zarr shard, (n, 2); None if it is cut short.

    Parameters
    ----------
    path : Path
    n_inner : int
    index : (bool, int)
        As `shard_index_of` gives it.
    """
    at_end, tail = index
    n_bytes = 16 * n_inner + tail
    with path.open("rb") as file:
        if at_end:
            file.seek(max(path.stat().st_size - n_bytes, 0))
        data = file.read(16 * n_inner)
    if len(data) < 16 * n_inner:
        return None
    return np.frombuffer(data, "<u8").reshape(-1, 2)


def _told(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
