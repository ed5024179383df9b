"""Entries that a kernel cut from text, as the rows of bags: what VW and sparse libsvm share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from data_tools.source import Records, Rejection
from streamtrain.kernels import entry_rows, numbers
from streamtrain.kernels.entry_rows import E_GROUP, E_START, E_STOP, N_ENTRY
from streamtrain.store.bags import Keyed
from streamtrain.store.string_table import MissingTexts, TextCells, parse_cells

MAX_ROW_ENTRIES = 1 << 17
"""Entries of a row: what a thread has room for, whatever the budget."""
_NO_TEXTS = MissingTexts([])


class EntryRoom:
    """Arrays of one thread for rows, their cells, and their entries.

    Parameters
    ----------
    n_cells : int
        Cells of a row that are kept.
    n_bags : int
        V, the bags that are kept.
    max_cells : int
        Bounds the memory, as of other splitters.

    Attributes
    ----------
    starts, stops : (n_cells, R) int32
    records : (3, R) int32
        Start, stop and line of each record.
    status : (R,) uint8
    entries : (N_ENTRY, E) int32
    keys : (E,) uint64
    groups : (2, G) int32
    """

    def __init__(self, n_cells: int, n_bags: int, *, max_cells: int) -> None:
        n_rows = max(max_cells // max(n_cells + n_bags, 16), 16)
        n = max(max_cells // 4, MAX_ROW_ENTRIES) if n_bags else 1
        self._n_bags = n_bags
        self.starts = np.empty((n_cells, n_rows), np.int32)
        self.stops = np.empty((n_cells, n_rows), np.int32)
        self.records = np.empty((3, n_rows), np.int32)
        self.status = np.empty(n_rows, np.uint8)
        self.entries = np.empty((N_ENTRY, n), np.int32)
        self.keys = np.empty(n, np.uint64)
        self.groups = np.empty((2, n), np.int32)
        self._use = np.ones(n, np.uint8)
        self._values = np.empty(n)
        self._found = np.empty(n, np.uint8)

    def bags(
        self, data: npt.NDArray[np.uint8], n_rows: int, n: int, n_groups: int, *, bad: int
    ) -> list[Keyed]:
        """Return the rows of each bag, copies of their own.

        Parameters
        ----------
        data : (bytes,) uint8
        n_rows, n, n_groups : int
            Rows, entries and groups that a kernel has written; without groups
            values are as they stand.
        bad : int
            What the status of a row becomes whose values, or scales of them, are
            no finite numbers.
        """
        entries = self.entries[:, :n]
        values = self._values[:n]
        status = self.status[:n_rows]
        wrong = self._parse(data, entries[E_START], entries[E_STOP], values)
        if n_groups:
            scales = np.empty(n_groups)
            faulty = self._parse(data, self.groups[0, :n_groups], self.groups[1, :n_groups], scales)
            values *= scales[entries[E_GROUP]]
            if faulty is not None:
                of_entries = faulty[entries[E_GROUP]]
                wrong = of_entries if wrong is None else wrong | of_entries
            over = np.abs(values) >= numbers.FLOAT32_LIMIT
            if over.any():
                wrong = over if wrong is None else wrong | over
        if wrong is not None:
            status[entries[entry_rows.E_ROW, wrong]] = bad
        offsets = np.empty((self._n_bags, n_rows + 1), np.int64)
        keys, out = np.empty(n, np.uint64), np.empty(n, np.float32)
        good = (status == 0).view(np.uint8)
        entry_rows.group_entries(self.entries, self.keys[:n], values, good, offsets, keys, out)
        found = []
        for row in offsets:
            first, last = int(row[0]), int(row[-1])
            found.append(Keyed(row - first, keys[first:last], out[first:last]))
        return found

    def _parse(
        self,
        data: npt.NDArray[np.uint8],
        starts: npt.NDArray[np.int32],
        stops: npt.NDArray[np.int32],
        out: npt.NDArray[np.float64],
    ) -> npt.NDArray[np.bool_] | None:
        """Parse texts; return which are no finite numbers, None if all are."""
        n = len(starts)
        found = self._found[:n]
        cells = TextCells(data, starts, stops)
        ok, _, _ = parse_cells(cells, self._use[:n], _NO_TEXTS, out, found)
        return None if ok == n else found != numbers.PRESENT

    def records_of(
        self,
        data: npt.NDArray[np.uint8],
        n: int,
        bags: Sequence[Keyed],
        order: Sequence[int],
        reasons: dict[int, str],
        counts: tuple[int, int],
        *,
        is_last: bool,
    ) -> Records:
        """Return n records.

        Parameters
        ----------
        data : (bytes,) uint8
        n : int
        bags : sequence of Keyed
        order : sequence of int
            For each wanted column its cell, or -1 - v of bag v.
        reasons : dict of int to str
            By status.
        counts : (int, int)
            Physical lines and blank lines.
        is_last : bool
        """
        status = self.status[:n]
        begin, end = self.records[0], self.records[1]
        bad = np.flatnonzero(status)
        for cells in (self.starts, self.stops):
            cells[:, bad] = begin[bad]
        return Records(
            n_records=n,
            cells=[
                bags[-1 - at]
                if at < 0
                else TextCells(data, self.starts[at, :n], self.stops[at, :n])
                for at in order
            ],
            good=(status == 0).view(np.uint8),
            rejections=tuple(Rejection(int(i), reasons[int(status[i])]) for i in bad),
            lines=self.records[2, :n],
            n_lines=counts[0],
            n_blank=counts[1],
            text=lambda i: data[begin[i] : end[i]].tobytes(),
            is_last=is_last,
        )
