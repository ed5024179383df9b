"""Child processes that are timed, with their peak memory from the kernel's own account."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# A child of a large parent starts with the parent's ru_maxrss, so every child is started
# by a small one that execs it; VmHWM starts at 0 with the exec, but is gone with the process.
# The launcher waits with wait4, and its own image is that of a bare Python.
_LAUNCHER = """
import json, os, resource, subprocess, sys, time
started = time.perf_counter()
child = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(child.pid, 0)
seconds = time.perf_counter() - started
with open(sys.argv[1], "w") as file:
    json.dump({"code": os.waitstatus_to_exitcode(status), "seconds": seconds,
               "peak_bytes": usage.ru_maxrss * 1024,
               "user_s": usage.ru_utime, "system_s": usage.ru_stime}, file)
"""


@dataclasses.dataclass(frozen=True)
class Ended:
    """A child that ended.

    Parameters
    ----------
    code : int
        Of its exit, negative for a signal.
    seconds, user_s, system_s : float
        From start to end; of its processors.
    peak_bytes : int
        Its ru_maxrss, mapped pages included.
    stdout, stderr : str
    """

    code: int
    seconds: float
    user_s: float
    system_s: float
    peak_bytes: int
    stdout: str
    stderr: str

    def last_json(self) -> dict[str, Any]:
        """Return the object in the last line of its output."""
        return json.loads(self.stdout.strip().splitlines()[-1])

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return those objects of its output, a line each, that are events of a kind."""
        lines = [json.loads(line) for line in self.stdout.splitlines() if line.strip()]
        return [line for line in lines if line.get("event") == kind]

    def figures(self) -> dict[str, Any]:
        """Return what a table needs."""
        return {
            "seconds": self.seconds,
            "cpu_s": self.user_s + self.system_s,
            "peak_bytes": self.peak_bytes,
        }


def run_child(
    command: Sequence[str],
    *,
    environment: dict[str, str] | None = None,
    preexec: Callable[[], None] | None = None,
    check: bool = True,
) -> Ended:
    """Run a command to its end and return what it took."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "usage.json"
        done = subprocess.run(
            [sys.executable, "-S", "-E", "-c", _LAUNCHER, str(report), *command],
            capture_output=True,
            text=True,
            env=_environment() | (environment or {}),
            preexec_fn=preexec,
            check=False,
        )
        figures = json.loads(report.read_text()) if report.exists() else {}
    if check and figures.get("code") != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return Ended(
        code=figures.get("code", done.returncode),
        seconds=figures.get("seconds", 0.0),
        user_s=figures.get("user_s", 0.0),
        system_s=figures.get("system_s", 0.0),
        peak_bytes=figures.get("peak_bytes", 0),
        stdout=done.stdout,
        stderr=done.stderr,
    )


def _environment() -> dict[str, str]:
    """Return this process's environment, without what would choose a rival's BLAS for it."""
    return {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}


def python(*arguments: str, **options: Any) -> Ended:
    """Run Python with arguments as a child."""
    return run_child([sys.executable, *arguments], **options)


def streamtrain(*arguments: str, **options: Any) -> Ended:
    """Run a streamtrain command as a child, as its console script would."""
    return python("-m", "streamtrain", *arguments, **options)


def drop_caches(paths: Sequence[Path] = ()) -> str:
    """Empty the page cache, and say how: all of it as root, else of some files."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        for path in paths:
            for file in path.rglob("*") if path.is_dir() else [path]:
                if file.is_file():
                    fd = os.open(file, os.O_RDONLY)
                    try:
                        os.fsync(fd)
                        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                    finally:
                        os.close(fd)
        return "posix_fadvise(DONTNEED) on the files read"
    else:
        return "3 written to /proc/sys/vm/drop_caches"


def read_anew(paths: Sequence[Path]) -> None:
    """Put files into the page cache by reading them.

    Pages that their writer left there lie in small pieces, and are copied at half the rate.
    """
    drop_caches(paths)
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                with file.open("rb", buffering=0) as opened:
                    while opened.read(1 << 20):
                        pass


def clock(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return (seconds, result) of a call."""
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result
