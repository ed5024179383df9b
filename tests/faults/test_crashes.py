"""Killed at any system call of a commit: the previous state or the new one is there."""

import pytest

from streamtrain.durable import staging_directory, write_file
from streamtrain.train.checkpoint import Checkpoint, find_checkpoints
from tests.faults.crashing import run_and_crash

WRITE_FILE = """
durable.write_file(pathlib.Path(sys.argv[1]), b"new")
"""


def instants(body, *args_of, prepare, limit=80):
    """Yield the arguments of each crash, until one run comes to its end."""
    for crash_at in range(1, limit):
        args = prepare(crash_at)
        killed = run_and_crash(body, *args, crash_at=crash_at)
        yield killed, args
        if not killed:
            assert crash_at > 3
            return
    raise AssertionError("never came to its end")


def test_a_file_is_the_old_one_or_the_new_one(tmp_path):
    seen = set()

    def prepare(k):
        folder = tmp_path / str(k)
        folder.mkdir()
        (folder / "f").write_bytes(b"old")
        return [folder / "f"]

    for killed, (file,) in instants(WRITE_FILE, prepare=prepare):
        seen.add(file.read_bytes())
        assert killed or file.read_bytes() == b"new"
        # What a crash leaves hinders no later write.
        write_file(file, b"later")
        assert file.read_bytes() == b"later"
    assert seen == {b"old", b"new"}


REPLACE_DIRECTORY = """
final = pathlib.Path(sys.argv[1])
with durable.staging_directory(final) as staging:
    new = staging / "data"
    new.mkdir()
    for name in ("a", "b"):
        durable.write_directory_file(new / name, b"new")
    ready = final.parent / ".ready"
    new.rename(ready)
    durable.commit_directory(ready, final, replace=True)
"""


@pytest.mark.parametrize("exists", [False, True])
def test_a_directory_is_the_whole_old_one_or_the_whole_new_one(tmp_path, exists):
    seen = set()

    def prepare(k):
        folder = tmp_path / str(k)
        folder.mkdir()
        if exists:
            (folder / "out").mkdir()
            for name in ("a", "b"):
                (folder / "out" / name).write_bytes(b"old")
        return [folder / "out"]

    for _, (final,) in instants(REPLACE_DIRECTORY, prepare=prepare):
        state = "none"
        if final.exists():
            state = {(final / name).read_bytes() for name in ("a", "b")}
            assert len(state) == 1, final
            state = state.pop()
        seen.add(state)
        # The next start takes the debris of the last one away.
        with staging_directory(final):
            pass
        assert not list(final.parent.glob(".out.staging-*"))
    assert seen == {b"old" if exists else "none", b"new"}


CHECKPOINTS = """
from streamtrain.optim.optimizers import OptimizerSettings, make_rule
from streamtrain.train.checkpoint import write_checkpoint
from streamtrain.train.settings import TrainSettings
from streamtrain.train.state import Progress, TrainState
import numpy as np
rule = make_rule(OptimizerSettings(), n_parameters=9, n_dense=6, n_table_rows=3)
state = TrainState(np.zeros(9, np.float32), rule, np.zeros(0, np.float32), Progress())
for step in range(1, 5):
    state.progress.step = step
    state.parameters[:] = step
    write_checkpoint(pathlib.Path(sys.argv[1]), state, settings=TrainSettings(), fingerprint="f")
"""


@pytest.mark.parametrize("every", [3])
def test_the_last_good_checkpoint_survives_a_crash_at_any_instant(tmp_path, every):
    newest = 0
    for crash_at in range(1, 200, every):
        run = tmp_path / str(crash_at)
        run.mkdir()
        killed = run_and_crash(CHECKPOINTS, run, crash_at=crash_at)
        found = list(find_checkpoints(run))
        # All that look like checkpoints are whole, and no step is lost on the way.
        assert all(isinstance(c, Checkpoint) for c in found)
        steps = [c.header.progress.step for c in found]
        assert steps == sorted(steps, reverse=True)
        assert (steps[0] if steps else 0) >= newest
        assert len(steps) >= min(2, newest)
        newest = max(newest, steps[0] if steps else 0)
        if not killed:
            assert steps == [4, 3]
            return
    raise AssertionError("never came to its end")
