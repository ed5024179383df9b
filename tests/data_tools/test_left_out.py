"""Nothing of a source is lost without a word: rows behind an end, files, rows of another state."""

import io
import json
import lzma
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

import streamtrain as st
from data_tools.ingest import ingest
from data_tools.options import IngestOptions
from streamtrain.errors import ConfigError, SchemaError, SourceError
from streamtrain.library import open_dataset, train
from streamtrain.predict import load_model


def read(folder, *sources, said=None, **options):
    listen = said.append if said is not None else (lambda _: None)
    given = {"target": "y", "splits": {}, **options}
    sources = tuple(map(str, sources))
    return ingest(IngestOptions(sources=sources, out=folder / "ds", **given), listen=listen)


def stream(table):
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def test_arrow_streams_one_behind_another_are_one_table(tmp_path):
    first, last = pa.table({"x": [1, 2, 3], "y": [0, 1, 0]}), pa.table({"x": [4, 5], "y": [1, 1]})
    (tmp_path / "ab.arrows").write_bytes(stream(first) + stream(last))
    report = read(tmp_path, tmp_path / "ab.arrows")
    assert (report.rows_read, report.rows_written) == (5, 5)


@pytest.mark.parametrize(
    "behind", [b"junk junk", stream(pa.table({"x": ["a"], "y": [1]})), b"\xff\xff\xff\xff"]
)
def test_what_follows_an_arrow_stream_and_is_not_its_table_is_refused(tmp_path, behind):
    table = pa.table({"x": [1, 2, 3], "y": [0, 1, 0]})
    (tmp_path / "a.arrows").write_bytes(stream(table) + behind)
    with pytest.raises(SourceError):
        read(tmp_path, tmp_path / "a.arrows")
    assert not (tmp_path / "ds").exists()


def test_files_of_a_directory_that_tell_no_kind_are_named(tmp_path):
    folder = tmp_path / "d"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.csv").write_text("x,y\n1,0\n2,1\n")
    for name in ("b.csv.xz", "sub/c.dat", "_SUCCESS", ".hidden", "sub/_meta.dat"):
        (folder / name).write_text("1")
    said = []
    read(tmp_path, folder, said=said)
    (told,) = [message for message in said if isinstance(message, str)]
    assert told.startswith(f"left out 2 files whose endings tell no kind: {folder}/b.csv.xz, ")
    assert f"{folder}/sub/c.dat;" in told


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_rows_that_were_appended_since_metadata_was_consolidated_are_read(tmp_path, zarr_format):
    path = tmp_path / "g.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    y = np.arange(200) % 2
    for name, values in (("features", np.random.default_rng(0).random((200, 3))), ("target", y)):
        array = group.create_array(
            name, shape=values[:100].shape, chunks=values[:50].shape, dtype="f4"
        )
        array[:] = values[:100]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of version 3
        zarr.consolidate_metadata(path)
    group = zarr.open_group(path, mode="a", use_consolidated=False)
    group["features"].resize((200, 3))
    group["target"].resize((200,))
    group["features"][100:], group["target"][100:] = 1.0, y[100:]
    assert read(tmp_path, path, target=None, format="zarr").rows_read == 200


def test_equal_names_in_a_query_are_refused(tmp_path):
    pytest.importorskip("duckdb")
    (tmp_path / "a.csv").write_text("x,y\n1,0\n2,1\n")
    query = f"select a.*, b.* from '{tmp_path}/a.csv' a join '{tmp_path}/a.csv' b using (x)"
    with pytest.raises(SourceError, match=r"the column name '[xy]' occurs twice"):
        read(tmp_path, sql=query)


def framed(index, listed):
    """Return a table as pandas' `to_parquet` makes it of a frame with an index."""
    table = pa.table({"x": [2.0, 3.0, 4.0], "y": [1, 0, 1], index: [1, 2, 3]})
    return table.replace_schema_metadata({b"pandas": json.dumps({"index_columns": listed})})


def test_the_row_numbers_of_pandas_are_no_feature_and_a_named_index_is(tmp_path):
    nameless = framed("__index_level_0__", ["__index_level_0__"])
    pq.write_table(nameless, tmp_path / "a.parquet")
    assert read(tmp_path, tmp_path / "a.parquet").numeric == 1
    st.ingest(nameless, out=tmp_path / "b", target="y", splits={})
    assert [c.name for c in open_dataset(tmp_path / "b").schema.columns] == ["x"]
    (tmp_path / "two").mkdir()
    pq.write_table(framed("id", ["id"]), tmp_path / "c.parquet")
    assert read(tmp_path / "two", tmp_path / "c.parquet").numeric == 2


@pytest.mark.parametrize(
    "told", [b"{", b"[]", b'{"index_columns": 3}', b'{"index_columns": [1, {}]}']
)
def test_metadata_that_is_not_of_pandas_hides_nothing(tmp_path, told):
    schema = pa.schema([("__index_level_0__", pa.int64()), ("y", pa.int64())])
    table = pa.table({"__index_level_0__": [1, 2, 3], "y": [0, 1, 0]}, schema=schema)
    pq.write_table(table.replace_schema_metadata({b"pandas": told}), tmp_path / "a.parquet")
    assert read(tmp_path, tmp_path / "a.parquet").numeric == 1


ODD = [
    ([], "a: a list, expected a value"),
    ([1], "a: a list, expected a value"),
    ({"z": 1}, "a: an object, expected a value"),
]


@pytest.mark.parametrize(("odd", "reason"), ODD)
@pytest.mark.parametrize("at", [0, 700, 1999])
def test_one_odd_value_of_json_rejects_its_row_not_the_file(tmp_path, odd, reason, at):
    rows = [{"a": i * 0.5, "y": i % 2} for i in range(2000)]
    rows[at]["a"] = odd
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = read(tmp_path, tmp_path / "a.jsonl")
    assert (report.rows_written, report.rows_rejected) == (1999, 1)
    assert report.reasons == {reason: 1}
    assert report.numeric == 1


def test_lists_with_one_value_of_another_kind_stay_lists(tmp_path):
    rows = [{"a": ["p", "q"], "y": i % 2} for i in range(2000)]
    rows[5]["a"], rows[9]["a"], rows[11]["a"] = ["p", 1, None, True], 7, {"p": "q"}
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = read(tmp_path, tmp_path / "a.jsonl")
    assert report.bags == 1
    assert report.rows_rejected == 2


def test_a_key_whose_kinds_are_mixed_is_still_refused(tmp_path):
    rows = [{"a": [1, 2] if i % 2 else 5, "y": i % 2} for i in range(200)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ConfigError, match="lists or objects"):
        read(tmp_path, tmp_path / "a.jsonl")


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_array_is_told_from_lines(tmp_path, indent):
    rows = [{"a": i, "y": i % 2} for i in range(9)]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=indent))
    with pytest.raises(SourceError, match="a JSON array, expected JSON lines") as caught:
        read(tmp_path, tmp_path / "a.json")
    assert "jq" in caught.value.remedy


def test_a_target_of_one_value_says_which_rows_were_rejected(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"x,y\n1,a\n2,\xe9\n3,a\n")
    with pytest.raises(SourceError, match="one value, 'a'") as caught:
        read(tmp_path, tmp_path / "a.csv")
    assert "1 rows were rejected, the first is" in caught.value.message
    assert "not UTF-8" in caught.value.message
    (tmp_path / "b.csv").write_text("x,y\n1,a\n2,a\n")
    with pytest.raises(SourceError, match="nothing to learn; choose"):
        read(tmp_path, tmp_path / "b.csv")


def test_rows_of_an_array_with_an_infinite_value_have_no_prediction(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    y = (x[:, 0] > 0).astype(int)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    read(tmp_path, tmp_path / "x.npy", target=None, target_file=tmp_path / "y.npy", format="zarr")
    list(train(tmp_path / "ds", out=tmp_path / "run", epochs=1))
    model = load_model(tmp_path / "run")
    bad = x.copy()
    bad[1, 1], bad[5, 0], bad[7, 2] = np.inf, 1e300, -np.inf
    with np.errstate(over="ignore"):
        found = model.predict(bad)
    assert np.flatnonzero(np.isnan(found)).tolist() == [1, 5, 7]
    with np.errstate(over="ignore"):
        assert np.isnan(model.predict(np.full((2, 3), np.inf))).tolist() == [True, True]
    kept = np.setdiff1d(np.arange(200), [1, 5, 7])
    np.testing.assert_array_equal(found[kept], model.predict(x)[kept])
    with pytest.raises(SchemaError):
        model.predict(x[:, :2])


@pytest.mark.parametrize(
    ("name", "head", "what"),
    [
        ("a.csv.xz", lzma.compress(b"x,y\n1,0\n2,1\n"), "compressed by xz"),
        ("a.zip", b"PK\x03\x04" + bytes(30), "a ZIP archive"),
        ("a.parquet", b"PARE" + bytes(30), "encrypted Parquet"),
        ("a.feather", b"FEA1" + bytes(30), "Feather of version 1"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c" + bytes(30), "a 7z archive"),
    ],
)
def test_what_is_sound_and_not_read_is_told_from_what_is_damaged(tmp_path, name, head, what):
    (tmp_path / name).write_bytes(head)
    with pytest.raises(SourceError, match=f"{what}, which is not read") as caught:
        read(tmp_path, tmp_path / name)
    assert caught.value.remedy
