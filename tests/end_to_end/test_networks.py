"""What the command line says of networks that cannot be."""

import pytest

from tests.end_to_end.command import refused, run
from tests.made import make_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("made") / "ds")


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--hidden", "64,,32"), 2, "list of widths"),
        (("--hidden", "0"), 2, "list of widths"),
        (("--activation", "banana"), 78, "--activation: Invalid enum value 'banana'; choose one"),
        (("--numeric-encoding", "x"), 78, "--numeric-encoding: Invalid enum value 'x'; choose"),
        (("--dropout", "1"), 78, "--dropout: 1.0 is not in [0, 1)"),
        (("--bins", "1"), 78, "--bins: 1 is not from 2 to 64"),
        (("--cross-layers", "5"), 78, "--cross-layers: has no effect on the mlp model"),
        (("--model", "fm", "--hidden", "8"), 78, "--hidden: has no effect on the fm model"),
        (("--model", "linear", "--dropout", "0.5"), 78, "--dropout: has no effect on the linear"),
        (("--model", "fm", "--embedding-dim", "6"), 78, "pairs need vectors of 1, 2, 4, 8"),
        (("--model", "custom"), 78, "--layers: a custom network needs its table"),
        (("--layers", '[{"op": "output"}]'), 78, "--layers: has no effect on the mlp model"),
        (("--model", "custom", "--layers", "nonsense"), 2, "not JSON"),
        (("--model", "custom", "--layers", '[{"op": "outptu"}]'), 78, "layers[0].op"),
        (("--model", "mpl"), 78, "did you mean 'mlp'?"),
        (("--memory", "200MB", "--hidden", "4096,4096"), 78, "parameters"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(dataset, tmp_path, options, code, words):
    done = run("train", dataset, "--out", tmp_path / "run", "--model", "mlp", *options)
    if code == 2:
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert words in done.stderr
    else:
        assert words in refused(done, code)
    assert not (tmp_path / "run").exists()


def test_a_cross_in_a_configuration_file_may_be_one_text(tmp_path, dataset):
    (tmp_path / "run.toml").write_text('cross = "c0,c1"\nepochs = 1\n')
    done = run("train", dataset, "--out", tmp_path / "r", "--config", tmp_path / "run.toml")
    assert done.returncode == 0, done.stderr


def test_rows_that_all_weigh_nothing_are_refused(tmp_path):
    rows = "x,w,y\n" + "".join(f"{i},0,{i % 2}\n" for i in range(100))
    (tmp_path / "rows.csv").write_text(rows)
    done = run(
        "ingest", tmp_path / "rows.csv", "--out", tmp_path / "d", "--target", "y", "--weight", "w"
    )
    assert done.returncode == 0, done.stderr
    done = run("train", tmp_path / "d", "--out", tmp_path / "r")
    assert "every row has weight 0" in refused(done, 78)
