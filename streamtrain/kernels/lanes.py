"""Constants of the panels in which networks keep their numbers."""

from __future__ import annotations

import numpy as np

LANES = 16
"""Numbers of a vector, rows of a block."""
FARTHEST = np.float32(1e18)
"""Bound of standardised numbers: their squares, and sums of these, fit float32."""
