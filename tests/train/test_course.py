"""What the loop makes of schedules that watch validation, and of averages."""

import json

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file

from streamtrain.errors import ConfigError
from streamtrain.kernels.team import Team
from streamtrain.library import open_dataset
from streamtrain.model.architecture import plan_architecture
from streamtrain.model.linear import LinearModel, layout_of, scratch_bytes
from streamtrain.model_file import load_model_file
from streamtrain.optim import averaging
from streamtrain.optim.optimizers import OptimizerSettings
from streamtrain.train import loop
from streamtrain.train.plan import plan_memory
from streamtrain.train.settings import Resources, TrainSettings
from streamtrain.train.state import Progress
from tests.made import make_dataset
from tests.train.training import done, events_of

# 200 rows in batches of 16: 13 steps an epoch.
N_STEPS = 13


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset(make_dataset(tmp_path_factory.mktemp("made") / "ds", n_rows=200))


def watched(monkeypatch, losses):
    """Make validations give these losses; return the list of (step, rates) of all calls."""
    left = iter(losses)
    monkeypatch.setattr(loop, "evaluate_split", lambda *a, **k: {"loss": next(left)})
    calls = []
    take_steps = LinearModel.take_steps

    def recorded(self, *args, **options):
        calls.extend(zip(range(options["step"], 10**6), options["rates"].tolist(), strict=False))
        return take_steps(self, *args, **options)

    monkeypatch.setattr(LinearModel, "take_steps", recorded)
    return calls


def test_plateau_lowers_the_rate_after_epochs_without_a_better_loss(dataset, tmp_path, monkeypatch):
    losses = [0.9, 0.8, 0.8, 0.85, 0.7, 0.75, 0.71, 0.72]
    calls = watched(monkeypatch, losses)
    events = events_of(
        dataset, tmp_path / "run", schedule="plateau", patience=2, decay=0.1, epochs=8, lr=0.5,
        warmup_steps=5,
    )  # fmt: skip
    factors = [1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01]
    found = [e["lr_factor"] for e in events if e["event"] == "epoch"]
    np.testing.assert_allclose(found, factors)
    rates = dict(calls)
    assert len(rates) == 8 * N_STEPS
    expected = [0.5 * f for f in [1, *factors[:-1]] for _ in range(N_STEPS)]
    expected[:5] = [0.1, 0.2, 0.3, 0.4, 0.5]
    np.testing.assert_allclose([rates[s] for s in range(8 * N_STEPS)], expected)


def test_a_loss_that_is_missing_is_not_a_better_one():
    progress = Progress()
    for loss in (1.0, None, float("nan"), 1.0):
        progress.follow_plateau(loss, patience=3, decay=0.5)
    assert (progress.plateau_loss, progress.rate_factor) == (1.0, 0.5)


def test_plateau_without_rows_to_validate_on_is_refused(tmp_path):
    dataset = open_dataset(make_dataset(tmp_path / "ds", n_rows=50, splits=("train",)))
    with pytest.raises(ConfigError, match="valid") as caught:
        events_of(dataset, tmp_path / "run", schedule="plateau")
    assert caught.value.where == "--schedule"
    assert not (tmp_path / "run").exists()


def model_of(run):
    return load_model_file(run).parameters


def snapshots(dataset, out, steps, **options):
    """Return the parameters after each of some steps, each from a run that ends there."""
    return {
        s: (done(dataset, out / str(s), max_steps=s, **options), model_of(out / str(s)))[1]
        for s in steps
    }


@pytest.mark.parametrize("penalty", [{}, {"l1": 0.002, "l2": 0.1}], ids=str)
@pytest.mark.parametrize("name", ["ema", "polyak"])
def test_the_model_that_is_kept_is_the_average_of_settled_snapshots(
    dataset, tmp_path, monkeypatch, name, penalty
):
    monkeypatch.setattr(averaging, "_LEAST_SNAPSHOTS", 4)
    options = {"optimizer": "adam", "lr": 0.1, **penalty}
    # 26 steps, a snapshot every 6; polyak from half of them on.
    steps = {"ema": [6, 12, 18, 24], "polyak": [18, 24]}[name]
    single = snapshots(dataset, tmp_path / "single", steps, **options)
    weights = np.array([0.9 ** (24 - s) if name == "ema" else 1.0 for s in steps])
    expected = sum(w * single[s].astype(np.float64) for w, s in zip(weights, steps, strict=True))
    expected /= weights.sum()
    found = done_parameters(dataset, tmp_path / "run", average=name, average_decay=0.9, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert np.abs(found - done_parameters(dataset, tmp_path / "plain", **options)).max() > 1e-3


def done_parameters(dataset, out, **options):
    done(dataset, out, **options)
    return model_of(out)


def test_validation_scores_the_average(dataset, tmp_path, monkeypatch):
    seen = []

    def scored(dataset, split, model, parameters, **options):
        seen.append(parameters.copy())
        return {"loss": 1.0}

    monkeypatch.setattr(loop, "evaluate_split", scored)
    done(dataset, tmp_path / "run", average="polyak", average_start=0.5)
    # The first epoch ends at step 13 of 26, before there is an average.
    plain = done_parameters(dataset, tmp_path / "one", max_steps=13)
    assert seen[0].tobytes() == plain.tobytes()
    assert seen[1].tobytes() == model_of(tmp_path / "run").tobytes()


def test_the_best_epoch_of_an_averaged_run_is_kept_averaged(dataset, tmp_path, monkeypatch):
    watched(monkeypatch, [0.5, 0.6, 0.7])
    options = {"average": "ema", "epochs": 3, "early_stop": 5}
    assert done(dataset, tmp_path / "run", **options)["best_epoch"] == 0
    monkeypatch.undo()
    # As many steps in all, so that snapshots come as often.
    first = done_parameters(dataset, tmp_path / "one", average="ema", epochs=1)
    assert model_of(tmp_path / "run").tobytes() == first.tobytes()


def test_the_average_does_not_change_how_the_parameters_move(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(averaging, "_LEAST_SNAPSHOTS", 4)
    states = []
    for name in ("none", "ema", "polyak"):
        last = done(dataset, tmp_path / name, average=name, l1=0.001, l2=0.1)
        states.append(load_file(f"{last['checkpoint']}/state.safetensors"))
        assert ("average" in states[-1]) == (name != "none")
    for state in states[1:]:
        for key, array in states[0].items():
            assert state[key].tobytes() == array.tobytes(), key


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"patience": 0}, "--patience"),
        ({"patience": 1 << 64}, "--patience"),
        ({"average_decay": 1.0}, "--average-decay"),
        ({"average_start": 1.0}, "--average-start"),
        ({"embedding_lr": 0.0}, "--embedding-lr"),
        ({"embedding_lr": -1.0}, "--embedding-lr"),
        ({"embedding_lr": float("nan")}, "--embedding-lr"),
        ({"embedding_lr": float("inf")}, "--embedding-lr"),
        ({"clip_norm": -1.0}, "--clip-norm"),
        ({"rho": 1.0}, "--rho"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_name_their_option(dataset, tmp_path, options, where):
    with pytest.raises(ConfigError) as caught:
        events_of(dataset, tmp_path / "run", **options)
    assert caught.value.where == where
    assert not (tmp_path / "run").exists()


def test_the_record_of_a_run_says_what_the_optimizer_decays_by(dataset, tmp_path):
    done(dataset, tmp_path / "run", optimizer="adamw")
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["settings"]["optimizer"]["l2"] == 0.01


def test_rows_of_categories_move_by_their_own_rate(dataset, tmp_path):
    n_dense = 1 + 2 * 2
    found = {}
    for rate in (0.05, 0.1, 1e-30):
        out = tmp_path / str(rate)
        found[rate] = done_parameters(
            dataset, out, optimizer="sgd", lr=0.1, embedding_lr=rate, max_steps=1
        )
    plain = done_parameters(dataset, tmp_path / "plain", optimizer="sgd", lr=0.1, max_steps=1)
    assert found[0.1].tobytes() == plain.tobytes()
    np.testing.assert_allclose(found[0.05][n_dense:], plain[n_dense:] / 2, rtol=1e-6)
    assert np.abs(found[1e-30][n_dense:]).max() < 1e-30
    for array in found.values():
        assert array[:n_dense].tobytes() == plain[:n_dense].tobytes()


def planned(dataset, **options):
    fields = {f for f in OptimizerSettings.__struct_fields__ if f != "name"}
    optimizer = {k: v for k, v in options.items() if k in fields or k == "name"}
    rest = {k: v for k, v in options.items() if k not in optimizer}
    settings = TrainSettings(optimizer=OptimizerSettings(**optimizer), **rest)
    architecture = plan_architecture(dataset.schema, model="linear", loss=None)
    return plan_memory(
        dataset, architecture, settings, Resources(memory=1 << 30, threads=2),
        interpreter_bytes=100_000_000,
    ).parts  # fmt: skip


def test_the_plan_of_memory_counts_averages_gradients_and_states(dataset):
    n = 4 * (1 + 2 * 2 + 45)
    plain = planned(dataset, name="sgd")
    averaged = planned(dataset, name="sgd", average="ema")
    assert averaged["parameters"] - plain["parameters"] == n
    both = planned(dataset, name="sgd", average="ema", early_stop=1)
    assert both["parameters"] - plain["parameters"] == 2 * n
    saved = "checkpoint or model file"
    assert both[saved] - plain[saved] == 2 * n
    for name, arrays in {"sgd": 0, "nesterov": 1, "adam": 2, "ftrl": 2, "rmsprop": 1}.items():
        assert planned(dataset, name=name)["optimizer state"] == arrays * n
    shrinking = planned(dataset, name="adamw")["optimizer state"]
    assert shrinking == 2 * n + 16 * 45
    assert planned(dataset, clip_norm=1.0)["activations"] > plain["activations"]


@pytest.mark.parametrize("clips_norm", [False, True])
@pytest.mark.parametrize("n_threads", [1, 2, 7])
def test_scratch_is_what_the_plan_counts(dataset, clips_norm, n_threads):
    architecture = plan_architecture(dataset.schema, model="linear", loss=None)
    with Team(n_threads) as team:
        model = LinearModel(architecture, team, batch_size=100)
        if clips_norm:
            model._keep_gradients(model.layout.n_tasks)
        arrays = {k: a for k, a in vars(model).items() if isinstance(a, np.ndarray)}
    held = sum(a.nbytes for k, a in arrays.items() if k not in {"_mean", "_scale", "_first_row"})
    counted = scratch_bytes(
        layout_of(architecture), batch_size=100, n_threads=team.n_threads, clips_norm=clips_norm
    )
    assert counted == held


def test_runs_from_before_these_settings_are_read(dataset):
    settings = msgspec.to_builtins(TrainSettings())
    new = ("embedding_lr", "patience", "average", "average_decay", "average_start")
    for name in new:
        del settings[name]
    for name in ("rho", "ftrl_beta", "clip_value", "clip_norm"):
        del settings["optimizer"][name]
    assert msgspec.convert(settings, TrainSettings) == TrainSettings()
