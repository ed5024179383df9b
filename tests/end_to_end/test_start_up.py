import subprocess
import sys

import pytest

from tests.end_to_end.command import environment, run
from tests.made import make_dataset

CODE = """
import sys
from streamtrain.cli.group import run
try:
    code = run({args!r})
except SystemExit as error:
    code = error.code
heavy = {{"numba", "llvmlite", "pyarrow", "zarr", "numpy", "rich", "scipy"}} & set(sys.modules)
sys.exit(f"{{code}} {{sorted(heavy)}}" if code or heavy else 0)
"""


def run_code(code, *args):
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "args", [["--help"], ["--version"], ["train", "--help"], ["predict", "--help"]], ids=str
)
def test_help_imports_nothing_heavy(args):
    run_code(CODE.format(args=args))


OPENS = """
import sys
from streamtrain.library import open_dataset
from streamtrain.kernels._jit import compile_seconds
open_dataset(sys.argv[1])
sys.exit(f"compiled for {compile_seconds()} s" if compile_seconds() else 0)
"""


@pytest.mark.parametrize("file_format", ["parquet", "zarr"])
def test_opening_a_dataset_compiles_nothing(tmp_path, file_format):
    folder = make_dataset(tmp_path / "ds", file_format=file_format)
    run_code(OPENS, str(folder))


@pytest.mark.parametrize(
    "command",
    ["ingest", "inspect", "verify", "train", "evaluate", "predict", "demo", "doctor"],
)
def test_the_help_of_every_command_begins_with_an_example(command):
    done = run(command, "--help")
    assert done.returncode == 0
    assert f"streamtrain {command}" in done.stdout.split("Options:")[0].split("Example:")[1]
    assert "--json" in done.stdout


def test_without_arguments_the_help_is_shown():
    done = run()
    assert done.returncode == 2
    assert "Example:" in done.stdout + done.stderr
