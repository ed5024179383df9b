"""streamtrain adopt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamtrain.cli.columns import (
    categorical_option,
    date_parts_option,
    drop_option,
    exposure_option,
    max_categories_option,
    positive_option,
    rare_option,
    shared_settings,
)
from streamtrain.cli.ingested import run_and_show
from streamtrain.cli.values import (
    NAMES,
    SPLITS,
    config_option,
    json_option,
    memory_option,
    threads_option,
)
from streamtrain.errors import UsageError

if TYPE_CHECKING:
    from data_tools.report import IngestReport, Listener


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
@exposure_option
@click.option(
    "--numeric", type=NAMES, default=(), metavar="A,B", help="Columns of text that hold numbers."
)
@categorical_option
@drop_option
@date_parts_option
@click.option(
    "--missing",
    metavar="A,B",
    show_default="empty, ?, NA, N/A, NaN, nan, null, NULL, None, -nan, #N/A",
    help="Texts that read as missing, in place of the default; a null always does.",
)
@rare_option
@max_categories_option
@positive_option
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

    def adopted(listen: Listener) -> IngestReport:
        return run(options, splits=given["split"], split_files=patterns, listen=listen)

    run_and_show(adopted, folder, as_json=as_json)


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
    if given["target"] is not None and given["target_file"] is not None:
        raise UsageError("goes in place of --target", where="--target-file")
    return IngestOptions(
        sources=(),
        out=folder,
        target=given["target"] or "target",
        target_file=given["target_file"],
        shuffle=False,
        on_bad_row="fail",
        **shared_settings(given),
    )
