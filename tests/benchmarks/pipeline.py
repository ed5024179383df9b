"""End to end from shards on disk: logistic regression and factorization machines.

    python -m tests.benchmarks.pipeline [--only logistic,fm] [--rows N] [--fm-rows N] [--json]

Logistic regression runs against Vowpal Wabbit from its cache and scikit-learn
(`tests.benchmarks.train`), factorization machines against `vw --lrq` and xlearn
(`tests.benchmarks.fm`).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tests.benchmarks import fm, train
from tests.benchmarks.bench import Bench
from tests.benchmarks.turns import parser, report

ROWS = 4_000_000
FM_ROWS = 500_000


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Run what was asked for."""
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    if "logistic" in given.only.split(","):
        found["logistic"] = train.run(Bench(work, given.rows, given.repeats))
    if "fm" in given.only.split(","):
        found["fm"] = fm.run(Bench(work, given.fm_rows, given.repeats), threads=given.threads)
    return found


def render(result: dict[str, Any]) -> str:
    """Return the section of the page."""
    parts = []
    if "logistic" in result:
        parts.append(train.render(result["logistic"]))
    if "fm" in result:
        parts.append(fm.render(result["fm"]))
    return "\n\n".join(parts)


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--only", default="logistic,fm")
    options.add_argument("--rows", type=int, default=ROWS, help="of the click log")
    options.add_argument("--fm-rows", type=int, default=FM_ROWS, help="of the rows for machines")
    options.add_argument("--work", type=Path, default=Path("benchmark-work"))
    given = options.parse_args()
    report(given, "pipeline", lambda: run(given), render)


if __name__ == "__main__":
    main()
