"""Texts, lists and sparse rows from the command line: ingest, train, resume, evaluate, predict."""

import csv
import json
import random
import re
import signal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamtrain import load_model
from streamtrain.errors import CheckpointError
from streamtrain.model_file import ModelFile, load_model_file, save_model
from tests.end_to_end.command import last_event, refused, run, start

N = 900
GOOD, BAD = [f"fine{i}" for i in range(40)], [f"poor{i}" for i in range(40)]


def done(*words):
    found = run(*words)
    assert found.returncode == 0, found.stderr
    return found


def made_rows(seed=1):
    rng = random.Random(seed)
    rows = []
    for _ in range(N):
        y = rng.random() < 0.5
        words = rng.choices(GOOD if y else BAD, k=3) + rng.choices(GOOD + BAD, k=4)
        rng.shuffle(words)
        rows.append((" ".join(words) if rng.random() < 0.95 else "", rng.gauss(0, 1), int(y)))
    return rows


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reviews")
    with (folder / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "x", "y"), *made_rows()])
    told = done(
        "ingest", folder / "a.csv", "--out", folder / "ds", "--target", "y", "--text", "text"
    )
    assert "1 of text or lists" in told.stdout
    return folder


MODELS = {
    "linear": (),
    "fm": ("--embedding-dim", "4"),
    "wide-deep": ("--hidden", "8", "--embedding-dim", "4"),
    "deepfm": ("--hidden", "8", "--embedding-dim", "4"),
    "mlp": ("--hidden", "8", "--embedding-dim", "4", "--pooling", "sum"),
}


@pytest.mark.parametrize("model", MODELS)
def test_a_model_of_texts_learns_them(reviews, tmp_path, model):
    out = tmp_path / "run"
    options = (
        "--model",
        model,
        *MODELS[model],
        "--epochs",
        "6",
        "--batch-size",
        "32",
        "--lr",
        "0.05",
    )
    done("train", reviews / "ds", "--out", out, *options)
    metrics = json.loads(done("evaluate", out, "--split", "test", "--json").stdout)
    assert metrics["auc"] > 0.9


@pytest.mark.parametrize("model", ["linear", "fm"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(reviews, tmp_path, model):
    options = (
        "--model", model, "--epochs", "4", "--batch-size", "32", "--early-stop", "0", "--json",
    )  # fmt: skip
    whole = last_event(done("train", reviews / "ds", "--out", tmp_path / "whole", *options).stdout)
    # A few steps, then on from the checkpoint with another number of threads.
    folder = tmp_path / "parts"
    child = start(
        "train", reviews / "ds", "--out", folder, *options, "--resume", "auto",
        "--checkpoint-every", "1", "--threads", "1",
    )  # fmt: skip
    for _ in range(3):
        child.stdout.readline()
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=120)
    assert child.returncode in {0, 75}
    parts = last_event(
        done(
            "train", reviews / "ds", "--out", folder, *options, "--resume", "auto",
            "--checkpoint-every", "1", "--threads", "2",
        ).stdout
    )  # fmt: skip
    assert parts["parameters_digest"] == whole["parameters_digest"]


def test_raw_rows_are_scored_as_those_of_the_dataset(reviews, tmp_path):
    out = tmp_path / "run"
    done("ingest", reviews / "a.csv", "--out", tmp_path / "all", "--target", "y", "--text", "text",
         "--split", "none", "--no-shuffle")  # fmt: skip
    done("train", tmp_path / "all", "--out", out, "--epochs", "2")
    stored = json.loads(
        done("evaluate", out, tmp_path / "all", "--split", "train", "--json").stdout
    )
    raw = json.loads(done("evaluate", out, reviews / "a.csv", "--json").stdout)
    for name in ("rows", "loss", "auc", "accuracy"):
        assert raw[name] == pytest.approx(stored[name], rel=1e-6)
    done("predict", out, tmp_path / "all", "--split", "train", "--out", tmp_path / "stored.csv")
    done("predict", out, reviews / "a.csv", "--out", tmp_path / "raw.csv")
    assert (tmp_path / "raw.csv").read_bytes() == (tmp_path / "stored.csv").read_bytes()
    model = load_model(out)
    rows = made_rows()
    found = model.predict({"text": [r[0] for r in rows], "x": [r[1] for r in rows]})
    with (tmp_path / "raw.csv").open() as file:
        written = [float(row["probability"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(found, written, rtol=1e-6)


def test_vw_text_is_trained_on_evaluated_and_predicted(tmp_path):
    rows = made_rows()
    for name, part in (("train", rows[:700]), ("test", rows[700:])):
        (tmp_path / f"{name}.vw").write_text(
            "".join(
                f"{2 * y - 1} '{i}|words {t} |n x:{x:.4f}\n" for i, (t, x, y) in enumerate(part)
            )
        )
    done("ingest", tmp_path / "train.vw", "--out", tmp_path / "ds", "--format", "zarr")
    done("train", tmp_path / "ds", "--out", tmp_path / "run", "--batch-size", "16")
    metrics = json.loads(done("evaluate", tmp_path / "run", tmp_path / "test.vw", "--json").stdout)
    assert metrics["rows"] == 200
    assert metrics["auc"] > 0.9
    (tmp_path / "new.vw").write_text("|words fine1 fine2 |other z\n|n x\n")
    done("predict", tmp_path / "run", tmp_path / "new.vw", "--out", tmp_path / "new.csv")
    assert len((tmp_path / "new.csv").read_text().splitlines()) == 3
    (tmp_path / "bad.vw").write_text("1:0.5 |words a\n")
    line = refused(
        run("ingest", tmp_path / "bad.vw", "--out", tmp_path / "no", "--on-bad-row", "fail"), 65
    )
    assert "line 1: a label of costs or actions" in line


def test_sparse_libsvm_learns_what_dense_libsvm_does(tmp_path):
    rng = np.random.default_rng(0)
    lines = []
    for i in range(800):
        picks = np.sort(rng.choice(30, 5, replace=False)) + 1
        y = int((picks <= 15).sum() > 2)
        lines.append(f"{y} qid:{i // 8} " + " ".join(f"{k}:1" for k in picks) + "\n")
    (tmp_path / "a.svm").write_text("".join(lines))
    found = {}
    for name, options in (("dense", ()), ("sparse", ("--sparse", "--split-by", "qid"))):
        done("ingest", tmp_path / "a.svm", "--out", tmp_path / name, *options)
        done("train", tmp_path / name, "--out", tmp_path / f"{name}-run", "--batch-size", "16")
        told = done("evaluate", tmp_path / f"{name}-run", tmp_path / "a.svm", "--json").stdout
        found[name] = json.loads(told)["auc"]
    assert min(found.values()) > 0.97


def test_lists_in_parquet_are_trained_on_and_predicted(tmp_path):
    rows = made_rows()
    table = pa.table({"tags": [t.split() for t, _, _ in rows], "y": [y for *_, y in rows]})
    pq.write_table(table, tmp_path / "a.parquet")
    done("ingest", tmp_path / "a.parquet", "--out", tmp_path / "ds", "--target", "y")
    done("train", tmp_path / "ds", "--out", tmp_path / "run", "--batch-size", "16")
    metrics = json.loads(
        done("evaluate", tmp_path / "run", tmp_path / "a.parquet", "--json").stdout
    )
    assert metrics["auc"] > 0.9


@pytest.mark.parametrize("model", ["linear", "fm", "deepfm"])
def test_a_pooling_that_would_change_nothing_is_refused(reviews, tmp_path, model):
    options = ("--model", model, "--pooling", "mean", "--out", tmp_path / "run")
    line = refused(run("train", reviews / "ds", *options), 78)
    assert f"--pooling: has no effect on the {model} model" in line


def test_a_table_without_a_target_of_its_own_is_a_mistake_in_usage(tmp_path, reviews):
    line = refused(run("ingest", reviews / "a.csv", "--out", tmp_path / "no"), 2)
    assert "--target: no target" in line


@pytest.mark.parametrize(
    "edit",
    [
        {"cardinality": 1 << 30},
        {"cardinality": -7},
        {"words": [1, 5000]},
        {"longest": -1},
    ],
)
def test_a_model_whose_text_cannot_be_is_refused(reviews, tmp_path, edit):
    out = tmp_path / "run"
    done("train", reviews / "ds", "--out", out, "--epochs", "1")
    file = load_model_file(out)
    (column,) = file.header.schema.bags
    other = {k: v for k, v in edit.items() if k == "cardinality"}
    entries = {k: tuple(v) if isinstance(v, list) else v for k, v in edit.items() if k not in other}
    changed = msgspec.structs.replace(
        column, **other, entries=msgspec.structs.replace(column.bag, **entries)
    )
    schema = msgspec.structs.replace(
        file.header.schema,
        columns=tuple(changed if c is column else c for c in file.header.schema.columns),
    )
    header = msgspec.structs.replace(file.header, schema=schema)
    save_model(out, ModelFile(header, file.parameters, file.vocabularies))
    with pytest.raises(CheckpointError, match="do not fit the schema"):
        load_model_file(out)


@pytest.mark.parametrize("options", [(), ("--no-shuffle",), ("--no-shuffle", "--format", "zarr")])
def test_long_texts_side_by_side_stay_within_the_budget(tmp_path, options):
    rng = random.Random(1)
    words = [f"w{i}" for i in range(50_000)]
    with (tmp_path / "a.csv").open("w") as file:
        file.write("text,y\n")
        for i in range(3000):
            n = 150_000 if 1000 <= i < 1060 else 5
            file.write(f"{' '.join(rng.choices(words, k=n))},{i % 2}\n")
    found = run(
        "ingest", tmp_path / "a.csv", "--out", tmp_path / "ds", "--target", "y", "--text", "text",
        "--memory", "380MB", "--threads", "2", "--json", *options,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["peak_rss_bytes"] <= 380_000_000


def told_budget(done):
    message = refused(done, 78)
    return re.search("give --memory ([0-9]+MB) or more", message)[1]


@pytest.mark.parametrize(
    "options", [(), ("--block-rows", "1024"), ("--no-shuffle", "--block-rows", "1024")]
)
def test_the_memory_that_a_refusal_tells_to_give_is_enough(tmp_path, options):
    rng = random.Random(1)
    words = [f"w{i}" for i in range(50_000)]
    with (tmp_path / "a.csv").open("w") as file:
        file.write("text,y\n")
        for i in range(1500):
            file.write(f"{' '.join(rng.choices(words, k=2000))},{i % 2}\n")
    told = ["150MB"]
    for _ in range(3):
        found = run(
            "ingest", tmp_path / "a.csv", "--out", tmp_path / "ds", "--target", "y",
            "--text", "text", "--memory", told[-1], *options,
        )  # fmt: skip
        if found.returncode == 0:
            break
        told.append(told_budget(found))
    # Blocks that --block-rows makes large are known once all rows are read.
    assert len(told) == 2 + bool(options)
    command = ["train", tmp_path / "ds", "--out", tmp_path / "run", "--epochs", "1"]
    found = run(*command, "--memory", told_budget(run(*command, "--memory", "230MB")))
    assert found.returncode == 0, found.stderr


DISTINCT = " ".join(f"w{i}" for i in range(1_000_000)).encode()
HOSTILE = {
    "ten megabytes": (b"word " * 2_000_000, "a row has no end within 2,097,152 bytes"),
    "in quotes": (b'"' + b"word " * 2_000_000 + b'"', "a row has no end within 2,097,152 bytes"),
    "one word": (b"x" * 10_000_000, "a row has no end within 2,097,152 bytes"),
    "a million words": (DISTINCT, "a row has no end within 2,097,152 bytes"),
    "as many as fit": (DISTINCT[:2_000_000], None),
    "in quotes, more than a megabyte": (b'"' + DISTINCT[:1_500_000] + b'"', "unclosed quote"),
    "other letters": ("ÄÖÜ ".encode() * 250_000, None),
    "NUL": (b"a\0b c", "NUL byte"),
    "latin-1": (b"caf\xe9 " * 300_000, "not UTF-8"),
    "cut in a letter": (b"ok \xf0\x9f", "not UTF-8"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_text_gives_a_row_a_reason_or_one_line(tmp_path, kind):
    cell, says = HOSTILE[kind]
    rows = [b"good words %d,%d\n" % (i, i % 2) for i in range(200)]
    path = tmp_path / "a.csv"
    path.write_bytes(b"".join([b"t,y\n", *rows[:100], cell, b",1\n", *rows[100:]]))
    out = tmp_path / "ds"
    found = run(
        "ingest", path, "--out", out, "--target", "y", "--text", "t", "--memory", "380MB", "--json"
    )
    if says is not None and says.startswith("a row has no end"):
        assert found.returncode == 65
        (line,) = found.stderr.splitlines()
        assert f"{says}: the one that begins after byte 1,594" in line
        assert not out.exists()
        return
    assert found.returncode == 0, found.stderr
    report = json.loads(found.stdout)
    assert report["reasons"] == ({} if says is None else {says: 1})
    assert report["rows_written"] == 201 - (says is not None)
    assert report["peak_rss_bytes"] <= 380_000_000


def test_a_few_long_texts_taken_for_categories_stay_within_the_budget(tmp_path):
    path = tmp_path / "a.csv"
    with path.open("wb") as file:
        file.write(b"t,y\n")
        for i in range(70):
            file.write(b"%d %s,%d\n" % (i, DISTINCT[:1_900_000], i % 2))
    for budget in ("330MB", "420MB", "850MB"):
        found = run(
            "ingest", path, "--out", tmp_path / "ds", "--target", "y", "--memory", budget,
            "--json", "--overwrite", "--split", "none",
        )  # fmt: skip
        assert found.returncode == 0, found.stderr
        report = json.loads(found.stdout)
        assert report["peak_rss_bytes"] <= int(budget[:-2]) * 10**6
        assert set(report["pruned"]) == ({"t"} if budget != "850MB" else set())
