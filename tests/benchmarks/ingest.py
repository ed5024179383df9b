"""Ingest against the CSV-to-Parquet of DuckDB and Polars, on the same file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.benchmarks.bench import THREADS, Bench, folder_bytes
from tests.benchmarks.child import drop_caches, python, streamtrain

# Each rival runs alone in a process, timed from start to end as ours is. Both read every column
# with types found by themselves. DuckDB need not keep the order (its documented setting for
# speed); Polars streams. Neither syncs, shuffles, encodes, splits or digests.
_DUCKDB = """
import duckdb, sys
source, out, threads = sys.argv[1:]
duckdb.execute(f"SET threads = {threads}")
duckdb.execute("SET preserve_insertion_order = false")
duckdb.execute(f"COPY (SELECT * FROM read_csv('{source}')) TO '{out}' (FORMAT parquet)")
"""
_POLARS = """
import polars, sys
source, out, _ = sys.argv[1:]
polars.scan_csv(source, infer_schema_length=10_000).sink_parquet(out, maintain_order=False)
"""
# What a user pays for files that outlive a power cut, as ours do.
_SYNC = """
import os
fd = os.open(out, os.O_RDONLY); os.fsync(fd); os.close(fd)
"""


def run(bench: Bench) -> dict[str, Any]:
    """Return seconds and peak memory of each, file cached and file cold."""
    source, about = bench.click_log()
    out = bench.fresh("ingested")

    def ours(*options: str) -> dict[str, Any]:
        bench.fresh("ingested")
        done = streamtrain(
            "ingest", str(source), "--out", str(out), "--target", "click",
            "--threads", str(THREADS), "--json", *options,
        )  # fmt: skip
        return {**done.figures(), "out_bytes": folder_bytes(out)}

    def theirs(script: str) -> dict[str, Any]:
        file = bench.fresh("copied.parquet")
        done = python(
            "-c", script, str(source), str(file), str(THREADS),
            environment={"POLARS_MAX_THREADS": str(THREADS)},
        )  # fmt: skip
        return {**done.figures(), "out_bytes": file.stat().st_size}

    contenders: dict[str, Callable[[], dict[str, Any]]] = {
        "streamtrain ingest": ours,
        "streamtrain ingest --memory 512MB": lambda: ours("--memory", "512MB"),
        "streamtrain ingest --no-shuffle": lambda: ours("--no-shuffle"),
        "DuckDB COPY": lambda: theirs(_DUCKDB),
        "DuckDB COPY, then fsync": lambda: theirs(_DUCKDB + _SYNC),
        "Polars sink_parquet": lambda: theirs(_POLARS),
        "Polars sink_parquet, then fsync": lambda: theirs(_POLARS + _SYNC),
    }
    ours()  # compiles, where no compiled kernels are kept yet
    warm = bench.in_turn(contenders)
    cold_of = ("streamtrain ingest", "DuckDB COPY", "Polars sink_parquet")
    how = ""

    def cold(name: str) -> dict[str, Any]:
        nonlocal how
        how = drop_caches([source])
        _warm_programs()
        return contenders[name]()

    cold_figures = bench.in_turn({name: lambda n=name: cold(n) for name in cold_of})
    bench.fresh("ingested")
    bench.fresh("copied.parquet")
    return {
        "csv_bytes": about["csv_bytes"], "rows": about["n_rows"], "warm": warm,
        "cold": cold_figures, "cold_how": how,
    }  # fmt: skip


def _warm_programs() -> None:
    python("-c", "import duckdb, polars, data_tools.ingest, data_tools.warm_up, pyarrow.parquet")


def render(result: dict[str, Any]) -> str:
    """Return the section of the page."""
    megabytes = result["csv_bytes"] / 1e6
    base = result["warm"]["streamtrain ingest"]["seconds"]
    lines = [
        f"The click log of {result['rows']:,} rows, {megabytes:,.0f} MB of CSV, to Parquet; "
        "each in a process of its own, start-up included, "
        f"{THREADS} threads. streamtrain also splits, shuffles globally, encodes categories, "
        "digests, and syncs every file before it reports; the rivals convert, and sync only in "
        "the rows that say so.",
        "",
        "| | seconds | MB/s | rival / streamtrain | peak memory, MB | written, MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, found in result["warm"].items():
        lines.append(_row(name, found, megabytes, base))
    base = result["cold"]["streamtrain ingest"]["seconds"]
    lines += ["", f"With the file cold ({result['cold_how']}; programs warm):", "", *lines[2:4]]
    for name, found in result["cold"].items():
        lines.append(_row(name, found, megabytes, base))
    return "\n".join(lines)


def _row(name: str, found: dict[str, Any], megabytes: float, base: float) -> str:
    return (
        f"| {name} | {found['seconds']:.2f} | {megabytes / found['seconds']:.0f} | "
        f"{found['seconds'] / base:.2f} | {found['peak_bytes'] / 1e6:.0f} | "
        f"{found['out_bytes'] / 1e6:.0f} |"
    )
