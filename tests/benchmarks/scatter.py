"""Rows on their way to their places: tiles of several heights, when to shuffle, half precision.

    python -m tests.benchmarks.scatter [--repeats 5] [--json]

A tile's height is a constant of the kernel, so each is compiled in a process of its own, with a
cache of its own. Blocks of 8,192 rows go to random places of a window of 131,072 rows, one thread.
Row-major blocks are shuffled on arrival, each row scattered to its place, or on hand-over: copied
as they lie, and gathered by index to 4 MiB at a time, which a kernel would then use.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.bench import Bench
from tests.benchmarks.child import python
from tests.benchmarks.turns import parser, report

HEIGHTS = (16, 32, 64, 128, 256, 512, 1024)
SHAPES = {"13 numbers, 26 codes": (13, 26), "400 numbers": (400, 0), "2 numbers, 1 code": (2, 1)}
BLOCK_ROWS, N_BLOCKS, TURNS = 8192, 16, 12
PIECE_ROWS = (4 << 20) // 160


def measure_tile(height: int, n_numeric: int, n_fields: int) -> dict[str, float]:
    """Return the least nanoseconds a row in tiles of a height, of all but the first turn."""
    from streamtrain.kernels import scatter

    scatter._TILE_ROWS = scatter._LEAST_ROWS = height
    rng = np.random.default_rng(0)
    n, stride = BLOCK_ROWS * N_BLOCKS, 4 * BLOCK_ROWS + 100
    blocks = [np.zeros(stride * (n_numeric + n_fields + 1), np.uint8) for _ in range(4)]
    window = (
        np.zeros((n, n_numeric), np.float32), np.zeros((n, n_fields), np.int32),
        np.zeros(n, np.float32), np.empty(0, np.float32), np.empty(0, np.float32),
    )  # fmt: skip
    places = rng.permutation(n).astype(np.int32)
    limits = np.full(n_fields, 100, np.int32)
    taken = []
    for _ in range(TURNS):
        started = time.perf_counter()
        for b in range(N_BLOCKS):
            scatter.scatter_block(
                blocks[b % 4], BLOCK_ROWS, stride, places[b * BLOCK_ROWS : (b + 1) * BLOCK_ROWS],
                *window, limits,
            )  # fmt: skip
        taken.append(time.perf_counter() - started)
    return {"ns": min(taken[1:]) / n * 1e9}


def measure_shuffling() -> dict[str, float]:
    """Return the nanoseconds a row of both ways to shuffle, the least of all but the first turn."""
    from streamtrain.kernels.scatter import scatter_rows

    rng = np.random.default_rng(0)
    n, n_numeric, n_fields = BLOCK_ROWS * N_BLOCKS, *SHAPES["13 numbers, 26 codes"]
    none = np.empty(0, np.float32)
    limits = np.full(n_fields, 100, np.int32)

    def rows(count: int) -> tuple[Any, Any, Any]:
        return (
            np.zeros((count, n_numeric), np.float32),
            np.zeros((count, n_fields), np.int32),
            np.zeros(count, np.float32),
        )

    def copy(source: tuple[Any, Any, Any], places: Any, out: tuple[Any, Any, Any]) -> None:
        scatter_rows(*source, none, none, limits, places, *out, none, none)

    blocks, window, piece = [rows(BLOCK_ROWS) for _ in range(4)], rows(n), rows(PIECE_ROWS)
    places = rng.permutation(n).astype(np.int32)
    index, as_they_lie = np.argsort(places), np.arange(n, dtype=np.int32)

    def fill(order: Any) -> None:
        for b in range(N_BLOCKS):
            copy(blocks[b % 4], order[b * BLOCK_ROWS : (b + 1) * BLOCK_ROWS], window)

    def hand_over() -> None:
        fill(as_they_lie)
        for at in range(0, n, PIECE_ROWS):
            some = index[at : at + PIECE_ROWS]
            for source, out in zip(window, piece, strict=True):
                np.take(source, some, axis=0, out=out[: len(some)], mode="clip")

    def best(run: Any) -> float:
        return min([_seconds(run) for _ in range(TURNS)][1:]) / n * 1e9

    return {
        "copied as they lie": best(lambda: fill(as_they_lie)),
        "scattered on arrival": best(lambda: fill(places)),
        "copied, gathered on hand-over": best(hand_over),
    }


def _seconds(run: Any) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def measure_widening() -> dict[str, float]:
    """Return billions of values a second of NumPy and of ours, the best of many turns."""
    from streamtrain.kernels.widen import widen_half

    half = np.random.default_rng(0).normal(size=1 << 20).astype(np.float16)
    wide = np.empty(half.shape, np.float32)
    best = {"NumPy": np.inf, "streamtrain": np.inf}
    for _ in range(100):
        for name, run in (
            ("NumPy", lambda: np.copyto(wide, half)),
            ("streamtrain", lambda: widen_half(half.view(np.uint16), wide)),
        ):
            best[name] = min(best[name], _seconds(run))
    return {name: len(half) / seconds / 1e9 for name, seconds in best.items()}


def run(bench: Bench) -> dict[str, Any]:
    """Measure every height and shape in turn, then widening."""
    tiles = {}
    with tempfile.TemporaryDirectory() as cache:

        def child(height: int, shape: tuple[int, int]) -> dict[str, Any]:
            place = Path(cache) / str(height)
            place.mkdir(exist_ok=True)
            arguments = ["--tile", str(place), *map(str, (height, *shape))]
            return python("-m", "tests.benchmarks.scatter", *arguments).last_json()

        for name, shape in SHAPES.items():
            tiles[name] = bench.in_turn({str(h): partial(child, h, shape) for h in HEIGHTS})
    return {
        "tiles": tiles,
        "shuffling": measure_shuffling(),
        "widening": measure_widening(),
    }


def render(result: dict[str, Any]) -> str:
    """Return the section of the page."""
    lines = [
        "ns a row, one thread, medians over processes of the least of their turns:",
        "",
        "| tiles of | " + " | ".join(map(str, HEIGHTS)) + " |",
        "|---|" + "---:|" * len(HEIGHTS),
    ]
    for name, found in result["tiles"].items():
        cells = [
            f"{found[str(h)]['ns']:.{0 if found[str(h)]['ns'] >= 10 else 1}f}" for h in HEIGHTS
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    shuffled = ", ".join(f"{name} {ns:.0f}" for name, ns in result["shuffling"].items())
    rates = result["widening"]
    lines += [
        "",
        f"Rows that lie as rows, 13 numbers and 26 codes, ns a row: {shuffled}.",
        "",
        f"float16 to float32, billions of values a second: NumPy {rates['NumPy']:.2f}, streamtrain "
        f"{rates['streamtrain']:.2f}.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--tile"]:
        # Before anything of ours is imported.
        os.environ["STREAMTRAIN_CACHE_DIR"] = sys.argv[2]
        print(json.dumps(measure_tile(*map(int, sys.argv[3:6]))))
        return
    given = parser(__doc__).parse_args()
    report(given, "scatter", lambda: run(Bench(Path(), 0, given.repeats)), render)


if __name__ == "__main__":
    main()
