"""Rows of categories of a linear model: their gradient over a batch, and their update.

Letters as in kernels/linear.py. A batch holds few of a field's codes, and some of
them many times: codes are grouped, and their rows gathered, moved and put back.
"""

from __future__ import annotations

import numpy as np

from streamtrain.kernels._jit import inline
from streamtrain.kernels.blocks import bits_of_float, float_of_bits
from streamtrain.kernels.clipping import clip_values, scale_gradient
from streamtrain.kernels.updates import (
    H_CLIP_VALUE,
    ROWWISE_ADAGRAD,
    catch_up,
    threshold_range,
    update_rows,
)

_DIRECT_SLOTS = 16_384
# Half a megabyte for each thread at most; codes of larger fields are hashed.
_MOST_SUMS = 131_072
# Bits of a NaN that no arithmetic makes mark a sum as taken: a sum may be NaN itself.
_TAKEN = np.int32(0x7FC0A5A5)


@inline
def hashed_slots(n_rows):
    """Return the slots among which the codes of n rows are spread: a power of two."""
    n = 64
    while n < 4 * n_rows:
        n *= 2
    return n


def table_size(batch_size: int) -> int:
    """Return the slots of the scratch table in which a field's codes are grouped.

    A field of no more codes than slots needs no hashing.
    """
    return max(_DIRECT_SLOTS, 1 << max(6, (4 * batch_size - 1).bit_length()))


def n_sums(cardinalities: tuple[int, ...], n_scores: int) -> int:
    """Return the floats of the scratch table of `sum_codes`."""
    if n_scores > 1:
        return 0
    return max((c for c in cardinalities if c <= _MOST_SUMS), default=0)


@inline
def sum_codes(column, delta, sums, unique, gradient):
    """Sum delta over the rows of each code of a field, C = 1; return the number of codes.

    The same codes and sums, in the same order, as `group_codes` finds. A code's sum
    is taken where the code appears first, so that no row waits for what another
    row's code turns out to be.

    Parameters
    ----------
    column : (n,) int32, read
    delta : (n,) float32, read
    sums : (S,) float32, all 0 on entry and on return
        S is at least the field's cardinality.
    unique, gradient : (B,) int32, (B,) float32, overwritten
    """
    n = column.shape[0]
    taken = float_of_bits(_TAKEN)
    # Unsigned: a negative index would have to be looked for.
    for i in range(n):
        sums[np.uint32(column[i])] += delta[i]
    n_unique = 0
    for i in range(n):
        code = column[i]
        at = np.uint32(code)
        found = sums[at]
        sums[at] = taken
        unique[n_unique] = code
        gradient[n_unique] = found
        n_unique += np.int64(bits_of_float(found) != _TAKEN)
    for u in range(n_unique):
        sums[np.uint32(unique[u])] = np.float32(0.0)
    return n_unique


@inline
def group_codes(field, start, n_rows, codes, delta, cardinality, slots, unique, places, gradient):
    """Sum delta over the rows of each code of a field; return the number of codes.

    Code u of the batch, in order of appearance, is ``unique[u]``, its sum is
    ``gradient[u C : (u + 1) C]``. `slots` is all -1 on entry and on return.

    Whether a row's code is new cannot be predicted, so nothing branches on it:
    0.3 of the time that a branch takes.
    """
    n_scores = delta.shape[1]
    direct = cardinality <= slots.shape[0]
    # A quarter full at most: few codes find their slot taken by another.
    mask = hashed_slots(n_rows) - 1
    n_unique = 0
    for i in range(n_rows):
        code = codes[start + i, field]
        h = np.int64(code)
        if not direct:
            h = (h * 0x9E3779B1) & mask
            while slots[h] >= 0 and unique[slots[h]] != code:
                h = (h + 1) & mask
        u = slots[h]
        new = u < 0
        u = n_unique if new else u
        n_unique += np.int64(new)
        slots[h] = u
        unique[u] = code
        places[u] = h
        if n_scores == 1:
            d = delta[i, 0]
            sofar = gradient[u] + d
            gradient[u] = d if new else sofar
            continue
        for c in range(n_scores):
            d = delta[i, c]
            sofar = gradient[u * n_scores + c] + d
            gradient[u * n_scores + c] = d if new else sofar
    for u in range(n_unique):
        slots[places[u]] = -1
    return n_unique


@inline
def field_gradient(
    field, start, n_rows, codes, delta, cardinality, hyper, sums, slots, unique, places, gradient
):
    """Sum and clip the gradient of every code of a field in the batch; return their number."""
    if delta.shape[1] == 1 and cardinality <= sums.shape[0]:
        column = codes[start : start + n_rows, field]
        n_unique = sum_codes(column, delta[:n_rows, 0], sums, unique, gradient)
    else:
        n_unique = group_codes(
            field, start, n_rows, codes, delta, cardinality, slots, unique, places, gradient
        )
    clip_values(gradient, n_unique * delta.shape[1], np.float32(hyper[H_CLIP_VALUE]))
    return n_unique


@inline
def update_field(
    base, n_unique, n_scores, w, first, second, n_dense_rows, stamps, before, after, unique,
    gradient, gathered, rate, hyper, optimizer, correct1, correct2, keep, threshold, factor,
):  # fmt: skip
    """Move rows ``base + unique[u]``, whose gradients are those of `field_gradient`.

    They are gathered into `gathered` (3, B C), so that the update runs over
    consecutive numbers, and put back.
    """
    lazy = stamps.shape[0] > 0
    n = n_unique * n_scores
    scale_gradient(gradient, n, factor)
    # One sum for a row comes after those of the dense parameters, one for each.
    by_row = optimizer == ROWWISE_ADAGRAD
    second_base = n_dense_rows * (n_scores - 1) + base if by_row else base
    second_width = 1 if by_row else n_scores
    gather_rows(w, base, unique, n_unique, n_scores, gathered[0])
    if first.shape[0] > 0:
        gather_rows(first, base, unique, n_unique, n_scores, gathered[1])
    if second.shape[0] > 0:
        gather_rows(second, second_base, unique, n_unique, second_width, gathered[2])
    if lazy:
        for u in range(n_unique):
            k = base + unique[u] - n_dense_rows
            for c in range(n_scores):
                value = catch_up(
                    gathered[0, u * n_scores + c], stamps[k, 0], stamps[k, 1], before[0], before[1]
                )
                gathered[0, u * n_scores + c] = np.float32(np.float64(value) * keep)
            stamps[k, 0] = after[0]
            stamps[k, 1] = after[1]
    update_rows(
        optimizer, gathered[0], gathered[1], gathered[2], gradient, n_unique, n_scores, rate,
        hyper, correct1, correct2,
    )  # fmt: skip
    threshold_range(gathered[0], 0, n, threshold)
    put_back_rows(gathered[0], base, unique, n_unique, n_scores, w)
    if first.shape[0] > 0:
        put_back_rows(gathered[1], base, unique, n_unique, n_scores, first)
    if second.shape[0] > 0:
        put_back_rows(gathered[2], second_base, unique, n_unique, second_width, second)


@inline
def gather_rows(source, base, unique, n_unique, width, out):
    """Copy rows base + unique[u] of `source` to rows u of `out`."""
    if width == 1:
        part = source[base:]
        for u in range(n_unique):
            # Unsigned: a negative index would have to be looked for.
            out[u] = part[np.uint32(unique[u])]
        return
    for u in range(n_unique):
        at = (base + unique[u]) * width
        for c in range(width):
            out[u * width + c] = source[at + c]


@inline
def put_back_rows(source, base, unique, n_unique, width, out):
    """Copy rows u of `source` to rows base + unique[u] of `out`."""
    if width == 1:
        part = out[base:]
        for u in range(n_unique):
            part[np.uint32(unique[u])] = source[u]
        return
    for u in range(n_unique):
        at = (base + unique[u]) * width
        for c in range(width):
            out[at + c] = source[u * width + c]
