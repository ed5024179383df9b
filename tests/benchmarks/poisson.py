"""Poisson regression with exposures against scikit-learn's: the same coefficients.

    python -m tests.benchmarks.poisson [--rows 200000] [--work DIR]

Rows are made, ingested and trained on by the commands that people type; scikit-learn
fits the rates of the same train split, weighted by their exposures, without a penalty.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.benchmarks.child import streamtrain

# Mean, spread and coefficient of each column: the tool standardises, the data do not.
COLUMNS = {
    "age": (45.0, 15.0, -0.02),
    "power": (90.0, 30.0, 0.006),
    "bonus": (0.6, 0.2, 1.5),
    "distance": (12_000.0, 6_000.0, 4e-5),
    "noise": (0.0, 1.0, 0.1),
}
INTERCEPT = -2.0
TRAIN = (
    "--loss", "poisson", "--optimizer", "adam", "--lr", "0.01", "--schedule", "cosine",
    "--epochs", "30", "--batch-size", "2048",
)  # fmt: skip


def write_rows(path: Path, n_rows: int) -> None:
    """Write claims of a known process as CSV."""
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(m, s, n_rows) for m, s, _ in COLUMNS.values()], axis=1)
    exposure = rng.uniform(0.05, 2.0, n_rows)
    score = INTERCEPT + x @ np.array([c for *_, c in COLUMNS.values()])
    claims = rng.poisson(exposure * np.exp(score))
    np.savetxt(
        path,
        np.column_stack([x, exposure, claims]),
        delimiter=",",
        header=",".join([*COLUMNS, "years", "claims"]),
        comments="",
        fmt=["%.6g"] * (len(COLUMNS) + 1) + ["%d"],
    )


def ours(work: Path) -> tuple[np.ndarray, float]:
    """Train, and return (intercept and coefficients of columns as they are, seconds)."""
    from streamtrain.model_file import load_model_file

    run = work / "run"
    shutil.rmtree(run, ignore_errors=True)
    done = streamtrain("train", str(work / "claims"), "--out", str(run), *TRAIN, "--json")
    file = load_model_file(run)
    a = file.architecture
    w = file.parameters[1 : 1 + len(a.mean)].astype(np.float64) * np.array(a.scale)
    intercept = float(file.parameters[0]) - w @ np.array(a.mean)
    names = [c.name for c in file.schema.numeric]
    order = [names.index(name) for name in COLUMNS]
    return np.array([intercept, *w[order]]), done.last_json()["seconds"]


def theirs(dataset: Path) -> tuple[np.ndarray, float]:
    """Fit scikit-learn to the train split, and return the same."""
    from sklearn.linear_model import PoissonRegressor

    from streamtrain.library import open_dataset

    opened = open_dataset(dataset)
    names = [c.name for c in opened.schema.numeric]
    rows, _ = next(opened.batches(opened.n_rows("train"), shuffle=False, memory="2GB"))
    x = rows.numeric.astype(np.float64)[:, [names.index(name) for name in COLUMNS]]
    mean, spread = x.mean(axis=0), x.std(axis=0)
    exposure = rows.exposure.astype(np.float64)
    started = time.perf_counter()
    model = PoissonRegressor(alpha=0.0, solver="newton-cholesky", tol=1e-10, max_iter=1000)
    model.fit((x - mean) / spread, rows.target / exposure, sample_weight=exposure)
    seconds = time.perf_counter() - started
    w = model.coef_ / spread
    return np.array([model.intercept_ - w @ mean, *w]), seconds


def main() -> None:
    """Print both sets of coefficients, and how far ours are from theirs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="poisson-"))
    work.mkdir(parents=True, exist_ok=True)
    write_rows(work / "claims.csv", given.rows)
    streamtrain(
        "ingest", str(work / "claims.csv"), "--out", str(work / "claims"), "--target", "claims",
        "--exposure", "years", "--overwrite", "--json",
    )  # fmt: skip
    (found, seconds), (expected, their_seconds) = ours(work), theirs(work / "claims")
    test = streamtrain("evaluate", str(work / "run"), "--split", "test", "--json").last_json()
    truth = [INTERCEPT, *(c for *_, c in COLUMNS.values())]
    print(f"{'':<10}{'streamtrain':>14}{'scikit-learn':>14}{'apart':>9}{'truth':>12}")
    for name, a, b, t in zip(["intercept", *COLUMNS], found, expected, truth, strict=True):
        print(f"{name:<10}{a:>14.6g}{b:>14.6g}{abs(a / b - 1):>9.3%}{t:>12.6g}")
    worst = np.abs(found / expected - 1).max()
    print(f"worst {worst:.3%} (goal 1 %); {seconds:.1f} s and {their_seconds:.1f} s")
    print(f"test deviance {test['deviance']:.5f}, explained {test['d2']:.4f}")
    if given.work is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
