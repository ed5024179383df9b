"""The memory that a run needs, part by part, before it reads a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from streamtrain import memory
from streamtrain.model.architecture import Architecture
from streamtrain.model.models import layout_of, scratch_bytes
from streamtrain.optim.optimizers import rule_bytes
from streamtrain.reader.stream import choose_window_blocks, largest_window
from streamtrain.reader.windows import (
    ENTRY_BYTES,
    batch_entries,
    handover_bytes,
    row_bytes,
    window_entries,
)
from streamtrain.scoring import (
    AUC_ROW_BYTES,
    MAX_AUC_ROWS,
    MIN_AUC_ROWS,
    metrics_bytes,
    plan_scoring,
    scored_bytes,
    scoring_rows,
)
from streamtrain.store.dataset import Dataset
from streamtrain.store.manifest import StoredBlock
from streamtrain.train.settings import Resources, TrainSettings

_RESERVE_BYTES = 24 << 20
_MAX_READERS = 16
_READ_SHARE = 16
WINDOW_SHARE = 8
"""A window is chosen to take at most this part of the budget: of the budget alone, because
the order depends on the window and must not depend on threads, prefetch or what is resident."""
_LIKELY_BYTES = 512_000_000
"""What most runs fit into: nothing is known of this one yet."""
FLOOR_BYTES = 64 << 20
"""No Python process with NumPy, Arrow and Numba fits into less."""
_INSTEAD = {
    "windows": "lower --window-blocks or --prefetch",
    "activations": "lower --batch-size",
    "spill of one batch": "lower --batch-size",
    "parameters": "ingest with --rare or --max-categories for fewer categories",
    "optimizer state": "use --optimizer sgd, or fewer categories",
    "checkpoint or model file": "use --optimizer sgd, or fewer categories",
}
"""What else than memory helps where a part is the largest."""


@dataclass(frozen=True)
class MemoryPlan:
    """What a run will hold.

    Parameters
    ----------
    budget : int
        Bytes for the whole process.
    window_blocks, window_rows : int
    n_readers : int
        Threads that fill a window.
    auc_rows : int
        Rows up to which validation's AUC is exact.
    parts : dict of str to int
        Bytes of each part; they sum to at most the budget.
    """

    budget: int
    window_blocks: int
    window_rows: int
    n_readers: int
    auc_rows: int
    parts: dict[str, int]


def refuse_tiny(budget: int) -> None:
    """Refuse a budget below what the interpreter takes, before anything is loaded.

    Raises
    ------
    BudgetError
        If it is under 64 MiB.
    """
    memory.require(
        budget,
        {"interpreter": max(FLOOR_BYTES, memory.resident_bytes())},
        what="a run",
        least=_LIKELY_BYTES,
    )


def plan_memory(
    dataset: Dataset,
    architecture: Architecture,
    settings: TrainSettings,
    resources: Resources,
    *,
    interpreter_bytes: int,
    vocabulary_bytes: int = 0,
) -> MemoryPlan:
    """Return the memory plan of a run, or refuse it.

    Parameters
    ----------
    interpreter_bytes : int
        Resident memory with everything imported, compiled, and vocabularies read.
    vocabulary_bytes : int
        Of the categories, which the model file is serialised with.

    Raises
    ------
    BudgetError
        If the budget cannot hold the run, naming every part in bytes and the
        option to change.
    """

    def plan(budget: int) -> MemoryPlan:
        return _divide(
            budget,
            dataset,
            architecture,
            settings,
            resources,
            interpreter_bytes=interpreter_bytes,
            vocabulary_bytes=vocabulary_bytes,
        )

    found = plan(resources.memory or memory.default_budget())
    total = sum(found.parts.values())
    if total > found.budget:
        largest = max(found.parts, key=lambda name: found.parts[name])
        # Windows that are chosen grow with the budget: what this plan lacks is not enough.
        least = memory.enough(total, lambda budget: sum(plan(budget).parts.values()))
        memory.require(
            found.budget,
            found.parts,
            what="training",
            instead=_INSTEAD.get(largest, ""),
            least=least,
        )
    return found


def _divide(
    budget: int,
    dataset: Dataset,
    architecture: Architecture,
    settings: TrainSettings,
    resources: Resources,
    *,
    interpreter_bytes: int,
    vocabulary_bytes: int,
) -> MemoryPlan:
    """Return what a run makes of a budget, whether it fits or not."""
    layout = layout_of(architecture)
    per_row = row_bytes(dataset)
    located = dataset.manifest.blocks("train")
    block_rows = [block.n_rows for _, block in located]
    block_bytes = max(block.n_bytes for _, block in located)
    parameters = 4 * layout.n_parameters
    state = rule_bytes(
        settings.optimizer,
        n_parameters=layout.n_parameters,
        n_dense=layout.n_dense,
        n_table_rows=layout.n_table_rows,
    )
    copies = 1 if settings.optimizer.shrinks else 0  # settled, for validation
    kept = parameters * (bool(settings.early_stop) + (settings.average != "none"))
    # A checkpoint is serialised from copies of its arrays.
    checkpoint = max(parameters + state + kept, parameters + vocabulary_bytes)
    # One thread's block, and its rows where they are decoded. Reading uses every core, where
    # the budget holds a block for each: none computes meanwhile.
    reader_bytes = block_bytes + dataset.format.scratch_bytes
    readers = min(resources.n_threads, _MAX_READERS, budget // _READ_SHARE // reader_bytes)
    readers = max(1, readers)
    scored = 0
    if dataset.manifest.n_rows("valid"):
        scoring = plan_scoring(dataset, "valid", n_threads=readers)
        scored = scoring.read_bytes + scoring.row_bytes
        scored += scored_bytes(scoring.n_rows, architecture)
        scored += _several_metrics_bytes(architecture)
    progressive = 0
    if resources.progressive:
        rows = max(scoring_rows(architecture.n_targets), settings.batch_size)
        progressive = scored_bytes(rows, architecture) + 4 * rows * architecture.n_scores
        progressive += _several_metrics_bytes(architecture)
        progressive += AUC_ROW_BYTES * min(MIN_AUC_ROWS, dataset.n_rows("train"))
    n_windows = resources.prefetch + 1
    blocks = settings.window_blocks or choose_window_blocks(
        block_rows,
        row_bytes=per_row + _most_entry_bytes(located),
        budget_bytes=budget // WINDOW_SHARE,
    )
    rows = largest_window(block_rows, blocks)
    entries = batch_entries(dataset, "train", blocks, settings.batch_size)
    parts = {
        "interpreter and code": interpreter_bytes,
        "parameters": parameters * (1 + copies) + kept,
        "optimizer state": state,
        "checkpoint or model file": checkpoint,
        "activations": scratch_bytes(
            architecture,
            batch_size=settings.batch_size,
            n_threads=resources.n_threads,
            clips_norm=settings.optimizer.clip_norm > 0,
            n_entries=entries,
        ),
        "crossed codes": 4 * len(architecture.field_sizes) * rows if architecture.crosses else 0,
        "spill of one batch": settings.batch_size * per_row
        + ENTRY_BYTES * entries
        + handover_bytes(dataset, settings.batch_size),
        "read buffers": readers * reader_bytes + dataset.format.shared_bytes,
        "validation": scored + AUC_ROW_BYTES * min(MIN_AUC_ROWS, dataset.manifest.n_rows("valid")),
        "progressive validation": progressive,
        "reserve": _RESERVE_BYTES,
    }
    parts["windows"] = n_windows * (
        rows * per_row + ENTRY_BYTES * window_entries(dataset, "train", blocks)
    )
    spare = max(budget - sum(parts.values()), 0)
    auc_rows = min(MIN_AUC_ROWS + spare // (2 * AUC_ROW_BYTES), MAX_AUC_ROWS)
    return MemoryPlan(budget, blocks, rows, readers, auc_rows, parts)


def _several_metrics_bytes(architecture: Architecture) -> int:
    """Return what metrics of several targets take; those of one are in the reserve."""
    return metrics_bytes(architecture, auc_rows=0) if architecture.n_targets > 1 else 0


def _most_entry_bytes(located: Sequence[tuple[int, StoredBlock]]) -> int:
    """Return the bytes of a row's entries in the block where they are most."""
    return max(-(-ENTRY_BYTES * block.n_entries // block.n_rows) for _, block in located)
