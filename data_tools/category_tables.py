"""The tables of all columns of categories while rows are read, within a share of the budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from streamtrain.store.string_table import StringTable

_MIN_PRUNED, _MIN_PRUNED_BYTES = 1024, 1 << 20
"""Tables with fewer strings that take less are never pruned."""


class CategoryTables:
    """One table for each column, together of at most `limit` bytes.

    Parameters
    ----------
    names : sequence of str
    limit : int
    """

    def __init__(self, names: Sequence[str], limit: int) -> None:
        self.named = {name: StringTable() for name in names}
        self._limit = limit
        self._n_bytes = self._growth = 0

    def __len__(self) -> int:
        return len(self.named)

    def make_room(self, n_rows: int, text_bytes: int, wait: Callable[[], None]) -> None:
        """Prune the largest tables where rows that follow could outgrow the limit.

        Parameters
        ----------
        n_rows : int
        text_bytes : int
            Of the piece that the rows are of.
        wait : callable
            Returns once all rows before are in the tables.
        """
        growth = StringTable.growth_bytes(n_rows * len(self), text_bytes)
        self._growth += growth
        if self._n_bytes + self._growth <= self._limit:
            return
        # Only now is it worth waiting for the pieces before, to know the size exactly.
        wait()
        tables = self.named.values()
        total = sum(t.n_bytes for t in tables)
        # What the last pieces added says what this one may add; its own bound would
        # be that of cells that are all new.
        expected = min(growth, 2 * max(total - self._n_bytes, 0))
        while total + expected > self._limit:
            largest = max(tables, key=lambda t: t.n_bytes)
            if len(largest) < _MIN_PRUNED and largest.n_bytes < _MIN_PRUNED_BYTES:
                break
            largest.prune()
            total = sum(t.n_bytes for t in tables)
        self._n_bytes, self._growth = total, growth
