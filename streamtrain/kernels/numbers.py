"""Decimal text to float64, correctly rounded.

Clinger's fast path for short decimals, the Eisel-Lemire algorithm for the
rest; what neither decides (more than 19 digits, subnormals, rare halfway
cases) is left to the caller, who has Python's exact `float`.

Source: Lemire, "Number Parsing at a Gigabyte per Second", 2021, sections 5-8.
"""

from __future__ import annotations

import numpy as np

from streamtrain.kernels._jit import inline, kernel
from streamtrain.kernels.strings import is_missing, may_be_missing

PRESENT, MISSING, NOT_A_NUMBER, NOT_FINITE, UNDECIDED = 0, 1, 2, 3, 4
FLOAT32_MAX = float(np.finfo(np.float32).max)
# Values that round to the greatest float32 are finite; from here on they round to infinity.
FLOAT32_LIMIT = FLOAT32_MAX + 2.0**103
_SMALLEST, _LARGEST = -342, 308


def _powers_of_five() -> np.ndarray:
    """Return the 128 leading bits of 5**q for q in -342..308, (651, 2) uint64: high, low."""
    table = np.empty((_LARGEST - _SMALLEST + 1, 2), np.uint64)
    for q in range(_SMALLEST, _LARGEST + 1):
        if q < 0:
            power = 5**-q
            length = power.bit_length()
            bits = length + 127 if q >= -27 else 2 * length + 128
            c = (1 << bits) // power + 1
            c >>= max(c.bit_length() - 128, 0)
        else:
            c = 5**q
            shift = c.bit_length() - 128
            c = c >> shift if shift > 0 else c << -shift
        table[q - _SMALLEST] = (c >> 64, c & (2**64 - 1))
    return table


POWERS_OF_FIVE = _powers_of_five()
POWERS_OF_TEN = np.array([10.0**k for k in range(23)])
_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_ONE = np.uint64(1)


@inline
def _product(a, b):
    """Return the high and low words of a 64 x 64 bit product."""
    a0, a1, b0, b1 = a & _LOW, a >> _32, b & _LOW, b >> _32
    p00, p01, p10, p11 = a0 * b0, a0 * b1, a1 * b0, a1 * b1
    middle = (p00 >> _32) + (p01 & _LOW) + (p10 & _LOW)
    return p11 + (p01 >> _32) + (p10 >> _32) + (middle >> _32), a * b


@inline
def _eisel_lemire(w, q, powers, bits):
    """Set bits[0] to the float64 bits of w * 10**q; return whether that was decided."""
    zeros = 0
    while not (w >> np.uint64(63)):
        w <<= _ONE
        zeros += 1
    high, low = _product(w, powers[q + 342, 0])
    if (high & np.uint64(0x1FF)) == np.uint64(0x1FF):
        carry, _ = _product(w, powers[q + 342, 1])
        low += carry
        if carry > low:
            high += _ONE
    if low == np.uint64(0xFFFFFFFFFFFFFFFF) and (q < -27 or q > 55):
        return False
    top = high >> np.uint64(63)
    shift = top + np.uint64(9)
    mantissa = high >> shift
    exponent = ((217706 * q) >> 16) + 63 + np.int64(top) - zeros + 1023
    if exponent <= 0 or exponent >= 0x7FE:
        return False
    if (
        low <= _ONE
        and -4 <= q <= 23
        and (mantissa & np.uint64(3)) == _ONE
        and (mantissa << shift) == high
    ):
        mantissa &= ~_ONE
    mantissa += mantissa & _ONE
    mantissa >>= _ONE
    if mantissa >= np.uint64(1 << 53):
        mantissa = np.uint64(1 << 52)
        exponent += 1
    mantissa &= np.uint64((1 << 52) - 1)
    bits[0] = mantissa | (np.uint64(exponent) << np.uint64(52))
    return True


@kernel
def parse_numbers(
    data, starts, stops, use, first_bytes, offsets, texts, powers, tens, bits, out, status
):
    """Parse one column of cells.

    Accepted is [+-] digits [. digits] [e [+-] digits] with at least one digit in
    the mantissa, spaces and tabs around it, and no more.

    Parameters
    ----------
    data : uint8, read
    starts, stops : (n,) int32 or int64, read
    use : (n,) uint8, read
        0 to leave a cell out (NaN, `MISSING`).
    first_bytes, offsets, texts
        Missing-value texts, see `strings.is_missing`.
    powers, tens
        `POWERS_OF_FIVE`, `POWERS_OF_TEN`.
    bits : (1,) uint64, scratch
    out : (n,) float64, overwritten
    status : (n,) uint8, overwritten
        `UNDECIDED` cells are numbers by their form.

    Returns
    -------
    tuple of int
        How many cells are present, not a number, not finite, undecided.
    """
    as_float = bits.view(np.float64)
    n_present = n_bad = n_infinite = n_undecided = 0
    for r in range(starts.shape[0]):
        i = np.int64(starts[r])
        stop = np.int64(stops[r])
        out[r] = np.nan
        status[r] = MISSING
        if use[r] == 0 or (
            may_be_missing(data, i, stop, first_bytes)
            and is_missing(data, i, stop, first_bytes, offsets, texts)
        ):
            continue
        while i < stop and (data[i] == 32 or data[i] == 9):
            i += 1
        while i < stop and (data[stop - 1] == 32 or data[stop - 1] == 9):
            stop -= 1
        negative = False
        if i < stop and (data[i] == 45 or data[i] == 43):
            negative = data[i] == 45
            i += 1
        w = np.uint64(0)
        n_digits = 0
        n_significant = 0
        q = 0
        while i < stop and 48 <= data[i] <= 57:
            if n_significant < 19:
                w = w * np.uint64(10) + np.uint64(data[i] - 48)
            n_significant += 1 if w != 0 else 0
            n_digits += 1
            i += 1
        if i < stop and data[i] == 46:
            i += 1
            while i < stop and 48 <= data[i] <= 57:
                if n_significant < 19:
                    w = w * np.uint64(10) + np.uint64(data[i] - 48)
                    q -= 1
                n_significant += 1 if w != 0 else 0
                n_digits += 1
                i += 1
        good = n_digits > 0
        if good and i < stop and (data[i] == 101 or data[i] == 69):
            i += 1
            minus = False
            if i < stop and (data[i] == 45 or data[i] == 43):
                minus = data[i] == 45
                i += 1
            good = i < stop
            power = 0
            while i < stop and 48 <= data[i] <= 57:
                power = min(power * 10 + np.int64(data[i] - 48), 100000)
                i += 1
            q += -power if minus else power
        if not good or i < stop:
            # Spellings of infinity (and of NaN, where it is not a missing text) are
            # numbers that are not finite.
            length = stop - i
            if n_digits == 0 and (length == 3 or length == 8):
                a, b, c = data[i] | 32, data[i + 1] | 32, data[i + 2] | 32
                infinite = a == 105 and b == 110 and c == 102
                if infinite or (length == 3 and a == 110 and b == 97 and c == 110):
                    status[r] = NOT_FINITE
                    n_infinite += 1
                    continue
            status[r] = NOT_A_NUMBER
            n_bad += 1
            continue
        value = 0.0
        if w == 0:
            pass
        elif n_significant > 19:
            status[r] = UNDECIDED
            n_undecided += 1
            continue
        elif w <= np.uint64(1 << 53) and -22 <= q <= 22:
            value = float(w)
            value = value / tens[-q] if q < 0 else value * tens[q]
        elif q > 308:
            status[r] = NOT_FINITE
            n_infinite += 1
            continue
        elif q < -342 or not _eisel_lemire(w, q, powers, bits):
            status[r] = UNDECIDED
            n_undecided += 1
            continue
        else:
            value = as_float[0]
        if value >= FLOAT32_LIMIT:
            status[r] = NOT_FINITE
            n_infinite += 1
            continue
        out[r] = -value if negative else value
        status[r] = PRESENT
        n_present += 1
    return n_present, n_bad, n_infinite, n_undecided
