import math
import struct

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamtrain.kernels import numbers
from streamtrain.store.string_table import MissingTexts, TextCells, parse_cells

MISSING = MissingTexts(["", "?", "NA", "-999"])


def cells_of(texts):
    encoded = [t.encode() for t in texts]
    stops = np.cumsum([len(t) for t in encoded]).astype(np.int32)
    starts = stops - np.array([len(t) for t in encoded], np.int32)
    return TextCells(np.frombuffer(b"".join(encoded) + bytes(8), np.uint8), starts, stops)


def parse(*texts):
    out, status = np.empty(len(texts)), np.empty(len(texts), np.uint8)
    use = np.ones(len(texts), np.uint8)
    counts = parse_cells(cells_of(texts), use, MISSING, out, status)
    assert counts[0] == np.count_nonzero(status == numbers.PRESENT)
    return out.tolist(), status.tolist()


@settings(max_examples=1000, deadline=None)
@given(st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.builds("{}e{}".format, st.integers(-(10**25), 10**25), st.integers(-350, 40)),
    st.builds("{}.{:018d}".format, st.integers(0, 9), st.integers(0, 10**18 - 1)),
))  # fmt: skip
@example("9007199254740993")
@example("7205759403792793199999e-5")
@example("4.9406564584124654e-324")
@example("2.2250738585072014e-308")
@example("1e23")
@example("8.5e-27")
@example("0.0000000000000000000000000000000000000000000001e46")
def test_numbers_are_rounded_as_python_rounds_them(text):
    (value,), (status,) = parse(text)
    expected = float(text)
    if abs(expected) >= numbers.FLOAT32_LIMIT:
        assert status == numbers.NOT_FINITE
    else:
        assert status == numbers.PRESENT
        assert struct.pack("d", value) == struct.pack("d", expected)


@pytest.mark.parametrize(
    "text",
    ["abc", "1x", "--1", "1e", "1e+", ".", "+", "0x10", "1_000", "1,5", "1 2", "e5", "infinit"],
)
def test_other_text_is_not_a_number(text):
    assert parse(text)[1] == [numbers.NOT_A_NUMBER]


@pytest.mark.parametrize(
    "text", ["inf", "-Inf", "Infinity", "+infinity", "1e400", "3.5e38", "-1e39"]
)
def test_what_float32_cannot_hold_is_not_finite(text):
    assert parse(text)[1] == [numbers.NOT_FINITE]


def test_the_greatest_float32_is_finite():
    (value,), (status,) = parse("3.4028235e38")
    assert status == numbers.PRESENT
    assert np.isfinite(np.float32(value))


def test_missing_texts_are_missing_with_spaces_around_them_too():
    values, status = parse("", "?", " NA\t", "-999", "-99", "  ", "7 ", "\t-.5e1")
    assert status == [1, 1, 1, 1, 0, 1, 0, 0]
    assert [v for v in values if not math.isnan(v)] == [-99.0, 7.0, -5.0]
