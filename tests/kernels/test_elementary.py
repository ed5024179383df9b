"""Elementary functions of float32 against float64, with the errors that they state."""

import numpy as np
import pytest

from streamtrain.kernels._jit import inline_exact
from streamtrain.kernels.elementary import exp32, sigmoid32, sin_turns, tanh32

TINY = float(np.finfo(np.float32).tiny)


@inline_exact
def each(function, x, out):
    for k in range(x.shape[0]):
        out[k] = function(x[k])


def values_of(function, x):
    x = np.ascontiguousarray(x, np.float32)
    out = np.empty_like(x)
    each(function, x, out)
    return x.astype(np.float64), out


def test_exp_is_within_two_ulp():
    x, found = values_of(exp32, np.linspace(-87, 88, 400_001))
    expected = np.exp(x)
    ulp = np.spacing(expected.astype(np.float32)).astype(np.float64)
    assert np.abs(found - expected).max() > 0
    assert (np.abs(found - expected) / ulp).max() <= 2


def test_exp_of_zero_is_one_and_beyond_its_range_stays_at_its_ends():
    _, found = values_of(exp32, [0.0, -0.0, 88.0, 89.0, 3e38, np.inf, -87.0, -88.0, -np.inf])
    assert found[:2].tolist() == [1, 1]
    assert (found[2:6] == found[2]).all()
    assert np.isfinite(found[2])
    assert (found[6:] == found[6]).all()
    assert found[6] > 0


def test_the_sigmoid_is_close_everywhere():
    x, found = values_of(sigmoid32, np.linspace(-80, 80, 200_001))
    expected = 1 / (1 + np.exp(-x))
    # The exponential's 2 ulp, one of the sum and one of the division.
    assert (np.abs(found - expected) / expected).max() <= 4 * np.finfo(np.float32).eps
    _, ends = values_of(sigmoid32, [-np.inf, np.inf, 0.0])
    assert ends.tolist() == pytest.approx([0.0, 1.0, 0.5], abs=TINY)


def test_tanh_is_within_its_stated_error():
    x, found = values_of(tanh32, np.concatenate([np.linspace(-50, 50, 200_001), [-3e38, 3e38]]))
    assert np.abs(found - np.tanh(x)).max() <= 2e-7
    assert values_of(tanh32, [0.0, -0.0])[1].tolist() == [0, 0]
    assert np.abs(found).max() <= 1


@pytest.mark.parametrize("far", [0.0, 1000.0, 2.0**19])
def test_the_sine_of_turns_is_within_its_stated_error(far):
    t, found = values_of(sin_turns, far + np.linspace(-2, 2, 100_001))
    assert np.abs(found - np.sin(2 * np.pi * (t - np.round(t)))).max() <= 3e-7
    t, found = values_of(sin_turns, -far - np.linspace(-2, 2, 10_001))
    assert np.abs(found - np.sin(2 * np.pi * (t - np.round(t)))).max() <= 3e-7


def test_the_sine_of_whole_turns_is_zero_and_of_quarters_one():
    _, found = values_of(sin_turns, [0, 1, -3, 0.5, 0.25, -0.25, 0.75, 2.0**21])
    np.testing.assert_allclose(found, [0, 0, 0, 0, 1, -1, -1, 0], atol=3e-7)


@pytest.mark.parametrize("function", [exp32, sigmoid32, tanh32, sin_turns])
def test_nan_stays_nan(function):
    assert np.isnan(values_of(function, [np.nan, -np.nan])[1]).all()
