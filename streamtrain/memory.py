"""What memory there is, what we use, and whether a plan fits.

Sizes are bytes. Resident memory counts mapped pages, as the kernel's limits do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from streamtrain.config import format_size
from streamtrain.errors import BudgetError

_DEFAULT_SHARE = 0.5
_JITTER = 8 << 20
"""By how much what is resident may differ from one run of a command to the next."""


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


def enough(budget: int, total: Callable[[int], int]) -> int:
    """Return a budget, in whole megabytes, that holds what a plan makes of it.

    Parameters
    ----------
    budget : int
        One that is too small.
    total : callable
        Bytes that the plan takes for a budget: some of its parts grow with it, up to
        some size.
    """
    while (needed := total(budget) + _JITTER) > budget:
        budget = -(-needed // 10**6) * 10**6
    return budget


def require(
    budget: int,
    parts: Mapping[str, int],
    *,
    what: str,
    instead: str = "",
    least: int | None = None,
) -> None:
    """Refuse a plan whose parts do not fit the budget, naming every part in bytes.

    Parameters
    ----------
    budget : int
    parts : mapping of str to int
    what : str
    instead : str
        What else than more memory would do.
    least : int or None
        A budget that is enough; None where no part grows with the budget.

    Raises
    ------
    BudgetError
        If the sum of `parts` is over `budget`. The memory that it tells to give is enough.
    """
    total = sum(parts.values())
    if total <= budget:
        return
    least = least or enough(budget, lambda _: total)
    give = f"give --memory {-(-least // 10**6)}MB or more"
    listed = ", ".join(f"{name} {n:,} B" for name, n in parts.items())
    raise BudgetError(
        f"{what} needs {total:,} bytes ({listed}), the budget is {budget:,} bytes "
        f"({format_size(budget)})",
        where="--memory",
        remedy=f"{instead}, or {give}" if instead else give,
        parts=dict(parts),
    )
