"""Scores of a whole split, read in order: what validation and evaluation share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from streamtrain.errors import StoppedError
from streamtrain.model.architecture import class_values
from streamtrain.model.evaluation import Evaluation
from streamtrain.model.linear import LinearModel
from streamtrain.reader.order import Cursor, OrderSettings
from streamtrain.reader.stream import EpochReader
from streamtrain.store.dataset import Dataset, IoMethod

SCORING_ROWS = 8192
"""Rows scored at a time."""


def evaluate_split(
    dataset: Dataset,
    split: str,
    model: LinearModel,
    parameters: npt.NDArray[np.float32],
    *,
    io: IoMethod = "pread",
    depth: int = 1,
    auc_rows: int = 2_000_000,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, float | int | None]:
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
        batch_size=min(SCORING_ROWS, dataset.n_rows(split)),
        depth=depth,
        io=io,
        class_values=class_values(schema, model.architecture.loss),
    ) as reader:
        for segment in reader.epoch(Cursor()):
            for k in range(segment.n_batches):
                if should_stop():
                    raise StoppedError("stopped during an evaluation")
                rows = segment.rows.slice(k * segment.batch_size, (k + 1) * segment.batch_size)
                scores = model.scores(parameters, rows.numeric, rows.codes)
                evaluation.update(scores, rows.target, rows.weight)
    return evaluation.result()


def scoring_window_blocks(block_rows: list[int]) -> int:
    """Return the blocks of a window that is only scored: about `SCORING_ROWS` rows."""
    return max(1, SCORING_ROWS // max(block_rows, default=1))
