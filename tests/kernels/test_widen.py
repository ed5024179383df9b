"""Half precision to single, against NumPy, value by value."""

import numpy as np
import pytest

from streamtrain.kernels.widen import widen_half


def test_every_value_of_half_precision_is_widened_exactly():
    half = np.arange(1 << 16, dtype=np.uint16)
    wide = np.empty(len(half), np.float32)
    widen_half(half, wide)
    expected = half.view(np.float16).astype(np.float32)
    assert (wide.view(np.uint32) == expected.view(np.uint32)).all()


@pytest.mark.parametrize("n", [0, 1, 2047, 2048, 2049, 5000])
def test_tiles_of_every_length_are_whole(n):
    half = np.random.default_rng(n).normal(size=n).astype(np.float16)
    wide = np.full(n + 1, 7, np.float32)
    widen_half(half.view(np.uint16), wide[:n])
    assert (wide[:n] == half.astype(np.float32)).all()
    assert wide[n] == 7
