"""Claims per policy year, from CSV to predictions, as people type it."""

import csv
import json
import math

import numpy as np
import pytest

from streamtrain.library import open_dataset
from tests.end_to_end.command import refused, run

COLUMNS = ["age", "region", "years", "claims"]
RATE = {"north": 0.3, "south": 0.9}


def write_claims(path, n_rows, *, seed=0, extra=()):
    rng = np.random.default_rng(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for _ in range(n_rows):
            age, region = rng.uniform(18, 80), list(RATE)[rng.integers(2)]
            years = rng.uniform(0.1, 3.0)
            mean = RATE[region] * math.exp(-0.02 * (age - 40)) * years
            writer.writerow([f"{age:.2f}", region, f"{years:.3f}", rng.poisson(mean)])
        writer.writerows(extra)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("claims")
    zeros = [["40", "north", "0", "0"], ["40", "north", "", "1"]]
    write_claims(folder / "claims.csv", 6000, extra=zeros)
    words = ("--target", "claims", "--exposure", "years", "--json")
    done = run("ingest", folder / "claims.csv", "--out", folder / "ds", *words)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["rows_written"], report["rows_rejected"]) == (6000, 2)
    words = ("--loss", "poisson", "--epochs", "12", "--batch-size", "64", "--progressive", "--json")
    done = run("train", folder / "ds", "--out", folder / "run", *words)
    assert done.returncode == 0, done.stderr
    return folder


def test_counts_that_ingest_takes_for_classes_are_numbers_to_poisson(folder):
    done = run("inspect", folder / "ds", "--json")
    assert json.loads(done.stdout)["target"]["task"] == "classes"
    events = [json.loads(x) for x in (folder / "run/metrics.jsonl").read_text().splitlines()]
    start, end = events[0], events[-1]
    assert start["loss_name"] == "poisson"
    assert end["event"] == "done"
    assert end["progressive"]["metrics_rows"] == end["progressive"]["rows"] == start["rows"]
    assert end["progressive"]["deviance"] > end["valid"]["deviance"] - 0.1


def predicted(folder, source, tmp_path, name="out.csv"):
    done = run("predict", folder / "run", source, "--out", tmp_path / name, "--json")
    assert done.returncode == 0, done.stderr
    header, *values = (tmp_path / name).read_text().splitlines()
    assert header.strip('"') == "prediction"
    return json.loads(done.stdout), values


def test_predictions_are_rates_times_the_exposure(folder, tmp_path):
    rows = [["30", "south", years, ""] for years in ("1", "2", "0.5", "", "0", "-1", "x", "1e-60")]
    with (tmp_path / "new.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    report, found = predicted(folder, tmp_path / "new.csv", tmp_path)
    assert report["columns"] == ["prediction"]
    assert found[3:] == [""] * 5
    assert (report["rows"], report["rows_without_prediction"]) == (8, 5)
    one, two, half = map(float, found[:3])
    assert two == pytest.approx(2 * one, rel=1e-6)
    assert half == pytest.approx(one / 2, rel=1e-6)
    assert one == pytest.approx(RATE["south"] * math.exp(0.2), rel=0.1)
    # Without the column the exposure is 1.
    with (tmp_path / "bare.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["age", "region"], ["30", "south"]])
    _, bare = predicted(folder, tmp_path / "bare.csv", tmp_path, "bare-out.csv")
    assert float(bare[0]) == pytest.approx(one, rel=1e-6)


def test_a_dataset_is_predicted_with_its_exposures(folder, tmp_path):
    done = run("predict", folder / "run", folder / "ds", "--out", tmp_path / "out.csv")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out.csv").open(newline="") as file:
        means = [float(r["prediction"]) for r in csv.DictReader(file)]
    measured = json.loads(run("evaluate", folder / "run", "--json").stdout)
    dataset = open_dataset(folder / "ds")
    rows, _ = next(dataset.batches(len(means), split="test", shuffle=False))
    losses = np.array(means) - rows.target * np.log(means)
    assert len(means) == measured["rows"] == rows.n_rows
    assert measured["loss"] == pytest.approx(losses.mean(), rel=1e-5)


def test_raw_files_measure_as_the_dataset_that_was_made_of_them(folder, tmp_path):
    write_claims(tmp_path / "test.csv", 800, seed=5)
    done = run("evaluate", folder / "run", tmp_path / "test.csv", "--json")
    assert done.returncode == 0, done.stderr
    raw = json.loads(done.stdout)
    for name in ("loss", "deviance", "d2", "rmse", "mae", "r2"):
        assert math.isfinite(raw[name])
    assert raw["d2"] > 0.1
    assert not {"auc", "accuracy", "pinball"} & set(raw)
    # The same rows by hand, from predictions.
    with (tmp_path / "test.csv").open(newline="") as file:
        claims = [float(r["claims"]) for r in csv.DictReader(file)]
    _, found = predicted(folder, tmp_path / "test.csv", tmp_path)
    means = [float(m) for m in found]
    loss = sum(m - y * math.log(m) for m, y in zip(means, claims, strict=True)) / 800
    assert raw["loss"] == pytest.approx(loss, rel=1e-5)
    deviance = sum(
        2 * ((y * math.log(y / m) if y else 0) - y + m) for m, y in zip(means, claims, strict=True)
    )
    assert raw["deviance"] == pytest.approx(deviance / 800, rel=1e-5)


def test_rows_that_cannot_be_measured_are_left_out_and_counted(folder, tmp_path):
    write_claims(tmp_path / "good.csv", 200, seed=6)
    # 57 claims are no class of the training data, and a number like any other.
    extra = [["40", "north", "1", "57"]]
    bad = [["40", "north", "0", "1"], ["40", "north", "", "1"], ["40", "north", "1", "-1"]]
    write_claims(tmp_path / "bad.csv", 200, seed=6, extra=[*extra, *bad, ["40", "north", "1", ""]])
    found = json.loads(run("evaluate", folder / "run", tmp_path / "bad.csv", "--json").stdout)
    counts = ("rows", "rows_without_target", "rows_without_weight", "rows_without_exposure")
    assert [found[name] for name in counts] == [201, 2, 0, 2]
    text = run("evaluate", folder / "run", tmp_path / "bad.csv").stdout
    assert "rows without an exposure  2" in text
    assert "deviance" in text


def test_what_cannot_work_is_one_line(folder, tmp_path):
    out = ("--out", tmp_path / "x")
    for words, says in (
        ((), "has no use for the exposures"),
        (("--loss", "squared"), "poisson, gamma or tweedie"),
        (("--loss", "gamma"), "above 0"),
        (("--loss", "poisson", "--class-weights", "balanced"), "no effect"),
        (("--loss", "poisson", "--tweedie-power", "1.2"), "--loss tweedie"),
        (("--loss", "tweedie", "--tweedie-power", "2.5"), "between 1 and 2"),
        (("--loss", "poison"), "did you mean 'poisson'"),
    ):
        assert says in refused(run("train", folder / "ds", *out, *words), 78)
    with (tmp_path / "bare.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["age", "region", "claims"], ["30", "south", "1"]])
    line = refused(run("evaluate", folder / "run", tmp_path / "bare.csv"), 78)
    assert "column 'years'" in line
    write_claims(tmp_path / "claims.csv", 300)
    words = ("--target", "claims", "--drop", "years", "--out", tmp_path / "other")
    assert run("ingest", tmp_path / "claims.csv", *words).returncode == 0
    line = refused(run("evaluate", folder / "run", tmp_path / "other"), 78)
    assert "exposure" in line or "columns" in line
