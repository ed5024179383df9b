"""Times against Python's own calendar."""

import datetime as dt
import random

import numpy as np
import pyarrow as pa
import pytest

from streamtrain.store.dates import part_of, read_times
from streamtrain.store.schema import DATE_PART_NAMES

UTC = dt.UTC


def moments(n=400):
    rng = random.Random(2)
    edges = [
        dt.datetime(1970, 1, 1), dt.datetime(1969, 12, 31, 23, 59, 59), dt.datetime(2000, 2, 29),
        dt.datetime(2023, 12, 31, 23), dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59),
    ]  # fmt: skip
    start = dt.datetime(1900, 1, 1)
    return edges + [start + dt.timedelta(seconds=rng.randrange(6 * 10**9)) for _ in range(n)]


def expected(moment):
    seconds = (moment - dt.datetime(1970, 1, 1)) // dt.timedelta(seconds=1)
    return [moment.hour, moment.weekday(), moment.timetuple().tm_yday, seconds]


def parts(array):
    seconds, good = read_times(array)
    assert good.all()
    return np.stack([part_of(seconds, good, part) for part in DATE_PART_NAMES], axis=1).tolist()


@pytest.mark.parametrize(
    "form", ["{:%Y-%m-%dT%H:%M:%S}", "{:%Y-%m-%d %H:%M:%S}.987654321", " {}\t"]
)
def test_text_is_read_as_pythons_calendar_reads_it(form):
    found = [m for m in moments() if m.year >= 1000]
    assert parts(pa.array([form.format(m) for m in found])) == [expected(m) for m in found]


@pytest.mark.parametrize(
    "kind", [pa.timestamp(u) for u in ("s", "ms", "us")] + [pa.timestamp("us", "UTC")]
)
def test_timestamps_of_every_unit_are_read_alike(kind):
    found = moments()
    array = pa.array([None, *found], kind)[1:]  # a slice: the offset is not 0
    assert parts(array) == [expected(m) for m in found]


def test_dates_are_midnights():
    days = [m.date() for m in moments()]
    midnights = [dt.datetime.combine(d, dt.time()) for d in days]
    for kind in (pa.date32(), pa.date64()):
        assert parts(pa.array(days, kind)) == [expected(m) for m in midnights]
    assert parts(pa.array([str(d) for d in days])) == [expected(m) for m in midnights]


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2024-05-31T18:30", "2024-05-31T18:30"),
        ("2024-05-31T18:30:15Z", "2024-05-31T18:30:15"),
        ("2024-05-31T18:30:15,5+02:00", "2024-05-31T16:30:15"),
        ("2024-01-01 00:30:00-0130", "2024-01-01T02:00:00"),
        ("2024-01-01 00:30+01", "2023-12-31T23:30:00"),
    ],
)
def test_an_offset_leads_to_utc(text, utc):
    assert parts(pa.array([text])) == [expected(dt.datetime.fromisoformat(utc))]


@pytest.mark.parametrize(
    "text",
    [
        "", "2024", "2024-05", "20240531", "2024-5-31", "24-05-31", "2024-02-30", "2023-02-29",
        "2024-13-01", "2024-00-01", "2024-01-00", "2024-01-32", "2024-05-31T", "2024-05-31T24:00",
        "2024-05-31T12", "2024-05-31T12:60", "2024-05-31T12:00:60", "2024-05-31T12:00:00.",
        "2024-05-31T12:00+24:00", "2024-05-31T12:00 Z", "x2024-05-31", "2024-05-31x",
        "2024-05-31\n", "٢٠٢٤-05-31", None,
    ],
)  # fmt: skip
def test_what_is_no_time_is_none(text):
    seconds, good = read_times(pa.array([text, "2024-05-31"], pa.string()))
    assert good.tolist() == [False, True]
    assert np.isnan(part_of(seconds, good, "hour")[0])


def test_a_null_timestamp_is_none():
    seconds, good = read_times(pa.array([None, dt.datetime(2024, 5, 31, tzinfo=UTC)]))
    assert good.tolist() == [False, True]
    assert np.isnan([part_of(seconds, good, part)[0] for part in DATE_PART_NAMES]).all()
