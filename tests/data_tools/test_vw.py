"""Vowpal Wabbit's text, and sparse libsvm, from the file to the dataset and back."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_tools.raw_rows import read_encoded, read_raw
from streamtrain.errors import SchemaError, SourceError
from streamtrain.memory import resident_bytes
from streamtrain.store.encode import Encoder
from tests.data_tools.reading import read_all, read_split
from tests.data_tools.tables import run

PLAIN = {"splits": {}, "shuffle": False}


def entries(cell):
    """Return the codes and values of a cell of a shard."""
    words = np.frombuffer(cell, np.int32).reshape(-1, 2)
    return list(
        zip(words[:, 0].tolist(), words[:, 1].copy().view(np.float32).tolist(), strict=True)
    )


def bag(folder, name):
    return [entries(cell) for cell in read_all(folder)[name].to_pylist()]


def vw_lines(n=400, seed=1):
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        words = " ".join(f"w{k}:{rng.normal():.3f}" for k in rng.integers(0, 300, 7))
        rows.append(f"{rng.choice(['-1', '1'])} {1 + i % 3} 'u{i // 4}|words {words} |n i{i}\n")
    return "".join(rows)


def test_labels_importances_tags_and_namespaces_become_columns(tmp_path):
    (tmp_path / "a.vw").write_text(
        "1 2.5 'x|f a:2 b |g:0.5 a:4\n-1 |f b| c\n\n| nothing\n1 'y |f a a:3\n0 1:2 |f a\n"
    )
    report, manifest = run(
        tmp_path, str(tmp_path / "a.vw"), target=None, weight="importance", **PLAIN
    )
    schema = manifest.schema
    assert report.reasons == {
        "a label of costs or actions, expected a number": 1, "missing target": 1,
    }  # fmt: skip
    assert (report.rows_read, report.rows_written, report.rows_blank) == (5, 3, 1)
    assert (schema.target.name, schema.target.task, schema.target.classes) == (
        "label", "binary", ("-1", "1"),
    )  # fmt: skip
    assert [(c.name, c.kind, c.bag.keys) for c in schema.columns] == [
        ("f", "bag", "hashed"), ("g", "bag", "hashed"), ("features", "bag", "hashed"),
    ]  # fmt: skip
    rows = read_all(tmp_path / "dataset")
    assert rows["importance"].to_pylist() == [2.5, 1.0, 1.0]
    f = bag(tmp_path / "dataset", "f")
    (a, _), (b, _) = f[0]
    assert f == [[(a, 2.0), (b, 1.0)], [(b, 1.0)], [(a, 1.0), (a, 3.0)]]
    assert bag(tmp_path / "dataset", "g") == [[(a, 2.0)], [], []]


def test_a_name_has_the_code_that_a_list_of_names_gives_it(tmp_path):
    (tmp_path / "a.vw").write_text("1 |f red green-light|\n0 |f red\n")
    run(tmp_path, str(tmp_path / "a.vw"), out="vw", target=None, drop=("features",), **PLAIN)
    table = pa.table({"f": [["red", "green-light"], ["red"]], "y": [1, 0]})
    pq.write_table(table, tmp_path / "a.parquet")
    run(tmp_path, str(tmp_path / "a.parquet"), out="lists", **PLAIN)
    assert bag(tmp_path / "vw", "f") == bag(tmp_path / "lists", "f")


@pytest.mark.parametrize("task", ["0 1", "1 2 3", "0.25 1.5 3.75 2 9"])
def test_any_number_is_a_label(tmp_path, task):
    labels = task.split()
    (tmp_path / "a.vw").write_text("".join(f"{y} |f a b:{y}\n" for y in labels * 9))
    _, manifest = run(tmp_path, str(tmp_path / "a.vw"), target=None, **PLAIN)
    expected = {2: "binary", 3: "classes"}.get(len(labels), "regression")
    assert manifest.schema.target.task == expected


def test_rows_of_one_tag_stay_in_one_split(tmp_path):
    (tmp_path / "a.vw").write_text(vw_lines())
    options = {"target": None, "hash_bits": 28}
    run(tmp_path, str(tmp_path / "a.vw"), split_by="tag", splits={"test": 0.4}, **options)

    def tags(split):
        # The namespace n of row i holds the name i, whose code tells the row.
        cells = read_split(tmp_path / "dataset", split)["n"].to_pylist()
        return {code for cell in cells for code, _ in entries(cell)}

    run(tmp_path, str(tmp_path / "a.vw"), out="all", **options, **PLAIN)
    (order,) = zip(*bag(tmp_path / "all", "n"), strict=True)
    place = {code: i // 4 for i, (code, _) in enumerate(order)}
    train = {place[c] for c in tags("train")}
    test = {place[c] for c in tags("test")}
    assert len(train) > 20
    assert len(test) > 20
    assert not train & test


def test_neither_threads_pieces_memory_nor_compression_change_a_byte(tmp_path, monkeypatch):
    text = vw_lines(3000)
    (tmp_path / "a.vw").write_text(text)
    (tmp_path / "b.vw.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "c.vw.zst").write_bytes(pa.Codec("zstd").compress(text.encode(), asbytes=True))
    (tmp_path / "d.txt").write_text(text)
    _, one = run(tmp_path, str(tmp_path / "a.vw"), out="one", target=None, threads=1)
    found = set()
    monkeypatch.setattr("data_tools.text_source.PIECE_BYTES", 8192)
    for name in ("a.vw", "b.vw.gz", "c.vw.zst", "d.txt"):
        kind = "vw" if name == "d.txt" else None
        _, other = run(
            tmp_path, str(tmp_path / name), out=f"of-{name}", target=None, threads=3, kind=kind,
            memory=resident_bytes() + (130 << 20),
        )  # fmt: skip
        found.add(other.fingerprint)
    assert found == {one.fingerprint}


def test_files_with_other_namespaces_are_one_table(tmp_path):
    (tmp_path / "a.vw").write_text("1 |f a\n0 |g a\n")
    (tmp_path / "b.vw").write_text("1 |h a |f b\n")
    _, manifest = run(tmp_path, f"{tmp_path}/[ab].vw", target=None, **PLAIN)
    assert [c.name for c in manifest.schema.columns] == ["f", "g", "h"]
    assert [len(cell) for cell in bag(tmp_path / "dataset", "h")] == [0, 0, 1]


def test_a_namespace_called_as_a_cell_has_a_bar_before_its_name(tmp_path):
    (tmp_path / "a.vw").write_text("1 |label a |tag b\n0 |label b\n")
    _, manifest = run(tmp_path, str(tmp_path / "a.vw"), target=None, **PLAIN)
    assert [c.name for c in manifest.schema.columns] == ["|label", "|tag"]
    raw = next(read_raw([str(tmp_path / "a.vw")], manifest.schema))
    assert [len(cell) for cell in raw.batch["|label"].to_pylist()] == [1, 1]


def test_a_namespace_whose_name_no_column_can_have_rejects_its_row(tmp_path):
    (tmp_path / "a.vw").write_bytes(b"1 |f a\n0 |f b\n1 |\xff a\n0 |a\x1b[31m b |f c\n1 |f d\n")
    report, manifest = run(tmp_path, str(tmp_path / "a.vw"), target=None, **PLAIN)
    assert report.reasons == {"a namespace whose name is no text": 2}
    assert [c.name for c in manifest.schema.columns] == ["f"]


def test_prediction_reads_the_namespaces_of_training_alone(tmp_path):
    (tmp_path / "a.vw").write_text("1 |f a b |g c\n0 |f b\n1 |g c c:2\n")
    _, manifest = run(tmp_path, str(tmp_path / "a.vw"), target=None, **PLAIN)
    encoder = Encoder(manifest.schema, {})
    (tmp_path / "b.vw").write_text("|new x |f a b\n1 'tag| q\n1:2 |f a\n0 |\xff a\n")
    (piece,) = read_encoded([str(tmp_path / "b.vw")], encoder)
    assert piece.reasons == {2: "a label of costs or actions, expected a number"}
    bags = piece.rows.bags
    assert (bags.ranges[:, :, 1] - bags.ranges[:, :, 0]).tolist() == [[2, 0], [0, 0], [0, 0]]
    assert bags.codes.tolist() == [code for code, _ in bag(tmp_path / "dataset", "f")[0]]
    np.testing.assert_array_equal(piece.rows.target, [np.nan, 1, 0])


def svm_lines(n=60, width=50_000, seed=2):
    rng = np.random.default_rng(seed)
    rows, lines = [], []
    for i in range(n):
        picks = np.sort(rng.choice(width, rng.integers(0, 9), replace=False)) + 1
        values = rng.normal(size=len(picks)).astype(np.float32)
        if i == n // 2:
            picks, values = np.array([width]), np.ones(1, np.float32)
        rows.append(list(zip(picks.tolist(), values.tolist(), strict=True)))
        cells = " ".join(f"{k}:{v!r}" for k, v in rows[-1])
        lines.append(f"{i % 2} qid:{i // 5} {cells} # row {i}\n")
    return rows, "".join(lines)


def test_libsvm_of_many_indices_is_one_column_of_entries(tmp_path):
    rows, text = svm_lines()
    (tmp_path / "a.svm").write_text(text)
    report, manifest = run(tmp_path, str(tmp_path / "a.svm"), target=None, **PLAIN)
    (column,) = manifest.schema.columns
    assert (column.name, column.kind, column.cardinality) == ("features", "bag", 50_001)
    assert column.bag.keys == "index"
    assert bag(tmp_path / "dataset", "features") == rows
    assert read_all(tmp_path / "dataset")["label"].to_pylist() == [i % 2 for i in range(60)]
    assert report.rows_rejected == 0


def test_libsvm_of_few_indices_is_sparse_where_that_is_asked_for(tmp_path):
    rows, text = svm_lines(width=9)
    (tmp_path / "a.svm").write_text(text)
    _, manifest = run(tmp_path, str(tmp_path / "a.svm"), target=None, sparse=True, **PLAIN)
    assert manifest.schema.columns[0].cardinality == 10
    assert bag(tmp_path / "dataset", "features") == rows
    _, manifest = run(
        tmp_path,
        str(tmp_path / "a.svm"),
        out="wide",
        target=None,
        sparse=True,
        svm_width=99,
        **PLAIN,
    )
    assert manifest.schema.columns[0].cardinality == 100
    _, manifest = run(tmp_path, str(tmp_path / "a.svm"), out="dense", target=None, **PLAIN)
    assert [c.name for c in manifest.schema.columns] == [str(i) for i in range(1, 10)]


def test_files_of_libsvm_are_sparse_together(tmp_path):
    (tmp_path / "a.svm").write_text("1 1:2 3:1\n0 2:1\n")
    (tmp_path / "b.svm").write_text("1 20000:2\n")
    _, manifest = run(tmp_path, f"{tmp_path}/[ab].svm", target=None, **PLAIN)
    assert manifest.schema.columns[0].cardinality == 20_001
    assert bag(tmp_path / "dataset", "features") == [
        [(1, 2.0), (3, 1.0)],
        [(2, 1.0)],
        [(20_000, 2.0)],
    ]


def test_queries_are_no_feature_and_split_rows(tmp_path):
    _, text = svm_lines(400)
    (tmp_path / "a.svm").write_text(text)
    options = {"target": None, "split_by": "qid", "splits": {"test": 0.3}}
    _, one = run(tmp_path, str(tmp_path / "a.svm"), out="one", **options)
    _, other = run(tmp_path, str(tmp_path / "a.svm"), out="other", threads=1, **options)
    assert one.fingerprint == other.fingerprint
    assert {n % 5 for n in (one.n_rows("train"), one.n_rows("test"))} == {0}
    assert [c.name for c in one.schema.columns] == ["features"]


def test_bad_values_and_too_great_indices_of_sparse_libsvm_reject_their_rows(tmp_path):
    (tmp_path / "a.svm").write_text(
        "1 1:2 12:1\n0 3:x\n0 2:inf\n1 5:1e39\n1 2:\n0 2\n1 13:1\n0 1:1\n"
    )
    report, _ = run(
        tmp_path, str(tmp_path / "a.svm"), target=None, sparse=True, svm_width=12, **PLAIN
    )
    assert report.reasons == {
        "a value that is not a finite number": 4,
        "an index beyond the last column": 1,
        "not index:value": 1,
    }


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("1 0:3 1:2", "index 0, expected 1 or more"),
        ("1 3:3 2:2", "indices are not ascending"),
        ("1 268435456:1", "index 268,435,456, expected less than 268,435,456"),
    ],
)
def test_sparse_libsvm_with_indices_of_no_column_is_refused(tmp_path, line, says):
    (tmp_path / "a.svm").write_text(f"0 1:1\n1 2:1\n{line}\n")
    with pytest.raises(SourceError) as caught:
        run(tmp_path, str(tmp_path / "a.svm"), target=None, sparse=True)
    assert says in str(caught.value)
    assert caught.value.exit_code == 65


@pytest.mark.parametrize("sparse", [True, False])
def test_labels_queries_and_tags_that_are_not_utf8_reject_their_rows(tmp_path, sparse):
    (tmp_path / "a.svm").write_bytes(b"a 1:1\nb qid:2 2:1\n\xe9 1:1\na qid:\xff 1:1\nb 1:2\n")
    options = {"target": None, "sparse": sparse, "categorical": ("qid",), **PLAIN}
    report, _ = run(tmp_path, str(tmp_path / "a.svm"), **options)
    assert report.reasons == {"not UTF-8": 2}
    (tmp_path / "a.vw").write_bytes(b"a '\xc3\xa9|f a\nb |f b\na '\xe9| f\n\xe9 |f c\n")
    options = {"target": None, "categorical": ("tag",), **PLAIN}
    report, _ = run(tmp_path, str(tmp_path / "a.vw"), out="vw", **options)
    assert report.reasons == {"not UTF-8": 1, "not [label [importance [base]]] ['tag]": 1}


@pytest.mark.parametrize("sparse", [True, False])
def test_prediction_leaves_out_indices_that_training_did_not_see(tmp_path, sparse):
    (tmp_path / "a.svm").write_text("1 1:2 4:1\n0 2:1\n")
    _, manifest = run(tmp_path, str(tmp_path / "a.svm"), target=None, sparse=sparse, **PLAIN)
    (tmp_path / "b.svm").write_text("1 2:3 5:7 40000:1\n0 1:1\n")
    (piece,) = read_encoded([str(tmp_path / "b.svm")], Encoder(manifest.schema, {}))
    assert piece.reasons == {}
    if sparse:
        assert piece.rows.bags.codes.tolist() == [2, 1]
        assert piece.rows.bags.values.tolist() == [3.0, 1.0]
    else:
        np.testing.assert_array_equal(piece.rows.numeric, [[0, 3, 0, 0], [1, 0, 0, 0]])


def test_names_are_not_taken_for_indices(tmp_path):
    (tmp_path / "a.svm").write_text("1 1:2\n0 2:1\n")
    _, manifest = run(tmp_path, str(tmp_path / "a.svm"), target=None, sparse=True, **PLAIN)
    (tmp_path / "b.vw").write_text("1 | 1:2\n")
    with pytest.raises(SchemaError, match="expected indices"):
        next(read_encoded([str(tmp_path / "b.vw")], Encoder(manifest.schema, {})))
