"""What ingest says while it works and when it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Progress:
    """How far ingest is.

    Parameters
    ----------
    stage : {"read", "write"}
        Pass 1 and pass 2.
    rows : int
        Done in this stage.
    done, total : int
        Stored bytes of the sources in pass 1, rows in pass 2.
    seconds : float
        Since this stage began.
    """

    stage: str
    rows: int
    done: int
    total: int
    seconds: float


Listener = Callable[[Progress | str], None]
"""Receives progress, and messages as text."""


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """What ingest did; `as_dict` is its JSON.

    Every record that is not blank is read; rows_read = rows_written + rows_rejected.
    """

    rows_read: int
    rows_written: int
    rows_rejected: int
    rows_blank: int
    splits: dict[str, int]
    shards: int
    bytes: int
    seconds: float
    peak_rss_bytes: int
    fingerprint: str
    source_bytes: int
    target: str
    task: str
    classes: list[str]
    numeric: int
    categorical: int
    bags: int
    reasons: dict[str, int]
    pruned: dict[str, int] = field(default_factory=dict)
    targets: int = 1
    """Values of a row's target."""
    rounded: int = 0
    """Integers of arrays that float32 does not hold exactly."""
    compile_seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return asdict(self)
