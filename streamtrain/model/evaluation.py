"""Loss and metrics of a stream of scored rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from streamtrain.errors import DivergedError
from streamtrain.model.architecture import Architecture
from streamtrain.model.losses import CLASS_LOSSES
from streamtrain.model.metrics import MetricSet
from streamtrain.model.output_metrics import OutputMetrics, block_rows
from streamtrain.model.predictions import predictions, require_domain, row_losses
from streamtrain.model.value_metrics import ValueMeasures

Floats = npt.NDArray[np.float32]


class Evaluation:
    """Add up the loss and the metrics that fit an architecture, in bounded memory.

    Parameters
    ----------
    architecture : Architecture
    n_classes : int
        Of the target; 0 for a regression.
    auc_rows : int
        Rows up to which the AUC is exact; 12 bytes each.
    """

    def __init__(
        self, architecture: Architecture, *, n_classes: int, auc_rows: int = 2_000_000
    ) -> None:
        self._architecture = architecture
        self._loss_sum = 0.0
        self._weight_sum = 0.0
        loss = architecture.loss
        self._several: OutputMetrics | None = None
        if architecture.n_targets > 1:
            self._several = OutputMetrics(
                "labels" if loss == "logistic" else "values",
                architecture.n_targets,
                quantile=architecture.quantile if loss == "quantile" else None,
                auc_rows=auc_rows,
            )
            return
        task = "classes" if loss == "softmax" else "binary"
        if loss not in CLASS_LOSSES:
            task = "regression"
        self._metrics = MetricSet(
            task,  # type: ignore[arg-type]
            n_classes=max(n_classes, 2),
            probabilities=loss != "hinge",
            auc_rows=auc_rows,
            measures=measures_of(architecture),
        )

    def update(
        self, scores: Floats, target: Floats, weight: Floats, exposure: Floats | None = None
    ) -> None:
        """Add rows.

        Parameters
        ----------
        scores : (n, C) float32
        target : (n,) float32, or (n, M)
            The value, or the class index.
        weight : (n,) float32 or (0,)
        exposure : (n,) float32, (0,) or None
            Log links alone look at it.

        Raises
        ------
        DivergedError
            If a score or a prediction is not finite.
        SchemaError
            If the loss is not defined for a target or an exposure.
        """
        if self._several is not None:
            self._update_several(self._several, scores, target, weight)
            return
        if not np.isfinite(scores).all():
            raise DivergedError("a score is not finite", where="evaluation")
        require_domain(self._architecture, target, exposure, where="evaluation")
        losses = row_losses(self._architecture, scores, target, exposure)
        if not np.isfinite(losses).all():
            raise DivergedError("a loss is not finite", where="evaluation")
        weights = weight.astype(np.float64) if len(weight) else None
        self._loss_sum += float(losses.sum() if weights is None else losses @ weights)
        self._weight_sum += float(len(losses) if weights is None else weights.sum())
        self._metrics.update(
            predictions(self._architecture, scores, exposure),
            target,
            weight if len(weight) else None,
            exposure if exposure is not None and len(exposure) else None,
        )

    def _update_several(
        self, metrics: OutputMetrics, scores: Floats, target: Floats, weight: Floats
    ) -> None:
        """Add rows of M targets, a block of them at a time: float64 takes no more than that."""
        step = block_rows(target.shape[1])
        for start in range(0, len(target), step):
            part = slice(start, start + step)
            if not np.isfinite(scores[part]).all():
                raise DivergedError("a score is not finite", where="evaluation")
            require_domain(self._architecture, target[part], None, where="evaluation")
            losses = row_losses(self._architecture, scores[part], target[part])
            if not np.isfinite(losses).all():
                raise DivergedError("a loss is not finite", where="evaluation")
            metrics.update(
                predictions(self._architecture, scores[part]),
                target[part],
                losses,
                weight[part] if len(weight) else None,
            )

    def result(self) -> dict[str, Any]:
        """Return rows, loss and the metrics; None for what is not defined."""
        if self._several is not None:
            return self._several.result()
        loss = self._loss_sum / self._weight_sum if self._weight_sum > 0 else None
        metrics = self._metrics.result()
        return {"rows": metrics["rows"], "loss": loss, **metrics}


def measures_of(architecture: Architecture) -> ValueMeasures:
    """Return what is measured of the values that an architecture predicts."""
    loss = architecture.loss
    powers = {"poisson": 1.0, "gamma": 2.0, "tweedie": architecture.tweedie_power}
    return ValueMeasures(
        power=powers.get(loss), quantile=architecture.quantile if loss == "quantile" else None
    )
