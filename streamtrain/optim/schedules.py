"""The learning rate of every step, a pure function of its number."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from streamtrain.errors import ConfigError

ScheduleName = Literal["constant", "step", "cosine"]
SCHEDULES = ("constant", "step", "cosine")


class Schedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A schedule of the rate over all steps of a run.

    Parameters
    ----------
    name : {"constant", "step", "cosine"}
        step: multiply by `decay` after every tenth part of the steps, or every
        `decay_steps`. cosine: rate (1 + cos(pi t / T)) / 2 (Loshchilov and
        Hutter 2017, without restarts).
    rate : float
        The highest rate.
    warmup_steps : int
        The first steps rise linearly to it.
    total_steps : int
        T of the run, warm-up included.
    decay : float
    decay_steps : int
        0 for a tenth of the steps.
    """

    name: ScheduleName
    rate: float
    total_steps: int
    warmup_steps: int = 0
    decay: float = 0.5
    decay_steps: int = 0

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises
        ------
        ConfigError
            Naming the option.
        """
        if self.name not in SCHEDULES:
            raise ConfigError(
                f"no schedule {self.name!r}",
                where="--schedule",
                remedy=f"choose one of {', '.join(SCHEDULES)}",
            )
        if not 0 < self.rate < float("inf"):
            raise ConfigError(f"the rate {self.rate} is not positive", where="--lr")
        if self.warmup_steps < 0:
            raise ConfigError(f"{self.warmup_steps} is negative", where="--warmup-steps")
        if not 0 < self.decay <= 1:
            raise ConfigError(f"{self.decay} is not in (0, 1]", where="--decay")

    def rates(self, first: int, n: int) -> npt.NDArray[np.float64]:
        """Return the (n,) float64 rates of steps first, first + 1, ... (from 0)."""
        step = np.arange(first, first + n, dtype=np.float64)
        warm = self.warmup_steps
        after = np.maximum(step - warm, 0.0)
        length = max(self.total_steps - warm, 1)
        if self.name == "cosine":
            factor = 0.5 * (1.0 + np.cos(np.pi * np.minimum(after / length, 1.0)))
        elif self.name == "step":
            every = self.decay_steps or max(length // 10, 1)
            factor = self.decay ** np.floor(after / every)
        else:
            factor = np.ones(n)
        rise = np.minimum((step + 1.0) / warm, 1.0) if warm else 1.0
        return np.asarray(self.rate * factor * rise, np.float64)
