"""The evaluate command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamtrain.cli.output import METRICS, echo_json, echo_lines, figure, metrics_text
from streamtrain.cli.values import (
    array_options,
    json_option,
    kind_option,
    memory_option,
    target_file_option,
    threads_option,
)
from streamtrain.errors import ConfigError, NoInputError

if TYPE_CHECKING:
    from data_tools.array_rows import ArrayFiles
    from streamtrain.store.encode import EncodedRows


_SHOWN_OUTPUTS = 10


@click.command(short_help="Measure a model on a split or on raw files.")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("sources", nargs=-1, metavar="[DATASET | SOURCE...]")
@click.option(
    "--split", metavar="NAME", show_default="test", help="Split of a dataset: train, valid or test."
)
@click.option(
    "--encoding",
    default="utf-8",
    show_default=True,
    metavar="NAME",
    help="Encoding of text sources.",
)
@kind_option
@target_file_option
@array_options(targets=True)
@memory_option
@threads_option
@json_option
def evaluate(
    run: Path,
    sources: tuple[str, ...],
    *,
    split: str | None,
    encoding: str,
    kind: str | None,
    memory: int | None,
    threads: int,
    as_json: bool,
    **arrays: Any,
) -> None:
    """Measure the model of RUN on a dataset's split, or on raw files with a target.

    Without a dataset it is the one the model was trained from.

    \b
    Example:
        streamtrain evaluate run --split test
        streamtrain evaluate run october.csv.gz
        streamtrain evaluate run images.npy --target-file digits.npy
    """
    from streamtrain.predict import load_model
    from streamtrain.store.dataset import open_dataset
    from streamtrain.store.manifest import MANIFEST_NAME

    if split not in {None, "train", "valid", "test"}:
        raise ConfigError(f"no split {split!r}", where="--split", remedy="use train, valid or test")
    model = load_model(run, threads=threads)
    folder = _dataset_folder(run, sources, MANIFEST_NAME)
    if folder is not None:
        report: dict[str, Any] = model.evaluate_dataset(
            open_dataset(folder), split or "test", memory=memory
        )
    else:
        if split is not None:
            raise ConfigError(
                "raw files have no splits",
                where="--split",
                remedy="leave it out, or give a dataset",
            )
        from data_tools.array_rows import read_array_rows
        from data_tools.raw_rows import read_raw

        counts = {"rows_unreadable": 0}
        files = _array_files(arrays)

        def pieces() -> Iterator[EncodedRows]:
            if model.schema.array is not None:
                for piece in read_array_rows(
                    sources, model.schema, memory=memory, files=files, kind=kind
                ):
                    counts["rows_unreadable"] += len(piece.reasons)
                    yield piece.rows
                return
            for raw in read_raw(
                sources,
                model.schema,
                threads=model.n_threads,
                memory=memory,
                encoding=encoding,
                kind=kind,
                arrays=files,
            ):
                counts["rows_unreadable"] += len(raw.reasons)
                yield model.encoder.encode(raw.batch)

        report = {**model.evaluate_rows(pieces()), **counts}
    report["source"] = str(folder) if folder else list(sources)
    if as_json:
        echo_json(report)
        return
    rows = [("rows", figure(report["rows"])), *_shown(report)]
    echo_lines([("split", report["split"]), *rows] if report["split"] else rows)


def _array_files(given: dict[str, Any]) -> ArrayFiles:
    from data_tools.array_rows import ArrayFiles
    from data_tools.array_set import ArrayNames

    names = ArrayNames(
        given["features_path"],
        given["target_path"],
        given["weight_path"],
        dtype=given["dtype"],
        shape=given["shape"],
    )
    return ArrayFiles(names, given["target_file"], given["weight_file"], with_target=True)


def _dataset_folder(run: Path, sources: tuple[str, ...], manifest: str) -> Path | None:
    if not sources:
        from streamtrain.train.run import read_record

        folder = Path(read_record(run).dataset)
        if not (folder / manifest).is_file():
            raise NoInputError(
                "the dataset it was trained from is no longer there",
                where=str(folder),
                remedy="give a dataset or raw files",
            )
        return folder
    first = Path(sources[0])
    if (first / manifest).is_file() and len(sources) == 1:
        return first
    return None


def _shown(report: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        (name, f"{figure(report[name])}{_interval(report, name)}")
        for name in METRICS
        if report.get(name) is not None
    ]
    rows += [
        (f"{name} error at most", figure(report[f"{name}_error_bound"], 2))
        for name in ("auc", "average_precision")
        if report.get(f"{name}_error_bound")
    ]
    rows += [(f"output {m}", metrics_text(o)) for m, o in enumerate(_outputs(report))]
    if len(_outputs(report)) < len(report.get("outputs", ())):
        rows.append(("output ...", "--json has those of the first 100"))
    if report.get("rows_without_target"):
        rows.append(("rows without a target", figure(report["rows_without_target"])))
    if report.get("rows_without_weight"):
        rows.append(("rows without a weight", figure(report["rows_without_weight"])))
    if report.get("rows_without_exposure"):
        rows.append(("rows without an exposure", figure(report["rows_without_exposure"])))
    if report.get("rows_unreadable"):
        rows.append(("rows that cannot be read", figure(report["rows_unreadable"])))
    return rows


def _outputs(report: dict[str, Any]) -> list[dict[str, Any]]:
    return list(report.get("outputs", ()))[:_SHOWN_OUTPUTS]


def _interval(report: dict[str, Any], name: str) -> str:
    """Return " (0.81 to 0.84)", the 95 % interval of a metric that has one."""
    low, high = report.get(f"{name}_low"), report.get(f"{name}_high")
    return "" if low is None or high is None else f" ({figure(low)} to {figure(high)})"
