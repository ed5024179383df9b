"""CSV as a source: header, dialect, pieces that end with a record, records in fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_tools.source import Field, Piece, Records, Rejection, SourceEnd, names_of
from data_tools.text_source import TEXT_BYTES, TextSource
from streamtrain.errors import SourceError
from streamtrain.kernels import csv_rows
from streamtrain.store.string_table import TextCells

_DELIMITERS = ",\t;|"
_REASONS = {
    csv_rows.UNCLOSED: "unclosed quote",
    csv_rows.NUL: "NUL byte",
    csv_rows.NOT_UTF8: "not UTF-8",
}


@dataclass(frozen=True)
class CsvOptions:
    """How the text is written: delimiter (None to find out), header, encoding."""

    delimiter: str | None = None
    header: bool = True
    encoding: str = "utf-8"


class CsvSplitter:
    """Splits pieces of CSV; holds the outputs of one thread.

    Parameters
    ----------
    n_fields : int
        Of every record.
    wanted : sequence of int
        Positions of the fields to keep, in the order to keep them.
    delimiter : str
    max_cells : int
        Room for kept cells: memory is 8 bytes for each.
    """

    def __init__(
        self, n_fields: int, wanted: Sequence[int], delimiter: str, *, max_cells: int
    ) -> None:
        self._slots = np.full(n_fields, -1, np.int32)
        self._slots[list(wanted)] = np.arange(len(wanted), dtype=np.int32)
        self._delimiter = ord(delimiter)
        # An odd multiple of a cache line, so that columns do not share cache sets.
        n = (min(max_cells // max(len(wanted), 1), max_cells // 8) // 16 | 1) * 16
        self._starts = np.empty((len(wanted), n), np.int32)
        self._stops = np.empty((len(wanted), n), np.int32)
        self._record = np.empty((4, n), np.int32)
        self._status = np.empty(n, np.uint8)

    @property
    def max_records(self) -> int:
        """Most records that `split` yields at once."""
        return len(self._status)

    def split(self, piece: Piece) -> Iterator[Records]:
        """Yield the records of a piece; each is valid until the next."""
        data = piece.buffer.data
        nul, high = csv_rows.byte_kinds(data, piece.begin, piece.end)
        at, arena = piece.begin, TEXT_BYTES
        while True:
            n, at, arena, n_lines, n_blank = csv_rows.split_records(
                data, at, piece.end, data, arena, self._delimiter, self._slots, nul, high,
                self._starts, self._stops, self._record[0], self._record[1],
                self._record[2], self._status, self._record[3],
            )  # fmt: skip
            yield self._records(data, n, n_lines, n_blank, is_last=at >= piece.end)
            if at >= piece.end:
                return

    def _records(
        self, data: npt.NDArray[np.uint8], n: int, n_lines: int, n_blank: int, *, is_last: bool
    ) -> Records:
        status = self._status[:n]
        good = (status == csv_rows.GOOD).view(np.uint8)
        starts, stops = self._record[0], self._record[1]
        return Records(
            n_records=n,
            cells=[
                TextCells(data, self._starts[c, :n], self._stops[c, :n])
                for c in range(len(self._starts))
            ],
            good=good,
            rejections=tuple(Rejection(int(i), self._reason(i)) for i in np.flatnonzero(status)),
            lines=self._record[2, :n],
            n_lines=n_lines,
            n_blank=n_blank,
            text=lambda i: data[starts[i] : stops[i]].tobytes(),
            is_last=is_last,
        )

    def _reason(self, i: int | np.integer[Any]) -> str:
        status = int(self._status[i])
        if status != csv_rows.RAGGED:
            return _REASONS[status]
        n = int(self._record[3, i])
        return f"{n} field{'s' if n != 1 else ''}, expected {len(self._slots)}"


class CsvSource(TextSource):
    """One CSV file; parameters and errors are those of `TextSource`.

    Parameters
    ----------
    options : CsvOptions
    """

    hint = "check that it is CSV, and its --delimiter and quotes"

    def __init__(
        self, path: Path, name: str, options: CsvOptions, *, ending: SourceEnd | None = None
    ) -> None:
        self._options = options
        self.positional = not options.header
        super().__init__(path, name, encoding=options.encoding, ending=ending)

    def _read_head(self, head: npt.NDArray[np.uint8], begin: int, n: int) -> tuple[Field, ...]:
        line_end = csv_rows.next_line(head, begin, n)
        self.delimiter = self._options.delimiter or _sniff(head[begin:line_end].tobytes())
        names, after = self._first_record(head, begin, n)
        if not self._options.header:
            return tuple(Field(str(i)) for i in range(len(names)))
        self._header_lines += sum(
            1 for i in range(begin, after) if head[i] == 10 or (head[i] == 13 and head[i + 1] != 10)
        )
        self._body = after
        if not head[after:n].tobytes().strip(b"\r\n"):
            raise SourceError("a header and no rows", where=self._name)
        return tuple(Field(name or str(i)) for i, name in enumerate(names))

    def _first_record(
        self, head: npt.NDArray[np.uint8], begin: int, n: int
    ) -> tuple[list[str], int]:
        # Splitting as one field tells how many there are; then once more to keep them.
        slots = np.zeros(1, np.int32)
        data = np.concatenate([head, np.zeros(len(head), np.uint8)])
        for _ in range(2):
            starts = np.zeros((len(slots), 1), np.int32)
            stops, record = starts.copy(), np.zeros((4, 1), np.int32)
            status = np.zeros(1, np.uint8)
            _, after, _, _, _ = csv_rows.split_records(
                data, begin, n, data, len(head), ord(self.delimiter), slots, True, True,
                starts, stops, record[0], record[1], record[2], status, record[3],
            )  # fmt: skip
            slots = np.arange(int(record[3, 0]), dtype=np.int32)
        if status[0] != csv_rows.GOOD:
            reason = _REASONS.get(int(status[0]), "cannot be split into fields")
            raise SourceError(
                f"the first line cannot be read: {reason}",
                where=self._name,
                remedy="give --encoding latin-1 if it is older text"
                if status[0] == csv_rows.NOT_UTF8
                else "",
            )
        names = [
            data[a:b].tobytes().decode() for a, b in zip(starts[:, 0], stops[:, 0], strict=True)
        ]
        return names, int(after)

    def _cut(self, data: npt.NDArray[np.uint8], begin: int, n: int) -> int:
        plain = csv_rows.last_line_end(data, begin, n)
        if plain > begin:
            return int(plain)
        return int(csv_rows.last_record_end(data, begin, n, ord(self.delimiter)))

    def splitter(self, wanted: Sequence[str], *, max_cells: int) -> CsvSplitter:
        """Return a splitter that keeps the wanted columns, in that order."""
        names = names_of(self._fields)
        positions = [names.index(name) for name in wanted]
        return CsvSplitter(len(names), positions, self.delimiter, max_cells=max_cells)


def _sniff(line: bytes) -> str:
    """Return the delimiter that occurs most outside quotes in a line."""
    outside = b"".join(line.split(b'"')[::2]).decode("latin-1")
    return max(_DELIMITERS, key=outside.count)
