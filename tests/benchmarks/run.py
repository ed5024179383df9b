"""Run benchmarks and write a page of their figures.

    python -m tests.benchmarks.run [--rows N] [--only ingest,reader,...] [--out FILE] [--work DIR]

Every result is kept as JSON in the work directory, and the page is written from what is there:
one benchmark can be run again alone, and with `--only none` the page is only written again.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tests.benchmarks.bench import THREADS, Bench, load_average
from tests.benchmarks.machine import describe_machine

TITLES = {
    "ingest": "Ingest: CSV to Parquet",
    "reader": "The reader alone",
    "train": "Training: Vowpal Wabbit and scikit-learn",
    "streaming": "Streaming from disk against arrays in memory",
    "sorted": "Data sorted by its target",
    "memory": "Memory",
    "startup": "Start-up",
    "team": "Barriers against parallel regions",
}
MODULES = {name: f"tests.benchmarks.{name}" for name in TITLES} | {
    "sorted": "tests.benchmarks.sorted_rows",
}
ROWS = 4_000_000


def main() -> None:
    """Run what was asked for, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS, help="of the click log, 268 bytes each")
    parser.add_argument("--only", default=",".join(TITLES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("benchmark-work"))
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: in the work directory")
    given = parser.parse_args()
    names = [name for name in given.only.split(",") if name and name != "none"]
    if unknown := set(names) - set(TITLES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(TITLES)}")
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    bench = Bench(work, given.rows, given.repeats)
    failed = [name for name in names if not _run(name, bench)]
    out = given.out or work / "benchmarks.md"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page(work), encoding="utf-8")
    print(f"wrote {out}", file=sys.stderr)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _run(name: str, bench: Bench) -> bool:
    module = importlib.import_module(MODULES[name])
    print(f"{name} ...", file=sys.stderr, flush=True)
    started, load = time.perf_counter(), load_average()
    try:
        result = module.run(bench)
    except Exception:  # noqa: BLE001 (the others still run)
        traceback.print_exc()
        return False
    kept = {
        "name": name,
        "rows": bench.n_rows,
        "repeats": bench.repeats,
        "load_before": load,
        "seconds": time.perf_counter() - started,
        "date": time.strftime("%Y-%m-%d"),
        "machine": describe_machine(bench.work),
        "result": result,
    }
    (bench.work / f"result-{name}.json").write_text(json.dumps(kept, indent=1))
    print(f"{name}: {kept['seconds']:.0f} s", file=sys.stderr, flush=True)
    return True


def page(work: Path) -> str:
    """Return the page of all results in a work directory."""
    kept = {}
    for name in TITLES:
        file = work / f"result-{name}.json"
        if file.exists():
            kept[name] = json.loads(file.read_text())
    lines = [
        "# Benchmarks",
        "",
        'Written by `python -m tests.benchmarks.run` (`pip install ".[bench]"`); do not edit. '
        f"Rivals run on the same machine, with {THREADS} threads, at the best settings that we "
        "found documented; contenders take turns, and tables show medians. Seconds are those of "
        "whole processes, start-up included, unless a section says otherwise.",
    ]
    machines: list[Any] = []
    for found in kept.values():
        if found["machine"] not in machines:
            machines.append(found["machine"])
    for number, machine in enumerate(machines, 1):
        title = "## The machine" + (f" ({number})" if len(machines) > 1 else "")
        lines += ["", title, "", *_describe(machine)]
    for name, found in kept.items():
        module = importlib.import_module(MODULES[name])
        which = f", machine {machines.index(found['machine']) + 1}" if len(machines) > 1 else ""
        lines += [
            "",
            f"## {TITLES[name]}",
            "",
            module.render(found["result"]),
            "",
            f"*{found['date']}, median of {found['repeats']}, a click log of {found['rows']:,} "
            f"rows{which}; load before it began {found['load_before']:.1f}.*",
        ]
    return "\n".join(lines) + "\n"


def _describe(machine: dict[str, Any]) -> list[str]:
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return [
        f"- CPU: {machine['cpu']}, {machine['cores']} cores",
        f"- memory: {machine['memory_bytes'] / 2**30:.1f} GiB",
        f"- system: {machine['system']}, file system {machine['file_system']}",
        f"- Python {machine['python']}; {packages}",
    ]


if __name__ == "__main__":
    main()
