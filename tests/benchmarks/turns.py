"""Contenders that take their turns in one process: what every benchmark of networks shares."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from tests.benchmarks.bench import THREADS, load_average
from tests.benchmarks.machine import describe_machine

OURS = "streamtrain"


class Steps(Protocol):
    """Something that takes steps of training, wherever it stands in its rows."""

    def __call__(self, n_steps: int) -> None:
        """Take so many steps, and return when the last one is done."""


@dataclasses.dataclass(frozen=True)
class Turns:
    """How contenders are timed.

    Parameters
    ----------
    threads : int
        Of every contender, set explicitly.
    repeats : int
        Turns of each; tables show their median.
    min_s : float
        Seconds a turn takes at least.
    compile : tuple of str
        Ways of `torch.compile` to try beside eager mode.
    """

    threads: int = THREADS
    repeats: int = 5
    min_s: float = 0.5
    compile: tuple[str, ...] = ()

    def rates(self, contenders: Mapping[str, Steps]) -> dict[str, list[float]]:
        """Return steps a second of each contender in each of its turns.

        First each warms up and finds the steps that fill a turn; then they go A, B, C, B, C, A,
        C, A, B, ...: none always follows the same one.
        """
        n_steps = {name: steps_of_a_turn(run, self.min_s) for name, run in contenders.items()}
        found: dict[str, list[float]] = {name: [] for name in contenders}
        order = list(contenders)
        for _ in range(self.repeats):
            for name in order:
                started = time.perf_counter()
                contenders[name](n_steps[name])
                found[name].append(n_steps[name] / (time.perf_counter() - started))
            order = order[1:] + order[:1]
        return found


def steps_of_a_turn(run: Steps, min_s: float) -> int:
    """Return the steps that take at least `min_s`; the first ones, not counted, warm up."""
    run(3)
    n_steps = 2
    while True:
        started = time.perf_counter()
        run(n_steps)
        seconds = time.perf_counter() - started
        if seconds >= min_s:
            return n_steps
        n_steps = max(2 * n_steps, math.ceil(1.15 * n_steps * min_s / max(seconds, 1e-9)))


def best_rival(rates: Mapping[str, list[float]]) -> str:
    """Return the rival of the highest median rate."""
    rivals = [name for name in rates if name != OURS]
    return max(rivals, key=lambda name: statistics.median(rates[name]))


def ratio(rates: Mapping[str, list[float]], rival: str) -> float:
    """Return how many times as fast as a rival ours is: the median over the pairs of turns."""
    pairs = zip(rates[OURS], rates[rival], strict=True)
    return statistics.median(ours / theirs for ours, theirs in pairs)


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that all have."""
    made = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    made.add_argument("--threads", type=int, default=THREADS, help="of every contender")
    made.add_argument("--repeats", type=int, default=5, help="turns of each; medians are shown")
    made.add_argument("--min-seconds", type=float, default=0.5, help="that a turn takes at least")
    made.add_argument(
        "--compile",
        default="default,wrapper",
        metavar="WAYS",
        help="ways of torch.compile beside eager: default, wrapper (C++), autotune",
    )
    made.add_argument("--no-compile", action="store_true", help="PyTorch in eager mode alone")
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def turns(given: argparse.Namespace) -> Turns:
    """Return what the options say."""
    ways = () if given.no_compile else tuple(way for way in given.compile.split(",") if way)
    return Turns(given.threads, given.repeats, given.min_seconds, ways)


def report(given: argparse.Namespace, name: str, run: Callable[[], Any], render: Any) -> None:
    """Run a benchmark and print its result, as JSON or as Markdown."""
    kept = keep(name, run)
    if given.json:
        print(json.dumps(kept))
        return
    print(render(kept["result"]), "", footer(kept), sep="\n")


def keep(name: str, run: Callable[[], Any]) -> dict[str, Any]:
    """Return a benchmark's result with what it was measured on."""
    started, load = time.perf_counter(), load_average()
    result = run()
    return {
        "name": name,
        "date": time.strftime("%Y-%m-%d"),
        "load_before": load,
        "load_after": load_average(),
        "seconds": time.perf_counter() - started,
        "machine": describe_machine(Path.cwd()),
        "result": result,
    }


def footer(kept: dict[str, Any]) -> str:
    """Return the line under a table: machine, versions, load."""
    machine = kept["machine"]
    packages = ", ".join(
        f"{name} {version}"
        for name, version in machine["packages"].items()
        if version != "not installed"
    )
    return (
        f"*{kept['date']}; {machine['cpu']}, {machine['cores']} cores; Python "
        f"{machine['python']}, {packages}; load of the machine {kept['load_before']:.1f} before, "
        f"{kept['load_after']:.1f} after (the benchmark's own included).*"
    )


def say(text: str) -> None:
    """Tell of progress on stderr."""
    print(f"[{time.strftime('%H:%M:%S')}, load {os.getloadavg()[0]:.1f}] {text}", file=sys.stderr)
    sys.stderr.flush()
