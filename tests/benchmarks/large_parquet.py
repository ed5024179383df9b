"""Ingest of Parquet that is larger than the budget: rows, seconds, and the peak.

    python -m tests.benchmarks.large_parquet [--bytes 5GB] [--memory 512MB] [--work DIR] [--json]

The file is made if it is not there: row groups of 250,000 rows, uncompressed, 36 columns of
doubles, two of text in dictionaries (20,000 and 50 values), and a target of 0 and 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.bench import Bench
from tests.benchmarks.child import drop_caches, streamtrain
from tests.benchmarks.turns import parser, report

GROUP_ROWS, N_NUMBERS = 250_000, 36


def make_parquet(path: Path, n_bytes: int) -> None:
    """Write whole row groups until a file has at least so many bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    texts = np.array([f"city-{i:05d}" for i in range(20_000)])
    unfinished = path.with_suffix(".unfinished")
    writer = None
    while writer is None or unfinished.stat().st_size < n_bytes:
        columns: dict[str, Any] = {f"x{j}": rng.normal(size=GROUP_ROWS) for j in range(N_NUMBERS)}
        noise = rng.normal(size=GROUP_ROWS)
        columns["city"] = texts[(rng.random(GROUP_ROWS) ** 3 * len(texts)).astype(int)]
        columns["kind"] = texts[rng.integers(0, 50, GROUP_ROWS)]
        columns["y"] = (columns["x0"] + columns["x1"] + noise > 0).astype(np.int64)
        table = pa.table(columns)
        if writer is None:
            writer = pq.ParquetWriter(
                unfinished, table.schema, compression="none", use_dictionary=["city", "kind", "y"]
            )
        writer.write_table(table, row_group_size=GROUP_ROWS)
    writer.close()
    unfinished.rename(path)


def run(work: Path, n_bytes: int, memory: str) -> dict[str, Any]:
    """Make the file, ingest it cold, and return what the command reported."""
    source = work / f"large-{n_bytes}.parquet"
    if not source.exists():
        make_parquet(source, n_bytes)
    out = Bench(work, 0, 1).fresh("large-dataset")
    drop_caches([source])
    done = streamtrain(
        "ingest", str(source), "--out", str(out), "--target", "y", "--memory", memory, "--json"
    )
    said = done.last_json()
    return {
        "source_bytes": source.stat().st_size,
        "memory": memory,
        "rows": said["rows_written"],
        "seconds": done.seconds,
        "peak_bytes": done.figures()["peak_bytes"],
        "said_bytes": said["peak_rss_bytes"],
    }


def render(result: dict[str, Any]) -> str:
    """Return the section of the page."""
    return (
        f"{result['source_bytes'] / 1e9:.2f} GB of Parquet ({result['rows']:,} rows), `ingest "
        f"--memory {result['memory']}`: {result['seconds']:.0f} s, peak "
        f"{result['peak_bytes'] / 1e6:.0f} MB by ru_maxrss, "
        f"{result['said_bytes'] / 1e6:.0f} MB as the command reports it."
    )


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--bytes", default="5GB")
    options.add_argument("--memory", default="512MB")
    options.add_argument("--work", type=Path, default=Path("benchmark-work"))
    given = options.parse_args()
    report(given, "large-parquet", lambda: _run_given(given), render)


def _run_given(given: argparse.Namespace) -> dict[str, Any]:
    from streamtrain.config import parse_size

    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    return run(work, parse_size(given.bytes), given.memory)


if __name__ == "__main__":
    main()
