"""The predict command."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamtrain.cli.output import duration, echo_json
from streamtrain.cli.progress import Progress
from streamtrain.cli.values import (
    array_options,
    json_option,
    kind_option,
    memory_option,
    threads_option,
)
from streamtrain.errors import ConfigError, OutputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from data_tools.array_rows import ArrayFiles
    from streamtrain.predict import Model
    from streamtrain.store.encode import EncodedRows

_SHOWN_REASONS = 5


@click.command(short_help="Score raw files or a dataset.")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="FILE.csv or FILE.parquet; one row for every row of the sources, in order.",
)
@click.option("--split", metavar="NAME", show_default="test", help="Split of a dataset.")
@click.option(
    "--encoding",
    default="utf-8",
    show_default=True,
    metavar="NAME",
    help="Encoding of text sources.",
)
@kind_option
@array_options(targets=False)
@click.option("--overwrite", is_flag=True, help="Replace FILE.")
@memory_option
@threads_option
@json_option
def predict(
    run: Path,
    sources: tuple[str, ...],
    *,
    out: Path,
    split: str | None,
    encoding: str,
    kind: str | None,
    features_path: str | None,
    dtype: str | None,
    shape: tuple[int, ...] | None,
    overwrite: bool,
    memory: int | None,
    threads: int,
    as_json: bool,
) -> None:
    """Score SOURCE... (raw files, - for standard input, or a dataset) with the model of RUN.

    Raw rows go through the encoders of training: categories that it did not see
    count as rare, missing cells as missing. A row that cannot be read gets an
    empty prediction, so that FILE has a row for each; so does one whose exposure
    is missing or not above 0, where the model was trained with exposures.

    \b
    Example:
        streamtrain predict run new.csv --out scores.csv
    """  # fmt: skip
    from data_tools.array_rows import ArrayFiles
    from data_tools.array_set import ArrayNames
    from streamtrain.predict import load_model
    from streamtrain.store.manifest import MANIFEST_NAME
    from streamtrain.store.predictions import PredictionWriter, waiting_bytes

    started = time.monotonic()
    model = load_model(run, threads=threads)
    is_dataset = len(sources) == 1 and (Path(sources[0]) / MANIFEST_NAME).is_file()
    if split is not None and not is_dataset:
        raise ConfigError("raw files have no splits", where="--split", remedy="leave it out")
    if any(out.exists() and _is_same_file(out, source) for source in sources):
        raise OutputError("is a source too", where=str(out), remedy="choose another --out")
    arrays = ArrayFiles(ArrayNames(features_path, dtype=dtype, shape=shape))
    names = model.prediction_names()
    waiting = waiting_bytes(out, len(names))
    n_rows = n_bad = 0
    with PredictionWriter(out, names, overwrite=overwrite) as writer, Progress() as progress:
        pieces = (
            _dataset_pieces(model, Path(sources[0]), split or "test", memory, waiting)
            if is_dataset
            else _raw_pieces(model, sources, memory, encoding, kind, arrays, waiting)
        )
        for rows, n_records, places, reasons in pieces:
            writer.write(_columns(model, rows, n_records, places))
            for line in reasons[: max(0, _SHOWN_REASONS - n_bad)]:
                progress.say(f"no prediction for {line}")
            n_rows += n_records
            n_bad += len(reasons) + int(model.lacks_exposure(rows).sum())
            progress.update(None, f"{n_rows:,} rows")
    seconds = time.monotonic() - started
    if as_json:
        echo_json({
            "rows": n_rows, "rows_without_prediction": n_bad, "seconds": seconds,
            "out": str(out), "columns": names,
        })  # fmt: skip
        return
    of = f" of the split {split or 'test'!r} of the dataset {sources[0]}" if is_dataset else ""
    bad = f", {n_bad:,} without a prediction" if n_bad else ""
    click.echo(f"{out}: {n_rows:,} rows{of}{bad}, {duration(seconds)}")


def _is_same_file(out: Path, source: str) -> bool:
    return Path(source).exists() and out.samefile(source)


Piece = tuple["EncodedRows", int, "npt.NDArray[np.int64] | None", list[str]]


def _dataset_pieces(
    model: Model, path: Path, split: str, memory: int | None, waiting: int
) -> Iterator[Piece]:
    from streamtrain.store.dataset import open_dataset

    dataset = open_dataset(path)
    for rows in model.dataset_rows(dataset, split, memory=memory, waiting_bytes=waiting):
        yield rows, len(rows.numeric), None, []


def _raw_pieces(
    model: Model,
    sources: tuple[str, ...],
    memory: int | None,
    encoding: str,
    kind: str | None,
    arrays: ArrayFiles,
    waiting: int,
) -> Iterator[Piece]:
    if model.schema.array is not None:
        from data_tools.array_rows import read_array_rows

        for piece in read_array_rows(
            sources, model.schema, memory=memory, files=arrays, kind=kind, waiting_bytes=waiting
        ):
            bad = piece.bad_records()
            yield piece.rows, piece.n_records, piece.ordinals_within_batch, bad
        return
    from data_tools.raw_rows import read_raw

    for raw in read_raw(
        sources,
        model.schema,
        threads=model.n_threads,
        memory=memory,
        encoding=encoding,
        kind=kind,
        arrays=arrays,
    ):
        rows = model.encoder.encode(raw.batch)
        yield rows, raw.n_records, raw.ordinals_within_batch, raw.bad_records()


def _columns(
    model: Model, rows: EncodedRows, n_records: int, places: npt.NDArray[np.int64] | None
) -> list[Any]:
    columns = model.prediction_columns(rows)
    if places is None or len(places) == n_records:
        return columns
    from streamtrain.store.predictions import spread

    return [spread(column, places, n_records) for column in columns]
