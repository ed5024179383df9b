"""What a model is trained with where nothing was asked for."""

import pytest

from streamtrain.library import open_dataset
from streamtrain.train.defaults import gradient_scale, model_defaults
from tests.made import make_dataset

B = 128


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    return open_dataset(make_dataset(tmp_path_factory.mktemp("made") / "ds", n_classes=0)).schema


def defaults_of(schema, model, **given):
    facts = {"n_rows": 50_000, "has_valid": True, "batch_size": B, **given}
    return model_defaults(model, schema, **facts)


@pytest.mark.parametrize(
    ("counts", "loss", "scale"),
    [
        ((50, 50), "logistic", 1.0),
        ((10, 90), "logistic", 0.6),
        ((90, 10), "hinge", 0.6),
        # A fourth of the rows in each: 2 sqrt(3/16).
        ((5, 5, 5, 5), "softmax", 0.75**0.5),
        ((10, 90), "squared", 1.0),
        ((), "squared", 1.0),
        ((10, 90), "poisson", 0.0),
    ],
)
def test_the_scale_of_gradients_is_the_deviation_of_the_target(schema, counts, loss, scale):
    target = type(schema.target)(
        **{f: getattr(schema.target, f) for f in schema.target.__struct_fields__}
        | {"counts": counts}
    )
    assert gradient_scale(target, loss) == pytest.approx(scale)


@pytest.mark.parametrize(
    ("model", "rate", "rows", "l2"), [("linear", 0.07, 5.0, None), ("fm", 0.004, 0.25, 0.06)]
)
def test_steps_of_linear_models_and_fm_follow_the_batch(schema, model, rate, rows, l2):
    found = defaults_of(schema, model, loss="squared")
    assert (found["lr"], found["epsilon"], found.get("l2")) == (rate, rows / B, l2)
    half = defaults_of(schema, model, loss="squared", batch_size=B // 2)
    assert half["epsilon"] == 2 * found["epsilon"]


@pytest.mark.parametrize("model", ["linear", "fm"])
@pytest.mark.parametrize("given", [{"optimizer": "ftrl"}, {"loss": "poisson"}], ids=str)
def test_what_was_not_measured_keeps_the_optimizers_own_epsilon(schema, model, given):
    assert "epsilon" not in defaults_of(schema, model, **given)


@pytest.mark.parametrize(
    ("given", "epochs", "early_stop"),
    [
        ({"n_rows": 10_000}, 20, 3),
        ({"n_rows": 400_000}, 5, 3),
        ({"n_rows": 10**9}, 3, 0),
        ({"n_rows": 10_000, "has_valid": False}, 3, 0),
        ({"n_rows": 10_000, "epochs": 7}, 3, 0),
    ],
    ids=str,
)
def test_linear_models_pass_more_often_over_small_data(schema, given, epochs, early_stop):
    found = defaults_of(schema, "linear", **given)
    assert (found["epochs"], found["early_stop"]) == (epochs, early_stop)


@pytest.mark.parametrize(("model", "decay"), [("mlp", 1.0), ("dcn", 0.1)])
def test_cross_layers_decay_less_beside_pieces(schema, model, decay):
    assert defaults_of(schema, model, encoding="ple")["l2"] == decay
