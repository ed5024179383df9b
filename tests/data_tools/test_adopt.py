"""Files that stay where they are: the dataset is the one that ingest would have made of them."""

import itertools
from datetime import UTC, datetime, timedelta

import msgspec
import numcodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

import streamtrain as st
from data_tools.block_splits import FoundBlock, split_blocks
from streamtrain.errors import (
    ConfigError,
    ManifestError,
    OutputError,
    SourceError,
    StreamtrainError,
    UsageError,
)
from streamtrain.store.manifest import Manifest
from streamtrain.store.manifest_file import read_manifest, write_manifest
from streamtrain.store.verify import verify_dataset
from tests.data_tools.tables import encoded, made_table, wide

N_ROWS = 700


def dated(table):
    rng = np.random.default_rng(5)
    first = datetime(2024, 1, 1, tzinfo=UTC)
    times = [first + timedelta(seconds=int(s)) for s in rng.integers(0, 10**8, len(table))]
    times[3] = None
    return table.append_column("when", pa.array(times, pa.timestamp("us", "UTC")))


def listed(table):
    rng = np.random.default_rng(6)
    rows = [None if i == 5 else rng.normal(size=3).tolist() for i in range(len(table))]
    return table.append_column("emb", pa.array(rows, pa.list_(pa.float32())))


def with_texts(table):
    """Add an empty text, a text that reads as missing, and numbers as text."""
    texts = pa.array(itertools.islice(itertools.cycle(["", "NA", "x ", None, "7"]), len(table)))
    return table.append_column("note", texts).append_column("many", pa.array(
        [f"id{i % 333}" for i in range(len(table))]
    ))  # fmt: skip


TABLES = {
    "snappy and dictionaries": (made_table, {}),
    "plain": (made_table, {"compression": "none", "use_dictionary": False}),
    "zstd, small pages": (made_table, {"compression": "zstd", "data_page_size": 200}),
    "a dictionary that overflows": (
        lambda: with_texts(made_table()), {"dictionary_pagesize_limit": 64},
    ),
    "byte stream split": (
        lambda: made_table().select(["x", "small", "y"]),
        {"use_dictionary": False, "use_byte_stream_split": ["x"]},
    ),
    "data pages of version 2": (made_table, {"data_page_version": "2.0", "compression": "gzip"}),
    "other types": (lambda: encoded(made_table()), {}),
    "large strings": (lambda: wide(made_table()), {}),
    "times": (lambda: dated(made_table()), {}),
    "lists": (lambda: listed(made_table()), {}),
    "texts": (lambda: with_texts(made_table()), {}),
    "no statistics, no Arrow schema": (
        lambda: encoded(made_table()), {"write_statistics": False, "store_schema": False},
    ),
}  # fmt: skip


def both(tmp_path, table, *, block_rows=130, target="y", written=None, **options):
    """Adopt a table and ingest it in the same order and blocks; return both reports."""
    folder = tmp_path / "there"
    folder.mkdir()
    pq.write_table(table, folder / "a.parquet", row_group_size=block_rows, **(written or {}))
    adopted = st.adopt(folder, target=target, splits={}, **options)
    ingested = st.ingest(
        folder / "a.parquet", out=tmp_path / "made", target=target, splits={}, shuffle=False,
        block_rows=block_rows, **options,
    )  # fmt: skip
    return adopted, ingested


@pytest.mark.parametrize("kind", TABLES)
def test_the_fingerprint_is_that_of_the_same_rows_ingested_in_order(tmp_path, kind):
    make, written = TABLES[kind]
    adopted, ingested = both(tmp_path, make(), written=written)
    assert adopted.fingerprint == ingested.fingerprint
    assert adopted.as_dict().keys() == ingested.as_dict().keys()
    assert adopted.rows_read == adopted.rows_written == N_ROWS
    verify_dataset(tmp_path / "there")
    (rows, _), (expected, _) = (
        next(st.open_dataset(tmp_path / name).batches(N_ROWS, shuffle=False))
        for name in ("there", "made")
    )
    for name in ("numeric", "codes", "target", "weight", "exposure"):
        assert getattr(rows, name).tobytes() == getattr(expected, name).tobytes(), name


@pytest.mark.parametrize(
    "options",
    [
        {"missing": ("", "-999", "red")},
        {"missing": ("none",)},
        {"categorical": ("count", "id"), "rare": 3},
        {"max_categories": 2, "drop": ("x",)},
        {"weight": "id", "exposure": "up"},
        {"target": "colour2"},
        {"target": "colour2", "positive": "b"},
        {"numeric": ("digits",)},
        {"date_parts": (), "drop": ("id",)},
        {"date_parts": ("hour",), "categorical": ("when.hour",)},
        {"drop": ("emb.1",)},
    ],
    ids=str,
)
def test_options_mean_what_they_mean_to_ingest(tmp_path, options):
    table = listed(dated(made_table()))
    table = table.append_column("up", pa.array(np.arange(1, N_ROWS + 1) / 3))
    table = table.append_column("colour2", pa.array(["b", "a"] * (N_ROWS // 2)))
    table = table.append_column("digits", pa.array([f" {i}.5" for i in range(N_ROWS)]))
    adopted, ingested = both(tmp_path, table, **options)
    assert adopted.fingerprint == ingested.fingerprint
    assert adopted.task == ingested.task


def test_files_of_a_directory_are_one_table_with_its_partitions_as_columns(tmp_path):
    folder = tmp_path / "there"
    for year, city, seed in ((2023, "Bern", 1), (2024, "Z%C3%BCrich", 2), (2024, "Bern", 3)):
        part = folder / f"year={year}" / f"city={city}"
        part.mkdir(parents=True)
        pq.write_table(made_table(200, seed), part / "0.parquet", row_group_size=50)
    (folder / "_temporary").mkdir()
    (folder / "_temporary" / "x.parquet").write_bytes(b"half written")
    (folder / "README.md").write_text("not a table")
    ingested = st.ingest(
        folder, out=tmp_path / "made", target="y", splits={}, shuffle=False, block_rows=50
    )
    adopted = st.adopt(folder, target="y", splits={})
    assert adopted.fingerprint == ingested.fingerprint
    assert (adopted.rows_written, adopted.shards) == (600, 3)
    names = [c.name for c in read_manifest(folder).schema.columns]
    assert names[-2:] == ["year", "city"]
    again = st.ingest(
        folder, out=tmp_path / "again", target="y", splits={}, shuffle=False, block_rows=50
    )
    assert again.fingerprint == ingested.fingerprint  # its own vocabularies are no sources


def test_row_groups_of_any_size_and_none_are_blocks(tmp_path):
    table = made_table()
    with pq.ParquetWriter(tmp_path / "a.parquet", table.schema) as writer:
        for first, n in ((0, 300), (300, 0), (300, 1), (301, 399)):
            writer.write_table(table.slice(first, n))
    st.adopt(tmp_path, target="y", splits={})
    manifest = read_manifest(tmp_path)
    sizes = [block.n_rows for _, block in manifest.blocks("train")]
    numbers = [block.parts[0].number for _, block in manifest.blocks("train")]
    assert sizes == [300, 1, 399]
    assert numbers in ([0, 2, 3], [0, 1, 2])  # Arrow may leave an empty one out
    batches = st.open_dataset(tmp_path).batches(100, shuffle=False)
    assert [i for rows, _ in batches for i in rows.numeric[:, 0]] == list(range(700))


def test_nothing_is_written_but_a_manifest_and_vocabularies(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(made_table(), path, row_group_size=100)
    before = path.read_bytes(), path.stat().st_mtime_ns
    st.adopt(tmp_path, target="y")
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    names = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert names == {"a.parquet", "dataset.json", *read_manifest(tmp_path).files}
    assert all(name.startswith("vocabulary/") for name in read_manifest(tmp_path).files)


def test_adopting_again_replaces_the_manifest_and_removes_its_vocabularies_alone(tmp_path):
    pq.write_table(made_table(), tmp_path / "a.parquet", row_group_size=100)
    first = st.adopt(tmp_path, target="y", splits={})
    with pytest.raises(OutputError, match="--overwrite"):
        st.adopt(tmp_path, target="y", splits={})
    (tmp_path / "vocabulary" / "mine.txt").write_text("kept")
    old = read_manifest(tmp_path).files
    again = st.adopt(tmp_path, target="y", splits={}, max_categories=2, overwrite=True)
    assert again.fingerprint != first.fingerprint
    new = read_manifest(tmp_path).files
    names = {p.name for p in (tmp_path / "vocabulary").iterdir()}
    assert names == {"mine.txt"} | {name.partition("/")[2] for name in new}
    assert old.keys() != new.keys()
    verify_dataset(tmp_path)
    same = st.adopt(tmp_path, target="y", splits={}, overwrite=True)
    assert same.fingerprint == first.fingerprint


def test_ingest_never_replaces_a_directory_of_adopted_files(tmp_path):
    pq.write_table(made_table(), tmp_path / "a.parquet", row_group_size=100)
    st.adopt(tmp_path, target="y")
    source = tmp_path.parent / f"{tmp_path.name}.csv"
    source.write_text("a,y\n1,0\n2,1\n")
    for damaged in (False, True):
        manifest = tmp_path / "dataset.json"
        if damaged:
            manifest.write_bytes(manifest.read_bytes()[:-30])
        with pytest.raises(OutputError, match="would remove"):
            st.ingest(source, out=tmp_path, target="y", overwrite=True)
        assert (tmp_path / "a.parquet").is_file()


def test_a_run_goes_on_with_the_same_rows_ingested(tmp_path):
    both(tmp_path, made_table(2000), block_rows=100)
    whole = list(st.train(tmp_path / "made", out=tmp_path / "whole", epochs=3, seed=2))[-1]
    adopted = list(st.train(tmp_path / "there", out=tmp_path / "other", epochs=3, seed=2))[-1]
    assert adopted["parameters_digest"] == whole["parameters_digest"]
    assert adopted["ledger"]["delivered"] == 6000
    calls = iter(range(1000))
    first = st.train(
        tmp_path / "there", out=tmp_path / "run", epochs=3, seed=2, checkpoint_every=3,
        should_stop=lambda: next(calls) > 8,
    )  # fmt: skip
    with pytest.raises(StreamtrainError, match="stopped"):
        list(first)
    rest = st.train(tmp_path / "made", out=tmp_path / "run", epochs=3, seed=2, resume="auto")
    assert list(rest)[-1]["parameters_digest"] == whole["parameters_digest"]


@pytest.mark.parametrize("readers", [1, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_the_order_depends_on_no_thread(tmp_path, readers, shuffle):
    both(tmp_path, made_table(2000), block_rows=50)
    dataset = st.open_dataset(tmp_path / "there")
    plain = [r.numeric.tobytes() for r, _ in dataset.batches(64, shuffle=shuffle, prefetch=0)]
    options = {"shuffle": shuffle, "prefetch": 2, "readers": readers}
    assert [r.numeric.tobytes() for r, _ in dataset.batches(64, **options)] == plain


# Splits


def found(sizes, file="a.parquet"):
    return [FoundBlock(file, k, n, 0, 1) for k, n in enumerate(sizes)]


@pytest.mark.parametrize("sizes", [[100] * 50, [1, 1000, 10, 500] * 8, list(range(1, 40))])
def test_splits_are_whole_blocks_of_about_the_shares(sizes):
    shares = {"valid": 0.2, "test": 0.1}
    splits, _ = split_blocks(found(sizes), shares=shares, patterns={}, seed=1)
    rows = np.array(sizes)
    for code, share in ((1, 0.2), (2, 0.1)):
        assert abs(rows[splits == code].sum() / rows.sum() - share) <= max(sizes) / rows.sum()
        assert (splits == code).any()
    again, _ = split_blocks(found(sizes), shares=shares, patterns={}, seed=1)
    other, _ = split_blocks(found(sizes), shares=shares, patterns={}, seed=2)
    assert again.tolist() == splits.tolist() != other.tolist()


def test_too_few_blocks_are_left_to_train_unless_shares_were_asked_for():
    splits, told = split_blocks(found([10]), shares=None, patterns={}, seed=0)
    assert splits.tolist() == [0]
    assert "too few" in told
    with pytest.raises(ConfigError, match="1 blocks cannot be divided into 2 splits"):
        split_blocks(found([10]), shares={"valid": 0.1}, patterns={}, seed=0)
    splits, _ = split_blocks(found([10, 10]), shares={"valid": 0.01}, patterns={}, seed=0)
    assert sorted(splits.tolist()) == [0, 1]


def test_directories_are_splits_where_they_are(tmp_path):
    for seed, name in enumerate(("train", "valid", "test")):
        (tmp_path / name).mkdir()
        pq.write_table(made_table(100 + seed, seed), tmp_path / name / "0.parquet")
    assert st.adopt(tmp_path, target="y").splits == {"train": 100, "valid": 101, "test": 102}
    report = st.adopt(tmp_path, target="y", split_files={"valid": "t*t/*"}, overwrite=True)
    assert report.splits == {"train": 201, "valid": 102}
    with pytest.raises(ConfigError, match="no file fits"):
        st.adopt(tmp_path, target="y", split_files={"valid": "nothing*"}, overwrite=True)
    with pytest.raises(UsageError, match="in place of --split"):
        st.adopt(tmp_path, target="y", split_files={"valid": "t*"}, splits={"test": 0.1},
                 overwrite=True)  # fmt: skip


def test_categories_and_statistics_are_those_of_the_train_split(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "valid").mkdir()
    rows = {"x": [1.0, 3.0], "c": ["a", "a"], "y": [0, 1]}
    pq.write_table(pa.table(rows), tmp_path / "train" / "0.parquet")
    pq.write_table(
        pa.table(rows | {"x": [9.0, 9.0], "c": ["b", "a"]}), tmp_path / "valid/0.parquet"
    )
    st.adopt(tmp_path, target="y")
    column, category = read_manifest(tmp_path).schema.columns
    assert (column.statistics.mean, column.statistics.count) == (2.0, 2)
    assert category.cardinality == 3
    rows, _ = next(st.open_dataset(tmp_path).batches(2, split="valid", shuffle=False))
    assert rows.codes.tolist() == [[1], [2]]


def test_a_file_may_have_blocks_in_several_splits(tmp_path):
    pq.write_table(made_table(1000), tmp_path / "a.parquet", row_group_size=50)
    report = st.adopt(tmp_path, target="y", splits={"valid": 0.3}, seed=4)
    assert sum(report.splits.values()) == 1000
    assert report.shards == 1
    dataset = st.open_dataset(tmp_path)
    ids = [
        int(i)
        for split in ("train", "valid")
        for rows, _ in dataset.batches(50, split=split)
        for i in rows.numeric[:, 0]
    ]
    assert sorted(ids) == list(range(1000))


# Zarr

CODECS = {
    "v3, zstd": (3, {}),
    "v3, plain": (3, {"compressors": None}),
    "v3, blosc": (3, {"compressors": zarr.codecs.BloscCodec()}),
    "v3, two codecs": (
        3,
        {"compressors": [zarr.codecs.GzipCodec(), zarr.codecs.Crc32cCodec()]},
    ),
    "v3, shards": (3, {"shards": (192, 8, 5)}),
    "v2, blosc": (2, {}),
    "v2, plain": (2, {"compressors": None}),
    "v2, zlib": (2, {"compressors": numcodecs.Zlib()}),
    "v2, Fortran order": (2, {"order": "F"}),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Rows of 6 x 5 bytes, their targets, and what ingest makes of them."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (500, 6, 5), dtype=np.uint8)
    target = (rows.mean(axis=(1, 2)) > 127).astype(np.int64)
    np.save(folder / "rows.npy", rows)
    np.save(folder / "target.npy", target)
    report = st.ingest(
        folder / "rows.npy", target_file=folder / "target.npy", target="labels",
        out=folder / "made", format="zarr", shuffle=False, block_rows=64, splits={},
    )  # fmt: skip
    return rows, target, report.fingerprint


def write_group(path, rows, target, *, kind=3, chunks=(64, 4, 5), target_chunk=64, **options):
    group = zarr.open_group(path, mode="w", zarr_format=kind)
    config = {"write_empty_chunks": True}
    group.create_array(
        "features", shape=rows.shape, dtype=rows.dtype, chunks=chunks, config=config, **options
    )[:] = rows
    group.create_array(
        "labels", shape=target.shape, dtype=target.dtype, chunks=(target_chunk,), config=config
    )[:] = target


@pytest.mark.parametrize("target_chunk", [64, 70, 20, 500])
@pytest.mark.parametrize("codec", CODECS)
def test_arrays_are_those_that_ingest_makes_whatever_chunks_and_codecs(
    tmp_path, images, codec, target_chunk
):
    rows, target, fingerprint = images
    kind, options = CODECS[codec]
    write_group(tmp_path, rows, target, kind=kind, target_chunk=target_chunk, **options)
    report = st.adopt(tmp_path, target="labels", splits={})
    assert report.fingerprint == fingerprint
    assert report.rows_read == report.rows_written == 500
    found = [r.numeric.copy() for r, _ in st.open_dataset(tmp_path).batches(64, shuffle=False)]
    assert (np.concatenate(found) == rows.reshape(500, 30)).all()
    verify_dataset(tmp_path)


@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<i2", ">u2", "?", "<f2", "<i8"])
@pytest.mark.parametrize("kind", [2, 3])
def test_arrays_of_any_type_become_what_ingest_stores(tmp_path, dtype, kind):
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 2 if dtype == "?" else 100, (90, 4)).astype(dtype)
    target = rng.normal(size=90)
    if kind == 3:
        rows = rows.astype(np.dtype(dtype).newbyteorder("="))
    write_group(tmp_path / "z", rows, target, kind=kind, chunks=(32, 4), compressors=None)
    report = st.adopt(tmp_path / "z", target="labels", splits={})
    np.save(tmp_path / "rows.npy", rows)
    np.save(tmp_path / "target.npy", target)
    ingested = st.ingest(
        tmp_path / "rows.npy", target_file=tmp_path / "target.npy", target="labels",
        out=tmp_path / "made", format="zarr", shuffle=False, block_rows=32, splits={},
    )  # fmt: skip
    assert report.fingerprint == ingested.fingerprint


def test_wide_integers_are_stored_and_counted_as_ingest_does(tmp_path):
    for top, dtype, n_rounded in ((300, "int16", 0), (2**24 + 1, "float32", 1)):
        rows = np.arange(80).reshape(40, 2) - 10
        rows[33, 1] = top
        group, target = tmp_path / f"{top}.zarr", np.arange(40) % 2
        write_group(group, rows, target, chunks=(16, 2))
        ingested = st.ingest(
            group, target="labels", out=tmp_path / str(top), format="zarr", shuffle=False,
            block_rows=16, splits={},
        )  # fmt: skip
        adopted = st.adopt(group, target="labels", splits={})
        assert read_manifest(group).schema.array.dtype == dtype
        assert adopted.rounded == ingested.rounded == n_rounded
        assert adopted.fingerprint == ingested.fingerprint
        verify_dataset(group)
        list(st.open_dataset(group).batches(16))


def test_targets_may_lie_in_an_npy_beside_the_array(tmp_path, images):
    rows, target, fingerprint = images
    array = zarr.create_array(tmp_path / "x.zarr", shape=rows.shape, dtype="u1", chunks=(64, 6, 5))
    array[:] = rows
    np.save(tmp_path / "y.npy", target)
    report = st.adopt(tmp_path, target="labels", target_file=tmp_path / "y.npy", splits={})
    assert report.fingerprint == fingerprint
    report = st.adopt(tmp_path, target_file=tmp_path / "y.npy", overwrite=True, seed=1)
    assert set(report.splits) == {"train", "valid", "test"}
    verify_dataset(tmp_path)
    np.save(tmp_path.parent / "outside.npy", target)
    with pytest.raises(ConfigError, match="lies outside"):
        st.adopt(tmp_path, target_file=tmp_path.parent / "outside.npy", overwrite=True)


def test_blocks_of_arrays_keep_their_targets_in_every_split(tmp_path, images):
    rows, target, _ = images
    write_group(tmp_path, rows, target, chunks=(20, 6, 5), target_chunk=33)
    st.adopt(tmp_path, target="labels", splits={"valid": 0.3, "test": 0.2}, seed=3)
    dataset = st.open_dataset(tmp_path)
    known = {row.tobytes(): t for row, t in zip(rows, target, strict=True)}
    n = 0
    for split in ("train", "valid", "test"):
        for batch, _ in dataset.batches(16, split=split):
            for row, t in zip(batch.numeric.astype(np.uint8), batch.target, strict=True):
                assert known[row.tobytes()] == t
                n += 1
    assert n == 500


def test_a_chunk_that_is_not_there_is_no_fill_value(tmp_path, images):
    rows, target, _ = images
    write_group(tmp_path, rows, target, chunks=(64, 6, 5))
    (tmp_path / "features/c/2/0/0").unlink()
    with pytest.raises(SourceError, match="is missing"):
        st.adopt(tmp_path, target="labels")


def test_a_manifest_with_hostile_places_is_refused(tmp_path, images):
    rows, target, _ = images
    write_group(tmp_path, rows, target)
    st.adopt(tmp_path, target="labels", splits={})
    raw = msgspec.json.decode((tmp_path / "dataset.json").read_bytes())
    for change in ({"first_rows": {"train": [0]}}, {"first_rows": {"train": [-5] * 8}},
                   {"arrays": {}}, {"decode_bytes": -1}):  # fmt: skip
        hostile = raw | {"adopted": raw["adopted"] | change}
        write_manifest(tmp_path, msgspec.convert(hostile, Manifest))
        with pytest.raises(ManifestError):
            st.open_dataset(tmp_path)
