"""Census income: does a person earn more than 50,000 dollars?

    python -m tests.benchmarks.adult ADULT.CSV [--work DIR] [--seeds 0,1,2]

The file has a header and 15 columns; `?` means missing, and the target is `income`.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.child import streamtrain

# Chosen on the validation split (docs/decisions/0004-defaults.md).
INGEST = ("--missing", "?,")
TRAIN = ("--optimizer", "adagrad", "--lr", "0.05", "--epochs", "20", "--batch-size", "256")


def ingest_adult(source: Path, folder: Path, *, seed: int = 0) -> tuple[Path, dict[str, Any]]:
    """Ingest the file into a folder; return the dataset and ingest's report."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = folder / f"adult-{seed}"
    report = streamtrain(
        "ingest", str(source), "--out", str(dataset), "--target", "income", *INGEST,
        "--seed", str(seed), "--split", "valid=0.1,test=0.1", "--overwrite", "--json",
    ).last_json()  # fmt: skip
    return dataset, report


def main() -> None:
    """Ingest, train, and print accuracy and AUC of the test split for several seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--seeds", default="0,1,2,3,4", help="Of splits and of training.")
    given, extra = parser.parse_known_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="adult-"))
    figures: dict[str, list[float]] = {"accuracy": [], "auc": [], "loss": []}
    for seed in given.seeds.split(","):
        dataset, report = ingest_adult(given.source, work, seed=int(seed))
        run = work / f"adult-run-{seed}"
        shutil.rmtree(run, ignore_errors=True)
        streamtrain(
            "train", str(dataset), "--out", str(run), "--seed", seed, *TRAIN, *extra, "--json"
        )
        test = streamtrain("evaluate", str(run), "--split", "test", "--json").last_json()
        for name, values in figures.items():
            values.append(test[name])
        print(
            f"seed {seed}: {report['rows_read']:,} rows read, {report['rows_rejected']} rejected; "
            f"test accuracy {test['accuracy']:.4f}, auc {test['auc']:.4f}, loss {test['loss']:.4f}"
        )
    mean = {name: statistics.mean(values) for name, values in figures.items()}
    print(f"mean: accuracy {mean['accuracy']:.4f} (goal 0.850), auc {mean['auc']:.4f} (goal 0.903)")
    if given.work is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
