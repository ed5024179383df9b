"""The only module that commits anything to disk.

A commit writes a temporary name in the same directory, syncs the file, renames
it, and syncs the directory, so that a crash at any instant leaves the previous
state or the new one. An fsync that failed is never retried on the same
descriptor (the kernel may have dropped the dirty pages and the error with
them): the caller writes a new file.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from streamtrain.errors import DiskError, NoInputError, OutputError, StreamtrainError

_REFUSALS = frozenset({
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG,
})  # fmt: skip
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
_AT_FDCWD = -100


def as_stream_error(error: OSError, path: Path | str) -> StreamtrainError:
    """Return the error of section 12 for a failed write or read of `path`."""
    text = error.strerror or str(error)
    if error.errno in _REFUSALS:
        return OutputError(f"cannot create: {text}", where=str(path))
    remedy = "free some space and run it again" if error.errno == errno.ENOSPC else ""
    return DiskError(text, where=str(path), remedy=remedy)


def as_read_error(error: OSError, path: Path | str) -> StreamtrainError:
    """Return the error for an input that cannot be read, or is not there any more."""
    text = error.strerror or str(error)
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return NoInputError("no such file", where=str(path))
    if error.errno in {errno.EACCES, errno.EPERM}:
        return NoInputError(f"cannot be read: {text}", where=str(path))
    return DiskError(text, where=str(path))


def as_foreign_error(error: Exception, path: Path | str) -> StreamtrainError:
    """Return the error for a failed write by a library that says why in words alone."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    if number is None:
        return DiskError(str(error), where=str(path))
    code = int(number[1])
    return as_stream_error(OSError(code, os.strerror(code)), path)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    """Make the bytes of a finished file durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_file(path: Path, data: bytes | memoryview) -> None:
    """Replace `path` by `data` in one durable commit.

    Raises
    ------
    DiskError, OutputError
        If the disk is full, fails, or refuses; `path` is then as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # In a container every start may have the process id of the one that crashed.
        temporary.unlink(missing_ok=True)
        with temporary.open("xb", buffering=0) as file:
            view = memoryview(data).cast("B")
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
        temporary.rename(path)
        sync_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise as_stream_error(error, path) from error


def write_directory_file(path: Path, data: bytes | memoryview) -> None:
    """Write and sync a file inside a directory that is not yet committed."""
    try:
        with path.open("xb", buffering=0) as file:
            view = memoryview(data).cast("B")
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
    except OSError as error:
        raise as_stream_error(error, path) from error


def _rename2(old: Path, new: Path, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    code = libc.renameat2(
        _AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), ctypes.c_uint(flags)
    )
    if code != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(new))


def commit_directory(temporary: Path, final: Path, *, replace: bool = False) -> None:
    """Give a finished directory its final name, durably and at once.

    Parameters
    ----------
    temporary, final : Path
        In the same parent. Every file in `temporary` has been synced.
    replace : bool
        Swap with an existing `final` and remove the old one; otherwise an
        existing `final` that is not an empty directory is refused.

    Raises
    ------
    OutputError
        If `final` exists and `replace` is false.
    DiskError
        If the disk fails.
    """
    try:
        for folder, _, _ in os.walk(temporary):
            sync_directory(Path(folder))
        if replace and final.exists():
            _rename2(temporary, final, _RENAME_EXCHANGE)
            sync_directory(final.parent)
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.rename(final)  # onto nothing, or onto an empty directory
        sync_directory(final.parent)
    except OSError as error:
        if error.errno in {errno.EEXIST, errno.ENOTEMPTY}:
            raise OutputError("exists already", where=str(final)) from error
        raise as_stream_error(error, final) from error


@contextlib.contextmanager
def open_lock(path: Path) -> Iterator[bool]:
    """Hold an exclusive lock on `path`; yield whether it was free.

    The lock is the kernel's: it goes with the process, however that ends.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise as_stream_error(error, path) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


@contextlib.contextmanager
def staging_directory(final: Path) -> Iterator[Path]:
    """Yield a new hidden directory beside `final`, removed on any way out.

    Staging directories of `final` that a killed process left (their lock is
    free) are removed first, so debris never outlives the next start.
    """
    parent, prefix = final.parent, f".{final.name}.staging-"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for old in parent.glob(f"{_glob_escape(prefix)}*"):
            if old.is_symlink() or not old.is_dir():
                continue
            with open_lock(old / "lock") as free:
                if free:
                    shutil.rmtree(old, ignore_errors=True)
        folder = parent / f"{prefix}{os.getpid()}-{os.urandom(4).hex()}"
        folder.mkdir()
    except OSError as error:
        raise as_stream_error(error, final) from error
    with open_lock(folder / "lock"):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _glob_escape(text: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)
