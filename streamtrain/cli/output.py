"""What people see: JSON for programs, a few aligned lines for people."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import click


def echo_json(value: dict[str, Any]) -> None:
    """Print one JSON object on one line to stdout."""
    click.echo(json.dumps(value, allow_nan=False))


def echo_lines(rows: Iterable[tuple[str, str]]) -> None:
    """Print "name  value" lines, aligned, to stdout."""
    pairs = list(rows)
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        click.echo(f"{name:<{width}}  {value}".rstrip())


def figure(value: float | None, digits: int = 5) -> str:
    """Return a figure as a person reads it; "-" where there is none."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.{digits}g}"


def duration(seconds: float | None) -> str:
    """Return a duration: 12 s, 3 min 20 s, 2 h 05 min."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


METRICS = (
    "loss", "auc", "average_precision", "accuracy", "exact_match", "top_5_accuracy", "micro_f1",
    "macro_f1", "f1", "logloss", "brier", "ece", "deviance", "d2", "pinball", "coverage", "rmse",
    "mae", "r2",
)  # fmt: skip


def metrics_text(values: dict[str, Any], names: Iterable[str] = METRICS) -> str:
    """Return "loss 0.31  auc 0.90" of the metrics that are there."""
    return "  ".join(f"{n} {figure(values[n])}" for n in names if values.get(n) is not None)
