"""Linear models of numeric columns and categories: many steps of training in one call.

Letters: B rows of a batch, D numeric features, F categorical fields, V fields of
variable length (kernels/bags.py), C scores of a row, M targets of a row, R rows of
parameters, P = R C.
Rows of parameters, each C wide, are

    0                  bias
    1 .. D             numeric features, standardised
    D+1 .. 2D          added where a numeric feature is missing
    2D+1 ..            one for every code of field 0, of field 1, ..., of bag 0, ...

A step has two phases. Rows: tiles of rows write d loss / d score. Parameters: each
task owns the numeric rows, one field, or a part of a bag's table, sums their gradient
over the whole batch in row order, and updates at once; but where the norm of the whole gradient
is bounded, all gradients come first, and updates in a third phase. Tiles and tasks
depend on B, D and F alone, and no two write the same place: the same bits for any
number of threads.
"""

from __future__ import annotations

import math

import numpy as np

from streamtrain.kernels._jit import fast_kernel, inline
from streamtrain.kernels.bags import G_ROW, Q_BAG, part_gradient, sort_entries
from streamtrain.kernels.clipping import clip_factor, clip_values, scale_gradient, sum_of_squares
from streamtrain.kernels.linear_rows import add_entries, rows_phase, score_rows
from streamtrain.kernels.linear_tables import field_gradient, update_field
from streamtrain.kernels.team import barrier, next_task
from streamtrain.kernels.updates import (
    H_CLIP_NORM,
    H_CLIP_VALUE,
    H_L1,
    H_L2,
    H_TABLE_RATE,
    adam_corrections,
    advance_shrinkage,
    catch_up,
    decay_range,
    threshold_range,
    update_free_range,
    update_range,
)


def tile_rows(batch_size: int) -> int:
    """Return the rows of a tile: a function of the batch size alone."""
    return max(16, min(256, batch_size // 16))


@inline
def _numeric_gradient(start, n_rows, numeric, delta, mean, scale, hyper, gradient):
    """Sum and clip the gradient of the bias, the numeric weights and those of missing values."""
    n_scores = delta.shape[1]
    n_numeric = mean.shape[0]
    n = (1 + 2 * n_numeric) * n_scores
    for k in range(n):
        gradient[k] = np.float32(0.0)
    for i in range(n_rows):
        row = start + i
        if n_scores == 1:
            d = delta[i, 0]
            gradient[0] += d
            for j in range(n_numeric):
                z = (numeric[row, j] - mean[j]) * scale[j]
                missing = z != z
                gradient[1 + j] += np.float32(0.0) if missing else z * d
                gradient[1 + n_numeric + j] += d if missing else np.float32(0.0)
        else:
            for c in range(n_scores):
                gradient[c] += delta[i, c]
            for j in range(n_numeric):
                z = (numeric[row, j] - mean[j]) * scale[j]
                r = 1 + j
                if z != z:
                    z = np.float32(1.0)
                    r = 1 + n_numeric + j
                for c in range(n_scores):
                    gradient[r * n_scores + c] += z * delta[i, c]
    clip_values(gradient, n, np.float32(hyper[H_CLIP_VALUE]))


@inline
def _update_numeric(
    n_scores, n_numeric, w, first, second, gradient, rate, hyper, optimizer, correct1, correct2,
    keep, threshold, factor,
):  # fmt: skip
    """Move the bias, the numeric weights and those of missing values."""
    n = (1 + 2 * n_numeric) * n_scores
    scale_gradient(gradient, n, factor)
    # The bias is never shrunk.
    update_free_range(
        optimizer, w, first, second, gradient, 0, n_scores, rate, hyper, correct1, correct2
    )
    rest = n - n_scores
    decay_range(w, n_scores, rest, keep)
    update_range(
        optimizer, w, first, second, gradient[n_scores:n], n_scores, rest, rate, hyper, correct1,
        correct2,
    )  # fmt: skip
    threshold_range(w, n_scores, rest, threshold)


@inline
def _gradient_of(
    task, start, n_rows, n_field_rows, n_tiles, numeric, codes, delta, mean, scale, first_row,
    bag_tables, bag_work, bag_slots, hyper, sums, slots, unique, places, counts, gradient,
):  # fmt: skip
    """Write the gradient of a task; return its length.

    Task 0 is the numeric rows, 1 + f is field f, 1 + F + q is part q of the bags.
    """
    n_scores = delta.shape[1]
    n_fields = first_row.shape[0]
    if task == 0:
        _numeric_gradient(start, n_rows, numeric, delta, mean, scale, hyper, gradient)
        return (1 + 2 * mean.shape[0]) * n_scores
    if task > n_fields:
        counts[task] = part_gradient(
            task - 1 - n_fields, n_tiles, delta, 0, n_scores, bag_tables, bag_work, bag_slots,
            unique, gradient, -1, gradient,
        )  # fmt: skip
        clip_values(gradient, counts[task] * n_scores, np.float32(hyper[H_CLIP_VALUE]))
        return counts[task] * n_scores
    last = task == n_fields
    cardinality = (n_field_rows if last else first_row[task]) - first_row[task - 1]
    counts[task] = field_gradient(
        task - 1, start, n_rows, codes, delta, cardinality, hyper, sums, slots, unique, places,
        gradient,
    )  # fmt: skip
    return counts[task] * n_scores


@fast_kernel
def train_linear(
    thread, n_threads, words, numeric, codes, bags, ends, target, weight, exposure, start,
    batch_size, last_rows, n_steps, w, first, second, stamps, shrinkage, mean, scale, first_row,
    n_field_rows, bag_tables, loss, shapes, class_weights, optimizer, rates, hyper, step, learnt,
    shares, weight_scale, n_tile, scores, delta, tile_sums, bag_work, sums,
    slots, unique, places, counts, squares, gradient, gathered, step_sums, progressive,
):  # fmt: skip
    """Take `n_steps` steps over consecutive batches; return how many were taken.

    It stops before the update of a batch whose loss is not finite, so that the
    parameters are those from which the loss diverged.

    Parameters
    ----------
    thread, n_threads, words
        Of the team; every thread makes this call.
    numeric : (N, D) float32, C order, read; NaN is missing
    codes : (N, F) int32, C order, read; code k of field f has row first_row[f] + k
    bags : Bags of N rows, read
    ends : (N + 1,) int64, read
        `Bags.ends`, or empty where there are no bags.
    target : (N M,) float32, read
        Of each row its M targets; M = C, or 1. Class index for logistic, hinge and softmax.
    weight : (N,) float32 or empty, read
    exposure : (N,) float32 or empty, read
        Positive; the mean of a log link is multiplied by it.
    start : int
        Row of the first batch; batch s has rows start + s B to start + (s + 1) B.
    batch_size : int
        B.
    last_rows : int
        Rows of the last of the batches, at most B.
    n_steps : int
    w : (P,) float32, updated
    first, second : float32, updated
        State of the optimizer (`updates.state_sizes`).
    stamps : (R - 1 - 2 D, 2) float64 or empty, updated
        Shrinkage (L, Q) at which each table row was last touched.
    shrinkage : (2,) float64, updated
        (L, Q) after the last step (`advance_shrinkage`).
    mean, scale : (D,) float32, read
    first_row : (F,) int64, read
    n_field_rows : int
        Rows of parameters before those of bags.
    bag_tables : BagTables, read
    loss : int
        Number in LOSSES.
    shapes : (M, N_SHAPE) float32, read
        Settings of the loss, for each output.
    class_weights : (C,) float32 or empty, read
        Multiplied into the weights of rows, by the class of their target.
    optimizer : int
        Number in OPTIMIZERS.
    rates : (n_steps,) float64, read
    hyper : (N_HYPER,) float64, read
    step : int
        Steps taken before this call.
    learnt : (2, M) float32, read
        Mean and scale of each output: a target y is learnt as (y - mean) scale.
    shares : (M,) float64, read
        What the loss of each output counts in `step_sums`, where M > 1.
    weight_scale : float32
        Weights are multiplied by it.
    n_tile : int
        Rows of a tile.
    scores : (n_threads, C) float32, scratch
    delta : (B, C) float32, scratch
    tile_sums : (T, 2) float64, scratch
    bag_work : BagWork, scratch
    sums : (n_threads, `n_sums`) float32, scratch, all 0
    slots : (n_threads, S) int32, scratch, all -1
    unique : (G, U) int32, scratch
        G is n_threads; with H_CLIP_NORM the 1 + F + Q tasks. U is the most codes of
        a task: B, or what a part of a bag may have.
    places : (n_threads, B) int32, scratch
    counts : (1 + F + Q,) int64, scratch
        Codes of each task in the batch.
    squares : (1 + F + Q,) float64, scratch
        Sum of squares of each task's gradient.
    gradient : (G, max(U, 1 + 2 D) C) float32, scratch
    gathered : (n_threads, 3, A C) float32, scratch
        A is how many codes move at once, at least 1.
    step_sums : (n_steps, 2) float64, overwritten
        Weighted sum of losses, and sum of weights, of each batch before its update.
    progressive : (N, C) float32 or (0, C), overwritten
        Scores of each row before the update by its own batch, if kept.
    """
    n_scores = delta.shape[1]
    n_numeric = mean.shape[0]
    n_dense_rows = 1 + 2 * n_numeric
    n_fields = first_row.shape[0]
    n_tasks = 1 + n_fields + bag_tables.parts.shape[0]
    has_bags = bag_tables.tables.shape[0] > 0
    at_once = gathered.shape[2] // n_scores
    max_norm = hyper[H_CLIP_NORM]
    factor = np.float32(1.0)
    log_factor = shrinkage[0]
    shift = shrinkage[1]
    before = np.empty(2, np.float64)
    after = np.empty(2, np.float64)
    taken = n_steps
    barrier(words, n_threads)
    for s in range(n_steps):
        n_rows = last_rows if s == n_steps - 1 else batch_size
        first_of_batch = start + s * batch_size
        before[0] = log_factor
        before[1] = shift
        n_tiles = (n_rows + n_tile - 1) // n_tile
        while True:
            tile = next_task(words, n_threads)
            if tile >= n_tiles:
                break
            rows_phase(
                tile, n_tile, first_of_batch, n_rows, numeric, codes, bags, target, weight,
                exposure, w, mean, scale, first_row, bag_tables, stamps, before, loss, shapes,
                class_weights, learnt, shares, weight_scale, scores[thread], delta, tile_sums,
                progressive,
            )  # fmt: skip
            if has_bags:
                begin = tile * n_tile
                sort_entries(
                    tile, first_of_batch, begin, min(begin + n_tile, n_rows), bags, ends,
                    bag_tables, bag_work,
                )  # fmt: skip
        barrier(words, n_threads)
        # Every thread adds the tiles in the same order and so decides alike.
        loss_sum = 0.0
        weight_sum = 0.0
        for tile in range(n_tiles):
            loss_sum += tile_sums[tile, 0]
            weight_sum += tile_sums[tile, 1]
        if thread == 0:
            step_sums[s, 0] = loss_sum
            step_sums[s, 1] = weight_sum
        if not math.isfinite(loss_sum):
            taken = s
            break
        rate = rates[s]
        row_rate = rate * hyper[H_TABLE_RATE]
        log_factor, shift = advance_shrinkage(log_factor, shift, row_rate, hyper[H_L1], hyper[H_L2])
        after[0] = log_factor
        after[1] = shift
        correct1, correct2 = adam_corrections(optimizer, hyper, step + s + 1)
        if max_norm > 0.0:
            while True:
                task = next_task(words, n_threads)
                if task >= n_tasks:
                    break
                n = _gradient_of(
                    task, first_of_batch, n_rows, n_field_rows, n_tiles, numeric, codes, delta,
                    mean, scale, first_row, bag_tables, bag_work, bag_work.slots[thread], hyper,
                    sums[thread], slots[thread], unique[task], places[thread], counts,
                    gradient[task],
                )  # fmt: skip
                squares[task] = sum_of_squares(gradient[task], n)
            barrier(words, n_threads)
            total = 0.0
            for task in range(n_tasks):
                total += squares[task]
            factor = clip_factor(total, max_norm)
        while True:
            task = next_task(words, n_threads)
            if task >= n_tasks:
                break
            # Gradients that wait for their norm lie by task, others are the thread's own.
            g = task if max_norm > 0.0 else thread
            if max_norm <= 0.0:
                _gradient_of(
                    task, first_of_batch, n_rows, n_field_rows, n_tiles, numeric, codes, delta,
                    mean, scale, first_row, bag_tables, bag_work, bag_work.slots[thread], hyper,
                    sums[thread], slots[thread], unique[g], places[thread], counts, gradient[g],
                )  # fmt: skip
            if task == 0:
                _update_numeric(
                    n_scores, n_numeric, w, first, second, gradient[g], np.float32(rate), hyper,
                    optimizer, correct1, correct2, max(1.0 - rate * hyper[H_L2], 0.0),
                    rate * hyper[H_L1], factor,
                )  # fmt: skip
                continue
            if task <= n_fields:
                base = first_row[task - 1]
            else:
                bag = bag_tables.parts[task - 1 - n_fields, Q_BAG]
                base = bag_tables.tables[bag, G_ROW]
            for u in range(0, counts[task], at_once):
                update_field(
                    base, min(at_once, counts[task] - u), n_scores, w, first, second,
                    n_dense_rows, stamps, before, after, unique[g, u:],
                    gradient[g, u * n_scores :], gathered[thread], np.float32(row_rate), hyper,
                    optimizer, correct1, correct2, max(1.0 - row_rate * hyper[H_L2], 0.0),
                    row_rate * hyper[H_L1], factor,
                )  # fmt: skip
        barrier(words, n_threads)
    if thread == 0:
        shrinkage[0] = log_factor
        shrinkage[1] = shift
    return taken


@fast_kernel
def score_linear(
    thread, n_threads, words, numeric, codes, bags, w, mean, scale, first_row, bag_tables, n_tile,
    out,
):  # fmt: skip
    """Write the scores of rows, in tiles.

    Parameters
    ----------
    thread, n_threads, words
        Of the team.
    numeric : (N, D) float32, C order, read
    codes : (N, F) int32, C order, read
    bags : Bags of N rows, read
    w : (P,) float32, read
        With all shrinkage caught up (`settle_rows`).
    mean, scale : (D,) float32, read
    first_row : (F,) int64, read
    bag_tables : BagTables, read
    n_tile : int
    out : (N, C) float32, overwritten
    """
    n_rows = out.shape[0]
    no_stamps = np.empty((0, 2), np.float64)
    now = np.empty(2, np.float64)
    barrier(words, n_threads)
    n_tiles = (n_rows + n_tile - 1) // n_tile
    while True:
        tile = next_task(words, n_threads)
        if tile >= n_tiles:
            break
        begin = tile * n_tile
        end = min(begin + n_tile, n_rows)
        score_rows(
            numeric, codes, begin, w, mean, scale, first_row, no_stamps, now, out[begin:end]
        )  # fmt: skip
        add_entries(
            bags, begin, w, bag_tables, no_stamps, 1 + 2 * mean.shape[0], now, out[begin:end]
        )  # fmt: skip


@fast_kernel
def settle_rows(w, n_scores, n_dense_rows, stamps, log_now, threshold_now):
    """Catch up the shrinkage of every table row, in place.

    Parameters
    ----------
    w : (P,) float32, updated
    n_scores, n_dense_rows : int
        C, and the rows before the tables.
    stamps : (R - n_dense_rows, 2) float64, read
    log_now, threshold_now : float
    """
    for k in range(stamps.shape[0]):
        at = (n_dense_rows + k) * n_scores
        for c in range(n_scores):
            w[at + c] = catch_up(w[at + c], stamps[k, 0], stamps[k, 1], log_now, threshold_now)
