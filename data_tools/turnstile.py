"""Keeps parallel workers in step: each lane lets pieces through one at a time, in order."""

from __future__ import annotations

import threading


class AbandonedError(Exception):
    """Another worker failed: this one's work is void."""


class Turnstile:
    """Lanes that serve turns 0, 1, 2, ...

    What is done inside a lane happens in the order of the pieces, whichever
    threads do it, while different lanes and everything outside run in parallel.

    Parameters
    ----------
    n_lanes : int
    """

    def __init__(self, n_lanes: int) -> None:
        self._turns = [0] * n_lanes
        self._changed = threading.Condition()
        self._failed = False

    def wait(self, lane: int, turn: int) -> None:
        """Wait for a turn.

        Raises
        ------
        AbandonedError
            If `fail` was called.
        """
        with self._changed:
            while self._turns[lane] != turn and not self._failed:
                self._changed.wait()
            if self._failed:
                raise AbandonedError

    def wait_all(self, turn: int) -> None:
        """Wait until every lane but the first has come to a turn."""
        for lane in range(1, len(self._turns)):
            self.wait(lane, turn)

    def advance(self, lane: int) -> None:
        """Let the next turn in."""
        with self._changed:
            self._turns[lane] += 1
            self._changed.notify_all()

    def fail(self) -> None:
        """Send everybody home."""
        with self._changed:
            self._failed = True
            self._changed.notify_all()
