"""Scores of a whole split, read in order: what validation and evaluation share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streamtrain import memory
from streamtrain.errors import StoppedError
from streamtrain.model.architecture import Architecture
from streamtrain.model.evaluation import Evaluation
from streamtrain.model.losses import class_values
from streamtrain.model.metrics import plan_metrics_bytes
from streamtrain.model.models import Model
from streamtrain.model.output_metrics import Kind, plan_output_metrics_bytes
from streamtrain.reader.order import Cursor, OrderSettings
from streamtrain.reader.stream import EpochReader, largest_window
from streamtrain.reader.windows import (
    ENTRY_BYTES,
    batch_entries,
    handover_bytes,
    row_bytes,
    window_entries,
)
from streamtrain.store.dataset import Dataset, IoMethod

SCORING_ROWS = 8192
"""Most rows scored at a time."""
_WINDOW_ROWS = 4 * SCORING_ROWS
_MOST_BYTES = 32 << 20
_SCORED_TARGETS = 1 << 20
"""Targets scored at a time, where a row has several."""
AUC_ROW_BYTES = 32
MIN_AUC_ROWS, MAX_AUC_ROWS = 100_000, 2_000_000
"""Rows up to which an AUC is exact: at least, and at most where memory allows."""


def evaluate_split(
    dataset: Dataset,
    split: str,
    model: Model,
    parameters: npt.NDArray[np.float32],
    *,
    n_threads: int = 1,
    io: IoMethod = "pread",
    auc_rows: int = 2_000_000,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Return rows, loss and metrics of a model on a split.

    Parameters
    ----------
    parameters : (P,) float32
        Settled.
    n_threads : int
        Most threads that read.
    should_stop : callable
        Looked at between pieces.

    Raises
    ------
    StoppedError
        If `should_stop` said so.
    CorruptShardError
        If a block is not what was written.
    """
    schema = dataset.schema
    plan = plan_scoring(dataset, split, n_threads=n_threads)
    evaluation = Evaluation(
        model.architecture, n_classes=len(schema.target.classes), auc_rows=auc_rows
    )
    with EpochReader(
        dataset,
        split,
        OrderSettings(dataset.fingerprint, 0, plan.window_blocks, shuffle=False),
        batch_size=plan.n_rows,
        n_readers=plan.n_readers,
        io=io,
        class_values=class_values(schema, model.architecture.loss),
    ) as reader:
        for segment in reader.epoch(Cursor()):
            for k in range(segment.n_batches):
                if should_stop():
                    raise StoppedError("stopped during an evaluation")
                rows = segment.rows.slice(k * segment.batch_size, (k + 1) * segment.batch_size)
                scores = model.scores(parameters, rows.numeric, rows.codes, rows.bags)
                evaluation.update(scores, rows.target, rows.weight, rows.exposure)
    return evaluation.result()


@dataclass(frozen=True)
class ScoringPlan:
    """How a split is read to be scored.

    Parameters
    ----------
    n_rows : int
        Scored at a time.
    window_blocks, n_readers : int
    read_bytes, row_bytes : int
        Of what readers read into; of windows, and of the rows at hand.
    """

    n_rows: int
    window_blocks: int
    n_readers: int
    read_bytes: int
    row_bytes: int


def plan_scoring(dataset: Dataset, split: str, *, n_threads: int) -> ScoringPlan:
    """Return how a split is scored: some thousand rows at a time, fewer where rows are wide.

    Windows of a few blocks, so that several threads have one to read.
    """
    blocks = [block for _, block in dataset.manifest.blocks(split)]
    block_rows = [block.n_rows for block in blocks]
    per_row = row_bytes(dataset)
    largest = max(block_rows, default=1)
    window_blocks = max(1, min(_WINDOW_ROWS, _MOST_BYTES // per_row) // largest)
    # Rows of narrow values are scored as float32.
    wide = max(per_row, 4 * len(dataset.schema.numeric))
    at_once = scoring_rows(dataset.schema.target.n_outputs)
    n_rows = max(1, min(at_once, _MOST_BYTES // wide, sum(block_rows)))
    n_readers = max(1, min(n_threads, window_blocks, len(blocks)))
    entries = window_entries(dataset, split, window_blocks)
    entries += batch_entries(dataset, split, window_blocks, n_rows)
    block_bytes = max((block.n_bytes for block in blocks), default=0)
    return ScoringPlan(
        n_rows,
        window_blocks,
        n_readers,
        n_readers * (block_bytes + dataset.format.scratch_bytes) + dataset.format.shared_bytes,
        (largest_window(block_rows, window_blocks) + n_rows) * per_row
        + ENTRY_BYTES * entries
        + handover_bytes(dataset, n_rows),
    )


def scoring_rows(n_targets: int) -> int:
    """Return the most rows that are scored at a time: fewer where each has many targets."""
    if n_targets == 1:
        return SCORING_ROWS
    return max(64, min(SCORING_ROWS, _SCORED_TARGETS // n_targets))


def scored_bytes(n_rows: int, architecture: Architecture) -> int:
    """Return the memory of rows that are scored and measured: predictions, columns of them."""
    return n_rows * (160 + (24 if architecture.n_targets == 1 else 32) * architecture.n_scores)


def metrics_bytes(architecture: Architecture, *, auc_rows: int) -> int:
    """Return the most bytes that the metrics of an architecture take."""
    if architecture.n_targets > 1:
        kind: Kind = "labels" if architecture.loss == "logistic" else "values"
        return plan_output_metrics_bytes(kind, architecture.n_targets, auc_rows=auc_rows)
    n_classes = max(architecture.n_scores, 2)
    return plan_metrics_bytes("binary", n_classes=n_classes, auc_rows=auc_rows)


def require_scoring_memory(
    dataset: Dataset,
    split: str,
    model: Model,
    *,
    budget: int,
    n_threads: int = 1,
    waiting_bytes: int = 0,
) -> int:
    """Refuse an evaluation that does not fit; return the rows whose AUC it can keep exact.

    Parameters
    ----------
    budget : int
        Bytes of the whole process.
    n_threads : int
        As given to `evaluate_split`.
    waiting_bytes : int
        Of predictions that wait to be written.

    Raises
    ------
    BudgetError
        Naming every part in bytes.
    """
    plan = plan_scoring(dataset, split, n_threads=n_threads)
    parts = {
        "interpreter, code and model": memory.resident_bytes(),
        "read buffers": plan.read_bytes,
        "windows": plan.row_bytes,
        "scored rows": scored_bytes(plan.n_rows, model.architecture),
        "metrics": metrics_bytes(model.architecture, auc_rows=MIN_AUC_ROWS),
        "predictions to be written": waiting_bytes,
        "reserve": 8 << 20,
    }
    memory.require(budget, parts, what="an evaluation")
    spare = budget - sum(parts.values())
    return min(MIN_AUC_ROWS + spare // (2 * AUC_ROW_BYTES), MAX_AUC_ROWS)
