"""Tables of layers that cannot be computed give one error; those that can, first parameters."""

import numpy as np
import pytest

from streamtrain.errors import ConfigError
from streamtrain.kernels.team import Team
from streamtrain.model.architecture import Architecture
from streamtrain.model.network import ColumnEncoding, Layer, Network
from streamtrain.model.network_model import NetworkModel
from streamtrain.model.wiring import wire

H = Layer("affine", name="h", width=20)
OUT = Layer("output", source="h")
V = {"vector_dim": 8, "embedding_dims": (8, 8)}


def wired(*layers, n_columns=3, **settings):
    network = Network(
        columns=(ColumnEncoding("standard"),) * n_columns,
        **{"embedding_dims": (5, 3), **settings},
        layers=layers,
    )
    return wire(network, cardinalities=(4, 9)[: len(network.embedding_dims)], n_scores=1)


# name: (layers, settings, what the message says)
REFUSED = {
    "unknown source": ((Layer("output", source="g"),), {}, "no 'g' to read, only numeric"),
    "source of a later layer": ((OUT, H), {}, "no 'h' to read"),
    "no vectors": ((Layer("output", source="vectors"),), {}, "no 'vectors' to read"),
    "no numbers": ((Layer("output", source="numeric"),), {"n_columns": 0}, "no 'numeric'"),
    "no embeddings": (
        (Layer("output", source="embeddings"),), {"embedding_dims": ()}, "no 'embeddings'",
    ),
    "name taken": ((H, H, OUT), {}, "found 'h'"),
    "name of an input": ((Layer("affine", name="inputs", width=3), OUT), {}, "found 'inputs'"),
    "no name": ((Layer("affine", width=3), OUT), {}, "found ''"),
    "no width": ((Layer("affine", name="h"), OUT), {}, "width of 0 is not from 1 to 16384"),
    "negative width": ((Layer("affine", name="h", width=-1), OUT), {}, "width of -1"),
    "huge width": ((Layer("affine", name="h", width=1 << 40), OUT), {}, "is not from 1 to 16384"),
    "no activation": ((H, Layer("activation", source="h", name="a"),
                       Layer("output", source="a")), {}, "no activation ''"),
    "rate of 0": ((H, Layer("dropout", source="h"), OUT), {}, "rate of 0.0 is not in (0, 1)"),
    "rate of 1": ((H, Layer("dropout", source="h", rate=1.0), OUT), {}, "is not in (0, 1)"),
    "residual of unequal widths": (
        (H, Layer("affine", source="h", name="g", width=21),
         Layer("residual", source="h", to="g"), Layer("output", source="g")), {},
        "cannot add 20 numbers to 21",
    ),
    "residual to nothing": ((H, Layer("residual", source="h", to="x"), OUT), {}, "no 'x'"),
    "cross of unequal widths": (
        (H, Layer("affine", source="h", name="g", width=30),
         Layer("cross", source="g", first="h", name="c"), Layer("output", source="c")), {},
        "cannot cross 20 numbers with 30",
    ),
    "pairs of 6": (
        (Layer("pairs", source="vectors", name="p"), Layer("sum", source="p")),
        {"vector_dim": 6, "embedding_dims": (6, 6)}, "pairs need vectors of 1, 2, 4, 8",
    ),
    "pairs without vectors": (
        (H, Layer("pairs", source="h", name="p"), Layer("sum", source="p")), {}, "these have 0",
    ),
    "pairs of a width that is no vectors": (
        (H, Layer("pairs", source="h", name="p"), Layer("sum", source="p")), V,
        "20 numbers are no vectors of 8",
    ),
    "nothing reads the last layer": ((H,), {}, "nothing reads what it makes"),
    "nothing reads one of two": (
        (H, Layer("affine", source="h", name="g", width=4), OUT), {}, "nothing reads",
    ),
    "nothing reads what dropout leaves": (
        (H, Layer("sum", source="inputs"), Layer("dropout", source="h", rate=0.5)), {},
        "nothing reads",
    ),
    "nothing reads a residual": (
        (H, Layer("affine", source="h", name="g", width=20), OUT,
         Layer("residual", source="h", to="g")), {}, "nothing reads",
    ),
    "dropout of what was read": (
        (H, OUT, Layer("dropout", source="h", rate=0.5), OUT), {},
        "cannot change 'h', which was read before",
    ),
    "residual into what was read": (
        (H, Layer("norm", source="h", name="n"), Layer("residual", source="n", to="h"), OUT), {},
        "cannot change 'h', which was read before",
    ),
    "dropout of numbers that have weights": (
        (Layer("dropout", source="numeric", rate=0.5), H, OUT), {"linear": True},
        "cannot change 'numeric'",
    ),
    "embeddings that are no vectors": ((H, OUT), {"vector_dim": 8}, "need as many"),
    "few frequencies": ((H, OUT), {"frequencies": 4, "frequency_width": 16}, "multiple of 8"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_table_that_cannot_be_computed_gives_one_clear_error(name):
    layers, settings, message = REFUSED[name]
    with pytest.raises(ConfigError) as caught:
        wired(*layers, **settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    of_table = name not in {"few frequencies", "embeddings that are no vectors"}
    assert caught.value.where.startswith("layer ") == of_table


def test_sizes_count_every_parameter_that_is_not_padding():
    found = wired(H, Layer("norm", source="h", name="n"), Layer("output", source="n"))
    # Numbers fill one panel of 16 lanes, embeddings 8 of the next: 24 inputs.
    affine, norm = 20 * (24 + 1), 2 * 20
    assert found.n_values == 1 + affine + norm + 20 + 4 * 5 + 9 * 3
    assert found.n_parameters >= found.n_values
    assert found.n_table_rows == 13
    assert found.n_dense % 16 == 0


def test_tasks_own_each_dense_parameter_once():
    network = Network(
        columns=(ColumnEncoding("standard"),) * 150,
        embedding_dims=(),
        layers=(Layer("affine", name="h", width=300), OUT),
    )
    found = wire(network, cardinalities=(), n_scores=1)
    owned = np.zeros((19, 10), int)
    for kind, _, q0, q1, p0, p1 in found.tasks_array().tolist():
        if kind == 5:  # AFFINE
            owned[q0:q1, p0:p1] += 1
    assert (owned == 1).all()


def model_of(*layers, initial=(), **settings):
    network = Network(
        columns=(ColumnEncoding("standard"),) * 3,
        **{"embedding_dims": (8, 8), **settings},
        layers=layers,
    )
    architecture = Architecture(
        model="custom", loss="logistic", n_scores=1, mean=(0.0,) * 3, scale=(1.0,) * 3,
        cardinalities=(4, 9), initial_scores=initial, network=network,
    )  # fmt: skip
    with Team(1) as team:
        return NetworkModel(architecture, team)


def test_first_parameters_lie_within_their_bounds_and_padding_is_zero():
    model = model_of(H, OUT, initial=(0.75,), embedding_scale=0.2, linear=True)
    w = model.initial_parameters(3)
    assert w.dtype == np.float32
    bound = 1 / np.sqrt(32)
    assert w[0] == np.float32(0.75)
    assert not w[1:16].any()
    heads = model.layout.n_dense
    # The linear weights of 3 numbers begin at 0.
    assert not w[16:32].any()
    affine = w[32 : 32 + 2 * 32 * 16].reshape(2, 32, 16)
    assert 0.9 * bound < np.abs(affine).max() <= bound
    assert not affine[1, :, 4:].any()
    assert np.unique(affine[0]).size > 500
    output = w[32 + 2 * 32 * 16 + 32 : heads]
    assert np.abs(output[:20]).min() > 0
    assert np.abs(output).max() <= 1 / np.sqrt(20)
    assert not output[20:].any()
    tables = w[heads:].reshape(13, 9)
    assert not tables[:, 0].any()
    assert 0.18 < np.abs(tables[:, 1:]).max() <= np.float32(0.2)
    assert abs(tables[:, 1:].mean()) < 0.05


def test_norms_begin_as_they_are_and_frequencies_normal():
    model = model_of(
        Layer("norm", name="n"), Layer("output", source="n"), frequencies=64,
        frequency_width=16, frequency_scale=0.5,
    )  # fmt: skip
    w = model.initial_parameters(0)
    frequencies = w[16 : 16 + 3 * 64]
    assert frequencies.std() == pytest.approx(0.5, rel=0.2)
    assert abs(frequencies.mean()) < 0.5 * 4 / np.sqrt(192)
    assert (w == 1).sum() == wired_width(model)


def wired_width(model):
    return next(s.n for s in model.layout.starts if s.kind == "one")


def test_different_seeds_differ_and_the_same_is_the_same():
    model = model_of(H, OUT)
    first, again, other = (model.initial_parameters(seed) for seed in (0, 0, 1))
    assert first.tobytes() == again.tobytes()
    drawn = first != 0
    assert (first != other)[drawn].all()


def test_a_place_has_its_own_number_whatever_the_network():
    # Parameters are a function of the seed and the place, not of how many were drawn before.
    a, b = (
        model_of(H, OUT).initial_parameters(0),
        model_of(
            H,
            Layer("activation", source="h", name="a", activation="relu"),
            Layer("output", source="a"),
        ).initial_parameters(0),
    )
    assert a.tobytes() == b.tobytes()
