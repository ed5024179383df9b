"""Raw arrays as a model of arrays reads them, for predict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data_tools.array_source import open_array
from streamtrain import memory as process_memory
from streamtrain.errors import ConfigError, SchemaError
from streamtrain.store.encode import EncodedRows, encode_array
from streamtrain.store.schema import Schema

_ROWS = 8192
_BYTES = 16 << 20


def read_array_rows(
    sources: Sequence[str], schema: Schema, *, memory: int | None = None
) -> Iterator[EncodedRows]:
    """Yield the rows of arrays in order, some thousand at a time.

    Parameters
    ----------
    sources : sequence of str
        .npy, IDX or Zarr.
    schema : Schema
        Of a model of arrays.
    memory : int or None
        Budget of the whole process in bytes.

    Raises
    ------
    NoInputError, SourceError
        If a source is not there or is no array.
    SchemaError
        If its rows have another shape than those of training.
    BudgetError
        If the budget cannot hold one piece.
    """
    array = schema.array
    if array is None:
        raise ConfigError("the model was trained on a table", where="predict")
    n_values = array.stored.n_values
    for name in sources:
        source = open_array(Path(name))
        if source.shape[1:] not in {array.shape, (n_values,)}:
            raise SchemaError(
                f"rows of shape {source.shape[1:]}, the model was trained on {array.shape}",
                where=name,
            )
        n_rows = min(max(_BYTES // (4 * n_values), 1), _ROWS)
        row_bytes = n_values * (source.dtype.itemsize + 4)
        parts = {
            "interpreter, code and model": process_memory.resident_bytes(),
            "rows": 2 * n_rows * row_bytes + 2 * source.chunk_bytes,
        }
        budget = memory or process_memory.default_budget()
        process_memory.require(budget, parts, what="predicting", remedy="raise --memory")
        for rows in source.slabs(n_rows):
            with np.errstate(over="ignore"):  # infinite then, as a table's number would be
                yield encode_array(rows, array, where=name)
        source.end()
