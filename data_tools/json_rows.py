"""Lines of JSON into records: whole stretches by Arrow's parser, what it refuses line by line.

Arrow's parser is fast and says of a stretch only that something in it is wrong,
so a stretch that it refuses is halved until few lines are left; those are read
one by one, which gives each bad one its reason. Both ways give the same cells.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.json

from data_tools.source import Piece, Records, Rejection
from streamtrain.kernels.text import hash_names
from streamtrain.store.arrow_cells import ListColumn, ListPlace, cells_of
from streamtrain.store.bags import Keyed
from streamtrain.store.cells import Cells
from streamtrain.store.string_table import TextCells

OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
LIST = msgspec.json.Decoder(list[msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_BAD_JSON = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
_FEW_LINES = 64
_MAX_DEPTH = 64
"""Brackets of a line that Arrow is given: its parser recurses, and deep JSON ends the process."""
_NOT_JSON = re.compile(rb"[:,\[]\s*-?(?:NaN|Inf)|\x00|\\u0000")
"""What Arrow takes and JSON or our rows do not have: not-a-numbers, NUL."""
_TYPES = {
    "int": pa.int64(),
    "float": pa.float64(),
    "text": pa.string(),
    "bool": pa.bool_(),
    "null": pa.null(),
    "list": pa.list_(pa.float64()),
    "names": pa.list_(pa.string()),
}
_BAGS = {"names", "weights"}
Pairs = list[tuple[bytes, float]]


class RowError(Exception):
    """Why a line cannot be a row."""


@dataclass(frozen=True)
class Key:
    """A key of the objects.

    Parameters
    ----------
    kind : {"int", "float", "text", "bool", "null", "list", "names", "weights", "mixed"}
        "names" are lists of text of any length, "weights" objects of numbers.
    width : int
        Values of a list.
    """

    kind: str
    width: int = 0


def decode_line(line: bytes) -> dict[str, msgspec.Raw]:
    """Return the values of a line by key.

    Raises
    ------
    RowError
        If it is no JSON object.
    """
    try:
        if not line.isascii():
            line.decode()
        return OBJECT.decode(line)
    except UnicodeDecodeError as error:
        raise RowError("not UTF-8") from error
    except msgspec.ValidationError as error:
        raise RowError("not a JSON object") from error
    except _BAD_JSON as error:
        first = (str(error).splitlines() or ["?"])[0][:120]
        raise RowError(f"not JSON: {first}") from error


class JsonSplitter:
    """Turns lines of JSON into records.

    Parameters
    ----------
    wanted : sequence of str
        Names of fields: keys, or places of lists, ``key.0``.
    keys : mapping of str to Key
        All that the source has.
    null : bytes
        How a cell that is null or left out is spelt.
    strict : bool
        Reject a row with another key.
    max_cells : int
    """

    def __init__(
        self,
        wanted: Sequence[str],
        keys: Mapping[str, Key],
        *,
        null: bytes,
        strict: bool,
        max_cells: int,
    ) -> None:
        places = {f"{k}.{i}": (k, i) for k, key in keys.items() for i in range(key.width)}
        self._wanted = [places.get(name, (name, -1)) for name in wanted]
        self._used = {name: keys[name] for name, _ in self._wanted}
        self._keys = keys
        self._null = null
        self._strict = strict
        self._max_records = max(max_cells // max(len(wanted), 8), 1)
        self._n_lists = sum(key.kind in {"list", *_BAGS} for key in keys.values())
        # Keys that nobody wants are inferred, not left out: only so an unknown one shows.
        self._options = pa.json.ParseOptions(
            explicit_schema=self._schema(),
            newlines_in_values=False,
            unexpected_field_behavior="infer" if strict else "ignore",
        )

    def _schema(self) -> pa.Schema | None:
        fields = []
        for name, key in self._used.items():
            if key.kind not in _TYPES:
                return None  # Arrow would make a column of every name
            fields.append((name, _TYPES[key.kind]))
        return pa.schema(fields)

    def split(self, piece: Piece) -> Iterator[Records]:
        """Yield the records of a piece."""
        lines = piece.buffer.data[piece.begin : piece.end].tobytes().split(b"\n")
        if not lines[-1]:
            lines.pop()
        for start in range(0, max(len(lines), 1), self._max_records):
            part = lines[start : start + self._max_records]
            yield from self._stretch(part, is_last=start + self._max_records >= len(lines))

    def _stretch(self, lines: list[bytes], *, is_last: bool) -> Iterator[Records]:
        records = self._by_arrow(lines, is_last=is_last)
        if records is not None:
            yield records
        elif len(lines) <= _FEW_LINES or self._options.explicit_schema is None:
            yield self._by_line(lines, is_last=is_last)
        else:
            middle = len(lines) // 2
            yield from self._stretch(lines[:middle], is_last=False)
            yield from self._stretch(lines[middle:], is_last=is_last)

    def _by_arrow(self, lines: list[bytes], *, is_last: bool) -> Records | None:
        """Return the records of lines that are all sound, None if that is not certain."""
        text = b"\n".join(lines)
        if self._options.explicit_schema is None or not self._is_tame(text, lines):
            return None
        try:
            if not text.isascii():
                text.decode()
            table = pa.json.read_json(
                pa.BufferReader(text),
                read_options=pa.json.ReadOptions(use_threads=False, block_size=len(text) + 1),
                parse_options=self._options,
            )
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError):
            return None
        if table.num_rows != len(lines) or (
            self._strict and not self._keys.keys() >= set(table.column_names)
        ):
            return None
        columns = {name: _one_array(table.column(name)) for name in self._used}
        lists = {k: ListColumn(columns[k], v.width) for k, v in self._used.items() if v.width}
        if any((told.n_values != told.width).any() for told in lists.values()):
            return None
        cells: list[Cells] = [
            ListPlace(lists[name], place, null=self._null)
            if place >= 0
            else cells_of(columns[name], null=self._null)
            for name, place in self._wanted
        ]
        n = len(lines)
        return _records(cells, list(range(n)), [], lines, is_last=is_last)

    def _is_tame(self, text: bytes, lines: list[bytes]) -> bool:
        """Return whether each line is one object as far as its ends tell, and none is deep."""
        whole = text.count(b"}\n{") == len(lines) - 1 and text[:1] == b"{" and text[-1:] == b"}"
        if not whole or _NOT_JSON.search(text):
            return False
        deeper = text.count(b"[") + text.count(b"{") - len(lines)
        if deeper <= _MAX_DEPTH:
            return True
        most = _MAX_DEPTH + self._n_lists
        return self._n_lists > 0 and all(x.count(b"[") + x.count(b"{") <= most for x in lines)

    def _by_line(self, lines: list[bytes], *, is_last: bool) -> Records:
        cells: list[list[Any]] = [[] for _ in self._wanted]
        places: list[int] = []
        rejections: list[Rejection] = []
        bags = [self._keys[name].kind in _BAGS for name, _ in self._wanted]
        empty: list[bytes | Pairs] = [[] if is_bag else b"" for is_bag in bags]
        for at, line in enumerate(lines):
            if not line.strip():
                continue
            try:
                row = self._row(line)
            except RowError as error:
                rejections.append(Rejection(len(places), str(error)))
                row = empty
            places.append(at)
            for column, cell in zip(cells, row, strict=True):
                column.append(cell)
        joined: list[Cells] = [
            _keyed(column) if is_bag else _joined(column)
            for column, is_bag in zip(cells, bags, strict=True)
        ]
        return _records(joined, places, rejections, lines, is_last=is_last)

    def _row(self, line: bytes) -> list[bytes | Pairs]:
        found = decode_line(line)
        if self._strict and not found.keys() <= self._keys.keys():
            new = next(key for key in found if key not in self._keys)
            raise RowError(f"a field that no row of the sample has: {new!r}")
        row: list[bytes | Pairs] = []
        lists: dict[str, list[bytes]] = {}
        for name, place in self._wanted:
            if place >= 0 and name not in lists:
                lists[name] = self._list(name, found)
            raw = found.get(name)
            if self._keys[name].kind in _BAGS:
                row.append(self._pairs(raw, name))
                continue
            if place >= 0:
                cell = lists[name][place]
            else:
                cell = self._null if raw is None else self._cell(bytes(raw), name)
            if b"\0" in cell:
                raise RowError("NUL byte")
            row.append(cell)
        return row

    def _list(self, name: str, found: Mapping[str, msgspec.Raw]) -> list[bytes]:
        width = self._keys[name].width
        raw = found.get(name)
        if raw is None or bytes(raw) == b"null":
            return [self._null] * width
        try:
            values = LIST.decode(raw)
        except msgspec.DecodeError as error:
            raise RowError(f"{name}: no list") from error
        if len(values) != width:
            raise RowError(f"{name}: {len(values)} values, expected {width}")
        return [self._cell(bytes(value), name) for value in values]

    def _pairs(self, raw: msgspec.Raw | None, name: str) -> Pairs:
        """Return the names of a list or an object with their numbers; null is left out."""
        if raw is None or bytes(raw) == b"null":
            return []
        weighted = bytes(raw)[:1] == b"{"
        try:
            if weighted:
                told = {k.encode(): bytes(v) for k, v in OBJECT.decode(raw).items()}
                pairs = [(k, float(v)) for k, v in told.items() if v != b"null"]
            else:
                items = [bytes(v) for v in LIST.decode(raw)]
                pairs = [(self._cell(v, name), 1.0) for v in items if v != b"null"]
        except (*_BAD_JSON, ValueError) as error:
            what = "a value that is no number" if weighted else "no list of names"
            raise RowError(f"{name}: {what}") from error
        if any(b"\0" in key for key, _ in pairs):
            raise RowError("NUL byte")
        return pairs

    def _cell(self, raw: bytes, name: str) -> bytes:
        """Return a value as the cell that Arrow would make of it, or CSV would have."""
        first = raw[:1]
        if first == b'"':
            if b"\\" not in raw:
                return raw[1:-1]
            try:
                return _TEXT.decode(raw).encode()
            except (*_BAD_JSON, UnicodeEncodeError) as error:
                raise RowError(f"{name}: text that is not Unicode") from error
        if first == b"n":
            return self._null
        if first in {b"[", b"{"}:
            raise RowError(
                f"{name}: {'a list' if first == b'[' else 'an object'}, expected a value"
            )
        return _spelt(raw, self._keys[name].kind) if first not in {b"t", b"f"} else raw


def _spelt(raw: bytes, kind: str) -> bytes:
    """Return a number as Arrow spells it in a column of its kind; other kinds keep the spelling."""
    if kind == "int" and not set(raw) & set(b".eE"):
        return b"0" if raw == b"-0" else raw
    if kind in {"int", "float", "list"}:
        return bytes(pa.scalar(float(raw)).cast(pa.string()).as_buffer())
    return raw


def _records(
    cells: Sequence[Cells],
    places: list[int],
    rejections: Sequence[Rejection],
    lines: list[bytes],
    *,
    is_last: bool,
) -> Records:
    n = len(places)
    good = np.ones(n, np.uint8)
    good[[r.record for r in rejections]] = 0
    return Records(
        n_records=n,
        cells=cells,
        good=good,
        rejections=tuple(rejections),
        lines=np.array(places, np.int32),
        n_lines=len(lines),
        n_blank=len(lines) - n,
        text=_texts(lines, places),
        is_last=is_last,
    )


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    chunks = column.chunks
    return chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks or [pa.nulls(0, column.type)])


def _texts(lines: list[bytes], places: list[int]) -> Callable[[int], bytes]:
    return lambda i: lines[places[i]].rstrip(b"\r")


def _keyed(rows: list[Pairs]) -> Keyed:
    """Return the names and numbers of rows."""
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    names = _joined([name for row in rows for name, _ in row])
    with np.errstate(over="ignore"):
        values = np.array([value for row in rows for _, value in row]).astype(np.float32)
    keys = np.empty(len(values), np.uint64)
    hash_names(names.data, names.starts.astype(np.int64), names.stops.astype(np.int64), keys)
    return Keyed(offsets, keys, values)


def _joined(cells: list[bytes]) -> TextCells:
    offsets = np.zeros(len(cells) + 1, np.int64)
    np.cumsum([len(cell) for cell in cells], out=offsets[1:])
    data = np.frombuffer(bytearray().join([*cells, bytes(8)]), np.uint8)
    bounds = offsets.astype(np.int32)
    return TextCells(data, bounds[:-1].copy(), bounds[1:].copy())
