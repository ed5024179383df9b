"""Tables in both formats of shards: the reader, training beside arrays in memory, and VW.

    python -m tests.benchmarks.formats [--rows 2000000] [--repeats 3] [--work DIR] [--json]

The same click log in Parquet and in Zarr. The reader delivers an epoch of shuffled batches, every
byte checked, nothing computed. Training is logistic regression, one pass, from files in the page
cache: both formats, arrays in memory that were shuffled before, and one pass of Vowpal Wabbit over
its own cache at the settings of `tests.benchmarks.train` with the best validation loss.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tests.benchmarks.bench import Bench
from tests.benchmarks.child import python, read_anew
from tests.benchmarks.streaming import GATHERED, PACKED, READY, STREAMED
from tests.benchmarks.train import OURS, VW_SEARCH, bits_of, our_run, vw_caches, vw_pass
from tests.benchmarks.turns import parser, report, say

BATCH_SIZES = (256, 1024, 8192)
FORMATS = ("parquet", "zarr")
VW = "Vowpal Wabbit, from its cache"


def run(bench: Bench) -> dict[str, Any]:
    """Measure both formats in turn."""
    datasets = {
        "parquet": bench.dataset(),
        "zarr": bench.dataset("--format", "zarr", name="-zarr"),
    }
    bits = bits_of(datasets["parquet"])
    caches = vw_caches(bench, datasets["parquet"], bits=bits)
    read_anew([*datasets.values(), *caches.values()])

    def read(name: str, how: str, readers: int) -> dict[str, Any]:
        return python(
            "-m", "tests.benchmarks.reader", str(datasets[name]), how, "pread", str(readers)
        ).last_json()

    reader = bench.in_turn(
        {
            f"{name}, {n} reader{'s' * (n > 1)}": lambda name=name, n=n: read(
                name, "EpochReader.epoch", n
            )
            for n in (1, 2)
            for name in FORMATS
        }
    )
    say(f"reader: {[(k, v['rows'] / v['seconds']) for k, v in reader.items()]}")
    streamed: dict[str, Any] = {}
    for size in BATCH_SIZES:
        streamed[str(size)] = {
            name: python(
                "-m", "tests.benchmarks.streaming", str(datasets[name]), str(size),
                str(bench.repeats),
            ).last_json()["rows_per_s"]
            for name in FORMATS
        }  # fmt: skip
        say(f"streamed: {streamed[str(size)]}")
    searched = [vw_pass(bench, caches, options, bits=bits) for options in VW_SEARCH]
    best = min(searched, key=lambda found: found["valid_loss"])
    ours = [our_run(bench, datasets["zarr"], options) for options in OURS]
    equal = [found for found in ours if found["valid_loss"] <= best["valid_loss"]] or ours
    chosen = min(equal, key=lambda found: found["training_s"])
    pairs = bench.in_turn(
        {
            **{
                name: lambda name=name: our_run(bench, datasets[name], chosen["options"])
                for name in FORMATS
            },
            VW: lambda: vw_pass(bench, caches, best["options"], bits=bits),
        }
    )
    return {"rows": bench.n_rows, "reader": reader, "streamed": streamed, "pairs": pairs}


def render(result: dict[str, Any]) -> str:
    """Return the section of the page."""
    rates = {name: found["rows"] / found["seconds"] for name, found in result["reader"].items()}
    lines = [
        f"The click log of {result['rows']:,} rows (13 numbers, 26 categories) in both formats, "
        "files in the page cache, where reading put them, contenders in turn.",
        "",
        "| reader | M rows/s | Zarr / Parquet |",
        "|---|---:|---:|",
    ]
    for name, rate in rates.items():
        ratio = rate / rates[name.replace("zarr", "parquet")]
        shown = f"{ratio:.2f}" if name.startswith("zarr") else ""
        lines.append(f"| {name} | {rate / 1e6:.2f} | {shown} |")
    lines += [
        "",
        "Arrays in memory, the same kernels: shuffled once before the clock starts, or gathered by "
        "index into a new order each epoch, in the better of two ways.",
        "",
        "| M rows/s at batches of | arrays shuffled before | arrays gathered | "
        + " | ".join(f"{name} | / shuffled before | / gathered" for name in FORMATS) + " |",
        "|---|" + "---:|" * (2 + 3 * len(FORMATS)),
    ]  # fmt: skip
    for size, found in result["streamed"].items():
        ready = max(found[name][READY] for name in FORMATS)
        gathered = max(found[name][way] for name in FORMATS for way in (GATHERED, PACKED))
        cells = [f"{ready / 1e6:.2f}", f"{gathered / 1e6:.2f}"]
        for name in FORMATS:
            rate = found[name][STREAMED]
            cells += [f"{rate / 1e6:.2f}", f"{rate / ready:.2f}", f"{rate / gathered:.2f}"]
        lines.append(f"| {size} | " + " | ".join(cells) + " |")
    vw = result["pairs"][VW]
    lines += [
        "",
        "The pass is from the first row to the last; validation comes after it, and Vowpal "
        "Wabbit does none.",
        "",
        "| one pass | settings | the pass, s | with validation, s | whole command, s | test loss | "
        "Vowpal Wabbit's time / the pass | / with validation | / whole command |",
        "|---|---|" + "---:|" * 7,
    ]
    for name, found in result["pairs"].items():
        training = found.get("training_s", found["seconds"])
        times = (training - found.get("validation_s", 0.0), training, found["seconds"])
        shown = " | ".join(f"{seconds:.2f}" for seconds in times)
        ratios = " | ".join(f"{vw['seconds'] / seconds:.2f}" for seconds in times)
        options = " ".join(found["options"])
        lines.append(f"| {name} | {options} | {shown} | {found['loss']:.5f} | {ratios} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=2_000_000)
    options.add_argument("--work", type=Path, default=Path("benchmark-work"))
    given = options.parse_args()
    report(given, "formats", lambda: _run_given(given), render)


def _run_given(given: argparse.Namespace) -> dict[str, Any]:
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    return run(Bench(work, given.rows, given.repeats))


if __name__ == "__main__":
    main()
