"""Our side of the benchmarks of networks: `st.Trainer` on rows in memory."""

from __future__ import annotations

from typing import Any

import streamtrain as st
from tests.benchmarks.made_rows import MadeRows
from tests.benchmarks.turns import Steps


class OurSteps(Steps):
    """A trainer that goes round and round its rows.

    Parameters
    ----------
    rows : MadeRows
    batch_size : int
    **options
        Of `st.Trainer`.
    """

    def __init__(self, rows: MadeRows, *, batch_size: int, **options: Any) -> None:
        self.trainer = st.Trainer(
            n_numeric=rows.numeric.shape[1],
            cardinalities=rows.cardinalities,
            loss="logistic",
            **options,
        )
        self._rows, self._batch_size = rows, batch_size
        self._n_batches = len(rows) // batch_size
        self._at = 0

    def __call__(self, n_steps: int) -> None:
        left = n_steps
        while left:
            n = min(left, self._n_batches - self._at)
            start, stop = self._at * self._batch_size, (self._at + n) * self._batch_size
            self.trainer.fit_rows(
                self._rows.numeric[start:stop],
                self._rows.codes[start:stop],
                self._rows.target[start:stop],
                batch_size=self._batch_size,
            )
            left -= n
            self._at = (self._at + n) % self._n_batches

    def predict(self, rows: MadeRows) -> Any:
        """Return probabilities, (n,)."""
        return self.trainer.predict(rows.numeric, rows.codes)
