"""The reader alone: rows and bytes a second from shards, beside `cat` of the same files."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.bench import Bench, folder_bytes
from tests.benchmarks.child import drop_caches, python, run_child

BATCH_SIZE = 1024
CASES = [
    ("EpochReader.epoch", "pread", 1),
    ("EpochReader.epoch", "pread", 2),
    ("EpochReader.epoch", "mmap", 1),
    ("EpochReader.epoch", "mmap", 2),
    ("ds.batches", "pread", 1),
    ("ds.batches", "mmap", 1),
]


def run(bench: Bench) -> dict[str, Any]:
    """Return rates of an epoch for every way of reading, cached and cold."""
    dataset = bench.dataset()
    shards = sorted((dataset / "train").glob("*.parquet"))
    n_bytes = folder_bytes(dataset / "train")
    found: dict[str, Any] = {}
    how = ""
    for state in ("warm", "cold"):

        def prepare(state: str = state) -> None:
            nonlocal how
            if state == "cold":
                how = drop_caches([dataset])
                _warm_programs()

        def read(case: tuple[str, str, int], prepare: Any = prepare) -> dict[str, Any]:
            prepare()
            return python(
                "-m", "tests.benchmarks.reader", str(dataset), *map(str, case)
            ).last_json()

        def cat(prepare: Any = prepare) -> dict[str, Any]:
            prepare()
            done = run_child(["sh", "-c", 'cat "$@" > /dev/null', "cat", *map(str, shards)])
            return {"seconds": done.seconds}

        contenders: dict[str, Any] = {"cat": cat}
        for case in CASES:
            name, io, readers = case
            contenders[f"{name}, {io}, {readers} reader{'s' * (readers > 1)}"] = lambda c=case: (
                read(c)
            )
        found[state] = bench.in_turn(contenders)
    rows = int(found["warm"]["ds.batches, pread, 1 reader"]["rows"])
    return {"bytes": n_bytes, "rows": rows, "cold_how": how, **found}


def _warm_programs() -> None:
    python("-c", "import streamtrain.library, pyarrow.parquet")


def main() -> None:
    """Read one epoch in this process and print its time."""
    from streamtrain.library import open_dataset
    from streamtrain.reader.order import Cursor, OrderSettings
    from streamtrain.reader.stream import EpochReader, choose_window_blocks
    from streamtrain.reader.windows import row_bytes

    path, how, io, readers = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    dataset = open_dataset(path)
    # Loads the kernels with a split that is not measured.
    for _ in dataset.batches(BATCH_SIZE, split="valid", io=io):
        break
    n_rows = 0
    times: dict[str, float] = {}
    started = time.perf_counter()
    if how == "ds.batches":
        for batch, _ in dataset.batches(BATCH_SIZE, seed=1, io=io, readers=readers):
            n_rows += batch.n_rows
    else:
        block_rows = [block.n_rows for _, block in dataset.manifest.blocks("train")]
        blocks = choose_window_blocks(
            block_rows, row_bytes=row_bytes(dataset), budget_bytes=1 << 30
        )
        order = OrderSettings(dataset.fingerprint, 1, blocks)
        with EpochReader(
            dataset, "train", order, batch_size=BATCH_SIZE, n_readers=readers, io=io
        ) as reader:
            for segment in reader.epoch(Cursor()):
                n_rows += segment.rows.n_rows
            times = {"read_s": reader.times.read_s, "decode_s": reader.times.decode_s}
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "rows": n_rows, **times}))


def render(result: dict[str, Any]) -> str:
    """Return the section of the page."""
    gigabytes = result["bytes"] / 1e9
    lines = [
        f"One epoch of the train split ({result['rows']:,} rows, {gigabytes:.2f} GB of Parquet), "
        "every byte checked, every row scattered to its shuffled place; nothing is computed. "
        "Kernels are loaded before the clock starts. 'Checking' is fetching and digesting and "
        "'scattering' is decoding, both summed over reading threads. "
        f"Cold: {result['cold_how']}, programs warm.",
        "",
        "| | warm, M rows/s | warm, GB/s | cold, M rows/s | cold, GB/s | checking, s | "
        "scattering, s |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, warm in result["warm"].items():
        cells = []
        for seconds in (warm["seconds"], result["cold"][name]["seconds"]):
            cells += [f"{result['rows'] / seconds / 1e6:.2f}", f"{gigabytes / seconds:.2f}"]
        times = [f"{warm[t]:.2f}" if t in warm else "" for t in ("read_s", "decode_s")]
        lines.append(f"| {name} | {' | '.join(cells + times)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
