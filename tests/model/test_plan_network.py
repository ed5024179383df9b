"""Which network a dataset and options give, and what is refused."""

import pytest

from streamtrain.errors import ConfigError
from streamtrain.model.network import (
    Layer,
    Network,
    NetworkOptions,
    embedding_dim_of,
    named_layers,
)
from streamtrain.model.plan_network import plain_network, plan_network
from streamtrain.model.wiring import wire
from streamtrain.store.schema import Column, NumericStatistics, Schema, Target

NAMED = ("fm", "mlp", "wide-deep", "deepfm", "dcn")
STATISTICS = NumericStatistics(90, 10, 1.0, 2.0, -3.0, 5.0)


def schema_of(n_numeric=2, cardinalities=(5, 40)):
    return Schema(
        columns=(
            *(Column(f"n{j}", "numeric", statistics=STATISTICS) for j in range(n_numeric)),
            *(Column(f"c{f}", "categorical", cardinality=c) for f, c in enumerate(cardinalities)),
        ),
        target=Target("y", "binary", ("0", "1"), (0.0, 1.0), False, (50, 50), STATISTICS, 1.0),
    )


@pytest.mark.parametrize("shape", [(2, (5, 40)), (0, (5, 40)), (2, ()), (1, ()), (0, (5,))])
@pytest.mark.parametrize("encoding", [None, "standard", "robust", "quantile", "ple", "plr"])
@pytest.mark.parametrize("model", NAMED)
def test_every_named_network_can_be_wired_for_any_columns(model, encoding, shape):
    options = NetworkOptions(numeric_encoding=encoding, layer_norm=True, residual=True)
    network = plan_network(schema_of(*shape), model, options)
    for n_scores in (1, 3, 20):
        wiring = wire(network, cardinalities=shape[1], n_scores=n_scores)
        assert wiring.n_values > 0
        assert len(wiring.fields) == len(shape[1])


def test_missing_values_get_indicators():
    network = plan_network(schema_of(), "mlp", NetworkOptions())
    assert [c.indicator for c in network.columns] == [True, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": (0,)}, "a width of 0"),
        ({"hidden": (8, 1 << 20)}, "is not from 1 to 16384"),
        ({"dropout": 1.0}, "is not in [0, 1)"),
        ({"dropout": float("nan")}, "is not in [0, 1)"),
        ({"cross_layers": 0}, "is not from 1 to 64"),
        ({"embedding_dim": 0}, "is not from 1 to 1024"),
        ({"bins": 1}, "is not from 2 to 64"),
        ({"bins": 65}, "is not from 2 to 64"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message.replace("[", r"\[").replace(")", r"\)")):
        plan_network(schema_of(), "mlp", NetworkOptions(**options))


def test_a_custom_network_needs_its_table():
    with pytest.raises(ConfigError, match="needs its table of layers"):
        plan_network(schema_of(), "custom", NetworkOptions())


def test_a_network_needs_a_column():
    with pytest.raises(ConfigError, match="needs a column"):
        plan_network(schema_of(0, ()), "mlp", NetworkOptions())


def test_arrays_have_no_statistics_to_encode_by():
    for kind in ("robust", "quantile", "ple"):
        with pytest.raises(ConfigError, match="needs the statistics"):
            plain_network(
                "mlp", NetworkOptions(numeric_encoding=kind), n_numeric=2, cardinalities=()
            )
    found = plain_network("mlp", NetworkOptions(), n_numeric=2, cardinalities=(3,))
    assert isinstance(found, Network)
    assert [c.kind for c in found.columns] == ["standard"] * 2


def test_vectors_of_factorization_machines_are_all_as_wide():
    network = plan_network(schema_of(), "fm", NetworkOptions(embedding_dim=16))
    assert network.embedding_dims == (16, 16)
    assert network.vector_dim == 16
    with pytest.raises(ConfigError, match="pairs need vectors"):
        wire(
            plan_network(schema_of(), "fm", NetworkOptions(embedding_dim=6)),
            cardinalities=(5, 40),
            n_scores=1,
        )


def test_a_custom_table_that_reads_vectors_gets_them():
    layers = (Layer("pairs", source="vectors", name="p"), Layer("sum", source="p"))
    network = plan_network(schema_of(), "custom", NetworkOptions(layers=layers))
    assert network.vector_dim == 8
    assert network.layers == layers


def test_widths_of_embeddings_follow_the_rule_of_thumb():
    assert [embedding_dim_of(n) for n in (2, 3, 10, 100, 1_000_000)] == [4, 4, 8, 24, 32]


def test_residuals_join_layers_of_equal_width_alone():
    options = NetworkOptions(hidden=(8, 8, 4), residual=True, dropout=0.5)
    ops = [(la.op, la.source, la.to) for la in named_layers("mlp", options, n_vectors=0)]
    assert [o for o in ops if o[0] == "residual"] == [("residual", "hidden0", "hidden1")]
    assert [o[1] for o in ops if o[0] == "dropout"] == ["hidden0", "hidden1", "hidden2"]
