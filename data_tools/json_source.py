"""JSON lines as a source: one object a line, its fields found in a sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_tools.infer import MAX_BAD_SHARE
from data_tools.json_rows import LIST, OBJECT, JsonSplitter, Key, RowError, decode_line
from data_tools.source import PIECE_BYTES, Field, SourceEnd
from data_tools.table_source import MAX_COLUMNS
from data_tools.text_source import TextSource
from streamtrain.errors import SourceError

_PLACES = 64
_NUMBERS = {"int", "float"}
_FAMILIES = (
    {"int", "float", "text", "bool"}, {"list", "empty", "names"}, {"weights"}, {"object"},
)  # fmt: skip
"""Kinds of values that one column can hold together, or no column at all."""
_NUMBER_STARTS = frozenset(bytes([b]) for b in b"-0123456789n")
"""First bytes of numbers and null."""


@dataclass
class _Seen:
    """What a sample shows of a key."""

    kinds: Counter[str] = field(default_factory=Counter)
    widths: set[int] = field(default_factory=set)

    def common(self) -> set[str]:
        """Return the kinds of present values, less those that are rare among other ones.

        Text among numbers, a list among values, an object among lists: their rows are
        rejected, each with its reason.
        """
        present = sum(self.kinds.values()) - self.kinds["null"]
        kinds: set[str] = set()
        for family in _FAMILIES:
            if sum(self.kinds[kind] for kind in family) >= max(MAX_BAD_SHARE * present, 1):
                kinds |= family & set(self.kinds)
        few = self.kinds["text"] < MAX_BAD_SHARE * present
        return kinds - {"text"} if few and kinds - {"text"} <= _NUMBERS else kinds


class JsonSource(TextSource):
    """One file of JSON lines; parameters and errors are those of `TextSource`.

    Parameters
    ----------
    null : bytes
        How a cell that is null or left out is spelt: a text that reads as missing.
    strict : bool
        Reject a row with a key that no row of the sample has, rather than lose its value.
    bags : collection of str
        Keys of lists and objects of any length, whatever the sample has of them.

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
        bags: Collection[str] = (),
        encoding: str = "utf-8",
        ending: SourceEnd | None = None,
    ) -> None:
        self._null = null
        self._strict = strict
        self._bags = bags
        super().__init__(path, name, encoding=encoding, ending=ending)

    def _read_head(self, head: npt.NDArray[np.uint8], begin: int, n: int) -> tuple[Field, ...]:  # noqa: ARG002 (a sample says more)
        self.seen: dict[str, _Seen] = {}
        trouble = ""
        for piece in self._sample_pieces(_PLACES):
            for line in piece.buffer.data[piece.begin : piece.end].tobytes().split(b"\n"):
                if not line.strip():
                    continue
                try:
                    row = decode_line(line)
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
        self._keys: dict[str, Key] = {}
        fields: list[Field] = []
        for name, found in seen.items():
            kinds = found.common()
            told = _bag_kind(kinds, wanted=name in self._bags)
            if told:
                self._keys[name] = Key(told)
                fields.append(Field(name, "bag", "lists of names"))
                continue
            if kinds <= {"list", "empty"} and kinds:
                if len(found.widths) > 1:
                    raise SourceError(
                        f"field {name!r} holds lists of {min(found.widths)} to "
                        f"{max(found.widths)} values, expected one length",
                        where=self._name,
                        remedy="pad them",
                    )
                (width,) = found.widths
                self._keys[name] = Key("list", width)
                fields += [Field(f"{name}.{i}", "number", "a number") for i in range(width)]
                continue
            if kinds & {"list", "object", "names", "weights", "empty"}:
                self._keys[name] = Key("mixed")
                fields.append(Field(name, "other", "lists or objects"))
            elif kinds and kinds <= _NUMBERS:
                self._keys[name] = Key("int" if kinds == {"int"} else "float")
                fields.append(Field(name, "number", "a number"))
            elif kinds:
                self._keys[name] = Key(next(iter(kinds)) if len(kinds) == 1 else "mixed")
                fields.append(Field(name, "text", "text"))
            else:
                self._keys[name] = Key("null")
                fields.append(Field(name, "found", "null"))
        return tuple(fields)

    def adopt(self, seen: Mapping[str, _Seen]) -> None:
        """Take the fields that several files together have."""
        self._fields = self._fields_of(seen)

    def reading_bytes(self, wanted: Sequence[str]) -> int:  # noqa: ARG002 (the protocol's)
        """Return what lines, their text once more, and Arrow's tables of them take."""
        return 8 * PIECE_BYTES

    def splitter(self, wanted: Sequence[str], *, max_cells: int) -> JsonSplitter:
        """Return a splitter that keeps the wanted columns, in that order."""
        return JsonSplitter(
            wanted, self._keys, null=self._null, strict=self._strict, max_cells=max_cells
        )


def unite(sources: Sequence[JsonSource]) -> None:
    """Give files that are one table the same fields: all that any of them has."""
    whole: dict[str, _Seen] = {}
    for source in sources:
        for key, found in source.seen.items():
            together = whole.setdefault(key, _Seen())
            together.kinds += found.kinds
            together.widths |= found.widths
    for source in sources:
        source.adopt(whole)


def _bag_kind(kinds: set[str], *, wanted: bool) -> str:
    """Return the kind of a key whose values are of any length, "" of another."""
    if kinds == {"weights"}:
        return "weights"
    if "names" in kinds and kinds <= {"names", "empty"}:
        return "names"
    # What a model was trained on as lists may be nothing, or numbers alone, in other files.
    return "names" if wanted and kinds <= {"names", "empty", "list"} else ""


def _look(seen: _Seen, raw: bytes) -> None:
    first = raw[:1]
    if first == b'"':
        seen.kinds["text"] += 1
    elif first in {b"t", b"f"}:
        seen.kinds["bool"] += 1
    elif first == b"n":
        seen.kinds["null"] += 1
    elif first == b"{":
        numbers = all(bytes(v)[:1] in _NUMBER_STARTS for v in OBJECT.decode(raw).values())
        seen.kinds["weights" if numbers else "object"] += 1
    elif first == b"[":
        values = LIST.decode(raw)
        firsts = {bytes(v)[:1] for v in values}
        if firsts <= _NUMBER_STARTS:
            seen.kinds["list" if values else "empty"] += 1
            seen.widths.add(len(values))
        else:
            named = firsts <= _NUMBER_STARTS | {b'"'}
            seen.kinds["names" if named else "object"] += 1
    else:
        seen.kinds["float" if set(raw) & set(b".eE") else "int"] += 1
