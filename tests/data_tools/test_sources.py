"""What every kind of source promises: the same rows, the same counts, the same dataset."""

import csv
import inspect
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from data_tools.json_rows import JsonSplitter
from data_tools.kinds import KINDS
from data_tools.parquet_source import ParquetReader
from data_tools.raw_rows import read_raw
from streamtrain.cli.values import kind_option
from streamtrain.errors import BudgetError
from streamtrain.store.allocator import tame_allocators
from streamtrain.store.manifest_file import read_manifest
from tests.data_tools.reading import read_all
from tests.data_tools.tables import (
    N_ROWS,
    WRITERS,
    as_jsonl,
    made_table,
    npy,
    run,
    write,
    write_csv,
)


def digest_of(folder):
    return read_manifest(folder).fingerprint


BESIDE_CSV = [kind for kind in WRITERS if kind != "csv"]


@pytest.fixture(scope="module")
def table():
    return made_table()


@pytest.fixture(scope="module")
def from_csv(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("csv")
    return run(folder, write("csv", table, folder))[1]


@pytest.mark.parametrize("kind", BESIDE_CSV)
def test_every_kind_of_file_gives_the_dataset_of_the_csv(tmp_path, table, from_csv, kind):
    report, manifest = run(tmp_path, write(kind, table, tmp_path))
    assert manifest.fingerprint == from_csv.fingerprint
    assert (report.rows_read, report.rows_written, report.rows_rejected) == (N_ROWS, N_ROWS, 0)
    assert sorted(read_all(tmp_path / "dataset")["id"].to_pylist()) == list(range(N_ROWS))


@pytest.mark.parametrize("kind", BESIDE_CSV)
def test_the_size_and_digest_of_a_source_are_those_of_its_bytes(tmp_path, table, kind):
    name = write(kind, table, tmp_path)
    _, manifest = run(tmp_path, name)
    (source,) = manifest.sources
    with open(name, "rb") as file:  # noqa: PTH123
        data = file.read()
    assert source.name == name
    assert (source.n_bytes, source.digest) == (len(data), xxhash.xxh3_128_hexdigest(data))
    assert source.rows_read == source.rows_written == N_ROWS


@pytest.mark.parametrize("kind", ["parquet", "ipc file", "ipc stream", "jsonl"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_neither_threads_nor_pieces_change_a_byte(tmp_path, table, monkeypatch, kind, shuffle):
    name = write(kind, table, tmp_path)
    _, one = run(tmp_path, name, out="one", threads=1, shuffle=shuffle)
    for module in ("text_source", "table_source", "parquet_source"):
        monkeypatch.setattr(f"data_tools.{module}.PIECE_BYTES", 4096)
    _, other = run(tmp_path, name, out="other", threads=3, shuffle=shuffle)
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize("kind", BESIDE_CSV)
def test_a_row_that_cannot_be_used_is_kept_with_its_place_and_reason(tmp_path, kind):
    table = made_table(50).set_column(
        1, "x", pa.array([1e39 if i == 17 else float(i) for i in range(50)])
    )
    report, manifest = run(tmp_path, write(kind, table, tmp_path))
    assert (report.rows_read, report.rows_written, report.rows_rejected) == (50, 49, 1)
    (source,) = manifest.sources
    assert source.rows_read == source.rows_written + source.rows_rejected
    with (tmp_path / "dataset/rejected/part-00000.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["line"], row["reason"]) == ("18", "x: not finite")
    assert json.loads(row["row"])["id"] == 17


def test_numbers_are_missing_where_a_text_of_missing_spells_them(tmp_path):
    table = pa.table({"x": [1, -999, None, 3], "y": [0, 1, 0, 1]})
    found = []
    for kind in ("csv", "parquet", "jsonl"):
        options = {"missing": ("-999", "NA"), "numeric": ("x",), "splits": {}, "shuffle": False}
        if kind == "csv":
            options["missing"] = ("-999", "NA", "")
        run(tmp_path, write(kind, table, tmp_path), out=kind, **options)
        found.append(read_all(tmp_path / kind)["x"].to_pylist())
    for values in found:
        np.testing.assert_array_equal(values, [1, np.nan, np.nan, 3])


@pytest.mark.parametrize("kind", ["parquet", "ipc stream", "jsonl"])
def test_null_is_missing_though_empty_text_is_not(tmp_path, kind):
    table = pa.table({
        "c": ["", "k", None] * 10, "n": [1, None, 2] * 10, "y": [0, 1, 1] * 10,
    })  # fmt: skip
    options = {"missing": ("NA",), "categorical": ("n",), "splits": {}, "shuffle": False}
    run(tmp_path, write(kind, table, tmp_path), **options)
    rows = read_all(tmp_path / "dataset").to_pydict()
    assert rows["c"][:3] == [2, 3, 0]
    assert rows["n"][:3] == [2, 0, 3]


def test_columns_of_numbers_may_be_declared_categories_and_split_by(tmp_path, table):
    options = {"categorical": ("count",), "split_by": "id"}
    _, one = run(tmp_path, write("csv", table, tmp_path), out="one", **options)
    _, other = run(tmp_path, write("parquet", table, tmp_path), out="other", **options)
    assert [c.kind for c in other.schema.columns if c.name == "count"] == ["categorical"]
    assert one.fingerprint == other.fingerprint


def test_a_column_of_text_stays_text_though_it_looks_like_numbers(tmp_path):
    table = pa.table({"zip": ["007", "123", "456"] * 10, "y": [0, 1, 1] * 10})
    for kind in ("parquet", "jsonl"):
        _, manifest = run(tmp_path, write(kind, table, tmp_path), out=kind)
        assert [c.kind for c in manifest.schema.columns] == ["categorical"]
    _, manifest = run(tmp_path, write("parquet", table, tmp_path), out="n", numeric=("zip",))
    assert [c.kind for c in manifest.schema.columns] == ["numeric"]


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_a_text_target_and_a_weight_are_read_from_every_kind(tmp_path, kind):
    table = pa.table({
        "x": range(60), "w": [0.5, 2.0] * 30, "y": ["no", "yes", "no"] * 20,
    })  # fmt: skip
    report, manifest = run(tmp_path, write(kind, table, tmp_path), weight="w")
    assert report.classes == ["no", "yes"]
    assert manifest.schema.weight_statistics.maximum == 2.0


def test_a_directory_of_parts_is_one_table(tmp_path, table, from_csv):
    folder = tmp_path / "parts"
    folder.mkdir()
    for k, start in enumerate(range(0, N_ROWS, 250)):
        pq.write_table(table.slice(start, 250), folder / f"part-{k}.parquet")
    pq.write_table(table.slice(0, 0), folder / "part-9.parquet")
    (folder / "_SUCCESS").touch()
    for other in ("_temporary", ".hidden"):
        (folder / other).mkdir()
        pq.write_table(table, folder / other / "part-8.parquet")
    (folder / ".part-0.parquet.crc").write_bytes(b"crc")
    _, manifest = run(tmp_path, str(folder))
    assert manifest.fingerprint == from_csv.fingerprint
    assert [s.rows_read for s in manifest.sources] == [250, 250, 200, 0]


def test_directories_with_keys_and_values_add_columns(tmp_path):
    for year in (2023, 2024):
        for place in ("Bern", "a%20b", "__HIVE_DEFAULT_PARTITION__"):
            folder = tmp_path / f"t/year={year}/place={place}"
            folder.mkdir(parents=True)
            pq.write_table(pa.table({"x": range(5), "y": [0, 1, 0, 1, 1]}), folder / "a.parquet")
    _, manifest = run(tmp_path, str(tmp_path / "t"), splits={})
    kinds = {c.name: c.kind for c in manifest.schema.columns}
    assert kinds == {"x": "numeric", "year": "numeric", "place": "categorical"}
    rows = read_all(tmp_path / "dataset")
    assert sorted(set(rows["year"].to_pylist())) == [2023.0, 2024.0]
    assert sorted(rows["place"].to_pylist()) == [0] * 10 + [2] * 10 + [3] * 10


def test_lists_of_one_length_become_columns(tmp_path):
    values = [[float(i), None, 2.0 * i] for i in range(20)]
    doubled = [*(row[2] for row in values), np.nan]
    for name, kind in {
        "list": pa.list_(pa.float32()),
        "large": pa.large_list(pa.float64()),
        "fixed": pa.list_(pa.float64(), 3),
    }.items():
        table = pa.table({"e": pa.array([*values, None], kind), "y": [0, 1, 1] * 7})
        path = write("ipc file", table, tmp_path, stem=name)
        run(tmp_path, path, out=name, splits={}, shuffle=False)
        rows = read_all(tmp_path / name)
        assert rows.column_names == ["e.0", "e.1", "e.2", "y"]
        np.testing.assert_array_equal(rows["e.2"].to_pylist(), doubled)
        assert np.isnan(rows["e.1"].to_pylist()).all()
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(table))
    run(tmp_path, str(tmp_path / "a.jsonl"), out="json", splits={}, shuffle=False)
    assert digest_of(tmp_path / "json") == digest_of(tmp_path / name)


def test_a_list_of_another_length_rejects_its_row(tmp_path):
    table = pa.table({"e": [[1, 2]] * 3000 + [[1, 2, 3], None], "y": [0, 1] * 1501})
    report, _ = run(tmp_path, write("parquet", table, tmp_path))
    assert report.reasons == {"e: 3 values, expected 2": 1}


def test_npy_is_a_table_by_position(tmp_path):
    rng = np.random.default_rng(1)
    array = rng.normal(size=(300, 4)).astype(np.float32)
    array[:, 3] = array[:, 3] > 0
    expected = None
    for k, stored in enumerate(
        (array, np.asfortranarray(array), array.astype(">f4"), array.astype(np.float64))
    ):
        _, manifest = run(tmp_path, npy(tmp_path, stored), out=f"d{k}", target="-1")
        assert manifest.schema.target.name == "3"
        assert not manifest.schema.header
        expected = expected or manifest.fingerprint
        assert manifest.fingerprint == expected
    np.savetxt(tmp_path / "a.csv", array, delimiter=",", fmt="%.9g")
    _, manifest = run(tmp_path, str(tmp_path / "a.csv"), out="c", target="-1", header=False)
    assert manifest.fingerprint == expected


def test_the_target_of_an_array_may_lie_in_a_file_of_its_own(tmp_path):
    x, y = np.arange(40).reshape(20, 2), np.arange(20) % 3
    np.save(tmp_path / "y.npy", y)
    _, manifest = run(
        tmp_path,
        npy(tmp_path, x),
        target="target",
        target_file=tmp_path / "y.npy",
        splits={},
        shuffle=False,
    )
    assert read_all(tmp_path / "dataset")["target"].to_pylist() == y.tolist()
    assert [c.name for c in manifest.schema.columns] == ["0", "1"]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_is_a_table_with_named_vectors_beside_it(tmp_path, save):
    save(tmp_path / "a.npz", X=np.arange(40.0).reshape(20, 2), y=np.arange(20) % 2)
    run(tmp_path, str(tmp_path / "a.npz"), splits={}, shuffle=False)
    rows = read_all(tmp_path / "dataset")
    assert rows.column_names == ["0", "1", "y"]
    assert rows["1"].to_pylist() == list(range(1, 40, 2))


def test_libsvm_is_a_dense_table_whose_gaps_are_zeros(tmp_path):
    lines = ["1 1:0.5 3:-2", "0 qid:7 2:1e2 # said by hand", "", "1", "0 3:nan 4:x", "1 1:1 1x:3"]
    (tmp_path / "a.svm").write_text("\n".join(lines) + "\n")
    (tmp_path / "b.svm").write_text("1 qid:8 5:1\n")
    report, manifest = run(
        tmp_path,
        f"{tmp_path}/[ab].svm",
        target="label",
        splits={},
        shuffle=False,
        drop=("qid",),
        numeric=tuple("12345"),
    )
    rows = read_all(tmp_path / "dataset").to_pydict()
    assert rows["1"] == [0.5, 0, 0, 0]
    assert rows["2"] == [0, 100, 0, 0]
    assert rows["3"] == [-2, 0, 0, 0]
    assert rows["5"] == [0, 0, 0, 1]
    assert rows["label"] == [1, 0, 1, 1]
    assert report.rows_blank == 1
    assert report.reasons == {"4: not a number": 1, "not index:value": 1}
    assert [s.rows_read for s in manifest.sources] == [5, 1]


def test_json_lines_with_other_keys_are_one_table(tmp_path):
    rows = [{"x": i, "y": i % 2} for i in range(9)] + [{"y": 1, "c": "k", "x": None}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "b.jsonl").write_text('{"y": 1, "d": "new \\u00e9", "x": 3}\r\n\r\n')
    report, manifest = run(tmp_path, f"{tmp_path}/[ab].jsonl", splits={}, shuffle=False)
    found = read_all(tmp_path / "dataset").to_pydict()
    assert found["x"][:9] == list(range(9))
    assert np.isnan(found["x"][9])
    assert found["c"] == [0] * 9 + [2, 0]
    assert found["d"] == [0] * 10 + [2]
    assert report.rows_blank == 1
    assert [c.name for c in manifest.schema.columns] == ["x", "c", "d"]


def test_a_kind_is_told_by_its_first_bytes_before_its_name(tmp_path, table, from_csv):
    for kind in ("parquet", "ipc file", "ipc stream"):
        name = tmp_path / f"{kind}.csv"
        WRITERS[kind](table, name)
        assert run(tmp_path, str(name), out=kind)[1].fingerprint == from_csv.fingerprint
    (tmp_path / "nameless").write_bytes(as_jsonl(table))
    _, manifest = run(tmp_path, str(tmp_path / "nameless"), out="json")
    assert manifest.fingerprint == from_csv.fingerprint


@pytest.mark.parametrize("kind", ["parquet", "ipc stream", "jsonl", "jsonl, gzip"])
def test_any_kind_may_come_from_standard_input(tmp_path, table, from_csv, monkeypatch, kind):
    name = write(kind, table, tmp_path)
    with open(name, "rb") as file:  # noqa: PTH123
        monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": file})())
        _, manifest = run(tmp_path, "-")
    assert manifest.fingerprint == from_csv.fingerprint


def test_objects_that_stream_arrow_are_sources(tmp_path, table, from_csv):
    class Foreign:
        def __arrow_c_stream__(self, requested_schema=None):
            return table.__arrow_c_stream__(requested_schema)

    reader = pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=90))
    for k, data in enumerate((table, Foreign(), reader, table.to_batches()[0])):
        report, manifest = run(tmp_path, data, out=f"d{k}")
        assert manifest.fingerprint == from_csv.fingerprint
        assert report.rows_read == N_ROWS
    assert manifest.sources[0].digest == ""


def test_kinds_may_be_mixed_where_their_columns_agree(tmp_path, table, from_csv):
    write_csv(table.slice(0, 300), tmp_path / "a.csv")
    pq.write_table(table.slice(300), tmp_path / "b.parquet")
    _, manifest = run(tmp_path, str(tmp_path / "a.csv"), str(tmp_path / "b.parquet"))
    assert manifest.fingerprint == from_csv.fingerprint


def test_what_decoding_takes_follows_the_pages_and_not_the_row_group(tmp_path):
    tame_allocators()
    n = 400_000
    table = pa.table({f"c{i}": np.random.default_rng(i).normal(size=n) for i in range(8)})
    path = tmp_path / "a.parquet"
    options = {"row_group_size": n, "use_dictionary": False}
    # Newer writers bound the rows of a page too.
    bounded = "max_rows_per_page" in inspect.signature(pq.ParquetWriter).parameters
    whole = {"max_rows_per_page": n} if bounded else {}
    pq.write_table(table, path, **options, data_page_size=1 << 16)
    small = ParquetReader(path, "a").reading_bytes(table.column_names)
    pq.write_table(table, path, **options, data_page_size=1 << 30, **whole)
    large = ParquetReader(path, "a").reading_bytes(table.column_names)
    # Of eight columns: pages, streams of 64 KiB and a batch, or everything at once.
    assert small < 8 << 20
    assert large > table.nbytes


def test_a_budget_that_cannot_hold_the_pages_is_refused_with_what_they_need(
    tmp_path, table, monkeypatch
):
    monkeypatch.setattr(ParquetReader, "reading_bytes", lambda *_: 1 << 30)
    with pytest.raises(BudgetError, match=r"decoding of the source 1,073,741,824 B"):
        run(tmp_path, write("parquet", table, tmp_path), memory=1 << 30)


def test_every_kind_in_the_table_has_a_test_here():
    tested = {"csv", "parquet", "ipc", "json", "libsvm", "npy", "npz", "vw", "anndata"}
    tested |= {"hdf5", "zarr", "raw"}  # in test_array_groups.py
    assert set(KINDS) == tested
    help_of_kind = inspect.getsource(kind_option)
    assert all(re.search(rf"\b{kind}\b", help_of_kind) for kind in KINDS)


def test_a_kind_can_be_named_where_nothing_tells_it(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a9a").write_text("1 1:1 3:1\n0 2:1\n" * 20)
    _, manifest = run(tmp_path, str(tmp_path / "d"), kind="libsvm", target="label", splits={})
    assert [c.name for c in manifest.schema.columns] == ["1", "2", "3"]


def test_a_pattern_may_stand_for_directories(tmp_path):
    for k in (1, 2):
        (tmp_path / f"k={k}").mkdir()
        pq.write_table(pa.table({"x": [1, 2], "y": [0, 1]}), tmp_path / f"k={k}/a.parquet")
    _, manifest = run(tmp_path, f"{tmp_path}/k=*", splits={})
    assert [c.name for c in manifest.schema.columns] == ["x", "k"]


def test_libsvm_is_scored_with_the_columns_of_training(tmp_path):
    (tmp_path / "a.svm").write_text("1 1:1 4:1\n0 2:1\n" * 20)
    _, manifest = run(tmp_path, str(tmp_path / "a.svm"), target="label", splits={})
    (tmp_path / "b.svm").write_text("0 2:1\n0 9:1\n")
    (piece,) = read_raw([str(tmp_path / "b.svm")], manifest.schema)
    assert piece.reasons == {}
    zeros = dict.fromkeys("1234", 0)
    assert piece.batch.select(list("1234")).to_pylist() == [zeros | {"2": 1}, zeros]
    (tmp_path / "c.svm").write_text("0 2:1\n")
    (piece,) = read_raw([str(tmp_path / "c.svm")], manifest.schema)
    assert piece.batch.select(list("1234")).to_pylist() == [zeros | {"2": 1}]


BAD_LINE = "not JSON: JSON is malformed: invalid character (byte 0)"
WILD = [
    {"i": 7, "f": 1.5, "s": "a", "b": True, "e": [1, 2.5], "m": 5},
    {"i": -0, "f": 100, "s": 'é\n"', "b": None, "e": [None, 3], "m": "five"},
    {"i": 12, "f": 1e300, "s": None, "b": False, "e": None, "m": None},
    {"f": 1e-7, "s": "NaN Inf", "b": True, "e": [0, 12345678901234567890], "m": 1.50},
]  # fmt: skip


def test_json_is_read_alike_by_arrow_and_line_by_line(tmp_path, monkeypatch):
    rows = [WILD[i % 4] | {"y": i % 2} for i in range(400)]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    # By Arrow all of a stretch is lost to one bad line, of which there are a few here.
    for place in (60, 260):
        text = text.replace(b"\n", b"\nbad\n", place).replace(b"\nbad\n", b"\n", place - 1)
    path = tmp_path / "a.jsonl"
    path.write_bytes(text)
    options = {"categorical": ("i", "f", "b"), "split_by": "f"}
    for drop in ((), ("m",)):
        found = []
        for few in (64, 1, 10**9):
            monkeypatch.setattr("data_tools.json_rows._FEW_LINES", few)
            report, manifest = run(tmp_path, str(path), out=f"{few}{drop}", drop=drop, **options)
            assert report.reasons == {BAD_LINE: 2}
            found.append(manifest.fingerprint)
        with monkeypatch.context() as patch:
            patch.setattr(JsonSplitter, "_by_arrow", lambda *_, **__: None)
            _, manifest = run(tmp_path, str(path), out=f"line{drop}", drop=drop, **options)
        assert {*found, manifest.fingerprint} == {found[0]}


def test_most_lines_of_json_are_read_by_arrow(tmp_path, monkeypatch):
    lines = [json.dumps({"x": i / 7, "s": f"k{i % 9}", "y": i % 2}) for i in range(5000)]
    lines[2500] = '{"x": "nine", "s": "k", "y": 1}'
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    slow = []
    original = JsonSplitter._by_line
    monkeypatch.setattr(
        JsonSplitter,
        "_by_line",
        lambda self, part, *, is_last: (
            slow.append(len(part)) or original(self, part, is_last=is_last)
        ),
    )
    report, _ = run(tmp_path, str(tmp_path / "a.jsonl"), numeric=("x",))
    assert report.reasons == {"x: not a number": 1}
    assert 0 < sum(slow) < 300  # in the sample and in pass 1
