"""Digests of what every kind of kernel computes, printed as JSON by a process of its own.

python -m tests.conformance.compiled_digests
"""

import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np

from streamtrain.kernels._jit import compile_seconds
from streamtrain.kernels.team import Team
from streamtrain.kernels.updates import OPTIMIZERS
from streamtrain.library import open_dataset
from streamtrain.model.architecture import plan_architecture
from streamtrain.model.models import make_model
from streamtrain.model.network import NetworkOptions
from streamtrain.optim.optimizers import OptimizerSettings, make_rule
from tests.conformance.test_networks import CUSTOM
from tests.made import make_dataset

B, RATE = 32, 0.01
ENCODINGS = ("standard", "robust", "quantile", "ple", "plr")


def cases():
    """Yield (name, model, options, optimizer)."""
    for name in OPTIMIZERS:
        yield f"linear, {name}", "linear", {}, name
        yield f"deepfm, {name}", "deepfm", {"hidden": (20,)}, name
    for encoding in ENCODINGS:
        options = {"hidden": (20, 9), "numeric_encoding": encoding, "dropout": 0.1}
        yield f"mlp, {encoding}", "mlp", options, "adam"
    for activation in ("silu", "gelu", "tanh"):
        yield f"mlp, {activation}", "mlp", {"hidden": (20,), "activation": activation}, "adam"
    for model in ("fm", "wide-deep", "dcn"):
        yield model, model, {}, "adam"
    yield "custom", "custom", {"layers": CUSTOM}, "adam"


def digest(dataset, rows, model, options, optimizer):
    """Return the digest of parameters after two epochs, and of scores."""
    network = NetworkOptions(**{"numeric_encoding": "standard", **options})
    if model == "linear":
        network = NetworkOptions()
    architecture = plan_architecture(dataset.schema, model=model, loss=None, options=network)
    settings = OptimizerSettings(name=optimizer).resolved()
    n = -(-rows.n_rows // B)
    with Team(1) as team:
        made = make_model(architecture, team, batch_size=B)
        parameters, layout = made.initial_parameters(0), made.layout
        rule = make_rule(
            settings,
            n_parameters=layout.n_parameters,
            n_dense=layout.n_dense,
            n_table_rows=layout.n_table_rows,
            rate=RATE,
        )
        for epoch in range(2):
            made.take_steps(
                parameters,
                rule,
                numeric=rows.numeric,
                codes=rows.codes,
                target=rows.target,
                weight=rows.weight,
                batch_size=B,
                step=epoch * n,
                rates=np.full(n, RATE),
                step_sums=np.zeros((n, 2)),
            )
        settled = made.settled(parameters, rule)
        scores = made.scores(settled, rows.numeric, rows.codes)
    return hashlib.sha256(settled.tobytes() + scores.tobytes()).hexdigest()[:16]


def main():
    """Print seconds of compiling, and the digest of each case."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"n_rows": 400, "n_numeric": 5, "weighted": True, "missing": 0.1}
        dataset = open_dataset(make_dataset(Path(folder) / "ds", block_rows=(64,), **options))
        rows, _ = next(dataset.batches(200, seed=3))
        found = {name: digest(dataset, rows, *case) for name, *case in cases()}
    print(json.dumps({"compiled_s": compile_seconds(), "digests": found}))


if __name__ == "__main__":
    main()
