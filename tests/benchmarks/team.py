"""A barrier of the team against a parallel region of Numba's, idle and with a third thread busy."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.benchmarks.bench import THREADS, Bench
from tests.benchmarks.child import python

LAYERS = ("omp", "workqueue")
TASKS = 16
WORK = (0, 2_000)
PHASES = 20_000


def run(bench: Bench) -> dict[str, Any]:
    """Return microseconds of a phase for the team and for each threading layer."""
    found: dict[str, Any] = {}
    for layer in LAYERS:
        done = python(
            "-m", "tests.benchmarks.team", str(bench.repeats),
            environment={
                "NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": str(THREADS),
                "OMP_NUM_THREADS": str(THREADS),
            },
            check=False,
        )  # fmt: skip
        if done.code == 0:
            found[layer] = done.last_json()
        else:
            found[layer] = {"failed": (done.stderr.strip().splitlines() or ["?"])[-1]}
    return found


def main() -> None:
    """Measure in this process, whose environment names the threading layer."""
    from numba import njit, prange

    from streamtrain.kernels._jit import FASTMATH, inline
    from streamtrain.kernels.team import Team, barrier, next_task

    @inline
    def task(sums, number, n):
        x = sums[number]
        for k in range(n):
            x = x * 0.999 + k
        sums[number] = x

    def team_phases(thread, n_threads, words, sums, n, phases):
        barrier(words, n_threads)
        for _ in range(phases):
            while True:
                number = next_task(words, n_threads)
                if number >= TASKS:
                    break
                task(sums, number, n)
            barrier(words, n_threads)

    @njit(parallel=True, nogil=True)
    def prange_phases(sums, n, phases):
        for _ in range(phases):
            for number in prange(TASKS):
                task(sums, number, n)

    @njit(nogil=True)
    def serial_phases(sums, n, phases):
        for _ in range(phases):
            for number in range(TASKS):
                task(sums, number, n)

    @njit(nogil=True)
    def spin(flag, sums):
        while flag[0] == 0:
            sums[0] = sums[0] * 0.999 + 1.0
        return sums[0]

    # As our kernels are compiled, but not kept on disk.
    phases_of_team = njit(nogil=True, fastmath=FASTMATH, error_model="numpy")(team_phases)
    team = Team(THREADS)
    sums = np.zeros((TASKS, 8))[:, 0].copy()
    ways: dict[str, Callable[[int, int], Any]] = {
        "team": lambda n, phases: team.run(phases_of_team, sums, n, phases),
        "prange": lambda n, phases: prange_phases(sums, n, phases),
        "serial": lambda n, phases: serial_phases(sums, n, phases),
    }
    flag, own = np.zeros(1, np.int64), np.zeros(1)
    flag[0] = 1
    spin(flag, own)
    for way in ways.values():
        way(0, 1)
    found: dict[str, dict[str, float]] = {}
    for state in ("idle", "busy"):
        flag[0] = 0
        rival = threading.Thread(target=spin, args=(flag, own))
        if state == "busy":
            rival.start()
        for n in WORK:
            phases = PHASES if n == 0 else PHASES // 10
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(int(sys.argv[1])):
                for name, way in ways.items():
                    started = time.perf_counter()
                    way(n, phases)
                    times[name].append((time.perf_counter() - started) / phases * 1e6)
            found[f"{state}, {n}"] = {k: float(np.median(v)) for k, v in times.items()}
        flag[0] = 1
        if state == "busy":
            rival.join()
    print(json.dumps(found))


def render(result: dict[str, Any]) -> str:
    """Return the section of the page."""
    lines = [
        f"Microseconds of one phase of {TASKS} tasks, {THREADS} threads, many phases in one call. "
        "Busy: one more thread of the process computes all the time, as a reader does. An empty "
        f"task shows the cost of meeting; a task of {WORK[1]} multiply-adds what is left of it "
        "beside work.",
        "",
        "| | tasks | team | prange | serial | prange / team |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for layer, cases in result.items():
        if "failed" in cases:
            lines.append(f"| {layer} | not available: {cases['failed']} | | | | |")
            continue
        for case, found in cases.items():
            state, work = case.split(", ")
            what = "empty" if work == "0" else f"{work} steps"
            lines.append(
                f"| {layer}, {state} | {what} | {found['team']:.2f} | {found['prange']:.2f} | "
                f"{found['serial']:.2f} | {found['prange'] / found['team']:.1f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
