"""Data sorted by its target, read with `--no-shuffle` at ingest and windows alone."""

from __future__ import annotations

from typing import Any

from tests.benchmarks.bench import THREADS, Bench
from tests.benchmarks.child import streamtrain

CASES = {
    "shuffled at ingest": ((), ()),
    "in order, 256 blocks of 512 rows a window": (
        ("--no-shuffle", "--block-rows", "512"), ("--window-blocks", "256")
    ),
    "in order, 16 blocks of 8,192 rows a window": (
        ("--no-shuffle", "--block-rows", "8192"), ("--window-blocks", "16")
    ),
    "in order, 1 block of 8,192 rows a window": (
        ("--no-shuffle", "--block-rows", "8192"), ("--window-blocks", "1")
    ),
}  # fmt: skip


def run(bench: Bench) -> dict[str, Any]:
    """Return the test loss after one epoch for each order, with several seeds of it."""
    found = {}
    for number, (name, (ingest, train)) in enumerate(CASES.items()):
        dataset = bench.dataset(*ingest, name=f"-sorted-{number}", in_order=True)
        runs = []
        for seed in range(bench.repeats):
            out = bench.fresh("run-sorted")
            done = streamtrain(
                "train", str(dataset), "--out", str(out), "--seed", str(seed), "--threads",
                str(THREADS), *train, "--json",
            ).last_json()  # fmt: skip
            test = streamtrain("evaluate", str(out), "--split", "test", "--json").last_json()
            runs.append(
                {"loss": test["loss"], "auc": test["auc"], "rows_per_s": done["rows_per_s"]}
            )
        found[name] = runs
    _, about = bench.click_log(in_order=True)
    return {"cases": found, "best_possible_loss": about["best_possible_loss"]}


def render(result: dict[str, Any]) -> str:
    """Return the section of the page."""
    base = result["cases"]["shuffled at ingest"]
    base_loss = sum(run["loss"] for run in base) / len(base)
    lines = [
        "The click log with every row without a click before every row with one; splits by the "
        "same hash; one epoch, defaults; means over seeds of the order. The best possible loss "
        f"is {result['best_possible_loss']:.5f}. Goal: within 1 % with 256 small blocks.",
        "",
        "| | test loss | worst seed | above shuffled | AUC | M rows/s |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, runs in result["cases"].items():
        loss, auc, rate = (
            sum(run[key] for run in runs) / len(runs) for key in ("loss", "auc", "rows_per_s")
        )
        worst = max(run["loss"] for run in runs)
        lines.append(
            f"| {name} | {loss:.5f} | {worst:.5f} | {loss / base_loss - 1:+.2%} | {auc:.4f} | "
            f"{rate / 1e6:.2f} |"
        )
    return "\n".join(lines)
