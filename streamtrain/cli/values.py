"""Types of options: what people write, checked while the line is parsed (exit code 2)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamtrain.config import nearest, parse_interval, parse_size, parse_splits, read_config
from streamtrain.errors import ConfigError, UsageError
from streamtrain.store.schema import DATE_PART_NAMES

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # takes no parameter before the newest versions of click


class _Parsed(_ParamType):
    """A type whose values are parsed by a function that raises UsageError."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the parsed value; a value that is parsed already as it is."""
        if isinstance(value, tuple):
            return value
        try:
            # A configuration file has numbers where the command line has text.
            return self._parse(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


def _count_or_auto(text: str) -> int | str:
    if text == "auto":
        return text
    if not re.fullmatch("0*[1-9][0-9]{0,17}", text):
        raise UsageError(f"{text!r} is neither a number of rows nor auto")
    return int(text)


def _widths(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("0*[1-9][0-9]{0,8}", part) for part in parts):
        raise UsageError(f"{text!r} is not a list of widths", remedy="write it like 64,64")
    return tuple(int(part) for part in parts)


def _layers(text: str) -> tuple[dict[str, Any], ...]:
    try:
        layers = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not JSON: {error}") from error
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        raise UsageError("not a list of layers", remedy="see docs/networks.md")
    return tuple(layers)


SIZE = _Parsed("size", parse_size)
INTERVAL = _Parsed("interval", parse_interval)
SPLITS = _Parsed("splits", parse_splits)
BATCH_SIZE = _Parsed("rows", _count_or_auto)
WIDTHS = _Parsed("widths", _widths)
LAYERS = _Parsed("layers", _layers)
NAMES = _Parsed("names", lambda text: tuple(n.strip() for n in text.split(",") if n.strip()))


def _date_parts(text: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(p.strip() for p in text.split(",") if p.strip()))
    if found == ("none",):
        return ()
    for part in found:
        if part not in DATE_PART_NAMES:
            known = ", ".join(DATE_PART_NAMES)
            raise UsageError(f"no part {part!r} of a time", remedy=f"choose of {known}")
    return found or DATE_PART_NAMES


def _lengths(text: str) -> tuple[int, int]:
    if text.strip().lower() == "none":
        return 0, 0
    low, _, high = text.strip().partition("-")
    if not low.isdigit() or not (high or low).isdigit():
        raise UsageError(f"{text!r} is no range of lengths", remedy="write 1-2, 3 or none")
    found = int(low), int(high or low)
    if not 1 <= found[0] <= found[1] <= _MAX_RUN:
        raise UsageError(f"{text!r} is not within 1-{_MAX_RUN}", remedy="write 1-2, 3 or none")
    return found


_MAX_RUN = 8
LENGTHS = _Parsed("lengths", _lengths)
DATE_PARTS = _Parsed("parts", _date_parts)


def kind_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--kind``."""
    return click.option(
        "--kind",
        metavar="KIND",
        show_default="told by first bytes and name",
        help="What the sources are: csv, json, parquet, ipc, libsvm, vw, npy, npz, hdf5, zarr, "
        "anndata, or raw: values alone, with --dtype and --shape.",
    )(function)


def _shape(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("-1|[0-9]{1,15}", part) for part in parts):
        raise UsageError(f"{text!r} is no shape", remedy="write it like 1000,28, or -1,28")
    return tuple(int(part) for part in parts)


SHAPE = _Parsed("shape", _shape)


def array_options(*, targets: bool) -> Callable[..., Any]:
    """Return what adds the options of sources that are arrays.

    Parameters
    ----------
    targets : bool
        Whether the command takes targets and row weights.
    """
    added = [
        click.option(
            "--features-path",
            metavar="PATH",
            show_default="features, X, or the only array",
            help="Array of features in a source of several: Zarr, HDF5, .npz.",
        ),
        click.option(
            "--dtype", metavar="TYPE", help="Of the values with --kind raw, like float32 or >i2."
        ),
        click.option(
            "--shape",
            type=SHAPE,
            metavar="N,D",
            help="Of the array with --kind raw; -1 as N is as many rows as the file holds.",
        ),
    ]
    if targets:
        added[1:1] = [
            click.option(
                "--target-path",
                metavar="PATH",
                show_default="target or y",
                help="Array of targets in such a source, in place of --target.",
            ),
            click.option(
                "--weight-path",
                metavar="PATH",
                show_default="weight, if there is one",
                help="Array of row weights in such a source.",
            ),
            click.option(
                "--weight-file",
                type=click.Path(path_type=Path),
                multiple=True,
                metavar="FILE",
                help="Row weights of SOURCE, an array of one for each row; once for each SOURCE.",
            ),
        ]

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(added):
            function = option(function)
        return function

    return add


def target_file_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--target-file``."""
    return click.option(
        "--target-file",
        type=click.Path(path_type=Path),
        multiple=True,
        metavar="FILE",
        help="Targets of SOURCE, an array of rows, in an array of their own: .npy, IDX (or .gz), "
        "Zarr; several for each row if it is (N, M); once for each SOURCE.",
    )(function)


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--json``."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON to stdout instead of text."
    )(function)


def memory_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--memory``."""
    return click.option(
        "--memory",
        type=SIZE,
        metavar="SIZE",
        show_default="half of what the machine and its control group allow",
        help="Bound on the whole process's resident memory, like 512MB or 2GiB.",
    )(function)


def threads_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--threads``."""
    return click.option(
        "--threads",
        type=click.IntRange(0, 1024),
        default=0,
        show_default="every core",
        help="Threads that compute. Never changes a result.",
    )(function)


def _load_config(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    del param
    if value is None:
        return
    options = read_config(value)
    known = {p.name: p for p in ctx.command.params if p.name and p.name != "config"}
    # People write the option's own name; parameters may be called otherwise inside.
    names = {
        opt.lstrip("-").replace("-", "_"): p.name
        for p in known.values()
        for opt in p.opts
        if opt.startswith("--")
    }
    for name in options:
        if name not in names:
            raise ConfigError(
                f"no option {name!r}{nearest(name, names)}",
                where=str(value),
                remedy=f"see `{ctx.command_path} --help`",
            )
    ctx.default_map = {
        **(ctx.default_map or {}),
        **{
            # As text, as on the line: click would take 1.5 epochs for 1.
            str(names[name]): [_as_text(item) for item in (v if isinstance(v, list) else [v])]
            if known[str(names[name])].multiple
            else _as_text(v)
            for name, v in options.items()
        },
    }


def _as_text(value: Any) -> str:
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return json.dumps(value)
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def config_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--config run.toml``: the same names as the options, which win."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_load_config,
        metavar="FILE.toml",
        help="Read options from a file, under the same names; options given here win.",
    )(function)
