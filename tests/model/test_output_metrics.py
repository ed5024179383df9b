"""Metrics of several targets against the formulas of scikit-learn, written in NumPy."""

import numpy as np
import pytest

from streamtrain.model import output_metrics
from streamtrain.model.metrics import MetricSet
from streamtrain.model.output_metrics import (
    MAX_SHOWN,
    OutputMetrics,
    block_rows,
    plan_output_metrics_bytes,
)
from streamtrain.model.ranking import N_BINS, RankingArea


def made(kind, n, m, *, weighted=False, seed=0):
    """Return predictions, targets, losses of rows and weights; one weight in ten is 0."""
    rng = np.random.default_rng([seed, n, m])
    weight = rng.uniform(0.25, 3.0, n).astype(np.float32) if weighted else None
    if weighted:
        weight[rng.random(n) < 0.1] = 0
    if kind == "labels":
        score = rng.normal(size=(n, m))
        target = (rng.random((n, m)) < 1 / (1 + np.exp(-2 * score))).astype(np.float32)
        predicted = 1 / (1 + np.exp(-score - 0.3 * rng.normal(size=(n, m))))
    else:
        target = (rng.normal(size=(n, m)) * np.geomspace(0.1, 50, m) + 1000).astype(np.float32)
        predicted = target + rng.normal(size=(n, m)) * np.geomspace(0.05, 40, m)
    return predicted, target, rng.normal(size=n), weight


def measured(kind, rows, *, cuts=(), **options):
    predicted, target, losses, weight = rows
    found = OutputMetrics(kind, target.shape[1], **options)
    edges = [0, *cuts, len(target)]
    for a, b in zip(edges, edges[1:], strict=False):
        part = slice(a, b)
        w = None if weight is None else weight[part]
        found.update(predicted[part], target[part], losses[part], w)
    return found.result()


def expected_values(rows, tau=None):
    predicted, target, losses, weight = rows
    y, w = target.astype(np.float64), np.ones(len(target)) if weight is None else weight
    w = np.asarray(w, np.float64)[:, None]
    total, error = w.sum(), predicted - y
    mean = (w * y).sum(axis=0) / total
    columns = {
        "rmse": np.sqrt((w * error**2).sum(axis=0) / total),
        "mae": (w * abs(error)).sum(axis=0) / total,
        "r2": 1 - (w * error**2).sum(axis=0) / (w * (y - mean) ** 2).sum(axis=0),
    }
    if tau is not None:
        pinball = np.where(error < 0, -tau * error, (1 - tau) * error)
        columns["pinball"] = (w * pinball).sum(axis=0) / total
        columns["coverage"] = (w * (error >= 0)).sum(axis=0) / total
    whole = {name: column.mean() for name, column in columns.items()}
    whole["rmse"] = np.sqrt((columns["rmse"] ** 2).mean())
    whole["loss"] = (w[:, 0] * losses).sum() / total
    return whole, columns


def expected_labels(rows):
    p, target, losses, weight = rows
    y, w = target > 0, np.ones(len(target)) if weight is None else weight
    w = np.asarray(w, np.float64)[:, None]
    total, guess = w.sum(), p > 0.5
    both, sums = (w * (guess & y)).sum(axis=0), (w * guess + w * y).sum(axis=0)
    columns = {
        "accuracy": (w * (guess == y)).sum(axis=0) / total,
        "f1": 2 * both / sums,
        "logloss": -(w * np.log(np.where(y, p, 1 - p))).sum(axis=0) / total,
        "brier": (w * (p - y) ** 2).sum(axis=0) / total,
    }
    whole = {name: columns[name].mean() for name in ("accuracy", "logloss", "brier")}
    whole |= {
        "exact_match": (w[:, 0] * (guess == y).all(axis=1)).sum() / total,
        "micro_f1": 2 * both.sum() / sums.sum(),
        "macro_f1": columns["f1"].mean(),
        "loss": (w[:, 0] * losses).sum() / total,
    }
    return whole, columns


def check(found, whole, columns, n, weight):
    assert found["rows"] == n
    assert found["weight"] == pytest.approx(n if weight is None else weight.sum(dtype=np.float64))
    for name, value in whole.items():
        assert found[name] == pytest.approx(value, rel=1e-9), name
    for m, told in enumerate(found["outputs"]):
        for name, column in columns.items():
            assert told[name] == pytest.approx(column[m], rel=1e-9), (name, m)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "m"), [(1, 2), (50, 3), (9000, 2), (5000, 40)])
def test_values_are_measured_as_scikit_learn_does(n, m, weighted):
    rows = made("values", n, m, weighted=weighted)
    if n == 1:
        rows = (*rows[:3], None if not weighted else np.ones(1, np.float32))
        found = measured("values", rows)
        assert found["r2"] is None
        assert found["mae"] == pytest.approx(abs(rows[0] - rows[1]).mean())
        return
    whole, columns = expected_values(rows, 0.3)
    check(measured("values", rows, quantile=0.3), whole, columns, n, rows[3])
    assert "pinball" not in measured("values", rows)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "m"), [(50, 3), (9000, 2), (5000, 40)])
def test_labels_are_measured_as_scikit_learn_does(n, m, weighted):
    rows = made("labels", n, m, weighted=weighted)
    whole, columns = expected_labels(rows)
    found = measured("labels", rows)
    check(found, whole, columns, n, rows[3])
    assert ("auc" in found) == (m <= 32)


@pytest.mark.parametrize("weighted", [False, True])
def test_an_output_of_labels_is_measured_as_a_binary_target(weighted):
    p, y, _, w = rows = made("labels", 3000, 5, weighted=weighted)
    found = measured("labels", rows)
    areas = []
    for m, told in enumerate(found["outputs"]):
        one = MetricSet("binary")
        one.update(p[:, m], y[:, m], w)
        expected = one.result()
        areas.append(expected["auc"])
        for name in ("accuracy", "logloss", "brier", "auc"):
            assert told[name] == pytest.approx(expected[name], rel=1e-9), name
    assert found["auc"] == pytest.approx(np.mean(areas), rel=1e-12)
    assert found["auc_error_bound"] == 0


def test_an_output_of_values_is_measured_as_a_regression():
    p, y, _, w = rows = made("values", 3000, 4, weighted=True)
    for m, told in enumerate(measured("values", rows)["outputs"]):
        one = MetricSet("regression")
        one.update(p[:, m], y[:, m], w)
        for name, value in told.items():
            assert value == pytest.approx(one.result()[name], rel=1e-9), name


@pytest.mark.parametrize("kind", ["values", "labels"])
@pytest.mark.parametrize("m", [2, 3, 7, 33, 300])
def test_the_same_rows_give_the_same_bits_however_they_are_cut(kind, m):
    n = 2 * block_rows(m) + 17
    rows = made(kind, n, m, weighted=True)
    whole = measured(kind, rows, auc_rows=n)
    rng = np.random.default_rng(m)
    for n_cuts in (1, 3, 40):
        cuts = sorted(rng.integers(0, n, n_cuts).tolist())
        assert measured(kind, rows, cuts=cuts, auc_rows=n) == whole


@pytest.mark.parametrize("kind", ["values", "labels"])
def test_two_streams_merge_to_the_metrics_of_both(kind):
    rows = made(kind, 20_000, 7, weighted=True)
    parts = [tuple(part[a:b] for part in rows) for a, b in ((0, 9_001), (9_001, 20_000))]
    first, second = (OutputMetrics(kind, 7) for _ in parts)
    for metrics, part in zip((first, second), parts, strict=True):
        metrics.update(*part)
    first.merge(second)
    found, expected = first.result(), measured(kind, rows)
    told = [*zip(found["outputs"], expected["outputs"], strict=True), (found, expected)]
    for one, other in told:
        for name in set(one) - {"outputs"}:
            assert one[name] == pytest.approx(other[name], rel=1e-9), name
    with pytest.raises(ValueError, match="cannot be merged"):
        first.merge(OutputMetrics(kind, 8))


def test_what_is_not_defined_is_left_out_and_null():
    n = 100
    predicted, target, losses, _ = made("values", n, 3)
    target[:, 1] = 7
    found = measured("values", (predicted, target, losses, None))
    assert found["outputs"][1]["r2"] is None
    assert found["r2"] == pytest.approx((found["outputs"][0]["r2"] + found["outputs"][2]["r2"]) / 2)
    p, y, losses, _ = made("labels", n, 3)
    y[:, 0], p[:, 0] = 0, 0.25
    y[:, 1] = 1
    found = measured("labels", (p, y, losses, None))
    assert [o["f1"] is None for o in found["outputs"]] == [True, False, False]
    assert [o["auc"] is None for o in found["outputs"]] == [True, True, False]
    assert found["auc"] == found["outputs"][2]["auc"]
    assert found["macro_f1"] == pytest.approx(
        (found["outputs"][1]["f1"] + found["outputs"][2]["f1"]) / 2
    )
    for kind in ("values", "labels"):
        found = OutputMetrics(kind, 2).result()
        assert found["rows"] == 0
        assert all(v is None for k, v in found.items() if k not in {"rows", "weight", "outputs"})
        assert all(v is None for o in found["outputs"] for v in o.values())
        assert len(found["outputs"]) == 2


def test_a_constant_output_has_no_spread_in_any_number_of_blocks():
    n = 3 * block_rows(3) + 5
    predicted, target, losses, weight = made("values", n, 3, weighted=True)
    target[:, 2] = np.float32(0.1)
    found = measured("values", (predicted, target, losses, weight))
    assert found["outputs"][2]["r2"] is None


def test_outputs_beyond_the_first_hundred_are_measured_and_not_listed():
    rows = made("values", 200, 150)
    whole, columns = expected_values(rows)
    found = measured("values", rows)
    assert len(found["outputs"]) == MAX_SHOWN
    check(found, whole, columns, 200, None)


def test_areas_share_the_rows_that_are_kept_and_the_bins(monkeypatch):
    m, n = 20, 4000
    rows = made("labels", n, m)
    exact = measured("labels", rows, auc_rows=n * m)
    kept = OutputMetrics("labels", m, auc_rows=m * 100)
    kept.update(*rows[:3])
    found = kept.result()
    assert {area.max_rows for area in kept._areas} == {100}
    assert sum(area._mass.shape[1] for area in kept._areas) <= N_BINS
    assert 0 < found["auc_error_bound"] < 0.02
    for one, other in zip(found["outputs"], exact["outputs"], strict=True):
        assert abs(one["auc"] - other["auc"]) <= one["auc_error_bound"] + 1e-12
    assert abs(found["auc"] - exact["auc"]) <= found["auc_error_bound"]


@pytest.mark.parametrize("n_bins", [1 << 20, 1 << 15, 1 << 8])
def test_fewer_bins_are_wider_and_their_bound_holds(n_bins):
    rng = np.random.default_rng(1)
    score = rng.random(30_000).astype(np.float32)
    positive = rng.random(30_000) < score
    exact, binned = RankingArea(), RankingArea(max_rows=0, n_bins=n_bins)
    for area in (exact, binned):
        area.update(score, positive, np.ones(30_000, np.float32))
    (truth, _), (found, bound) = exact.result(), binned.result()
    assert abs(found - truth) <= bound
    assert (bound > 1e-3) == (n_bins == 1 << 8)


@pytest.mark.parametrize(
    "change",
    [
        {"predicted": np.zeros((5, 3))},
        {"target": np.zeros(5)},
        {"target": np.full((5, 2), np.nan)},
        {"target": np.full((5, 2), np.inf)},
        {"losses": np.zeros((5, 2))},
        {"weight": np.array([1, 1, 1, 1, -1.0])},
        {"weight": np.array([1, 1, 1, 1, np.nan])},
        {"weight": np.ones(4)},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["values", "labels"])
def test_what_does_not_fit_is_refused_and_changes_nothing(kind, change):
    given = {
        "predicted": np.full((5, 2), 0.25),
        "target": np.zeros((5, 2)),
        "losses": np.zeros(5),
        "weight": None,
    }
    found = OutputMetrics(kind, 2)
    with pytest.raises(ValueError, match=r"expected|fit"):
        found.update(**given | change)
    assert found.result()["rows"] == 0


def test_labels_are_0_or_1():
    with pytest.raises(ValueError, match="0 or 1"):
        OutputMetrics("labels", 2).update(
            np.zeros((1, 2)), np.array([[0, 0.5]]), np.zeros(1)
        )  # fmt: skip


def test_memory_stays_within_the_plan_for_any_number_of_outputs():
    for m in (2, 32, 33, 4096):
        assert 16 <= block_rows(m) <= 8192
        assert block_rows(m) * m <= max(output_metrics._BLOCK_VALUES, 16 * m)
        values = plan_output_metrics_bytes("values", m, auc_rows=10**6)
        labels = plan_output_metrics_bytes("labels", m, auc_rows=10**6)
        assert values < 16 << 20
        assert (labels > values) == (m <= 32)


@pytest.mark.parametrize("kind", ["values", "labels"])
def test_rows_of_weight_0_change_nothing_but_their_count(kind):
    predicted, target, losses, weight = made(kind, 9000, 7, weighted=True)
    weight[0] = 0
    target[0] += 0 if kind == "labels" else 1e6
    counts = weight > 0
    found = measured(kind, (predicted, target, losses, weight))
    kept = measured(kind, tuple(part[counts] for part in (predicted, target, losses, weight)))
    assert found == kept | {"rows": 9000}
