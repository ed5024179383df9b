"""One parameter's update by each optimizer, and shrinkage caught up exactly.

The order of OPTIMIZERS is the number that kernels take. A parameter's state is
`first` (momentum, Adam's m) and `second` (AdaGrad's sum, Adam's v), arrays of
the parameters' shape, or empty where an optimizer has none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streamtrain.kernels._jit import inline

OPTIMIZERS = ("sgd", "momentum", "adagrad", "adam")
SGD, MOMENTUM, ADAGRAD, ADAM = range(4)

# Places in the float64 array of a kernel's settings.
H_MOMENTUM, H_BETA1, H_BETA2, H_EPSILON, H_L1, H_L2 = range(6)
N_HYPER = 6


@dataclass(frozen=True)
class UpdateRule:
    """An optimizer as kernels take it: its number, settings and arrays, updated in place.

    Parameters
    ----------
    number : int
        In OPTIMIZERS.
    hyper : (N_HYPER,) float64
    first, second : (P,) float32 or (0,)
        Momentum or Adam's m; AdaGrad's sum or Adam's v.
    stamps : (R, 2) float64 or (0, 2)
        Shrinkage at which each row of categories was last touched; empty where
        nothing shrinks.
    shrinkage : (2,) float64
        Shrinkage now (`advance_shrinkage`).
    """

    number: int
    hyper: npt.NDArray[np.float64]
    first: npt.NDArray[np.float32]
    second: npt.NDArray[np.float32]
    stamps: npt.NDArray[np.float64]
    shrinkage: npt.NDArray[np.float64]

    @property
    def shrinks(self) -> bool:
        """Whether weights shrink between updates."""
        return bool(self.hyper[H_L1] > 0 or self.hyper[H_L2] > 0)

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays that change, by name, as checkpoints keep them."""
        return {
            "first": self.first,
            "second": self.second,
            "stamps": self.stamps,
            "shrinkage": self.shrinkage,
        }


@inline
def update_range(optimizer, w, first, second, gradient, start, n, rate, hyper, correct1, correct2):
    """Move parameters ``w[start : start + n]`` by their gradients.

    Parameters
    ----------
    optimizer : int
        Number in OPTIMIZERS.
    w : (P,) float32, updated
    first, second : (P,) float32 or empty, updated
    gradient : (n,) float32, read
    start, n : int
    rate : float32
    hyper : (N_HYPER,) float64, read
    correct1, correct2 : float32
        Adam's 1 / (1 - beta^t) of the global step t.

    Notes
    -----
    sgd       w -= rate g
    momentum  m = mu m + g;  w -= rate m
    adagrad   v += g^2;  w -= rate g / (sqrt(v) + eps)       (Duchi et al. 2011)
    adam      m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
              w -= rate (m c1) / (sqrt(v c2) + eps)          (Kingma and Ba 2015)
    """
    epsilon = np.float32(hyper[H_EPSILON])
    if optimizer == SGD:
        for k in range(n):
            w[start + k] -= rate * gradient[k]
    elif optimizer == MOMENTUM:
        mu = np.float32(hyper[H_MOMENTUM])
        for k in range(n):
            m = mu * first[start + k] + gradient[k]
            first[start + k] = m
            w[start + k] -= rate * m
    elif optimizer == ADAGRAD:
        for k in range(n):
            g = gradient[k]
            v = second[start + k] + g * g
            second[start + k] = v
            w[start + k] -= rate * g / (np.float32(math.sqrt(v)) + epsilon)
    else:
        b1 = np.float32(hyper[H_BETA1])
        b2 = np.float32(hyper[H_BETA2])
        one = np.float32(1.0)
        for k in range(n):
            g = gradient[k]
            m = b1 * first[start + k] + (one - b1) * g
            v = b2 * second[start + k] + (one - b2) * g * g
            first[start + k] = m
            second[start + k] = v
            w[start + k] -= rate * (m * correct1) / (np.float32(math.sqrt(v * correct2)) + epsilon)


@inline
def shrink(value, factor, threshold):
    """Return sign(v) max(|v| factor - threshold, 0).

    One step of decoupled decay and of L1's proximal map is
    ``factor = 1 - rate l2, threshold = rate l1``; any number of them in a row
    is again of this form (`advance_shrinkage`).
    """
    size = abs(value) * factor - threshold
    if size > 0.0:
        return math.copysign(size, value)
    # NaN must stay visible.
    return value * 0.0 if value != value else size * 0.0


@inline
def advance_shrinkage(log_factor, threshold, rate, l1, l2):
    """Return (L, Q) after one more step of rate `rate`.

    Steps 1..t map v to sign(v) max(|v| exp(L_t) - Q_t, 0) with
    L_t = L_{t-1} + log(1 - rate l2),  Q_t = Q_{t-1} (1 - rate l2) + rate l1,
    so steps s+1..t have the factor exp(L_t - L_s) and the threshold
    Q_t - exp(L_t - L_s) Q_s: O(1) for any number of steps, and no overflow.
    """
    keep = max(1.0 - rate * l2, 0.0)
    return log_factor + math.log(max(keep, 1e-300)), threshold * keep + rate * l1


@inline
def catch_up(value, log_then, threshold_then, log_now, threshold_now):
    """Return a parameter last touched *then*, as the steps until *now* left it."""
    factor = math.exp(log_now - log_then)
    return np.float32(
        shrink(np.float64(value), factor, max(threshold_now - factor * threshold_then, 0.0))
    )
