"""Cells of text, which of them are missing, and tables that number distinct ones.

Thin owners of the arrays that kernels/strings.py and kernels/numbers.py work on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streamtrain.kernels import numbers, strings

Bytes = npt.NDArray[np.uint8]
_MIN_ENTRIES = 64
_ENTRY_BYTES = 32 + 8 + 4 * 8
"""Entry, error, and up to four slots an entry after a doubling."""


@dataclass(frozen=True)
class TextCells:
    """The cells of one column: ranges of a buffer.

    Parameters
    ----------
    data : (bytes,) uint8
        With at least 8 readable bytes after every cell.
    starts, stops : (n,) int32 or int64
    """

    data: Bytes
    starts: npt.NDArray[Any]
    stops: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.starts)

    def text(self, i: int | np.integer[Any]) -> bytes:
        """Return the bytes of one cell."""
        return self.data[self.starts[i] : self.stops[i]].tobytes()


class MissingTexts:
    """The texts that read as missing, as the kernels want them."""

    def __init__(self, texts: Sequence[str]) -> None:
        encoded = [text.strip(" \t").encode() for text in texts]
        self.first_bytes = np.zeros(257, np.bool_)
        self.first_bytes[[9, 32]] = True
        for text in encoded:
            self.first_bytes[text[0] if text else 256] = True
        self.offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(text) for text in encoded], out=self.offsets[1:])
        self.texts = np.frombuffer(b"".join(encoded) + bytes(8), np.uint8)
        # Of cells that are numbers already: those that the texts spell.
        self.numbers = np.array([v for v in map(_as_number, texts) if np.isfinite(v)])

    @property
    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """(first_bytes, offsets, texts) for the kernels."""
        return self.first_bytes, self.offsets, self.texts

    def find(self, cells: TextCells) -> npt.NDArray[np.bool_]:
        """Return which cells are missing, (n,) bool."""
        out = np.empty(len(cells), np.bool_)
        strings.find_missing(cells.data, cells.starts, cells.stops, *self.arrays, out)
        return out


def parse_cells(
    cells: TextCells,
    use: npt.NDArray[np.uint8],
    missing: MissingTexts,
    out: npt.NDArray[np.float64],
    status: npt.NDArray[np.uint8],
) -> tuple[int, int, int]:
    """Parse a column of numbers; see `numbers.parse_numbers`.

    Returns
    -------
    tuple of int
        How many cells are present, not a number, not finite (as float32).
    """
    bits = np.zeros(1, np.uint64)
    present, bad, infinite, undecided = numbers.parse_numbers(
        cells.data, cells.starts, cells.stops, use, *missing.arrays,
        numbers.POWERS_OF_FIVE, numbers.POWERS_OF_TEN, bits, out, status,
    )  # fmt: skip
    if undecided:
        for i in np.flatnonzero(status[: len(cells)] == numbers.UNDECIDED):
            value = float(cells.text(i))
            finite = abs(value) < numbers.FLOAT32_LIMIT
            out[i] = value if finite else np.nan
            status[i] = numbers.PRESENT if finite else numbers.NOT_FINITE
            present += finite
            infinite += not finite
    return present, bad, infinite


def _as_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


class StringTable:
    """Numbers distinct strings from 0 in order of first appearance, and counts them.

    Notes
    -----
    `prune` bounds the size by lossy counting. A string that is absent from the
    table has been counted at most `floor` times, and a count that is kept is
    short by at most `floor`; without pruning `floor` is 0 and counts are exact.
    Ids are never used twice.
    """

    def __init__(self) -> None:
        self._slots = np.zeros(4 * _MIN_ENTRIES, np.uint64)
        self._entries = np.zeros((_MIN_ENTRIES, 4), np.uint64)
        self._errors = np.zeros(_MIN_ENTRIES, np.int64)
        self._arena = np.zeros(1024, np.uint8)
        self._sizes = np.zeros(3, np.int64)
        self.floor = 0

    def __len__(self) -> int:
        return int(self._sizes[0])

    @property
    def _counts(self) -> npt.NDArray[np.int64]:
        return self._entries[: len(self), 2].astype(np.int64)

    @property
    def _ids(self) -> npt.NDArray[np.int64]:
        return self._entries[: len(self), 3].astype(np.int64)

    @property
    def n_ids(self) -> int:
        """Ids given so far, those of pruned strings included."""
        return int(self._sizes[2])

    @property
    def n_bytes(self) -> int:
        """Bytes that the contents account for, whatever the arrays' spare room."""
        return int(self._sizes[0]) * _ENTRY_BYTES + 2 * int(self._sizes[1])

    @staticmethod
    def growth_bytes(n_cells: int, text_bytes: int) -> int:
        """Return the most that cells can add to `n_bytes`."""
        return n_cells * _ENTRY_BYTES + 2 * text_bytes

    def intern(
        self,
        cells: TextCells,
        use: npt.NDArray[np.uint8],
        missing: MissingTexts,
        out: npt.NDArray[np.int32],
    ) -> None:
        """Write 0 for missing cells, else 1 + id, adding strings not seen before.

        Parameters
        ----------
        cells : TextCells
        use : (n,) uint8
            0 leaves a cell out, 1 looks it up, 2 counts it as well.
        missing : MissingTexts
        out : (n,) int32, overwritten
        """
        before = len(self)
        done = 0
        while True:
            done = strings.intern_cells(
                cells.data, cells.starts, cells.stops, use, *missing.arrays,
                self._slots, self._entries, self._arena, self._sizes, done, out,
            )  # fmt: skip
            if done == len(cells):
                break
            self._grow(int(cells.stops[done] - cells.starts[done]))
        if self.floor:
            self._errors[before : len(self)] = self.floor

    def _grow(self, length: int) -> None:
        n = len(self)
        if n >= len(self._entries):
            entries = np.zeros((2 * len(self._entries), 4), np.uint64)
            entries[:n] = self._entries[:n]
            self._entries = entries
            self._errors = np.concatenate([self._errors, np.zeros_like(self._errors)])
        if 2 * (n + 1) > len(self._slots):
            self._fill(4 * len(self._slots) if n < 1 << 16 else 2 * len(self._slots))
        used = int(self._sizes[1])
        if used + length + strings.PADDING_BYTES > len(self._arena):
            size = max(2 * len(self._arena), used + length + strings.PADDING_BYTES)
            arena = np.zeros(size, np.uint8)
            arena[:used] = self._arena[:used]
            self._arena = arena

    def _fill(self, n_slots: int) -> None:
        self._slots = np.zeros(n_slots, np.uint64)
        strings.fill_slots(self._slots, self._entries, self._arena, len(self))

    def clear(self) -> None:
        """Give the memory back; `floor` and `n_ids` stay."""
        self._slots = np.zeros(2, np.uint64)
        self._entries = np.zeros((0, 4), np.uint64)
        self._errors = np.zeros(0, np.int64)
        self._arena = np.zeros(0, np.uint8)
        self._sizes[:2] = 0

    def prune(self) -> None:
        """Forget the rarer half of the strings; raises `floor` to the greatest count lost."""
        n = len(self)
        if n == 0:
            return
        bound = self._counts + self._errors[:n]
        self.floor = max(self.floor, int(np.partition(bound, n // 2)[n // 2]))
        self._keep(np.flatnonzero(bound > self.floor))

    def _keep(self, kept: npt.NDArray[np.int64]) -> None:
        offsets, data = self._copied(kept)
        m = len(kept)
        capacity = max(_MIN_ENTRIES, 1 << int(2 * m).bit_length())
        entries = np.zeros((capacity, 4), np.uint64)
        entries[:m] = self._entries[kept]
        lengths = np.diff(offsets).astype(np.uint64)
        entries[:m, 1] = (offsets[:-1].astype(np.uint64) << np.uint64(24)) | lengths
        errors = np.zeros(capacity, np.int64)
        errors[:m] = self._errors[kept]
        self._errors = errors
        self._entries = entries
        self._arena = data
        self._sizes[0], self._sizes[1] = m, offsets[-1]
        self._fill(4 * capacity)

    def _copied(self, order: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Bytes]:
        lengths = (self._entries[order, 1] & np.uint64(strings.MAX_STRING_BYTES)).astype(np.int64)
        offsets = np.zeros(len(order) + 1, np.int64)
        data = np.zeros(int(lengths.sum()) + strings.PADDING_BYTES, np.uint8)
        strings.copy_strings(self._entries, self._arena, order, offsets, data)
        return offsets, data

    def ranked(
        self, *, at_least: int, at_most: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64], Bytes]:
        """Return the strings counted `at_least` times, the `at_most` most frequent.

        Returns
        -------
        ids : (k,) int64
        counts : (k,) int64
            Descending; ties are in byte order.
        offsets : (k + 1,) int64
        data : uint8
            Padded with 8 bytes.
        """
        order = np.flatnonzero(self._counts >= max(at_least, 1))
        scratch = np.empty_like(order)
        strings.sort_entries(order, scratch, self._entries, self._arena)
        order = order[:at_most]
        offsets, data = self._copied(order)
        return self._ids[order], self._counts[order], offsets, data

    def listed(
        self,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], list[bytes]]:
        """Return ids, counts and strings, in order of first appearance: for few strings."""
        n = len(self)
        offsets, data = self._copied(np.arange(n))
        raw, bounds = data.tobytes(), offsets.tolist()
        texts = [raw[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
        return self._ids, self._counts, texts


class StringIndex:
    """Finds the code of a string: FIRST_CODE + its position, RARE_CODE if it is not there."""

    def __init__(self, offsets: npt.NDArray[np.int64], data: Bytes) -> None:
        n = len(offsets) - 1
        self._arena = np.concatenate([data[: offsets[-1]], np.zeros(8, np.uint8)])
        lengths = np.diff(offsets).astype(np.uint64)
        self._entries = np.zeros((max(n, 1), 4), np.uint64)
        starts = offsets[:-1].astype(np.uint64)
        self._entries[:n, 1] = (starts << np.uint64(24)) | lengths
        words = np.zeros(n, np.uint64)
        for k in range(8):
            inside = lengths > k
            at = np.minimum(offsets[:-1] + k, len(self._arena) - 1)
            words |= np.where(inside, self._arena[at].astype(np.uint64) << np.uint64(8 * k), 0)
        self._entries[:n, 0] = words
        self._slots = np.zeros(max(8, 1 << int(2 * n).bit_length()), np.uint64)
        strings.fill_slots(self._slots, self._entries, self._arena, n)

    def find(
        self, cells: TextCells, missing: MissingTexts, out: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.int32]:
        """Write the code of every cell to `out` (n,) int32 and return it."""
        strings.find_cells(
            cells.data, cells.starts, cells.stops, *missing.arrays,
            self._slots, self._entries, self._arena, out,
        )  # fmt: skip
        return out
