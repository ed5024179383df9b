"""AnnData in Zarr whose X is a CSR matrix: every way of writing it gives the same rows."""

import json
import re

import numpy as np
import pytest
import zarr

from data_tools import anndata_source
from data_tools.raw_rows import read_encoded
from streamtrain.errors import SourceError
from streamtrain.store.encode import Encoder
from tests.data_tools.reading import read_all
from tests.data_tools.tables import run
from tests.data_tools.test_vw import bag

PLAIN = {"splits": {}, "shuffle": False}
KEEP = {"config": {"write_empty_chunks": True}}
N_COLUMNS = 50


def made_rows(n=200, seed=4):
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        # Long rows, empty ones, and a stretch of nothing.
        size = 0 if 40 <= i < 70 else int(rng.integers(0, 9)) if i % 17 else N_COLUMNS
        picks = np.sort(rng.choice(N_COLUMNS, size, replace=False))
        rows.append((picks, rng.normal(size=size).astype(np.float32)))
    return rows


def write(
    path, rows, *, zarr_format=3, chunks=None, kind="csr_matrix", types=("i4", "i4", "f4"), **parts
):
    """Write what anndata writes; `parts` go in place of what the rows give."""
    n = len(rows)
    found = {
        "indptr": np.cumsum([0, *(len(p) for p, _ in rows)]).astype(types[0]),
        "indices": np.concatenate([p for p, _ in rows]).astype(types[1]),
        "data": np.concatenate([v for _, v in rows]).astype(types[2]),
    }
    shape = parts.pop("shape", [n, N_COLUMNS])
    root = zarr.create_group(path, zarr_format=zarr_format)
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    x = root.create_group("X")
    x.attrs.update({"encoding-type": kind, "encoding-version": "0.1.0", "shape": shape})
    for name, values in (found | parts).items():
        if values is not None:
            size = {} if chunks is None else {"chunks": (chunks,)}
            x.create_array(name, data=values, **size, **KEEP)
    obs = root.create_group("obs")
    obs.attrs.update({"encoding-type": "dataframe", "_index": "_index"})
    text(obs, "_index", [f"cell{i}" for i in range(n)])
    text(obs, "donor", [f"d{i % 7}" for i in range(n)])
    obs.create_array("age", data=np.arange(n) / 2, **KEEP)
    obs.create_array("y", data=np.arange(n) % 2, **KEEP)
    group = obs.create_group("cell_type")
    group.attrs.update({"encoding-type": "categorical", "ordered": False})
    group.create_array("codes", data=(np.arange(n) % 4 - 1).astype("i1"), **KEEP)
    text(group, "categories", ["T", "B", "NK"])
    return str(path)


def text(group, name, values):
    array = group.create_array(name, shape=len(values), dtype=str)
    array[:] = np.array(values, np.dtypes.StringDType())


def entries_of(rows):
    return [list(zip(p.tolist(), v.tolist(), strict=True)) for p, v in rows]


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("chunks", [None, 1, 7, 64])
def test_rows_are_those_of_the_matrix_however_it_is_chunked(tmp_path, zarr_format, chunks):
    rows = made_rows()
    name = write(tmp_path / "a.zarr", rows, zarr_format=zarr_format, chunks=chunks)
    report, manifest = run(tmp_path, name, **PLAIN)
    assert (report.rows_read, report.rows_written) == (200, 200)
    (column,) = manifest.schema.columns
    assert (column.name, column.bag.keys, column.cardinality) == ("X", "index", N_COLUMNS)
    assert bag(tmp_path / "dataset", "X") == entries_of(rows)
    assert read_all(tmp_path / "dataset")["y"].to_pylist() == [i % 2 for i in range(200)]


@pytest.mark.parametrize("types", [("i8", "i8", "f8"), ("u4", "u2", "f2"), (">i4", ">i8", ">f4")])
def test_types_do_not_matter_where_they_hold_the_values(tmp_path, types):
    rows = [(p, np.float32(np.float16(v))) for p, v in made_rows()]
    run(tmp_path, write(tmp_path / "a.zarr", rows, types=types), **PLAIN)
    assert bag(tmp_path / "dataset", "X") == entries_of(rows)


def test_small_pieces_and_threads_change_nothing(tmp_path, monkeypatch):
    name = write(tmp_path / "a.zarr", made_rows(), chunks=13)
    _, one = run(tmp_path, name, out="one", threads=1)
    for limit, value in (("_SLAB_ROWS", 11), ("_SLAB_VALUES", 20), ("_MIN_STEP", 1)):
        monkeypatch.setattr(anndata_source, limit, value)
    _, other = run(tmp_path, name, out="other", threads=3)
    assert one.fingerprint == other.fingerprint


def test_columns_of_obs_are_targets_weights_and_splits_and_features_where_named(tmp_path):
    name = write(tmp_path / "a.zarr", made_rows())
    options = {"target": "cell_type", "weight": "age", "split_by": "donor", "categorical": ("y",)}
    report, manifest = run(tmp_path, name, splits={"test": 0.4}, **options)
    assert report.reasons == {"missing target": 50}
    assert manifest.schema.target.classes == ("B", "NK", "T")
    assert [c.name for c in manifest.schema.columns] == ["y", "X"]
    assert manifest.schema.weight == "age"


def test_rows_with_values_that_are_not_finite_are_rejected(tmp_path):
    rows = made_rows()[:6]
    rows[1] = np.array([0, 3, 4]), np.array([2, 1, np.nan])
    rows[4] = np.array([2]), np.array([np.inf])
    report, _ = run(tmp_path, write(tmp_path / "a.zarr", rows), **PLAIN)
    assert (report.rows_read, report.rows_written, report.rows_rejected) == (6, 4, 2)
    assert report.reasons == {"X: not finite": 2}
    kept = [row for i, row in enumerate(rows) if i not in {1, 4}]
    assert bag(tmp_path / "dataset", "X") == entries_of(kept)


def test_prediction_reads_the_matrix_without_a_target(tmp_path):
    rows = made_rows()
    _, manifest = run(tmp_path, write(tmp_path / "a.zarr", rows), **PLAIN)
    name = write(tmp_path / "b.zarr", rows[:30])
    del zarr.open_group(name)["obs/y"]
    pieces = list(read_encoded([name], Encoder(manifest.schema, {})))
    assert sum(piece.n_records for piece in pieces) == 30
    assert pieces[0].rows.target is None
    codes = np.concatenate([piece.rows.bags.codes for piece in pieces])
    assert codes.tolist() == [c for p, _ in rows[:30] for c in p.tolist()]


def test_a_directory_of_parts_is_one_table(tmp_path):
    (tmp_path / "parts").mkdir()
    rows = made_rows()
    write(tmp_path / "parts/a.zarr", rows[:90])
    write(tmp_path / "parts/b.zarr", rows[90:])
    run(tmp_path, str(tmp_path / "parts"), **PLAIN)
    assert bag(tmp_path / "dataset", "X") == entries_of(rows)


ROWS = made_rows(20)
N = sum(len(p) for p, _ in ROWS)
ENDS = np.cumsum([0, *(len(p) for p, _ in ROWS)])


def changed(values, at, value):
    out = np.array(values)
    out[at] = value
    return out


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"indptr": changed(ENDS, 5, 3)}, "indptr gives row 4 -"),
        ({"indptr": changed(ENDS, 5, N)}, r"indptr gives row \d+ "),
        ({"indptr": changed(ENDS, 0, 1)}, "indptr begins at 1, expected 0"),
        ({"indptr": changed(ENDS, 20, N + 3)}, "indptr reaches"),
        ({"indptr": changed(ENDS, 20, N - 1)}, "indptr ends at|indptr gives row 19 -"),
        ({"indptr": ENDS[:-1]}, "indptr has 20 values, not rows"),
        ({"indptr": ENDS.astype("f8")}, "indptr is float64"),
        ({"indices": np.full(N, N_COLUMNS)}, "indices has 50 in row 0, expected 0 to 49"),
        ({"indices": np.full(N, -1)}, "indices has -1 in row 0"),
        ({"indices": np.zeros(N - 1, "i4")}, "several lengths"),
        ({"indices": np.zeros((N, 1), "i4")}, "indices is int32 of shape"),
        ({"data": None}, "data cannot be read|not a Zarr array"),
        ({"shape": [20]}, r"the shape \[20\]"),
        ({"shape": [20, "many"]}, "the shape"),
        ({"shape": [20, 10**12]}, "columns, expected 1 to"),
        ({"shape": [-20, 50]}, "the shape"),
        ({"shape": [10**9, 50]}, "not rows"),
        ({"kind": "csc_matrix"}, "X is a csc_matrix, expected"),
    ],
)
def test_a_matrix_that_does_not_hold_together_is_refused(tmp_path, parts, says):
    name = write(tmp_path / "a.zarr", ROWS, **parts)
    before = {p.name for p in tmp_path.iterdir()}
    with pytest.raises(SourceError) as caught:
        run(tmp_path, name)
    assert re.search(says, str(caught.value)), caught.value
    assert "a.zarr" in str(caught.value)
    assert caught.value.exit_code == 65
    assert {p.name for p in tmp_path.iterdir()} == before


def test_dense_arrays_codes_of_no_category_and_short_columns_are_refused(tmp_path):
    zarr.create_array(tmp_path / "one.zarr", data=np.zeros((3, 3)), **KEEP)
    with pytest.raises(SourceError, match="is one array, expected AnnData"):
        run(tmp_path, str(tmp_path / "one.zarr"), kind="anndata")
    group = zarr.create_group(tmp_path / "dense.zarr")
    group.create_array("X", data=np.zeros((3, 3)), **KEEP)
    with pytest.raises(SourceError, match="X is no CSR matrix"):
        run(tmp_path, str(tmp_path / "dense.zarr"), kind="anndata")
    name = write(tmp_path / "a.zarr", ROWS)
    zarr.open_group(name)["obs/cell_type/codes"][3] = 9
    with pytest.raises(SourceError, match="a code that is no category"):
        run(tmp_path, name, target="cell_type")
    obs = zarr.open_group(name)["obs"]
    obs.create_array("short", data=np.zeros(5), **KEEP)
    with pytest.raises(SourceError, match="obs/short: has fewer rows than X"):
        run(tmp_path, name, target="short")


def test_metadata_that_is_damaged_is_refused(tmp_path):
    for k, part in enumerate(("", "X/", "X/data/", "X/indptr/", "obs/", "obs/y/")):
        name = write(tmp_path / f"{k}.zarr", ROWS)
        (tmp_path / f"{k}.zarr" / part / "zarr.json").write_text('{"node_type": "array", "zarr')
        with pytest.raises(SourceError):
            run(tmp_path, name)


def test_pickled_chunks_are_never_loaded(tmp_path):
    name = write(tmp_path / "a.zarr", ROWS, zarr_format=2)
    path = tmp_path / "a.zarr/X/data/.zarray"
    told = json.loads(path.read_text()) | {"filters": [{"id": "pickle"}]}
    path.write_text(json.dumps(told))
    with pytest.raises(SourceError, match=r"pickled objects|cannot be read"):
        run(tmp_path, name)


def test_a_damaged_chunk_and_one_that_is_gone_are_refused(tmp_path):
    name = write(tmp_path / "a.zarr", made_rows(), chunks=64)
    chunk = tmp_path / "a.zarr/X/data/c/1"
    data = chunk.read_bytes()
    chunk.write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match="X/data: rows 0 and on cannot be read"):
        run(tmp_path, name)
    chunk.unlink()
    with pytest.raises(SourceError, match="missing"):
        run(tmp_path, name)
