"""Run every kernel of training once on one row, so that what follows is only training."""

from __future__ import annotations

import sys

import numpy as np

from streamtrain.kernels.averaging import move_average
from streamtrain.kernels.bags import copy_entries, no_bags, scatter_entries
from streamtrain.kernels.scatter import class_indices, scatter_block, scatter_bytes, scatter_rows
from streamtrain.kernels.team import Team
from streamtrain.model.architecture import Architecture
from streamtrain.model.models import make_model
from streamtrain.model.network import ColumnEncoding, Layer, Network
from streamtrain.optim.optimizers import OptimizerSettings, make_rule
from streamtrain.reader.order import OrderSettings, WindowPlan, epoch_windows, window_places
from streamtrain.store.zarr_layout import CODE_TYPES


def compile_kernels(family: str) -> None:
    """Compile the kernels of training, or load them from the cache.

    They depend on types alone, never on a model's shape or settings.

    Parameters
    ----------
    family : {"linear", "network"}
    """
    network = None
    if family == "network":
        network = Network((ColumnEncoding("standard"),), (1,), layers=(Layer("output"),))
    architecture = Architecture(
        model="linear" if network is None else "mlp",
        loss="logistic",
        n_scores=1,
        mean=(0.0,),
        scale=(1.0,),
        cardinalities=(2,),
        network=network,
    )
    with Team(1) as team:
        model = make_model(architecture, team, batch_size=1)
        parameters = model.initial_parameters(0)
        rule = make_rule(
            OptimizerSettings(l2=1e-9),
            n_parameters=model.layout.n_parameters,
            n_dense=model.layout.n_dense,
            n_table_rows=model.layout.n_table_rows,
        )
        numeric, codes = np.zeros((1, 1), np.float32), np.zeros((1, 1), np.int32)
        target, nothing = np.zeros(1, np.float32), np.empty(0, np.float32)
        model.take_steps(
            parameters,
            rule,
            numeric=numeric,
            codes=codes,
            target=target,
            weight=nothing,
            batch_size=1,
            step=0,
            rates=np.zeros(1),
            step_sums=np.zeros((1, 2)),
        )
        model.settled(parameters, rule)
        model.scores(parameters, numeric, codes)
        team.run(move_average, parameters.copy(), parameters, np.float32(0.5))
    window_places(OrderSettings("", 0, 1), WindowPlan(0, 0, 0, (0,), 1), np.zeros(1, np.int32))
    epoch_windows(OrderSettings("", 0, 1), [1], 0)
    class_indices(np.zeros(1, np.float32), target, 1)
    places, limits = np.zeros(1, np.int32), np.ones(1, np.int32)
    block = np.zeros(12, np.uint8)
    scatter_block(block, 1, 4, places, numeric, codes, target, nothing, nothing, limits)
    entries = no_bags(1, 1)
    scatter_entries(block, 1, places, 0, 0, 1, 1, *entries)
    copy_entries(*entries, 0, 0, *entries)
    targets = target.reshape(1, 1)
    scatter_bytes(block.reshape(1, 12), targets, places, block.reshape(1, 12), targets)
    for kind in CODE_TYPES:
        scatter_rows(
            numeric, codes.astype(kind), target, nothing, nothing, limits, places,
            numeric, codes, target, nothing, nothing,
        )  # fmt: skip


if __name__ == "__main__":
    compile_kernels(sys.argv[1])
    sys.exit(0)
