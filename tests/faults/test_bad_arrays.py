"""Arrays that are refused: one line, and nothing left."""

import gzip
import io
import pickle
import shutil
import time

import numpy as np
import pytest
import zarr

from data_tools import array_ingest
from data_tools.array_source import is_array, open_array
from data_tools.ingest import ingest
from data_tools.options import IngestOptions
from streamtrain.errors import (
    BudgetError,
    ConfigError,
    NoInputError,
    SourceError,
    StreamtrainError,
    UsageError,
)
from streamtrain.store.manifest_file import read_manifest
from tests.data_tools.arrays import (
    N_ROWS,
    idx_bytes,
    legible,
    make,
    options_for,
    write_array,
)


def refused(tmp_path, values, target, error=SourceError, **options):
    """Ingest, and return what was said; nothing may be left."""
    with pytest.raises(error) as caught:
        make(tmp_path, values, target, **options)
    assert not (tmp_path / "ds").exists()
    assert not list(tmp_path.glob(".*staging*"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_arrays_of_other_lengths_are_refused(tmp_path):
    values, target = legible()
    said = refused(tmp_path, values, target[:-1])
    assert said.startswith(f"{tmp_path}/y.npy: of shape (299,), expected (300,)")


@pytest.mark.parametrize(("bad", "says"), [(np.nan, "missing"), (np.inf, "not finite")])
def test_a_target_that_is_no_number_is_refused(tmp_path, bad, says):
    values, target = legible()
    target = target.astype(float)
    target[211] = bad
    assert f"row 211 is {says}" in refused(tmp_path, values, target)


def test_a_target_with_one_value_teaches_nothing(tmp_path):
    values, target = legible()
    assert "nothing to learn" in refused(tmp_path, values, target * 0)


class Boom:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize("which", ["features", "target"])
def test_pickled_objects_are_refused_and_never_loaded(tmp_path, which):
    values, target = legible()
    objects = np.array([Boom()] * N_ROWS, object)
    data = (objects.reshape(-1, 1), target) if which == "features" else (values, objects)
    assert "Python objects" in refused(tmp_path, *data)


def test_a_header_is_a_literal_and_nothing_more(tmp_path):
    path = write_array(tmp_path, "y", legible()[1])
    for text in (
        "__import__('os').abort()",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (300,), **dict()}",
        "{'descr': '<f4', 'fortran_order': False}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-300,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': ('300',)}",
        "{'descr': 'no type', 'fortran_order': False, 'shape': (300,)}",
        "[" * 5000,
        "",
    ):
        data = text.encode()
        path.write_bytes(b"\x93NUMPY\x01\x00" + len(data).to_bytes(2, "little") + data)
        with pytest.raises(SourceError, match=r"header is damaged"):
            open_array(path)


@pytest.mark.parametrize("kind", ["U3", "c8", "M8[s]", "f16"])
def test_values_that_are_no_numbers_are_refused(tmp_path, kind):
    values, target = legible()
    assert "expected numbers" in refused(tmp_path, values[:, 0].astype(kind), target)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.zeros((0, 3)), "expected rows"),
        (np.zeros(N_ROWS), "one axis"),
        (np.float32(3), "no axes"),
        (np.zeros((N_ROWS, 0)), "expected rows"),
    ],
)
def test_shapes_that_are_no_rows_are_refused(tmp_path, values, says):
    assert says in refused(tmp_path, values, legible()[1])


@pytest.mark.parametrize("n", [1, -1, -700])
@pytest.mark.parametrize("kind", ["npy", "idx", "idx.gz"])
def test_a_file_of_another_length_than_its_shape_is_refused(tmp_path, kind, n):
    values, target = legible()
    path = write_array(tmp_path, "x", values.astype("u1"), kind)
    data = path.read_bytes() if kind != "idx.gz" else gzip.decompress(path.read_bytes())
    changed = data + bytes(n) if n > 0 else data[:n]
    path.write_bytes(gzip.compress(changed) if kind == "idx.gz" else changed)
    write_array(tmp_path, "y", target)
    with pytest.raises(SourceError, match=r"longer than|cut short|bytes, expected"):
        ingest(options_for(tmp_path, path))
    assert not (tmp_path / "ds").exists()


def test_a_gzip_that_is_cut_or_damaged_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    write_array(tmp_path, "y", np.arange(N_ROWS) % 2)
    whole = gzip.compress(idx_bytes(rng.integers(0, 256, (N_ROWS, 20), dtype=np.uint8)))
    for data in (whole[:-3], whole[: len(whole) // 2], whole[:50] + b"\xff" + whole[51:]):
        path = tmp_path / "x.gz"
        path.write_bytes(data)
        with pytest.raises(SourceError, match=r"damaged|cut short"):
            ingest(options_for(tmp_path, path))
        assert not (tmp_path / "ds").exists()


@pytest.mark.parametrize("kind", ["zarr", "zarr2", "zarr_shards"])
def test_a_zarr_with_a_missing_chunk_is_refused_and_never_filled_in(tmp_path, kind):
    values, target = legible()
    path = write_array(tmp_path, "x", values, kind)
    write_array(tmp_path, "y", target)
    chunks = [p for p in sorted(path.rglob("*")) if p.is_file() and p.name not in MARKS]
    assert len(chunks) > 5
    chunks[len(chunks) // 2].unlink()
    with pytest.raises(SourceError, match=r"chunk .* is missing"):
        ingest(options_for(tmp_path, path))
    assert not (tmp_path / "ds").exists()


MARKS = {"zarr.json", ".zarray", ".zattrs", ".zgroup"}


def test_a_chunk_missing_inside_a_zarr_shard_is_found(tmp_path):
    # Zarr leaves out chunks that hold the fill value alone.
    values, target = legible()
    values[100:130] = 0
    write_array(tmp_path, "y", target)
    path = tmp_path / "x.zarr"
    zarr.create_array(path, data=values, chunks=(10, 4, 5), shards=(100, 4, 5))
    with pytest.raises(SourceError, match=r"chunk 0 of c/1/0/0 is missing"):
        ingest(options_for(tmp_path, path))


def test_a_zarr_chunk_that_is_damaged_is_refused(tmp_path):
    values, target = legible()
    path = write_array(tmp_path, "x", values, "zarr")
    write_array(tmp_path, "y", target)
    chunk = path / "c/1/0/0"
    chunk.write_bytes(chunk.read_bytes()[:7])
    with pytest.raises(SourceError, match="cannot be read"):
        ingest(options_for(tmp_path, path))
    assert not (tmp_path / "ds").exists()


@pytest.mark.parametrize("text", ["{", "{}", '{"zarr_format": 3, "node_type": "array"}'])
def test_metadata_that_is_not_zarrs_is_refused(tmp_path, text):
    path = tmp_path / "x.zarr"
    path.mkdir()
    (path / "zarr.json").write_text(text)
    with pytest.raises(SourceError, match=r"not a Zarr array|its arrays: none"):
        open_array(path)


def test_a_group_says_which_arrays_it_has(tmp_path):
    group = zarr.create_group(tmp_path / "g.zarr")
    for name in ("a", "b"):
        group.create_array(name, data=np.zeros((3, 2)))
    with pytest.raises(SourceError, match="its arrays: a, b"):
        open_array(tmp_path / "g.zarr")


def test_what_is_no_array_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    (tmp_path / "p.npy").write_bytes(pickle.dumps([1, 2]))
    for name in ("x.csv", "p.npy"):
        assert not is_array(tmp_path / name)
        with pytest.raises(SourceError, match="not an array"):
            open_array(tmp_path / name)
    with pytest.raises(NoInputError, match="no such file"):
        open_array(tmp_path / "nothing")
    with pytest.raises(SourceError, match="a directory"):
        open_array(tmp_path)


@pytest.mark.parametrize(("kind", "file"), [("npy", "x.npy"), ("zarr", "x.zarr/c/0/0/0")])
def test_an_array_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch, kind, file):
    path = write_array(tmp_path, "x", legible()[0], kind)
    write_array(tmp_path, "y", legible()[1])
    original = array_ingest._ArrayIngest._write

    def change(self, *args):
        time.sleep(0.01)
        (tmp_path / file).write_bytes((tmp_path / file).read_bytes())
        return original(self, *args)

    monkeypatch.setattr(array_ingest._ArrayIngest, "_write", change)
    with pytest.raises(SourceError, match="changed while"):
        ingest(options_for(tmp_path, path))
    assert not (tmp_path / "ds").exists()


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (ConfigError, {"weight": "w"}),
        (ConfigError, {"drop": ("3",)}),
        (ConfigError, {"split_by": "user"}),
        (BudgetError, {"memory": 10_000_000}),
        (StreamtrainError, {"splits": {"valid": 1.0}}),
        (UsageError, {"block_rows": 0}),
    ],
    ids=str,
)
def test_options_that_mean_nothing_to_arrays_are_refused(tmp_path, error, options):
    refused(tmp_path, *legible(), error=error, **options)


def test_arrays_of_more_than_two_dimensions_are_kept_in_zarr_alone(tmp_path):
    write_array(tmp_path, "x", legible()[0])
    write_array(tmp_path, "y", legible()[1])
    options = options_for(tmp_path, tmp_path / "x.npy")
    with pytest.raises(SourceError, match="--format zarr"):
        ingest(IngestOptions(**(options.__dict__ | {"format": "parquet"})))
    table = options.__dict__ | {"format": "parquet", "compression": "zstd", "target_file": None}
    with pytest.raises(ConfigError, match="--compression"):
        ingest(IngestOptions(**table))
    with pytest.raises(UsageError, match="2 sources"):
        ingest(IngestOptions(**(options.__dict__ | {"sources": options.sources * 2})))


def test_a_hostile_shape_in_a_header_takes_no_memory(tmp_path):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_2_0(
        buffer, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**9)}
    )
    (tmp_path / "x.npy").write_bytes(buffer.getvalue())
    with pytest.raises(SourceError, match="bytes, expected"):
        open_array(tmp_path / "x.npy")
    (tmp_path / "x.idx").write_bytes(idx_bytes(np.zeros((1, 1), "u1"))[:4] + b"\xff" * 8)
    write_array(tmp_path, "y", np.zeros(3))
    with pytest.raises(StreamtrainError):
        ingest(options_for(tmp_path, tmp_path / "x.idx"))


def test_an_overwritten_dataset_is_the_new_one_or_the_old_one(tmp_path):
    values, target = legible()
    first = make(tmp_path, values, target).fingerprint
    shutil.copy(tmp_path / "x.npy", tmp_path / "kept.npy")
    with pytest.raises(SourceError):
        make(tmp_path, values, target[:-1], overwrite=True)
    assert read_manifest(tmp_path / "ds").fingerprint == first
    assert make(tmp_path, values[::-1], target, overwrite=True).fingerprint != first


def test_on_bad_row_fail_ends_at_the_first(tmp_path):
    values, target = legible("f4")
    values[7, 1, 1] = np.inf
    assert "row 8" in refused(tmp_path, values, target, on_bad_row="fail")
