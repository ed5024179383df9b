"""The parts of times as cells: numbers that are read from times or from text in ISO 8601."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streamtrain.kernels import numbers
from streamtrain.store.arrow_cells import ArrowTimes, text_cells
from streamtrain.store.bags import Keyed
from streamtrain.store.cells import Cells, Floats, strings_of
from streamtrain.store.dates import part_of, read_times
from streamtrain.store.string_table import MissingTexts, TextCells


class Times:
    """The times of a batch of cells, read once for all their parts.

    Parameters
    ----------
    cells : Cells
        Times, or text in ISO 8601.
    missing : MissingTexts
    """

    def __init__(self, cells: Cells, missing: MissingTexts) -> None:
        if isinstance(cells, ArrowTimes):
            self.seconds, self.good = read_times(cells.array)
            self.missing = ~self.good
        elif isinstance(cells, TextCells):
            self.seconds, self.good = read_times(strings_of(cells))
            self.missing = missing.find(cells)
            self.good &= ~self.missing
        else:
            assert not isinstance(cells, Keyed)
            out = np.empty(len(cells.text()))
            status = np.empty(len(out), np.uint8)
            cells.read(out, status)
            self.seconds = np.zeros(len(out), np.int64)
            self.good = np.zeros(len(out), np.bool_)
            self.missing = status == numbers.MISSING


class PartValues:
    """A part of times, as numbers."""

    wrong = "not a timestamp"

    def __init__(self, times: Times, part: str) -> None:
        self._times = times
        self._part = part

    def read(self, out: Floats, status: npt.NDArray[np.uint8]) -> None:
        """Fill values and their status."""
        times = self._times
        out[:] = part_of(times.seconds, times.good, self._part)
        status[:] = np.where(times.good, numbers.PRESENT, numbers.NOT_A_NUMBER)
        status[times.missing] = numbers.MISSING

    def text(self) -> TextCells:
        """Return the part as a whole number, empty where there is none."""
        values = part_of(self._times.seconds, self._times.good, self._part)
        spelt = pa.array(values, mask=np.isnan(values)).cast(pa.int64()).cast(pa.string())
        return text_cells(spelt)
