import csv
import errno
import gzip
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_tools.ingest import ingest
from data_tools.options import IngestOptions
from streamtrain.errors import (
    DiskError,
    NoInputError,
    OutputError,
    SchemaError,
    SourceError,
    UsageError,
)
from streamtrain.store.manifest_file import read_manifest

GOOD = b"x,c,y\n" + b"".join(b"%d,k%d,%d\n" % (i, i % 3, i % 2) for i in range(400))


def run(tmp_path, content, *, target="y", **options):
    path = tmp_path / "in.csv"
    path.write_bytes(content)
    options.setdefault("threads", 2)
    return ingest(
        IngestOptions(sources=(str(path),), out=tmp_path / "out", target=target, **options)
    )


def rejected(tmp_path):
    with (tmp_path / "out/rejected/part-00000.csv").open(newline="") as file:
        return [(int(r["line"]), r["reason"], r["row"]) for r in csv.DictReader(file)]


def no_debris(tmp_path):
    return sorted(p.name for p in tmp_path.iterdir()) == ["in.csv"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"1,2", "2 fields, expected 3"),
        (b"1,2,0,4", "4 fields, expected 3"),
        (b'1,"open,1', "unclosed quote"),
        (b"1,a\0b,1", "NUL byte"),
        (b"1,caf\xe9,1", "not UTF-8"),
        (b"nine,k,1", "x: not a number"),
        (b"1e400,k,1", "x: not finite"),
        (b"1e39,k,1", "x: not finite"),
        (b"inf,k,0", "x: not finite"),
        (b"1,k,", "missing target"),
        (b"1,k,?", "missing target"),
    ],
)
@pytest.mark.parametrize("place", [1, 200, 400])
def test_a_bad_row_is_kept_with_its_line_and_reason(tmp_path, bad, reason, place):
    lines = GOOD.splitlines()
    lines.insert(place, bad)
    report = run(tmp_path, b"\n".join(lines) + b"\n", splits={})
    assert (report.rows_read, report.rows_written, report.rows_rejected) == (401, 400, 1)
    raw = (tmp_path / "out/rejected/part-00000.csv").read_bytes().split(b"\n", 1)[1]
    quoted = b'"' + bad.replace(b'"', b'""') + b'"'
    assert raw.endswith(b"," + quoted + b"\n")
    assert raw.startswith(f"{tmp_path}/in.csv,{place + 1},".encode())
    assert reason.encode() in raw
    (source,) = read_manifest(tmp_path / "out").sources
    assert source.rows_read == source.rows_written + source.rows_rejected == 401


def test_lines_are_physical_behind_quoted_newlines_and_blank_lines(tmp_path):
    content = GOOD + b'1,"a\nb\nc",1\n\n\n7,8\n2,"d\r\ne",0\r\n9,9,9,9\n'
    report = run(tmp_path, content)
    assert rejected(tmp_path) == [
        (407, "2 fields, expected 3", "7,8"),
        (410, "4 fields, expected 3", "9,9,9,9"),
    ]
    assert (report.rows_blank, report.rows_rejected, report.rows_written) == (2, 2, 402)
    assert report.reasons == {"wrong number of fields": 2}


def test_an_unclosed_quote_does_not_swallow_the_rest(tmp_path):
    lines = GOOD.splitlines(keepends=True)
    report = run(tmp_path, b"".join([*lines[:100], b'1,"oops,1\n', *lines[100:]]))
    assert report.rows_written == 400
    assert rejected(tmp_path) == [(101, "unclosed quote", '1,"oops,1')]


def test_a_file_cut_in_the_middle_of_a_row_loses_that_row_alone(tmp_path):
    report = run(tmp_path, GOOD + b"17,k")
    assert (report.rows_written, report.rows_rejected) == (400, 1)


def test_the_first_bad_row_ends_the_work_if_so_told(tmp_path):
    content = GOOD + b"1,2\n1,2,3,4\n"
    with pytest.raises(SourceError, match=r"in.csv, line 402: 2 fields, expected 3"):
        run(tmp_path, content, on_bad_row="fail")
    assert no_debris(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\n\r\n\n", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"x,c,y\n", "a header and no rows"),
        (b"x,c,y\n\n\n", "a header and no rows"),
        (b"x,y,x\n1,2,3\n", "'x' occurs twice"),
        ("x,y\n1,2\n".encode("utf-16"), "UTF-16"),
        ("x,y\n1,2\n".encode("utf-32"), "UTF-16 or UTF-32"),
        (b"x,y\n1,5\n2,5\n", "one value, '5', in all 2 rows"),
        (b"x,y\na,no\nb,no\n", "one value, 'no', in all 2 rows"),
        (b"x,y\n1\n2\n", "no row can be used: line 2: 1 field, expected 2"),
        (b"x,y\n1,\n2,\n", "no row can be used: line 2: missing target"),
        (b'"x,y\n1,2\n', "the first line cannot be read: unclosed quote"),
        (gzip.compress(GOOD)[:-20], "damaged or cut short"),
        (gzip.compress(GOOD * 50)[:200] + b"rubbish" * 90, "damaged or cut short"),
        (b"x,y\n1," + b"z" * (7 << 20), "no end within"),
    ],
)
def test_a_source_that_cannot_be_used_is_refused_in_one_line(tmp_path, content, message):
    with pytest.raises(SourceError) as caught:
        run(tmp_path, content)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 65
    assert no_debris(tmp_path)


def test_a_text_target_with_too_many_values_is_refused(tmp_path):
    content = b"x,y\n" + b"".join(b"1,v%d\n" % i for i in range(1001))
    with pytest.raises(SchemaError, match=r"1,001 distinct values"):
        run(tmp_path, content)


@pytest.mark.parametrize(
    "option",
    [
        {"target": "yy"},
        {"weight": "xx"},
        {"split_by": "xx"},
        {"drop": ("xx",)},
        {"numeric": ("xx",)},
        {"positive": "2"},
        {"weight": "y"},
        {"numeric": ("x",), "categorical": ("x",)},
        {"drop": ("x", "c")},
    ],
)
def test_an_option_that_names_no_such_thing_is_refused(tmp_path, option):
    with pytest.raises(SchemaError):
        run(tmp_path, GOOD, **option)
    assert no_debris(tmp_path)


def test_classes_that_float32_would_merge_are_refused_and_kept_apart_as_names(tmp_path):
    rows = b"x,y\n" + b"".join(b"%d,%d\n" % (i, 2**24 + i % 5) for i in range(200))
    with pytest.raises(SchemaError, match=r"above 2\^24.*--categorical y"):
        run(tmp_path, rows)
    assert no_debris(tmp_path)
    report = run(tmp_path, rows, categorical=("y",))
    assert report.classes == [str(2**24 + i) for i in range(5)]


def test_a_target_that_varies_by_less_than_float32_is_not_called_constant(tmp_path):
    rows = b"x,y\n" + b"".join(b"%d,%.3f\n" % (i, 1e9 + i / 1000) for i in range(200))
    with pytest.raises(SchemaError, match="one value as float32; subtract an offset"):
        run(tmp_path, rows)


def test_whole_numbers_above_two_to_the_24th_may_be_regressed_on(tmp_path):
    rows = b"x,y\n" + b"".join(b"%d,%d\n" % (i, 2**24 + 2 * i) for i in range(200))
    assert run(tmp_path, rows).task == "regression"


def test_the_working_directory_may_be_the_output(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "in.csv").write_bytes(GOOD)
    monkeypatch.chdir(tmp_path / "out")
    ingest(IngestOptions(sources=("../in.csv",), out=Path(), target="y"))
    assert read_manifest(tmp_path / "out").n_rows("train") > 0


def test_the_nearest_column_is_suggested(tmp_path):
    with pytest.raises(SchemaError, match=r"did you mean 'colour'"):
        run(tmp_path, b"colour,y\n1,0\n2,1\n", target="color")


@pytest.mark.parametrize("weight", [b"", b"-1", b"heavy", b"inf"])
def test_a_row_whose_weight_cannot_be_used_is_rejected(tmp_path, weight):
    content = b"x,w,y\n" + b"1,1,0\n2,1,1\n" * 100 + b"3," + weight + b",1\n"
    assert run(tmp_path, content, weight="w").rows_rejected == 1


def test_another_header_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(GOOD)
    (tmp_path / "b.csv").write_bytes(GOOD.replace(b"x,c", b"x,d", 1))
    with pytest.raises(SourceError, match=r"column 'd', expected 'c' as in"):
        ingest(IngestOptions(sources=(f"{tmp_path}/[ab].csv",), out=tmp_path / "out", target="y"))


@pytest.mark.parametrize("name", ["nothing.csv", "nothing-*.csv", "."])
def test_an_input_that_is_not_there_is_66(tmp_path, name):
    options = IngestOptions(sources=(f"{tmp_path}/{name}",), out=tmp_path / "out", target="y")
    with pytest.raises(NoInputError) as caught:
        ingest(options)
    assert caught.value.exit_code == 66


def test_an_output_that_exists_is_kept_unless_told_otherwise(tmp_path):
    run(tmp_path, GOOD)
    before = read_manifest(tmp_path / "out").fingerprint
    with pytest.raises(OutputError, match=r"--overwrite"):
        run(tmp_path, GOOD, seed=5)
    assert read_manifest(tmp_path / "out").fingerprint == before
    run(tmp_path, GOOD, seed=5, overwrite=True)
    assert read_manifest(tmp_path / "out").fingerprint != before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.csv", "out"]


def test_a_failed_overwrite_leaves_the_old_dataset(tmp_path):
    run(tmp_path, GOOD)
    before = read_manifest(tmp_path / "out").fingerprint
    with pytest.raises(SourceError):
        run(tmp_path, b"x,y\n", overwrite=True)
    assert read_manifest(tmp_path / "out").fingerprint == before


def test_a_directory_that_is_no_dataset_is_never_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"not a dataset"):
        run(tmp_path, GOOD, overwrite=True)
    assert (tmp_path / "out/thesis.txt").read_text() == "mine"


def test_an_empty_directory_may_be_the_output(tmp_path):
    (tmp_path / "out").mkdir()
    assert run(tmp_path, GOOD).rows_written == 400


def test_a_source_inside_the_output_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/in.csv").write_bytes(GOOD)
    (tmp_path / "out/dataset.json").write_text("{}")
    options = IngestOptions(
        sources=(f"{tmp_path}/out/in.csv",), out=tmp_path / "out", target="y", overwrite=True
    )
    with pytest.raises(SourceError, match=r"inside the output"):
        ingest(options)
    assert (tmp_path / "out/in.csv").exists()


def test_a_source_that_grows_meanwhile_is_refused(tmp_path, monkeypatch):
    from data_tools import byte_stream

    original = byte_stream.ByteStream.end

    def grow(stream):
        with (tmp_path / "in.csv").open("ab") as file:
            file.write(b"1,k,1\n")
        return original(stream)

    monkeypatch.setattr(byte_stream.ByteStream, "end", grow)
    with pytest.raises(SourceError, match=r"changed while it was being read"):
        run(tmp_path, GOOD)
    assert no_debris(tmp_path)


@pytest.mark.parametrize(
    "where", ["data_tools.partitions.os.pwrite", "parquet", "zarr", "vocabulary"]
)
def test_a_full_disk_is_74_and_leaves_nothing(tmp_path, monkeypatch, where):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file_format = where if where in {"parquet", "zarr"} else "parquet"
    if where == file_format:
        monkeypatch.setattr("streamtrain.store.block_writer.HashingFile.write", full)
    elif where == "vocabulary":
        monkeypatch.setattr("streamtrain.durable.os.fsync", full)
    else:
        monkeypatch.setattr(where, full)
    with pytest.raises(DiskError) as caught:
        run(tmp_path, GOOD, format=file_format)
    assert caught.value.exit_code == 74
    assert "No space left" in str(caught.value)
    assert no_debris(tmp_path)


@pytest.mark.parametrize("option", [{"delimiter": '"'}, {"encoding": "klingon"}, {"block_rows": 0}])
def test_an_option_that_cannot_be_read_is_2(tmp_path, option):
    with pytest.raises(UsageError):
        run(tmp_path, GOOD, **option)


_SLOW = """
import sys, time
from pathlib import Path
from data_tools.ingest import ingest
from data_tools.options import IngestOptions
def listen(event):
    print("working", flush=True)
    time.sleep(60)
ingest(IngestOptions(sources=(sys.argv[1],), out=Path(sys.argv[2]), target="y"), listen=listen)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_ingest_leaves_nothing_that_the_next_trips_over(tmp_path, how):
    (tmp_path / "in.csv").write_bytes(GOOD)
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW, str(tmp_path / "in.csv"), str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.1)
        process.send_signal(how)
    assert process.returncode != 0
    if how == signal.SIGINT:
        assert no_debris(tmp_path)
    assert not (tmp_path / "out").exists()
    assert run(tmp_path, GOOD).rows_written == 400
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.csv", "out"]
