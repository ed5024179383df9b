"""libsvm (svmlight) as a source: label, qid, and the indices 1 to D as dense columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_tools.source import Field, Piece, PieceBuffer, Records, Rejection, SourceEnd, names_of
from data_tools.text_source import BUFFER_BYTES, TEXT_BYTES, TextSource
from streamtrain.errors import SourceError
from streamtrain.kernels import svm_rows
from streamtrain.store.string_table import TextCells

MAX_WIDTH = 10_000
"""More columns than this are sparse in truth, and dense rows would be all zeros."""
LABEL, QUERY = "label", "qid"
_REASONS = {
    svm_rows.MALFORMED: "not index:value",
    svm_rows.ZERO_INDEX: "index 0, expected 1 or more",
    svm_rows.OUT_OF_ORDER: "indices are not ascending",
    svm_rows.TOO_LARGE: "an index beyond the last column",
}


class SvmSource(TextSource):
    """One libsvm file; parameters and errors are those of `TextSource`.

    Parameters
    ----------
    width : int or None
        D. None finds the greatest index by reading the file once.

    Raises
    ------
    SourceError
        If an index is 0 or not above the one before it, or D is above `MAX_WIDTH`.
    """

    hint = "check that it is libsvm, one row a line"

    def __init__(
        self,
        path: Path,
        name: str,
        *,
        width: int | None = None,
        encoding: str = "utf-8",
        ending: SourceEnd | None = None,
    ) -> None:
        self._declared = width
        super().__init__(path, name, encoding=encoding, ending=ending)

    def _read_head(self, head: npt.NDArray[np.uint8], begin: int, n: int) -> tuple[Field, ...]:  # noqa: ARG002 (a scan says more)
        state = self._scan()
        if state[3] != svm_rows.GOOD:
            raise SourceError(
                _REASONS[int(state[3])],
                where=f"{self._name}, line {state[4]}",
                remedy="write it with indices from 1, ascending in each line",
            )
        self.width = int(state[0]) if self._declared is None else self._declared
        if self.width > MAX_WIDTH:
            raise SourceError(
                f"index {self.width:,}, at most {MAX_WIDTH:,} dense columns are read",
                where=self._name,
            )
        names = [LABEL, *([QUERY] if state[1] else [])]
        return tuple(Field(name) for name in names) + self._numbered(self.width)

    def _numbered(self, width: int) -> tuple[Field, ...]:
        return tuple(Field(str(i), "number", "a number") for i in range(1, width + 1))

    def widen(self, width: int) -> None:
        """Take the columns up to a greater index too: all 0, as in a file beside this one."""
        named = tuple(f for f in self._fields if f.name in {LABEL, QUERY})
        self.width = width
        self._fields = named + self._numbered(width)

    def _scan(self) -> npt.NDArray[np.int64]:
        state = np.zeros(5, np.int64)
        state[2] = self._header_lines
        buffer = PieceBuffer(BUFFER_BYTES)
        for piece in self.pieces(0, lambda: buffer, ()):
            svm_rows.scan_svm_rows(buffer.data, piece.begin, piece.end, state)
        return state

    def splitter(self, wanted: Sequence[str], *, max_cells: int) -> SvmSplitter:
        """Return a splitter that keeps the wanted columns, in that order."""
        return SvmSplitter(names_of(self._fields), wanted, max_cells=max_cells)


class SvmSplitter:
    """Splits pieces of libsvm; holds the outputs of one thread.

    Parameters
    ----------
    names : sequence of str
        All columns: label, perhaps qid, then the indices.
    wanted : sequence of str
    max_cells : int
    """

    def __init__(self, names: Sequence[str], wanted: Sequence[str], *, max_cells: int) -> None:
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
                data, at, piece.end, TEXT_BYTES, self._slots, self._starts, self._stops,
                self._record[0], self._record[1], self._record[2], self._status,
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


def widen_all(sources: Sequence[SvmSource]) -> None:
    """Give files that are one table the same columns: those of the widest."""
    width = max(source.width for source in sources)
    for source in sources:
        source.widen(width)
