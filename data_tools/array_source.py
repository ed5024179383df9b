"""Arrays of rows on disk: .npy, IDX (plain or .gz), Zarr v2 and v3, read in slabs and in order.

No file is loaded whole, and nothing is ever unpickled.
"""

from __future__ import annotations

import abc
import ast
import gzip
import math
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import numpy as np
import numpy.typing as npt
import xxhash

from data_tools.source import SourceEnd
from data_tools.zarr_source import ZarrSource, is_zarr
from streamtrain import durable
from streamtrain.errors import NoInputError, SourceError

NPY_MAGIC = b"\x93NUMPY"
_MAX_HEADER_BYTES = 1 << 16
_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


_Header = tuple[tuple[int, ...], np.dtype[Any]]


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


def open_array(path: Path, *, option: str = "") -> ArraySource:
    """Open an array, of the kind that its first bytes say.

    Parameters
    ----------
    path : Path
    option : str
        The option that named it, for messages.

    Raises
    ------
    NoInputError
        If it is not there.
    SourceError
        If it is no array of a kind that is known, or holds no numbers.
    """
    name = str(path)
    if is_zarr(path):
        return _checked(ZarrSource(path, name))
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except FileNotFoundError as error:
        raise NoInputError("no such file", where=name) from error
    except IsADirectoryError as error:
        raise SourceError("a directory, expected an array: .npy, IDX, Zarr", where=name) from error
    except OSError as error:
        raise durable.as_read_error(error, path) from error
    if head.startswith(NPY_MAGIC):
        return _checked(NpySource(path, name))
    if head[:2] == b"\x1f\x8b" or _is_idx(head):
        return _checked(IdxSource(path, name))
    remedy = f"{option} takes .npy, IDX and Zarr" if option else "give .npy, IDX or Zarr"
    raise SourceError("not an array", where=name, remedy=remedy)


def is_array(path: Path) -> bool:
    """Return whether a path looks like an array; never raises."""
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
    return head.startswith(NPY_MAGIC) or _is_idx(head)


def _checked(source: ArraySource) -> ArraySource:
    if source.dtype.hasobject:
        raise SourceError(
            "holds Python objects, which would have to be unpickled",
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


def _is_idx(head: bytes) -> bool:
    return len(head) >= 4 and head[:2] == b"\0\0" and head[2] in _IDX_TYPES and 0 < head[3] < 33


class _Stream:
    """A file read once, in order, and digested as stored."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("rb", buffering=0)
        self.status = os.fstat(self._file.fileno())
        self.digest = xxhash.xxh3_128()
        self.n_bytes = 0

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, n: int = -1) -> bytes:
        data: bytes = self._file.read(n)
        self.digest.update(data)
        self.n_bytes += len(data)
        return data

    def readinto(self, view: memoryview) -> int:
        n: int = self._file.readinto(view)  # type: ignore[attr-defined]
        self.digest.update(view[:n])
        self.n_bytes += n
        return n

    def finish(self) -> SourceEnd:
        """Read what is left; return size and digest."""
        while self.read(1 << 20):
            pass
        return SourceEnd(self.n_bytes, self.digest.hexdigest())


class _FileSource(abc.ABC):
    """An array in one file, which is open while it is read and at no other time."""

    step = 1
    chunk_bytes = 0

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._path = path
        self._end: SourceEnd | None = None
        try:
            with _Stream(path) as stream:
                self._status = stream.status
                self.shape, self.dtype = self._read_header(self._plain(stream))
        except (struct.error, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise SourceError("damaged or cut short", where=name) from error
        except OSError as error:
            raise durable.as_read_error(error, path) from error

    def slabs(self, n_rows: int) -> Iterator[npt.NDArray[Any]]:
        """Yield consecutive rows."""
        try:
            with _Stream(self._path) as stream:
                plain = self._plain(stream)
                self._read_header(plain)
                for first in range(0, self.shape[0], n_rows):
                    n = min(n_rows, self.shape[0] - first)
                    rows = np.empty((n, *self.shape[1:]), self.dtype)
                    self._fill(plain, rows, first)
                    yield rows
                if plain.read(1):
                    raise SourceError(f"longer than its shape {self.shape}", where=self.name)
                self._end = stream.finish()
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise SourceError("damaged or cut short", where=self.name) from error
        except OSError as error:
            raise durable.as_read_error(error, self._path) from error

    def _fill(self, plain: Any, rows: npt.NDArray[Any], first: int) -> None:
        view = rows.reshape(-1).view(np.uint8).data
        while view:
            done = plain.readinto(view)
            if not done:
                whole = first + len(rows) - -(-len(view) // rows[0].nbytes)
                raise SourceError(
                    f"cut short: {whole} rows, expected {self.shape[0]}", where=self.name
                )
            view = view[done:]

    def end(self) -> SourceEnd:
        """Return size and digest."""
        now, before = self._path.stat(), self._status
        if self._end is None or (now.st_ino, now.st_size, now.st_mtime_ns) != (
            before.st_ino,
            before.st_size,
            before.st_mtime_ns,
        ):
            raise SourceError(
                "changed while it was being read",
                where=self.name,
                remedy="ingest again when nothing writes to it",
            )
        return self._end

    def _plain(self, stream: _Stream) -> Any:
        """Return the stream without its compression."""
        return stream

    @abc.abstractmethod
    def _read_header(self, plain: Any) -> _Header:
        """Return shape and type of a file, and leave what is read at the first value."""


class NpySource(_FileSource):
    """A .npy file in C order, read in order.

    Parameters
    ----------
    path : Path
    name : str

    Raises
    ------
    SourceError
        If its header is damaged, in Fortran order, or the file has another size than it says.
    """

    def _read_header(self, plain: Any) -> _Header:
        shape, dtype = _read_npy_header(plain, self.name)
        expected = plain.n_bytes + math.prod(shape) * dtype.itemsize
        # Pickled objects have no size to compare; `open_array` refuses them.
        if not dtype.hasobject and self._status.st_size != expected:
            raise SourceError(
                f"{self._status.st_size} bytes, expected {expected} for shape {shape}",
                where=self.name,
                remedy="write or fetch it again",
            )
        return shape, dtype


def _read_npy_header(stream: _Stream, name: str) -> _Header:
    """Return shape and type; a header is a Python literal, evaluated as nothing more.

    Source
    ------
    NumPy enhancement proposal 1, "A simple file format for NumPy arrays".
    """
    head = stream.read(8)
    major = head[6] if len(head) == 8 else 0
    width = {1: 2, 2: 4, 3: 4}.get(major)
    if not head.startswith(NPY_MAGIC) or width is None:
        raise SourceError("its .npy header is damaged", where=name)
    n_bytes = int.from_bytes(stream.read(width), "little")
    if n_bytes > _MAX_HEADER_BYTES:
        raise SourceError(f"its .npy header claims {n_bytes} bytes", where=name)
    try:
        text = stream.read(n_bytes).decode("utf-8" if major == 3 else "latin-1")
        fields = ast.literal_eval(text.strip())
        shape, order = fields["shape"], fields["fortran_order"]
        dtype = np.lib.format.descr_to_dtype(fields["descr"])
        sound = isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape)
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise SourceError("its .npy header is damaged", where=name) from error
    if not sound:
        raise SourceError("its .npy header is damaged", where=name)
    if order and len(shape) > 1:
        raise SourceError(
            "in Fortran order: its rows lie apart",
            where=name,
            remedy="save numpy.ascontiguousarray of it",
        )
    return shape, dtype


class IdxSource(_FileSource):
    """An IDX file, the format of MNIST, plain or gzip, read in order.

    Parameters
    ----------
    path : Path
    name : str

    Source
    ------
    "The IDX file format", yann.lecun.com/exdb/mnist: two zero bytes, the type, the
    number of axes, their lengths as big-endian 32-bit numbers, the values.
    """

    def _plain(self, stream: _Stream) -> Any:
        with self._path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        return gzip.GzipFile(mode="rb", fileobj=cast("Any", stream)) if packed else stream

    def _read_header(self, plain: Any) -> _Header:
        head = plain.read(4)
        if not _is_idx(head):
            raise SourceError("not an array", where=self.name, remedy="give .npy, IDX or Zarr")
        shape = struct.unpack(f">{head[3]}I", plain.read(4 * head[3]))
        return shape, np.dtype(_IDX_TYPES[head[2]])
