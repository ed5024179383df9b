"""The first run, which compiles, gives the bits of the second, which loads what was compiled."""

import json
import subprocess
import sys

from tests.end_to_end.command import environment


def run(cache):
    done = subprocess.run(
        [sys.executable, "-m", "tests.conformance.compiled_digests"],
        env={**environment(), "STREAMTRAIN_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_code_that_was_loaded_computes_what_code_that_was_compiled_did(tmp_path):
    first, second = run(tmp_path), run(tmp_path)
    assert first["compiled_s"] > 1
    assert second["compiled_s"] < first["compiled_s"] / 4
    assert len(first["digests"]) == 30
    assert {n: d for n, d in first["digests"].items() if second["digests"][n] != d} == {}
