"""Cells of one column, as text or as numbers already, read in one way.

What a file holds as numbers is never spelt and parsed again; it is spelt only
where a column of numbers is wanted as text (categories, `--split-by`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streamtrain.errors import SchemaError
from streamtrain.kernels import numbers, strings
from streamtrain.store.bags import Keyed
from streamtrain.store.string_table import MissingTexts, TextCells, parse_cells

Floats = npt.NDArray[np.float64]


class Values(Protocol):
    """Cells that need no parsing; lazy, so that one column at a time takes memory."""

    @property
    def wrong(self) -> str:
        """What a cell with the status NOT_A_NUMBER is."""
        ...

    def read(self, out: Floats, status: npt.NDArray[np.uint8]) -> None:
        """Fill values (n,), NaN unless PRESENT, and the status of each (kernels/numbers.py)."""
        ...

    def text(self) -> TextCells:
        """Return the cells spelt as text, empty where null."""
        ...


Cells = TextCells | Values | Keyed
"""Text, numbers, or lists of keys with values."""


def read_numbers(
    cells: Cells,
    use: npt.NDArray[np.uint8],
    missing: MissingTexts,
    out: Floats,
    status: npt.NDArray[np.uint8],
) -> tuple[int, int, int]:
    """Read a column as numbers; arguments and result are those of `parse_cells`."""
    if isinstance(cells, TextCells):
        return parse_cells(cells, use, missing, out, status)
    if isinstance(cells, Keyed):
        out[:], status[:] = np.nan, numbers.NOT_A_NUMBER
        return 0, len(out), 0
    cells.read(out, status)
    gone = use == 0
    if len(missing.numbers):
        gone |= np.isin(out, missing.numbers)
    out[gone] = np.nan
    status[gone] = numbers.MISSING
    wrong = int(np.count_nonzero(status == numbers.NOT_A_NUMBER))
    infinite = int(np.count_nonzero(status == numbers.NOT_FINITE))
    return int(np.count_nonzero(status == numbers.PRESENT)), wrong, infinite


def strings_of(cells: TextCells, picks: npt.NDArray[np.int64] | None = None) -> pa.Array:
    """Return cells, or those picked, as an Arrow array of strings."""
    starts, stops = cells.starts, cells.stops
    if picks is not None:
        starts, stops = starts[picks], stops[picks]
    offsets = np.zeros(len(starts) + 1, np.int32)
    data = np.empty(int((stops - starts).sum()), np.uint8)
    strings.copy_cells(cells.data, starts, stops, offsets, data)
    return pa.StringArray.from_buffers(len(starts), pa.py_buffer(offsets), pa.py_buffer(data))


def as_text(cells: Cells) -> TextCells:
    """Return cells as text."""
    if isinstance(cells, Keyed):
        raise SchemaError("a column of lists is no text", remedy="leave it out with --drop")
    return cells if isinstance(cells, TextCells) else cells.text()


def constant_cells(text: bytes, n: int) -> TextCells:
    """Return n cells of one text."""
    data = np.frombuffer(bytearray(text + bytes(8)), np.uint8)
    return TextCells(data, np.zeros(n, np.int32), np.full(n, len(text), np.int32))


def missing_text(missing: Sequence[str]) -> str:
    """Return how a null is spelt among texts that read as missing: "" where it is one of them."""
    return "" if "" in missing or not missing else missing[0]


def fault(cells: Cells, status: int) -> str:
    """Return why a cell with a bad status cannot be a number."""
    if status == numbers.NOT_FINITE:
        return "not finite"
    return "not a number" if isinstance(cells, TextCells | Keyed) else cells.wrong


def judge_values(values: Floats, status: npt.NDArray[np.uint8]) -> None:
    """Set the status of float64 values (n,): NaN is missing, what float32 cannot hold not finite.

    Parameters
    ----------
    values : (n,) float64, updated
        NaN where not finite.
    status : (n,) uint8, overwritten
    """
    status[:] = numbers.PRESENT
    status[np.isnan(values)] = numbers.MISSING
    infinite = np.abs(values) >= numbers.FLOAT32_LIMIT
    if infinite.any():
        status[infinite] = numbers.NOT_FINITE
        values[infinite] = np.nan
