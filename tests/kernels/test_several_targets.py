"""Rows of M targets: every loss against float64 NumPy, and against M models of one target."""

import msgspec
import numpy as np
import pytest

from streamtrain.kernels.team import Team
from streamtrain.model.architecture import Architecture
from streamtrain.model.linear import LinearModel
from streamtrain.model.losses import losses_of_several
from streamtrain.model.predictions import predictions, row_losses
from tests.kernels.linear_oracle import (
    Problem,
    design,
    kernel_steps,
    losses_and_deltas,
    make_problem,
    settings_of,
)
from tests.kernels.network_oracle import NetworkOracle, make_network_problem, network_steps
from tests.kernels.test_network import named

EPS = float(np.finfo(np.float32).eps)
LOSSES = losses_of_several("labels")
M = 5
RATES = [0.3, 0.1, 0.2, 0.05, 0.25, 0.15]
SIZE = 17


def with_targets(problem, m=M, seed=0):
    """Return a problem of one target with m of them, each of its own mean and scale."""
    a, rows = problem.architecture, problem.rows
    rng = np.random.default_rng([seed, m])
    n = len(rows.target)
    means, scales = np.zeros(m), np.ones(m)
    if a.loss == "logistic":
        target = rng.integers(0, 2, (n, m))
    else:
        means, scales = np.linspace(-3, 40, m), np.geomspace(0.05, 8, m)
        target = means + rng.normal(size=(n, m)) / scales
    several = msgspec.structs.replace(
        a, n_scores=m, target_means=tuple(means.tolist()), target_scales=tuple(scales.tolist())
    )
    rows = type(rows)(**{**vars(rows), "target": target.astype(np.float32)})
    start = (0.3 * rng.normal(size=m * len(problem.start))).astype(np.float32)
    return Problem(several, rows, start)


def one_of(problem, m):
    """Return the model of the m-th target alone, and its rows."""
    a, rows = problem.architecture, problem.rows
    alone = msgspec.structs.replace(
        a,
        n_scores=1,
        target_means=msgspec.UNSET,
        target_scales=msgspec.UNSET,
        target_mean=a.target_means[m],
        target_scale=a.target_scales[m],
    )
    target = np.ascontiguousarray(rows.target[:, m])
    start = np.ascontiguousarray(problem.start.reshape(-1, a.n_scores)[:, m])
    return Problem(alone, type(rows)(**{**vars(rows), "target": target}), start)


def losses_by_output(problem, scores):
    """Return (n, M) losses as learnt and in the targets' own units, and (n, M) derivatives."""
    learnt, own, deltas = [], [], []
    for m in range(problem.architecture.n_scores):
        alone = one_of(problem, m)
        a = alone.architecture
        y = (alone.rows.target.astype(np.float64) - a.target_mean) * a.target_scale
        losses, delta = losses_and_deltas(a, scores[:, m : m + 1], y)
        learnt.append(losses)
        own.append(losses / a.loss_unit)
        deltas.append(delta[:, 0])
    return np.stack(learnt, axis=1), np.stack(own, axis=1), np.stack(deltas, axis=1)


def weights_of(problem):
    r = problem.rows
    if not len(r.weight):
        return np.ones(len(r.target))
    return r.weight.astype(np.float64) * problem.architecture.weight_scale


def limit(batch, n_steps):
    # As in test_linear.py: sums of about B terms of size 1, and an error of each step.
    return 20 * EPS * np.sqrt(batch) * n_steps


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_is_the_gradient_of_the_sum_and_reports_the_mean(loss, missing, weighted):
    problem = with_targets(make_problem(loss, weighted=weighted, missing=missing))
    x = design(problem.architecture, problem.rows)
    w = problem.start.astype(np.float64).reshape(-1, M)
    _, own, deltas = losses_by_output(problem, x @ w)
    weight, n = weights_of(problem), len(x)
    expected = x.T @ (deltas * weight[:, None]) / n
    moved, sums, taken, _ = kernel_steps(problem, settings_of("sgd"), n, [1.0])
    assert taken == 1
    found = (w.reshape(-1) - moved).reshape(-1, M)
    # What is written back has an error of its own: half an ulp of the weight.
    bound = limit(n, 1) + EPS * np.abs(w).max()
    np.testing.assert_allclose(found, expected, rtol=bound, atol=bound)
    mean = own.mean(axis=1)
    np.testing.assert_allclose(sums[0], [(mean * weight).sum(), weight.sum()], rtol=n * EPS)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "adam", "ftrl"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_linear_model_of_targets_is_as_many_linear_models(loss, optimizer, weighted):
    problem = with_targets(make_problem(loss, weighted=weighted, missing=True))
    settings = settings_of(optimizer, 0.001, 0.02)
    found, sums, *_ = kernel_steps(problem, settings, SIZE, RATES)
    total = 0.0
    for m in range(M):
        alone, sums_of_one, *_ = kernel_steps(one_of(problem, m), settings, SIZE, RATES)
        # Sums that the compiler orders otherwise for one score than for several.
        bound = limit(SIZE, len(RATES))
        np.testing.assert_allclose(found.reshape(-1, M)[:, m], alone, rtol=bound, atol=bound)
        total = total + sums_of_one[:, 0] / M
    np.testing.assert_allclose(sums[:, 0], total, rtol=SIZE * limit(SIZE, 6))
    np.testing.assert_allclose(sums[:, 1], sums_of_one[:, 1])


@pytest.mark.parametrize("loss", LOSSES)
def test_entries_of_bags_are_learnt_for_each_target(loss):
    problem = with_targets(make_problem(loss, weighted=True, bag_sizes=(7, 30)))
    settings = settings_of("adagrad", 0.0, 0.02)
    found, *_ = kernel_steps(problem, settings, SIZE, RATES)
    assert (found.reshape(-1, M)[-37:] != problem.start.reshape(-1, M)[-37:]).any(axis=0).all()
    for m in range(M):
        alone, *_ = kernel_steps(one_of(problem, m), settings, SIZE, RATES)
        bound = limit(SIZE, len(RATES))
        np.testing.assert_allclose(found.reshape(-1, M)[:, m], alone, rtol=bound, atol=bound)


@pytest.mark.parametrize("loss", ["squared", "logistic"])
@pytest.mark.parametrize("model", ["mlp", "deepfm"])
def test_a_network_of_bags_steps_along_the_gradient(model, loss):
    problem = network_problem(model, loss, dims=(4, 4, 4), bag_sizes=(6,))
    n = len(problem.rows.target)
    expected = SeveralOracle(problem.architecture).gradient(problem.start, problem.rows, 0)
    moved, *_ = network_steps(problem, settings_of("sgd"), n, [1.0])
    bound = 3 * (8 * EPS * np.sqrt(1000) + EPS)
    np.testing.assert_allclose(problem.start - moved, expected, rtol=bound, atol=bound)


@pytest.mark.parametrize("loss", LOSSES)
def test_one_two_and_three_threads_give_the_same_bits(loss):
    problem = with_targets(make_problem(loss, n_rows=1500, weighted=True, missing=True), 19)
    settings = settings_of("adagrad", 0.001, 0.02)
    results = [kernel_steps(problem, settings, 400, [0.1] * 4, n_threads=n) for n in (1, 2, 3)]
    for found, sums, *_ in results[1:]:
        assert found.tobytes() == results[0][0].tobytes()
        assert sums.tobytes() == results[0][1].tobytes()


class SeveralOracle(NetworkOracle):
    """A network whose loss is the sum over its targets."""

    def batch_loss(self, parameters, rows, position=None):
        problem = Problem(self.architecture, rows, np.zeros(self.architecture.n_scores))
        learnt, own, _ = losses_by_output(problem, self.scores(parameters, rows, position))
        weight = weights_of(problem)
        sums = ((own.mean(axis=1) * weight).sum(), weight.sum())
        return (learnt.sum(axis=1) * weight).sum() / len(weight), sums


NETWORKS = {
    "mlp": named("mlp", hidden=(9,), activation="tanh"),
    "fm": named("fm"),
    "wide-deep": named("wide-deep", hidden=(6,), activation="tanh"),
    "deepfm": named("deepfm", hidden=(6,), activation="tanh"),
    "dcn": named("dcn", hidden=(6,), activation="tanh"),
}


def network_problem(model, loss, *, n_rows=37, m=3, weighted=False, dims=(4, 4), **changes):
    factors = model in {"fm", "deepfm"}
    problem = make_network_problem(
        NETWORKS[model],
        loss=loss,
        n_rows=n_rows,
        columns=("standard",) * 2,
        cardinalities=(3, 5),
        dims=dims,
        vector_dim=4 if factors else 0,
        linear=model != "mlp",
        weighted=weighted,
        changes={"n_scores": m, **changes},
    )
    a = problem.architecture
    several = with_targets(Problem(a, problem.rows, np.zeros(1)), m)
    return Problem(several.architecture, several.rows, problem.start)


@pytest.mark.parametrize("m", [2, 17])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("model", NETWORKS)
def test_a_step_of_a_network_is_the_gradient_by_central_differences(model, loss, m):
    problem = network_problem(model, loss, m=m, weighted=m == 2)
    n = len(problem.rows.target)
    oracle = SeveralOracle(problem.architecture)
    moved, sums, taken, _ = network_steps(problem, settings_of("sgd"), n, [1.0])
    assert taken == 1
    found = problem.start.astype(np.float64) - moved
    expected = oracle.gradient(problem.start, problem.rows, position=0)
    # As in test_network.py; a hidden number's derivative is a sum over all targets.
    bound = 8 * EPS * np.sqrt(16 * oracle.wiring.n_panels + m) + EPS * np.abs(problem.start).max()
    np.testing.assert_allclose(found, expected, rtol=m * bound, atol=m * bound)
    assert not found[~oracle.real].any()
    _, expected_sums = oracle.batch_loss(problem.start, problem.rows, 0)
    np.testing.assert_allclose(sums[0], expected_sums, rtol=n * bound)


@pytest.mark.parametrize("loss", LOSSES)
def test_threads_never_show_in_a_network(loss):
    problem = network_problem("deepfm", loss, n_rows=300, m=19, weighted=True)
    settings = settings_of("adam", 0.0, 0.01)
    results = [network_steps(problem, settings, 100, [0.05] * 3, n_threads=n) for n in (1, 2, 3)]
    for found, sums, *_ in results[1:]:
        assert found.tobytes() == results[0][0].tobytes()
        assert sums.tobytes() == results[0][1].tobytes()


@pytest.mark.parametrize("loss", LOSSES)
def test_progressive_scores_give_the_losses_that_are_reported(loss):
    problem = with_targets(make_problem(loss, weighted=True, label_smoothing=0.0))
    n = len(problem.rows.target)
    kept = np.full((n, M), np.nan, np.float32)
    _, sums, *_ = kernel_steps(problem, settings_of("adagrad"), SIZE, RATES, progressive=kept)
    losses = row_losses(problem.architecture, kept, problem.rows.target)
    assert losses.shape == (n,)
    weighed = losses * weights_of(problem)
    expected = [weighed[k * SIZE : (k + 1) * SIZE].sum() for k in range(len(RATES))]
    np.testing.assert_allclose(sums[:, 0], expected, rtol=64 * EPS)


def test_predictions_are_those_of_each_target_alone():
    for loss in LOSSES:
        problem = with_targets(make_problem(loss))
        scores = np.random.default_rng(1).normal(size=(20, M)).astype(np.float32)
        found = predictions(problem.architecture, scores)
        for m in range(M):
            alone = predictions(one_of(problem, m).architecture, scores[:, m : m + 1])
            np.testing.assert_array_equal(found[:, m], alone)


def test_a_score_that_is_not_finite_stops_the_step():
    problem = with_targets(make_problem("squared"))
    problem.start.reshape(-1, M)[0, 3] = np.inf
    before = problem.start.copy()
    found, sums, taken, _ = kernel_steps(problem, settings_of("sgd"), SIZE, [0.1] * 2)
    assert taken == 0
    assert not np.isfinite(sums[0, 0])
    assert found.tobytes() == before.tobytes()


@pytest.mark.parametrize("shape", [(93,), (93, 4), (93, 6), (93, 5, 1)])
def test_targets_of_another_shape_never_reach_the_kernels(shape):
    problem = with_targets(make_problem("squared"))
    problem.rows.target = np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match="expected"):
        kernel_steps(problem, settings_of("sgd"), 93, [0.1])
    a = Architecture("linear", "squared", 1, (), (), ())
    with Team(1) as team, pytest.raises(ValueError, match="expected"):
        LinearModel(a, team).architecture.flat_targets(np.zeros((3, 1), np.float32))
