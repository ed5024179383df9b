"""Keyed permutations from our own generator.

NumPy does not promise its streams across versions; these are fixed by golden
values in a test.
"""

from __future__ import annotations

import numpy as np

from streamtrain.kernels._jit import kernel


@kernel
def permute(key, out):
    """Write a uniform permutation of 0 .. n - 1, a function of the key alone.

    Parameters
    ----------
    key : uint64
    out : (n,) int32 or int64, overwritten

    Notes
    -----
    Fisher-Yates from the end. Random words are SplitMix64 (Steele, Lea and
    Flood 2014); a word x becomes an index below k as the high half of x k,
    rejected where that would be uneven (Lemire 2019, "Fast Random Integer
    Generation in an Interval"), here on 32-bit words: n < 2**32.
    """
    n = out.shape[0]
    for i in range(n):
        out[i] = i
    state = np.uint64(key)
    for i in range(n - 1, 0, -1):
        bound = np.uint64(i + 1)
        floor = (np.uint64(0x100000000) - bound) % bound
        while True:
            state += np.uint64(0x9E3779B97F4A7C15)
            z = state
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
            product = (z >> np.uint64(32)) * bound
            if (product & np.uint64(0xFFFFFFFF)) >= floor:
                break
        j = np.int64(product >> np.uint64(32))
        kept = out[i]
        out[i] = out[j]
        out[j] = kept
