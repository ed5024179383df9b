"""Clipping against float64 NumPy."""

import math

import numpy as np
import pytest

from streamtrain.kernels.clipping import clip_factor, clip_values, scale_gradient, sum_of_squares

EPS = float(np.finfo(np.float32).eps)
LENGTHS = [0, 1, 7, 64, 1001]


def made(n):
    return np.random.default_rng(n).normal(size=n + 3).astype(np.float32)


@pytest.mark.parametrize("n", LENGTHS)
def test_values_are_bounded_and_none_beyond_the_length(n):
    gradient = made(n)
    expected = np.clip(gradient, -np.float32(0.3), np.float32(0.3))
    expected[n:] = gradient[n:]
    clip_values(gradient, n, np.float32(0.3))
    assert gradient.tolist() == expected.tolist()


def test_a_bound_of_zero_is_no_bound():
    gradient = made(20)
    before = gradient.copy()
    clip_values(gradient, 20, np.float32(0.0))
    assert gradient.tolist() == before.tolist()


def test_what_is_not_a_number_is_not_bounded_away():
    # At every place of a vector, and in the rest that no vector holds.
    for k in range(37):
        gradient = np.ones(37, np.float32)
        gradient[k] = np.nan
        clip_values(gradient, 37, np.float32(0.5))
        assert np.isnan(gradient[k])
        assert math.isnan(sum_of_squares(gradient, 37))


@pytest.mark.parametrize("n", LENGTHS)
def test_squares_are_summed_as_float64(n):
    gradient = made(n)
    gradient[:2] = [1e-30, 3e30]
    expected = math.fsum(float(g) ** 2 for g in gradient[:n])
    assert sum_of_squares(gradient, n) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize(
    ("total", "limit", "factor"),
    [(25.0, 10.0, 1.0), (25.0, 5.0, 1.0), (25.0, 1.0, 0.2), (0.0, 1.0, 1.0), (math.inf, 1.0, 0.0)],
)
def test_the_factor_brings_the_norm_to_its_limit_and_never_up(total, limit, factor):
    assert clip_factor(total, limit) == np.float32(factor)


def test_a_norm_that_is_not_a_number_scales_nothing():
    assert clip_factor(math.nan, 1.0) == 1.0


@pytest.mark.parametrize("n", LENGTHS)
def test_scaling_reaches_all_of_the_length(n):
    gradient = made(n)
    expected = gradient.astype(np.float64)
    expected[:n] *= 0.3
    scale_gradient(gradient, n, np.float32(0.3))
    np.testing.assert_allclose(gradient, expected, rtol=2 * EPS)
