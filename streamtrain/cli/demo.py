"""The demo command: every step of the main job, as the commands that people type."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

import click

from streamtrain.cli.output import duration, echo_json, echo_lines, figure
from streamtrain.cli.values import SIZE, json_option
from streamtrain.config import format_size, parse_size
from streamtrain.errors import DiskError, OutputError, StreamtrainError

_ROWS = 4_100_000
_MEMORY = parse_size("360MB")
# Bytes of disk for a row: its text, its partition and its shard, with some to spare.
_DISK_BYTES_PER_ROW = 680


@click.command(short_help="Run the whole job on made data with a known optimum.")
@click.option(
    "--rows",
    type=click.IntRange(min=1000),
    default=_ROWS,
    show_default=True,
    help="Rows of the click log; 268 bytes each.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    show_default="a temporary directory, removed at the end",
    help="Directory to keep the data and the run in.",
)
@click.option(
    "--memory",
    type=SIZE,
    default=_MEMORY,
    show_default="360MB",
    metavar="SIZE",
    help="Bound on the resident memory of every step.",
)
@click.option(
    "--epochs", type=int, default=1, show_default=True, help="Passes over the train split."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the click log.")
@json_option
def demo(
    *, rows: int, out: Path | None, memory: int, epochs: int, seed: int, as_json: bool
) -> None:
    """Write a click log of a known process, ingest it, train, and evaluate.

    The loss reached stands beside the best that any model could reach, because
    the process that made the clicks is known.

    \b
    Example:
        streamtrain demo
        streamtrain demo --rows 500000 --out demo
    """  # fmt: skip
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(
            "exists already", where=str(out), remedy="choose another directory, or remove it"
        )
    folder = Path(tempfile.mkdtemp(prefix="streamtrain-demo-")) if out is None else out
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _require_space(folder, rows)
        report = _run_all(folder, rows, memory, epochs, seed)
    finally:
        if out is None:
            shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        echo_json(report)
        return
    click.echo()
    excess = report["loss"] / report["best_possible_loss"] - 1
    echo_lines(
        [
            ("click log", f"{rows:,} rows, {format_size(report['csv_bytes'])}, "
             f"{report['csv_bytes'] / memory:.1f}x the memory limit"),
            ("ingest", f"{report['ingest']['rows_per_s']:,.0f} rows/s, "
             f"{duration(report['ingest']['seconds'])}"),
            ("train", f"{report['train']['rows_per_s']:,.0f} rows/s, "
             f"{duration(report['train']['seconds'])}"),
            ("test loss", f"{figure(report['loss'])}; the best possible is "
             f"{figure(report['best_possible_loss'])} (+{excess:.1%})"),
            ("test auc", figure(report["auc"])),
            ("peak memory", f"{format_size(report['peak_rss_bytes'])} of "
             f"{format_size(memory)} allowed"),
            ("whole demo", duration(report["seconds"])),
        ]
    )  # fmt: skip
    if out is not None:
        click.echo(f"kept in {out}")


def _require_space(folder: Path, rows: int) -> None:
    free, needed = shutil.disk_usage(folder).free, rows * _DISK_BYTES_PER_ROW
    if free < needed:
        raise DiskError(
            f"the demo needs {format_size(needed)} of disk, {format_size(free)} are free",
            where=str(folder),
            remedy="give fewer --rows, or --out on another disk",
        )


def _run_all(folder: Path, rows: int, memory: int, epochs: int, seed: int) -> dict[str, Any]:
    started = time.monotonic()
    source, dataset, run = folder / "clicks.csv", folder / "clicks", folder / "run"
    limit = ["--memory", str(memory)]
    log = _step(
        "data_tools.clicklog", [str(source), "--rows", str(rows), "--seed", str(seed)],
        shown=f"writing {rows:,} rows of a click log",
    )  # fmt: skip
    ingest = _step(
        "streamtrain", ["ingest", str(source), "--out", str(dataset), "--target", "click", *limit]
    )
    train = _step(
        "streamtrain",
        ["train", str(dataset), "--out", str(run), "--epochs", str(epochs), *limit],
    )
    evaluation = _step("streamtrain", ["evaluate", str(run), "--split", "test", *limit])
    return {
        **train,
        **evaluation,
        "best_possible_loss": log["best_possible_loss"],
        "csv_bytes": log["csv_bytes"],
        "memory_bytes": memory,
        "peak_rss_bytes": max(ingest["peak_rss_bytes"], train["peak_rss_bytes"]),
        "ingest": {**ingest, "rows_per_s": ingest["rows_read"] / ingest["seconds"]},
        "train": {**train["train"], "rows_per_s": train["rows_per_s"], "seconds": train["seconds"]},
        "seconds": time.monotonic() - started,
    }


def _step(module: str, arguments: list[str], *, shown: str | None = None) -> dict[str, Any]:
    """Run one step in a process of its own, so that each has its own memory bound."""
    text = shown or f"streamtrain {shlex.join(arguments)}"
    click.echo(f"$ {text}" if shown is None else text, err=True)
    if module == "streamtrain":
        arguments = [*arguments, "--json"]
    with subprocess.Popen(
        # The modules of this process, and none of the directory it was started in.
        [sys.executable, "-P", "-m", module, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            last = ""
            for line in process.stdout:
                last = line
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        _fail(process.returncode)
    result: dict[str, Any] = json.loads(last)
    return result


def _fail(code: int) -> NoReturn:
    error = StreamtrainError("a step of the demo failed, see above", where="demo")
    error.exit_code = code if code > 0 else 128 - code
    raise error
