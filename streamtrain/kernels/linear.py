"""Linear models of numeric columns and categories: many steps of training in one call.

Letters: B rows of a batch, D numeric features, F categorical fields, C scores of
a row, R rows of parameters, P = R C. Rows of parameters, each C wide, are

    0                  bias
    1 .. D             numeric features, standardised
    D+1 .. 2D          added where a numeric feature is missing
    2D+1 ..            one for every code of field 0, of field 1, ...

A step has two phases. Rows: tiles of rows write d loss / d score. Parameters:
each task owns the numeric rows or one field, sums their gradient over the whole
batch in row order, and updates at once. Tiles and tasks depend on B, D and F
alone, and no two write the same place: the same bits for any number of threads.
"""

from __future__ import annotations

import math

import numpy as np

from streamtrain.kernels._jit import fast_kernel, inline
from streamtrain.kernels.losses import log_exposure, loss_and_delta, row_weight
from streamtrain.kernels.team import barrier, next_task
from streamtrain.kernels.updates import (
    ADAM,
    H_BETA1,
    H_BETA2,
    H_L1,
    H_L2,
    advance_shrinkage,
    catch_up,
    shrink,
    update_range,
)


def tile_rows(batch_size: int) -> int:
    """Return the rows of a tile: a function of the batch size alone."""
    return max(16, min(256, batch_size // 16))


_DIRECT_SLOTS = 16_384


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


@inline
def _score_row(numeric, codes, i, w, mean, scale, first_row, stamps, now, scores):
    """Write the C scores of row i.

    Sums run over columns in order. `stamps` (R_t, 2) and `now` are empty where
    nothing shrinks.
    """
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
def _rows_phase(
    tile, n_tile, start, n_rows, numeric, codes, target, weight, exposure, w, mean, scale,
    first_row, stamps, now, loss, shape, class_weights, target_mean, target_scale, weight_scale,
    scores, delta, tile_sums, progressive,
):  # fmt: skip
    """Score the rows of one tile; write their delta, and the tile's sums of loss and weight."""
    begin = tile * n_tile
    end = min(begin + n_tile, n_rows)
    loss_sum = 0.0
    weight_sum = 0.0
    keep_scores = progressive.shape[0] > 0
    per_row = np.float32(1.0 / n_rows)
    for i in range(begin, end):
        row = start + i
        _score_row(numeric, codes, row, w, mean, scale, first_row, stamps, now, scores)
        y = (target[row] - target_mean) * target_scale
        row_loss = loss_and_delta(loss, scores, y, log_exposure(exposure, row), shape, delta[i])
        counts = row_weight(weight, class_weights, row, target[row], weight_scale)
        loss_sum += np.float64(counts) * row_loss
        weight_sum += np.float64(counts)
        factor = counts * per_row
        for c in range(scores.shape[0]):
            delta[i, c] *= factor
        if keep_scores:
            for c in range(scores.shape[0]):
                progressive[row, c] = scores[c]
    tile_sums[tile, 0] = loss_sum
    tile_sums[tile, 1] = weight_sum


@inline
def _numeric_task(
    start, n_rows, numeric, delta, w, first, second, mean, scale, gradient, rate, hyper,
    optimizer, correct1, correct2, keep, threshold,
):  # fmt: skip
    """Update the bias, the numeric weights and those of missing values."""
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
    update_range(optimizer, w, first, second, gradient, 0, n, rate, hyper, correct1, correct2)
    if keep != 1.0 or threshold != 0.0:
        # The bias is never shrunk.
        for k in range(n_scores, n):
            w[k] = np.float32(shrink(np.float64(w[k]), keep, threshold))


@inline
def _group_codes(field, start, n_rows, codes, delta, cardinality, slots, unique, places, gradient):
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
def _field_task(
    field, start, n_rows, codes, delta, w, first, second, first_row, n_dense_rows, stamps, before,
    after, slots, unique, places, gradient, gathered, rate, hyper, optimizer, correct1, correct2,
    keep, threshold,
):  # fmt: skip
    """Update the rows of every code of a field that the batch holds.

    They are gathered into `gathered` (3, B C), so that the update runs over
    consecutive numbers, and put back.
    """
    n_scores = delta.shape[1]
    base = first_row[field]
    last = field + 1 == first_row.shape[0]
    cardinality = (w.shape[0] // n_scores if last else first_row[field + 1]) - base
    n_unique = _group_codes(
        field, start, n_rows, codes, delta, cardinality, slots, unique, places, gradient
    )
    lazy = stamps.shape[0] > 0
    _gather(w, base, unique, n_unique, n_scores, gathered[0])
    if first.shape[0] > 0:
        _gather(first, base, unique, n_unique, n_scores, gathered[1])
    if second.shape[0] > 0:
        _gather(second, base, unique, n_unique, n_scores, gathered[2])
    if lazy:
        for u in range(n_unique):
            k = base + unique[u] - n_dense_rows
            for c in range(n_scores):
                gathered[0, u * n_scores + c] = catch_up(
                    gathered[0, u * n_scores + c], stamps[k, 0], stamps[k, 1], before[0], before[1]
                )
            stamps[k, 0] = after[0]
            stamps[k, 1] = after[1]
    n = n_unique * n_scores
    update_range(
        optimizer, gathered[0], gathered[1], gathered[2], gradient, 0, n, rate, hyper, correct1,
        correct2,
    )  # fmt: skip
    if lazy:
        for k in range(n):
            gathered[0, k] = np.float32(shrink(np.float64(gathered[0, k]), keep, threshold))
    _put_back(gathered[0], base, unique, n_unique, n_scores, w)
    if first.shape[0] > 0:
        _put_back(gathered[1], base, unique, n_unique, n_scores, first)
    if second.shape[0] > 0:
        _put_back(gathered[2], base, unique, n_unique, n_scores, second)


@inline
def _gather(source, base, unique, n_unique, n_scores, out):
    """Copy rows base + unique[u] of `source` to rows u of `out`."""
    if n_scores == 1:
        for u in range(n_unique):
            out[u] = source[base + unique[u]]
        return
    for u in range(n_unique):
        at = (base + unique[u]) * n_scores
        for c in range(n_scores):
            out[u * n_scores + c] = source[at + c]


@inline
def _put_back(source, base, unique, n_unique, n_scores, out):
    """Copy rows u of `source` to rows base + unique[u] of `out`."""
    if n_scores == 1:
        for u in range(n_unique):
            out[base + unique[u]] = source[u]
        return
    for u in range(n_unique):
        at = (base + unique[u]) * n_scores
        for c in range(n_scores):
            out[at + c] = source[u * n_scores + c]


@fast_kernel
def train_linear(
    thread, n_threads, words, numeric, codes, target, weight, exposure, start, batch_size,
    last_rows, n_steps, w, first, second, stamps, shrinkage, mean, scale, first_row, loss, shape,
    class_weights, optimizer, rates, hyper, step, target_mean, target_scale, weight_scale, n_tile,
    scores, delta, tile_sums, slots, unique, places, gradient, gathered, step_sums, progressive,
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
    target : (N,) float32, read
        Class index for logistic, hinge and softmax.
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
    first, second : (P,) float32 or empty, updated
        State of the optimizer.
    stamps : (R - 1 - 2 D, 2) float64 or empty, updated
        Shrinkage (L, Q) at which each table row was last touched.
    shrinkage : (2,) float64, updated
        (L, Q) after the last step (`advance_shrinkage`).
    mean, scale : (D,) float32, read
    first_row : (F,) int64, read
    loss : int
        Number in LOSSES.
    shape : (N_SHAPE,) float32, read
        Settings of the loss.
    class_weights : (C,) float32 or empty, read
        Multiplied into the weights of rows, by the class of their target.
    optimizer : int
        Number in OPTIMIZERS.
    rates : (n_steps,) float64, read
    hyper : (N_HYPER,) float64, read
    step : int
        Steps taken before this call.
    target_mean, target_scale, weight_scale : float32
        A target y is learnt as (y - mean) scale; weights are multiplied.
    n_tile : int
        Rows of a tile.
    scores : (n_threads, C) float32, scratch
    delta : (B, C) float32, scratch
    tile_sums : (T, 2) float64, scratch
    slots : (n_threads, S) int32, scratch, all -1
    unique, places : (n_threads, B) int32, scratch
    gradient : (n_threads, max(B, 1 + 2 D) C) float32, scratch
    gathered : (n_threads, 3, B C) float32, scratch
    step_sums : (n_steps, 2) float64, overwritten
        Weighted sum of losses, and sum of weights, of each batch before its update.
    progressive : (N, C) float32 or (0, C), overwritten
        Scores of each row before the update by its own batch, if kept.
    """
    n_fields = first_row.shape[0]
    n_dense_rows = 1 + 2 * mean.shape[0]
    log_factor = shrinkage[0]
    shift = shrinkage[1]
    before = np.empty(2, np.float64)
    after = np.empty(2, np.float64)
    correct1 = np.float32(1.0)
    correct2 = np.float32(1.0)
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
            _rows_phase(
                tile, n_tile, first_of_batch, n_rows, numeric, codes, target, weight, exposure, w,
                mean, scale, first_row, stamps, before, loss, shape, class_weights, target_mean,
                target_scale, weight_scale, scores[thread], delta, tile_sums, progressive,
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
        log_factor, shift = advance_shrinkage(log_factor, shift, rate, hyper[H_L1], hyper[H_L2])
        after[0] = log_factor
        after[1] = shift
        keep = max(1.0 - rate * hyper[H_L2], 0.0)
        threshold = rate * hyper[H_L1]
        if optimizer == ADAM:
            t = np.float64(step + s + 1)
            correct1 = np.float32(1.0 / (1.0 - hyper[H_BETA1] ** t))
            correct2 = np.float32(1.0 / (1.0 - hyper[H_BETA2] ** t))
        while True:
            task = next_task(words, n_threads)
            if task > n_fields:
                break
            if task == 0:
                _numeric_task(
                    first_of_batch, n_rows, numeric, delta, w, first, second, mean, scale,
                    gradient[thread], np.float32(rate), hyper, optimizer, correct1, correct2,
                    keep, threshold,
                )  # fmt: skip
            else:
                _field_task(
                    task - 1, first_of_batch, n_rows, codes, delta, w, first, second, first_row,
                    n_dense_rows, stamps, before, after, slots[thread], unique[thread],
                    places[thread], gradient[thread], gathered[thread], np.float32(rate), hyper,
                    optimizer, correct1, correct2, keep, threshold,
                )  # fmt: skip
        barrier(words, n_threads)
    if thread == 0:
        shrinkage[0] = log_factor
        shrinkage[1] = shift
    return taken


@fast_kernel
def score_linear(
    thread, n_threads, words, numeric, codes, w, mean, scale, first_row, n_tile, out
):  # fmt: skip
    """Write the scores of rows, in tiles.

    Parameters
    ----------
    thread, n_threads, words
        Of the team.
    numeric : (N, D) float32, C order, read
    codes : (N, F) int32, C order, read
    w : (P,) float32, read
        With all shrinkage caught up (`settle_rows`).
    mean, scale : (D,) float32, read
    first_row : (F,) int64, read
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
        for i in range(tile * n_tile, min((tile + 1) * n_tile, n_rows)):
            _score_row(
                numeric, codes, i, w, mean, scale, first_row, no_stamps, now, out[i]
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
