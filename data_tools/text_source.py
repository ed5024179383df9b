"""Text as a source: read in pieces that end with a record, sampled at many places.

What CSV, JSON lines and libsvm share. A kind of text is a class that reads the
head, may cut otherwise than after a line, and splits pieces into records.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from data_tools.byte_stream import ByteStream
from data_tools.source import PIECE_BYTES, Field, Piece, PieceBuffer, Records, SourceEnd, Splitter
from streamtrain.errors import NoInputError, SourceError
from streamtrain.kernels import csv_rows

MAX_RECORD_BYTES = 2 << 20
TEXT_BYTES = PIECE_BYTES + MAX_RECORD_BYTES
BUFFER_BYTES = 2 * TEXT_BYTES + 64
"""A piece with what was carried over, and as much again for rewritten fields."""
_HEAD_BYTES = 1 << 20
_SAMPLE_BYTES = 64 << 10
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


class TextSource(ABC):
    """One file of text.

    Parameters
    ----------
    path : Path
    name : str
        As the user gave it.
    encoding : str
        Canonical name.
    ending : SourceEnd or None
        Size and digest, where they are known already (spooled standard input).

    Raises
    ------
    NoInputError
        If there is no such file.
    SourceError
        If it is empty, or its head cannot be used.
    """

    unit = "line"
    n_rows: int | None = None
    delimiter = ""
    positional = False
    weight = None
    hint: ClassVar[str] = ""
    """What to do about a record without an end."""

    def __init__(
        self, path: Path, name: str, *, encoding: str = "utf-8", ending: SourceEnd | None = None
    ) -> None:
        self._path = path
        self._name = name
        self._encoding = encoding
        self._ending = ending
        self._body = self._header_lines = self._header_blank = 0
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
        begin = self._skip_to_text(head, n)
        self._body = begin
        self._fields = self._read_head(head, begin, n)

    def _open(self) -> ByteStream:
        return ByteStream(self._path, self._name, encoding=self._encoding)

    def _skip_to_text(self, head: npt.NDArray[np.uint8], n: int) -> int:
        text = head[:n].tobytes()
        if self._encoding == "utf-8" and text.startswith(_WIDE_BOMS):
            raise SourceError(
                "UTF-16 or UTF-32 text, expected UTF-8",
                where=self._name,
                remedy="give --encoding utf-16 (or utf-32)",
            )
        begin = 3 if text.startswith(b"\xef\xbb\xbf") else 0
        if not text[begin:].strip(b"\r\n"):
            raise SourceError("empty, expected rows", where=self._name)
        while text[begin : begin + 1] in {b"\r", b"\n"}:
            self._header_lines += 1
            self._header_blank += 1
            begin = csv_rows.next_line(head, begin, n)
        return begin

    @abstractmethod
    def _read_head(self, head: npt.NDArray[np.uint8], begin: int, n: int) -> tuple[Field, ...]:
        """Return the fields; may move `_body` and `_header_lines` behind a header.

        Parameters
        ----------
        head : (n + 64,) uint8
        begin, n : int
            The first line that is not blank begins at `begin`; `n` bytes were read.
        """

    @abstractmethod
    def splitter(self, wanted: Sequence[str], *, max_cells: int) -> Splitter:
        """Return a splitter that keeps the wanted columns, in that order."""

    def _cut(self, data: npt.NDArray[np.uint8], begin: int, n: int) -> int:
        """Return where the last record in begin..n ends, `begin` if none does."""
        at = data[begin:n].tobytes().rfind(b"\n")
        return begin + at + 1

    @property
    def name(self) -> str:
        """As the user gave it."""
        return self._name

    @property
    def fields(self) -> tuple[Field, ...]:
        """The columns."""
        return self._fields

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

    def reading_bytes(self, wanted: Sequence[str]) -> int:  # noqa: ARG002 (the protocol's)
        """Return 0: text is read straight into the pieces."""
        return 0

    def pieces(
        self,
        index: int,
        take: Callable[[], PieceBuffer],
        wanted: Sequence[str] = (),  # noqa: ARG002 (text is read whole)
    ) -> Iterator[Piece]:
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
            before = 0
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
                        f"a row has no end within {MAX_RECORD_BYTES:,} bytes: "
                        f"the one that begins after byte {before + cut:,} of the text",
                        where=self._name,
                        remedy=self.hint,
                    )
                before += cut
                stored = self._stored(stream.n_bytes)
                yield Piece(index, buffer, begin, cut, stored, first_line)
                begin = first_line = 0
            self._ended = stream.end()

    def _stored(self, n_bytes: int) -> int:
        if self._ending is None:
            return n_bytes
        return int(n_bytes * self._ending.n_bytes / max(self._stored_bytes, 1))

    def end(self) -> SourceEnd:
        """Return size and digest, after `pieces` is exhausted."""
        return self._ending or self._ended

    def sample(self, wanted: Sequence[str], *, n_places: int) -> Iterator[Records]:
        """Yield records from evenly spread places; compressed files give their head.

        A place in the middle may lie inside a record of several lines: one where
        any record is malformed tells nothing, and is left out.
        """
        splitter = self.splitter(wanted, max_cells=PIECE_BYTES // 8)
        for place, piece in enumerate(self._sample_pieces(n_places)):
            for records in splitter.split(piece):
                if place == 0 or not records.rejections:
                    yield records

    def _sample_pieces(self, n_places: int) -> Iterator[Piece]:
        buffer = PieceBuffer(BUFFER_BYTES)
        whole = self._stored_bytes <= PIECE_BYTES
        if whole or self._codec or self._encoding != "utf-8":
            with self._open() as stream:
                n = stream.readinto(buffer.data.data[:PIECE_BYTES])
            end = n if n < PIECE_BYTES else self._cut(buffer.data, self._body, n)
            yield Piece(0, buffer, self._body, end, 0)
            return
        last = max(self._stored_bytes - _SAMPLE_BYTES, self._body)
        with self._path.open("rb", buffering=0) as file:
            for place in range(n_places):
                offset = self._body + (last - self._body) * place // max(n_places - 1, 1)
                n = os.preadv(file.fileno(), [buffer.data.data[:_SAMPLE_BYTES]], offset)
                begin = 0 if place == 0 else csv_rows.next_line(buffer.data, 0, n)
                cut = buffer.data[:n].tobytes().rfind(b"\n") + 1
                # Empty where no line ends, so that the first place stays the first.
                yield Piece(0, buffer, begin, max(begin, cut), 0)
