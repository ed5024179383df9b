"""Training on rows of several targets: resumed anywhere, on any threads, within a plan."""

import msgspec
import numpy as np
import pytest

import streamtrain as st
from data_tools.ingest import ingest
from data_tools.options import IngestOptions
from streamtrain.errors import ConfigError, DivergedError, SchemaError, StoppedError
from streamtrain.kernels.team import Team
from streamtrain.library import open_dataset
from streamtrain.model.architecture import Architecture, plan_architecture
from streamtrain.model.evaluation import Evaluation
from streamtrain.model.linear import LinearModel, layout_of, scratch_bytes
from streamtrain.model.losses import LossSettings, losses_of_several
from streamtrain.model_file import load_model_file
from streamtrain.predict import load_model
from streamtrain.scoring import scoring_rows
from streamtrain.train.defaults import gradient_scale
from streamtrain.train.plan import plan_memory
from streamtrain.train.settings import Resources, TrainSettings
from tests.train.training import done, events_of, same, step_by_step, stop_after

__all__ = ["step_by_step"]
N = 240
KINDS = {
    "values": {},
    "huber": {"loss": "huber", "huber_delta": 3.0},
    "labels": {"label_smoothing": 0.1},
}
MODELS = {
    "linear": {"optimizer": "adam", "l2": 0.01},
    "mlp": {"model": "mlp", "hidden": (8,), "dropout": 0.2, "optimizer": "adam"},
}
VARIANTS = {f"{k} {m}": {**KINDS[k], **MODELS[m]} for k in KINDS for m in MODELS}


def arrays(labels, n=N, m=3):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 5)).astype("f4")
    y = x @ rng.normal(size=(5, m)) + 0.3 * rng.normal(size=(n, m))
    return x, (y > np.linspace(-1, 1, m)) if labels else y * np.geomspace(0.1, 50, m) + 3


def written(folder, labels, *, weighted=False, n=N, m=3, **options):
    x, y = arrays(labels, n, m)
    for name, values in {"x": x, "y": y, "w": 1.0 + np.arange(n) % 3}.items():
        np.save(folder / f"{name}.npy", values)
    given = IngestOptions(
        sources=(str(folder / "x.npy"),),
        target="target",
        target_file=folder / "y.npy",
        weight_file=folder / "w.npy" if weighted else None,
        format="zarr",
        out=folder / "ds",
        **{"splits": {"valid": 0.2}, "block_rows": 16, **options},
    )
    ingest(given)
    return open_dataset(folder / "ds")


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    return {
        kind: written(tmp_path_factory.mktemp(kind), kind == "labels", weighted=kind == "labels")
        for kind in ("values", "labels")
    }


def of(datasets, name):
    return datasets["labels" if name.startswith("labels") else "values"]


@pytest.mark.parametrize("name", VARIANTS)
def test_neither_threads_nor_checkpoints_show_in_the_result(datasets, tmp_path, name):
    dataset, options = of(datasets, name), VARIANTS[name]
    whole = done(dataset, tmp_path / "1", **options)
    for k in (2, 3):
        other = {"threads": k, "prefetch": 0, "checkpoint_every": 2, "progressive": k == 3}
        same(done(dataset, tmp_path / str(k), **{**options, **other}), whole)


@pytest.mark.parametrize("name", VARIANTS)
def test_stopped_anywhere_and_resumed_it_ends_with_the_same_bits(
    datasets, tmp_path, name, step_by_step
):
    dataset, options = of(datasets, name), VARIANTS[name]
    whole = done(dataset, tmp_path / "whole", **options)
    for n_looks in (1, 5, 12, 14, 19):
        out = tmp_path / str(n_looks)
        assert isinstance(stop_after(dataset, out, n_looks, **options), StoppedError)
        same(done(dataset, out, resume="auto", **options), whole)


def test_a_run_stopped_many_times_ends_with_the_same_bits(datasets, tmp_path, step_by_step):
    name = "labels mlp"
    whole = done(of(datasets, name), tmp_path / "whole", **VARIANTS[name])
    for _ in range(40):
        last = stop_after(of(datasets, name), tmp_path / "run", 4, **VARIANTS[name])
        if not isinstance(last, StoppedError):
            break
    same(last, whole)


def test_validation_and_progressive_figures_are_plain_numbers(datasets, tmp_path):
    for kind in ("values", "labels"):
        events = events_of(datasets[kind], tmp_path / kind, progressive=True)
        start, last = events[0], events[-1]
        assert start["targets"] == 3
        assert last["valid"]["rows"] == datasets[kind].n_rows("valid")
        assert last["progressive"]["metrics_rows"] == datasets[kind].n_rows("train")
        figures = [*last["valid"].values(), *last["progressive"].values()]
        assert all(isinstance(v, int | float | None) for v in figures)
        wanted = {"values": "rmse mae r2", "labels": "accuracy exact_match micro_f1 auc"}
        assert set(wanted[kind].split()) <= set(last["valid"])


def test_evaluation_gives_the_loss_of_the_last_validation(datasets, tmp_path):
    for name in ("values linear", "labels mlp"):
        last = done(of(datasets, name), tmp_path / name, **VARIANTS[name])
        found = load_model(tmp_path / name).evaluate_dataset(of(datasets, name), "valid")
        outputs = found.pop("outputs")
        assert len(outputs) == 3
        assert {k: v for k, v in found.items() if k != "split"} == last["valid"]


def test_how_many_rows_are_scored_at_once_never_shows(datasets, tmp_path, monkeypatch):
    done(datasets["labels"], tmp_path / "run")
    model = load_model(tmp_path / "run")
    whole = model.evaluate_dataset(datasets["labels"], "train")
    for n in (1, 7, 50):
        monkeypatch.setattr("streamtrain.scoring.scoring_rows", lambda _, n=n: n)
        assert model.evaluate_dataset(datasets["labels"], "train") == whole


def test_the_schema_decides_the_losses(datasets):
    values, labels = datasets["values"].schema, datasets["labels"].schema
    found = plan_architecture(values, model="linear", loss=None)
    assert (found.loss, found.n_scores, found.n_targets) == ("squared", 3, 3)
    for m, told in enumerate(values.target.outputs):
        assert found.target_means[m] == told.mean
        assert found.target_scales[m] == pytest.approx(1 / told.std)
    found = plan_architecture(labels, model="mlp", loss=None)
    assert (found.loss, found.target_means, found.target_scales) == ("logistic", (0,) * 3, (1,) * 3)
    # Labels are numbers too.
    assert plan_architecture(labels, model="linear", loss="squared").target_scales != (1,) * 3
    for loss in ("softmax", "hinge", "poisson", "gamma", "tweedie"):
        for schema in (values, labels):
            with pytest.raises(ConfigError, match="takes a target of one value"):
                plan_architecture(schema, model="linear", loss=loss)
    with pytest.raises(ConfigError, match="each of them to be 0 or 1"):
        plan_architecture(values, model="linear", loss="logistic")
    with pytest.raises(ConfigError, match="no class"):
        plan_architecture(
            labels,
            model="linear",
            loss=None,
            loss_settings=LossSettings(class_weights="balanced"),
        )


def test_a_constant_output_is_learnt_as_it_is(tmp_path):
    x, y = arrays(False)
    y[:, 1] = 7
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    ingest(
        IngestOptions(
            sources=(str(tmp_path / "x.npy"),), target="target", target_file=tmp_path / "y.npy",
            format="zarr", out=tmp_path / "ds", splits={"valid": 0.2},
        )
    )  # fmt: skip
    dataset = open_dataset(tmp_path / "ds")
    found = plan_architecture(dataset.schema, model="linear", loss=None)
    assert (found.target_means[1], found.target_scales[1]) == (7.0, 1.0)
    last = done(dataset, tmp_path / "run")
    # It starts at its mean, which is all that there is to learn.
    model = load_model(tmp_path / "run")
    assert (model.predict(x)[:, 1] == 7).all()
    assert model.evaluate_dataset(dataset, "valid")["outputs"][1]["r2"] is None
    assert np.isfinite(last["valid"]["r2"])


def test_defaults_know_how_often_labels_are_there(datasets):
    values, labels = datasets["values"].schema.target, datasets["labels"].schema.target
    assert gradient_scale(values, None) == 1.0
    assert gradient_scale(labels, "squared") == 1.0
    # It does not fit, and is refused later.
    assert gradient_scale(values, "logistic") == 1.0
    shares = np.array(labels.counts) / datasets["labels"].n_rows("train")
    expected = 2 * np.sqrt((shares * (1 - shares)).mean())
    assert gradient_scale(labels, None) == pytest.approx(expected)
    # As of a binary target, where every output is as frequent.
    one = labels.outputs[0]
    same = msgspec.structs.replace(labels, outputs=(one,) * 3)
    n = round(one.count * one.mean)
    binary = msgspec.structs.replace(
        labels, task="binary", outputs=msgspec.UNSET, counts=(one.count - n, n)
    )
    assert gradient_scale(same, None) == pytest.approx(gradient_scale(binary, "logistic"))


def plan_of(dataset, budget, batch_size=16, **resources):
    architecture = plan_architecture(dataset.schema, model="linear", loss=None)
    settings = TrainSettings(loss=architecture.loss, batch_size=batch_size)
    return plan_memory(
        dataset,
        architecture,
        settings,
        Resources(memory=budget, **resources),
        interpreter_bytes=100 << 20,
    )


def test_memory_of_many_targets_is_in_the_plan(tmp_path):
    m = 500
    dataset = written(tmp_path, False, n=400, m=m, block_rows=None, splits={"valid": 0.5})
    narrow = written_narrow(tmp_path)
    parts, few = (plan_of(d, 1 << 30, prefetch=1).parts for d in (dataset, narrow))
    n = dataset.n_rows("train")
    assert parts["windows"] - few["windows"] == 2 * 4 * n * (m - 1)
    assert parts["spill of one batch"] - few["spill of one batch"] == 16 * 4 * (m - 1)
    assert parts["parameters"] == m * few["parameters"]
    assert parts["validation"] > dataset.n_rows("valid") * m * 32
    with_it = plan_of(dataset, 1 << 30, progressive=True).parts["progressive validation"]
    assert with_it > scoring_rows(m) * m * 32
    with pytest.raises(ConfigError, match="memory"):
        plan_of(dataset, 130 << 20)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_scratch_of_targets_is_what_the_plan_counts(datasets, n_threads):
    architecture = plan_architecture(datasets["values"].schema, model="linear", loss=None)
    with Team(n_threads) as team:
        model = LinearModel(architecture, team, batch_size=100)
    left_out = {"_mean", "_scale", "_first_row"}
    arrays = {k: a for k, a in vars(model).items() if isinstance(a, np.ndarray)}
    held = sum(a.nbytes for k, a in arrays.items() if k not in left_out)
    layout = layout_of(architecture)
    assert scratch_bytes(layout, batch_size=100, n_threads=n_threads) == held


def written_narrow(folder):
    (folder / "narrow").mkdir()
    return written(
        folder / "narrow", False, n=400, m=1, block_rows=None, splits={"valid": 0.5}
    )  # fmt: skip


@pytest.mark.parametrize("loss", losses_of_several("labels"))
@pytest.mark.parametrize("model", ["linear", "mlp", "fm", "wide-deep", "deepfm", "dcn"])
def test_a_trainer_learns_your_own_targets(model, loss):
    x, y = arrays(loss == "logistic")
    y = np.asarray((y - y.mean(axis=0)) / y.std(axis=0) if loss != "logistic" else y, np.float32)
    codes = (np.arange(N) % 3).astype(np.int32)[:, None]
    options = {} if model in {"linear", "fm"} else {"hidden": (16,)}
    trainer = st.Trainer(
        model=model, n_numeric=5, cardinalities=(3,), loss=loss, n_targets=3, optimizer="adam",
        lr=0.01, **options,
    )  # fmt: skip
    losses = [trainer.fit_rows(x, codes, y, batch_size=16) for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]
    found = trainer.predict(x, codes)
    assert found.shape == (N, 3)
    if loss == "logistic":
        assert ((found > 0.5) == y).mean() > 0.7


def test_a_trainer_of_several_targets_is_several_trainers():
    x, y = arrays(False)
    y = y.astype(np.float32)
    codes = np.empty((N, 0), np.int32)
    options = {"model": "linear", "n_numeric": 5, "loss": "squared", "lr": 0.05}
    several = st.Trainer(n_targets=3, **options)
    loss = several.fit_rows(x, codes, y, batch_size=16)
    alone = []
    for m in range(3):
        one = st.Trainer(**options)
        alone.append(one.fit_rows(x, codes, y[:, m].copy(), batch_size=16))
        np.testing.assert_allclose(
            several.predict(x, codes)[:, m], one.predict(x, codes), rtol=1e-4, atol=1e-4
        )
    assert loss == pytest.approx(np.mean(alone), rel=1e-5)


def test_a_trainer_refuses_what_it_cannot_learn():
    x, codes = np.zeros((4, 2), "f4"), np.empty((4, 0), np.int32)
    for loss in ("softmax", "hinge", "poisson"):
        with pytest.raises(ConfigError, match="one value"):
            st.Trainer(n_numeric=2, loss=loss, n_targets=2)
    for n in (0, 4097):
        with pytest.raises(ConfigError, match="not possible"):
            st.Trainer(n_numeric=2, loss="squared", n_targets=n)
    trainer = st.Trainer(n_numeric=2, loss="squared", n_targets=3)
    for shape in ((4,), (4, 2), (3, 3), (4, 3, 1)):
        with pytest.raises(ConfigError, match=r"target has shape|numeric has shape"):
            trainer.fit_rows(x, codes, np.zeros(shape, "f4"), batch_size=2)
    with pytest.raises(SchemaError, match="finite"):
        trainer.fit_rows(x, codes, np.full((4, 3), np.nan, "f4"), batch_size=2)
    with pytest.raises(ConfigError, match="n_targets=3"):
        st.Trainer(n_numeric=2, loss="squared").fit_rows(
            x, codes, np.zeros((4, 3), "f4"), batch_size=2
        )
    labels = st.Trainer(n_numeric=2, loss="logistic", n_targets=2)
    with pytest.raises(ConfigError, match="not 0 to 1"):
        labels.fit_rows(x, codes, np.full((4, 2), 0.5, "f4"), batch_size=2)


def test_an_evaluation_refuses_targets_that_are_none():
    several = {"target_means": (0.0, 0.0), "target_scales": (1.0, 1.0)}
    nothing = np.empty(0, np.float32)
    for loss, bad in (("squared", np.nan), ("logistic", 0.5)):
        found = Evaluation(Architecture("linear", loss, 2, (), (), (), **several), n_classes=0)
        with pytest.raises(SchemaError, match="one of several"):
            found.update(np.zeros((1, 2), "f4"), np.array([[0, bad]], "f4"), nothing)
        with pytest.raises(DivergedError):
            found.update(np.array([[0, np.inf]], "f4"), np.zeros((1, 2), "f4"), nothing)


def test_files_of_models_of_one_target_say_nothing_of_several(datasets, tmp_path):
    done(datasets["labels"], tmp_path / "several")
    assert load_model_file(tmp_path / "several").architecture.n_targets == 3
    narrow = written_narrow(tmp_path)
    done(narrow, tmp_path / "one")
    text = (tmp_path / "one/model.json").read_text()
    assert "target_means" not in text
    assert "outputs" not in text
    assert msgspec.json.decode(text)["architecture"]["n_scores"] == 1
