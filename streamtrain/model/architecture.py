"""A model as data: what it takes and what it scores."""

from __future__ import annotations

import math
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
    losses_of_several,
)
from streamtrain.model.network import Network, NetworkOptions
from streamtrain.model.plan_network import plan_network
from streamtrain.store.schema import Schema, Target

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
        C: classes for softmax, the M targets of a row, otherwise 1.
    mean, scale : tuple of float, length D
        A numeric feature x enters as (x - mean) scale.
    cardinalities : tuple of int, length F
        Codes of each categorical field.
    target_mean, target_scale : float
        A target y is learnt as (y - mean) scale; 0 and 1 for classes and log links.
    target_means, target_scales : tuple of float, length M, or unset
        The same for each of M > 1 targets of a row, in place of the two above.
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
    # Left out where unset, so that the files of models of one target stay as they are.
    target_means: tuple[float, ...] | msgspec.UnsetType = msgspec.UNSET
    target_scales: tuple[float, ...] | msgspec.UnsetType = msgspec.UNSET

    @property
    def n_targets(self) -> int:
        """M, the targets of a row: 1, or as many as scores."""
        return 1 if isinstance(self.target_means, msgspec.UnsetType) else len(self.target_means)

    @property
    def means_and_scales(self) -> npt.NDArray[np.float64]:
        """Mean and scale of each target, (2, M) float64."""
        means, scales = self.target_means, self.target_scales
        if isinstance(means, msgspec.UnsetType) or isinstance(scales, msgspec.UnsetType):
            return np.array([[self.target_mean], [self.target_scale]])
        return np.array([means, scales])

    @property
    def field_sizes(self) -> tuple[int, ...]:
        """Codes of every field that the model has a table for, crosses last."""
        return (*self.cardinalities, *(cross.size for cross in self.crosses))

    @property
    def loss_number(self) -> int:
        """The number that kernels take."""
        return LOSSES.index(self.loss)

    @property
    def _unit_power(self) -> int:
        return {"squared": 2, "huber": 2, "absolute": 1, "quantile": 1}.get(self.loss, 0)

    @property
    def loss_unit(self) -> float:
        """What kernels' losses of one target are divided by to be in its own units."""
        return self.target_scale**self._unit_power

    def loss_shares(self) -> npt.NDArray[np.float64]:
        """Return what makes kernels' losses of M targets a mean in their own units, (M,) float64.

        Of one target it is 1: see `loss_unit`.
        """
        if self.n_targets == 1:
            return np.ones(1)
        shares: npt.NDArray[np.float64] = 1.0 / self.means_and_scales[1] ** self._unit_power
        return shares / self.n_targets

    def loss_shape(self) -> npt.NDArray[np.float32]:
        """Return the settings that kernels take, (N_SHAPE,) float32, of the first target."""
        shape: npt.NDArray[np.float32] = self.loss_shapes()[0]
        return shape

    def loss_shapes(self) -> npt.NDArray[np.float32]:
        """Return the settings that kernels take, (M, N_SHAPE) float32, in learnt units."""
        shapes = np.zeros((self.n_targets, kernels.N_SHAPE), np.float32)
        shapes[:, kernels.S_HUBER_DELTA] = self.huber_delta * self.means_and_scales[1]
        shapes[:, kernels.S_QUANTILE] = self.quantile
        shapes[:, kernels.S_POWER] = self.tweedie_power
        shapes[:, kernels.S_SMOOTHING] = self.label_smoothing
        return shapes

    def learnt(self) -> npt.NDArray[np.float32]:
        """Return mean and scale of each target as kernels take them, (2, M) float32."""
        return self.means_and_scales.astype(np.float32)

    def flat_targets(self, target: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return targets as kernels take them, (n M,): those of a row one behind another.

        Parameters
        ----------
        target : (n,) float32, or (n, M) of M > 1 targets

        Raises
        ------
        ValueError
            If they have another shape: kernels would read beyond them.
        """
        tail = () if self.n_targets == 1 else (self.n_targets,)
        if target.shape[1:] != tail:
            raise ValueError(f"targets of shape {target.shape}, expected (n, *{tail})")
        return target.reshape(-1)


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
    n_scores = len(target.classes) if name == "softmax" else target.n_outputs
    statistics = [c.statistics for c in schema.numeric]
    scales = tuple((s.mean, s.std) if s else (0.0, 0.0) for s in statistics)
    if schema.array:
        scales = array_scales(schema.array, centred=True)
    weight = schema.weight_statistics
    target_mean, target_scale = 0.0, 1.0
    means: tuple[float, ...] | msgspec.UnsetType = msgspec.UNSET
    spreads: tuple[float, ...] | msgspec.UnsetType = msgspec.UNSET
    if not isinstance(target.outputs, msgspec.UnsetType):
        means, spreads = (0.0,) * n_scores, (1.0,) * n_scores
        if name in STANDARDISED:
            means = tuple(s.mean for s in target.outputs)
            # An output of one value has no scale: it is learnt as it is.
            spreads = tuple(_inverse(s.std, 1.0) for s in target.outputs)
    elif name in STANDARDISED:
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
        target_means=means,
        target_scales=spreads,
    )


def has_possible_targets(architecture: Architecture, target: Target) -> bool:
    """Return whether a model's targets are those of a schema, and such as kernels can learn.

    Of the schema's `is_possible_target` says whether it can be.
    """
    means, scales = architecture.target_means, architecture.target_scales
    if isinstance(means, msgspec.UnsetType) or isinstance(scales, msgspec.UnsetType):
        return means is scales and target.n_outputs == 1
    n = len(means)
    return (
        1 < n == len(scales) == architecture.n_scores == target.n_outputs
        and architecture.loss in losses_of_several(target.task)
        and not architecture.class_weights
        and all(math.isfinite(m) for m in means)
        and all(math.isfinite(s) and s > 0 for s in scales)
    )


def _inverse(spread: float, otherwise: float) -> float:
    # Kernels take it as float32, where the inverse of a smaller number is infinite.
    return 1.0 / spread if spread >= float(np.finfo(np.float32).tiny) else otherwise
