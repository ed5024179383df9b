"""A running average of all parameters."""

from __future__ import annotations

from streamtrain.kernels._jit import fast_kernel
from streamtrain.kernels.team import barrier, next_task

_PER_TASK = 1 << 16


@fast_kernel
def move_average(thread, n_threads, words, average, parameters, share):
    """Move an average towards the parameters: average += share (parameters - average).

    Parameters
    ----------
    thread, n_threads, words
        Of the team; every thread makes this call.
    average : (P,) float32, updated
    parameters : (P,) float32, read
    share : float32
    """
    n = average.shape[0]
    barrier(words, n_threads)
    while True:
        begin = next_task(words, n_threads) * _PER_TASK
        if begin >= n:
            break
        end = min(begin + _PER_TASK, n)
        to, source = average[begin:end], parameters[begin:end]
        for k in range(end - begin):
            to[k] += share * (source[k] - to[k])
