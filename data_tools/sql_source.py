"""A query as a source: DuckDB joins, filters and derives, and streams Arrow batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from data_tools.source import SourceEnd
from data_tools.stored_file import READ_ERRORS
from data_tools.table_source import SAMPLE_ROWS, TableBatch, TableReader
from streamtrain.errors import BudgetError, ConfigError, SourceError, StreamtrainError

_WHERE = "--sql"
_BATCH_ROWS = 8192
SHARE = 0.25
"""Of the budget that DuckDB gets."""
_MIN_LIMIT = 64 << 20
_BESIDE_LIMIT = 128 << 20
"""What DuckDB took beyond its own limit at most, in joins and sorts that spill: code and pages."""


class SqlReader(TableReader):
    """One query.

    Parameters
    ----------
    query : str
        One SELECT.
    budget : int
        Of the whole process, in bytes; the query gets a quarter of it.
    spill : Path
        Directory for what does not fit; made by DuckDB, the caller's to remove.

    Raises
    ------
    ConfigError
        If DuckDB is not installed.
    SourceError
        If the query is not one SELECT, or names what is not there.

    Notes
    -----
    The query runs on one thread: with more, the order of the rows of a join would
    depend on timing, and with it the dataset. It runs twice, for a sample and
    for all rows.
    """

    def __init__(self, query: str, *, budget: int, spill: Path) -> None:
        try:
            import duckdb
        except ImportError as error:
            raise ConfigError(
                "DuckDB is not installed", where=_WHERE, remedy="pip install 'streamtrain[sql]'"
            ) from error
        self.name = _WHERE
        self._query = query
        self._limit = max(int(SHARE * budget), _MIN_LIMIT)
        self._errors = (duckdb.Error, *READ_ERRORS)
        self._n_bytes = 0
        try:
            self._connection = duckdb.connect(
                config={
                    "threads": 1,
                    "memory_limit": f"{self._limit}B",
                    "temp_directory": str(spill),
                    "autoinstall_known_extensions": "false",
                    # No name in a query is a variable of this process.
                    "python_enable_replacements": "false",
                    # Reads the columns of a whole row group at once.
                    "disable_parquet_prefetching": "true",
                }
            )
            statements = self._connection.extract_statements(query)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise SourceError("not one SELECT", where=_WHERE, remedy="give a single query")
            # Before anything is made of the relation: DuckDB then tells equal names apart.
            twice = Counter(self._relation().columns).most_common(1)
            if twice and twice[0][1] > 1:
                raise SourceError(
                    f"the column name {twice[0][0]!r} occurs twice",
                    where=_WHERE,
                    remedy="name the columns that the query selects",
                )
            self.schema = _stream(self._relation().limit(0), 1).schema
        except self._errors as error:
            raise self._refusal(error) from error

    def _relation(self) -> Any:
        return self._connection.sql(self._query)

    def _refusal(self, error: Exception) -> StreamtrainError:
        told = (str(error).splitlines() or ["?"])[0][:300]
        if "Out of Memory" in told:
            return BudgetError(
                f"the query needs more than {self._limit:,} bytes: {told}",
                where=_WHERE,
                remedy="raise --memory, of which it gets a quarter",
            )
        return SourceError(told, where=_WHERE, remedy="mend the query")

    def batches(self, columns: Sequence[str]) -> Iterator[TableBatch]:
        """Yield all rows in the order that the query gives them."""
        self._n_bytes = 0
        try:
            for batch in _stream(self._relation(), _BATCH_ROWS):
                self._n_bytes += batch.nbytes
                yield TableBatch(self._select(batch, columns), 0)
        except self._errors as error:
            raise self._refusal(error) from error

    def sample(self, columns: Sequence[str], n_places: int) -> Iterator[pa.RecordBatch]:
        """Yield the first rows."""
        n_rows = n_places * SAMPLE_ROWS
        try:
            for batch in _stream(self._relation().limit(n_rows), _BATCH_ROWS):
                yield self._select(batch, columns)
        except self._errors as error:
            raise self._refusal(error) from error

    def _select(self, batch: pa.RecordBatch, columns: Sequence[str]) -> pa.RecordBatch:
        # By place: DuckDB tells a name that occurs twice apart in some results alone.
        return batch.rename_columns(self.schema.names).select(list(columns))

    def reading_bytes(self, columns: Sequence[str]) -> int:  # noqa: ARG002 (a query reads what it reads)
        """Return DuckDB's limit, and what it takes beside."""
        return self._limit + _BESIDE_LIMIT

    def end(self) -> SourceEnd:
        """Return the bytes that came as Arrow, and the digest of the query's text."""
        return SourceEnd(self._n_bytes, xxhash.xxh3_128_hexdigest(self._query.encode()))


def _stream(relation: Any, n_rows: int) -> pa.RecordBatchReader:
    # The method's name before and since DuckDB 1.5.
    method = getattr(relation, "to_arrow_reader", None) or relation.fetch_arrow_reader
    return method(n_rows)
