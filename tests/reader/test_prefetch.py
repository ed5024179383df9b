import threading
import time

import pytest

from streamtrain.kernels.team import OwnThread
from streamtrain.reader.prefetch import prefetch
from tests.reader.reading import collect, reader_threads

TIMEOUT_S = 10


@pytest.mark.parametrize("depth", [0, 1, 3, 100])
def test_items_come_in_order(depth):
    assert list(prefetch(iter(range(50)), depth=depth)) == list(range(50))
    assert reader_threads() == []


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("n_before", [0, 1, 5])
def test_an_error_arrives_after_the_items_before_it(depth, n_before):
    def items():
        yield from range(n_before)
        raise ValueError("broken")

    found = []
    with pytest.raises(ValueError, match="broken"):
        collect(prefetch(items(), depth=depth), found)
    assert found == list(range(n_before))
    assert reader_threads() == []


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_items_are_made_while_one_is_in_use_and_at_most_depth_ahead(depth):
    made = []
    enough = threading.Event()

    def items():
        for i in range(20):
            made.append(i)
            if i == depth:
                enough.set()
            yield i

    ahead = prefetch(items(), depth=depth)
    assert next(ahead) == 0
    assert enough.wait(TIMEOUT_S), f"only {made} while item 0 is in use"
    time.sleep(0.05)
    assert made == list(range(depth + 1))
    ahead.close()


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_closing_stops_joins_and_closes_what_makes_the_items(depth):
    closed = threading.Event()

    def items():
        try:
            yield from range(1000)
        finally:
            closed.set()

    ahead = prefetch(items(), depth=depth)
    assert next(ahead) == 0
    ahead.close()
    assert closed.is_set()
    assert reader_threads() == []


def test_a_slow_maker_is_waited_for_when_closing():
    busy = threading.Event()

    def items():
        yield 0
        busy.set()
        time.sleep(0.2)
        yield 1

    ahead = prefetch(items(), depth=1)
    assert next(ahead) == 0
    assert busy.wait(TIMEOUT_S)
    ahead.close()
    assert reader_threads() == []


def test_a_thread_of_ours_that_collects_it_does_not_wait_for_it():
    ends = threading.Event()

    def items():
        yield 0
        ends.wait(10)

    made = prefetch(items(), depth=1)
    assert next(made) == 0
    collector = OwnThread(target=made.close)
    collector.start()
    collector.join(5)
    assert not collector.is_alive()
    ends.set()
    for thread in threading.enumerate():
        if thread.name == "streamtrain-prefetch":
            thread.join(10)
    assert reader_threads() == []


def test_an_interrupt_while_the_thread_starts_is_what_is_told(monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(OwnThread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(prefetch(iter([1]), depth=1))
