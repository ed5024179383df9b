"""A model as data: what it takes, what it scores, and how scores become predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from streamtrain.errors import ConfigError
from streamtrain.kernels.losses import LOSSES
from streamtrain.model.network import Network
from streamtrain.store.schema import Schema

ModelName = Literal["linear", "fm", "mlp", "wide-deep", "deepfm", "dcn", "custom"]
LossName = Literal["squared", "logistic", "softmax", "hinge"]
MODELS = ("linear", "fm", "mlp", "wide-deep", "deepfm", "dcn", "custom")


class Architecture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything about a model but its parameters.

    Parameters
    ----------
    model : {"linear"}
    loss : {"squared", "logistic", "softmax", "hinge"}
    n_scores : int
        C: classes for softmax, otherwise 1.
    mean, scale : tuple of float, length D
        A numeric feature x enters as (x - mean) scale.
    cardinalities : tuple of int, length F
        Codes of each categorical field.
    target_mean, target_scale : float
        A target y is learnt as (y - mean) scale; 0 and 1 for classes.
    weight_scale : float
        Row weights are multiplied by it, so that their mean is 1.
    """

    model: ModelName
    loss: LossName
    n_scores: int
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    cardinalities: tuple[int, ...]
    target_mean: float = 0.0
    target_scale: float = 1.0
    weight_scale: float = 1.0
    network: Network | None = None

    @property
    def loss_number(self) -> int:
        """The number that kernels take."""
        return LOSSES.index(self.loss)


def guess_loss(task: str) -> LossName:
    """Return the loss of a task where none was asked for."""
    losses: dict[str, LossName] = {
        "binary": "logistic",
        "classes": "softmax",
        "regression": "squared",
    }
    return losses[task]


def plan_architecture(schema: Schema, *, model: str, loss: str | None) -> Architecture:
    """Return the architecture for a dataset.

    Raises
    ------
    ConfigError
        If the model or loss is unknown, or the loss does not fit the target.
    """
    if model not in MODELS:
        raise ConfigError(
            f"no model {model!r}", where="--model", remedy=f"choose one of {', '.join(MODELS)}"
        )
    target = schema.target
    name = loss or guess_loss(target.task)
    if name not in LOSSES:
        raise ConfigError(
            f"no loss {name!r}", where="--loss", remedy=f"choose one of {', '.join(LOSSES)}"
        )
    n_classes = len(target.classes)
    where, column = "--loss", f"the target {target.name!r}"
    if name in {"logistic", "hinge"} and n_classes != 2:
        found = f"{n_classes} classes" if n_classes else "many values"
        remedy = "use --loss softmax" if n_classes else "use --loss squared"
        raise ConfigError(
            f"{name} needs a target of two values, {column} has {found}", where=where, remedy=remedy
        )
    if name == "softmax" and n_classes < 3:
        found = "2 classes" if n_classes else "many values"
        remedy = "use --loss logistic" if n_classes else "use --loss squared"
        raise ConfigError(
            f"softmax needs a target of three classes or more, {column} has {found}",
            where=where,
            remedy=remedy,
        )
    if name == "squared" and target.is_text:
        remedy = "use --loss logistic" if n_classes == 2 else "use --loss softmax"
        raise ConfigError(
            f"squared needs a numeric target, {column} is text", where=where, remedy=remedy
        )
    statistics = [c.statistics for c in schema.numeric]
    weight = schema.weight_statistics
    if name == "squared":
        spread = target.statistics.std
        target_mean, target_scale = target.statistics.mean, _inverse(spread, 1.0)
    else:
        target_mean, target_scale = 0.0, 1.0
    return Architecture(
        model="linear",
        loss=name,  # type: ignore[arg-type]
        n_scores=n_classes if name == "softmax" else 1,
        mean=tuple(s.mean if s else 0.0 for s in statistics),
        scale=tuple(_inverse(s.std, 0.0) if s else 0.0 for s in statistics),
        cardinalities=tuple(c.cardinality for c in schema.categorical),
        target_mean=target_mean,
        target_scale=target_scale,
        weight_scale=_inverse(weight.mean, 1.0) if weight else 1.0,
    )


def _inverse(spread: float, otherwise: float) -> float:
    # Kernels take it as float32, where the inverse of a smaller number is infinite.
    return 1.0 / spread if spread >= float(np.finfo(np.float32).tiny) else otherwise


def class_values(schema: Schema, loss: str) -> npt.NDArray[np.float32]:
    """Return what shards hold for each class, (C,) float32; empty for a regression."""
    values: Sequence[float] = () if loss == "squared" else schema.target.values
    return np.array(values, np.float32)


def predictions(
    architecture: Architecture, scores: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Return what a model says of rows, from their scores.

    Parameters
    ----------
    scores : (n, C) float32

    Returns
    -------
    (n,) values (squared), probabilities of the positive class (logistic) or
    margins (hinge); (n, C) probabilities (softmax). float64.
    """
    wide = scores.astype(np.float64)
    if architecture.loss == "softmax":
        wide -= wide.max(axis=1, keepdims=True)
        np.exp(wide, out=wide)
        wide /= wide.sum(axis=1, keepdims=True)
        return wide
    flat = wide[:, 0]
    if architecture.loss == "squared":
        return flat / architecture.target_scale + architecture.target_mean
    if architecture.loss == "logistic":
        small = np.exp(-np.abs(flat))
        result: npt.NDArray[np.float64] = np.where(flat >= 0, 1.0, small) / (1.0 + small)
        return result
    return flat


def row_losses(
    architecture: Architecture, scores: npt.NDArray[np.float32], target: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Return the loss of each row, (n,) float64, in the target's own units.

    Parameters
    ----------
    scores : (n, C) float32
    target : (n,) float32
        The value (squared) or class index.
    """
    wide = scores.astype(np.float64)
    if architecture.loss == "softmax":
        top = wide.max(axis=1)
        total = np.log(np.exp(wide - top[:, None]).sum(axis=1)) + top
        result: npt.NDArray[np.float64] = total - wide[np.arange(len(wide)), target.astype(np.intp)]
        return result
    if architecture.loss == "squared":
        error = predictions(architecture, scores) - target.astype(np.float64)
        return error * error
    margin = (2.0 * target.astype(np.float64) - 1.0) * wide[:, 0]
    if architecture.loss == "hinge":
        losses: npt.NDArray[np.float64] = np.maximum(1.0 - margin, 0.0)
    else:
        losses = np.logaddexp(0.0, -margin)
    return losses
