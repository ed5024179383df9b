"""Kernels are compiled by a child that runs our modules, and what it did is kept with its place."""

import subprocess
import sys

import pytest

from streamtrain.kernels import warm
from tests.end_to_end.command import ROOT, environment

HIJACK = "from pathlib import Path; Path(__file__).with_suffix('.ran').touch()"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(warm, "CACHE_DIRECTORY", folder)
    monkeypatch.setattr(warm, "JIT_DISABLED", False)
    return folder


def test_a_module_in_the_directory_at_hand_is_not_run(tmp_path, monkeypatch, cache):
    here = tmp_path / "here"
    here.mkdir()
    for name in ("platform", "streamtrain", "numba"):
        (here / f"{name}.py").write_text(HIJACK)
    monkeypatch.chdir(here)
    assert warm.compile_apart("platform", "x") > 0
    assert (cache / "platform-x.compiled").is_file()
    assert list(here.glob("*.ran")) == []


def test_what_was_compiled_is_not_compiled_again_and_what_failed_is(cache):
    assert warm.compile_apart("platform", "x") > 0
    assert warm.compile_apart("platform", "x") == 0
    assert warm.compile_apart("no.such.module", "x") > 0
    assert warm.compile_apart("no.such.module", "x") > 0
    assert [file.name for file in cache.iterdir()] == ["platform-x.compiled"]


def test_another_installation_of_the_same_kernels_has_a_cache_of_its_own(tmp_path):
    code = "from streamtrain.kernels._jit import CACHE_DIRECTORY; print(CACHE_DIRECTORY)"
    there = tmp_path / "there/streamtrain"
    (there / "kernels").mkdir(parents=True)
    (there / "__init__.py").write_text("")
    for file in [ROOT / "streamtrain/errors.py", *(ROOT / "streamtrain/kernels").glob("*.py")]:
        copy = tmp_path / "there" / file.relative_to(ROOT)
        copy.write_bytes(file.read_bytes())
    found = []
    for place in (ROOT, there.parent):
        env = environment(PYTHONPATH=str(place), STREAMTRAIN_CACHE_DIR=str(tmp_path / "cache"))
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True,
            check=True, timeout=60,
        )  # fmt: skip
        found.append(done.stdout)
    assert len(set(found)) == 2
