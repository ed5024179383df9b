"""Rows of a batch of a linear model: their scores, losses and d loss / d score.

Letters as in kernels/linear.py; n rows make a tile. A tile's scores come first, in
a loop of loads and sums alone: rows then overlap in the processor, as they cannot
where each waits for the exponentials and logs of its loss.
"""

from __future__ import annotations

import math

import numpy as np

from streamtrain.kernels._jit import inline
from streamtrain.kernels.bags import G_ROW
from streamtrain.kernels.losses import (
    LOGISTIC,
    S_SMOOTHING,
    log_exposure,
    logistic_parts,
    loss_and_delta,
    losses_of_targets,
    row_weight,
)
from streamtrain.kernels.updates import catch_up


@inline
def _score_row(numeric, codes, i, w, mean, scale, first_row, stamps, now, scores):
    """Write the C scores of row i, as `score_rows` does."""
    n_scores = scores.shape[0]
    n_numeric = mean.shape[0]
    n_fields = first_row.shape[0]
    lazy = stamps.shape[0] > 0
    if n_scores == 1:
        total = w[0]
        for j in range(n_numeric):
            z = (numeric[i, j] - mean[j]) * scale[j]
            # Missing is NaN: it adds the column's own weight instead.
            total += w[1 + n_numeric + j] if z != z else z * w[1 + j]
        if lazy:
            for f in range(n_fields):
                r = first_row[f] + codes[i, f]
                k = r - 1 - 2 * n_numeric
                total += catch_up(w[r], stamps[k, 0], stamps[k, 1], now[0], now[1])
        else:
            for f in range(n_fields):
                total += w[first_row[f] + codes[i, f]]
        scores[0] = total
        return
    for c in range(n_scores):
        scores[c] = w[c]
    for j in range(n_numeric):
        z = (numeric[i, j] - mean[j]) * scale[j]
        r = 1 + j
        if z != z:
            z = np.float32(1.0)
            r = 1 + n_numeric + j
        for c in range(n_scores):
            scores[c] += z * w[r * n_scores + c]
    for f in range(n_fields):
        r = first_row[f] + codes[i, f]
        if lazy:
            k = r - 1 - 2 * n_numeric
            for c in range(n_scores):
                scores[c] += catch_up(
                    w[r * n_scores + c], stamps[k, 0], stamps[k, 1], now[0], now[1]
                )
        else:
            for c in range(n_scores):
                scores[c] += w[r * n_scores + c]


@inline
def score_rows(numeric, codes, start, w, mean, scale, first_row, stamps, now, out):
    """Write the scores of rows `start` to `start + n`, where `out` has n rows.

    Sums run over columns in order.

    Parameters
    ----------
    numeric : (N, D) float32, C order, read; NaN is missing
    codes : (N, F) int32, C order, read
    start : int
    w : (P,) float32, read
    mean, scale : (D,) float32, read
    first_row : (F,) int64, read
    stamps : (R - 1 - 2 D, 2) float64, read; empty where nothing shrinks
    now : (2,) float64, read
        The shrinkage to catch up with, where something shrinks.
    out : (n, C) float32, overwritten
    """
    n_numeric = mean.shape[0]
    if out.shape[1] > 1 or stamps.shape[0] > 0:
        for i in range(out.shape[0]):
            _score_row(
                numeric, codes, start + i, w, mean, scale, first_row, stamps, now, out[i]
            )  # fmt: skip
        return
    # The same sums as in `_score_row`, but nothing to decide and nothing called.
    for i in range(out.shape[0]):
        row = start + i
        total = w[0]
        for j in range(n_numeric):
            z = (numeric[row, j] - mean[j]) * scale[j]
            total += w[1 + n_numeric + j] if z != z else z * w[1 + j]
        for f in range(first_row.shape[0]):
            # Unsigned: a negative index would have to be looked for.
            total += w[np.uint64(first_row[f] + codes[row, f])]
        out[i, 0] = total


@inline
def add_entries(bags, start, w, bag_tables, stamps, n_dense_rows, now, out):
    """Add each entry's value times its weights to the scores of rows `start` and on, (n, C)."""
    n_scores = out.shape[1]
    lazy = stamps.shape[0] > 0
    for v in range(bag_tables.tables.shape[0]):
        row0 = bag_tables.tables[v, G_ROW]
        for i in range(out.shape[0]):
            first = np.int64(bags.ranges[start + i, v, 0])
            last = np.int64(bags.ranges[start + i, v, 1])
            codes = bags.codes[first:last]
            values = bags.values[first:last]
            if n_scores == 1 and not lazy:
                total = np.float32(0.0)
                for e in range(codes.shape[0]):
                    total += w[np.uint64(row0 + codes[e])] * values[e]
                out[i, 0] += total
                continue
            for e in range(codes.shape[0]):
                r = row0 + codes[e]
                k = r - n_dense_rows
                for c in range(n_scores):
                    weight = w[r * n_scores + c]
                    if lazy:
                        weight = catch_up(weight, stamps[k, 0], stamps[k, 1], now[0], now[1])
                    out[i, c] += weight * values[e]


@inline
def _logistic_rows(start, target, target_mean, target_scale, smoothing, per_row, delta):
    """Return the sum of the logistic losses of a tile's rows that all count alike.

    `delta` (n, 1) holds the scores, and then what `loss_and_delta` gives, times `per_row`.
    """
    half = 0.5 * np.float64(smoothing)
    rest_sum = 0.0
    # sum_i log(1 + e_i) is the log of one product, here less 1, so that small e_i
    # keep their digits. A factor is at most 2: 256 rows are far from overflow.
    product = 0.0
    for i in range(delta.shape[0]):
        y = (target[start + i] - target_mean) * target_scale
        slope, e, rest = logistic_parts(delta[i, 0], y, half)
        delta[i, 0] = slope * per_row
        rest_sum += rest
        product = product * (1.0 + e) + e
    return rest_sum + math.log1p(product)


@inline
def rows_phase(
    tile, n_tile, start, n_rows, numeric, codes, bags, target, weight, exposure, w, mean, scale,
    first_row, bag_tables, stamps, now, loss, shapes, class_weights, learnt, shares, weight_scale,
    scores, delta, tile_sums, progressive,
):  # fmt: skip
    """Score the rows of one tile; write their delta, and the tile's sums of loss and weight.

    Parameters
    ----------
    tile, n_tile : int
        Number and rows of a tile, at most 256 rows.
    start, n_rows : int
        First row of the batch, and its rows.
    scores : (C,) float32, scratch
    delta : (B, C) float32, overwritten in the tile's rows
    tile_sums : (T, 2) float64, overwritten in the tile's row

    Others as in `train_linear`.
    """
    begin = tile * n_tile
    end = min(begin + n_tile, n_rows)
    n_scores = scores.shape[0]
    per_row = np.float32(1.0 / n_rows)
    # A row's scores lie where its delta will.
    score_rows(
        numeric, codes, start + begin, w, mean, scale, first_row, stamps, now, delta[begin:end]
    )  # fmt: skip
    add_entries(
        bags, start + begin, w, bag_tables, stamps, 1 + 2 * mean.shape[0], now, delta[begin:end]
    )  # fmt: skip
    if progressive.shape[0] > 0:
        for i in range(begin, end):
            for c in range(n_scores):
                progressive[start + i, c] = delta[i, c]
    several = shares.shape[0] > 1
    shape = shapes[0]
    target_mean = learnt[0, 0]
    target_scale = learnt[1, 0]
    uniform = weight.shape[0] == 0 and class_weights.shape[0] == 0
    if loss == LOGISTIC and uniform and not several:
        tile_sums[tile, 0] = _logistic_rows(
            start + begin, target, target_mean, target_scale, shape[S_SMOOTHING], per_row,
            delta[begin:end],
        )  # fmt: skip
        tile_sums[tile, 1] = np.float64(end - begin)
        return
    loss_sum = 0.0
    weight_sum = 0.0
    for i in range(begin, end):
        row = start + i
        for c in range(n_scores):
            scores[c] = delta[i, c]
        if several:
            y = np.float32(0.0)
            row_loss = losses_of_targets(
                loss, scores, target, row, learnt, shapes, shares, delta[i]
            )
        else:
            y = target[row]
            row_loss = loss_and_delta(
                loss, scores, (y - target_mean) * target_scale, log_exposure(exposure, row), shape,
                delta[i],
            )  # fmt: skip
        counts = row_weight(weight, class_weights, row, y, weight_scale)
        loss_sum += np.float64(counts) * row_loss
        weight_sum += np.float64(counts)
        factor = counts * per_row
        for c in range(n_scores):
            delta[i, c] *= factor
    tile_sums[tile, 0] = loss_sum
    tile_sums[tile, 1] = weight_sum
