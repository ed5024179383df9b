"""Times as numbers that a model can use: hour, weekday, day of the year, seconds since 1970.

Times with an offset, and Arrow's with a time zone, are taken in UTC; others as
they are written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_ISO = (
    r"^[ \t]*(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[T ](?P<clock>[0-9]{2}:[0-9]{2}(?::[0-9]{2})?)(?:[.,][0-9]{1,9})?"
    r"(?P<zone>Z|[+-][0-9]{2}(?::?[0-9]{2})?)?)?[ \t]*$"
)
_DAY_S = 86_400
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}

Seconds = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def part_name(column: str, part: str) -> str:
    """Return the name of a part's column."""
    return f"{column}.{part}"


def is_time(told: Any) -> bool:
    """Return whether an Arrow type is that of times or dates."""
    return bool(pa.types.is_timestamp(told) or pa.types.is_date(told))


def read_times(array: pa.Array) -> tuple[Seconds, Mask]:
    """Return seconds since 1970 of Arrow's times or of ISO 8601 text, and which there are.

    Parameters
    ----------
    array : pa.Array
        Timestamps, dates, or strings.

    Returns
    -------
    seconds : (n,) int64
        Rounded down, 0 where there is no time.
    good : (n,) bool
    """
    if is_time(array.type):
        return _from_arrow(array)
    found = pc.extract_regex(array.cast(pa.string()), _ISO)
    good = np.asarray(found.is_valid().to_numpy(zero_copy_only=False), np.bool_)
    day, clock, zone = (found.field(name) for name in ("day", "clock", "zone"))
    year, month, date = _digits(day, 0, 4), _digits(day, 5, 7), _digits(day, 8, 10)
    good &= (month >= 1) & (month <= 12) & (date >= 1)
    first = (year - 1970).astype("M8[Y]").astype("M8[M]") + np.clip(month - 1, 0, 11)
    days = first.astype("M8[D]") + (date - 1)
    good &= days.astype("M8[M]") == first  # no 30th of February
    hour, minute, second = _digits(clock, 0, 2), _digits(clock, 3, 5), _digits(clock, 6, 8)
    good &= (hour < 24) & (minute < 60) & (second < 60)
    zone = pc.replace_substring(zone, ":", "")
    sign = np.where(_bytes_equal(zone, "-"), -1, 1)
    offset = sign * (_digits(zone, 1, 3) * 3600 + _digits(zone, 3, 5) * 60)
    good &= np.abs(offset) < _DAY_S
    seconds = days.astype(np.int64) * _DAY_S + hour * 3600 + minute * 60 + second - offset
    return np.where(good, seconds, 0), good


def _from_arrow(array: pa.Array) -> tuple[Seconds, Mask]:
    good = np.asarray(array.is_valid().to_numpy(zero_copy_only=False), np.bool_)
    kind = array.type
    if pa.types.is_date32(kind):
        days = np.frombuffer(array.buffers()[1], np.int32, count=array.offset + len(array))
        seconds = days[array.offset :].astype(np.int64) * _DAY_S
    else:
        unit = "ms" if pa.types.is_date64(kind) else kind.unit
        values = np.frombuffer(array.buffers()[1], np.int64, count=array.offset + len(array))
        seconds = values[array.offset :] // _UNITS[unit]
    return np.where(good, seconds, 0), good


def _digits(array: pa.Array, start: int, stop: int) -> Seconds:
    """Return the number that a stretch of each text spells, 0 where there is none."""
    text = pc.utf8_slice_codeunits(array, start, stop)
    text = pc.if_else(pc.equal(pc.binary_length(text), 0), "0", text).fill_null("0")
    return np.asarray(text.cast(pa.int64()).to_numpy(zero_copy_only=False), np.int64)


def _bytes_equal(array: pa.Array, start: str) -> Mask:
    there = pc.starts_with(array, start).fill_null(False)
    return np.asarray(there.to_numpy(zero_copy_only=False), np.bool_)


def part_of(seconds: Seconds, good: Mask, part: str) -> npt.NDArray[np.float64]:
    """Return a part of times as float64, NaN where there is no time.

    Parameters
    ----------
    seconds : (n,) int64
    good : (n,) bool
    part : str
        One of `schema.DATE_PART_NAMES`.
    """
    days = seconds // _DAY_S
    if part == "hour":
        found = (seconds - days * _DAY_S) // 3600
    elif part == "weekday":
        found = (days + 3) % 7  # 1970 began on a Thursday
    elif part == "yearday":
        dates = days.astype("M8[D]")
        found = (dates - dates.astype("M8[Y]").astype("M8[D]")).astype(np.int64) + 1
    else:
        found = seconds
    return np.where(good, found.astype(np.float64), np.nan)
