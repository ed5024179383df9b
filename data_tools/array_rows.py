"""Raw arrays as a model of arrays reads them, for predict and evaluate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from data_tools.array_set import TARGET, ArrayNames, ArraySet, open_set
from data_tools.labels import Labels
from data_tools.source_records import EncodedPiece
from data_tools.sources import expand, files_beside
from streamtrain import memory as process_memory
from streamtrain.errors import ConfigError, SchemaError
from streamtrain.store.encode import encode_array
from streamtrain.store.schema import ArrayFeatures, Schema

_ROWS = 8192
_BYTES = 16 << 20
_OUTPUT_BYTES = 48
"""Of each of several targets of a row while it is scored: as read, as float32, a score, a
prediction, a column of them."""


@dataclass(frozen=True)
class ArrayFiles:
    """What the user said of raw arrays.

    Parameters
    ----------
    names : ArrayNames
    targets, weights : tuple of Path
        Arrays beside each source, or none.
    with_target : bool
        Whether targets and weights are wanted at all.
    """

    names: ArrayNames = field(default_factory=ArrayNames)
    targets: tuple[Path, ...] = ()
    weights: tuple[Path, ...] = ()
    with_target: bool = False

    def names_for(self, schema: Schema) -> ArrayNames:
        """Return the names in groups, the target by that of training unless it is named."""
        if self.names.target is not None or self.targets:
            return self.names
        return replace(self.names, column=schema.target.name, optional=not self.with_target)


def read_array_rows(
    sources: Sequence[str],
    schema: Schema,
    *,
    memory: int | None = None,
    files: ArrayFiles | None = None,
    kind: str | None = None,
    waiting_bytes: int = 0,
) -> Iterator[EncodedPiece]:
    """Yield the rows of arrays in order, some thousand at a time.

    A row with an infinite value is bad, as at ingest.

    Parameters
    ----------
    sources : sequence of str
        .npy, .npz, IDX, Zarr, HDF5 or raw values; directories and patterns of them.
    schema : Schema
        Of a model of arrays.
    memory : int or None
        Budget of the whole process in bytes.
    files : ArrayFiles or None
    kind : str or None
        "raw" for values without a header.
    waiting_bytes : int
        Of predictions that wait to be written.

    Raises
    ------
    NoInputError, SourceError
        If a source is not there or is no array, or a target or weight has other rows.
    SchemaError
        If its rows have another shape, or other names, than those of training.
    BudgetError
        If the budget cannot hold one piece.
    """
    array = schema.array
    if array is None:
        raise ConfigError("the model was trained on a table", where="predict")
    files = files or ArrayFiles()
    places = expand(sources, any_ending=kind is not None)
    targets = files_beside(files.targets, len(places), "--target-file")
    weights = files_beside(files.weights, len(places), "--weight-file")
    for place, target_file, weight_file in zip(places, targets, weights, strict=True):
        found = open_set(
            place.path,
            files.names_for(schema),
            target_file=target_file,
            weight_file=weight_file,
            raw=kind == "raw",
        )
        if not files.with_target:
            found = ArraySet(found.features, None, None, found.feature_names, found.file)
        elif schema.weight is None and weight_file is None and files.names.weight is None:
            found = replace(found, weight=None)
        if found.target is not None and found.n_targets != schema.target.n_outputs:
            raise SchemaError(
                f"{found.n_targets:,} targets for each row, the model was trained on "
                f"{schema.target.n_outputs:,}",
                where=found.target.name,
            )
        n_rows = _fit(found, array, schema.target.n_outputs, memory, waiting_bytes)
        yield from _rows(found, schema, array, n_rows)
        found.ends()


def _fit(
    found: ArraySet, array: ArrayFeatures, n_outputs: int, memory: int | None, waiting: int
) -> int:
    source, n_values = found.features, array.stored.n_values
    if source.shape[1:] not in {array.shape, (n_values,)}:
        raise SchemaError(
            f"rows of shape {source.shape[1:]}, the model was trained on {array.shape}",
            where=source.name,
        )
    names = () if array.names is UNSET else array.names
    if names and found.feature_names and found.feature_names != names:
        raise SchemaError(
            "its features are not those of training, or in another order",
            where=source.name,
            remedy="select and order its variables as they were",
        )
    beside = 0 if n_outputs == 1 else _OUTPUT_BYTES * n_outputs
    n_rows = min(max(_BYTES // (4 * n_values + beside), 1), _ROWS)
    row_bytes = n_values * (source.dtype.itemsize + 4) + beside
    parts = {
        "interpreter, code and model": process_memory.resident_bytes(),
        "rows": 2 * n_rows * row_bytes + 2 * found.chunk_bytes,
        "predictions to be written": waiting,
    }
    budget = memory or process_memory.default_budget()
    process_memory.require(budget, parts, what="scoring")
    return n_rows


def _rows(
    found: ArraySet, schema: Schema, array: ArrayFeatures, n_rows: int
) -> Iterator[EncodedPiece]:
    first = 0
    for rows, targets, weights in found.slabs(n_rows):
        with np.errstate(over="ignore"):  # infinite then, as a table's number would be
            encoded = encode_array(rows, array, where=found.features.name)
            target = weight = None
            if targets is not None:
                target = _targets(targets, found, schema)
            if weights is not None:
                weight = weights.reshape(-1).astype(np.float32)
        encoded = replace(encoded, target=target, weight=weight)
        n, name = len(encoded.numeric), found.features.name
        good = np.logical_not(np.isinf(encoded.numeric).any(axis=1))
        reasons = dict.fromkeys(np.flatnonzero(~good).tolist(), "not finite")
        lines = np.arange(first + 1, first + n + 1)
        if reasons:
            encoded = encoded.take(good)
        yield EncodedPiece(
            rows=encoded,
            n_records=n,
            ordinals_within_batch=np.flatnonzero(good),
            reasons=reasons,
            source=name,
            lines=lines,
            unit="row",
        )
        first += n


def _targets(targets: npt.NDArray[Any], found: ArraySet, schema: Schema) -> npt.NDArray[np.float32]:
    """Return targets as shards hold them, (n,) or (n, M), NaN for those training did not know."""
    n_outputs = schema.target.n_outputs
    if n_outputs > 1 and found.n_targets == n_outputs:
        with np.errstate(over="ignore"):  # infinite then, and left out
            return np.ascontiguousarray(targets, np.float32)
    flat = targets.reshape(-1)
    is_text = isinstance(found.target, Labels)
    if is_text != schema.target.is_text:
        told = ("text", "numbers") if is_text else ("numbers", "text")
        raise SchemaError(
            f"its target is {told[0]}, the model was trained on {told[1]}",
            where=found.target.name if found.target is not None else TARGET,
        )
    if not isinstance(found.target, Labels):
        return flat.astype(np.float32)
    known = dict(zip(schema.target.classes, schema.target.values, strict=True))
    values = np.array([*(known.get(t, np.nan) for t in found.target.texts), np.nan], np.float32)
    places = np.where(np.isnan(flat), len(values) - 1, flat).astype(np.int64)
    return values[places]
