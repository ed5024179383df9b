"""Values as people write them: sizes, durations, fractions, and configuration files."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from streamtrain.errors import ConfigError, NoInputError, UsageError

_UNITS = {
    "": 1,
    "b": 1,
    "k": 10**3, "kb": 10**3, "kib": 2**10,
    "m": 10**6, "mb": 10**6, "mib": 2**20,
    "g": 10**9, "gb": 10**9, "gib": 2**30,
    "t": 10**12, "tb": 10**12, "tib": 2**40,
}  # fmt: skip
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*")
_MAX = 2.0**63
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_SPLIT_NAMES = ("valid", "test")


def parse_size(text: str | int) -> int:
    """Return the bytes in a size such as ``512MB`` (10**6) or ``2GiB`` (2**30).

    Raises
    ------
    UsageError
        If the text is not a positive number with a known unit.
    """
    match = _SIZE.fullmatch(str(text))
    unit = _UNITS.get(match[2].lower()) if match else None
    n_bytes = float(match[1]) * unit if match and unit else 0.0
    if not 1 <= n_bytes < _MAX:
        raise UsageError(f"{text!r} is not a size", remedy="write it like 512MB or 2GiB")
    return int(n_bytes)


def format_size(n_bytes: float) -> str:
    """Return bytes as a person reads them, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(n_bytes) < 1000 or unit == "TB":
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    raise AssertionError


def parse_interval(text: str) -> tuple[int | None, float | None]:
    """Return (steps, seconds) of ``500`` or ``30s``; one of them is None.

    Raises
    ------
    UsageError
        If it is neither a count of steps nor a duration.
    """
    match = _SIZE.fullmatch(text)
    number = float(match[1]) if match else 0.0
    if match and 0 < number < _MAX and not match[2] and "." not in match[1]:
        return int(match[1]), None
    if match and 0 < number < _MAX and match[2].lower() in _SECONDS:
        return None, float(match[1]) * _SECONDS[match[2].lower()]
    raise UsageError(
        f"{text!r} is not an interval", remedy="write steps like 500 or a time like 30s or 5min"
    )


def parse_splits(text: str) -> dict[str, float]:
    """Return the fractions in ``valid=0.1,test=0.1``; ``none`` gives no splits.

    Raises
    ------
    UsageError
        If a name is not valid or test, or the fractions leave nothing to train on.
    """
    if text.strip() in {"", "none"}:
        return {}
    splits: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        try:
            fraction = float(value)
        except ValueError:
            fraction = -1.0
        if name not in _SPLIT_NAMES or name in splits or not 0 <= fraction <= 1:
            raise UsageError(
                f"{part.strip()!r} is not a split", remedy="write --split valid=0.1,test=0.1"
            )
        splits[name] = fraction
    if sum(splits.values()) > 1 + 1e-9:
        raise UsageError(f"the splits {text!r} take more than all rows")
    return {name: f for name, f in splits.items() if f > 0}


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the closest known name, or ""."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def read_config(path: Path) -> dict[str, Any]:
    """Return the options in a TOML file, with ``-`` in names read as ``_``.

    Raises
    ------
    NoInputError
        If there is no such file.
    ConfigError
        If it is not TOML.
    """
    try:
        with path.open("rb") as file:
            options = tomllib.load(file)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NoInputError("no such configuration file", where=str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"not TOML: {error}", where=str(path)) from error
    return {name.replace("-", "_"): value for name, value in options.items()}
