"""Constants of the panels in which networks keep their numbers."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

LANES = 16
"""Numbers of a vector, rows of a block."""
LINE_BYTES = 64
"""Of a cache line."""
FARTHEST = np.float32(1e18)
"""Bound of standardised numbers: their squares, and sums of these, fit float32."""


def aligned_zeros(shape: int | tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return float32 zeros that begin on a cache line.

    A vector of 16 then lies in one line and not across two; NumPy's own arrays
    begin 16 bytes behind one.
    """
    sizes = (shape,) if isinstance(shape, int) else shape
    n = math.prod(sizes)
    room = np.zeros(n + LINE_BYTES // 4, np.float32)
    skip = -room.ctypes.data % LINE_BYTES // 4
    return room[skip : skip + n].reshape(sizes)
