"""Sizes for an array, chosen before a row is read: what is stored, read at once, and held."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_tools.array_source import ArraySource
from data_tools.options import IngestOptions
from data_tools.partitions import MAX_BITS, loaded_bytes
from streamtrain import memory
from streamtrain.store.schema import FEATURE_TYPES, StoredFeatures

_SLAB_BYTES = 8 << 20
_BLOCK_BYTES = 4 << 20
_SHUFFLED_ROWS, _ORDERED_ROWS = 8192, 512
_MIN_PART, _MAX_PART = 4 << 20, 64 << 20
_SLACK = 16 << 20


@dataclass(frozen=True)
class ArrayPlan:
    """What ingest does with an array.

    Parameters
    ----------
    stored : StoredFeatures
    slab_rows : int
        Rows read at a time.
    block_rows : int
    part : int
        Bytes of a loaded part of a partition.
    bits : int
        log2 of the number of partitions.
    """

    stored: StoredFeatures
    slab_rows: int
    block_rows: int
    part: int
    bits: int

    @property
    def n_words(self) -> int:
        """32-bit words of a packed row, its head left out."""
        return 1 + -(-self.stored.feature_bytes // 4)


def stored_type(dtype: np.dtype[Any]) -> str:
    """Return the type in which values are stored: their own where float32 is exact, else float32.

    Examples
    --------
    >>> stored_type(np.dtype(">i2")), stored_type(np.dtype("f8")), stored_type(np.dtype("?"))
    ('int16', 'float32', 'uint8')
    """
    if dtype.kind == "b":
        return "uint8"
    name = dtype.newbyteorder("=").name
    return name if name in FEATURE_TYPES else "float32"


def plan_array(source: ArraySource, options: IngestOptions) -> ArrayPlan:
    """Divide the budget; kernels are loaded, so that what is resident now is the base.

    Raises
    ------
    BudgetError
        If the least that can work does not fit.
    """
    stored = StoredFeatures(stored_type(source.dtype), source.shape[1:])
    raw = math.prod(source.shape[1:]) * source.dtype.itemsize
    row = stored.feature_bytes + 4
    most = _SHUFFLED_ROWS if options.shuffle else _ORDERED_ROWS
    fitting = 1 << max((_BLOCK_BYTES // row).bit_length() - 1, 0)
    block_rows = options.block_rows or min(fitting, most)
    slab_rows = max(_SLAB_BYTES // raw, 1)
    if source.step <= slab_rows:
        slab_rows -= slab_rows % source.step
    elif source.step * raw <= 4 * _SLAB_BYTES:
        slab_rows = source.step
    budget = options.memory or memory.default_budget()
    base = memory.resident_bytes() + _SLACK
    # Two blocks of each split, and one as rows and as float32 columns, twice.
    writers = block_rows * (6 * row + row + 8 * stored.n_values)
    loaded = loaded_bytes(1, row + 12)
    # As read, as stored, packed, and in the order of the partitions.
    slabs = slab_rows * (2 * raw + 3 * row) + 2 * source.chunk_bytes
    shuffle = 3 * max(_MIN_PART, 2 * loaded) + writers
    parts = {
        "interpreter and compiled kernels": base,
        "slabs and shuffle": max(slabs, shuffle),
    }
    memory.require(budget, parts, remedy="raise --memory", what="ingest")
    part = min(max((budget - base - writers) // 3, _MIN_PART), _MAX_PART)
    bits = 0
    while bits < MAX_BITS and source.shape[0] * loaded / (1 << bits) > part / 2:
        bits += 1
    return ArrayPlan(stored, slab_rows, block_rows, part, bits)
