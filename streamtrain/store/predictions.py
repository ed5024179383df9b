"""Writing predictions as CSV or Parquet, a batch at a time, in one durable commit."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from streamtrain import durable
from streamtrain.errors import OutputError, UsageError

WIDE_COLUMNS = 64
"""Parquet files of more columns are written in row groups of `GROUP_BYTES`: each column of each
row group takes 2 KB of memory until the file is closed."""
GROUP_BYTES = 16 << 20


def waiting_bytes(path: Path, n_columns: int) -> int:
    """Return the memory of rows that wait to be written, and are written."""
    return 2 * GROUP_BYTES if path.suffix == ".parquet" and n_columns > WIDE_COLUMNS else 0


class PredictionWriter:
    """Write predictions to a file that appears when it is complete.

    Parameters
    ----------
    path : Path
        Ends in ``.csv`` or ``.parquet``.
    names : sequence of str
        Columns.
    overwrite : bool
        Replace a file that is there.

    Raises
    ------
    UsageError
        If the name has another ending.
    OutputError
        If it exists, or cannot be created.

    Examples
    --------
    >>> with PredictionWriter(path, ["probability"]) as writer:  # doctest: +SKIP
    ...     writer.write([probabilities])
    """

    def __init__(self, path: Path, names: Sequence[str], *, overwrite: bool = False) -> None:
        if path.suffix not in {".csv", ".parquet"}:
            raise UsageError(
                f"{path.name!r} does not end in .csv or .parquet",
                where="--out",
                remedy="name it so",
            )
        if path.is_dir():
            raise OutputError("is a directory, expected a file", where=str(path))
        self._path = path
        self._names = list(names)
        self._overwrite = overwrite
        self._refuse_existing()
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._writer: Any = None
        self._is_wide = path.suffix == ".parquet" and len(self._names) > WIDE_COLUMNS
        self._waiting: list[pa.RecordBatch] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # What a killed process of the same number left is debris.
            self._temporary.unlink(missing_ok=True)
            self._file = pa.OSFile(str(self._temporary), "wb")
        except OSError as error:
            raise durable.as_stream_error(error, path) from error

    def _refuse_existing(self) -> None:
        if self._path.exists() and not self._overwrite:
            raise OutputError(
                "exists already", where=str(self._path), remedy="give --overwrite to replace it"
            )

    def write(self, columns: Sequence[Any]) -> None:
        """Append rows: one array for each column, NumPy or Arrow; null and NaN are empty.

        Raises
        ------
        DiskError
            If the disk is full or fails.
        """
        arrays = [
            column if isinstance(column, pa.Array) else pa.array(column, from_pandas=True)
            for column in columns
        ]
        batch = pa.RecordBatch.from_arrays(arrays, names=self._names)
        self._waiting.append(batch)
        if self._is_wide and sum(b.nbytes for b in self._waiting) < GROUP_BYTES:
            return
        self._write_waiting()

    def _write_waiting(self) -> None:
        try:
            if self._waiting:
                if self._writer is None:
                    self._writer = self._open(self._waiting[0].schema)
                if self._is_wide:
                    # One row group, whatever the pieces.
                    self._writer.write_table(pa.Table.from_batches(self._waiting))
                else:
                    self._writer.write_batch(self._waiting[0])
        except OSError as error:
            raise durable.as_stream_error(error, self._path) from error
        finally:
            self._waiting = []

    def _open(self, schema: pa.Schema) -> Any:
        if self._path.suffix == ".csv":
            options = pa_csv.WriteOptions(include_header=True, quoting_style="needed")
            return pa_csv.CSVWriter(self._file, schema, write_options=options)
        if self._is_wide:
            return pq.ParquetWriter(
                self._file, schema, use_dictionary=False, write_statistics=False
            )
        return pq.ParquetWriter(self._file, schema)

    def close(self) -> None:
        """Finish the file and give it its name.

        Raises
        ------
        OutputError
            If a file of that name came up meanwhile.
        DiskError
            If the disk is full or fails.
        """
        try:
            self._write_waiting()
            if self._writer is None:
                empty = pa.schema([pa.field(name, pa.float32()) for name in self._names])
                self._writer = self._open(empty)
            self._writer.close()
            self._file.close()
            durable.sync_file(self._temporary)
            if self._overwrite:
                self._temporary.rename(self._path)
            else:
                # A link refuses an existing name; a rename would replace it.
                os.link(self._temporary, self._path)
                self._temporary.unlink()
            durable.sync_directory(self._path.parent)
        except FileExistsError as error:
            self.abandon()
            raise OutputError("exists already", where=str(self._path)) from error
        except OSError as error:
            self.abandon()
            raise durable.as_stream_error(error, self._path) from error

    def abandon(self) -> None:
        """Leave no file."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


def spread(column: Any, places: npt.NDArray[np.int64], n: int) -> pa.Array:
    """Return a column of n rows with values at `places` and null elsewhere.

    Parameters
    ----------
    column : (k,) array
    places : (k,) int64, ascending
    n : int
    """
    picks = np.full(n, -1, np.int64)
    picks[places] = np.arange(len(places))
    missing = picks < 0
    indices = pa.array(np.where(missing, 0, picks), mask=missing)
    values = column if isinstance(column, pa.Array) else pa.array(column)
    return values.take(indices)
