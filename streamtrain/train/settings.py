"""What a run is asked to do: what decides its result, and what only decides its speed."""

from __future__ import annotations

import math
import os
from typing import Literal

import msgspec

from streamtrain.errors import ConfigError
from streamtrain.model.losses import ClassWeights, LossSettings
from streamtrain.model.network import NetworkOptions
from streamtrain.optim.averaging import AverageName, Averaging, check_averaging, plan_averaging
from streamtrain.optim.optimizers import DEFAULT_RATES, OptimizerSettings
from streamtrain.optim.schedules import Schedule, ScheduleName
from streamtrain.store.dataset import IoMethod

DEFAULT_BATCH_SIZE = 256
_AUTO_STEPS = 500
_COUNTS = (
    "epochs", "max_steps", "seed", "warmup_steps", "decay_steps", "patience", "window_blocks",
    "early_stop",
)  # fmt: skip
_MAX_INTEGER = (1 << 63) - 1


class TrainSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that the trained parameters depend on, besides the dataset.

    A run is resumed with the same settings or not at all.

    Parameters
    ----------
    model : str
        "linear", "fm", "mlp", "wide-deep", "deepfm", "dcn" or "custom".
    loss : str or None
        None guesses it from the target.
    quantile, huber_delta, tweedie_power, label_smoothing, class_weights
        As `LossSettings` has them.
    network : NetworkOptions
        Of every model but "linear".
    cross : tuple of tuple of str
        Categorical columns to cross: a code for every combination.
    cross_size : int
        Most codes of a cross; more combinations are hashed into so many. Fewer
        take less memory and mix more of them up.
    optimizer : OptimizerSettings
    lr : float or None
        Highest learning rate; None takes the optimizer's default. Larger
        learns faster until it diverges.
    embedding_lr : float or None
        Highest rate of rows of categories; None takes `lr`. It follows the
        same schedule.
    schedule : str
        As of `optim.schedules.Schedule`. "plateau" needs a valid split.
    warmup_steps : int
        Steps in which the rate rises from 0.
    decay, decay_steps : float, int
        Of the step, exponential and inverse-sqrt schedules; decay of plateau.
    patience : int
        Of the plateau schedule: the rate is multiplied by `decay` after so
        many validations without a better loss.
    average : {"none", "ema", "polyak"}
        Validate and keep an average of the parameters over steps. Costs memory
        for another copy of them.
    average_decay : float
        Of ema: larger averages more steps, about 1 / (1 - decay).
    average_start : float
        Of polyak: the part of all steps before the average begins.
    epochs : int
        Passes over the train split.
    max_steps : int or None
        End after so many steps, in the middle of an epoch if need be.
    batch_size : int
        Rows of a gradient. Larger is faster per row up to some thousands, and
        takes fewer, smoother steps.
    seed : int
        Of the order of rows.
    early_stop : int
        End after so many epochs without a better validation loss, and keep the
        best epoch's parameters; 0 never.
    drop_last : bool
        Leave out the last batch of an epoch if it is not whole.
    shuffle : bool
        False reads rows as they lie.
    window_blocks : int
        Blocks that are shuffled together; 0 chooses about 131,072 rows, or what
        the budget holds. More mix better and take more memory.
    """

    model: str = "linear"
    loss: str | None = None
    quantile: float = LossSettings().quantile
    huber_delta: float = LossSettings().huber_delta
    tweedie_power: float = LossSettings().tweedie_power
    label_smoothing: float = LossSettings().label_smoothing
    class_weights: ClassWeights = "none"
    network: NetworkOptions = NetworkOptions()
    cross: tuple[tuple[str, ...], ...] = ()
    cross_size: int = 1 << 18
    optimizer: OptimizerSettings = OptimizerSettings()
    lr: float | None = None
    embedding_lr: float | None = None
    schedule: ScheduleName = "constant"
    warmup_steps: int = 0
    decay: float = 0.5
    decay_steps: int = 0
    patience: int = 1
    average: AverageName = "none"
    average_decay: float = 0.999
    average_start: float = 0.5
    epochs: int = 3
    max_steps: int | None = None
    batch_size: int = DEFAULT_BATCH_SIZE
    seed: int = 0
    early_stop: int = 0
    drop_last: bool = False
    shuffle: bool = True
    window_blocks: int = 0

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises
        ------
        ConfigError
            Naming the option.
        """
        for name in ("epochs", "batch_size", "patience"):
            if getattr(self, name) < 1:
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{getattr(self, name)} is less than 1", where=option)
        for name in ("seed", "early_stop", "window_blocks", "decay_steps"):
            if getattr(self, name) < 0:
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{getattr(self, name)} is negative", where=option)
        if self.max_steps is not None and self.max_steps < 1:
            raise ConfigError(f"{self.max_steps} is less than 1", where="--max-steps")
        for name in _COUNTS:
            if (getattr(self, name) or 0) > _MAX_INTEGER:
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{getattr(self, name)} is over 2^63 - 1", where=option)
        self.loss_settings.check()
        self.network.check()
        if not 2 <= self.cross_size <= 1 << 30:
            raise ConfigError(f"{self.cross_size} is not from 2 to 2^30", where="--cross-size")
        self.optimizer.check()
        self.plan_schedule(1).check()
        if not 0 < self.table_rate_factor < math.inf:
            raise ConfigError(
                f"the rate {self.embedding_lr} is not positive", where="--embedding-lr"
            )

        check_averaging(self.average, decay=self.average_decay, start=self.average_start)

    @property
    def loss_settings(self) -> LossSettings:
        """Return what decides the shape of the loss."""
        return LossSettings(**{f: getattr(self, f) for f in LossSettings.__struct_fields__})

    def steps_per_epoch(self, n_rows: int) -> int:
        """Return the batches of an epoch of `n_rows` rows."""
        whole, rest = divmod(n_rows, self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def total_steps(self, n_rows: int) -> int:
        """Return the steps of the whole run, unless it stops early."""
        steps = self.epochs * self.steps_per_epoch(n_rows)
        return min(steps, self.max_steps) if self.max_steps else steps

    @property
    def rate(self) -> float:
        """The highest rate: as asked, or the optimizer's default."""
        return DEFAULT_RATES.get(self.optimizer.name, 0.0) if self.lr is None else self.lr

    @property
    def table_rate_factor(self) -> float:
        """Rate of rows of categories over that of the other parameters."""
        return 1.0 if self.embedding_lr is None else self.embedding_lr / self.rate

    def plan_schedule(self, total_steps: int) -> Schedule:
        """Return the schedule of the rate for a run of so many steps."""
        return Schedule(
            name=self.schedule,
            rate=self.rate,
            total_steps=total_steps,
            warmup_steps=self.warmup_steps,
            decay=self.decay,
            decay_steps=self.decay_steps,
        )

    def plan_averaging(self, *, n_parameters: int, total_steps: int) -> Averaging:
        """Return when the parameters are averaged in a run of so many steps."""
        return plan_averaging(
            self.average,
            decay=self.average_decay,
            start=self.average_start,
            n_parameters=n_parameters,
            batch_size=self.batch_size,
            total_steps=total_steps,
            shrinks=self.optimizer.shrinks,
        )


class Resources(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a run may use. None of it shows in the parameters.

    Parameters
    ----------
    memory : int or None
        Bytes for the whole process; None takes half of what there is.
    threads : int
        Threads that compute.
    prefetch : int
        Windows filled while one trains, by a thread beside those that compute;
        each costs one window of memory. With 0 all threads fill a window, then all
        compute, and the system fetches what comes next (docs/decisions/0010-reading.md).
    io : {"pread", "mmap"}
        How blocks are read.
    checkpoint_steps : int or None
    checkpoint_seconds : float or None
        A checkpoint every so often; either, neither or both.
    progressive : bool
        Measure every metric on the first epoch's rows, each before the step it is
        part of. It costs about what a validation of as many rows does.
    """

    memory: int | None = None
    threads: int = 0
    prefetch: int = 0
    io: IoMethod = "pread"
    checkpoint_steps: int | None = None
    checkpoint_seconds: float | None = 60.0
    progressive: bool = False

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises
        ------
        ConfigError
            Naming the option.
        """
        if self.threads < 0 or self.threads > 1024:
            raise ConfigError(f"{self.threads} is not from 0 to 1024", where="--threads")
        if not 0 <= self.prefetch <= 64:
            raise ConfigError(f"{self.prefetch} is not from 0 to 64", where="--prefetch")

    @property
    def n_threads(self) -> int:
        """Threads that compute: as asked, or every core this process may use."""
        return self.threads or len(os.sched_getaffinity(0))


ResumeMode = Literal["auto", "never"]


def auto_batch_size(n_rows: int) -> int:
    """Return a batch size that leaves at least 500 steps an epoch, from 32 to 1,024."""
    size = 32
    while size < 1024 and n_rows // (2 * size) >= _AUTO_STEPS:
        size *= 2
    return min(size, max(n_rows, 1))
