"""Losses as data: their settings, and the targets they fit.

The kernels compute them row by row (kernels/losses.py), model/predictions.py in the
target's own units. docs/losses.md has the formulas and their sources.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from streamtrain.config import nearest
from streamtrain.errors import ConfigError
from streamtrain.kernels.losses import LOSSES
from streamtrain.store.schema import Schema, Target

Floats = npt.NDArray[np.float32]

LossName = Literal[
    "squared", "logistic", "softmax", "hinge", "absolute", "huber", "quantile", "poisson", "gamma",
    "tweedie",
]  # fmt: skip
ClassWeights = Literal["none", "balanced"]

CLASS_LOSSES = frozenset({"logistic", "softmax", "hinge"})
"""Losses whose targets are class indices."""
STANDARDISED = frozenset({"squared", "absolute", "huber", "quantile"})
"""Losses whose targets are learnt as (y - mean) scale."""
LOG_LINKS = frozenset({"poisson", "gamma", "tweedie"})
"""Losses whose mean is exp(score) times the exposure."""
SMOOTHED = frozenset({"logistic", "softmax"})
"""Losses that take label smoothing."""

_SETTINGS_OF = {
    "quantile": {"quantile"},
    "huber_delta": {"huber"},
    "tweedie_power": {"tweedie"},
    "label_smoothing": SMOOTHED,
    "class_weights": CLASS_LOSSES,
}


class LossSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What decides the shape of a loss. Each belongs to one loss, and is refused with others.

    Parameters
    ----------
    quantile : float
        Share of targets that should lie below the prediction, within (0, 1).
    huber_delta : float
        Error, in the target's units, beyond which Huber's loss is linear. Larger
        comes closer to the squared loss, smaller to the absolute one.
    tweedie_power : float
        p of the variance mean^p, within (1, 2). Closer to 1 is closer to counts,
        to 2 to amounts.
    label_smoothing : float
        Share of the true class's probability that is spread over all classes,
        within [0, 1). Larger keeps probabilities further from 0 and 1.
    class_weights : {"none", "balanced"}
        "balanced" weighs a row n / (C n_class), so that every class counts alike.
    """

    quantile: float = 0.5
    huber_delta: float = 1.0
    tweedie_power: float = 1.5
    label_smoothing: float = 0.0
    class_weights: ClassWeights = "none"

    def check(self) -> None:
        """Refuse values that cannot work; kernels see them as float32.

        Raises
        ------
        ConfigError
            Naming the option.
        """
        with np.errstate(over="ignore"):
            quantile, delta, power, smoothing = np.array(
                [self.quantile, self.huber_delta, self.tweedie_power, self.label_smoothing],
                np.float32,
            ).tolist()
        # Written so that NaN fails.
        if not 0.0 < quantile < 1.0:
            raise ConfigError(f"{self.quantile} is not between 0 and 1", where="--quantile")
        if not 0.0 < delta < math.inf:
            raise ConfigError(f"{self.huber_delta} is not a positive number", where="--huber-delta")
        if not 1.0 < power < 2.0:
            raise ConfigError(
                f"{self.tweedie_power} is not between 1 and 2",
                where="--tweedie-power",
                remedy="use --loss poisson for 1, --loss gamma for 2",
            )
        if not 0.0 <= smoothing < 1.0:
            raise ConfigError(
                f"{self.label_smoothing} is not from 0 to below 1", where="--label-smoothing"
            )
        if self.class_weights not in {"none", "balanced"}:
            raise ConfigError(
                f"no class weights {self.class_weights!r}",
                where="--class-weights",
                remedy="use none or balanced",
            )

    def check_use(self, loss: str) -> None:
        """Refuse a setting that `loss` does not look at.

        Raises
        ------
        ConfigError
            Naming the option.
        """
        untouched = LossSettings()
        for name, losses in _SETTINGS_OF.items():
            if getattr(self, name) != getattr(untouched, name) and loss not in losses:
                raise ConfigError(
                    f"has no effect on the {loss} loss",
                    where=f"--{name.replace('_', '-')}",
                    remedy=f"leave it out, or use --loss {' or '.join(sorted(losses))}",
                )


def guess_loss(task: str) -> LossName:
    """Return the loss of a task where none was asked for."""
    losses: dict[str, LossName] = {
        "binary": "logistic",
        "classes": "softmax",
        "regression": "squared",
        "labels": "logistic",
    }
    return losses[task]


def losses_of_several(task: str) -> tuple[LossName, ...]:
    """Return the losses that fit several targets of a row."""
    numbers: tuple[LossName, ...] = ("squared", "absolute", "huber", "quantile")
    return ("logistic", *numbers) if task == "labels" else numbers


def choose_loss(schema: Schema, loss: str | None, settings: LossSettings) -> LossName:
    """Return the loss that was asked for, or the one that fits the target.

    Raises
    ------
    ConfigError
        If it is unknown, or does not fit the target, the exposures or its settings.
    """
    target = schema.target
    name = loss or guess_loss(target.task)
    if name not in LOSSES:
        raise ConfigError(
            f"no loss {name!r}{nearest(name, LOSSES)}",
            where="--loss",
            remedy=f"choose one of {', '.join(LOSSES)}",
        )
    if target.n_outputs > 1:
        _require_several(name, target, settings)
    elif name in CLASS_LOSSES:
        _require_classes(name, target)
    else:
        _require_numbers(name, target)
    settings.check()
    settings.check_use(name)
    _require_exposures(name, schema)
    return name  # type: ignore[return-value]


def _require_several(name: str, target: Target, settings: LossSettings) -> None:
    fitting = losses_of_several(target.task)
    column, what = f"the target {target.name!r}", f"{target.n_outputs:,} values"
    if name not in fitting:
        only = "; logistic needs each of them to be 0 or 1" if name == "logistic" else ""
        raise ConfigError(
            f"{name} takes a target of one value, {column} has {what}{only}",
            where="--loss",
            remedy=f"use --loss {' or '.join(fitting)}",
        )
    if settings.class_weights != "none":
        raise ConfigError(
            f"{column} has {what}: rows have no class to be weighed by",
            where="--class-weights",
            remedy="leave it out, or ingest with --weight-file",
        )


def _require_classes(name: str, target: Target) -> None:
    n_classes, column = len(target.classes), f"the target {target.name!r}"
    if name in {"logistic", "hinge"} and n_classes != 2:
        found = f"{n_classes} classes" if n_classes else "many values"
        raise ConfigError(
            f"{name} needs a target of two values, {column} has {found}",
            where="--loss",
            remedy="use --loss softmax" if n_classes else "use --loss squared",
        )
    if name == "softmax" and n_classes < 3:
        found = "2 classes" if n_classes else "many values"
        raise ConfigError(
            f"softmax needs a target of three classes or more, {column} has {found}",
            where="--loss",
            remedy="use --loss logistic" if n_classes else "use --loss squared",
        )


def _require_numbers(name: str, target: Target) -> None:
    if target.is_text:
        raise ConfigError(
            f"{name} needs a numeric target, the target {target.name!r} is text",
            where="--loss",
            remedy="use --loss logistic" if len(target.classes) == 2 else "use --loss softmax",
        )
    least = target.statistics.minimum
    if not in_domain(name, np.float32(least)):
        other = "poisson or tweedie" if name == "gamma" and least == 0 else "squared or huber"
        raise ConfigError(
            f"{name} needs targets {domain_text(name)}, the target {target.name!r} has {least:g}",
            where="--loss",
            remedy=f"use --loss {other}",
        )


def _require_exposures(name: str, schema: Schema) -> None:
    if schema.exposure is None:
        return
    if name not in LOG_LINKS:
        raise ConfigError(
            f"{name} has no use for the exposures in {schema.exposure!r}",
            where="--loss",
            remedy="use --loss poisson, gamma or tweedie, or ingest without --exposure",
        )
    found = schema.exposure_statistics
    if found is not None and not found.minimum > 0:
        raise ConfigError(
            f"an exposure is {found.minimum:g}, expected positive numbers",
            where=f"column {schema.exposure!r}",
            remedy="mend the source and ingest it again",
        )


def in_domain(loss: str, target: Any) -> Any:
    """Return where a loss is defined: above 0 (gamma), from 0 (counts, class indices), or any.

    Parameters
    ----------
    target : (n,) float32, or one
    """
    if loss == "gamma":
        return target > 0
    return target >= (0 if loss in LOG_LINKS | CLASS_LOSSES else -np.inf)


def domain_text(loss: str) -> str:
    """Return "above 0" or "from 0" for the targets of a log link."""
    return "above 0" if loss == "gamma" else "from 0"


def initial_scores(schema: Schema, loss: str, n_scores: int) -> tuple[float, ...]:
    """Return the scores of a model before its first step, (C,): its biases.

    A log link starts at the right mean, log(mean target / mean exposure): from 0
    it would have to find orders of magnitude with steps of the learning rate. All
    others start at 0: the mean of a standardised target, even odds of classes.
    """
    found = 0.0
    exposures = schema.exposure_statistics
    mean = schema.target.statistics.mean
    if loss in LOG_LINKS and mean > 0:
        found = math.log(mean) - (math.log(exposures.mean) if exposures else 0.0)
    return (found,) * n_scores


def balanced_weights(counts: tuple[int, ...]) -> tuple[float, ...]:
    """Return n / (C n_c) for each class that train rows have, 1 for others.

    Source: King and Zeng 2001, "Logistic regression in rare events data", section
    4.2: weights that make the classes count as in a balanced sample.
    """
    present = [n for n in counts if n > 0]
    total = sum(present)
    return tuple(total / (len(present) * n) if n else 1.0 for n in counts)


def class_values(schema: Schema, loss: str) -> Floats:
    """Return what shards hold for each class, (C,) float32; empty for a regression.

    The loss decides: counts of few distinct values are classes to softmax and
    numbers to poisson.
    """
    return np.array(schema.target.values if loss in CLASS_LOSSES else (), np.float32)
