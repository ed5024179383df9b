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
from streamtrain.errors import DiskError
from streamtrain.kernels import packing
from streamtrain.kernels.row_key import row_keys

MAX_BITS = 8
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
    """

    def __init__(self, folder: Path, *, bits: int, n_columns: int, skip_bits: int = 0) -> None:
        self.folder = folder
        self.bits = bits
        self.skip_bits = skip_bits
        self.row_bytes = 4 * (n_columns + packing.HEAD_WORDS)
        self._lock = threading.Lock()
        self._files: list[int] = []
        try:
            folder.mkdir()
            for p in range(1 << bits):
                self._files.append(
                    os.open(self.path(p), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                )
        except OSError as error:
            self.close()
            raise durable.as_stream_error(error, folder) from error
        self.n_rows = np.zeros(1 << bits, np.int64)

    def path(self, p: int) -> Path:
        """Return the file of a partition."""
        return self.folder / f"{p:03d}"

    def write(
        self, rows: npt.NDArray[np.int32], counts: npt.NDArray[np.int64], *, first_row: int = -1
    ) -> None:
        """Write packed rows, grouped by partition.

        Parameters
        ----------
        rows : (n, k + 2) int32
        counts : (2**bits,) int64
            Rows for each partition, in order.
        first_row : int
            Where they go in the only partition; -1 puts them behind what is there.

        Raises
        ------
        DiskError
            If the disk is full or fails.
        """
        if not len(rows):
            return
        with self._lock:
            starts = self.n_rows.copy()
            self.n_rows += counts
        if first_row >= 0:
            starts[0] = first_row
        data = rows.data.cast("B")
        at = 0
        try:
            for p in np.flatnonzero(counts):
                n = int(counts[p]) * self.row_bytes
                _write_all(self._files[p], data[at : at + n], int(starts[p]) * self.row_bytes)
                at += n
        except OSError as error:
            raise durable.as_stream_error(error, self.folder) from error

    def close(self) -> None:
        """Close the files."""
        for fd in self._files:
            os.close(fd)
        self._files = []


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
    """

    rows: npt.NDArray[np.int32]
    order: tuple[npt.NDArray[np.int64], ...]


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
        A part has as many, whatever `max_bytes` says.
    """
    max_rows = max(max_bytes // loaded_bytes(1, partitions.row_bytes), min_rows)
    for p, n_rows in enumerate(partitions.n_rows.tolist()):
        path = partitions.path(p)
        if shuffled and n_rows > max_rows:
            smaller = _divide(partitions, p, n_rows, key, max_rows)
            yield from read_sorted(
                smaller, key, shuffled=True, max_bytes=max_bytes, min_rows=min_rows
            )
            continue
        for first in range(0, n_rows, max_rows):
            n = min(max_rows, n_rows - first)
            yield _sort(_load(path, first, n, partitions.row_bytes), key, shuffled=shuffled)
        path.unlink()


def _load(path: Path, first: int, n: int, row_bytes: int) -> npt.NDArray[np.int32]:
    rows = np.empty((n, row_bytes // 4), np.int32)
    view = rows.data.cast("B")
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(first * row_bytes)
            while view:
                done = file.readinto(view)
                if not done:
                    raise DiskError(
                        "a temporary partition is shorter than written", where=str(path)
                    )
                view = view[done:]
    except OSError as error:
        raise durable.as_stream_error(error, path) from error
    return rows


def _sort(rows: npt.NDArray[np.int32], key: int, *, shuffled: bool) -> SortedRows:
    keys = np.empty(len(rows), np.uint64)
    splits = np.empty(len(rows), np.uint8)
    packing.unpack_heads(rows, np.uint64(key), shuffled, keys, splits)
    order = np.argsort(keys) if shuffled else np.arange(len(rows))
    del keys
    of_row = splits[order]
    return SortedRows(rows, tuple(order[of_row == s] for s in range(3)))


def ordinals_of(rows: npt.NDArray[np.int32]) -> npt.NDArray[np.uint64]:
    """Return the ordinals of packed rows; their heads, (n, 2) int32, are enough."""
    ordinals = np.empty(len(rows), np.uint64)
    packing.unpack_heads(rows, np.uint64(0), False, ordinals, np.empty(len(rows), np.uint8))
    return ordinals


def _divide(partitions: Partitions, p: int, n_rows: int, key: int, max_rows: int) -> Partitions:
    used = partitions.skip_bits + partitions.bits
    bits = min(max((2 * n_rows // max_rows).bit_length(), 1), MAX_BITS)
    folder = partitions.folder / f"{p:03d}.parts"
    n_columns = partitions.row_bytes // 4 - packing.HEAD_WORDS
    smaller = Partitions(folder, bits=bits, n_columns=n_columns, skip_bits=used)
    try:
        for first in range(0, n_rows, max_rows):
            n = min(max_rows, n_rows - first)
            rows = _load(partitions.path(p), first, n, partitions.row_bytes)
            ordinals = ordinals_of(rows)
            keys = np.empty(n, np.uint64)
            row_keys(np.uint64(key), ordinals, keys)
            group = (keys << np.uint64(used)) >> np.uint64(64 - bits)
            order = np.argsort(group, kind="stable")
            smaller.write(rows[order], np.bincount(group.astype(np.int64), minlength=1 << bits))
    finally:
        smaller.close()
    partitions.path(p).unlink()
    return smaller
