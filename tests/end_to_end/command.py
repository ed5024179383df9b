"""The command line as people run it: another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def environment(**extra):
    return {**os.environ, "PYTHONPATH": str(ROOT), **extra}


def words(*args):
    return [sys.executable, "-m", "streamtrain", *map(str, args)]


def run(*args, stdin="", **env):
    """Run a command to its end."""
    return subprocess.run(
        words(*args),
        env=environment(**env),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tempfile.gettempdir(),
    )


def start(*args, **env):
    """Start a command and leave it running."""
    return subprocess.Popen(
        words(*args),
        env=environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tempfile.gettempdir(),
    )


def last_event(text):
    return json.loads(text.strip().splitlines()[-1])


def refused(done, code):
    """Check an error: its code, one line on stderr, nothing on stdout, no traceback."""
    assert done.returncode == code, (done.returncode, done.stderr)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("streamtrain: ")
    return lines[0]
