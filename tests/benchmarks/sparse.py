"""Sparse text rows in one pass, against Vowpal Wabbit at its best.

    python -m tests.benchmarks.sparse TRAIN.vw TEST.vw [--orders 5] [--work DIR] [--json]

Both read the same files. Each chooses its settings by cross-validation on TRAIN alone (five
folds, cut by line, each in two orders), then passes over TRAIN once, in several orders, and
is scored on TEST.
Labels are -1 and 1, the loss is the mean of log(1 + exp(-y score)).
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.child import clock

FOLDS, ORDERS = 5, 2
OURS = [
    {"optimizer": optimizer, "lr": lr, "batch_size": batch}
    for optimizer, rates in {
        "adagrad": (0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0),
        "ftrl": (0.2, 0.4, 0.7, 1.0, 2.0),
        "adam": (0.02, 0.05, 0.1, 0.2),
        "sgd": (3.0, 10.0, 30.0),
    }.items()
    for lr in rates
    for batch in (1, 4, 16)
]
THEIRS = [
    *(f"-l {lr} --power_t {p}" for lr in (0.1, 0.25, 0.5, 1, 2, 4, 8) for p in (0.5, 0.25, 0)),
    *(f"--adaptive --invariant -l {lr}" for lr in (0.1, 0.25, 0.5, 1, 2, 4)),
    *(f"--adaptive -l {lr}" for lr in (0.1, 0.25, 0.5, 1, 2, 4)),
    *(f"--sgd -l {lr} --power_t {p}" for lr in (1, 3, 10, 30) for p in (0.5, 0)),
    *(
        f"--ftrl --ftrl_alpha {alpha} --ftrl_beta {beta}"
        for alpha in (0.05, 0.1, 0.3, 1, 3)
        for beta in (0.0, 0.1, 1.0)
    ),
    "--coin",
]


def folds(lines: list[str]) -> Iterator[tuple[list[str], list[str]]]:
    """Yield (train, valid) lines."""
    for fold in range(FOLDS):
        held = set(range(fold, len(lines), FOLDS))
        yield (
            [line for i, line in enumerate(lines) if i not in held],
            [line for i, line in enumerate(lines) if i in held],
        )


def labels_of(lines: list[str]) -> np.ndarray:
    """Return -1 and 1."""
    return np.array([float(line.split(maxsplit=1)[0]) for line in lines])


def losses_of(lines: list[str], scores: np.ndarray) -> np.ndarray:
    """Return the loss of each row, (n,)."""
    return np.logaddexp(0.0, -labels_of(lines) * scores)


def accuracy_of(lines: list[str], scores: np.ndarray) -> float:
    """Return the share of rows on the right side of 0."""
    return float((labels_of(lines) * scores > 0).mean())


class Ours:
    """Streamtrain: files of lines become datasets once, and are trained on many times."""

    name = "streamtrain"
    grid = OURS

    def __init__(self, work: Path) -> None:
        self._work = work
        self._made: dict[int, tuple[Path, Path]] = {}

    def _files(self, train: list[str], test: list[str]) -> tuple[Path, Path]:
        import streamtrain as st

        key = hash((*train, "/", *test))
        if key not in self._made:
            folder = self._work / f"data-{len(self._made)}"
            folder.mkdir()
            for name, lines in (("train", train), ("test", test)):
                (folder / f"{name}.vw").write_text("".join(lines))
            st.ingest(folder / "train.vw", out=folder / "dataset", splits={}, memory="2GB")
            self._made[key] = folder / "dataset", folder / "test.vw"
        return self._made[key]

    def fit(self, setting: dict[str, Any], train: list[str], test: list[str], order: int) -> Any:
        """Return (scores of the test lines, seconds of training)."""
        import streamtrain as st
        from data_tools.raw_rows import read_encoded

        dataset, rows = self._files(train, test)
        run = self._work / "run"
        shutil.rmtree(run, ignore_errors=True)
        done = list(
            st.train(
                st.open_dataset(dataset), out=run, model="linear", epochs=1, seed=order,
                threads=1, memory="2GB", **setting,
            )
        )[-1]  # fmt: skip
        model = st.load_model(run, threads=1)
        pieces = read_encoded([str(rows)], model.encoder, threads=1)
        return np.concatenate([model.scores(p.rows)[:, 0] for p in pieces]), done["seconds"]


class Theirs:
    """Vowpal Wabbit, in this process."""

    name = "Vowpal Wabbit"
    grid = THEIRS

    def fit(self, setting: str, train: list[str], test: list[str], order: int) -> Any:
        """Return (scores of the test lines, seconds of training); order 0 is the file's."""
        from vowpalwabbit import Workspace

        picks = np.arange(len(train))
        if order:
            picks = np.random.default_rng(order).permutation(len(train))
        model = Workspace(f"--loss_function logistic --quiet -b 18 {setting}")

        def learn() -> None:
            for i in picks:
                model.learn(train[i])

        seconds, _ = clock(learn)
        # Without its label: prediction must not see it.
        scores = [model.predict(line[line.index("|") :]) for line in test]
        model.finish()
        return np.array(scores), seconds


def choose(learner: Any, lines: list[str], say: Callable[[str], None]) -> tuple[Any, float]:
    """Return the setting with the least mean loss over the folds, and that loss."""
    best: tuple[Any, float] = (None, np.inf)
    for setting in learner.grid:
        losses = [
            losses_of(valid, learner.fit(setting, train, valid, order)[0]).mean()
            for train, valid in folds(lines)
            for order in range(ORDERS)
        ]
        loss = float(np.mean(losses))
        if loss < best[1]:
            best = setting, loss
        say(f"{learner.name:<14} {loss:.4f}  {setting}")
    return best


def spelt(setting: Any) -> str:
    """Return a setting as people type it."""
    if isinstance(setting, str):
        return setting
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in setting.items())


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--orders", type=int, default=5)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--verbose", action="store_true", help="Print every setting.")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="sparse-", dir=given.work))
    train = given.train.read_text().splitlines(keepends=True)
    test = given.test.read_text().splitlines(keepends=True)
    found: dict[str, Any] = {}
    of_rows: list[np.ndarray] = []
    try:
        for learner in (Ours(work), Theirs()):
            setting, held = choose(learner, train, print if given.verbose else lambda _: None)
            runs = [learner.fit(setting, train, test, order) for order in range(given.orders)]
            losses = np.array([losses_of(test, scores) for scores, _ in runs])
            of_rows.append(losses.mean(axis=0))
            found[learner.name] = {
                "setting": spelt(setting),
                "folds_loss": held,
                "test_loss": float(losses.mean()),
                "test_losses": losses.mean(axis=1).tolist(),
                "accuracy": float(np.mean([accuracy_of(test, scores) for scores, _ in runs])),
                "seconds": float(np.median([seconds for _, seconds in runs])),
            }
    finally:
        shutil.rmtree(work)
    apart = of_rows[0] - of_rows[1]
    error = float(apart.std(ddof=1) / np.sqrt(len(apart)))
    if given.json:
        print(json.dumps({**found, "apart": float(apart.mean()), "standard_error": error}))
        return
    print(
        f"{len(train):,} rows to train, {len(test):,} to test; one pass, {given.orders} orders.\n"
    )
    print("| | chosen | loss of the folds | test loss | least to greatest | accuracy |")
    print("|---|---|---|---|---|---|")
    for name, row in found.items():
        low, high = min(row["test_losses"]), max(row["test_losses"])
        print(
            f"| {name} | `{row['setting']}` | {row['folds_loss']:.4f} | {row['test_loss']:.4f} "
            f"| {low:.4f} to {high:.4f} | {row['accuracy']:.3f} |"
        )
    print(f"\nOurs less theirs, row by row: {apart.mean():+.4f}, standard error {error:.4f}.")


if __name__ == "__main__":
    main()
