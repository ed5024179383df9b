"""One table of losses, and what every one of them must do."""

from dataclasses import dataclass

import numpy as np
import pytest

from streamtrain.kernels.losses import LOSSES, N_SHAPE, log_exposure, loss_and_delta, row_weight
from streamtrain.kernels.team import Team
from streamtrain.model.architecture import Architecture
from streamtrain.model.linear import LinearModel
from streamtrain.model.losses import LOG_LINKS
from streamtrain.model.predictions import predictions, row_losses
from tests.kernels.linear_oracle import (
    batch_loss,
    kernel_steps,
    losses_and_deltas,
    make_problem,
    oracle_steps,
    settings_of,
)

EPS = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Case:
    loss: str
    targets: tuple[float, ...]
    settings: dict

    @property
    def architecture(self):
        n_scores = 4 if self.loss == "softmax" else 1
        return Architecture("linear", self.loss, n_scores, (), (), (), **self.settings)

    def __str__(self):
        return "-".join([self.loss, *(f"{k}={v}" for k, v in self.settings.items())])


VALUES, COUNTS = (-3.0, -0.5, 0.25, 2.0, 40.0), (0.0, 1.0, 2.5, 7.0)
SCALED = {"target_mean": 3.0, "target_scale": 0.25}
CASES = [
    Case("squared", VALUES, {}),
    Case("squared", VALUES, SCALED),
    Case("logistic", (0.0, 1.0), {}),
    Case("logistic", (0.0, 1.0), {"label_smoothing": 0.2}),
    Case("softmax", (0.0, 1.0, 3.0), {}),
    Case("softmax", (0.0, 1.0, 3.0), {"label_smoothing": 0.3}),
    Case("hinge", (0.0, 1.0), {}),
    Case("absolute", VALUES, {}),
    Case("absolute", VALUES, SCALED),
    Case("huber", VALUES, {"huber_delta": 0.7}),
    Case("huber", VALUES, {"huber_delta": 8.0, **SCALED}),
    Case("quantile", VALUES, {"quantile": 0.9}),
    Case("quantile", VALUES, {"quantile": 0.05, **SCALED}),
    Case("poisson", COUNTS, {}),
    Case("gamma", (0.01, 1.0, 30.0), {}),
    Case("tweedie", COUNTS, {"tweedie_power": 1.1}),
    Case("tweedie", COUNTS, {"tweedie_power": 1.9}),
]
EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=str)


def kernel(case, scores, y, exposure=()):
    """Return (losses (n,), deltas (n, C)) of rows, targets as learnt, from the kernel."""
    a, shape = case.architecture, case.architecture.loss_shape()
    exposure = np.asarray(exposure, np.float32)
    deltas = np.full(scores.shape, np.nan, np.float32)
    losses = [
        loss_and_delta(
            a.loss_number, scores[i], np.float32(y[i]), log_exposure(exposure, i), shape, deltas[i]
        )
        for i in range(len(y))
    ]
    return np.array(losses), deltas


def rows(case, *, spread=1.5, n_rows=60, seed=0):
    """Return scores (n, C), targets as learnt and as they are."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(scale=spread, size=(n_rows, case.architecture.n_scores))
    target = rng.choice(np.array(case.targets), n_rows)
    a = case.architecture
    learnt = ((target - a.target_mean) * a.target_scale).astype(np.float32)
    return scores.astype(np.float32), learnt, target.astype(np.float32)


def exposures(case, n_rows):
    if case.loss not in LOG_LINKS:
        return np.empty(0, np.float32)
    return np.random.default_rng(5).uniform(0.05, 20.0, n_rows).astype(np.float32)


def test_the_table_has_every_loss():
    assert {case.loss for case in CASES} == set(LOSSES)
    assert all(len(case.architecture.loss_shape()) == N_SHAPE for case in CASES)


@EVERY_CASE
@pytest.mark.parametrize("exposed", [False, True])
def test_losses_and_derivatives_follow_the_float64_oracle(case, exposed):
    scores, y, _ = rows(case)
    e = exposures(case, len(y)) if exposed else np.empty(0, np.float32)
    losses, deltas = kernel(case, scores, y, e)
    wide = scores.astype(np.float64), y.astype(np.float64), e.astype(np.float64)
    expected, expected_deltas = losses_and_deltas(case.architecture, *wide)
    # A few roundings of float32 in settings, exponentials and logs, each relative to its terms;
    # the exponent of a log link may be off by eps times 4, its greatest size.
    scale = 1 + np.abs(expected) + np.abs(expected_deltas).max(axis=1)
    assert (np.abs(losses - expected) <= 8 * EPS * scale).all()
    assert (np.abs(deltas - expected_deltas) <= 8 * EPS * scale[:, None]).all()


@EVERY_CASE
def test_derivatives_are_the_central_differences_of_the_loss(case):
    h = np.float32(2.0**-8)
    scores, y, _ = rows(case)
    # A grid on which s + h and s - h are exact, and no kink lies between them.
    scores = np.round(scores * 64) / np.float32(64) + np.float32(2.0**-7)
    e = exposures(case, len(y))
    _, deltas = kernel(case, scores, y, e)
    expected, _ = losses_and_deltas(case.architecture, scores.astype(np.float64), y, e)
    for c in range(scores.shape[1]):
        ends = []
        for sign in (1, -1):
            moved = scores.copy()
            moved[:, c] += sign * h
            ends.append(kernel(case, moved, y, e)[0])
        slope = (ends[0] - ends[1]) / (2 * h)
        # The third derivative of each is below its size and 8; float32 costs eps / h.
        scale = 8 + np.abs(expected) + np.abs(deltas[:, c])
        kinked = case.loss in {"absolute", "quantile"} and np.abs(scores[:, 0] - y) <= h
        if case.loss == "hinge":
            kinked = np.abs(1 - (2 * y - 1) * scores[:, 0]) <= h
        if case.loss == "huber":
            kinked = np.abs(np.abs(scores[:, 0] - y) - case.architecture.loss_shape()[0]) <= h
        close = np.abs(slope - deltas[:, c]) <= scale * (h * h / 6 + EPS / h)
        assert (close | kinked).all()
        assert np.mean(kinked) < 0.2


@EVERY_CASE
@pytest.mark.parametrize("size", [90.0, 3e4, 1e30, 3e38])
def test_extreme_scores_cost_a_finite_loss_or_are_visibly_infinite(case, size):
    a = case.architecture
    for target in case.targets:
        y = np.float32((target - a.target_mean) * a.target_scale)
        for sign in (1, -1):
            scores = np.zeros((1, a.n_scores), np.float32)
            scores[0, 0] = sign * size
            losses, deltas = kernel(case, scores, [y])
            assert not np.isnan(losses[0])
            assert losses[0] > -np.inf
            if np.isfinite(losses[0]):
                assert np.isfinite(deltas).all()


@pytest.mark.parametrize("case", [c for c in CASES if c.loss in LOG_LINKS], ids=str)
def test_a_mean_close_to_0_is_right_where_nothing_happened(case):
    if case.loss == "gamma":
        return
    losses, deltas = kernel(case, np.array([[-3e4], [-1e30]], np.float32), [0.0, 0.0])
    assert losses.tolist() == deltas[:, 0].tolist() == [0.0, 0.0]


@EVERY_CASE
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_never_pass_as_a_loss(case, poison):
    a = case.architecture
    for target in case.targets:
        y = np.float32((target - a.target_mean) * a.target_scale)
        for c in range(a.n_scores):
            scores = np.zeros((1, a.n_scores), np.float32)
            scores[0, c] = poison
            assert not np.isfinite(kernel(case, scores, [y])[0][0])


@EVERY_CASE
def test_losses_of_rows_are_those_of_the_kernel_in_the_targets_own_units(case):
    scores, y, target = rows(case)
    e = exposures(case, len(y))
    losses, _ = kernel(case, scores, y, e)
    found = row_losses(case.architecture, scores, target, e)
    limit = 8 * EPS * (1 + np.abs(losses).max()) / case.architecture.loss_unit
    np.testing.assert_allclose(
        found, losses / case.architecture.loss_unit, atol=limit, rtol=8 * EPS
    )


@pytest.mark.parametrize("case", [c for c in CASES if c.loss in LOG_LINKS], ids=str)
def test_an_exposure_multiplies_the_mean(case):
    scores, y, _ = rows(case)
    e = exposures(case, len(y))
    shifted = scores + np.log(e.astype(np.float64))[:, None]
    np.testing.assert_allclose(
        predictions(case.architecture, scores, e), np.exp(shifted[:, 0]), rtol=8 * EPS
    )
    np.testing.assert_allclose(
        predictions(case.architecture, scores), np.exp(scores[:, 0].astype(np.float64))
    )
    losses, deltas = kernel(case, scores, y, e)
    moved, moved_deltas = kernel(case, shifted.astype(np.float32), y)
    np.testing.assert_allclose(losses, moved, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(deltas, moved_deltas, rtol=1e-5, atol=1e-5)


def test_the_losses_of_log_links_are_least_at_the_target():
    for case in CASES:
        if case.loss in LOG_LINKS:
            _, deltas = kernel(case, np.log([[2.5], [2.5]]).astype("f4"), [2.5, 2.5])
            assert np.abs(deltas).max() <= 4 * EPS
            _, deltas = kernel(case, np.log([[2.5], [2.5]]).astype("f4"), [2.0, 3.0])
            assert deltas[0] > 0 > deltas[1]


def test_smoothed_logistic_is_smoothed_softmax_of_two_classes():
    rng = np.random.default_rng(3)
    s = rng.normal(scale=3, size=(50, 1)).astype(np.float32)
    y = rng.integers(0, 2, 50)
    one = Case("logistic", (), {"label_smoothing": 0.2})
    two = Case("softmax", (), {"label_smoothing": 0.2})
    losses, deltas = kernel(one, s, y)
    pair = np.concatenate([np.zeros_like(s), s], axis=1)
    wide, wide_deltas = kernel(two, pair, y)
    np.testing.assert_allclose(losses, wide, atol=8 * EPS * 10)
    np.testing.assert_allclose(deltas[:, 0], wide_deltas[:, 1], atol=8 * EPS)


def test_smoothing_stops_a_score_from_growing():
    # The best score of a target of 1 is that of the probability 1 - eps / 2.
    case = Case("logistic", (), {"label_smoothing": 0.1})
    best = np.log(0.95 / 0.05)
    _, deltas = kernel(case, np.array([[best - 1], [best], [best + 1]], "f4"), [1, 1, 1])
    assert deltas[0] < 0 < deltas[2]
    assert abs(deltas[1]) <= 4 * EPS


def test_the_quantile_loss_of_a_half_is_half_the_absolute_loss():
    scores, y, _ = rows(CASES[0])
    half, half_deltas = kernel(Case("quantile", (), {"quantile": 0.5}), scores, y)
    whole, deltas = kernel(Case("absolute", (), {}), scores, y)
    np.testing.assert_allclose(2 * half, whole)
    np.testing.assert_allclose(2 * half_deltas, deltas)


@pytest.mark.parametrize("loss", ["absolute", "quantile"])
def test_at_a_kink_nothing_moves(loss):
    assert kernel(Case(loss, (), {}), np.ones((1, 1), np.float32), [1.0])[1] == 0


def test_weights_of_rows_and_classes_are_multiplied():
    none, weights = np.empty(0, np.float32), np.array([3.0, 0.5], np.float32)
    classes = np.array([2.0, 7.0], np.float32)
    two = np.float32(2)
    assert row_weight(none, none, 1, np.float32(1), two) == 1
    assert row_weight(weights, none, 1, np.float32(1), two) == 1
    assert row_weight(none, classes, 1, np.float32(1), two) == 7
    assert row_weight(weights, classes, 0, np.float32(0), two) == 12


@pytest.mark.parametrize(
    ("loss", "changes"),
    [
        ("logistic", {"class_weights": (0.5, 3.0)}),
        ("softmax", {"class_weights": (0.5, 3.0, 1.0, 2.0), "label_smoothing": 0.1}),
        ("hinge", {"class_weights": (0.5, 3.0)}),
        ("logistic", {"label_smoothing": 0.2}),
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_training_with_class_weights_and_smoothing_follows_the_oracle(loss, changes, weighted):
    problem = make_problem(loss, weighted=weighted, **changes)
    expected, expected_sums = oracle_steps(problem, settings_of("adagrad"), 17, [0.3] * 6)
    found, sums, taken, _ = kernel_steps(problem, settings_of("adagrad"), 17, [0.3] * 6)
    assert taken == 6
    limit = 20 * EPS * np.sqrt(17) * 6
    np.testing.assert_allclose(found, expected, rtol=limit, atol=limit)
    np.testing.assert_allclose(sums, expected_sums, rtol=17 * limit)
    plain = make_problem(loss, weighted=weighted)
    assert not np.allclose(kernel_steps(plain, settings_of("adagrad"), 17, [0.3] * 6)[0], found)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("n_threads", [1, 2])
def test_progressive_scores_are_those_before_the_step_of_their_batch(loss, n_threads):
    problem = make_problem(loss, weighted=True, missing=True, seed=2)
    settings, rates = settings_of("adagrad", l2=0.1), [0.3] * 6
    n, c = len(problem.rows.target), problem.architecture.n_scores
    kept = np.full((n, c), np.nan, np.float32)
    found, sums, *_ = kernel_steps(
        problem, settings, 17, rates, n_threads=n_threads, progressive=kept
    )
    expected, expected_sums, *_ = kernel_steps(problem, settings, 17, rates)
    assert found.tobytes() == expected.tobytes()
    assert sums.tobytes() == expected_sums.tobytes()
    with Team(1) as team:
        model = LinearModel(problem.architecture, team)
        for s in range(6):
            before, *_ = kernel_steps(problem, settings, 17, rates[:s]) if s else (problem.start,)
            part = slice(17 * s, min(17 * (s + 1), n))
            scores = model.scores(before, problem.rows.numeric[part], problem.rows.codes[part])
            np.testing.assert_allclose(kept[part], scores, rtol=64 * EPS, atol=64 * EPS)


def test_the_reported_loss_of_a_batch_is_in_the_targets_own_units():
    for loss in LOSSES:
        problem = make_problem(loss, weighted=True)
        _, sums, *_ = kernel_steps(problem, settings_of("sgd"), 93, [0.1])
        expected = batch_loss(problem, problem.start.astype(np.float64), slice(None))[2]
        expected[0] /= problem.architecture.loss_unit
        np.testing.assert_allclose(sums[0], expected, rtol=93 * EPS)
