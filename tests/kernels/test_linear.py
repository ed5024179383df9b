"""The kernels of linear models against float64 NumPy."""

import numpy as np
import pytest

from streamtrain.kernels.linear_tables import group_codes, sum_codes, table_size
from streamtrain.kernels.losses import LOSSES
from streamtrain.kernels.team import Team
from streamtrain.kernels.updates import OPTIMIZERS
from streamtrain.model.linear import LinearModel
from tests.kernels.linear_oracle import (
    batch_loss,
    design,
    kernel_steps,
    make_problem,
    oracle_steps,
    settings_of,
)

EPS = float(np.finfo(np.float32).eps)
PENALTIES = [(0.0, 0.0), (0.02, 0.0), (0.0, 0.3), (0.02, 0.3)]
RATES = [0.3, 0.1, 0.2, 0.05, 0.25, 0.15]
SIZE = 17  # 93 rows: five whole batches and one of eight rows


def tolerance(batch_size, n_steps):
    # Sums of about B terms of size 1 in float32; every step may add its own error, and
    # AdaGrad and Adam divide by gradients of about 0.05.
    return 20 * EPS * np.sqrt(batch_size) * n_steps


@pytest.mark.parametrize(("l1", "l2"), PENALTIES)
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_training_follows_the_float64_oracle(loss, optimizer, weighted, missing, l1, l2):
    problem = make_problem(loss, weighted=weighted, missing=missing)
    settings = settings_of(optimizer, l1, l2)
    expected, expected_sums = oracle_steps(problem, settings, SIZE, RATES, step=3)
    found, sums, taken, _ = kernel_steps(problem, settings, SIZE, RATES, step=3)
    assert taken == len(RATES)
    limit = tolerance(SIZE, len(RATES))
    np.testing.assert_allclose(found, expected, rtol=limit, atol=limit)
    expected_sums[:, 0] /= problem.architecture.loss_unit
    np.testing.assert_allclose(sums, expected_sums, rtol=SIZE * limit)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_of_sgd_is_the_gradient_by_central_differences(loss):
    problem = make_problem(loss, weighted=True, missing=True, n_rows=40)
    settings = settings_of("sgd")
    moved, *_ = kernel_steps(problem, settings, 40, [1.0])
    gradient = problem.start.astype(np.float64) - moved
    start = problem.start.astype(np.float64)
    h = 1e-5
    for k in range(len(start)):
        ends = []
        for sign in (1, -1):
            at = start.copy()
            at[k] += sign * h
            ends.append(batch_loss(problem, at, slice(None))[0])
        # Central differences err by h^2; the kernel by float32 sums of 40 terms.
        assert gradient[k] == pytest.approx((ends[0] - ends[1]) / (2 * h), abs=40 * EPS + 1e-7)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_one_two_and_three_threads_give_the_same_bits(loss, optimizer):
    problem = make_problem(
        loss, n_rows=1500, cardinalities=(3, 50, 7), weighted=True, missing=True, seed=4
    )
    settings = settings_of(optimizer, 0.001, 0.02)
    rates = [0.1] * 4
    results = [kernel_steps(problem, settings, 400, rates, n_threads=n) for n in (1, 2, 3)]
    for found, sums, _, rule in results[1:]:
        assert found.tobytes() == results[0][0].tobytes()
        assert sums.tobytes() == results[0][1].tobytes()
        for name, array in rule.tensors().items():
            assert array.tobytes() == results[0][3].tensors()[name].tobytes(), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_many_steps_in_one_call_give_the_bits_of_many_calls(optimizer):
    problem = make_problem("logistic", missing=True)
    settings = settings_of(optimizer, 0.01, 0.1)
    once = kernel_steps(problem, settings, SIZE, RATES)
    for calls in ([(k, k + 1) for k in range(6)], [(0, 2), (2, 5), (5, 6)]):
        several = kernel_steps(problem, settings, SIZE, RATES, calls=calls)
        assert several[0].tobytes() == once[0].tobytes()
        assert several[1].tobytes() == once[1].tobytes()


@pytest.mark.parametrize("cardinality", [3, 200, 60_000, 131_072, 131_073, 200_000])
def test_codes_are_grouped_exactly_for_small_and_large_vocabularies(cardinality):
    # More codes than any table has slots, and codes that share their low bits.
    problem = make_problem("logistic", n_rows=600, n_numeric=1, cardinalities=(cardinality, 5))
    codes = problem.rows.codes
    codes[::3, 0] = (codes[::3, 0] // 4096 * 4096) % cardinality
    problem.start[:] = 0
    settings = settings_of("sgd")
    moved, *_ = kernel_steps(problem, settings, 300, [1.0])
    delta = np.where(problem.rows.target[:300] == 1, -0.5, 0.5) / 300
    expected = np.bincount(codes[:300, 0], delta, minlength=cardinality)
    np.testing.assert_allclose(-moved[3 : 3 + cardinality], expected, atol=300 * EPS / 300)


@pytest.mark.parametrize("cardinality", [1, 40, 5000])
def test_codes_are_summed_in_place_as_they_are_grouped(cardinality):
    rng = np.random.default_rng(3)
    n = 700
    codes = rng.integers(0, cardinality, (n, 2)).astype(np.int32)
    delta = rng.normal(size=(n, 1)).astype(np.float32)
    # Sums that are 0, infinite or NaN are of codes that the batch holds all the same.
    delta[rng.random(n) < 0.3] = 0.0
    far = codes[:, 1] % 7 == 3
    delta[far] = np.copysign(np.float32(np.inf), delta[far])
    sums, slots = np.zeros(cardinality, np.float32), np.full(table_size(n), -1, np.int32)
    results = []
    for way in ("sum", "group"):
        unique, gradient = np.zeros(n, np.int32), np.zeros(n, np.float32)
        if way == "sum":
            found = sum_codes(codes[:, 1], delta[:, 0], sums, unique, gradient)
        else:
            places = np.zeros(n, np.int32)
            found = group_codes(1, 0, n, codes, delta, cardinality, slots, unique, places, gradient)
        results.append((unique[:found], gradient[:found]))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
    assert set(results[0][0]) == set(codes[:, 1])
    assert not sums.any()
    assert (slots == -1).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_loss_that_is_not_finite_stops_before_its_update(loss, n_threads):
    problem = make_problem(loss, missing=False)
    settings = settings_of("momentum")
    problem.rows.numeric[2 * SIZE + 5, 1] = np.inf
    found, _, taken, _ = kernel_steps(problem, settings, SIZE, RATES, n_threads=n_threads)
    assert taken == 2
    clean = make_problem(loss, missing=False)
    expected, *_ = kernel_steps(clean, settings, SIZE, RATES[:2], n_threads=n_threads)
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("size", [0.3, 40.0])
@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.2}], ids=["plain", "smooth"])
@pytest.mark.parametrize("batch_size", [17, 700, 5000])
def test_rows_that_count_alike_give_the_bits_of_weights_of_one(batch_size, settings, size):
    # Without weights, a tile's logistic losses are summed as one log of a product.
    problem = make_problem("logistic", n_rows=5000, missing=True, weight_scale=1.0, **settings)
    # At 40 all rows are right, and their losses as small as exp(-40).
    problem.start[0] = size
    if size > 1.0:
        problem.rows.target[:] = 1
    rates = [0.1] * -(-5000 // batch_size)
    alike, sums, *_ = kernel_steps(problem, settings_of("adagrad"), batch_size, rates)
    problem.rows.weight = np.ones(5000, np.float32)
    expected, expected_sums, *_ = kernel_steps(problem, settings_of("adagrad"), batch_size, rates)
    assert alike.tobytes() == expected.tobytes()
    # A tile has at most 256 products, each of which may err by half of float64's epsilon.
    np.testing.assert_allclose(sums, expected_sums, rtol=256 * np.finfo(np.float64).eps)


@pytest.mark.parametrize("target", [0, 1])
@pytest.mark.parametrize("weighted", [False, True])
def test_an_infinite_logistic_score_is_seen_on_the_right_side_too(weighted, target):
    problem = make_problem("logistic", weighted=weighted)
    problem.rows.target[:] = target
    problem.rows.numeric[2 * SIZE + 5, 1] = np.inf
    assert kernel_steps(problem, settings_of("sgd"), SIZE, RATES)[2] == 2


def test_nan_parameters_are_seen_at_once_by_every_loss():
    for loss in LOSSES:
        problem = make_problem(loss)
        problem.start[0] = np.nan
        assert kernel_steps(problem, settings_of("sgd"), SIZE, RATES)[2] == 0, loss


@pytest.mark.parametrize("n_rows", [0, 1, 255, 256, 700])
@pytest.mark.parametrize("loss", ["logistic", "softmax"])
def test_scores_of_rows_follow_the_oracle(loss, n_rows):
    problem = make_problem(loss, n_rows=max(n_rows, 1), missing=True)
    rows = problem.rows
    x = design(problem.architecture, rows)[:n_rows]
    c = problem.architecture.n_scores
    expected = x @ problem.start.astype(np.float64).reshape(-1, c)
    found = []
    for n_threads in (1, 2):
        with Team(n_threads) as team:
            model = LinearModel(problem.architecture, team)
            found.append(model.scores(problem.start, rows.numeric[:n_rows], rows.codes[:n_rows]))
    assert found[0].shape == (n_rows, c)
    assert found[0].tobytes() == found[1].tobytes()
    np.testing.assert_allclose(found[0], expected, atol=EPS * 8 * (1 + np.abs(x).max(initial=0)))


def test_the_bias_never_shrinks_and_everything_else_does():
    problem = make_problem("hinge", cardinalities=(6,))
    # Margins over 1 everywhere: no gradient, so all that moves is shrinkage.
    problem.rows.target[:] = 1
    problem.start[:] = 0.001
    problem.start[0] = 50.0
    settings = settings_of("sgd", l1=0.0, l2=1.0)
    found, *_ = kernel_steps(problem, settings, SIZE, [0.5] * 6)
    assert found[0] == 50.0
    np.testing.assert_allclose(found[1:], np.float32(0.001) * 0.5**6, rtol=8 * EPS)
