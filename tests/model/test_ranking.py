"""The area under the ROC curve against all pairs, one by one."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtrain.model import ranking
from streamtrain.model.ranking import (
    BIN_BYTES,
    N_BINS,
    RankingArea,
    ordered_image,
    plan_ranking_bytes,
)

EPS = np.finfo(np.float64).eps


def area_of(score, positive, weight=None, **options):
    area = RankingArea(**options)
    feed(area, score, positive, weight)
    return area


def feed(area, score, positive, weight=None):
    weight = np.ones(len(score)) if weight is None else weight
    area.update(
        np.asarray(score, np.float32), np.asarray(positive, bool), np.asarray(weight, np.float32)
    )


def area_by_pairs(score, positive, weight=None):
    score, positive = np.asarray(score, np.float32), np.asarray(positive, bool)
    weight = np.ones(len(score)) if weight is None else np.asarray(weight, np.float32)
    weight = weight.astype(np.float64)
    ahead, behind = score[positive, None], score[None, ~positive]
    won = (ahead > behind) + 0.5 * (ahead == behind)
    pairs = weight[positive, None] * weight[None, ~positive]
    return (won * pairs).sum() / pairs.sum()


def tolerance(n_rows):
    # Sums of n positive terms round by at most n eps; one each for P, N, the
    # negatives below and the pairs, here and in the oracle.
    return 8 * n_rows * EPS


def tied_rows(n_rows, *, seed=0, levels=10):
    rng = np.random.default_rng(seed)
    score = (rng.integers(0, levels, n_rows) / levels).astype(np.float32)
    return score, rng.random(n_rows) < 0.2 + 0.6 * score, rng.random(n_rows).astype(np.float32)


ROWS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1e-30, 0.25, 0.5, 0.5001, 0.500101, 0.75, 1.0]),
        st.booleans(),
        st.sampled_from([0.0, 0.1, 1.0, 3.7, 1e6]),
    ),
    max_size=40,
)


def columns(rows):
    table = np.array(rows, np.float64).reshape(-1, 3)
    return table[:, 0], table[:, 1] > 0, table[:, 2]


def test_images_sort_as_their_scores_do():
    score = np.array(
        [-3.4e38, -2.0, -1.0, -1e-30, -1e-45, -0.0, 0.0, 1e-45, 1e-30, 0.5, 1.0, 3.4e38],
        np.float32,
    )
    image = ordered_image(score).astype(np.int64)
    assert np.array_equal(np.sign(np.diff(image)), np.sign(np.diff(score)))
    assert image.min() > 0


def test_the_two_zeros_are_a_tie():
    assert area_of([-0.0, 0.0], [True, False]).result() == (0.5, 0.0)


def test_a_perfect_ranking_is_one_and_its_reverse_zero():
    score, positive = np.linspace(0, 1, 101), np.arange(101) >= 40
    for weight in np.random.default_rng(3).random((50, 101)):
        area, bound = area_of(score, positive, weight).result()
        # Rounded weights may lose a little, but never gain.
        assert 1.0 - tolerance(101) <= area <= 1.0
        assert bound == 0.0
        assert area_of(score, ~positive, weight).result() == (0.0, 0.0)


@pytest.mark.parametrize("n_rows", [2, 7, 300])
def test_the_exact_area_is_the_share_of_ordered_pairs(n_rows):
    score, positive, weight = tied_rows(n_rows, seed=4)
    positive[:2] = [True, False]
    area, bound = area_of(score, positive).result()
    assert abs(area - area_by_pairs(score, positive)) <= EPS
    assert bound == 0.0
    area, bound = area_of(score, positive, weight).result()
    assert abs(area - area_by_pairs(score, positive, weight)) <= tolerance(n_rows)
    assert bound == 0.0


@pytest.mark.parametrize("max_rows", [0, 1000])
@pytest.mark.parametrize("chunk_rows", [1, 3, 64])
def test_ties_go_on_from_chunk_to_chunk(monkeypatch, max_rows, chunk_rows):
    score, positive, weight = tied_rows(200, levels=3)
    monkeypatch.setattr(ranking, "_CHUNK_ROWS", chunk_rows if max_rows else 1 << 16)
    area, bound = area_of(score, positive, weight, max_rows=max_rows).result()
    assert abs(area - area_by_pairs(score, positive, weight)) <= tolerance(200)
    assert bound == 0.0


def test_an_area_of_many_chunks_counts_every_pair():
    # Score = row modulo 1000: positives win over the negatives of smaller residues.
    row = np.arange(3 * ranking._CHUNK_ROWS + 5)
    residue, positive = row % 1000, row % 7 == 0
    n_positive = np.bincount(residue, positive, 1000)
    n_negative = np.bincount(residue, ~positive, 1000)
    below = np.cumsum(n_negative) - n_negative / 2
    expected = (n_positive * below).sum() / (n_positive.sum() * n_negative.sum())
    assert area_of(residue / 1000, positive).result() == (expected, 0.0)


def test_rows_are_exact_up_to_the_bound_and_folded_beyond_it():
    # 0.5 and the next float share a bin.
    close = np.array([0.5, np.nextafter(np.float32(0.5), np.float32(1))], np.float32)
    assert area_of(close, [False, True], max_rows=2).result() == (1.0, 0.0)
    assert area_of(close, [False, True], max_rows=1).result() == (0.5, 0.5)


@pytest.mark.parametrize("probabilities", [True, False])
def test_the_histogram_errs_by_no_more_than_its_bound(probabilities):
    rng = np.random.default_rng(5)
    # All scores in 40 bins, so that most pairs share one.
    score = np.float32(0.5) + rng.random(500).astype(np.float32) / np.float32(400)
    positive, weight = rng.random(500) < 0.3, rng.random(500)
    area, bound = area_of(score, positive, weight, max_rows=0, probabilities=probabilities).result()
    error = abs(area - area_by_pairs(score, positive, weight))
    assert 0 < error <= bound + tolerance(500)
    width = 2.0**-14 if probabilities else 2.0**-12
    bins = np.floor((score - 0.5) / width).astype(int)
    weight = weight.astype(np.float32).astype(np.float64)
    p, n = np.bincount(bins, weight * positive), np.bincount(bins, weight * ~positive)
    expected = 0.5 * (p * n).sum() / (p.sum() * n.sum())
    assert abs(bound - expected) <= tolerance(500) * expected


def test_a_histogram_of_few_scores_knows_that_it_is_exact():
    score, positive, weight = tied_rows(300, seed=6)
    area, bound = area_of(score, positive, weight, max_rows=10).result()
    assert bound == 0.0
    assert abs(area - area_by_pairs(score, positive, weight)) <= tolerance(300)


def test_margins_of_any_sign_and_size_find_their_bins():
    score = np.array([-3e38, -1e20, -5.0, -1e-45, 0.0, 1e-45, 7.0, 1e20, 3e38], np.float32)
    positive = np.arange(9) % 2 == 1
    folded = area_of(score, positive, max_rows=0, probabilities=False)
    # The least denormal shares the bin of zero, the negative one does not.
    area, bound = folded.result()
    assert abs(area - area_by_pairs(score, positive)) <= bound + tolerance(9)
    assert bound == 0.5 / 20


@settings(deadline=None, max_examples=50)
@given(rows=ROWS, data=st.data(), max_rows=st.sampled_from([0, 5, 1000]))
def test_cuts_into_batches_do_not_change_a_bit(rows, data, max_rows):
    score, positive, weight = columns(rows)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=6)))
    pieces = RankingArea(max_rows=max_rows)
    for begin, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        feed(pieces, score[begin:end], positive[begin:end], weight[begin:end])
    assert pieces.result() == area_of(score, positive, weight, max_rows=max_rows).result()


@settings(deadline=None, max_examples=50)
@given(first=ROWS, second=ROWS, max_rows=st.sampled_from([0, 5, 30, 1000]))
def test_merged_areas_are_the_area_of_all_rows(first, second, max_rows):
    merged = area_of(*columns(first), max_rows=max_rows)
    other = area_of(*columns(second), max_rows=max_rows)
    before = other.result()
    merged.merge(other)
    assert other.result() == before
    found, bound = merged.result()
    expected, expected_bound = area_of(*columns(first + second), max_rows=max_rows).result()
    if expected is None:
        assert (found, bound) == (None, None)
    else:
        assert abs(found - expected) <= tolerance(len(first + second))
        assert abs(bound - expected_bound) <= tolerance(len(first + second))


def test_a_merged_histogram_remembers_which_scores_it_met():
    # 0.5 and the next float share a bin.
    met, new = np.float32(0.5), np.nextafter(np.float32(0.5), np.float32(1))
    area = RankingArea(max_rows=0)
    area.merge(area_of([met], [True], max_rows=0))
    feed(area, [new], [False])
    assert area.result() == (0.5, 0.5)


@pytest.mark.parametrize("max_rows", [4, 6, 20])
def test_an_area_merged_with_itself_stays_what_it_is(max_rows):
    score, positive = [0.1, 0.4, 0.4, 0.5, 0.9], [False, False, True, True, False]
    area = area_of(score, positive, max_rows=max_rows)
    before = area.result()
    area.merge(area)
    assert area.result() == before


@pytest.mark.parametrize("max_rows", [0, 10])
def test_without_both_classes_there_is_no_area(max_rows):
    assert RankingArea(max_rows=max_rows).result() == (None, None)
    assert area_of([0.1, 0.2], [True, True], max_rows=max_rows).result() == (None, None)
    assert area_of([0.1, 0.2], [False, False], max_rows=max_rows).result() == (None, None)
    weightless = area_of([0.1, 0.2], [True, False], [1.0, 0.0], max_rows=max_rows)
    assert weightless.result() == (None, None)


@pytest.mark.parametrize("max_rows", [0, 10])
@pytest.mark.parametrize("weight", [3.4e38, 1e-45])
def test_extreme_weights_neither_overflow_nor_vanish(max_rows, weight):
    score, positive = [0.1, 0.4, 0.5, 0.9], [False, True, False, True]
    assert area_of(score, positive, [weight] * 4, max_rows=max_rows).result() == (0.75, 0.0)


def test_rows_of_weight_zero_take_no_memory():
    area = area_of([0.5, 0.2, 0.7], [True, False, True], [1.0, 1.0, 0.0], max_rows=2)
    assert area._mass is None
    assert area.result() == (1.0, 0.0)


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="max_rows"):
        RankingArea(max_rows=-1)
    with pytest.raises(ValueError, match="max_rows"):
        RankingArea(max_rows=1 << 32)
    with pytest.raises(ValueError, match="different settings"):
        RankingArea(max_rows=3).merge(RankingArea(max_rows=4))
    with pytest.raises(ValueError, match="different settings"):
        RankingArea(probabilities=True).merge(RankingArea(probabilities=False))


# Sorting is the peak of the longer one.
@pytest.mark.parametrize(("max_rows", "n_rows"), [(0, 300_000), (4_000_000, 4_000_000)])
def test_the_peak_of_memory_is_within_the_plan(max_rows, n_rows):
    score, positive, weight = tied_rows(n_rows, levels=100_000)
    tracemalloc.start()
    try:
        area = area_of(score, positive, weight, max_rows=max_rows)
        area.result()
        # Beyond the bound in any case: fold.
        area.merge(area)
        area.result()
        folded, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= plan_ranking_bytes(max_rows)
    # The rows are let go; a few objects of Python's remain.
    assert folded <= BIN_BYTES * N_BINS + 10_000
