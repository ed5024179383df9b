"""Moments of columns, summed in a fixed order. D = columns, n = rows of a block."""

from __future__ import annotations

import numpy as np

from streamtrain.kernels._jit import kernel


@kernel
def merge_moments(block, state):
    """Merge a block's moments into the running ones (Chan's update, float64).

    Parameters
    ----------
    block : (D, n) float32, read
        NaN is a missing value.
    state : (D, 5) float64, updated
        Count, mean, sum of squared deviations, minimum, maximum; starts as
        (0, 0, 0, inf, -inf).

    Notes
    -----
    Two passes over the block, so that no large numbers cancel. Source: Chan,
    Golub & LeVeque 1979, equation 2.1.
    """
    for c in range(block.shape[0]):
        count = 0.0
        total = 0.0
        low = np.inf
        high = -np.inf
        for i in range(block.shape[1]):
            x = np.float64(block[c, i])
            if x == x:
                count += 1.0
                total += x
                low = min(low, x)
                high = max(high, x)
        if count == 0.0:
            continue
        mean = total / count
        squares = 0.0
        for i in range(block.shape[1]):
            x = np.float64(block[c, i])
            if x == x:
                squares += (x - mean) * (x - mean)
        before = state[c, 0]
        delta = mean - state[c, 1]
        state[c, 0] = before + count
        state[c, 1] += delta * (count / (before + count))
        state[c, 2] += squares + delta * delta * (before * count / (before + count))
        state[c, 3] = min(state[c, 3], low)
        state[c, 4] = max(state[c, 4], high)
