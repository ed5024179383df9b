"""Arrow record batches as a source: all that a columnar file, a query or an array needs.

A new kind of file is a `TableReader`: a schema, and batches in order. Rows are
counted from 1 in the order of the batches, so a rejected one can be found again.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from data_tools.source import (
    PIECE_BYTES,
    Field,
    Piece,
    PieceBuffer,
    Records,
    Rejection,
    SourceEnd,
)
from data_tools.table_pieces import cut
from streamtrain.errors import SourceError
from streamtrain.store.arrow_cells import (
    MAX_CELL_BYTES,
    ListColumn,
    ListPlace,
    cells_of,
    check_array,
    describe,
    kind_of,
    list_of_numbers,
    plain,
    plain_type,
)
from streamtrain.store.cells import Cells, constant_cells
from streamtrain.store.string_table import TextCells

MAX_COLUMNS = 100_000
_NAMELESS = re.compile(r"__index_level_\d+__")
_MAX_METADATA_BYTES = 16 << 20
SAMPLE_ROWS = 1024
"""Rows from each place of a sample."""


@dataclass(frozen=True)
class TableBatch:
    """Consecutive rows, and the stored bytes that are behind them (for progress)."""

    rows: pa.RecordBatch
    n_bytes: int


class TableReader(ABC):
    """One file (or query, or object) of rows as Arrow batches: what a new source implements.

    Parameters
    ----------
    name : str
        What messages call it.
    schema : pa.Schema
    n_bytes : int
        Size as stored, 0 where nothing is.
    n_rows : int or None
        Where it is known before reading.
    positional : bool
        Whether the columns have no names of their own but positions, "0", "1", ...
    weight : str or None
        The column of row weights, where the source says which it is.
    aside : collection of str
        Columns that are no features unless an option names them.
    n_codes : mapping of str to int
        Of each column of lists whose keys are indices below that.
    row_entries : mapping of str to float
        Of columns of lists, about how many entries a row has, where that is known.
    """

    name: str
    schema: pa.Schema
    n_bytes: int = 0
    n_rows: int | None = None
    positional: bool = False
    weight: str | None = None
    aside: Collection[str] = ()
    n_codes: Mapping[str, int] = MappingProxyType({})
    row_entries: Mapping[str, float] = MappingProxyType({})

    @abstractmethod
    def batches(self, columns: Sequence[str]) -> Iterator[TableBatch]:
        """Yield all rows in order, with at least the columns named.

        A batch is at most a few megabytes, or a view into what is there anyway.

        Raises
        ------
        SourceError
            If the data is damaged, or changed since it was opened.
        """

    @abstractmethod
    def end(self) -> SourceEnd:
        """Return size and digest of what was read, after `batches` is exhausted.

        Raises
        ------
        SourceError
            If the source changed while it was read.
        """

    def sample(self, columns: Sequence[str], n_places: int) -> Iterator[pa.RecordBatch]:
        """Yield a few rows from evenly spread places, at best; from the start, at least."""
        n = 0
        for batch in self.batches(columns):
            yield batch.rows.slice(0, n_places * SAMPLE_ROWS - n)
            n += batch.rows.num_rows
            if n >= n_places * SAMPLE_ROWS:
                return

    def reading_bytes(self, columns: Sequence[str]) -> int:  # noqa: ARG002 (for those that need some)
        """Return the memory that `batches` takes beside the batches."""
        return 0


def _nameless_index(schema: pa.Schema) -> set[str]:
    """Return the columns that are pandas' numbers of rows: nobody's, and no feature."""
    raw = (schema.metadata or {}).get(b"pandas", b"")
    if len(raw) > _MAX_METADATA_BYTES:
        return set()
    try:
        told = msgspec.json.decode(raw, type=_PandasMetadata)
    except (msgspec.DecodeError, RecursionError):
        return set()
    return {
        name for name in told.index_columns if isinstance(name, str) and _NAMELESS.fullmatch(name)
    }


class _PandasMetadata(msgspec.Struct):
    index_columns: list[Any] = []


class TableSource:
    """A `TableReader` as a source of rows.

    Parameters
    ----------
    reader : TableReader
    constants : mapping of str to (str or None)
        Columns with one value in all rows (the ``k=v`` of its directories). A
        column of the file with that name goes before it.
    null : bytes
        How a null is spelt as text: one that reads as missing.

    Raises
    ------
    SourceError
        If it has too many columns, or lists of several lengths.
    """

    unit = "row"
    delimiter = ""
    header_blank = 0

    def __init__(
        self,
        reader: TableReader,
        constants: Mapping[str, str | None] | None = None,
        *,
        null: bytes = b"",
    ) -> None:
        self._null = null
        self._reader = reader
        self.name = reader.name
        self.positional = reader.positional
        self.weight = reader.weight
        self._constants: dict[str, str | None] = {}
        self._places: dict[str, tuple[str, int]] = {}
        self._widths: dict[str, int] = {}
        fields: list[Field] = []
        twice = Counter(reader.schema.names).most_common(1)
        if twice and twice[0][1] > 1:
            # Not later: nothing could be sampled by name.
            raise SourceError(
                f"the column name {twice[0][0]!r} occurs twice",
                where=self.name,
                remedy="rename one",
            )
        nameless = _nameless_index(reader.schema)
        for column in reader.schema:
            if column.name in nameless:
                continue
            told = plain_type(column.type)
            if list_of_numbers(told):
                width = self._width(column.name, told)
                if width is None:
                    # Names in any number: item numbers, say.
                    self._places[column.name] = (column.name, -1)
                    fields.append(Field(column.name, "bag", describe(column.type)))
                    continue
                self._widths[column.name] = width
                for place in range(width):
                    name = f"{column.name}.{place}"
                    self._places[name] = (column.name, place)
                    fields.append(Field(name, "number", describe(told.value_type)))
            else:
                self._places[column.name] = (column.name, -1)
                fields.append(
                    Field(
                        column.name,
                        kind_of(told),
                        describe(column.type),
                        n_codes=reader.n_codes.get(column.name, 0),
                        role="aside" if column.name in reader.aside else "",
                        row_entries=reader.row_entries.get(column.name, 0.0),
                    )
                )
            if len(fields) > MAX_COLUMNS:
                raise SourceError(f"more than {MAX_COLUMNS:,} columns", where=self.name)
        for name, value in (constants or {}).items():
            if name not in self._places:
                self._constants[name] = value
                fields.append(Field(name, "found"))
        self.fields = tuple(fields)

    def _width(self, name: str, told: pa.DataType) -> int | None:
        """Return the length of a column's lists, None where whole numbers have several."""
        if pa.types.is_fixed_size_list(told):
            return int(told.list_size)
        found: set[int] = set()
        for batch in self._reader.sample([name], 1):
            column = plain(batch.column(name))
            found.update(np.unique(ListColumn(column, -1).n_values).tolist())
        found.discard(-1)
        if len(found) > 1 and pa.types.is_integer(told.value_type):
            return None
        if len(found) > 1:
            raise SourceError(
                f"column {name!r} holds lists of {min(found)} to {max(found)} values, "
                "expected one length",
                where=self.name,
                remedy=f"pad them, or give --drop {name}",
            )
        return next(iter(found), 1)

    @property
    def n_bytes(self) -> int:
        """Size as stored."""
        return self._reader.n_bytes

    @property
    def n_rows(self) -> int | None:
        """Rows, where the reader knows."""
        return self._reader.n_rows

    def expansion(self) -> float:
        """Return decoded bytes for each stored byte, roughly."""
        return 3.0

    def reading_bytes(self, wanted: Sequence[str]) -> int:
        """Return the memory that reading takes beside the pieces."""
        return self._reader.reading_bytes(self._columns(wanted))

    def _columns(self, wanted: Sequence[str]) -> list[str]:
        names = dict.fromkeys(self._places[n][0] for n in wanted if n in self._places)
        # Without any column nothing would tell how many rows there are.
        return list(names) or self._reader.schema.names[:1]

    def pieces(
        self, index: int, take: Callable[[], PieceBuffer], wanted: Sequence[str]
    ) -> Iterator[Piece]:
        """Yield the rows in order, a few megabytes at a time."""
        bags = {f.name for f in self.fields if f.kind == "bag"}.intersection(wanted)
        for batch in self._reader.batches(self._columns(wanted)):
            for rows in cut(batch.rows, sorted(bags)):
                yield Piece(index, take(), 0, rows.nbytes, batch.n_bytes, batch=rows)

    def end(self) -> SourceEnd:
        """Return size and digest, after `pieces` is exhausted."""
        return self._reader.end()

    def splitter(self, wanted: Sequence[str], *, max_cells: int) -> TableSplitter:
        """Return a splitter that keeps the wanted columns, in that order."""
        return TableSplitter(
            self.name,
            wanted,
            self._places,
            self._widths,
            self._constants,
            null=self._null,
            max_cells=max_cells,
        )

    def sample(self, wanted: Sequence[str], *, n_places: int) -> Iterator[Records]:
        """Yield records from a few places."""
        splitter = self.splitter(wanted, max_cells=PIECE_BYTES // 8)
        for rows in self._reader.sample(self._columns(wanted), n_places):
            for part in cut(rows):
                yield from splitter.split(Piece(0, PieceBuffer(0), 0, part.nbytes, 0, batch=part))


class TableSplitter:
    """Turns batches into records.

    Parameters
    ----------
    name : str
        Of the source.
    wanted : sequence of str
    places : mapping of str to (str, int)
        Column of the batch, and place in its lists (-1: it has none), by field.
    widths : mapping of str to int
        Of the columns of lists.
    constants : mapping of str to (str or None)
    null : bytes
    max_cells : int
    """

    def __init__(
        self,
        name: str,
        wanted: Sequence[str],
        places: Mapping[str, tuple[str, int]],
        widths: Mapping[str, int],
        constants: Mapping[str, str | None],
        *,
        null: bytes,
        max_cells: int,
    ) -> None:
        self._name = name
        self._wanted = wanted
        self._places = places
        self._widths = widths
        self._constants = constants
        self._null = null
        self._max_records = max(max_cells // max(len(wanted), 8), 1)

    def split(self, piece: Piece) -> Iterator[Records]:
        """Yield the records of a piece.

        Raises
        ------
        SourceError
            If Arrow's data does not hold together.
        """
        rows = piece.batch
        for start in range(0, max(rows.num_rows, 1), self._max_records):
            chunk = rows.slice(start, self._max_records)
            yield self._records(chunk, is_last=start + self._max_records >= rows.num_rows)

    def _records(self, rows: pa.RecordBatch, *, is_last: bool) -> Records:
        n = rows.num_rows
        reasons: dict[int, str] = {}
        # Once: looking names up in a batch takes time in the square of its columns.
        columns = dict(zip(rows.schema.names, rows.columns, strict=True))
        for name in dict.fromkeys(self._places[w][0] for w in self._wanted if w in self._places):
            columns[name] = plain(check_array(columns[name], name, self._name, reasons))
        lists = {c: ListColumn(columns[c], w) for c, w in self._widths.items() if c in columns}
        for name, told in lists.items():
            for i in np.flatnonzero(told.n_values != told.width):
                reasons.setdefault(
                    int(i), f"{name}: {told.n_values[i]} values, expected {told.width}"
                )
        cells = [self._cells(columns, lists, name, n) for name in self._wanted]
        for name, column in zip(self._wanted, cells, strict=True):
            if isinstance(column, TextCells) and len(column.data) > MAX_CELL_BYTES:
                for i in np.flatnonzero(column.stops - column.starts > MAX_CELL_BYTES):
                    reasons.setdefault(int(i), f"{name}: longer than {MAX_CELL_BYTES:,} bytes")
        good = np.ones(n, np.uint8)
        good[list(reasons)] = 0
        return Records(
            n_records=n,
            cells=cells,
            good=good,
            rejections=tuple(Rejection(i, reasons[i]) for i in sorted(reasons)),
            lines=np.arange(n, dtype=np.int32),
            n_lines=n,
            n_blank=0,
            text=lambda i: _as_json(rows, i),
            is_last=is_last,
        )

    def _cells(
        self,
        columns: Mapping[str, pa.Array],
        lists: Mapping[str, ListColumn],
        name: str,
        n: int,
    ) -> Cells:
        if name in self._constants:
            told = self._constants[name]
            value = self._null if told is None else told.encode()
            return constant_cells(value, n)
        column, place = self._places[name]
        if place >= 0:
            return ListPlace(lists[column], place, null=self._null)
        return cells_of(columns[column], null=self._null)


def _as_json(rows: pa.RecordBatch, i: int) -> bytes:
    """Return a row as JSON: the verbatim row of a file that is no text."""
    found: dict[str, Any] = {}
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        value = column[i]
        try:
            found[name] = value.as_py()
        except UnicodeDecodeError:
            text = value.value if isinstance(value, pa.DictionaryScalar) else value
            found[name] = bytes(text.as_buffer()).decode(errors="backslashreplace")
        except ValueError:  # nanoseconds want pandas
            found[name] = value.cast(pa.string()).as_py()
    return json.dumps(found, default=str, ensure_ascii=False).encode("utf-8", "backslashreplace")
