"""Losses and predictions against plain formulas, and the losses that fit a target."""

import math

import msgspec
import numpy as np
import pytest

from streamtrain.errors import ConfigError
from streamtrain.library import open_dataset
from streamtrain.model.architecture import (
    Architecture,
    plan_architecture,
)
from streamtrain.model.linear import LinearLayout, scratch_bytes
from streamtrain.model.losses import class_values, guess_loss
from streamtrain.model.predictions import predictions, row_losses
from tests.kernels.linear_oracle import losses_and_deltas
from tests.made import make_dataset


def architecture(loss, **changes):
    n_scores = 3 if loss == "softmax" else 1
    return Architecture("linear", loss, n_scores, (), (), (), **changes)


@pytest.mark.parametrize("loss", ["logistic", "hinge", "softmax"])
def test_losses_follow_their_formulas_even_for_huge_scores(loss):
    rng = np.random.default_rng(0)
    scores = (rng.normal(size=(200, 3 if loss == "softmax" else 1)) * 30).astype(np.float32)
    scores[:2] = 3e4
    scores[2:4] = -3e4
    y = rng.integers(0, 3 if loss == "softmax" else 2, 200).astype(np.float32)
    expected, _ = losses_and_deltas(
        architecture(loss), scores.astype(np.float64), y.astype(np.float64)
    )
    np.testing.assert_allclose(row_losses(architecture(loss), scores, y), expected, atol=1e-9)


def test_squared_losses_and_predictions_are_in_the_targets_own_units():
    a = architecture("squared", target_mean=100.0, target_scale=0.1)
    scores = np.array([[0.0], [1.0]], np.float32)
    np.testing.assert_allclose(predictions(a, scores), [100.0, 110.0])
    np.testing.assert_allclose(row_losses(a, scores, np.array([103, 110], "f4")), [9.0, 0.0])


def test_predictions_are_probabilities_or_margins():
    scores = np.array([[-200.0], [0.0], [2.0], [200.0]], np.float32)
    found = predictions(architecture("logistic"), scores)
    np.testing.assert_allclose(found, [0.0, 0.5, 1 / (1 + math.exp(-2)), 1.0], atol=1e-12)
    assert predictions(architecture("hinge"), scores).tolist() == [-200.0, 0.0, 2.0, 200.0]
    wide = np.array([[1000.0, 0.0, 1000.0], [1.0, 2.0, 3.0]], np.float32)
    p = predictions(architecture("softmax"), wide)
    np.testing.assert_allclose(p[0], [0.5, 0.0, 0.5])
    np.testing.assert_allclose(p[1], np.exp([1, 2, 3]) / np.exp([1, 2, 3]).sum())


@pytest.mark.parametrize(
    ("n_classes", "loss", "says"),
    [
        (2, "softmax", "logistic"), (0, "softmax", "squared"), (0, "logistic", "squared"),
        (4, "logistic", "softmax"), (4, "hinge", "softmax"), (2, "hubert", "squared"),
    ],
)  # fmt: skip
def test_a_loss_that_does_not_fit_its_target_is_answered_with_one_that_does(
    tmp_path, n_classes, loss, says
):
    schema = open_dataset(make_dataset(tmp_path / "ds", n_rows=50, n_classes=n_classes)).schema
    if n_classes == 0:
        target = msgspec.structs.replace(schema.target, classes=(), values=())
        schema = msgspec.structs.replace(schema, target=target)
    with pytest.raises(ConfigError) as caught:
        plan_architecture(schema, model="linear", loss=loss)
    assert says in caught.value.remedy
    assert caught.value.where == "--loss"


def test_text_targets_are_no_numbers(tmp_path):
    schema = open_dataset(make_dataset(tmp_path / "ds", n_rows=50)).schema
    target = msgspec.structs.replace(schema.target, is_text=True)
    with pytest.raises(ConfigError, match="is text"):
        plan_architecture(
            msgspec.structs.replace(schema, target=target), model="linear", loss="squared"
        )


def test_columns_are_standardised_and_constant_ones_are_silent(tmp_path):
    schema = open_dataset(make_dataset(tmp_path / "ds", n_rows=50, weighted=True)).schema
    constant = msgspec.structs.replace(schema.columns[1].statistics, std=0.0)
    columns = list(schema.columns)
    columns[1] = msgspec.structs.replace(columns[1], statistics=constant)
    planned = plan_architecture(
        msgspec.structs.replace(schema, columns=tuple(columns)), model="linear", loss=None
    )
    first = schema.columns[0].statistics
    assert planned.loss == guess_loss("binary") == "logistic"
    assert planned.mean == (first.mean, constant.mean)
    assert planned.scale == (1 / first.std, 0.0)
    assert planned.weight_scale == pytest.approx(1 / schema.weight_statistics.mean)
    assert class_values(schema, "logistic").tolist() == [0.0, 1.0]
    assert len(class_values(schema, "squared")) == 0


@pytest.mark.parametrize("spread", [1e-45, 1e-40])
def test_a_spread_whose_inverse_float32_cannot_hold_counts_as_none(tmp_path, spread):
    schema = open_dataset(make_dataset(tmp_path / "ds", n_rows=50, weighted=True)).schema
    tiny = msgspec.structs.replace(schema.columns[0].statistics, mean=spread, std=spread)
    schema = msgspec.structs.replace(
        schema,
        columns=(msgspec.structs.replace(schema.columns[0], statistics=tiny),),
        target=msgspec.structs.replace(schema.target, statistics=tiny),
        weight_statistics=tiny,
    )
    planned = plan_architecture(schema, model="linear", loss="squared")
    assert (planned.scale, planned.target_scale, planned.weight_scale) == ((0.0,), 1.0, 1.0)


def test_the_layout_of_parameters():
    layout = LinearLayout(3, (4, 5), 2)
    assert layout.n_dense_rows == 7
    assert layout.first_row().tolist() == [7, 11]
    assert layout.n_parameters == (7 + 9) * 2
    assert LinearLayout(2, (), 1).first_row().tolist() == []
    small, large = (scratch_bytes(layout, batch_size=b, n_threads=2) for b in (64, 65_536))
    assert large > small
