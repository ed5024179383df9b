"""What is found of an array and its targets as they are read."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from data_tools.array_statistics import ArrayStatistics
from data_tools.array_table import WEIGHT
from data_tools.judge import TargetSpan
from data_tools.target import TargetCounter, Task
from streamtrain.errors import SourceError
from streamtrain.store.schema import ArrayFeatures, Schema, StoredFeatures, Target


def read_targets(
    targets: npt.NDArray[Any], first: int, counter: TargetCounter | None, *, where: str
) -> npt.NDArray[np.float32]:
    """Return targets as they are stored, (n,) float32, and take in their range.

    Parameters
    ----------
    targets : (n,) array, or (n, 1)
    first : int
        Row of the first one in the array.
    counter : TargetCounter or None
        None of places in a list of texts, which have no range.
    where : str

    Raises
    ------
    SourceError
        If one is missing or not finite.
    """
    wide = targets.reshape(-1).astype(np.float64)
    with np.errstate(over="ignore"):
        values = wide.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        what = "missing (NaN)" if np.isnan(wide[bad[0]]) else "not finite"
        raise SourceError(
            f"the target of row {first + int(bad[0])} is {what}",
            where=where,
            remedy="leave such rows out of every array",
        )
    if counter is not None:
        rounded = bool(((wide != values) & (wide == np.floor(wide))).any())
        counter.update_span(TargetSpan(float(wide.min()), float(wide.max()), rounded))
    return values


def array_schema(
    stored: StoredFeatures,
    statistics: ArrayStatistics,
    task: Task,
    run_length: float,
    *,
    target: str,
    missing: tuple[str, ...],
    is_text: bool = False,
    names: tuple[str, ...] = (),
) -> Schema:
    """Return the schema of a dataset of arrays.

    Parameters
    ----------
    stored : StoredFeatures
    statistics : ArrayStatistics
        Of the train split.
    task : Task
    run_length : float
        Of equal targets, in source order.
    target : str
        What the target is called.
    missing : tuple of str
    is_text : bool
        Whether the target was text.
    names : tuple of str
        Of the D values of a row, () where they have none.
    """
    return Schema(
        columns=(),
        target=Target(
            name=target,
            task=task.name,  # type: ignore[arg-type]
            classes=task.classes,
            values=task.values,
            is_text=is_text,
            counts=task.counts,
            statistics=statistics.target(),
            run_length=run_length,
            outputs=statistics.outputs() or UNSET,
        ),
        weight=WEIGHT if stored.weighted else None,
        weight_statistics=statistics.weight(),
        missing=missing,
        header=False,
        delimiter="",
        features=ArrayFeatures(stored.dtype, stored.shape, statistics.features(), names or UNSET),
    )
