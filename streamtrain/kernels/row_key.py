"""Keyed permutations of row numbers: the order of a shuffle and the draw of a split.

For one key the map from ordinal to row key is a bijection of the 64-bit
numbers (every step is invertible), so no two rows of a dataset ever tie.
"""

from __future__ import annotations

import numpy as np

from streamtrain.kernels._jit import inline, kernel

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_S27 = np.uint64(27)
_S30 = np.uint64(30)
_S31 = np.uint64(31)


@inline
def mix(z):
    """Return the splitmix64 finaliser of a uint64."""
    z = (z ^ (z >> _S30)) * _MIX1
    z = (z ^ (z >> _S27)) * _MIX2
    return z ^ (z >> _S31)


@inline
def row_key(key, ordinal):
    """Return the 64-bit key of a row under a stream's key, both uint64."""
    return mix(mix(ordinal + _GOLDEN) ^ key)


@kernel
def row_keys(key, ordinals, out):
    """Write the row key of every ordinal.

    Parameters
    ----------
    key : uint64
        From `seeds.derive_key`.
    ordinals : (n,) uint64, read
    out : (n,) uint64, overwritten
    """
    for i in range(ordinals.shape[0]):
        out[i] = row_key(key, ordinals[i])
