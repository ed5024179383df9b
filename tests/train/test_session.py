"""What a run yields, keeps, refuses and counts."""

import json
import math
import re
import threading

import numpy as np
import pytest
from safetensors.numpy import load_file

from streamtrain import library, memory
from streamtrain.errors import (
    BudgetError,
    ConfigError,
    CorruptShardError,
    DivergedError,
    OutputError,
)
from streamtrain.library import open_dataset
from streamtrain.memory import resident_bytes
from streamtrain.model.architecture import plan_architecture
from streamtrain.model.value_metrics import unit_deviance
from streamtrain.optim.optimizers import OptimizerSettings, make_rule
from streamtrain.predict import load_model
from streamtrain.store.dataset import Dataset
from streamtrain.train import checkpoint
from streamtrain.train.checkpoint import find_checkpoints, verify_run, write_checkpoint
from streamtrain.train.plan import plan_memory
from streamtrain.train.settings import Resources, TrainSettings, auto_batch_size
from streamtrain.train.state import Progress, TrainState
from tests.made import make_dataset
from tests.reader.reading import damage, reader_threads
from tests.train.training import done, events_of


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset(make_dataset(tmp_path_factory.mktemp("made") / "ds", n_rows=200))


def test_events_come_in_order_and_the_log_holds_them(dataset, tmp_path):
    events = events_of(dataset, tmp_path / "run", checkpoint_every=13)
    names = [e["event"] for e in events if e["event"] != "progress"]
    epoch = ["checkpoint", "valid", "epoch"]
    assert names == ["start", *epoch, *epoch, "checkpoint", "done"]
    logged = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [e["event"] for e in logged] == [e["event"] for e in events]
    assert logged[-1]["parameters_digest"] == events[-1]["parameters_digest"]


def test_the_last_event_has_what_the_design_lists(dataset, tmp_path):
    last = done(dataset, tmp_path / "run")
    keys = "steps epochs rows seconds rows_per_s peak_rss_bytes train valid parameters_digest"
    for key in (*keys.split(), "ledger", "stall", "checkpoint", "model"):
        assert key in last
    assert last["steps"] == 26
    assert last["epochs"] == 2
    assert last["rows"] == 400
    assert math.isclose(sum(last["stall"].values()), 1.0)
    assert set(last["stall"]) == {"read", "decode", "compute"}
    assert len(last["parameters_digest"]) == 64
    assert verify_run(tmp_path / "run") == {"checkpoints": 1, "model": "present"}


@pytest.mark.parametrize(
    ("options", "ledger"),
    [
        ({}, (400, 400, 0)),
        ({"drop_last": True}, (400, 384, 16)),
        ({"max_steps": 13}, (200, 200, 0)),
        ({"max_steps": 5}, (80, 80, 0)),
        ({"max_steps": 15}, (232, 232, 0)),
        ({"max_steps": 14, "drop_last": True}, (232, 224, 8)),
        ({"batch_size": 200, "epochs": 3}, (600, 600, 0)),
    ],
    ids=str,
)
def test_the_ledger_counts_every_row(dataset, tmp_path, options, ledger):
    last = done(dataset, tmp_path / "run", **options)
    expected, delivered, dropped = ledger
    assert last["ledger"] == {
        "expected": expected, "delivered": delivered, "skipped": 0, "dropped": dropped,
    }  # fmt: skip
    assert last["rows"] == delivered
    assert last["steps"] == min(options.get("max_steps", 10**9), last["steps"])


def test_the_reported_train_loss_is_the_mean_over_the_epoch(dataset, tmp_path):
    # At a rate of almost nothing every batch is scored with parameters of zero.
    last = done(dataset, tmp_path / "run", lr=1e-30, optimizer="sgd")
    assert last["train"]["loss"] == pytest.approx(math.log(2), rel=1e-6)
    assert last["valid"]["loss"] == pytest.approx(math.log(2), rel=1e-6)
    assert last["valid"]["rows"] == 50


def test_training_reaches_what_the_process_allows(tmp_path):
    dataset = open_dataset(make_dataset(tmp_path / "ds", n_rows=4000, cardinalities=(3,)))
    last = done(dataset, tmp_path / "run", batch_size=32, epochs=8)
    rows, _ = next(dataset.batches(1000, split="valid", shuffle=False))
    rng = np.random.default_rng(0)
    effect = rng.normal(size=3)
    score = rows.numeric.sum(axis=1, dtype=np.float64) + effect[rows.codes[:, 0]]
    best = np.logaddexp(0, -(2 * rows.target - 1) * score).mean()
    assert last["valid"]["loss"] == pytest.approx(best, rel=0.01)


@pytest.mark.parametrize(
    ("n_classes", "loss", "options"),
    [
        (0, "squared", {}), (2, "logistic", {}), (2, "hinge", {}), (2, "squared", {}),
        (4, "softmax", {}), (0, "absolute", {}), (0, "huber", {"huber_delta": 0.5}),
        (0, "quantile", {"quantile": 0.9, "epochs": 20}), (2, "logistic", {"label_smoothing": 0.1}),
        (4, "softmax", {"label_smoothing": 0.1, "class_weights": "balanced"}),
        (2, "hinge", {"class_weights": "balanced"}), (2, "poisson", {}),
        (2, "tweedie", {"tweedie_power": 1.2}),
    ],
    ids=str,
)  # fmt: skip
def test_every_loss_learns_from_the_targets_it_fits(tmp_path, n_classes, loss, options):
    dataset = open_dataset(make_dataset(tmp_path / "ds", n_rows=1000, n_classes=n_classes))
    rest = {"loss": loss, "epochs": 5, "optimizer": "adagrad", **options}
    # A rate of nothing leaves the model as it starts.
    start = done(dataset, tmp_path / "start", **{**rest, "lr": 1e-30, "epochs": 1})
    events = events_of(dataset, tmp_path / "run", **rest)
    losses = [e["valid"]["loss"] for e in events if e["event"] == "epoch"]
    if loss in {"poisson", "tweedie"}:
        assert losses[-1] < start["valid"]["loss"] - 0.03
        assert events[-1]["valid"]["d2"] > 0.15
    else:
        assert losses[-1] < 0.95 * start["valid"]["loss"]
    if loss == "quantile":
        assert events[-1]["valid"]["coverage"] == pytest.approx(0.9, abs=0.05)
    variance = float(dataset.schema.target.statistics.std) ** 2
    untrained = {"squared": variance, "logistic": math.log(2), "hinge": 1.0, "softmax": math.log(4)}
    if not options and loss in untrained:
        assert losses[-1] < 0.9 * untrained[loss]


@pytest.mark.parametrize("loss", ["poisson", "tweedie"])
def test_losses_with_exposures_learn_the_rate(tmp_path, loss):
    dataset = open_dataset(
        make_dataset(tmp_path / "ds", n_rows=4000, cardinalities=(3,), exposed=True)
    )
    last = done(dataset, tmp_path / "run", loss=loss, epochs=8)
    rows, _ = next(dataset.batches(1000, split="valid", shuffle=False))
    effect = np.random.default_rng(0).normal(size=3)
    score = rows.numeric.sum(axis=1, dtype=np.float64) + effect[rows.codes[:, 0]]
    mean = 1.5 * rows.exposure * np.exp(0.4 * score - 1.0)
    power = 1.0 if loss == "poisson" else 1.5
    best = unit_deviance(rows.target.astype(np.float64), mean, power).mean()
    assert last["valid"]["deviance"] == pytest.approx(best, rel=0.02)
    assert last["valid"]["d2"] > 0.1


def test_class_weights_make_every_class_count_alike(tmp_path):
    folder = make_dataset(tmp_path / "ds", n_rows=2000, n_classes=4, cardinalities=())
    dataset = open_dataset(folder)
    counts = np.array(dataset.schema.target.counts)
    assert counts.max() > 1.3 * counts.min()
    for weights in ("none", "balanced"):
        done(dataset, tmp_path / weights, class_weights=weights, epochs=20, batch_size=100)
        rows, _ = next(dataset.batches(2000, shuffle=False))
        data = {f"n{j}": rows.numeric[:, j] for j in range(2)}
        p = load_model(tmp_path / weights).predict(data)
        w = (1 / counts)[rows.target.astype(int)] if weights == "balanced" else np.ones(2000)
        # Where the gradient of the biases is 0, classes are predicted as often as they count.
        share = (w @ p) / w.sum()
        expected = np.full(4, 0.25) if weights == "balanced" else counts / 2000
        np.testing.assert_allclose(share, expected, atol=0.02)


def test_at_least_two_checkpoints_are_kept(dataset, tmp_path):
    seen = []
    for event in library.train(
        dataset, out=tmp_path / "run", batch_size=16, epochs=1, checkpoint_every=3, threads=1
    ):
        if event["event"] == "checkpoint":
            seen.append(event["step"])
            steps = [c.header.progress.step for c in find_checkpoints(tmp_path / "run")]
            assert steps == seen[::-1][:2]
    assert seen == [3, 6, 9, 12, 13]


def test_a_checkpoint_beyond_nine_digits_of_steps_is_the_newest(tmp_path):
    state = made_state()
    for step in (999_999_998, 999_999_999, 1_000_000_000, 1_000_000_001):
        state.progress.step = step
        write_checkpoint(tmp_path, state, settings=TrainSettings(), fingerprint="f")
    steps = [c.header.progress.step for c in find_checkpoints(tmp_path)]
    assert steps == [1_000_000_001, 1_000_000_000]


def made_state():
    rule = make_rule(OptimizerSettings(l2=0.1), n_parameters=9, n_dense=6, n_table_rows=3)
    return TrainState(np.zeros(9, np.float32), rule, np.zeros(9, np.float32), Progress(step=1))


@pytest.mark.parametrize("name", ["parameters", "best", "optimizer.second", "optimizer.stamps"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_state_that_is_not_finite_never_becomes_a_checkpoint(tmp_path, name, value):
    state = made_state()
    state.tensors()[name].reshape(-1)[-1] = value
    with pytest.raises(DivergedError, match="no longer finite"):
        write_checkpoint(tmp_path, state, settings=TrainSettings(), fingerprint="f")
    assert not list(tmp_path.rglob("step-*"))


@pytest.mark.parametrize("checkpoint_every", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("lr", [2.5, 1e18, 1e38])
def test_wherever_divergence_is_seen_it_is_said_where_and_after_which_loss(
    tmp_path, checkpoint_every, lr
):
    # By the loss of a batch, by a checkpoint, or by a validation.
    dataset = open_dataset(make_dataset(tmp_path / "ds", n_rows=400, n_classes=0))
    options = {"optimizer": "sgd", "lr": lr, "epochs": 20, "checkpoint_every": checkpoint_every}
    with pytest.raises(DivergedError, match=r"no longer finite \(last finite loss \d") as caught:
        events_of(dataset, tmp_path / "run", **options)
    assert re.fullmatch(r"step \d+, epoch \d+, row \d+", caught.value.where)
    for found in find_checkpoints(tmp_path / "run"):
        state = load_file(found.path / "state.safetensors")
        assert all(np.isfinite(array).all() for array in state.values())


def test_a_diverging_run_stops_and_keeps_its_last_good_checkpoint(tmp_path):
    dataset = open_dataset(make_dataset(tmp_path / "ds", n_rows=400, n_classes=0))
    out = tmp_path / "run"
    with pytest.raises(DivergedError, match="last finite loss") as caught:
        events_of(dataset, out, optimizer="sgd", lr=2.5, epochs=20, checkpoint_every=2)
    assert "step" in caught.value.where
    assert "row" in caught.value.where
    steps = [c.header.progress.step for c in find_checkpoints(out)]
    assert len(steps) == 2
    assert not (out / "model.json").exists()
    assert reader_threads() == []


@pytest.mark.parametrize("budget", ["1MB", "70MB", "200MB"])
def test_a_budget_that_cannot_hold_is_refused_before_a_row_is_read(tmp_path, monkeypatch, budget):
    dataset = open_dataset(
        make_dataset(tmp_path / "ds", n_rows=5000, n_numeric=300, splits=("train",))
    )

    def read(*args, **kwargs):
        raise AssertionError("a block was read")

    monkeypatch.setattr(Dataset, "with_block", read)
    # So that the last budget holds the interpreter, and only the windows are too much.
    monkeypatch.setattr(memory, "resident_bytes", lambda: 100_000_000)
    options = {"memory": budget, "window_blocks": 79, "prefetch": 64, "batch_size": 4096}
    with pytest.raises(BudgetError) as caught:
        events_of(dataset, tmp_path / "run", **options)
    assert sum(caught.value.parts.values()) > int(budget[:-2]) * 10**6
    assert all(f"{n:,}" in caught.value.message for n in caught.value.parts.values())
    assert "--" in caught.value.remedy
    assert not (tmp_path / "run").exists()


def test_the_planned_parts_stay_within_the_budget(dataset, tmp_path):
    # This process has run other tests before.
    given = resident_bytes() + 500 * 10**6
    start = events_of(dataset, tmp_path / "run", memory=str(given))[0]
    parts = dict(start["memory"])
    budget = parts.pop("budget")
    assert budget == given
    assert sum(parts.values()) <= budget


def test_windows_follow_from_the_budget_alone(tmp_path):
    folder = make_dataset(tmp_path / "ds", n_rows=20_000, n_numeric=600, splits=("train",))
    dataset = open_dataset(folder)
    architecture = plan_architecture(dataset.schema, model="linear", loss=None)

    def window_rows(budget, **resources):
        return plan_memory(
            dataset,
            architecture,
            TrainSettings(),
            Resources(memory=budget, **resources),
            interpreter_bytes=resources.get("threads", 1) * 10_000_000,
        ).window_rows

    # 600 numbers, two codes, a target and a place take 2,416 bytes; an eighth of the budget.
    assert window_rows(1 << 30) == 20_000
    assert window_rows(256 << 20) == (256 << 20) // 8 // 2416 // 64 * 64
    seen = {window_rows(256 << 20, prefetch=p, threads=t) for p in (0, 1, 3) for t in (1, 8)}
    assert len(seen) == 1


@pytest.mark.parametrize("options", [{}, {"prefetch": 9}, {"window_blocks": 150}])
def test_the_memory_that_a_refusal_tells_to_give_is_enough_and_little_more(tmp_path, options):
    folder = make_dataset(tmp_path / "ds", n_rows=20_000, n_numeric=600, splits=("train",))
    dataset = open_dataset(folder)
    architecture = plan_architecture(dataset.schema, model="linear", loss=None)
    resources = {k: v for k, v in options.items() if k != "window_blocks"}
    settings = TrainSettings(**{k: v for k, v in options.items() if k == "window_blocks"})

    def plan(budget):
        return plan_memory(
            dataset, architecture, settings, Resources(memory=budget, **resources),
            interpreter_bytes=150_000_000,
        )  # fmt: skip

    for budget in (152_000_000, 170_000_000, 190_000_000):
        with pytest.raises(BudgetError) as refused:
            plan(budget)
        told = re.search("give --memory ([0-9]+)MB or more", refused.value.remedy)
        enough = int(told[1]) * 10**6
        assert plan(enough).budget == enough
        with pytest.raises(BudgetError):
            plan(enough - 40_000_000)


def test_windows_are_filled_by_as_many_threads_as_the_budget_has_blocks_for(tmp_path):
    folder = make_dataset(tmp_path / "ds", n_rows=2_000, n_numeric=2400, splits=("train",))
    dataset = open_dataset(folder)
    architecture = plan_architecture(dataset.schema, model="linear", loss=None)
    block_bytes = max(block.n_bytes for _, block in dataset.manifest.blocks("train"))
    each = block_bytes + dataset.format.scratch_bytes

    def planned(budget, threads):
        return plan_memory(
            dataset,
            architecture,
            TrainSettings(window_blocks=1),
            Resources(memory=budget, threads=threads),
            interpreter_bytes=0,
        )

    assert [planned(1 << 30, t).n_readers for t in (1, 3, 16, 64)] == [1, 3, 16, 16]
    # A sixteenth of the budget is theirs.
    budget = 80 << 20
    n_readers = planned(budget, 64).n_readers
    assert 1 <= n_readers == max(budget // 16 // each, 1) < 16
    assert planned(budget, 64).parts["read buffers"] == n_readers * each


def test_two_trainings_of_one_run_are_refused(dataset, tmp_path):
    first = library.train(dataset, out=tmp_path / "run", batch_size=16, epochs=1, threads=1)
    assert next(first)["event"] == "start"
    with pytest.raises(OutputError, match="another process"):
        events_of(dataset, tmp_path / "run", resume="auto", window_blocks=0, epochs=1, seed=0)
    first.close()
    options = {"window_blocks": 0, "epochs": 1, "seed": 0}
    assert done(dataset, tmp_path / "run", resume="auto", **options)


def test_a_run_that_appears_while_another_starts_is_not_overwritten(dataset, tmp_path, monkeypatch):
    from streamtrain.train import session

    out = tmp_path / "run"
    compiled = session.compile_kernels

    def late(*args):
        monkeypatch.setattr(session, "compile_kernels", compiled)
        done(dataset, out)
        compiled(*args)

    monkeypatch.setattr(session, "compile_kernels", late)
    with pytest.raises(OutputError, match="exists"):
        events_of(dataset, out, seed=9)
    assert json.loads((out / "run.json").read_text())["settings"]["seed"] == 3


@pytest.mark.parametrize("kind", ["file", "folder with things"])
def test_an_output_that_is_something_else_is_refused(dataset, tmp_path, kind):
    out = tmp_path / "run"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "mine").write_text("mine")
    for resume in ("auto", "never"):
        with pytest.raises(OutputError, match="not a run"):
            events_of(dataset, out, resume=resume)


def test_a_damaged_block_stops_training_and_leaves_no_thread(tmp_path):
    dataset = open_dataset(make_dataset(tmp_path / "ds", n_rows=200))
    damage(dataset.path / "train/part-00000.parquet")
    with pytest.raises(CorruptShardError, match=r"part-00000\.parquet, block"):
        events_of(dataset, tmp_path / "run")
    assert reader_threads() == []
    assert not [t for t in threading.enumerate() if t.name.startswith("streamtrain")]


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"epochs": 0}, "--epochs"),
        ({"batch_size": 0}, "--batch-size"),
        ({"batch_size": 201}, "--batch-size"),
        ({"max_steps": 0}, "--max-steps"),
        ({"seed": -1}, "--seed"),
        ({"seed": 1 << 70}, "--seed"),
        ({"epochs": 1 << 64}, "--epochs"),
        ({"max_steps": 1 << 64}, "--max-steps"),
        ({"warmup_steps": 1 << 64}, "--warmup-steps"),
        ({"early_stop": -1}, "--early-stop"),
        ({"window_blocks": -2}, "--window-blocks"),
        ({"decay_steps": -1}, "--decay-steps"),
        ({"lr": -0.1}, "--lr"),
        ({"loss": "softmax"}, "--loss"),
        ({"loss": "nothing"}, "--loss"),
        ({"loss": "squared", "class_weights": "balanced"}, "--class-weights"),
        ({"quantile": 0.9}, "--quantile"),
        ({"model": "forest"}, "--model"),
        ({"threads": -1}, "--threads"),
        ({"prefetch": -1}, "--prefetch"),
        ({"momentum": 1.5}, "--momentum"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_name_their_option(dataset, tmp_path, options, where):
    with pytest.raises(ConfigError) as caught:
        events_of(dataset, tmp_path / "run", **options)
    assert caught.value.where == where
    assert not (tmp_path / "run").exists()


def test_an_unknown_setting_is_answered_with_the_near_name(dataset, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'batch_size'"):
        library.train(dataset, out=tmp_path / "run", batchsize=5)


def test_a_failed_checkpoint_leaves_those_before_it(dataset, tmp_path, monkeypatch):
    write_checkpoint(tmp_path, made_state(), settings=TrainSettings(), fingerprint="f")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.safetensors.numpy, "save_file", full)
    state = made_state()
    state.progress.step = 2
    with pytest.raises(Exception, match="No space left") as caught:
        write_checkpoint(tmp_path, state, settings=TrainSettings(), fingerprint="f")
    assert caught.value.exit_code == 74
    assert [c.header.progress.step for c in find_checkpoints(tmp_path)] == [1]


def test_an_automatic_batch_leaves_500_steps_where_it_can():
    assert auto_batch_size(10) == 10
    assert auto_batch_size(1000) == 32
    assert auto_batch_size(10**9) == 1024
    for n_rows in (40_000, 100_000, 300_000):
        assert n_rows // auto_batch_size(n_rows) >= 500
