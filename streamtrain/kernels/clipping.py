"""Gradients bounded before an update: each element, or the norm of all parameters together."""

from __future__ import annotations

import math

import numpy as np

from streamtrain.kernels._jit import inline


@inline
def clip_values(gradient, n, limit):
    """Bound every element of a gradient to [-limit, limit].

    Parameters
    ----------
    gradient : (n,) float32 or longer, updated
    n : int
    limit : float32
        0 leaves it as it is. NaN stays NaN.
    """
    if limit <= np.float32(0.0):
        return
    for k in range(n):
        g = gradient[k]
        g = limit if g > limit else g
        gradient[k] = -limit if g < -limit else g


@inline
def sum_of_squares(gradient, n):
    """Return sum_k g_k^2 as float64: squares of float32 neither overflow nor vanish in it.

    Parameters
    ----------
    gradient : (n,) float32 or longer, read
    n : int
    """
    total = 0.0
    for k in range(n):
        g = np.float64(gradient[k])
        total += g * g
    return total


@inline
def clip_factor(total, limit):
    """Return what every gradient is multiplied by, so that their norm is at most `limit`.

    min(1, limit / sqrt(total))                            (Pascanu et al. 2013)

    Parameters
    ----------
    total : float64
        `sum_of_squares` over all parameters. NaN gives 1, infinity 0, which
        turns an infinite gradient into NaN: both are seen in the next loss.
    limit : float64
    """
    norm = math.sqrt(total)
    return np.float32(limit / norm if norm > limit else 1.0)


@inline
def scale_gradient(gradient, n, factor):
    """Multiply a gradient by `clip_factor`, in place.

    Parameters
    ----------
    gradient : (n,) float32 or longer, updated
    n : int
    factor : float32
    """
    if factor == np.float32(1.0):
        return
    for k in range(n):
        gradient[k] *= factor
