"""Elementary functions of float32 that compilers can vectorise, the same bits everywhere.

Polynomials on a reduced range, in a fixed order, instead of the C library's
functions: those cost 5 to 20 ns a call and differ between machines. Errors are
stated in units in the last place (ulp) or absolutely; NaN stays NaN.
"""

from __future__ import annotations

import numpy as np

from streamtrain.kernels._jit import inline_exact
from streamtrain.kernels.blocks import bits_of_float, float_of_bits

_ONE = np.float32(1.0)
_HALF = np.float32(0.5)
# 1.5 x 2^23: adding it leaves the nearest whole number in the lowest bits.
_ROUND = np.float32(12582912.0)
_ROUND_BITS = np.int32(0x4B400000)
_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_EXP_LOW, _EXP_HIGH = np.float32(-87.0), np.float32(88.0)
# Taylor terms of exp on [-ln 2 / 2, ln 2 / 2]; the last leaves 2e-9.
_E2, _E3, _E4, _E5, _E6, _E7 = (np.float32(1.0 / n) for n in (2, 6, 24, 120, 720, 5040))
# Taylor terms of sin(2 pi t) on |t| <= 1/4.
_S1, _S3, _S5, _S7, _S9, _S11 = (
    np.float32(c)
    for c in (
        6.283185307179586, -41.341702240399755, 81.60524927607504, -76.70585975306136,
        42.05869394489765, -15.094642576822984,
    )
)  # fmt: skip
_QUARTER = np.float32(0.25)


@inline_exact
def exp32(x):
    """Return exp(x), float32, within 2 ulp; x is held within [-87, 88]."""
    x = _EXP_HIGH if x > _EXP_HIGH else x
    x = _EXP_LOW if x < _EXP_LOW else x
    shifted = x * _LOG2E + _ROUND
    n = shifted - _ROUND
    r = x - n * _LN2_HIGH
    r = r - n * _LN2_LOW
    p = _E6 + r * _E7
    p = _E5 + r * p
    p = _E4 + r * p
    p = _E3 + r * p
    p = _E2 + r * p
    p = _ONE + r * (_ONE + r * p)
    exponent = np.int32(np.int32(bits_of_float(shifted) - _ROUND_BITS) + np.int32(127))
    return p * float_of_bits(np.int32(exponent << np.int32(23)))


@inline_exact
def sigmoid32(x):
    """Return 1 / (1 + exp(-x)), float32."""
    return _ONE / (_ONE + exp32(-x))


@inline_exact
def tanh32(x):
    """Return tanh(x), float32, within 2e-7 absolutely."""
    return _ONE - (_ONE + _ONE) / (_ONE + exp32(x + x))


@inline_exact
def sin_turns(t):
    """Return sin(2 pi t), float32, within 3e-7 absolutely for |t| < 2^21."""
    t = t - ((t + _ROUND) - _ROUND)
    # Beyond a quarter turn the sine comes back: sin(2 pi t) = sin(2 pi (1/2 - t)).
    t = _HALF - t if t > _QUARTER else t
    t = -_HALF - t if t < -_QUARTER else t
    s = t * t
    p = _S9 + s * _S11
    p = _S7 + s * p
    p = _S5 + s * p
    p = _S3 + s * p
    return t * (_S1 + s * p)
