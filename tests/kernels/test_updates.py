"""Shrinkage caught up in one step against shrinking step by step."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtrain.kernels.updates import advance_shrinkage, catch_up, shrink

rates = st.lists(st.floats(0.0, 2.0), min_size=1, max_size=40)


@settings(max_examples=200, deadline=None)
@given(
    value=st.floats(-10, 10, width=32),
    before=rates,
    since=rates,
    l1=st.sampled_from([0.0, 0.001, 0.1]),
    l2=st.sampled_from([0.0, 0.01, 0.4, 1.0]),
)
def test_catching_up_is_shrinking_step_by_step(value, before, since, l1, l2):
    now = (0.0, 0.0)
    for rate in before:
        now = advance_shrinkage(*now, rate, l1, l2)
    then = now
    expected = float(value)
    for rate in since:
        now = advance_shrinkage(*now, rate, l1, l2)
        expected = math.copysign(
            max(abs(expected) * max(1 - rate * l2, 0) - rate * l1, 0.0), expected
        )
    found = catch_up(np.float32(value), *then, *now)
    # exp(L_now - L_then) loses an ulp of L, Q_now - factor Q_then one of Q.
    slack = np.spacing(abs(now[0])) * abs(value) + 4 * np.spacing(max(abs(now[1]), 1e-300))
    limit = 2 * np.finfo(np.float32).eps * abs(expected) + 64 * slack + 1e-40
    assert abs(found - expected) <= limit


def test_a_parameter_touched_just_now_stays_as_it_is():
    now = (0.0, 0.0)
    for _ in range(1000):
        now = advance_shrinkage(*now, 0.3, 0.01, 0.05)
    assert catch_up(np.float32(1.25), *now, *now) == np.float32(1.25)


def test_a_hundred_thousand_steps_neither_overflow_nor_lose_the_last_one():
    now = (0.0, 0.0)
    for _ in range(100_000):
        now = advance_shrinkage(*now, 0.5, 0.0, 1.0)
    then = now
    now = advance_shrinkage(*now, 0.5, 0.0, 1.0)
    assert catch_up(np.float32(8.0), *then, *now) == pytest.approx(4.0, rel=1e-6)
    assert all(math.isfinite(x) for x in now)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_shrinking_keeps_what_is_not_finite_visible(value):
    assert not math.isfinite(shrink(value, 0.9, 0.1))
    assert not math.isfinite(catch_up(np.float32(value), 0.0, 0.0, -0.5, 0.1))


def test_a_weight_that_reaches_zero_stays_there():
    assert shrink(0.05, 1.0, 0.1) == 0.0
    assert shrink(-0.05, 1.0, 0.1) == 0.0
    assert shrink(0.3, 0.5, 0.1) == pytest.approx(0.05)
    assert shrink(-0.3, 0.5, 0.1) == pytest.approx(-0.05)
