"""What pass 1 hands its rows to when they stay where they are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_tools.partitions import Partitions
from data_tools.rejects import RejectFile
from streamtrain.errors import SourceError


class Unwritten(Partitions):
    """Takes the rows of pass 1 and keeps none: they stay where they are."""

    def __init__(self) -> None:
        self.bits = self.n_bags = 0

    def write(
        self,
        rows: npt.NDArray[np.int32],
        counts: npt.NDArray[np.int64],
        *,
        first_row: int = -1,
        words: npt.NDArray[np.int32] | None = None,
    ) -> None:
        """Keep nothing."""
        del rows, counts, first_row, words


class CountedRejects(RejectFile):
    """Counts rows that cannot be used: in place, none can be left out."""

    def __init__(self) -> None:
        super().__init__(Path(), fail=False)
        self._of: dict[str, Counter[str]] = {}
        self._first: dict[str, int] = {}

    def add(self, source: str, line: int, reason: str, row: bytes, *, unit: str = "line") -> None:
        """Count a row."""
        del row, unit
        self._of.setdefault(source, Counter())[reason] += 1
        self._first.setdefault(source, line)

    def check(self) -> None:
        """Refuse files with such rows.

        Raises
        ------
        SourceError
            For the first of them, with how many rows and why.
        """
        for source, reasons in self._of.items():
            n = reasons.total()
            told = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common(3))
            raise SourceError(
                f"{n:,} rows cannot be used ({told}), the first is row {self._first[source]:,}",
                where=source,
                remedy="rows cannot be left out in place: use `streamtrain ingest`, "
                "which keeps them apart",
            )
