"""Tables in memory and streams of other libraries: any object with `__arrow_c_stream__`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from data_tools.source import SourceEnd
from data_tools.stored_file import READ_ERRORS, as_source_error
from data_tools.table_source import SAMPLE_ROWS, TableBatch, TableReader
from streamtrain.errors import SourceError


class ObjectReader(TableReader):
    """An object with `__arrow_c_stream__`: an Arrow table, a Polars or pandas frame, a query.

    Parameters
    ----------
    data : object
        A reader of record batches can be read once: what a sample needs of it
        is kept, and columns that must be read again are refused.
    name : str

    Raises
    ------
    SourceError
        If it does not give a table.
    """

    def __init__(self, data: Any, name: str) -> None:
        self.name = name
        if isinstance(data, pa.RecordBatch):
            data = pa.Table.from_batches([data])
        self._data = data
        self._kept: list[pa.RecordBatch] = []
        self._open()
        self.schema = self._stream.schema
        if isinstance(data, pa.Table):
            self.n_rows = data.num_rows
        self._begun = False

    def _open(self) -> None:
        try:
            self._stream = pa.RecordBatchReader.from_stream(self._data)
        except (*READ_ERRORS, TypeError) as error:
            raise as_source_error(error, self.name, "gives no table") from error

    def sample(self, columns: Sequence[str], n_places: int) -> Iterator[pa.RecordBatch]:
        """Yield the first rows; they are kept for `batches`."""
        n_rows = n_places * SAMPLE_ROWS
        while sum(b.num_rows for b in self._kept) < n_rows:
            batch = self._next()
            if batch is None:
                break
            self._kept.append(batch)
        for batch in self._kept:
            yield batch.select(list(columns)).slice(0, n_rows)
            n_rows -= min(n_rows, batch.num_rows)

    def _next(self) -> pa.RecordBatch | None:
        try:
            return next(self._stream, None)
        except READ_ERRORS as error:
            raise as_source_error(error, self.name, "ends in an error") from error

    def batches(self, columns: Sequence[str]) -> Iterator[TableBatch]:
        """Yield all rows in order."""
        if self._begun:
            if isinstance(self._data, pa.RecordBatchReader):
                raise SourceError(
                    "can be read once, and a column is not what its first rows were",
                    where=self.name,
                    remedy="declare it with `categorical`, or give a table",
                )
            self._open()
            self._kept = []
        self._begun = True
        self._n_bytes = 0
        kept, self._kept = self._kept, []
        while True:
            batch = kept.pop(0) if kept else self._next()
            if batch is None:
                return
            self._n_bytes += batch.nbytes
            yield TableBatch(batch.select(list(columns)), 0)

    def end(self) -> SourceEnd:
        """Return the bytes in memory; there is nothing stored to digest."""
        return SourceEnd(self._n_bytes, "")
