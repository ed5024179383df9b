"""Deviances, quantiles, ranks and intervals against plain formulas and published values."""

import math

import numpy as np
import pytest

from streamtrain.model import ranking
from streamtrain.model.class_metrics import wilson_interval
from streamtrain.model.metrics import MetricSet
from streamtrain.model.ranking import RankingArea
from streamtrain.model.value_metrics import MEAN_FLOOR, ValueMeasures, unit_deviance

EPS = float(np.finfo(np.float64).eps)
POWERS = (1.0, 1.2, 1.5, 1.9, 2.0)


def made_rows(n_rows, power, *, seed=0):
    """Return (mean, target, weight, exposure)."""
    rng = np.random.default_rng(seed)
    mean = rng.uniform(0.2, 6.0, n_rows)
    target = rng.poisson(mean) * rng.uniform(0.5, 2.0, n_rows)
    if power == 2:
        target = rng.gamma(2.0, mean / 2)
    weight = rng.uniform(0.1, 3.0, n_rows).astype(np.float32)
    return mean, target.astype(np.float32), weight, rng.uniform(0.1, 9.0, n_rows)


def deviance_of(y, mean, power):
    """Integrate 2 (y - m) / m^p from the mean to y: what a deviance is."""
    steps = mean + (y - mean) * (np.arange(20_000) + 0.5)[:, None] / 20_000
    return 2 * ((y - steps) / steps**power * (y - mean) / 20_000).sum(axis=0)


@pytest.mark.parametrize("power", POWERS)
def test_a_deviance_is_the_integral_of_its_variance(power):
    y, mean = np.array([0.5, 2.0, 7.0, 3.0]), np.array([1.5, 0.25, 7.0, 2.9])
    np.testing.assert_allclose(
        unit_deviance(y, mean, power), deviance_of(y, mean, power), rtol=1e-6
    )


@pytest.mark.parametrize("power", POWERS[:-1])
def test_no_events_cost_what_was_expected(power):
    p, mean = power, np.array([0.25, 3.0])
    expected = 2 * mean ** (2 - p) / (2 - p)
    np.testing.assert_allclose(unit_deviance(np.zeros(2), mean, power), expected)


def test_a_deviance_is_never_below_zero():
    y = np.random.default_rng(1).uniform(1e-3, 1e6, 10_000)
    for power in POWERS:
        assert (unit_deviance(y, y, power) >= 0).all()
        assert (unit_deviance(y, y, power) <= 1e-8 * y).all()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("exposed", [False, True])
@pytest.mark.parametrize("power", POWERS)
def test_deviance_and_explained_deviance_match_the_oracle(power, exposed, weighted):
    mean, y, w, e = made_rows(20_000, power)
    metrics = MetricSet("regression", measures=ValueMeasures(power=power))
    # In pieces, one of them merged.
    other = MetricSet("regression", measures=ValueMeasures(power=power))
    for part in (slice(0, 7), slice(7, 9000), slice(9000, None)):
        taker = other if part.start == 7 else metrics
        taker.update(
            mean[part], y[part], w[part] if weighted else None, e[part] if exposed else None
        )
    metrics.merge(other)
    found = metrics.result()
    y, w = y.astype(np.float64), w.astype(np.float64) if weighted else np.ones(len(y))
    e = e if exposed else np.ones(len(y))
    deviance = (w * unit_deviance(y, mean, power)).sum() / w.sum()
    # The constant rate of least deviance, by looking around the one of the formula.
    best = (w * y * e ** (1 - power)).sum() / (w * e ** (2 - power)).sum()
    nulls = [
        (w * unit_deviance(y, r * e, power)).sum() / w.sum()
        for r in (best, 0.99 * best, 1.01 * best)
    ]
    assert nulls[0] == min(nulls)
    assert found["deviance"] == pytest.approx(deviance, rel=1e-12)
    assert found["d2"] == pytest.approx(1 - deviance / nulls[0], rel=1e-10)
    assert 0 < found["d2"] < 1 or exposed


@pytest.mark.parametrize("power", POWERS)
def test_without_spread_no_deviance_is_explained(power):
    e = np.random.default_rng(2).uniform(0.1, 9.0, 5000)
    metrics = MetricSet("regression", measures=ValueMeasures(power=power))
    metrics.update(e * 0.4, 0.3 * e, None, e)
    assert metrics.result()["d2"] is None
    assert metrics.result()["deviance"] > 0


def test_counts_of_nothing_have_a_deviance_and_nothing_to_explain():
    metrics = MetricSet("regression", measures=ValueMeasures(power=1.0))
    metrics.update(np.full(5, 0.5), np.zeros(5))
    assert metrics.result()["deviance"] == 1.0
    assert metrics.result()["d2"] is None


@pytest.mark.parametrize("power", POWERS)
def test_a_mean_that_vanished_costs_a_finite_deviance(power):
    metrics = MetricSet("regression", measures=ValueMeasures(power=power))
    metrics.update(np.array([0.0, 1e-300]), np.array([2.0, 3.0]))
    y, floor = np.array([2.0, 3.0]), np.full(2, MEAN_FLOOR)
    assert metrics.result()["deviance"] == pytest.approx(unit_deviance(y, floor, power).mean())


@pytest.mark.parametrize(
    ("target", "exposure", "power", "says"),
    [
        ([1, -1], None, 1.0, "target"),
        ([1, 0], None, 2.0, "target"),
        ([1, 1], [1, 0], 1.5, "exposure"),
        ([1, 1], [1, np.nan], 1.5, "exposure"),
        ([1, 1], [1], 1.5, "does not fit"),
    ],
)
def test_what_has_no_deviance_is_refused(target, exposure, power, says):
    metrics = MetricSet("regression", measures=ValueMeasures(power=power))
    with pytest.raises(ValueError, match=says):
        metrics.update(
            np.ones(2), np.array(target), None, None if exposure is None else np.array(exposure)
        )
    assert metrics.result()["rows"] == 0


def test_pinball_loss_and_coverage_match_the_oracle():
    rng = np.random.default_rng(3)
    s, y, w = rng.normal(size=(3, 1000))
    y[:100] = s[:100]
    w = np.abs(w).astype(np.float32)
    metrics = MetricSet("regression", measures=ValueMeasures(quantile=0.8))
    metrics.update(s, y, w)
    found = metrics.result()
    w = w.astype(np.float64)
    losses = np.where(y > s, 0.8 * (y - s), 0.2 * (s - y))
    assert found["pinball"] == pytest.approx((w * losses).sum() / w.sum())
    assert found["coverage"] == pytest.approx((w * (y <= s)).sum() / w.sum())
    assert "deviance" not in found


def test_the_interval_of_a_share_is_that_of_the_literature():
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I.
    for hits, n_rows, low, high in (
        (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):  # fmt: skip
        found = wilson_interval(hits / n_rows, n_rows)
        assert found == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_the_true_class_among_the_five_likeliest():
    p = np.array([[0.3, 0.2, 0.2, 0.1, 0.1, 0.1]] * 3)
    for target, hit in ((0, 1.0), (4, 1.0), (5, 0.0)):
        metrics = MetricSet("classes", n_classes=6)
        metrics.update(p[:1], np.array([target]))
        assert metrics.result()["top_5_accuracy"] == hit
    metrics = MetricSet("classes", n_classes=5)
    metrics.update(p[:1, :5] / p[0, :5].sum(), np.array([4]))
    assert "top_5_accuracy" not in metrics.result()


def precision_by_rows(score, positive, weight):
    total = 0.0
    for s, w in zip(score[positive], weight[positive], strict=True):
        taken = score >= s
        total += w * weight[taken & positive].sum() / weight[taken].sum()
    return total / weight[positive].sum()


def feed(area, score, positive, weight):
    area.update(score.astype(np.float32), positive, weight.astype(np.float32))


@pytest.mark.parametrize("chunk_rows", [1, 3, 1 << 16])
def test_average_precision_is_the_mean_precision_at_the_positives(monkeypatch, chunk_rows):
    monkeypatch.setattr(ranking, "_CHUNK_ROWS", chunk_rows)
    rng = np.random.default_rng(4)
    score = rng.integers(0, 20, 300) / np.float32(20)
    positive, weight = rng.random(300) < score, rng.random(300).astype(np.float32).astype(float)
    area = RankingArea()
    feed(area, score, positive, weight)
    found = area.measures()
    expected = precision_by_rows(score, positive, weight)
    assert found["average_precision"] == pytest.approx(expected, abs=2400 * EPS)
    assert found["average_precision_error_bound"] == 0.0


def test_the_average_precision_of_positives_at_ranks_1_3_and_6():
    area = RankingArea()
    feed(area, np.linspace(1, 0, 10), np.isin(np.arange(10), [0, 2, 5]), np.ones(10))
    assert area.measures()["average_precision"] == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)


@pytest.mark.parametrize("spread", [1 / 400, 1 / 40, 1 / 4])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
@pytest.mark.parametrize("order", ["random", "best", "worst"])
def test_folded_areas_err_by_no_more_than_their_bounds(spread, share, order):
    rng = np.random.default_rng(5)
    score = (np.float32(0.5) + rng.random(800) * spread).astype(np.float32)
    positive, weight = rng.random(800) < share, rng.random(800).astype(np.float32).astype(float)
    if order != "random":
        # All positives first or last.
        score = np.sort(score)[:: 1 if order == "best" else -1]
        score = score[np.argsort(np.argsort(positive, kind="stable"))]
    folded, exact = RankingArea(max_rows=0), RankingArea()
    for area in (folded, exact):
        feed(area, score, positive, weight)
    found, true = folded.measures(), exact.measures()
    for name in ("auc", "average_precision"):
        error = abs(found[name] - true[name])
        assert error <= found[f"{name}_error_bound"] + 6400 * EPS
        assert found[f"{name}_error_bound"] < (0.2 if spread > 1 / 400 else 1.01)
    if order == "random":
        assert found["average_precision_error_bound"] > 0
    assert found["auc_low"] <= true["auc_low"] + 0.01
    assert found["auc_high"] >= true["auc_high"] - 0.01


def test_a_bin_of_positives_alone_may_still_hide_an_order():
    # Below a negative: the first of two positives has a lower precision than the second.
    close = np.array([0.5, np.nextafter(np.float32(0.5), np.float32(1)), 0.9], np.float32)
    area = RankingArea(max_rows=0)
    feed(area, close, np.array([True, True, False]), np.ones(3))
    found = area.measures()
    assert found["average_precision"] == pytest.approx(2 / 3)
    true = (1 / 2 + 2 / 3) / 2
    assert found["average_precision_error_bound"] >= 2 / 3 - true
    assert found["auc_error_bound"] == 0.0


def test_the_interval_of_the_area_counts_ties_one_half():
    rng = np.random.default_rng(7)
    score, positive = rng.integers(0, 4, 120) / np.float32(4), rng.random(120) < 0.4
    area = RankingArea()
    feed(area, score, positive, np.ones(120))
    found = area.measures()
    ahead, behind = score[positive], score[~positive]
    won = (ahead[:, None] > behind) + 0.5 * (ahead[:, None] == behind)
    variance = won.mean(axis=1).var(ddof=1) / len(ahead) + won.mean(axis=0).var(ddof=1) / len(
        behind
    )
    half = 1.959963984540054 * math.sqrt(variance)
    assert found["auc_low"] == pytest.approx(won.mean() - half)
    assert found["auc_high"] == pytest.approx(won.mean() + half)


def test_intervals_of_the_area_hold_the_true_one_about_as_often_as_they_say():
    # Scores of positives are shifted by 1: the true area is Phi(1 / sqrt 2).
    rng, true, held = np.random.default_rng(6), 0.5 * (1 + math.erf(0.5)), 0
    for _ in range(400):
        positive = rng.random(300) < 0.3
        area = RankingArea(probabilities=False)
        feed(area, rng.normal(size=300) + positive, positive, np.ones(300))
        found = area.measures()
        held += found["auc_low"] <= true <= found["auc_high"]
    # 380 are expected; a binomial share of 400 strays by 2 % with 99 %.
    assert 0.92 <= held / 400 <= 0.98
