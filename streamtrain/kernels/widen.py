"""Half precision to single, for rows on their way to a model."""

from __future__ import annotations

import numpy as np

from streamtrain.kernels._jit import kernel

_SIGN = np.uint32(0x8000)
_REST = np.uint32(0x7FFF)
# float32 has 13 more bits of fraction, and an exponent whose bias is 112 higher.
_REBIAS = np.float32(2.0**112)
_OVERFLOW = np.float32(2.0**16)
_EXPONENT = np.uint32(0xFF << 23)
_TILE = 2048


@kernel
def widen_half(half, wide):
    """Write float16 values as float32, each exactly.

    Parameters
    ----------
    half : (n,) uint16, read
        Bits of float16 values.
    wide : (n,) float32, overwritten
        NaN and infinity stay what they are.

    Notes
    -----
    Without a table or a branch, in tiles that stay in the first cache: exponent and fraction
    are moved to their places and the exponent is set right by a product, which
    makes subnormal values normal. What was infinite or NaN is then 2^16 or more.
    """
    for start in range(0, half.shape[0], _TILE):
        narrow = half[start : start + _TILE]
        values = wide[start : start + _TILE]
        bits = values.view(np.uint32)
        for i in range(narrow.shape[0]):
            bits[i] = (np.uint32(narrow[i]) & _REST) << np.uint32(13)
        for i in range(narrow.shape[0]):
            values[i] *= _REBIAS
        for i in range(narrow.shape[0]):
            beyond = _EXPONENT if values[i] >= _OVERFLOW else np.uint32(0)
            bits[i] |= beyond | ((np.uint32(narrow[i]) & _SIGN) << np.uint32(16))
