"""Steps of training against PyTorch's, on batches in memory.

    python -m tests.benchmarks.steps [--nets 28-64-64-1,...] [--batch-sizes 128,256] [--json]

The better of PyTorch's eager mode and `torch.compile` counts in every cell.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from typing import Any

from tests.benchmarks.made_rows import MadeRows, log_loss, make_numeric_rows
from tests.benchmarks.turns import OURS, Turns, best_rival, parser, ratio, report, say, turns

NETWORKS = ("28-64-64-1", "28-256-256-1", "28-512-512-512-1")
BATCH_SIZES = (128, 256, 1024, 8192)
N_ROWS = 131_072
LR = 1e-3


def goal(net: str, batch_size: int) -> float | None:
    """Return how many times PyTorch's speed a cell should have."""
    if net == NETWORKS[0]:
        return 3.0 if batch_size <= 256 else 1.5
    return {NETWORKS[1]: 1.2, NETWORKS[2]: 1.0}.get(net)


def widths_of(net: str) -> list[int]:
    """Return the widths in a name like 28-64-64-1."""
    return [int(width) for width in net.split("-")]


def flops_of_row(widths: Sequence[int]) -> int:
    """Return the operations that a row's forward and backward products need.

    2 for each weight forward, 2 for its gradient, 2 for the gradient of its input, which the
    first layer has no use for.
    """
    products = [widths[k] * widths[k + 1] for k in range(len(widths) - 1)]
    return 6 * sum(products) - 2 * products[0]


def run(
    how: Turns,
    *,
    nets: Sequence[str] = NETWORKS,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    n_rows: int = N_ROWS,
) -> dict[str, Any]:
    """Time every network at every batch size."""
    from tests.benchmarks.torch_rival import sgemm_gflops

    rows = make_numeric_rows(n_rows, n_numeric=28)
    peaks = {str(n): sgemm_gflops(n) for n in sorted({1, how.threads})}
    cells = []
    for net in nets:
        for batch_size in batch_sizes:
            cells.append(_cell(how, rows, net, batch_size))
            say(_summary(cells[-1]))
    return {
        "threads": how.threads,
        "repeats": how.repeats,
        "min_s": how.min_s,
        "sgemm_gflops": peaks,
        "cells": cells,
    }


def _cell(how: Turns, rows: MadeRows, net: str, batch_size: int) -> dict[str, Any]:
    from tests.benchmarks import torch_rival as rival
    from tests.benchmarks.our_steps import OurSteps

    widths = widths_of(net)
    made: dict[str, Any] = {
        OURS: OurSteps(
            rows,
            batch_size=batch_size,
            model="mlp",
            hidden=tuple(widths[1:-1]),
            optimizer="adam",
            lr=LR,
            threads=how.threads,
            seed=0,
        )
    }
    rival.forget_compiled()
    for way in (None, *how.compile):
        name = rival.EAGER if way is None else rival.way_name(way)
        made[name] = rival.TorchNetwork(
            rows, widths, batch_size=batch_size, threads=how.threads, lr=LR, way=way
        )
    rates = how.rates(made)
    sample = rows.slice(0, min(len(rows), 8192))
    losses = {name: log_loss(sample.target, steps.predict(sample)) for name, steps in made.items()}
    # All of them train: one that does not is not timed at the same work.
    assert all(loss < math.log(2) for loss in losses.values()), losses
    best = best_rival(rates)
    ours = statistics.median(rates[OURS])
    return {
        "net": net,
        "batch_size": batch_size,
        "goal": goal(net, batch_size),
        "steps_per_s": {name: statistics.median(values) for name, values in rates.items()},
        "all": rates,
        "rival": best,
        "ratio": ratio(rates, best),
        "rows_per_s": ours * batch_size,
        "gflops": ours * batch_size * flops_of_row(widths) / 1e9,
        "loss_after": losses,
    }


def _summary(cell: dict[str, Any]) -> str:
    return (
        f"{cell['net']} at {cell['batch_size']}: {cell['ratio']:.2f} x {cell['rival']}, "
        f"{cell['gflops']:.0f} Gflop/s"
    )


def render(result: dict[str, Any]) -> str:
    """Return the section of the page."""
    peaks = result["sgemm_gflops"]
    peak = peaks[str(result["threads"])]
    products = ", ".join(
        f"{gflops:.0f} Gflop/s with {n} thread{'s' if n != '1' else ''}"
        for n, gflops in peaks.items()
    )
    lines = [
        "Networks of ReLU layers on 28 numbers, logistic loss, Adam, float32, batches already in "
        f"memory; {result['threads']} threads each, turns of at least {result['min_s']} s, medians "
        f"of {result['repeats']}. PyTorch takes the better of eager mode and `torch.compile` "
        "(forward, loss and backward) with `Adam(fused=True)` and batches cut beforehand; the "
        "ratio is the median over pairs of turns. Gflop/s are ours, the optimizer's work not "
        f"counted. The machine's own product of two 2048 x 2048 matrices (`torch.mm`): {products}.",
        "",
        "| network | batch | streamtrain, steps/s | PyTorch, steps/s | its best form | "
        "M rows/s | Gflop/s | of the peak | ratio | goal | met |",
        "|---|---:|---:|---:|---|---:|---:|---:|---:|---:|---|",
    ]
    for cell in result["cells"]:
        rates, wanted = cell["steps_per_s"], cell["goal"]
        met = "" if wanted is None else "yes" if cell["ratio"] >= wanted else "**no**"
        lines.append(
            f"| {cell['net']} | {cell['batch_size']:,} | {rates[OURS]:,.0f} | "
            f"{rates[cell['rival']]:,.0f} | {cell['rival'].removeprefix('PyTorch ')} | "
            f"{cell['rows_per_s'] / 1e6:.3f} | {cell['gflops']:.0f} | "
            f"{cell['gflops'] / peak:.0%} | {cell['ratio']:.2f} | "
            f"{'' if wanted is None else f'{wanted:.1f}'} | {met} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure what was asked for and print it."""
    options = parser(__doc__)
    options.add_argument("--nets", default=",".join(NETWORKS))
    options.add_argument("--batch-sizes", default=",".join(map(str, BATCH_SIZES)))
    options.add_argument("--rows", type=int, default=N_ROWS)
    given = options.parse_args()
    report(given, "steps", lambda: _run_given(given), render)


def _run_given(given: argparse.Namespace) -> dict[str, Any]:
    return run(
        turns(given),
        nets=given.nets.split(","),
        batch_sizes=[int(size) for size in given.batch_sizes.split(",")],
        n_rows=given.rows,
    )


if __name__ == "__main__":
    main()
