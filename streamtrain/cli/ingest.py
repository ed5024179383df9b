"""streamtrain ingest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    LENGTHS,
    NAMES,
    SPLITS,
    array_options,
    config_option,
    json_option,
    kind_option,
    memory_option,
    target_file_option,
    threads_option,
)
from streamtrain.errors import UsageError


@click.command(short_help="Turn files of rows into a dataset.")
@click.argument("sources", nargs=-1, metavar="SOURCE...")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DATASET",
    help="Directory to write the dataset to.",
)
@click.option(
    "--target",
    metavar="COLUMN",
    show_default="the label of libsvm and VW",
    help="Column to predict.",
)
@target_file_option
@array_options(targets=True)
@click.option(
    "--sql",
    metavar="QUERY",
    help="Ingest what a query gives, in place of SOURCE; needs 'streamtrain[sql]'.",
)
@click.option(
    "--split",
    type=SPLITS,
    default="valid=0.1,test=0.1",
    show_default=True,
    metavar="SHARES",
    help="Shares of the rows drawn for valid and test; 'none' leaves all to train.",
)
@click.option("--split-by", metavar="COLUMN", help="Rows equal in this column stay in one split.")
@click.option("--weight", metavar="COLUMN", help="Column of row weights; negative is rejected.")
@exposure_option
@click.option(
    "--numeric",
    type=NAMES,
    default=(),
    metavar="A,B",
    help="Columns of numbers; others are found from a sample.",
)
@categorical_option
@click.option(
    "--text",
    type=NAMES,
    default=(),
    metavar="A,B",
    help="Columns of texts: their words, hashed, become entries of any number.",
)
@click.option(
    "--words",
    type=LENGTHS,
    default="1-2",
    show_default=True,
    metavar="LENGTHS",
    help="Of a text: runs of so many words are parts; 'none' for none.",
)
@click.option(
    "--characters",
    type=LENGTHS,
    default="none",
    show_default=True,
    metavar="LENGTHS",
    help="Of a text: runs of so many characters in a word are parts, such as 3-5.",
)
@click.option(
    "--text-norm",
    type=click.Choice(["l2", "none"]),
    default="l2",
    show_default=True,
    help="Divide the counts of a text's parts by their Euclidean norm.",
)
@click.option(
    "--hash-bits",
    type=click.IntRange(1, 28),
    default=18,
    show_default=True,
    metavar="N",
    help="Texts and lists of names have 2^N codes.",
)
@drop_option
@date_parts_option
@click.option(
    "--no-header",
    is_flag=True,
    help="The first line is a row; columns are numbers from 0, and -1 is the last.",
)
@click.option(
    "--svm-width",
    type=click.IntRange(1, (1 << 28) - 1),
    metavar="N",
    show_default="the greatest index",
    help="Columns of libsvm: the indices 1 to N.",
)
@click.option(
    "--sparse",
    is_flag=True,
    show_default="where there are more than 10,000",
    help="Take the indices of libsvm as entries of one column, not as columns.",
)
@kind_option
@click.option(
    "--delimiter",
    metavar="CHAR",
    show_default="found from the first line",
    help="Between fields; 'tab' for a tab.",
)
@click.option(
    "--encoding", default="utf-8", show_default=True, metavar="NAME", help="Encoding of the text."
)
@click.option(
    "--missing",
    metavar="A,B",
    show_default="empty, ?, NA, N/A, NaN, nan, null, NULL, None, -nan, #N/A",
    help="Cells that read as missing, in place of the default; 'NA,-999,' ends in an empty one.",
)
@click.option(
    "--on-bad-row",
    type=click.Choice(["reject", "fail"]),
    default="reject",
    show_default=True,
    help="Keep unusable rows apart, or stop at the first.",
)
@rare_option
@max_categories_option
@positive_option
@click.option("--no-shuffle", is_flag=True, help="Keep the order of the rows (time series).")
@click.option(
    "--block-rows",
    type=int,
    metavar="N",
    show_default="8192, with --no-shuffle 512",
    help="Rows of a block, at most 16384, in zarr 1048576.",
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["parquet", "zarr"]),
    default="parquet",
    show_default=True,
    help="Format of the shards: zarr is read faster, parquet by more tools.",
)
@click.option(
    "--compression",
    type=click.Choice(["none", "zstd", "blosc"]),
    default="none",
    show_default=True,
    help="Of Zarr chunks: zstd for the smallest files, blosc for cheap reading of files a little "
    "smaller.",
)
@memory_option
@threads_option
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of the shuffle and the splits."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing dataset.")
@config_option
@json_option
def ingest(sources: tuple[str, ...], out: Path, *, as_json: bool, **given: Any) -> None:
    """Turn files of rows into a dataset; - is standard input.

    SOURCE is CSV or JSON lines (plain or .gz, .zst, .bz2, .lz4), Parquet, Arrow IPC
    or Feather, libsvm, Vowpal Wabbit's text, .npy, .npz, HDF5 or Zarr, or a directory of
    such files. Several are read as one table; they must have the same columns. Rows that
    cannot be used are kept apart with their reason.

    \b
    Example:
        streamtrain ingest clicks-*.csv.gz --out clicks --target click
        streamtrain ingest events/ --out events --target label
        streamtrain ingest reviews.csv --out reviews --target stars --text title,body
        streamtrain ingest train.vw --out news
        streamtrain ingest images.npy --target-file digits.npy --format zarr --out digits
    """  # fmt: skip
    options = _options(sources, out, given)
    from data_tools.ingest import ingest as run

    run_and_show(lambda listen: run(options, listen=listen), out, as_json=as_json)


def _options(sources: tuple[str, ...], out: Path, given: dict[str, Any]) -> Any:
    from data_tools.array_set import ArrayNames
    from data_tools.array_source import holds_arrays
    from data_tools.options import IngestOptions

    if not sources and given["sql"] is None:
        raise UsageError("no SOURCE", remedy="name files, or give --sql")
    if sources and given["sql"] is not None:
        raise UsageError("goes in place of SOURCE", where="--sql")
    target = given["target"]
    for option in ("target_file", "target_path"):
        if given[option]:
            if target not in {None, "target"}:
                name = f"--{option.replace('_', '-')}"
                raise UsageError("goes in place of --target", where=name)
            target = "target"
    if target is None and sources and all(holds_arrays(Path(s)) for s in sources):
        target = "target"
    if given["text"] and not given["words"][1] and not given["characters"][1]:
        raise UsageError(
            "a text needs parts", where="--text", remedy="give --words or --characters"
        )
    delimiter = given["delimiter"]
    if delimiter is not None:
        delimiter = {"tab": "\t", "\\t": "\t"}.get(delimiter, delimiter)
    return IngestOptions(
        sources=sources,
        out=out,
        target=target,
        splits=given["split"],
        split_by=given["split_by"],
        text=given["text"],
        words=given["words"],
        characters=given["characters"],
        norm=given["text_norm"],
        hash_bits=given["hash_bits"],
        header=not given["no_header"],
        delimiter=delimiter,
        encoding=given["encoding"],
        on_bad_row=given["on_bad_row"],
        shuffle=not given["no_shuffle"],
        format=given["file_format"],
        compression=None if given["compression"] == "none" else given["compression"],
        block_rows=given["block_rows"],
        kind=given["kind"],
        target_file=given["target_file"],
        weight_file=given["weight_file"],
        arrays=ArrayNames(
            given["features_path"],
            given["target_path"],
            given["weight_path"],
            dtype=given["dtype"],
            shape=given["shape"],
        ),
        svm_width=given["svm_width"],
        sparse=given["sparse"],
        sql=given["sql"],
        **shared_settings(given),
    )
