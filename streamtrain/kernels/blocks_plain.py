"""The functions of blocks.py in plain Python, for NUMBA_DISABLE_JIT=1: nearly the same results."""

from __future__ import annotations

import numpy as np

from streamtrain.kernels.lanes import FARTHEST, LANES


def multiply_rows(
    a, a_at, a_panel, n_panels, n_last, b, b_at, init, init_at, init_step, c, c_at, relu
):  # fmt: skip
    """Do as blocks.py says."""
    rows = [init[init_at + r * init_step :][:LANES] for r in range(LANES)]
    total = np.array(rows, np.float32)
    for p in range(n_panels):
        n = n_last if p == n_panels - 1 else LANES
        at = a_at + p * a_panel
        left = a[at : at + LANES * LANES].reshape(LANES, LANES)[:, :n]
        at = b_at + p * LANES * LANES
        total += left @ b[at : at + n * LANES].reshape(n, LANES)
    if relu:
        total[total < 0] = 0
    c[c_at : c_at + LANES * LANES] = total.reshape(-1)


def multiply_columns(a, a_at, n, b, b_at, init, init_at, init_step, c, c_at):
    """Do as blocks.py says."""
    rows = [init[init_at + r * init_step :][:LANES] for r in range(LANES)]
    left = a[a_at : a_at + n * LANES].reshape(n, LANES)
    total = np.array(rows, np.float32)
    total += left.T @ b[b_at : b_at + n * LANES].reshape(n, LANES)
    c[c_at : c_at + LANES * LANES] = total.reshape(-1)


def weighted_sum(s, s_at, s_step, v, v_at, n, init, init_at, c, c_at):
    """Do as blocks.py says."""
    total = init[init_at : init_at + LANES].copy()
    for k in range(n):
        total += s[s_at + k * s_step] * v[v_at + k * LANES :][:LANES]
    c[c_at : c_at + LANES] = total


def dot_panels(a, a_at, a_panel, n_panels, b, b_at):
    """Do as blocks.py says."""
    total = np.zeros(LANES, np.float32)
    for p in range(n_panels):
        total += a[a_at + p * a_panel :][:LANES] * b[b_at + p * LANES :][:LANES]
    for half in (8, 4, 2, 1):
        total = total[:half] + total[half : 2 * half]
    return total[0]


def standardise_lanes(x, x_at, n, shift, scale, at, out, out_at):
    """Do as blocks.py says."""
    z = (x[x_at : x_at + n] - shift[at : at + n]) * scale[at : at + n]
    z = np.clip(z, -FARTHEST, FARTHEST)
    out[out_at : out_at + n] = np.where(np.isnan(z), 0, z)
    out[out_at + n : out_at + LANES] = 0


def copy_lanes(a, a_at, c, c_at):
    """Do as blocks.py says."""
    c[c_at : c_at + LANES] = a[a_at : a_at + LANES]


def transpose_block(a, a_at, c, c_at):
    """Do as blocks.py says."""
    block = a[a_at : a_at + LANES * LANES].reshape(LANES, LANES)
    c[c_at : c_at + LANES * LANES] = block.T.reshape(-1)


def float_of_bits(bits):
    """Do as blocks.py says."""
    return np.int32(bits).view(np.float32)


def bits_of_float(value):
    """Do as blocks.py says."""
    return np.float32(value).view(np.int32)
