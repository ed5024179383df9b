"""Sizes for arrays, chosen before a row is read: what is stored, read at once, and held."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from data_tools.array_set import ArraySet, needs_target
from data_tools.options import IngestOptions
from data_tools.partitions import MAX_BITS, loaded_bytes
from streamtrain import memory
from streamtrain.store.schema import FEATURE_TYPES, StoredFeatures

_SLAB_BYTES = 8 << 20
_BLOCK_BYTES = 4 << 20
_SHUFFLED_ROWS, _ORDERED_ROWS = 8192, 512
_MIN_PART, _MAX_PART = 4 << 20, 64 << 20
_SLACK = 16 << 20
_TESTED_BYTES = 8
"""Of each of several targets while a slab of them is judged."""
_BAND_SHARE = 12
"""Rows of one chunk are read at once if they take less than this part of the budget."""


@dataclass(frozen=True)
class ArrayPlan:
    """What ingest does with arrays.

    Parameters
    ----------
    packed : StoredFeatures
        As rows lie in partitions. Integers that float32 may have to round are there
        as float32, until all are known and `narrowest` says what holds them.
    is_wide : bool
        Whether they are such integers.
    slab_rows : int
        Rows read at a time.
    part : int
        Bytes of a loaded part of a partition.
    bits : int
        log2 of the number of partitions.
    """

    packed: StoredFeatures
    is_wide: bool
    slab_rows: int
    part: int
    bits: int

    @property
    def n_words(self) -> int:
        """32-bit words of a packed row, its head left out."""
        return self.n_beside + -(-self.packed.feature_bytes // 4)

    @property
    def n_beside(self) -> int:
        """Words of a packed row before its features: the targets, and its weight."""
        return self.packed.n_targets + (1 if self.packed.weighted else 0)


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


def narrowest(low: int, high: int) -> str:
    """Return the narrowest type of features that holds the integers from low to high.

    Examples
    --------
    >>> narrowest(0, 255), narrowest(-1, 200), narrowest(0, 70_000)
    ('uint8', 'int16', 'float32')
    """
    for name in ("uint8", "int8", "uint16", "int16"):
        info = np.iinfo(name)
        if info.min <= low and high <= info.max:
            return name
    return "float32"


def block_rows(stored: StoredFeatures, options: IngestOptions) -> int:
    """Return the rows of a block: those of 4 MiB, a power of two, within what tables have."""
    most = _SHUFFLED_ROWS if options.shuffle else _ORDERED_ROWS
    fitting = 1 << max((_BLOCK_BYTES // stored.row_bytes).bit_length() - 1, 0)
    return options.block_rows or min(fitting, most)


def plan_arrays(sets: Sequence[ArraySet], options: IngestOptions) -> ArrayPlan:
    """Divide the budget; kernels are loaded, so that what is resident now is the base.

    Parameters
    ----------
    sets : sequence of ArraySet
        Of rows of one shape.
    options : IngestOptions

    Raises
    ------
    BudgetError
        If the least that can work does not fit.
    """
    tail = sets[0].features.shape[1:]
    dtype = np.result_type(*(s.features.dtype for s in sets))
    n_targets = sets[0].n_targets
    stored = StoredFeatures(
        stored_type(dtype), tail, weighted=sets[0].weight is not None, n_targets=n_targets
    )
    is_wide = dtype.kind in "iu" and stored.dtype == "float32"
    raw = math.prod(tail) * max(s.features.dtype.itemsize for s in sets)
    if n_targets > 1:
        # As read, and the tests of each value.
        raw += n_targets * (_TESTED_BYTES + max(needs_target(s).dtype.itemsize for s in sets))
    row = stored.row_bytes
    budget = options.memory or memory.default_budget()
    base = memory.resident_bytes() + _SLACK
    kinds = [stored, replace(stored, dtype="uint8")] if is_wide else [stored]
    # Two blocks of each split, and one as rows and as float32 columns, twice.
    writers = max(
        block_rows(kind, options) * (7 * kind.row_bytes + 8 * (kind.n_values + kind.n_targets - 1))
        for kind in kinds
    )
    loaded = loaded_bytes(1, row + 12)
    shuffle = 3 * max(_MIN_PART, 2 * loaded) + writers

    def parts(budget: int) -> dict[str, int]:
        # As read, as stored, packed, and in the order of the partitions.
        slabs = _slab_rows(sets, raw, budget) * ((4 if is_wide else 2) * raw + 3 * row)
        slabs += 2 * max(s.chunk_bytes for s in sets)
        return {
            "interpreter and compiled kernels": base,
            "slabs and shuffle": max(slabs, shuffle),
        }

    least = memory.enough(budget, lambda b: sum(parts(b).values()))
    memory.require(budget, parts(budget), what="ingest", least=least)
    part = min(max((budget - base - writers) // 3, _MIN_PART), _MAX_PART)
    n_rows = sum(s.features.shape[0] for s in sets)
    bits = 0
    while bits < MAX_BITS and n_rows * loaded / (1 << bits) > part / 2:
        bits += 1
    return ArrayPlan(stored, is_wide, _slab_rows(sets, raw, budget), part, bits)


def _slab_rows(sets: Sequence[ArraySet], raw: int, budget: int) -> int:
    """Return the rows read at once: whole chunks, where a row of them is not too large.

    Chunks of more rows are decoded again for every slab that needs some of theirs.
    """
    slab_rows = max(_SLAB_BYTES // raw, 1)
    step = max(s.features.step for s in sets)
    if step <= slab_rows:
        return slab_rows - slab_rows % step
    if step * raw <= max(4 * _SLAB_BYTES, budget // _BAND_SHARE):
        return step
    return slab_rows
