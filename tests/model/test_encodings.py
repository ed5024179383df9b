"""Encodings from statistics: whatever a column holds, knots rise and inputs stay finite."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtrain.kernels.team import Team
from streamtrain.model.architecture import Architecture
from streamtrain.model.encodings import array_scales, plan_encoding
from streamtrain.model.network import Layer, Network
from streamtrain.model.network_model import NetworkModel, make_net
from streamtrain.store.schema import (
    QUANTILE_PROBABILITIES,
    ArrayFeatures,
    Column,
    NumericStatistics,
)
from tests.made import statistics

LARGEST = float(np.finfo(np.float32).max)
KINDS = ("standard", "robust", "quantile", "ple", "plr")
EXTREMES = np.array([LARGEST, -LARGEST, 0, -0.0, 1e-45, 1, -1, 1e30, np.nan], np.float32)


def column_of(values):
    values = np.asarray(values, np.float32).astype(np.float64)
    present = values[~np.isnan(values)]
    missing = len(values) - len(present)
    if not len(present):
        return Column("x", "numeric", statistics=NumericStatistics(0, missing, 0, 0, 0, 0))
    return Column(
        "x",
        "numeric",
        statistics=NumericStatistics(
            len(present), missing, float(present.mean()), float(present.std()),
            float(present.min()), float(present.max()),
            tuple(np.quantile(present, QUANTILE_PROBABILITIES, method="inverted_cdf").tolist()),
        ),
    )  # fmt: skip


COLUMNS = {
    "normal": np.random.default_rng(0).normal(size=500),
    "constant": np.full(20, 3.5),
    "constant zero": np.zeros(20),
    "all missing": np.full(20, np.nan),
    "one value": [7.0],
    "two values": [0.0] * 30 + [1.0] * 10,
    "two values, one rare": [0.0] * 999 + [1.0],
    "heavy ties": [0.0] * 700 + list(np.linspace(0, 1, 100)) + [1.0] * 200,
    "subnormal spread": np.linspace(0, 1e-41, 300),
    "neighbours": [1.0] * 50 + [float(np.nextafter(np.float32(1), np.float32(2)))] * 50,
    "two subnormals": [0.0] * 50 + [1e-45] * 50,
    "spread of 1e-38": np.linspace(0, 2e-38, 100),
    "huge": np.linspace(-1e30, 1e30, 100),
    "the largest": [-LARGEST] * 10 + [0.0] * 10 + [LARGEST] * 10,
    "huge and small": [0.0, 1e-30, 1.0, 1e30, LARGEST] * 20,
    "missing too": [np.nan, 1.0, 2.0, 3.0] * 10,
    "timestamps": 1.7e9 + np.arange(100.0),
}


def lanes_of(encoding, x):
    """Return the (n, lanes) numbers that the kernel makes of x."""
    n = encoding.width + encoding.indicator
    x = np.ascontiguousarray(x, np.float32)
    layers = tuple(Layer("output", source="numeric") for _ in range(1))
    architecture = Architecture(
        model="custom", loss="softmax", n_scores=n + 1, mean=(0.0,), scale=(1.0,),
        cardinalities=(), network=Network(columns=(encoding,), embedding_dims=(), layers=layers),
    )  # fmt: skip
    with Team(1) as team:
        model = NetworkModel(architecture, team)
        w = np.zeros(model.layout.n_parameters, np.float32)
        net = make_net(architecture)
        # Score c is lane c.
        at = model.layout.n_dense - 16 * n * -(-(n + 1) // 16)
        for c in range(n):
            w[at + (c // 16) * n * 16 + c * 16 + c % 16] = 1
        for name in ("shift", "scale", "knots"):
            assert np.isfinite(getattr(net, name)).all(), name
        return model.scores(w, x[:, None], np.zeros((len(x), 0), np.int32))[:, :n]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", COLUMNS)
def test_knots_rise_as_float32_and_any_input_is_encoded_to_finite_numbers(name, kind):
    values = np.asarray(COLUMNS[name], np.float32)
    encoding = plan_encoding(column_of(values), kind, bins=48)
    knots = np.array(encoding.knots, np.float32)
    assert np.isfinite(knots).all()
    assert (np.diff(knots.astype(np.float64)) > 0).all()
    assert (np.diff(encoding.heights) >= 0).all()
    assert np.isfinite(encoding.heights).all()
    assert np.isfinite(np.float32(encoding.shift))
    assert np.isfinite(np.float32(encoding.scale))
    x = np.concatenate([values, EXTREMES])
    found = lanes_of(encoding, x)
    assert np.isfinite(found).all()
    missing = np.isnan(x)
    assert encoding.indicator == bool(np.isnan(values).any())
    assert not found[missing, : encoding.width].any()
    if encoding.indicator:
        assert found[:, -1].tolist() == missing.astype(float).tolist()
    # What training sees stays within a few units, but for rare values of "standard".
    seen = np.abs(found[: len(values)]).max()
    assert seen <= (np.sqrt(len(values)) + 1e-3 if kind == "standard" else 100)


@pytest.mark.parametrize("kind", ["robust", "quantile", "ple"])
@pytest.mark.parametrize("name", COLUMNS)
def test_a_larger_number_is_never_encoded_as_a_smaller_one(name, kind):
    values = np.asarray(COLUMNS[name], np.float32)
    encoding = plan_encoding(column_of(values), kind, bins=16)
    x = np.unique(values[~np.isnan(values)]) if not np.isnan(values).all() else np.zeros(1)
    found = lanes_of(encoding, x)[:, : encoding.width].sum(axis=1)
    assert (np.diff(found) >= -1e-5).all()


def test_the_quantile_encoding_makes_a_skewed_column_normal():
    values = np.exp(3 * np.random.default_rng(1).normal(size=20_000))
    found = lanes_of(plan_encoding(column_of(values), "quantile", bins=48), values)[:, 0]
    assert found.mean() == pytest.approx(0, abs=0.05)
    assert found.std() == pytest.approx(1, abs=0.06)


def test_equal_values_get_the_height_of_their_middle():
    encoding = plan_encoding(column_of([0.0] * 50 + [1.0] * 50), "quantile", bins=48)
    assert encoding.knots == (0.0, 1.0)
    low, high = encoding.heights
    # The middles of the lower and the upper half: the quartiles of the normal curve.
    assert low == pytest.approx(-0.674, abs=0.05)
    assert high == pytest.approx(0.674, abs=0.05)


def test_pieces_fill_from_the_first_bin():
    encoding = plan_encoding(column_of(np.arange(65.0)), "ple", bins=4)
    assert encoding.knots == (0.0, 16.0, 32.0, 48.0, 64.0)
    found = lanes_of(encoding, [0, 24, 64, -8, 80])
    np.testing.assert_allclose(
        found, [[0, 0, 0, 0], [1, 0.5, 0, 0], [1, 1, 1, 1], [-0.5, 0, 0, 0], [1, 1, 1, 2]]
    )


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1,
                    max_size=80),
    kind=st.sampled_from(KINDS),
    bins=st.integers(2, 64),
)  # fmt: skip
def test_any_column_gives_rising_finite_knots(values, kind, bins):
    encoding = plan_encoding(column_of(values), kind, bins=bins)
    knots = np.array(encoding.knots, np.float32).astype(np.float64)
    assert np.isfinite(knots).all()
    assert (np.diff(knots) > 0).all()
    assert np.isfinite(lanes_of(encoding, np.concatenate([values, EXTREMES]))).all()


def features_of(values, dtype):
    values = np.asarray(values, dtype)
    each = tuple(statistics(values[:, j].astype(np.float32)) for j in range(values.shape[1]))
    return ArrayFeatures(dtype, values.shape[1:], each)


def test_bytes_of_an_array_are_scaled_alike_whatever_a_place_held_in_training():
    bytes_ = [[0, 0, 9], [250, 0, 9], [100, 5, 9]]
    features = features_of(bytes_, "uint8")
    (shift, scale), *others = array_scales(features)
    assert (shift, scale) == (pytest.approx(np.mean(bytes_)), pytest.approx(np.std(bytes_)))
    assert others == [(shift, scale)] * 2
    centred = array_scales(features, centred=True)
    assert [shift for shift, _ in centred] == pytest.approx([350 / 3, 5 / 3, 9])
    # A deviation of 100 is more than a sixth of all bytes' range, one of 2 is less.
    assert centred[0][1] == pytest.approx(np.std([0, 250, 100]))
    assert centred[1][1] == centred[2][1] == 250 / 6


def test_bytes_that_are_nearly_all_alike_are_not_blown_up():
    rare = np.full((600, 2), 7)
    rare[0, 0] = 207
    assert array_scales(features_of(rare, "uint8")) == ((pytest.approx(rare.mean()), 200 / 6),) * 2
    same = features_of(np.full((9, 2), 7), "uint8")
    assert array_scales(same) == ((7.0, 0.0),) * 2


def test_numbers_of_an_array_are_divided_by_their_places_deviation_and_no_outlier_is_far():
    rare = np.zeros((600, 2))
    rare[0, 0], rare[:, 1] = 1000.0, np.arange(600) % 2
    scales = array_scales(features_of(rare, "float32"))
    assert scales[0] == (pytest.approx(1000 / 600), pytest.approx(1000 / 6))
    assert scales[1] == (pytest.approx(0.5), pytest.approx(0.5))
