"""What every benchmark is given: sizes, made data that is kept between them, and pairs in turn."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.child import python, streamtrain

THREADS = 2


@dataclasses.dataclass(frozen=True)
class Bench:
    """What a benchmark runs with.

    Parameters
    ----------
    work : Path
        Data, runs and results; kept, so that one benchmark can be run again alone.
    n_rows : int
        Of the click log.
    repeats : int
        Runs of every contender; tables show their median.
    """

    work: Path
    n_rows: int
    repeats: int

    def click_log(self, *, in_order: bool = False) -> tuple[Path, dict[str, Any]]:
        """Return the click log's CSV and what is known of it, made if it is not there."""
        name = f"clicks-{self.n_rows}{'-sorted' if in_order else ''}"
        source, about = self.work / f"{name}.csv", self.work / f"{name}.json"
        if not (source.exists() and about.exists()):
            extra = ["--sorted"] if in_order else []
            report = python(
                "-m", "data_tools.clicklog", str(source), "--rows", str(self.n_rows), *extra
            ).last_json()
            about.write_text(json.dumps(report))
        return source, json.loads(about.read_text())

    def dataset(self, *options: str, name: str = "", in_order: bool = False) -> Path:
        """Return a dataset of the click log, ingested if it is not there."""
        out = self.work / f"dataset-{self.n_rows}{name}"
        if not (out / "dataset.json").exists():
            source, _ = self.click_log(in_order=in_order)
            streamtrain(
                "ingest", str(source), "--out", str(out), "--target", "click", *options,
                "--threads", str(THREADS), "--overwrite",
            )  # fmt: skip
        return out

    def fresh(self, name: str) -> Path:
        """Return a path in the work directory at which nothing is."""
        path = self.work / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        return path

    def in_turn(
        self, contenders: dict[str, Callable[[], dict[str, Any]]], *, repeats: int = 0
    ) -> dict[str, dict[str, Any]]:
        """Run contenders A, B, A, B, ... and return the median of each figure of each.

        Numbers are replaced by their median, `<name>_all` holds them; other values are the last.
        """
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
        for _ in range(repeats or self.repeats):
            for name, run in contenders.items():
                found[name].append(run())
        return {name: medians(runs) for name, runs in found.items()}


def medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of every number in equal records, and all of its values."""
    merged: dict[str, Any] = {}
    for name, value in runs[-1].items():
        values = [run[name] for run in runs]
        if isinstance(value, int | float) and not isinstance(value, bool):
            merged[name] = statistics.median(values)
            merged[f"{name}_all"] = values
        else:
            merged[name] = value
    return merged


def folder_bytes(folder: Path, pattern: str = "*") -> int:
    """Return the bytes of the files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob(pattern) if file.is_file())


def load_average() -> float:
    """Return the load of the last minute: above 0.3 something else was running."""
    return os.getloadavg()[0]
