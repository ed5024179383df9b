"""Columns of times as columns of their parts: a source around another source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from data_tools.source import Field, Piece, PieceBuffer, Records, Source, SourceEnd, Splitter
from streamtrain.store.cells import Cells
from streamtrain.store.dates import part_name
from streamtrain.store.string_table import MissingTexts
from streamtrain.store.time_cells import PartValues, Times

Dated = Mapping[str, tuple[str, ...]]
"""Parts of each column of times, by its name."""


class DatedSource:
    """A source in which columns of times have made room for their parts.

    Parameters
    ----------
    source : Source
    dated : mapping of str to tuple of str
    missing : MissingTexts
    """

    def __init__(self, source: Source, dated: Dated, missing: MissingTexts) -> None:
        self._source = source
        self._missing = missing
        self.name, self.unit = source.name, source.unit
        self.n_bytes, self.n_rows = source.n_bytes, source.n_rows
        self.positional, self.delimiter = source.positional, source.delimiter
        self.weight = source.weight
        self.header_blank = source.header_blank
        self._parts: dict[str, tuple[str, str]] = {}
        fields: list[Field] = []
        for field in source.fields:
            if field.name not in dated:
                fields.append(field)
            for part in dated.get(field.name, ()):
                name = part_name(field.name, part)
                self._parts[name] = (field.name, part)
                fields.append(Field(name, "number", f"the {part} of a time"))
        self.fields = tuple(fields)

    def _stored(self, wanted: Sequence[str]) -> list[str]:
        return list(dict.fromkeys(self._parts[n][0] if n in self._parts else n for n in wanted))

    def pieces(
        self, index: int, take: Callable[[], PieceBuffer], wanted: Sequence[str]
    ) -> Iterator[Piece]:
        """Yield the pieces of the source."""
        return self._source.pieces(index, take, self._stored(wanted))

    def end(self) -> SourceEnd:
        """Return size and digest of the source."""
        return self._source.end()

    def expansion(self) -> float:
        """Return decoded bytes for each stored byte, roughly."""
        return self._source.expansion()

    def reading_bytes(self, wanted: Sequence[str]) -> int:
        """Return the memory that reading takes beside the pieces."""
        return self._source.reading_bytes(self._stored(wanted))

    def splitter(self, wanted: Sequence[str], *, max_cells: int) -> Splitter:
        """Return a splitter that keeps the wanted columns, in that order."""
        stored = self._stored(wanted)
        splitter = self._source.splitter(stored, max_cells=max_cells * len(stored) // len(wanted))
        return _DatedSplitter(splitter, stored, wanted, self._parts, self._missing)

    def sample(self, wanted: Sequence[str], *, n_places: int) -> Iterator[Records]:
        """Yield records from evenly spread places."""
        stored = self._stored(wanted)
        for records in self._source.sample(stored, n_places=n_places):
            yield _with_parts(records, stored, wanted, self._parts, self._missing)


class _DatedSplitter:
    def __init__(
        self,
        splitter: Splitter,
        stored: Sequence[str],
        wanted: Sequence[str],
        parts: Mapping[str, tuple[str, str]],
        missing: MissingTexts,
    ) -> None:
        self._splitter = splitter
        self._rest = (stored, wanted, parts, missing)

    def split(self, piece: Piece) -> Iterator[Records]:
        for records in self._splitter.split(piece):
            yield _with_parts(records, *self._rest)


def _with_parts(
    records: Records,
    stored: Sequence[str],
    wanted: Sequence[str],
    parts: Mapping[str, tuple[str, str]],
    missing: MissingTexts,
) -> Records:
    columns = dict(zip(stored, records.cells, strict=True))
    times: dict[str, Times] = {}
    cells: list[Cells] = []
    for name in wanted:
        if name not in parts:
            cells.append(columns[name])
            continue
        column, part = parts[name]
        if column not in times:
            times[column] = Times(columns[column], missing)
        cells.append(PartValues(times[column], part))
    return replace(records, cells=cells)
