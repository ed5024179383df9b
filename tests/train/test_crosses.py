"""A target that only the combination of two columns tells."""

import csv
import random

import pytest

from streamtrain import library
from streamtrain.predict import load_model
from tests.end_to_end.command import run


@pytest.fixture(scope="module")
def exclusive(tmp_path_factory):
    """Ingest rows whose target is whether two categories differ: XOR."""
    folder = tmp_path_factory.mktemp("xor")
    draw = random.Random(1)
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "y"])
        for _ in range(3000):
            a, b = draw.choice("xy"), draw.choice("xy")
            writer.writerow([a, b, "yes" if a != b else "no"])
    done = run("ingest", folder / "rows.csv", "--out", folder / "d", "--target", "y")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_a_cross_learns_what_its_columns_cannot(tmp_path, exclusive, model):
    done = run(
        "train", exclusive / "d", "--out", tmp_path / "r", "--cross", "a,b", "--model", model,
        "--epochs", "8", "--lr", "0.1", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded = load_model(tmp_path / "r")
    p = loaded.predict({"a": ["x", "x", "y", "y"], "b": ["x", "y", "x", "y"]})
    assert (p.round() == [0, 1, 1, 0]).all()


def test_without_the_cross_a_linear_model_learns_nothing(tmp_path, exclusive):
    events = list(library.train(exclusive / "d", out=tmp_path / "r", epochs=8, lr=0.1))
    assert events[-1]["train"]["loss"] > 0.68


def test_crosses_come_from_a_configuration_file_too(tmp_path, exclusive):
    (tmp_path / "run.toml").write_text('cross = ["a,b"]\nepochs = 8\nlr = 0.1\n')
    done = run("train", exclusive / "d", "--out", tmp_path / "r", "--config", tmp_path / "run.toml")
    assert done.returncode == 0, done.stderr
    assert load_model(tmp_path / "r").architecture.crosses[0].fields == (0, 1)
