"""Steps of a network over large embedding tables, against PyTorch's sparse embedding bags.

    python -m tests.benchmarks.dlrm [--batch-sizes 256,1024,4096] [--largest 1000000] [--json]

13 numbers and 26 categories, of 10 to 1,000,000 values each; embeddings of 16 numbers, then
layers of 256 and 128.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.benchmarks.made_rows import MadeRows, make_click_rows, spaced_cardinalities
from tests.benchmarks.turns import OURS, Turns, best_rival, parser, ratio, report, say, turns

BATCH_SIZES = (256, 1024, 4096)
N_ROWS = 262_144
WIDTH = 16
HIDDEN = (256, 128)
LR = 1e-3
GOAL = 3.0


def run(
    how: Turns,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    largest: int = 1_000_000,
    n_rows: int = N_ROWS,
) -> dict[str, Any]:
    """Time every batch size."""
    cardinalities = spaced_cardinalities(high=largest)
    rows = make_click_rows(n_rows, cardinalities)
    cells = []
    for batch_size in batch_sizes:
        cells.append(_cell(how, rows, batch_size))
        say(f"batch {batch_size}: {cells[-1]['ratio']:.2f} x {cells[-1]['rival']}")
    return {
        "threads": how.threads,
        "repeats": how.repeats,
        "min_s": how.min_s,
        "cardinalities": cardinalities,
        "cells": cells,
    }


def our_steps(rows: MadeRows, batch_size: int, threads: int) -> Any:
    """Return our contender; Adam moves the rows of tables that a batch touches."""
    from tests.benchmarks.our_steps import OurSteps

    return OurSteps(
        rows,
        batch_size=batch_size,
        model="mlp",
        hidden=HIDDEN,
        embedding_dim=WIDTH,
        optimizer="adam",
        lr=LR,
        threads=threads,
        seed=0,
    )


def _cell(how: Turns, rows: MadeRows, batch_size: int) -> dict[str, Any]:
    from tests.benchmarks import torch_rival as rival

    rival.forget_compiled()
    made: dict[str, Any] = {OURS: our_steps(rows, batch_size, how.threads)}
    for one_table in (False, True):
        for way in (None, *how.compile):
            form = "one bag for all" if one_table else "a bag a field"
            name = rival.EAGER if way is None else rival.way_name(way)
            made[f"{name}, {form}"] = rival.TorchTables(
                rows,
                width=WIDTH,
                hidden=HIDDEN,
                batch_size=batch_size,
                threads=how.threads,
                lr=LR,
                one_table=one_table,
                way=way,
            )
    rates = how.rates(made)
    best = best_rival(rates)
    first = rows.codes[:batch_size]
    return {
        "batch_size": batch_size,
        "goal": GOAL,
        "touched_rows": sum(len(np.unique(first[:, f])) for f in range(first.shape[1])),
        "steps_per_s": {name: statistics.median(values) for name, values in rates.items()},
        "all": rates,
        "rival": best,
        "ratio": ratio(rates, best),
        "rows_per_s": statistics.median(rates[OURS]) * batch_size,
    }


def render(result: dict[str, Any]) -> str:
    """Return the section of the page."""
    sizes = result["cardinalities"]
    lines = [
        f"13 numbers, {len(sizes)} categories ({sizes[0]:,} to {sizes[-1]:,} values, evenly spaced "
        f"in the logarithm, {sum(sizes):,} rows of tables; a value of rank k comes about 1 / k of "
        "the time), embeddings of 16 numbers, layers of 256 and 128, logistic loss; batches "
        f"already in memory; {result['threads']} threads each, medians of {result['repeats']} "
        f"turns of at least {result['min_s']} s. PyTorch: `EmbeddingBag(sparse=True)` with "
        "`SparseAdam`, `Adam(fused=True)` for the layers, in its best form: one bag for each field "
        "or one for all with codes offset beforehand, the layers eager or compiled. Ours: Adam on "
        "the rows that a batch touches.",
        "",
        "| batch | rows of tables it touches | streamtrain, steps/s | PyTorch, steps/s | "
        "its best form | M rows/s | ratio | goal | met |",
        "|---:|---:|---:|---:|---|---:|---:|---:|---|",
    ]
    for cell in result["cells"]:
        rates = cell["steps_per_s"]
        lines.append(
            f"| {cell['batch_size']:,} | {cell['touched_rows']:,} | {rates[OURS]:,.0f} | "
            f"{rates[cell['rival']]:,.1f} | {cell['rival'].removeprefix('PyTorch ')} | "
            f"{cell['rows_per_s'] / 1e6:.3f} | {cell['ratio']:.2f} | {cell['goal']:.1f} | "
            f"{'yes' if cell['ratio'] >= cell['goal'] else '**no**'} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure what was asked for and print it."""
    options = parser(__doc__)
    options.add_argument("--batch-sizes", default=",".join(map(str, BATCH_SIZES)))
    options.add_argument("--largest", type=int, default=1_000_000, help="values of a category")
    options.add_argument("--rows", type=int, default=N_ROWS)
    given = options.parse_args()
    report(given, "dlrm", lambda: _run_given(given), render)


def _run_given(given: argparse.Namespace) -> dict[str, Any]:
    return run(
        turns(given),
        batch_sizes=[int(size) for size in given.batch_sizes.split(",")],
        largest=given.largest,
        n_rows=given.rows,
    )


if __name__ == "__main__":
    main()
