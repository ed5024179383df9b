"""HDF5 as a source: any chunking and filter, some rows at a time, nothing out of the file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from data_tools.source import SourceEnd
from data_tools.stored_file import READ_ERRORS, StoredFile, as_source_error
from streamtrain.errors import ConfigError, SourceError

H5_MAGIC = b"\x89HDF\r\n\x1a\n"
_MAX_LINKS = 16
_TEXT_BYTES = 64
_BAD = (*READ_ERRORS, RuntimeError, TypeError)


class H5Group:
    """A file of HDF5.

    Parameters
    ----------
    path : Path
    name : str

    Raises
    ------
    ConfigError
        If h5py is not installed.
    SourceError
        If it is no such file, or cut short.
    """

    is_file = True

    def __init__(self, path: Path, name: str) -> None:
        try:
            import h5py
        except ImportError as error:
            raise ConfigError(
                "h5py is not installed, which reads HDF5",
                where=name,
                remedy="pip install 'streamtrain[hdf5]'",
            ) from error
        self.name = name
        self.stored = StoredFile(path, name)
        self._h5 = h5py
        try:
            # What is read once needs no cache of chunks but the one being read.
            self._file = h5py.File(path, "r", rdcc_nbytes=0)
        except _BAD as error:
            raise as_source_error(_plain(error), name, "not an HDF5 file, or cut short") from error

    def _at(self, path: str, depth: int = 0) -> Any:
        """Return what a path names, None for nothing: every link on the way is looked at."""
        node: Any = self._file
        parts = [part for part in path.split("/") if part]
        for i, part in enumerate(parts):
            if part in {".", ".."} or not isinstance(node, self._h5.Group):
                return None
            try:
                link = node.get(part, getlink=True)
                if isinstance(link, self._h5.ExternalLink):
                    raise SourceError(
                        f"{'/'.join(parts[: i + 1])} is a link to another file",
                        where=self.name,
                        remedy="name that file",
                    )
                if isinstance(link, self._h5.SoftLink):
                    base = "" if link.path.startswith("/") else node.name
                    node = (
                        self._at(f"{base}/{link.path}", depth + 1) if depth < _MAX_LINKS else None
                    )
                else:
                    node = node[part] if link is not None else None
            except _BAD as error:
                raise as_source_error(_plain(error), self._called(path)) from error
            if node is None:
                return None
        return node

    def _called(self, path: str) -> str:
        return f"{self.name}:{path}"

    def kind(self, path: str) -> Literal["array", "group", ""]:
        """Return what a path names, "" for nothing."""
        node = self._at(path)
        if isinstance(node, self._h5.Dataset):
            return "array"
        return "group" if isinstance(node, self._h5.Group) else ""

    def children(self, path: str = "") -> list[str]:
        """Return the names in a group."""
        return sorted(self._at(path))

    def attributes(self, path: str = "") -> Mapping[str, Any]:
        """Return the attributes that are texts and numbers."""
        found: dict[str, Any] = {}
        node = self._at(path)
        try:
            for key in node.attrs if node is not None else ():
                value = node.attrs[key]
                if isinstance(value, (str, int, float, np.generic)):
                    found[key] = value
        except _BAD as error:
            raise as_source_error(_plain(error), self._called(path)) from error
        return found

    def open(self, path: str) -> H5Source:
        """Open a dataset of HDF5."""
        try:
            return H5Source(self, self._at(path), self._called(path), self._h5)
        except _BAD as error:
            raise as_source_error(_plain(error), self._called(path)) from error


class H5Source:
    """A dataset of HDF5, in whatever chunks.

    Parameters
    ----------
    group : H5Group
    node : h5py.Dataset
    name : str
    h5 : module

    Raises
    ------
    SourceError
        If its values lie in other files, or some were never written: HDF5 would
        give its fill value, and nobody could tell it from data.
    """

    def __init__(self, group: H5Group, node: Any, name: str, h5: Any) -> None:
        self.name = name
        self._stored = group.stored
        self._node = node
        self.shape: tuple[int, ...] = tuple(node.shape or ())
        self._is_text = h5.check_string_dtype(node.dtype) is not None
        self.dtype: np.dtype[Any] = (
            np.dtypes.StringDType() if self._is_text else np.dtype(node.dtype)
        )
        if node.external or node.is_virtual:
            raise SourceError(
                "its values lie in other files", where=name, remedy="copy them into one"
            )
        item = _TEXT_BYTES if self._is_text else self.dtype.itemsize
        self.step = 1
        self.chunk_bytes = 1 << 20
        if node.chunks is not None:
            self.step = node.chunks[0]
            # A chunk as stored and as decoded, and a filter's own.
            self.chunk_bytes = math.prod(node.chunks) * item + (1 << 20)
            if self.shape and 0 not in self.shape:
                self._check_chunks()
        elif (
            self.shape
            and 0 not in self.shape
            and node.id.get_offset() is None
            # A compact one has no offset either, but its bytes are in the header.
            and node.id.get_create_plist().get_layout() != h5.h5d.COMPACT
        ):
            raise self._missing("its values were never written")

    def _check_chunks(self) -> None:
        chunks = self._node.chunks
        expected = math.prod(math.ceil(n / c) for n, c in zip(self.shape, chunks, strict=True))
        found = self._node.id.get_num_chunks()
        if found < expected:
            raise self._missing(f"{expected - found} of {expected} chunks are missing")

    def _missing(self, what: str) -> SourceError:
        return SourceError(
            f"{what}, which reads as the fill value", where=self.name, remedy="write all of it"
        )

    def slabs(self, n_rows: int) -> Iterator[npt.NDArray[Any]]:
        """Yield consecutive rows."""
        total = self.shape[0]
        source = self._node.asstr() if self._is_text else self._node
        try:
            with self._stored.digest() as digest:
                for first in range(0, total, n_rows):
                    rows = np.asarray(source[first : first + n_rows])
                    digest.advance(self._stored.n_bytes * min(first + n_rows, total) // total)
                    yield rows
                self._end = digest.end()
        except _BAD as error:
            self._stored.check()
            raise as_source_error(_plain(error), self.name, "damaged, or cut short") from error

    def end(self) -> SourceEnd:
        """Return size and digest of the whole file, after `slabs` is exhausted."""
        self._stored.check()
        return self._end


def _plain(error: Exception) -> Exception:
    """Return an error without the number that h5py makes up for what its library found."""
    return error if not isinstance(error, OSError) or error.filename else OSError(str(error))
