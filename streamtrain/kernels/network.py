"""Networks: many steps of training in one call, and scores.

A step works through its batch in pieces of at most M rows. Rows: tiles of a
piece go through the network and back (network_rows.py). Parameters: tasks add
the piece's gradients and, after the last piece, update (network_parameters.py).
Gradients are chains of sums in row order, so neither M nor the tiles show in
the result, and memory for activations does not grow with the batch.
"""

from __future__ import annotations

import math

import numpy as np

from streamtrain.kernels._jit import fast_kernel, inline, inline_exact
from streamtrain.kernels.bags import sort_entries
from streamtrain.kernels.clipping import clip_factor
from streamtrain.kernels.elementary import exp32
from streamtrain.kernels.losses import (
    LOGISTIC,
    S_SMOOTHING,
    log_exposure,
    loss_and_delta,
    losses_of_targets,
    row_weight,
)
from streamtrain.kernels.network_parameters import (
    clip_task,
    dense_gradient,
    dense_update,
    scale_task,
    task_squares,
    transpose_weights,
)
from streamtrain.kernels.network_rows import backward_tile, forward_tile
from streamtrain.kernels.network_table import (
    AFFINE,
    F_CARDINALITY,
    F_FIRST,
    F_ROW,
    F_WIDTH,
    PART_TASK,
    T_KIND,
    T_OP,
    T_P0,
    T_Q0,
    TABLE_TASK,
)
from streamtrain.kernels.network_tables import bag_gradient, table_gradient, table_update
from streamtrain.kernels.team import barrier, cycles, next_task
from streamtrain.kernels.updates import (
    H_CLIP_NORM,
    H_L1,
    H_L2,
    H_TABLE_RATE,
    adam_corrections,
    advance_shrinkage,
    catch_up_row,
)


def tile_rows(n_rows: int, n_threads: int) -> int:
    """Return the rows of a tile: two tiles a thread where 16 to 128 rows allow it."""
    return max(16, min(128, -(-n_rows // (2 * n_threads)) // 16 * 16))


@inline
def _losses_of_tile(net, work, thread, batch, first, r0, n, per_row, sums, progressive):
    """Turn the scores of a tile into the derivative by them; add losses by 16 rows."""
    several = net.shares.shape[0] > 1
    uniform = batch.weight.shape[0] == 0 and net.class_weights.shape[0] == 0
    if net.loss == LOGISTIC and uniform and not several:
        _logistic_tile(net, work, thread, batch, first, r0, n, per_row, sums, progressive)
        return
    kept = progressive.shape[0] > 0
    scores = work.block[thread, : net.n_scores]
    delta = work.block[thread, net.n_scores : 2 * net.n_scores]
    for g in range(r0 // 16, (r0 + n + 15) // 16):
        loss_sum = 0.0
        weight_sum = 0.0
        for r in range(g * 16, min(g * 16 + 16, r0 + n)):
            row = first + r - r0
            for c in range(net.n_scores):
                scores[c] = work.act[net.score + (c >> 4), r, c & 15]
            if kept:
                for c in range(net.n_scores):
                    progressive[row, c] = scores[c]
            if several:
                y = np.float32(0.0)
                row_loss = losses_of_targets(
                    net.loss, scores, batch.target, row, net.learnt, net.shapes, net.shares, delta
                )
            else:
                y = (batch.target[row] - net.learnt[0, 0]) * net.learnt[1, 0]
                row_loss = loss_and_delta(
                    net.loss, scores, y, log_exposure(batch.exposure, row), net.shapes[0], delta
                )
            weight = row_weight(batch.weight, net.class_weights, row, y, net.weight_scale[0])
            loss_sum += np.float64(weight) * row_loss
            weight_sum += np.float64(weight)
            factor = weight * per_row
            for c in range(net.n_scores):
                work.delta[net.score + (c >> 4), r, c & 15] = delta[c] * factor
        sums[g, 0] = loss_sum
        sums[g, 1] = weight_sum
    # Rows behind the last one pass nothing back.
    for r in range(r0 + n, (r0 + n + 15) // 16 * 16):
        for c in range(net.n_scores):
            work.delta[net.score + (c >> 4), r, c & 15] = np.float32(0.0)


@inline
def _logistic_tile(net, work, thread, batch, first, r0, n, per_row, sums, progressive):
    """Do what `_losses_of_tile` does for logistic losses of rows that all count alike.

    Sixteen rows at a time, without a branch or a call of the C library but one log:
    sum_i log(1 + e_i) is the log of one product, kept less 1 for its digits. A factor
    is at most 2.
    """
    half = np.float32(0.5) * net.shapes[0, S_SMOOTHING]
    scores = work.block[thread, :16]
    slopes = work.block[thread, 16:32]
    tails = work.block[thread, 32:48]
    rests = work.block[thread, 48:64]
    one = np.float32(1.0)
    zero = np.float32(0.0)
    for g in range(r0 // 16, (r0 + n + 15) // 16):
        begin = g * 16
        n_here = min(16, r0 + n - begin)
        row = first + begin - r0
        for k in range(n_here):
            scores[k] = work.act[net.score, begin + k, 0]
        if progressive.shape[0] > 0:
            for k in range(n_here):
                progressive[row + k, 0] = scores[k]
        targets = batch.target[row : row + n_here]
        for k in range(n_here):
            y = (targets[k] - net.learnt[0, 0]) * net.learnt[1, 0]
            sign = y + y - one
            margin = sign * scores[k]
            e = exp32(-abs(margin))
            other = (e if margin > zero else one) / (one + e)
            slopes[k] = sign * (half - other) * per_row
            tails[k] = e
            # Without smoothing too: 0 times an infinite margin is NaN, and seen.
            rests[k] = (-margin if margin < zero else zero) + half * margin
        product = 0.0
        rest = 0.0
        for k in range(n_here):
            e = np.float64(tails[k])
            product = product * (1.0 + e) + e
            rest += np.float64(rests[k])
            work.delta[net.score, begin + k, 0] = slopes[k]
        sums[g, 0] = rest + math.log1p(product)
        sums[g, 1] = np.float64(n_here)
        # Rows behind the last one pass nothing back.
        for k in range(n_here, 16):
            work.delta[net.score, begin + k, 0] = zero


@inline_exact
def _add_groups(sums, n, loss_sum, weight_sum):
    for g in range(n):
        loss_sum += sums[g, 0]
        weight_sum += sums[g, 1]
    return loss_sum, weight_sum


@fast_kernel
def train_network(
    thread, n_threads, words, net, moving, work, batch, batch_size, last_rows, n_steps, optimizer,
    rates, step, n_tile, step_sums, progressive,
):  # fmt: skip
    """Take `n_steps` steps over consecutive batches; return how many were taken.

    It stops before the update of a batch whose loss is not finite, so that the
    parameters are those from which the loss diverged.

    Parameters
    ----------
    thread, n_threads, words
        Of the team; every thread makes this call.
    net : Net
    moving : Moving, updated
    work : Work, scratch
    batch : Batch
        All rows of the batches.
    batch_size : int
        B.
    last_rows : int
        Rows of the last batch, at most B.
    n_steps : int
    optimizer : int
        Number in OPTIMIZERS.
    rates : (n_steps,) float64, read
    step : int
        Steps taken before this call.
    n_tile : int
        Rows of a tile, a multiple of 16.
    step_sums : (n_steps, 2) float64, overwritten
        Weighted sum of losses, and sum of weights, of each batch before its update.
    progressive : (N, C) float32 or (0, C), overwritten
        Scores of each row before the update by its own batch, if kept.
    """
    m = 16 * work.sums.shape[0]
    n_tasks = net.tasks.shape[0]
    log_factor = moving.shrinkage[0]
    shift = moving.shrinkage[1]
    before = np.empty(2, np.float64)
    after = np.empty(2, np.float64)
    max_norm = moving.hyper[H_CLIP_NORM]
    clipped = max_norm > 0.0
    has_bags = net.bag_tables.tables.shape[0] > 0
    taken = n_steps
    barrier(words, n_threads)
    _transpose_all(net, moving, work, words, n_threads)
    barrier(words, n_threads)
    for s in range(n_steps):
        n_rows = last_rows if s == n_steps - 1 else batch_size
        first = s * batch_size
        before[0] = log_factor
        before[1] = shift
        per_row = np.float32(1.0 / n_rows)
        rate = rates[s]
        row_rate = rate * moving.hyper[H_TABLE_RATE]
        log_factor, shift = advance_shrinkage(
            log_factor, shift, row_rate, moving.hyper[H_L1], moving.hyper[H_L2]
        )
        after[0] = log_factor
        after[1] = shift
        keep = max(1.0 - rate * moving.hyper[H_L2], 0.0)
        threshold = rate * moving.hyper[H_L1]
        row_keep = max(1.0 - row_rate * moving.hyper[H_L2], 0.0)
        row_threshold = row_rate * moving.hyper[H_L1]
        correct1, correct2 = adam_corrections(optimizer, moving.hyper, step + s + 1)
        loss_sum = 0.0
        weight_sum = 0.0
        piece = 0
        tiles_before = 0
        while piece < n_rows:
            started = cycles()
            n = min(m, n_rows - piece)
            n_tiles = (n + n_tile - 1) // n_tile
            while True:
                tile = next_task(words, n_threads)
                if tile >= n_tiles:
                    break
                r0 = tile * n_tile
                rows = min(n_tile, n - r0)
                at = first + piece + r0
                position = step * batch_size + at
                forward_tile(net, moving, work, before, batch, at, position, r0, rows, True)
                _losses_of_tile(
                    net, work, thread, batch, at, r0, rows, per_row, work.sums, progressive
                )
                backward_tile(net, moving, work, batch, at, piece + r0, position, r0, rows)
                if has_bags:
                    sort_entries(
                        tiles_before + tile, first, piece + r0, piece + r0 + rows, batch.bags,
                        batch.ends, net.bag_tables, work.bags,
                    )  # fmt: skip
            done = cycles()
            barrier(words, n_threads)
            if thread == 0:
                work.clock[0] += done - started
                work.clock[2] += cycles() - done
            # Every thread adds the groups in the same order and so decides alike.
            loss_sum, weight_sum = _add_groups(work.sums, (n + 15) // 16, loss_sum, weight_sum)
            if not math.isfinite(loss_sum):
                break
            started = cycles()
            last_piece = piece + n >= n_rows
            while True:
                number = next_task(words, n_threads)
                if number >= n_tasks:
                    break
                task = net.tasks[number]
                slot = task[T_P0] if clipped else thread
                if task[T_KIND] >= TABLE_TASK:
                    if not last_piece:
                        continue
                    if task[T_KIND] == PART_TASK:
                        bag_gradient(
                            net, task[T_OP], task[T_Q0], tiles_before + n_tiles, moving, work,
                            thread, slot, before,
                        )  # fmt: skip
                    else:
                        table_gradient(net, task[T_OP], batch.codes, first, n_rows, work, slot)
                else:
                    dense_gradient(net, task, work, thread, n, piece == 0)
                if not last_piece:
                    continue
                clip_task(net, task, moving, work, slot)
                if clipped:
                    work.squares[number] = task_squares(net, task, work, slot)
                elif task[T_KIND] >= TABLE_TASK:
                    table_update(
                        net, task[T_OP], moving, work, slot, optimizer, row_rate, correct1,
                        correct2, before, after, row_keep, row_threshold,
                    )  # fmt: skip
                else:
                    dense_update(
                        net, task, moving, work, optimizer, rate, correct1, correct2, keep,
                        threshold,
                    )  # fmt: skip
            done = cycles()
            barrier(words, n_threads)
            if thread == 0:
                work.clock[1] += done - started
                work.clock[2] += cycles() - done
            piece += n
            tiles_before += n_tiles
        if thread == 0:
            step_sums[s, 0] = loss_sum
            step_sums[s, 1] = weight_sum
        if not math.isfinite(loss_sum):
            taken = s
            break
        if clipped:
            total = 0.0
            for number in range(n_tasks):
                total += work.squares[number]
            factor = clip_factor(total, max_norm)
            while True:
                number = next_task(words, n_threads)
                if number >= n_tasks:
                    break
                task = net.tasks[number]
                slot = task[T_P0]
                scale_task(net, task, work, slot, factor)
                if task[T_KIND] >= TABLE_TASK:
                    table_update(
                        net, task[T_OP], moving, work, slot, optimizer, row_rate, correct1,
                        correct2, before, after, row_keep, row_threshold,
                    )  # fmt: skip
                else:
                    dense_update(
                        net, task, moving, work, optimizer, rate, correct1, correct2, keep,
                        threshold,
                    )  # fmt: skip
            barrier(words, n_threads)
    if thread == 0:
        # A batch that diverged has not been decayed for.
        moving.shrinkage[0] = before[0] if taken < n_steps else log_factor
        moving.shrinkage[1] = before[1] if taken < n_steps else shift
    return taken


@inline
def _transpose_all(net, moving, work, words, n_threads):
    while True:
        number = next_task(words, n_threads)
        if number >= net.tasks.shape[0]:
            break
        task = net.tasks[number]
        if task[T_KIND] == AFFINE:
            transpose_weights(net.ops[task[T_OP]], task, moving.w, work.wt)


@fast_kernel
def score_network(thread, n_threads, words, net, moving, work, batch, n_tile, out):
    """Write the scores of rows, in tiles.

    Parameters
    ----------
    thread, n_threads, words
        Of the team.
    net : Net
    moving : Moving, read
        With all decay caught up, and no stamps.
    work : Work, scratch
        Panels of `n_tile` rows for each thread.
    batch : Batch
    n_tile : int
    out : (N, C) float32, overwritten
    """
    n_rows = out.shape[0]
    now = np.zeros(2, np.float64)
    r0 = thread * n_tile
    barrier(words, n_threads)
    n_tiles = (n_rows + n_tile - 1) // n_tile
    while True:
        tile = next_task(words, n_threads)
        if tile >= n_tiles:
            break
        first = tile * n_tile
        n = min(n_tile, n_rows - first)
        forward_tile(net, moving, work, now, batch, first, 0, r0, n, False)
        for r in range(n):
            for c in range(net.n_scores):
                out[first + r, c] = work.act[net.score + (c >> 4), r0 + r, c & 15]


@fast_kernel
def settle_tables(fields, w, stamps, log_now, threshold_now):
    """Catch up the decay of every table row, in place.

    Parameters
    ----------
    fields : (F, N_FIELD) int64, read
    w : (P,) float32, updated
    stamps : (R, 2) float64, read
    log_now, threshold_now : float
    """
    for f in range(fields.shape[0]):
        width = fields[f, F_WIDTH]
        for code in range(fields[f, F_CARDINALITY]):
            at = fields[f, F_FIRST] + code * width
            t = fields[f, F_ROW] + code
            row = w[at : at + width]
            catch_up_row(row, stamps[t, 0], stamps[t, 1], log_now, threshold_now, row)
