"""Tables of a network: the gradient of the rows that a batch holds, and their update."""

from __future__ import annotations

import numpy as np

from streamtrain.kernels._jit import inline
from streamtrain.kernels.bags import part_gradient
from streamtrain.kernels.linear_tables import hashed_slots
from streamtrain.kernels.network_table import (
    F_CARDINALITY,
    F_DELTA,
    F_FIRST,
    F_LINEAR,
    F_OWN,
    F_ROW,
    F_WIDTH,
)
from streamtrain.kernels.updates import (
    ROWWISE_ADAGRAD,
    catch_up_row,
    threshold_range,
    update_rows,
)

_ZERO = np.float32(0.0)


@inline
def table_gradient(net, f, codes, first, n, work, slot):
    """Group a batch's codes of a field and sum the gradient of each; return how many there are.

    Code u in order of appearance is ``unique[slot, u]``; its gradient is
    ``table_gradient[slot, u width :][:width]``.
    """
    cardinality = net.fields[f, F_CARDINALITY]
    width = net.fields[f, F_WIDTH]
    at = net.fields[f, F_DELTA]
    slots = work.slots[slot]
    unique = work.unique[slot]
    places = work.places[slot]
    which = work.which[slot]
    gradient = work.table_gradient[slot]
    direct = cardinality <= slots.shape[0]
    mask = hashed_slots(n) - 1
    n_unique = 0
    for i in range(n):
        code = codes[first + i, f]
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
        which[i] = u
    for u in range(n_unique):
        slots[places[u]] = -1
    gradient[: n_unique * width] = _ZERO
    for i in range(n):
        to = which[i] * width
        total = gradient[to : to + width]
        part = work.row_delta[i, at : at + width]
        for c in range(width):
            total[c] += part[c]
    work.n_unique[slot] = n_unique
    return n_unique


@inline
def bag_gradient(net, f, part, n_tiles, moving, work, thread, slot, before):
    """Sum the gradient of each code of a part of a bag's table, as `table_gradient` does."""
    width = net.fields[f, F_WIDTH]
    at = net.fields[f, F_DELTA]
    acts_in_pairs = net.fields[f, F_OWN] == 1
    n_unique = part_gradient(
        part, n_tiles, work.row_delta, at, width, net.bag_tables, work.bags,
        work.bags.slots[thread], work.unique[slot], work.table_gradient[slot],
        at + width if acts_in_pairs else -1, work.own[slot],
    )  # fmt: skip
    work.n_unique[slot] = n_unique
    if not acts_in_pairs:
        return
    # What an entry would gain from a pair with itself is not there.
    lazy = moving.stamps.shape[0] > 0
    gradient = work.table_gradient[slot]
    caught_up = np.empty(width, np.float32)
    for u in range(n_unique):
        code = np.int64(work.unique[slot, u])
        first = net.fields[f, F_FIRST] + code * width
        row = moving.w[first : first + width]
        if lazy:
            t = net.fields[f, F_ROW] + code
            catch_up_row(
                row, moving.stamps[t, 0], moving.stamps[t, 1], before[0], before[1], caught_up
            )
            row = caught_up[:width]
        own = work.own[slot, u]
        total = gradient[u * width : (u + 1) * width]
        for c in range(net.fields[f, F_LINEAR], width):
            total[c] -= own * row[c]


@inline
def table_update(
    net, f, moving, work, slot, optimizer, rate, correct1, correct2, before, after, keep, threshold
):  # fmt: skip
    """Move the rows of every code of a field that the batch holds, decay caught up first."""
    width = net.fields[f, F_WIDTH]
    at_once = work.gathered.shape[2] // width
    for u in range(0, work.n_unique[slot], at_once):
        _update_codes(
            net, f, moving, work.unique[slot, u:], work.table_gradient[slot, u * width :],
            min(at_once, work.n_unique[slot] - u), work.gathered[slot], optimizer, rate, correct1,
            correct2, before, after, keep, threshold,
        )  # fmt: skip


@inline
def _update_codes(
    net, f, moving, unique, gradient, n_unique, gathered, optimizer, rate, correct1, correct2,
    before, after, keep, threshold,
):  # fmt: skip
    width = net.fields[f, F_WIDTH]
    base = net.fields[f, F_FIRST]
    row = net.fields[f, F_ROW]
    lazy = moving.stamps.shape[0] > 0
    # One sum for a row comes after those of the dense parameters, one for each.
    by_row = optimizer == ROWWISE_ADAGRAD
    second_base = net.n_dense + row if by_row else base
    second_width = 1 if by_row else width
    _gather(moving.w, base, unique, n_unique, width, gathered[0])
    if moving.first.shape[0] > 0:
        _gather(moving.first, base, unique, n_unique, width, gathered[1])
    if moving.second.shape[0] > 0:
        _gather(moving.second, second_base, unique, n_unique, second_width, gathered[2])
    if lazy:
        for u in range(n_unique):
            t = row + unique[u]
            values = gathered[0, u * width : (u + 1) * width]
            catch_up_row(
                values, moving.stamps[t, 0], moving.stamps[t, 1], before[0], before[1], values
            )
            for k in range(width):
                values[k] = np.float32(np.float64(values[k]) * keep)
            moving.stamps[t, 0] = after[0]
            moving.stamps[t, 1] = after[1]
    update_rows(
        optimizer, gathered[0], gathered[1], gathered[2], gradient, n_unique, width,
        np.float32(rate), moving.hyper, correct1, correct2,
    )  # fmt: skip
    threshold_range(gathered[0], 0, n_unique * width, threshold)
    _put_back(gathered[0], base, unique, n_unique, width, moving.w)
    if moving.first.shape[0] > 0:
        _put_back(gathered[1], base, unique, n_unique, width, moving.first)
    if moving.second.shape[0] > 0:
        _put_back(gathered[2], second_base, unique, n_unique, second_width, moving.second)


@inline
def _gather(source, base, unique, n_unique, width, out):
    for u in range(n_unique):
        at = base + np.int64(unique[u]) * width
        row = source[at : at + width]
        to = out[u * width : (u + 1) * width]
        for c in range(width):
            to[c] = row[c]


@inline
def _put_back(source, base, unique, n_unique, width, out):
    for u in range(n_unique):
        at = base + np.int64(unique[u]) * width
        row = source[u * width : (u + 1) * width]
        to = out[at : at + width]
        for c in range(width):
            to[c] = row[c]
