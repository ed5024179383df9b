"""Zarr as it lies on disk, read with zarr-python and not with our reader."""

import math
import os
import struct
import subprocess
import sys
import threading

import msgspec
import numpy as np
import pytest
import xxhash
import zarr

from streamtrain import library
from streamtrain.errors import ConfigError, CorruptShardError, ManifestError, StreamtrainError
from streamtrain.store.chunk_codecs import chunk_codec
from streamtrain.store.dataset import open_dataset
from streamtrain.store.manifest import MANIFEST_NAME, Manifest
from streamtrain.store.manifest_file import read_manifest, write_manifest
from streamtrain.store.schema import StoredColumns, StoredFeatures
from streamtrain.store.zarr_layout import crc32c, plan_arrays
from streamtrain.store.zarr_shards import ZarrWriter
from tests.end_to_end.command import environment
from tests.made import make_array_dataset, make_dataset
from tests.reader.reading import legible

COLUMNS = StoredColumns(
    numeric=("a", "b"),
    categorical=("c", "d", "e", "f"),
    cardinalities=(256, 257, 256, 65_537),
    target="y",
    weight="w",
    exposure="t",
)
ARRAYS = {
    "numeric": ("float32", ["a", "b"]),
    "codes": ("int32", ["c", "d", "e", "f"]),
    "target": ("float32", ["y"]),
    "weight": ("float32", ["w"]),
    "exposure": ("float32", ["t"]),
}


def write(folder, n_rows, *, block_rows=16, shard_blocks=3, compression=None):
    """Write rows whose every value differs, as far as its type can tell."""
    rng = np.random.default_rng(3)
    numbers = [rng.normal(size=n_rows).astype(np.float32) for _ in range(5)]
    codes = [rng.integers(0, c, n_rows, dtype=np.int32) for c in COLUMNS.cardinalities]
    for code, c in zip(codes, COLUMNS.cardinalities, strict=True):
        code[0] = c - 1  # the largest that its type must hold
    numbers[0][n_rows // 2] = np.nan
    row_bytes = sum(array.row_bytes for array in plan_arrays(COLUMNS))
    folder.mkdir()
    with ZarrWriter(
        folder,
        "train",
        COLUMNS,
        block_rows=block_rows,
        shard_bytes=shard_blocks * block_rows * row_bytes,
        compression=compression,
    ) as writer:
        writer.append([*numbers[:2], *codes, *numbers[2:]])
    return writer, dict(zip(COLUMNS.names, [*numbers[:2], *codes, *numbers[2:]], strict=True))


@pytest.mark.parametrize("compression", [None, "zstd", "blosc"])
@pytest.mark.parametrize("n_rows", [1, 15, 16, 17, 47, 48, 49, 100])
def test_zarr_reads_every_value_and_finds_every_chunk(tmp_path, n_rows, compression):
    writer, columns = write(tmp_path / "ds", n_rows, compression=compression)
    group = zarr.open_group(tmp_path / "ds/train.zarr", mode="r")
    assert sorted(group) == sorted(ARRAYS)
    for name, (dtype, names) in ARRAYS.items():
        array = group[name]
        assert array.dtype == dtype
        assert array.attrs["columns"] == names
        assert array.metadata.dimension_names[0] == "row"
        values = array[:].reshape(n_rows, -1)
        for j, column in enumerate(names):
            np.testing.assert_array_equal(values[:, j], columns[column])
    assert sum(shard.n_rows for shard in writer.shards if shard.array == "target") == n_rows


@pytest.mark.parametrize(("n_rows", "chunk_rows", "shard_rows"), [(9, 9, 9), (40, 16, 48)])
def test_a_small_split_has_no_room_for_rows_that_are_not_there(
    tmp_path, n_rows, chunk_rows, shard_rows
):
    write(tmp_path / "ds", n_rows)
    array = zarr.open_group(tmp_path / "ds/train.zarr", mode="r")["numeric"]
    assert array.chunks == (chunk_rows, 2)
    assert array.shards == (shard_rows, 2)


def test_the_number_of_files_follows_the_bytes_and_not_the_blocks(tmp_path):
    writer, _ = write(tmp_path / "ds", 1000, block_rows=1, shard_blocks=500)
    files = [p for p in (tmp_path / "ds").rglob("*") if p.is_file()]
    assert len(files) == len(ARRAYS) * (2 + 1) + 1
    assert len(writer.shards) == len(ARRAYS) * 2
    assert all(len(shard.blocks) == 500 for shard in writer.shards)


def test_every_file_of_zarr_is_in_the_manifest(tmp_path):
    folder = make_dataset(tmp_path / "ds", file_format="zarr")
    manifest = read_manifest(folder)
    named = {s.name for shards in manifest.splits.values() for s in shards} | set(manifest.files)
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert found == named | {MANIFEST_NAME}


def test_only_the_last_block_may_be_shorter(tmp_path):
    writer = ZarrWriter(tmp_path, "train", StoredColumns(("a",), (), (), "y"), block_rows=8)
    for _ in range(2):
        writer.append([np.zeros(3, "f4")] * 2)
        writer._hand_over()
    with pytest.raises(StreamtrainError, match="only the last block"):
        writer.end_block()
    writer.abandon()


@pytest.mark.parametrize(
    ("cardinality", "kind"),
    [(2, "uint8"), (256, "uint8"), (257, "uint16"), (65_536, "uint16"), (65_537, "int32")],
)
def test_codes_lie_in_the_narrowest_type_that_holds_every_field(cardinality, kind):
    columns = StoredColumns((), ("a", "b"), (2, cardinality), "y")
    codes = plan_arrays(columns)[0]
    assert (codes.name, codes.dtype) == ("codes", kind)
    written = codes.pack(np.array([[0, 1], [cardinality - 1, 0], [0, 0]], np.int32))
    assert written.tolist() == [[0, cardinality - 1], [1, 0]]


def test_the_checksum_is_that_of_the_rfc():
    # RFC 3720, appendix B.4.
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(bytes([255] * 32)) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


def reseal(folder, change):
    raw = msgspec.json.decode((folder / MANIFEST_NAME).read_bytes())
    change(raw)
    write_manifest(folder, msgspec.convert(raw, Manifest))


def merge_blocks(raw):
    """Claim that two blocks of one array are one."""
    shard = raw["splits"]["train"][0]
    (n, at, size, digest), (m, _, more, _) = shard["blocks"][:2]
    shard["blocks"][:2] = [[n + m, at, size + more, digest]]


@pytest.mark.parametrize(
    ("says", "change"),
    [
        ("has the arrays", lambda raw: raw["splits"]["train"].pop(0)),
        ("has the arrays", lambda raw: raw["splits"]["train"][0].update(array="other")),
        ("has the arrays", lambda raw: raw.update(format="parquet")),
        ("is unknown", lambda raw: raw.update(format="feather")),
        ("other blocks than", merge_blocks),
        ("contents of other splits", lambda raw: raw["contents"].pop("train")),
        ("cannot lie there", lambda raw: raw["splits"]["train"][0]["blocks"][0].__setitem__(0, 0)),
    ],
    ids=["gone", "renamed", "parquet", "unknown", "blocks", "contents", "no rows"],
)
def test_arrays_that_no_ingest_writes_are_refused(tmp_path, says, change):
    folder = make_dataset(tmp_path / "ds", file_format="zarr", splits=("train",))
    reseal(folder, change)
    with pytest.raises(ManifestError, match=says):
        open_dataset(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "object"},
        {"dtype": "float64"},
        {"shape": [0]},
        {"shape": [-2, -3]},
        {"shape": [1 << 20, 2]},
        {"shape": [1] * 33},
        {"statistics": []},
    ],
    ids=str,
)
def test_features_that_no_ingest_writes_are_refused_before_memory_is_taken(tmp_path, change):
    folder = make_array_dataset(tmp_path / "ds")

    def hostile(raw):
        features = raw["schema"]["features"]
        # One statistic for all values fits any shape.
        features["statistics"] = features["statistics"][:1]
        features.update(change)

    reseal(folder, hostile)
    with pytest.raises(ManifestError, match="cannot be one"):
        open_dataset(folder)


def test_compressed_chunks_are_smaller_and_the_contents_the_same(tmp_path):
    found = [
        read_manifest(
            make_dataset(tmp_path / str(c), n_rows=5000, block_rows=500, compression=c,
                         file_format="zarr", legible=True)
        )
        for c in (None, "zstd", "blosc")
    ]  # fmt: skip
    sizes = [sum(s.n_bytes for s in m.splits["train"]) for m in found]
    assert max(sizes[1:]) < sizes[0] / 2
    assert len({m.fingerprint for m in found}) == 1


def blosc_header(version=2, item=4, decoded=512, block=512, size=None):
    """Change the header of a frame that holds 512 bytes."""

    def change(frame):
        n = len(frame) if size is None else size
        return struct.pack("<BBBBIII", version, 1, frame[2], item, decoded, block, n) + frame[16:]

    return change


@pytest.mark.parametrize(
    "change",
    [
        blosc_header(version=1),
        blosc_header(version=255),
        blosc_header(item=0),
        blosc_header(decoded=511),
        blosc_header(decoded=2**32 - 1),
        blosc_header(decoded=0),
        blosc_header(block=0),
        blosc_header(block=513),
        blosc_header(block=2**31 - 1),
        blosc_header(size=16),
        blosc_header(size=2**32 - 1),
        lambda frame: frame[:15],
        lambda frame: frame[:-1],
        lambda frame: frame[:16] + b"\xff" * (len(frame) - 16),
        lambda frame: frame[:2] + bytes([frame[2] ^ 0xE0]) + frame[3:],
        lambda frame: b"",
    ],
    ids=[
        "version 1",
        "version 255",
        "items of 0",
        "511",
        "4 GB",
        "0",
        "block 0",
        "block 513",
        "block 2 GB",
        "frame 16",
        "frame 4 GB",
        "no header",
        "cut",
        "noise",
        "other codec",
        "empty",
    ],
)
def test_a_frame_of_blosc_that_is_not_what_the_manifest_says_is_refused(change):
    codec = chunk_codec("blosc")
    frame = codec.compress(np.arange(128, dtype="f4").tobytes(), 4)
    changed = np.frombuffer(change(frame), np.uint8)
    with pytest.raises((ValueError, RuntimeError)):
        codec.decompress(changed, 512)


def test_random_frames_of_blosc_decode_to_their_size_or_are_refused():
    codec = chunk_codec("blosc")
    rng = np.random.default_rng(0)
    frame = np.frombuffer(codec.compress(np.arange(20_000, dtype="f4").tobytes(), 4), np.uint8)
    n_refused = 0
    for _ in range(300):
        changed = frame.copy()
        changed[rng.integers(0, len(frame), 3)] ^= rng.integers(1, 256, 3, dtype=np.uint8)
        try:
            assert len(codec.decompress(changed, 80_000)) == 80_000
        except (ValueError, RuntimeError):
            n_refused += 1
    assert n_refused


@pytest.mark.parametrize("compression", ["zstd", "blosc"])
@pytest.mark.parametrize("claimed", [0, 511, 513, 1 << 24])
def test_a_chunk_that_decodes_to_another_size_is_refused_within_its_rows(
    tmp_path, claimed, compression
):
    folder = make_dataset(
        tmp_path / "ds", n_rows=64, block_rows=64, compression=compression, file_format="zarr",
        splits=("train",), legible=True,
    )  # fmt: skip
    frame = chunk_codec(compression).compress(bytes(claimed), 1)

    def bomb(raw):
        shard = raw["splits"]["train"][0]
        path = folder / shard["name"]
        path.write_bytes(frame + path.read_bytes()[len(frame) :])
        shard["n_bytes"] = path.stat().st_size
        shard["blocks"][0][2:] = [len(frame), xxhash.xxh3_64_hexdigest(frame)]

    reseal(folder, bomb)
    with pytest.raises(CorruptShardError, match=r"cannot be decoded to 512 bytes") as caught:
        next(library.open_dataset(folder).batches(10))
    assert caught.value.where == f"{folder}/train.zarr/numeric/c/0/0, block 0"


def test_only_zarr_is_compressed(tmp_path):
    folder = make_dataset(tmp_path / "ds", n_rows=64)
    reseal(folder, lambda raw: raw.update(compression="zstd"))
    with pytest.raises(ManifestError, match="unknown"):
        open_dataset(folder)


def test_each_position_has_a_statistic_or_all_have_one(tmp_path):
    folder = make_array_dataset(tmp_path / "ds")
    reseal(folder, lambda raw: raw["schema"]["features"]["statistics"].pop())
    with pytest.raises(ManifestError, match="cannot be one"):
        open_dataset(folder)


def test_features_of_another_type_do_not_fit_their_bytes(tmp_path):
    folder = make_array_dataset(tmp_path / "ds")
    reseal(folder, lambda raw: raw["schema"]["features"].update(dtype="float32"))
    with pytest.raises(CorruptShardError, match="cannot hold"):
        next(library.open_dataset(folder).batches(10))


@pytest.mark.parametrize("rows", [31, 33, 1 << 20])
def test_rows_that_do_not_fit_their_bytes_are_refused_before_they_are_read(tmp_path, rows):
    dataset = legible(tmp_path / "ds", file_format="zarr", block_rows=32, n_rows=64)

    def change(raw):
        for shard in raw["splits"]["train"]:
            shard["blocks"][0][0] = rows
            shard["n_rows"] = rows + 32

    reseal(dataset.path, change)
    changed = open_dataset(dataset.path)
    block = changed.manifest.blocks("train")[0][1]
    with pytest.raises(CorruptShardError, match="cannot hold"):
        changed.with_block(block, np.empty(block.n_bytes, np.uint8), lambda chunks: chunks)


def test_reading_does_not_import_zarr(tmp_path):
    folder = make_dataset(tmp_path / "ds", file_format="zarr")
    code = (
        "import sys; from streamtrain.library import open_dataset; "
        f"n = sum(b.n_rows for b, _ in open_dataset({str(folder)!r}).batches(100)); "
        "sys.exit(n != 1000 or 'zarr' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), check=False, timeout=60)
    assert done.returncode == 0


def test_the_metadata_of_another_chunk_size_does_not_move_what_is_read(tmp_path):
    # Only the manifest says where blocks lie; zarr.json is for others, and verify reads it.
    dataset = legible(tmp_path / "ds", file_format="zarr", block_rows=32)
    (dataset.path / "train.zarr/numeric/zarr.json").write_text("{}")
    rows, _ = next(dataset.batches(200, shuffle=False))
    assert rows.numeric[:, 0].tolist() == list(range(200))
    assert math.isclose(rows.numeric[7, 1], 7)


def test_blosc_decodes_without_threads_of_its_own_and_is_in_the_plan(tmp_path):
    plain, packed = (
        library.open_dataset(make_dataset(tmp_path / str(c), file_format="zarr", compression=c))
        for c in (None, "blosc")
    )
    row_bytes = sum(array.row_bytes for array in packed.format.arrays)
    assert plain.format.scratch_bytes == 0
    assert packed.format.scratch_bytes >= 64 * row_bytes + 3 * 2**20
    before = threading.active_count(), len(os.listdir("/proc/self/task"))  # noqa: PTH208
    assert sum(b.n_rows for b, _ in packed.batches(100, prefetch=0)) == 1000
    assert before == (threading.active_count(), len(os.listdir("/proc/self/task")))  # noqa: PTH208


def test_a_chunk_larger_than_a_frame_of_blosc_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="Blosc holds at most"):
        ZarrWriter(
            tmp_path, "train", StoredFeatures("float32", (1024,)), block_rows=1 << 20,
            compression="blosc",
        )  # fmt: skip
