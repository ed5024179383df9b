"""The rivals of factorization machines, each in a process of its own: `vw --lrq` and xlearn.

    python -m tests.benchmarks.fm_rivals data OUT.csv ROWS
    python -m tests.benchmarks.fm_rivals vw-text DATASET SPLIT OUT
    python -m tests.benchmarks.fm_rivals libsvm DATASET SPLIT OUT
    python -m tests.benchmarks.fm_rivals xlearn FOLDER JSON

Both get what our model gets, as in `rivals`. xlearn is installed by hand (``pip install xlearn``
compiles it); where it is not there it is left out.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.made_rows import N_PAIRED, log_loss, make_click_rows, spaced_cardinalities
from tests.benchmarks.rivals import Features

WIDTH = 8
N_LATENT = 2
LARGEST = 100_000
# `--lrq` keeps the k-th latent number of a feature k places after its weight.
SPACING = WIDTH + 1


def write_rows(out: Path, n_rows: int) -> dict[str, Any]:
    """Write a made click log whose categories act in pairs, as CSV."""
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    rows = make_click_rows(n_rows, spaced_cardinalities(high=LARGEST), n_latent=N_LATENT)
    columns = {f"n{j}": rows.numeric[:, j].round(4) for j in range(rows.numeric.shape[1])}
    columns |= {f"c{f}": rows.codes[:, f] for f in range(rows.codes.shape[1])}
    columns["click"] = rows.target.astype(np.int8)
    pa_csv.write_csv(pa.table(columns), out)
    return {
        "rows": n_rows,
        "best_loss": rows.best_loss(),
        "categorical": ",".join(name for name in columns if name[0] == "c" and name != "click"),
    }


def write_vw_text(dataset: Path, split: str, out: Path) -> None:
    """Write a split for Vowpal Wabbit, in namespaces that `--lrq` can cross.

    Numbers are in n, the categories that do act in pairs in p, the others in c. Categories have
    the value 1 / sqrt(F) instead of 1: `--lrq` starts from latent numbers that are all positive,
    so that the products of many pairs of ones swamp what it learns (one pass over 80,000 rows,
    all pairs: a loss of 0.78 at best with ones, 0.64 with these). The linear part is normalised.
    """
    features = Features(dataset)
    d = features.n_columns - features.n_fields
    scale = f"{features.n_fields**-0.5:.3f}"
    with out.open("w", encoding="ascii") as file:
        for indices, values, target in features.batches(split):
            spaced = (indices * SPACING).tolist()
            for row, (own, numbers) in enumerate(zip(spaced, values.tolist(), strict=True)):
                left = " ".join(f"{own[j]}:{numbers[j]:.7g}" for j in range(d))
                pairing = " ".join(map(str, own[d : d + N_PAIRED]))
                others = " ".join(map(str, own[d + N_PAIRED :]))
                label = "1" if target[row] else "-1"
                file.write(f"{label} |n {left} |p:{scale} {pairing} |c:{scale} {others}\n")


def write_libsvm(dataset: Path, split: str, out: Path) -> None:
    """Write a split as libsvm text, targets 0 and 1."""
    with out.open("w", encoding="ascii") as file:
        for indices, values, target in Features(dataset).batches(split):
            for y, own, numbers in zip(
                target.tolist(), indices.tolist(), values.tolist(), strict=True
            ):
                cells = [f"{i}:{v:.7g}" for i, v in zip(own, numbers, strict=True)]
                file.write(f"{y} {' '.join(cells)}\n")


def has_xlearn() -> bool:
    """Return whether xlearn is installed."""
    return importlib.util.find_spec("xlearn") is not None


def run_xlearn(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Train one epoch from xlearn's binary cache, as its own loop does, then measure the losses.

    Parameters
    ----------
    folder : Path
        train.libsvm, valid.libsvm and test.libsvm; xlearn keeps its cache beside each.
    settings : dict
        threads, and xlearn's own: lr, lambda, opt; norm for its normalisation of rows.
    """
    # It asks for the user's name to name its log, and ends the process where there is none.
    os.environ.setdefault("USER", "bench")
    import xlearn

    norm = settings.pop("norm", True)
    model_file = str(folder / "xlearn.model")
    model = xlearn.create_fm()
    model.setQuiet()
    model.setTrain(str(folder / "train.libsvm"))
    if not norm:
        model.disableNorm()
    started = time.perf_counter()
    model.fit(
        {
            "task": "binary", "metric": "none", "k": WIDTH, "epoch": 1,
            "nthread": settings.pop("threads"), **settings,
        },
        model_file,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    found: dict[str, Any] = {"seconds": seconds}
    for split in ("train", "valid", "test"):
        targets = np.array(
            [int(line[0]) for line in (folder / f"{split}.libsvm").open(encoding="ascii")]
        )
        if split == "train":
            found["rows"] = len(targets)
            continue
        model.setTest(str(folder / f"{split}.libsvm"))
        model.setSigmoid()
        out = folder / f"{split}.predicted"
        model.predict(model_file, str(out))
        found[split] = log_loss(targets, np.loadtxt(out))
    return {**found, "loss": found["test"], "valid_loss": found["valid"]}


def main() -> None:
    """Do what the arguments say and print one line of JSON."""
    what, first, *rest = sys.argv[1:]
    if what == "data":
        print(json.dumps(write_rows(Path(first), int(rest[0]))))
    elif what == "vw-text":
        write_vw_text(Path(first), rest[0], Path(rest[1]))
    elif what == "libsvm":
        write_libsvm(Path(first), rest[0], Path(rest[1]))
    else:
        print(json.dumps(run_xlearn(Path(first), json.loads(rest[0]))))


if __name__ == "__main__":
    main()
