"""Fields of variable length: each row has any number of entries, a code and a value each.

Letters: V fields of variable length (bags), E entries of all rows at hand.

A step groups the entries of its batch by part of the table, tile by tile, and then
each part of each table is a task of its own:

    rows        tile 0  | entries of part 0 | of part 1 | ...      sorted in the tile
                tile 1  | entries of part 0 | of part 1 | ...
    parameters  part p  tile 0's entries of p, then tile 1's, ...  in row order

Parts depend on the table's codes alone, and a code's entries are added in the order
of rows: the same bits for any number of threads and any tiles.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from streamtrain.kernels._jit import inline, kernel

_PART_BITS = 4
_SMALL = 4096
"""Codes of a table that is one part."""

# Columns of `BagTables.tables`.
G_ROW, G_PART_BITS, G_FIRST_PART = range(3)
N_BAG = 3
# Columns of `BagTables.parts`.
Q_BAG, Q_PART = range(2)

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


class Bags(NamedTuple):
    """Entries of rows.

    ranges : (n, V, 2) int32
        First and last + 1 of the entries of each row's bags.
    codes : (E,) int32
    values : (E,) float32
    """

    ranges: Ints
    codes: Ints
    values: Floats

    def slice(self, start: int, stop: int) -> Bags:
        """Return rows start .. stop - 1 of the same entries."""
        return Bags(self.ranges[start:stop], self.codes, self.values)

    def ends(self) -> npt.NDArray[np.int64]:
        """Return the entries of all rows before each, and of all, (n + 1,) int64."""
        counts = (self.ranges[:, :, 1] - self.ranges[:, :, 0]).sum(axis=1, dtype=np.int64)
        found = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts, out=found[1:])
        return found


def no_bags(n_rows: int, n_bags: int = 0) -> Bags:
    """Return rows without entries."""
    nothing = np.empty(0, np.int32), np.empty(0, np.float32)
    return Bags(np.zeros((n_rows, n_bags, 2), np.int32), *nothing)


class BagTables(NamedTuple):
    """Where the tables of bags lie, read only.

    tables : (V, N_BAG) int64
        First table row, bits of a code that tell its part, first part.
    parts : (Q, 2) int64
        Bag and number of each part.
    """

    tables: npt.NDArray[np.int64]
    parts: npt.NDArray[np.int64]


class BagWork(NamedTuple):
    """Scratch of a batch.

    codes, rows : (E,) int32; values : (E,) float32
        Entries by tile, part, and row of the batch.
    starts : (tiles, Q + 1) int32
        Where the entries of each part begin in a tile, and where the last ends.
    slots : (threads, S) int32, all -1
    """

    codes: Ints
    rows: Ints
    values: Floats
    starts: Ints
    slots: Ints


def part_bits(cardinality: int) -> int:
    """Return the lowest bits of a code that are the number of its part."""
    return _PART_BITS if cardinality >= _SMALL else 0


def plan_tables(cardinalities: tuple[int, ...], first_row: int) -> BagTables:
    """Return the tables of bags whose rows begin at `first_row`, one behind another."""
    tables: list[tuple[int, int, int]] = []
    parts: list[tuple[int, int]] = []
    row = first_row
    for bag, cardinality in enumerate(cardinalities):
        bits = part_bits(cardinality)
        tables.append((row, bits, len(parts)))
        parts += [(bag, part) for part in range(1 << bits)]
        row += cardinality
    return BagTables(
        np.array(tables, np.int64).reshape(-1, N_BAG), np.array(parts, np.int64).reshape(-1, 2)
    )


def most_unique(cardinalities: tuple[int, ...], n_entries: int) -> int:
    """Return the most codes that a part can have in a batch of so many entries."""
    largest = max(((c >> part_bits(c)) + 1 for c in cardinalities), default=0)
    return min(largest, n_entries)


def bag_work(
    cardinalities: tuple[int, ...], *, n_entries: int, n_tiles: int, n_threads: int
) -> BagWork:
    """Return the scratch of a batch; its pages are the process's only once they are used."""
    n_parts = sum(1 << part_bits(c) for c in cardinalities)
    n_entries = n_entries if cardinalities else 0
    return BagWork(
        np.empty(n_entries, np.int32),
        np.empty(n_entries, np.int32),
        np.empty(n_entries, np.float32),
        np.zeros((n_tiles, n_parts + 1), np.int32),
        np.full((n_threads, most_unique(cardinalities, 1 << 62)), -1, np.int32),
    )


def bag_work_bytes(
    cardinalities: tuple[int, ...], *, n_entries: int, n_tiles: int, n_threads: int
) -> int:
    """Return the bytes of `bag_work`."""
    if not cardinalities:
        return 0
    n_parts = sum(1 << part_bits(c) for c in cardinalities)
    slots = most_unique(cardinalities, 1 << 62)
    return 12 * n_entries + 4 * (n_tiles * (n_parts + 1) + n_threads * slots)


@inline
def sort_entries(tile, first, begin, end, bags, ends, bag_tables, work):
    """Group the entries of rows begin .. end - 1 of the batch that starts at row `first`."""
    n_parts = bag_tables.parts.shape[0]
    starts = work.starts[tile]
    for p in range(n_parts + 1):
        starts[p] = 0
    n_bags = bag_tables.tables.shape[0]
    for row in range(first + begin, first + end):
        for v in range(n_bags):
            mask = (np.int64(1) << bag_tables.tables[v, G_PART_BITS]) - 1
            p0 = bag_tables.tables[v, G_FIRST_PART]
            for e in range(np.int64(bags.ranges[row, v, 0]), np.int64(bags.ranges[row, v, 1])):
                starts[p0 + (np.int64(bags.codes[e]) & mask)] += 1
    at = np.int32(ends[first + begin] - ends[first])
    for p in range(n_parts + 1):
        n = starts[p]
        starts[p] = at
        at += n
    for row in range(first + begin, first + end):
        for v in range(n_bags):
            mask = (np.int64(1) << bag_tables.tables[v, G_PART_BITS]) - 1
            p0 = bag_tables.tables[v, G_FIRST_PART]
            for e in range(np.int64(bags.ranges[row, v, 0]), np.int64(bags.ranges[row, v, 1])):
                code = bags.codes[e]
                p = p0 + (np.int64(code) & mask)
                to = np.uint32(starts[p])
                starts[p] += 1
                work.codes[to] = code
                work.rows[to] = np.int32(row - first)
                work.values[to] = bags.values[e]
    # Each start has moved to its part's end, which is the next one's start.
    for p in range(n_parts, 0, -1):
        starts[p] = starts[p - 1]
    starts[0] = np.int32(ends[first + begin] - ends[first])


@inline
def part_gradient(
    part, n_tiles, delta, at, width, bag_tables, work, slots, unique, gradient, own_at, own
):
    """Sum the gradient of each code of a part in the batch; return how many codes there are.

    Code u in order of appearance is ``unique[u]``, its gradient
    ``gradient[u width : (u + 1) width]``: value times ``delta[row, at : at + width]``
    over its entries. Where `own_at` is not negative, ``own[u]`` is the sum of the
    squared values times ``delta[row, own_at]``.
    """
    bits = bag_tables.tables[bag_tables.parts[part, Q_BAG], G_PART_BITS]
    n_unique = 0
    for tile in range(n_tiles):
        for e in range(np.int64(work.starts[tile, part]), np.int64(work.starts[tile, part + 1])):
            code = work.codes[e]
            h = np.int64(code) >> bits
            u = np.int64(slots[h])
            row = np.int64(work.rows[e])
            value = work.values[e]
            if u < 0:
                u = n_unique
                n_unique += 1
                slots[h] = np.int32(u)
                unique[u] = code
                for c in range(width):
                    gradient[u * width + c] = value * delta[row, at + c]
                if own_at >= 0:
                    own[u] = value * value * delta[row, own_at]
                continue
            if own_at >= 0:
                own[u] += value * value * delta[row, own_at]
            if width == 1:
                gradient[u] += value * delta[row, at]
                continue
            total = gradient[u * width : (u + 1) * width]
            part_of = delta[row, at : at + width]
            for c in range(width):
                total[c] += value * part_of[c]
    for u in range(n_unique):
        slots[np.int64(unique[u]) >> bits] = -1
    return n_unique


@kernel
def scatter_entries(run, n_rows, places, bag, at, cardinality, longest, ranges, codes, values):
    """Copy the entries of one bag of a block; return how many, or -1 if they make no sense.

    Parameters
    ----------
    run : (bytes,) uint8, read
        For each row its bytes as a little-endian uint32, then entries of 8 bytes:
        code (int32) and value (float32).
    n_rows : int
    places : (n_rows,) int32, read
        Row of the window for each row of the block.
    bag, at : int
        Which bag of the rows; where its first entry goes.
    cardinality : int
        Codes are below it: a greater one would read foreign parameters.
    longest : int
        No row has more entries: what holds a batch's is planned by it.
    ranges : (n, V, 2) int32, written
    codes, values : (E,) int32, (E,) float32, written from `at`
    """
    size = run.shape[0]
    here = 0
    to = at
    for r in range(n_rows):
        if here + 4 > size:
            return -1
        n_bytes = np.int64(run[here : here + 4].view(np.uint32)[0])
        here += 4
        if n_bytes % 8 != 0 or here + n_bytes > size or to + n_bytes // 8 > codes.shape[0]:
            return -1
        n = n_bytes // 8
        if n > longest:
            return -1
        words = run[here : here + n_bytes]
        as_codes = words.view(np.int32)
        as_values = words.view(np.float32)
        for k in range(n):
            code = as_codes[2 * k]
            if code < 0 or code >= cardinality:
                return -1
            codes[to + k] = code
            values[to + k] = as_values[2 * k + 1]
        place = places[r]
        ranges[place, bag, 0] = to
        ranges[place, bag, 1] = to + n
        to += n
        here += n_bytes
    if here != size:
        return -1
    return to - at


@kernel
def copy_entries(source_ranges, source_codes, source_values, at, to, ranges, codes, values):
    """Copy the entries of rows to a buffer from entry `to`; return the entry after the last.

    Parameters
    ----------
    source_ranges, source_codes, source_values : Bags of n rows, read
    at : int
        Row of `ranges` for the first of them.
    to : int
    ranges, codes, values : Bags, written
    """
    for r in range(source_ranges.shape[0]):
        for v in range(source_ranges.shape[1]):
            first, last = source_ranges[r, v, 0], source_ranges[r, v, 1]
            ranges[at + r, v, 0] = to
            for e in range(first, last):
                codes[to] = source_codes[e]
                values[to] = source_values[e]
                to += 1
            ranges[at + r, v, 1] = to
    return to


@kernel
def gather_entries(starts, counts, words, out):
    """Copy the entries of rows, one row behind another.

    Parameters
    ----------
    starts, counts : (n,) int64, read
    words : (m, 2) int32, read
    out : (sum of counts, 2) int32, overwritten
    """
    to = 0
    for r in range(starts.shape[0]):
        for e in range(starts[r], starts[r] + counts[r]):
            out[to, 0] = words[e, 0]
            out[to, 1] = words[e, 1]
            to += 1


@kernel
def pack_entries(offsets, words, out):
    """Write for each row the bytes of its entries, then the entries.

    Parameters
    ----------
    offsets : (n + 1,) int64, read
    words : (m, 2) int32, read
    out : (n + 2 offsets[n],) int32, overwritten
    """
    to = 0
    for r in range(offsets.shape[0] - 1):
        out[to] = np.int32(8 * (offsets[r + 1] - offsets[r]))
        to += 1
        for e in range(offsets[r], offsets[r + 1]):
            out[to] = words[e, 0]
            out[to + 1] = words[e, 1]
            to += 2
