"""Arrow columns as cells: which kinds there are, numbers without parsing, text without spelling."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from streamtrain.errors import SourceError
from streamtrain.kernels import numbers
from streamtrain.store.bags import MAX_TEXT_BYTES, is_bag_type, keyed_of, without_views
from streamtrain.store.cells import Cells, Floats, judge_values
from streamtrain.store.string_table import TextCells

MAX_CELL_BYTES = 2 << 20
"""As long as a whole record of text may be."""


def kind_of(told: pa.DataType) -> Literal["number", "text", "time", "bag", "other"]:
    """Return what a column of an Arrow type is: the encoding does not matter, the values do."""
    told = plain_type(told)
    if (
        pa.types.is_integer(told)
        or pa.types.is_floating(told)
        or pa.types.is_decimal(told)
        or pa.types.is_null(told)
    ):
        return "number"
    if is_text(told) or pa.types.is_boolean(told) or pa.types.is_time(told):
        return "text"
    if pa.types.is_timestamp(told) or pa.types.is_date(told):
        return "time"
    if is_bag_type(told):
        return "bag"
    return "other"


def plain_type(told: pa.DataType) -> pa.DataType:
    """Return the type of the values of an encoded or extension type."""
    while True:
        if isinstance(told, pa.BaseExtensionType):
            told = told.storage_type
        elif pa.types.is_dictionary(told) or pa.types.is_run_end_encoded(told):
            told = told.value_type
        else:
            return told


def is_text(told: pa.DataType) -> bool:
    """Return whether a type is text; bytes without a type are, since old writers leave it out."""
    types = pa.types
    return bool(
        types.is_string(told)
        or types.is_large_string(told)
        or types.is_string_view(told)
        or types.is_binary(told)
        or types.is_large_binary(told)
        or types.is_binary_view(told)
    )


def list_of_numbers(told: pa.DataType) -> bool:
    """Return whether a type is a list whose values are numbers."""
    lists = pa.types.is_list(told) or pa.types.is_large_list(told)
    return bool(
        (lists or pa.types.is_fixed_size_list(told)) and kind_of(told.value_type) == "number"
    )


def nulls_of(array: pa.Array) -> npt.NDArray[np.bool_]:
    """Return which values are null, (n,) bool; they are not asked of Arrow, which asks pandas."""
    if pa.types.is_null(array.type):
        return np.ones(len(array), np.bool_)
    bitmap = array.buffers()[0]
    if bitmap is None or array.null_count == 0:
        return np.zeros(len(array), np.bool_)
    low, high = array.offset, array.offset + len(array)
    data = np.frombuffer(bitmap, np.uint8)[low // 8 : (high + 7) // 8]
    bits = np.unpackbits(data, bitorder="little")[low % 8 : low % 8 + len(array)]
    return np.asarray(bits == 0, np.bool_)


def plain(array: pa.Array) -> pa.Array:
    """Return an array without dictionary, runs or extension."""
    while True:
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        elif pa.types.is_dictionary(array.type):
            # Arrow takes no views by their place.
            array = without_views(array).dictionary_decode()
        elif pa.types.is_run_end_encoded(array.type):
            array = pc.run_end_decode(array)
        else:
            return array


def floats_of(array: pa.Array) -> Floats:
    """Return numbers as float64, rounded once, NaN where null."""
    if pa.types.is_null(array.type):
        return np.full(len(array), np.nan)
    if pa.types.is_decimal(array.type):
        # Through text: rounded once, as the same cell of a CSV file.
        out = np.array([float(t) if t is not None else np.nan for t in _spelt(array).to_pylist()])
        return out if len(out) else np.zeros(0)
    kind = np.dtype(array.type.to_pandas_dtype())
    data = np.frombuffer(array.buffers()[1], kind, count=array.offset + len(array))
    values = data[array.offset :].astype(np.float64)
    nulls = nulls_of(array)
    if nulls.any():
        values[nulls] = np.nan
    return values


class ArrowNumbers:
    """A column of numbers."""

    wrong = "not a number"

    def __init__(self, array: pa.Array, *, null: bytes = b"") -> None:
        self._array = array
        self._null = null

    def read(self, out: Floats, status: npt.NDArray[np.uint8]) -> None:
        """Fill values and their status."""
        out[:] = floats_of(self._array)
        judge_values(out, status)

    def text(self) -> TextCells:
        """Return the numbers as Arrow spells them: 1, 0.5, 1e+30."""
        return text_cells(_spelt(self._array), null=self._null)


class ArrowTimes:
    """A column of timestamps or dates: no numbers, but text in ISO 8601."""

    wrong = "a time, not a number"

    def __init__(self, array: pa.Array, *, null: bytes = b"") -> None:
        self.array = array
        self._null = null

    def read(self, out: Floats, status: npt.NDArray[np.uint8]) -> None:
        """Say of every time that it is no number."""
        out[:] = np.nan
        status[:] = np.where(nulls_of(self.array), numbers.MISSING, numbers.NOT_A_NUMBER)

    def text(self) -> TextCells:
        """Return the times in ISO 8601."""
        return text_cells(_spelt(self.array), null=self._null)


def _spelt(array: pa.Array) -> pa.Array:
    """Return values as Arrow spells them."""
    if pa.types.is_float16(array.type):
        array = array.cast(pa.float32())
    return array.cast(pa.string())


def text_cells(array: pa.Array, *, null: bytes = b"") -> TextCells:
    """Return the cells of strings, `null` where null; a copy with room behind it for kernels.

    Raises
    ------
    SourceError
        If they are longer than any record may be.
    """
    n = len(array)
    if n == 0 or pa.types.is_null(array.type):
        data = np.frombuffer(bytearray(null + bytes(8)), np.uint8)
        return TextCells(data, np.zeros(n, np.int32), np.full(n, len(null), np.int32))
    wide = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    _, offset_buffer, data_buffer = array.buffers()
    width = 8 if wide else 4
    offsets = np.frombuffer(
        offset_buffer, np.int64 if wide else np.int32, count=n + 1, offset=array.offset * width
    )
    first, last = int(offsets[0]), int(offsets[-1])
    if last - first > MAX_TEXT_BYTES:
        raise SourceError("text longer than 1 GiB in a few rows")
    n_bytes = last - first
    data = np.zeros(n_bytes + len(null) + 8, np.uint8)
    if data_buffer is not None:
        data[:n_bytes] = np.frombuffer(data_buffer, np.uint8)[first:last]
    data[n_bytes : n_bytes + len(null)] = np.frombuffer(null, np.uint8)
    bounds = (offsets - offsets[0]).astype(np.int32)
    starts, stops = bounds[:-1].copy(), bounds[1:].copy()
    nulls = nulls_of(array)
    starts[nulls], stops[nulls] = n_bytes, n_bytes + len(null)
    return TextCells(data, starts, stops)


def check_array(array: pa.Array, name: str, source: str, reasons: dict[int, str]) -> pa.Array:
    """Return a column that is what it says; the rows whose text is not UTF-8 get that reason.

    Nothing from a file is trusted: an offset that leads outside of its buffer
    would crash the process.

    Parameters
    ----------
    array : pa.Array
    name, source : str
        Of the column and of its source, for messages.
    reasons : dict of int to str
        Updated.

    Raises
    ------
    SourceError
        If Arrow's data does not hold together.
    """
    try:
        array.validate(full=True)
    except pa.ArrowInvalid as error:
        if not is_text(plain_type(array.type)):
            raise _damaged(source, name, error) from error
        # Sound but for what its bytes spell?
        array = _as_bytes(array)
        try:
            array.validate(full=True)
        except pa.ArrowInvalid as worse:
            raise _damaged(source, name, worse) from worse
    told = plain_type(array.type)
    if pa.types.is_binary(told) or pa.types.is_large_binary(told):
        _find_not_utf8(plain(array), reasons)
    return array


def _as_bytes(array: pa.Array) -> pa.Array:
    """Return texts, or a dictionary of them, as bytes that may spell anything."""
    if pa.types.is_dictionary(array.type):
        values = _as_bytes(array.dictionary)
        return pa.DictionaryArray.from_arrays(array.indices, values, safe=False)
    return array.view(pa.large_binary() if pa.types.is_large_string(array.type) else pa.binary())


def _find_not_utf8(array: pa.Array, reasons: dict[int, str]) -> None:
    try:
        array.cast(pa.large_string())
    except pa.ArrowInvalid:
        for i, value in enumerate(array):
            try:
                (value.as_py() or b"").decode()
            except UnicodeDecodeError:
                reasons.setdefault(i, "not UTF-8")


def _damaged(source: str, column: str, error: Exception) -> SourceError:
    return SourceError(
        f"column {column!r} is damaged: {str(error).splitlines()[0]}",
        where=source,
        remedy="write or fetch it again",
    )


def cells_of(array: pa.Array, *, null: bytes = b"") -> Cells:
    """Return a column as cells; it must have been validated."""
    array = plain(array)
    kind = array.type
    if kind_of(kind) == "bag":
        return keyed_of(array, where="a list", indexed=False)
    if pa.types.is_boolean(kind) or pa.types.is_time(kind):
        return text_cells(array.cast(pa.string()), null=null)
    array = without_views(array)
    if is_text(array.type):
        return text_cells(array, null=null)
    if kind_of(kind) == "time":
        return ArrowTimes(array, null=null)
    return ArrowNumbers(array, null=null)


class ListColumn:
    """A column of lists of numbers of one length, whose places are columns of their own.

    Parameters
    ----------
    array : pa.Array
    width : int
        Values that each list is to have.
    """

    def __init__(self, array: pa.Array, width: int) -> None:
        n = len(array)
        self.n_values: npt.NDArray[np.int64]
        """Values of each list, `width` for a null one."""
        self._nulls = nulls_of(array)
        if pa.types.is_fixed_size_list(array.type):
            first = array.offset * width
            self._starts = np.arange(n, dtype=np.int64) * width
            self._child = array.values.slice(first, n * width)
            self.n_values = np.full(n, width)
        else:
            wide = pa.types.is_large_list(array.type)
            offsets = np.frombuffer(
                array.buffers()[1],
                np.int64 if wide else np.int32,
                count=n + 1,
                offset=array.offset * (8 if wide else 4),
            ).astype(np.int64)
            first, last = int(offsets[0]), int(offsets[-1])
            self._starts = offsets[:-1] - first
            self._child = array.values.slice(first, last - first)
            self.n_values = np.diff(offsets)
            self.n_values[self._nulls] = width
        self.width = width
        self._missing = self._nulls | (self.n_values != width)
        self._values: Floats | None = None

    def column(self, place: int) -> Floats:
        """Return one place of every list, NaN where there is no list of that width."""
        if self._values is None:
            self._values = floats_of(plain(self._child))
        out = np.full(len(self._starts), np.nan)
        there = ~self._missing
        out[there] = self._values[self._starts[there] + place]
        return out


class ListPlace:
    """One place of a column of lists, as numbers."""

    wrong = "not a number"

    def __init__(self, column: ListColumn, place: int, *, null: bytes = b"") -> None:
        self._null = null
        self._column = column
        self._place = place

    def read(self, out: Floats, status: npt.NDArray[np.uint8]) -> None:
        """Fill values and their status."""
        out[:] = self._column.column(self._place)
        judge_values(out, status)

    def text(self) -> TextCells:
        """Return the numbers as Arrow spells them."""
        values = self._column.column(self._place)
        gone = np.isnan(values)
        return text_cells(_spelt(pa.array(values, mask=gone)), null=self._null)


def describe(told: Any) -> str:
    """Return the name of a type, short enough for a line."""
    text = str(told)
    return text if len(text) <= 60 else text[:57] + "..."
