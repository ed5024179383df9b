"""Rows measured before they are learnt from, in one process or in several."""

import math

import numpy as np
import pytest

from streamtrain.errors import StoppedError
from streamtrain.library import open_dataset
from streamtrain.train import progressive
from tests.made import make_dataset
from tests.train.training import done, events_of, step_by_step, stop_after

__all__ = ["step_by_step"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset(make_dataset(tmp_path_factory.mktemp("made") / "ds", n_rows=200))


def test_the_loss_of_the_first_epoch_is_reported_without_being_asked(dataset, tmp_path):
    events = events_of(dataset, tmp_path / "run", epochs=3)
    epochs = [e for e in events if e["event"] == "epoch"]
    first = epochs[0]["progressive"]
    assert first == {"loss": epochs[0]["train"]["loss"], "rows": 200}
    assert ["progressive" in e for e in epochs] == [True, False, False]
    assert events[-1]["progressive"] == first
    assert events[-1]["train"]["loss"] != first["loss"]


@pytest.mark.parametrize(
    ("made", "options", "loss_of"),
    [
        ({}, {"loss": "logistic"}, lambda m: m["logloss"]),
        ({"weighted": True}, {"loss": "logistic"}, lambda m: m["logloss"]),
        ({"n_classes": 4}, {"loss": "softmax"}, lambda m: m["logloss"]),
        ({"n_classes": 0}, {"loss": "squared"}, lambda m: m["rmse"] ** 2),
        ({"n_classes": 0}, {"loss": "absolute"}, lambda m: m["mae"]),
        ({"n_classes": 0}, {"loss": "quantile", "quantile": 0.7}, lambda m: m["pinball"]),
    ],
)
@pytest.mark.parametrize("scored_rows", [10, 8192])
def test_progressive_metrics_are_of_scores_before_the_step(
    tmp_path, monkeypatch, made, options, loss_of, scored_rows
):
    monkeypatch.setattr(progressive, "SCORING_ROWS", scored_rows)
    dataset = open_dataset(make_dataset(tmp_path / "ds", n_rows=200, **made))
    plain = done(dataset, tmp_path / "plain", **options)
    found = done(dataset, tmp_path / "run", progressive=True, **options)
    assert found["parameters_digest"] == plain["parameters_digest"]
    measured = found["progressive"]
    assert measured["rows"] == measured["metrics_rows"] == 200
    # The kernel's loss, and a metric that knows nothing of it.
    assert loss_of(measured) == pytest.approx(measured["loss"], rel=1e-5)
    assert measured["loss"] == plain["progressive"]["loss"]


@pytest.mark.parametrize(("scored_rows", "most"), [(10, 16), (40, 32), (8192, 208)])
def test_few_rows_are_scored_at_a_time(dataset, tmp_path, monkeypatch, scored_rows, most):
    monkeypatch.setattr(progressive, "SCORING_ROWS", scored_rows)
    sizes = []
    scores = progressive.Progressive.scores

    def seen(self, rows):
        sizes.append(rows.n_rows)
        return scores(self, rows)

    monkeypatch.setattr(progressive.Progressive, "scores", seen)
    done(dataset, tmp_path / "run", epochs=1, progressive=True)
    assert max(sizes) <= most


def test_a_deviance_before_the_step_counts_exposures(tmp_path):
    dataset = open_dataset(make_dataset(tmp_path / "ds", n_rows=300, exposed=True))
    options = {"loss": "poisson", "lr": 1e-30, "optimizer": "sgd", "progressive": True}
    found = done(dataset, tmp_path / "run", **options)["progressive"]
    rows, _ = next(dataset.batches(300, shuffle=False))
    y, e = rows.target.astype(np.float64), rows.exposure.astype(np.float64)
    mean = e * y.mean() / e.mean()
    log = np.log(np.where(y > 0, y / mean, 1.0))
    assert found["deviance"] == pytest.approx(2 * (y * log - y + mean).mean(), rel=1e-6)
    assert found["loss"] == pytest.approx((mean - y * np.log(mean)).mean(), rel=1e-6)
    # It starts at the best constant rate, which explains nothing.
    assert found["d2"] == pytest.approx(0, abs=1e-6)


def test_a_run_that_ends_in_its_first_epoch_reports_the_rows_it_saw(dataset, tmp_path):
    found = done(dataset, tmp_path / "run", max_steps=5, progressive=True)["progressive"]
    assert (found["rows"], found["metrics_rows"]) == (80, 80)
    assert found["logloss"] == pytest.approx(found["loss"], rel=1e-5)


@pytest.mark.usefixtures("step_by_step")
def test_resumed_in_the_first_epoch_the_loss_is_whole_and_the_metrics_say_how_many(
    dataset, tmp_path
):
    whole = done(dataset, tmp_path / "whole", progressive=True)["progressive"]
    out = tmp_path / "run"
    assert isinstance(stop_after(dataset, out, 5, progressive=True), StoppedError)
    found = done(dataset, out, resume="auto", progressive=True)["progressive"]
    assert (found["loss"], found["rows"]) == (whole["loss"], 200)
    assert found["metrics_rows"] == 200 - 5 * 16
    assert not math.isclose(found["logloss"], whole["logloss"], rel_tol=1e-6)


@pytest.mark.usefixtures("step_by_step")
def test_stopped_while_validating_or_later_nothing_is_lost(dataset, tmp_path):
    whole = done(dataset, tmp_path / "whole", progressive=True)["progressive"]
    # 13 steps an epoch: the looks after them are the validation's and the next epoch's.
    for n_looks in (13, 14, 17):
        out = tmp_path / str(n_looks)
        assert isinstance(stop_after(dataset, out, n_looks, progressive=True), StoppedError)
        assert done(dataset, out, resume="auto", progressive=True)["progressive"] == whole
