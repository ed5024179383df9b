"""Reading what does not fit into memory: ways of reading, and other readers of the same store.

    python -m tests.benchmarks.cold [--only io,readers,ahead] [--bytes 4GB] [--repeats 3] [--json]
                                    [--annbatch PYTHON]

`io`: pread against mmap, cold, in a memory control group of a quarter of the data (root, and
control groups of version 1 or 2; without them the page cache is dropped and the group is left
out), blocks of 64 KB, 1 MB and 16 MB. `readers`: one epoch of shuffled batches of an array by
us, by zarr-python, by zarrs where it is installed, and `cat` of the same files; by annbatch where
--annbatch names an interpreter that has it and zarrs: it needs a later Python than this project's
oldest. `ahead`: our reader with blocks asked
of the system some bytes before they are read, and without.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.bench import Bench
from tests.benchmarks.child import drop_caches, python, run_child
from tests.benchmarks.turns import parser, report

WIDTH = 256
BLOCK_BYTES = {"64 KB": 64 << 10, "1 MB": 1 << 20, "16 MB": 16 << 20}
AHEAD_BLOCK_BYTES = {"256 KB": 256 << 10, "1 MB": 1 << 20}
AHEAD_WAYS = [
    ("pread", 1, 0), ("pread", 2, 0), ("pread", 4, 0), ("mmap", 1, 0), ("mmap", 2, 0),
    ("pread", 1, 32 << 20), ("pread", 1, 64 << 20), ("pread", 1, 128 << 20),
    ("pread", 2, 64 << 20), ("mmap", 1, 64 << 20),
]  # fmt: skip
"""How blocks are read, by how many threads, and the bytes asked for ahead."""
BATCH_SIZE = 1024
GROUP = "streamtrain-bench"
V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


def make_array(bench: Bench, n_bytes: int, block_rows: int) -> Path:
    """Return a dataset of (n, 256) float32 rows, made if it is not there."""
    out = bench.work / f"cold-{n_bytes}-{block_rows}"
    if not (out / "dataset.json").exists():
        python("-m", "tests.benchmarks.cold", "--make", str(out), str(n_bytes), str(block_rows))
    return out


def write_array(out: Path, n_bytes: int, block_rows: int) -> None:
    """Write the dataset with the store's own writer: there is nothing to parse."""
    from streamtrain.store.manifest import FORMAT_VERSION, Manifest
    from streamtrain.store.manifest_file import write_manifest
    from streamtrain.store.schema import (
        ArrayFeatures,
        NumericStatistics,
        Schema,
        StoredFeatures,
        Target,
    )
    from streamtrain.store.zarr_shards import ZarrWriter

    stored = StoredFeatures("float32", (WIDTH,))
    out.mkdir(parents=True)
    rng = np.random.default_rng(0)
    n_rows = n_bytes // (4 * WIDTH + 4)
    with ZarrWriter(out, "train", stored, block_rows=block_rows) as writer:
        done = 0
        while done < n_rows:
            n = min(block_rows - writer.n_filled, n_rows - done)
            rows = rng.random((n, WIDTH + 1), np.float32)
            rows[:, WIDTH] = rows[:, 0] > 0.5
            writer.matrix[writer.n_filled : writer.n_filled + n] = rows.view(np.uint8)
            writer.advance(n)
            done += n
    known = NumericStatistics(n_rows, 0, 0.5, 0.2887, 0.0, 1.0)
    schema = Schema(
        columns=(),
        target=Target(
            "target", "binary", ("0", "1"), (0.0, 1.0), False, (n_rows // 2,) * 2, known, 2.0
        ),
        features=ArrayFeatures("float32", (WIDTH,), (known,)),
    )
    write_manifest(
        out,
        Manifest(
            FORMAT_VERSION, "zarr", schema, {"train": tuple(writer.shards)}, (), writer.files, 0,
            True, block_rows, {}, contents={"train": writer.contents},
        ),
    )  # fmt: skip


@contextlib.contextmanager
def memory_group(limit: int) -> Iterator[Path | None]:
    """Yield a control group's file of processes, or None where none can be made."""
    for root, file in ((V1, "memory.limit_in_bytes"), (V2, "memory.max")):
        folder = root / GROUP
        try:
            folder.mkdir(exist_ok=True)
            (folder / file).write_text(str(limit))
        except OSError:
            continue
        try:
            yield folder / "cgroup.procs"
        finally:
            with contextlib.suppress(OSError):
                folder.rmdir()
        return
    yield None


def run_io(bench: Bench, n_bytes: int) -> dict[str, Any]:
    """Return rates of pread and mmap for each size of blocks."""
    found: dict[str, Any] = {}
    limited = False
    for name, block_bytes in BLOCK_BYTES.items():
        rows = max(block_bytes // (4 * WIDTH), 1)
        dataset = make_array(bench, n_bytes, rows)
        with memory_group(n_bytes // 4) as processes:
            limited = processes is not None

            def cold(
                io: str, readers: int, dataset: Path = dataset, group: Path | None = processes
            ) -> dict[str, Any]:
                drop_caches([dataset])
                arguments = [str(dataset), io, str(readers), str(group or "")]
                return python("-m", "tests.benchmarks.cold", "--read", *arguments).last_json()

            found[name] = bench.in_turn(
                {
                    f"{io}, {n} reader{'s' * (n > 1)}": lambda io=io, n=n: cold(io, n)
                    for io in ("pread", "mmap")
                    for n in (1, 2)
                }
            )
        # One size at a time on the disk.
        run_child(["rm", "-r", str(dataset)])
    return {"bytes": n_bytes, "limited": limited, "blocks": found}


def run_ahead(bench: Bench, n_bytes: int) -> dict[str, Any]:
    """Return seconds of one epoch, cold, for each way and size of blocks, and of `cat`."""
    found: dict[str, Any] = {}
    for name, block_bytes in AHEAD_BLOCK_BYTES.items():
        rows = block_bytes // (4 * WIDTH)
        dataset = make_array(bench, n_bytes, rows)

        def cold(way: tuple[str, int, int], dataset: Path = dataset) -> dict[str, Any]:
            drop_caches([dataset])
            io, readers, ahead = map(str, way)
            arguments = ["--read", str(dataset), io, readers, "", ahead]
            return python("-m", "tests.benchmarks.cold", *arguments).last_json()

        contenders: dict[str, Any] = {"cat": partial(_cat, dataset)}
        contenders |= {_told(way): partial(cold, way) for way in AHEAD_WAYS}
        found[name] = bench.in_turn(contenders)
        run_child(["rm", "-r", str(dataset)])
    return {"bytes": n_bytes, "blocks": found}


def _told(way: tuple[str, int, int]) -> str:
    io, readers, ahead = way
    return f"{io}, {readers}" + (f", {ahead >> 20} MiB ahead" if ahead else "")


def _cat(dataset: Path) -> dict[str, Any]:
    drop_caches([dataset])
    files = [str(p) for p in sorted((dataset / "train.zarr").rglob("c/*")) if p.is_file()]
    files += [str(p) for p in sorted((dataset / "train.zarr").rglob("c/*/0"))]
    command = ["sh", "-c", 'cat "$@" > /dev/null', "cat", *files]
    return {"seconds": run_child(command).seconds, "peak_bytes": 0}


def read_epoch(
    dataset: Path, io: str, readers: int, group: str, ahead: int | None = None
) -> dict[str, Any]:
    """Read one shuffled epoch in this process, inside of a control group if one is named."""
    from streamtrain import memory
    from streamtrain.library import open_dataset
    from streamtrain.reader import windows
    from streamtrain.reader.order import Cursor, OrderSettings
    from streamtrain.reader.stream import EpochReader

    if ahead is not None:
        windows.ReadAhead = partial(windows.ReadAhead, ahead_bytes=ahead)  # type: ignore[misc]
    if group:
        Path(group).write_text(str(os.getpid()))
    opened = open_dataset(dataset)
    block_rows = max(block.n_rows for _, block in opened.manifest.blocks("train"))
    window = max(1, 65_536 // block_rows)
    order = OrderSettings(opened.fingerprint, 1, window)
    n_rows = 0
    started = time.perf_counter()
    with EpochReader(
        opened, "train", order, batch_size=BATCH_SIZE, n_readers=readers, io=io
    ) as reader:
        for segment in reader.epoch(Cursor()):
            n_rows += segment.rows.n_rows
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "rows": n_rows, "peak_bytes": memory.peak_resident_bytes()}


def run_readers(bench: Bench, n_bytes: int, annbatch: str) -> dict[str, Any]:
    """Return seconds of one epoch of each reader, cold."""
    rows = 1024
    dataset = make_array(bench, n_bytes, rows)

    def cold(reader: str) -> dict[str, Any]:
        drop_caches([dataset])
        arguments = [str(dataset), reader]
        return python("-m", "tests.benchmarks.cold", "--rival", *arguments).last_json()

    def ours(io: str, n: int) -> dict[str, Any]:
        drop_caches([dataset])
        arguments = [str(dataset), io, str(n), ""]
        return python("-m", "tests.benchmarks.cold", "--read", *arguments).last_json()

    contenders = {
        "cat": partial(_cat, dataset),
        "streamtrain, pread, 1 reader": lambda: ours("pread", 1),
        "streamtrain, pread, 2 readers": lambda: ours("pread", 2),
        "streamtrain, mmap, 1 reader": lambda: ours("mmap", 1),
        "zarr-python, a chunk at a time": lambda: cold("zarr"),
        "zarr-python, 2 threads": lambda: cold("zarr-window"),
    }
    if _installed("zarrs"):
        contenders["zarr-python with zarrs, 2 threads"] = lambda: cold("zarrs")
    if annbatch:
        command = [annbatch, "-m", "tests.benchmarks.cold", "--rival", str(dataset), "annbatch"]

        def with_annbatch() -> dict[str, Any]:
            drop_caches([dataset])
            return run_child(command).last_json()

        contenders["annbatch with zarrs"] = with_annbatch
    return {"bytes": n_bytes, "contenders": bench.in_turn(contenders)}


def _installed(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


def read_rival(dataset: Path, reader: str) -> dict[str, Any]:
    """Read one epoch of shuffled batches with another reader, in windows of 64 chunks.

    The same shuffle as ours: chunks in a random order, the rows of 64 of them mixed.
    """
    import resource

    import zarr

    if reader in {"zarrs", "annbatch"}:
        import zarrs  # noqa: F401 (registers its pipeline)

        zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    group = zarr.open_group(str(dataset / "train.zarr"), mode="r")
    features, target = group["features"], group["target"]
    if reader == "annbatch":
        return _read_annbatch(features, target)
    chunk = features.chunks[0]
    n_chunks = -(-features.shape[0] // chunk)
    rng = np.random.default_rng(1)
    order = rng.permutation(n_chunks)
    n_rows = 0
    checksum = 0.0
    started = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        read = map if reader == "zarr" else pool.map
        for first in range(0, n_chunks, 64):
            some = order[first : first + 64]
            rows = np.concatenate(list(read(partial(_chunk, features, chunk), some)))
            y = np.concatenate(list(read(partial(_chunk, target, chunk), some)))
            mixed = rng.permutation(len(rows))
            for begin in range(0, len(rows), BATCH_SIZE):
                picks = mixed[begin : begin + BATCH_SIZE]
                checksum += float(rows[picks][0, 0]) + float(y[picks][0])
                n_rows += len(picks)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "rows": n_rows, "peak_bytes": peak}


def _read_annbatch(features: Any, target: Any) -> dict[str, Any]:
    """Read an epoch with annbatch, whose loader mixes the rows of 64 chunks as we do.

    Targets are what it calls observations, which it wants in memory.
    """
    import resource

    import pandas as pd
    from annbatch import Loader

    started = time.perf_counter()
    loader = Loader(
        chunk_size=features.chunks[0],
        preload_nchunks=64,
        batch_size=BATCH_SIZE,
        shuffle=True,
        rng=np.random.default_rng(1),
    )
    loader.add_dataset(features, obs=pd.DataFrame({"target": target[:]}))
    n_rows, checksum = 0, 0.0
    for batch in loader:
        rows = np.asarray(batch["X"])
        checksum += float(rows[0, 0]) + float(batch["obs"]["target"].iloc[0])
        n_rows += len(rows)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "rows": n_rows, "peak_bytes": peak}


def _chunk(array: Any, size: int, number: int) -> Any:
    return array[number * size : (number + 1) * size]


def render(result: dict[str, Any]) -> str:
    """Return the section of the page."""
    lines: list[str] = []
    if "io" in result:
        io = result["io"]
        how = (
            "in a memory control group of a quarter of the data"
            if io["limited"]
            else "with the page cache dropped (no control group could be made)"
        )
        lines += [
            f"One shuffled epoch of {io['bytes'] / 1e9:.1f} GB of Zarr (float32 rows of {WIDTH}), "
            f"cold, {how}, windows of 65,536 rows, every byte checked:",
            "",
            "| blocks | " + " | ".join(next(iter(io["blocks"].values()))) + " |",
            "|---|" + "---:|" * len(next(iter(io["blocks"].values()))),
        ]
        for name, found in io["blocks"].items():
            rates = [f"{io['bytes'] / f['seconds'] / 1e9:.2f}" for f in found.values()]
            lines.append(f"| {name}, GB/s | " + " | ".join(rates) + " |")
        lines.append("")
    if "ahead" in result:
        told = result["ahead"]
        lines += [
            f"One shuffled epoch of {told['bytes'] / 1e9:.1f} GB of Zarr (float32 rows of "
            f"{WIDTH}), cold, in turn, every byte checked, GB/s:",
            "",
            "| blocks of | " + " | ".join(next(iter(told["blocks"].values()))) + " |",
            "|---|" + "---:|" * len(next(iter(told["blocks"].values()))),
        ]
        for name, found in told["blocks"].items():
            rates = [f"{told['bytes'] / f['seconds'] / 1e9:.2f}" for f in found.values()]
            lines.append(f"| {name} | " + " | ".join(rates) + " |")
        lines.append("")
    if "readers" in result:
        found = result["readers"]
        cat = found["contenders"]["cat"]["seconds"]
        lines += [
            f"One shuffled epoch of {found['bytes'] / 1e9:.1f} GB of Zarr in chunks of 1 MB, cold, "
            "in turn. The same shuffle for all: chunks in a random order, 64 of them mixed. "
            "Ours checks every byte; the others check none.",
            "",
            "| | seconds | GB/s | speed / cat's | peak memory, MB |",
            "|---|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {name} | {f['seconds']:.2f} | {found['bytes'] / f['seconds'] / 1e9:.2f} | "
            f"{cat / f['seconds']:.2f} | {f['peak_bytes'] / 1e6:.0f} |"
            for name, f in found["contenders"].items()
        ]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    what, rest = sys.argv[1:2], sys.argv[2:]
    if what == ["--make"]:
        write_array(Path(rest[0]), int(rest[1]), int(rest[2]))
    elif what == ["--read"]:
        ahead = int(rest[4]) if len(rest) > 4 else None
        print(json.dumps(read_epoch(Path(rest[0]), rest[1], int(rest[2]), rest[3], ahead)))
    elif what == ["--rival"]:
        print(json.dumps(read_rival(Path(rest[0]), rest[1])))
    else:
        options = parser(__doc__)
        options.add_argument("--only", default="io,readers")
        options.add_argument("--bytes", default="4GB")
        options.add_argument("--annbatch", default="", metavar="PYTHON")
        options.add_argument("--work", type=Path, default=Path("benchmark-work"))
        given = options.parse_args()
        report(given, "cold", lambda: _run_given(given), render)


def _run_given(given: argparse.Namespace) -> dict[str, Any]:
    from streamtrain.config import parse_size

    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    bench = Bench(work, 0, given.repeats)
    n_bytes = parse_size(given.bytes)
    wanted = given.only.split(",")
    found: dict[str, Any] = {}
    if "io" in wanted:
        found["io"] = run_io(bench, n_bytes)
    if "readers" in wanted:
        found["readers"] = run_readers(bench, n_bytes, given.annbatch)
    if "ahead" in wanted:
        found["ahead"] = run_ahead(bench, n_bytes)
    return found


if __name__ == "__main__":
    main()
