"""A .npz file as a group of arrays: each member is decompressed in order, never whole."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from data_tools.npy_header import NpyHeader, read_npy_header
from data_tools.source import SourceEnd
from data_tools.stored_file import READ_ERRORS, StoredFile, as_source_error
from streamtrain.errors import SourceError

NPZ_MAGIC = b"PK\x03\x04"
_BAD = (
    *READ_ERRORS, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError,
    SyntaxError, TypeError, RecursionError, RuntimeError, tokenize.TokenError,
)  # fmt: skip


class NpzGroup:
    """The arrays of a .npz file, by their names.

    Parameters
    ----------
    path : Path
    name : str

    Raises
    ------
    SourceError
        If it is no archive.
    """

    is_file = True

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self.stored = StoredFile(path, name)
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.namelist()
        except _BAD as error:
            raise as_source_error(error, name, "not an .npz file, or cut short") from error
        self._members = {m.removesuffix(".npy"): m for m in members}

    def kind(self, path: str) -> Literal["array", "group", ""]:
        """Return "array" for a member."""
        return "array" if path in self._members else ""

    def children(self, path: str = "") -> list[str]:
        """Return the members."""
        return [] if path else sorted(self._members)

    def attributes(self, path: str = "") -> Mapping[str, Any]:
        """Return nothing: members have none."""
        del path
        return {}

    def open(self, path: str) -> NpzMember:
        """Open a member."""
        return NpzMember(self, path, self._members[path])


class NpzMember:
    """One array of a .npz file, in C order.

    Parameters
    ----------
    group : NpzGroup
    key : str
        Its name.
    member : str
        Its name in the archive.

    Raises
    ------
    SourceError
        If it is damaged, in Fortran order, or has another size than it says.
    """

    step = 1
    chunk_bytes = 1 << 20

    def __init__(self, group: NpzGroup, key: str, member: str) -> None:
        self.name = f"{group.name}:{key}"
        self._group = group
        self._member = member
        self._end: SourceEnd | None = None
        try:
            with zipfile.ZipFile(group.stored.path) as archive, archive.open(member) as file:
                header = self._header(file)
                size = archive.getinfo(member).file_size
        except _BAD as error:
            raise as_source_error(error, self.name, "damaged, or cut short") from error
        if header.fortran:
            raise SourceError(
                "in Fortran order inside an .npz: its rows cannot be read in order",
                where=self.name,
                remedy="save numpy.ascontiguousarray of it, or the array alone as .npy",
            )
        self.shape, self.dtype = header.shape, header.dtype
        expected = header.offset + int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize
        if not self.dtype.hasobject and size != expected:
            raise SourceError(
                f"{size} bytes, expected {expected} for shape {self.shape}", where=self.name
            )

    def _header(self, file: Any) -> NpyHeader:
        return read_npy_header(file, self.name)

    def slabs(self, n_rows: int) -> Iterator[npt.NDArray[Any]]:
        """Yield consecutive rows."""
        stored, total = self._group.stored, self.shape[0]
        try:
            with (
                stored.digest() as digest,
                zipfile.ZipFile(stored.path) as archive,
                archive.open(self._member) as file,
            ):
                self._header(file)
                for first in range(0, total, n_rows):
                    rows = np.empty((min(n_rows, total - first), *self.shape[1:]), self.dtype)
                    view = rows.reshape(-1).view(np.uint8).data
                    while view:
                        done = file.readinto(view)  # type: ignore[attr-defined]
                        if not done:
                            raise SourceError("cut short", where=self.name)
                        view = view[done:]
                    digest.advance(stored.n_bytes * (first + len(rows)) // total)
                    yield rows
                file.read(1)  # at its end its checksum is compared
                self._end = digest.end()
        except _BAD as error:
            stored.check()
            raise as_source_error(error, self.name, "damaged, or cut short") from error

    def end(self) -> SourceEnd:
        """Return size and digest of the whole file, after `slabs` is exhausted."""
        self._group.stored.check()
        assert self._end is not None
        return self._end
