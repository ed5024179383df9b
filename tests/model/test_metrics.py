"""Streamed metrics against float64 NumPy over all rows at once."""

import math

import numpy as np
import pytest

from streamtrain.model import metrics as module
from streamtrain.model.metrics import MetricSet

EPS = np.finfo(np.float64).eps


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


def macro_f1(predicted, target, weight, n_classes):
    scores = []
    for c in range(n_classes):
        both = weight[(predicted == c) & (target == c)].sum()
        either = weight[predicted == c].sum() + weight[target == c].sum()
        if either > 0:
            scores.append(2 * both / either)
    return np.mean(scores)


def ece(confidence, outcome, weight):
    gap = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if b == 0:
            inside |= confidence == 0
        gap += abs((weight * confidence)[inside].sum() - (weight * outcome)[inside].sum())
    return gap / weight.sum()


def area(score, target, weight):
    ahead, behind = score[target == 1, None], score[None, target == 0]
    pairs = weight[target == 1, None] * weight[None, target == 0]
    return (((ahead > behind) + 0.5 * (ahead == behind)) * pairs).sum() / pairs.sum()


def average_precision(score, target, weight):
    """Return the mean over positives of the precision at their score."""
    total = 0.0
    for s, w in zip(score[target == 1], weight[target == 1], strict=True):
        taken = score >= s
        total += w * weight[taken & (target == 1)].sum() / weight[taken].sum()
    return total / weight[target == 1].sum()


def effective(weight):
    return weight.sum() ** 2 / (weight**2).sum()


def wilson(share, weight):
    """Solve (share - x)^2 = z^2 x (1 - x) / n for x."""
    n, z = effective(weight), 1.959963984540054
    low, high = sorted(np.roots([1 + z**2 / n, -(2 * share + z**2 / n), share**2]).real)
    return {"accuracy_low": max(low, 0.0), "accuracy_high": min(high, 1.0)}


def area_interval(score, target, weight):
    """Return the interval of DeLong, from the placement of every row among the other class."""
    ahead, behind = score[target == 1], score[target == 0]
    p, n = weight[target == 1], weight[target == 0]
    won = (ahead[:, None] > behind) + 0.5 * (ahead[:, None] == behind)
    of_positives, of_negatives = won @ n / n.sum(), p @ won / p.sum()
    found = (p * of_positives).sum() / p.sum()
    if min(effective(p), effective(n)) <= 1:
        return None, None
    variance = (p * (of_positives - found) ** 2).sum() / p.sum() / (effective(p) - 1)
    variance += (n * (of_negatives - found) ** 2).sum() / n.sum() / (effective(n) - 1)
    half = 1.959963984540054 * np.sqrt(variance)
    return max(found - half, 0.0), min(found + half, 1.0)


def binary_oracle(p, y, w):
    p, y, w = (np.asarray(a, np.float64) for a in (p, y, w))
    likelihood = np.maximum(np.where(y == 1, p, 1 - p), 2.0**-24)
    auc_low, auc_high = area_interval(p, y, w)
    accuracy = w[(p > 0.5) == (y == 1)].sum() / w.sum()
    return {
        "rows": len(y),
        "weight": w.sum(),
        "accuracy": accuracy,
        **wilson(accuracy, w),
        "auc_low": auc_low,
        "auc_high": auc_high,
        "average_precision": average_precision(p, y, w),
        "average_precision_error_bound": 0.0,
        "macro_f1": macro_f1((p > 0.5) * 1, y, w, 2),
        "logloss": -(w * np.log(likelihood)).sum() / w.sum(),
        "brier": (w * (p - y) ** 2).sum() / w.sum(),
        "ece": ece(p, y, w),
        "auc": area(p, y, w),
        "auc_error_bound": 0.0,
    }


def class_oracle(p, y, w):
    p, w = np.asarray(p, np.float64), np.asarray(w, np.float64)
    y = np.asarray(y, int)
    chosen = p.argmax(axis=1)
    truth = np.eye(p.shape[1])[y]
    likelihood = np.maximum((p * truth).sum(axis=1), 2.0**-24)
    accuracy = w[chosen == y].sum() / w.sum()
    # A stable sort leaves equals in the order of classes.
    first = np.argsort(-p, axis=1, kind="stable")[:, :5]
    top = {"top_5_accuracy": w[(first == y[:, None]).any(axis=1)].sum() / w.sum()}
    return {
        "rows": len(y),
        "weight": w.sum(),
        "accuracy": accuracy,
        **wilson(accuracy, w),
        **(top if p.shape[1] > 5 else {}),
        "macro_f1": macro_f1(chosen, y, w, p.shape[1]),
        "logloss": -(w * np.log(likelihood)).sum() / w.sum(),
        "brier": (w * ((p - truth) ** 2).sum(axis=1)).sum() / w.sum(),
        "ece": ece(p.max(axis=1), chosen == y, w),
    }


def regression_oracle(prediction, y, w):
    prediction, y, w = (np.asarray(a, np.float64) for a in (prediction, y, w))
    mean = (w * y).sum() / w.sum()
    squared = (w * (prediction - y) ** 2).sum()
    return {
        "rows": len(y),
        "weight": w.sum(),
        "rmse": math.sqrt(squared / w.sum()),
        "mae": (w * abs(prediction - y)).sum() / w.sum(),
        "r2": 1 - squared / (w * (y - mean) ** 2).sum(),
    }


def binary_rows(n_rows, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.random(n_rows).astype(np.float32)
    y = (rng.random(n_rows) < p**2).astype(np.float32)
    y[:2] = [0, 1]
    return p, y, rng.random(n_rows).astype(np.float32)


def class_rows(n_rows, n_classes, seed=0):
    rng = np.random.default_rng(seed)
    score = np.exp(2 * rng.standard_normal((n_rows, n_classes)))
    p = (score / score.sum(axis=1, keepdims=True)).astype(np.float32)
    y = np.where(rng.random(n_rows) < 0.5, p.argmax(axis=1), rng.integers(0, n_classes, n_rows))
    return p, y.astype(np.float32), rng.random(n_rows).astype(np.float32)


def regression_rows(n_rows, seed=0):
    rng = np.random.default_rng(seed)
    y = (100 + rng.standard_normal(n_rows)).astype(np.float32)
    return y + rng.standard_normal(n_rows).astype(np.float32), y, rng.random(n_rows)


PROBABILITIES = ["logloss", "brier", "ece"]


@pytest.fixture(params=[16, 8192])
def block_rows(request, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_ROWS", request.param)


@pytest.mark.usefixtures("block_rows")
@pytest.mark.parametrize("n_rows", [2, 16, 1000])
def test_binary_metrics_match_the_oracle(n_rows):
    p, y, w = binary_rows(n_rows)
    assert_close(metrics_of("binary", p, y, w), binary_oracle(p, y, w), n_rows)
    assert_close(metrics_of("binary", p, y), binary_oracle(p, y, np.ones(n_rows)), n_rows)


@pytest.mark.usefixtures("block_rows")
@pytest.mark.parametrize("n_rows", [2, 16, 1000])
def test_margins_have_ranking_and_accuracy_but_no_probabilities(n_rows):
    p, y, w = binary_rows(n_rows)
    found = metrics_of("binary", 8 * (p - np.float32(0.5)), y, w, probabilities=False)
    # The same order and the same signs, so the same metrics.
    expected = binary_oracle(p, y, w)
    for name in PROBABILITIES:
        del expected[name]
    assert found.keys() == expected.keys()
    assert_close(found, expected, n_rows)


@pytest.mark.usefixtures("block_rows")
@pytest.mark.parametrize(("n_rows", "n_classes"), [(1, 2), (16, 3), (1000, 21), (20_000, 3)])
def test_class_metrics_match_the_oracle(n_rows, n_classes):
    p, y, w = class_rows(n_rows, n_classes)
    found = metrics_of("classes", p, y, w, n_classes=n_classes)
    assert_close(found, class_oracle(p, y, w), n_rows)
    found = metrics_of("classes", p, y, n_classes=n_classes)
    assert_close(found, class_oracle(p, y, np.ones(n_rows)), n_rows)


def test_more_classes_than_a_chunk_of_values_are_taken_row_by_row(monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_VALUES", 5)
    p, y, w = class_rows(30, 7)
    assert_close(metrics_of("classes", p, y, w, n_classes=7), class_oracle(p, y, w), 30)


@pytest.mark.usefixtures("block_rows")
@pytest.mark.parametrize("n_rows", [2, 16, 20_000])
def test_regression_metrics_match_the_oracle(n_rows):
    prediction, y, w = regression_rows(n_rows)
    found = metrics_of("regression", prediction, y, w)
    w = w.astype(np.float32)
    # The mean of 100 against a spread of 1 costs the oracle's spread 100**2 more.
    assert_close(found, regression_oracle(prediction, y, w), 100 * n_rows)
    found = metrics_of("regression", prediction, y)
    assert_close(found, regression_oracle(prediction, y, np.ones(n_rows)), 100 * n_rows)


@pytest.mark.usefixtures("block_rows")
def test_a_large_mean_leaves_the_spread_intact():
    # y alternates around 2**40: the variance is 1, a sum of squares would lose it.
    y = 2.0**40 + np.tile([-1.0, 1.0], 500)
    found = metrics_of("regression", y + 0.5, y)
    assert found["rmse"] == found["mae"] == 0.5
    # A block's mean is right to eps * 2**40, so the variance of 1 to twice its square.
    assert abs(found["r2"] - 0.75) <= (EPS * 2**40) ** 2 * 2 + 4 * 1000 * EPS


@pytest.mark.usefixtures("block_rows")
def test_a_constant_target_has_no_r2():
    y = np.full(40, 0.1)
    w = np.random.default_rng(1).random(40)
    found = metrics_of("regression", y + np.arange(40), y, w)
    assert found["r2"] is None
    assert found["rmse"] > 0


def test_a_constant_target_has_no_r2_whatever_rows_of_weight_zero_hold():
    y, w = np.array([7.3, 0.1, 0.1, 0.1]), np.array([0.0, 0.3, 0.3, 0.7])
    assert metrics_of("regression", y + 1, y, w)["r2"] is None


def test_sure_and_right_predictions_are_perfect():
    y = np.array([0, 1, 2, 1])
    w = np.array([0.1, 0.2, 0.3, 0.7], np.float32)
    found = metrics_of("classes", np.eye(3)[y], y, w, n_classes=3)
    perfect = {"accuracy": 1.0, "macro_f1": 1.0, "logloss": 0.0, "brier": 0.0, "ece": 0.0}
    perfect["accuracy_high"] = 1.0
    assert {name: found[name] for name in perfect} == perfect
    assert math.copysign(1, found["logloss"]) == 1
    found = metrics_of("binary", np.array([0.0, 1.0, 1.0]), np.array([0, 1, 1]))
    perfect |= {"auc": 1.0, "auc_error_bound": 0.0, "rows": 3, "weight": 3.0}
    perfect |= {"average_precision": 1.0, "average_precision_error_bound": 0.0}
    # One negative says nothing of how negatives scatter.
    perfect |= {"auc_low": None, "auc_high": None}
    # Wilson: n / (n + z^2) where all were right.
    low = found.pop("accuracy_low")
    assert low == pytest.approx(3 / (3 + 1.959963984540054**2))
    assert found == perfect


def test_sure_and_wrong_predictions_cost_a_finite_logloss():
    found = metrics_of("binary", np.array([1.0, 0.0]), np.array([0, 1]))
    assert found["logloss"] == pytest.approx(24 * math.log(2), rel=2 * EPS)
    assert found["brier"] == 1.0
    assert found["ece"] == 1.0
    assert found["auc"] == 0.0
    found = metrics_of("classes", np.eye(2)[[1, 0]], np.array([0, 1]))
    assert found["logloss"] == pytest.approx(24 * math.log(2), rel=2 * EPS)
    assert found["brier"] == 2.0


def test_undecided_predictions_go_to_the_first_class():
    y = np.array([0, 0, 0, 1])
    for found in (
        metrics_of("binary", np.full(4, 0.5), y),
        metrics_of("binary", np.zeros(4), y, probabilities=False),
        metrics_of("classes", np.full((4, 2), 0.5), y),
    ):
        assert found["accuracy"] == 0.75
        assert found["macro_f1"] == pytest.approx((6 / 7 + 0) / 2, rel=2 * EPS)
        assert found.get("auc", 0.5) == 0.5
        assert found.get("ece", 0.25) == 0.25


def test_calibration_bins_are_closed_above():
    # Powers of two times 15 are exact; 0 and the first edge's neighbours share bins as stated.
    edge = np.array([0.0, 1 / 15 - 1e-6, 1 / 15 + 1e-6, 2 / 15 - 1e-6])
    y = np.array([1, 0, 0, 0])
    # Bin 0: |edge0 + edge1 - 1|; bin 1: edge2 + edge3.
    expected = (abs(edge[0] + edge[1] - 1) + edge[2] + edge[3]) / 4
    assert metrics_of("binary", edge, y)["ece"] == pytest.approx(expected, rel=16 * EPS)
    # 0.2 * 15 is 3 in float64: the edge belongs to the bin below, with 0.15.
    found = metrics_of("binary", np.array([0.15, 0.2]), np.array([0, 1]))["ece"]
    assert found == pytest.approx(abs(0.15 + 0.2 - 1) / 2, rel=16 * EPS)


def test_macro_f1_leaves_out_classes_that_nobody_saw():
    found = metrics_of("classes", np.eye(5)[[0, 0, 3]], np.array([0, 3, 3]), n_classes=5)
    # Class 0: 2 * 1 / (2 + 1); class 3: 2 * 1 / (1 + 2); 1, 2 and 4 are nowhere.
    assert found["macro_f1"] == pytest.approx(2 / 3, rel=2 * EPS)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_has_no_auc_but_all_else(label):
    found = metrics_of("binary", np.array([0.25, 0.75]), np.full(2, label))
    assert found["auc"] is None
    assert found["auc_error_bound"] is None
    assert found["accuracy"] == 0.5
    # The class that is there: 2 * 1 / (1 + 2); the other is predicted once, wrongly.
    assert found["macro_f1"] == pytest.approx(1 / 3, rel=2 * EPS)
