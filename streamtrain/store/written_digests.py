"""Digests of what is written: of a split's values, and of a file and each of its blocks."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from streamtrain import durable
from streamtrain.store.entry_buffer import EntryBuffer


class ContentsDigest:
    """xxh3-128 of the values of a split, as they are in memory before any format.

    Of each block of a table in turn, each column's n values as 4 little-endian
    bytes (float32 or int32), then for each bag the bytes of each row's entries and
    the entries; of a block of arrays, each row's features and its targets. So it
    depends on values, on the order of the rows, and for a table on the boundaries
    of blocks.
    """

    def __init__(self) -> None:
        self._digest = xxhash.xxh3_128()

    def update(self, block: npt.NDArray[Any], bags: Sequence[EntryBuffer] = ()) -> None:
        """Add a block, as `BlockWriter` holds it: its rows, or its columns, are contiguous."""
        self._update(block)
        for bag in bags:
            self._digest.update(bag.lengths().data)
            self._digest.update(np.ascontiguousarray(bag.words).data)

    def _update(self, block: npt.NDArray[Any]) -> None:
        if block.flags.c_contiguous:
            self._digest.update(block.data)
            return
        for column in block:
            self._digest.update(column.data)

    def hexdigest(self) -> str:
        """Return the digest of all blocks so far."""
        return self._digest.hexdigest()


class HashingFile(io.RawIOBase):
    """An append-only file that digests what passes, for the file and for each block."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb", buffering=0)
        self.path = path
        self.position = 0
        self.whole = xxhash.xxh3_128()
        self.block = xxhash.xxh3_64()
        self._kept = False

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: object) -> int:
        """Append all of `data`."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        if self._file.closed:
            return len(view)  # abandoned: Arrow still empties its buffer as it goes
        rest = view
        while rest:
            rest = rest[self._file.write(rest) :]
        self.whole.update(view)
        self.block.update(view)
        self.position += len(view)
        return len(view)

    def tell(self) -> int:
        """Return the bytes so far."""
        return self.position

    def flush(self) -> None:
        """Do nothing that was not done: Arrow calls this when it is closing, too."""
        if not self._file.closed:
            self._file.flush()

    def finish(self) -> None:
        """Sync and close.

        Raises
        ------
        DiskError
            If the disk is full or fails.
        """
        try:
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            raise durable.as_stream_error(error, self.path) from error

    def keep_open(self) -> None:
        """Leave the file open when Arrow lets go of it, until `finish`."""
        self._kept = True

    def close(self) -> None:
        """Close the file, unless it was asked to stay open."""
        if not self._file.closed and not self._kept:
            # A full disk was reported already, by the write that met it.
            with contextlib.suppress(OSError):
                self._file.close()
        super().close()
