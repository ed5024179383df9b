"""Streams of any cut, merged streams, weights, and what is refused."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtrain.errors import DivergedError
from streamtrain.model import metrics as module
from streamtrain.model.metrics import MetricSet, plan_metrics_bytes
from streamtrain.model.value_metrics import ValueMeasures

EPS = np.finfo(np.float64).eps


def binary_rows(n_rows):
    rng = np.random.default_rng(7)
    p = rng.random(n_rows).astype(np.float32)
    return p, (rng.random(n_rows) < p) * 1.0, rng.random(n_rows).astype(np.float32)


def class_rows(n_rows, n_classes):
    p = np.random.default_rng(8).random((n_rows, n_classes)).astype(np.float32)
    y = np.where(np.arange(n_rows) % 3, p.argmax(axis=1), np.arange(n_rows) % n_classes)
    weight = np.random.default_rng(9).random(n_rows)
    return p / p.sum(axis=1, keepdims=True), y, weight.astype(np.float32)


def regression_rows(n_rows):
    rng = np.random.default_rng(10)
    y = 100 + rng.standard_normal(n_rows)
    return y + rng.standard_normal(n_rows), y, rng.random(n_rows).astype(np.float32)


def count_rows(n_rows):
    rng = np.random.default_rng(11)
    mean = rng.uniform(0.5, 4.0, n_rows)
    return mean, rng.poisson(mean) + 1.0, rng.random(n_rows).astype(np.float32)


# Each with its options and its rows: (prediction, target, weight).
TASKS = {
    "binary": ({"task": "binary"}, binary_rows),
    "folded": ({"task": "binary", "auc_rows": 20}, binary_rows),
    "hinge": ({"task": "binary", "probabilities": False}, binary_rows),
    "classes": ({"task": "classes", "n_classes": 3}, lambda n: class_rows(n, 3)),
    "wide": ({"task": "classes", "n_classes": 21}, lambda n: class_rows(n, 21)),
    "regression": ({"task": "regression"}, regression_rows),
    "quantile": ({"task": "regression", "measures": ValueMeasures(quantile=0.8)}, regression_rows),
    **{
        f"deviance {p}": ({"task": "regression", "measures": ValueMeasures(power=p)}, count_rows)
        for p in (1.0, 1.5, 2.0)
    },
}
EVERY_TASK = pytest.mark.parametrize("name", TASKS)


def metrics_of(task, prediction, target, weight=None, **options):
    metrics = MetricSet(task, **options)
    metrics.update(np.asarray(prediction), np.asarray(target), weight)
    return metrics.result()


def assert_close(found, expected, n_rows):
    # Sums of n terms of one sign round by at most n eps of their value, here
    # and in the oracle, and each metric divides two of them.
    assert set(expected) <= set(found)
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
        else:
            assert abs(found[name] - value) <= 4 * n_rows * EPS * max(1.0, abs(value)), name


@EVERY_TASK
@pytest.mark.parametrize("weight", [None, 0.0])
def test_without_weight_every_metric_is_none(name, weight):
    options, rows = TASKS[name]
    metrics = MetricSet(**options)
    empty = metrics.result()
    if weight is None:
        metrics.update(*(column[:0] for column in rows(5)))
    else:
        prediction, target, _ = rows(5)
        metrics.update(prediction, target, np.zeros(5))
    result = metrics.result()
    assert result.pop("rows") == (0 if weight is None else 5)
    assert result.pop("weight") == 0.0
    assert set(result.values()) == {None}
    assert result.keys() == empty.keys() - {"rows", "weight"}


@EVERY_TASK
@pytest.mark.parametrize("weight", [3e38, 1e-45])
def test_extreme_weights_change_nothing_but_their_sum(name, weight):
    options, rows = TASKS[name]
    prediction, target, _ = rows(60)
    found = metrics_of(**options, prediction=prediction, target=target, weight=np.full(60, weight))
    expected = metrics_of(**options, prediction=prediction, target=target)
    assert found.pop("weight") == pytest.approx(60 * float(np.float32(weight)), rel=60 * EPS)
    del expected["weight"]
    assert_close(found, expected, 60)
    json.dumps(found, allow_nan=False)


@EVERY_TASK
def test_rows_of_weight_zero_are_counted_and_change_nothing_else(name):
    options, rows = TASKS[name]
    prediction, target, weight = rows(60)
    weight[::3] = 0
    found = metrics_of(**options, prediction=prediction, target=target, weight=weight)
    kept = weight > 0
    expected = metrics_of(
        **options, prediction=prediction[kept], target=target[kept], weight=weight[kept]
    )
    assert found.pop("rows") == 60
    assert expected.pop("rows") == 40
    assert found == expected


@EVERY_TASK
@settings(deadline=None, max_examples=30)
@given(cuts=st.lists(st.integers(0, 60), max_size=6), looks=st.booleans())
def test_cuts_into_batches_do_not_change_a_bit(name, cuts, looks):
    options, rows = TASKS[name]
    prediction, target, weight = rows(60)
    cuts = sorted(cuts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_ROWS", 16)
        whole = metrics_of(**options, prediction=prediction, target=target, weight=weight)
        pieces = MetricSet(**options)
        for begin, end in zip([0, *cuts], [*cuts, 60], strict=True):
            pieces.update(prediction[begin:end], target[begin:end], weight[begin:end])
            if looks:
                pieces.result()
        assert pieces.result() == whole


@EVERY_TASK
@settings(deadline=None, max_examples=30)
@given(cuts=st.lists(st.integers(0, 60), min_size=1, max_size=4))
def test_merged_sets_are_the_set_of_all_rows(name, cuts):
    options, rows = TASKS[name]
    prediction, target, weight = rows(60)
    cuts = sorted(cuts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_ROWS", 16)
        whole = metrics_of(**options, prediction=prediction, target=target, weight=weight)
        merged = MetricSet(**options)
        for begin, end in zip([0, *cuts], [*cuts, 60], strict=True):
            part = MetricSet(**options)
            part.update(prediction[begin:end], target[begin:end], weight[begin:end])
            before = part.result()
            merged.merge(part)
            assert part.result() == before
    # The mean of 100 in regression loses two more digits of the spread.
    assert_close(merged.result(), whole, 60 * (100 if options["task"] == "regression" else 1))


@EVERY_TASK
@pytest.mark.parametrize("block_rows", [16, 64, 100, 8192])
def test_a_set_merged_with_itself_counts_twice(name, block_rows, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_ROWS", block_rows)
    options, rows = TASKS[name]
    metrics = MetricSet(**options)
    metrics.update(*rows(60))
    expected = metrics.result()
    metrics.merge(metrics)
    expected["rows"] *= 2
    expected["weight"] *= 2
    if "accuracy" in expected:
        # Twice the rows know more.
        found = metrics.result()
        for low, high in (("accuracy_low", "accuracy_high"), ("auc_low", "auc_high")):
            if low in expected:
                assert found[low] > expected.pop(low)
                assert found[high] < expected.pop(high)
    assert_close(metrics.result(), expected, 120 * (100 if options["task"] == "regression" else 1))


@EVERY_TASK
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e39])
def test_predictions_that_are_not_finite_are_refused_and_leave_no_trace(name, poison):
    options, rows = TASKS[name]
    prediction, target, weight = rows(60)
    metrics = MetricSet(**options)
    metrics.update(prediction, target, weight)
    before = metrics.result()
    prediction = prediction.astype(np.float64)
    prediction[37] = poison
    # A row that weighs nothing still shows that the model diverged.
    weight[37] = 0
    with pytest.raises(DivergedError, match="in row 37 of a batch"):
        metrics.update(prediction, target, weight)
    assert metrics.result() == before


@pytest.mark.parametrize("value", [-0.01, 1.01])
def test_probabilities_out_of_range_are_refused(value):
    with pytest.raises(ValueError, match="within"):
        metrics_of("binary", np.array([0.5, value]), np.array([0, 1]))
    with pytest.raises(ValueError, match="within"):
        metrics_of("classes", np.array([[1 - value, value]]), np.array([0]))


def test_probabilities_off_by_rounding_count_as_0_and_1():
    off = np.array([-1e-7, 1 + 1e-7], np.float32)
    assert metrics_of("binary", off, [0, 1]) == metrics_of("binary", [0.0, 1.0], [0, 1])


@pytest.mark.parametrize("value", [-1, 2, 0.5, np.nan, np.inf])
def test_targets_that_are_no_class_are_refused(value):
    with pytest.raises(ValueError, match="target"):
        metrics_of("binary", np.array([0.5, 0.5]), np.array([0, value]))
    with pytest.raises(ValueError, match="target"):
        metrics_of("classes", np.full((2, 2), 0.5), np.array([0, value]))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_targets_and_weights_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError, match="target"):
        metrics_of("regression", np.zeros(2), np.array([0, value]))
    with pytest.raises(ValueError, match="weight"):
        metrics_of("regression", np.zeros(2), np.zeros(2), np.array([0, value]))


def test_negative_weights_are_refused():
    with pytest.raises(ValueError, match="weight"):
        metrics_of("binary", np.zeros(2), np.zeros(2), np.array([1, -1]))


@pytest.mark.parametrize(
    ("prediction", "target", "weight"),
    [((3,), (2,), None), ((2, 1), (2,), None), ((2,), (2,), (3,)), ((2,), (2, 1), None)],
)
def test_shapes_that_do_not_fit_are_refused(prediction, target, weight):
    weight = None if weight is None else np.ones(weight)
    with pytest.raises(ValueError, match="does not fit"):
        metrics_of("binary", np.zeros(prediction), np.zeros(target), weight)


def test_a_matrix_of_other_width_than_the_classes_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        metrics_of("classes", np.full((4, 2), 0.5), np.zeros(4), n_classes=3)


@pytest.mark.parametrize(
    "options",
    [
        {"task": "ranking"},
        {"task": "binary", "n_classes": 3},
        {"task": "classes", "n_classes": 1},
        {"task": "classes", "probabilities": False},
        {"task": "binary", "auc_rows": -1},
    ],
)
def test_settings_that_cannot_work_are_refused(options):
    with pytest.raises(ValueError, match=r"expected|probabilities"):
        MetricSet(**options)


def test_sets_of_other_settings_are_not_merged():
    with pytest.raises(ValueError, match="cannot be merged"):
        MetricSet("classes", n_classes=3).merge(MetricSet("classes", n_classes=4))
    with pytest.raises(ValueError, match="cannot be merged"):
        MetricSet("binary").merge(MetricSet("regression"))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_types_and_memory_order_of_equal_values_do_not_matter(dtype, order):
    p = np.array([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]]).astype(dtype, order=order)
    found = metrics_of("classes", p, np.array([2, 1], np.int8), n_classes=3)
    assert found == metrics_of("classes", p.astype(np.float64), [2.0, 1.0], n_classes=3)


@EVERY_TASK
def test_the_arguments_are_left_as_they_were(name):
    options, rows = TASKS[name]
    arguments = [np.array(column, np.float64) for column in rows(60)]
    before = [column.copy() for column in arguments]
    MetricSet(**options).update(*arguments)
    assert all(np.array_equal(a, b) for a, b in zip(arguments, before, strict=True))


@EVERY_TASK
def test_the_peak_of_memory_is_within_the_plan(name):
    options, rows = TASKS[name]
    columns = rows(100_000)
    plan = {k: v for k, v in options.items() if k not in {"probabilities", "measures"}}
    tracemalloc.start()
    try:
        metrics = MetricSet(**options)
        metrics.update(*columns)
        metrics.result()
        metrics.merge(metrics)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= plan_metrics_bytes(**plan)


def test_many_classes_are_taken_a_few_rows_at_a_time():
    columns = class_rows(8192, 200)
    tracemalloc.start()
    try:
        MetricSet("classes", n_classes=200).update(*columns)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= plan_metrics_bytes("classes", n_classes=200) < columns[0].nbytes
