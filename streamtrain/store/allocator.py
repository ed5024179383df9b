"""Allocators that give memory back: what a bound on resident memory needs."""

from __future__ import annotations

import ctypes

import pyarrow as pa

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def tame_allocators() -> None:
    """Make Arrow allocate from the system, and glibc return large blocks at once.

    Arrow's own pool kept 120 MB more in a process that writes CSV; with glibc's
    defaults every thread has an arena of its own. Elsewhere than on glibc only
    the first is done.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 2)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 20)
    except (OSError, AttributeError):
        return
