"""What memory there is, what we use, and whether a plan fits.

Sizes are bytes. Resident memory counts mapped pages, as the kernel's limits do.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from streamtrain.config import format_size
from streamtrain.errors import BudgetError

_DEFAULT_SHARE = 0.5


def _status(field: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:  # noqa: PTH123 (procfs)
        for line in file:
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return 0


def resident_bytes() -> int:
    """Return the resident memory of this process now."""
    return _status("VmRSS:")


def peak_resident_bytes() -> int:
    """Return the peak resident memory of this process.

    VmHWM, not ru_maxrss: the latter inherits the parent's peak over fork and exec.
    """
    return _status("VmHWM:")


def _cgroup_limits() -> list[int]:
    limits = []
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, name = Path("/sys/fs/cgroup"), "memory.max"
        elif "memory" in controllers.split(","):
            base, name = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        else:
            continue
        # A limit of any parent binds too; inside a container the path may be the host's.
        folder = base / path.lstrip("/")
        for candidate in [folder, *folder.parents]:
            try:
                text = (candidate / name).read_text(encoding="ascii").strip()
            except OSError:
                continue
            if text.isdigit():
                limits.append(int(text))
            if candidate == base:
                break
    return limits


def available_bytes() -> int:
    """Return the memory that the machine and the control groups allow this process."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_cgroup_limits()])


def default_budget() -> int:
    """Return the budget used where --memory is not given: half of what there is."""
    return int(available_bytes() * _DEFAULT_SHARE)


def require(budget: int, parts: Mapping[str, int], *, remedy: str, what: str) -> None:
    """Refuse a plan whose parts do not fit the budget, naming every part in bytes.

    Raises
    ------
    BudgetError
        If the sum of `parts` is over `budget`.
    """
    total = sum(parts.values())
    if total <= budget:
        return
    listed = ", ".join(f"{name} {n:,} B" for name, n in parts.items())
    raise BudgetError(
        f"{what} needs {total:,} bytes ({listed}), the budget is {budget:,} bytes "
        f"({format_size(budget)})",
        where="--memory",
        remedy=remedy,
        parts=dict(parts),
    )
