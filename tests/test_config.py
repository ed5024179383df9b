import pytest

from streamtrain.config import (
    format_size,
    nearest,
    parse_interval,
    parse_size,
    parse_splits,
    read_config,
)
from streamtrain.errors import ConfigError, NoInputError, UsageError


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("512MB", 512 * 10**6),
        ("2GiB", 2 << 30),
        ("1.5 kB", 1500),
        ("7", 7),
        (" 3 tib ", 3 << 40),
        ("10M", 10**7),
        (12345, 12345),
    ],
)
def test_sizes_read_as_people_write_them(text, n_bytes):
    assert parse_size(text) == n_bytes


@pytest.mark.parametrize(
    "text", ["", "MB", "12XB", "-5MB", "0", "0.0GB", "1e9", "1,5GB", "0.1", -5, "9" * 400]
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("500", (500, None)),
        ("30s", (None, 30.0)),
        ("5min", (None, 300.0)),
        ("0.5h", (None, 1800.0)),
    ],
)
def test_intervals_are_steps_or_seconds(text, interval):
    assert parse_interval(text) == interval


@pytest.mark.parametrize("text", ["", "0", "0s", "-1", "1.5", "3 days", "s", "9" * 5000])
def test_what_is_no_interval_is_refused(text):
    with pytest.raises(UsageError):
        parse_interval(text)


def test_splits_are_fractions_of_known_names():
    assert parse_splits("valid=0.1,test=0.2") == {"valid": 0.1, "test": 0.2}
    assert parse_splits("none") == {}
    assert parse_splits("valid=0") == {}
    for text in ("valid", "valid=x", "train=0.5", "valid=0.1,valid=0.1", "valid=2", "valid=nan"):
        with pytest.raises(UsageError):
            parse_splits(text)
    with pytest.raises(UsageError, match="more than all"):
        parse_splits("valid=0.6,test=0.6")


def test_a_size_is_shown_in_powers_of_a_thousand():
    assert [format_size(n) for n in (0, 999, 1000, 1.5e6, 2e12, 3e15)] == [
        "0 B", "999 B", "1.0 kB", "1.5 MB", "2.0 TB", "3000.0 TB",
    ]  # fmt: skip


def test_a_near_name_is_offered():
    assert "income" in nearest("incom", ["age", "income"])
    assert nearest("zzz", ["age", "income"]) == ""


def test_a_configuration_file_is_toml_with_the_options_names(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('batch-size = 64\nlr = 0.1\nmemory = "1GB"\n')
    assert read_config(file) == {"batch_size": 64, "lr": 0.1, "memory": "1GB"}
    file.write_text("batch-size = ")
    with pytest.raises(ConfigError, match="not TOML"):
        read_config(file)
    file.write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match="not TOML"):
        read_config(file)
    for missing in (tmp_path / "nothing.toml", tmp_path):
        with pytest.raises(NoInputError):
            read_config(missing)
