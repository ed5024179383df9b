import errno
import os
import subprocess
from pathlib import Path

import pytest

from streamtrain import durable
from streamtrain.errors import DiskError, OutputError


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    for data in (b"one", b"", b"x" * 100_000):
        durable.write_file(tmp_path / "f", data)
        assert (tmp_path / "f").read_bytes() == data
        assert names(tmp_path) == ["f"]


def test_debris_of_a_process_with_the_same_number_is_no_obstacle(tmp_path):
    # In a container every start may have the same process id.
    (tmp_path / f".f.{os.getpid()}.tmp").write_bytes(b"half")
    durable.write_file(tmp_path / "f", b"whole")
    assert names(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == b"whole"


@pytest.mark.parametrize("call", ["fsync", "rename"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch, call, number):
    durable.write_file(tmp_path / "f", b"old")
    calls = []

    def fails(*args):
        calls.append(args)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(*(os, "fsync") if call == "fsync" else (Path, "rename"), fails)
    with pytest.raises(DiskError) as caught:
        durable.write_file(tmp_path / "f", b"new")
    assert caught.value.where == str(tmp_path / "f")
    assert ("space" in caught.value.remedy) == (number == errno.ENOSPC)
    # A failed sync is never tried again on the same descriptor.
    assert len(calls) == 1
    assert (tmp_path / "f").read_bytes() == b"old"
    assert names(tmp_path) == ["f"]


@pytest.fixture
def full_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_the_old_file_and_no_debris(full_disk):
    durable.write_file(full_disk / "f", b"old")
    with pytest.raises(DiskError) as caught:
        durable.write_file(full_disk / "f", bytes(200_000))
    assert caught.value.exit_code == 74
    assert (full_disk / "f").read_bytes() == b"old"
    assert names(full_disk) == ["f"]


def test_a_directory_is_moved_to_its_name_and_what_is_there_is_refused(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
    durable.commit_directory(tmp_path / "first", tmp_path / "final")
    assert (tmp_path / "final/f").read_text() == "first"
    with pytest.raises(OutputError, match="exists"):
        durable.commit_directory(tmp_path / "second", tmp_path / "final")
    assert (tmp_path / "final/f").read_text() == "first"
    durable.commit_directory(tmp_path / "second", tmp_path / "final", replace=True)
    assert (tmp_path / "final/f").read_text() == "second"
    assert names(tmp_path) == ["final"]


def test_staging_debris_of_a_dead_process_goes_and_that_of_a_live_one_stays(tmp_path):
    final = tmp_path / "out*[x]"
    dead = tmp_path / ".out*[x].staging-1-dead"
    other = tmp_path / ".outer.staging-1-dead"
    for folder in (dead, other):
        folder.mkdir()
        (folder / "half").write_text("x")
    (tmp_path / ".out*[x].staging-link").symlink_to(other)
    with durable.staging_directory(final) as live:
        assert not dead.exists()
        assert other.exists()
        (live / "kept").write_text("x")
        with durable.staging_directory(final) as second:
            assert second != live
            assert (live / "kept").exists()
    assert not live.exists()
    assert not second.exists()
    assert (other / "half").exists()


def test_staging_is_removed_when_its_work_fails(tmp_path):
    with pytest.raises(ValueError, match="failed"), durable.staging_directory(tmp_path / "out"):
        raise ValueError("failed")
    assert names(tmp_path) == []


def test_a_lock_is_held_by_one_at_a_time_and_goes_with_it(tmp_path):
    path = tmp_path / "lock"
    with durable.open_lock(path) as free:
        assert free
        with durable.open_lock(path) as second:
            assert not second
    with durable.open_lock(path) as free:
        assert free


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, 74), (errno.EIO, 74), (errno.EACCES, 73), (errno.EROFS, 73),
        (errno.EEXIST, 73), (errno.ENOTDIR, 73), (errno.EPERM, 73),
    ],
)  # fmt: skip
def test_errors_of_the_system_have_their_exit_codes(number, code):
    assert durable.as_stream_error(OSError(number, "text"), "f").exit_code == code
