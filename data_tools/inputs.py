"""What an ingest reads: sources opened, and what is found of their columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from data_tools.bag_rows import BagPlan
from data_tools.byte_stream import check_encoding
from data_tools.columns import ColumnPlan, plan_columns, resolve_roles
from data_tools.csv_source import CsvOptions
from data_tools.dates import DatedSource
from data_tools.infer import find_kinds
from data_tools.kinds import SourceOptions
from data_tools.options import IngestOptions
from data_tools.source import Source
from data_tools.sources import checked, open_sources
from data_tools.sql_source import SqlReader
from data_tools.table_source import TableSource
from streamtrain import memory
from streamtrain.errors import UsageError
from streamtrain.store.cells import missing_text
from streamtrain.store.dates import part_name
from streamtrain.store.schema import DATE_PART_NAMES, Entries
from streamtrain.store.string_table import MissingTexts

_ROW_ENTRIES = 64.0
"""Taken for lists whose source does not tell."""
_MANY_ROWS = 1e9
"""Taken for a query or a stream, which do not tell: more partitions than needed cost little."""


class Inputs:
    """The sources of an ingest and the kinds of their columns.

    Parameters
    ----------
    options : IngestOptions
    staging : Path
        Where standard input and a query may keep what they must.
    out : Path
        Nothing below it may be a source.
    opened : list of Source or None
        In place of those that the options name.

    Attributes
    ----------
    sources : list of Source
        With parts in place of times.
    roles : Roles
    columns : ColumnPlan
    date_parts : dict of str to (str, str)
        Column of times and part, by the name of the part's column.

    Raises
    ------
    StreamtrainError
        If a source cannot be read, or an option names what is not there.
    """

    def __init__(
        self,
        options: IngestOptions,
        *,
        staging: Path,
        out: Path,
        opened: list[Source] | None = None,
    ) -> None:
        self._options = options
        self._missing = MissingTexts(options.missing)
        self._opened = self._open(staging, out) if opened is None else opened
        first = self._opened[0]
        if options.weight is None and first.weight is not None:
            self._options = options = dataclasses.replace(options, weight=first.weight)
        roles = resolve_roles(
            options, first.fields, positional=first.positional, parts=DATE_PART_NAMES
        )
        found = find_kinds(self._opened, roles, self._missing)
        self._is_number = found.is_number
        self._record_bytes = found.record_bytes
        self._text_bytes = found.text_bytes
        self._times = set(found.times) if options.date_parts else set()
        self._settle()
        keys = {bag.spec.keys for bag in self.columns.bags}
        options.check_use(texts="text" in keys, hashed=bool(keys - {"index"}))

    def _open(self, staging: Path, out: Path) -> list[Source]:
        options = self._options
        encoding = check_encoding(options.encoding)
        wanted = SourceOptions(
            csv=CsvOptions(options.delimiter, options.header, encoding),
            null=missing_text(options.missing),
            kind=options.kind,
            svm_width=options.svm_width,
            arrays=dataclasses.replace(options.arrays, column=options.target),
            sparse=True if options.sparse else None,
        )
        if options.sql is None:
            return open_sources(
                options.sources,
                wanted,
                spool=staging / "stdin",
                out=out,
                target_files=options.target_files,
                weight_files=options.weight_files,
            )
        if options.sources:
            raise UsageError("goes in place of sources", where="--sql")
        budget = options.memory or memory.default_budget()
        reader = SqlReader(options.sql, budget=budget, spill=staging / "duckdb")
        return checked([TableSource(reader, null=wanted.null.encode())])

    def _settle(self) -> None:
        self.sources: list[Source] = self._opened
        parts = self._options.date_parts
        self.date_parts: dict[str, tuple[str, str]] = {}
        if self._times:
            dated = dict.fromkeys(self._times, parts)
            self.sources = checked([DatedSource(s, dated, self._missing) for s in self._opened])
            for name in self._times:
                self.date_parts |= {part_name(name, part): (name, part) for part in parts}
        first = self.sources[0]
        self.roles = resolve_roles(
            self._options, first.fields, positional=first.positional, hidden=self._times
        )
        is_number = self._is_number | dict.fromkeys(self.date_parts, True)
        is_number |= dict.fromkeys(self.roles.numeric, True)
        is_number |= dict.fromkeys(self.roles.categorical, False)
        self.columns: ColumnPlan = plan_columns(self.roles, is_number, self._plan_bags())

    def _plan_bags(self) -> list[BagPlan]:
        """Return the bags of the features, in source order."""
        options = self._options
        found = []
        for name in self.roles.features:
            if name in self.roles.text:
                spec = Entries("text", options.words, options.characters, options.norm)
                found.append(BagPlan(name, spec, 1 << options.hash_bits))
            elif name in self.roles.bags:
                n_codes = max(
                    f.n_codes for source in self.sources for f in source.fields if f.name == name
                )
                spec = Entries("index" if n_codes else "hashed")
                found.append(BagPlan(name, spec, n_codes or 1 << options.hash_bits))
        return found

    def estimate_entries(self) -> float:
        """Return about how many entries of bags a row has."""
        per_byte = (self._options.words[1] > 0) / 3 + 3 * (self._options.characters[1] > 0)
        lists = {bag.name for bag in self.columns.bags if bag.spec.keys != "text"}
        fields = [f for f in self.sources[0].fields if f.name in lists]
        return self._text_bytes * per_byte + sum(f.row_entries or _ROW_ENTRIES for f in fields)

    def demote(self, names: Sequence[str]) -> list[str]:
        """Take columns as categories after all; return their names in the source."""
        found = dict.fromkeys(self.date_parts[n][0] if n in self.date_parts else n for n in names)
        for name in found:
            self._is_number[name] = False
            self._times.discard(name)
        self._settle()
        return list(found)

    def estimate_rows(self) -> float:
        """Return about how many rows there are."""
        total = 0.0
        for source in self.sources:
            if source.n_rows is not None:
                total += source.n_rows
            elif source.n_bytes:
                total += source.n_bytes * source.expansion() / max(self._record_bytes, 1.0)
            else:
                total += _MANY_ROWS
        return total

    def reading_bytes(self) -> int:
        """Return the memory that reading takes beside the pieces: files of one table are alike."""
        largest = max(self.sources, key=lambda source: source.n_bytes)
        return largest.reading_bytes(self.columns.wanted)
