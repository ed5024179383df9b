"""Layers of a network but the dense ones, forward and back, on a tile of rows.

A tile is rows r0 .. r0 + n - 1 of the panels (kernels/network_rows.py).
"""

from __future__ import annotations

import math

import numpy as np

from streamtrain.kernels._jit import inline, inline_exact
from streamtrain.kernels.blocks import weighted_sum
from streamtrain.kernels.elementary import sigmoid32, tanh32
from streamtrain.kernels.network_table import (
    B_ADD,
    B_NONE,
    GELU,
    O_BACK,
    O_BACK_FROM,
    O_EXTRA,
    O_FLAG,
    O_IN,
    O_MORE,
    O_N_IN,
    O_N_OUT,
    O_OUT,
    O_PARAM,
    O_WIDTH_IN,
    RELU,
    SILU,
)
from streamtrain.kernels.row_key import row_key

_ZERO, _ONE, _HALF = np.float32(0.0), np.float32(1.0), np.float32(0.5)
_GELU_A, _GELU_B = np.float32(0.7978845608028654), np.float32(0.044715)
_NORM_EPSILON = np.float32(1e-5)


@inline
def rows_of(flat, panel, m, r0, n):
    """Return rows r0 .. r0 + n - 1 of a panel, (16 n,).

    A view, not offsets: of an index that may be negative, as far as the
    compiler knows, no vector is made.
    """
    at = (panel * m + r0) * 16
    return flat[at : at + 16 * n]


@inline
def relu_back(act, delta):
    """Pass back through a relu, in place, by what it made."""
    for k in range(act.shape[0]):
        a = act[k]
        d = delta[k]
        delta[k] = d if a > _ZERO else _ZERO


@inline
def activate(kind, x, out):
    """Write f of every number: relu; gelu in its tanh form; silu; tanh.

    Gelu: Hendrycks and Gimpel 2016, section 2.
    """
    if kind == RELU:
        for k in range(x.shape[0]):
            v = x[k]
            out[k] = _ZERO if v < _ZERO else v
    elif kind == GELU:
        for k in range(x.shape[0]):
            v = x[k]
            t = tanh32(_GELU_A * (v + _GELU_B * v * v * v))
            out[k] = _HALF * v * (_ONE + t)
    elif kind == SILU:
        for k in range(x.shape[0]):
            v = x[k]
            out[k] = v * sigmoid32(v)
    else:
        for k in range(x.shape[0]):
            out[k] = tanh32(x[k])


@inline
def activate_back(kind, back, x, delta_out, delta_in):
    """Pass back through `activate`, by what it read."""
    # What is not written yet may be anything, so it is not even multiplied by 0.
    if back != B_ADD:
        delta_in[:] = _ZERO
    if kind == RELU:
        for k in range(x.shape[0]):
            d = delta_out[k]
            v = x[k]
            delta_in[k] += d if v > _ZERO else _ZERO
    elif kind == GELU:
        for k in range(x.shape[0]):
            v = x[k]
            t = tanh32(_GELU_A * (v + _GELU_B * v * v * v))
            inner = _GELU_A * (_ONE + np.float32(3.0) * _GELU_B * v * v)
            slope = _HALF * (_ONE + t) + _HALF * v * (_ONE - t * t) * inner
            delta_in[k] += delta_out[k] * slope
    elif kind == SILU:
        for k in range(x.shape[0]):
            v = x[k]
            s = sigmoid32(v)
            delta_in[k] += delta_out[k] * s * (_ONE + v * (_ONE - s))
    else:
        for k in range(x.shape[0]):
            t = tanh32(x[k])
            delta_in[k] += delta_out[k] * (_ONE - t * t)


@inline
def head_back(op, score, w, delta, r0, n):
    """Pass back the derivative by score 0 times the weights of a HEAD."""
    if op[O_BACK] == B_NONE:
        return
    m = delta.shape[1]
    flat = delta.reshape(-1)
    back = op[O_BACK]
    for p in range(op[O_BACK_FROM], op[O_N_IN]):
        to = rows_of(flat, op[O_IN] + p, m, r0, n)
        if back != B_ADD:
            to[:] = _ZERO
        for r in range(n):
            # 1 x 16: a sum of one term.
            weighted_sum(
                flat, (score * m + r0 + r) * 16, 0, w, op[O_PARAM] + 16 * p, 1, to, 16 * r, to,
                16 * r,
            )  # fmt: skip


@inline
def add_rows(out, x):
    """Add the numbers of some rows to those of others."""
    for k in range(x.shape[0]):
        out[k] += x[k]


@inline
def pass_back(back, delta_out, delta_in):
    """Pass a derivative back as it is."""
    if back == B_ADD:
        add_rows(delta_in, delta_out)
    elif back != B_NONE:
        for k in range(delta_in.shape[0]):
            delta_in[k] = delta_out[k]


@inline_exact
def _mixed(h):
    # The finaliser of MurmurHash3 (Appleby), 32 bits.
    h ^= h >> np.uint32(16)
    h = np.uint32(h * np.uint32(0x85EBCA6B))
    h ^= h >> np.uint32(13)
    h = np.uint32(h * np.uint32(0xC2B2AE35))
    return h ^ (h >> np.uint32(16))


@inline
def drop_rows(o, op, net, key, position, values, r0, n):
    """Multiply each number by 0 or 1 / (1 - rate), by the row, the operation and the seed."""
    rate = net.reals[o]
    limit = np.uint32(np.float64(rate) * 4294967296.0)
    # Rounded from float64: as a quotient of float32 it would become a division of each number.
    factor = np.float32(1.0 / (1.0 - np.float64(rate)))
    salt = row_key(key, np.uint64(o))
    for r in range(n):
        row = row_key(salt, np.uint64(position + r))
        low = np.uint32(row & np.uint64(0xFFFFFFFF))
        for p in range(op[O_N_IN]):
            for l in range(16):
                h = _mixed(np.uint32(low + np.uint32(16 * p + l) * np.uint32(0x9E3779B9)))
                v = values[op[O_IN] + p, r0 + r, l]
                values[op[O_IN] + p, r0 + r, l] = _ZERO if h < limit else v * factor


@inline
def cross_rows(op, p, flat, m, r0, n):
    """Write x0 u + x for panel p of a CROSS."""
    x = rows_of(flat, op[O_IN] + p, m, r0, n)
    x0 = rows_of(flat, op[O_MORE] + p, m, r0, n)
    u = rows_of(flat, op[O_EXTRA] + p, m, r0, n)
    out = rows_of(flat, op[O_OUT] + p, m, r0, n)
    for k in range(x.shape[0]):
        out[k] = x0[k] * u[k] + x[k]


@inline
def cross_back(op, p, flat_act, flat, m, r0, n):
    """Write the derivative by u, add that by x0, and write or add that by x."""
    x0 = rows_of(flat_act, op[O_MORE] + p, m, r0, n)
    u = rows_of(flat_act, op[O_EXTRA] + p, m, r0, n)
    d = rows_of(flat, op[O_OUT] + p, m, r0, n)
    d_u = rows_of(flat, op[O_EXTRA] + p, m, r0, n)
    d_x0 = rows_of(flat, op[O_MORE] + p, m, r0, n)
    for k in range(d.shape[0]):
        d_u[k] = d[k] * x0[k]
    for k in range(d.shape[0]):
        # Zeroed before, or written by a later layer.
        d_x0[k] += d[k] * u[k]
    pass_back(op[O_BACK], d, rows_of(flat, op[O_IN] + p, m, r0, n))


@inline
def row_moments(op, act, r):
    """Return the mean and 1 / deviation of a row's numbers."""
    width = op[O_WIDTH_IN]
    total = _ZERO
    for j in range(width):
        total += act[op[O_IN] + (j >> 4), r, j & 15]
    mean = total / np.float32(width)
    squares = _ZERO
    for j in range(width):
        d = act[op[O_IN] + (j >> 4), r, j & 15] - mean
        squares += d * d
    variance = squares / np.float32(width)
    return mean, _ONE / np.float32(math.sqrt(variance + _NORM_EPSILON))


@inline
def norm_rows(op, w, act, r0, n):
    """Write (x - mean) / deviation * gain + offset (Ba et al. 2016)."""
    width = op[O_WIDTH_IN]
    offset = op[O_PARAM] + 16 * op[O_N_IN]
    for r in range(r0, r0 + n):
        mean, inverse = row_moments(op, act, r)
        for j in range(width):
            p, l = j >> 4, j & 15
            z = (act[op[O_IN] + p, r, l] - mean) * inverse
            act[op[O_OUT] + p, r, l] = z * w[op[O_PARAM] + j] + w[offset + j]


@inline
def norm_back(op, w, act, delta, r0, n):
    """Pass back through `norm_rows`."""
    width = op[O_WIDTH_IN]
    share = _ONE / np.float32(width)
    for r in range(r0, r0 + n):
        mean, inverse = row_moments(op, act, r)
        total = _ZERO
        along = _ZERO
        for j in range(width):
            p, l = j >> 4, j & 15
            g = delta[op[O_OUT] + p, r, l] * w[op[O_PARAM] + j]
            z = (act[op[O_IN] + p, r, l] - mean) * inverse
            total += g
            along += g * z
        for j in range(width):
            p, l = j >> 4, j & 15
            g = delta[op[O_OUT] + p, r, l] * w[op[O_PARAM] + j]
            z = (act[op[O_IN] + p, r, l] - mean) * inverse
            d = inverse * (g - share * (total + z * along))
            if op[O_BACK] == B_ADD:
                delta[op[O_IN] + p, r, l] += d
            else:
                delta[op[O_IN] + p, r, l] = d


@inline
def pairs_rows(op, act, r0, n):
    """Write 1/2 ((sum_i v_i)^2 - sum_i v_i^2) of vectors of K numbers (Rendle 2010, eq. 5).

    K divides 16, or 16 divides K. The sums of the vectors stand in the second
    half of the panels written, in every lane that belongs to them.
    """
    k = op[O_FLAG]
    half = op[O_N_OUT] // 2
    m = act.shape[1]
    flat = act.reshape(-1)
    for t in range(op[O_N_OUT]):
        rows_of(flat, op[O_OUT] + t, m, r0, n)[:] = _ZERO
    for p in range(op[O_N_IN]):
        x = rows_of(flat, op[O_IN] + p, m, r0, n)
        totals = rows_of(flat, op[O_OUT] + p % half, m, r0, n)
        squared = rows_of(flat, op[O_OUT] + half + p % half, m, r0, n)
        for j in range(x.shape[0]):
            totals[j] += x[j]
        for j in range(x.shape[0]):
            squared[j] += x[j] * x[j]
    for t in range(half):
        total = act[op[O_OUT] + t]
        squares = act[op[O_OUT] + half + t]
        for r in range(r0, r0 + n):
            for c in range(min(k, 16)):
                s = _ZERO
                q = _ZERO
                for l in range(c, 16, k):
                    s += total[r, l]
                    q += squares[r, l]
                    total[r, l] = _ZERO
                for l in range(c, 16, k):
                    squares[r, l] = s
                total[r, c] = _HALF * (s * s - q)


@inline
def pairs_back(op, act, delta, r0, n):
    """Pass back by v_i the derivative by the result times (sum_j v_j - v_i)."""
    k = op[O_FLAG]
    half = op[O_N_OUT] // 2
    for t in range(half):
        d = delta[op[O_OUT] + t]
        spread = delta[op[O_OUT] + half + t]
        for r in range(r0, r0 + n):
            for l in range(16):
                spread[r, l] = d[r, l % min(k, 16)]
    m = act.shape[1]
    flat = act.reshape(-1)
    flat_delta = delta.reshape(-1)
    for p in range(op[O_N_IN]):
        x = rows_of(flat, op[O_IN] + p, m, r0, n)
        to = rows_of(flat_delta, op[O_IN] + p, m, r0, n)
        total = rows_of(flat, op[O_OUT] + half + p % half, m, r0, n)
        d = rows_of(flat_delta, op[O_OUT] + half + p % half, m, r0, n)
        if op[O_BACK] != B_ADD:
            to[:] = _ZERO
        for j in range(x.shape[0]):
            to[j] += d[j] * (total[j] - x[j])
    # Lanes that hold no vector are 0, but the sum of the others less 0 is not.
    p = op[O_IN] + op[O_N_IN] - 1
    for l in range(op[O_WIDTH_IN] - 16 * (op[O_N_IN] - 1), 16):
        for r in range(r0, r0 + n):
            delta[p, r, l] = _ZERO
