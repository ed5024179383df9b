"""The running average against float64 NumPy."""

import numpy as np
import pytest

from streamtrain.kernels.averaging import move_average
from streamtrain.kernels.team import Team

EPS = float(np.finfo(np.float32).eps)


@pytest.mark.parametrize("n", [0, 1, 65_536, 200_003])
def test_an_average_moves_by_its_share_with_any_number_of_threads(n):
    rng = np.random.default_rng(n)
    start, parameters = rng.normal(size=(2, n)).astype(np.float32)
    share = np.float32(0.3)
    expected = start.astype(np.float64) + share * (parameters - start.astype(np.float64))
    found = []
    for n_threads in (1, 2, 3):
        average = start.copy()
        with Team(n_threads) as team:
            team.run(move_average, average, parameters, share)
        found.append(average)
        assert average.tobytes() == found[0].tobytes()
    np.testing.assert_allclose(found[0], expected, rtol=4 * EPS, atol=EPS)


def test_the_first_snapshot_is_taken_as_it_is():
    parameters = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    average = np.zeros(1000, np.float32)
    move_average(0, 1, np.zeros(24, np.int64), average, parameters, np.float32(1.0))
    assert average.tobytes() == parameters.tobytes()
