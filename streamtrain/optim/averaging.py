"""When parameters are averaged, and how much each snapshot counts: pure functions of the step."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from streamtrain.errors import ConfigError

AverageName = Literal["none", "ema", "polyak"]
AVERAGES = ("none", "ema", "polyak")

_FEWEST_STEPS = 16
_LEAST_SNAPSHOTS = 64
# Parameters that a snapshot may pass over for each row that was trained: at 0.3 ns for
# each, 16 where shrinkage is caught up, that is 20 and 64 ns for a row that takes 400.
_PER_ROW, _PER_ROW_SHRINKING = 64, 4


class Averaging(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An average of the parameters over steps, taken by snapshots.

    Parameters
    ----------
    name : {"none", "ema", "polyak"}
        ema: each step counts `decay` times as much as the next one, the
        weights adding up to 1 from the first snapshot on. polyak: the plain
        mean of the snapshots after `start` (Polyak and Juditsky 1992; the
        tail alone, Jain et al. 2018).
    every : int
        Steps between snapshots, which are taken after steps that are
        multiples of it.
    decay : float
        Of one step.
    start : int
        Steps before the first snapshot counts.
    """

    name: AverageName = "none"
    every: int = 1
    decay: float = 0.999
    start: int = 0

    def n_snapshots(self, step: int) -> int:
        """Return the snapshots that the average holds after `step` steps."""
        if self.name == "none":
            return 0
        return max(step // self.every - self.start // self.every, 0)

    def steps_left(self, step: int) -> int:
        """Return the steps until the next snapshot."""
        return self.every - step % self.every

    def share(self, step: int) -> float:
        """Return s of average += s (parameters - average) after `step` steps; 0 for none.

        With D = decay^every the n-th snapshot has (1 - D) / (1 - D^n): the
        sum from 0 divided by that of its weights, without an array for either.
        """
        n = self.n_snapshots(step)
        if not n or step % self.every:
            return 0.0
        if self.name == "polyak":
            return 1.0 / n
        d: float = self.decay**self.every
        return (1.0 - d) / (1.0 - d**n)


def check_averaging(name: str, *, decay: float, start: float) -> None:
    """Refuse settings that cannot work.

    Raises
    ------
    ConfigError
        Naming the option.
    """
    if name not in AVERAGES:
        raise ConfigError(
            f"no average {name!r}",
            where="--average",
            remedy=f"choose one of {', '.join(AVERAGES)}",
        )
    if not 0 < decay < 1:
        raise ConfigError(f"{decay} is not between 0 and 1", where="--average-decay")
    if not 0 <= start < 1:
        raise ConfigError(f"{start} is not in [0, 1)", where="--average-start")


def plan_averaging(
    name: AverageName,
    *,
    decay: float,
    start: float,
    n_parameters: int,
    batch_size: int,
    total_steps: int,
    shrinks: bool,
) -> Averaging:
    """Return when snapshots are taken: so rarely that passing over all parameters costs little.

    Parameters
    ----------
    start : float
        Of polyak, the part of the steps before the first snapshot.
    n_parameters, batch_size, total_steps : int
    shrinks : bool
        Whether weights shrink between updates and are caught up for a snapshot.

    Notes
    -----
    A snapshot every max(16, P / (64 B)) steps, P / (4 B) with shrinkage, but
    at least 64 in a run: a run so short does not pay for more.
    """
    per_row = _PER_ROW_SHRINKING if shrinks else _PER_ROW
    every = max(_FEWEST_STEPS, -(-n_parameters // (per_row * batch_size)))
    every = min(every, max(1, total_steps // _LEAST_SNAPSHOTS))
    first = math.floor(start * total_steps) if name == "polyak" else 0
    return Averaging(name, every, decay, first)
