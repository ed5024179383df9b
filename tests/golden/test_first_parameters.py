"""First parameters as they were first drawn: a run with the same seed begins here. Never change."""

import hashlib

import numpy as np
import pytest

from streamtrain.kernels.team import Team
from streamtrain.model.architecture import Architecture
from streamtrain.model.network import ColumnEncoding, Network, NetworkOptions, named_layers
from streamtrain.model.network_model import NetworkModel

GOLDEN = {
    ("deepfm", 0): "ed06c3762c291740efe76fba75d11801",
    ("deepfm", 7): "8815f5d05947b68f6fcdb41ea0ba04fa",
    ("dcn", 0): "a37b9497506dec51d3f93264c6f62974",
    ("dcn", 7): "47e9ec735c142d8270316b6d2b4d9da4",
}


def digest(model, seed):
    factors = model == "deepfm"
    network = Network(
        columns=(ColumnEncoding("standard", indicator=True),) * 3,
        embedding_dims=(8, 8),
        linear=factors,
        vector_dim=8 if factors else 0,
        frequencies=8,
        frequency_width=16,
        layers=named_layers(model, NetworkOptions(hidden=(20, 20), layer_norm=True), n_vectors=5),
    )
    architecture = Architecture(
        model=model, loss="softmax", n_scores=3, mean=(0.0,) * 3, scale=(1.0,) * 3,
        cardinalities=(4, 9), initial_scores=(0.5, -0.25, 0.125), network=network,
    )  # fmt: skip
    with Team(1) as team:
        parameters = NetworkModel(architecture, team).initial_parameters(seed)
    assert np.isfinite(parameters).all()
    return hashlib.blake2b(parameters.tobytes(), digest_size=16).hexdigest()


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("model", ["deepfm", "dcn"])
def test_golden_first_parameters(model, seed):
    assert digest(model, seed) == GOLDEN[model, seed]
