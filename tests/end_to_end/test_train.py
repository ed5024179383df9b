"""Training as a process: its codes, its JSON, its signals, and being killed."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.end_to_end.command import environment, last_event, refused, run, start
from tests.made import make_dataset
from tests.reader.reading import damage

# 40,000 rows in batches of 4: 10,000 steps an epoch, some seconds of work in all.
SLOW = ["--epochs", "60", "--batch-size", "4", "--threads", "1", "--window-blocks", "8"]
SLOW += ["--memory", "1GB", "--l2", "0.001", "--checkpoint-every", "5000", "--json"]


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slow") / "ds"
    return make_dataset(folder, n_rows=40_000, block_rows=512)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("small") / "ds", n_rows=400)


def wait_for_checkpoint(process, out, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if list(out.glob("checkpoints/step-*")):
            return
        time.sleep(0.02)
    raise AssertionError(process.communicate()[1])


def test_killed_at_ten_random_moments_and_resumed_the_parameters_are_the_same(slow, tmp_path):
    started = time.monotonic()
    whole = run("train", slow, "--out", tmp_path / "whole", *SLOW)
    seconds = time.monotonic() - started
    assert whole.returncode == 0, whole.stderr
    out = tmp_path / "cut"
    moments = random.Random(7)
    kills = 0
    for _ in range(10):
        process = start("train", slow, "--out", out, "--resume", "auto", *SLOW)
        # From before its first line of code to some checkpoints further.
        time.sleep(moments.uniform(0.05, 1.0 + seconds / 8))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills == 10
    resumed = run("train", slow, "--out", out, "--resume", "auto", *SLOW)
    assert resumed.returncode == 0, resumed.stderr
    a, b = last_event(whole.stdout), last_event(resumed.stdout)
    for name in ("parameters_digest", "train", "valid", "ledger", "steps", "rows"):
        assert a[name] == b[name], name
    assert run("verify", out).returncode == 0


def test_sigterm_ends_with_75_and_a_checkpoint_within_five_seconds(slow, tmp_path):
    out = tmp_path / "run"
    process = start("train", slow, "--out", out, *SLOW)
    wait_for_checkpoint(process, out)
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)
    assert time.monotonic() - sent < 5
    assert process.returncode == 75
    error = json.loads(stderr.splitlines()[-1])["error"]
    assert error["kind"] == "stopped"
    assert "--resume auto" in error["remedy"]
    assert run("verify", out).returncode == 0


def test_one_sigint_ends_with_75(slow, tmp_path):
    process = start("train", slow, "--out", tmp_path / "once", *SLOW)
    wait_for_checkpoint(process, tmp_path / "once")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 75


def test_a_second_sigint_ends_at_once_with_130():
    # A loop that never looks at the flag, as one that is stuck.
    code = (
        "import time\n"
        "from streamtrain.cli.train import stop_on_signals\n"
        "with stop_on_signals() as stop:\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130


def test_json_lines_end_with_done_and_stdout_holds_nothing_else(dataset, tmp_path):
    done = run("train", dataset, "--out", tmp_path / "run", "--epochs", "1", "--json")
    assert done.returncode == 0
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [e["event"] for e in events] == ["start", "valid", "epoch", "checkpoint", "done"]
    keys = "steps epochs rows seconds rows_per_s peak_rss_bytes train valid parameters_digest"
    for key in (*keys.split(), "ledger", "stall", "checkpoint", "model"):
        assert key in events[-1]
    for name in ("run.json", "metrics.jsonl", "model.safetensors", "model.json", "checkpoints"):
        assert (tmp_path / "run" / name).exists()
    measured = run("evaluate", tmp_path / "run", "--split", "valid", "--json")
    report = json.loads(measured.stdout)
    assert report["loss"] == events[-1]["valid"]["loss"]
    for key in ("split", "rows", "loss", "auc", "accuracy", "logloss", "brier", "ece"):
        assert key in report
    for what in (dataset, tmp_path / "run"):
        for command in ("inspect", "verify"):
            done = run(command, what, "--json")
            assert done.returncode == 0
            assert json.loads(done.stdout)


def test_a_damaged_or_missing_model_is_told_by_inspect_and_verify(dataset, tmp_path):
    out = tmp_path / "run"
    assert run("train", dataset, "--out", out, "--epochs", "1").returncode == 0
    model, tensors = out / "model.json", out / "model.safetensors"
    whole = model.read_bytes()

    def told():
        found = {refused(run(command, out), 65) for command in ("inspect", "verify")}
        assert len(found) == 1
        return found.pop()

    for damaged in (whole[:100], b"", whole.replace(b'"steps": ', b'"steps": 1'), b"[" * 100_000):
        model.write_bytes(damaged)
        assert "model.json: damaged" in told()
    model.unlink()
    assert "model.json: missing" in told()
    model.write_bytes(whole)
    assert "present" in run("inspect", out).stdout
    tensors.rename(out / "other")
    assert "model.safetensors: missing" in told()
    (out / "other").rename(tensors)
    with tensors.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"!")
    assert "model.safetensors: does not match" in refused(run("verify", out), 65)


def test_text_goes_to_stdout_messages_to_stderr_and_no_colour_anywhere(dataset, tmp_path):
    for name, env in (("plain", {}), ("no-color", {"NO_COLOR": "1", "FORCE_COLOR": "1"})):
        done = run("train", dataset, "--out", tmp_path / name, **env)
        assert done.returncode == 0
        assert done.stdout.startswith("done: ")
        assert "epoch 1" in done.stderr
        if name == "plain":
            assert "\x1b" not in done.stdout + done.stderr


def test_options_win_over_the_configuration_file(dataset, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        'batch-size = 50\nepochs = 3\ncheckpoint-every = 2\nmemory = "1GB"\n'
        'optimizer = "adam"\nno-shuffle = true\n'
    )
    out = tmp_path / "run"
    done = run("train", dataset, "--out", out, "--config", file, "--epochs", "2", "--json")
    assert done.returncode == 0, done.stderr
    settings = json.loads((out / "run.json").read_text())["settings"]
    assert (settings["batch_size"], settings["epochs"]) == (50, 2)
    assert settings["optimizer"]["name"] == "adam"
    assert settings["shuffle"] is False
    events = [json.loads(line) for line in done.stdout.splitlines()]
    steps = [e["step"] for e in events if e["event"] == "checkpoint"]
    assert steps == [2, 4, 6, 8, 10, 12, 14, 16, 16]


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("batchsize = 5", 78, "batch_size"),
        ("batch-size = 2.5", 2, "2.5"),
        ("batch-size = -4", 2, "-4"),
        ("checkpoint-every = true", 2, "True"),
        ("memory = 0", 2, "0"),
        ("epochs = 'two'", 2, "two"),
        ("epochs = 1.5", 2, "1.5"),
        ("threads = true", 2, "True"),
        ("[train]\nepochs = 2", 78, "train"),
        ("epochs = ", 78, "TOML"),
    ],
    ids=str,
)
def test_a_configuration_file_that_cannot_work_gets_one_line(dataset, tmp_path, text, code, says):
    file = tmp_path / "run.toml"
    file.write_text(text)
    done = run("train", dataset, "--out", tmp_path / "run", "--config", file)
    assert says in refused(done, code)
    assert not (tmp_path / "run").exists()


def test_every_refusal_is_one_line_with_its_code(dataset, tmp_path):
    used, mine, broken = tmp_path / "used", tmp_path / "mine", tmp_path / "broken"
    assert run("train", dataset, "--out", used, "--max-steps", "1").returncode == 0
    mine.write_text("mine")
    shutil.copytree(dataset, broken)
    damage(broken / "train/part-00000.parquet")
    out = ["--out", tmp_path / "x"]
    table = [
        (2, ["nonsense"]),
        (2, ["train", dataset]),
        (2, ["train", dataset, *out, "--batch-size", "banana"]),
        (2, ["train", dataset, *out, "--batch-size", "\u00b2"]),
        (2, ["train", dataset, *out, "--memory", "9" * 400]),
        (2, ["train", dataset, *out, "--checkpoint-every", "0"]),
        (2, ["train", dataset, *out, "--resume", "perhaps"]),
        (65, ["train", broken, *out]),
        (65, ["train", broken, "--out", tmp_path / "y", "--io", "mmap"]),
        (65, ["verify", broken]),
        (66, ["train", tmp_path, *out]),
        (66, ["train", tmp_path / "nothing", *out]),
        (66, ["train", dataset, *out, "--config", tmp_path / "nothing.toml"]),
        (66, ["verify", tmp_path / "nothing"]),
        (66, ["inspect", tmp_path / "nothing"]),
        (66, ["evaluate", tmp_path / "nothing"]),
        (66, ["evaluate", dataset]),
        (73, ["train", dataset, "--out", used]),
        (73, ["train", dataset, "--out", mine]),
        (73, ["train", dataset, "--out", mine / "below"]),
        (78, ["train", dataset, "--out", used, "--resume", "auto", "--seed", "5"]),
        (78, ["train", dataset, *out, "--memory", "1MB"]),
        (78, ["train", dataset, *out, "--batch-size", "1000"]),
        (78, ["train", dataset, *out, "--loss", "softmax"]),
        (78, ["train", dataset, *out, "--optimizer", "adamm"]),
        (78, ["train", dataset, *out, "--lr", "nan"]),
        (78, ["train", dataset, *out, "--seed", str(1 << 64)]),
        (78, ["evaluate", used, "--split", "test"]),
        (78, ["evaluate", used, "--split", "nothing"]),
    ]  # fmt: skip
    wrong = []
    for code, args in table:
        done = run(*args)
        lines = done.stderr.splitlines()
        if "start" not in done.stdout and code == 65 and args[0] == "train":
            lines = [line for line in lines if line.startswith("streamtrain: ")]
        if done.returncode != code or len(lines) != 1 or "Traceback" in done.stderr:
            wrong.append((code, args, done.returncode, done.stderr))
    assert not wrong


def test_errors_are_json_on_stderr_if_asked(dataset, tmp_path):
    done = run("train", dataset, "--out", tmp_path / "x", "--memory", "1MB", "--json")
    assert done.returncode == 78
    error = json.loads(done.stderr)["error"]
    assert set(error) == {"kind", "message", "where", "remedy"}
    assert error["kind"] == "over_budget"
    assert done.stdout == ""


def test_a_finished_run_is_reported_again_with_exit_0(dataset, tmp_path):
    args = ["train", dataset, "--out", tmp_path / "run", "--json", "--resume", "auto"]
    first, again = run(*args), run(*args)
    assert again.returncode == 0
    a, b = last_event(first.stdout), last_event(again.stdout)
    assert a["parameters_digest"] == b["parameters_digest"]
    assert len(again.stdout.splitlines()) == 1


def test_a_reader_of_the_output_that_goes_away_is_no_bug(dataset, tmp_path):
    process = start("inspect", dataset)
    process.stdout.close()
    stderr = process.stderr.read()
    process.wait(30)
    assert "Traceback" not in stderr
    assert process.returncode in {0, 1}
    process.stderr.close()


def test_every_option_of_learning_reaches_the_record(dataset, tmp_path):
    options = {
        "optimizer": "ftrl", "lr": 0.3, "embedding-lr": 0.2, "momentum": 0.7, "beta1": 0.8,
        "beta2": 0.95, "rho": 0.9, "epsilon": 1e-6, "ftrl-beta": 0.5, "l1": 0.01, "l2": 0.02,
        "clip-value": 0.5, "clip-norm": 2.0, "schedule": "inverse-sqrt", "warmup-steps": 3,
        "decay": 0.6, "decay-steps": 7, "patience": 4, "average": "polyak",
        "average-decay": 0.9, "average-start": 0.4,
    }  # fmt: skip
    line = [word for name, value in options.items() for word in (f"--{name}", value)]
    ended = run("train", dataset, "--out", tmp_path / "run", "--epochs", "1", *line)
    assert ended.returncode == 0, ended.stderr
    settings = json.loads((tmp_path / "run/run.json").read_text())["settings"]
    optimizer = settings.pop("optimizer")
    assert optimizer.pop("name") == options.pop("optimizer")
    recorded = {k.replace("_", "-"): v for k, v in {**settings, **optimizer}.items()}
    assert {k: recorded[k] for k in options} == options
    # Nothing else of an optimizer is without an option.
    assert {k.replace("_", "-") for k in optimizer} <= set(options)


@pytest.mark.parametrize(
    ("option", "value", "near"),
    [
        ("--optimizer", "adamm", "adam"),
        ("--schedule", "one_cycle", "one-cycle"),
        ("--average", "polyac", "polyak"),
    ],
)
def test_a_name_that_is_not_there_is_answered_with_the_near_one(
    dataset, tmp_path, option, value, near
):
    line = refused(run("train", dataset, "--out", tmp_path / "run", option, value), 78)
    assert f"{option}: " in line
    assert f"did you mean '{near}'" in line
