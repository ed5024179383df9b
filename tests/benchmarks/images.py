"""A network on images from disk: ours from Zarr, PyTorch from a memory-mapped array.

    python -m tests.benchmarks.images [--rows 60000] [--epochs 5] [--repeats 3] [--json]

Rows are made: 28 x 28 bytes, ten shapes that are moved, dimmed and covered with noise, so that
a network of one hidden layer makes some mistakes. Both train 784-256-10 with ReLU, Adam, batches
of 256, the same epochs and threads, each at its best of four rates on 10,000 images that are not
those of the table; each run is a process of its own. The clock runs from the first read to the last
update; programs and kernels are loaded before, and the files are in the page cache.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.bench import THREADS, Bench
from tests.benchmarks.child import python, streamtrain
from tests.benchmarks.turns import parser, report

SIDE, N_CLASSES = 28, 10
HIDDEN, BATCH_SIZE = 256, 256
RATES = (0.0005, 0.001, 0.002, 0.003)
SEARCH, TEST = 2, 1
"""Seeds of images to choose a rate by, and to show."""
OURS = "streamtrain"
WAYS = {
    "PyTorch, rows one by one, no workers": ("rows", 0),
    "PyTorch, rows one by one, 2 workers": ("rows", 2),
    "PyTorch, batches of indices, no workers": ("batches", 0),
    "PyTorch, batches of indices, 2 workers": ("batches", 2),
}


def make_images(n_rows: int, seed: int) -> tuple[Any, Any]:
    """Return (n, 28, 28) uint8 images and (n,) uint8 digits."""
    shapes = np.random.default_rng(7).random((N_CLASSES, 7, 7)).repeat(4, axis=1).repeat(4, axis=2)
    rng = np.random.default_rng(seed)
    digits = rng.integers(0, N_CLASSES, n_rows)
    images = np.empty((n_rows, SIDE, SIDE), np.uint8)
    for first in range(0, n_rows, 4096):
        part = digits[first : first + 4096]
        values = shapes[part] * rng.uniform(0.3, 1.0, (len(part), 1, 1))
        for axis in (1, 2):
            moved = rng.integers(-3, 4, len(part))
            for by in range(-3, 4):
                chosen = moved == by
                values[chosen] = np.roll(values[chosen], by, axis=axis)
        noisy = 255 * values + rng.normal(0, 90, values.shape)
        images[first : first + 4096] = np.clip(noisy, 0, 255)
    return images, digits.astype(np.uint8)


def run(bench: Bench, *, epochs: int) -> dict[str, Any]:
    """Run every contender in turn."""
    folder = bench.work / f"images-{bench.n_rows}"
    if not (folder / "dataset" / "dataset.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        images, digits = make_images(bench.n_rows, 0)
        np.save(folder / "images.npy", images)
        np.save(folder / "digits.npy", digits)
        streamtrain(
            "ingest", str(folder / "images.npy"), "--target-file", str(folder / "digits.npy"),
            "--format", "zarr", "--split", "none", "--out", str(folder / "dataset"),
            "--overwrite",
        )  # fmt: skip
    rates = {
        OURS: _best(lambda rate: _ours(bench, folder, epochs, rate)),
        "PyTorch": _best(lambda rate: _torch(folder, ("batches", 0), epochs, rate)),
    }
    names = {OURS: lambda: _ours(bench, folder, epochs, rates[OURS])} | {
        name: lambda way=way: _torch(folder, way, epochs, rates["PyTorch"])
        for name, way in WAYS.items()
    }
    return {
        "rows": bench.n_rows,
        "epochs": epochs,
        "rates": rates,
        "contenders": bench.in_turn(names),
    }


def _best(run: Callable[[float], dict[str, Any]]) -> float:
    return max(RATES, key=lambda rate: run(rate)["searched"])


def _torch(folder: Path, way: tuple[str, int], epochs: int, rate: float) -> dict[str, Any]:
    arguments = ["--torch", str(folder), *map(str, (*way, epochs, rate))]
    return python("-m", "tests.benchmarks.images", *arguments).last_json()


def _ours(bench: Bench, folder: Path, epochs: int, rate: float) -> dict[str, Any]:
    out = bench.fresh("images-run")
    ended = streamtrain(
        "train", str(folder / "dataset"), "--out", str(out), "--model", "mlp",
        "--hidden", str(HIDDEN), "--activation", "relu", "--dropout", "0", "--optimizer", "adam",
        "--lr", str(rate), "--l2", "0", "--schedule", "constant", "--epochs", str(epochs),
        "--batch-size", str(BATCH_SIZE), "--threads", str(THREADS), "--early-stop", "0",
        "--checkpoint-every", "1000000", "--json",
    )  # fmt: skip
    done = ended.last_json()
    from streamtrain import load_model

    model = load_model(str(out))
    return {
        "seconds": done["rows"] / done["rows_per_s"],
        **_accuracies(lambda images: model.predict(images).argmax(axis=1)),
        "peak_bytes": done["peak_rss_bytes"],
    }


def _accuracies(classes_of: Callable[[Any], Any]) -> dict[str, float]:
    found = {}
    for name, seed in (("accuracy", TEST), ("searched", SEARCH)):
        images, digits = make_images(10_000, seed)
        found[name] = float((classes_of(images) == digits).mean())
    return found


def train_torch(folder: Path, way: str, workers: int, epochs: int, rate: float) -> dict[str, Any]:
    """Train PyTorch's network from a memory-mapped array through a DataLoader."""
    import resource

    import torch
    from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    images = np.load(folder / "images.npy", mmap_mode="r")
    digits = np.load(folder / "digits.npy", mmap_mode="r")

    class Mapped(Dataset):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: Any) -> tuple[Any, Any]:
            x = torch.from_numpy(np.asarray(images[index]).copy())
            return x, torch.as_tensor(digits[index].astype(np.int64))

    data = Mapped()
    more = {"num_workers": workers, "persistent_workers": workers > 0}
    if way == "rows":
        loader = DataLoader(data, batch_size=BATCH_SIZE, shuffle=True, **more)
    else:
        sampler = BatchSampler(RandomSampler(data), BATCH_SIZE, drop_last=False)
        loader = DataLoader(data, sampler=sampler, batch_size=None, **more)
    mean, deviation = _statistics(images)
    network = torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(SIDE * SIDE, HIDDEN),
        torch.nn.ReLU(),
        torch.nn.Linear(HIDDEN, N_CLASSES),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, fused=True)
    loss_of = torch.nn.CrossEntropyLoss()

    def prepared(x: Any) -> Any:
        return (x.float() - mean) / deviation

    x, y = next(iter(loader))
    with torch.no_grad():
        loss_of(network(prepared(x)), y)  # loads what the first step would
    started = time.perf_counter()
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad(set_to_none=True)
            loss_of(network(prepared(x)), y).backward()
            optimizer.step()
    seconds = time.perf_counter() - started
    with torch.no_grad():
        accuracies = _accuracies(
            lambda some: network(prepared(torch.from_numpy(some))).argmax(dim=1).numpy()
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": seconds,
        **accuracies,
        "peak_bytes": peak,
    }


def _statistics(images: Any) -> tuple[float, float]:
    some = np.asarray(images[:10_000], np.float32)
    return float(some.mean()), float(some.std())


def render(result: dict[str, Any]) -> str:
    """Return the section of the page."""
    runs = result["contenders"]
    ours = runs[OURS]["seconds"]
    lines = [
        f"A network 784-{HIDDEN}-10 (ReLU, Adam, batches of {BATCH_SIZE}, each at its best of the "
        f"rates {', '.join(map(str, RATES))}: streamtrain's {result['rates'][OURS]}, PyTorch's "
        f"{result['rates']['PyTorch']}) on "
        f"{result['rows']:,} made images of 28 x 28 bytes, {result['epochs']} epochs, "
        f"{THREADS} threads each, contenders in turn, files in the page cache. streamtrain reads "
        "chunks of a Zarr array, every byte checked; PyTorch a memory-mapped .npy through its "
        "DataLoader. Weights start alike, and bytes enter both with mean 0 and deviation 1. Peak "
        "memory is the whole process's, mapped pages included.",
        "",
        "| | seconds | K rows/s | accuracy on 10,000 others | peak memory, MB | "
        "time / streamtrain's |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, found in runs.items():
        rate = result["rows"] * result["epochs"] / found["seconds"] / 1e3
        lines.append(
            f"| {name} | {found['seconds']:.2f} | {rate:.0f} | {found['accuracy']:.4f} | "
            f"{found['peak_bytes'] / 1e6:.0f} | {found['seconds'] / ours:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--torch"]:
        folder, way, workers, epochs, rate = sys.argv[2:]
        found = train_torch(Path(folder), way, int(workers), int(epochs), float(rate))
        print(json.dumps(found))
        return
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=60_000)
    options.add_argument("--epochs", type=int, default=5)
    options.add_argument("--work", type=Path, default=Path("benchmark-work"))
    given = options.parse_args()
    report(given, "images", lambda: _run_given(given), render)


def _run_given(given: argparse.Namespace) -> dict[str, Any]:
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    return run(Bench(work, given.rows, given.repeats), epochs=given.epochs)


if __name__ == "__main__":
    main()
