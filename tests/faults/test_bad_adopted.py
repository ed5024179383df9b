"""Adopted files that change, and directories that cannot be adopted."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

import streamtrain as st
from streamtrain.errors import (
    BudgetError,
    ConfigError,
    CorruptShardError,
    ManifestError,
    NoInputError,
    OutputError,
    SchemaError,
    SourceError,
)
from streamtrain.store.manifest_file import read_manifest
from streamtrain.store.verify import verify_dataset
from tests.data_tools.tables import made_table
from tests.end_to_end.command import refused, run
from tests.faults.crashing import run_and_crash


def write(path, table=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(made_table() if table is None else table, path, row_group_size=100, **options)


@pytest.fixture
def folder(tmp_path):
    """Three files of seven row groups, adopted."""
    for k in range(3):
        write(tmp_path / "ds" / f"{k}.parquet", made_table(seed=k))
    st.adopt(tmp_path / "ds", target="y", splits={"valid": 0.2})
    return tmp_path / "ds"


def read(folder):
    dataset = st.open_dataset(folder)
    for split in ("train", "valid"):
        for _ in dataset.batches(16, split=split, shuffle=False):
            pass


def flipped(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_is_found_wherever_it_is(folder):
    path = folder / "1.parquet"
    whole = path.read_bytes()
    for position in np.linspace(4, len(whole) - 1, 60).astype(int).tolist():
        flipped(path, position)
        with pytest.raises(CorruptShardError, match="damaged") as caught:
            read(folder)
        assert caught.value.where.startswith(f"{path}, block ")
        with pytest.raises(CorruptShardError, match="damaged") as caught:
            verify_dataset(folder)
        assert caught.value.where == str(path)
        path.write_bytes(whole)
    read(folder)


def test_verify_names_the_block_in_its_file_whatever_split_it_is_in(folder):
    ranges = {
        shard.number(k): (split, block)
        for split, shards in read_manifest(folder).splits.items()
        for shard in shards
        if shard.name == "0.parquet"
        for k, block in enumerate(shard.blocks)
    }
    assert sorted(ranges) == list(range(7))
    assert {split for split, _ in ranges.values()} == {"train", "valid"}
    path = folder / "0.parquet"
    whole = path.read_bytes()
    for number, (_, block) in ranges.items():
        flipped(path, block.offset + 5)
        with pytest.raises(CorruptShardError, match=f"in block {number}:"):
            verify_dataset(folder)
        with pytest.raises(CorruptShardError) as caught:
            read(folder)
        assert caught.value.where == f"{path}, block {number}"
        path.write_bytes(whole)


def test_a_file_that_was_written_again_cut_or_lost_is_found(folder):
    path = folder / "2.parquet"
    whole = path.read_bytes()
    for data in (whole[:-1], whole + b"x", b"", (folder / "0.parquet").read_bytes()):
        if data == whole:
            continue
        path.write_bytes(data)
        with pytest.raises(CorruptShardError) as caught:
            read(folder)
        assert str(path) in caught.value.where
    path.unlink()
    with pytest.raises(CorruptShardError, match="missing"):
        read(folder)
    with pytest.raises(CorruptShardError, match="missing"):
        verify_dataset(folder)


def test_a_file_of_the_same_size_with_other_rows_is_found(tmp_path):
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    table = pa.table({"x": np.arange(300.0), "y": [0, 1] * 150})
    write(tmp_path / "a.parquet", table, **plain)
    st.adopt(tmp_path, target="y", splits={})
    size = (tmp_path / "a.parquet").stat().st_size
    write(tmp_path / "a.parquet", table.set_column(0, "x", pa.array(np.arange(300.0) + 1)), **plain)
    assert (tmp_path / "a.parquet").stat().st_size == size
    with pytest.raises(CorruptShardError, match="damaged"):
        list(st.open_dataset(tmp_path).batches(10))


def test_a_vocabulary_that_is_damaged_or_lost_is_found(folder):
    path = next((folder / "vocabulary").iterdir())
    flipped(path, 30)
    with pytest.raises(ManifestError, match="vocabulary"):
        read(folder)
    path.unlink()
    with pytest.raises(ManifestError, match="cannot be read"):
        read(folder)


@pytest.mark.parametrize("codec", ["plain", "zstd", "blosc"])
def test_damaged_chunks_are_found(tmp_path, codec):
    compressors = {
        "plain": None,
        "zstd": zarr.codecs.ZstdCodec(),
        "blosc": zarr.codecs.BloscCodec(),
    }[codec]
    group = zarr.open_group(tmp_path, mode="w")
    rng = np.random.default_rng(0)
    config = {"write_empty_chunks": True}
    group.create_array(
        "features", shape=(100, 8), dtype="f4", chunks=(16, 5), compressors=compressors,
        config=config,
    )[:] = rng.normal(size=(100, 8))  # fmt: skip
    group.create_array("target", shape=(100,), dtype="f8", chunks=(40,), config=config)[:] = (
        rng.normal(size=100)
    )
    st.adopt(tmp_path, target="target", splits={"valid": 0.3})
    read(tmp_path)
    for name in {s.name for shards in read_manifest(tmp_path).splits.values() for s in shards}:
        path = tmp_path / name
        whole = path.read_bytes()
        for position in (0, len(whole) // 2, len(whole) - 1):
            flipped(path, position)
            with pytest.raises(CorruptShardError, match="damaged") as caught:
                read(tmp_path)
            assert caught.value.where == f"{path}, block 0"
            path.write_bytes(whole)
        path.unlink()
        with pytest.raises(CorruptShardError, match="missing"):
            read(tmp_path)
        path.write_bytes(whole)
    flipped(tmp_path / "features" / "zarr.json", 20)
    read(tmp_path)  # decoding takes nothing from it
    with pytest.raises(CorruptShardError, match="damaged"):
        verify_dataset(tmp_path)


# What cannot be adopted


def test_rows_without_a_target_are_counted_and_refused(tmp_path):
    table = made_table()
    y = table["y"].to_pylist()
    y[150:153] = [None] * 3
    write(tmp_path / "a.parquet")
    write(tmp_path / "b.parquet", table.set_column(6, "y", pa.array(y, pa.uint8())))
    with pytest.raises(SourceError, match=r"3 rows cannot be used \(3 missing target\)") as caught:
        st.adopt(tmp_path, target="y")
    assert caught.value.where == str(tmp_path / "b.parquet")
    assert "the first is row 151" in caught.value.message
    assert "streamtrain ingest" in caught.value.remedy
    assert not (tmp_path / "dataset.json").exists()
    assert not (tmp_path / "vocabulary").exists()


@pytest.mark.parametrize(
    ("column", "values", "what"),
    [
        ("x", [np.inf, 1.0], "1 x: not finite"),
        ("x", [1e300, 1.0], "1 x: not finite"),
        ("w", [-1.0, 1.0], "1 w: negative"),
        ("w", [None, 1.0], "1 missing w"),
        ("l", [[1.0], [1.0, 2.0]], "lists of 1 to 2"),
    ],
)
def test_rows_that_ingest_would_reject_are_refused(tmp_path, column, values, what):
    rows = {"x": [1.0, 2.0], "w": [1.0, 1.0], "y": [0, 1]} | {column: values}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=what):
        st.adopt(tmp_path, target="y", weight="w")


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"x": [1.0], "y": [0], "z": [1]}, "3 columns, expected 2"),
        ({"x": ["text"], "y": [0]}, "is string, expected double"),
        ({"u": [1.0], "y": [0]}, "expected 'x'"),
    ],
)
def test_files_of_other_columns_are_refused(tmp_path, other, what):
    pq.write_table(pa.table({"x": [1.0, 2.0], "y": [0, 1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table(other), tmp_path / "b.parquet")
    with pytest.raises(SourceError, match=what) as caught:
        st.adopt(tmp_path, target="y")
    assert caught.value.where == str(tmp_path / "b.parquet")


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + bytes(50) + b"PAR1", b"not one" * 20])
def test_what_is_no_parquet_is_refused(tmp_path, data):
    write(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(data)
    with pytest.raises(SourceError) as caught:
        st.adopt(tmp_path, target="y")
    assert caught.value.where == str(tmp_path / "b.parquet")


def test_links_out_of_the_directory_are_refused(tmp_path):
    write(tmp_path / "elsewhere.parquet")
    (tmp_path / "ds").mkdir()
    (tmp_path / "ds" / "a.parquet").symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(SourceError, match="link out"):
        st.adopt(tmp_path / "ds", target="y")


def test_row_groups_that_do_not_fit_are_refused_before_a_row_is_read(tmp_path):
    table = pa.table({f"x{i}": np.zeros(400_000) for i in range(40)} | {"y": [0, 1] * 200_000})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(BudgetError, match="the rows of one") as caught:
        st.adopt(tmp_path, target="y", memory="250MB")
    assert "streamtrain ingest" in caught.value.remedy
    rows = pa.table({"x": np.zeros((1 << 20) + 1, np.int8), "y": np.zeros((1 << 20) + 1, np.int8)})
    pq.write_table(rows, tmp_path / "a.parquet", row_group_size=1 << 21)
    with pytest.raises(ConfigError, match="at most 1,048,576"):
        st.adopt(tmp_path, target="y")


def test_arrays_with_rows_that_cannot_be_used_are_refused(tmp_path):
    rows, target = np.ones((50, 3)), np.arange(50.0)
    for at, what in (((7, 1), "1 rows cannot be used"), (None, "target of row 9 is missing")):
        shutil.rmtree(tmp_path)
        group = zarr.open_group(tmp_path, mode="w")
        rows[7, 1], target[9] = (np.inf, 9) if at else (1, np.nan)
        for name, values in (("features", rows), ("y", target)):
            group.create_array(name, shape=values.shape, dtype="f8", chunks=(10, 3)[: values.ndim])[
                :
            ] = values
        with pytest.raises(SourceError, match=what):
            st.adopt(tmp_path, target="y")
    with pytest.raises(ConfigError, match="no array 'z'"):
        st.adopt(tmp_path, target="z")
    with pytest.raises(ConfigError, match="names columns"):
        st.adopt(tmp_path, target="y", drop=("a",))


def test_an_unknown_column_is_named_with_the_nearest(tmp_path):
    write(tmp_path / "a.parquet")
    with pytest.raises(SchemaError, match="did you mean 'colour'"):
        st.adopt(tmp_path, target="color")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([["a"], ["a", "b"]], pa.list_(pa.string())),
        ([[("a", 1.0)], []], pa.map_(pa.string(), pa.float32())),
        ([[], [{"k": 3, "v": 1.0}]], pa.list_(pa.struct({"k": pa.int32(), "v": pa.float32()}))),
    ],
)
def test_columns_of_variable_length_are_refused(tmp_path, values, kind):
    table = pa.table({"x": [1.0, 2.0], "bag": pa.array(values, kind), "y": [0, 1]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(SchemaError, match="ingested alone") as caught:
        st.adopt(tmp_path, target="y", splits={})
    assert caught.value.where == "column 'bag'"
    assert "--drop bag" in caught.value.remedy
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]
    assert st.adopt(tmp_path, target="y", splits={}, drop=("bag",)).bags == 0
    with pytest.raises(ConfigError, match="no option 'text'"):
        st.adopt(tmp_path, target="y", text=("x",), overwrite=True)


def test_row_weights_of_a_group_are_refused_and_never_left_out(tmp_path):
    group = zarr.open_group(tmp_path, mode="w")
    for name, shape in (("features", (20, 3)), ("y", (20,)), ("weight", (20,))):
        group.create_array(name, shape=shape, dtype="f4", chunks=shape)[:] = 1 + np.ones(shape)
    with pytest.raises(SourceError, match="row weights"):
        st.adopt(tmp_path, target="y")


# Exit codes


def test_exit_codes_are_those_of_the_contract(tmp_path):
    write(tmp_path / "ds" / "a.parquet")
    ds = tmp_path / "ds"
    assert "no such directory" in refused(run("adopt", tmp_path / "no", "--target", "y"), 66)
    (tmp_path / "empty").mkdir()
    assert "without Parquet" in refused(run("adopt", tmp_path / "empty", "--target", "y"), 66)
    assert "no column 'z'" in refused(run("adopt", ds, "--target", "z"), 78)
    assert "no target" in refused(run("adopt", ds), 2)
    assert "--split-files" in refused(run("adopt", ds, "--target", "y", "--split-files", "x"), 2)
    assert "'y' cannot play two roles" in refused(
        run("adopt", ds, "--target", "y", "--weight", "y"), 78
    )
    done = run("adopt", ds, "--target", "y", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["rows_read"] == 700
    assert {"splits", "shards", "bytes", "seconds", "peak_rss_bytes", "fingerprint"} <= set(report)
    assert "a dataset already" in refused(run("adopt", ds, "--target", "y"), 73)
    assert run("adopt", ds, "--target", "y", "--overwrite").returncode == 0
    assert run("verify", ds).returncode == 0
    assert "parquet, adopted" in run("inspect", ds).stdout
    assert run("train", ds, "--out", tmp_path / "run", "--epochs", 1).returncode == 0
    assert run("evaluate", tmp_path / "run", "--split", "test").returncode == 0
    again = run("evaluate", tmp_path / "run", ds, "--split", "train", "--json")
    assert json.loads(again.stdout)["rows"] == report["splits"]["train"]
    assert run("predict", tmp_path / "run", ds, "--out", tmp_path / "p.csv").returncode == 0
    flipped(ds / "a.parquet", 2000)
    place = f"{ds / 'a.parquet'}, block "
    done = run("train", ds, "--out", tmp_path / "run2")
    assert done.returncode == 65
    assert place in done.stderr.splitlines()[-1]
    assert "damaged in block" in refused(run("verify", ds), 65)
    made = tmp_path / "made"
    write(tmp_path / "b.parquet")
    assert run("ingest", tmp_path / "b.parquet", "--out", made, "--target", "y").returncode == 0
    assert "ingest wrote" in refused(run("adopt", made, "--target", "y", "--overwrite"), 73)


def test_a_directory_that_cannot_be_written_to_is_refused_before_anything_is_read(
    tmp_path, monkeypatch
):
    write(tmp_path / "a.parquet")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(OutputError, match="Permission denied"):
        st.adopt(tmp_path, target="y")
    with pytest.raises(NoInputError, match="not a directory"):
        st.adopt(tmp_path / "a.parquet", target="y")


BODY = """
import streamtrain as st
st.adopt(sys.argv[1], target="y", splits={}, max_categories=2, overwrite=True)
"""


@pytest.mark.parametrize("before", [False, True])
def test_an_adopt_that_is_killed_leaves_the_old_state_or_the_new_one(tmp_path, before):
    write(tmp_path / "old" / "a.parquet")
    old = st.adopt(tmp_path / "old", target="y", splits={}).fingerprint if before else None
    data = (tmp_path / "old" / "a.parquet").read_bytes()
    seen = []
    for crash_at in range(3, 400, 7):
        out = tmp_path / "out"
        shutil.copytree(tmp_path / "old", out)
        killed = run_and_crash(BODY, out, crash_at=crash_at)
        assert (out / "a.parquet").read_bytes() == data
        if (out / "dataset.json").exists():
            verify_dataset(out)
            list(st.open_dataset(out).batches(100))
            seen.append(st.open_dataset(out).fingerprint == old)
        else:
            assert not before
            seen.append(True)
        again = st.adopt(out, target="y", splits={}, overwrite=True)
        assert again.fingerprint == (old or again.fingerprint)
        verify_dataset(out)
        shutil.rmtree(out)
        if not killed:
            break
    assert set(seen) == {True, False}
    assert seen == sorted(seen, reverse=True)
