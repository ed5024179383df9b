"""Columns of variable length in pass 1: cells to codes, and rows to partitions."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from streamtrain.kernels.text import most_parts
from streamtrain.store.bags import Coded, Keyed, code_keys, code_texts
from streamtrain.store.cells import Cells, as_text
from streamtrain.store.schema import Entries
from streamtrain.store.string_table import MissingTexts, TextCells

WORK_BYTES = 32 << 20
"""What a thread takes for the entries of some rows, and as much again to group them."""
_ENTRY_BYTES = 24
"""Of an entry while texts become codes: the part, its code and value, and a copy."""


@dataclass(frozen=True)
class BagPlan:
    """One bag to be: its name, how its entries are made, and its codes."""

    name: str
    spec: Entries
    cardinality: int

    def code(self, cells: Cells, missing: MissingTexts) -> Coded:
        """Return the entries of cells."""
        if self.spec.keys == "text":
            return code_texts(as_text(cells), self.spec, self.cardinality, missing)
        assert isinstance(cells, Keyed)
        return code_keys(cells, self.cardinality, indexed=self.spec.keys == "index")

    def most_entries(self, cells: Cells) -> npt.NDArray[np.int64]:
        """Return a bound on the entries of each row, (n,) int64."""
        if isinstance(cells, Keyed):
            found: npt.NDArray[np.int64] = np.diff(cells.offsets)
            return found
        text = as_text(cells)
        return _most_of_texts(text.stops.astype(np.int64) - text.starts, self.spec)


def most_entries(array: pa.Array, spec: Entries) -> npt.NDArray[np.int64]:
    """Return a bound on the entries of each row of an Arrow column, (n,) int64."""
    if pa.types.is_null(array.type):
        return np.zeros(len(array), np.int64)
    is_text = spec.keys == "text"
    counts = pc.binary_length(array) if is_text else pc.list_value_length(array)
    lengths = pc.fill_null(counts, 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return _most_of_texts(lengths, spec) if is_text else lengths


def _most_of_texts(lengths: npt.NDArray[np.int64], spec: Entries) -> npt.NDArray[np.int64]:
    per_byte = most_parts(1 << 20, spec.words, spec.characters) / (1 << 20)
    most: npt.NDArray[np.int64] = np.ceil((lengths + 2) * per_byte).astype(np.int64)
    return most


@dataclass
class BagCounts:
    """What is known of the entries of each bag so far; any thread may add.

    Attributes
    ----------
    total, empty : (V,) int64
        Entries, and rows without any, of the train split.
    longest : (V,) int64
        Most entries of a row, in any split.
    all : int
        Entries of all splits.
    """

    n_bags: int
    total: npt.NDArray[np.int64] = field(init=False)
    empty: npt.NDArray[np.int64] = field(init=False)
    longest: npt.NDArray[np.int64] = field(init=False)
    all: int = 0

    def __post_init__(self) -> None:
        self.total, self.empty, self.longest = (np.zeros(self.n_bags, np.int64) for _ in range(3))
        self._lock = threading.Lock()

    def add(self, counts: npt.NDArray[np.int64], is_train: npt.NDArray[np.bool_]) -> None:
        """Add rows.

        Parameters
        ----------
        counts : (n, V) int64
        is_train : (n,) bool
        """
        if not len(counts):
            return
        trained = counts[is_train]
        with self._lock:
            self.total += trained.sum(axis=0)
            self.empty += (trained == 0).sum(axis=0)
            self.longest = np.maximum(self.longest, counts.max(axis=0))
            self.all += int(counts.sum())


def slices(bags: Sequence[BagPlan], cells: Sequence[Cells], n: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows whose entries fit into `WORK_BYTES`, at least a row each."""
    if not bags:
        yield 0, n
        return
    most = np.zeros(n + 1, np.int64)
    for bag, column in zip(bags, cells, strict=True):
        most[1:] += bag.most_entries(column)
    np.cumsum(most, out=most)
    begin = 0
    while begin < n:
        room = most[begin] + WORK_BYTES // _ENTRY_BYTES
        end = max(int(np.searchsorted(most, room, side="right")) - 1, begin + 1)
        end = min(end, n)
        yield begin, end
        begin = end


def part_of(cells: Cells, begin: int, end: int) -> Cells:
    """Return the cells of some rows."""
    if isinstance(cells, Keyed):
        first, last = int(cells.offsets[begin]), int(cells.offsets[end])
        offsets = cells.offsets[begin : end + 1] - first
        return Keyed(offsets, cells.keys[first:last], cells.values[first:last])
    text = as_text(cells)
    return TextCells(text.data, text.starts[begin:end], text.stops[begin:end])
