"""The only place with compiler options, and where compiled code is kept.

Kernels are serial ``nogil`` functions. Parallel ones are too: every thread of a
`Team` (kernels/team.py) runs the same function with its own number, and they
meet at barriers inside it. There is no ``parallel=True`` and so no threading
layer: nothing dies after a fork and nothing aborts on a second thread.

Compiled code is cached in a private directory (mode 0700) of the user's,
because Numba's cache files are pickles: whoever writes them runs code as us.
Its name holds a digest of all kernels and of where they lie, so a new version never
meets old code.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# NaN and infinity stay visible: `nnan` and `ninf` are left out, so a diverged loss is seen.
# So are `arcp` and `afn`: a function that is not inlined exists twice, in the kernel that is
# kept on disk and by itself, and which copy a process runs depends on whether it compiled or
# loaded the kernel. Where roots and quotients may be approximated the two differ by some units
# in the last place: the same command gave other bits at its first run than at its second.
FASTMATH = {"nsz", "contract", "reassoc"}


def _cache_directory() -> tuple[Path | None, str]:
    """Return (private directory or None, why there is none)."""
    base = os.environ.get("STREAMTRAIN_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    home = os.path.expanduser("~")  # noqa: PTH111 (works without a home)
    root = Path(base) if base else Path(home) / ".cache"
    # The place too: Numba keeps code by the path of its source, and what says here that
    # all is compiled must not say it of another installation's.
    digest = hashlib.blake2b(str(Path(__file__).parent).encode(), digest_size=8)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    folder = root / "streamtrain" / f"kernels-{digest.hexdigest()}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            return None, f"{folder} is not a directory of this user's"
        if stat.S_IMODE(status.st_mode) & 0o077:
            folder.chmod(0o700)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return None, f"{folder}: {error.strerror}"
    return folder, ""


CACHE_DIRECTORY, CACHE_PROBLEM = _cache_directory()
if CACHE_DIRECTORY is not None:
    os.environ["NUMBA_CACHE_DIR"] = str(CACHE_DIRECTORY)
# Numba reads its environment when it is imported, so this import comes after.
import numba  # noqa: E402
from numba.core import config, event  # noqa: E402

numba_config: Any = config
if CACHE_DIRECTORY is not None:
    numba_config.CACHE_DIR = str(CACHE_DIRECTORY)

JIT_DISABLED = bool(numba_config.DISABLE_JIT)


class _CompileClock(event.Listener):
    """Add up the seconds in which Numba compiled (loads from the cache are no compilation)."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0
        self._start = 0.0

    def on_start(self, event: Any) -> None:
        if self._depth == 0:
            self._start = time.perf_counter()
        self._depth += 1

    def on_end(self, event: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += time.perf_counter() - self._start


_CLOCK = _CompileClock()
event.register("numba:compile", _CLOCK)


def compile_seconds() -> float:
    """Return the seconds this process has spent compiling kernels."""
    return _CLOCK.seconds


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a kernel on its first call: nogil, cached, exact floating point order."""
    return _compiled(function, fastmath=False)


def fast_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a kernel whose sums the compiler may reorder (never per thread count)."""
    return _compiled(function, fastmath=FASTMATH)


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a helper that kernels call, with the options of `fast_kernel`."""
    compiled: Callable[..., Any] = numba.njit(nogil=True, fastmath=FASTMATH, error_model="numpy")(
        function
    )
    return compiled


def inline_exact(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a helper whose operations keep their order: fused multiply-adds at most."""
    compiled: Callable[..., Any] = numba.njit(
        nogil=True, fastmath={"contract"}, error_model="numpy"
    )(function)
    return compiled


def _compiled(function: Callable[..., Any], *, fastmath: Any) -> Callable[..., Any]:
    compiled: Callable[..., Any] = numba.njit(
        nogil=True,
        cache=CACHE_DIRECTORY is not None,
        fastmath=fastmath,
        error_model="numpy",
        boundscheck=False,
    )(function)
    return compiled
