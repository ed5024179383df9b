"""Every network passes the same tests, from a dataset on disk to predictions."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from streamtrain import library
from streamtrain.errors import ConfigError, DivergedError, StoppedError
from streamtrain.kernels.team import Team
from streamtrain.library import open_dataset
from streamtrain.model.architecture import MODELS
from streamtrain.model.models import layout_of, make_model, scratch_bytes
from streamtrain.model.network import Layer
from streamtrain.model_file import load_model_file, parameters_digest
from streamtrain.predict import load_model
from streamtrain.train import loop
from tests.made import make_dataset
from tests.train.training import done, events_of, same, stop_after

CUSTOM = (
    Layer("affine", name="a", width=20),
    Layer("norm", source="a", name="n"),
    Layer("activation", source="n", name="h", activation="silu"),
    Layer("dropout", source="h", rate=0.2),
    Layer("affine", source="h", name="g", width=20, activation="relu"),
    Layer("residual", source="h", to="g"),
    Layer("output", source="g"),
)
# name: settings beside those common to all. Every network, encoding and optimizer's kind once.
TABLE = {
    # Its epsilon slows the first rows of a category, and here there are no others.
    "fm": {"numeric_encoding": "robust", "embedding_dim": 8, "lr": 0.03},
    "mlp": {"numeric_encoding": "quantile", "dropout": 0.2, "hidden": (20, 9)},
    "wide-deep": {"numeric_encoding": "ple", "bins": 4, "hidden": (20,), "optimizer": "adagrad",
                  "l2": 0.001, "lr": 0.05},
    "deepfm": {"numeric_encoding": "standard", "hidden": (20,), "embedding_lr": 0.03,
               "optimizer": "adam", "clip_norm": 1.0},
    "dcn": {"numeric_encoding": "plr", "cross_layers": 2, "hidden": (20,)},
    "custom": {"layers": CUSTOM},
}  # fmt: skip
every = pytest.mark.parametrize("model", TABLE)


def settings_of(model, **others):
    return {"model": model, "lr": 0.01, "epochs": 3, "early_stop": 0, **TABLE[model], **others}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "ds"
    options = {"n_rows": 200, "block_rows": (7, 23, 16), "weighted": True, "missing": 0.1}
    return open_dataset(make_dataset(folder, shard_blocks=3, **options))


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """Return (folder of the run, its last event) of each network."""
    folder = tmp_path_factory.mktemp("whole")
    return {m: (folder / m, done(dataset, folder / m, **settings_of(m))) for m in TABLE}


def test_the_table_has_every_network():
    assert set(TABLE) == set(MODELS) - {"linear"}


@every
def test_the_loss_falls(dataset, tmp_path, model):
    events = events_of(dataset, tmp_path / "run", **settings_of(model, epochs=6))
    losses = [e["train"]["loss"] for e in events if e["event"] == "epoch"]
    assert losses[-1] < 0.9 * losses[0]


@every
@pytest.mark.parametrize(
    "resources", [{"threads": 2}, {"threads": 3, "prefetch": 0}, {"threads": 1, "prefetch": 2}]
)
def test_neither_threads_nor_prefetch_show_in_the_result(
    dataset, whole, tmp_path, model, resources
):
    same(done(dataset, tmp_path / "run", **settings_of(model), **resources), whole[model][1])


@every
def test_a_run_stopped_anywhere_ends_as_if_it_never_was(
    dataset, whole, tmp_path, model, monkeypatch
):
    monkeypatch.setattr(loop, "_MAX_CALL_STEPS", 1)
    stopped = 0
    for n_looks in (1, 9, 26, 40):
        out = tmp_path / str(n_looks)
        first = stop_after(dataset, out, n_looks, **settings_of(model))
        stopped += isinstance(first, StoppedError)
        same(done(dataset, out, resume="auto", **settings_of(model)), whole[model][1])
        shutil.rmtree(out)
    assert stopped >= 3


@every
def test_another_seed_gives_another_model(dataset, whole, tmp_path, model):
    other = done(dataset, tmp_path / "run", **settings_of(model, seed=4))
    assert other["parameters_digest"] != whole[model][1]["parameters_digest"]


@every
def test_the_model_that_is_loaded_scores_as_the_one_that_was_trained(dataset, whole, model):
    out, last = whole[model]
    file = load_model_file(out)
    assert parameters_digest(file.parameters) == last["parameters_digest"]
    assert len(file.parameters) == layout_of(file.architecture).n_parameters
    for threads in (1, 3):
        report = load_model(out, threads=threads).evaluate_dataset(dataset, "valid")
        assert report["loss"] == last["valid"]["loss"]


@every
def test_raw_rows_are_predicted_as_their_encoded_ones(dataset, whole, model):
    loaded = load_model(whole[model][0], threads=2)
    batches = dataset.batches(50, split="valid", shuffle=False)
    rows, _ = next(batches)
    numeric, codes = rows.numeric.copy(), rows.codes.copy()
    batches.close()
    with Team(1) as team:
        scorer = make_model(loaded.architecture, team)
        scores = scorer.scores(loaded.file.parameters, numeric, codes)[:, 0]
    raw = {f"n{j}": [None if np.isnan(v) else float(v) for v in numeric[:, j]] for j in range(2)}
    for f in range(2):
        # Codes 0 and 1 are those of missing and of rare values.
        texts = [None, "never seen", *(f"k{c}" for c in range(2, 40))]
        raw[f"c{f}"] = [texts[c] for c in codes[:, f]]
    expected = 1 / (1 + np.exp(-scores.astype(np.float64)))
    np.testing.assert_allclose(loaded.predict(raw), expected, rtol=1e-6)
    assert np.ptp(expected) > 0.01


# Shapes of datasets beside the usual one, and another target each.
SHAPES = {
    "no numbers": {"n_numeric": 0, "n_classes": 3},
    "no categories": {"cardinalities": (), "n_classes": 0, "missing": 0.2},
    "one number": {"n_numeric": 1, "cardinalities": ()},
    "one category": {"n_numeric": 0, "cardinalities": (5,)},
    "twenty classes": {"n_classes": 20},
}


@pytest.fixture(scope="module")
def shaped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    return {
        name: open_dataset(make_dataset(folder / str(k), n_rows=200, **options))
        for k, (name, options) in enumerate(SHAPES.items())
    }


@every
@pytest.mark.parametrize("shape", SHAPES)
def test_datasets_of_any_shape_train_and_score(shaped, tmp_path, model, shape):
    ds = shaped[shape]
    results = [done(ds, tmp_path / str(n), **settings_of(model), threads=n) for n in (1, 2)]
    same(*results)
    report = load_model(tmp_path / "1").evaluate_dataset(ds, "valid")
    assert report["loss"] == results[0]["valid"]["loss"]
    assert np.isfinite(report["loss"])


def owned_bytes(work):
    """Return the bytes of the memory that some arrays are views of, each once."""
    arrays = [*(a for a in work if not isinstance(a, tuple)), *work.bags]
    owners = [array if array.base is None else array.base for array in arrays]
    return sum(owner.nbytes for owner in {id(owner): owner for owner in owners}.values())


@every
def test_the_budget_counts_what_a_model_keeps(whole, model):
    architecture = load_model_file(whole[model][0]).architecture
    with Team(2) as team:
        for batch_size, clips_norm in ((16, False), (300, True)):
            made = make_model(architecture, team, batch_size=batch_size, clips_norm=clips_norm)
            kept = owned_bytes(made._work)
            made.scores(
                load_model_file(whole[model][0]).parameters,
                np.zeros((1, 2), np.float32),
                np.zeros((1, 2), np.int32),
            )
            kept += owned_bytes(made._score_work)
            planned = scratch_bytes(
                architecture, batch_size=batch_size, n_threads=2, clips_norm=clips_norm
            )
            # Some short arrays are not counted.
            assert abs(planned - kept) <= 4096 + 0.005 * kept


@every
def test_a_rate_that_diverges_ends_the_run_and_nothing_of_it_is_kept(dataset, tmp_path, model):
    settings = settings_of(model, lr=1e30, embedding_lr=1e30)
    with pytest.raises(DivergedError, match=r"no longer finite|not finite"):
        done(dataset, tmp_path / "run", **settings, checkpoint_every=1)
    assert not (tmp_path / "run" / "model.json").exists()
    for file in (tmp_path / "run").rglob("*.safetensors"):
        for name, array in load_file(file).items():
            assert np.isfinite(array).all(), name


def test_a_custom_network_that_is_wrong_is_refused_before_training(dataset, tmp_path):
    layers = (Layer("affine", name="h", width=4),)
    with pytest.raises(ConfigError, match="nothing reads"):
        list(library.train(dataset, out=tmp_path / "run", model="custom", layers=layers))
    assert not (tmp_path / "run").exists()
