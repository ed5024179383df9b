"""The order of rows as it was first fixed: runs on disk depend on it. Never change these."""

import numpy as np

from streamtrain.reader.order import OrderSettings, epoch_windows, window_places
from streamtrain.seeds import derive_key


def test_golden_keys():
    assert derive_key("window", 7, 0) == 8027026642654180955
    assert derive_key("rows", 0, 3, 2, "fingerprint") == 17211467363770549093


def test_golden_windows():
    order = OrderSettings("fingerprint", 7, 3)
    windows = [epoch_windows(order, [4, 1, 3, 2, 5, 6, 2], epoch) for epoch in (0, 1)]
    assert [w.blocks for w in windows[0]] == [(1, 5, 4), (2, 3, 0), (6,)]
    assert [w.blocks for w in windows[1]] == [(2, 0, 4), (1, 6, 3), (5,)]
    assert [w.first_row for w in windows[0]] == [0, 12, 21]


def test_golden_rows():
    order = OrderSettings("fingerprint", 7, 3)
    window = epoch_windows(order, [4, 1, 3, 2, 5, 6, 2], 1)[1]
    places = window_places(order, window, np.empty(window.n_rows, np.int32))
    assert places.tolist() == [1, 2, 3, 0, 4]
