"""Entries cut from text, in the order of the file, to the rows of each bag.

R = rows, V = bags that are kept, E = entries of all of them, G = groups of entries
that share a scale.
"""

from __future__ import annotations

import numpy as np

from streamtrain.kernels._jit import inline, kernel

# Rows of `entries`: row of the batch, bag, group, and the text of the value.
E_ROW, E_BAG, E_GROUP, E_START, E_STOP = range(5)
N_ENTRY = 5
LF, CR, _SPACE, _TAB = 10, 13, 32, 9


@inline
def is_blank(b):
    """Return whether a byte parts the tokens of a line."""
    return b == _SPACE or b == _TAB or b == CR


@inline
def end_of_line(data, i, end, start):
    """Return where the line from `start` ends, its CR aside, and where the next begins."""
    while i < end and data[i] != LF:
        i += 1
    stop = i
    if stop > start and data[stop - 1] == CR:
        stop -= 1
    return stop, i + 1


@kernel
def group_entries(entries, keys, values, good, offsets, out_keys, out_values):
    """Sort entries by bag, in the order of the rows; those of bad rows are left out.

    Parameters
    ----------
    entries : (N_ENTRY, E) int32, read
        In the order of rows.
    keys : (E,) uint64, read
    values : (E,) float64, read
    good : (R,) uint8, read
    offsets : (V, R + 1) int64, overwritten
        Of bag v, entry of `out_keys` where each row begins, and the last ends.
    out_keys : (E,) uint64, overwritten
    out_values : (E,) float32, overwritten
    """
    n_bags, n_rows = offsets.shape[0], offsets.shape[1] - 1
    n = keys.shape[0]
    for v in range(n_bags):
        for r in range(n_rows + 1):
            offsets[v, r] = 0
    for e in range(n):
        if good[entries[E_ROW, e]] != 0:
            offsets[entries[E_BAG, e], entries[E_ROW, e] + 1] += 1
    at = 0
    for v in range(n_bags):
        offsets[v, 0] = at
        for r in range(n_rows):
            at += offsets[v, r + 1]
            offsets[v, r + 1] = at
    # Each row's beginning moves to its end while it is filled, and back afterwards.
    for e in range(n):
        if good[entries[E_ROW, e]] != 0:
            v, r = entries[E_BAG, e], entries[E_ROW, e]
            to = offsets[v, r]
            offsets[v, r] += 1
            out_keys[to] = keys[e]
            out_values[to] = np.float32(values[e])
    for v in range(n_bags):
        first = offsets[v - 1, n_rows] if v else 0
        for r in range(n_rows - 1, -1, -1):
            offsets[v, r + 1] = offsets[v, r]
        offsets[v, 0] = first
