"""NumPy files as tables: 2-D .npy, and .npz with one 2-D array. Nothing is ever unpickled."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_tools.npy_header import NpyHeader, check_size, read_npy_header, read_rows
from data_tools.source import PIECE_BYTES, SourceEnd
from data_tools.stored_file import READ_ERRORS, StoredFile, as_source_error
from data_tools.table_source import MAX_COLUMNS, TableBatch, TableReader
from streamtrain.errors import SourceError

_BAD = (*READ_ERRORS, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)


def _read_header(file: Any, name: str) -> NpyHeader:
    """Return the header of an array of numbers; the file is left at the first of them."""
    header = read_npy_header(file, name)
    kind = header.dtype
    if kind.hasobject:
        raise SourceError(
            "holds pickled objects, which are never loaded",
            where=name,
            remedy="save it as an array of numbers",
        )
    if kind.kind not in "biuf" or kind.itemsize > 8:
        raise SourceError(f"holds {kind}, expected numbers", where=name)
    if math.prod(header.shape) * kind.itemsize >= 1 << 62:
        raise SourceError(f"claims a shape of {header.shape}", where=name)
    return header


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
        self.schema = pa.schema([(c, _arrow_kind(self._array.dtype)) for c in names])

    def batches(self, columns: Sequence[str]) -> Iterator[TableBatch]:
        """Yield all rows in order."""
        n, width = (*self._array.shape, 1)[:2]
        item = self._array.dtype.itemsize
        step = max(PIECE_BYTES // (item * max(width, 1)), 1)
        places = [int(c) for c in columns]
        try:
            with self._stored.digest() as digest, self._stored.path.open("rb", 0) as file:
                for first in range(0, n, step):
                    rows = min(step, n - first)
                    block = read_rows(file, self._array, first, rows, self.name)
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


def _open_array(stored: StoredFile, *, dimensions: tuple[int, ...]) -> NpyHeader:
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
    check_size(array, stored.n_bytes, stored.name)
    return array


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
        self._members: dict[str, NpyHeader] = {}
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
        kinds = [_arrow_kind(table.dtype)] * len(names)
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
            kinds.append(_arrow_kind(array.dtype))
        self.schema = pa.schema(list(zip(names, kinds, strict=True)))

    def batches(self, columns: Sequence[str]) -> Iterator[TableBatch]:
        """Yield all rows in order; members are decompressed side by side."""
        table = self._members[self._table]
        n, width = table.shape
        step = max(PIECE_BYTES // (table.dtype.itemsize * max(width, 1)), 1)
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


def _read_next(file: Any, array: NpyHeader, n: int) -> npt.NDArray[Any]:
    width = array.shape[1] if len(array.shape) == 2 else 1
    n_bytes = n * width * array.dtype.itemsize
    data = file.read(n_bytes)
    if len(data) != n_bytes:
        raise EOFError("an array ends early")
    return np.frombuffer(data, array.dtype).reshape(n, width)
