"""The kernels of networks against float64 NumPy: one table of networks, every test on each."""

from __future__ import annotations

import numpy as np
import pytest

from streamtrain.kernels.losses import LOSSES
from streamtrain.model.network import Layer, NetworkOptions, named_layers
from streamtrain.model.network_model import wiring_of
from tests.kernels.linear_oracle import settings_of
from tests.kernels.network_oracle import (
    NetworkOracle,
    make_network_problem,
    network_scores,
    network_steps,
)

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
