"""Losses as data: their settings, the targets they fit, and what scores mean under each.

The kernels compute them row by row (kernels/losses.py); here they are in float64
NumPy, in the target's own units. docs/losses.md has the formulas and their sources.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from streamtrain.config import nearest
from streamtrain.errors import ConfigError, SchemaError
from streamtrain.kernels.losses import LOSSES
from streamtrain.store.schema import Schema, Target

if TYPE_CHECKING:
    from streamtrain.model.architecture import Architecture

Floats = npt.NDArray[np.float32]
Wide = npt.NDArray[np.float64]

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


def _linear_predictor(scores: Wide, exposure: Floats | None) -> Wide:
    if exposure is None or not len(exposure):
        return scores
    # As the kernels have it: the log rounded to float32.
    return scores + np.log(exposure.astype(np.float64)).astype(np.float32)


def predictions(architecture: Architecture, scores: Floats, exposure: Floats | None = None) -> Wide:
    """Return what a model says of rows, from their scores.

    Parameters
    ----------
    scores : (n, C) float32
    exposure : (n,) float32, (0,) or None
        Positive; only log links look at it.

    Returns
    -------
    (n,) values (squared, absolute, huber, quantile), means (poisson, gamma,
    tweedie: times the exposure), probabilities of the positive class (logistic)
    or margins (hinge); (n, C) probabilities (softmax); of M > 1 targets (n, M)
    values, or probabilities of 1 (logistic). float64.
    """
    loss = architecture.loss
    wide = scores.astype(np.float64)
    if architecture.n_targets > 1:
        if loss == "logistic":
            return _logistic(wide)
        means, scales = architecture.means_and_scales
        wide /= scales
        wide += means
        return wide
    if loss == "softmax":
        wide -= wide.max(axis=1, keepdims=True)
        np.exp(wide, out=wide)
        wide /= wide.sum(axis=1, keepdims=True)
        return wide
    flat: Wide = wide[:, 0]
    if loss in STANDARDISED:
        return flat / architecture.target_scale + architecture.target_mean
    if loss in LOG_LINKS:
        with np.errstate(over="ignore"):
            mean: Wide = np.exp(_linear_predictor(flat, exposure))
        return mean
    if loss == "logistic":
        return _logistic(flat)
    return flat


def _logistic(scores: Wide) -> Wide:
    small = np.exp(-np.abs(scores))
    result: Wide = np.where(scores >= 0, 1.0, small) / (1.0 + small)
    return result


def row_losses(
    architecture: Architecture, scores: Floats, target: Floats, exposure: Floats | None = None
) -> Wide:
    """Return the loss of each row, (n,) float64, in the target's own units.

    Parameters
    ----------
    scores : (n, C) float32
    target : (n,) float32, or (n, M)
        The class index (logistic, hinge, softmax), else the value. Of M > 1 targets
        the loss is the mean over them.
    exposure : (n,) float32, (0,) or None
    """
    loss = architecture.loss
    wide, y = scores.astype(np.float64), target.astype(np.float64)
    eps = architecture.label_smoothing
    if architecture.n_targets > 1:
        if loss == "logistic":
            several = _logistic_losses(wide, y, eps)
        else:
            several = _error_losses(architecture, predictions(architecture, scores) - y)
        # Along the rows of a C array: the sum of a row is the same whatever rows are beside it.
        mean: Wide = np.ascontiguousarray(several).mean(axis=1)
        return mean
    if loss == "softmax":
        top = wide.max(axis=1)
        total = np.log(np.exp(wide - top[:, None]).sum(axis=1)) + top
        true = wide[np.arange(len(wide)), target.astype(np.intp)]
        smoothed: Wide = total - (1.0 - eps) * true - eps * wide.mean(axis=1)
        return smoothed
    if loss in LOG_LINKS:
        return _log_link_losses(architecture, _linear_predictor(wide[:, 0], exposure), y)
    if loss in STANDARDISED:
        return _error_losses(architecture, predictions(architecture, scores) - y)
    if loss == "hinge":
        losses: Wide = np.maximum(1.0 - (2.0 * y - 1.0) * wide[:, 0], 0.0)
        return losses
    return _logistic_losses(wide[:, 0], y, eps)


def _logistic_losses(scores: Wide, y: Wide, eps: float) -> Wide:
    margin = (2.0 * y - 1.0) * scores
    losses: Wide = np.logaddexp(0.0, -margin) + 0.5 * eps * margin
    return losses


def _error_losses(architecture: Architecture, error: Wide) -> Wide:
    size: Wide = np.abs(error)
    if architecture.loss == "squared":
        return error * error
    if architecture.loss == "huber":
        bound = architecture.huber_delta
        huber: Wide = np.where(size <= bound, 0.5 * size * size, bound * (size - 0.5 * bound))
        return huber
    if architecture.loss == "quantile":
        tau = architecture.quantile
        pinball: Wide = np.where(error > 0, (1.0 - tau) * size, tau * size)
        return pinball
    return size


def _log_link_losses(architecture: Architecture, t: Wide, y: Wide) -> Wide:
    with np.errstate(over="ignore", invalid="ignore"):
        if architecture.loss == "poisson":
            losses: Wide = np.exp(t) - y * t
        elif architecture.loss == "gamma":
            losses = y * np.exp(-t) + t
        else:
            p = architecture.tweedie_power
            low = np.where(y > 0, y * np.exp((1.0 - p) * t), 0.0)
            losses = low / (p - 1.0) + np.exp((2.0 - p) * t) / (2.0 - p)
    return losses


def require_domain(
    architecture: Architecture, target: Floats, exposure: Floats | None, *, where: str
) -> None:
    """Refuse targets or exposures of some rows that a log link, or labels, are not defined for.

    Parameters
    ----------
    architecture : Architecture
    target : (n,) float32, or (n, M)
    exposure : (n,) float32, (0,) or None
    where : str
        Named by the error.

    Raises
    ------
    SchemaError
        If a target is below the loss's domain, one of several is not 0 or 1 (logistic),
        or not finite, or an exposure is not positive.
    """
    loss = architecture.loss
    if architecture.n_targets > 1:
        labels = loss == "logistic"
        if not (((target == 0) | (target == 1)) if labels else np.isfinite(target)).all():
            what = "0 or 1" if labels else "finite numbers"
            raise SchemaError(f"a target is not one of several that are {what}", where=where)
        return
    if loss not in LOG_LINKS or not len(target):
        return
    least = float(target.min())
    if not in_domain(loss, target.min()):
        raise SchemaError(f"{loss} needs targets {domain_text(loss)}, found {least:g}", where=where)
    if exposure is not None and len(exposure) and not float(exposure.min()) > 0:
        raise SchemaError(f"an exposure is {float(exposure.min()):g}, not positive", where=where)
