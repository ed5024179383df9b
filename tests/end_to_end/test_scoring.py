"""evaluate and predict as people run them, on what they should not be given."""

import json

import pytest

from tests.end_to_end.command import refused, run

ROWS = "a,c,w,y\n" + "".join(f"{i % 17},k{i % 3},{1 + i % 2},{i % 2}\n" for i in range(200))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scoring")
    (folder / "in.csv").write_text(ROWS)
    ds, trained = folder / "ds", folder / "run"
    for words in (
        ("ingest", folder / "in.csv", "--out", ds, "--target", "y", "--weight", "w"),
        ("train", ds, "--out", trained, "--epochs", "1", "--batch-size", "32"),
    ):
        done = run(*words)
        assert done.returncode == 0, done.stderr
    return folder


def test_rows_whose_weight_ingest_would_reject_are_left_out_and_counted(folder, tmp_path):
    (tmp_path / "bad.csv").write_text(ROWS + "1,k1,,1\n1,k1,-2,0\n1,k1,x,0\n")
    done = run("evaluate", folder / "run", tmp_path / "bad.csv", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["rows"], found["rows_without_weight"]) == (200, 3)
    whole = json.loads(run("evaluate", folder / "run", folder / "in.csv", "--json").stdout)
    assert found["loss"] == pytest.approx(whole["loss"], rel=1e-12)


def test_a_source_is_never_the_output(folder, tmp_path):
    source = tmp_path / "in.csv"
    source.write_text(ROWS)
    done = run("predict", folder / "run", source, "--out", source, "--overwrite")
    assert "is a source too" in refused(done, 73)
    assert source.read_text() == ROWS


def test_evaluate_reads_the_encodings_that_ingest_reads(folder, tmp_path):
    source = tmp_path / "in.csv"
    source.write_bytes(ROWS.replace("k1", "caf\xe9").encode("latin-1"))
    words = ("evaluate", folder / "run", source, "--json")
    assert json.loads(run(*words).stdout)["rows_unreadable"] > 0
    assert json.loads(run(*words, "--encoding", "latin-1").stdout)["rows_unreadable"] == 0
