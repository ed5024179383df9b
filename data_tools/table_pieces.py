"""Batches of a table cut into pieces: by what their values take once they are plain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_tools.source import PIECE_BYTES
from streamtrain.store.arrow_cells import is_text, nulls_of, plain
from streamtrain.store.bags import without_views

_ENTRY_BYTES = 12
"""Of an entry of a list: its key and value."""


def cut(rows: pa.RecordBatch, bags: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a batch in order, a few megabytes at a time once they are plain.

    Parameters
    ----------
    rows : pa.RecordBatch
    bags : sequence of str
        Columns of lists.
    """
    n, n_bytes = rows.num_rows, max(rows.nbytes, 1)
    # Items of lists may take a byte, and an entry takes more.
    n_bytes = max(n_bytes, _ENTRY_BYTES * sum(_n_items(rows, bag) for bag in bags))
    step = max(n if n_bytes <= PIECE_BYTES else n * PIECE_BYTES // n_bytes, 1)
    behind = _bytes_behind(rows)
    start = 0
    while start < n:
        stop = min(start + step, n)
        if behind is not None:
            fits = int(np.searchsorted(behind, behind[start] + PIECE_BYTES, "right")) - 1
            stop = min(stop, max(fits, start + 1))
        yield rows.slice(start, stop - start)
        start = stop


def longest(column: pa.Array) -> int:
    """Return the bytes of the longest text of a dictionary, 0 of another column."""
    if not pa.types.is_dictionary(column.type) or not is_text(column.type.value_type):
        return 0
    return int(_lengths(column.dictionary).max(initial=0))


def _bytes_behind(rows: pa.RecordBatch) -> npt.NDArray[np.int64] | None:
    """Return bytes of texts before each row, and of all, where a dictionary keeps them once.

    A megabyte that 400 rows share is 400 MB when each of them has its own. None
    where even rows of the longest are short enough.
    """
    n = rows.num_rows
    widths = None
    for column in rows.columns:
        if not pa.types.is_dictionary(column.type) or not is_text(column.type.value_type):
            continue
        lengths = _lengths(column.dictionary)
        if n * int(lengths.max(initial=0)) <= PIECE_BYTES // 4:
            continue
        codes = pc.fill_null(column.indices, 0).to_numpy(zero_copy_only=False)
        # Checked later, when the column is: here a wrong one must only not lead outside.
        found = lengths[np.minimum(codes, len(lengths) - 1) if len(lengths) else []]
        found[nulls_of(column.indices)] = 0
        widths = found if widths is None else widths + found
    if widths is None:
        return None
    behind = np.zeros(n + 1, np.int64)
    np.cumsum(widths, out=behind[1:])
    return behind


def _lengths(texts: pa.Array) -> npt.NDArray[np.int64]:
    counted = pc.fill_null(pc.binary_length(without_views(texts)), 0)
    return np.asarray(counted.to_numpy(zero_copy_only=False), np.int64)


def _n_items(rows: pa.RecordBatch, name: str) -> int:
    """Return the items of a column's lists, those of null ones included."""
    column = plain(rows.column(name))
    if pa.types.is_fixed_size_list(column.type):
        return len(column) * int(column.type.list_size)
    ends = column.offsets
    return int(ends[-1].as_py() - ends[0].as_py())
