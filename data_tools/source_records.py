"""Records of a source as a model reads them, with those that it cannot read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamtrain.store.encode import EncodedRows


@dataclass(frozen=True)
class EncodedPiece:
    """Consecutive records of a source, in order.

    Parameters
    ----------
    rows : EncodedRows
        The good records.
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

    rows: EncodedRows
    n_records: int
    ordinals_within_batch: npt.NDArray[np.int64]
    reasons: dict[int, str]
    source: str
    lines: npt.NDArray[np.int64]
    unit: str = "line"
