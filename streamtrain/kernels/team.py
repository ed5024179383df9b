"""A team of threads that run one kernel together and meet at barriers inside it.

Numba's own parallel regions cost 1.2 us each on two idle cores and 10 us when
a reader shares them; a barrier here costs 0.1 us and 0.3 us
(docs/decisions/0001-team.md). Every thread calls the same ``nogil`` kernel with
its number; work is taken from a shared counter, and because every task owns
what it writes, who takes it never shows in the result.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np

from streamtrain.kernels._jit import JIT_DISABLED, inline

# Words of the shared array, each on a cache line of its own.
_ARRIVED, _GENERATION, _TASK = 0, 8, 16
_N_WORDS = 24
# A waiting thread spins for about 10 us, then offers its core at every look.
_SPINS = 4000

if JIT_DISABLED:

    def _atomic_add(words, i, value):
        old = words[i]
        words[i] += value
        return old

    def _atomic_load(words, i):
        return words[i]

    def _atomic_store(words, i, value):
        words[i] = value

    def _yield_core():
        return 0

    def cycles():
        """Do as the compiled one does."""
        return time.perf_counter_ns()

else:
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic
    from numba.np.arrayobj import make_array

    def _pointer(context, builder, signature, args):
        array = make_array(signature.args[0])(context, builder, args[0])
        return builder.gep(array.data, [args[1]])

    @intrinsic
    def _atomic_add(typingctx, words, i, value):
        def codegen(context, builder, signature, args):
            pointer = _pointer(context, builder, signature, args)
            return builder.atomic_rmw("add", pointer, args[2], "seq_cst")

        return types.int64(words, types.intp, types.int64), codegen

    @intrinsic
    def _atomic_load(typingctx, words, i):
        def codegen(context, builder, signature, args):
            return builder.load_atomic(_pointer(context, builder, signature, args), "acquire", 8)

        return types.int64(words, types.intp), codegen

    @intrinsic
    def _atomic_store(typingctx, words, i, value):
        def codegen(context, builder, signature, args):
            pointer = _pointer(context, builder, signature, args)
            builder.store_atomic(args[2], pointer, "release", 8)
            return ir.Constant(ir.IntType(64), 0)

        return types.int64(words, types.intp, types.int64), codegen

    @intrinsic
    def cycles(typingctx):
        """Return the core's running count of cycles, int64: for shares of time alone."""

        def codegen(context, builder, signature, args):
            kind = ir.FunctionType(ir.IntType(64), [])
            counter = cgutils.get_or_insert_function(builder.module, kind, "llvm.readcyclecounter")
            return builder.call(counter, [])

        return types.int64(), codegen

    _yield_core = types.ExternalFunction("sched_yield", types.int32())


@inline
def next_task(words, n_threads):
    """Return the next number of the current phase's tasks, 0, 1, ..."""
    if n_threads == 1:
        task = words[_TASK]
        words[_TASK] = task + 1
        return task
    return _atomic_add(words, _TASK, 1)


@inline
def barrier(words, n_threads):
    """Wait for every thread of the team, and start a phase whose first task is 0.

    What any thread wrote before it is seen by all after it.
    """
    if n_threads == 1:
        words[_TASK] = 0
        return
    generation = _atomic_load(words, _GENERATION)
    if _atomic_add(words, _ARRIVED, 1) == n_threads - 1:
        _atomic_store(words, _ARRIVED, 0)
        _atomic_store(words, _TASK, 0)
        _atomic_store(words, _GENERATION, generation + 1)
        return
    spins = 0
    while _atomic_load(words, _GENERATION) == generation:
        spins += 1
        if spins > _SPINS:
            _yield_core()


class Team:
    """Run kernels on `n_threads` threads, the caller being one of them.

    Parameters
    ----------
    n_threads : int
        At least 1. With Numba's compiler disabled there is always one.
    work : str
        What the threads are named by.

    Notes
    -----
    The other threads start at the first run and wait between runs without
    using a core. A forked child starts its own. Runs from several threads take
    turns.
    """

    def __init__(self, n_threads: int, *, work: str = "compute") -> None:
        self.n_threads = 1 if JIT_DISABLED else max(1, n_threads)
        self._name = work
        self._words = np.zeros(_N_WORDS, np.int64)
        self._work: list[queue.SimpleQueue[Any]] = []
        self._threads: list[threading.Thread] = []
        self._done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._end = weakref.finalize(self, _end_threads, self._work)
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the other threads and wait for them; a later run starts others."""
        if _waits_for_none() or self._pid != os.getpid():
            self._let_go()
            return
        with self._lock:
            self._let_go()
            while self._threads:
                wait_for(self._threads[-1])
                self._threads.pop()

    def _let_go(self) -> None:
        """Let the other threads end when they have done what they are at."""
        work, self._work = self._work, []
        self._end.detach()
        try:
            _end_threads(work)
        except BaseException:
            # Interrupted: whoever is told twice has ended at the first time.
            _end_threads(work)
            raise

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call ``function(thread, n_threads, words, *args)`` on every thread.

        Returns
        -------
        What the call of thread 0 (the caller's) returned.
        """
        if self._pid != os.getpid():
            # A forked child has none of the threads, and a lock that one may have held.
            self._pid, self._lock = os.getpid(), threading.Lock()
            self._work, self._threads = [], []
            self._end.detach()
        with self._lock:
            return self._run(function, args)

    def _run(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        self._words[:] = 0
        if self.n_threads == 1:
            return function(0, 1, self._words, *args)
        try:
            if not self._work:
                self._start()
            work, done = self._work, self._done
            for jobs in work:
                jobs.put((function, args))
            result = function(0, self.n_threads, self._words, *args)
            errors = [done.get() for _ in work]
        except BaseException:
            # The others may still be at work, with these words, and will report late:
            # the next run must meet neither.
            self._let_go()
            self._words = np.zeros(_N_WORDS, np.int64)
            raise
        for error in errors:
            if error is not None:
                raise error
        return result

    def _start(self) -> None:
        self._done = queue.SimpleQueue()
        self._work = [queue.SimpleQueue() for _ in range(self.n_threads - 1)]
        self._end = weakref.finalize(self, _end_threads, self._work)
        for number, jobs in enumerate(self._work, start=1):
            thread = OwnThread(
                target=_serve,
                args=(number, self.n_threads, self._words, jobs, self._done),
                name=f"streamtrain-{self._name}-{number}",
            )
            # Those that were let go stay here until a close has waited for them.
            self._threads.append(thread)
            thread.start()


class OwnThread(threading.Thread):
    """A thread of this package, which ends with the process."""

    def __init__(self, **options: Any) -> None:
        super().__init__(daemon=True, **options)


def wait_for(thread: threading.Thread) -> bool:
    """Wait for the end of a thread that was told to end, where that can be waited for.

    Return whether it has ended.

    Not while the interpreter ends: its threads stand still. Not on a thread of our own,
    where the collector of garbage may have called: another may be waiting for that one.
    Not for one that an interrupt kept from starting.
    """
    if thread.ident is not None and not _waits_for_none():
        thread.join()
    return not thread.is_alive()


def _waits_for_none() -> bool:
    return sys.is_finalizing() or isinstance(threading.current_thread(), OwnThread)


def _end_threads(work: list[queue.SimpleQueue[Any]]) -> None:
    for jobs in work:
        jobs.put(None)


def _serve(
    number: int,
    n_threads: int,
    words: np.ndarray[Any, Any],
    work: queue.SimpleQueue[Any],
    done: queue.SimpleQueue[BaseException | None],
) -> None:
    while (job := work.get()) is not None:
        function, args = job
        error: BaseException | None = None
        try:
            function(number, n_threads, words, *args)
        except BaseException as caught:  # noqa: BLE001 (handed to the caller)
            error = caught
        del job, function, args
        done.put(error)
