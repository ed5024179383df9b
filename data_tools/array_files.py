"""Arrays in one file: .npy in either order, IDX (plain or .gz) and raw memory, read in slabs.

No file is loaded whole, and nothing is ever unpickled.
"""

from __future__ import annotations

import abc
import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
import xxhash

from data_tools.npy_header import NpyHeader, check_size, read_npy_header, read_rows
from data_tools.source import SourceEnd
from data_tools.stored_file import StoredFile, changed
from streamtrain import durable
from streamtrain.errors import SourceError

_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_RUN_BYTES = 4096
"""Of a column in Fortran order, read at once at least: shorter reads cost as much."""


def is_idx(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of IDX."""
    return len(head) >= 4 and head[:2] == b"\0\0" and head[2] in _IDX_TYPES and 0 < head[3] < 33


_Header = tuple[tuple[int, ...], np.dtype[Any]]


class _Stream:
    """A file read once, in order, and digested as stored."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("rb", buffering=0)
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
        self._stored = StoredFile(path, name)
        self._end: SourceEnd | None = None
        try:
            with _Stream(path) as stream:
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
        except FileNotFoundError as error:
            raise changed(self.name) from error
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
        """Return size and digest, after `slabs` is exhausted."""
        self._stored.check()
        if self._end is None:
            raise changed(self.name)
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
        If its header is damaged, or the file has another size than it says.
    """

    def _read_header(self, plain: Any) -> _Header:
        header = read_npy_header(plain, self.name)
        check_size(header, self._stored.n_bytes, self.name)
        return header.shape, header.dtype


class FortranSource:
    """A .npy file in Fortran order: a slab is a run of every column, each read where it lies.

    Parameters
    ----------
    path : Path
    name : str

    Raises
    ------
    SourceError
        If its header is damaged, or the file has another size than it says.

    Notes
    -----
    Memory is that of a slab and a copy of it, whatever the file's size. A column has a
    run of `step` rows at least, so rows of many values take large slabs or many reads.
    """

    chunk_bytes = 0

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._stored = StoredFile(path, name)
        self._header = npy_header(path, name)
        check_size(self._header, self._stored.n_bytes, name)
        self.shape, self.dtype = self._header.shape, self._header.dtype
        self.step = max(_RUN_BYTES // max(self.dtype.itemsize, 1), 1)

    def slabs(self, n_rows: int) -> Iterator[npt.NDArray[Any]]:
        """Yield consecutive rows, in C order."""
        total, tail = self.shape[0], self.shape[1:]
        try:
            with self._stored.digest() as digest, self._stored.path.open("rb", 0) as file:
                for first in range(0, total, n_rows):
                    n = min(n_rows, total - first)
                    rows = read_rows(file, self._header, first, n, self.name)
                    rows = rows.reshape(n, *tail, order="F")
                    digest.advance(self._stored.n_bytes * (first + n) // total)
                    yield np.ascontiguousarray(rows)
                self._end = digest.end()
        except FileNotFoundError as error:
            raise changed(self.name) from error
        except OSError as error:
            raise durable.as_read_error(error, self._stored.path) from error

    def end(self) -> SourceEnd:
        """Return size and digest, after `slabs` is exhausted."""
        self._stored.check()
        return self._end


class RawSource(_FileSource):
    """Values one behind another, without a header: what numpy.memmap writes.

    Parameters
    ----------
    path : Path
    name : str
    shape : tuple of int
        The first may be -1: as many rows as the file holds.
    dtype : numpy dtype
        Little-endian unless it says otherwise.

    Raises
    ------
    SourceError
        If the file has another size.
    """

    def __init__(self, path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._given = shape, dtype
        super().__init__(path, name)

    def _read_header(self, plain: Any) -> _Header:
        del plain
        shape, dtype = self._given
        size = self._stored.n_bytes
        row = math.prod(shape[1:]) * dtype.itemsize
        if shape[0] < 0:
            if size % row:
                raise SourceError(
                    f"{size} bytes are no whole rows of {row} bytes",
                    where=self.name,
                    remedy="check --shape and --dtype",
                )
            shape = (size // row, *shape[1:])
        if size != shape[0] * row:
            raise SourceError(
                f"{size} bytes, expected {shape[0] * row} for shape {shape} of {dtype}",
                where=self.name,
                remedy="check --shape and --dtype",
            )
        return shape, dtype


def npy_header(path: Path, name: str) -> NpyHeader:
    """Return the header of a .npy file; see `read_npy_header`."""
    with _Stream(path) as stream:
        return read_npy_header(stream, name)


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
        if not is_idx(head):
            raise SourceError("not an array", where=self.name, remedy="give .npy, IDX or Zarr")
        shape = struct.unpack(f">{head[3]}I", plain.read(4 * head[3]))
        return shape, np.dtype(_IDX_TYPES[head[2]])
