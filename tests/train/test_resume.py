"""Stopped anywhere and resumed any number of times: the run that was never interrupted."""

import errno
import shutil
from types import SimpleNamespace

import pytest
import safetensors

from streamtrain import model_file
from streamtrain.errors import (
    CheckpointError,
    ConfigError,
    DiskError,
    MismatchError,
    OutputError,
    StoppedError,
)
from streamtrain.library import open_dataset
from streamtrain.optim import averaging
from streamtrain.train import checkpoint
from streamtrain.train.checkpoint import Checkpoint, find_checkpoints, verify_run
from tests.made import make_dataset
from tests.reader.reading import damage, reader_threads
from tests.train.training import SETTINGS, StopAt, done, events_of, same, step_by_step, stop_after

__all__ = ["step_by_step"]
# 200 rows in batches of 16: 13 steps an epoch, the last of 8 rows.
N_STEPS = 26
VARIANTS = {
    "plain": {},
    "adam with l1, l2": {"optimizer": "adam", "l1": 0.001, "l2": 0.01, "schedule": "cosine"},
    "early stop": {"early_stop": 1, "epochs": 3, "lr": 3.0, "l2": 0.05},
    "drop last": {"drop_last": True, "optimizer": "momentum", "schedule": "step"},
    "max steps": {"max_steps": 17, "optimizer": "sgd", "l1": 0.01, "warmup_steps": 9},
    "max steps with early stop": {"max_steps": 17, "early_stop": 2, "l2": 0.1},
    # At this rate the validation loss gets worse, so that the rate falls.
    "plateau": {"schedule": "plateau", "epochs": 4, "lr": 10.0, "optimizer": "nesterov"},
    "ema": {"average": "ema", "average_decay": 0.8, "optimizer": "adamw", "clip_norm": 0.1},
    "polyak": {"average": "polyak", "optimizer": "ftrl", "l1": 0.1, "embedding_lr": 0.4},
    "all at once": {
        "average": "ema",
        "average_decay": 0.8,
        "schedule": "plateau",
        "early_stop": 2,
        "epochs": 3,
        "lr": 2.0,
        "optimizer": "rowwise-adagrad",
        "l1": 0.001,
        "l2": 0.01,
        "clip_value": 0.2,
    },
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "ds"
    options = {"n_rows": 200, "block_rows": (7, 23, 16), "weighted": True, "missing": 0.1}
    return open_dataset(make_dataset(folder, shard_blocks=3, **options))


@pytest.fixture(scope="module", autouse=True)
def rare_snapshots():
    # Every 6 of 26 steps: fewer than a run of this length would take, so that there are
    # steps between them.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(averaging, "_LEAST_SNAPSHOTS", 4)
        yield


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return {name: done(dataset, folder / name, **options) for name, options in VARIANTS.items()}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.usefixtures("step_by_step")
def test_a_run_stopped_once_at_any_step_ends_as_if_it_never_was(dataset, whole, tmp_path, variant):
    stopped = 0
    for n_looks in range(0, 60, 2 if variant == "plain" else 5):
        out = tmp_path / str(n_looks)
        first = stop_after(dataset, out, n_looks, **VARIANTS[variant])
        stopped += isinstance(first, StoppedError)
        same(done(dataset, out, resume="auto", **VARIANTS[variant]), whole[variant])
        shutil.rmtree(out)
    assert stopped >= 4


@pytest.mark.parametrize(
    "variant", ["adam with l1, l2", "early stop", "plateau", "ema", "all at once"]
)
@pytest.mark.usefixtures("step_by_step")
def test_a_run_stopped_at_every_few_steps_ends_as_if_it_never_was(
    dataset, whole, tmp_path, variant
):
    n_stops = 0
    while True:
        result = stop_after(dataset, tmp_path / "run", 3, **VARIANTS[variant])
        if not isinstance(result, StoppedError):
            break
        n_stops += 1
        assert n_stops < 60
    assert n_stops > 5
    same(result, whole[variant])


@pytest.mark.parametrize(
    "resources",
    [
        {"threads": 2},
        {"threads": 3, "prefetch": 0},
        {"prefetch": 5, "io": "mmap"},
        {"checkpoint_every": 1},
        {"checkpoint_every": 5, "memory": "1GB"},
    ],
    ids=str,
)
def test_threads_depth_io_and_checkpoints_never_show_in_the_result(
    dataset, whole, tmp_path, resources
):
    for name in ("plain", "adam with l1, l2", "ema", "polyak"):
        same(done(dataset, tmp_path / name, **{**VARIANTS[name], **resources}), whole[name])


def test_the_plateau_of_these_tests_lowers_the_rate(dataset, tmp_path):
    for name in ("plateau", "all at once"):
        events = events_of(dataset, tmp_path / name, **VARIANTS[name])
        factors = [e["lr_factor"] for e in events if e["event"] == "epoch"]
        # Before the last epoch, so that it shows in the parameters.
        assert factors[-2] < 1, name


def test_settling_weights_for_a_validation_changes_no_bits(tmp_path):
    # The same rows with and without a validation split to look at between epochs.
    digests = set()
    for splits in (("train",), ("train", "valid")):
        folder = tmp_path / "-".join(splits)
        dataset = open_dataset(make_dataset(folder, n_rows=100, block_rows=20, splits=splits))
        # The order depends on the dataset: read rows as they lie.
        options = {"l1": 0.01, "l2": 0.1, "shuffle": False, "epochs": 3}
        digests.add(done(dataset, folder / "run", **options)["parameters_digest"])
    assert len(digests) == 1


def test_another_seed_gives_other_parameters(dataset, whole, tmp_path):
    other = done(dataset, tmp_path / "run", seed=4)
    assert other["parameters_digest"] != whole["plain"]["parameters_digest"]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4}, {"batch_size": 8}, {"epochs": 3}, {"lr": 0.1}, {"l2": 0.5},
        {"optimizer": "adam"}, {"max_steps": 5}, {"window_blocks": 2}, {"drop_last": True},
        {"loss": "hinge"}, {"shuffle": False}, {"early_stop": 1}, {"schedule": "cosine"},
        {"embedding_lr": 0.1}, {"average": "ema"}, {"patience": 2}, {"average_start": 0.3},
    ],
    ids=str,
)  # fmt: skip
def test_other_settings_are_refused_by_name(dataset, tmp_path, change):
    assert isinstance(stop_after(dataset, tmp_path / "run", 1), StoppedError)
    with pytest.raises(MismatchError, match=next(iter(change))) as caught:
        events_of(dataset, tmp_path / "run", resume="auto", **change)
    assert caught.value.exit_code == 78
    assert isinstance(next(find_checkpoints(tmp_path / "run")), Checkpoint)


def test_another_dataset_is_refused(dataset, tmp_path):
    stop_after(dataset, tmp_path / "run", 1)
    other = open_dataset(make_dataset(tmp_path / "other", n_rows=200, seed=1, weighted=True))
    with pytest.raises(MismatchError, match="fingerprint") as caught:
        events_of(other, tmp_path / "run", resume="auto")
    assert caught.value.exit_code == 78


def test_a_run_that_is_there_is_refused_without_resume(dataset, tmp_path):
    stop_after(dataset, tmp_path / "run", 1)
    for _ in range(2):
        with pytest.raises(OutputError, match="exists") as caught:
            events_of(dataset, tmp_path / "run")
        assert caught.value.exit_code == 73
        assert "--resume auto" in caught.value.remedy


def test_a_finished_run_is_reported_again_and_nothing_is_written(dataset, tmp_path):
    first = done(dataset, tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    again = events_of(dataset, tmp_path / "run", resume="auto")
    assert len(again) == 1
    same(again[0], first)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}


def test_a_run_whose_last_event_was_lost_is_finished_again(dataset, whole, tmp_path):
    out = tmp_path / "run"
    done(dataset, out)
    log = out / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    # Cut in the middle of a line, as a crash leaves it.
    log.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    same(done(dataset, out, resume="auto"), whole["plain"])
    assert log.read_bytes().splitlines()[len(lines) - 1] == lines[-1][:20]


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "COMMIT.json"])
@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_passed_over_and_said_so(dataset, whole, tmp_path, name, how):
    out = tmp_path / "run"
    stop_after(dataset, out, 6, checkpoint_every=2)
    steps = [c.header.progress.step for c in find_checkpoints(out)]
    assert len(steps) == 2
    newest = out / f"checkpoints/step-{steps[0]:09d}"
    file = newest / name
    if how == "flip":
        damage(file)
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        file.unlink()
    events = events_of(dataset, out, resume="auto")
    resumed = next(e for e in events if e["event"] == "resume")
    assert resumed["step"] == steps[1]
    assert resumed["taken"].endswith(f"{steps[1]:09d}")
    assert len(resumed["passed_over"]) == 1
    assert newest.name in resumed["passed_over"][0]
    same(events[-1], whole["plain"])


def test_with_every_checkpoint_damaged_the_run_starts_again_and_ends_alike(
    dataset, whole, tmp_path
):
    stop_after(dataset, tmp_path / "run", 6, checkpoint_every=2)
    for file in (tmp_path / "run/checkpoints").rglob("state.json"):
        damage(file)
    events = events_of(dataset, tmp_path / "run", resume="auto")
    resumed = next(e for e in events if e["event"] == "resume")
    assert (resumed["step"], resumed["taken"], len(resumed["passed_over"])) == (0, None, 2)
    same(events[-1], whole["plain"])


def test_a_damaged_record_of_a_run_is_damage(dataset, tmp_path):
    stop_after(dataset, tmp_path / "run", 1)
    (tmp_path / "run/run.json").write_text('{"format_version": 1')
    with pytest.raises(CheckpointError, match=r"run\.json: damaged"):
        events_of(dataset, tmp_path / "run", resume="auto")


def test_any_changed_figure_of_a_record_is_damage(dataset, tmp_path):
    out = tmp_path / "run"
    done(dataset, out)
    record = (out / "run.json").read_bytes()
    changed = record.replace(b'"seed": 3', b'"seed": 2')
    assert changed != record
    (out / "run.json").write_bytes(changed)
    for look in (lambda: verify_run(out), lambda: events_of(dataset, out, resume="auto")):
        with pytest.raises(CheckpointError, match=r"run\.json: damaged"):
            look()


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("how", ["flip", "remove"])
def test_a_finished_run_whose_model_is_damaged_or_gone_writes_it_again(
    dataset, whole, tmp_path, name, how
):
    out = tmp_path / "run"
    done(dataset, out)
    if how == "flip":
        damage(out / name)
    else:
        (out / name).unlink()
    same(done(dataset, out, resume="auto"), whole["plain"])
    verify_run(out)


def test_a_checkpoint_that_cannot_be_read_just_now_is_kept(dataset, tmp_path, monkeypatch):
    out = tmp_path / "run"
    stop_after(dataset, out, 6, checkpoint_every=2)
    before = sorted(p.name for p in (out / "checkpoints").iterdir())

    def failing(path):
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(checkpoint, "_digest", failing)
    with pytest.raises(DiskError):
        events_of(dataset, out, resume="auto")
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == before


@pytest.mark.parametrize("part", ["checkpoint", "model_file"])
def test_a_disk_that_fills_up_while_arrays_are_written_is_74(dataset, tmp_path, monkeypatch, part):
    def full(tensors, path):
        path.write_bytes(b"half")
        message = "Error while serializing: I/O error: No space left on device (os error 28)"
        raise safetensors.SafetensorError(message)

    module = {"checkpoint": checkpoint, "model_file": model_file}[part]
    monkeypatch.setattr(module.safetensors, "numpy", SimpleNamespace(save_file=full))
    with pytest.raises(DiskError, match="No space left on device; free some space"):
        events_of(dataset, tmp_path / "run")


def test_a_run_that_was_only_named_when_it_was_killed_starts(dataset, whole, tmp_path):
    # A kill between the directory and run.json leaves a lock and half a file.
    out = tmp_path / "run"
    out.mkdir()
    (out / ".lock").touch()
    (out / ".run.json.1.tmp").write_text("{")
    same(done(dataset, out, resume="auto"), whole["plain"])


def test_early_stopping_without_rows_to_validate_on_is_refused(tmp_path):
    dataset = open_dataset(make_dataset(tmp_path / "ds", n_rows=50, splits=("train",)))
    with pytest.raises(ConfigError, match="valid") as caught:
        events_of(dataset, tmp_path / "run", early_stop=2)
    assert caught.value.where == "--early-stop"
    assert not (tmp_path / "run").exists()


def test_stopping_leaves_no_thread(dataset, tmp_path):
    with pytest.raises(StoppedError):
        events_of(dataset, tmp_path / "run", should_stop=StopAt(3))
    assert reader_threads() == []


def test_the_settings_of_these_tests_stand_in_the_record(dataset, tmp_path):
    stop_after(dataset, tmp_path / "run", 1)
    text = (tmp_path / "run/run.json").read_text()
    for name in ("batch_size", "epochs", "seed", "window_blocks"):
        assert f'"{name}": {SETTINGS[name]}' in text
