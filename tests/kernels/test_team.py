"""A team of threads: results, errors, barriers, forks."""

import gc
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest

from streamtrain.kernels._jit import kernel
from streamtrain.kernels.team import OwnThread, Team, barrier, next_task, wait_for

TIMEOUT_S = 60


@kernel
def _rounds(thread, n_threads, words, counts, seen):
    """Count tasks over many phases; every phase must see the whole of the one before."""
    barrier(words, n_threads)
    n_rounds, n_tasks = counts.shape
    for r in range(n_rounds):
        while True:
            task = next_task(words, n_threads)
            if task >= n_tasks:
                break
            counts[r, task] += 1
        barrier(words, n_threads)
        total = 0
        for task in range(n_tasks):
            total += counts[r, task]
        seen[thread, r] = total
        barrier(words, n_threads)
    return thread


def rounds(team, n_rounds=300, n_tasks=7):
    counts = np.zeros((n_rounds, n_tasks), np.int64)
    seen = np.zeros((team.n_threads, n_rounds), np.int64)
    assert team.run(_rounds, counts, seen) == 0
    return counts, seen


def team_threads():
    return [t for t in threading.enumerate() if t.name.startswith("streamtrain-compute")]


def gone(seconds=10):
    deadline = time.monotonic() + seconds
    while team_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    return not team_threads()


@pytest.mark.parametrize("n_threads", [1, 2, 3, 5])
def test_every_task_of_every_phase_runs_once_and_phases_never_overlap(n_threads):
    with Team(n_threads) as team:
        for _ in range(3):
            counts, seen = rounds(team)
            assert (counts == 1).all()
            assert (seen == counts.shape[1]).all()


def test_teams_at_the_same_time_do_not_disturb_each_other():
    results = []

    def work():
        with Team(2) as team:
            results.append(rounds(team, n_rounds=200))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert len(results) == 4
    assert all((counts == 1).all() for counts, _ in results)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_one_team_may_be_called_from_several_threads(n_threads):
    results = []
    with Team(n_threads) as team:

        def work():
            results.extend(rounds(team, n_rounds=50) for _ in range(20))

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S)
    assert len(results) == 60
    assert all((counts == 1).all() and (seen == 7).all() for counts, seen in results)


def _fails_on(number):
    def work(thread, n_threads, words):
        if thread == number:
            raise ValueError(f"thread {thread}")
        return thread

    return work


@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_error_of_any_thread_arrives_and_the_team_works_on(number):
    with Team(3) as team:
        with pytest.raises(ValueError, match=f"thread {number}"):
            team.run(_fails_on(number))
        for _ in range(2):
            counts, _ = rounds(team)
            assert (counts == 1).all()


def test_an_error_on_every_thread_leaves_nothing_behind_for_the_next_run():
    def fails(thread, n_threads, words):
        raise ValueError(f"thread {thread}")

    with Team(3) as team:
        with pytest.raises(ValueError, match="thread"):
            team.run(fails)
        assert team.run(lambda thread, n_threads, words: thread) == 0


def test_a_run_ends_only_when_every_thread_has_ended():
    ended = []

    def work(thread, n_threads, words):
        if thread:
            time.sleep(0.05)
        ended.append(thread)

    with Team(3) as team:
        for n in range(1, 4):
            team.run(work)
            assert len(ended) == 3 * n


def test_closing_ends_the_threads_and_a_closed_team_starts_again():
    with Team(3) as team:
        rounds(team)
        assert len(team_threads()) == 2
    assert gone()
    counts, _ = rounds(team)
    assert (counts == 1).all()
    team.close()
    assert gone()


def test_a_team_that_is_let_go_takes_its_threads_with_it():
    team = Team(3)
    rounds(team)
    assert len(team_threads()) == 2
    del team
    gc.collect()
    assert gone()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_starts_threads_of_its_own():
    with Team(2) as team:
        rounds(team)
        pid = os.fork()
        if pid == 0:
            signal.alarm(TIMEOUT_S)
            try:
                counts, _ = rounds(team)
                os._exit(0 if (counts == 1).all() and len(team_threads()) == 1 else 1)
            except BaseException:  # noqa: BLE001 (a child must not run the suite on)
                os._exit(2)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        counts, _ = rounds(team)
        assert (counts == 1).all()


def test_waiting_threads_use_no_core():
    with Team(2) as team:
        rounds(team)
        before = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - before < 0.15


def test_a_close_waits_for_threads_that_an_interrupt_let_go():
    at_work = threading.Event()

    def work(thread, n_threads, words):
        if thread == 0:
            at_work.wait(TIMEOUT_S)
            raise KeyboardInterrupt
        at_work.set()
        time.sleep(0.3)

    team = Team(3)
    with pytest.raises(KeyboardInterrupt):
        team.run(work)
    assert len(team_threads()) == 2
    team.close()
    assert team_threads() == []
    assert rounds(team)[0].all()
    team.close()


def test_an_interrupted_close_can_be_done_again():
    team = Team(3)
    rounds(team)
    told = []

    class Jobs:
        def __init__(self, jobs):
            self.jobs = jobs

        def put(self, job):
            told.append(job)
            if len(told) == 1:
                raise KeyboardInterrupt
            self.jobs.put(job)

    team._work = [Jobs(jobs) for jobs in team._work]
    with pytest.raises(KeyboardInterrupt):
        team.close()
    team.close()
    assert team_threads() == []


def test_nobody_is_waited_for_where_that_could_wait_for_ever(monkeypatch):
    ends = threading.Event()
    endless = OwnThread(target=ends.wait, args=(TIMEOUT_S,))
    wait_for(endless)  # not started
    endless.start()
    ours = OwnThread(target=wait_for, args=(endless,))
    ours.start()
    ours.join(TIMEOUT_S / 2)
    assert not ours.is_alive()
    monkeypatch.setattr(sys, "is_finalizing", lambda: True)
    wait_for(endless)
    assert endless.is_alive()
    monkeypatch.undo()
    ends.set()
    wait_for(endless)
    assert not endless.is_alive()


def test_a_team_closed_by_a_thread_of_ours_is_let_go():
    team = Team(2)
    rounds(team)
    closing = OwnThread(target=team.close)
    with team._lock:  # as where that thread's own team runs
        closing.start()
        closing.join(TIMEOUT_S / 2)
        assert not closing.is_alive()
    team.close()
    assert team_threads() == []
