"""The kernels are plain Python too: with the compiler off they give nearly the same."""

import json
import os
import subprocess
import sys

import numpy as np

from streamtrain.model.network import NetworkOptions, named_layers
from tests.kernels.linear_oracle import kernel_steps, make_problem, settings_of
from tests.kernels.network_oracle import make_network_problem, network_scores, network_steps
from tests.kernels.test_permute import permuted
from tests.kernels.test_scatter import Block

RATES = [0.2, 0.1]


def results():
    block = Block(30, 2, 2)
    bad, window = block.scatter(30, permuted(5, 30))
    values = {"permute": permuted(5, 30).tolist(), "scatter": [bad, window[1].tolist()]}
    for loss, optimizer in (("logistic", "adam"), ("softmax", "adagrad"), ("squared", "sgd")):
        problem = make_problem(loss, n_rows=30, weighted=True, missing=True)
        found, sums, taken, _ = kernel_steps(
            problem, settings_of(optimizer, 0.01, 0.1), 20, RATES, n_threads=2
        )
        values[loss] = [found.tolist(), sums.tolist(), taken]
    for name, make in NETWORKS.items():
        problem = make()
        found, sums, taken, _ = network_steps(
            problem, settings_of("adam", 0.01, 0.1), 20, RATES, n_threads=2, seed=1
        )
        values[name] = [found.tolist(), sums.tolist(), taken]
        values[name].append(network_scores(problem).tolist())
    return values


def mlp():
    layers = named_layers("mlp", NetworkOptions(hidden=(18, 18), dropout=0.2), n_vectors=0)
    return make_network_problem(layers, n_rows=30, missing=True)


def fm():
    layers = named_layers("fm", NetworkOptions(), n_vectors=5)
    return make_network_problem(layers, n_rows=30, linear=True, vector_dim=4, dims=(4, 4))


NETWORKS = {"mlp": mlp, "fm": fm}


def test_kernels_give_nearly_the_same_with_the_compiler_disabled():
    code = f"import json, {__name__} as m; print(json.dumps(m.results()))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    plain, compiled = json.loads(done.stdout), results()
    for name in ("permute", "scatter"):
        assert plain[name] == compiled[name]
    for loss in ("logistic", "softmax", "squared", *NETWORKS):
        for a, b in zip(plain[loss], compiled[loss], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
