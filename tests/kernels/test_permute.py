"""Keyed permutations: golden values, and that they are uniform."""

from itertools import permutations

import numpy as np
import pytest

from streamtrain.kernels.permute import permute
from streamtrain.seeds import derive_key

MASK = (1 << 64) - 1


def permuted(key, n, dtype=np.int64):
    out = np.full(n, -1, dtype)
    permute(np.uint64(key), out)
    return out


def oracle(key, n):
    """Fisher-Yates with SplitMix64 and Lemire's bounded integers, in Python's own integers."""
    out = list(range(n))
    state = key
    for i in range(n - 1, 0, -1):
        bound = i + 1
        floor = (2**32 - bound) % bound
        while True:
            state = (state + 0x9E3779B97F4A7C15) & MASK
            z = state
            z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
            z ^= z >> 31
            product = (z >> 32) * bound
            if product & 0xFFFFFFFF >= floor:
                break
        j = product >> 32
        out[i], out[j] = out[j], out[i]
    return out


@pytest.mark.parametrize("n", [0, 1, 2, 3, 10, 257, 5000])
@pytest.mark.parametrize("key", [0, 1, 2**63, MASK, 0x123456789ABCDEF])
def test_a_permutation_follows_its_definition(key, n):
    assert permuted(key, n).tolist() == oracle(key, n)


def test_a_word_that_would_be_uneven_is_drawn_again():
    # The first key whose permutation of 3,000 meets one: it happens once in a million words.
    assert permuted(447, 3000).tolist() == oracle(447, 3000)


def test_golden_permutations():
    # Worked out by `oracle` above; a run on disk depends on them: never change them.
    assert permuted(0, 10).tolist() == GOLDEN_0
    assert permuted(derive_key("rows", 7, 0), 10, np.int32).tolist() == GOLDEN_7


GOLDEN_0 = [4, 9, 2, 5, 1, 7, 6, 0, 3, 8]
GOLDEN_7 = [0, 2, 3, 7, 5, 9, 6, 4, 1, 8]


def test_both_widths_of_integers_get_the_same_permutation():
    assert permuted(99, 1000, np.int32).tolist() == permuted(99, 1000).tolist()


@pytest.mark.parametrize("n", [3, 4])
def test_every_order_of_a_few_items_is_equally_likely(n):
    orders = dict.fromkeys(permutations(range(n)), 0)
    n_keys = 600 * len(orders)
    for key in range(n_keys):
        orders[tuple(permuted(derive_key("uniform", key), n).tolist())] += 1
    # Chi square of k - 1 degrees of freedom: mean k - 1, variance 2 (k - 1); five sigma.
    expected = n_keys / len(orders)
    chi_square = sum((count - expected) ** 2 / expected for count in orders.values())
    free = len(orders) - 1
    assert abs(chi_square - free) < 5 * np.sqrt(2 * free)


def test_every_place_is_equally_likely_for_every_item():
    n, n_keys = 50, 4000
    counts = np.zeros((n, n))
    for key in range(n_keys):
        counts[np.arange(n), permuted(derive_key("places", key), n)] += 1
    expected = n_keys / n
    chi_square = ((counts - expected) ** 2 / expected).sum()
    free = (n - 1) ** 2
    assert abs(chi_square - free) < 5 * np.sqrt(2 * free)


def test_a_permutation_of_many_has_as_many_fixed_points_as_chance_leaves():
    fixed = [(permuted(key, 1000) == np.arange(1000)).sum() for key in range(2000)]
    # Poisson of mean 1.
    assert np.mean(fixed) == pytest.approx(1.0, abs=5 / np.sqrt(2000))
