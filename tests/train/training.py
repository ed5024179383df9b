"""Runs of training, stopped where a test says."""

from __future__ import annotations

import pytest

from streamtrain import library
from streamtrain.errors import StoppedError
from streamtrain.train import loop

SETTINGS = {"batch_size": 16, "epochs": 2, "seed": 3, "window_blocks": 3, "threads": 1}


def events_of(dataset, out, **options):
    options = {**SETTINGS, "memory": "2GB", **options}
    return list(library.train(dataset, out=out, **options))


def done(dataset, out, **options):
    """Train to the end and return the last event."""
    last = events_of(dataset, out, **options)[-1]
    assert last["event"] == "done"
    return last


class StopAt:
    """Says stop once, at its n-th look."""

    def __init__(self, n_looks):
        self.left = n_looks

    def __call__(self):
        self.left -= 1
        return self.left < 0


def stop_after(dataset, out, n_looks, **options):
    """Train until the n-th look at `should_stop`; return the error, or the last event."""
    stop = StopAt(n_looks)
    try:
        return done(dataset, out, resume="auto", should_stop=stop, **options)
    except StoppedError as error:
        return error


def same(a, b):
    """Check that two runs gave the same, bit for bit, but for times."""
    for name in ("parameters_digest", "train", "valid", "ledger", "steps", "epochs", "rows"):
        assert a[name] == b[name], name
    assert a["best_epoch"] == b["best_epoch"]


@pytest.fixture
def step_by_step(monkeypatch):
    """Look at `should_stop` before every step."""
    monkeypatch.setattr(loop, "_MAX_CALL_STEPS", 1)
