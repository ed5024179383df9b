"""The library's `ingest`: keyword arguments in place of a command line."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from data_tools.ingest import ingest as _ingest
from data_tools.npy_source import TARGET_COLUMN
from data_tools.options import IngestOptions
from data_tools.report import IngestReport, Listener
from streamtrain.config import nearest, parse_size
from streamtrain.errors import ConfigError


def ingest(
    *sources: Any,
    out: str | os.PathLike[str],
    target: str | None = None,
    target_file: str | os.PathLike[str] | None = None,
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
    target_file : path or None
        A .npy with the target of a .npy source, in place of `target`.
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
    known = {field.name for field in dataclasses.fields(IngestOptions)}
    for name in options:
        if name not in known:
            raise ConfigError(f"no option {name!r}{nearest(name, known)}", where="ingest")
    if target_file is not None:
        target = target or TARGET_COLUMN
    lists = (
        "numeric",
        "categorical",
        "drop",
        "missing",
        "date_parts",
        "text",
        "words",
        "characters",
    )
    plain: dict[str, Any] = {k: tuple(v) if k in lists else v for k, v in options.items()}
    return _ingest(
        IngestOptions(
            sources=tuple(os.fspath(s) if isinstance(s, os.PathLike) else s for s in sources),
            out=Path(out),
            target=target,
            target_file=None if target_file is None else Path(target_file),
            memory=None if memory is None else parse_size(memory),
            **plain,
        ),
        listen=listen,
    )
