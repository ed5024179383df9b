"""Whether a row can be used: its cells parsed, its first fault named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from data_tools.columns import ColumnPlan
from data_tools.source import Records
from streamtrain.kernels import numbers
from streamtrain.store.bags import Keyed
from streamtrain.store.cells import Cells, as_text, fault, read_numbers
from streamtrain.store.string_table import MissingTexts


class Scratch(Protocol):
    """Memory for one column: values (n,) float64, status (n,) uint8, or more."""

    values: npt.NDArray[np.float64]
    status: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Judged:
    """The verdict on a batch of records.

    Parameters
    ----------
    good : (n,) uint8
    reasons : dict of int to str
        Of every record that is not good.
    bad, present : (k,) int64
        Cells of each stored column that are not numbers though they should be, and all present.
    target : TargetSpan or None
        Of a target of numbers.
    """

    good: npt.NDArray[np.uint8]
    reasons: dict[int, str]
    bad: npt.NDArray[np.int64]
    present: npt.NDArray[np.int64]
    target: TargetSpan | None


@dataclass(frozen=True)
class TargetSpan:
    """Targets before they become float32: least, greatest, and whether a whole number changes."""

    low: float
    high: float
    rounded: bool


def judge(
    records: Records,
    columns: ColumnPlan,
    missing: MissingTexts,
    stored: npt.NDArray[np.int32],
    scratch: Scratch,
) -> Judged:
    """Parse the numbers of a batch and find the rows that cannot be used.

    Parameters
    ----------
    records : Records
    columns : ColumnPlan
    missing : MissingTexts
    stored : (k, n) int32
        Rows of number columns are overwritten with the bits of float32 values.
    scratch : Scratch

    Returns
    -------
    Judged
    """
    n = records.n_records
    names = columns.stored
    target = len(columns.numeric) + len(columns.categorical)
    usable = records.good
    reasons = {r.record: r.reason for r in records.rejections}
    bad = np.zeros(len(names), np.int64)
    present = np.zeros(len(names), np.int64)
    span = None
    values, status = scratch.values[:n], scratch.status[:n]
    for c in columns.numbers:
        ok, wrong, infinite = read_numbers(records.cells[c], usable, missing, values, status)
        bad[c], present[c] = wrong, ok + wrong + infinite
        if wrong or infinite:
            for i in np.flatnonzero(status >= numbers.NOT_A_NUMBER):
                what = fault(records.cells[c], status[i])
                reasons.setdefault(int(i), f"{names[c]}: {what}")
        if c >= target:
            what = "missing target" if c == target else f"missing {names[c]}"
            for i in np.flatnonzero((status == numbers.MISSING) & (usable != 0)):
                reasons.setdefault(int(i), what)
        if c > target:
            for i in np.flatnonzero(values < 0):
                reasons.setdefault(int(i), f"{names[c]}: negative")
        stored[c].view(np.float32)[:] = values
        if names[c] == columns.exposure:
            # A mean of exposure 0 says nothing of the rate, and its log is no number.
            for i in np.flatnonzero((stored[c].view(np.float32) == 0) & (usable != 0)):
                reasons.setdefault(int(i), f"{names[c]}: zero")
        if c == target:
            span = _span(values[usable != 0], stored[c].view(np.float32)[usable != 0])
    for bag, cells in zip(columns.bags, records.cells[len(names) :], strict=False):
        reasons = reasons_of_entries(bag.name, cells, usable, reasons)
    if columns.target_is_text:
        cells = as_text(records.cells[target])
        for i in np.flatnonzero(missing.find(cells) & (usable != 0)):
            reasons.setdefault(int(i), "missing target")
    if not reasons:
        return Judged(usable, reasons, bad, present, span)
    good = usable.copy()
    good[list(reasons)] = 0
    return Judged(good, reasons, bad, present, span)


def reasons_of_entries(
    name: str, cells: Cells, usable: npt.NDArray[np.uint8], reasons: dict[int, str]
) -> dict[int, str]:
    """Return the reasons with those of rows whose lists have a value that is not finite."""
    if not isinstance(cells, Keyed):
        return reasons
    bad = cells.not_finite()
    return {int(i): f"{name}: not finite" for i in bad[usable[bad] != 0]} | reasons


def _span(values: npt.NDArray[np.float64], stored: npt.NDArray[np.float32]) -> TargetSpan | None:
    finite = np.isfinite(stored)
    values, stored = values[finite], stored[finite]
    if not len(values):
        return None
    rounded = bool(((values != stored) & (values == np.floor(values))).any())
    return TargetSpan(float(values.min()), float(values.max()), rounded)
