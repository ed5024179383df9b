import math

import numpy as np
import pytest

from streamtrain.errors import ConfigError
from streamtrain.optim.schedules import Schedule


def expected(name, t, *, rate, total, warm=0, decay=0.5, every=0):
    after, length = max(t - warm, 0), max(total - warm, 1)
    factor = 1.0
    if name == "cosine":
        factor = (1 + math.cos(math.pi * min(after / length, 1))) / 2
    if name == "step":
        factor = decay ** (after // (every or max(length // 10, 1)))
    return rate * factor * (min((t + 1) / warm, 1) if warm else 1)


@pytest.mark.parametrize("warm", [0, 1, 7, 150])
@pytest.mark.parametrize("name", ["constant", "step", "cosine"])
def test_rates_follow_their_formulas(name, warm):
    schedule = Schedule(name=name, rate=0.3, total_steps=100, warmup_steps=warm)
    rates = schedule.rates(0, 120)
    formula = [expected(name, t, rate=0.3, total=100, warm=warm) for t in range(120)]
    np.testing.assert_allclose(rates, formula, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["constant", "step", "cosine"])
def test_a_rate_is_a_function_of_its_step_alone(name):
    schedule = Schedule(name=name, rate=0.3, total_steps=50, warmup_steps=5)
    whole = schedule.rates(0, 50)
    for first, n in ((0, 1), (3, 20), (49, 1), (10, 0)):
        assert schedule.rates(first, n).tolist() == whole[first : first + n].tolist()


def test_steps_decay_as_often_and_as_much_as_asked():
    schedule = Schedule(name="step", rate=1.0, total_steps=100, decay=0.1, decay_steps=30)
    rates = schedule.rates(0, 100)
    for t, rate in ((0, 1.0), (29, 1.0), (30, 0.1), (60, 0.01), (99, 0.001)):
        assert rates[t] == pytest.approx(rate)


def test_cosine_begins_at_the_rate_and_ends_close_to_nothing():
    rates = Schedule(name="cosine", rate=0.2, total_steps=1000).rates(0, 1001)
    assert rates[0] == 0.2
    assert rates[500] == pytest.approx(0.1)
    assert 0 < rates[999] < 1e-6
    assert rates[1000] == 0.0


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"name": "linear"}, "--schedule"),
        ({"rate": 0.0}, "--lr"),
        ({"rate": -1.0}, "--lr"),
        ({"rate": math.nan}, "--lr"),
        ({"rate": math.inf}, "--lr"),
        ({"warmup_steps": -1}, "--warmup-steps"),
        ({"decay": 0.0}, "--decay"),
        ({"decay": 1.5}, "--decay"),
        ({"decay": math.nan}, "--decay"),
    ],
)
def test_a_schedule_that_cannot_work_names_its_option(changes, option):
    schedule = Schedule(**{"name": "step", "rate": 0.1, "total_steps": 10} | changes)
    with pytest.raises(ConfigError) as caught:
        schedule.check()
    assert caught.value.where == option
