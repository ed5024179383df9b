"""Raw files as typed record batches, for predict and evaluate."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_tools.array_rows import ArrayFiles
from data_tools.bag_rows import WORK_BYTES, most_entries
from data_tools.byte_stream import check_encoding
from data_tools.csv_source import CsvOptions
from data_tools.dates import DatedSource
from data_tools.judge import reasons_of_entries
from data_tools.kinds import SourceOptions
from data_tools.source import Piece, PieceBuffer, Records, Source, names_of
from data_tools.source_records import EncodedPiece, SourceRecords
from data_tools.sources import open_sources
from data_tools.text_source import BUFFER_BYTES
from streamtrain import memory as process_memory
from streamtrain.config import nearest
from streamtrain.errors import SchemaError
from streamtrain.kernels import numbers
from streamtrain.store.bags import Keyed, keyed_array
from streamtrain.store.cells import as_text, fault, missing_text, read_numbers, strings_of
from streamtrain.store.encode import Encoder
from streamtrain.store.schema import Column, Schema
from streamtrain.store.shards import as_arrow
from streamtrain.store.string_table import MissingTexts

_MAX_CELLS = 1 << 18
_MAX_ENTRIES = WORK_BYTES // 48
"""Entries of texts and lists that are encoded at once: 8 bytes each, in up to six places."""


@dataclass(frozen=True, kw_only=True)
class RawRows(SourceRecords):
    """With the good records in `batch`.

    Numbers are float64 with NaN for missing, strings have missing ones as written.
    """

    batch: pa.RecordBatch


def read_encoded(
    sources: Sequence[str],
    encoder: Encoder,
    *,
    threads: int = 0,
    memory: int | None = None,
    encoding: str = "utf-8",
) -> Iterator[EncodedPiece]:
    """Yield the records of raw files in order, as a model reads them; see `read_raw`."""
    for raw in read_raw(sources, encoder.schema, threads=threads, memory=memory, encoding=encoding):
        yield EncodedPiece(
            rows=encoder.encode(raw.batch),
            n_records=raw.n_records,
            ordinals_within_batch=raw.ordinals_within_batch,
            reasons=raw.reasons,
            source=raw.source,
            lines=raw.lines,
            unit=raw.unit,
        )


def read_raw(
    sources: Sequence[str],
    schema: Schema,
    *,
    threads: int = 0,
    memory: int | None = None,
    encoding: str = "utf-8",
    kind: str | None = None,
    arrays: ArrayFiles | None = None,
) -> Iterator[RawRows]:
    """Yield the records of sources in order, with the columns that a schema names.

    Target, weight and exposure are there if every source has them. A record
    with a feature that is not a number where one is expected is bad; a target,
    weight or exposure that is not reads as missing.

    Parameters
    ----------
    sources : sequence of str
        Files of any kind, directories, patterns, ``-``.
    schema : Schema
    threads : int
        Parse this many pieces at once, 0 one for each core; changes speed alone.
    memory : int or None
        Budget of the whole process in bytes.
    encoding : str
    kind : str or None
        Of the sources, where their names and first bytes do not tell.
    arrays : ArrayFiles or None
        Targets and weights beside sources that are arrays, and what is what in groups.

    Raises
    ------
    NoInputError, SourceError
        If a source is not there or cannot be read.
    SchemaError
        If a feature is not there, with the nearest name.
    BudgetError
        If the budget cannot hold one thread's work.
    """
    arrays = arrays or ArrayFiles()
    dialect = CsvOptions(schema.delimiter or None, schema.header, check_encoding(encoding))
    with contextlib.ExitStack() as stack:
        spool = Path("stdin")
        if "-" in sources:
            spool = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "stdin"
        wanted = SourceOptions(
            csv=dialect,
            null=missing_text(schema.missing),
            kind=kind,
            strict=False,
            svm_width=_width(schema),
            sparse=any(c.bag.keys == "index" for c in schema.bags),
            bags=tuple(c.name for c in schema.bags if c.bag.keys != "text"),
            arrays=arrays.names_for(schema),
        )
        opened = open_sources(
            sources,
            wanted,
            spool=spool,
            target_files=arrays.targets,
            weight_files=arrays.weights,
        )
        dated = dates_of(schema)
        if dated:
            missing = MissingTexts(schema.missing)
            opened = [DatedSource(source, dated, missing) for source in opened]
        reader = _Reader(opened, schema)
        wished = threads or len(os.sched_getaffinity(0))
        yield from reader.read(
            _fit(wished, memory, reader.reading_bytes(), has_bags=bool(schema.bags))
        )


def _width(schema: Schema) -> int:
    """Return the greatest index among columns of libsvm: a line leaves out what is 0."""
    dense = [int(c.name) for c in schema.columns if c.name.isdecimal()]
    sparse = [c.cardinality - 1 for c in schema.bags if c.bag.keys == "index"]
    return max((*dense, *sparse), default=0)


def dates_of(schema: Schema) -> dict[str, tuple[str, ...]]:
    """Return the parts of each column of times that a schema uses."""
    found: dict[str, tuple[str, ...]] = {}
    for column in schema.columns:
        if column.date_of and column.part:
            found[column.date_of] = (*found.get(column.date_of, ()), column.part)
    return found


def _fit(threads: int, budget: int | None, reading: int, *, has_bags: bool) -> int:
    if budget is None:
        return threads
    one = 2 * BUFFER_BYTES + 24 * _MAX_CELLS
    entries = 2 * WORK_BYTES if has_bags else 0
    base = process_memory.resident_bytes()
    process_memory.require(
        budget,
        {
            "process so far": base,
            "pieces of rows": one,
            "entries of texts and lists": entries,
            "decoding of the source": reading,
        },
        what="reading raw rows",
    )
    return max(1, min(threads, (budget - base - reading - entries) // (2 * one)))


def _cut(raw: RawRows, bags: Sequence[Column]) -> Iterator[RawRows]:
    """Yield records in as many parts as their texts and lists need, at least one."""
    n = raw.batch.num_rows
    if not bags or n < 2:
        yield raw
        return
    most = np.zeros(n + 1, np.int64)
    for column in bags:
        most[1:] += most_entries(raw.batch.column(column.name), column.bag)
    np.cumsum(most, out=most)
    begin = first = 0
    while begin < n:
        end = int(np.searchsorted(most, most[begin] + _MAX_ENTRIES, side="right")) - 1
        end = min(max(end, begin + 1), n)
        last = raw.n_records if end == n else int(raw.ordinals_within_batch[end])
        yield replace(
            raw,
            batch=raw.batch.slice(begin, end - begin),
            n_records=last - first,
            ordinals_within_batch=raw.ordinals_within_batch[begin:end] - first,
            reasons={k - first: why for k, why in raw.reasons.items() if first <= k < last},
            lines=raw.lines[first:last],
        )
        begin, first = end, last


class _Reader:
    def __init__(self, sources: Sequence[Source], schema: Schema) -> None:
        self._sources = sources
        self._missing = MissingTexts(schema.missing)
        found = names_of(sources[0].fields)
        for column in schema.columns:
            if column.name not in found:
                name = column.date_of or column.name
                raise SchemaError(
                    f"no column {name!r}{nearest(name, found)}",
                    where=sources[0].name,
                    remedy="score rows with the columns of training",
                )
        self._bags = [c.name for c in schema.bags]
        self._bag_columns = schema.bags
        told = {f.name: f for f in sources[0].fields}
        for column in schema.bags:
            field = told[column.name]
            if column.bag.keys != "text" and (column.bag.keys == "index") != (field.n_codes > 0):
                wanted = "indices" if column.bag.keys == "index" else "lists of names"
                raise SchemaError(
                    f"column {column.name!r} is {field.told}, expected {wanted}",
                    where=sources[0].name,
                    remedy="score rows of the kind of training",
                )
        self._numeric = [c.name for c in schema.numeric]
        self._text = [c.name for c in schema.categorical]
        target = schema.target.name
        extra = [name for name in (schema.weight, schema.exposure) if name is not None]
        if not schema.target.is_text:
            extra.append(target)
        self._lenient = [name for name in extra if name in found]
        if schema.target.is_text and target in found:
            self._text.append(target)
        self._wanted = [*self._numeric, *self._lenient, *self._text, *self._bags]

    def reading_bytes(self) -> int:
        """Return what decoding the largest source takes."""
        return max(self._sources, key=lambda s: s.n_bytes).reading_bytes(self._wanted)

    def read(self, threads: int) -> Iterator[RawRows]:
        free: SimpleQueue[PieceBuffer] = SimpleQueue()
        for _ in range(threads):
            free.put(PieceBuffer(BUFFER_BYTES))
        with ThreadPoolExecutor(threads, thread_name_prefix="read-raw") as executor:
            for s, source in enumerate(self._sources):
                line = 0
                waiting: list[tuple[Piece, Future[list[RawRows]]]] = []
                pieces = source.pieces(s, free.get, self._wanted)
                more = True
                while more or waiting:
                    # Never ask for a buffer that only this loop could give back.
                    while more and len(waiting) < threads:
                        piece = next(pieces, None)
                        more = piece is not None
                        if piece is not None:
                            future = executor.submit(self._parse, source, piece)
                            waiting.append((piece, future))
                    if not waiting:
                        break
                    piece, future = waiting.pop(0)
                    rows = future.result()
                    free.put(piece.buffer)
                    line += piece.first_line
                    for raw in rows:
                        placed = replace(raw, lines=raw.lines[:-1] + line + 1, unit=source.unit)
                        yield from _cut(placed, self._bag_columns)
                        line += int(raw.lines[-1])

    def _parse(self, source: Source, piece: Piece) -> list[RawRows]:
        splitter = source.splitter(self._wanted, max_cells=_MAX_CELLS)
        return [self._type(source.name, records) for records in splitter.split(piece)]

    def _type(self, source: str, records: Records) -> RawRows:
        n = records.n_records
        reasons = {r.record: r.reason for r in records.rejections}
        columns: list[npt.NDArray[np.float64]] = []
        status = np.empty(n, np.uint8)
        n_numbers = len(self._numeric) + len(self._lenient)
        for c in range(n_numbers):
            values = np.empty(n)
            read_numbers(records.cells[c], records.good, self._missing, values, status)
            columns.append(values)
            if c < len(self._numeric):
                for i in np.flatnonzero(status >= numbers.NOT_A_NUMBER):
                    what = fault(records.cells[c], status[i])
                    reasons.setdefault(int(i), f"{self._numeric[c]}: {what}")
        for name, cells in zip(self._bags, records.cells[-len(self._bags) :], strict=False):
            reasons = reasons_of_entries(name, cells, records.good, reasons)
        good = np.setdiff1d(np.arange(n), np.fromiter(reasons, np.int64, len(reasons)))
        arrays = [as_arrow(values[good]) for values in columns]
        arrays += [
            keyed_array(cells, good)
            if isinstance(cells, Keyed)
            else strings_of(as_text(cells), good)
            for cells in records.cells[n_numbers:]
        ]
        # The last element carries the batch's physical lines to `read`.
        lines = np.append(records.lines.astype(np.int64), records.n_lines)
        batch = pa.RecordBatch.from_arrays(arrays, names=self._wanted)
        return RawRows(
            batch=batch,
            n_records=n,
            ordinals_within_batch=good,
            reasons=reasons,
            source=source,
            lines=lines,
        )
