"""How much each snapshot counts, against sums written out."""

import math

import numpy as np
import pytest

from streamtrain.errors import ConfigError
from streamtrain.optim.averaging import AVERAGES, Averaging, check_averaging, plan_averaging

PLAN = {"decay": 0.9, "start": 0.5, "n_parameters": 100, "batch_size": 10, "shrinks": False}


def follow(plan, values):
    """Return the average after each step, step s having left values[s - 1]."""
    average, seen = 0.0, []
    for step, value in enumerate(values, start=1):
        average += plan.share(step) * (value - average)
        seen.append(average)
    return seen


@pytest.mark.parametrize("every", [1, 3, 16])
def test_ema_is_the_sum_of_decaying_weights_divided_by_theirs(every):
    rng = np.random.default_rng(every)
    values = rng.normal(size=100)
    plan = Averaging("ema", every, 0.97)
    found = follow(plan, values)
    for step in range(1, 101):
        taken = np.arange(every, step + 1, every)
        assert plan.n_snapshots(step) == len(taken)
        if len(taken):
            weights = 0.97 ** (taken[-1] - taken)
            expected = (weights * values[taken - 1]).sum() / weights.sum()
            assert found[step - 1] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("every", "start"), [(1, 0), (1, 40), (3, 40), (16, 31), (16, 32)])
def test_polyak_is_the_mean_of_the_snapshots_after_its_start(every, start):
    values = np.random.default_rng(1).normal(size=100)
    plan = Averaging("polyak", every, start=start)
    found = follow(plan, values)
    for step in range(1, 101):
        taken = [s for s in range(every, step + 1, every) if s > start]
        assert plan.n_snapshots(step) == len(taken)
        if taken:
            mean = np.mean([values[s - 1] for s in taken])
            assert found[step - 1] == pytest.approx(mean, rel=1e-12)


def test_a_million_snapshots_neither_overflow_nor_lose_their_weight():
    assert Averaging("ema", 16, 0.999).share(16 * 10**6) == pytest.approx(1 - 0.999**16)
    assert Averaging("ema", 10**5, 0.9).share(10**6) == 1.0
    almost = math.nextafter(1.0, 0.0)
    assert Averaging("ema", 1, almost).share(1000) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("name", AVERAGES)
def test_snapshots_come_at_multiples_and_steps_left_leads_to_them(name):
    plan = plan_averaging(name, **PLAN, total_steps=10_000)
    assert plan.every == 16
    for step in (0, 1, 15, 16, 17, 9999):
        assert (step + plan.steps_left(step)) % 16 == 0
        assert 0 < plan.steps_left(step) <= 16
    shares = [plan.share(step) for step in range(10_001)]
    first = {"none": math.inf, "ema": 16, "polyak": 5008}[name]
    for step, share in enumerate(shares):
        assert (share > 0) == (step >= first and step % 16 == 0), step


def test_large_tables_and_shrinkage_make_snapshots_rarer_and_short_runs_do_not():
    def every(n_parameters, total_steps=10**9, *, shrinks=False):
        sizes = {"n_parameters": n_parameters, "batch_size": 1000, "total_steps": total_steps}
        return plan_averaging("ema", decay=0.9, start=0, shrinks=shrinks, **sizes).every

    assert every(10) == 16
    assert every(64_000 * 16 + 1) == 17
    assert every(64_000 * 400) == 400
    assert every(64_000 * 400, shrinks=True) == 6400
    assert every(64_000 * 400, 6400) == 100
    assert every(10, 5) == 1


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"name": "swa"}, "--average"),
        ({"decay": 0.0}, "--average-decay"),
        ({"decay": 1.0}, "--average-decay"),
        ({"decay": math.nan}, "--average-decay"),
        ({"start": -0.1}, "--average-start"),
        ({"start": 1.0}, "--average-start"),
        ({"start": math.nan}, "--average-start"),
    ],
)
def test_an_average_that_cannot_be_names_its_option(changes, option):
    with pytest.raises(ConfigError) as caught:
        check_averaging(**({"name": "ema", "decay": 0.9, "start": 0.5} | changes))
    assert caught.value.where == option
