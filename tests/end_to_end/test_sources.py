"""ingest, predict and evaluate take every kind of source, as people run them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from tests.data_tools.tables import made_table, write, write_file
from tests.end_to_end.command import last_event, refused, run

TABLE = made_table(600).append_column(
    "t", pa.array([i * 10_000_000 if i % 9 else None for i in range(600)], pa.timestamp("ms"))
)


def as_written(kind):
    if not kind.startswith("jsonl"):
        return TABLE
    return TABLE.set_column(7, "t", TABLE["t"].cast(pa.string()))


def done(*words):
    found = run(*words)
    assert found.returncode == 0, found.stderr
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train on the table in three kinds of file: source, run and digest of the parameters."""
    found = {}
    for kind in ("csv", "parquet", "ipc file"):
        folder = tmp_path_factory.mktemp("kind")
        source, ds, out = write(kind, as_written(kind), folder), folder / "ds", folder / "run"
        done("ingest", source, "--out", ds, "--target", "y")
        options = ("--epochs", "2", "--batch-size", "64", "--json")
        event = last_event(done("train", ds, "--out", out, *options).stdout)
        found[kind] = (source, out, event["parameters_digest"])
    return found


def scored(trained, source, out):
    """Return the predictions and the metrics of the model of the CSV on a source."""
    done("predict", trained["csv"][1], source, "--out", out)
    metrics = json.loads(done("evaluate", trained["csv"][1], source, "--json").stdout)
    return out.read_bytes(), {name: metrics[name] for name in ("rows", "loss", "auc", "accuracy")}


@pytest.fixture(scope="module")
def expected(trained, tmp_path_factory):
    return scored(trained, trained["csv"][0], tmp_path_factory.mktemp("csv") / "scores.csv")


def test_every_kind_of_file_trains_the_same_parameters(trained):
    assert len({digest for _, _, digest in trained.values()}) == 1


@pytest.mark.parametrize("kind", ["parquet", "ipc stream", "jsonl, gzip"])
def test_every_kind_of_file_is_scored_and_measured_alike(trained, expected, tmp_path, kind):
    source = write(kind, as_written(kind), tmp_path)
    scores, metrics = scored(trained, source, tmp_path / "scores.csv")
    assert scores == expected[0]
    assert scores.count(b"\n") == 601
    # Sums over pieces of other sizes: a few roundings apart.
    assert metrics == pytest.approx(expected[1], rel=1e-12)


def test_a_directory_is_scored_in_the_order_of_its_files(trained, expected, tmp_path):
    (tmp_path / "d").mkdir()
    pq.write_table(TABLE.slice(0, 250), tmp_path / "d/a.parquet")
    pq.write_table(TABLE.slice(250), tmp_path / "d/b.parquet")
    done("predict", trained["csv"][1], tmp_path / "d", "--out", tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_bytes() == expected[0]


def test_a_row_that_cannot_be_scored_gets_an_empty_prediction(trained, tmp_path):
    bad = TABLE.set_column(1, "x", pa.array([1e39 if i == 3 else 1.0 for i in range(600)]))
    write_file(bad, tmp_path / "a.arrow")
    found = done("predict", trained["csv"][1], tmp_path / "a.arrow", "--out", tmp_path / "o.csv")
    assert "a.arrow row 4: x: not finite" in found.stderr
    assert (tmp_path / "o.csv").read_text().splitlines()[4] == ","


def test_a_damaged_file_is_not_scored(trained, tmp_path):
    data = Path(trained["parquet"][0]).read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[: len(data) // 2])
    for words in (
        ("predict", trained["csv"][1], tmp_path / "a.parquet", "--out", tmp_path / "o.csv"),
        ("evaluate", trained["csv"][1], tmp_path / "a.parquet"),
    ):
        assert "not a Parquet file, or cut short" in refused(run(*words), 65)
    assert not (tmp_path / "o.csv").exists()


def test_a_large_row_group_is_read_within_the_budget(tmp_path):
    n = 150_000
    columns = {f"c{i}": pa.array([(k * 7919 + i) % 1013 / 7 for k in range(n)]) for i in range(40)}
    table = pa.table({**columns, "y": [k % 2 for k in range(n)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=n, use_dictionary=False)
    words = ("ingest", tmp_path / "a.parquet", "--target", "y", "--json")
    report = json.loads(done(*words, "--out", tmp_path / "d", "--memory", "450MB").stdout)
    assert report["rows_written"] == n
    assert report["peak_rss_bytes"] <= 450_000_000


def test_options_that_do_not_go_together_are_2(tmp_path):
    pa_csv.write_csv(TABLE, tmp_path / "a.csv")
    out = ("--out", tmp_path / "d")
    refused(run("ingest", *out, "--target", "y"), 2)
    refused(run("ingest", tmp_path / "a.csv", *out), 2)
    words = ("ingest", tmp_path / "a.csv", *out, "--target", "y")
    refused(run(*words, "--sql", "select 1"), 2)
    refused(run(*words, "--target-file", "y.npy"), 2)
    assert "choose of csv, parquet" in refused(run(*words, "--kind", "xls"), 2)
    assert "choose of hour, weekday" in refused(run(*words, "--date-parts", "age"), 2)
