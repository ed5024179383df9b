"""From the bytes of a block to rows in their shuffled places."""

from __future__ import annotations

import numpy as np

from streamtrain.kernels._jit import inline, kernel

_TILE_ROWS, _LEAST_ROWS = 256, 64
_TILE_BYTES = 512 << 10


def tile_rows(row_bytes: int) -> int:
    """Return the rows that `scatter_block` turns at a time: enough to be fast, few for a cache."""
    return max(_LEAST_ROWS, min(_TILE_ROWS, _TILE_BYTES // max(row_bytes, 1)))


# Of its own: who plans memory must not wait for a compiler.
_tile_rows = inline(tile_rows)


@kernel
def scatter_block(
    block, n_rows, stride, places, numeric, codes, target, weight, exposure, cardinality
):
    """Put every row of a block in its place; return the first column out of range, or -1.

    Parameters
    ----------
    block : (bytes,) uint8, read
        Runs of `stride` bytes, one a column, that end in its `n_rows` values of
        4 bytes: D numeric, F codes, target, then weight and exposure if kept.
    n_rows, stride : int
    places : (n_rows,) int32, read
        Row of the window for each row of the block.
    numeric : (n, D) float32, C order, written
    codes : (n, F) int32, C order, written
    target : (n,) float32, written
    weight, exposure : (n,) float32 or empty, written
    cardinality : (F,) int32, read
        A code outside of 0 .. cardinality - 1 would read foreign parameters: the
        digest says that these are the bytes that were written, this that what
        was written made sense.

    Notes
    -----
    Columns become rows in a tile that stays in cache, and whole rows go to their
    places: twice as fast as each value to its place, a line of memory for every four
    bytes.
    """
    n_numeric = numeric.shape[1]
    n_fields = codes.shape[1]
    header = stride - 4 * n_rows
    bad = -1
    most = _tile_rows(4 * (n_numeric + n_fields))
    tile_numeric = np.empty((most, n_numeric), np.float32)
    tile_codes = np.empty((most, n_fields), np.int32)
    for begin in range(0, n_rows, most):
        n = min(most, n_rows - begin)
        at = header + 4 * begin
        for j in range(n_numeric):
            values = block[at : at + 4 * n].view(np.float32)
            for r in range(n):
                tile_numeric[r, j] = values[r]
            at += stride
        for f in range(n_fields):
            integers = block[at : at + 4 * n].view(np.int32)
            limit = np.uint32(cardinality[f])
            n_beyond = 0
            for r in range(n):
                # A negative code is a very large one here.
                n_beyond += np.uint32(integers[r]) >= limit
                tile_codes[r, f] = integers[r]
            if n_beyond > 0:
                bad = n_numeric + f
                for r in range(n):
                    if np.uint32(integers[r]) >= limit:
                        tile_codes[r, f] = 0
            at += stride
        values = block[at : at + 4 * n].view(np.float32)
        for r in range(n):
            p = np.uint32(places[begin + r])
            for j in range(n_numeric):
                numeric[p, j] = tile_numeric[r, j]
            for f in range(n_fields):
                codes[p, f] = tile_codes[r, f]
            target[p] = values[r]
        at += stride
        if weight.shape[0] > 0:
            values = block[at : at + 4 * n].view(np.float32)
            for r in range(n):
                weight[places[begin + r]] = values[r]
            at += stride
        if exposure.shape[0] > 0:
            values = block[at : at + 4 * n].view(np.float32)
            for r in range(n):
                exposure[places[begin + r]] = values[r]
    return bad


@kernel
def scatter_rows(
    numeric_rows, codes_rows, target_rows, weight_rows, exposure_rows, cardinality, places,
    numeric, codes, target, weight, exposure,
):  # fmt: skip
    """Copy every row of a block to its place; return the codes that are out of range.

    Parameters
    ----------
    numeric_rows : (r, D) float32, C order, read
    codes_rows : (r, F) uint8, uint16 or int32, C order, read
    target_rows : (r,) float32, read
    weight_rows, exposure_rows : (r,) float32, or empty where the window has none, read
    cardinality : (F,) int32, read
        See `scatter_block`. A window that got a code beyond it must not be used.
    places : (r,) int32, read
        Row of the window for each row of the block.
    numeric : (n, D) float32, C order, written
    codes : (n, F) int32, C order, written
    target : (n,) float32, written
    weight, exposure : (n,) float32 or empty, written

    Notes
    -----
    Codes are counted rather than branched upon, and places are unsigned: both keep
    the loop over fields free of tests, so that it widens several codes at once.
    """
    n_numeric, n_fields = numeric.shape[1], codes.shape[1]
    n_beyond = 0
    for r in range(places.shape[0]):
        p = np.uint32(places[r])
        for j in range(n_numeric):
            numeric[p, j] = numeric_rows[r, j]
        for f in range(n_fields):
            code = np.int32(codes_rows[r, f])
            # A negative code is a very large one here.
            n_beyond += np.uint32(code) >= np.uint32(cardinality[f])
            codes[p, f] = code
        target[p] = target_rows[r]
        if weight.shape[0] > 0:
            weight[p] = weight_rows[r]
        if exposure.shape[0] > 0:
            exposure[p] = exposure_rows[r]
    return n_beyond


@kernel
def scatter_bytes(features_rows, target_rows, places, features, target):
    """Copy rows of W bytes, whatever their values, and their M targets to their places.

    Parameters
    ----------
    features_rows : (r, W) uint8, C order, read
    target_rows : (r, M) float32, C order, read
    places : (r,) int32, read
        Row of the window for each row of the block.
    features : (n, W) uint8, C order, written
    target : (n, M) float32, C order, written
    """
    width = features.shape[1]
    n_targets = target.shape[1]
    for r in range(places.shape[0]):
        p = np.uint32(places[r])
        for j in range(width):
            features[p, j] = features_rows[r, j]
        for m in range(n_targets):
            target[p, m] = target_rows[r, m]


@kernel
def class_indices(values, target, rows):
    """Replace class values by their index, -1 where a value is no class.

    Parameters
    ----------
    values : (C,) float32, read
    target : (n,) float32, updated
    rows : int
        How many of them.
    """
    for i in range(rows):
        found = -1
        for c in range(values.shape[0]):
            if values[c] == target[i]:
                found = c
        target[i] = found
