"""streamtrain ingest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamtrain.cli.output import duration, echo_json
from streamtrain.cli.progress import Progress
from streamtrain.cli.values import (
    DATE_PARTS,
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
from streamtrain.config import format_size
from streamtrain.errors import UsageError

if TYPE_CHECKING:
    from data_tools.report import IngestReport
    from data_tools.report import Progress as Done


def progress_line(event: Done) -> str:
    """Return how far an ingest is, for people."""
    seconds = max(event.seconds, 1e-9)
    share = event.done / max(event.total, 1)
    left = seconds * (1 / share - 1) if share > 0 else 0.0
    speed = f"{event.rows / seconds:,.0f} rows/s"
    if event.stage == "read":
        speed = f"{event.done / seconds / 1e6:,.0f} MB/s, {speed}"
    name = "reading" if event.stage == "read" else "writing"
    return f"{name}  {event.rows:,} rows  {speed}  {duration(left)} left"


def summary(report: IngestReport, out: Path) -> str:
    """Return what an ingest did, for people."""
    splits = ", ".join(f"{name} {n:,}" for name, n in report.splits.items())
    task = report.task
    if report.targets > 1:
        task += (
            f" of {report.targets:,} values" if task == "regression" else f", {report.targets:,}"
        )
    if report.classes:
        shown = ", ".join(report.classes[:8]) + (", ..." if len(report.classes) > 8 else "")
        task += f", {len(report.classes)} classes: {shown}"
        if report.task == "binary":
            task += f" (positive: {report.classes[-1]})"
    lines = [
        f"{report.rows_read:,} rows read = {report.rows_written:,} written + "
        f"{report.rows_rejected:,} rejected; {report.rows_blank:,} blank lines",
    ]
    lines += [f"  rejected: {n:,} {reason}" for reason, n in report.reasons.items()]
    if report.rows_rejected:
        lines.append(f"  kept in {out}/rejected/")
    lines += [
        f"columns  {report.numeric} numeric, {report.categorical} categorical"
        + (f", {report.bags} of text or lists" if report.bags else ""),
        f"target   {report.target}: {task}",
        f"splits   {splits}",
    ]
    lines += [
        f"pruned   {name}: categories seen at most {floor} times may count as rare (--memory)"
        for name, floor in report.pruned.items()
    ]
    if report.rounded:
        lines.append(f"rounded  {report.rounded:,} integers that float32 does not hold exactly")
    rate = report.source_bytes / max(report.seconds, 1e-9) / 1e6
    lines += [
        f"dataset  {out}: {report.shards} shards, {format_size(report.bytes)}, "
        f"fingerprint {report.fingerprint}",
        f"took     {report.seconds:.1f} s ({rate:,.0f} MB/s), peak memory "
        f"{format_size(report.peak_rss_bytes)}",
    ]
    return "\n".join(lines)


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
@click.option(
    "--exposure",
    metavar="COLUMN",
    help="Column of exposures, above 0: they multiply the mean of poisson, gamma and tweedie.",
)
@click.option(
    "--numeric",
    type=NAMES,
    default=(),
    metavar="A,B",
    help="Columns of numbers; others are found from a sample.",
)
@click.option("--categorical", type=NAMES, default=(), metavar="A,B", help="Columns of categories.")
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
@click.option("--drop", type=NAMES, default=(), metavar="A,B", help="Columns to leave out.")
@click.option(
    "--date-parts",
    type=DATE_PARTS,
    metavar="A,B",
    show_default="hour,weekday,yearday,epoch",
    help="Parts of times that become columns; 'none' leaves times as categories.",
)
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

    with Progress() as progress:

        def listen(event: Done | str) -> None:
            if isinstance(event, str):
                progress.say(event)
            else:
                progress.update(event.done / max(event.total, 1), progress_line(event))

        report = run(options, listen=listen)
    if as_json:
        echo_json(report.as_dict())
    else:
        click.echo(summary(report, out))


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
    if given["seed"] < 0:
        raise UsageError(f"{given['seed']} is not a seed, expected 0 or more", where="--seed")
    extra: dict[str, Any] = {}
    if given["date_parts"] is not None:
        extra["date_parts"] = given["date_parts"]
    if given["missing"] is not None:
        extra["missing"] = tuple(given["missing"].split(","))
    return IngestOptions(
        sources=sources,
        out=out,
        target=target,
        splits=given["split"],
        split_by=given["split_by"],
        weight=given["weight"],
        exposure=given["exposure"],
        numeric=given["numeric"],
        categorical=given["categorical"],
        drop=given["drop"],
        text=given["text"],
        words=given["words"],
        characters=given["characters"],
        norm=given["text_norm"],
        hash_bits=given["hash_bits"],
        header=not given["no_header"],
        delimiter=delimiter,
        encoding=given["encoding"],
        on_bad_row=given["on_bad_row"],
        rare=given["rare"],
        max_categories=given["max_categories"],
        positive=given["positive"],
        shuffle=not given["no_shuffle"],
        format=given["file_format"],
        compression=None if given["compression"] == "none" else given["compression"],
        block_rows=given["block_rows"],
        memory=given["memory"],
        threads=given["threads"] or None,
        seed=given["seed"],
        overwrite=given["overwrite"],
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
        **extra,
    )
