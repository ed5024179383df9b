"""Compile kernels in a process of their own, so that the compiler's memory goes with it.

LLVM keeps tens of megabytes for good: a first run under a tight budget would be
refused where the second is accepted. The child fills the private cache; this
process then loads from it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from streamtrain.kernels._jit import CACHE_DIRECTORY, JIT_DISABLED

_LIMIT_S = 600


def compile_apart(module: str, argument: str) -> float:
    """Run ``python -m module argument`` if the cache has not seen it; return the seconds.

    Parameters
    ----------
    module : str
        Compiles kernels when it is run.
    argument : str
        Which ones, in letters and hyphens.

    Notes
    -----
    Without a cache, or if the child fails, nothing is lost: the kernels are
    compiled here when they are first called.
    """
    if CACHE_DIRECTORY is None or JIT_DISABLED:
        return 0.0
    marker = CACHE_DIRECTORY / f"{module}-{argument}.compiled"
    if marker.exists():
        return 0.0
    started = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    try:
        child = subprocess.run(
            # -P: nothing in the directory that the user happens to stand in is a module of ours.
            [sys.executable, "-P", "-m", module, argument],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LIMIT_S,
            check=False,
        )
        if child.returncode == 0:
            marker.touch()
    except (OSError, subprocess.TimeoutExpired):
        pass
    return time.perf_counter() - started
