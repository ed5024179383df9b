"""The learning rate of every step, a pure function of its number."""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from streamtrain.errors import ConfigError

ScheduleName = Literal[
    "constant", "step", "exponential", "inverse-sqrt", "linear", "cosine", "one-cycle", "coslog",
    "plateau",
]  # fmt: skip
SCHEDULES = (
    "constant", "step", "exponential", "inverse-sqrt", "linear", "cosine", "one-cycle", "coslog",
    "plateau",
)  # fmt: skip

Floats = npt.NDArray[np.float64]
_ONE_CYCLE_RISE, _ONE_CYCLE_START, _ONE_CYCLE_END = 0.3, 1 / 25, 1 / 25e4


class Schedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A schedule of the rate over all steps of a run.

    Parameters
    ----------
    name : str
        With t steps after the warm-up of T in all, k = `decay_steps`:

        constant      1
        step          decay^floor(t / k)
        exponential   decay^(t / k)
        inverse-sqrt  1 / sqrt(1 + t / k), k the warm-up where there is one
                      (Vaswani et al. 2017)
        linear        1 - t / T
        cosine        (1 + cos(pi t / T)) / 2  (Loshchilov and Hutter 2017,
                      without restarts)
        one-cycle     half a cosine from 1/25 up to 1 in the first 0.3 of T,
                      another down to 1/250,000  (Smith and Topin 2018, with
                      PyTorch's defaults)
        coslog        (1 - cos(2 pi log2(1 + 15 t / T))) / 2: four waves, each
                      twice as long as the last  (Holzmueller et al. 2024)
        plateau       1; training multiplies it by decay when validation no
                      longer improves
    rate : float
        The highest rate.
    warmup_steps : int
        The first steps rise linearly to the schedule's first value.
    total_steps : int
        Of the run, warm-up included.
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
        if not 0 < self.rate < math.inf:
            raise ConfigError(f"the rate {self.rate} is not positive", where="--lr")
        if self.warmup_steps < 0:
            raise ConfigError(f"{self.warmup_steps} is negative", where="--warmup-steps")
        if not 0 < self.decay <= 1:
            raise ConfigError(f"{self.decay} is not in (0, 1]", where="--decay")

    def rates(self, first: int, n: int) -> Floats:
        """Return the (n,) float64 rates of steps first, first + 1, ... (from 0)."""
        step = np.arange(first, first + n, dtype=np.float64)
        warm = self.warmup_steps
        rise = np.minimum((step + 1.0) / warm, 1.0) if warm else 1.0
        factor = self._factor(np.maximum(step - warm, 0.0), max(self.total_steps - warm, 1))
        return np.asarray(self.rate * factor * rise, np.float64)

    def _factor(self, t: Floats, total: int) -> Floats:
        every = self.decay_steps or max(total // 10, 1)
        part = np.minimum(t / total, 1.0)
        if self.name == "step":
            return np.asarray(self.decay ** np.floor(t / every))
        if self.name == "exponential":
            return np.asarray(self.decay ** (t / every))
        if self.name == "inverse-sqrt":
            every = self.decay_steps or self.warmup_steps or every
            return np.asarray(1.0 / np.sqrt(1.0 + t / every))
        if self.name == "linear":
            return 1.0 - part
        if self.name == "cosine":
            return np.asarray(0.5 * (1.0 + np.cos(np.pi * part)))
        if self.name == "one-cycle":
            return _one_cycle(t, total)
        if self.name == "coslog":
            return np.asarray(0.5 * (1.0 - np.cos(2.0 * np.pi * np.log2(1.0 + 15.0 * part))))
        return np.ones(len(t))


def _one_cycle(t: Floats, total: int) -> Floats:
    # The last step is the lowest. A run of 3 steps or fewer has no time to rise: top < 0.
    top, end = _ONE_CYCLE_RISE * total - 1.0, total - 1.0
    up = _half_cosine(_ONE_CYCLE_START, 1.0, t / top)
    fallen = np.clip((t - top) / (end - top), 0.0, 1.0)
    return np.where(t <= top, up, _half_cosine(1.0, _ONE_CYCLE_END, fallen))


def _half_cosine(start: float, end: float, part: Floats) -> Floats:
    return np.asarray(end + 0.5 * (start - end) * (1.0 + np.cos(np.pi * part)))
