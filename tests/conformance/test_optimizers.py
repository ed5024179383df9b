"""Every optimizer passes the same tests. One table says which, and with which settings."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from streamtrain.kernels import updates
from streamtrain.kernels.losses import LOSSES
from streamtrain.kernels.team import Team
from streamtrain.kernels.updates import (
    OPTIMIZERS,
    adam_corrections,
    decay_range,
    update_free_range,
    update_range,
    update_rows,
)
from streamtrain.model.architecture import Architecture
from streamtrain.model.linear import LinearModel
from streamtrain.optim.optimizers import OptimizerSettings, make_rule, rule_bytes
from tests.kernels.linear_oracle import (
    Problem,
    Rows,
    kernel_steps,
    make_problem,
    oracle_steps,
    settings_of,
)
from tests.kernels.updates_oracle import Oracle

EPS = float(np.finfo(np.float32).eps)
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "optimizers.json").read_text())
ALPHA = 0.2

# name: (settings beside those common to all, lengths of first and second for P = 50
# parameters, of which 30 are dense and 20 in 5 rows of tables)
TABLE = {
    "sgd": ({}, (0, 0)),
    "momentum": ({"momentum": 0.8}, (50, 0)),
    "nesterov": ({"momentum": 0.8}, (50, 0)),
    "adagrad": ({}, (0, 50)),
    "rowwise-adagrad": ({}, (0, 35)),
    "rmsprop": ({"rho": 0.9}, (0, 50)),
    "adam": ({"beta1": 0.8, "beta2": 0.95}, (50, 50)),
    "adamw": ({"beta1": 0.8, "beta2": 0.95}, (50, 50)),
    "ftrl": ({"ftrl_beta": 0.5}, (50, 50)),
}
every = pytest.mark.parametrize("name", TABLE)


def case(name, **others):
    return settings_of(name, **{"l2": 0.0, **TABLE[name][0], **others})


def rates_of(n_steps):
    # Rising and falling: a schedule, never above FTRL's alpha.
    return [ALPHA * (0.4 + 0.6 * math.cos(0.3 * s) ** 2) for s in range(n_steps)]


def limit_of(n_steps):
    # Each step rounds its few operations; what it divides by is at least epsilon = 1e-3,
    # but gradients here are of size 1.
    return 20 * EPS * n_steps


def test_the_table_has_every_optimizer():
    assert set(TABLE) == set(OPTIMIZERS)


@pytest.mark.parametrize(
    ("name", "l1", "l2"),
    # Only ftrl has penalties inside its formula.
    [(name, 0.0, 0.0) for name in TABLE]
    + [("ftrl", 0.3, 0.0), ("ftrl", 0.0, 0.4), ("ftrl", 0.3, 0.4)],
)
def test_ranges_follow_the_float64_oracle(name, l1, l2):
    n, start, n_steps = 37, 5, 30
    settings = case(name, l1=l1, l2=l2)
    rng = np.random.default_rng(1)
    w = rng.normal(size=n + 9).astype(np.float32)
    rule = make_rule(settings, n_parameters=n + 9, n_dense=n + 9, n_table_rows=0, rate=ALPHA)
    expected = w.astype(np.float64)[:, None]
    oracle = Oracle(settings, expected.shape, n_dense=len(w), alpha=ALPHA, n_free=0)
    inside = np.arange(start, start + n)
    before = w.copy()
    for s, rate in enumerate(rates_of(n_steps)):
        g = rng.normal(size=n).astype(np.float32)
        dense = np.zeros((len(w), 1))
        dense[inside, 0] = g
        corrections = adam_corrections(rule.number, rule.hyper, s + 1)
        update_range(
            rule.number, w, rule.first, rule.second, g, start, n, np.float32(rate), rule.hyper,
            *corrections,
        )  # fmt: skip
        oracle.step(expected, dense, rate, s + 1, inside)
    np.testing.assert_allclose(w, expected[:, 0], rtol=limit_of(30), atol=limit_of(30))
    outside = np.r_[:start, start + n : len(w)]
    assert w[outside].tolist() == before[outside].tolist()
    for state in (rule.first, rule.second):
        if len(state):
            assert not state[outside].any()
            assert state[inside].any()


@every
@pytest.mark.parametrize("width", [1, 3, 8, 20])
@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_rows_follow_the_float64_oracle(name, width, factor):
    n_rows, n_steps = 6, 25
    settings = case(name, **({"l1": 0.2, "l2": 0.3} if name == "ftrl" else {}))
    rng = np.random.default_rng(width)
    w = rng.normal(size=n_rows * width).astype(np.float32)
    rule = make_rule(
        settings, n_parameters=len(w), n_dense=0, n_table_rows=n_rows, rate=ALPHA,
        table_rate_factor=factor,
    )  # fmt: skip
    expected = w.astype(np.float64).reshape(n_rows, width)
    oracle = Oracle(settings, expected.shape, n_dense=0, alpha=ALPHA, table_factor=factor, n_free=0)
    for s, rate in enumerate(rates_of(n_steps)):
        g = rng.normal(size=len(w)).astype(np.float32)
        update_rows(
            rule.number, w, rule.first, rule.second, g, n_rows, width,
            np.float32(rate * factor), rule.hyper,
            *adam_corrections(rule.number, rule.hyper, s + 1),
        )  # fmt: skip
        oracle.step(expected, g.reshape(expected.shape).astype(np.float64), rate, s + 1)
    np.testing.assert_allclose(w, expected.reshape(-1), rtol=limit_of(25), atol=limit_of(25))


def golden_gradient(w, step):
    k = np.arange(len(w))
    return (0.2 + k / len(w)) * (w - np.cos(k)) + 0.3 * np.sin(0.7 * step + k)


@pytest.mark.parametrize("name", GOLDEN["optimizers"])
def test_a_hundred_steps_end_where_those_of_pytorch_do(name):
    golden = GOLDEN["optimizers"][name]
    options = dict(golden["options"])
    names = {"eps": "epsilon", "weight_decay": "l2", "alpha": "rho", "momentum": "momentum"}
    settings = {names[k]: v for k, v in options.items() if k in names}
    if "betas" in options:
        settings["beta1"], settings["beta2"] = options["betas"]
    settings = OptimizerSettings(name=name, **settings)
    settings.check()
    places = np.array(golden["places"])
    n = places.shape[1]
    rule = make_rule(settings, n_parameters=n, n_dense=n, n_table_rows=0)
    w = np.sin(1.0 + 2.0 * np.arange(n)).astype(np.float32)
    keep = 1.0 - options["lr"] * rule.hyper[updates.H_L2]
    for step, place in enumerate(places):
        gradient = golden_gradient(w.astype(np.float64), step).astype(np.float32)
        decay_range(w, 0, n, keep)
        update_range(
            rule.number, w, rule.first, rule.second, gradient, 0, n, np.float32(options["lr"]),
            rule.hyper, *adam_corrections(rule.number, rule.hyper, step + 1),
        )  # fmt: skip
        # The bowl draws errors in; each step adds the rounding of a few operations.
        np.testing.assert_allclose(w, place, atol=8 * EPS * (step + 1), err_msg=f"step {step}")


@every
def test_state_is_sized_by_what_the_kernel_touches(name):
    settings = case(name)
    sizes = {"n_parameters": 50, "n_dense": 30, "n_table_rows": 5}
    # Not checked before: sizes must not hang on it.
    rule = make_rule(settings, **sizes, rate=0.1)
    assert (len(rule.first), len(rule.second)) == TABLE[name][1]
    assert rule_bytes(settings, **sizes) == sum(a.nbytes for a in rule.tensors().values()) - 16
    # As plain Python, a place beyond an array is an error.
    w, g = np.ones(50, np.float32), np.ones(50, np.float32)
    first, second = rule.first[:30], rule.second[:30]
    updates._update.py_func(
        rule.number, w[:30], first, second, g, 30, np.float32(0.1), rule.hyper, np.float32(1),
        np.float32(1), 0.1, 0.0, 0.0,
    )  # fmt: skip
    second = rule.second[30:]
    updates.update_rows.py_func(
        rule.number, w[30:], rule.first[30:], second, g, 5, 4, np.float32(0.1), rule.hyper,
        np.float32(1), np.float32(1),
    )  # fmt: skip
    assert (w != 1).all()


@every
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_shows(name, bad):
    settings = case(name, l1=0.5 if name == "ftrl" else 0.0)
    rule = make_rule(settings, n_parameters=40, n_dense=40, n_table_rows=0, rate=ALPHA)
    for k in (3, 38):  # in a vector, and after the last
        w, g = np.ones(40, np.float32), np.ones(40, np.float32)
        g[k] = bad
        update_range(
            rule.number, w, rule.first, rule.second, g, 0, 40, np.float32(ALPHA), rule.hyper,
            np.float32(1), np.float32(1),
        )  # fmt: skip
        assert not np.isfinite(w[k])
        assert np.isfinite(np.delete(w, [3, 38])).all()


def one_hot_problem(n_rows=60, n_codes=5):
    """Return the same rows as codes of one field, and as a column for each code."""
    codes = np.arange(n_rows) % n_codes
    target = np.random.default_rng(8).integers(0, 4, n_rows).astype(np.float32)
    nothing = np.empty(0, np.float32)
    start = np.random.default_rng(9).normal(size=(1 + n_codes) * 4).astype(np.float32)
    common = {"model": "linear", "loss": "softmax", "n_scores": 4}
    fields = Problem(
        Architecture(mean=(), scale=(), cardinalities=(n_codes,), **common),
        Rows(
            np.empty((n_rows, 0), np.float32),
            codes[:, None].astype(np.int32),
            target,
            nothing,
            nothing,
        ),
        start,
    )
    columns = Problem(
        Architecture(mean=(0.0,) * n_codes, scale=(1.0,) * n_codes, cardinalities=(), **common),
        Rows(np.eye(n_codes, dtype=np.float32)[codes], np.empty((n_rows, 0), np.int32), target,
             nothing, nothing),
        np.concatenate([start, np.zeros(n_codes * 4, np.float32)]),
    )  # fmt: skip
    return fields, columns


@pytest.mark.parametrize("name", [n for n in TABLE if n != "rowwise-adagrad"])
def test_rows_that_every_batch_touches_move_as_dense_weights_do(name):
    fields, columns = one_hot_problem()
    settings = case(name, l1=0.01, l2=0.1)
    rates = rates_of(6)
    sparse = kernel_steps(fields, settings, 10, rates)[0]
    dense = kernel_steps(columns, settings, 10, rates)[0]
    assert len(sparse) == 24
    np.testing.assert_allclose(sparse, dense[:24], rtol=1e-5, atol=limit_of(6))


def quiet_problem():
    """Return rows of which the first 40 hold no code above 4 of field 0, the rest any."""
    problem = make_problem("softmax", n_rows=80, cardinalities=(9, 3))
    problem.rows.codes[:40, 0] %= 5
    problem.rows.codes[40:, 0] = np.arange(40) % 9
    return problem


@every
def test_rows_that_no_batch_touches_wait_and_their_state_with_them(name):
    problem = quiet_problem()
    settings = case(name)
    with Team(1) as team:
        model = LinearModel(problem.architecture, team, batch_size=10)
        layout = model.layout
        rule = make_rule(
            settings, n_parameters=layout.n_parameters, n_dense=layout.n_dense,
            n_table_rows=layout.n_table_rows, rate=ALPHA,
        )  # fmt: skip
        w = problem.start.copy()

        def steps(start, end):
            r = problem.rows
            model.take_steps(
                w, rule, numeric=r.numeric[start:end], codes=r.codes[start:end],
                target=r.target[start:end], weight=r.weight, batch_size=10, step=start // 10,
                rates=np.full((end - start) // 10, ALPHA), step_sums=np.zeros((4, 2)),
            )  # fmt: skip

        steps(40, 80)
        row = layout.n_dense_rows + 5
        by_row = name == "rowwise-adagrad"
        places = {
            "w": (w, slice(row * 4, (row + 4) * 4)),
            "first": (rule.first, slice(row * 4, (row + 4) * 4)),
            "second": (
                rule.second,
                slice(layout.n_dense + 5, layout.n_dense + 9)
                if by_row
                else slice(row * 4, (row + 4) * 4),
            ),
        }
        before = {k: array[place].tobytes() for k, (array, place) in places.items()}
        whole = {k: array.tobytes() for k, (array, _) in places.items()}
        steps(0, 40)
    for k, (array, place) in places.items():
        assert array[place].tobytes() == before[k], k
        if len(array):
            assert array[place].any()
            assert array.tobytes() != whole[k]


@every
def test_decay_is_caught_up_exactly_where_it_is_apart_from_the_update(name):
    problem = quiet_problem()
    l1, l2, factor = 0.002, 0.4, 0.5
    settings = case(name, l1=l1, l2=l2)
    rates = rates_of(4)
    found = kernel_steps(problem, settings, 10, rates, table_factor=factor)[0].reshape(-1, 4)
    n_dense = 1 + 2 * 3
    quiet = slice(n_dense + 5, n_dense + 9)
    expected = problem.start.reshape(-1, 4)[quiet].astype(np.float64)
    if name != "ftrl":
        for rate in rates:
            size = np.abs(expected) * (1 - rate * factor * l2) - rate * factor * l1
            expected = np.sign(expected) * np.maximum(size, 0)
    np.testing.assert_allclose(found[quiet], expected, rtol=2 * EPS, atol=EPS / 100)


@every
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("clip", [{}, {"clip_value": 0.02}, {"clip_norm": 0.1}, "both"], ids=str)
def test_linear_models_follow_the_oracle_with_clipping_and_a_rate_of_rows(name, loss, clip):
    clip = {"clip_value": 0.02, "clip_norm": 0.1} if clip == "both" else clip
    problem = make_problem(loss, weighted=True, missing=True)
    settings = case(name, l1=0.01, l2=0.2, **clip)
    rates = rates_of(5)
    expected, _ = oracle_steps(problem, settings, 17, rates, step=2, table_factor=0.3)
    found, _, taken, _ = kernel_steps(problem, settings, 17, rates, step=2, table_factor=0.3)
    assert taken == 5
    # As in tests/kernels/test_linear.py.
    limit = 20 * EPS * np.sqrt(17) * 5
    np.testing.assert_allclose(found, expected, rtol=limit, atol=limit)
    if clip:
        free, _ = oracle_steps(problem, case(name, l1=0.01, l2=0.2), 17, rates, step=2)
        assert np.abs(free - expected).max() > 100 * limit


@every
@pytest.mark.parametrize("clip_norm", [0.0, 0.05])
def test_one_two_and_three_threads_give_the_same_bits(name, clip_norm):
    problem = make_problem(
        "softmax", n_rows=1200, cardinalities=(3, 50, 7), weighted=True, missing=True, seed=4
    )
    settings = case(name, l1=0.001, l2=0.02, clip_norm=clip_norm)
    results = [
        kernel_steps(problem, settings, 400, [0.1] * 3, n_threads=n, table_factor=0.5)
        for n in (1, 2, 3)
    ]
    for found, _, _, rule in results[1:]:
        assert found.tobytes() == results[0][0].tobytes()
        for key, array in rule.tensors().items():
            assert array.tobytes() == results[0][3].tensors()[key].tobytes(), key


def ftrl_steps(settings, gradients, rates, *, free=False):
    n = gradients.shape[1]
    rule = make_rule(settings, n_parameters=n, n_dense=n, n_table_rows=0, rate=ALPHA)
    w = np.zeros(n, np.float32)
    move = update_free_range if free else update_range
    for g, rate in zip(gradients, rates, strict=True):
        move(
            rule.number, w, rule.first, rule.second, g, 0, n, np.float32(rate), rule.hyper,
            np.float32(1), np.float32(1),
        )  # fmt: skip
    return w


def test_ftrl_holds_weights_at_exactly_zero_and_a_falling_rate_frees_none():
    rng = np.random.default_rng(3)
    gradients = rng.normal(size=(200, 40)).astype(np.float32)
    gradients[:, :5] += 1.0
    falling = ALPHA * np.cos(np.linspace(0, np.pi / 2, 200))
    settings = case("ftrl", l1=60.0)
    for rates in (np.full(200, ALPHA), falling):
        w = ftrl_steps(settings, gradients, rates)
        assert (w[:5] < 0).all()
        assert (w[5:] == 0).all()
    assert (ftrl_steps(settings, gradients, falling, free=True)[5:] != 0).all()


def test_ftrl_without_penalties_takes_adagrads_steps_whatever_the_schedule():
    rng = np.random.default_rng(4)
    gradients = rng.normal(size=(50, 30)).astype(np.float32)
    rates = ALPHA * np.exp(-np.arange(50) / 10)
    w = np.zeros(30)
    n = np.zeros(30)
    for g, rate in zip(gradients.astype(np.float64), rates, strict=True):
        n += g**2
        w -= rate * g / (0.5 + np.sqrt(n))
    found = ftrl_steps(case("ftrl"), gradients, rates)
    np.testing.assert_allclose(found, w, rtol=limit_of(50), atol=limit_of(50))


def test_ftrl_starts_from_any_place_and_leaves_it_only_for_a_gradient():
    settings = case("ftrl", l1=0.5, l2=0.3)
    start = np.linspace(-1, 1, 21).astype(np.float32)
    rule = make_rule(settings, n_parameters=21, n_dense=21, n_table_rows=0, rate=ALPHA)
    w, g = start.copy(), np.zeros(21, np.float32)
    for _ in range(10):
        update_range(
            rule.number, w, rule.first, rule.second, g, 0, 21, np.float32(ALPHA), rule.hyper,
            np.float32(1), np.float32(1),
        )  # fmt: skip
    assert w.tobytes() == start.tobytes()
    g[:] = 1e-6
    update_range(
        rule.number, w, rule.first, rule.second, g, 0, 21, np.float32(ALPHA), rule.hyper,
        np.float32(1), np.float32(1),
    )  # fmt: skip
    np.testing.assert_allclose(w, start, atol=1e-5)
