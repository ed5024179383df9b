"""Seconds and memory to a given test loss: our network, PyTorch's and scikit-learn's.

    python -m tests.benchmarks.target_loss [--rows 400000] [--target-share 0.8] [--json]

The same network, optimizer, rate and batch size on the same rows in memory; each contender is a
process of its own for every seed. The clock stops while the test loss is looked at.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from tests.benchmarks.made_rows import MadeRows, log_loss, make_numeric_rows
from tests.benchmarks.turns import OURS, Turns, parser, report, say, turns

HIDDEN = (64, 64)
BATCH_SIZE = 256
LR = 1e-3
N_ROWS = 400_000
N_TEST = 50_000
# Of the way from guessing to the teacher's own loss.
TARGET_SHARE = 0.8
LOOK_STEPS = 100
MOST_S = 300.0
SKLEARN = "scikit-learn MLPClassifier.partial_fit"


def run(how: Turns, *, n_rows: int = N_ROWS, share: float = TARGET_SHARE) -> dict[str, Any]:
    """Run every contender with every seed, in turn."""
    from tests.benchmarks.bench import medians
    from tests.benchmarks.torch_rival import EAGER, way_name

    names = [OURS, EAGER, *map(way_name, how.compile), SKLEARN]
    ways = {EAGER: None} | {way_name(way): way for way in how.compile}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for seed in range(how.repeats):
        for name in names:
            settings = {
                "name": name, "way": ways.get(name), "seed": seed, "threads": how.threads,
                "rows": n_rows, "share": share,
            }  # fmt: skip
            found[name].append(_child(settings))
            say(f"{name}, seed {seed}: {found[name][-1]}")
    runs = {
        name: {**medians(records), "reached": all(record["reached"] for record in records)}
        for name, records in found.items()
    }
    return {
        "threads": how.threads,
        "repeats": how.repeats,
        "rows": n_rows,
        "share": share,
        "target": runs[OURS]["target"],
        "best_loss": runs[OURS]["best_loss"],
        "contenders": runs,
    }


def _child(settings: dict[str, Any]) -> dict[str, Any]:
    from tests.benchmarks.child import python

    # scikit-learn's products are numpy's: their threads are set as the others' are.
    threads = {
        name: str(settings["threads"])
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    }
    ended = python(
        "-m", "tests.benchmarks.target_loss", "--child", json.dumps(settings), environment=threads
    )
    return {**ended.last_json(), "peak_bytes": ended.peak_bytes}


def train_to_target(settings: dict[str, Any]) -> dict[str, Any]:
    """Train one contender in this process until its test loss is reached."""
    whole = make_numeric_rows(settings["rows"] + N_TEST, n_numeric=28, seed=settings["seed"])
    rows, test = whole.slice(0, settings["rows"]), whole.slice(settings["rows"], len(whole))
    del whole
    guess = log_loss(test.target, [float(rows.target.mean())] * len(test))
    best = test.best_loss()
    target = guess - settings["share"] * (guess - best)
    contender = _contender(settings, rows)
    seconds, n_steps, loss = 0.0, 0, guess
    while loss > target and seconds < MOST_S:
        started = time.perf_counter()
        contender(LOOK_STEPS)
        seconds += time.perf_counter() - started
        n_steps += LOOK_STEPS
        loss = log_loss(test.target, contender.predict(test))
    return {
        "reached": loss <= target,
        "seconds": seconds,
        "steps": n_steps,
        "loss": loss,
        "target": target,
        "best_loss": best,
    }


def _contender(settings: dict[str, Any], rows: MadeRows) -> Any:
    """Return a contender whose code is compiled and loaded, before its first step."""
    name, seed, threads = settings["name"], settings["seed"], settings["threads"]

    if name == OURS:
        from tests.benchmarks.our_steps import OurSteps

        made = [
            OurSteps(
                rows, batch_size=BATCH_SIZE, model="mlp", hidden=HIDDEN, optimizer="adam", lr=LR,
                threads=threads, seed=seed,
            )
            for _ in range(2)
        ]  # fmt: skip
        made[0](3)
        return made[1]
    if name == SKLEARN:
        return SklearnSteps(rows, seed=seed)
    from tests.benchmarks.torch_rival import TorchNetwork

    network = TorchNetwork(
        rows, [rows.numeric.shape[1], *HIDDEN, 1], batch_size=BATCH_SIZE, threads=threads, lr=LR,
        way=settings["way"], seed=seed,
    )  # fmt: skip
    network.warm_up()
    return network


class SklearnSteps:
    """scikit-learn's network, given many batches in a call.

    `partial_fit` cuts what it is given into batches and takes a step on each, so one call costs
    its checks once for all of them.
    """

    def __init__(self, rows: MadeRows, *, seed: int) -> None:
        from sklearn.neural_network import MLPClassifier

        self._rows, self._at = rows, 0
        self._n_batches = len(rows) // BATCH_SIZE
        self._model = MLPClassifier(
            HIDDEN, activation="relu", solver="adam", alpha=0.0, batch_size=BATCH_SIZE,
            learning_rate_init=LR, shuffle=False, random_state=seed,
        )  # fmt: skip

    def __call__(self, n_steps: int) -> None:
        left = n_steps
        while left:
            n = min(left, self._n_batches - self._at)
            part = self._rows.slice(self._at * BATCH_SIZE, (self._at + n) * BATCH_SIZE)
            self._model.partial_fit(part.numeric, part.target, classes=[0.0, 1.0])
            left -= n
            self._at = (self._at + n) % self._n_batches

    def predict(self, rows: MadeRows) -> Any:
        """Return probabilities, (n,)."""
        return self._model.predict_proba(rows.numeric)[:, 1]


def render(result: dict[str, Any]) -> str:
    """Return the section of the page."""
    runs = result["contenders"]
    ours = runs[OURS]["seconds"]
    lines = [
        f"A network 28-{'-'.join(map(str, HIDDEN))}-1 (ReLU, logistic loss, Adam, rate {LR}, "
        f"batches of {BATCH_SIZE}) on {result['rows']:,} made rows in memory, to a test loss of "
        f"{result['target']:.4f}: {result['share']:.0%} of the way from guessing to the teacher's "
        f"own loss, {result['best_loss']:.4f}. {result['threads']} threads each, medians of "
        f"{result['repeats']} seeds, each in a process of its own. Compiling and looking at the "
        "test loss are not counted. Peak memory is the whole process's, the rows included.",
        "",
        "| | seconds | steps | time / streamtrain's | peak memory, MB |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, found in runs.items():
        seconds = f"{found['seconds']:.2f}" if found["reached"] else f"not in {MOST_S:.0f}"
        lines.append(
            f"| {name} | {seconds} | {found['steps']:,.0f} | {found['seconds'] / ours:.2f} | "
            f"{found['peak_bytes'] / 1e6:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(train_to_target(json.loads(sys.argv[2]))))
        return
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=N_ROWS)
    options.add_argument("--target-share", type=float, default=TARGET_SHARE)
    given = options.parse_args()
    report(given, "target", lambda: _run_given(given), render)


def _run_given(given: argparse.Namespace) -> dict[str, Any]:
    return run(turns(given), n_rows=given.rows, share=given.target_share)


if __name__ == "__main__":
    main()
