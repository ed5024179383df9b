"""Parquet: one file, its row groups in order, each column a page at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.source import PIECE_BYTES, SourceEnd
from data_tools.stored_file import READ_ERRORS, StoredFile, as_source_error
from data_tools.table_pieces import longest
from data_tools.table_source import SAMPLE_ROWS, TableBatch, TableReader
from streamtrain.errors import SourceError
from streamtrain.store.arrow_cells import is_text

_STREAM_BYTES = 64 << 10
"""Read at a time of each column: without it Arrow loads the columns of a whole row group."""
_MAX_BATCH_ROWS = 65_536
_TEXT_BYTES = 32
"""Taken for a cell of text where the file keeps a dictionary and its size tells little."""
_SAMPLE_GROUPS = 8
_PROBE_ROWS = 64


class ParquetReader(TableReader):
    """One Parquet file.

    Parameters
    ----------
    path : Path
    name : str

    Raises
    ------
    NoInputError
        If there is no such file.
    SourceError
        If it is not a Parquet file, or damaged.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._stored = StoredFile(path, name)
        self.n_bytes = self._stored.n_bytes
        if self.n_bytes == 0:
            raise SourceError("empty, expected rows", where=name)
        try:
            with self._open() as file:
                self.schema = file.schema_arrow
                self.n_rows = file.metadata.num_rows
                # Of names that UTF-8 cannot be, this is where it shows.
                list(self.schema.names)
        except READ_ERRORS as error:
            raise as_source_error(error, name, "not a Parquet file, or cut short") from error

    def _open(self, kept: pq.ParquetFile | None = None, shared: Sequence[str] = ()) -> Any:
        """Open the file; texts of the columns `shared` stay in their dictionaries."""
        return pq.ParquetFile(
            self._stored.path,
            metadata=None if kept is None else kept.metadata,
            read_dictionary=list(shared),
            memory_map=False,
            pre_buffer=False,
            buffer_size=_STREAM_BYTES,
        )

    def batches(self, columns: Sequence[str]) -> Iterator[TableBatch]:
        """Yield all rows in order, a few megabytes at a time."""
        try:
            with self._stored.digest() as digest, self._open() as file:
                n_rows = 0
                step = self._batch_rows(file, columns)
                for group in range(file.metadata.num_row_groups):
                    told = file.metadata.row_group(group)
                    start, stop = _range(told)
                    digest.advance(min(stop, self.n_bytes))
                    done = 0
                    for rows in self._group(file, group, step, columns):
                        done += rows.num_rows
                        share = done / max(told.num_rows, 1)
                        yield TableBatch(rows, int(start + (stop - start) * share))
                        if rows.num_rows:
                            width = max(rows.nbytes // rows.num_rows, 1)
                    n_rows += done
                    if done:
                        step = min(max(PIECE_BYTES // 2 // width, 256), _MAX_BATCH_ROWS)
                if n_rows != self.n_rows:
                    raise SourceError(
                        f"{n_rows:,} rows, expected the {self.n_rows:,} of its footer",
                        where=self.name,
                    )
                self._end = digest.end()
        except READ_ERRORS as error:
            # A file that is being written looks damaged first.
            self._stored.check()
            raise as_source_error(error, self.name) from error

    def _group(
        self, file: pq.ParquetFile, group: int, n_rows: int, columns: Sequence[str]
    ) -> Iterator[pa.RecordBatch]:
        shared = self._shared(file, group, n_rows, columns)
        with ExitStack() as stack:
            if shared:
                file = stack.enter_context(self._open(file, shared))
            yield from file.iter_batches(
                n_rows, row_groups=[group], columns=list(columns), use_threads=False
            )

    def _shared(
        self, file: pq.ParquetFile, group: int, n_rows: int, columns: Sequence[str]
    ) -> list[str]:
        """Return columns of text that must stay in their dictionaries.

        A dictionary of one megabyte may stand for gigabytes, of which nothing in the
        footer tells. Where nearly all of a column is one, that is no slower; elsewhere
        it is, and only done if a text of the dictionary is long.
        """
        told = file.metadata.row_group(group)
        wanted = set(columns)
        texts = {f.name for f in self.schema if f.name in wanted and is_text(f.type)}
        shared: list[str] = []
        unsure: list[str] = []
        for c in range(told.num_columns if texts else 0):
            chunk = told.column(c)
            name = chunk.path_in_schema
            if name in texts and chunk.has_dictionary_page:
                pure = chunk.total_uncompressed_size <= 3 * chunk.num_values
                (shared if pure else unsure).append(name)
        if unsure:
            with self._open(file, unsure) as probe:
                first = next(
                    probe.iter_batches(
                        _PROBE_ROWS, row_groups=[group], columns=unsure, use_threads=False
                    ),
                    None,
                )
                if first is not None:
                    shared += [n for n in unsure if n_rows * longest(first.column(n)) > PIECE_BYTES]
        return shared

    def _batch_rows(self, file: pq.ParquetFile, columns: Sequence[str]) -> int:
        """Return rows that take a few megabytes by what the footer tells."""
        wanted = set(columns)
        width = 0
        for field in self.schema:
            if field.name in wanted:
                width += _width(field.type)
        stored = sum(
            file.metadata.row_group(g).total_byte_size for g in range(file.metadata.num_row_groups)
        )
        share = len(wanted) / max(len(self.schema), 1)
        width = max(width, int(stored * share / max(file.metadata.num_rows, 1)), 1)
        return min(max(PIECE_BYTES // 2 // width, 256), _MAX_BATCH_ROWS)

    def sample(self, columns: Sequence[str], n_places: int) -> Iterator[pa.RecordBatch]:
        """Yield the first rows of evenly spread row groups."""
        try:
            with self._open() as file:
                n = file.metadata.num_row_groups
                n_groups = min(n, n_places, _SAMPLE_GROUPS)
                per_group = SAMPLE_ROWS * max(n_places // max(n_groups, 1), 1)
                for place in range(n_groups):
                    group = place * n // n_groups
                    left = per_group
                    for rows in self._group(file, group, SAMPLE_ROWS, columns):
                        yield rows.slice(0, left)
                        left -= rows.num_rows
                        if left <= 0:
                            break
        except READ_ERRORS as error:
            raise as_source_error(error, self.name) from error

    def reading_bytes(self, columns: Sequence[str]) -> int:
        """Return what decoding takes: measured on the first pages of the largest row group.

        A page, decoded whole, of every column, and its compressed bytes. Nothing
        in the footer tells how large pages are.
        """
        try:
            with self._open() as file:
                groups = range(file.metadata.num_row_groups)
                if not groups:
                    return 0
                sizes = [int(file.metadata.row_group(g).total_byte_size) for g in groups]
                largest = sizes.index(max(sizes))
                before = allocated_bytes()
                rows = self._group(file, largest, self._batch_rows(file, columns), columns)
                first = next(rows, None)
                taken: int = allocated_bytes() - before
                del first
                return max(int(taken), 0) * 5 // 4
        except READ_ERRORS as error:
            raise as_source_error(error, self.name) from error

    def end(self) -> SourceEnd:
        """Return size and digest, after `batches` is exhausted."""
        return self._end


def _range(group: pq.RowGroupMetaData) -> tuple[int, int]:
    """Return where the columns of a row group begin and end in the file."""
    starts, stops = [], []
    for c in range(group.num_columns):
        column = group.column(c)
        start = column.data_page_offset
        if column.dictionary_page_offset is not None:
            start = min(start, column.dictionary_page_offset)
        starts.append(start)
        stops.append(start + column.total_compressed_size)
    return min(starts, default=0), max(stops, default=0)


def _width(told: pa.DataType) -> int:
    try:
        return max(int(told.bit_width) // 8, 1)
    except ValueError:
        return _TEXT_BYTES


def allocated_bytes() -> int:
    """Return what Arrow holds, in whichever pool: readers do not all take the default one."""
    total = int(pa.system_memory_pool().bytes_allocated())
    for pool in (pa.mimalloc_memory_pool, pa.jemalloc_memory_pool):
        try:
            total += int(pool().bytes_allocated())
        except NotImplementedError:
            continue
    return total
