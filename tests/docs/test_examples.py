"""The commands and snippets of README.md and docs/ do what they say.

A fenced block that follows ``<!-- run -->`` is executed, the blocks of a page in
one directory in turn; ``<!-- run: clicks -->`` wants a small dataset of that name
there. A block that follows ``<!-- output -->`` is what the block before prints.
"""

import csv
import functools
import gzip
import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(
    r"^<!-- run(?:: (?P<needs>\w+))? -->\n```(?P<language>\w+)\n(?P<code>.*?)^```\n"
    r"(?:\n<!-- output -->\n```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Example:
    language: str
    code: str
    output: str | None
    needs: str | None


def examples(page: Path) -> list[Example]:
    found = _BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Example(m["language"], m["code"], m["output"], m["needs"]) for m in found]


RUNNABLE = [page for page in PAGES if examples(page)]


def write_clicks(path, n_rows, open_text=open):
    rng = random.Random(1)
    countries = ["CH", "NZ", "FR", ""]
    with open_text(path, "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["age", "country", "click"])
        for _ in range(n_rows):
            age, c = rng.gauss(40, 12), rng.randrange(4)
            click = rng.random() < 1 / (1 + 2.72 ** -((age - 40) / 10 - c + 1))
            writer.writerow([f"{age:.1f}", countries[c], int(click)])


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Give an environment in which `streamtrain` and `python` are this tree's."""
    folder = tmp_path_factory.mktemp("bin")
    command = folder / "streamtrain"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m streamtrain "$@"\n')
    command.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }


def execute(example, folder, environment):
    arguments = {"sh": ["sh", "-eu", "-c"], "python": [sys.executable, "-W", "error", "-c"]}
    return subprocess.run(
        [*arguments[example.language], example.code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def sources(tmp_path_factory, environment):
    """Give a directory with the files that pages name, and a dataset made of them."""
    folder = tmp_path_factory.mktemp("sources")
    write_clicks(folder / "clicks-1.csv.gz", 1600, gzip.open)
    write_clicks(folder / "clicks-2.csv.gz", 1400, gzip.open)
    write_clicks(folder / "new.csv", 300)
    ingest = "streamtrain ingest clicks-*.csv.gz --out clicks --target click"
    made = execute(Example("sh", ingest, None, None), folder, environment)
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture(scope="module")
def run_page(tmp_path_factory, environment, sources):
    """Give a function that executes a page once: its directory and what its blocks did."""

    @functools.cache
    def run(page):
        folder = tmp_path_factory.mktemp("page")
        for file in sources.glob("*.csv*"):
            shutil.copy(file, folder)
        found = []
        for example in examples(page):
            if example.needs and not (folder / example.needs).exists():
                shutil.copytree(sources / example.needs, folder / example.needs)
            found.append((example, execute(example, folder, environment)))
        return folder, found

    return run


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_examples_of_a_page_run(page, run_page):
    for example, done in run_page(page)[1]:
        assert done.returncode == 0, f"{example.code}\n{done.stdout}{done.stderr}"
        if example.output is not None:
            assert done.stdout == example.output, example.code


def test_every_mark_stands_before_a_block():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        marks = re.findall(r"^<!-- (?:run|output).* -->$", text, re.MULTILINE)
        outputs = sum(example.output is not None for example in examples(page))
        assert len(marks) == len(examples(page)) + outputs, page


def test_the_blocks_of_the_readme_run_and_its_install_lines_do_not():
    blocks = examples(ROOT / "README.md")
    assert [block.language for block in blocks] == ["sh", "sh", "python"]
    assert not any("pip" in block.code for block in blocks)


def test_the_refused_budget_says_what_the_page_of_memory_says(run_page):
    ((_, done),) = run_page(ROOT / "docs" / "memory.md")[1]
    assert done.stdout == "exit code 78\n"
    assert re.fullmatch(
        r"streamtrain: --memory: a run needs [\d,]+ bytes \(interpreter [\d,]+ B\), "
        r"the budget is 100,000,000 bytes \(100\.0 MB\); give --memory 512MB or more\n",
        done.stderr,
    )


def test_the_rejected_rows_are_those_of_the_page_of_ingest(run_page):
    page = ROOT / "docs" / "ingest.md"
    folder, ((_, done), *_) = run_page(page)
    text = page.read_text(encoding="utf-8")
    assert f"`{done.stdout.splitlines()[0]}`" in text
    rejected = (folder / "bad" / "rejected" / "part-00000.csv").read_text(encoding="utf-8")
    assert "".join(f"    {line}\n" for line in rejected.splitlines()) in text


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).is_file(), target
