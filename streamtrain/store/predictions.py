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
        try:
            if self._writer is None:
                self._writer = self._open(batch.schema)
            self._writer.write_batch(batch)
        except OSError as error:
            raise durable.as_stream_error(error, self._path) from error

    def _open(self, schema: pa.Schema) -> Any:
        if self._path.suffix == ".csv":
            options = pa_csv.WriteOptions(include_header=True, quoting_style="needed")
            return pa_csv.CSVWriter(self._file, schema, write_options=options)
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
