"""streamtrain adopt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamtrain.cli.ingest import progress_line, summary
from streamtrain.cli.output import echo_json
from streamtrain.cli.progress import Progress
from streamtrain.cli.values import (
    DATE_PARTS,
    NAMES,
    SPLITS,
    config_option,
    json_option,
    memory_option,
    threads_option,
)
from streamtrain.errors import UsageError

if TYPE_CHECKING:
    from data_tools.report import Progress as Done


@click.command(short_help="Make Parquet or Zarr files a dataset where they are.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--target", metavar="COLUMN", help="Column to predict; of a Zarr group the array of targets."
)
@click.option(
    "--target-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Targets of a Zarr array in place of --target: a .npy or a Zarr array inside DIR.",
)
@click.option(
    "--split",
    type=SPLITS,
    metavar="SHARES",
    show_default="train/, valid/ and test/ where they are, else valid=0.1,test=0.1",
    help="Shares of the rows drawn for valid and test, by blocks; 'none' leaves all to train.",
)
@click.option(
    "--split-files",
    metavar="valid=GLOB,test=GLOB",
    help="Files of valid and test, in place of --split; the others are train.",
)
@click.option("--weight", metavar="COLUMN", help="Column of row weights.")
@click.option(
    "--exposure",
    metavar="COLUMN",
    help="Column of exposures, above 0: they multiply the mean of poisson, gamma and tweedie.",
)
@click.option(
    "--numeric", type=NAMES, default=(), metavar="A,B", help="Columns of text that hold numbers."
)
@click.option("--categorical", type=NAMES, default=(), metavar="A,B", help="Columns of categories.")
@click.option("--drop", type=NAMES, default=(), metavar="A,B", help="Columns to leave out.")
@click.option(
    "--date-parts",
    type=DATE_PARTS,
    metavar="A,B",
    show_default="hour,weekday,yearday,epoch",
    help="Parts of times that become columns; 'none' leaves times as categories.",
)
@click.option(
    "--missing",
    metavar="A,B",
    show_default="empty, ?, NA, N/A, NaN, nan, null, NULL, None, -nan, #N/A",
    help="Texts that read as missing, in place of the default; a null always does.",
)
@click.option(
    "--rare", type=click.IntRange(1), default=1, show_default=True,
    help="Categories seen fewer times in train share one code; 1 keeps all.",
)  # fmt: skip
@click.option(
    "--max-categories", type=click.IntRange(1), default=1_000_000, show_default=True,
    help="Most categories of a column.",
)  # fmt: skip
@click.option(
    "--positive",
    metavar="VALUE",
    show_default="the greater of the two",
    help="Positive class of a binary target.",
)
@memory_option
@threads_option
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the splits.")
@click.option("--overwrite", is_flag=True, help="Replace the manifest of an earlier adopt.")
@config_option
@json_option
def adopt(folder: Path, *, as_json: bool, **given: Any) -> None:
    """Make the Parquet files, or the Zarr arrays, in DIR a dataset without rewriting them.

    A manifest with digests and statistics, dataset.json, and vocabulary/ are written into
    DIR, and nothing else. Training then reads the files, and notices when one
    has changed. Rows are not shuffled: if they are sorted, ingest them.

    \b
    Example:
        streamtrain adopt events/ --target clicked
        streamtrain adopt images.zarr --target labels
        streamtrain train events/ --out run
    """
    options = _options(folder, given)
    patterns = _patterns(given["split_files"])
    from data_tools.adopt import adopt as run

    with Progress() as progress:

        def listen(event: Done | str) -> None:
            if isinstance(event, str):
                progress.say(event)
            else:
                progress.update(event.done / max(event.total, 1), progress_line(event))

        report = run(options, splits=given["split"], split_files=patterns, listen=listen)
    if as_json:
        echo_json(report.as_dict())
    else:
        click.echo(summary(report, folder))


def _patterns(text: str | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in text.split(",") if text else ():
        name, equals, pattern = item.partition("=")
        if name not in {"valid", "test"} or not equals or not pattern or name in found:
            raise UsageError(
                f"{item!r}, expected valid=GLOB or test=GLOB once each", where="--split-files"
            )
        found[name] = pattern
    return found


def _options(folder: Path, given: dict[str, Any]) -> Any:
    from data_tools.options import IngestOptions

    if given["target"] is None and given["target_file"] is None:
        raise UsageError("no target", where="--target", remedy="name the column to predict")
    if given["seed"] < 0:
        raise UsageError(f"{given['seed']} is not a seed, expected 0 or more", where="--seed")
    if given["target"] is not None and given["target_file"] is not None:
        raise UsageError("goes in place of --target", where="--target-file")
    extra: dict[str, Any] = {"target": given["target"] or "target"}
    if given["date_parts"] is not None:
        extra["date_parts"] = given["date_parts"]
    if given["missing"] is not None:
        extra["missing"] = tuple(given["missing"].split(","))
    names = (
        "target_file", "weight", "exposure", "numeric", "categorical", "drop", "rare",
        "max_categories", "positive", "memory", "seed", "overwrite",
    )  # fmt: skip
    return IngestOptions(
        sources=(),
        out=folder,
        threads=given["threads"] or None,
        shuffle=False,
        on_bad_row="fail",
        **{name: given[name] for name in names},
        **extra,
    )
