"""Rows to the first panels of a network: numeric encodings and lookups, forward and back."""

from __future__ import annotations

import math

import numpy as np

from streamtrain.kernels._jit import inline
from streamtrain.kernels.blocks import FARTHEST, copy_lanes, standardise_lanes
from streamtrain.kernels.elementary import sin_turns
from streamtrain.kernels.network_table import (
    C_KIND,
    C_KNOT,
    C_LANE,
    C_MISSING,
    C_N,
    F_DELTA,
    F_FIRST,
    F_LANE,
    F_LINEAR,
    F_MEAN,
    F_OWN,
    F_PANEL,
    F_ROW,
    F_WIDTH,
    O_FLAG,
    O_IN,
    O_OUT,
    O_PARAM,
    O_WIDTH_IN,
    PIECES,
    QUANTILE,
    ROBUST,
)
from streamtrain.kernels.updates import catch_up_row

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
# Its inverse is far from what float32 cannot hold.
_LEAST = np.float32(1e-30)
_THIRD = np.float32(1.0 / 3.0)
_QUARTER = np.float32(0.25)
_FAR = np.float32(1e6)
_PIECE_LOW, _PIECE_HIGH = np.float32(-1.0), np.float32(2.0)


@inline
def encode_rows(op, net, numeric, first, r0, n, act):
    """Write the encodings of rows first .. first + n - 1 to rows r0 .. of the panels from O_OUT.

    Missing is NaN: every lane of the column is 0 and its indicator, if it has
    one, is 1.
    """
    panel = op[O_OUT]
    n_columns = net.columns.shape[0]
    if net.plain == 1:
        values = numeric.reshape(-1)
        flat = act.reshape(-1)
        m = act.shape[1]
        for r in range(n):
            for j in range(0, n_columns, 16):
                standardise_lanes(
                    values, (first + r) * n_columns + j, min(16, n_columns - j), net.shift,
                    net.scale, j, flat, ((panel + (j >> 4)) * m + r0 + r) * 16,
                )  # fmt: skip
    else:
        for j in range(n_columns):
            _encode_column(j, net, numeric, first, r0, n, panel, act)
    for j in range(n_columns):
        lane = net.columns[j, C_MISSING]
        if lane >= 0:
            p = panel + (lane >> 4)
            for r in range(n):
                x = numeric[first + r, j]
                act[p, r0 + r, lane & 15] = _ZERO if x == x else _ONE


@inline
def _encode_column(j, net, numeric, first, r0, n, panel, act):
    kind = net.columns[j, C_KIND]
    lane = net.columns[j, C_LANE]
    k0 = net.columns[j, C_KNOT]
    m = net.columns[j, C_N]
    shift = net.shift[j]
    scale = net.scale[j]
    if kind == PIECES:
        for t in range(m):
            low = net.knots[k0 + t]
            inverse = net.knots[k0 + m + t]
            floor = _PIECE_LOW if t == 0 else _ZERO
            top = _PIECE_HIGH if t == m - 1 else _ONE
            p = panel + ((lane + t) >> 4)
            for r in range(n):
                e = (numeric[first + r, j] - low) * inverse
                e = floor if e < floor else e
                e = top if e > top else e
                act[p, r0 + r, (lane + t) & 15] = e if e == e else _ZERO
        return
    p = panel + (lane >> 4)
    for r in range(n):
        x = numeric[first + r, j]
        if kind == QUANTILE:
            z = _interpolate(net.knots, k0, m, x)
        else:
            z = (x - shift) * scale
            z = FARTHEST if z > FARTHEST else z
            z = -FARTHEST if z < -FARTHEST else z
            if kind == ROBUST:
                # RealMLP's smooth clip (Holzmueller et al. 2024): within (-3, 3).
                third = z * _THIRD
                squashed = z / np.float32(math.sqrt(_ONE + third * third))
                # Beyond it the square leaves float32.
                z = np.float32(math.copysign(3.0, z)) if abs(z) > _FAR else squashed
        act[p, r0 + r, lane & 15] = z if z == z else _ZERO


@inline
def _interpolate(knots, k0, m, x):
    """Return y at x of the curve through (knots[k0 + i], knots[k0 + m + i]), flat outside."""
    if x != x:
        return x
    if x <= knots[k0]:
        return knots[k0 + m]
    if x >= knots[k0 + m - 1]:
        return knots[k0 + 2 * m - 1]
    low = 0
    high = m - 1
    while high - low > 1:
        middle = (low + high) >> 1
        if knots[k0 + middle] <= x:
            low = middle
        else:
            high = middle
    x0 = knots[k0 + low]
    y0 = knots[k0 + m + low]
    part = (x - x0) / (knots[k0 + high] - x0)
    return y0 + part * (knots[k0 + m + high] - y0)


@inline
def periodic_rows(op, w, r0, n, act):
    """Write sin and cos of 2 pi c x: lane x of the input, k frequencies c a lane.

    Input i has 2 k lanes from 2 k i: first the sines. Source: Gorishniy et al.
    2022, "On embeddings for numerical features in tabular deep learning", eq. 2.
    """
    k = op[O_FLAG]
    for i in range(op[O_WIDTH_IN]):
        source = op[O_IN] + (i >> 4)
        for c in range(k):
            frequency = w[op[O_PARAM] + i * k + c]
            lane = 2 * k * i + c
            p, l = op[O_OUT] + (lane >> 4), lane & 15
            p2, l2 = op[O_OUT] + ((lane + k) >> 4), (lane + k) & 15
            for r in range(r0, r0 + n):
                t = frequency * act[source, r, i & 15]
                act[p, r, l] = sin_turns(t)
                act[p2, r, l2] = sin_turns(t + _QUARTER)


@inline
def scale_rows(op, w, r0, n, act):
    """Write z_i v_i: lane i of the input times its trained vector of K numbers."""
    k = op[O_FLAG]
    for i in range(op[O_WIDTH_IN]):
        source = op[O_IN] + (i >> 4)
        for c in range(k):
            lane = k * i + c
            v = w[op[O_PARAM] + lane]
            p = op[O_OUT] + (lane >> 4)
            for r in range(r0, r0 + n):
                act[p, r, lane & 15] = act[source, r, i & 15] * v


@inline
def mean_factor(bags, row, v):
    """Return 1 / the sum of the magnitudes of the values of a bag, 0 where that is next to 0."""
    total = _ZERO
    for e in range(np.int64(bags.ranges[row, v, 0]), np.int64(bags.ranges[row, v, 1])):
        total += abs(bags.values[e])
    return _ONE / total if total > _LEAST else _ZERO


@inline
def pool_rows(net, w, stamps, now, codes, bags, first, r0, n, act):
    """Write the sums of the table rows of bags; add their linear weights to the scores.

    Where the entries of a bag act in pairs, add those too:
    sum_c (e_c^2 - sum_k x_k^2 v_kc^2) / 2, as a factorization machine has it
    (Rendle 2010, "Factorization Machines", lemma 3.1).
    """
    lazy = stamps.shape[0] > 0
    n_fields = codes.shape[1]
    flat = act.reshape(-1)
    m = act.shape[1]
    for v in range(net.fields.shape[0] - n_fields):
        field = net.fields[n_fields + v]
        width = field[F_WIDTH]
        n_linear = field[F_LINEAR]
        lane = field[F_LANE]
        panel = field[F_PANEL]
        k = width - n_linear
        caught_up = np.empty(width, np.float32)
        for r in range(n):
            for c in range(k):
                act[panel + ((lane + c) >> 4), r0 + r, (lane + c) & 15] = _ZERO
            squares = _ZERO
            for e in range(
                np.int64(bags.ranges[first + r, v, 0]), np.int64(bags.ranges[first + r, v, 1])
            ):
                code = np.int64(bags.codes[e])
                x = bags.values[e]
                at = field[F_FIRST] + code * width
                row = w[at : at + width]
                if lazy:
                    t = field[F_ROW] + code
                    catch_up_row(row, stamps[t, 0], stamps[t, 1], now[0], now[1], caught_up)
                    row = caught_up[:width]
                for c in range(n_linear):
                    act[net.score + (c >> 4), r0 + r, c & 15] += row[c] * x
                # Panel by panel: neighbours in a row are neighbours there.
                c = 0
                while c < k:
                    to = lane + c
                    n_here = min(16 - (to & 15), k - c)
                    begin = ((panel + (to >> 4)) * m + r0 + r) * 16 + (to & 15)
                    out = flat[begin : begin + n_here]
                    part = row[n_linear + c : n_linear + c + n_here]
                    for j in range(n_here):
                        value = part[j] * x
                        out[j] += value
                        squares += value * value
                    c += n_here
            if field[F_MEAN] == 1:
                factor = mean_factor(bags, first + r, v)
                for c in range(k):
                    act[panel + ((lane + c) >> 4), r0 + r, (lane + c) & 15] *= factor
            if field[F_OWN] == 1:
                total = _ZERO
                for c in range(k):
                    pooled = act[panel + ((lane + c) >> 4), r0 + r, (lane + c) & 15]
                    total += pooled * pooled
                act[net.score, r0 + r, 0] += np.float32(0.5) * (total - squares)


@inline
def lookup_rows(net, w, stamps, now, codes, first, r0, n, act):
    """Write the table rows of codes; add their linear weights to the scores."""
    lazy = stamps.shape[0] > 0
    flat = act.reshape(-1)
    m = act.shape[1]
    for f in range(codes.shape[1]):
        base = net.fields[f, F_FIRST]
        width = net.fields[f, F_WIDTH]
        n_linear = net.fields[f, F_LINEAR]
        lane = net.fields[f, F_LANE]
        panel = net.fields[f, F_PANEL]
        k = width - n_linear
        if lazy:
            caught_up = np.empty(width, np.float32)
            for r in range(n):
                code = codes[first + r, f]
                at = base + code * width
                t = net.fields[f, F_ROW] + code
                row = w[at : at + width]
                catch_up_row(row, stamps[t, 0], stamps[t, 1], now[0], now[1], caught_up)
                for c in range(width):
                    value = caught_up[c]
                    if c < n_linear:
                        act[net.score + (c >> 4), r0 + r, c & 15] += value
                    else:
                        to = lane + c - n_linear
                        act[panel + (to >> 4), r0 + r, to & 15] = value
            continue
        for r in range(n):
            at = base + codes[first + r, f] * width
            for c in range(n_linear):
                act[net.score + (c >> 4), r0 + r, c & 15] += w[at + c]
            at += n_linear
            if k == 16 and lane & 15 == 0:
                copy_lanes(w, at, flat, ((panel + (lane >> 4)) * m + r0 + r) * 16)
            else:
                for c in range(k):
                    to = lane + c
                    act[panel + (to >> 4), r0 + r, to & 15] = w[at + c]


@inline
def lookup_back(net, row_delta, bags, n_fields, row, first, r0, n, delta, act):
    """Collect the derivative by every number of a row's table rows, (B, widths).

    Row `first` of the batch is row `row` of `bags`. Of a bag they are those by the
    sums of its entries' rows. Where its entries act in pairs, each sum has a share
    in those too, and the derivative by the score follows.
    """
    flat = delta.reshape(-1)
    m = delta.shape[1]
    out = row_delta.reshape(-1)
    width = row_delta.shape[1]
    for f in range(net.fields.shape[0]):
        n_linear = net.fields[f, F_LINEAR]
        lane = net.fields[f, F_LANE]
        panel = net.fields[f, F_PANEL]
        k = net.fields[f, F_WIDTH] - n_linear
        at = net.fields[f, F_DELTA]
        for r in range(n):
            for c in range(n_linear):
                row_delta[first + r, at + c] = delta[net.score + (c >> 4), r0 + r, c & 15]
            if k == 16 and lane & 15 == 0:
                copy_lanes(
                    flat, ((panel + (lane >> 4)) * m + r0 + r) * 16, out,
                    (first + r) * width + at + n_linear,
                )  # fmt: skip
            else:
                for c in range(k):
                    to = lane + c
                    row_delta[first + r, at + n_linear + c] = delta[
                        panel + (to >> 4), r0 + r, to & 15
                    ]
        if net.fields[f, F_MEAN] == 1:
            for r in range(n):
                factor = mean_factor(bags, row + r, f - n_fields)
                for c in range(k):
                    row_delta[first + r, at + n_linear + c] *= factor
        if net.fields[f, F_OWN] == 1:
            for r in range(n):
                d = delta[net.score, r0 + r, 0]
                row_delta[first + r, at + n_linear + k] = d
                for c in range(k):
                    to = lane + c
                    row_delta[first + r, at + n_linear + c] += (
                        d * act[panel + (to >> 4), r0 + r, to & 15]
                    )
