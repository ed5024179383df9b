"""The losses that fit a target, what they start from, and what they refuse."""

import math

import msgspec
import numpy as np
import pytest

from streamtrain.errors import ConfigError, SchemaError
from streamtrain.kernels.losses import LOSSES, S_HUBER_DELTA, S_POWER, S_QUANTILE, S_SMOOTHING
from streamtrain.kernels.team import Team
from streamtrain.library import open_dataset
from streamtrain.model.architecture import Architecture, plan_architecture
from streamtrain.model.evaluation import Evaluation
from streamtrain.model.linear import LinearModel
from streamtrain.model.losses import (
    CLASS_LOSSES,
    LOG_LINKS,
    STANDARDISED,
    LossSettings,
    balanced_weights,
    class_values,
)
from streamtrain.model.predictions import predictions, row_losses
from streamtrain.train.settings import TrainSettings
from tests.made import make_dataset, statistics


def schema_of(tmp_path, *, n_classes=2, values=(1.0, 2.0, 6.0), exposure=None, **target):
    """Return a schema whose target has these classes and statistics."""
    schema = open_dataset(make_dataset(tmp_path / "ds", n_rows=50, n_classes=2)).schema
    names = tuple(str(c) for c in range(n_classes))
    changed = msgspec.structs.replace(
        schema.target,
        classes=names,
        values=tuple(float(c) for c in range(n_classes)),
        counts=tuple(range(10, 10 + n_classes)),
        statistics=statistics(np.array(values)),
        **target,
    )
    if exposure is not None:
        schema = msgspec.structs.replace(
            schema, exposure="e", exposure_statistics=statistics(np.array(exposure))
        )
    return msgspec.structs.replace(schema, target=changed)


def test_every_loss_has_one_kind():
    kinds = [CLASS_LOSSES, STANDARDISED, LOG_LINKS]
    assert set().union(*kinds) == set(LOSSES)
    assert sum(map(len, kinds)) == len(LOSSES)


COUNTS, NUMBERS = (0.0, 1.0, 5.0), (-1.5, 0.0, 3.0)


@pytest.mark.parametrize(
    ("loss", "target", "settings", "where", "says"),
    [
        ("softmax", {"n_classes": 2}, {}, "--loss", "--loss logistic"),
        ("logistic", {"n_classes": 3}, {}, "--loss", "--loss softmax"),
        ("hinge", {"n_classes": 0}, {}, "--loss", "--loss squared"),
        ("poisson", {"n_classes": 0, "values": NUMBERS}, {}, "--loss", "from 0"),
        ("poisson", {"n_classes": 0, "values": NUMBERS}, {}, "--loss", "has -1.5"),
        ("tweedie", {"n_classes": 0, "values": NUMBERS}, {}, "--loss", "--loss squared"),
        ("gamma", {"n_classes": 0, "values": NUMBERS}, {}, "--loss", "above 0"),
        ("gamma", {"n_classes": 0, "values": COUNTS}, {}, "--loss", "--loss poisson or tweedie"),
        ("huber", {"n_classes": 3, "is_text": True}, {}, "--loss", "--loss softmax"),
        ("poisson", {"is_text": True}, {}, "--loss", "is text"),
        ("squared", {}, {"class_weights": "balanced"}, "--class-weights", "no effect"),
        ("poisson", {}, {"class_weights": "balanced"}, "--class-weights", "softmax"),
        ("logistic", {}, {"class_weights": "even"}, "--class-weights", "none or balanced"),
        ("quantile", {}, {"quantile": 0.0}, "--quantile", "between 0 and 1"),
        ("quantile", {}, {"quantile": 1.0}, "--quantile", "between 0 and 1"),
        ("quantile", {}, {"quantile": 1e-60}, "--quantile", "between 0 and 1"),
        ("quantile", {}, {"quantile": math.nan}, "--quantile", "between 0 and 1"),
        ("squared", {}, {"quantile": 0.9}, "--quantile", "--loss quantile"),
        ("tweedie", {}, {"tweedie_power": 1.0}, "--tweedie-power", "--loss poisson for 1"),
        ("tweedie", {}, {"tweedie_power": 2.0}, "--tweedie-power", "--loss gamma for 2"),
        ("tweedie", {}, {"tweedie_power": 1 + 1e-12}, "--tweedie-power", "between 1 and 2"),
        ("poisson", {}, {"tweedie_power": 1.7}, "--tweedie-power", "--loss tweedie"),
        ("huber", {}, {"huber_delta": 0.0}, "--huber-delta", "positive"),
        ("huber", {}, {"huber_delta": -1.0}, "--huber-delta", "positive"),
        ("huber", {}, {"huber_delta": math.inf}, "--huber-delta", "positive"),
        ("absolute", {}, {"huber_delta": 2.0}, "--huber-delta", "--loss huber"),
        ("logistic", {}, {"label_smoothing": 1.0}, "--label-smoothing", "from 0"),
        ("logistic", {}, {"label_smoothing": -0.1}, "--label-smoothing", "from 0"),
        ("hinge", {}, {"label_smoothing": 0.1}, "--label-smoothing", "logistic or softmax"),
        ("logistic", {"exposure": (1.0, 2.0)}, {}, "--loss", "poisson, gamma or tweedie"),
        (None, {"exposure": (1.0, 2.0)}, {}, "--loss", "without --exposure"),
        ("poisson", {"exposure": (0.0, 2.0)}, {}, "column 'e'", "is 0, expected positive"),
        ("poisson", {"exposure": (-1.0, 2.0)}, {}, "column 'e'", "is -1"),
    ],
)
def test_what_cannot_work_is_refused_in_a_line_that_says_what_would(
    tmp_path, loss, target, settings, where, says
):
    schema = schema_of(tmp_path, **target)
    with pytest.raises(ConfigError) as caught:
        plan_architecture(schema, model="linear", loss=loss, loss_settings=LossSettings(**settings))
    assert caught.value.where == where
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "option",
    [
        {"quantile": 2.0}, {"huber_delta": 0.0}, {"tweedie_power": 3.0}, {"label_smoothing": 1.0},
        {"class_weights": "some"},
    ],
    ids=str,
)  # fmt: skip
def test_settings_of_training_are_checked_before_a_dataset_is_looked_at(option):
    with pytest.raises(ConfigError) as caught:
        TrainSettings(**option).check()
    assert caught.value.where == f"--{next(iter(option)).replace('_', '-')}"


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {"softmax", "gamma"}))
def test_a_target_of_two_numbers_may_be_used_by_every_loss_but_softmax(tmp_path, loss):
    schema = schema_of(tmp_path, values=(0.0, 1.0))
    planned = plan_architecture(schema, model="linear", loss=loss)
    assert len(class_values(schema, loss)) == (2 if loss in CLASS_LOSSES else 0)
    assert planned.n_scores == 1


@pytest.mark.parametrize("loss", sorted(LOG_LINKS))
def test_a_log_link_starts_at_the_mean_and_learns_targets_as_they_are(tmp_path, loss):
    # Few distinct integers: ingest takes them for classes, the loss for counts.
    schema = schema_of(tmp_path, n_classes=3, task="classes", values=(1.0, 2.0, 6.0))
    planned = plan_architecture(schema, model="linear", loss=loss)
    assert planned.initial_scores == (math.log(3.0),)
    assert (planned.target_mean, planned.target_scale) == (0.0, 1.0)
    exposed = schema_of(
        tmp_path / "exposed", n_classes=3, values=(1.0, 2.0, 6.0), exposure=(0.1, 0.2, 0.3)
    )
    planned = plan_architecture(exposed, model="linear", loss=loss)
    assert planned.initial_scores == (pytest.approx(math.log(3.0 / 0.2)),)
    with Team(1) as team:
        start = LinearModel(planned, team).initial_parameters(0)
    assert start[0] == np.float32(planned.initial_scores[0])
    assert not start[1:].any()


def test_counts_of_nothing_but_zeros_start_at_zero(tmp_path):
    schema = schema_of(tmp_path, n_classes=0, values=(0.0, 0.0))
    assert plan_architecture(schema, model="linear", loss="poisson").initial_scores == (0.0,)


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - LOG_LINKS))
def test_every_other_loss_starts_at_zero(tmp_path, loss):
    schema = schema_of(tmp_path, n_classes=3 if loss == "softmax" else 2)
    planned = plan_architecture(schema, model="linear", loss=loss)
    assert planned.initial_scores == (0.0,) * planned.n_scores
    learnt = (planned.target_mean, planned.target_scale)
    spread = schema.target.statistics
    assert learnt == ((spread.mean, 1 / spread.std) if loss in STANDARDISED else (0.0, 1.0))


def test_balanced_weights_make_classes_count_alike(tmp_path):
    schema = schema_of(tmp_path, n_classes=3)
    planned = plan_architecture(
        schema, model="linear", loss="softmax", loss_settings=LossSettings(class_weights="balanced")
    )
    counts = np.array(schema.target.counts)
    np.testing.assert_allclose(planned.class_weights * counts, counts.sum() / 3)
    # A class that no train row has weighs nothing in any sum, and divides nothing.
    assert balanced_weights((10, 0, 30)) == (2.0, 1.0, 40 / 60)
    assert plan_architecture(schema, model="linear", loss="softmax").class_weights == ()


def test_kernels_take_settings_in_learnt_units():
    a = Architecture(
        "linear", "huber", 1, (), (), (), target_mean=5.0, target_scale=0.25, huber_delta=8.0,
        quantile=0.75, tweedie_power=1.25, label_smoothing=0.5,
    )  # fmt: skip
    shape = a.loss_shape()
    assert shape.dtype == np.float32
    assert shape[[S_HUBER_DELTA, S_QUANTILE, S_POWER, S_SMOOTHING]].tolist() == [2, 0.75, 1.25, 0.5]
    assert a.loss_unit == 1 / 16


def test_losses_of_errors_are_in_the_targets_own_units():
    scores, target = np.array([[0.0], [1.0]], np.float32), np.array([103, 98], np.float32)
    units = {"target_mean": 100.0, "target_scale": 0.1}
    expected = {"absolute": [3, 12], "huber": [4.0, 22.0], "quantile": [0.75, 9.0]}
    for loss, losses in expected.items():
        a = Architecture("linear", loss, 1, (), (), (), huber_delta=2.0, quantile=0.25, **units)
        np.testing.assert_allclose(predictions(a, scores), [100.0, 110.0])
        np.testing.assert_allclose(row_losses(a, scores, target), losses)


@pytest.mark.parametrize(
    ("loss", "target", "exposure", "says"),
    [
        ("poisson", [1, -1], None, "from 0, found -1"),
        ("gamma", [1, 0], None, "above 0, found 0"),
        ("tweedie", [1, -0.5], None, "from 0"),
        ("poisson", [1, 1], [1, 0], "exposure is 0"),
    ],
)
def test_rows_outside_of_a_losss_domain_are_never_measured(loss, target, exposure, says):
    evaluation = Evaluation(Architecture("linear", loss, 1, (), (), ()), n_classes=0)
    none = np.empty(0, np.float32)
    with pytest.raises(SchemaError, match=says):
        evaluation.update(
            np.zeros((2, 1), np.float32),
            np.array(target, np.float32),
            none,
            none if exposure is None else np.array(exposure, np.float32),
        )
