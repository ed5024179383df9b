"""Optimizers as settings and state; the arithmetic is in kernels/updates.py."""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from streamtrain.errors import ConfigError
from streamtrain.kernels import updates
from streamtrain.kernels.lanes import aligned_zeros

OptimizerName = Literal[
    "sgd", "momentum", "nesterov", "adagrad", "rowwise-adagrad", "rmsprop", "adam", "adamw", "ftrl"
]

DEFAULT_RATES: dict[str, float] = {
    "sgd": 0.1,
    "momentum": 0.003,
    "nesterov": 0.003,
    "adagrad": 0.05,
    "rowwise-adagrad": 0.05,
    "rmsprop": 0.003,
    "adam": 0.003,
    "adamw": 0.003,
    "ftrl": 0.1,
}
"""Rates for standardised inputs (docs/decisions/0004-defaults.md)."""

DEFAULT_L2: dict[str, float] = {"adamw": 0.01}
"""Decay where none is asked for; 0 for optimizers that are not listed."""

_BELOW_ONE = ("momentum", "beta1", "beta2", "rho")
_NOT_NEGATIVE = ("l1", "l2", "clip_value", "clip_norm")
_POSITIVE = ("epsilon", "ftrl_beta")


class OptimizerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an optimizer does with a gradient.

    Parameters
    ----------
    name : str
        One of `updates.OPTIMIZERS`. Rows of categories are updated when a batch
        holds them, and not in between: the moments of a row wait with it
        ("lazy").
    momentum : float
        Of "momentum" and "nesterov", 0 to below 1. Larger averages more steps,
        and multiplies their length by 1 / (1 - momentum).
    beta1, beta2 : float
        Of "adam" and "adamw": share of the old mean of g and of g^2.
    epsilon : float
        Added to the root of g^2's sum or mean; larger slows parameters whose
        gradients are small.
    l1, l2 : float
        In every step each weight but a bias shrinks by a factor 1 - rate l2
        before its update, and by rate l1 towards 0 after it. Rows of
        categories are caught up exactly when next touched. For "sgd" that is
        the gradient of l2/2 |w|^2 and the proximal map of l1 |w|; for others
        it is decoupled from the gradient (Loshchilov and Hutter 2019). "ftrl"
        has both inside its formula. None for l2 is 0, for "adamw" 0.01.
    rho : float
        Of "rmsprop": share of the old mean of g^2.
    ftrl_beta : float
        Of "ftrl": larger makes first steps shorter.
    clip_value : float
        Every element of a batch's mean gradient is bounded to it; 0 never.
    clip_norm : float
        The norm of a batch's mean gradient, over all parameters, is bounded to
        it, after `clip_value`; 0 never. Costs a wait of all threads in a step.
    """

    name: OptimizerName = "adagrad"
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    l1: float = 0.0
    l2: float | None = None
    rho: float = 0.99
    ftrl_beta: float = 1.0
    clip_value: float = 0.0
    clip_norm: float = 0.0

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
        resolved = self.resolved()
        for name in _BELOW_ONE:
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{getattr(self, name)} is not in [0, 1)", where=_option(name))
        for name in _NOT_NEGATIVE:
            if not 0 <= getattr(resolved, name) < math.inf:
                raise ConfigError(
                    f"{getattr(resolved, name)} is not a number from 0", where=_option(name)
                )
        for name in _POSITIVE:
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(
                    f"{getattr(self, name)} is not a positive number", where=_option(name)
                )

    def resolved(self) -> OptimizerSettings:
        """Return the settings with the optimizer's own decay where none was given."""
        if self.l2 is not None:
            return self
        return msgspec.structs.replace(self, l2=DEFAULT_L2.get(self.name, 0.0))

    @property
    def number(self) -> int:
        """The number that kernels take."""
        return updates.OPTIMIZERS.index(self.name)

    @property
    def shrinks(self) -> bool:
        """Whether weights shrink between updates."""
        hyper = self.hyper()
        return bool(hyper[updates.H_L1] > 0 or hyper[updates.H_L2] > 0)

    def hyper(
        self, *, rate: float | None = None, table_rate_factor: float = 1.0
    ) -> npt.NDArray[np.float64]:
        """Return the (N_HYPER,) float64 array that kernels take; arguments as of `make_rule`."""
        l2 = self.resolved().l2 or 0.0
        values = np.zeros(updates.N_HYPER)
        values[updates.H_MOMENTUM] = self.momentum
        values[updates.H_BETA1] = self.beta1
        values[updates.H_BETA2] = self.beta2
        values[updates.H_EPSILON] = self.epsilon
        values[updates.H_RHO] = self.rho
        values[updates.H_CLIP_VALUE] = self.clip_value
        values[updates.H_CLIP_NORM] = self.clip_norm
        values[updates.H_TABLE_RATE] = table_rate_factor
        if self.number == updates.FTRL:
            values[updates.H_FTRL_ALPHA] = math.nan if rate is None else rate
            values[updates.H_FTRL_BETA] = self.ftrl_beta
            values[updates.H_FTRL_L1] = self.l1
            values[updates.H_FTRL_L2] = l2
        else:
            values[updates.H_L1] = self.l1
            values[updates.H_L2] = l2
        return values


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def make_rule(
    settings: OptimizerSettings,
    *,
    n_parameters: int,
    n_dense: int,
    n_table_rows: int,
    rate: float | None = None,
    table_rate_factor: float = 1.0,
) -> updates.UpdateRule:
    """Return the rule that kernels take, with its arrays as before the first step: zeros.

    Parameters
    ----------
    n_parameters : int
        P.
    n_dense : int
        Parameters that are not in tables; they come first.
    n_table_rows : int
        Rows of categories, whose shrinkage is caught up when they are touched.
    rate : float or None
        Highest rate of the schedule; "ftrl" needs it, others do not.
    table_rate_factor : float
        Rate of rows of categories over that of the other parameters.

    Raises
    ------
    ConfigError
        If "ftrl" is not given its rate.
    """
    if settings.number == updates.FTRL and rate is None:
        raise ConfigError("ftrl needs its rate", where="rate")
    n_first, n_second = updates.state_sizes(
        settings.number, n_parameters=n_parameters, n_dense=n_dense, n_table_rows=n_table_rows
    )
    return updates.UpdateRule(
        settings.number,
        settings.hyper(rate=rate, table_rate_factor=table_rate_factor),
        aligned_zeros(n_first),
        aligned_zeros(n_second),
        np.zeros((n_table_rows if settings.shrinks else 0, 2)),
        np.zeros(2),
    )


def rule_bytes(
    settings: OptimizerSettings, *, n_parameters: int, n_dense: int, n_table_rows: int
) -> int:
    """Return the bytes of the arrays that `make_rule` makes."""
    sizes = updates.state_sizes(
        settings.number, n_parameters=n_parameters, n_dense=n_dense, n_table_rows=n_table_rows
    )
    return 4 * sum(sizes) + (16 * n_table_rows if settings.shrinks else 0)
