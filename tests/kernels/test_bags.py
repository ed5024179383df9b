"""Fields of variable length in the kernels, against float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from streamtrain.kernels import bags as kernels
from streamtrain.kernels.team import Team
from streamtrain.model import network_model
from streamtrain.model.linear import LinearModel
from streamtrain.model.network import Layer, NetworkOptions, named_layers
from tests.kernels.linear_oracle import (
    Problem,
    design,
    kernel_steps,
    make_problem,
    oracle_steps,
    settings_of,
)
from tests.kernels.network_oracle import (
    NetworkOracle,
    make_network_problem,
    network_scores,
    network_steps,
    rows_between,
)

EPS = float(np.finfo(np.float32).eps)
SIZES = (7, 40)
RATES = [0.3, 0.1, 0.2, 0.05, 0.25, 0.15]


@pytest.fixture(params=[4096, 32], ids=["one part", "parts"])
def parts(request, monkeypatch):
    """Divide the second table into parts, or none."""
    monkeypatch.setattr(kernels, "_SMALL", request.param)
    network_model.wiring_of.cache_clear()
    yield
    network_model.wiring_of.cache_clear()


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rowwise-adagrad", "adam", "ftrl"])
@pytest.mark.parametrize("loss", ["logistic", "squared", "softmax"])
@pytest.mark.parametrize(("l1", "l2", "norm"), [(0.0, 0.0, 0.0), (0.02, 0.3, 0.0), (0, 0, 0.05)])
def test_linear_training_follows_the_float64_oracle(loss, optimizer, l1, l2, norm):
    problem = make_problem(loss, weighted=True, missing=True, bag_sizes=SIZES)
    settings = settings_of(optimizer, l1, l2, clip_norm=norm)
    expected, sums = oracle_steps(problem, settings, 17, RATES, step=3)
    found, found_sums, taken, _ = kernel_steps(problem, settings, 17, RATES, step=3)
    assert taken == len(RATES)
    limit = 20 * EPS * np.sqrt(17) * len(RATES)
    np.testing.assert_allclose(found, expected, rtol=limit, atol=limit)
    sums[:, 0] /= problem.architecture.loss_unit
    np.testing.assert_allclose(found_sums, sums, rtol=17 * limit)


@pytest.mark.parametrize("loss", ["logistic", "softmax"])
def test_linear_scores_follow_the_oracle(loss):
    problem = make_problem(loss, n_rows=600, missing=True, bag_sizes=SIZES)
    with Team(2) as team:
        model = LinearModel(problem.architecture, team)
        rows = problem.rows
        found = model.scores(problem.start, rows.numeric, rows.codes, rows.bags)
    matrix = design(problem.architecture, rows)
    expected = matrix @ problem.start.astype(np.float64).reshape(matrix.shape[1], -1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=30 * EPS)


def hidden(model, **options):
    return named_layers(model, NetworkOptions(hidden=(9,), **options), n_vectors=5)


NETWORKS = {
    "mlp": (hidden("mlp"), {"dims": (5, 3, 4, 16)}),
    "mean": (hidden("wide-deep"),
             {"dims": (5, 3, 4, 16), "linear": True, "pooling": "mean"}),
    "wide-deep": (hidden("wide-deep"), {"dims": (5, 3, 4, 16), "linear": True}),
    "fm": (hidden("fm"), {"dims": (4,) * 4, "linear": True, "vector_dim": 4, "bag_pairs": True}),
    "deepfm": (
        hidden("deepfm"),
        {"dims": (16,) * 4, "linear": True, "vector_dim": 16, "bag_pairs": True},
    ),
    "a bag alone": (
        (),
        {"dims": (8, 8), "cardinalities": (), "columns": (), "linear": True, "vector_dim": 8,
         "bag_pairs": True},
    ),
    "a bag of classes": (
        (Layer("output", source="embeddings"),),
        {"dims": (5, 3, 4, 16), "loss": "softmax", "n_classes": 3, "linear": True,
         "bag_pairs": True},
    ),
}  # fmt: skip


def problem_of(name, **changes):
    layers, settings = NETWORKS[name]
    return make_network_problem(layers, changes={"bag_sizes": SIZES}, **settings, **changes)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("clip_norm", [0.0, 1e9])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_of_a_network_is_the_gradient_by_central_differences(name, clip_norm):
    problem = problem_of(name, missing=name != "a bag alone")
    settings = settings_of("sgd", clip_norm=clip_norm)
    moved, *_ = network_steps(problem, settings, 37, [1.0])
    oracle = NetworkOracle(problem.architecture)
    gradient = oracle.gradient(problem.start, problem.rows, 0)
    # Sums of 37 terms in float32, and entries of size 2 that are squared.
    np.testing.assert_allclose(problem.start - moved, gradient, atol=400 * EPS, rtol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_scores_of_networks_follow_the_oracle(name):
    problem = problem_of(name, n_rows=300)
    expected = NetworkOracle(problem.architecture).scores(problem.start, problem.rows)
    found = network_scores(problem, n_threads=2)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=200 * EPS)


@pytest.mark.usefixtures("parts")
def test_decay_of_rows_that_wait_is_caught_up_before_they_act_in_pairs():
    problem = problem_of("fm", n_rows=74)
    settings = settings_of("sgd", l2=0.5)
    found, *_ = network_steps(problem, settings, 37, [0.2, 0.1])
    oracle = NetworkOracle(problem.architecture)
    w = problem.start.astype(np.float64)
    n_dense = oracle.wiring.n_dense
    for s, rate in enumerate((0.2, 0.1)):
        rows = rows_between(problem.rows, 37 * s, 37 * (s + 1))
        step = rate * oracle.gradient(w, rows, 0)
        kept = np.full(len(w), 1 - rate * 0.5)
        kept[:16] = 1  # the bias
        moved = w * kept - step
        w = np.where(oracle.real, moved, 0)
    assert n_dense < len(w)
    np.testing.assert_allclose(found[n_dense:], w[n_dense:], atol=500 * EPS, rtol=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "adam"])
@pytest.mark.parametrize("kind", ["linear", "fm"])
def test_one_two_and_three_threads_give_the_same_bits(kind, optimizer, monkeypatch):
    monkeypatch.setattr(kernels, "_SMALL", 32)
    network_model.wiring_of.cache_clear()
    settings = settings_of(optimizer, 0.001, 0.02)
    if kind == "linear":
        problem, steps = make_problem("logistic", n_rows=900, bag_sizes=SIZES), kernel_steps
    else:
        problem, steps = problem_of("fm", n_rows=900), network_steps
    results = [steps(problem, settings, 300, [0.1] * 3, n_threads=n) for n in (1, 2, 3)]
    for found, sums, _, rule in results[1:]:
        assert found.tobytes() == results[0][0].tobytes()
        assert sums.tobytes() == results[0][1].tobytes()
        assert rule.second.tobytes() == results[0][3].second.tobytes()
    network_model.wiring_of.cache_clear()


def test_a_batch_of_more_rows_than_are_worked_on_at_once_is_one_batch(monkeypatch):
    problem = problem_of("fm", n_rows=700)
    settings = settings_of("adagrad")
    monkeypatch.setattr(network_model, "piece_rows", lambda *_: 256)
    pieces, *_ = network_steps(problem, settings, 700, [0.1])
    monkeypatch.setattr(network_model, "piece_rows", lambda *_: 1024)
    whole, *_ = network_steps(problem, settings, 700, [0.1])
    assert pieces.tobytes() == whole.tobytes()


def as_run(rows):
    """Return the bytes of a block's bag."""
    parts = []
    for entries in rows:
        parts.append(np.array([8 * len(entries)], np.uint32).tobytes())
        for code, value in entries:
            parts.append(np.array([code], np.int32).tobytes())
            parts.append(np.array([value], np.float32).tobytes())
    return np.frombuffer(b"".join(parts), np.uint8)


ROWS = [[(3, 1.0), (1, 0.5)], [], [(4, -2.0)]]


def test_entries_go_behind_one_another_and_rows_to_their_places():
    found = kernels.no_bags(4, 2)
    codes, values = np.zeros(10, np.int32), np.zeros(10, np.float32)
    places = np.array([2, 0, 3], np.int32)
    n = kernels.scatter_entries(as_run(ROWS), 3, places, 1, 5, 5, 2, found.ranges, codes, values)
    assert n == 3
    assert found.ranges[:, 1].tolist() == [[7, 7], [0, 0], [5, 7], [7, 8]]
    assert not found.ranges[:, 0].any()
    assert codes[5:8].tolist() == [3, 1, 4]
    assert values[5:8].tolist() == [1.0, 0.5, -2.0]


@pytest.mark.parametrize(
    ("rows", "cut", "room", "longest"),
    [
        ([[(5, 1.0)]], 0, 10, 9),
        ([[(-1, 1.0)]], 0, 10, 9),
        (ROWS, 1, 10, 9),
        (ROWS, 8, 10, 9),
        (ROWS, 0, 7, 9),
        (ROWS, 0, 10, 1),
        ([*ROWS, []], 0, 10, 9),
    ],
)
def test_entries_that_make_no_sense_are_refused(rows, cut, room, longest):
    run = as_run(rows)
    run = run[: len(run) - cut]
    found = kernels.no_bags(4, 1)
    codes, values = np.zeros(room, np.int32), np.zeros(room, np.float32)
    n = min(len(rows), 3)
    places = np.arange(n, dtype=np.int32)
    assert (
        kernels.scatter_entries(run, n, places, 0, 5, 5, longest, found.ranges, codes, values) == -1
    )


def test_a_length_beyond_the_block_is_refused():
    run = np.array([0xFFFFFFF8, 0, 0], np.uint32).view(np.uint8)
    found = kernels.no_bags(1, 1)
    codes, values = np.zeros(4, np.int32), np.zeros(4, np.float32)
    places = np.zeros(1, np.int32)
    assert (
        kernels.scatter_entries(run, 1, places, 0, 0, 5, 1 << 30, found.ranges, codes, values) == -1
    )


def test_copied_rows_have_the_same_entries():
    problem = make_problem("logistic", n_rows=20, bag_sizes=SIZES)
    bags = problem.rows.bags
    ranges = np.zeros((25, 2, 2), np.int32)
    codes, values = np.zeros(200, np.int32), np.zeros(200, np.float32)
    end = kernels.copy_entries(*bags, 5, 11, ranges, codes, values)
    assert end == 11 + len(bags.codes)
    for row in range(20):
        for v in range(2):
            first, last = bags.ranges[row, v]
            to, until = ranges[5 + row, v]
            assert codes[to:until].tolist() == bags.codes[first:last].tolist()
            assert values[to:until].tolist() == bags.values[first:last].tolist()


def test_problem_has_rows_without_entries_and_codes_twice():
    """The data of these tests holds what they are about."""
    problem: Problem = make_problem("logistic", bag_sizes=SIZES)
    ranges, codes, _ = problem.rows.bags
    counts = ranges[:, :, 1] - ranges[:, :, 0]
    assert (counts == 0).any()
    assert any(len(set(codes[a:b])) < b - a for a, b in ranges[:, 0])


def test_gathered_entries_are_those_of_the_rows_and_lie_as_shards_have_them():
    words = np.arange(20, dtype=np.int32).reshape(10, 2)
    starts, counts = np.array([7, 0, 3]), np.array([2, 0, 3])
    found = np.zeros((5, 2), np.int32)
    kernels.gather_entries(starts, counts, words, found)
    assert found.tolist() == words[[7, 8, 3, 4, 5]].tolist()
    packed = np.zeros(3 + 10, np.int32)
    kernels.pack_entries(np.array([0, 2, 2, 5]), found, packed)
    assert packed.tolist() == [
        16, *words[7], *words[8], 0, 24, *words[3], *words[4], *words[5],
    ]  # fmt: skip
