"""How steps get faster with threads, and where their time goes.

python -m tests.benchmarks.scaling [--counts 1,2,4] [--batch-size 1024] [--json]
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Sequence
from typing import Any

from tests.benchmarks import dlrm
from tests.benchmarks.made_rows import make_click_rows, make_numeric_rows, spaced_cardinalities
from tests.benchmarks.our_steps import OurSteps
from tests.benchmarks.steps import LR, NETWORKS, widths_of
from tests.benchmarks.turns import Turns, parser, report, say, turns

TABLES = "13 numbers + 26 categories, K 16, 256-128-1"
BATCH_SIZE = 1024
N_ROWS = 131_072
MANY_CORES = 32


def counts_here() -> list[int]:
    """Return 1, 2, 4, ... up to the cores of this process, and all of them."""
    cores = len(os.sched_getaffinity(0))
    return sorted({1 << k for k in range(cores.bit_length()) if 1 << k <= cores} | {cores})


def run(
    how: Turns,
    *,
    counts: Sequence[int] = (),
    batch_size: int = BATCH_SIZE,
    largest: int = 1_000_000,
    n_rows: int = N_ROWS,
) -> dict[str, Any]:
    """Time every network with every number of threads, in turn."""
    counts = list(counts) or counts_here()
    numeric = make_numeric_rows(n_rows, n_numeric=28)
    clicks = make_click_rows(n_rows, spaced_cardinalities(high=largest))
    found = []
    for net in (*NETWORKS, TABLES):
        made = {}
        for n in counts:
            if net == TABLES:
                made[str(n)] = dlrm.our_steps(clicks, batch_size, n)
                continue
            made[str(n)] = OurSteps(
                numeric,
                batch_size=batch_size,
                model="mlp",
                hidden=tuple(widths_of(net)[1:-1]),
                optimizer="adam",
                lr=LR,
                threads=n,
                seed=0,
            )
        rates = how.rates(made)
        found.append(
            {
                "net": net,
                "steps_per_s": {n: statistics.median(values) for n, values in rates.items()},
                "all": rates,
                "phase_seconds": {n: phases(steps) for n, steps in made.items()},
            }
        )
        say(f"{net}: {found[-1]['steps_per_s']}")
    return {
        "counts": counts,
        "batch_size": batch_size,
        "repeats": how.repeats,
        "cores": len(os.sched_getaffinity(0)),
        "networks": found,
    }


def phases(steps: OurSteps) -> dict[str, float]:
    """Return the seconds of each phase of a trainer's steps, if it keeps them."""
    kept = getattr(steps.trainer, "phase_seconds", None) or {}
    return {name: float(seconds) for name, seconds in kept.items()}


def serial_share(rates: dict[str, float]) -> float | None:
    """Return the share of a step's time that does not get shorter, by Amdahl's law.

    From one thread and the most threads measured; None with one number of threads. What
    bandwidth and barriers cost is in it: those are not constant, so it is a guide, not a law.
    """
    n = max(map(int, rates))
    if n == 1 or "1" not in rates:
        return None
    speedup = rates[str(n)] / rates["1"]
    return min(max((n / speedup - 1) / (n - 1), 0.0), 1.0)


def render(result: dict[str, Any]) -> str:
    """Return the section of the page."""
    counts = [str(n) for n in result["counts"]]
    most = counts[-1]
    heads = [f"{n} thread{'s' if n != '1' else ''}" for n in counts]
    lines = [
        f"Steps a second at batches of {result['batch_size']:,}, Adam, rows in memory, medians of "
        f"{result['repeats']}, {result['cores']} cores. Whatever their number, the threads leave "
        "the same bits.",
        "",
        f"| network | {' | '.join(heads)} | speed-up with {most} | serial share (Amdahl) | "
        f"speed-up it would allow on {MANY_CORES} cores |",
        "|---|" + "---:|" * (len(counts) + 3),
    ]
    for found in result["networks"]:
        rates = found["steps_per_s"]
        share = serial_share(rates)
        cells = [f"{rates[n]:,.0f}" for n in counts]
        cells.append(f"{rates[most] / rates[counts[0]]:.2f}")
        cells.append("" if share is None else f"{share:.1%}")
        cells.append("" if share is None else f"{1 / (share + (1 - share) / MANY_CORES):.1f}")
        lines.append(f"| {found['net']} | {' | '.join(cells)} |")
    return "\n".join([*lines, *_render_phases(result, counts)])


def _render_phases(result: dict[str, Any], counts: Sequence[str]) -> list[str]:
    names = {
        name: None
        for found in result["networks"]
        for n in counts
        for name in found["phase_seconds"][n]
    }
    if not names:
        return []
    lines = [
        "",
        f"| share of a step's time | threads | {' | '.join(names)} |",
        "|---|---:|" + "---:|" * len(names),
    ]
    for found in result["networks"]:
        for n in counts:
            seconds = found["phase_seconds"][n]
            whole = sum(seconds.values()) or 1.0
            cells = [f"{seconds.get(name, 0.0) / whole:.0%}" for name in names]
            lines.append(f"| {found['net']} | {n} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--counts", type=lambda text: [int(n) for n in text.split(",")])
    options.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    options.add_argument("--largest", type=int, default=1_000_000, help="values of a category")
    options.add_argument("--rows", type=int, default=N_ROWS)
    given = options.parse_args()
    report(given, "scaling", lambda: _run_given(given), render)


def _run_given(given: argparse.Namespace) -> dict[str, Any]:
    return run(
        turns(given),
        counts=given.counts or (),
        batch_size=given.batch_size,
        largest=given.largest,
        n_rows=given.rows,
    )


if __name__ == "__main__":
    main()
