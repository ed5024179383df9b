"""The kernels are plain Python too: with the compiler off they give nearly the same."""

import json
import os
import subprocess
import sys

import numpy as np

from tests.kernels.linear_oracle import kernel_steps, make_problem, settings_of
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
    return values


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
    for loss in ("logistic", "softmax", "squared"):
        for a, b in zip(plain[loss], compiled[loss], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
