"""Types of options: what people write, checked while the line is parsed (exit code 2)."""

from __future__ import annotations

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


SIZE = _Parsed("size", parse_size)
INTERVAL = _Parsed("interval", parse_interval)
SPLITS = _Parsed("splits", parse_splits)
BATCH_SIZE = _Parsed("rows", _count_or_auto)
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


DATE_PARTS = _Parsed("parts", _date_parts)


def kind_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--kind``."""
    return click.option(
        "--kind",
        metavar="KIND",
        show_default="told by first bytes and name",
        help="What the sources are: csv, json, parquet, ipc, libsvm, npy or npz.",
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
            str(names[name]): ",".join(map(str, v)) if isinstance(v, list) else str(v)
            for name, v in options.items()
        },
    }


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
