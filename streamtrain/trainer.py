"""A trainer of your own arrays."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from streamtrain.config import nearest
from streamtrain.errors import ConfigError, DivergedError
from streamtrain.kernels.losses import LOSSES
from streamtrain.kernels.team import Team
from streamtrain.library import make_settings
from streamtrain.model.architecture import MODELS, Architecture
from streamtrain.model.losses import CLASS_LOSSES, LossSettings, losses_of_several
from streamtrain.model.models import make_model
from streamtrain.model.network import NetworkOptions
from streamtrain.model.network_model import NetworkModel
from streamtrain.model.plan_network import plain_network
from streamtrain.model.predictions import predictions, require_domain
from streamtrain.optim.optimizers import OptimizerSettings, make_rule
from streamtrain.store.schema import MAX_TARGETS


class Trainer:
    """Train on your own arrays: all their batches in one call of the kernel.

    Parameters
    ----------
    model : str
        "linear", "fm", "mlp", "wide-deep", "deepfm", "dcn" or "custom".
    n_numeric : int
        D.
    cardinalities : sequence of int
        Codes of each of the F categorical fields.
    loss : str
        One of `streamtrain.kernels.losses.LOSSES`.
    n_classes : int
        Of softmax.
    n_targets : int
        M. Of several targets each is learnt by itself in a linear model, and together
        in a network; the losses squared, absolute, huber, quantile and logistic do it.
    optimizer : str
    lr : float or None
        None takes the optimizer's default.
    embedding_lr : float or None
        Rate of rows of categories; None takes that of the others.
    threads : int
        0 takes every core this process may use. Never changes a result.
    seed : int
        Of the first parameters of networks, and of dropout.
    **other_settings
        Of the optimizer: momentum, beta1, l2, clip_norm, ...; of the loss:
        quantile, huber_delta, tweedie_power, label_smoothing; of networks:
        hidden, embedding_dim, activation, dropout, ... (`NetworkOptions`).

    Notes
    -----
    Numeric columns and targets are taken as they are: standardise them.
    """

    def __init__(
        self,
        *,
        model: str = "linear",
        n_numeric: int,
        cardinalities: Sequence[int] = (),
        loss: str = "logistic",
        n_classes: int = 2,
        n_targets: int = 1,
        optimizer: str = "adagrad",
        lr: float | None = None,
        embedding_lr: float | None = None,
        threads: int = 0,
        seed: int = 0,
        **other_settings: Any,
    ) -> None:
        known = [
            *OptimizerSettings.__struct_fields__, *NetworkOptions.__struct_fields__,
            *LossSettings.__struct_fields__,
        ]  # fmt: skip
        for name in other_settings:
            if name not in known:
                raise ConfigError(f"no setting {name!r}{nearest(name, known)}", where="Trainer")
        settings = make_settings(
            {
                "model": model, "loss": loss, "optimizer": optimizer, "lr": lr,
                "embedding_lr": embedding_lr, **other_settings,
            }
        )  # fmt: skip
        settings.check()
        if model not in MODELS:
            raise ConfigError(f"no model {model!r}{nearest(model, MODELS)}", where="model")
        if loss not in LOSSES:
            raise ConfigError(f"no loss {loss!r}{nearest(loss, LOSSES)}", where="loss")
        settings.loss_settings.check_use(loss)
        if settings.class_weights != "none":
            raise ConfigError(
                "a trainer does not know how many rows each class will have",
                where="class_weights",
                remedy="give fit_rows the weight of each row",
            )
        several = n_targets > 1
        if not 1 <= n_targets <= MAX_TARGETS:
            raise ConfigError(
                f"{n_targets} targets are not possible, 1 to {MAX_TARGETS} are", where="n_targets"
            )
        if several and loss not in losses_of_several("labels"):
            raise ConfigError(
                f"{loss} takes a target of one value, not {n_targets}",
                where="loss",
                remedy=f"use {' or '.join(losses_of_several('labels'))}",
            )
        self._architecture = Architecture(
            model=model,  # type: ignore[arg-type]
            loss=loss,  # type: ignore[arg-type]
            n_scores=n_classes if loss == "softmax" else n_targets,
            mean=(0.0,) * n_numeric,
            scale=(1.0,) * n_numeric,
            cardinalities=tuple(int(c) for c in cardinalities),
            quantile=settings.quantile,
            huber_delta=settings.huber_delta,
            tweedie_power=settings.tweedie_power,
            label_smoothing=settings.label_smoothing,
            target_means=(0.0,) * n_targets if several else UNSET,
            target_scales=(1.0,) * n_targets if several else UNSET,
            network=None
            if model == "linear"
            else plain_network(
                model,
                settings.network,
                n_numeric=n_numeric,
                cardinalities=tuple(int(c) for c in cardinalities),
            ),
        )
        self._rate = settings.plan_schedule(1).rate
        self._team = Team(threads or len(os.sched_getaffinity(0)))
        self._seed = seed
        self._model = make_model(self._architecture, self._team)
        self.parameters = self._model.initial_parameters(seed)
        self._rule = make_rule(
            settings.optimizer,
            n_parameters=self._model.layout.n_parameters,
            n_dense=self._model.layout.n_dense,
            n_table_rows=self._model.layout.n_table_rows,
            rate=settings.rate,
            table_rate_factor=settings.table_rate_factor,
        )
        self._batch_size = 0
        self._seconds = 0.0
        self.steps = 0

    def fit_rows(
        self,
        numeric: npt.NDArray[np.float32],
        codes: npt.NDArray[np.int32],
        target: npt.NDArray[np.float32],
        *,
        batch_size: int,
        weight: npt.NDArray[np.float32] | None = None,
        exposure: npt.NDArray[np.float32] | None = None,
    ) -> float:
        """Take one step on each of the consecutive batches of some rows, in their order.

        Parameters
        ----------
        numeric : (n, D) float32
            NaN is missing.
        codes : (n, F) int32
        target : (n,) float32, or (n, M)
            Class index, or the value; 0 or 1 for each label.
        batch_size : int
        weight : (n,) float32 or None
        exposure : (n,) float32 or None
            Positive; the mean of poisson, gamma and tweedie is multiplied by it.

        Returns
        -------
        float
            Mean loss of the batches, each before its step; of several targets the mean
            over them.

        Raises
        ------
        ConfigError
            If shapes, types or codes do not fit.
        DivergedError
            If a loss is not finite.
        """
        numeric, codes, target = self._checked(numeric, codes, target)
        weights = self._optional(weight, len(target), "weights")
        exposures = self._optional(exposure, len(target), "exposures")
        require_domain(self._architecture, target, exposures, where="fit_rows")
        if batch_size < 1:
            raise ConfigError(f"a batch of {batch_size} rows is not possible", where="fit_rows")
        size = min(batch_size, len(target))
        if not size:
            raise ConfigError("no rows", where="fit_rows")
        if size > self._batch_size:
            self._model = make_model(
                self._architecture,
                self._team,
                batch_size=size,
                seed=self._seed,
                clips_norm=self._rule.clips_norm,
            )
            self._batch_size = size
            self._seconds = 0.0
        n_batches = -(-len(target) // size)
        sums = np.zeros((n_batches, 2))
        started = time.perf_counter()
        taken = self._model.take_steps(
            self.parameters,
            self._rule,
            numeric=numeric,
            codes=codes,
            target=target,
            weight=weights,
            exposure=exposures,
            batch_size=size,
            step=self.steps,
            rates=np.full(n_batches, self._rate),
            step_sums=sums,
        )
        self._seconds += time.perf_counter() - started
        self.steps += taken
        if taken < n_batches:
            raise DivergedError(
                "the loss is no longer finite", where=f"step {self.steps}", remedy="lower lr"
            )
        return float(sums[:, 0].sum() / sums[:, 1].sum())

    @property
    def phase_seconds(self) -> dict[str, float]:
        """Seconds of the calling thread in rows, in parameters, and waiting for the others.

        Of networks, since the batch size last grew; empty for a linear model.
        """
        if not isinstance(self._model, NetworkModel) or not self._batch_size:
            return {}
        shares = self._model.phase_shares()
        return {name: share * self._seconds for name, share in shares.items()}

    def predict(
        self,
        numeric: npt.NDArray[np.float32],
        codes: npt.NDArray[np.int32],
        *,
        exposure: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float64]:
        """Return predictions for rows, as `streamtrain.predict.Model.predict` does.

        Parameters
        ----------
        numeric : (n, D) float32
        codes : (n, F) int32
        exposure : (n,) float32 or None
        """
        nothing = np.zeros((len(numeric), *self._target_tail), np.float32)
        numeric, codes, _ = self._checked(numeric, codes, nothing)
        exposures = self._optional(exposure, len(numeric), "exposures")
        parameters = self._model.settled(self.parameters, self._rule)
        scores = self._model.scores(parameters, numeric, codes)
        return predictions(self._architecture, scores, exposures)

    @property
    def _target_tail(self) -> tuple[int, ...]:
        n_targets = self._architecture.n_targets
        return (n_targets,) if n_targets > 1 else ()

    @staticmethod
    def _optional(values: Any, n_rows: int, name: str) -> npt.NDArray[np.float32]:
        if values is None:
            return np.empty(0, np.float32)
        found = np.ascontiguousarray(values, np.float32)
        if len(found) != n_rows:
            raise ConfigError(f"{len(found)} {name} for {n_rows} rows", where="fit_rows")
        return found

    def _checked(self, numeric: Any, codes: Any, target: Any) -> tuple[Any, Any, Any]:
        numeric = np.ascontiguousarray(numeric, np.float32)
        codes = np.ascontiguousarray(codes, np.int32)
        target = np.ascontiguousarray(target, np.float32)
        n, cardinalities = len(target), self._architecture.cardinalities
        shapes = (
            (n, len(self._architecture.mean)),
            (n, len(cardinalities)),
            (n, *self._target_tail),
        )
        for name, array, shape in zip(
            ("numeric", "codes", "target"), (numeric, codes, target), shapes, strict=True
        ):
            if array.shape != shape:
                remedy = (
                    f"give n_targets={array.shape[1]}"
                    if name == "target" and array.ndim == 2
                    else ""
                )
                raise ConfigError(
                    f"{name} has shape {array.shape}, expected {shape}", where=name, remedy=remedy
                )
        if codes.size and (codes.min() < 0 or (codes.max(axis=0) >= np.array(cardinalities)).any()):
            raise ConfigError("a code is outside of its field's cardinality", where="codes")
        n_classes = self._architecture.n_scores if self._architecture.loss == "softmax" else 2
        if self._architecture.loss in CLASS_LOSSES and not _are_classes(target, n_classes):
            raise ConfigError(f"targets are not 0 to {n_classes - 1}", where="target")
        return numeric, codes, target


def _are_classes(target: npt.NDArray[np.float32], n_classes: int) -> bool:
    if not len(target):
        return True
    # Written so that NaN is none.
    within = target.min() >= 0 and target.max() < n_classes
    return bool(within and (np.floor(target) == target).all())
