"""Records of a source, those that can be used and why the others cannot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamtrain.store.encode import EncodedRows


@dataclass(frozen=True, kw_only=True)
class SourceRecords:
    """Consecutive records of a source, in order.

    Parameters
    ----------
    n_records : int
        Bad ones included.
    ordinals_within_batch : (n,) int64
        Where the good records stand among the n_records, ascending.
    reasons : dict of int to str
        Why each other record is bad, by its position.
    source : str
    lines : (n_records,) int64
        Physical line of each record, from 1; of a source that is no text its row.
    unit : {"line", "row"}
    """

    n_records: int
    ordinals_within_batch: npt.NDArray[np.int64]
    reasons: dict[int, str]
    source: str
    lines: npt.NDArray[np.int64]
    unit: str = "line"

    def bad_records(self) -> list[str]:
        """Return where each bad record stands, and why it is bad."""
        return [
            f"{self.source} {self.unit} {self.lines[i]}: {why}"
            for i, why in sorted(self.reasons.items())
        ]


@dataclass(frozen=True, kw_only=True)
class EncodedPiece(SourceRecords):
    """With the good records as a model reads them, in `rows`."""

    rows: EncodedRows
