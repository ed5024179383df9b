"""The rivals of training, each in a process of its own: Vowpal Wabbit and scikit-learn.

    python -m tests.benchmarks.rivals vw-text DATASET SPLIT OUT
    python -m tests.benchmarks.rivals vw OPTION...
    python -m tests.benchmarks.rivals sklearn DATASET JSON

Both get what our model gets: numbers standardised by the train split, an indicator where a
number is missing, and one weight for every code of every column, each with an index of its own:
no collisions, and no column has to be hashed while they train.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

BLOCK_ROWS = 65_536


class Features:
    """Rows of a dataset's shards as sparse features.

    Parameters
    ----------
    dataset : Path
        Of a binary target.
    """

    def __init__(self, dataset: Path) -> None:
        from streamtrain.store.dataset import open_dataset

        schema = open_dataset(dataset).schema
        self._dataset = dataset
        self._numeric = [column.name for column in schema.numeric]
        self._categorical = [column.name for column in schema.categorical]
        self._target = schema.target.name
        self._mean = np.array([c.statistics.mean for c in schema.numeric], np.float32)
        std = np.array([c.statistics.std for c in schema.numeric], np.float32)
        self._scale = np.where(std > 0, 1 / np.maximum(std, 1e-30), 0).astype(np.float32)
        sizes = [column.cardinality for column in schema.categorical]
        d = len(self._numeric)
        self._first = (2 * d + np.concatenate([[0], np.cumsum(sizes)])[:-1]).astype(np.int32)
        self.n_features = 2 * d + sum(sizes)
        self.n_fields = len(self._categorical)
        self.n_columns = d + self.n_fields

    def batches(self, split: str) -> Iterator[tuple[Any, Any, Any]]:
        """Yield (indices (n, D + F) int32, values (n, D + F) float32, target (n,) int8)."""
        import pyarrow.parquet as pq

        d = len(self._numeric)
        for shard in sorted((self._dataset / split).glob("*.parquet")):
            for batch in pq.ParquetFile(shard).iter_batches(BLOCK_ROWS):
                indices = np.empty((batch.num_rows, self.n_columns), np.int32)
                values = np.ones((batch.num_rows, self.n_columns), np.float32)
                for j, name in enumerate(self._numeric):
                    z = (batch[name].to_numpy() - self._mean[j]) * self._scale[j]
                    missing = np.isnan(z)
                    indices[:, j] = np.where(missing, d + j, j)
                    values[:, j] = np.where(missing, 1, z)
                for f, name in enumerate(self._categorical):
                    indices[:, d + f] = batch[name].to_numpy() + self._first[f]
                yield indices, values, batch[self._target].to_numpy().astype(np.int8)

    def matrix(self, split: str) -> tuple[Any, Any]:
        """Return a split as (CSR matrix of float32, target)."""
        from scipy.sparse import csr_matrix

        pieces = list(self.batches(split))
        indices = np.concatenate([p[0] for p in pieces])
        values = np.concatenate([p[1] for p in pieces])
        target = np.concatenate([p[2] for p in pieces])
        return self._csr(csr_matrix, indices, values), target

    def _csr(self, csr_matrix: Any, indices: Any, values: Any) -> Any:
        starts = np.arange(0, indices.size + 1, self.n_columns, dtype=np.int32)
        shape = (len(indices), self.n_features)
        return csr_matrix((values.reshape(-1), indices.reshape(-1), starts), shape=shape)

    def matrices(self, split: str, n_rows: int) -> Iterator[tuple[Any, Any]]:
        """Yield (CSR matrix of n rows, target) as the shards are read."""
        from scipy.sparse import csr_matrix

        for indices, values, target in self.batches(split):
            whole = self._csr(csr_matrix, indices, values)
            for start in range(0, len(target), n_rows):
                yield whole[start : start + n_rows], target[start : start + n_rows]


def write_vw_text(dataset: Path, split: str, out: Path) -> None:
    """Write a split as Vowpal Wabbit's text; rows keep the order of the shards: shuffled."""
    features = Features(dataset)
    with out.open("w", encoding="ascii") as file:
        for indices, values, target in features.batches(split):
            numbered = indices.tolist()
            for row, (own, numbers) in enumerate(zip(numbered, values.tolist(), strict=True)):
                cells = [
                    str(i) if v == 1.0 else f"{i}:{v:.7g}"
                    for i, v in zip(own, numbers, strict=True)
                ]
                file.write(f"{'1' if target[row] else '-1'} | {' '.join(cells)}\n")


def run_vw(arguments: list[str]) -> dict[str, Any]:
    """Run VW's own driver (its loop and its parser's thread are C++), as `vw` would."""
    started = time.perf_counter()
    import vowpalwabbit

    imported = time.perf_counter()
    # Constructing a workspace with data runs its whole driver.
    workspace = vowpalwabbit.Workspace(arg_list=arguments, enable_logging=True)
    workspace.finish()
    ended = time.perf_counter()
    log = "\n".join(workspace.get_log())
    found = re.search(r"average loss = ([0-9.eE+-]+)", log)
    examples = re.search(r"number of examples = (\d+)", log)
    return {
        "driver_s": ended - imported,
        "import_s": imported - started,
        "loss": float(found[1]) if found else None,
        "examples": int(examples[1]) if examples else 0,
    }


def run_sklearn(dataset: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Run one epoch of partial_fit and return seconds and the test loss.

    With "prepare": true the whole train split is one CSR matrix before the clock starts; else
    reading the shards and building each batch are inside.
    """
    from sklearn.linear_model import SGDClassifier

    size, limit = settings["batch_size"], settings["rows"]
    features = Features(dataset)
    model = SGDClassifier(loss="log_loss", random_state=0, **settings["model"])
    classes = np.array([0, 1], np.int8)
    n_rows = 0
    if settings["prepare"]:
        x, y = features.matrix("train")
        limit = min(limit, len(y))
        started = time.perf_counter()
        for start in range(0, limit, size):
            stop = min(start + size, limit)
            model.partial_fit(x[start:stop], y[start:stop], classes=classes)
        n_rows = limit
    else:
        started = time.perf_counter()
        for x, y in features.matrices("train", size):
            model.partial_fit(x, y, classes=classes)
            n_rows += len(y)
            if n_rows >= limit:
                break
    seconds = time.perf_counter() - started
    losses = {}
    for split in ("valid", "test"):
        x, y = features.matrix(split)
        margin = model.decision_function(x) * (2.0 * y - 1.0)
        losses[split] = float(np.logaddexp(0.0, -margin).mean())
    return {
        "seconds": seconds,
        "rows": n_rows,
        "loss": losses["test"],
        "valid_loss": losses["valid"],
    }


def main() -> None:
    """Do what the arguments say and print one line of JSON."""
    what, *rest = sys.argv[1:]
    if what == "vw-text":
        write_vw_text(Path(rest[0]), rest[1], Path(rest[2]))
    elif what == "vw":
        print(json.dumps(run_vw(rest)))
    else:
        print(json.dumps(run_sklearn(Path(rest[0]), json.loads(rest[1]))))


if __name__ == "__main__":
    main()
