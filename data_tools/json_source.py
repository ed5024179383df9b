"""JSON lines as a source: one object a line, its fields found in a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from data_tools.source import Field, Piece, Records, Rejection, SourceEnd, names_of
from data_tools.table_source import MAX_COLUMNS
from data_tools.text_source import TextSource
from streamtrain.errors import SourceError
from streamtrain.store.string_table import TextCells

_PLACES = 64
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_BAD_JSON = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


@dataclass
class _Seen:
    """What a sample shows of a key."""

    kinds: set[str] = field(default_factory=set)
    widths: set[int] = field(default_factory=set)


class RowError(Exception):
    """Why a line cannot be a row."""


class JsonSource(TextSource):
    """One file of JSON lines; parameters and errors are those of `TextSource`.

    Parameters
    ----------
    null : bytes
        How a cell that is null or left out is spelt: a text that reads as missing.
    strict : bool
        Reject a row with a key that no row of the sample has, rather than lose its value.

    Raises
    ------
    SourceError
        If no line of the sample is an object, or lists have several lengths.
    """

    hint = "check that it is JSON lines, one object a line"

    def __init__(
        self,
        path: Path,
        name: str,
        *,
        null: bytes = b"",
        strict: bool = True,
        encoding: str = "utf-8",
        ending: SourceEnd | None = None,
    ) -> None:
        self._null = null
        self._strict = strict
        super().__init__(path, name, encoding=encoding, ending=ending)

    def _read_head(self, head: npt.NDArray[np.uint8], begin: int, n: int) -> tuple[Field, ...]:  # noqa: ARG002 (a sample says more)
        self.seen: dict[str, _Seen] = {}
        trouble = ""
        for piece in self._sample_pieces(_PLACES):
            for line in piece.buffer.data[piece.begin : piece.end].tobytes().split(b"\n"):
                if not line.strip():
                    continue
                try:
                    row = _decoded(line)
                except RowError as error:
                    trouble = trouble or str(error)
                    continue
                for key, raw in row.items():
                    _look(self.seen.setdefault(key, _Seen()), bytes(raw))
            if len(self.seen) > MAX_COLUMNS:
                raise SourceError(f"more than {MAX_COLUMNS:,} columns", where=self._name)
        if not self.seen:
            raise SourceError(
                f"no row can be used: {trouble or 'objects without fields'}",
                where=self._name,
                remedy="give JSON lines, one object a line",
            )
        return self._fields_of(self.seen)

    def _fields_of(self, seen: Mapping[str, _Seen]) -> tuple[Field, ...]:
        self._widths: dict[str, int] = {}
        fields: list[Field] = []
        for key, found in seen.items():
            if "list" in found.kinds and found.kinds <= {"list", "null"}:
                if len(found.widths) > 1:
                    raise SourceError(
                        f"field {key!r} holds lists of {min(found.widths)} to "
                        f"{max(found.widths)} values, expected one length",
                        where=self._name,
                        remedy="pad them",
                    )
                self._widths[key] = width = next(iter(found.widths))
                fields += [Field(f"{key}.{i}", "number", "a number") for i in range(width)]
            elif found.kinds & {"list", "object"}:
                fields.append(Field(key, "other", "lists or objects"))
            elif found.kinds & {"text", "bool"}:
                fields.append(Field(key, "text", "text"))
            else:
                known = "number" in found.kinds
                fields.append(Field(key, "number" if known else "found", "a number"))
        return tuple(fields)

    def adopt(self, seen: Mapping[str, _Seen]) -> None:
        """Take the fields that several files together have."""
        self._fields = self._fields_of(seen)

    def splitter(self, wanted: Sequence[str], *, max_cells: int) -> JsonSplitter:
        """Return a splitter that keeps the wanted columns, in that order."""
        known = None
        if self._strict:
            known = frozenset(names_of(self._fields)) | frozenset(self._widths)
        return JsonSplitter(wanted, self._widths, null=self._null, known=known, max_cells=max_cells)


def unite(sources: Sequence[JsonSource]) -> None:
    """Give files that are one table the same fields: all that any of them has."""
    whole: dict[str, _Seen] = {}
    for source in sources:
        for key, found in source.seen.items():
            together = whole.setdefault(key, _Seen())
            together.kinds |= found.kinds
            together.widths |= found.widths
    for source in sources:
        source.adopt(whole)


def _look(seen: _Seen, raw: bytes) -> None:
    first = raw[:1]
    if first == b'"':
        seen.kinds.add("text")
    elif first in {b"t", b"f"}:
        seen.kinds.add("bool")
    elif first == b"n":
        seen.kinds.add("null")
    elif first == b"{":
        seen.kinds.add("object")
    elif first == b"[":
        values = _LIST.decode(raw)
        numbers = all(bytes(v)[:1] in b"-0123456789n" for v in values)
        seen.kinds.add("list" if numbers else "object")
        seen.widths.add(len(values))
    else:
        seen.kinds.add("number")


def _decoded(line: bytes) -> dict[str, msgspec.Raw]:
    try:
        if not line.isascii():
            line.decode()
        return _OBJECT.decode(line)
    except UnicodeDecodeError as error:
        raise RowError("not UTF-8") from error
    except msgspec.ValidationError as error:
        raise RowError("not a JSON object") from error
    except _BAD_JSON as error:
        raise RowError(f"not JSON: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["?"])[0][:120]


def _cell(raw: bytes, key: str, null: bytes) -> bytes:
    """Return a value as the cell that CSV would have; numbers as they are spelt."""
    first = raw[:1]
    if first == b'"':
        if b"\\" not in raw:
            return raw[1:-1]
        try:
            return _TEXT.decode(raw).encode()
        except (*_BAD_JSON, UnicodeEncodeError) as error:
            raise RowError(f"{key}: text that is not Unicode") from error
    if first == b"n":
        return null
    if first in {b"[", b"{"}:
        raise RowError(f"{key}: {'a list' if first == b'[' else 'an object'}, expected a value")
    return raw


class JsonSplitter:
    """Turns lines of JSON into records.

    Parameters
    ----------
    wanted : sequence of str
    widths : mapping of str to int
        Values of the lists, by key.
    null : bytes
    known : frozenset of str or None
        Keys that a row may have, None for any.
    max_cells : int
    """

    def __init__(
        self,
        wanted: Sequence[str],
        widths: Mapping[str, int],
        *,
        null: bytes,
        known: frozenset[str] | None,
        max_cells: int,
    ) -> None:
        places = {f"{key}.{i}": (key, i) for key, width in widths.items() for i in range(width)}
        self._wanted = [places.get(name, (name, -1)) for name in wanted]
        self._lists = {
            key: width
            for key, width in widths.items()
            if any(key == name and i >= 0 for name, i in self._wanted)
        }
        self._null = null
        self._known = known
        self._max_records = max(max_cells // max(len(wanted), 8), 1)

    def split(self, piece: Piece) -> Iterator[Records]:
        """Yield the records of a piece."""
        text = piece.buffer.data[piece.begin : piece.end].tobytes()
        lines = text.split(b"\n")
        if not lines[-1]:
            lines.pop()
        for start in range(0, max(len(lines), 1), self._max_records):
            part = lines[start : start + self._max_records]
            yield self._records(part, is_last=start + self._max_records >= len(lines))

    def _records(self, lines: list[bytes], *, is_last: bool) -> Records:
        cells: list[list[bytes]] = [[] for _ in self._wanted]
        places: list[int] = []
        reasons: list[Rejection] = []
        empty = [b""] * len(self._wanted)
        for at, line in enumerate(lines):
            if not line.strip():
                continue
            try:
                row = self._row(line)
            except RowError as error:
                reasons.append(Rejection(len(places), str(error)))
                row = empty
            places.append(at)
            for column, cell in zip(cells, row, strict=True):
                column.append(cell)
        n = len(places)
        good = np.ones(n, np.uint8)
        good[[r.record for r in reasons]] = 0
        return Records(
            n_records=n,
            cells=[_joined(column) for column in cells],
            good=good,
            rejections=tuple(reasons),
            lines=np.array(places, np.int32),
            n_lines=len(lines),
            n_blank=len(lines) - n,
            text=_texts(lines, places),
            is_last=is_last,
        )

    def _row(self, line: bytes) -> list[bytes]:
        found = _decoded(line)
        if self._known is not None and not found.keys() <= self._known:
            new = next(key for key in found if key not in self._known)
            raise RowError(f"a field that no row of the sample has: {new!r}")
        lists = {key: self._list(key, found, width) for key, width in self._lists.items()}
        row: list[bytes] = []
        for key, place in self._wanted:
            if place >= 0:
                row.append(lists[key][place])
                continue
            raw = found.get(key)
            cell = self._null if raw is None else _cell(bytes(raw), key, self._null)
            if b"\0" in cell:
                raise RowError("NUL byte")
            row.append(cell)
        return row

    def _list(self, key: str, found: Mapping[str, msgspec.Raw], width: int) -> list[bytes]:
        raw = found.get(key)
        if raw is None or bytes(raw) == b"null":
            return [self._null] * width
        try:
            values = _LIST.decode(raw)
        except msgspec.DecodeError as error:
            raise RowError(f"{key}: no list") from error
        if len(values) != width:
            raise RowError(f"{key}: {len(values)} values, expected {width}")
        return [_cell(bytes(value), key, self._null) for value in values]


def _texts(lines: list[bytes], places: list[int]) -> Callable[[int], bytes]:
    return lambda i: lines[places[i]].rstrip(b"\r")


def _joined(cells: list[bytes]) -> TextCells:
    offsets = np.zeros(len(cells) + 1, np.int64)
    np.cumsum([len(cell) for cell in cells], out=offsets[1:])
    data = np.frombuffer(bytearray().join([*cells, bytes(8)]), np.uint8)
    bounds = offsets.astype(np.int32)
    return TextCells(data, bounds[:-1].copy(), bounds[1:].copy())
