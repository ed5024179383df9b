"""Peak memory of ingest and train under --memory, alone and inside a control group."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.bench import THREADS, Bench
from tests.benchmarks.child import Ended, drop_caches, streamtrain

LIMIT = 512_000_000
OPTION = "512MB"
_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


def run(bench: Bench) -> dict[str, Any]:
    """Return peaks of each command, and how they fared inside a group of the same size."""
    source, about = bench.click_log()
    found: dict[str, Any] = {"csv_bytes": about["csv_bytes"], "rows": about["n_rows"]}
    found["alone"] = {name: _figures(done) for name, done in _commands(bench, source, None)}
    try:
        group = _Group(f"streamtrain-benchmark-{os.getpid()}", LIMIT)
    except OSError as error:
        found["skipped"] = f"no memory control group could be made: {error}"
        return found
    with contextlib.closing(group):
        inside = {}
        for name, done in _commands(bench, source, group):
            inside[name] = {**_figures(done), **group.figures()}
            group.reset()
        found["inside"] = inside
        found["version"] = group.version
    return found


def _commands(bench: Bench, source: Path, group: _Group | None) -> Iterator[tuple[str, Ended]]:
    dataset, out = bench.fresh("memory-dataset"), bench.fresh("memory-run")
    commands: dict[str, tuple[str, ...]] = {
        "ingest": ("ingest", str(source), "--out", str(dataset), "--target", "click"),
        "train": ("train", str(dataset), "--out", str(out)),
        "evaluate": ("evaluate", str(out), "--split", "test"),
    }
    for name, command in commands.items():
        # Pages of files that others read first are charged to them: start with none.
        drop_caches([source, dataset])
        options = ["--memory", OPTION, "--threads", str(THREADS), "--json"]
        enter: Callable[[], None] | None = None if group is None else group.enter
        yield name, streamtrain(*command, *options, preexec=enter, check=False)
    bench.fresh("memory-dataset")


def _figures(done: Ended) -> dict[str, Any]:
    said = done.last_json().get("peak_rss_bytes") if done.code == 0 else None
    error = "" if done.code == 0 else done.stderr.strip()[-300:]
    return {**done.figures(), "code": done.code, "said_bytes": said, "error": error}


class _Group:
    """A memory control group, version 1 or 2."""

    def __init__(self, name: str, limit: int) -> None:
        self.version = 1 if (_V1 / "memory.limit_in_bytes").exists() else 2
        self._folder = (_V1 if self.version == 1 else _V2) / name
        self._folder.mkdir()
        try:
            if self.version == 1:
                self._write("memory.limit_in_bytes", limit)
                with contextlib.suppress(OSError):  # no swap accounting
                    self._write("memory.memsw.limit_in_bytes", limit)
            else:
                self._write("memory.max", limit)
                with contextlib.suppress(OSError):
                    self._write("memory.swap.max", 0)
        except OSError:
            self._folder.rmdir()
            raise

    def _write(self, name: str, value: int) -> None:
        (self._folder / name).write_text(str(value))

    def enter(self) -> None:
        """Move this process in; called in a child before it runs its command."""
        self._write("cgroup.procs", os.getpid())

    def figures(self) -> dict[str, int]:
        """Return the most that was charged, and how often the limit was met."""
        if self.version == 1:
            names = {"charged_bytes": "memory.max_usage_in_bytes", "limit_met": "memory.failcnt"}
            counts = {k: int((self._folder / v).read_text()) for k, v in names.items()}
            events = (self._folder / "memory.oom_control").read_text()
        else:
            peak = self._folder / "memory.peak"
            events = (self._folder / "memory.events").read_text()
            table = dict(line.split() for line in events.splitlines())
            counts = {
                "charged_bytes": int(peak.read_text()) if peak.exists() else 0,
                "limit_met": int(table.get("max", 0)),
            }
        kills = [line.split()[1] for line in events.splitlines() if line.startswith("oom_kill ")]
        return {**counts, "oom_kills": int(kills[0]) if kills else 0}

    def reset(self) -> None:
        """Set the counts back, where the kernel can."""
        with contextlib.suppress(OSError):
            if self.version == 1:
                self._write("memory.force_empty", 0)
                self._write("memory.max_usage_in_bytes", 0)
                self._write("memory.failcnt", 0)

    def close(self) -> None:
        """Remove the group, once its last process is gone."""
        for _ in range(50):
            try:
                self._folder.rmdir()
            except OSError:
                time.sleep(0.1)
            else:
                return


def render(result: dict[str, Any]) -> str:
    """Return the section of the page."""
    lines = [
        f"`--memory {OPTION}` on the click log ({result['csv_bytes'] / 1e6:,.0f} MB of CSV, "
        f"{result['csv_bytes'] / LIMIT:.1f}x the budget). Peaks are the kernel's ru_maxrss of the "
        "process, mapped pages included.",
        "",
        "| | seconds | peak, MB | peak as the command reports it, MB | within the budget |",
        "|---|---:|---:|---:|---|",
    ]
    for name, found in result["alone"].items():
        said = f"{found['said_bytes'] / 1e6:.0f}" if found["said_bytes"] else ""
        within = "yes" if found["code"] == 0 and found["peak_bytes"] <= LIMIT else "**no**"
        lines.append(
            f"| {name} | {found['seconds']:.2f} | {found['peak_bytes'] / 1e6:.0f} | {said} | "
            f"{within} |"
        )
    if "skipped" in result:
        return "\n".join([*lines, "", f"Inside a control group: skipped, {result['skipped']}."])
    lines += [
        "",
        f"The same inside a control group (version {result['version']}) of {LIMIT / 1e6:.0f} MB, "
        "without swap. The group also counts cached file pages, which the kernel takes back at "
        "the limit: meeting it is no failure, a kill is.",
        "",
        "| | ended with | seconds | peak, MB | charged to the group, MB | limit met | killed |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, found in result["inside"].items():
        lines.append(
            f"| {name} | {found['code']} | {found['seconds']:.2f} | "
            f"{found['peak_bytes'] / 1e6:.0f} | {found['charged_bytes'] / 1e6:.0f} | "
            f"{found['limit_met']} | {found['oom_kills']} |"
        )
    return "\n".join(lines)
