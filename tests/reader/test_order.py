import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtrain.reader.order import OrderSettings, WindowPlan, epoch_windows, window_places

BLOCKS = [7, 3, 11, 5, 2, 13, 4]


@settings(deadline=None)
@given(
    block_rows=st.lists(st.integers(1, 50), min_size=1, max_size=60),
    window_blocks=st.integers(1, 70),
    seed=st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 1000),
    shuffle=st.booleans(),
)
def test_the_windows_of_an_epoch_hold_every_block_once(
    block_rows, window_blocks, seed, epoch, shuffle
):
    order = OrderSettings("f", seed, window_blocks, shuffle)
    windows = epoch_windows(order, block_rows, epoch)
    assert sorted(b for w in windows for b in w.blocks) == list(range(len(block_rows)))
    first = 0
    for number, window in enumerate(windows):
        assert (window.number, window.epoch, window.first_row) == (number, epoch, first)
        assert window.n_rows == sum(block_rows[b] for b in window.blocks)
        first += window.n_rows
    assert all(len(w.blocks) == window_blocks for w in windows[:-1])


@pytest.mark.parametrize("n_rows", [1, 2, 100])
def test_places_are_a_permutation_of_the_window(n_rows):
    out = np.full(n_rows + 5, -7, np.int32)
    window = WindowPlan(2, 3, 0, (0,), n_rows)
    places = window_places(OrderSettings("f", 1, 1), window, out)
    assert sorted(places.tolist()) == list(range(n_rows))
    assert (out[n_rows:] == -7).all()


def test_blocks_and_rows_change_with_seed_epoch_window_and_dataset():
    def rows(fingerprint="f", seed=1, epoch=0, number=0):
        plan = WindowPlan(epoch, number, 0, (0,), 50)
        order = OrderSettings(fingerprint, seed, 1)
        return tuple(window_places(order, plan, np.empty(50, np.int32)).tolist())

    def blocks(fingerprint="f", seed=1, epoch=0):
        windows = epoch_windows(OrderSettings(fingerprint, seed, 1), [1] * 50, epoch)
        return tuple(w.blocks[0] for w in windows)

    assert len({rows(), rows("g"), rows(seed=2), rows(epoch=1), rows(number=1)}) == 5
    assert len({blocks(), blocks("g"), blocks(seed=2), blocks(epoch=1)}) == 4
    assert rows(seed=1, epoch=1) != rows(seed=2, epoch=0)
    assert blocks(seed=1, epoch=1) != blocks(seed=2, epoch=0)
