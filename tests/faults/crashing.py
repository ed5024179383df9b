"""A child process that ends at the n-th system call of a commit, as a power cut would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

CALLS = ("open", "write", "fsync", "rename", "exchange", "rmtree")

_PRELUDE = """
import builtins, io, os, shutil, signal, sys, pathlib
left = {crash_at}
def counted(function):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call
os.fsync = counted(os.fsync)
os.rename = counted(os.rename)
os.replace = counted(os.replace)
os.unlink = counted(os.unlink)
os.rmdir = counted(os.rmdir)
os.mkdir = counted(os.mkdir)
pathlib.Path.rename = counted(pathlib.Path.rename)
pathlib.Path.open = counted(pathlib.Path.open)
from streamtrain import durable
durable._rename2 = counted(durable._rename2)
"""


def run_and_crash(body, *args, crash_at):
    """Run `body` with sys.argv[1:] = args in a child; return True if it was killed."""
    code = _PRELUDE.format(crash_at=crash_at) + textwrap.dedent(body)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, args)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p or "." for p in sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode == -signal.SIGKILL:
        return True
    assert done.returncode == 0, done.stderr
    return False
