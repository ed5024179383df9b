"""Run the benchmarks of networks side by side and write their sections of docs/benchmarks.md.

    python -m tests.benchmarks.networks [--only steps,dlrm,scaling,target] [--threads 2]
    python -m tests.benchmarks.networks --only none --insert pipeline.json quality.json

Each section stands between `<!-- NAME -->` and `<!-- /NAME -->`; the rest of the page is left as
it is, and a section that is not there yet is added at the end. Results are kept as JSON in the
work directory; --insert takes what any of these benchmarks printed with --json.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
import traceback
from pathlib import Path
from typing import Any

from tests.benchmarks.turns import footer, keep, parser, say, turns

MODULES = {
    "steps": "tests.benchmarks.steps",
    "dlrm": "tests.benchmarks.dlrm",
    "scaling": "tests.benchmarks.scaling",
    "target": "tests.benchmarks.target_loss",
    "pipeline": "tests.benchmarks.pipeline",
    "quality": "tests.benchmarks.quality",
    "images": "tests.benchmarks.images",
    "formats": "tests.benchmarks.formats",
    "cold": "tests.benchmarks.cold",
    "sparse": "tests.benchmarks.sparse",
}
TITLES = {
    "steps": "Networks: steps against PyTorch",
    "dlrm": "Large embedding tables against PyTorch",
    "scaling": "Threads",
    "target": "Seconds to a test loss",
    "pipeline": "From shards on disk: linear models and factorization machines",
    "quality": "Quality on real data",
    "images": "Images from disk",
    "formats": "Tables in Parquet and in Zarr",
    "cold": "Reading what does not fit into memory",
    "sparse": "Sparse text against Vowpal Wabbit",
}
HERE = ("steps", "dlrm", "scaling", "target")


def main() -> None:
    """Run what was asked for, and write its sections."""
    options = parser(__doc__)
    options.add_argument("--only", default=",".join(HERE), help="none runs nothing")
    options.add_argument("--insert", type=Path, nargs="*", default=[], metavar="JSON")
    options.add_argument("--work", type=Path, default=Path("benchmark-work"))
    options.add_argument("--out", type=Path, default=Path("docs/benchmarks.md"))
    given = options.parse_args()
    names = [name for name in given.only.split(",") if name and name != "none"]
    if unknown := set(names) - set(HERE):
        options.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(HERE)}")
    results = [json.loads(file.read_text(encoding="utf-8")) for file in given.insert]
    failed = []
    for name in names:
        kept = _run(name, given)
        if kept is None:
            failed.append(name)
        else:
            results.append(kept)
    page = given.out.read_text(encoding="utf-8") if given.out.exists() else "# Benchmarks\n"
    for kept in results:
        page = with_section(page, kept["name"], section(kept))
    given.out.write_text(page, encoding="utf-8")
    if given.json:
        print(json.dumps(results))
    say(f"wrote {given.out}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _run(name: str, given: argparse.Namespace) -> dict[str, Any] | None:
    module = importlib.import_module(MODULES[name])
    say(f"{name} ...")
    try:
        kept = keep(name, lambda: module.run(turns(given)))
    except Exception:  # noqa: BLE001 (the others still run)
        traceback.print_exc()
        return None
    given.work.mkdir(parents=True, exist_ok=True)
    (given.work / f"result-{name}.json").write_text(json.dumps(kept, indent=1), encoding="utf-8")
    return kept


def section(kept: dict[str, Any]) -> str:
    """Return the text of a section."""
    module = importlib.import_module(MODULES[kept["name"]])
    return f"{module.render(kept['result'])}\n\n{footer(kept)}"


def with_section(page: str, name: str, text: str) -> str:
    """Return a page with the section of that name replaced, or added at its end."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    whole = f"{begin}\n\n{text}\n\n{end}"
    if begin in page:
        pattern = re.escape(begin) + ".*?" + re.escape(end)
        return re.sub(pattern, lambda _: whole, page, count=1, flags=re.DOTALL)
    return f"{page.rstrip()}\n\n## {TITLES[name]}\n\n{whole}\n"


if __name__ == "__main__":
    main()
