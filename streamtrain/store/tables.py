"""Tables that people hold in memory, as the record batches that encoders take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from streamtrain.errors import SchemaError
from streamtrain.store.schema import Schema


def as_record_batch(data: Any, schema: Schema) -> pa.RecordBatch:
    """Return rows as one record batch.

    Parameters
    ----------
    data : mapping of column name to sequence, Arrow data, or (n, columns) array
        Arrow data is a batch, a table, or any object with
        ``__arrow_c_stream__``. An array has the feature columns in the schema's
        order; it can hold categories only if its type is text or object.
    schema : Schema

    Raises
    ------
    SchemaError
        If it is none of these, or columns differ in length.
    """
    try:
        if isinstance(data, pa.RecordBatch):
            return data
        if isinstance(data, Mapping):
            return pa.RecordBatch.from_pydict({str(k): v for k, v in data.items()})
        if isinstance(data, pa.Table) or hasattr(data, "__arrow_c_stream__"):
            table = pa.table(data).combine_chunks()
            if table.num_rows == 0:
                return pa.RecordBatch.from_arrays(
                    [pa.array([], field.type) for field in table.schema], schema=table.schema
                )
            return table.to_batches()[0]
        array = np.asarray(data)
        if array.ndim == 2 and array.shape[1] == len(schema.columns):
            names = [column.name for column in schema.columns]
            columns = [pa.array(np.ascontiguousarray(array[:, j])) for j in range(len(names))]
            return pa.RecordBatch.from_arrays(columns, names=names)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise SchemaError(str(error).splitlines()[0], where="rows") from error
    raise SchemaError(
        f"rows of shape {array.shape} for {len(schema.columns)} feature columns",
        where="rows",
        remedy="give a mapping of column names to values, or an Arrow table",
    )
