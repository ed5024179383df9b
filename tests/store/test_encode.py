import math

import numpy as np
import pyarrow as pa
import pytest

from data_tools.ingest import ingest
from data_tools.options import IngestOptions
from data_tools.raw_rows import read_encoded, read_raw
from streamtrain.errors import SchemaError
from streamtrain.store.encode import Encoder
from streamtrain.store.manifest_file import read_manifest
from streamtrain.store.vocabulary import read_vocabulary
from tests.data_tools.reading import read_split

ROWS = [
    ("1.5", "red", "2", "yes"),
    ("?", "green", "1", "no"),
    ("", "red", "0.5", "yes"),
    ("-7e2", "", "1", "no"),
    ("3", '"bl""ue"', "1", "yes"),
]


@pytest.fixture
def made(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("x,c,w,y\n" + "".join(",".join(row) + "\n" for row in ROWS * 40))
    options = IngestOptions(
        sources=(str(path),), out=tmp_path / "d", target="y", weight="w", splits={}, shuffle=False
    )
    ingest(options)
    schema = read_manifest(tmp_path / "d").schema
    encoder = Encoder(
        schema, {c.name: read_vocabulary(tmp_path / "d", c) for c in schema.categorical}
    )
    return tmp_path, path, schema, encoder


def test_raw_rows_encode_to_what_the_shards_hold(made):
    folder, path, _, encoder = made
    table = read_split(folder / "d", "train")
    (piece,) = read_encoded([str(path)], encoder, threads=2)
    np.testing.assert_array_equal(piece.rows.numeric[:, 0], np.array(table["x"], np.float32))
    assert piece.rows.codes[:, 0].tolist() == table["c"].to_pylist()
    assert piece.rows.target.tolist() == table["y"].to_pylist()
    assert piece.rows.weight.tolist() == table["w"].to_pylist()


def test_categories_never_seen_are_one_and_missing_ones_zero(made):
    *_, encoder = made
    batch = pa.record_batch({"x": pa.array([1, 2, None]), "c": ["purple", None, "red"]})
    rows = encoder.encode(batch)
    assert rows.codes[:, 0].tolist() == [1, 0, 2]
    assert rows.target is None
    assert rows.numeric[:2, 0].tolist() == [1, 2]
    assert math.isnan(rows.numeric[2, 0])


def test_a_target_that_training_never_saw_is_nan(made):
    *_, encoder = made
    batch = pa.record_batch({"x": [1.0, 2, 3], "c": ["red"] * 3, "y": ["yes", "maybe", None]})
    target = encoder.encode(batch).target
    assert target[0] == 1
    assert np.isnan(target[1:]).all()


def test_a_slice_of_a_batch_encodes_as_the_slice(made):
    *_, encoder = made
    batch = pa.record_batch({"x": [1.0, 2, 3, 4], "c": ["red", "green", 'bl"ue', "red"]})
    whole, part = encoder.encode(batch), encoder.encode(batch.slice(1, 2))
    assert part.codes.tolist() == whole.codes[1:3].tolist()
    assert part.numeric.tolist() == whole.numeric[1:3].tolist()


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_other_arrow_forms_of_text_encode_the_same(made, kind):
    *_, encoder = made
    text = pa.array(["red", None, "x"])
    batch = pa.record_batch({"x": [1.0, 2, 3], "c": text.cast(kind)})
    assert encoder.encode(batch).codes[:, 0].tolist() == [2, 0, 1]


def test_a_feature_that_is_not_there_is_named_with_the_nearest(made):
    *_, encoder = made
    with pytest.raises(SchemaError, match=r"no column 'c' \(did you mean 'cc'"):
        encoder.encode(pa.record_batch({"x": [1.0], "cc": ["red"]}))


def test_bad_records_keep_their_place(made, tmp_path):
    _, _, schema, _ = made
    path = tmp_path / "raw.csv"
    path.write_text('c,x,extra\nred,1,a\nred,oops,b\n\nred\n"a\nb",2,c\nred,1e99,d\nblue,,e\n')
    (raw,) = read_raw([str(path)], schema, threads=1)
    assert raw.n_records == 6
    assert raw.ordinals_within_batch.tolist() == [0, 3, 5]
    assert raw.reasons == {
        1: "x: not a number",
        2: "1 field, expected 3",
        4: "x: not finite",
    }
    assert raw.lines.tolist() == [2, 3, 5, 6, 8, 9]
    assert raw.batch.column("c").to_pylist() == ["red", "a\nb", "blue"]


def test_pieces_come_in_order_for_any_number_of_threads(made, tmp_path, monkeypatch):
    _, _, schema, _ = made
    path = tmp_path / "raw.csv"
    path.write_text("x,c\n" + "".join(f"{i},red\n" for i in range(5000)) + "bad\n7,red\n")
    monkeypatch.setattr("data_tools.text_source.PIECE_BYTES", 512)
    for threads in (1, 3):
        pieces = list(read_raw([str(path), str(path)], schema, threads=threads))
        values = np.concatenate([np.array(p.batch.column("x")) for p in pieces])
        assert values.tolist() == [*range(5000), 7] * 2
        assert sum(p.n_records for p in pieces) == 10_004
        lines = [int(p.lines[i]) for p in pieces for i in p.reasons]
        assert lines == [5002, 5002]


def test_leaving_the_reader_early_ends_its_threads(made):
    _, path, schema, _ = made
    rows = read_raw([str(path)], schema, threads=2)
    next(rows)
    rows.close()
