"""NumPy files as tables: 2-D .npy, and .npz with one 2-D array. Nothing is ever unpickled."""

from __future__ import annotations

import io
import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_tools.source import PIECE_BYTES, SourceEnd
from data_tools.stored_file import READ_ERRORS, StoredFile, as_source_error
from data_tools.table_source import MAX_COLUMNS, TableBatch, TableReader
from streamtrain.errors import SourceError

NPY_MAGIC = b"\x93NUMPY"
NPZ_MAGIC = b"PK\x03\x04"
_BAD = (
    *READ_ERRORS, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError,
    # What NumPy lets through from the literal that a header is.
    SyntaxError, TypeError, RecursionError, tokenize.TokenError, UserWarning,
)  # fmt: skip


@dataclass(frozen=True)
class _Array:
    """An array in a file: `offset` is where its numbers begin."""

    shape: tuple[int, ...]
    kind: np.dtype[Any]
    fortran: bool
    offset: int


def _read_header(file: BinaryIO | io.BufferedIOBase | Any, name: str) -> _Array:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, kind = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, kind = np.lib.format.read_array_header_2_0(file)
    else:
        raise SourceError(f"npy format {version[0]}.{version[1]}, expected 1.0 or 2.0", where=name)
    if kind.hasobject:
        raise SourceError(
            "holds pickled objects, which are never loaded",
            where=name,
            remedy="save it as an array of numbers",
        )
    if kind.kind not in "biuf" or kind.itemsize > 8:
        raise SourceError(f"holds {kind}, expected numbers", where=name)
    n_bytes = kind.itemsize
    for size in shape:
        n_bytes *= size
    if any(size < 0 for size in shape) or n_bytes >= 1 << 62:
        raise SourceError(f"claims a shape of {shape}", where=name)
    return _Array(shape, kind, fortran, file.tell())


def _as_columns(block: npt.NDArray[Any], columns: Sequence[int]) -> list[pa.Array]:
    """Return columns of a block (n, D) as Arrow arrays, bytes in native order."""
    native = block.dtype.newbyteorder("=")
    if native == np.bool_:
        native = np.dtype(np.uint8)  # an array's booleans are numbers, whatever a table's are
    return [pa.array(np.ascontiguousarray(block[:, c], native)) for c in columns]


class NpyReader(TableReader):
    """One .npy file, (n, D) or (n,), its columns named by position.

    Parameters
    ----------
    path : Path
    name : str

    Raises
    ------
    SourceError
        If it is no table of numbers.
    """

    positional = True

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._stored = StoredFile(path, name)
        self.n_bytes = self._stored.n_bytes
        self._array = _open_array(self._stored, dimensions=(1, 2))
        n, width = (*self._array.shape, 1)[:2]
        names = _positions(width, name)
        self.n_rows = n
        self.schema = pa.schema([(c, _arrow_kind(self._array.kind)) for c in names])

    def batches(self, columns: Sequence[str]) -> Iterator[TableBatch]:
        """Yield all rows in order."""
        n, width = (*self._array.shape, 1)[:2]
        item = self._array.kind.itemsize
        step = max(PIECE_BYTES // (item * max(width, 1)), 1)
        places = [int(c) for c in columns]
        try:
            with self._stored.digest() as digest, self._stored.path.open("rb", 0) as file:
                for first in range(0, n, step):
                    rows = min(step, n - first)
                    block = _read_rows(file, self._array, first, rows, self.name)
                    behind = self._array.offset + (first + rows) * width * item
                    digest.advance(behind)
                    batch = pa.RecordBatch.from_arrays(
                        _as_columns(block, places), names=[*map(str, places)]
                    )
                    yield TableBatch(batch, behind)
                self._end = digest.end()
        except _BAD as error:
            self._stored.check()
            raise as_source_error(error, self.name) from error

    def end(self) -> SourceEnd:
        """Return size and digest, after `batches` is exhausted."""
        return self._end


def _positions(width: int, name: str) -> list[str]:
    if width > MAX_COLUMNS:
        raise SourceError(f"{width:,} columns, at most {MAX_COLUMNS:,} are read", where=name)
    return [str(c) for c in range(width)]


def _arrow_kind(kind: np.dtype[Any]) -> pa.DataType:
    native = kind.newbyteorder("=")
    return pa.uint8() if native == np.bool_ else pa.from_numpy_dtype(native)


def _open_array(stored: StoredFile, *, dimensions: tuple[int, ...]) -> _Array:
    try:
        with stored.path.open("rb") as file:
            array = _read_header(file, stored.name)
    except _BAD as error:
        raise as_source_error(error, stored.name, "not a .npy file, or cut short") from error
    if len(array.shape) not in dimensions:
        raise SourceError(
            f"an array of shape {array.shape}, expected a table of rows and columns",
            where=stored.name,
            remedy="reshape it to two dimensions, or keep it as it is with --format zarr",
        )
    needed = array.offset + int(np.prod(array.shape, dtype=object)) * array.kind.itemsize
    if needed != stored.n_bytes:
        raise SourceError(
            f"{stored.n_bytes:,} bytes, expected {needed:,} for shape {array.shape}",
            where=stored.name,
            remedy="write or fetch it again",
        )
    return array


def _read_rows(file: io.FileIO, array: _Array, first: int, n: int, name: str) -> npt.NDArray[Any]:
    """Return rows first..first + n as (n, D)."""
    rows, width = (*array.shape, 1)[:2]
    item = array.kind.itemsize
    if not array.fortran or len(array.shape) == 1:
        block = np.empty((n, width), array.kind)
        _pread(file, block, array.offset + first * width * item, name)
        return block
    columns = np.empty((width, n), array.kind)
    for c in range(width):
        _pread(file, columns[c], array.offset + (c * rows + first) * item, name)
    return columns.T


def _pread(file: io.FileIO, out: npt.NDArray[Any], offset: int, name: str) -> None:
    view = out.reshape(-1).view(np.uint8).data
    while view:
        n = os.preadv(file.fileno(), [view], offset)
        if n == 0:
            raise SourceError("cut short while it was being read", where=name)
        view, offset = view[n:], offset + n


class NpzReader(TableReader):
    """One .npz file: its one 2-D array as columns by position, 1-D arrays beside it by name.

    Parameters
    ----------
    path : Path
    name : str

    Raises
    ------
    SourceError
        If it holds no table, more than one, or arrays of other lengths.
    """

    positional = True

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._stored = StoredFile(path, name)
        self.n_bytes = self._stored.n_bytes
        self._members: dict[str, _Array] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                for member in archive.namelist():
                    with archive.open(member) as file:
                        key = member.removesuffix(".npy")
                        self._members[key] = _read_header(file, f"{name}, {key}")
        except _BAD as error:
            raise as_source_error(error, name, "not a .npz file, or cut short") from error
        tables = [key for key, array in self._members.items() if len(array.shape) == 2]
        if len(tables) != 1:
            raise SourceError(f"holds {len(tables)} tables (2-D arrays), expected one", where=name)
        self._table = tables[0]
        table = self._members[self._table]
        if table.fortran:
            raise SourceError(
                "its table is stored by columns, which a .npz cannot give by rows",
                where=name,
                remedy="save np.ascontiguousarray of it, or as .npy",
            )
        self.n_rows = table.shape[0]
        names = _positions(table.shape[1], name)
        kinds = [_arrow_kind(table.kind)] * len(names)
        for key, array in self._members.items():
            if array is table:
                continue
            if array.shape != table.shape[:1]:
                raise SourceError(
                    f"{key!r} has shape {array.shape}, expected ({self.n_rows},) "
                    f"as {self._table!r} has rows",
                    where=name,
                )
            names.append(key)
            kinds.append(_arrow_kind(array.kind))
        self.schema = pa.schema(list(zip(names, kinds, strict=True)))

    def batches(self, columns: Sequence[str]) -> Iterator[TableBatch]:
        """Yield all rows in order; members are decompressed side by side."""
        table = self._members[self._table]
        n, width = table.shape
        step = max(PIECE_BYTES // (table.kind.itemsize * max(width, 1)), 1)
        places = [int(c) for c in columns if c not in self._members]
        beside = [c for c in columns if c in self._members]
        try:
            with ExitStack() as stack:
                digest = stack.enter_context(self._stored.digest())
                archive = stack.enter_context(zipfile.ZipFile(self._stored.path))
                files = {}
                for key in (self._table, *beside):
                    file = stack.enter_context(archive.open(_member(archive, key)))
                    _read_header(file, self.name)
                    files[key] = file
                for first in range(0, n, step):
                    rows = min(step, n - first)
                    arrays = _as_columns(_read_next(files[self._table], table, rows), places)
                    for key in beside:
                        block = _read_next(files[key], self._members[key], rows)
                        arrays += _as_columns(block, [0])
                    behind = self.n_bytes * (first + rows) // n
                    digest.advance(behind)
                    names = [*map(str, places), *beside]
                    yield TableBatch(pa.RecordBatch.from_arrays(arrays, names=names), behind)
                self._end = digest.end()
        except _BAD as error:
            self._stored.check()
            raise as_source_error(error, self.name, "damaged, or cut short") from error

    def end(self) -> SourceEnd:
        """Return size and digest, after `batches` is exhausted."""
        return self._end


def _member(archive: zipfile.ZipFile, key: str) -> str:
    return f"{key}.npy" if f"{key}.npy" in archive.namelist() else key


def _read_next(file: Any, array: _Array, n: int) -> npt.NDArray[Any]:
    width = array.shape[1] if len(array.shape) == 2 else 1
    n_bytes = n * width * array.kind.itemsize
    data = file.read(n_bytes)
    if len(data) != n_bytes:
        raise EOFError("an array ends early")
    return np.frombuffer(data, array.kind).reshape(n, width)
