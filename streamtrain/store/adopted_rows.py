"""Rows of somebody's tables as stored columns: the values that ingest would have written.

The cells are read by the code that ingest reads them with, so that a table has the
same values, whether it was ingested or adopted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streamtrain.errors import SchemaError
from streamtrain.store.arrow_cells import (
    ListColumn,
    ListPlace,
    cells_of,
    is_text,
    nulls_of,
    plain,
    text_cells,
)
from streamtrain.store.cells import Cells, as_text, constant_cells, missing_text, read_numbers
from streamtrain.store.schema import FIRST_CODE, Schema
from streamtrain.store.string_table import MissingTexts, StringIndex
from streamtrain.store.time_cells import PartValues, Times
from streamtrain.store.vocabulary import Vocabulary

Codes = npt.NDArray[np.int32]


class Tables:
    """What turns text into codes: a table for each categorical column, and the classes.

    Parameters
    ----------
    schema : Schema
    vocabulary_of : callable
        Returns the vocabulary of a categorical column, by its place among them.
    """

    def __init__(self, schema: Schema, vocabulary_of: Callable[[int], Vocabulary]) -> None:
        self.of_columns: list[StringIndex] = []
        self.n_bytes = 0
        for f in range(len(schema.categorical)):
            vocabulary = vocabulary_of(f)
            self.of_columns.append(StringIndex(vocabulary.offsets, vocabulary.data))
            self.n_bytes += table_bytes(vocabulary)
        self.of_classes: StringIndex | None = None
        if schema.target.is_text:
            texts = [text.encode() for text in schema.target.classes]
            offsets = np.cumsum([0, *map(len, texts)]).astype(np.int64)
            self.of_classes = StringIndex(offsets, np.frombuffer(b"".join(texts), np.uint8))


def table_bytes(vocabulary: Vocabulary) -> int:
    """Return the memory of a `StringIndex`, as it is made."""
    n = len(vocabulary)
    return int(vocabulary.offsets[-1]) + n * (32 + 4 * 8) + 8 * (1 << int(2 * n).bit_length())


@dataclass(frozen=True)
class FoundCodes:
    """A dictionary of text, and the codes of its values; the last is that of a null."""

    dictionary: pa.Array
    codes: Codes


class RowDecoder:
    """Turns record batches into stored columns.

    Parameters
    ----------
    schema : Schema
    tables : Tables
    lists : mapping of str to int
        Values of each list, of columns of lists.

    Notes
    -----
    Any number of threads may use one.
    """

    def __init__(self, schema: Schema, tables: Tables, lists: Mapping[str, int]) -> None:
        self._schema = schema
        self._tables = tables
        self._lists = lists
        self._missing = MissingTexts(schema.missing)
        self._null = missing_text(schema.missing).encode()
        self._numeric = [(c.name, _part(c.date_of, c.part)) for c in schema.numeric]
        self._categorical = [(c.name, _part(c.date_of, c.part)) for c in schema.categorical]
        self._n_stored = len(schema.value_names)

    def columns(self, names: list[str]) -> list[str]:
        """Return those columns of a file that rows are made of, by the names it has."""
        found = set(names)
        wanted: dict[str, None] = {}
        others = [self._schema.target.name, self._schema.weight, self._schema.exposure]
        stored = [*self._numeric, *self._categorical, *((n, None) for n in others if n)]
        for name, part in stored:
            column = part[0] if part and name not in found else name
            if column not in found:
                column = column.rpartition(".")[0]
            if column in found:
                wanted[column] = None
        return list(wanted)

    def decode(
        self,
        rows: pa.RecordBatch,
        constants: Mapping[str, str | None],
        found: dict[str, FoundCodes],
    ) -> npt.NDArray[np.int32]:
        """Return stored columns, (k, n) int32: bits of float32 values, and codes.

        Parameters
        ----------
        rows : pa.RecordBatch
        constants : mapping of str to (str or None)
            Columns with one value in all rows.
        found : dict of str to FoundCodes
            Codes of the dictionaries of the batch before, updated.

        Raises
        ------
        SchemaError
            If a column is not there.
        """
        n = rows.num_rows
        out = np.empty((self._n_stored, n), np.int32)
        use = np.ones(n, np.uint8)
        values, status = np.empty(n), np.empty(n, np.uint8)
        reader = _Cells(rows, constants, self._lists, self._missing, self._null)

        def numbers(at: int, name: str, part: tuple[str, str] | None) -> None:
            read_numbers(reader.cells(name, part), use, self._missing, values, status)
            with np.errstate(over="ignore"):
                out[at].view(np.float32)[:] = values

        for d, (name, part) in enumerate(self._numeric):
            numbers(d, name, part)
        at = len(self._numeric)
        for f, (name, part) in enumerate(self._categorical):
            self._codes(reader, name, part, self._tables.of_columns[f], out[at + f], found)
        at += len(self._categorical)
        target = self._schema.target
        if self._tables.of_classes is None:
            numbers(at, target.name, None)
        else:
            self._codes(reader, target.name, None, self._tables.of_classes, out[at], found)
            classes = np.array([np.nan] * FIRST_CODE + list(target.values), np.float32)
            out[at].view(np.float32)[:] = classes[out[at]]
        for extra in (self._schema.weight, self._schema.exposure):
            if extra is not None:
                at += 1
                numbers(at, extra, None)
        return out

    def _codes(
        self,
        reader: _Cells,
        name: str,
        part: tuple[str, str] | None,
        index: StringIndex,
        out: Codes,
        found: dict[str, FoundCodes],
    ) -> None:
        array = None if part else reader.dictionary(name)
        if array is None:
            index.find(as_text(reader.cells(name, part)), self._missing, out)
            return
        # A file's own dictionary: each of its values is looked up once for a row group.
        before = found.get(name)
        if before is None or not array.dictionary.equals(before.dictionary):
            values = pa.concat_arrays([plain(array.dictionary), pa.nulls(1, array.type.value_type)])
            codes = np.empty(len(values), np.int32)
            index.find(text_cells(values, null=self._null), self._missing, codes)
            before = found[name] = FoundCodes(array.dictionary, codes)
        np.take(before.codes, _places(array.indices, len(before.codes) - 1), out=out, mode="clip")


def _places(indices: pa.Array, null: int) -> npt.NDArray[np.int64]:
    """Return places in a dictionary, (n,) int64; `null` where there is none."""
    kind = np.dtype(indices.type.to_pandas_dtype())
    data = np.frombuffer(indices.buffers()[1], kind, count=indices.offset + len(indices))
    places = data[indices.offset :].astype(np.int64)
    if indices.null_count:
        places[nulls_of(indices)] = null
    return places


def _part(date_of: Any, part: Any) -> tuple[str, str] | None:
    return (date_of, part) if date_of and part else None


class _Cells:
    """The cells of one batch; columns of lists and of times are read once."""

    def __init__(
        self,
        rows: pa.RecordBatch,
        constants: Mapping[str, str | None],
        lists: Mapping[str, int],
        missing: MissingTexts,
        null: bytes,
    ) -> None:
        # Once: looking names up in a batch takes time in the square of its columns.
        self._columns = dict(zip(rows.schema.names, rows.columns, strict=True))
        self._n = rows.num_rows
        self._constants = constants
        self._widths = lists
        self._missing = missing
        self._null = null
        self._lists: dict[str, ListColumn] = {}
        self._times: dict[str, Times] = {}

    def cells(self, name: str, part: tuple[str, str] | None) -> Cells:
        """Return a stored column's cells."""
        if name in self._columns:
            return cells_of(self._columns[name], null=self._null)
        if part is not None:
            column = part[0]
            if column not in self._times:
                self._times[column] = Times(self.cells(column, None), self._missing)
            return PartValues(self._times[column], part[1])
        if name in self._constants:
            told = self._constants[name]
            text = self._null if told is None else told.encode()
            return constant_cells(text, self._n)
        column, _, place = name.rpartition(".")
        if column in self._columns and column in self._widths and place.isdecimal():
            if column not in self._lists:
                array = plain(self._columns[column])
                self._lists[column] = ListColumn(array, self._widths[column])
            return ListPlace(self._lists[column], int(place), null=self._null)
        raise SchemaError("is not there", where=f"column {name!r}", remedy="adopt it again")

    def dictionary(self, name: str) -> pa.DictionaryArray | None:
        """Return a column that is a dictionary of text, None if it is none."""
        array = self._columns.get(name)
        if array is None or not pa.types.is_dictionary(array.type):
            return None
        told = array.type.value_type
        if not is_text(told) or pa.types.is_string_view(told) or pa.types.is_binary_view(told):
            return None
        return array
