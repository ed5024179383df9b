"""How far an ingest or an adoption is, and what it did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamtrain.cli.output import duration, echo_json
from streamtrain.cli.progress import Progress
from streamtrain.config import format_size

if TYPE_CHECKING:
    from data_tools.report import IngestReport, Listener
    from data_tools.report import Progress as Done


def run_and_show(run: Callable[[Listener], IngestReport], out: Path, *, as_json: bool) -> None:
    """Show progress while `run` works, then its report."""
    with Progress() as progress:

        def listen(event: Done | str) -> None:
            if isinstance(event, str):
                progress.say(event)
            else:
                progress.update(event.done / max(event.total, 1), progress_line(event))

        report = run(listen)
    if as_json:
        echo_json(report.as_dict())
    else:
        click.echo(summary(report, out))


def progress_line(event: Done) -> str:
    """Return how far an ingest is, for people."""
    seconds = max(event.seconds, 1e-9)
    share = event.done / max(event.total, 1)
    left = seconds * (1 / share - 1) if share > 0 else 0.0
    speed = f"{event.rows / seconds:,.0f} rows/s"
    if event.stage == "read":
        speed = f"{event.done / seconds / 1e6:,.0f} MB/s, {speed}"
    name = "reading" if event.stage == "read" else "writing"
    return f"{name}  {event.rows:,} rows  {speed}  {duration(left)} left"


def summary(report: IngestReport, out: Path) -> str:
    """Return what an ingest did, for people."""
    splits = ", ".join(f"{name} {n:,}" for name, n in report.splits.items())
    task = report.task
    if report.targets > 1:
        task += (
            f" of {report.targets:,} values" if task == "regression" else f", {report.targets:,}"
        )
    if report.classes:
        shown = ", ".join(report.classes[:8]) + (", ..." if len(report.classes) > 8 else "")
        task += f", {len(report.classes)} classes: {shown}"
        if report.task == "binary":
            task += f" (positive: {report.classes[-1]})"
    lines = [
        f"{report.rows_read:,} rows read = {report.rows_written:,} written + "
        f"{report.rows_rejected:,} rejected; {report.rows_blank:,} blank lines",
    ]
    lines += [f"  rejected: {n:,} {reason}" for reason, n in report.reasons.items()]
    if report.rows_rejected:
        lines.append(f"  kept in {out}/rejected/")
    lines += [
        f"columns  {report.numeric} numeric, {report.categorical} categorical"
        + (f", {report.bags} of text or lists" if report.bags else ""),
        f"target   {report.target}: {task}",
        f"splits   {splits}",
    ]
    lines += [
        f"pruned   {name}: categories seen at most {floor} times may count as rare (--memory)"
        for name, floor in report.pruned.items()
    ]
    if report.rounded:
        lines.append(f"rounded  {report.rounded:,} integers that float32 does not hold exactly")
    rate = report.source_bytes / max(report.seconds, 1e-9) / 1e6
    lines += [
        f"dataset  {out}: {report.shards} shards, {format_size(report.bytes)}, "
        f"fingerprint {report.fingerprint}",
        f"took     {report.seconds:.1f} s ({rate:,.0f} MB/s), peak memory "
        f"{format_size(report.peak_rss_bytes)}",
    ]
    return "\n".join(lines)
