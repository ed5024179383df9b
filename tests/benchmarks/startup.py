"""Start-up: help, a warm train to its first batch, and a cold one."""

from __future__ import annotations

import json
import statistics
import tempfile
from typing import Any

from tests.benchmarks.bench import THREADS, Bench
from tests.benchmarks.child import Ended, python, streamtrain

STARTS = 10


def run(bench: Bench) -> dict[str, Any]:
    """Return seconds of each start."""
    bare, shown = [], []
    for _ in range(STARTS):
        bare.append(python("-c", "pass").seconds)
        shown.append(streamtrain("--help").seconds)
    dataset = bench.dataset()

    def train(cache: str | None = None) -> dict[str, Any]:
        out = bench.fresh("run-start")
        environment = {} if cache is None else {"STREAMTRAIN_CACHE_DIR": cache}
        done = streamtrain(
            "train", str(dataset), "--out", str(out), "--threads", str(THREADS), "--json",
            environment=environment,
        )  # fmt: skip
        return first_batch(done)

    train()  # compiles, where no compiled kernels are kept yet
    warm = [train() for _ in range(bench.repeats)]
    cold = []
    for _ in range(bench.repeats):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(train(cache))
    return {"bare": bare, "help": shown, "warm": warm, "cold": cold}


def first_batch(done: Ended) -> dict[str, Any]:
    """Return seconds from the process's start to the end of its first batch.

    The whole process without what came after that: training from its first batch on, and the
    interpreter's end (counted in, being small).
    """
    events = [json.loads(line) for line in done.stdout.splitlines()]
    end = events[-1]
    start = next(event for event in events if event["event"] == "start")
    return {
        "first_batch_s": done.seconds - end["seconds"] + end["first_batch_s"],
        "compile_s": end["compile_s"],
        "load_s": start["load_s"],
        "process_s": done.seconds,
    }


def render(result: dict[str, Any]) -> str:
    """Return the section of the page."""
    bare, shown = statistics.median(result["bare"]), statistics.median(result["help"])
    lines = [
        "| | seconds | goal |",
        "|---|---:|---:|",
        f"| bare Python | {bare:.3f} | |",
        f"| `streamtrain --help` less bare Python (medians of {len(result['bare'])}) | "
        f"{shown - bare:.3f} | 0.15 |",
    ]
    for name, goal in (("warm", 2), ("cold", 30)):
        runs = result[name]
        first, load, compiled = (
            statistics.median(run[key] for run in runs)
            for key in ("first_batch_s", "load_s", "compile_s")
        )
        what = "compiled kernels kept" if name == "warm" else "an empty STREAMTRAIN_CACHE_DIR"
        lines.append(
            f"| `train` to its first batch, {what} (stated compile time {compiled:.2f} s, kernels "
            f"ready after {load:.2f} s of that) | {first:.2f} | {goal} |"
        )
    return "\n".join(lines)
