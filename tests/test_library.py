"""The library's front: batches are tested in reader/, runs in train/, here the trainer."""

import gc
import json
import re
import subprocess
import sys
import threading

import numpy as np
import pytest

import streamtrain as st
from streamtrain.errors import CheckpointError, ConfigError, DivergedError, NoInputError
from streamtrain.model_file import load_model_file, parameters_digest
from tests.end_to_end.command import environment
from tests.kernels.linear_oracle import kernel_steps, make_problem, settings_of
from tests.made import make_dataset
from tests.reader.reading import damage
from tests.train.training import done


def made_rows(n_rows=300, seed=0):
    rng = np.random.default_rng(seed)
    numeric = rng.normal(size=(n_rows, 2)).astype(np.float32)
    codes = rng.integers(0, 5, (n_rows, 1)).astype(np.int32)
    target = (numeric.sum(axis=1) + codes[:, 0] > 2).astype(np.float32)
    return numeric, codes, target


def made_trainer(**options):
    return st.Trainer(
        **{"n_numeric": 2, "cardinalities": (5,), "optimizer": "adam", "lr": 0.05} | options
    )


def test_a_trainer_takes_the_steps_of_the_kernels():
    problem = make_problem("logistic", missing=True)
    a, rows = problem.architecture, problem.rows
    z = ((rows.numeric - np.array(a.mean, "f4")) * np.array(a.scale, "f4")).astype(np.float32)
    settings = settings_of("adam", 0.001, 0.01)
    problem.start[:] = 0
    expected, *_ = kernel_steps(problem, settings, 17, [0.05] * 6)
    trainer = st.Trainer(
        n_numeric=3, cardinalities=(4, 9), optimizer="adam", lr=0.05,
        epsilon=1e-3, l1=0.001, l2=0.01, threads=2,
    )  # fmt: skip
    trainer.fit_rows(z, rows.codes, rows.target, batch_size=17)
    found = trainer._model.settled(trainer.parameters, trainer._rule)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert trainer.steps == 6


def test_a_trainer_learns_and_predicts_probabilities():
    numeric, codes, target = made_rows()
    trainer = made_trainer()
    first = trainer.fit_rows(numeric, codes, target, batch_size=30)
    for _ in range(40):
        last = trainer.fit_rows(numeric, codes, target, batch_size=30)
    assert last < 0.5 * first
    p = trainer.predict(numeric, codes)
    assert ((p > 0.5) == (target > 0.5)).mean() > 0.95


def test_a_trainer_takes_an_optimizers_settings_and_no_others():
    numeric, codes, target = made_rows()
    trainer = made_trainer(optimizer="ftrl", embedding_lr=0.02, l1=0.01, clip_norm=0.5)
    first = trainer.fit_rows(numeric, codes, target, batch_size=30)
    for _ in range(20):
        last = trainer.fit_rows(numeric, codes, target, batch_size=30)
    assert last < first
    # A trainer has no schedule, no average and no epochs: it must not take them silently.
    for name in ("average", "schedule", "epochs", "momentun"):
        with pytest.raises(ConfigError, match=f"no setting '{name}'"):
            made_trainer(**{name: 1})


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"codes": np.full((300, 1), 5)}, "codes"),
        ({"codes": np.full((300, 1), -1)}, "codes"),
        ({"codes": np.zeros((300, 2))}, "codes"),
        ({"numeric": np.zeros((299, 2))}, "numeric"),
        ({"target": np.full(300, 2)}, "target"),
        ({"target": np.full(300, np.nan)}, "target"),
        ({"weight": np.ones(3)}, "fit_rows"),
        ({"batch_size": 0}, "fit_rows"),
    ],
    ids=["code 5", "code -1", "2 fields", "299 rows", "class 2", "nan", "3 weights", "batch 0"],
)
def test_arrays_that_do_not_fit_are_refused_before_the_kernels_see_them(change, where):
    numeric, codes, target = made_rows()
    arrays = {"numeric": numeric, "codes": codes, "target": target, "batch_size": 8} | change
    with pytest.raises(ConfigError) as caught:
        made_trainer().fit_rows(**arrays)
    assert caught.value.where == where


def test_no_rows_are_refused():
    with pytest.raises(ConfigError, match="no rows"):
        made_trainer().fit_rows(*(a[:0] for a in made_rows()), batch_size=8)


@pytest.mark.parametrize("loss", ["poisson", "gamma", "tweedie"])
def test_a_trainer_learns_rates_from_exposures(loss):
    numeric, codes, _ = made_rows(2000)
    rng = np.random.default_rng(1)
    exposure = rng.uniform(0.2, 5.0, 2000).astype(np.float32)
    rate = np.exp(0.5 * numeric[:, 0] - 1)
    target = exposure * rate * rng.gamma(20.0, 1 / 20, 2000)
    trainer = made_trainer(loss=loss)
    for _ in range(40):
        trainer.fit_rows(numeric, codes, target, batch_size=100, exposure=exposure)
    found = trainer.predict(numeric, codes)
    assert np.median(found / rate) == pytest.approx(1, abs=0.1)
    assert np.corrcoef(np.log(found), np.log(rate))[0, 1] > 0.99
    np.testing.assert_allclose(
        trainer.predict(numeric, codes, exposure=exposure), found * exposure, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("options", "arrays", "where"),
    [
        ({"loss": "poisson"}, {"target": np.full(300, -1.0)}, "fit_rows"),
        ({"loss": "gamma"}, {"target": np.zeros(300)}, "fit_rows"),
        ({"loss": "poisson"}, {"exposure": np.zeros(300)}, "fit_rows"),
        ({"loss": "poisson"}, {"exposure": np.ones(299)}, "fit_rows"),
        ({"loss": "poison"}, {}, "loss"),
        ({"quantile": 0.9}, {}, "--quantile"),
        ({"class_weights": "balanced"}, {}, "class_weights"),
    ],
    ids=str,
)
def test_losses_of_a_trainer_refuse_what_they_cannot_use(options, arrays, where):
    numeric, codes, target = made_rows()
    given = {"numeric": numeric, "codes": codes, "target": target, "batch_size": 8} | arrays
    with pytest.raises(ConfigError) as caught:
        made_trainer(**options).fit_rows(**given)
    assert caught.value.where == where


def test_a_trainer_that_diverges_says_so():
    arrays = made_rows()
    trainer = made_trainer(loss="squared", optimizer="sgd", lr=1e4)
    with pytest.raises(DivergedError):
        trainer.fit_rows(*(np.concatenate([a] * 50) for a in arrays), batch_size=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    dataset = st.open_dataset(make_dataset(folder / "ds", n_rows=300))
    return folder / "run", done(dataset, folder / "run"), dataset


def test_the_model_that_is_loaded_is_the_one_that_was_trained(run):
    out, last, dataset = run
    file = load_model_file(out)
    assert parameters_digest(file.parameters) == last["parameters_digest"]
    assert file.vocabularies[0].texts() == ["k2", "k3", "k4"]
    report = st.load_model(out).evaluate_dataset(dataset, "valid")
    assert report["loss"] == last["valid"]["loss"]


def test_a_model_scores_raw_rows_as_training_encoded_them(run):
    model = st.load_model(run[0], threads=1)
    w = model.file.parameters.astype(np.float64)
    mean, scale = np.array(model.architecture.mean), np.array(model.architecture.scale)
    data = {
        "n0": [0.5, None, 0.5, 0.5],
        "n1": [1.0, 1.0, 1.0, 1.0],
        "c0": ["k2", "k2", None, "never seen"],
        "c1": ["k39", "k39", "k39", "k39"],
    }
    z1 = (1.0 - mean[1]) * scale[1] * w[2]
    z0 = (0.5 - mean[0]) * scale[0] * w[1]
    base = w[0] + z1 + w[5 + 5 + 39]
    expected = base + np.array([z0 + w[5 + 2], w[3] + w[5 + 2], z0 + w[5], z0 + w[5 + 1]])
    np.testing.assert_allclose(model.predict(data), 1 / (1 + np.exp(-expected)), rtol=1e-5)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("how", ["flip", "cut"])
def test_a_damaged_model_is_never_loaded(run, tmp_path, name, how):
    for file in ("model.json", "model.safetensors"):
        (tmp_path / file).write_bytes((run[0] / file).read_bytes())
    if how == "flip" and name == "model.safetensors":
        damage(tmp_path / name)
    elif how == "flip":
        text = (tmp_path / name).read_text()
        digest = text.split('"parameters_digest": "')[1][:1]
        other = "0" if digest != "0" else "1"
        flipped = text.replace(f'"parameters_digest": "{digest}', f'"parameters_digest": "{other}')
        (tmp_path / name).write_text(flipped)
    else:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-3])
    with pytest.raises(CheckpointError):
        load_model_file(tmp_path)


def test_any_changed_figure_of_a_model_is_noticed(run, tmp_path):
    (tmp_path / "model.safetensors").write_bytes((run[0] / "model.safetensors").read_bytes())
    text = (run[0] / "model.json").read_text()
    figures = [m.start() for m in re.finditer(r"[0-9](?=[0-9,\n])", text)]
    assert len(figures) > 50
    for at in figures[:: len(figures) // 25]:
        other = "7" if text[at] != "7" else "3"
        changed = text[:at] + other + text[at + 1 :]
        if json.loads(changed) == json.loads(text):
            continue  # a digit beyond what float64 holds
        (tmp_path / "model.json").write_text(changed)
        with pytest.raises(CheckpointError):
            load_model_file(tmp_path)
    (tmp_path / "model.json").write_text(text)
    load_model_file(tmp_path)


def test_a_category_that_was_changed_is_noticed(run, tmp_path):
    for file in ("model.json", "model.safetensors"):
        (tmp_path / file).write_bytes((run[0] / file).read_bytes())
    tensors = (tmp_path / "model.safetensors").read_bytes()
    assert b"k2k3k4" in tensors
    (tmp_path / "model.safetensors").write_bytes(tensors.replace(b"k2k3k4", b"k3k2k4"))
    with pytest.raises(CheckpointError, match="digest"):
        load_model_file(tmp_path)


def test_a_missing_model_is_said_to_be_unfinished(tmp_path, run):
    with pytest.raises(NoInputError, match="no finished model"):
        load_model_file(tmp_path)
    with pytest.raises(NoInputError, match="no such run"):
        load_model_file(tmp_path / "nothing")
    (tmp_path / "model.json").write_bytes((run[0] / "model.json").read_bytes())
    with pytest.raises(CheckpointError, match="missing"):
        load_model_file(tmp_path)


def test_models_that_are_let_go_leave_no_thread(run):
    for _ in range(3):
        st.load_model(run[0], threads=3).predict(
            {"n0": [1.0], "n1": [1.0], "c0": [None], "c1": [None]}
        )
    gc.collect()
    for thread in threading.enumerate():
        if thread.name.startswith("streamtrain-compute"):
            thread.join(10)
            assert not thread.is_alive()


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, streamtrain\n"
        "assert not {'numpy', 'numba', 'pyarrow', 'click'} & set(sys.modules)\n"
        "assert {'train', 'open_dataset', 'load_model', 'Trainer'} <= set(streamtrain.__all__)\n"
    )
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True, timeout=60)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        st.trian  # noqa: B018
