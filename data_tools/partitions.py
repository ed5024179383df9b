"""Temporary partitions: rows grouped by the top bits of their keys, on disk.

Rows are fixed-width records (kernels/packing.py). Partition p holds the rows
whose key starts with the bits of p, so partitions in order, each sorted by key,
are all rows sorted by key, however many partitions there are.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from streamtrain import durable
from streamtrain.errors import ConfigError, DiskError
from streamtrain.kernels import packing
from streamtrain.kernels.row_key import row_keys

MAX_BITS = 8
ENTRY_BYTES = 8
"""Of an entry of a bag: code (int32) and value (float32)."""
_MAX_ENTRIES = (1 << 32) - 1
_LOAD_OVERHEAD = 8 + 8 + 1 + 8 + 8
"""Bytes beside each loaded row: key, order, split, order by split, sort scratch."""


def loaded_bytes(n_rows: int, row_bytes: int) -> int:
    """Return the memory of a loaded partition of n rows."""
    return n_rows * (row_bytes + _LOAD_OVERHEAD)


class Partitions:
    """Writes rows from several threads to 2**bits files.

    Parameters
    ----------
    folder : Path
        Created; it must not exist.
    bits : int
    n_columns : int
        Stored values of a row.
    skip_bits : int
        Top bits of the key that are used up already.
    n_bags : int
        Columns of variable length: of each, a row ends with where its entries begin
        in the partition's second file, and how many they are.
    """

    def __init__(
        self, folder: Path, *, bits: int, n_columns: int, skip_bits: int = 0, n_bags: int = 0
    ) -> None:
        self.folder = folder
        self.bits = bits
        self.skip_bits = skip_bits
        self.n_bags = n_bags
        self.n_columns = n_columns
        self.row_bytes = 4 * (n_columns + 2 * n_bags + packing.HEAD_WORDS)
        self._lock = threading.Lock()
        self._files: list[int] = []
        self._entry_files: list[int] = []
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            folder.mkdir()
            for p in range(1 << bits):
                self._files.append(os.open(self.path(p), flags, 0o600))
                if n_bags:
                    self._entry_files.append(os.open(self.entries_path(p), flags, 0o600))
        except OSError as error:
            self.close()
            raise durable.as_stream_error(error, folder) from error
        self.n_rows = np.zeros(1 << bits, np.int64)
        self.n_entries = np.zeros(1 << bits, np.int64)

    def path(self, p: int) -> Path:
        """Return the file of a partition."""
        return self.folder / f"{p:03d}"

    def entries_path(self, p: int) -> Path:
        """Return the file of the entries of a partition's bags."""
        return self.folder / f"{p:03d}.entries"

    def write(
        self,
        rows: npt.NDArray[np.int32],
        counts: npt.NDArray[np.int64],
        *,
        first_row: int = -1,
        words: npt.NDArray[np.int32] | None = None,
    ) -> None:
        """Write packed rows, grouped by partition.

        Parameters
        ----------
        rows : (n, k + 2) int32
            Those with bags are updated.
        counts : (2**bits,) int64
            Rows for each partition, in order.
        first_row : int
            Where they go in the only partition; -1 puts them behind what is there.
        words : (m, 2) int32
            Entries to which rows with bags point.

        Raises
        ------
        DiskError
            If the disk is full or fails.
        """
        if not len(rows):
            return
        entry_counts = np.zeros(len(counts), np.int64)
        entries = np.empty((0, 2), np.int32)
        if self.n_bags:
            assert words is not None
            n_entries = int(rows[:, -2 * self.n_bags + 1 :: 2].sum(dtype=np.int64))
            entries = np.empty((n_entries, 2), np.int32)
            packing.pack_entries(rows, counts, self.n_bags, words, entries, entry_counts)
        with self._lock:
            starts, entry_starts = self.n_rows.copy(), self.n_entries.copy()
            self.n_rows += counts
            self.n_entries += entry_counts
        if self.n_bags:
            self._point(rows, counts, entry_starts + entry_counts, entry_starts)
        if first_row >= 0:
            starts[0] = first_row
        data = rows.data.cast("B")
        at = 0
        try:
            for p in np.flatnonzero(counts):
                n = int(counts[p]) * self.row_bytes
                _write_all(self._files[p], data[at : at + n], int(starts[p]) * self.row_bytes)
                at += n
            data, at = entries.reshape(-1).data.cast("B"), 0
            for p in np.flatnonzero(entry_counts):
                n = ENTRY_BYTES * int(entry_counts[p])
                where = ENTRY_BYTES * int(entry_starts[p])
                _write_all(self._entry_files[p], data[at : at + n], where)
                at += n
        except OSError as error:
            raise durable.as_stream_error(error, self.folder) from error

    def _point(
        self,
        rows: npt.NDArray[np.int32],
        counts: npt.NDArray[np.int64],
        ends: npt.NDArray[np.int64],
        starts: npt.NDArray[np.int64],
    ) -> None:
        """Let rows point to where their entries are in their partitions."""
        if ends.max(initial=0) > _MAX_ENTRIES:
            raise ConfigError(
                f"more than {_MAX_ENTRIES:,} entries of text or lists in one partition",
                where=str(self.folder),
                remedy="ingest in parts, or leave out --no-shuffle",
            )
        shift = np.repeat(starts, counts).astype(np.uint32)
        for v in range(self.n_bags):
            column = rows[:, 2 * v - 2 * self.n_bags]
            column += shift.view(np.int32)

    def remove(self, p: int) -> None:
        """Remove the files of a partition."""
        self.path(p).unlink()
        if self.n_bags:
            self.entries_path(p).unlink()

    def close(self) -> None:
        """Close the files."""
        for fd in (*self._files, *self._entry_files):
            os.close(fd)
        self._files, self._entry_files = [], []


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    while data:
        n = os.pwrite(fd, data, offset)
        data, offset = data[n:], offset + n


@dataclass(frozen=True)
class SortedRows:
    """Rows of a partition and, for each split, their order.

    Parameters
    ----------
    rows : (n, k + 2) int32
    order : tuple of three (m,) int64
        Rows of train, valid and test by ascending key.
    words : (m, 2) int32
        Entries of the rows' bags, to which the rows point.
    """

    rows: npt.NDArray[np.int32]
    order: tuple[npt.NDArray[np.int64], ...]
    words: npt.NDArray[np.int32]

    def bag(
        self, number: int, n_bags: int, picks: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return where the entries of some rows begin in `words`, and how many there are."""
        at = 2 * number - 2 * n_bags
        starts, counts = self.rows[picks, at], self.rows[picks, at + 1]
        return starts.view(np.uint32).astype(np.int64), counts.astype(np.int64)


def read_sorted(
    partitions: Partitions, key: int, *, shuffled: bool, max_bytes: int, min_rows: int = 1024
) -> Iterator[SortedRows]:
    """Yield all rows by ascending key, and remove each partition once it is read.

    Parameters
    ----------
    partitions : Partitions
        Closed.
    key : int
        Of the shuffle.
    shuffled : bool
        Otherwise there is one partition, in order, and it is read in parts.
    max_bytes : int
        Of memory for one loaded part. A larger partition is divided by its next bits.
    min_rows : int
        A part has as many, whatever `max_bytes` says, unless their entries are many.
    """
    for p, n_rows in enumerate(partitions.n_rows.tolist()):
        max_rows = max(max_bytes // loaded_bytes(1, partitions.row_bytes), min_rows)
        entry_bytes = ENTRY_BYTES * int(partitions.n_entries[p])
        is_large = loaded_bytes(n_rows, partitions.row_bytes) + entry_bytes > max_bytes
        if (
            shuffled
            and is_large
            and (n_rows > min_rows or (n_rows > 1 and entry_bytes > max_bytes))
        ):
            smaller = _divide(partitions, p, n_rows, key, max_bytes, min_rows)
            yield from read_sorted(
                smaller, key, shuffled=True, max_bytes=max_bytes, min_rows=min_rows
            )
            continue
        whole = [(0, n_rows)] if n_rows else []
        for first, n in whole if shuffled else _pieces(partitions, p, n_rows, max_rows, max_bytes):
            rows, words = load_rows(partitions, p, first, n)
            yield _sort(rows, words, key, shuffled=shuffled)
        partitions.remove(p)


def _pieces(
    partitions: Partitions, p: int, n_rows: int, step: int, max_bytes: int
) -> Iterator[tuple[int, int]]:
    """Yield (first, n) of consecutive rows: `step` at most, and fewer where rows are long."""
    for first in range(0, n_rows, step):
        n = min(step, n_rows - first)
        if not partitions.n_bags:
            yield first, n
            continue
        counts = _entries_of(_load(partitions.path(p), first, n, partitions.row_bytes), partitions)
        ends = np.cumsum(ENTRY_BYTES * counts + loaded_bytes(1, partitions.row_bytes))
        begin = 0
        while begin < n:
            before = int(ends[begin - 1]) if begin else 0
            end = int(np.searchsorted(ends, before + max_bytes, side="right"))
            end = max(end, begin + 1)
            yield first + begin, end - begin
            begin = end


def _entries_of(rows: npt.NDArray[np.int32], partitions: Partitions) -> npt.NDArray[np.int64]:
    """Return the entries of each row in all bags, (n,) int64."""
    counts: npt.NDArray[np.int64] = rows[:, -2 * partitions.n_bags + 1 :: 2].sum(
        axis=1, dtype=np.int64
    )
    return counts


def load_rows(
    partitions: Partitions, p: int, first: int, n: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return packed rows, and their entries, to which they point.

    Threads write the entries of rows in any order: those of consecutive rows may lie
    far apart, with others' between them that are not read.
    """
    rows = _load(partitions.path(p), first, n, partitions.row_bytes)
    if not partitions.n_bags or not n:
        return rows, np.empty((0, 2), np.int32)
    pointers = rows[:, -2 * partitions.n_bags :: 2].view(np.uint32)
    starts = pointers.astype(np.int64).reshape(-1)
    counts = rows[:, -2 * partitions.n_bags + 1 :: 2].astype(np.int64).reshape(-1)
    order = np.argsort(starts, kind="stable")
    ends = np.zeros(len(order) + 1, np.int64)
    np.cumsum(counts[order], out=ends[1:])
    words = np.empty((int(ends[-1]), 2), np.int32)
    # Runs: entries that follow those before them in the file as well.
    lies_at = starts[order] - ends[:-1]
    breaks = np.flatnonzero(np.diff(lies_at)) + 1
    for a, b in zip([0, *breaks.tolist()], [*breaks.tolist(), len(order)], strict=True):
        into = words[ends[a] : ends[b]]
        _load_into(into, partitions.entries_path(p), ENTRY_BYTES * int(starts[order[a]]))
    starts[order] = ends[:-1]
    pointers[:] = starts.reshape(pointers.shape)
    return rows, words


def entries_in_order(
    partitions: Partitions, key: int, *, shuffled: bool, max_bytes: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]]:
    """Yield the entries of each row in all bags and its split, (n,) int64 and uint8, by its key.

    The order is that of `read_sorted`; nothing is removed, and no entry is read.
    """
    row_bytes = partitions.row_bytes
    for p, n_rows in enumerate(partitions.n_rows.tolist()):
        step = max(max_bytes // loaded_bytes(1, row_bytes), 1)
        # Keys, splits and counts of a part of the keys at a time.
        n_parts = -(-n_rows * _LOAD_OVERHEAD // max_bytes) if shuffled else 1
        used = partitions.skip_bits + partitions.bits
        for part in range(n_parts):
            found: list[tuple[npt.NDArray[np.uint64], ...]] = []
            for first in range(0, n_rows, step):
                rows = _load(partitions.path(p), first, min(step, n_rows - first), row_bytes)
                keys, splits = np.empty(len(rows), np.uint64), np.empty(len(rows), np.uint8)
                packing.unpack_heads(rows, np.uint64(key), shuffled, keys, splits)
                counts = _entries_of(rows, partitions)
                if not shuffled:
                    yield counts, splits
                    continue
                share = ((keys << np.uint64(used)) >> np.uint64(32)) * np.uint64(n_parts)
                here = (share >> np.uint64(32)) == part
                found.append((keys[here], counts[here], splits[here]))
            if found:
                keys, counts, splits = (np.concatenate(each) for each in zip(*found, strict=True))
                order = np.argsort(keys)
                yield counts[order], splits[order]


def _load(path: Path, first: int, n: int, row_bytes: int) -> npt.NDArray[np.int32]:
    rows = np.empty((n, row_bytes // 4), np.int32)
    _load_into(rows, path, first * row_bytes)
    return rows


def _load_into(rows: npt.NDArray[np.int32], path: Path, offset: int) -> None:
    view = rows.reshape(-1).data.cast("B")
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            while view:
                done = file.readinto(view)
                if not done:
                    raise DiskError(
                        "a temporary partition is shorter than written", where=str(path)
                    )
                view = view[done:]
    except OSError as error:
        raise durable.as_stream_error(error, path) from error


def _sort(
    rows: npt.NDArray[np.int32],
    words: npt.NDArray[np.int32],
    key: int,
    *,
    shuffled: bool,
) -> SortedRows:
    keys = np.empty(len(rows), np.uint64)
    splits = np.empty(len(rows), np.uint8)
    packing.unpack_heads(rows, np.uint64(key), shuffled, keys, splits)
    order = np.argsort(keys) if shuffled else np.arange(len(rows))
    del keys
    of_row = splits[order]
    split_orders = tuple(order[of_row == s] for s in range(3))
    return SortedRows(rows, split_orders, words)


def ordinals_of(rows: npt.NDArray[np.int32]) -> npt.NDArray[np.uint64]:
    """Return the ordinals of packed rows; their heads, (n, 2) int32, are enough."""
    ordinals = np.empty(len(rows), np.uint64)
    packing.unpack_heads(rows, np.uint64(0), False, ordinals, np.empty(len(rows), np.uint8))
    return ordinals


def _divide(
    partitions: Partitions, p: int, n_rows: int, key: int, max_bytes: int, min_rows: int
) -> Partitions:
    used = partitions.skip_bits + partitions.bits
    whole = loaded_bytes(n_rows, partitions.row_bytes) + ENTRY_BYTES * int(partitions.n_entries[p])
    bits = min(max((2 * whole // max_bytes).bit_length(), 1), MAX_BITS)
    max_rows = max(max_bytes // loaded_bytes(1, partitions.row_bytes), min_rows)
    folder = partitions.folder / f"{p:03d}.parts"
    smaller = Partitions(
        folder,
        bits=bits,
        n_columns=partitions.n_columns,
        skip_bits=used,
        n_bags=partitions.n_bags,
    )
    try:
        for first, n in _pieces(partitions, p, n_rows, max_rows, max_bytes):
            rows, words = load_rows(partitions, p, first, n)
            ordinals = ordinals_of(rows)
            keys = np.empty(n, np.uint64)
            row_keys(np.uint64(key), ordinals, keys)
            group = (keys << np.uint64(used)) >> np.uint64(64 - bits)
            order = np.argsort(group, kind="stable")
            counts = np.bincount(group.astype(np.int64), minlength=1 << bits)
            smaller.write(rows[order], counts, words=words)
    finally:
        smaller.close()
    partitions.remove(p)
    return smaller
