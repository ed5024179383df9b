"""Columns of variable length: raw texts and lists to codes and values.

What a model reads of such a column depends on these lines alone: ingest and
prediction share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from streamtrain.errors import SchemaError, SourceError
from streamtrain.kernels.bags import Bags
from streamtrain.kernels.text import hash_names, most_parts, text_codes
from streamtrain.store.schema import Column, Entries
from streamtrain.store.string_table import MissingTexts, TextCells

_OWN = "streamtrain key"
"""Name of keys that are hashes or indices already, on their way from a source to a model."""
_CHUNK_BYTES = 256 << 10
MAX_TEXT_BYTES = 1 << 30
_NO_LETTERS = r"[^\pL\pN\pM_]+"


@dataclass(frozen=True)
class Keyed:
    """Rows of keys with values, before a model's codes.

    Parameters
    ----------
    offsets : (n + 1,) int64
    keys : (m,) uint64
        Hashes of names, or indices.
    values : (m,) float32
        Not finite where the source's is not, or float32 cannot hold it.
    """

    offsets: npt.NDArray[np.int64]
    keys: npt.NDArray[np.uint64]
    values: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def not_finite(self) -> npt.NDArray[np.int64]:
        """Return the rows with a value that is not finite: they cannot be used."""
        bad = np.flatnonzero(~np.isfinite(self.values))
        return np.unique(np.searchsorted(self.offsets, bad, side="right") - 1)


@dataclass(frozen=True)
class Coded:
    """Rows of codes with values: offsets (n + 1,) int64, codes (m,) int32, values (m,) float32."""

    offsets: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def words(self) -> npt.NDArray[np.int32]:
        """Return the entries as shards hold them, (m, 2) int32."""
        out = np.empty((len(self.codes), 2), np.int32)
        out[:, 0] = self.codes
        out[:, 1] = self.values.view(np.int32)
        return out


def is_bag_type(kind: pa.DataType) -> bool:
    """Return whether an Arrow column holds lists of names or numbers, or maps to numbers."""
    if pa.types.is_map(kind):
        return _is_key(kind.key_type) and _is_number(kind.item_type)
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not (lists or pa.types.is_fixed_size_list(kind)):
        return False
    inner = kind.value_type
    if pa.types.is_struct(inner):
        return inner.num_fields == 2 and _is_key(inner[0].type) and _is_number(inner[1].type)
    return _is_key(inner)


def _is_key(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_integer(kind)
    )


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def keyed_array(rows: Keyed, picks: npt.NDArray[np.int64]) -> pa.Array:
    """Return some rows of keys as an Arrow array of lists of (uint64, float32)."""
    if len(picks) < len(rows):
        counts = np.diff(rows.offsets)[picks]
        offsets = np.zeros(len(picks) + 1, np.int64)
        np.cumsum(counts, out=offsets[1:])
        at = np.repeat(rows.offsets[picks] - offsets[:-1], counts) + np.arange(offsets[-1])
        rows = Keyed(offsets, rows.keys[at], rows.values[at])
    kind = pa.large_list(pa.struct([(_OWN, pa.uint64()), ("value", pa.float32())]))
    items = pa.StructArray.from_arrays(
        [pa.array(rows.keys), pa.array(rows.values)], names=[_OWN, "value"]
    )
    return pa.Array.from_buffers(
        kind, len(rows), [None, pa.py_buffer(rows.offsets)], children=[items]
    )


def keyed_of(array: pa.Array, *, where: str, indexed: bool) -> Keyed:
    """Return an Arrow column of lists as rows of keys.

    Null lists and items are left out.

    Parameters
    ----------
    array : pa.Array
        Of a type that `is_bag_type` accepts.
    where : str
        What messages call it.
    indexed : bool
        Whether whole numbers are indices; otherwise they are names as they are spelt.

    Raises
    ------
    SchemaError
        If it is something else.
    """
    if pa.types.is_map(array.type):
        array = array.cast(pa.list_(array.type.field(0).type))
    if not is_bag_type(array.type):
        raise SchemaError(f"is {array.type}, expected lists of names or numbers", where=where)
    n = len(array)
    counts = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    offsets = np.zeros(n + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    items = array.flatten()
    values = np.ones(len(items), np.float32)
    keys, own = items, False
    there = np.ones(len(items), np.bool_)
    if pa.types.is_struct(items.type):
        keys, numbers = items.flatten()
        there &= pc.is_valid(numbers).to_numpy(zero_copy_only=False)
        # Not safe: a whole number that float32 rounds is a value all the same. What it
        # cannot hold becomes infinite, which whoever judges rows refuses.
        values = numbers.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
        own = items.type[0].name == _OWN
    there &= pc.is_valid(keys).to_numpy(zero_copy_only=False)
    keys = without_views(keys)
    if pa.types.is_dictionary(keys.type) and keys.dictionary.null_count:
        valid = pc.is_valid(keys.dictionary).to_numpy(zero_copy_only=False)
        there &= valid[pc.fill_null(keys.indices, 0).to_numpy(zero_copy_only=False)]
    if not there.all():
        before = np.zeros(len(there) + 1, np.int64)
        np.cumsum(there, out=before[1:])
        offsets = before[offsets]
        keys, values = keys.filter(pa.array(there)), values[there]
    if own:
        return Keyed(offsets, keys.to_numpy(zero_copy_only=False), np.ascontiguousarray(values))
    if indexed:
        if pa.types.is_dictionary(keys.type) and pa.types.is_integer(keys.type.value_type):
            keys = keys.dictionary_decode()
        if not pa.types.is_integer(keys.type):
            raise SchemaError(f"holds {keys.type}, expected indices", where=where)
        found = keys.to_numpy(zero_copy_only=False)
        if len(found) and found.min() < 0:
            raise SchemaError("holds a negative index", where=where)
        return Keyed(offsets, found.astype(np.uint64), np.ascontiguousarray(values))
    return Keyed(offsets, _hashes_of(keys), np.ascontiguousarray(values, np.float32))


def without_views(array: pa.Array) -> pa.Array:
    """Return an array, or its dictionary, with texts one behind another where it has views.

    Raises
    ------
    SourceError
        If they are longer than any record may be: many views may share few bytes.
    """
    if pa.types.is_dictionary(array.type):
        whole = without_views(array.dictionary)
        if whole is array.dictionary:
            return array
        return pa.DictionaryArray.from_arrays(array.indices, whole)
    is_text = pa.types.is_string_view(array.type)
    if not is_text and not pa.types.is_binary_view(array.type):
        return array
    views = np.frombuffer(array.buffers()[1] or b"", np.int32).reshape(-1, 4)
    lengths = views[array.offset : array.offset + len(array), 0].astype(np.int64)
    if lengths[pc.is_valid(array).to_numpy(zero_copy_only=False)].sum() > MAX_TEXT_BYTES:
        raise SourceError("text longer than 1 GiB in a few rows")
    return array.cast(pa.large_string() if is_text else pa.large_binary())


def _hashes_of(names: pa.Array) -> npt.NDArray[np.uint64]:
    """Return the hash of each name, (n,) uint64; none is null."""
    if pa.types.is_dictionary(names.type):
        # Each once, and none that is not there: decoded, they could take any memory.
        used = pc.unique(names.indices)
        found = np.zeros(len(names.dictionary), np.uint64)
        found[used.to_numpy(zero_copy_only=False)] = _hashes_of(names.dictionary.take(used))
        hashes: npt.NDArray[np.uint64] = found[names.indices.to_numpy(zero_copy_only=False)]
        return hashes
    cells = cells_of_strings(names.cast(pa.large_string()))
    hashes = np.empty(len(cells), np.uint64)
    hash_names(cells.data, cells.starts, cells.stops, hashes)
    return hashes


def cells_of_strings(array: pa.LargeStringArray) -> TextCells:
    """Return an Arrow array of text as cells; a null one is empty."""
    n = len(array)
    if n == 0:
        return TextCells(np.zeros(8, np.uint8), np.zeros(0, np.int64), np.zeros(0, np.int64))
    _, offset_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[array.offset : array.offset + n + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    data = np.zeros(last - first + 8, np.uint8)
    if data_buffer is not None:
        data[: last - first] = np.frombuffer(data_buffer, np.uint8)[first:last]
    starts, stops = offsets[:-1] - first, offsets[1:] - first
    if array.null_count:
        stops = np.where(pc.is_null(array).to_numpy(zero_copy_only=False), starts, stops)
    return TextCells(data, starts, stops)


def code_keys(rows: Keyed, cardinality: int, *, indexed: bool) -> Coded:
    """Return the codes of keys: hashes modulo the cardinality; indices beyond it are left out."""
    if not indexed:
        codes = (rows.keys % np.uint64(cardinality)).astype(np.int32)
        return Coded(rows.offsets, codes, rows.values)
    known = rows.keys < np.uint64(cardinality)
    if known.all():
        return Coded(rows.offsets, rows.keys.astype(np.int32), rows.values)
    before = np.zeros(len(known) + 1, np.int64)
    np.cumsum(known, out=before[1:])
    return Coded(before[rows.offsets], rows.keys[known].astype(np.int32), rows.values[known])


def code_texts(
    cells: TextCells, entries: Entries, cardinality: int, missing: MissingTexts
) -> Coded:
    """Return the codes of texts' parts, a few hundred kilobytes of text at a time."""
    n = len(cells)
    gone = missing.find(cells)
    if gone.any():
        cells = TextCells(cells.data, cells.starts, np.where(gone, cells.starts, cells.stops))
    words = np.array(entries.words, np.int64)
    characters = np.array(entries.characters, np.int64)
    lengths = cells.stops.astype(np.int64) - cells.starts
    ends = np.zeros(n + 1, np.int64)
    codes, values = [np.empty(0, np.int32)], [np.empty(0, np.float32)]
    total = begin = 0
    before = np.zeros(n + 1, np.int64)
    np.cumsum(lengths, out=before[1:])
    while begin < n:
        end = int(np.searchsorted(before, before[begin] + _CHUNK_BYTES, side="right")) - 1
        end = min(max(end, begin + 1), n)
        part = _small(cells, begin, end)
        n_bytes = int((part.stops - part.starts).sum())
        most = most_parts(n_bytes + (end - begin), entries.words, entries.characters)
        some_codes, some_values = np.empty(most, np.int32), np.empty(most, np.float32)
        found = text_codes(
            part.data, part.starts.astype(np.int64), part.stops.astype(np.int64), words,
            characters, cardinality, entries.norm == "l2", ends[begin + 1 : end + 1], some_codes,
            some_values,
        )  # fmt: skip
        ends[begin + 1 : end + 1] += total
        codes.append(some_codes[:found].copy())
        values.append(some_values[:found].copy())
        total += found
        begin = end
    return Coded(ends, np.concatenate(codes), np.concatenate(values))


def _small(cells: TextCells, begin: int, end: int) -> TextCells:
    """Return some cells with small letters, and spaces for what is no letter, beyond ASCII."""
    starts, stops = cells.starts[begin:end], cells.stops[begin:end]
    if not len(starts):
        return TextCells(cells.data, starts, stops)
    low, high = int(starts.min()), int(stops.max())
    if high <= low or cells.data[low:high].max() < 128:
        return TextCells(cells.data, starts, stops)
    texts = [cells.data[a:b].tobytes() for a, b in zip(starts, stops, strict=True)]
    array = pa.array(texts, pa.large_binary())
    try:
        array = array.cast(pa.large_string())
    except pa.ArrowInvalid:
        array = pa.array([t.decode("utf-8", "replace") for t in texts], pa.large_string())
    spaced = pc.replace_substring_regex(pc.utf8_lower(array), _NO_LETTERS, " ")
    return cells_of_strings(spaced.cast(pa.large_string()))


def entries_of(array: pa.Array, column: Column, missing: MissingTexts) -> Coded:
    """Return the entries of an Arrow column as a model reads them.

    Raises
    ------
    SchemaError
        If it is neither what the column is made of nor like it, or has a value that is not
        finite.
    """
    where = f"column {column.name!r}"
    spec = column.bag
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_null(array.type):
        nothing = np.empty(0, np.int32), np.empty(0, np.float32)
        return Coded(np.zeros(len(array) + 1, np.int64), *nothing)
    if spec.keys == "text":
        if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
            raise SchemaError(f"is {array.type}, expected text", where=where)
        cells = cells_of_strings(array.cast(pa.large_string()))
        return code_texts(cells, spec, column.cardinality, missing)
    indexed = spec.keys == "index"
    rows = keyed_of(array, where=where, indexed=indexed)
    if len(rows.not_finite()):
        raise SchemaError("holds a value that is not finite", where=where, remedy="mend the source")
    return code_keys(rows, column.cardinality, indexed=indexed)


def gather_bags(columns: Sequence[Coded], n_rows: int) -> Bags:
    """Return the bags of rows from those of each column."""
    ranges = np.zeros((n_rows, len(columns), 2), np.int32)
    at = 0
    for v, column in enumerate(columns):
        ranges[:, v, 0] = column.offsets[:-1] + at
        ranges[:, v, 1] = column.offsets[1:] + at
        at += len(column.codes)

    def joined(parts: list[npt.NDArray[Any]], kind: str) -> npt.NDArray[Any]:
        return np.concatenate(parts) if parts else np.empty(0, kind)

    return Bags(
        ranges,
        joined([c.codes for c in columns], "int32"),
        joined([c.values for c in columns], "float32"),
    )
