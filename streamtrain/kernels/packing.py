"""Columns to rows and back: what moves rows through temporary partitions.

A packed row is k + 2 words of 32 bits: the row's ordinal (low word, then high
word with the split in its top two bits) and its k stored values. The last 2 V of
those are, of each of V bags, where the row's entries begin and how many there are.
"""

from __future__ import annotations

import numpy as np

from streamtrain.kernels._jit import kernel
from streamtrain.kernels.row_key import row_key

HEAD_WORDS = 2
SPLIT_SHIFT = 62
ORDINAL_MASK = (1 << SPLIT_SHIFT) - 1
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_62 = np.uint64(SPLIT_SHIFT)
_MASK = np.uint64(ORDINAL_MASK)


@kernel
def draw_splits(key, ordinals, limits, out):
    """Draw the split of every row.

    Parameters
    ----------
    key : uint64
    ordinals : (n,) uint64, read
        Anything that decides the split: row numbers, or hashes of a column.
    limits : (2,) uint64, read
        Row keys below limits[0] are split 1 (valid), then below limits[1] split 2 (test).
    out : (n,) uint8, overwritten
    """
    for i in range(ordinals.shape[0]):
        u = row_key(key, ordinals[i])
        if u < limits[0]:
            out[i] = 1
        elif u < limits[1]:
            out[i] = 2
        else:
            out[i] = 0


@kernel
def pack_rows(stored, picks, ordinals, splits, key, shift, counts, out):
    """Pack chosen rows, grouped by the top bits of their keys, in order within a group.

    Parameters
    ----------
    stored : (k, R) int32, read
        The bits of the stored values, column by column.
    picks : (n,) int64, read
        Rows to pack.
    ordinals : (R,) uint64, read
    splits : (R,) uint8, read
    key : uint64
    shift : uint64
        Group of a row is its row key >> shift; 64 puts all in group 0.
    counts : (groups,) int64, overwritten
        Rows of each group.
    out : (n, k + 2) int32, overwritten
    """
    n_columns = stored.shape[0]
    n = picks.shape[0]
    groups = np.zeros(n, np.int32)
    counts[:] = 0
    for j in range(n):
        if shift < np.uint64(64):
            groups[j] = np.int32(row_key(key, ordinals[picks[j]]) >> shift)
        counts[groups[j]] += 1
    at = np.zeros(counts.shape[0], np.int64)
    for g in range(1, counts.shape[0]):
        at[g] = at[g - 1] + counts[g - 1]
    for j in range(n):
        r = picks[j]
        to = at[groups[j]]
        at[groups[j]] = to + 1
        head = ordinals[r] | (np.uint64(splits[r]) << _62)
        out[to, 0] = np.int32(np.uint32(head & _LOW))
        out[to, 1] = np.int32(np.uint32(head >> _32))
        for c in range(n_columns):
            out[to, 2 + c] = stored[c, r]


@kernel
def pack_entries(rows, counts, n_bags, words, out, entry_counts):
    """Copy the entries of packed rows in their order; rows then point to where they are.

    Parameters
    ----------
    rows : (n, k + 2) int32, updated
        Grouped as `counts` says; a row's entries begin where it says in `words`,
        then in its group's part of `out`.
    counts : (groups,) int64, read
    n_bags : int
    words : (m, 2) int32, read
    out : (M, 2) int32, overwritten
        M at least the entries of all rows.
    entry_counts : (groups,) int64, overwritten
        Entries of each group.
    """
    first = rows.shape[1] - 2 * n_bags
    to = 0
    r = 0
    for g in range(counts.shape[0]):
        begin = to
        for _ in range(counts[g]):
            for v in range(n_bags):
                at = np.int64(np.uint32(rows[r, first + 2 * v]))
                rows[r, first + 2 * v] = np.int32(np.uint32(to - begin))
                for e in range(at, at + np.int64(rows[r, first + 2 * v + 1])):
                    out[to, 0] = words[e, 0]
                    out[to, 1] = words[e, 1]
                    to += 1
            r += 1
        entry_counts[g] = to - begin


@kernel
def unpack_heads(rows, key, keyed, keys, splits):
    """Write the key and the split of packed rows.

    Parameters
    ----------
    rows : (n, k + 2) int32, read
    key : uint64
    keyed : bool
        Otherwise the key of a row is its ordinal.
    keys : (n,) uint64, overwritten
    splits : (n,) uint8, overwritten
    """
    for i in range(rows.shape[0]):
        head = (np.uint64(np.uint32(rows[i, 1])) << _32) | np.uint64(np.uint32(rows[i, 0]))
        splits[i] = np.uint8(head >> _62)
        ordinal = head & _MASK
        if keyed:
            keys[i] = row_key(key, ordinal)
        else:
            keys[i] = ordinal


@kernel
def gather_columns(rows, order, begin, n, out, at):
    """Copy rows order[begin : begin + n] to columns `at` and on.

    Parameters
    ----------
    rows : (N, k + 2) int32, read
    order : (M,) int64, read
    begin, n : int
    out : (k, B) int32, columns at .. at + n overwritten
    at : int
    """
    n_columns = out.shape[0]
    tile = 16
    for t in range(0, n, tile):
        m = min(tile, n - t)
        for c in range(n_columns):
            for j in range(m):
                out[c, at + t + j] = rows[order[begin + t + j], 2 + c]
