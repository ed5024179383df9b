"""Optimizers as settings and state; the arithmetic is in kernels/updates.py."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from streamtrain.errors import ConfigError
from streamtrain.kernels import updates

OptimizerName = Literal["sgd", "momentum", "adagrad", "adam"]

DEFAULT_RATES: dict[str, float] = {"sgd": 0.1, "momentum": 0.003, "adagrad": 0.05, "adam": 0.003}
"""Rates for standardised inputs (docs/decisions/0004-defaults.md)."""


class OptimizerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an optimizer does with a gradient.

    Parameters
    ----------
    name : {"sgd", "momentum", "adagrad", "adam"}
        Rows of categories are updated when a batch holds them, and not in
        between: momentum and Adam's moments of a row wait with it ("lazy").
    momentum : float
        Of "momentum", 0 to below 1.
    beta1, beta2, epsilon : float
        Of Adam; AdaGrad uses epsilon too.
    l1, l2 : float
        After every step each weight but the bias shrinks: w <- sign(w)
        max(|w| (1 - rate l2) - rate l1, 0). Rows of categories are caught up
        exactly when next touched. For "sgd" that is the gradient step of
        l2/2 |w|^2 and the proximal step of l1 |w|; for the others it is
        decoupled from the gradient (Loshchilov and Hutter 2019).
    """

    name: OptimizerName = "adagrad"
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    l1: float = 0.0
    l2: float = 0.0

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises
        ------
        ConfigError
            Naming the option.
        """
        if self.name not in updates.OPTIMIZERS:
            raise ConfigError(
                f"no optimizer {self.name!r}",
                where="--optimizer",
                remedy=f"choose one of {', '.join(updates.OPTIMIZERS)}",
            )
        for name in ("momentum", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{getattr(self, name)} is not in [0, 1)", where=f"--{name}")
        for name in ("l1", "l2"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{getattr(self, name)} is negative", where=f"--{name}")
        if not self.epsilon > 0:
            raise ConfigError(f"{self.epsilon} is not positive", where="--epsilon")

    @property
    def number(self) -> int:
        """The number that kernels take."""
        return updates.OPTIMIZERS.index(self.name)

    @property
    def shrinks(self) -> bool:
        """Whether weights shrink between updates."""
        return self.l1 > 0 or self.l2 > 0

    @property
    def n_slots(self) -> int:
        """Arrays of the parameters' shape that the optimizer keeps."""
        return {"sgd": 0, "momentum": 1, "adagrad": 1, "adam": 2}[self.name]

    def hyper(self) -> npt.NDArray[np.float64]:
        """Return the (N_HYPER,) float64 array that kernels take."""
        values = np.zeros(updates.N_HYPER)
        values[updates.H_MOMENTUM] = self.momentum
        values[updates.H_BETA1] = self.beta1
        values[updates.H_BETA2] = self.beta2
        values[updates.H_EPSILON] = self.epsilon
        values[updates.H_L1] = self.l1
        values[updates.H_L2] = self.l2
        return values


def make_rule(
    settings: OptimizerSettings, *, n_parameters: int, n_table_rows: int
) -> updates.UpdateRule:
    """Return the rule that kernels take, with its arrays as before the first step: zeros.

    Parameters
    ----------
    n_parameters : int
        P.
    n_table_rows : int
        Rows of categories, whose shrinkage is caught up when they are touched.
    """
    has_first = settings.name in {"momentum", "adam"}
    has_second = settings.name in {"adagrad", "adam"}
    return updates.UpdateRule(
        settings.number,
        settings.hyper(),
        np.zeros(n_parameters if has_first else 0, np.float32),
        np.zeros(n_parameters if has_second else 0, np.float32),
        np.zeros((n_table_rows if settings.shrinks else 0, 2)),
        np.zeros(2),
    )
