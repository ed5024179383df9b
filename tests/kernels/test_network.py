"""The kernels of networks against float64 NumPy: one table of networks, every test on each."""

from __future__ import annotations

import numpy as np
import pytest

from streamtrain.kernels import network as kernels
from streamtrain.kernels.losses import LOSSES
from streamtrain.kernels.team import Team
from streamtrain.kernels.updates import OPTIMIZERS
from streamtrain.model import network_model
from streamtrain.model.network import Layer, NetworkOptions, named_layers
from streamtrain.model.network_model import NetworkModel, wiring_of
from tests.kernels.linear_oracle import Problem, settings_of
from tests.kernels.network_oracle import (
    NetworkOracle,
    make_network_problem,
    network_scores,
    network_steps,
    rows_between,
)
from tests.kernels.updates_oracle import Oracle

EPS = float(np.finfo(np.float32).eps)
SGD = settings_of("sgd")


def named(model, **options):
    return named_layers(model, NetworkOptions(**options), n_vectors=5)


def affine(width, source="inputs", name="h", activation=""):
    return Layer("affine", source=source, name=name, width=width, activation=activation)


def act(kind, source="h", name="a"):
    return Layer("activation", source=source, name=name, activation=kind)


def output(source):
    return Layer("output", source=source)


# name: (layers, settings of `make_network_problem`)
CASES = {
    "biases and linear weights": ((), {"linear": True}),
    "output of inputs": ((output("inputs"),), {}),
    "affine": ((affine(20), output("h")), {}),
    "affine of one": ((affine(1), output("h")), {"columns": ("standard",), "cardinalities": (),
                                                 "dims": ()}),
    **{
        f"affine {kind}": ((affine(20, activation=kind), output("h")), {})
        for kind in ("relu", "gelu", "silu", "tanh")
    },
    **{
        f"activation {kind}": ((affine(20), act(kind), output("a")), {})
        for kind in ("relu", "gelu", "silu", "tanh")
    },
    "activation read with what it reads": (
        (affine(20), act("silu"), affine(7, "a", "b", "relu"), output("h"), output("b")), {},
    ),
    "activation of inputs": ((act("tanh", "inputs"), output("a")), {}),
    "two hidden layers": ((*named("mlp", hidden=(33, 17)),), {}),
    "wide inputs": ((*named("mlp", hidden=(18,)),), {"columns": ("standard",) * 21}),
    "wide panels": ((*named("mlp", hidden=(130, 17)),),
                    {"columns": ("standard",), "cardinalities": (), "dims": ()}),
    "one wide layer": ((affine(300, "numeric", activation="relu"), output("h")),
                       {"columns": ("standard",), "cardinalities": (), "dims": ()}),
    "norm": ((affine(20), Layer("norm", source="h", name="n"), output("n")), {}),
    "norm of inputs": ((Layer("norm", name="n"), output("n")), {}),
    "norm read with what it reads": (
        (affine(20), Layer("norm", source="h", name="n"), output("h"), output("n")), {},
    ),
    "mlp with norms": ((*named("mlp", hidden=(20, 20), layer_norm=True, activation="gelu"),), {}),
    "dropout": ((*named("mlp", hidden=(20, 17), dropout=0.4),), {}),
    "dropout of inputs": ((Layer("dropout", rate=0.3), affine(9, activation="tanh"), output("h")),
                          {}),
    "residual": ((*named("mlp", hidden=(20, 20, 20), residual=True),), {}),
    "residual with everything": (
        (*named("mlp", hidden=(20, 20, 20), residual=True, layer_norm=True, dropout=0.25,
                activation="silu"),), {},
    ),
    "residual into a relu": (
        (affine(20, activation="relu"), affine(20, "h", "g", "relu"),
         Layer("residual", source="h", to="g"), output("g")), {},
    ),
    "residual into numbers": (
        (affine(3, "embeddings"), Layer("residual", source="h", to="numeric"),
         affine(5, "numeric", "g", "relu"), output("g")), {},
    ),
    "cross": ((*named("dcn", cross_layers=1, hidden=(5,)),), {}),
    "three cross layers": ((*named("dcn", cross_layers=3, hidden=(18, 5)),), {}),
    "cross of hidden layers": (
        (affine(20), affine(20, name="g"), Layer("cross", source="g", first="h", name="c"),
         output("c")), {},
    ),
    "cross of a layer with itself": (
        (affine(20, activation="tanh"), Layer("cross", source="h", first="h", name="c"),
         affine(6, "c", "g"), output("g")), {},
    ),
    **{
        f"fm of {k}": ((*named("fm"),), {"linear": True, "vector_dim": k, "dims": (k, k)})
        for k in (1, 2, 4, 8, 16, 32)
    },
    "fm of fields": ((*named("fm"),), {"linear": True, "vector_dim": 8, "dims": (8, 8, 8),
                                       "columns": (), "cardinalities": (3, 5, 2)}),
    "fm of numbers": ((*named("fm"),), {"linear": True, "vector_dim": 8, "dims": (),
                                        "cardinalities": (), "missing": True}),
    "deepfm": ((*named("deepfm", hidden=(18,)),),
               {"linear": True, "vector_dim": 8, "dims": (8, 8), "missing": True}),
    "wide-deep": ((*named("wide-deep", hidden=(18,)),), {"linear": True, "missing": True}),
    "pairs into an affine layer": (
        (Layer("pairs", source="vectors", name="p"), affine(7, "p", activation="relu"),
         output("h"), Layer("sum", source="p")), {"vector_dim": 4, "dims": (4, 4)},
    ),
    "pairs of a hidden layer": (
        (affine(24), Layer("pairs", source="h", name="p"), Layer("sum", source="p")),
        {"vector_dim": 8, "dims": (8, 8)},
    ),
    "sum of a hidden layer": ((affine(20, activation="tanh"), Layer("sum", source="h")), {}),
    "sum and output": ((affine(20), output("h"), Layer("sum", source="h")), {}),
    "output and sum": ((affine(20), Layer("sum", source="h"), output("h")), {}),
    "numbers and embeddings apart": (
        (affine(9, "numeric", "n", "relu"), affine(9, "embeddings", "e", "relu"), output("n"),
         output("e")), {},
    ),
    "one layer read by two": (
        (affine(20, activation="relu"), affine(9, "h", "b", "tanh"), affine(17, "h", "c", "relu"),
         output("b"), output("c")), {},
    ),
    "no numbers": ((*named("mlp", hidden=(9,)),), {"columns": ()}),
    "no categories": ((*named("mlp", hidden=(9,)),), {"cardinalities": (), "dims": ()}),
    "embeddings of sixteen": ((*named("mlp", hidden=(9,)),), {"dims": (16, 16)}),
    "embeddings across panels": ((*named("mlp", hidden=(9,)),), {"dims": (13, 21)}),
    **{
        f"{kind} numbers": ((*named("mlp", hidden=(9,)),), {"columns": (kind,) * 3,
                                                            "missing": True})
        for kind in ("standard", "robust", "quantile", "pieces")
    },
    "mixed numbers": ((*named("wide-deep", hidden=(9,)),), {
        "columns": ("pieces", "standard", "quantile", "robust", "pieces", "pieces", "pieces"),
        "missing": True, "linear": True,
    }),
    "twenty numbers and indicators": ((output("inputs"),), {"columns": ("standard",) * 20,
                                                            "missing": True}),
    "periodic numbers": ((*named("mlp", hidden=(9,)),), {
        "columns": ("quantile",) * 2, "missing": True, "frequencies": 16, "frequency_width": 16,
    }),
    "few periodic numbers": ((*named("mlp", hidden=(9,)),), {
        "columns": ("standard",) * 2, "frequencies": 8, "frequency_width": 16,
    }),
    "deepfm of periodic numbers": ((*named("deepfm", hidden=(9,)),), {
        "columns": ("quantile",) * 2, "missing": True, "frequencies": 8, "frequency_width": 16,
        "linear": True, "vector_dim": 8, "dims": (8, 8),
    }),
    "deepfm of 3 classes": ((*named("deepfm", hidden=(18,)),), {
        "linear": True, "vector_dim": 8, "dims": (8, 8), "loss": "softmax", "n_classes": 3,
    }),
    "mlp of 20 classes": ((*named("mlp", hidden=(9,)),), {"loss": "softmax", "n_classes": 20}),
    "fm of 20 classes": ((*named("fm"),), {
        "linear": True, "vector_dim": 4, "dims": (4, 4), "loss": "softmax", "n_classes": 20,
    }),
    "dcn of 3 classes": ((*named("dcn", cross_layers=2, hidden=(9,)),),
                         {"loss": "softmax", "n_classes": 3}),
    "weights of rows and classes": ((*named("mlp", hidden=(9,)),), {
        "loss": "softmax", "n_classes": 3, "weighted": True,
        "changes": {"class_weights": (0.5, 2.0, 1.25), "label_smoothing": 0.1},
    }),
    **{
        f"mlp with {loss} loss": ((*named("wide-deep", hidden=(9,), activation="tanh"),), {
            "loss": loss, "weighted": True, "linear": True,
        })
        for loss in LOSSES
    },
}  # fmt: skip
every = pytest.mark.parametrize("name", CASES)


def problem_of(name, **changes):
    layers, settings = CASES[name]
    return make_network_problem(layers, **{**settings, **changes})


def longest(problem):
    """Return the length of the longest sum on the way to a score or a gradient."""
    wiring = wiring_of(problem.architecture)
    return max(16 * wiring.n_panels, len(problem.rows.target))


def limit_of(problem):
    # A sum of n terms of size 1 errs by eps sqrt(n), each layer adds its own, and tanh and
    # the sines err by 2 to 3 eps absolutely; weights are about 1/4, so no layer magnifies.
    return 8 * EPS * np.sqrt(longest(problem))


@every
def test_scores_are_those_of_the_float64_oracle(name):
    problem = problem_of(name, n_rows=83)
    expected = NetworkOracle(problem.architecture).scores(problem.start, problem.rows)
    found = [network_scores(problem, n_threads=n) for n in (1, 2)]
    assert found[0].shape == expected.shape
    assert found[0].tobytes() == found[1].tobytes()
    limit = limit_of(problem)
    np.testing.assert_allclose(found[0], expected, rtol=limit, atol=limit)


@every
def test_a_step_of_sgd_is_the_gradient_by_central_differences(name):
    problem = problem_of(name)
    n = len(problem.rows.target)
    oracle = NetworkOracle(problem.architecture, seed=5)
    rate, step = 4.0, 3
    moved, sums, taken, _ = network_steps(problem, SGD, n, [rate], step=step, seed=5)
    assert taken == 1
    found = (problem.start.astype(np.float64) - moved) / rate
    expected = oracle.gradient(problem.start, problem.rows, position=step * n)
    # What is written back has an error of its own: half an ulp of the weight.
    limit = limit_of(problem) + EPS * np.abs(problem.start).max()
    np.testing.assert_allclose(found, expected, rtol=limit, atol=limit)
    assert not found[~oracle.real].any()
    _, expected_sums = oracle.batch_loss(problem.start, problem.rows, step * n)
    unit = problem.architecture.loss_unit
    np.testing.assert_allclose(sums[0], np.array(expected_sums) / [unit, 1], rtol=n * limit)


# Networks that have every operation between them, for what must not depend on how work is cut.
MIXED = {
    "deep": (
        (
            affine(40, name="a"),
            Layer("norm", source="a", name="n"),
            act("gelu", "n", "h"),
            Layer("dropout", source="h", rate=0.3),
            affine(40, "h", "g", "relu"),
            Layer("residual", source="h", to="g"),
            Layer("cross", source="g", first="g", name="c"),
            Layer("pairs", source="vectors", name="p"),
            affine(20, "p", "q", "silu"),
            output("c"),
            output("q"),
            Layer("sum", source="p"),
        ),
        {
            "columns": ("quantile", "pieces", "robust", "standard"),
            "frequencies": 8,
            "frequency_width": 16,
            "vector_dim": 8,
            "dims": (8, 8, 8),
            "cardinalities": (3, 50, 7),
            "linear": True,
            "missing": True,
            "weighted": True,
        },
    ),
    "classes": (
        (*named("deepfm", hidden=(33,), activation="tanh"),),
        {
            "columns": ("standard",) * 3,
            "vector_dim": 4,
            "dims": (4, 4),
            "linear": True,
            "loss": "softmax",
            "n_classes": 19,
        },
    ),
}
ROWS = {"n_rows": 700, "seed": 4}
RATES = [0.05, 0.02, 0.04]  # of batches of 300, 300 and 100 rows


def mixed(name="deep", **changes):
    layers, settings = MIXED[name]
    return make_network_problem(layers, **{**settings, **ROWS, **changes})


def bits(result):
    w, sums, taken, rule = result
    state = {name: array.tobytes() for name, array in rule.tensors().items()}
    return {"w": w.tobytes(), "sums": sums.tobytes(), "taken": taken, **state}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_one_two_and_three_threads_give_the_same_bits(optimizer):
    for name, penalties, clip_norm in (
        ("deep", (0.001, 0.02), 0.0),
        ("deep", (0.0, 0.02), 0.05),
        ("classes", (0.0, 0.0), 0.0),
    ):
        problem = mixed(name)
        settings = settings_of(optimizer, *penalties, clip_norm=clip_norm)
        results = [
            bits(network_steps(problem, settings, 300, RATES, n_threads=n, table_factor=2.0))
            for n in (1, 2, 3)
        ]
        assert results[0]["taken"] == len(RATES)
        assert results[1] == results[0]
        assert results[2] == results[0]


@pytest.mark.parametrize("clip_norm", [0.0, 0.05])
@pytest.mark.parametrize("name", MIXED)
def test_neither_tiles_nor_pieces_show_in_the_bits(name, clip_norm, monkeypatch):
    problem = mixed(name)
    settings = settings_of("adam", 0.001, 0.02, clip_norm=clip_norm)
    kept = np.zeros((700, problem.architecture.n_scores), np.float32)
    once = bits(network_steps(problem, settings, 300, RATES, n_threads=2, progressive=kept))
    for tile, piece in (
        (16, 304),
        (48, 304),
        (128, 304),
        (48, 16),
        (16, 64),
        (128, 128),
        (32, 272),
    ):
        monkeypatch.setattr(kernels, "tile_rows", lambda *_, n=tile: n)
        monkeypatch.setattr(network_model, "piece_rows", lambda *_, n=piece: n)
        again = np.zeros_like(kept)
        found = bits(network_steps(problem, settings, 300, RATES, n_threads=2, progressive=again))
        assert found == once, (tile, piece)
        assert again.tobytes() == kept.tobytes()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_many_steps_in_one_call_give_the_bits_of_many_calls(optimizer):
    problem = mixed()
    settings = settings_of(optimizer, 0.001, 0.02, clip_norm=0.1)
    once = bits(network_steps(problem, settings, 300, RATES, step=7))
    for calls in ([(0, 1), (1, 2), (2, 3)], [(0, 2), (2, 3)]):
        assert bits(network_steps(problem, settings, 300, RATES, step=7, calls=calls)) == once


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["deep", "classes"])
def test_padding_stays_exactly_zero(name, optimizer):
    problem = mixed(name)
    oracle = NetworkOracle(problem.architecture)
    settings = settings_of(optimizer, 0.001, 0.02, clip_value=0.5, clip_norm=0.5)
    w, _, taken, rule = network_steps(problem, settings, 100, [0.05] * 7, n_threads=2)
    assert taken == 7
    assert np.isfinite(w).all()
    assert not w[~oracle.real].any()
    dense = ~oracle.real[: oracle.wiring.n_dense]
    for state in (rule.first, rule.second):
        assert not state[: len(dense)][dense[: len(state)]].any()


@pytest.mark.parametrize("size", [1, 15, 16, 17, 33])
def test_a_batch_of_any_size_steps_along_the_gradient(size):
    problem = problem_of("deepfm", n_rows=size)
    expected = NetworkOracle(problem.architecture).gradient(problem.start, problem.rows)
    limit = limit_of(problem)
    for n_threads in (1, 3):
        moved, *_ = network_steps(problem, SGD, size, [4.0], n_threads=n_threads)
        found = (problem.start.astype(np.float64) - moved) / 4.0
        np.testing.assert_allclose(found, expected, rtol=limit, atol=limit)


def test_a_batch_in_pieces_steps_along_the_gradient(monkeypatch):
    monkeypatch.setattr(network_model, "piece_rows", lambda *_: 16)
    problem = problem_of("residual with everything", n_rows=45)
    oracle = NetworkOracle(problem.architecture)
    moved, *_ = network_steps(problem, SGD, 45, [4.0])
    expected = oracle.gradient(problem.start, problem.rows, position=0)
    limit = limit_of(problem)
    np.testing.assert_allclose((problem.start - moved) / 4.0, expected, rtol=limit, atol=limit)


def dropped(problem, *, step=0, seed=0, n_rows=400):
    """Return the scores of a network that adds up its dropped lanes, as training sees them."""
    kept = np.zeros((len(problem.rows.target), 1), np.float32)
    network_steps(problem, SGD, n_rows, [0.0], step=step, seed=seed, progressive=kept)
    return kept[:, 0]


def dropping(rate=0.4, layers=()):
    """Return a network that counts the numbers of 40 that dropout keeps."""
    problem = make_network_problem(
        (affine(40), Layer("dropout", source="h", rate=rate), *layers, Layer("sum", source="h")),
        columns=("standard",), cardinalities=(), dims=(), n_rows=400,
    )  # fmt: skip
    problem.start[:] = 0
    unpacked = NetworkOracle(problem.architecture).unpacked(np.arange(len(problem.start)))
    problem.start[unpacked["layer 0 bias"]] = 1
    return problem


def test_dropout_keeps_the_mean_and_scoring_drops_nothing():
    problem = dropping()
    assert (network_scores(problem) == 40).all()
    found = dropped(problem)
    kept = found * (1 - np.float32(0.4))
    np.testing.assert_allclose(kept, np.round(kept), atol=1e-4)
    # 16,000 draws: five deviations of their mean.
    assert abs(found.mean() / 40 - 1) < 5 * np.sqrt(0.4 / 0.6 / 16_000)
    assert found.std() == pytest.approx(np.sqrt(40 * 0.4 / 0.6), rel=0.2)


def test_dropout_differs_by_row_step_seed_and_layer():
    problem = dropping()
    first = dropped(problem)
    assert len(set(first.tolist())) > 10
    assert (dropped(problem) == first).all()
    for other in (dropped(problem, step=1), dropped(problem, seed=1)):
        # Counts of 40 are the same by chance in one row of eight.
        assert 0.02 < (other == first).mean() < 0.3
    twice = dropping(layers=(Layer("dropout", source="h", rate=0.4),))
    # If both layers dropped the same, what is left would be as much.
    kept = dropped(twice) * (1 - np.float32(0.4)) ** 2
    assert kept.mean() == pytest.approx(40 * 0.36, rel=0.05)


def test_only_the_rows_of_codes_in_the_batch_move():
    problem = mixed(cardinalities=(3, 5000, 7), n_rows=60)
    w, *_, rule = network_steps(problem, settings_of("rowwise-adagrad"), 60, [0.1])
    oracle = NetworkOracle(problem.architecture)
    places = oracle.unpacked(np.arange(len(w)))
    at = oracle.wiring.n_dense
    for f, cardinality in enumerate(problem.architecture.cardinalities):
        moved = (w != problem.start)[places[f"field {f}"]].any(axis=1)
        touched = np.zeros(cardinality, bool)
        touched[problem.rows.codes[:, f]] = True
        assert (moved == touched).all()
        # Row-wise AdaGrad has one sum for a row, behind those of the dense parameters.
        assert ((rule.second[at : at + cardinality] > 0) == touched).all()
        at += cardinality
    assert at == len(rule.second)


@pytest.mark.parametrize("clip_norm", [0.0, 1e6])
@pytest.mark.parametrize("cardinality", [3, 200, 60_000])
def test_codes_are_grouped_exactly_for_small_and_large_vocabularies(cardinality, clip_norm):
    # More codes than any table has slots, and codes that share their low bits.
    problem = make_network_problem(
        (output("embeddings"),), linear=True, columns=(), cardinalities=(cardinality, 5),
        dims=(2, 3), n_rows=300,
    )  # fmt: skip
    codes = problem.rows.codes
    codes[::3, 0] = (codes[::3, 0] // 4096 * 4096) % cardinality
    problem.start[:] = 0
    settings = settings_of("sgd", clip_norm=clip_norm)
    moved, *_ = network_steps(problem, settings, 300, [1.0], n_threads=2)
    delta = np.where(problem.rows.target == 1, -0.5, 0.5) / 300
    places = NetworkOracle(problem.architecture).unpacked(np.arange(len(moved)))
    for f, n in enumerate((cardinality, 5)):
        expected = np.bincount(codes[:, f], delta, minlength=n)
        linear, *embedding = -moved[places[f"field {f}"]].T
        np.testing.assert_allclose(linear, expected, atol=EPS)
        assert not np.any(embedding)


def fm_steps(optimizer, penalties, **others):
    """Return (found, expected) parameters of an FM after six batches; each 0 is touched."""
    problem = make_network_problem(
        (*named("fm"),), linear=True, vector_dim=4, dims=(4, 4), cardinalities=(4, 30),
        n_rows=93, columns=("standard",),
    )  # fmt: skip
    settings = settings_of(optimizer, *penalties, **others)
    rates, size, factor = [0.3, 0.1, 0.2, 0.05, 0.25, 0.15], 17, 0.5
    found, _, taken, _ = network_steps(problem, settings, size, rates, table_factor=factor)
    assert taken == len(rates)
    network = NetworkOracle(problem.architecture)
    places = network.unpacked(np.arange(len(found)))
    n_dense = network.wiring.n_dense
    # Dense parameters as rows of one each, tables as rows of five: one oracle for either.
    w = problem.start.astype(np.float64)
    dense = Oracle(settings, (n_dense, 1), n_dense=n_dense, alpha=max(rates), n_free=16)
    tables = Oracle(settings, (34, 5), n_dense=0, alpha=max(rates), table_factor=factor, n_free=0)
    for s, rate in enumerate(rates):
        rows = rows_between(problem.rows, s * size, (s + 1) * size)
        g = network.gradient(w, rows)
        dense.step(w[:n_dense, None], g[:n_dense, None], rate, s + 1)
        touched = np.zeros(34, bool)
        for f, first in ((0, 0), (1, 4)):
            touched[first + rows.codes[:, f]] = True
        tables.step(w[n_dense:].reshape(34, 5), g[n_dense:].reshape(34, 5), rate, s + 1, touched)
    assert places["field 0"].min() == n_dense
    return found, w


@pytest.mark.parametrize("penalties", [(0.0, 0.0), (0.0, 0.3), (0.02, 0.1)])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_follows_the_float64_oracle_and_decay_is_caught_up(optimizer, penalties):
    found, expected = fm_steps(optimizer, penalties)
    # As for the linear kernels: each of six steps adds its own error of sums of 17 terms.
    limit = 20 * EPS * np.sqrt(17) * 6
    np.testing.assert_allclose(found, expected, rtol=limit, atol=limit)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("clip_norm", [0.0, 1e30])
@pytest.mark.parametrize("piece", [16, 64])
def test_a_loss_that_is_not_finite_stops_before_its_update(
    n_threads, clip_norm, piece, monkeypatch
):
    monkeypatch.setattr(network_model, "piece_rows", lambda *_: piece)
    problem = mixed(n_rows=320)
    settings = settings_of("momentum", 0.001, 0.02, clip_norm=clip_norm)
    clean = network_steps(problem, settings, 64, [0.05] * 2, n_threads=n_threads)
    problem.rows.target[2 * 64 + 50] = np.nan
    found = network_steps(problem, settings, 64, [0.05] * 5, n_threads=n_threads)
    assert found[2] == 2
    assert not np.isfinite(found[1][2, 0])
    assert found[0].tobytes() == clean[0].tobytes()
    for name, array in found[3].tensors().items():
        assert array.tobytes() == clean[3].tensors()[name].tobytes(), name


@pytest.mark.parametrize("loss", ["squared", "logistic", "softmax", "poisson"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_rate_of_1e30_is_stopped_with_finite_shrinkage(loss, optimizer):
    problem = make_network_problem(
        named("mlp", hidden=(20, 20)), loss=loss, n_classes=3, n_rows=320
    )
    settings = settings_of(optimizer, 0.0, 0.01)
    w, sums, taken, rule = network_steps(problem, settings, 32, [1e30] * 10)
    assert taken < 10
    assert np.isfinite(sums[:taken]).all()
    assert not np.isfinite(sums[taken, 0])
    # The parameters and their state are those before the batch whose loss diverged.
    first = rows_between(problem.rows, 0, 32 * taken)
    before = Problem(problem.architecture, first, problem.start)
    assert taken
    again = network_steps(before, settings, 32, [1e30] * taken)
    assert again[0].tobytes() == w.tobytes()
    for name, array in rule.tensors().items():
        assert array.tobytes() == again[3].tensors()[name].tobytes(), name
    assert np.isfinite(rule.shrinkage).all()
    assert np.isfinite(rule.stamps).all()


def test_nan_parameters_are_seen_at_once_by_every_loss():
    for loss in LOSSES:
        problem = make_network_problem(named("mlp", hidden=(20,)), loss=loss)
        problem.start[0] = np.nan
        assert network_steps(problem, SGD, 37, [0.1])[2] == 0, loss


@pytest.mark.parametrize("n_rows", [0, 1, 63, 64, 65, 300])
def test_any_number_of_rows_is_scored_in_the_same_bits(n_rows):
    problem = mixed(n_rows=300)
    whole = network_scores(problem)
    rows = rows_between(problem.rows, 0, n_rows)
    for n_threads in (1, 2, 3):
        with Team(n_threads) as team:
            model = NetworkModel(problem.architecture, team)
            for _ in range(2):
                found = model.scores(problem.start, rows.numeric, rows.codes)
                assert found.tobytes() == whole[:n_rows].tobytes()


def test_progressive_scores_are_those_before_the_update_of_their_own_batch():
    problem = problem_of("deepfm", n_rows=100)
    kept = np.full((100, 1), np.nan, np.float32)
    network_steps(problem, SGD, 40, [0.1, 0.1, 0.1], progressive=kept)
    w = problem.start
    for s in range(3):
        rows = slice(40 * s, min(40 * s + 40, 100))
        part = network_scores(problem, parameters=w)[rows]
        np.testing.assert_allclose(kept[rows], part, rtol=4 * EPS, atol=4 * EPS)
        first = rows_between(problem.rows, 0, rows.stop)
        w, *_ = network_steps(
            Problem(problem.architecture, first, problem.start), SGD, 40, [0.1] * (s + 1)
        )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("n_rows", [1, 16, 37])
def test_logistic_losses_of_rows_that_count_alike_are_those_of_the_oracle(n_rows, smoothing):
    problem = make_network_problem(
        named("mlp", hidden=(20,)), n_rows=n_rows, changes={"label_smoothing": smoothing}
    )
    _, sums, *_ = network_steps(problem, SGD, n_rows, [0.1])
    loss, weight = NetworkOracle(problem.architecture).batch_loss(problem.start, problem.rows)[1]
    assert sums[0] == pytest.approx([loss, weight], rel=1e-5)
