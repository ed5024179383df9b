"""Targets of several values from files to predictions, on the command line."""

import csv
import json

import numpy as np
import pytest

from streamtrain.library import open_dataset
from streamtrain.predict import load_model
from tests.end_to_end.command import refused, run

N = 900
TRAIN = ("--epochs", "4", "--batch-size", "64", "--memory", "1GB", "--threads", "2", "--json")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 4)).astype(np.float32)
    score = x @ rng.normal(size=(4, 3))
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", score * [1, 30, 0.01] + [0, 500, 7])
    np.save(folder / "labels.npy", (score > [0, 1, -1]).astype(np.uint8))
    for name in ("y", "labels"):
        done = run(
            "ingest", folder / "x.npy", "--target-file", folder / f"{name}.npy", "--format", "zarr",
            "--out", folder / name,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told = "regression of 3 values" if name == "y" else "labels, 3"
        assert f"target   target: {told}\n" in done.stdout
    return folder


def finished(*args):
    done = run(*args)
    assert done.returncode == 0, done.stderr
    return done


def predicted(path):
    with path.open() as file:
        names, *rows = list(csv.reader(file))
    return names, np.array(rows, float)


@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_values_are_ingested_learnt_measured_and_predicted(files, tmp_path, model):
    out = tmp_path / "run"
    done = finished("train", files / "y", "--out", out, "--model", model, *TRAIN)
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["valid"]["rows"] > 0
    assert "outputs" not in last["valid"]
    told = json.loads(finished("evaluate", out, "--json").stdout)
    assert [set(o) for o in told["outputs"]] == [{"rmse", "mae", "r2"}] * 3
    assert told["r2"] == pytest.approx(np.mean([o["r2"] for o in told["outputs"]]))
    assert all(o["r2"] > (0.9 if model == "linear" else 0.3) for o in told["outputs"])
    # The loss is the mean over all values of the squared error: that of rmse.
    assert told["loss"] == pytest.approx(told["rmse"] ** 2)
    raw = finished(
        "evaluate", out, files / "x.npy", "--target-file", files / "y.npy", "--json"
    )  # fmt: skip
    assert json.loads(raw.stdout)["rows"] == N
    finished("predict", out, files / "x.npy", "--out", tmp_path / "p.csv")
    names, rows = predicted(tmp_path / "p.csv")
    assert names == ["prediction_0", "prediction_1", "prediction_2"]
    y = np.load(files / "y.npy")
    error = np.square(rows - y).mean()
    assert error == pytest.approx(json.loads(raw.stdout)["loss"], rel=1e-5)
    found = load_model(out).predict(np.load(files / "x.npy"))
    np.testing.assert_allclose(found, rows, rtol=1e-6)


@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_labels_are_ingested_learnt_measured_and_predicted(files, tmp_path, model):
    out = tmp_path / "run"
    done = finished("train", files / "labels", "--out", out, "--model", model, *TRAIN)
    start = json.loads(done.stdout.splitlines()[0])
    assert (start["task"], start["loss_name"], start["targets"]) == ("labels", "logistic", 3)
    told = json.loads(finished("evaluate", out, "--json").stdout)
    names = "rows loss accuracy exact_match micro_f1 macro_f1 logloss brier auc outputs"
    assert set(names.split()) < set(told)
    assert len(told["outputs"]) == 3
    assert told["auc"] > 0.8
    shown = finished("evaluate", out, files / "x.npy", "--target-file", files / "labels.npy").stdout
    assert "exact_match" in shown
    finished("predict", out, files / "labels", "--split", "valid", "--out", tmp_path / "p.csv")
    names, rows = predicted(tmp_path / "p.csv")
    assert names == [f"{kind}_{m}" for kind in ("prediction", "probability") for m in range(3)]
    np.testing.assert_array_equal(rows[:, :3], rows[:, 3:] > 0.5)
    valid = [b.target.copy() for b, _ in open_dataset(files / "labels").batches(
        1, split="valid", shuffle=False)]  # fmt: skip
    assert (np.concatenate(valid) == rows[:, :3]).mean() > 0.7


def test_what_cannot_work_is_one_line_with_its_code(files, tmp_path):
    x, y = files / "x.npy", np.load(files / "y.npy")

    def ingest(values, *options, code):
        np.save(tmp_path / "t.npy", values)
        words = ("ingest", x, "--target-file", tmp_path / "t.npy", "--out", tmp_path / "ds")
        said = refused(run(*words, *(options or ("--format", "zarr"))), code)
        assert not (tmp_path / "ds").exists()
        return said

    bad = y.copy()
    bad[17, 2] = np.nan
    assert "value 2 of the target of row 17 is missing (NaN)" in ingest(bad, code=65)
    bad[17, 2] = -np.inf
    assert "value 2 of the target of row 17 is not finite" in ingest(bad, code=65)
    assert "expected (900,) or (900, M)" in ingest(y[:-1], code=65)
    assert "each of the 3 values" in ingest(np.full((N, 3), 7.0), code=65)
    assert "at most 4,096" in ingest(np.zeros((N, 4097), np.uint8), code=65)
    assert "--format zarr" in ingest(y, "--format", "parquet", code=65)
    assert "--positive" in ingest(y, "--format", "zarr", "--positive", "1", code=78)
    for loss in ("poisson", "softmax", "logistic", "hinge"):
        done = run("train", files / "y", "--out", tmp_path / "run", "--loss", loss)
        assert "squared or absolute or huber or quantile" in refused(done, 78)
    for options in (("--loss", "softmax"), ("--loss", "hinge"), ("--class-weights", "balanced")):
        refused(run("train", files / "labels", "--out", tmp_path / "run", *options), 78)
    assert not (tmp_path / "run").exists()


def test_other_targets_than_those_of_training_are_refused(files, tmp_path):
    out = tmp_path / "run"
    finished("train", files / "labels", "--out", out, *TRAIN)
    said = refused(run("evaluate", out, files / "y"), 78)
    assert "not all 0 or 1" in said
    np.save(tmp_path / "two.npy", np.zeros((N, 2)))
    words = ("evaluate", out, files / "x.npy", "--target-file")
    assert "2 targets for each row" in refused(run(*words, tmp_path / "two.npy"), 78)
    np.save(tmp_path / "one.npy", np.zeros(N))
    assert "1 targets for each row" in refused(run(*words, tmp_path / "one.npy"), 78)
    # Rows with a label that is none are left out and counted.
    values = np.load(files / "labels.npy").astype(float)
    values[3, 1], values[9, 0] = np.nan, 0.5
    np.save(tmp_path / "holes.npy", values)
    told = json.loads(finished(*words, tmp_path / "holes.npy", "--json").stdout)
    assert (told["rows"], told["rows_without_target"]) == (N - 2, 2)
