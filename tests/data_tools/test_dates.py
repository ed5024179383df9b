"""Columns of times: found, turned into parts, and read raw by the model that came of them."""

import datetime as dt
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_tools.raw_rows import read_raw
from streamtrain.errors import SchemaError, SourceError
from streamtrain.store.encode import Encoder
from streamtrain.store.vocabulary import read_vocabulary
from tests.data_tools.reading import read_all
from tests.data_tools.tables import run, write

START = dt.datetime(2024, 2, 28, 22, 30)
TIMES = [START + dt.timedelta(hours=7 * i) if i % 10 else None for i in range(300)]
TABLE = pa.table({
    "t": pa.array(TIMES, pa.timestamp("us")),
    "c": ["k", "l", None] * 100,
    "y": [0, 1, 1] * 100,
})  # fmt: skip
KINDS = ["csv", "parquet", "ipc file", "jsonl"]


def as_it_is_written(kind):
    """JSON has no times of its own: text in ISO 8601."""
    return TABLE if kind != "jsonl" else TABLE.set_column(0, "t", TABLE["t"].cast(pa.string()))


@pytest.mark.parametrize("kind", KINDS)
def test_times_become_parts_in_the_place_of_their_column(tmp_path, kind):
    name = write(kind, as_it_is_written(kind), tmp_path)
    _, manifest = run(tmp_path, name, splits={}, shuffle=False)
    rows = read_all(tmp_path / "dataset")
    names = [c.name for c in manifest.schema.columns]
    assert names == ["t.hour", "t.weekday", "t.yearday", "t.epoch", "c"]
    assert manifest.schema.columns[0].date_of == "t"
    assert manifest.schema.columns[0].part == "hour"
    epoch = dt.datetime(1970, 1, 1)
    for part, told in {
        "hour": lambda t: t.hour,
        "weekday": lambda t: t.weekday(),
        "yearday": lambda t: t.timetuple().tm_yday,
        "epoch": lambda t: np.float32((t - epoch).total_seconds()),
    }.items():
        expected = [np.nan if t is None else told(t) for t in TIMES]
        np.testing.assert_array_equal(rows[f"t.{part}"].to_pylist(), expected)


def test_every_kind_gives_the_same_dataset(tmp_path):
    found = {
        run(tmp_path, write(kind, as_it_is_written(kind), tmp_path), out=kind)[1].fingerprint
        for kind in KINDS
    }
    assert len(found) == 1


def test_text_in_a_typed_file_is_a_time_too_where_all_of_it_is(tmp_path):
    table = TABLE.set_column(0, "t", TABLE["t"].cast(pa.string()))
    _, one = run(tmp_path, write("parquet", TABLE, tmp_path), out="one")
    _, other = run(tmp_path, write("parquet", table, tmp_path), out="other")
    assert one.fingerprint == other.fingerprint


def test_parts_can_be_chosen_dropped_and_taken_as_categories(tmp_path):
    name = write("csv", TABLE, tmp_path)
    _, manifest = run(tmp_path, name, out="a", date_parts=("weekday",))
    assert [c.name for c in manifest.schema.columns] == ["t.weekday", "c"]
    _, manifest = run(
        tmp_path, name, out="b", categorical=("t.hour",), drop=("t.epoch", "t.yearday")
    )
    kinds = {c.name: c.kind for c in manifest.schema.columns}
    assert kinds == {"t.hour": "categorical", "t.weekday": "numeric", "c": "categorical"}
    hours = read_vocabulary(tmp_path / "b", manifest.schema.categorical[0]).texts()
    assert set(hours) == {str(t.hour) for t in TIMES if t}


@pytest.mark.parametrize(
    "options", [{"date_parts": ()}, {"categorical": ("t",)}, {"drop": ("t",)}], ids=str
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_times_stay_whole_where_that_is_asked(tmp_path, kind, options):
    _, manifest = run(tmp_path, write(kind, TABLE, tmp_path), **options)
    kinds = [c.name for c in manifest.schema.columns]
    assert kinds == (["c"] if "drop" in options else ["t", "c"])


def test_rows_may_be_split_by_a_time_that_has_become_parts(tmp_path):
    whole = TABLE.set_column(0, "t", pa.array([START.date()] * 300))
    _, manifest = run(tmp_path, write("parquet", whole, tmp_path), split_by="t", splits={})
    assert manifest.split_by == "t"
    assert manifest.schema.columns[0].name == "t.hour"


def look_at_the_first_rows_alone(monkeypatch):
    monkeypatch.setattr("data_tools.text_source.PIECE_BYTES", 2048)
    monkeypatch.setattr("data_tools.text_source._SAMPLE_BYTES", 512)
    monkeypatch.setattr("data_tools.infer._PLACES", 1)


def test_a_few_cells_that_are_no_time_reject_their_rows(tmp_path, monkeypatch):
    lines = [f"2024-05-{1 + i % 30:02d},{i},{i % 2}\n" for i in range(1000)]
    lines[700] = "2024-02-30,1,1\n"
    (tmp_path / "a.csv").write_text("t,x,y\n" + "".join(lines))
    look_at_the_first_rows_alone(monkeypatch)
    report, manifest = run(tmp_path, str(tmp_path / "a.csv"), date_parts=("yearday", "hour"))
    assert report.reasons == {"t.yearday: not a timestamp": 1}
    assert [c.name for c in manifest.schema.columns] == ["t.yearday", "t.hour", "x"]


def test_a_column_that_turns_out_to_hold_other_text_is_read_again(tmp_path, monkeypatch):
    lines = [f"{'2024-05-01' if i < 500 else 'soon'},{i},{i % 2}\n" for i in range(1000)]
    (tmp_path / "a.csv").write_text("t,x,y\n" + "".join(lines))
    look_at_the_first_rows_alone(monkeypatch)
    report, manifest = run(tmp_path, str(tmp_path / "a.csv"))
    assert report.rows_written == 1000
    assert [(c.name, c.kind) for c in manifest.schema.columns] == [
        ("t", "categorical"),
        ("x", "numeric"),
    ]


def test_a_part_whose_name_is_taken_is_refused(tmp_path):
    table = TABLE.append_column("t.hour", pa.array(range(300)))
    with pytest.raises(SourceError, match=r"'t.hour' occurs twice"):
        run(tmp_path, write("parquet", table, tmp_path))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dated")
    name = write("parquet", TABLE, folder)
    _, manifest = run(
        folder, name, splits={}, shuffle=False, categorical=("t.weekday",), drop=("t.epoch",)
    )
    schema = manifest.schema
    vocabularies = {c.name: read_vocabulary(folder / "dataset", c) for c in schema.categorical}
    return Encoder(schema, vocabularies), read_all(folder / "dataset")


def check_encoded(rows, dataset):
    np.testing.assert_array_equal(rows.numeric[:, 0], dataset["t.hour"].to_pylist())
    np.testing.assert_array_equal(rows.numeric[:, 1], dataset["t.yearday"].to_pylist())
    np.testing.assert_array_equal(rows.codes[:, 0], dataset["t.weekday"].to_pylist())


@pytest.mark.parametrize("kind", KINDS)
def test_raw_files_are_scored_with_the_raw_column(tmp_path, encoder, kind):
    name = write(kind, as_it_is_written(kind), tmp_path)
    pieces = list(read_raw([name], encoder[0].schema))
    assert [p.reasons for p in pieces] == [{}] * len(pieces)
    table = pa.Table.from_batches([p.batch for p in pieces]).combine_chunks()
    check_encoded(encoder[0].encode(table.to_batches()[0]), encoder[1])


def test_tables_in_memory_are_scored_with_the_raw_column(encoder):
    batch = TABLE.to_batches()[0]
    check_encoded(encoder[0].encode(batch), encoder[1])
    text = TABLE.set_column(0, "t", TABLE["t"].cast(pa.string())).to_batches()[0]
    check_encoded(encoder[0].encode(text), encoder[1])


def test_what_is_no_time_is_not_scored(tmp_path, encoder):
    (tmp_path / "a.csv").write_text("t,c\n2024-05-01,k\nsoon,k\n,k\n")
    (piece,) = read_raw([str(tmp_path / "a.csv")], encoder[0].schema)
    assert piece.reasons == {1: "t.hour: not a timestamp"}
    (tmp_path / "b.csv").write_text("tt,c\n2024-05-01,k\n")
    with pytest.raises(SchemaError, match="no column 't'"):
        list(read_raw([str(tmp_path / "b.csv")], encoder[0].schema))
    batch = pa.RecordBatch.from_pydict({"t": ["soon"], "c": ["k"]})
    with pytest.raises(SchemaError, match="not a timestamp"):
        encoder[0].encode(batch)
    batch = pa.RecordBatch.from_pydict({"t": [5], "c": ["k"]})
    with pytest.raises(SchemaError, match="expected times"):
        encoder[0].encode(batch)


def test_a_schema_without_dates_is_written_as_before(tmp_path):
    run(tmp_path, write("parquet", TABLE.drop(["t"]), tmp_path))
    manifest = json.loads((tmp_path / "dataset/dataset.json").read_text())
    assert not {"date_of", "part"} & manifest["schema"]["columns"][0].keys()


def test_nanoseconds_need_no_pandas(tmp_path):
    table = TABLE.set_column(0, "t", TABLE["t"].cast(pa.timestamp("ns")))
    path = tmp_path / "a.parquet"
    pq.write_table(table.slice(0, 299).append_column("x", pa.array([1e39] + [1.0] * 298)), path)
    report, _ = run(tmp_path, str(path))
    assert report.rows_rejected == 1
