"""The parameters phase: tasks that own a block of parameters, its gradient and its update.

A gradient is summed over rows in their order, piece after piece of the batch;
the element that a task owns is nobody else's, so who takes a task, and how many
there are, never shows in the result.
"""

from __future__ import annotations

import numpy as np

from streamtrain.kernels._jit import inline, inline_exact
from streamtrain.kernels.blocks import multiply_columns, transpose_block, weighted_sum
from streamtrain.kernels.clipping import clip_values, scale_gradient, sum_of_squares
from streamtrain.kernels.network_layers import row_moments
from streamtrain.kernels.network_table import (
    AFFINE,
    BIAS,
    F_WIDTH,
    HEAD,
    NORM,
    O_BACK,
    O_FLAG,
    O_IN,
    O_MORE,
    O_N_IN,
    O_N_OUT,
    O_OUT,
    O_PARAM,
    O_WIDTH_IN,
    O_WIDTH_OUT,
    O_WT,
    PERIODIC,
    SCALE,
    T_KIND,
    T_OP,
    T_P0,
    T_P1,
    T_Q0,
    T_Q1,
    TABLE_TASK,
)
from streamtrain.kernels.updates import (
    H_CLIP_VALUE,
    decay_range,
    threshold_range,
    update_free_range,
    update_range,
)

_ZERO = np.float32(0.0)
_TWO_PI = np.float32(2.0 * np.pi)
_CHUNK_ROWS = 256


@inline
def dense_gradient(net, task, work, thread, n, fresh):
    """Add the gradient of a task over rows 0 .. n - 1 of the panels; begin it anew if `fresh`."""
    op = net.ops[task[T_OP]]
    kind = task[T_KIND]
    m = work.act.shape[1]
    gradient = work.gradient
    if kind == AFFINE:
        _affine_gradient(op, task, work, thread, m, n, fresh)
    elif kind == HEAD:
        for p in range(op[O_N_IN]):
            at = op[O_PARAM] + 16 * p
            if fresh:
                gradient[at : at + 16] = _ZERO
            weighted_sum(
                work.flat_delta, net.score * m * 16, 16, work.flat_act, (op[O_IN] + p) * m * 16, n,
                gradient, at, gradient, at,
            )  # fmt: skip
    elif kind == BIAS:
        _bias_gradient(op[O_OUT], op[O_N_OUT], op[O_PARAM], work, m, n, fresh)
    elif kind == PERIODIC:
        _periodic_gradient(op, work, n, fresh)
    elif kind == SCALE:
        _scale_gradient(op, work, thread, n, fresh)
    elif kind == NORM:
        _norm_gradient(op, work, n, fresh)


@inline
def _affine_gradient(op, task, work, thread, m, n, fresh):
    n_in = op[O_WIDTH_IN]
    gradient = work.gradient
    block = work.block[thread]
    for c0 in range(0, n, _CHUNK_ROWS):
        rows = min(_CHUNK_ROWS, n - c0)
        begin = fresh and c0 == 0
        for q in range(task[T_Q0], task[T_Q1]):
            right = ((op[O_OUT] + q) * m + c0) * 16
            for p in range(task[T_P0], task[T_P1]):
                left = ((op[O_IN] + p) * m + c0) * 16
                at = op[O_PARAM] + (q * n_in + p * 16) * 16
                n_rows = min(16, n_in - p * 16)
                if n_rows == 16:
                    if begin:
                        multiply_columns(
                            work.flat_act, left, rows, work.flat_delta, right, work.zeros, 0, 0,
                            gradient, at,
                        )  # fmt: skip
                    else:
                        multiply_columns(
                            work.flat_act, left, rows, work.flat_delta, right, gradient, at, 16,
                            gradient, at,
                        )  # fmt: skip
                    continue
                # The last lanes are nobody's: their numbers must not be written.
                for k in range(256):
                    inside = not begin and k < n_rows * 16
                    block[k] = gradient[at + k] if inside else _ZERO
                multiply_columns(
                    work.flat_act, left, rows, work.flat_delta, right, block, 0, 16, block, 0
                )
                for k in range(n_rows * 16):
                    gradient[at + k] = block[k]
    if task[T_P0] == 0 and op[O_MORE] == 0:
        bias = op[O_PARAM] + op[O_N_OUT] * n_in * 16
        _bias_gradient(
            op[O_OUT] + task[T_Q0], task[T_Q1] - task[T_Q0], bias + 16 * task[T_Q0], work, m, n,
            fresh,
        )  # fmt: skip


@inline
def _bias_gradient(panel, n_panels, param, work, m, n, fresh):
    for q in range(n_panels):
        at = param + 16 * q
        if fresh:
            work.gradient[at : at + 16] = _ZERO
        weighted_sum(
            work.ones, 0, 0, work.flat_delta, (panel + q) * m * 16, n, work.gradient, at,
            work.gradient, at,
        )  # fmt: skip


@inline_exact
def _periodic_gradient(op, work, n, fresh):
    # The derivative by frequency c is 2 pi x (ds cos - dc sin). Frequencies come in
    # eights, so that eight lie side by side in a panel.
    k = op[O_FLAG]
    m = work.act.shape[1]
    for i in range(op[O_WIDTH_IN]):
        x = work.flat_act[(op[O_IN] + (i >> 4)) * m * 16 + (i & 15) :]
        for c0 in range(0, k, 8):
            sine = 2 * k * i + c0
            cosine = sine + k
            at_sine = (op[O_OUT] + (sine >> 4)) * m * 16 + (sine & 15)
            at_cosine = (op[O_OUT] + (cosine >> 4)) * m * 16 + (cosine & 15)
            s = work.flat_act[at_sine:]
            co = work.flat_act[at_cosine:]
            ds = work.flat_delta[at_sine:]
            dc = work.flat_delta[at_cosine:]
            at = op[O_PARAM] + i * k + c0
            gradient = work.gradient[at : at + 8]
            if fresh:
                gradient[:] = _ZERO
            for r in range(n):
                turn = _TWO_PI * x[16 * r]
                for c in range(8):
                    l = 16 * r + c
                    gradient[c] += turn * (ds[l] * co[l] - dc[l] * s[l])


@inline
def _scale_gradient(op, work, thread, n, fresh):
    k = op[O_FLAG]
    m = work.act.shape[1]
    width = k * op[O_WIDTH_IN]
    block = work.block[thread]
    for p in range(op[O_N_OUT]):
        last = min(16 * p + 16, width)
        at = op[O_PARAM] + 16 * p
        if fresh:
            work.gradient[at : op[O_PARAM] + last] = _ZERO
        # Of the inputs whose vectors lie in this panel, each fills its own lanes.
        for i in range(16 * p // k, (last - 1) // k + 1):
            first = max(k * i, 16 * p)
            end = min(k * i + k, last)
            for c in range(16):
                block[c] = work.gradient[at + c] if c < last - 16 * p else _ZERO
            weighted_sum(
                work.flat_act, (op[O_IN] + (i >> 4)) * m * 16 + (i & 15), 16, work.flat_delta,
                (op[O_OUT] + p) * m * 16, n, block, 0, block, 0,
            )  # fmt: skip
            for c in range(first, end):
                work.gradient[op[O_PARAM] + c] = block[c - 16 * p]


@inline
def _norm_gradient(op, work, n, fresh):
    width = op[O_WIDTH_IN]
    offset = op[O_PARAM] + 16 * op[O_N_IN]
    if fresh:
        for j in range(width):
            work.gradient[op[O_PARAM] + j] = _ZERO
            work.gradient[offset + j] = _ZERO
    for r in range(n):
        mean, inverse = row_moments(op, work.act, r)
        for j in range(width):
            p, l = j >> 4, j & 15
            d = work.delta[op[O_OUT] + p, r, l]
            work.gradient[op[O_PARAM] + j] += d * (work.act[op[O_IN] + p, r, l] - mean) * inverse
            work.gradient[offset + j] += d


@inline
def task_range(net, task, part):
    """Return (first parameter, how many, whether they are penalised) of a part of a dense task.

    An AFFINE's part q is the weights of output panel T_Q0 + q, and the last its
    biases; the other kinds have one part. No parameters: (0, 0, False).
    """
    op = net.ops[task[T_OP]]
    kind = task[T_KIND]
    if kind == AFFINE:
        n_in = op[O_WIDTH_IN]
        n_q = task[T_Q1] - task[T_Q0]
        if part < n_q:
            q = task[T_Q0] + part
            first = task[T_P0] * 16
            last = min(task[T_P1] * 16, n_in)
            return op[O_PARAM] + (q * n_in + first) * 16, (last - first) * 16, True
        if part == n_q and task[T_P0] == 0 and op[O_MORE] == 0:
            bias = op[O_PARAM] + op[O_N_OUT] * n_in * 16
            return bias + 16 * task[T_Q0], 16 * n_q, False
        return 0, 0, False
    if part > 0:
        return 0, 0, False
    if kind == HEAD:
        return op[O_PARAM], 16 * op[O_N_IN], True
    if kind == BIAS:
        return op[O_PARAM], 16 * op[O_N_OUT], False
    if kind == NORM:
        return op[O_PARAM], 32 * op[O_N_IN], False
    if kind == PERIODIC:
        return op[O_PARAM], op[O_FLAG] * op[O_WIDTH_IN], False
    return op[O_PARAM], op[O_FLAG] * op[O_WIDTH_IN], True


@inline
def n_parts(task):
    """Return the parts of a dense task (`task_range`)."""
    return task[T_Q1] - task[T_Q0] + 1 if task[T_KIND] == AFFINE else 1


@inline
def dense_update(net, task, moving, work, optimizer, rate, correct1, correct2, keep, threshold):
    """Move the parameters of a dense task by their gradients, and transpose them anew."""
    rate32 = np.float32(rate)
    w = moving.w
    for part in range(n_parts(task)):
        at, n, penalised = task_range(net, task, part)
        if n == 0:
            continue
        gradient = work.gradient[at : at + n]
        if penalised:
            decay_range(w, at, n, keep)
            update_range(
                optimizer, w, moving.first, moving.second, gradient, at, n, rate32, moving.hyper,
                correct1, correct2,
            )  # fmt: skip
            threshold_range(w, at, n, threshold)
        else:
            update_free_range(
                optimizer, w, moving.first, moving.second, gradient, at, n, rate32, moving.hyper,
                correct1, correct2,
            )  # fmt: skip
    if task[T_KIND] == AFFINE:
        transpose_weights(net.ops[task[T_OP]], task, w, work.wt)


@inline
def clip_task(net, task, moving, work, slot):
    """Bound the elements of a task's gradient."""
    limit = np.float32(moving.hyper[H_CLIP_VALUE])
    if limit <= _ZERO:
        return
    if task[T_KIND] >= TABLE_TASK:
        n = work.n_unique[slot] * net.fields[task[T_OP], F_WIDTH]
        clip_values(work.table_gradient[slot], n, limit)
        return
    for part in range(n_parts(task)):
        at, n, _ = task_range(net, task, part)
        clip_values(work.gradient[at : at + n], n, limit)


@inline
def task_squares(net, task, work, slot):
    """Return the squared norm of a task's gradient, float64."""
    if task[T_KIND] >= TABLE_TASK:
        n = work.n_unique[slot] * net.fields[task[T_OP], F_WIDTH]
        return sum_of_squares(work.table_gradient[slot], n)
    total = 0.0
    for part in range(n_parts(task)):
        at, n, _ = task_range(net, task, part)
        total += sum_of_squares(work.gradient[at : at + n], n)
    return total


@inline
def scale_task(net, task, work, slot, factor):
    """Multiply a task's gradient."""
    if task[T_KIND] >= TABLE_TASK:
        n = work.n_unique[slot] * net.fields[task[T_OP], F_WIDTH]
        scale_gradient(work.table_gradient[slot], n, factor)
        return
    for part in range(n_parts(task)):
        at, n, _ = task_range(net, task, part)
        scale_gradient(work.gradient[at : at + n], n, factor)


@inline
def transpose_weights(op, task, w, wt):
    """Copy a task's weights of an AFFINE to where the way back reads them."""
    if op[O_BACK] == 0:
        return
    n_in = op[O_WIDTH_IN]
    n_out = op[O_WIDTH_OUT]
    for q in range(task[T_Q0], task[T_Q1]):
        lanes = min(16, n_out - q * 16)
        for p in range(task[T_P0], task[T_P1]):
            rows = min(16, n_in - p * 16)
            source = op[O_PARAM] + (q * n_in + p * 16) * 16
            to = op[O_WT] + (p * n_out + q * 16) * 16
            if rows == 16 and lanes == 16:
                transpose_block(w, source, wt, to)
            else:
                for l in range(lanes):
                    for k in range(rows):
                        wt[to + l * 16 + k] = w[source + k * 16 + l]
