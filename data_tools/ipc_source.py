"""Arrow IPC: files (Feather 2 is one) and streams, one record batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_tools.source import SourceEnd
from data_tools.stored_file import READ_ERRORS, StoredFile, as_source_error
from data_tools.table_source import SAMPLE_ROWS, TableBatch, TableReader
from streamtrain.errors import SourceError

FILE_MAGIC = b"ARROW1"
STREAM_MAGIC = b"\xff\xff\xff\xff"
_SAMPLE_BATCHES = 8


class IpcReader(TableReader):
    """One Arrow IPC file or stream.

    Parameters
    ----------
    path : Path
    name : str

    Raises
    ------
    NoInputError
        If there is no such file.
    SourceError
        If it is neither, or damaged.

    Notes
    -----
    A record batch is decoded whole, so the memory of reading is that of the
    largest. Files are read, not mapped: a mapped file that somebody shortens
    would end the process.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._stored = StoredFile(path, name)
        self.n_bytes = self._stored.n_bytes
        if self.n_bytes == 0:
            raise SourceError("empty, expected rows", where=name)
        try:
            with path.open("rb") as file:
                self._is_file = file.read(len(FILE_MAGIC)) == FILE_MAGIC
            with ExitStack() as stack:
                self.schema = self._open(stack, None).schema
                list(self.schema.names)
        except READ_ERRORS as error:
            raise as_source_error(error, name, "not Arrow IPC, or cut short") from error

    def _open(self, stack: ExitStack, columns: Sequence[str] | None) -> Any:
        file = stack.enter_context(pa.OSFile(str(self._stored.path), "rb"))
        return self._open_at(stack, file, columns)

    def _open_at(self, stack: ExitStack, file: pa.NativeFile, columns: Sequence[str] | None) -> Any:
        wanted = [] if columns is None else [self.schema.names.index(c) for c in columns]
        # An empty list would mean all of them, which is what None stands for here.
        options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=wanted)
        opener = pa.ipc.open_file if self._is_file else pa.ipc.open_stream
        return stack.enter_context(opener(file, options=options))

    def _parts(self, columns: Sequence[str]) -> Iterator[tuple[pa.RecordBatch, float]]:
        """Yield batches, and the share of the file that is behind each."""
        with ExitStack() as stack:
            file = stack.enter_context(pa.OSFile(str(self._stored.path), "rb"))
            reader = self._open_at(stack, file, columns)
            if self._is_file:
                n = reader.num_record_batches
                for i in range(n):
                    yield reader.get_batch(i), (i + 1) / n
                return
            done, schema = 0, reader.schema
            while True:
                for batch in reader:
                    done += batch.nbytes
                    yield batch, min(done / max(self.n_bytes, 1), 1.0)
                if file.tell() >= self.n_bytes:
                    return
                # Streams that were put one behind another, as `cat` does.
                reader = self._open_at(stack, file, columns)
                if not reader.schema.equals(schema):
                    raise SourceError(
                        "streams one behind another with different columns",
                        where=self.name,
                        remedy="ingest them as files of their own",
                    )

    def batches(self, columns: Sequence[str]) -> Iterator[TableBatch]:
        """Yield all rows in order, as the file has them together."""
        try:
            with self._stored.digest() as digest:
                for rows, share in self._parts(columns):
                    behind = int(self.n_bytes * share)
                    digest.advance(behind)
                    yield TableBatch(rows, behind)
                self._end = digest.end()
        except READ_ERRORS as error:
            self._stored.check()
            raise as_source_error(error, self.name, "damaged, or cut short") from error

    def sample(self, columns: Sequence[str], n_places: int) -> Iterator[pa.RecordBatch]:
        """Yield the first rows of evenly spread batches of a file, of the first of a stream."""
        try:
            with ExitStack() as stack:
                reader = self._open(stack, columns)
                n = reader.num_record_batches if self._is_file else 1
                chosen = min(n, n_places, _SAMPLE_BATCHES)
                n_rows = SAMPLE_ROWS * max(n_places // max(chosen, 1), 1)
                for place in range(chosen):
                    batch = (
                        reader.get_batch(place * n // chosen)
                        if self._is_file
                        else next(iter(reader), None)
                    )
                    if batch is not None:
                        yield batch.slice(0, n_rows)
        except READ_ERRORS as error:
            raise as_source_error(error, self.name, "damaged, or cut short") from error

    def reading_bytes(self, columns: Sequence[str]) -> int:
        """Return what the first batch takes; the others are rarely larger."""
        for batch in self.sample(columns, 1):
            # A slice holds its whole batch.
            return int(batch.get_total_buffer_size()) * 5 // 4
        return 0

    def end(self) -> SourceEnd:
        """Return size and digest, after `batches` is exhausted."""
        return self._end
