"""CSV as a source: header, dialect, pieces that end with a record, records in fields."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_tools.byte_stream import ByteStream
from data_tools.source import (
    PIECE_BYTES,
    Piece,
    PieceBuffer,
    Records,
    Rejection,
    SourceEnd,
)
from streamtrain.errors import NoInputError, SourceError
from streamtrain.kernels import csv_rows
from streamtrain.store.string_table import TextCells

MAX_RECORD_BYTES = 2 << 20
TEXT_BYTES = PIECE_BYTES + MAX_RECORD_BYTES
BUFFER_BYTES = 2 * TEXT_BYTES + 64
"""A piece with what was carried over, and as much again for rewritten fields."""
_HEAD_BYTES = 1 << 20
_SAMPLE_BYTES = 64 << 10
_DELIMITERS = ",\t;|"
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
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


class CsvSource:
    """One CSV file.

    Parameters
    ----------
    path : Path
    name : str
        As the user gave it.
    options : CsvOptions
    ending : SourceEnd or None
        Size and digest, where they are known already (spooled standard input).

    Raises
    ------
    NoInputError
        If there is no such file.
    SourceError
        If it is empty, has no rows, or its header cannot be used.
    """

    def __init__(
        self, path: Path, name: str, options: CsvOptions, *, ending: SourceEnd | None = None
    ) -> None:
        self._path = path
        self._name = name
        self._options = options
        self._ending = ending
        try:
            self._stored_bytes = path.stat().st_size
        except OSError as error:
            raise NoInputError("no such file", where=name) from error
        with self._open() as stream:
            self._codec = stream.codec
            head = np.zeros(_HEAD_BYTES + 64, np.uint8)
            n = stream.readinto(head.data[:_HEAD_BYTES])
            self._expansion = max(n / max(stream.n_bytes, 1), 1.0) if self._codec else 1.0
            if self._codec and n == _HEAD_BYTES:
                self._expansion = max(self._expansion, 4.0)
        self._read_head(head, n)

    def _open(self) -> ByteStream:
        return ByteStream(self._path, self._name, encoding=self._options.encoding)

    def _read_head(self, head: npt.NDArray[np.uint8], n: int) -> None:
        text = head[:n].tobytes()
        if self._options.encoding == "utf-8" and text.startswith(_WIDE_BOMS):
            raise SourceError(
                "UTF-16 or UTF-32 text, expected UTF-8",
                where=self._name,
                remedy="give --encoding utf-16 (or utf-32)",
            )
        begin = 3 if text.startswith(b"\xef\xbb\xbf") else 0
        if not text[begin:].strip(b"\r\n"):
            raise SourceError("empty, expected rows", where=self._name)
        self._header_lines = self._header_blank = 0
        while text[begin : begin + 1] in {b"\r", b"\n"}:
            self._header_lines += 1
            self._header_blank += 1
            begin = csv_rows.next_line(head, begin, n)
        line_end = csv_rows.next_line(head, begin, n)
        self.delimiter = self._options.delimiter or _sniff(text[begin:line_end])
        names, after = self._first_record(head, begin, n)
        if self._options.header:
            self._header_lines += sum(
                1
                for i in range(begin, after)
                if head[i] == 10 or (head[i] == 13 and head[i + 1] != 10)
            )
            begin = after
            if not text[begin:].strip(b"\r\n"):
                raise SourceError("a header and no rows", where=self._name)
            self._columns = tuple(name or str(i) for i, name in enumerate(names))
            seen = sorted({c for c in self._columns if self._columns.count(c) > 1})
            if seen:
                raise SourceError(
                    f"the column name {seen[0]!r} occurs twice",
                    where=self._name,
                    remedy="rename one, or give --no-header and take columns by position",
                )
        else:
            self._columns = tuple(str(i) for i in range(len(names)))
        self._body = begin

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

    @property
    def name(self) -> str:
        """As the user gave it."""
        return self._name

    @property
    def columns(self) -> tuple[str, ...]:
        """Names from the header, or positions."""
        return self._columns

    @property
    def n_bytes(self) -> int:
        """Size as stored."""
        return self._ending.n_bytes if self._ending else self._stored_bytes

    @property
    def header_blank(self) -> int:
        """Blank lines before the header or the first row."""
        return self._header_blank

    def expansion(self) -> float:
        """Return decoded bytes for each stored byte, roughly."""
        return self._expansion

    def pieces(self, index: int, take: Callable[[], PieceBuffer]) -> Iterator[Piece]:
        """Yield the text in order, cut after complete records.

        Raises
        ------
        SourceError
            If a record has no end within 2 MiB, or the file is damaged.
        """
        with self._open() as stream:
            carry = b""
            begin, first_line = self._body, self._header_lines
            final = False
            while not final:
                buffer = take()
                data = buffer.data
                view = data.data
                n = len(carry)
                view[:n] = carry
                n += stream.readinto(view[n : n + PIECE_BYTES])
                final = n < len(carry) + PIECE_BYTES
                cut = n if final else self._cut(data, begin, n)
                carry = bytes(view[cut:n])
                if len(carry) > MAX_RECORD_BYTES:
                    raise SourceError(
                        f"a row has no end within {MAX_RECORD_BYTES:,} bytes",
                        where=self._name,
                        remedy="check that it is CSV, and its --delimiter and quotes",
                    )
                stored = self._stored(stream.n_bytes)
                yield Piece(index, buffer, begin, cut, stored, first_line)
                begin = first_line = 0
            self._ended = stream.end()

    def _stored(self, n_bytes: int) -> int:
        if self._ending is None:
            return n_bytes
        return int(n_bytes * self._ending.n_bytes / max(self._stored_bytes, 1))

    def _cut(self, data: npt.NDArray[np.uint8], begin: int, n: int) -> int:
        plain = csv_rows.last_line_end(data, begin, n)
        if plain > begin:
            return int(plain)
        return int(csv_rows.last_record_end(data, begin, n, ord(self.delimiter)))

    def end(self) -> SourceEnd:
        """Return size and digest, after `pieces` is exhausted."""
        return self._ending or self._ended

    def splitter(self, wanted: Sequence[str], *, max_cells: int) -> CsvSplitter:
        """Return a splitter that keeps the wanted columns, in that order."""
        positions = [self._columns.index(name) for name in wanted]
        return CsvSplitter(len(self._columns), positions, self.delimiter, max_cells=max_cells)

    def sample(self, wanted: Sequence[str], *, n_places: int) -> Iterator[Records]:
        """Yield records from evenly spread places; compressed files give their head.

        A place in the middle may lie inside a quoted field: one where any
        record is malformed tells nothing, and is left out.
        """
        splitter = self.splitter(wanted, max_cells=PIECE_BYTES // 8)
        buffer = PieceBuffer(BUFFER_BYTES)
        whole = self._stored_bytes <= PIECE_BYTES
        if whole or self._codec or self._options.encoding != "utf-8":
            with self._open() as stream:
                n = stream.readinto(buffer.data.data[:PIECE_BYTES])
            end = n if n < PIECE_BYTES else self._cut(buffer.data, self._body, n)
            yield from splitter.split(Piece(0, buffer, self._body, end, 0))
            return
        last = max(self._stored_bytes - _SAMPLE_BYTES, self._body)
        with self._path.open("rb", buffering=0) as file:
            for place in range(n_places):
                offset = self._body + (last - self._body) * place // max(n_places - 1, 1)
                n = os.preadv(file.fileno(), [buffer.data.data[:_SAMPLE_BYTES]], offset)
                begin = 0 if place == 0 else csv_rows.next_line(buffer.data, 0, n)
                cut = buffer.data[:n].tobytes().rfind(b"\n") + 1
                if cut <= begin:
                    continue
                for records in splitter.split(Piece(0, buffer, begin, cut, 0)):
                    if place == 0 or not records.rejections:
                        yield records


def _sniff(line: bytes) -> str:
    """Return the delimiter that occurs most outside quotes in a line."""
    outside = b"".join(line.split(b'"')[::2]).decode("latin-1")
    return max(_DELIMITERS, key=outside.count)
