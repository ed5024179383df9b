"""What a source of rows is: the seam at which another kind of file is added.

A source is opened by one row of the table in data_tools/kinds.py. It knows
its fields, gives its contents as pieces in order (one thread reads), and turns
a piece into records (any thread). Everything after that is the same for every
kind of source. Most sources need none of this: a file that some library gives as
Arrow record batches is a `TableReader` (data_tools/table_source.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from streamtrain.store.cells import Cells

PIECE_BYTES = 4 << 20
"""Text read at a time. A constant: results do not depend on the budget."""


FieldKind = Literal["found", "number", "text", "time", "bag", "other"]
FieldRole = Literal["", "target", "aside"]


NUMBERS_ALONE = "number"
"""The type of a field of text whose format has nothing but numbers."""


@dataclass(frozen=True)
class Field:
    """A column of a source.

    Parameters
    ----------
    name : str
    kind : {"found", "number", "text", "time", "bag", "other"}
        What the source knows of it: numbers, text or times; text that may be
        numbers, as a sample finds; lists of any length; or nothing that a model
        could use.
    told : str
        The type as the source calls it, for messages.
    n_codes : int
        Of a bag whose keys are indices below this; 0 where they are hashes.
    role : {"", "target", "aside"}
        What the format says of it: that it is the target, unless another is named;
        that it is no feature, unless an option names it.
    row_entries : float
        Of a bag: how many entries a row has, about; 0 where that is not known.
    """

    name: str
    kind: FieldKind = "found"
    told: str = "text"
    n_codes: int = 0
    role: FieldRole = ""
    row_entries: float = 0.0


class PieceBuffer:
    """Memory of one piece; taken from a pool and given back."""

    def __init__(self, n_bytes: int) -> None:
        self.data: npt.NDArray[np.uint8] = np.empty(n_bytes, np.uint8)


@dataclass(frozen=True)
class Piece:
    """Complete records of one source, `begin` to `end` of a buffer or a batch of their own.

    Parameters
    ----------
    source : int
        Index of the source.
    buffer : PieceBuffer
        To be given back when the piece is done; a batch leaves it untouched.
    begin, end : int
        The text's bytes; of a batch 0 and its size.
    n_bytes : int
        Bytes of the source that are behind it, as stored: for progress.
    first_line : int
        Physical lines of the source before it, known for the first piece (the
        header's) and 0 for others.
    batch : pa.RecordBatch or None
        The records of a source that is no text.
    """

    source: int
    buffer: PieceBuffer
    begin: int
    end: int
    n_bytes: int
    first_line: int = 0
    batch: Any = None


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
    cells : sequence of Cells
        One for each wanted column, n_records cells each; those of a bad record are empty.
    good : (n_records,) uint8
        0 for a record that cannot be split into fields.
    rejections : tuple of Rejection
        One for each such record.
    lines : (n_records,) int32
        Physical line (or row) of each record, from 0 at the first of the batch.
    n_lines, n_blank : int
        Physical lines and blank lines in the batch.
    text : callable
        The bytes of a record, verbatim, or as JSON where the file is no text.
    is_last : bool
        Whether the piece has no more.
    """

    n_records: int
    cells: Sequence[Cells]
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
    def fields(self) -> tuple[Field, ...]:
        """The columns."""
        ...

    @property
    def positional(self) -> bool:
        """Whether the columns have no names but their positions."""
        ...

    @property
    def weight(self) -> str | None:
        """The column of row weights, where the source says which it is."""
        ...

    @property
    def unit(self) -> str:
        """What places are counted in: "line" or "row", from 1."""
        ...

    @property
    def n_rows(self) -> int | None:
        """Rows, where the source knows."""
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

    def pieces(
        self, index: int, take: Callable[[], PieceBuffer], wanted: Sequence[str]
    ) -> Iterator[Piece]:
        """Yield the contents in order, each in a buffer from `take`, with the wanted columns."""
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

    def reading_bytes(self, wanted: Sequence[str]) -> int:
        """Return the memory that reading takes beside the pieces."""
        ...


def names_of(fields: Sequence[Field]) -> tuple[str, ...]:
    """Return the names of fields."""
    return tuple(field.name for field in fields)
