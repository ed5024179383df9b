"""Blocks scattered to their places, against NumPy indexing: columns, then rows."""

import numpy as np
import pytest

from streamtrain.kernels.scatter import (
    class_indices,
    scatter_block,
    scatter_bytes,
    scatter_rows,
    tile_rows,
)


class Block:
    def __init__(self, n_rows, n_numeric, n_fields, *, weighted=False, exposed=False, header=20):
        rng = np.random.default_rng(n_rows)
        self.n_rows, self.header = n_rows, header
        self.stride = header + 4 * n_rows
        self.numeric = rng.normal(size=(n_numeric, n_rows)).astype(np.float32)
        self.codes = rng.integers(0, 9, (n_fields, n_rows)).astype(np.int32)
        self.target = rng.normal(size=n_rows).astype(np.float32)
        self.weight = rng.random(n_rows if weighted else 0).astype(np.float32)
        self.exposure = rng.random(n_rows if exposed else 0).astype(np.float32)
        self.cardinality = np.full(n_fields, 9, np.int32)

    def data(self):
        columns = [*self.numeric, *self.codes, self.target]
        columns += [c for c in (self.weight, self.exposure) if len(c)]
        junk = b"\xff" * self.header
        return np.frombuffer(b"".join(junk + c.tobytes() for c in columns), np.uint8)

    def scatter(self, n_window, places):
        window = [
            np.full((n_window, len(self.numeric)), -1, np.float32),
            np.full((n_window, len(self.codes)), -1, np.int32),
            np.full(n_window, -1, np.float32),
            np.full(n_window if len(self.weight) else 0, -1, np.float32),
            np.full(n_window if len(self.exposure) else 0, -1, np.float32),
        ]
        places = np.asarray(places, np.int32)
        bad = scatter_block(
            self.data(), self.n_rows, self.stride, places, *window, self.cardinality
        )
        return bad, window


@pytest.mark.parametrize("extras", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(("n_numeric", "n_fields"), [(3, 2), (0, 2), (3, 0), (0, 0)])
@pytest.mark.parametrize("n_rows", [1, 255, 256, 257, 1000])
def test_every_value_reaches_its_place_and_no_other(n_rows, n_numeric, n_fields, extras):
    block = Block(n_rows, n_numeric, n_fields, weighted=extras[0], exposed=extras[1])
    n_window = n_rows + 13
    places = np.random.default_rng(1).permutation(n_window)[:n_rows]
    bad, window = block.scatter(n_window, places)
    assert bad == -1
    columns = [block.numeric.T, block.codes.T, block.target, block.weight, block.exposure]
    untouched = np.setdiff1d(np.arange(n_window), places)
    for found, expected in zip(window, columns, strict=True):
        if len(found):
            np.testing.assert_array_equal(found[places], expected)
            assert (found[untouched] == -1).all()


@pytest.mark.parametrize("n_rows", [63, 64, 65, 130])
def test_wide_rows_take_shorter_tiles_and_arrive_whole(n_rows):
    block = Block(n_rows, 2500, 500)
    assert tile_rows(4 * 3000) == 64
    places = np.random.default_rng(1).permutation(n_rows)
    bad, window = block.scatter(n_rows, places)
    assert bad == -1
    np.testing.assert_array_equal(window[0][places], block.numeric.T)
    np.testing.assert_array_equal(window[1][places], block.codes.T)


def test_tiles_have_64_to_256_rows():
    assert [tile_rows(n) for n in (0, 156, 2048, 4096, 10**6)] == [256, 256, 256, 128, 64]


@pytest.mark.parametrize("code", [-1, 9, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("row", [0, 255, 256, 299])
def test_a_code_out_of_range_is_reported_and_never_passed_on(code, row):
    block = Block(300, 2, 3)
    block.codes[1, row] = code
    bad, window = block.scatter(300, np.arange(300))
    assert bad == 2 + 1  # the column's number in the block
    assert window[1].min() >= 0
    assert window[1].max() < 9


def test_nan_arrives_as_nan():
    block = Block(10, 1, 1)
    block.numeric[0, 3] = np.nan
    _, window = block.scatter(10, np.arange(10))
    assert np.isnan(window[0][3, 0])
    assert np.isnan(window[0]).sum() == 1


def test_class_values_become_their_indices():
    values = np.array([0.5, -3.0, 7.0], np.float32)
    target = np.array([7.0, 0.5, -3.0, 8.0, np.nan, 7.0], np.float32)
    class_indices(values, target, 5)
    # The last row is outside of the rows asked for.
    assert target.tolist() == [2.0, 0.0, 1.0, -1.0, -1.0, 7.0]


class RowBlock:
    def __init__(self, n_rows, n_numeric, n_fields, kind, *, weighted=False, exposed=False):
        rng = np.random.default_rng(n_rows)
        limit = {np.uint8: 9, np.uint16: 900, np.int32: 90_000}[kind]
        self.kind = kind
        self.cardinality = np.full(n_fields, limit, np.int32)
        self.numeric = rng.normal(size=(n_rows, n_numeric)).astype(np.float32)
        self.codes = rng.integers(0, limit, (n_rows, n_fields), dtype=np.int32)
        self.target = rng.normal(size=n_rows).astype(np.float32)
        self.weight = rng.random(n_rows if weighted else 0).astype(np.float32)
        self.exposure = rng.random(n_rows if exposed else 0).astype(np.float32)

    def scatter(self, n_window, places):
        window = [
            np.full((n_window, self.numeric.shape[1]), -1, np.float32),
            np.full((n_window, self.codes.shape[1]), -1, np.int32),
            np.full(n_window, -1, np.float32),
            np.full(n_window if len(self.weight) else 0, -1, np.float32),
            np.full(n_window if len(self.exposure) else 0, -1, np.float32),
        ]
        n_beyond = scatter_rows(
            self.numeric, self.codes.astype(self.kind), self.target, self.weight, self.exposure,
            self.cardinality, np.asarray(places, np.int32), *window,
        )  # fmt: skip
        return n_beyond, window


KINDS = [np.uint8, np.uint16, np.int32]


@pytest.mark.parametrize("extras", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n_numeric", "n_fields"), [(3, 37), (0, 2), (3, 0), (0, 0)])
@pytest.mark.parametrize("n_rows", [1, 64, 257])
def test_every_row_reaches_its_place_and_no_other(n_rows, n_numeric, n_fields, kind, extras):
    block = RowBlock(n_rows, n_numeric, n_fields, kind, weighted=extras[0], exposed=extras[1])
    n_window = n_rows + 13
    places = np.random.default_rng(1).permutation(n_window)[:n_rows]
    n_beyond, window = block.scatter(n_window, places)
    assert n_beyond == 0
    expected = [block.numeric, block.codes, block.target, block.weight, block.exposure]
    untouched = np.setdiff1d(np.arange(n_window), places)
    for found, values in zip(window, expected, strict=True):
        if len(found):
            np.testing.assert_array_equal(found[places], values)
            assert (found[untouched] == -1).all()


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (np.uint8, 9), (np.uint8, 255), (np.uint16, 900), (np.uint16, 65_535),
        (np.int32, 90_000), (np.int32, -1), (np.int32, -(2**31)),
    ],
)  # fmt: skip
def test_codes_of_rows_out_of_range_are_counted(kind, code):
    block = RowBlock(50, 2, 19, kind)
    block.codes[31, 18] = block.codes[7, 0] = code
    assert block.scatter(50, np.arange(50))[0] == 2


@pytest.mark.parametrize("width", [1, 7, 784])
@pytest.mark.parametrize("n_rows", [1, 100])
def test_the_bytes_of_every_row_reach_its_place(n_rows, width):
    rng = np.random.default_rng(2)
    rows = rng.integers(0, 256, (n_rows, width), dtype=np.uint8)
    target = rng.normal(size=n_rows).astype(np.float32)
    places = rng.permutation(n_rows + 5)[:n_rows].astype(np.int32)
    window = np.full((n_rows + 5, width), 77, np.uint8)
    found = np.full(n_rows + 5, -1, np.float32)
    scatter_bytes(rows, target.reshape(-1, 1), places, window, found.reshape(-1, 1))
    np.testing.assert_array_equal(window[places], rows)
    np.testing.assert_array_equal(found[places], target)
    untouched = np.setdiff1d(np.arange(n_rows + 5), places)
    assert (window[untouched] == 77).all()
    assert (found[untouched] == -1).all()
