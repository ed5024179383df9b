"""Arrays as a table: the columns of (N, D) by position or name, target and weight beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_tools.array_set import TARGET, ArraySet
from data_tools.labels import Labels
from data_tools.source import PIECE_BYTES, SourceEnd
from data_tools.table_source import MAX_COLUMNS, TableBatch, TableReader
from streamtrain.errors import SourceError

WEIGHT = "weight"
_BAND_BYTES = 32 << 20
"""Most rows of one chunk that are read at once."""


class ArrayTableReader(TableReader):
    """An `ArraySet` whose features are a table.

    Parameters
    ----------
    arrays : ArraySet
    target : str
        What the column of targets is called.

    Raises
    ------
    SourceError
        If the features are no table.
    """

    def __init__(self, arrays: ArraySet, *, target: str = TARGET) -> None:
        features = arrays.features
        self.name = arrays.file or features.name
        self._arrays = arrays
        self._target = target
        if len(features.shape) > 2:
            raise SourceError(
                f"an array of shape {features.shape}, expected a table of rows and columns",
                where=features.name,
                remedy="reshape it to two dimensions, or keep it as it is with --format zarr",
            )
        n, width = (*features.shape, 1)[:2]
        if arrays.target is not None and arrays.n_targets > 1:
            raise SourceError(
                f"of shape {arrays.target.shape}, a table has one target for each row",
                where=arrays.target.name,
                remedy="keep it with --format zarr, or give one column of it",
            )
        if width > MAX_COLUMNS:
            raise SourceError(
                f"{width:,} columns, at most {MAX_COLUMNS:,} are read", where=self.name
            )
        self._names = arrays.feature_names or tuple(str(c) for c in range(width))
        self.positional = not arrays.feature_names
        self._places = {name: c for c, name in enumerate(self._names)}
        kinds: list[tuple[str, pa.DataType]] = [(c, _kind(features.dtype)) for c in self._names]
        if arrays.target is not None:
            told = arrays.target
            kinds.append((target, pa.string() if isinstance(told, Labels) else _kind(told.dtype)))
        if arrays.weight is not None:
            kinds.append((WEIGHT, _kind(arrays.weight.dtype)))
        self.weight = WEIGHT if arrays.weight is not None else None
        self.schema = pa.schema(kinds)
        self._row = max(features.dtype.itemsize * width, 1)
        self._slab_rows = self._rows_at_once(features.step)
        self.n_rows = n
        self.n_bytes = sum(math.prod(p.shape) * p.dtype.itemsize for p in arrays.parts)

    def batches(self, columns: Sequence[str]) -> Iterator[TableBatch]:
        """Yield all rows in order."""
        done, total = 0, self._arrays.features.shape[0]
        for rows, targets, weights in self._arrays.slabs(self._slab_rows):
            block = rows.reshape(len(rows), -1)
            arrays, names = [], []
            for name in columns:
                if name in self._places:
                    arrays.append(_as_arrow(block[:, self._places[name]]))
                elif name == self._target and targets is not None:
                    arrays.append(self._targets(targets))
                else:
                    assert weights is not None
                    arrays.append(_as_arrow(weights.reshape(-1)))
                names.append(name)
            done += len(rows)
            yield TableBatch(
                pa.RecordBatch.from_arrays(arrays, names=names), self.n_bytes * done // total
            )

    def _rows_at_once(self, step: int) -> int:
        """Return the rows of a slab: whole chunks, where a row of them is not too large."""
        rows = max(PIECE_BYTES // self._row, 1)
        if step <= rows:
            return rows - rows % step
        return step if step * self._row <= _BAND_BYTES else rows

    def _targets(self, targets: npt.NDArray[Any]) -> pa.Array:
        told = self._arrays.target
        if not isinstance(told, Labels):
            return _as_arrow(targets.reshape(-1))
        nulls = np.isnan(targets)
        places = pa.array(np.where(nulls, 0, targets).astype(np.int64), mask=nulls)
        return pa.array(told.texts, pa.string()).take(places)

    def end(self) -> SourceEnd:
        """Return the size of all files, and the digest of the first, the features'."""
        ends = [end for _, end in self._arrays.ends()]
        return SourceEnd(sum(end.n_bytes for end in ends), ends[0].digest)

    def reading_bytes(self, columns: Sequence[str]) -> int:
        """Return what a chunk takes as it is decoded, and a slab."""
        del columns
        return 2 * self._arrays.chunk_bytes + 2 * self._slab_rows * self._row


def _kind(dtype: np.dtype[Any]) -> pa.DataType:
    native = dtype.newbyteorder("=")
    # An array's booleans are numbers, whatever a table's are.
    return pa.uint8() if native == np.bool_ else pa.from_numpy_dtype(native)


def _as_arrow(column: npt.NDArray[Any]) -> pa.Array:
    native = column.dtype.newbyteorder("=")
    if native == np.bool_:
        native = np.dtype(np.uint8)
    return pa.array(np.ascontiguousarray(column, native))
