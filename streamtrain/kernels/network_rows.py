"""The rows phase: a tile of rows through the whole network forward, and back.

A tile is n rows from row r0 of the panels, r0 a multiple of 16. Whole blocks of
16 rows are computed: what stands in rows behind the last is never summed.
"""

from __future__ import annotations

import numpy as np

from streamtrain.kernels._jit import inline
from streamtrain.kernels.blocks import dot_panels, multiply_rows
from streamtrain.kernels.network_inputs import (
    encode_rows,
    lookup_back,
    lookup_rows,
    periodic_rows,
    pool_rows,
    scale_rows,
)
from streamtrain.kernels.network_layers import (
    activate,
    activate_back,
    add_rows,
    cross_back,
    cross_rows,
    drop_rows,
    head_back,
    norm_back,
    norm_rows,
    pairs_back,
    pairs_rows,
    pass_back,
    relu_back,
    rows_of,
)
from streamtrain.kernels.network_table import (
    ACTIVATE,
    ADD,
    AFFINE,
    B_ADD,
    B_NONE,
    BIAS,
    CROSS,
    DROP,
    ENCODE,
    HEAD,
    LOOKUP,
    NORM,
    O_BACK,
    O_BACK_FROM,
    O_FLAG,
    O_IN,
    O_KIND,
    O_MORE,
    O_N_IN,
    O_N_OUT,
    O_OUT,
    O_PARAM,
    O_WIDTH_IN,
    O_WIDTH_OUT,
    O_WT,
    PAIRS,
    PERIODIC,
    SCALE,
    TOTAL,
    ZERO,
)

_ZERO = np.float32(0.0)


@inline
def forward_tile(net, moving, work, now, batch, first, position, r0, n, train):
    """Write the activations of rows first .. first + n - 1 of a batch, up to the scores.

    `position` is the run's number of the first row, which keys dropout.
    """
    act = work.act
    flat = work.flat_act
    w = moving.w
    m = act.shape[1]
    n16 = (n + 15) // 16 * 16
    for o in range(net.ops.shape[0]):
        op = net.ops[o]
        kind = op[O_KIND]
        if kind == AFFINE:
            _affine(op, w, flat, m, r0, n16)
        elif kind == ACTIVATE:
            for p in range(op[O_N_IN]):
                activate(
                    op[O_FLAG], rows_of(flat, op[O_IN] + p, m, r0, n),
                    rows_of(flat, op[O_OUT] + p, m, r0, n),
                )  # fmt: skip
        elif kind == HEAD:
            for r in range(r0, r0 + n):
                act[net.score, r, 0] += dot_panels(
                    flat, (op[O_IN] * m + r) * 16, m * 16, op[O_N_IN], w, op[O_PARAM]
                )
        elif kind == ENCODE:
            encode_rows(op, net, batch.numeric, first, r0, n, act)
        elif kind == LOOKUP:
            lookup_rows(net, w, moving.stamps, now, batch.codes, first, r0, n, act)
            pool_rows(net, w, moving.stamps, now, batch.codes, batch.bags, first, r0, n, act)
        elif kind == BIAS:
            for p in range(op[O_N_OUT]):
                for r in range(r0, r0 + n):
                    for l in range(16):
                        act[op[O_OUT] + p, r, l] = w[op[O_PARAM] + 16 * p + l]
        elif kind == DROP:
            if train:
                drop_rows(o, op, net, work.key[0], position, act, r0, n)
        elif kind == ADD:
            for p in range(op[O_N_IN]):
                add_rows(
                    rows_of(flat, op[O_OUT] + p, m, r0, n), rows_of(flat, op[O_IN] + p, m, r0, n)
                )
        elif kind == CROSS:
            for p in range(op[O_N_IN]):
                cross_rows(op, p, flat, m, r0, n)
        elif kind == NORM:
            norm_rows(op, w, act, r0, n)
        elif kind == PAIRS:
            pairs_rows(op, act, r0, n)
        elif kind == TOTAL:
            for r in range(r0, r0 + n):
                total = _ZERO
                for j in range(op[O_WIDTH_IN]):
                    total += act[op[O_IN] + (j >> 4), r, j & 15]
                act[net.score, r, 0] += total
        elif kind == PERIODIC:
            periodic_rows(op, w, r0, n, act)
        elif kind == SCALE:
            scale_rows(op, w, r0, n, act)


@inline
def backward_tile(net, moving, work, batch, row, first, position, r0, n):
    """Write the derivative of the loss by every activation, from that by the scores.

    Row `first` of the batch is row `row` of all.
    """
    act = work.act
    delta = work.delta
    flat = work.flat_delta
    w = moving.w
    m = act.shape[1]
    n16 = (n + 15) // 16 * 16
    for back in range(net.ops.shape[0]):
        o = net.ops.shape[0] - 1 - back
        op = net.ops[o]
        kind = op[O_KIND]
        if kind == AFFINE:
            if op[O_FLAG] == 1:
                for p in range(op[O_N_OUT]):
                    relu_back(
                        rows_of(work.flat_act, op[O_OUT] + p, m, r0, n),
                        rows_of(flat, op[O_OUT] + p, m, r0, n),
                    )
            _affine_back(op, work, flat, m, r0, n16)
        elif kind == ACTIVATE:
            for p in range(op[O_N_IN]):
                activate_back(
                    op[O_FLAG], op[O_BACK], rows_of(work.flat_act, op[O_IN] + p, m, r0, n),
                    rows_of(flat, op[O_OUT] + p, m, r0, n), rows_of(flat, op[O_IN] + p, m, r0, n),
                )  # fmt: skip
        elif kind == HEAD:
            head_back(op, net.score, w, delta, r0, n)
        elif kind == LOOKUP:
            lookup_back(
                net, work.row_delta, batch.bags, batch.codes.shape[1], row, first, r0, n, delta,
                act,
            )  # fmt: skip
        elif kind == DROP:
            drop_rows(o, op, net, work.key[0], position, delta, r0, n)
        elif kind == ADD:
            for p in range(op[O_N_IN]):
                pass_back(
                    op[O_BACK], rows_of(flat, op[O_OUT] + p, m, r0, n),
                    rows_of(flat, op[O_IN] + p, m, r0, n),
                )  # fmt: skip
        elif kind == CROSS:
            for p in range(op[O_N_IN]):
                cross_back(op, p, work.flat_act, flat, m, r0, n)
        elif kind == NORM:
            norm_back(op, w, act, delta, r0, n)
        elif kind == PAIRS:
            pairs_back(op, act, delta, r0, n)
        elif kind == ZERO:
            for p in range(op[O_N_IN]):
                for r in range(r0, r0 + n16):
                    for l in range(16):
                        delta[op[O_IN] + p, r, l] = _ZERO
        elif kind == TOTAL:
            for j in range(op[O_WIDTH_IN]):
                p = op[O_IN] + (j >> 4)
                for r in range(r0, r0 + n):
                    d = delta[net.score, r, 0]
                    delta[p, r, j & 15] = delta[p, r, j & 15] + d if op[O_BACK] == B_ADD else d


@inline
def _affine(op, w, flat, m, r0, n16):
    n_in = op[O_WIDTH_IN]
    last = n_in - 16 * (op[O_N_IN] - 1)
    for q in range(op[O_N_OUT]):
        weights = op[O_PARAM] + q * n_in * 16
        bias = op[O_PARAM] + op[O_N_OUT] * n_in * 16 + q * 16
        for r in range(r0, r0 + n16, 16):
            out = ((op[O_OUT] + q) * m + r) * 16
            left = (op[O_IN] * m + r) * 16
            if op[O_MORE] == 1:
                multiply_rows(
                    flat, left, m * 16, op[O_N_IN], last, w, weights, flat, out, 16, flat, out, 0
                )
            else:
                multiply_rows(
                    flat, left, m * 16, op[O_N_IN], last, w, weights, w, bias, 0, flat, out,
                    op[O_FLAG],
                )  # fmt: skip


@inline
def _affine_back(op, work, flat, m, r0, n16):
    if op[O_BACK] == B_NONE:
        return
    n_out = op[O_WIDTH_OUT]
    last = n_out - 16 * (op[O_N_OUT] - 1)
    for p in range(op[O_BACK_FROM], op[O_N_IN]):
        weights = op[O_WT] + p * n_out * 16
        for r in range(r0, r0 + n16, 16):
            out = ((op[O_IN] + p) * m + r) * 16
            left = (op[O_OUT] * m + r) * 16
            if op[O_BACK] == B_ADD:
                multiply_rows(
                    flat, left, m * 16, op[O_N_OUT], last, work.wt, weights, flat, out, 16, flat,
                    out, 0,
                )  # fmt: skip
            else:
                multiply_rows(
                    flat, left, m * 16, op[O_N_OUT], last, work.wt, weights, work.zeros, 0, 0,
                    flat, out, 0,
                )  # fmt: skip
