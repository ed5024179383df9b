import json
import math
from pathlib import Path

import numpy as np
import pytest

from streamtrain.errors import ConfigError
from streamtrain.optim.schedules import SCHEDULES, Schedule

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "optimizers.json").read_text())


def one_cycle(t, total):
    top, end = 0.3 * total - 1, total - 1
    low, lowest = 1 / 25, 1 / 25 / 1e4

    def between(a, b, part):
        return b + (a - b) * (1 + math.cos(math.pi * part)) / 2

    if t <= top:
        return between(low, 1, t / top)
    return between(1, lowest, min((t - top) / (end - top), 1))


def expected(name, t, *, rate, total, warm=0, decay=0.5, every=0):
    after, length = max(t - warm, 0), max(total - warm, 1)
    k = every or max(length // 10, 1)
    part = min(after / length, 1)
    factor = {
        "constant": 1.0,
        "plateau": 1.0,
        "step": decay ** (after // k),
        "exponential": decay ** (after / k),
        "inverse-sqrt": (1 + after / (every or warm or k)) ** -0.5,
        "linear": 1 - part,
        "cosine": (1 + math.cos(math.pi * part)) / 2,
        "one-cycle": one_cycle(after, length) if length > 4 else None,
        "coslog": (1 - math.cos(2 * math.pi * math.log2(1 + 15 * part))) / 2,
    }[name]
    return rate * factor * (min((t + 1) / warm, 1) if warm else 1)


@pytest.mark.parametrize("every", [0, 13])
@pytest.mark.parametrize("warm", [0, 1, 7])
@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_follow_their_formulas(name, warm, every):
    schedule = Schedule(
        name=name, rate=0.3, total_steps=100, warmup_steps=warm, decay=0.6, decay_steps=every
    )
    rates = schedule.rates(0, 120)
    options = {"rate": 0.3, "total": 100, "warm": warm, "decay": 0.6, "every": every}
    formula = [expected(name, t, **options) for t in range(120)]
    # What falls to zero does so by a difference of terms of size 1.
    np.testing.assert_allclose(rates, formula, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_rate_is_a_function_of_its_step_alone(name):
    schedule = Schedule(name=name, rate=0.3, total_steps=50, warmup_steps=5)
    whole = schedule.rates(0, 50)
    for first, n in ((0, 1), (3, 20), (49, 1), (10, 0)):
        assert schedule.rates(first, n).tolist() == whole[first : first + n].tolist()


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("total", [1, 2, 3, 4, 10, 1000])
@pytest.mark.parametrize("warm", [0, 3, 150])
def test_no_rate_is_negative_or_above_the_highest(name, total, warm):
    rates = Schedule(name=name, rate=0.3, total_steps=total, warmup_steps=warm).rates(0, total + 5)
    assert np.isfinite(rates).all()
    assert (rates >= 0).all()
    assert (rates <= 0.3 * (1 + 1e-12)).all()


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_warm_up_rises_in_a_line_to_the_schedules_first_rate(name):
    options = {"name": name, "rate": 0.2, "total_steps": 300}
    warmed = Schedule(warmup_steps=100, **options).rates(0, 300)
    first = Schedule(**{**options, "total_steps": 200}).rates(0, 1)[0]
    np.testing.assert_allclose(warmed[:100], first * np.arange(1, 101) / 100, rtol=1e-12)


@pytest.mark.parametrize("total", GOLDEN["one_cycle"])
def test_one_cycle_is_that_of_pytorch(total):
    golden = GOLDEN["one_cycle"][total]
    rates = Schedule(name="one-cycle", rate=0.4, total_steps=int(total)).rates(0, int(total))
    np.testing.assert_allclose(rates, golden, rtol=1e-9)


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


def test_inverse_square_root_after_a_warm_up_is_that_of_the_transformer():
    rates = Schedule(name="inverse-sqrt", rate=1.0, total_steps=9999, warmup_steps=400)
    t = np.arange(400, 5000)
    np.testing.assert_allclose(rates.rates(400, 4600), np.sqrt(400 / t), rtol=1e-12)


def test_coslog_has_four_waves_each_twice_as_long_as_the_last():
    rates = Schedule(name="coslog", rate=1.0, total_steps=15_000).rates(0, 15_001)
    for begin, end in ((0, 1000), (1000, 3000), (3000, 7000), (7000, 15_000)):
        assert rates[begin] == pytest.approx(0, abs=1e-9)
        # Half of a wave in the logarithm.
        top = (2 ** ((math.log2(begin + 1000) + math.log2(end + 1000)) / 2)) - 1000
        assert rates[round(top)] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"name": "triangle"}, "--schedule"),
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
