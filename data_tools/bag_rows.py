"""Columns of variable length in pass 1: cells to codes, and rows to partitions."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from streamtrain.errors import BudgetError
from streamtrain.kernels.text import most_parts
from streamtrain.store.bags import Coded, Keyed, code_keys, code_texts
from streamtrain.store.cells import Cells, as_text
from streamtrain.store.schema import Entries
from streamtrain.store.string_table import MissingTexts, TextCells

WORK_BYTES = 32 << 20
"""What a thread takes for the entries of some rows, and as much again to group them."""
_ENTRY_BYTES = 24
"""Of an entry while texts become codes: its code and value, a copy, and its words."""
_PART_BYTES = 4
"""Of a part of a text before equal ones are counted."""


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
    longest_row : int
        Most entries of a row in all of its bags.
    """

    n_bags: int
    total: npt.NDArray[np.int64] = field(init=False)
    empty: npt.NDArray[np.int64] = field(init=False)
    longest: npt.NDArray[np.int64] = field(init=False)
    all: int = 0
    longest_row: int = 0

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
            self.longest_row = max(self.longest_row, int(counts.sum(axis=1).max()))


def slices(
    bags: Sequence[BagPlan], cells: Sequence[Cells], n: int, *, room: int
) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows whose entries fit into `WORK_BYTES`, at least a row each.

    Parameters
    ----------
    bags : sequence of BagPlan
    cells : sequence of Cells
        n rows of each.
    n : int
    room : int
        Bytes that the entries of one row may take.

    Raises
    ------
    BudgetError
        If those of a row could take more.
    """
    if not bags:
        yield 0, n
        return
    most = np.zeros(n + 1, np.int64)
    taken = np.zeros(n, np.int64)
    for bag, column in zip(bags, cells, strict=True):
        of_bag = bag.most_entries(column)
        most[1:] += of_bag
        taken += _PART_BYTES * of_bag
        # A text has each of its parts once, when they are counted.
        is_text = bag.spec.keys == "text"
        taken += _ENTRY_BYTES * (np.minimum(of_bag, bag.cardinality) if is_text else of_bag)
    if n and taken.max() > room:
        parts = int(most[1 + int(taken.argmax())])
        raise BudgetError(
            f"a row may have {parts:,} parts of text or names, which take {taken.max():,} bytes "
            f"while they are counted, and {room:,} are left for them",
            where="--memory",
            remedy="raise it, or give fewer runs of --words and --characters, or fewer --threads",
        )
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


def without(cells: Cells, good: npt.NDArray[np.uint8]) -> Cells:
    """Return cells of which those of rejected rows are empty: they may be of any length."""
    if isinstance(cells, Keyed) or good.all():
        return cells
    text = as_text(cells)
    return TextCells(text.data, text.starts, np.where(good, text.stops, text.starts))


class LargestBlocks:
    """The most entries of a block, for several numbers of rows.

    Parameters
    ----------
    block_rows : int
        Of the largest blocks; others have a half, a quarter, and so on.
    """

    def __init__(self, block_rows: int) -> None:
        self.sizes = [block_rows >> k for k in range(block_rows.bit_length())]
        self.entries = [0] * len(self.sizes)
        self._filled = np.zeros((3, len(self.sizes)), np.int64)
        self._begun = np.zeros((3, len(self.sizes)), np.int64)

    def add(self, counts: npt.NDArray[np.int64], splits: npt.NDArray[np.uint8]) -> None:
        """Add rows, in the order of their shards.

        Parameters
        ----------
        counts : (n,) int64
            Entries of each row.
        splits : (n,) uint8
        """
        for split in range(3):
            some = counts[splits == split]
            if not len(some):
                continue
            for k, size in enumerate(self.sizes):
                filled = int(self._filled[split, k])
                starts = np.arange(-filled, len(some), size)
                starts[0] = 0
                sums = np.add.reduceat(some, starts)
                sums[0] += self._begun[split, k]
                self.entries[k] = max(self.entries[k], int(sums.max()))
                self._filled[split, k] = (filled + len(some)) % size
                self._begun[split, k] = sums[-1] if self._filled[split, k] else 0
