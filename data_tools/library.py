"""The library's `ingest` and `adopt`: keyword arguments in place of a command line."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_tools.adopt import adopt as _adopt
from data_tools.array_set import TARGET, ArrayNames
from data_tools.array_source import holds_arrays
from data_tools.ingest import ingest as _ingest
from data_tools.options import IngestOptions
from data_tools.report import IngestReport, Listener
from streamtrain.config import nearest, parse_size
from streamtrain.errors import ConfigError

Files = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None


def ingest(
    *sources: Any,
    out: str | os.PathLike[str],
    target: str | None = None,
    target_file: Files = None,
    weight_file: Files = None,
    features_path: str | None = None,
    target_path: str | None = None,
    weight_path: str | None = None,
    memory: int | str | None = None,
    listen: Listener = lambda _: None,
    **options: Any,
) -> IngestReport:
    """Turn sources into a dataset in the directory `out`.

    Parameters
    ----------
    *sources : str, path or object
        Files, directories, patterns, or objects with ``__arrow_c_stream__``: an
        Arrow table or reader, a Polars or pandas frame, a DuckDB relation.
    out : path
    target : str or None
        Column to predict; None takes the label of libsvm and of Vowpal Wabbit.
    target_file, weight_file : path, list of paths or None
        Arrays with the target and the row weights of each source that is an array.
    features_path, target_path, weight_path : str or None
        Arrays in a source that holds several: Zarr, HDF5, .npz.
    memory : int, str or None
        Bound on the whole process, like "512MB"; None takes half of what there is.
    listen : callable
        Receives progress, and messages as text.
    **options
        Other fields of `data_tools.options.IngestOptions`: splits, weight,
        numeric, categorical, drop, sql, date_parts, seed, overwrite, ...

    Returns
    -------
    IngestReport
        Rows read, written and rejected, columns, fingerprint, ...

    Raises
    ------
    ConfigError
        If an option is unknown.
    StreamtrainError
        As `data_tools.ingest.ingest` says; nothing is left behind then.
    """
    if target_file is not None or target_path is not None:
        target = target or TARGET
    if target is None and sources and all(_holds_arrays(source) for source in sources):
        target = TARGET
    return _ingest(
        _options(
            "ingest",
            {field.name for field in dataclasses.fields(IngestOptions)},
            options,
            sources=tuple(os.fspath(s) if isinstance(s, os.PathLike) else s for s in sources),
            out=Path(out),
            target=target,
            target_file=_as_paths(target_file),
            weight_file=_as_paths(weight_file),
            arrays=ArrayNames(features_path, target_path, weight_path),
            memory=memory,
        ),
        listen=listen,
    )


_ADOPT = frozenset({
    "weight", "exposure", "numeric", "categorical", "drop", "missing", "date_parts", "rare",
    "max_categories", "positive", "threads", "seed", "overwrite",
})  # fmt: skip


def adopt(
    folder: str | os.PathLike[str],
    *,
    target: str | None = None,
    target_file: str | os.PathLike[str] | None = None,
    splits: Mapping[str, float] | None = None,
    split_files: Mapping[str, str] | None = None,
    memory: int | str | None = None,
    listen: Listener = lambda _: None,
    **options: Any,
) -> IngestReport:
    """Make the Parquet files, or the Zarr arrays, of a directory a dataset where they are.

    Parameters
    ----------
    folder : path
    target : str or None
        Column to predict; of a Zarr group, the array of targets.
    target_file : path or None
        A .npy or a Zarr array inside of `folder`, in place of `target`.
    splits : mapping of str to float, or None
        Shares of the rows for valid and test, in whole blocks. None takes the
        directories train, valid and test where they are, else a tenth each.
    split_files : mapping of str to str, or None
        Patterns of the files of valid and test, in place of `splits`.
    memory : int, str or None
    listen : callable
    **options
        As of `ingest`, those that have a meaning for files that stay as they are.

    Returns
    -------
    IngestReport

    Raises
    ------
    ConfigError
        If an option is unknown, or there is no target.
    StreamtrainError
        As `data_tools.adopt.adopt` says; the directory is then as it was.
    """
    if target_file is not None:
        target = target or TARGET
    return _adopt(
        _options(
            "adopt",
            _ADOPT,
            options,
            sources=(),
            out=Path(folder),
            target=target,
            target_file=_as_paths(target_file),
            memory=memory,
            shuffle=False,
        ),
        splits=None if splits is None else dict(splits),
        split_files=dict(split_files or {}),
        listen=listen,
    )


def _options(
    where: str,
    known: Collection[str],
    options: dict[str, Any],
    *,
    target: str | None,
    memory: int | str | None,
    **fixed: Any,
) -> IngestOptions:
    for name in options:
        if name not in known:
            raise ConfigError(f"no option {name!r}{nearest(name, known)}", where=where)
    if target is None and where == "adopt":
        raise ConfigError("no target", where=where, remedy="name the column to predict")
    lists = (
        "numeric", "categorical", "drop", "missing", "date_parts", "text", "words", "characters",
    )  # fmt: skip
    plain: dict[str, Any] = {k: tuple(v) if k in lists else v for k, v in options.items()}
    return IngestOptions(
        target=target,
        memory=None if memory is None else parse_size(memory),
        **fixed,
        **plain,
    )


def _as_paths(given: Files) -> tuple[Path, ...]:
    if given is None:
        return ()
    if isinstance(given, (str, os.PathLike)):
        return (Path(given),)
    return tuple(Path(each) for each in given)


def _holds_arrays(source: Any) -> bool:
    return isinstance(source, (str, os.PathLike)) and holds_arrays(Path(source))
