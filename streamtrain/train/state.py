"""What a run is at a moment: enough to go on from there, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from streamtrain.kernels.updates import UpdateRule


class Ledger(msgspec.Struct, forbid_unknown_fields=True):
    """Rows of the run so far; at its end expected = delivered + skipped + dropped.

    Parameters
    ----------
    expected : int
        Rows of the epochs that ended.
    delivered : int
        Rows that steps were taken on.
    skipped : int
        Rows of batches left out by a policy.
    dropped : int
        Rows of last batches left out by --drop-last.
    """

    expected: int = 0
    delivered: int = 0
    skipped: int = 0
    dropped: int = 0


class Progress(msgspec.Struct, forbid_unknown_fields=True):
    """The part of the state that is not arrays.

    Parameters
    ----------
    step : int
        Steps taken.
    epoch, row : int
        Cursor of the next row.
    loss_sum, weight_sum : float
        Of this epoch's batches so far, each before its update.
    train_loss : float or None
        Of the last epoch that ended.
    valid : dict
        Metrics of the last validation.
    progressive : dict
        Loss and metrics of the first epoch, of each row before the step it was
        part of; empty until that epoch's rows have passed.
    best_loss, best_epoch, stale_epochs : float or None, int, int
        Of early stopping.
    rate_factor : float
        What the plateau schedule has made of the rate.
    plateau_loss, plateau_epochs : float or None, int
        Its best validation loss, and validations since without a better one.
    ledger : Ledger
    seconds : float
        Spent training, over all resumptions.
    """

    step: int = 0
    epoch: int = 0
    row: int = 0
    loss_sum: float = 0.0
    weight_sum: float = 0.0
    train_loss: float | None = None
    valid: dict[str, float | int | None] = {}
    progressive: dict[str, float | int | None] = {}
    best_loss: float | None = None
    best_epoch: int = -1
    stale_epochs: int = 0
    rate_factor: float = 1.0
    plateau_loss: float | None = None
    plateau_epochs: int = 0
    ledger: Ledger = msgspec.field(default_factory=Ledger)
    seconds: float = 0.0

    def follow_plateau(self, loss: float | None, *, patience: int, decay: float) -> None:
        """Note a validation loss; lower the rate after `patience` that were not better."""
        if loss is not None and (self.plateau_loss is None or loss < self.plateau_loss):
            self.plateau_loss, self.plateau_epochs = loss, 0
            return
        self.plateau_epochs += 1
        if self.plateau_epochs >= patience:
            self.rate_factor *= decay
            self.plateau_epochs = 0


@dataclass
class TrainState:
    """Parameters, the optimizer's memory, and progress.

    Parameters
    ----------
    parameters : (P,) float32
    rule : UpdateRule
    best : (P,) float32 or (0,)
        Parameters of the best epoch, where early stopping keeps them.
    progress : Progress
    average : (P,) float32 or (0,)
        Of the parameters, settled, where they are averaged.
    """

    parameters: npt.NDArray[np.float32]
    rule: UpdateRule
    best: npt.NDArray[np.float32]
    progress: Progress
    average: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Return every array by name."""
        return {
            "parameters": self.parameters,
            "best": self.best,
            **({"average": self.average} if len(self.average) else {}),
            **{f"optimizer.{k}": v for k, v in self.rule.tensors().items()},
        }

    def is_finite(self) -> bool:
        """Return whether every number of it is."""
        return all(all_finite(array) for array in self.tensors().values())


def all_finite(array: npt.NDArray[Any]) -> bool:
    """Return whether every element is finite, without an array of the same size."""
    flat = array.reshape(-1)
    step = 1 << 20
    return all(bool(np.isfinite(flat[i : i + step]).all()) for i in range(0, len(flat), step))
