"""One parameter's update by each optimizer, and shrinkage caught up exactly.

The order of OPTIMIZERS is the number that kernels take. A parameter's state is
`first` and `second`; which optimizer has which is in `state_sizes`.

                     first                  second
    sgd
    momentum         momentum
    nesterov         momentum
    adagrad                                 sum of g^2
    rowwise-adagrad                         sum of g^2, one for a row of a table
    rmsprop                                 mean of g^2
    adam, adamw      mean of g              mean of g^2
    ftrl             z                      sum of g^2
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streamtrain.kernels._jit import inline

OPTIMIZERS = (
    "sgd", "momentum", "nesterov", "adagrad", "rowwise-adagrad", "rmsprop", "adam", "adamw", "ftrl",
)  # fmt: skip
SGD, MOMENTUM, NESTEROV, ADAGRAD, ROWWISE_ADAGRAD, RMSPROP, ADAM, ADAMW, FTRL = range(9)
_HAS_FIRST = {MOMENTUM, NESTEROV, ADAM, ADAMW, FTRL}
_HAS_SECOND = {ADAGRAD, RMSPROP, ADAM, ADAMW, FTRL}

# Places in the float64 array of a kernel's settings. L1 and L2 are 0 for ftrl, which has its
# penalties inside its formula. TABLE_RATE multiplies the rate of rows of tables.
H_MOMENTUM, H_BETA1, H_BETA2, H_EPSILON, H_L1, H_L2 = range(6)
H_RHO, H_FTRL_ALPHA, H_FTRL_BETA, H_FTRL_L1, H_FTRL_L2 = range(6, 11)
H_CLIP_VALUE, H_CLIP_NORM, H_TABLE_RATE = range(11, 14)
N_HYPER = 14


def state_sizes(
    number: int, *, n_parameters: int, n_dense: int, n_table_rows: int
) -> tuple[int, int]:
    """Return the lengths of `first` and of `second` that an optimizer's kernel code touches.

    Parameters
    ----------
    number : int
        In OPTIMIZERS.
    n_parameters : int
        P.
    n_dense : int
        Parameters that are not in tables; they come first.
    n_table_rows : int
    """
    n_first = n_parameters if number in _HAS_FIRST else 0
    if number == ROWWISE_ADAGRAD:
        return n_first, n_dense + n_table_rows
    return n_first, n_parameters if number in _HAS_SECOND else 0


@dataclass(frozen=True)
class UpdateRule:
    """An optimizer as kernels take it: its number, settings and arrays, updated in place.

    Parameters
    ----------
    number : int
        In OPTIMIZERS.
    hyper : (N_HYPER,) float64
    first, second : float32, lengths of `state_sizes`
    stamps : (R, 2) float64 or (0, 2)
        Shrinkage at which each row of categories was last touched; empty where
        nothing shrinks.
    shrinkage : (2,) float64
        Shrinkage of rows now (`advance_shrinkage`).
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

    @property
    def clips_norm(self) -> bool:
        """Whether a step needs the gradients of all parameters before the first update."""
        return bool(self.hyper[H_CLIP_NORM] > 0)

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays that change, by name, as checkpoints keep them."""
        return {
            "first": self.first,
            "second": self.second,
            "stamps": self.stamps,
            "shrinkage": self.shrinkage,
        }


@inline
def adam_corrections(optimizer, hyper, step):
    """Return 1 / (1 - beta1^t), 1 / (1 - beta2^t) of the global step t >= 1; 1, 1 but for Adam."""
    if optimizer != ADAM and optimizer != ADAMW:
        return np.float32(1.0), np.float32(1.0)
    t = np.float64(step)
    return (
        np.float32(1.0 / (1.0 - hyper[H_BETA1] ** t)),
        np.float32(1.0 / (1.0 - hyper[H_BETA2] ** t)),
    )


@inline
def update_range(optimizer, w, first, second, gradient, start, n, rate, hyper, correct1, correct2):
    """Move dense parameters ``w[start : start + n]`` by their gradients.

    Parameters
    ----------
    optimizer : int
        Number in OPTIMIZERS.
    w : (P,) float32, updated
    first, second : float32, updated
        Indexed like w; empty where the optimizer has none.
    gradient : (n,) float32, read
    start, n : int
    rate : float32
    hyper : (N_HYPER,) float64, read
    correct1, correct2 : float32
        `adam_corrections` of this step.

    Notes
    -----
    sgd        w -= rate g
    momentum   m = mu m + g;  w -= rate m
    nesterov   m = mu m + g;  w -= rate (g + mu m)         (Sutskever et al. 2013)
    adagrad    v += g^2;  w -= rate g / (sqrt(v) + eps)    (Duchi et al. 2011)
    rmsprop    v = rho v + (1 - rho) g^2;  w -= rate g / (sqrt(v) + eps)
                                                           (Tieleman and Hinton 2012)
    adam(w)    m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
               w -= rate (m c1) / (sqrt(v c2) + eps)       (Kingma and Ba 2015)
    ftrl       `_ftrl`

    rowwise-adagrad is adagrad here: its rows are those of tables (`update_rows`).
    """
    _update(
        optimizer, w[start : start + n], first[start : start + n], second[start : start + n],
        gradient, n, rate, hyper, correct1, correct2, hyper[H_FTRL_ALPHA], hyper[H_FTRL_L1],
        hyper[H_FTRL_L2],
    )  # fmt: skip


@inline
def update_free_range(
    optimizer, w, first, second, gradient, start, n, rate, hyper, correct1, correct2
):
    """Move parameters that no penalty pulls, such as a bias: `update_range` without FTRL's."""
    _update(
        optimizer, w[start : start + n], first[start : start + n], second[start : start + n],
        gradient, n, rate, hyper, correct1, correct2, hyper[H_FTRL_ALPHA], 0.0, 0.0,
    )  # fmt: skip


@inline
def update_rows(
    optimizer, w, first, second, gradient, n_rows, width, rate, hyper, correct1, correct2
):
    """Move rows of tables by their gradients.

    Parameters
    ----------
    optimizer : int
        Number in OPTIMIZERS.
    w : (n_rows * width,) float32 or longer, updated
    first, second : float32, updated
        Like w, or empty; but for rowwise-adagrad second is (n_rows,).
    gradient : (n_rows * width,) float32 or longer, read
    n_rows, width : int
    rate : float32
        Of rows: hyper[H_TABLE_RATE] times that of dense parameters.
    hyper : (N_HYPER,) float64, read
    correct1, correct2 : float32

    Notes
    -----
    rowwise-adagrad: s += mean_d(g_d^2);  row -= rate g / (sqrt(s) + eps), the formula of
    Duchi et al. 2011 with one sum for a row (Lerer et al. 2019, section 4.2).
    """
    if optimizer == ROWWISE_ADAGRAD and width > 1:
        epsilon = np.float32(hyper[H_EPSILON])
        share = np.float32(1.0 / width)
        for r in range(n_rows):
            g = gradient[r * width : (r + 1) * width]
            row = w[r * width : (r + 1) * width]
            total = np.float32(0.0)
            for k in range(width):
                total += g[k] * g[k]
            s = second[r] + total * share
            second[r] = s
            step = rate / (np.float32(math.sqrt(s)) + epsilon)
            for k in range(width):
                row[k] -= step * g[k]
        return
    n = n_rows * width
    _update(
        optimizer, w[:n], first[:n], second[:n], gradient, n, rate, hyper, correct1, correct2,
        hyper[H_FTRL_ALPHA] * hyper[H_TABLE_RATE], hyper[H_FTRL_L1], hyper[H_FTRL_L2],
    )  # fmt: skip


@inline
def _update(
    optimizer, w, first, second, gradient, n, rate, hyper, correct1, correct2, alpha, l1, l2
):
    """Move w[0 : n]; every loop is plain, so that the compiler makes vectors of it."""
    epsilon = np.float32(hyper[H_EPSILON])
    one = np.float32(1.0)
    if optimizer == SGD:
        for k in range(n):
            w[k] -= rate * gradient[k]
    elif optimizer == MOMENTUM:
        mu = np.float32(hyper[H_MOMENTUM])
        for k in range(n):
            m = mu * first[k] + gradient[k]
            first[k] = m
            w[k] -= rate * m
    elif optimizer == NESTEROV:
        mu = np.float32(hyper[H_MOMENTUM])
        for k in range(n):
            g = gradient[k]
            m = mu * first[k] + g
            first[k] = m
            w[k] -= rate * (g + mu * m)
    elif optimizer == ADAGRAD or optimizer == ROWWISE_ADAGRAD:
        for k in range(n):
            g = gradient[k]
            v = second[k] + g * g
            second[k] = v
            w[k] -= rate * g / (np.float32(math.sqrt(v)) + epsilon)
    elif optimizer == RMSPROP:
        rho = np.float32(hyper[H_RHO])
        for k in range(n):
            g = gradient[k]
            v = rho * second[k] + (one - rho) * g * g
            second[k] = v
            w[k] -= rate * g / (np.float32(math.sqrt(v)) + epsilon)
    elif optimizer == FTRL:
        _ftrl(
            w, first, second, gradient, n, rate, np.float32(alpha),
            np.float32(hyper[H_FTRL_BETA]), np.float32(l1), np.float32(l2),
        )  # fmt: skip
    else:
        b1 = np.float32(hyper[H_BETA1])
        b2 = np.float32(hyper[H_BETA2])
        for k in range(n):
            g = gradient[k]
            m = b1 * first[k] + (one - b1) * g
            v = b2 * second[k] + (one - b2) * g * g
            first[k] = m
            second[k] = v
            w[k] -= rate * (m * correct1) / (np.float32(math.sqrt(v * correct2)) + epsilon)


@inline
def _ftrl(w, z, n_sum, gradient, n, rate, alpha, beta, l1, l2):
    """FTRL-Proximal (McMahan et al. 2013, algorithm 1).

    sigma = (sqrt(n + g^2) - sqrt(n)) / alpha;  z += f g - sigma w;  n += g^2
    w = 0 if |z| <= l1 else -(z - sign(z) l1) / (l2 + (beta + sqrt(n)) / alpha)

    f = rate / alpha is the schedule's factor, 1 in the paper. If the schedule changed
    alpha itself, a falling rate would pull every weight to 0 and free those that l1 holds.

    A parameter that has had no gradient is where it started; z is then what gives that
    place, so that weights need not start at 0.
    """
    zero = np.float32(0.0)
    one = np.float32(1.0)
    factor = rate / alpha
    slope = one / alpha
    rest = l2 + beta * slope
    for k in range(n):
        g = gradient[k]
        x = w[k]
        before = n_sum[k]
        after = before + g * g
        root = np.float32(math.sqrt(after))
        sigma = (root - np.float32(math.sqrt(before))) * slope
        pull = l1 if x > zero else -l1
        place = zero if x == zero else -(x * rest + pull)
        total = (z[k] if before != zero else place) + factor * g - sigma * x
        held = l1 if total > zero else -l1
        moved = -(total - held) / (rest + root * slope)
        # Written so that what is not finite stays visible.
        moved = zero if abs(total) <= l1 else moved
        z[k] = total
        n_sum[k] = after
        w[k] = x if after == zero else moved


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
def decay_range(w, start, n, keep):
    """Multiply w[start : start + n] by `keep` = 1 - rate l2: decay, before the step's update.

    So did Loshchilov and Hutter (2019), and for sgd it is the step along l2/2 |w|^2.
    """
    if keep == 1.0:
        return
    part = w[start : start + n]
    factor = np.float32(keep)
    for k in range(n):
        part[k] *= factor


@inline
def threshold_range(w, start, n, threshold):
    """Map w[start : start + n] to sign(w) max(|w| - threshold, 0), after the step's update.

    With threshold = rate l1 it is the proximal map of l1 |w|.
    """
    if threshold == 0.0:
        return
    part = w[start : start + n]
    for k in range(n):
        part[k] = np.float32(shrink(np.float64(part[k]), 1.0, threshold))


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
def catch_up_row(row, log_then, threshold_then, log_now, threshold_now, out):
    """Write a row of parameters last touched *then* as the steps until *now* left it.

    One exponential for the row, and where nothing pulls towards 0 one product each.
    """
    factor = math.exp(log_now - log_then)
    threshold = max(threshold_now - factor * threshold_then, 0.0)
    if threshold == 0.0:
        for k in range(row.shape[0]):
            out[k] = np.float32(np.float64(row[k]) * factor)
    else:
        for k in range(row.shape[0]):
            out[k] = np.float32(shrink(np.float64(row[k]), factor, threshold))


@inline
def catch_up(value, log_then, threshold_then, log_now, threshold_now):
    """Return a parameter last touched *then*, as the steps until *now* left it."""
    factor = math.exp(log_now - log_then)
    return np.float32(
        shrink(np.float64(value), factor, max(threshold_now - factor * threshold_then, 0.0))
    )
