"""A model as data: what it takes and what it scores."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from streamtrain.config import nearest
from streamtrain.errors import ConfigError
from streamtrain.kernels import losses as kernels
from streamtrain.kernels.losses import LOSSES
from streamtrain.model.crosses import Cross, plan_crosses
from streamtrain.model.encodings import array_scales
from streamtrain.model.losses import (
    STANDARDISED,
    LossName,
    LossSettings,
    balanced_weights,
    choose_loss,
    initial_scores,
)
from streamtrain.model.network import Network, NetworkOptions
from streamtrain.model.plan_network import plan_network
from streamtrain.store.schema import Schema

ModelName = Literal["linear", "fm", "mlp", "wide-deep", "deepfm", "dcn", "custom"]
MODELS = ("linear", "fm", "mlp", "wide-deep", "deepfm", "dcn", "custom")


class Architecture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything about a model but its parameters.

    Parameters
    ----------
    model : str
        One of MODELS.
    loss : str
        One of LOSSES.
    n_scores : int
        C: classes for softmax, otherwise 1.
    mean, scale : tuple of float, length D
        A numeric feature x enters as (x - mean) scale.
    cardinalities : tuple of int, length F
        Codes of each categorical field.
    target_mean, target_scale : float
        A target y is learnt as (y - mean) scale; 0 and 1 for classes and log links.
    weight_scale : float
        Row weights are multiplied by it, so that their mean is 1.
    initial_scores : tuple of float, length C or 0
        Biases before the first step; zeros where it is empty.
    class_weights : tuple of float, length C or 0
        Multiplied into the weights of training rows, by class.
    quantile, huber_delta, tweedie_power, label_smoothing : float
        Settings of the loss, `LossSettings`; the target's own units.
    network : Network or None
        Of every model but "linear"; it encodes numbers itself.
    crosses : tuple of Cross
        More fields, behind the F.
    bag_sizes : tuple of int, length V
        Codes of each field of variable length.
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
    initial_scores: tuple[float, ...] = ()
    class_weights: tuple[float, ...] = ()
    quantile: float = 0.5
    huber_delta: float = 1.0
    tweedie_power: float = 1.5
    label_smoothing: float = 0.0
    network: Network | None = None
    crosses: tuple[Cross, ...] = ()
    bag_sizes: tuple[int, ...] = ()

    @property
    def field_sizes(self) -> tuple[int, ...]:
        """Codes of every field that the model has a table for, crosses last."""
        return (*self.cardinalities, *(cross.size for cross in self.crosses))

    @property
    def loss_number(self) -> int:
        """The number that kernels take."""
        return LOSSES.index(self.loss)

    @property
    def loss_unit(self) -> float:
        """What kernels' losses are divided by to be in the target's own units."""
        power = {"squared": 2, "huber": 2, "absolute": 1, "quantile": 1}.get(self.loss, 0)
        return self.target_scale**power

    def loss_shape(self) -> npt.NDArray[np.float32]:
        """Return the settings that kernels take, (N_SHAPE,) float32, in learnt units."""
        shape = np.zeros(kernels.N_SHAPE, np.float32)
        shape[kernels.S_HUBER_DELTA] = self.huber_delta * self.target_scale
        shape[kernels.S_QUANTILE] = self.quantile
        shape[kernels.S_POWER] = self.tweedie_power
        shape[kernels.S_SMOOTHING] = self.label_smoothing
        return shape


def plan_architecture(
    schema: Schema,
    *,
    model: str,
    loss: str | None,
    loss_settings: LossSettings = LossSettings(),  # noqa: B008 (frozen)
    options: NetworkOptions = NetworkOptions(),  # noqa: B008 (frozen)
    crosses: tuple[tuple[str, ...], ...] = (),
    cross_size: int = 1 << 18,
) -> Architecture:
    """Return the architecture for a dataset.

    Parameters
    ----------
    schema : Schema
    model : str
    loss : str or None
        None takes the one that fits the target.
    loss_settings : LossSettings
    options : NetworkOptions
        Of every model but "linear".
    crosses : tuple of tuple of str
        Names of categorical columns to cross.
    cross_size : int
        Most codes of a cross; more combinations are hashed into so many.

    Raises
    ------
    ConfigError
        If the model or loss is unknown, or the loss does not fit the target, the
        exposures or its settings.
    """
    if model not in MODELS:
        raise ConfigError(
            f"no model {model!r}{nearest(model, MODELS)}",
            where="--model",
            remedy=f"choose one of {', '.join(MODELS)}",
        )
    options.check_use(model)
    weighed = schema.weight_statistics
    if weighed is not None and not weighed.maximum > 0:
        raise ConfigError(
            "every row has weight 0: there is nothing to learn from",
            where=f"column {schema.weight!r}",
        )
    target = schema.target
    name = choose_loss(schema, loss, loss_settings)
    n_scores = len(target.classes) if name == "softmax" else 1
    statistics = [c.statistics for c in schema.numeric]
    scales = tuple((s.mean, s.std) if s else (0.0, 0.0) for s in statistics)
    if schema.array:
        scales = array_scales(schema.array, centred=True)
    weight = schema.weight_statistics
    target_mean, target_scale = 0.0, 1.0
    if name in STANDARDISED:
        target_mean, target_scale = target.statistics.mean, _inverse(target.statistics.std, 1.0)
    crossed = plan_crosses(schema, crosses, max_size=cross_size)
    balanced = loss_settings.class_weights == "balanced"
    return Architecture(
        model=model,  # type: ignore[arg-type]
        loss=name,
        n_scores=n_scores,
        mean=tuple(shift for shift, _ in scales),
        scale=tuple(_inverse(spread, 0.0) for _, spread in scales),
        cardinalities=tuple(c.cardinality for c in schema.categorical),
        target_mean=target_mean,
        target_scale=target_scale,
        weight_scale=_inverse(weight.mean, 1.0) if weight else 1.0,
        initial_scores=initial_scores(schema, name, n_scores),
        class_weights=balanced_weights(target.counts) if balanced else (),
        quantile=loss_settings.quantile,
        huber_delta=loss_settings.huber_delta,
        tweedie_power=loss_settings.tweedie_power,
        label_smoothing=loss_settings.label_smoothing,
        network=None
        if model == "linear"
        else plan_network(schema, model, options, cross_sizes=tuple(c.size for c in crossed)),
        crosses=crossed,
        bag_sizes=schema.stored.bag_sizes,
    )


def _inverse(spread: float, otherwise: float) -> float:
    # Kernels take it as float32, where the inverse of a smaller number is infinite.
    return 1.0 / spread if spread >= float(np.finfo(np.float32).tiny) else otherwise
