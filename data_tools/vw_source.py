"""Vowpal Wabbit's text as a source: label, importance, tag, and a bag of each namespace."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_tools.entry_cells import MAX_ROW_ENTRIES, EntryRoom
from data_tools.source import NUMBERS_ALONE, Field, Piece, PieceBuffer, Records, SourceEnd
from data_tools.text_source import BUFFER_BYTES, TEXT_BYTES, TextSource
from streamtrain.errors import SourceError
from streamtrain.kernels import vw_rows
from streamtrain.kernels.text import hash_names

MAX_NAMESPACES = 256
CELLS = ("label", "importance", "tag")
NAMELESS = "features"
"""The namespace without a name."""
_MAX_NAME_BYTES = 1024
_REASONS = {
    vw_rows.NO_BAR: "no | in the line",
    vw_rows.LABEL: "not [label [importance [base]]] ['tag]",
    vw_rows.SEVERAL_LINES: "an example of several lines",
    vw_rows.COSTS: "a label of costs or actions, expected a number",
    vw_rows.BASE: "a base that is not 0",
    vw_rows.NO_NAMESPACE: "a namespace's scale without its name",
    vw_rows.BAD_NAMESPACE: "a namespace whose name is no text",
    vw_rows.NO_NAME: "a value without a name",
    vw_rows.VALUE: "a value that is not a finite number",
    vw_rows.TOO_MANY: f"more than {MAX_ROW_ENTRIES:,} features",
    vw_rows.NOT_UTF8: "not UTF-8",
}


def hash_of(name: str) -> int:
    """Return the hash of a name, as of those in lists."""
    data = np.frombuffer(name.encode() + bytes(8), np.uint8)
    out = np.empty(1, np.uint64)
    hash_names(data, np.zeros(1, np.int64), np.array([len(data) - 8]), out)
    return int(out[0])


class VwSource(TextSource):
    """One file of VW's text; parameters and errors are those of `TextSource`.

    Parameters
    ----------
    namespaces : sequence of str or None
        Those that there are, whatever the file has. None finds them by reading the
        file once.

    Raises
    ------
    SourceError
        If there are more than `MAX_NAMESPACES`, or none.
    """

    hint = "check that it is Vowpal Wabbit's text, one example a line"

    def __init__(
        self,
        path: Path,
        name: str,
        *,
        namespaces: Sequence[str] | None = None,
        encoding: str = "utf-8",
        ending: SourceEnd | None = None,
    ) -> None:
        self._told = namespaces
        super().__init__(path, name, encoding=encoding, ending=ending)

    def _read_head(self, head: npt.NDArray[np.uint8], begin: int, n: int) -> tuple[Field, ...]:  # noqa: ARG002 (a scan says more)
        found = self._scan() if self._told is None else dict.fromkeys(self._told, 0.0)
        self.entries: dict[str, float] = {}
        """Entries of a row, about, by namespace."""
        return self._fields_of(found)

    def _fields_of(self, entries: Mapping[str, float]) -> tuple[Field, ...]:
        self.entries = dict(entries)
        return (
            Field("label", role="target"),
            Field("importance", "number", NUMBERS_ALONE, role="aside"),
            Field("tag", "text", role="aside"),
            *(
                Field(column_of(name), "bag", "features", row_entries=mean)
                for name, mean in entries.items()
            ),
        )

    def adopt(self, entries: Mapping[str, float]) -> None:
        """Take the namespaces that several files together have."""
        self._fields = self._fields_of(entries)

    def _scan(self) -> dict[str, float]:
        hashes = np.zeros(MAX_NAMESPACES, np.uint64)
        counts = np.zeros(MAX_NAMESPACES, np.int64)
        state = np.zeros(vw_rows.N_STATE, np.int64)
        state[vw_rows.S_LINES] = self._header_lines
        names: list[bytes] = []
        buffer = PieceBuffer(BUFFER_BYTES)
        for piece in self.pieces(0, lambda: buffer, ()):
            places = np.zeros((MAX_NAMESPACES, 2), np.int64)
            vw_rows.scan_vw_rows(
                buffer.data, piece.begin, piece.end, np.uint64(hash_of(NAMELESS)), hashes, counts,
                places, state,
            )  # fmt: skip
            for start, stop in places[len(names) : state[vw_rows.S_NAMES]].tolist():
                nameless = NAMELESS.encode()
                names.append(buffer.data[start:stop].tobytes() if stop else nameless)
        if state[vw_rows.S_FULL]:
            raise SourceError(
                f"more than {MAX_NAMESPACES} namespaces",
                where=f"{self._name}, line {state[vw_rows.S_FULL]}",
                remedy="check that a space precedes every feature: |f a:1, not |a:1",
            )
        if not names:
            raise SourceError("no line has a |", where=self._name, remedy=self.hint)
        self.n_rows = int(state[vw_rows.S_ROWS])
        means = counts / max(self.n_rows, 1)
        return {
            name.decode(): float(mean)
            for name, mean in zip(names, means, strict=False)
            if _is_text(name)
        }

    def splitter(self, wanted: Sequence[str], *, max_cells: int) -> VwSplitter:
        """Return a splitter that keeps the wanted columns, in that order."""
        return VwSplitter(
            list(self.entries), wanted, strict=self._told is None, max_cells=max_cells
        )


class VwSplitter:
    """Splits pieces of VW's text; holds the outputs of one thread.

    Parameters
    ----------
    namespaces : sequence of str
    wanted : sequence of str
        Columns.
    strict : bool
        Reject a row with another namespace.
    max_cells : int
    """

    def __init__(
        self, namespaces: Sequence[str], wanted: Sequence[str], *, strict: bool, max_cells: int
    ) -> None:
        self._slots = np.full(vw_rows.N_CELL, -1, np.int32)
        self._hashes = np.array([hash_of(name) for name in namespaces], np.uint64)
        self._bags = np.full(len(namespaces), -1, np.int32)
        self._nameless = np.uint64(hash_of(NAMELESS))
        self._strict = strict
        places = {column_of(name): i for i, name in enumerate(namespaces)}
        self._order: list[int] = []
        n_cells = n_bags = 0
        for name in wanted:
            if name in CELLS:
                self._slots[CELLS.index(name)] = n_cells
                self._order.append(n_cells)
                n_cells += 1
            else:
                self._bags[places[name]] = n_bags
                n_bags += 1
                self._order.append(-n_bags)
        self._room = EntryRoom(n_cells, n_bags, max_cells=max_cells)

    def split(self, piece: Piece) -> Iterator[Records]:
        """Yield the records of a piece; each is valid until the next."""
        room = self._room
        data = piece.buffer.data
        data[TEXT_BYTES] = ord("1")
        at = piece.begin
        while True:
            n, at, n_lines, n_blank, n_entries, n_groups = vw_rows.split_vw_rows(
                data, at, piece.end, TEXT_BYTES, self._slots, self._nameless, self._hashes,
                self._bags, self._strict, MAX_ROW_ENTRIES, room.starts, room.stops, room.records,
                room.status, room.entries, room.keys, room.groups,
            )  # fmt: skip
            bags = room.bags(data, n, n_entries, n_groups, bad=vw_rows.VALUE)
            yield room.records_of(
                data, n, bags, self._order, _REASONS, (n_lines, n_blank), is_last=at >= piece.end
            )
            if at >= piece.end:
                return


def column_of(namespace: str) -> str:
    """Return the column of a namespace: its name, unless a cell has that."""
    return f"|{namespace}" if namespace in CELLS else namespace


def namespace_of(column: str) -> str:
    """Return the namespace of a column of `column_of`."""
    return column.removeprefix("|")


def _is_text(name: bytes) -> bool:
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return False
    plain = all(unicodedata.category(c) not in {"Cc", "Cs"} for c in text)
    return plain and len(name) <= _MAX_NAME_BYTES


def unite(sources: Sequence[VwSource]) -> None:
    """Give files that are one table the same namespaces: all that any of them has."""
    whole: dict[str, float] = {}
    for source in sources:
        for name, mean in source.entries.items():
            whole[name] = max(whole.get(name, 0.0), mean)
    for source in sources:
        source.adopt(whole)
