"""Scores of a whole split, read in order: what validation and evaluation share."""

from __future__ import annotations

from collections.abc import Callable
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
"""Rows scored at a time."""
_SCORED_TARGETS = 1 << 20
"""Targets scored at a time, where a row has several."""
AUC_ROW_BYTES = 32
MIN_AUC_ROWS, MAX_AUC_ROWS = 100_000, 2_000_000
"""Rows up to which an AUC is exact: at least, and at most where memory allows."""


def scoring_rows(architecture: Architecture) -> int:
    """Return the rows that are scored at a time: fewer where each has many targets."""
    if architecture.n_targets == 1:
        return SCORING_ROWS
    return max(64, min(SCORING_ROWS, _SCORED_TARGETS // architecture.n_targets))


def scored_row_bytes(architecture: Architecture) -> int:
    """Return what a row takes while it is scored and measured: scores, predictions, columns."""
    return 160 + (24 if architecture.n_targets == 1 else 32) * architecture.n_scores


def evaluate_split(
    dataset: Dataset,
    split: str,
    model: Model,
    parameters: npt.NDArray[np.float32],
    *,
    io: IoMethod = "pread",
    depth: int = 1,
    auc_rows: int = 2_000_000,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Return rows, loss and metrics of a model on a split.

    Parameters
    ----------
    parameters : (P,) float32
        Settled.
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
    blocks = dataset.manifest.blocks(split)
    settings = OrderSettings(
        dataset.fingerprint, 0, scoring_window_blocks([b.n_rows for _, b in blocks]), shuffle=False
    )
    evaluation = Evaluation(
        model.architecture, n_classes=len(schema.target.classes), auc_rows=auc_rows
    )
    with EpochReader(
        dataset,
        split,
        settings,
        batch_size=min(scoring_rows(model.architecture), dataset.n_rows(split)),
        depth=depth,
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


def require_scoring_memory(dataset: Dataset, split: str, model: Model, *, budget: int) -> int:
    """Refuse an evaluation that does not fit; return the rows whose AUC it can keep exact.

    Parameters
    ----------
    budget : int
        Bytes of the whole process.

    Raises
    ------
    BudgetError
        Naming every part in bytes.
    """
    block_rows = [block.n_rows for _, block in dataset.manifest.blocks(split)]
    window = largest_window(block_rows, scoring_window_blocks(block_rows))
    n_rows = scoring_rows(model.architecture)
    block_bytes = max((block.n_bytes for _, block in dataset.manifest.blocks(split)), default=0)
    parts = {
        "interpreter, code and model": memory.resident_bytes(),
        "read buffers": block_bytes + dataset.format.scratch_bytes + dataset.format.shared_bytes,
        "windows": (2 * window + n_rows) * row_bytes(dataset)
        + scoring_entry_bytes(dataset, split)
        + handover_bytes(dataset, n_rows),
        "scored rows": n_rows * scored_row_bytes(model.architecture),
        "metrics": metrics_bytes(model.architecture, auc_rows=MIN_AUC_ROWS),
        "reserve": 8 << 20,
    }
    memory.require(budget, parts, what="an evaluation", remedy="raise --memory")
    spare = budget - sum(parts.values())
    return min(MIN_AUC_ROWS + spare // (2 * AUC_ROW_BYTES), MAX_AUC_ROWS)


def metrics_bytes(architecture: Architecture, *, auc_rows: int) -> int:
    """Return the most bytes that the metrics of an architecture take."""
    if architecture.n_targets > 1:
        kind: Kind = "labels" if architecture.loss == "logistic" else "values"
        return plan_output_metrics_bytes(kind, architecture.n_targets, auc_rows=auc_rows)
    n_classes = max(architecture.n_scores, 2)
    return plan_metrics_bytes("binary", n_classes=n_classes, auc_rows=auc_rows)


def scoring_entry_bytes(dataset: Dataset, split: str) -> int:
    """Return the memory of the entries of bags in two windows and a spill."""
    if not dataset.schema.bags:
        return 0
    rows = [block.n_rows for _, block in dataset.manifest.blocks(split)]
    blocks = scoring_window_blocks(rows)
    in_window = window_entries(dataset, split, blocks)
    in_spill = batch_entries(dataset, split, blocks, min(SCORING_ROWS, sum(rows)))
    return ENTRY_BYTES * (2 * in_window + in_spill)


def scoring_window_blocks(block_rows: list[int]) -> int:
    """Return the blocks of a window that is only scored: about `SCORING_ROWS` rows."""
    return max(1, SCORING_ROWS // max(block_rows, default=1))
