"""Items made ahead of their use by one thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

from streamtrain.kernels.team import OwnThread, wait_for

T = TypeVar("T")


class _End:
    """The end of the items, with what ended them."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def prefetch(items: Iterator[T], *, depth: int) -> Generator[T, None, None]:
    """Yield `items` in order, made by one thread at most `depth` ahead.

    Items carry their own cursor: a checkpoint records what was consumed, never
    what was merely fetched. Whatever `items` raises arrives after the items
    that preceded it. Closing the generator stops and joins the thread, and
    closes `items`. A depth of 0 makes each item when it is asked for.
    """
    if depth == 0:
        yield from items
        return
    ready: queue.Queue[T | _End] = queue.Queue()
    space = threading.Semaphore(depth)
    stop = threading.Event()

    def make() -> None:
        error: BaseException | None = None
        try:
            while True:
                space.acquire()
                if stop.is_set():
                    break
                try:
                    item = next(items)
                except StopIteration:
                    break
                ready.put(item)
        except BaseException as caught:  # noqa: BLE001 (handed to the consumer)
            error = caught
        ready.put(_End(error))

    thread = OwnThread(target=make, name="streamtrain-prefetch")
    try:
        thread.start()
        while True:
            item = ready.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            # The next item is made while this one is in use.
            space.release()
            yield item
    finally:
        stop.set()
        space.release()
        close = getattr(items, "close", None)
        if wait_for(thread) and close is not None:
            close()
