"""What a source of rows is: the seam at which another kind of file is added.

A source is opened by one row of the table in data_tools/sources.py. It knows
its columns, gives its contents as pieces in order (one thread reads), and turns
a piece into records (any thread). Everything after that is the same for every
kind of source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from streamtrain.store.string_table import TextCells

PIECE_BYTES = 4 << 20
"""Text read at a time. A constant: results do not depend on the budget."""


class PieceBuffer:
    """Memory of one piece; taken from a pool and given back."""

    def __init__(self, n_bytes: int) -> None:
        self.data: npt.NDArray[np.uint8] = np.empty(n_bytes, np.uint8)


@dataclass(frozen=True)
class Piece:
    """Complete records of one source, `begin` to `end` of a buffer.

    Parameters
    ----------
    source : int
        Index of the source.
    buffer : PieceBuffer
    begin, end : int
    n_bytes : int
        Bytes of the source that are behind it, as stored: for progress.
    first_line : int
        Physical lines of the source before it, known for the first piece (the
        header's) and 0 for others.
    """

    source: int
    buffer: PieceBuffer
    begin: int
    end: int
    n_bytes: int
    first_line: int = 0


@dataclass(frozen=True)
class Rejection:
    """A record that cannot be used: its index in the batch and why."""

    record: int
    reason: str


@dataclass(frozen=True)
class Records:
    """Consecutive records of a piece.

    Parameters
    ----------
    n_records : int
        Bad ones included, blank lines not.
    cells : sequence of TextCells
        One for each wanted column, n_records cells each; those of a bad record are empty.
    good : (n_records,) uint8
        0 for a record that cannot be split into fields.
    rejections : tuple of Rejection
        One for each such record.
    lines : (n_records,) int32
        Physical line of each record, from 0 at the first of the batch.
    n_lines, n_blank : int
        Physical lines and blank lines in the batch.
    text : callable
        The bytes of a record, verbatim.
    is_last : bool
        Whether the piece has no more.
    """

    n_records: int
    cells: Sequence[TextCells]
    good: npt.NDArray[np.uint8]
    rejections: tuple[Rejection, ...]
    lines: npt.NDArray[np.int32]
    n_lines: int
    n_blank: int
    text: Callable[[int], bytes]
    is_last: bool


@dataclass(frozen=True)
class SourceEnd:
    """What is known of a source when it has been read: its size and digest as stored."""

    n_bytes: int
    digest: str


class Splitter(Protocol):
    """Turns pieces into records with memory of its own: one for each thread."""

    def split(self, piece: Piece) -> Iterator[Records]:
        """Yield the records of a piece; each is valid until the next."""
        ...


class Source(Protocol):
    """One file of rows."""

    @property
    def name(self) -> str:
        """As the user gave it."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, or their positions."""
        ...

    @property
    def n_bytes(self) -> int:
        """Size as stored."""
        ...

    @property
    def header_blank(self) -> int:
        """Blank lines that `pieces` leaves out because they precede the header."""
        ...

    @property
    def delimiter(self) -> str:
        """Of text, "" for other kinds."""
        ...

    def pieces(self, index: int, take: Callable[[], PieceBuffer]) -> Iterator[Piece]:
        """Yield the contents in order, each in a buffer from `take`."""
        ...

    def end(self) -> SourceEnd:
        """Return size and digest, after `pieces` is exhausted."""
        ...

    def splitter(self, wanted: Sequence[str], *, max_cells: int) -> Splitter:
        """Return a splitter that keeps the wanted columns, in that order."""
        ...

    def sample(self, wanted: Sequence[str], *, n_places: int) -> Iterator[Records]:
        """Yield records from evenly spread places, whole records only."""
        ...

    def expansion(self) -> float:
        """Return decoded bytes for each stored byte, roughly."""
        ...
