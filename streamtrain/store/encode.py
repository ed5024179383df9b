"""Raw rows to what a model reads, by the schema and vocabularies that training left.

The same missing texts, number syntax and categories as ingest's, because the
same kernels read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from streamtrain.config import nearest
from streamtrain.errors import SchemaError
from streamtrain.kernels.bags import Bags, no_bags
from streamtrain.store.bags import entries_of, gather_bags
from streamtrain.store.dates import is_time, part_of, read_times
from streamtrain.store.schema import MISSING_CODE, ArrayFeatures, Column, Schema
from streamtrain.store.string_table import MissingTexts, StringIndex, TextCells, parse_cells
from streamtrain.store.vocabulary import Vocabulary

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class EncodedRows:
    """Rows as a model reads them.

    Parameters
    ----------
    numeric : (n, D) float32
        NaN is missing.
    codes : (n, F) int32
    target, weight, exposure : (n,) float32 or None
        What shards hold, targets (n, M) where a row has M > 1 of them; NaN where
        missing or, for a target, unknown. None where the batch has no such column.
    bags : Bags of n rows
    """

    numeric: Float32
    codes: npt.NDArray[np.int32]
    target: Float32 | None
    weight: Float32 | None
    exposure: Float32 | None
    bags: Bags

    def take(self, chosen: npt.NDArray[np.bool_]) -> EncodedRows:
        """Return some rows of those that have no bags, by a (n,) mask."""

        def some(values: Float32 | None) -> Float32 | None:
            return None if values is None else values[chosen]

        return EncodedRows(
            self.numeric[chosen],
            self.codes[chosen],
            some(self.target),
            some(self.weight),
            some(self.exposure),
            no_bags(int(chosen.sum())),
        )


def encode_array(data: Any, features: ArrayFeatures, *, where: str = "rows") -> EncodedRows:
    """Return rows of an array as a model reads them.

    Parameters
    ----------
    data : array_like
        (n, D) or (n, *shape) numbers of any type; NaN is missing.
    features : ArrayFeatures
    where : str
        What messages call it.

    Raises
    ------
    SchemaError
        If it has another shape, or holds no numbers.
    """
    rows = np.asarray(data)
    shape, n_values = features.shape, features.stored.n_values
    if rows.shape[1:] not in {shape, (n_values,)}:
        raise SchemaError(
            f"rows of shape {rows.shape[1:]}, the model was trained on {shape}", where=where
        )
    if rows.dtype.kind not in "buif":
        raise SchemaError(f"holds {rows.dtype}, expected numbers", where=where)
    n = len(rows)
    numeric = np.ascontiguousarray(rows.reshape(n, n_values), np.float32)
    return EncodedRows(numeric, np.empty((n, 0), np.int32), None, None, None, no_bags(n))


class Encoder:
    """Encodes record batches.

    Parameters
    ----------
    schema : Schema
    vocabularies : mapping of str to Vocabulary
        Of every categorical column, by its name.

    Raises
    ------
    SchemaError
        If a vocabulary is not there or does not have the column's cardinality.
    """

    def __init__(self, schema: Schema, vocabularies: Mapping[str, Vocabulary]) -> None:
        self.schema = schema
        self._missing = MissingTexts(schema.missing)
        self._indices: list[StringIndex] = []
        for column in schema.categorical:
            vocabulary = vocabularies.get(column.name)
            if vocabulary is None or vocabulary.cardinality != column.cardinality:
                raise SchemaError(
                    "has no vocabulary of its cardinality", where=f"column {column.name!r}"
                )
            self._indices.append(StringIndex(vocabulary.offsets, vocabulary.data))
        self._classes: StringIndex | None = None
        if schema.target.is_text:
            texts = [text.encode() for text in schema.target.classes]
            offsets = np.cumsum([0, *map(len, texts)]).astype(np.int64)
            self._classes = StringIndex(offsets, np.frombuffer(b"".join(texts), np.uint8))

    def encode(self, batch: pa.RecordBatch) -> EncodedRows:
        """Return the rows of a batch; columns of other names are ignored.

        Raises
        ------
        SchemaError
            If a feature is not there, or a column cannot be read as its kind.
        """
        schema = self.schema
        n = batch.num_rows
        # Once: looking each name up in the batch takes time in the square of its columns.
        places = {name: i for i, name in enumerate(batch.schema.names)}
        numeric = np.empty((n, len(schema.numeric)), np.float32)
        for d, column in enumerate(schema.numeric):
            numeric[:, d] = self._numbers(self._feature(batch, column, places), column.name)
        codes = np.empty((n, len(schema.categorical)), np.int32)
        code = np.empty(n, np.int32)
        for f, column in enumerate(schema.categorical):
            array = self._feature(batch, column, places)
            cells = _as_cells(array, column.name)
            codes[:, f] = self._indices[f].find(cells, self._missing, code)
            if array.null_count:
                codes[_nulls(array), f] = MISSING_CODE
        return EncodedRows(
            numeric=numeric,
            codes=codes,
            target=self._target(batch, places),
            weight=self._optional(batch, schema.weight, places),
            exposure=self._optional(batch, schema.exposure, places),
            bags=gather_bags(
                [
                    entries_of(_column(batch, column.name, places), column, self._missing)
                    for column in schema.bags
                ],
                n,
            ),
        )

    def _feature(
        self, batch: pa.RecordBatch, column: Column, places: Mapping[str, int]
    ) -> pa.Array:
        """Return a column, or the part of a time that it is."""
        if not column.date_of or column.name in places:
            return _column(batch, column.name, places)
        array = _column(batch, column.date_of, places)
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if pa.types.is_null(array.type):
            return pa.nulls(len(array), pa.int64())
        if not (is_time(array.type) or _is_text(array.type)):
            raise SchemaError(
                f"is {array.type}, expected times", where=f"column {column.date_of!r}"
            )
        seconds, good = read_times(array)
        there = np.ones(len(array), np.bool_)
        if _is_text(array.type):
            there &= ~self._missing.find(_as_cells(array, column.date_of))
        there[_nulls(array)] = False
        if (there & ~good).any():
            raise SchemaError(
                "holds text that is not a timestamp",
                where=f"column {column.date_of!r}",
                remedy="write times like 2024-05-31T18:00:00",
            )
        values = part_of(seconds, good, str(column.part))
        return pa.array(values, mask=np.isnan(values)).cast(pa.int64())

    def _optional(
        self, batch: pa.RecordBatch, name: str | None, places: Mapping[str, int]
    ) -> Float32 | None:
        if name is None or name not in places:
            return None
        return self._numbers(_column(batch, name, places), name)

    def _target(self, batch: pa.RecordBatch, places: Mapping[str, int]) -> Float32 | None:
        target = self.schema.target
        if target.name not in places:
            return None
        array = _column(batch, target.name, places)
        if self._classes is None:
            values = self._numbers(array, target.name)
            if target.values:
                # A class that training never saw has no number a metric could use.
                values[~np.isin(values, np.array(target.values, np.float32))] = np.nan
            return values
        cells = _as_cells(array, target.name)
        codes = self._classes.find(cells, self._missing, np.empty(len(array), np.int32))
        known = np.array([np.nan, np.nan, *target.values], np.float32)
        out: Float32 = known[codes]
        if array.null_count:
            out[_nulls(array)] = np.nan
        return out

    def _numbers(self, array: pa.Array, name: str) -> Float32:
        kind = array.type
        if pa.types.is_null(kind):
            return np.full(len(array), np.nan, np.float32)
        if pa.types.is_boolean(kind):
            array = array.cast(pa.uint8())
        elif _is_text(kind):
            values, status = np.empty(len(array)), np.empty(len(array), np.uint8)
            use = np.ones(len(array), np.uint8)
            _, bad, infinite = parse_cells(
                _as_cells(array, name), use, self._missing, values, status
            )
            if bad or infinite:
                raise SchemaError(
                    "holds text that is not a number",
                    where=f"column {name!r}",
                    remedy="mend the source",
                )
            return values.astype(np.float32)
        elif not (
            pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        ):
            raise SchemaError(f"is {kind}, expected numbers", where=f"column {name!r}")
        wide = array.cast(pa.float64(), safe=False)
        values = wide.to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore"):
            return values.astype(np.float32)  # type: ignore[no-any-return]


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _column(batch: pa.RecordBatch, name: str, places: Mapping[str, int]) -> pa.Array:
    if name not in places:
        raise SchemaError(
            f"no column {name!r}{nearest(name, places)}",
            remedy="score rows with the columns of training",
        )
    return batch.column(places[name])


def _nulls(array: pa.Array) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.is_null(array).to_numpy(zero_copy_only=False), np.bool_)


def _as_cells(array: pa.Array, name: str) -> TextCells:
    """Return the cells of an Arrow array as text; numbers are spelt as Arrow does."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if not _is_text(array.type):
        try:
            array = array.cast(pa.string())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise SchemaError(
                f"is {array.type}, expected text", where=f"column {name!r}"
            ) from error
    n = len(array)
    if n == 0:
        return TextCells(np.zeros(8, np.uint8), np.zeros(0, np.int64), np.zeros(0, np.int64))
    kind = np.int64 if pa.types.is_large_string(array.type) else np.int32
    _, offset_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offset_buffer, kind)[array.offset : array.offset + n + 1].astype(
        np.int64
    )
    first, last = int(offsets[0]), int(offsets[-1])
    data = np.zeros(last - first + 8, np.uint8)
    if data_buffer is not None:
        data[: last - first] = np.frombuffer(data_buffer, np.uint8)[first:last]
    return TextCells(data, offsets[:-1] - first, offsets[1:] - first)
