"""Training from shards on disk, shuffled, against the same kernels on arrays in memory."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.bench import THREADS, Bench
from tests.benchmarks.child import drop_caches, python

BATCH_SIZES = (256, 1024, 8192)
STREAMED, COLD = "streamed from shards, files cached", "streamed from shards, files cold"
READY, GATHERED = "arrays, shuffled beforehand", "arrays, gathered by index beside training"
PACKED = "arrays, gathered by index in turn"
BESIDE = "streamed by a thread beside training"


def run(bench: Bench) -> dict[str, Any]:
    """Return rows a second of one epoch for each source and batch size."""
    dataset = bench.dataset()
    sizes = {}
    for size in BATCH_SIZES:
        done = python(
            "-m", "tests.benchmarks.streaming", str(dataset), str(size), str(bench.repeats)
        )
        sizes[str(size)] = done.last_json()
    return {"sizes": sizes}


def main() -> None:
    """Measure one batch size in this process."""
    from streamtrain.kernels.bags import no_bags
    from streamtrain.kernels.team import Team
    from streamtrain.library import open_dataset
    from streamtrain.model.architecture import plan_architecture
    from streamtrain.model.linear import LinearModel
    from streamtrain.optim.optimizers import OptimizerSettings, make_rule
    from streamtrain.reader.order import Cursor, OrderSettings
    from streamtrain.reader.prefetch import prefetch
    from streamtrain.reader.stream import EpochReader, choose_window_blocks
    from streamtrain.reader.windows import Rows, row_bytes

    path, size, repeats = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    dataset = open_dataset(path)
    team = Team(THREADS)
    architecture = plan_architecture(dataset.schema, model="linear", loss=None)
    model = LinearModel(architecture, team, batch_size=size)
    block_rows = [block.n_rows for _, block in dataset.manifest.blocks("train")]
    blocks = choose_window_blocks(block_rows, row_bytes=row_bytes(dataset), budget_bytes=1 << 30)
    n_rows, window = sum(block_rows), blocks * max(block_rows) // size * size
    order = OrderSettings(dataset.fingerprint, 1, blocks)

    def segments(seed: int, *, depth: int = 0, n_readers: int = THREADS) -> Iterator[Any]:
        settings = OrderSettings(dataset.fingerprint, seed, blocks)
        with EpochReader(
            dataset, "train", settings, batch_size=size, depth=depth, n_readers=n_readers
        ) as reader:
            for segment in reader.epoch(Cursor()):
                yield segment.rows

    def copy_all() -> Any:
        whole = Rows(
            np.empty((n_rows, len(architecture.mean)), np.float32),
            np.empty((n_rows, len(architecture.cardinalities)), np.int32),
            np.empty(n_rows, np.float32),
            np.empty(0, np.float32),
            np.empty(0, np.float32),
            no_bags(n_rows),
        )
        at = 0
        for rows in segments(order.seed):
            whole.put(at, rows)
            at += rows.n_rows
        return whole

    def ready() -> Iterator[Any]:
        for start in range(0, n_rows, window):
            yield arrays.slice(start, min(start + window, n_rows))

    def gathers(n_threads: int) -> Iterator[Any]:
        permutation = np.random.default_rng(1).permutation(n_rows)
        for number, start in enumerate(range(0, n_rows, window)):
            index = permutation[start : start + window]
            buffer = buffers[number % len(buffers)].slice(0, len(index))
            half = -(-len(index) // n_threads)
            parts = [(a, min(a + half, len(index))) for a in range(0, len(index), half)]
            list(pool.map(partial(take, buffer, index), parts))
            yield buffer

    def take(buffer: Any, index: Any, part: tuple[int, int]) -> None:
        some = slice(*part)
        for source, out in (
            (arrays.numeric, buffer.numeric),
            (arrays.codes, buffer.codes),
            (arrays.target, buffer.target),
        ):
            np.take(source, index[some], axis=0, out=out[some], mode="clip")

    def train(source: Callable[[], Iterator[Any]]) -> float:
        parameters = model.initial_parameters(0)
        rule = make_rule(
            OptimizerSettings(),
            n_parameters=model.layout.n_parameters,
            n_dense=model.layout.n_dense,
            n_table_rows=model.layout.n_table_rows,
        )
        started = time.perf_counter()
        seen = step = 0
        for rows in source():
            n_batches = -(-rows.n_rows // size)
            step += model.take_steps(
                parameters,
                rule,
                numeric=rows.numeric,
                codes=rows.codes,
                target=rows.target,
                weight=rows.weight,
                batch_size=size,
                step=step,
                rates=np.full(n_batches, 0.05),
                step_sums=np.zeros((n_batches, 2)),
            )
            seen += rows.n_rows
        assert seen == n_rows
        return n_rows / (time.perf_counter() - started)

    pool = ThreadPoolExecutor(THREADS)
    arrays = copy_all()
    buffers = [copy_window(arrays, window) for _ in range(3)]
    contenders: dict[str, Callable[[], Iterator[Any]]] = {
        STREAMED: lambda: segments(1),
        BESIDE: lambda: segments(1, depth=1, n_readers=1),
        READY: ready,
        GATHERED: lambda: prefetch(gathers(1), depth=1),
        PACKED: lambda: gathers(THREADS),
        COLD: lambda: segments(1),
    }
    train(ready)  # loads the kernels
    found: dict[str, list[float]] = {name: [] for name in contenders}
    how = ""
    for _ in range(repeats):
        for name, source in contenders.items():
            if name == COLD:
                how = drop_caches([path])
            found[name].append(train(source))
    rates = {name: float(np.median(values)) for name, values in found.items()}
    print(json.dumps({"rows": n_rows, "rows_per_s": rates, "all": found, "cold_how": how}))


def copy_window(rows: Any, n_rows: int) -> Any:
    """Return a copy of the first rows (or of all, if there are fewer)."""
    part = rows.slice(0, min(n_rows, rows.n_rows))
    return type(rows)(
        part.numeric.copy(), part.codes.copy(), part.target.copy(), part.weight, part.exposure,
        part.bags,
    )  # fmt: skip


def render(result: dict[str, Any]) -> str:
    """Return the section of the page."""
    sizes = result["sizes"]
    first = next(iter(sizes.values()))
    lines = [
        f"One epoch over {first['rows']:,} rows in one process, {THREADS} computing threads, "
        "the same kernels, AdaGrad; kernels are loaded before the clock starts. Windows of "
        "131,072 rows are read, or gathered, by both threads in turn with training, or by one "
        "thread beside those two, a window ahead. "
        f"Cold: {first['cold_how']}. Goal: streaming at least 0.7 of shuffled arrays.",
        "",
        f"| M rows/s, batch size | {' | '.join(sizes)} |",
        "|---|" + "---:|" * len(sizes),
    ]
    for name in (STREAMED, BESIDE, COLD, READY, GATHERED, PACKED):
        rates = [f"{found['rows_per_s'][name] / 1e6:.2f}" for found in sizes.values()]
        lines.append(f"| {name} | {' | '.join(rates)} |")
    for name in (STREAMED, COLD):
        for rival in (READY, GATHERED, PACKED):
            ratios = [
                f"{found['rows_per_s'][name] / found['rows_per_s'][rival]:.2f}"
                for found in sizes.values()
            ]
            lines.append(f"| *{name} / {rival}* | {' | '.join(ratios)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
