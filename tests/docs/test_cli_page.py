"""docs/cli.md is what the commands say today."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.cli_page import PAGE, commands, render

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_what_the_commands_say():
    # If this fails: python tests/docs/cli_page.py
    assert PAGE.read_text(encoding="utf-8") == render()


def test_the_page_does_not_depend_on_the_terminal(tmp_path):
    code = "from tests.docs.cli_page import render; import sys; sys.stdout.write(render())"
    pages = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "COLUMNS": columns, "TERM": "dumb"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for columns in ("20", "300")
    ]
    assert pages[0] == pages[1] == PAGE.read_text(encoding="utf-8")


def test_every_command_module_is_in_the_group():
    inner = {
        "__init__", "columns", "group", "ingested", "learning", "losses", "networks", "output",
        "progress", "values",
    }  # fmt: skip
    modules = {path.stem for path in (ROOT / "streamtrain" / "cli").glob("*.py")} - inner
    assert modules == {name for name, _ in commands()}


@pytest.mark.parametrize(("name", "command"), commands())
def test_every_command_and_option_is_documented(name, command):
    text = PAGE.read_text(encoding="utf-8")
    section = text.split(f"\n## {name}\n")[1].split("\n## ")[0]
    assert f"```sh\nstreamtrain {name}" in section, "its help has no example"
    assert command.short_help
    for param in command.params:
        for option in param.opts:
            if option.startswith("-"):
                assert f"`{option}`" in section
                assert param.help, f"{option} has no help"
