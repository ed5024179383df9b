"""libsvm (svmlight) as a source: label, qid, and the indices 1 to D.

They are dense columns where they are few, and entries of one column otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_tools.entry_cells import MAX_ROW_ENTRIES, EntryRoom
from data_tools.source import (
    NUMBERS_ALONE,
    Field,
    Piece,
    PieceBuffer,
    Records,
    Rejection,
    SourceEnd,
    Splitter,
    names_of,
)
from data_tools.text_source import BUFFER_BYTES, TEXT_BYTES, TextSource
from streamtrain.errors import SourceError
from streamtrain.kernels import svm_rows
from streamtrain.store.schema import MAX_BAG_CODES
from streamtrain.store.string_table import TextCells

MAX_WIDTH = 10_000
"""More columns than this are sparse in truth, and dense rows would be all zeros."""
LABEL, QUERY, ENTRIES = "label", "qid", "features"
_REASONS = {
    svm_rows.MALFORMED: "not index:value",
    svm_rows.ZERO_INDEX: "index 0, expected 1 or more",
    svm_rows.OUT_OF_ORDER: "indices are not ascending",
    svm_rows.TOO_LARGE: "an index beyond the last column",
    svm_rows.VALUE: "a value that is not a finite number",
    svm_rows.TOO_MANY: f"more than {MAX_ROW_ENTRIES:,} values",
    svm_rows.NOT_UTF8: "not UTF-8",
    svm_rows.LABELS: "a label with a comma: several labels are not read from libsvm",
}
_REMEDIES = {
    svm_rows.ZERO_INDEX: "write it with indices from 1: zero_based=False in scikit-learn",
    svm_rows.OUT_OF_ORDER: "write it with indices from 1, ascending in each line",
    svm_rows.LABELS: "write one label, or several targets to a .npy beside an array",
}


class SvmSource(TextSource):
    """One libsvm file; parameters and errors are those of `TextSource`.

    Parameters
    ----------
    width : int or None
        D. None takes the greatest index.
    sparse : bool or None
        Whether the indices are entries of one column; None makes them so where D is
        above `MAX_WIDTH`.
    strict : bool
        Reject a row with an index above D, rather than leave that out.

    Raises
    ------
    SourceError
        If an index is 0 or not above the one before it, or D is too great.
    """

    hint = "check that it is libsvm, one row a line"

    def __init__(
        self,
        path: Path,
        name: str,
        *,
        width: int | None = None,
        sparse: bool | None = None,
        strict: bool = True,
        encoding: str = "utf-8",
        ending: SourceEnd | None = None,
    ) -> None:
        self._declared = width
        self._told = sparse
        self._strict = strict
        super().__init__(path, name, encoding=encoding, ending=ending)

    def _read_head(self, head: npt.NDArray[np.uint8], begin: int, n: int) -> tuple[Field, ...]:  # noqa: ARG002 (a scan says more)
        state = self._scan()
        if state[svm_rows.S_FAULT] != svm_rows.GOOD:
            raise SourceError(
                _REASONS[int(state[svm_rows.S_FAULT])],
                where=f"{self._name}, line {state[svm_rows.S_FAULT_LINE]}",
                remedy=_REMEDIES[int(state[svm_rows.S_FAULT])],
            )
        width = int(state[svm_rows.S_WIDTH]) if self._declared is None else self._declared
        if width >= MAX_BAG_CODES:
            raise SourceError(
                f"index {width:,}, expected less than {MAX_BAG_CODES:,}", where=self._name
            )
        self.n_rows = int(state[svm_rows.S_ROWS])
        self._row_entries = float(state[svm_rows.S_ENTRIES]) / max(self.n_rows, 1)
        self._has_query = bool(state[svm_rows.S_QUERY])
        return self._fields_of(width)

    def _fields_of(self, width: int) -> tuple[Field, ...]:
        self.width = width
        self.sparse: bool = width > MAX_WIDTH if self._told is None else self._told
        found = [Field(LABEL, role="target")]
        if self._has_query:
            found.append(Field(QUERY, role="aside"))
        if self.sparse:
            entries = Field(ENTRIES, "bag", "indices", width + 1, row_entries=self._row_entries)
            return (*found, entries)
        return (*found, *(Field(str(i), "number", NUMBERS_ALONE) for i in range(1, width + 1)))

    def widen(self, width: int) -> None:
        """Take the columns up to a greater index too: all 0, as in a file beside this one."""
        self._fields = self._fields_of(width)

    def _scan(self) -> npt.NDArray[np.int64]:
        state = np.zeros(svm_rows.N_STATE, np.int64)
        state[svm_rows.S_LINES] = self._header_lines
        buffer = PieceBuffer(BUFFER_BYTES)
        for piece in self.pieces(0, lambda: buffer, ()):
            svm_rows.scan_svm_rows(buffer.data, piece.begin, piece.end, state)
        return state

    def splitter(self, wanted: Sequence[str], *, max_cells: int) -> Splitter:
        """Return a splitter that keeps the wanted columns, in that order."""
        if self.sparse:
            return SparseSplitter(self.width, wanted, strict=self._strict, max_cells=max_cells)
        names = names_of(self._fields)
        return SvmSplitter(names, wanted, strict=self._strict, max_cells=max_cells)


class SvmSplitter:
    """Splits pieces of libsvm; holds the outputs of one thread.

    Parameters
    ----------
    names : sequence of str
        All columns: label, perhaps qid, then the indices.
    wanted : sequence of str
    strict : bool
        Reject a row with an index above the last, rather than leave that out.
    max_cells : int
    """

    def __init__(
        self, names: Sequence[str], wanted: Sequence[str], *, strict: bool = True, max_cells: int
    ) -> None:
        self._strict = strict
        numbered = [n for n in names if n not in {LABEL, QUERY}]
        places = {LABEL: 0, QUERY: 1, **{name: 2 + i for i, name in enumerate(numbered)}}
        self._slots = np.full(2 + len(numbered), -1, np.int32)
        for slot, name in enumerate(wanted):
            self._slots[places[name]] = slot
        n = max(max_cells // max(len(wanted), 8), 16)
        self._starts = np.empty((len(wanted), n), np.int32)
        self._stops = np.empty((len(wanted), n), np.int32)
        self._record = np.empty((3, n), np.int32)
        self._status = np.empty(n, np.uint8)

    def split(self, piece: Piece) -> Iterator[Records]:
        """Yield the records of a piece; each is valid until the next."""
        data = piece.buffer.data
        data[TEXT_BYTES] = ord("0")
        at = piece.begin
        while True:
            n, at, n_lines, n_blank = svm_rows.split_svm_rows(
                data, at, piece.end, TEXT_BYTES, self._slots, self._strict, self._starts,
                self._stops, self._record[0], self._record[1], self._record[2], self._status,
            )  # fmt: skip
            yield self._records(data, n, n_lines, n_blank, is_last=at >= piece.end)
            if at >= piece.end:
                return

    def _records(
        self, data: npt.NDArray[np.uint8], n: int, n_lines: int, n_blank: int, *, is_last: bool
    ) -> Records:
        status = self._status[:n]
        starts, stops = self._record[0], self._record[1]
        return Records(
            n_records=n,
            cells=[
                TextCells(data, self._starts[c, :n], self._stops[c, :n])
                for c in range(len(self._starts))
            ],
            good=(status == svm_rows.GOOD).view(np.uint8),
            rejections=tuple(
                Rejection(int(i), _REASONS[int(status[i])]) for i in np.flatnonzero(status)
            ),
            lines=self._record[2, :n],
            n_lines=n_lines,
            n_blank=n_blank,
            text=lambda i: data[starts[i] : stops[i]].tobytes(),
            is_last=is_last,
        )


class SparseSplitter:
    """Splits pieces of libsvm into label, qid and entries; holds the outputs of one thread.

    Parameters
    ----------
    width : int
        D, the greatest index.
    wanted : sequence of str
    strict : bool
        Reject a row with an index above D, rather than leave that out.
    max_cells : int
    """

    def __init__(self, width: int, wanted: Sequence[str], *, strict: bool, max_cells: int) -> None:
        self._width = width
        self._strict = strict
        cells = [name for name in wanted if name != ENTRIES]
        self._keep = len(cells) < len(wanted)
        self._order = [-1 if name == ENTRIES else cells.index(name) for name in wanted]
        self._slots = np.array(
            [cells.index(name) if name in cells else -1 for name in (LABEL, QUERY)], np.int32
        )
        self._room = EntryRoom(len(cells), int(self._keep), max_cells=max_cells)

    def split(self, piece: Piece) -> Iterator[Records]:
        """Yield the records of a piece; each is valid until the next."""
        room = self._room
        data = piece.buffer.data
        at = piece.begin
        while True:
            n, at, n_lines, n_blank, n_entries = svm_rows.split_svm_entries(
                data, at, piece.end, self._width, self._slots, self._keep, self._strict,
                MAX_ROW_ENTRIES, room.starts, room.stops, room.records, room.status, room.entries,
                room.keys,
            )  # fmt: skip
            bags = room.bags(data, n, n_entries, 0, bad=svm_rows.VALUE)
            yield room.records_of(
                data, n, bags, self._order, _REASONS, (n_lines, n_blank), is_last=at >= piece.end
            )
            if at >= piece.end:
                return


def widen_all(sources: Sequence[SvmSource]) -> None:
    """Give files that are one table the same columns: those of the widest."""
    width = max(source.width for source in sources)
    for source in sources:
        source.widen(width)
