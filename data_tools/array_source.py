"""What an array of rows is, and what opens each kind: the seam of array sources.

An array is read in slabs and in order, never whole, and nothing is ever unpickled.
A file or directory that holds several arrays is an `ArrayGroup` (data_tools/array_set.py
chooses of them).
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from data_tools.array_files import (
    FortranSource,
    IdxSource,
    NpySource,
    is_idx,
    npy_header,
)
from data_tools.npy_header import NPY_MAGIC
from data_tools.source import SourceEnd
from streamtrain import durable
from streamtrain.errors import NoInputError, SourceError, StreamtrainError

_KINDS = ".npy, .npz, IDX, Zarr and HDF5"


class ArraySource(Protocol):
    """An array whose first axis is rows."""

    @property
    def name(self) -> str:
        """As the user gave it."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored."""
        ...

    @property
    def step(self) -> int:
        """Rows that are best read together: a slab is a multiple of it, where it can be."""
        ...

    @property
    def chunk_bytes(self) -> int:
        """Bytes that reading decodes at once, whatever the slab; 0 where nothing is decoded."""
        ...

    def slabs(self, n_rows: int) -> Iterator[npt.NDArray[Any]]:
        """Yield consecutive rows, `n_rows` at a time, in memory of their own.

        Raises
        ------
        SourceError
            If the array is not what its header says.
        """
        ...

    def end(self) -> SourceEnd:
        """Return size and digest, after `slabs` is exhausted.

        Raises
        ------
        SourceError
            If the array changed while it was read.
        """
        ...


class ArrayGroup(Protocol):
    """A file or directory that holds several arrays, by paths like ``obs/age``."""

    @property
    def name(self) -> str:
        """As the user gave it."""
        ...

    @property
    def is_file(self) -> bool:
        """Whether it is one file, whose size and digest its arrays share."""
        ...

    def kind(self, path: str) -> Literal["array", "group", ""]:
        """Return what a path names, "" for nothing.

        Raises
        ------
        SourceError
            If it leads out of the file.
        """
        ...

    def children(self, path: str = "") -> list[str]:
        """Return the names in a group, sorted."""
        ...

    def attributes(self, path: str = "") -> Mapping[str, Any]:
        """Return the attributes of an array or a group, those that are texts and numbers."""
        ...

    def open(self, path: str) -> ArraySource:
        """Open an array, of numbers or of text.

        Raises
        ------
        SourceError
            If it cannot be read, or is not all there.
        """
        ...


def open_array(path: Path, *, option: str = "", name: str | None = None) -> ArraySource:
    """Open a file or directory that is one array, of the kind that its first bytes say.

    Parameters
    ----------
    path : Path
    option : str
        The option that named it, for messages.
    name : str or None
        What messages call it, if not by its path.

    Raises
    ------
    NoInputError
        If it is not there.
    SourceError
        If it is no array of a kind that is known, or holds no numbers.
    """
    from data_tools.array_set import only_array
    from data_tools.zarr_source import ZarrGroup, is_zarr, open_zarr

    name = name or str(path)
    if is_zarr(path):
        found = open_zarr(path, name)
        return only_array(found) if isinstance(found, ZarrGroup) else checked(found)
    head = read_head(path)
    if head.startswith(NPY_MAGIC):
        fortran = npy_header(path, name).fortran
        return checked(FortranSource(path, name) if fortran else NpySource(path, name))
    if head[:2] == b"\x1f\x8b" or is_idx(head):
        return checked(IdxSource(path, name))
    group = open_file_group(path, head, name)
    if group is not None:
        return only_array(group)
    remedy = f"{option} takes {_KINDS}" if option else f"give {_KINDS}"
    raise SourceError("not an array", where=name, remedy=remedy)


def read_head(path: Path) -> bytes:
    """Return the first bytes of a file.

    Raises
    ------
    NoInputError
        If it is not there.
    SourceError
        If it is a directory.
    """
    name = str(path)
    try:
        with path.open("rb") as file:
            return file.read(8)
    except FileNotFoundError as error:
        raise NoInputError("no such file", where=name) from error
    except IsADirectoryError as error:
        raise SourceError(f"a directory, expected an array: {_KINDS}", where=name) from error
    except OSError as error:
        raise durable.as_read_error(error, path) from error


def open_file_group(path: Path, head: bytes, name: str) -> ArrayGroup | None:
    """Return the arrays of a file that holds several, None if its first bytes say otherwise."""
    from data_tools.h5_source import H5_MAGIC, H5Group
    from data_tools.npz_group import NPZ_MAGIC, NpzGroup

    if head.startswith(H5_MAGIC):
        return H5Group(path, name)
    if head.startswith(NPZ_MAGIC):
        return NpzGroup(path, name)
    return None


def holds_arrays(path: Path) -> bool:
    """Return whether a path looks like Zarr or HDF5, which may hold several arrays."""
    from data_tools.h5_source import H5_MAGIC
    from data_tools.zarr_source import is_zarr

    try:
        return is_zarr(path) or (path.is_file() and read_head(path).startswith(H5_MAGIC))
    except (OSError, StreamtrainError):
        return False


def is_array(path: Path) -> bool:
    """Return whether a path looks like an array, or a file of several; never raises."""
    from data_tools.h5_source import H5_MAGIC
    from data_tools.npz_group import NPZ_MAGIC
    from data_tools.zarr_source import is_zarr

    if is_zarr(path):
        return True
    try:
        with path.open("rb") as file:
            head = file.read(8)
        if head[:2] == b"\x1f\x8b":
            with gzip.open(path) as packed:
                head = packed.read(8)
    except (OSError, EOFError, zlib.error):
        return False
    return head.startswith((NPY_MAGIC, NPZ_MAGIC, H5_MAGIC)) or is_idx(head)


def checked(source: ArraySource) -> ArraySource:
    """Return an array of numbers with rows.

    Raises
    ------
    SourceError
        If it is another.
    """
    if source.dtype.hasobject and source.dtype.kind != "T":
        raise SourceError(
            "holds Python objects, which would have to be unpickled, or text of any length",
            where=source.name,
            remedy="save it with numbers alone",
        )
    if source.dtype.kind not in "buif" or source.dtype.itemsize > 8:
        raise SourceError(f"holds {source.dtype}, expected numbers", where=source.name)
    if not source.shape:
        raise SourceError("has no axes, expected rows", where=source.name)
    if 0 in source.shape:
        raise SourceError(f"of shape {source.shape}, expected rows", where=source.name)
    return source
