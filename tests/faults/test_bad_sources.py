"""What is damaged, hostile or of no use: one line, code 65 (or 66, 78), nothing half-written."""

import json
import os
import pickle
import random

import numpy as np
import pyarrow as pa
import pytest

from data_tools import byte_stream, stored_file
from streamtrain.errors import NoInputError, SchemaError, SourceError, StreamtrainError
from tests.data_tools.tables import as_jsonl, made_table, npy, run, write, write_file

TABLE = made_table(200)


def refused(folder, *sources, kind=SourceError, **options):
    """Check that an ingest is refused in one line and leaves nothing; return the line."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(kind) as caught:
        run(folder, *sources, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert line.isprintable()
    assert len(line) < 700
    assert caught.value.exit_code == {SourceError: 65, NoInputError: 66, SchemaError: 78}[kind]
    assert sorted(folder.rglob("*")) == before
    return line


@pytest.mark.parametrize("kind", ["parquet", "ipc file", "ipc stream", "feather"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_short_is_refused(tmp_path, kind, kept):
    name = write(kind, TABLE, tmp_path)
    size = os.path.getsize(name)  # noqa: PTH202
    os.truncate(name, int(size * kept))
    assert refused(tmp_path, name).startswith(f"{name}: ")


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".feather", ".npy", ".npz"])
@pytest.mark.parametrize(
    "content", [b"x,y\n1,0\n2,1\n" * 50, b"", bytes(5000), b"PAR1", b"\xff" * 64]
)
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, ending, content):
    path = tmp_path / f"a{ending}"
    path.write_bytes(content)
    refused(tmp_path, str(path))


@pytest.mark.parametrize("kind", ["parquet", "ipc file", "ipc stream", "npy", "npz", "jsonl"])
def test_flipped_bits_are_refused_or_read_but_never_crash(tmp_path, kind):
    if kind.startswith("np"):
        name = str(tmp_path / f"a.{kind}")
        array = np.arange(600.0).reshape(200, 3)
        np.save(name, array) if kind == "npy" else np.savez(name, x=array)
        options = {"target": "-1"}
    else:
        name, options = write(kind, TABLE, tmp_path), {}
    with open(name, "rb") as file:  # noqa: PTH123
        sound = bytearray(file.read())
    rng = random.Random(7)
    places = [*range(0, min(len(sound), 600), 13), *(rng.randrange(len(sound)) for _ in range(60))]
    for k, place in enumerate(places):
        damaged = bytearray(sound)
        damaged[place] ^= 1 << rng.randrange(8)
        with open(name, "wb") as file:  # noqa: PTH123
            file.write(damaged)
        try:
            report, _ = run(tmp_path, name, out=f"d{k}", threads=1, **options)
        except StreamtrainError as error:
            found = error
        else:
            found = None
        if found is not None:
            assert found.exit_code in {65, 78}, found
            assert "\n" not in str(found)
            assert not (tmp_path / f"d{k}").exists()
        else:
            assert report.rows_read == report.rows_written + report.rows_rejected


@pytest.mark.parametrize("kind", ["parquet", "ipc file", "jsonl", "csv"])
def test_a_schema_that_differs_is_refused_with_file_and_column(tmp_path, kind):
    first = write(kind, TABLE, tmp_path, stem="a")
    other = TABLE.rename_columns(["id", "x", "small", "count", "flag", "color", "y"])
    if kind != "jsonl":  # files of JSON lines are one table with the keys of all
        line = refused(tmp_path, first, write(kind, other, tmp_path, stem="b"))
        assert "column 'color', expected 'colour' as in" in line
        line = refused(tmp_path, first, write(kind, TABLE.drop(["flag"]), tmp_path, stem="b"))
        assert "6 columns, expected 7" in line
        assert "'flag'" in line
    if kind in {"parquet", "ipc file"}:
        other = TABLE.set_column(1, "x", TABLE["colour"])
        line = refused(tmp_path, first, write(kind, other, tmp_path, stem="b"))
        assert "b." in line
        assert "column 'x' is string, expected double as in" in line


@pytest.mark.parametrize("kind", ["parquet", "ipc file", "ipc stream", "npy", "npz", "jsonl"])
@pytest.mark.parametrize("how", ["grows", "is touched", "is replaced"])
def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch, kind, how):
    options = {}
    if kind.startswith("np"):
        name = npy(tmp_path, np.arange(60.0).reshape(20, 3))
        if kind == "npz":
            name = str(tmp_path / "a.npz")
            np.savez(name, x=np.arange(60.0).reshape(20, 3))
        options = {"target": "-1"}
    else:
        name = write(kind, TABLE, tmp_path)

    def change(reading):
        if how == "grows":
            with open(name, "ab") as file:  # noqa: PTH123
                file.write(b"1,2\n")
        elif how == "is touched":
            os.utime(name, ns=(1, 1))
        else:
            with open(name, "rb") as file:  # noqa: PTH123
                data = file.read()
            os.rename(name, name + ".old")  # noqa: PTH104
            with open(name, "wb") as file:  # noqa: PTH123
                file.write(data)
            # Neither size nor time tell: only that it is another file.
            told = os.stat(name + ".old")  # noqa: PTH116
            os.utime(name, ns=(told.st_atime_ns, told.st_mtime_ns))
        return original(reading)

    home = byte_stream.ByteStream if kind == "jsonl" else stored_file.FileDigest
    original = home.end
    monkeypatch.setattr(home, "end", change)
    if kind == "jsonl" and how == "is replaced":
        return  # text is read from the file that was opened, whatever takes its name
    before = {p.name for p in tmp_path.iterdir()}
    with pytest.raises(SourceError, match="changed while it was being read"):
        run(tmp_path, name, **options)
    assert {p.name for p in tmp_path.iterdir() if p.suffix != ".old"} == before


def test_ragged_lists_are_refused(tmp_path):
    table = pa.table({"e": [[1.0], [1.0, 2.0], None], "y": [0, 1, 0]})
    for kind in ("parquet", "jsonl"):
        line = refused(tmp_path, write(kind, table, tmp_path))
        assert "'e' holds lists of 1 to 2 values, expected one length" in line


def test_a_later_ragged_list_is_refused_if_bad_rows_are(tmp_path):
    table = pa.table({"e": [[1, 2]] * 3000 + [[1]], "y": [0, 1, 0] * 1000 + [1]})
    line = refused(tmp_path, write("parquet", table, tmp_path), on_bad_row="fail")
    assert "row 3001: e: 1 values, expected 2" in line


class Bomb:
    def __reduce__(self):
        return print, ("loaded",)


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_pickled_objects_are_never_loaded(tmp_path, capsys, ending):
    objects = np.array([[Bomb(), 1]], dtype=object)
    name = str(tmp_path / f"a.{ending}")
    np.save(name, objects) if ending == "npy" else np.savez(name, x=objects)
    assert "holds pickled objects, which are never loaded" in refused(tmp_path, name, target="1")
    plain = tmp_path / "b.npy"
    plain.write_bytes(pickle.dumps(Bomb()))
    refused(tmp_path, str(plain))
    assert "loaded" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((2, 2, 2)), "expected a table of rows and columns"),
        (np.float64(3), "expected a table of rows and columns"),
        (np.zeros((3, 2), complex), "holds complex128, expected numbers"),
        (np.array([["a", "b"]]), "expected numbers"),
        (np.zeros(3, [("a", "f4")]), "expected numbers"),
    ],
)
def test_an_array_that_is_no_table_of_numbers_is_refused(tmp_path, array, says):
    assert says in refused(tmp_path, npy(tmp_path, array), target="-1")


def test_an_npy_that_claims_more_than_it_holds_is_refused(tmp_path):
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        told = {"descr": "<f8", "fortran_order": False, "shape": (10**12, 2)}
        np.lib.format.write_array_header_1_0(file, told)
        file.write(bytes(64))
    assert "for shape (1000000000000, 2)" in refused(tmp_path, str(path), target="1")


def test_targets_of_another_length_are_refused(tmp_path):
    np.save(tmp_path / "y.npy", np.zeros(5))
    options = {"target": "target", "target_file": tmp_path / "y.npy"}
    line = refused(tmp_path, npy(tmp_path, np.zeros((4, 2))), **options)
    assert "of shape (5,), expected (4,) for as many rows as" in line


def test_an_npz_without_one_table_is_refused(tmp_path):
    name = str(tmp_path / "a.npz")
    np.savez(name, a=np.zeros(3))
    assert "holds 0 tables" in refused(tmp_path, name)
    np.savez(name, a=np.zeros((3, 2)), b=np.zeros((3, 2)))
    assert "holds 2 tables" in refused(tmp_path, name)
    np.savez(name, a=np.zeros((3, 2)), y=np.zeros(4))
    assert "'y' has shape (4,), expected (3,)" in refused(tmp_path, name)
    np.savez(name, a=np.asfortranarray(np.zeros((3, 2))))
    assert "stored by columns" in refused(tmp_path, name)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("1 0:3 1:2", "index 0, expected 1 or more"),
        ("1 3:3 2:2", "indices are not ascending"),
        ("1 2:3 2:2", "indices are not ascending"),
        ("1 99999999999999999999:1 5:1", None),
    ],
)
def test_libsvm_whose_indices_make_no_table_is_refused(tmp_path, line, says):
    path = tmp_path / "a.svm"
    path.write_text(f"0 1:1\n1 2:1\n{line}\n1 1:2\n")
    if says is None:  # no index at all: the row alone is bad
        report, _ = run(tmp_path, str(path), target="label", splits={})
        assert report.reasons == {"not index:value": 1}
        return
    found = refused(tmp_path, str(path), target="label")
    assert says in found
    assert f"{path}, line 3: " in found


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"x": 1, "y": 0', "not JSON: Input data was truncated"),
        (b"[1, 2]", "not a JSON object"),
        (b"7", "not a JSON object"),
        (b"nonsense", "not JSON: JSON is malformed"),
        (b'{"x": "caf\xe9", "y": 0}', "not UTF-8"),
        (b'{"x": 1, "y": 0, "z": 5}', "a field that no row of the sample has: 'z'"),
        (b'{"x": {"a": 1}, "y": 0}', "x: an object, expected a value"),
        (b'{"x": [1], "y": 0}', "x: a list, expected a value"),
        (b'{"x": "nine", "y": 0}', "x: not a number"),
        (b'{"x": 1e39, "y": 0}', "x: not finite"),
        (b'{"x": 1, "y": null}', "missing target"),
        (b'{"x": 1}', "missing target"),
        (b'{"x": "a\\u0000b", "y": 1}', "NUL byte"),
        (b'{"x": "\\ud800", "y": 1}', "not JSON: JSON is malformed: unexpected end of hex escape"),
        (b'{"x": ' + b"[" * 100_000 + b', "y": 1}', "not JSON"),
    ],
)
def test_a_bad_line_of_json_is_kept_with_its_line_and_reason(tmp_path, monkeypatch, line, reason):
    good = b"".join(b'{"x": %d, "y": %d}\n' % (i, i % 2) for i in range(3000))
    # The sample sees the first lines alone.
    monkeypatch.setattr("data_tools.text_source.PIECE_BYTES", 20_000)
    monkeypatch.setattr("data_tools.text_source._SAMPLE_BYTES", 5_000)
    monkeypatch.setattr("data_tools.json_source._PLACES", 1)
    path = tmp_path / "a.jsonl"
    path.write_bytes(good + line + b"\n" + good)
    monkeypatch.setattr("data_tools.text_source.MAX_RECORD_BYTES", 1 << 20)
    report, _ = run(tmp_path, str(path))
    assert (report.rows_read, report.rows_rejected) == (6001, 1)
    kept = (tmp_path / "dataset/rejected/part-00000.csv").read_bytes().split(b"\n", 1)[1]
    assert kept.startswith(f"{path},3001,".encode())
    assert reason.split(": Input")[0].encode() in kept


def test_json_that_is_no_lines_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps([{"x": 1, "y": 0}] * 5, indent=1))
    assert "no row can be used" in refused(tmp_path, str(path))
    path.write_text("{}\n{}\n")
    assert "objects without fields" in refused(tmp_path, str(path))
    path.write_bytes(as_jsonl(TABLE).replace(b"\n", b" "))
    refused(tmp_path, str(path))


@pytest.mark.parametrize("kind", ["parquet", "ipc file", "ipc stream"])
def test_a_table_without_rows_or_columns_is_refused(tmp_path, kind):
    assert "empty, expected rows" in refused(tmp_path, write(kind, TABLE.slice(0, 0), tmp_path))
    bare = pa.table({}) if kind != "parquet" else pa.table({}, schema=pa.schema([]))
    assert "no columns" in refused(tmp_path, write(kind, bare, tmp_path, stem="bare"))


def test_a_directory_without_tables_is_66(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/readme.md").write_text("no table")
    line = refused(tmp_path, str(tmp_path / "d"), kind=NoInputError)
    assert "a directory without files that end in .csv, .parquet" in line


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a", "a", "y"], "the column name 'a' occurs twice"),
        (["a" * 2000, "b", "y"], "a column name of 2,000 characters"),
        (["a\x1b[31mred", "b", "y"], "holds control characters"),
        (["a\nb", "b", "y"], "holds control characters"),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "ipc file", "csv"])
def test_hostile_names_of_columns_are_refused(tmp_path, kind, names, says):
    if kind == "csv":
        path = tmp_path / "a.csv"
        path.write_text(",".join(f'"{n}"' for n in names) + "\n1,2,0\n3,4,1\n")
        name = str(path)
    else:
        arrays = [pa.array([1, 2]), pa.array([3, 4]), pa.array([0, 1])]
        table = pa.Table.from_arrays(arrays, names=names)
        name = write(kind, table, tmp_path)
    assert says in refused(tmp_path, name)


def test_lists_whose_places_take_the_name_of_a_column_are_refused(tmp_path):
    table = pa.table({"e": [[1.0, 2.0]], "e.1": [3.0], "y": [0]})
    assert "'e.1' occurs twice" in refused(tmp_path, write("parquet", table, tmp_path))


def test_a_column_that_no_model_can_use_is_refused_unless_dropped(tmp_path):
    table = TABLE.append_column("m", pa.array([{"a": 1}] * 200))
    name = write("parquet", table, tmp_path)
    line = refused(tmp_path, name, kind=SchemaError)
    assert "column 'm': is struct<a: int64>" in line
    assert "--drop m" in line
    report, _ = run(tmp_path, name, drop=("m",))
    assert report.rows_written == 200


def test_text_that_is_not_utf8_rejects_its_row(tmp_path):
    raw = [b"a", b"caf\xe9", "é".encode(), None] * 10
    binary = pa.array(raw, pa.binary())
    for kind in (pa.binary(), pa.string(), pa.large_string()):
        wide = binary.cast(pa.large_binary()) if kind == pa.large_string() else binary
        array = wide if kind == pa.binary() else wide.view(kind)
        table = pa.table({"c": array, "y": [0, 1, 1, 0] * 10})
        path = tmp_path / f"{kind}.arrow"
        write_file(table, path)
        report, manifest = run(tmp_path, str(path), out=f"{kind}-out", splits={})
        assert report.reasons == {"not UTF-8": 10}
        assert manifest.schema.columns[0].cardinality == 4


def test_a_parquet_whose_footer_counts_wrong_is_refused(tmp_path, monkeypatch):
    name = write("parquet", TABLE, tmp_path)
    from data_tools import parquet_source

    original = parquet_source.ParquetReader._group
    monkeypatch.setattr(
        parquet_source.ParquetReader,
        "_group",
        lambda self, *args: (batch.slice(1) for batch in original(self, *args)),
    )
    assert "expected the 200 of its footer" in refused(tmp_path, name)


def test_a_reader_that_fails_halfway_is_refused(tmp_path):
    def batches():
        yield TABLE.to_batches()[0]
        raise ValueError("the other side hung up\nat once")

    reader = pa.RecordBatchReader.from_batches(TABLE.schema, batches())
    assert "the other side hung up" in refused(tmp_path, reader)
    assert "gives no table" in refused(tmp_path, object())


def test_parquet_with_a_cell_longer_than_any_record_rejects_the_row(tmp_path):
    table = pa.table({"c": ["a", "z" * (3 << 20), "b"] * 2, "y": [0, 1, 1, 1, 0, 1]})
    report, _ = run(tmp_path, write("parquet", table, tmp_path), splits={})
    assert report.reasons == {"c: longer than 2,097,152 bytes": 2}


def test_a_dataset_is_no_source(tmp_path):
    run(tmp_path, write("parquet", TABLE, tmp_path))
    line = refused(tmp_path, str(tmp_path / "dataset"), out="other")
    assert "shards hold codes" in line
    assert "shards hold codes" in refused(tmp_path, f"{tmp_path}/data*", out="other")


def test_a_name_that_occurs_twice_beside_lists_is_refused(tmp_path):
    arrays = [pa.array([[1.0], [2.0]]), pa.array([[3.0], [4.0]]), pa.array([0, 1])]
    table = pa.Table.from_arrays(arrays, names=["e", "e", "y"])
    for kind in ("parquet", "ipc file"):
        assert "'e' occurs twice" in refused(tmp_path, write(kind, table, tmp_path))


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize("closed", [True, False])
def test_deep_json_is_a_bad_row_and_no_crash(tmp_path, opening, closed):
    n = 150_000
    closing = {b"[": b"]", b'{"a":': b"}"}[opening]
    deep = b'{"x": 1, "y": 0, "z": ' + opening * n + b"1" + closing * n * closed + b"}\n"
    good = b"".join(b'{"x": %d, "e": [1], "y": %d}\n' % (i, i % 2) for i in range(500))
    (tmp_path / "a.jsonl").write_bytes(good + deep + good)
    report, _ = run(tmp_path, str(tmp_path / "a.jsonl"))
    assert (report.rows_read, report.rows_rejected) == (1001, 1)


def test_lines_that_hold_two_objects_or_half_of_one_are_bad(tmp_path):
    good = b'{"x": 1, "y": 0}\n{"x": 2, "y": 1}\n' * 200
    bad = b'{"x": 1, "y": 0}{"x": 2, "y": 1}\n{"x": 3,\n"y": 1}\n'
    (tmp_path / "a.jsonl").write_bytes(good + bad + good)
    report, _ = run(tmp_path, str(tmp_path / "a.jsonl"))
    assert (report.rows_read, report.rows_rejected) == (803, 3)


@pytest.mark.parametrize("value", [b"NaN", b"-Infinity", b"Inf"])
def test_numbers_that_are_not_json_reject_their_row(tmp_path, value):
    good = b'{"x": 1.5, "y": 0}\n{"x": 2, "y": 1}\n' * 200
    (tmp_path / "a.jsonl").write_bytes(good + b'{"x": %s, "y": 1}\n' % value)
    report, _ = run(tmp_path, str(tmp_path / "a.jsonl"))
    assert (report.rows_read, report.rows_rejected) == (401, 1)


def test_a_stream_that_would_have_to_be_read_again_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("data_tools.infer._PLACES", 1)
    times = ["2024-05-01"] * 2000 + ["soon"] * 2000
    table = pa.table({"t": times, "x": range(4000), "y": [0, 1] * 2000})
    reader = pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=500))
    assert "can be read once" in refused(tmp_path, reader)
    report, _ = run(tmp_path, table)
    assert report.rows_written == 4000
