"""Blocks asked of the system before they are read, so that disk and cores work together.

    order     3 7 1 5 | 0 2 6 4 | ...      blocks of an epoch, window by window
    read          ^
    asked               ^                  at most `AHEAD_BYTES` further on

Asking copies nothing and waits for nothing: the pages arrive in the system's cache
while rows are computed, and no thread of ours is at work. Where they are there already,
asking is a sixth of what reading costs: it stops then, until a block was waited for.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from streamtrain.store.dataset import Dataset
from streamtrain.store.manifest import StoredBlock

AHEAD_BYTES = 64 << 20
"""What is asked for and not yet read: reading it takes longer than a disk needs to answer."""

_LOOK_EVERY, _ENOUGH_LOOKS = 8, 16
"""Every eighth block is looked at before it is asked for, and each behind one that the system
had. Sixteen in a row are no chance of a cache that holds a part of them."""


class ReadAhead:
    """Ask for the blocks of an epoch, in the order in which they will be read.

    Parameters
    ----------
    dataset : Dataset
    blocks : sequence of StoredBlock
        As they will be read.
    may_stop : bool
        Whether `waited` is called for each block that was not in the system's cache.
    ahead_bytes : int

    Notes
    -----
    Any number of threads may call `advance` and `waited`.
    """

    def __init__(
        self,
        dataset: Dataset,
        blocks: Sequence[StoredBlock],
        *,
        may_stop: bool = False,
        ahead_bytes: int = AHEAD_BYTES,
    ) -> None:
        self._dataset = dataset
        self._blocks = blocks
        self._may_stop = may_stop
        self._ahead_bytes = ahead_bytes
        # Blocks before the first number are read or being read, before the second asked for.
        self._n_read = self._n_asked = 0
        # Bytes of the blocks between the two.
        self._pending = 0
        # Looks in a row that found a block in the system's cache.
        self._cached = 0
        self._lock = threading.Lock()

    def advance(self) -> None:
        """Note that the next block is about to be read, and ask for those behind it."""
        while (number := self._next()) is not None:
            block = self._blocks[number]
            if self._may_stop and (number % _LOOK_EVERY == 0 or self._cached):
                self._cached = self._cached + 1 if self._dataset.is_cached(block) else 0
            self._dataset.ask(block)
        with self._lock:
            if self._n_read < self._n_asked:
                self._pending -= self._blocks[self._n_read].n_bytes
            self._n_read += 1
            self._n_asked = max(self._n_asked, self._n_read)

    def waited(self) -> None:
        """Note that a block was not in the system's cache when it was read: ask again."""
        if self._cached >= _ENOUGH_LOOKS:
            self._cached = 0

    def _next(self) -> int | None:
        """Return the number of the next block to ask for; None while enough are pending."""
        with self._lock:
            number = self._n_asked
            if (
                number == len(self._blocks)
                or self._pending >= self._ahead_bytes
                or self._cached >= _ENOUGH_LOOKS
            ):
                return None
            self._n_asked += 1
            self._pending += self._blocks[number].n_bytes
            return number
