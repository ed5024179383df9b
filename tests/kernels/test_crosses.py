import numpy as np
import pytest

from streamtrain.errors import ConfigError
from streamtrain.library import open_dataset
from streamtrain.model.architecture import plan_architecture
from streamtrain.model.crosses import Cross, Crosser, plan_crosses
from tests.made import make_dataset

CODES = np.array([[0, 0, 1], [1, 3, 0], [2, 4, 1], [2, 3, 1], [1, 3, 0]], np.int32)
SIZES = (3, 5, 2)


def crossed(*crosses):
    return Crosser(tuple(crosses), SIZES)(CODES)


def test_codes_of_the_columns_stay_as_they_are():
    assert (crossed(Cross((0, 1), 15))[:, :3] == CODES).all()


def test_every_combination_that_fits_has_a_code_of_its_own():
    every = np.array([[a, b, c] for a in range(3) for b in range(5) for c in range(2)], np.int32)
    found = Crosser((Cross((2, 0, 1), 30),), SIZES)(every)[:, 3]
    assert sorted(found) == list(range(30))
    # The last named column runs fastest.
    assert (found == every[:, 2] * 15 + every[:, 0] * 5 + every[:, 1]).all()


def test_hashed_combinations_are_the_same_for_the_same_codes_and_within_the_size():
    wide = np.random.default_rng(0).integers(0, 1000, (5000, 2)).astype(np.int32)
    found = Crosser((Cross((0, 1), 97),), (1000, 1000))(wide)[:, 2]
    assert found.min() >= 0
    assert found.max() < 97
    again = Crosser((Cross((0, 1), 97),), (1000, 1000))(wide[::-1].copy())[::-1, 2]
    assert (found == again).all()
    # All buckets are used about alike: 5,000 rows in 97 of them.
    counts = np.bincount(found, minlength=97)
    assert counts.min() > 20
    assert counts.max() < 100


def test_a_hash_tells_the_columns_apart():
    wide = np.array([[1, 2], [2, 1]], np.int32)
    found = Crosser((Cross((0, 1), 1 << 20),), (5000, 5000))(wide)[:, 2]
    assert found[0] != found[1]


def test_fewer_rows_use_the_same_memory():
    crosser = Crosser((Cross((0, 1), 15),), SIZES)
    first = crosser(CODES)
    assert np.shares_memory(first, crosser(CODES[:2]))


@pytest.mark.parametrize(
    ("cross", "words"),
    [
        (("c0", "c9"), "no column 'c9'"),
        (("c0",), "2 to 8 different columns"),
        (("c0", "c0"), "2 to 8 different columns"),
        (("c0", "n1"), "column 'n1' is numeric"),
    ],
)
def test_crosses_that_cannot_be_made_are_refused(tmp_path, cross, words):
    schema = open_dataset(make_dataset(tmp_path / "d")).schema
    with pytest.raises(ConfigError, match=words) as caught:
        plan_crosses(schema, (cross,), max_size=100)
    assert caught.value.where == "--cross"


def test_an_architecture_has_a_table_for_every_cross(tmp_path):
    schema = open_dataset(make_dataset(tmp_path / "d")).schema
    planned = plan_architecture(
        schema, model="linear", loss=None, crosses=(("c0", "c1"),), cross_size=150
    )
    assert planned.field_sizes == (5, 40, 150)
