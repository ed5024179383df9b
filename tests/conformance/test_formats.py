"""What every format of shards promises: one suite, run by each of them.

Rows are legible (row i holds i in every column) in blocks of 16, three to a shard.
"""

import shutil

import msgspec
import numpy as np
import pytest

from data_tools.ingest import ingest
from data_tools.options import IngestOptions
from streamtrain.errors import CorruptShardError, ManifestError, NoInputError, StreamtrainError
from streamtrain.library import open_dataset, train
from streamtrain.reader.order import Cursor
from streamtrain.store.formats import MAX_BLOCK_ROWS
from streamtrain.store.manifest import MANIFEST_NAME, Manifest
from streamtrain.store.manifest_file import read_manifest, write_manifest
from streamtrain.store.verify import verify_dataset
from tests.faults.crashing import run_and_crash
from tests.made import make_array_dataset, make_dataset
from tests.reader.reading import damage, entries_of, ids_of, read_all, reader_threads

FORMATS = sorted(MAX_BLOCK_ROWS)
TABLES = [*FORMATS, "zarr zstd", "zarr blosc"]
LAYOUTS = [*TABLES, "adopted", "zarr arrays", "zarr arrays, weights, blosc", "adopted arrays"]
"""What lies on disk: tables in each format, compressed ones, somebody's files, and arrays."""
IO = ["pread", "mmap"]
N_ROWS = 200


def make(folder, file_format, **options):
    compression = next((c for c in ("zstd", "blosc") if c in file_format), None)
    if "arrays" in file_format:
        kind = {
            "compression": compression,
            "weighted": "weights" in file_format,
            "adopted": file_format.startswith("adopted"),
        }
        return make_array_dataset(folder, **({"n_rows": N_ROWS} | kind | options))
    shape = {
        "n_rows": N_ROWS,
        "block_rows": 16,
        "shard_blocks": 3,
        "cardinalities": (5, 300),
        "bag_sizes": () if file_format == "adopted" else (400, 7),
        "splits": ("train",),
        "weighted": True,
        "legible": True,
    }
    file_format = file_format.split()[0]
    return make_dataset(
        folder, file_format=file_format, compression=compression, **(shape | options)
    )


@pytest.fixture(params=FORMATS)
def file_format(request):
    return request.param


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return request.param


@pytest.fixture
def folder(tmp_path, layout):
    return make(tmp_path / "ds", layout)


@pytest.fixture(scope="module", params=LAYOUTS)
def sound(request, tmp_path_factory):
    """A dataset that no test changes."""
    return open_dataset(make(tmp_path_factory.mktemp(request.param) / "ds", request.param))


def every_block(folder):
    """Yield (shard, number of the block in it, block) of the train split."""
    for shard in read_manifest(folder).splits["train"]:
        for number, block in enumerate(shard.blocks):
            yield shard, number, block


# Reading


@pytest.mark.parametrize("io", IO)
@pytest.mark.parametrize("n_rows", [1, 15, 16, 17, 48, 49, 200])
def test_rows_come_back_as_they_were_written(tmp_path, layout, n_rows, io):
    dataset = open_dataset(make(tmp_path / "ds", layout, n_rows=n_rows))
    batches = read_all(dataset, batch_size=min(7, n_rows), shuffle=False, io=io)
    assert ids_of(batches) == list(range(n_rows))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("n_numeric", "cardinalities", "bag_sizes"),
    [
        (3, (), ()),
        (0, (5, 300), (9,)),
        (2, (4, 9), (70_000, 1)),
        (1, (70_000, 5), ()),
        (0, (), (30,)),
    ],
)
@pytest.mark.parametrize("file_format", [*TABLES, "adopted"])
def test_values_come_back_bit_for_bit_whatever_columns_there_are(
    tmp_path, file_format, n_numeric, cardinalities, bag_sizes, weighted
):
    if file_format == "adopted":
        bag_sizes = ()  # it has none
    options = {
        "n_numeric": n_numeric,
        "cardinalities": cardinalities,
        "bag_sizes": bag_sizes,
        "weighted": weighted,
        "legible": False,
        "missing": 0.2,
    }
    made, again = (
        open_dataset(make(tmp_path / name, kind, **options))
        for name, kind in (("made", "parquet"), ("again", file_format))
    )
    (expected, _), (found, _) = (next(ds.batches(N_ROWS, shuffle=False)) for ds in (made, again))
    for name in ("numeric", "codes", "target", "weight", "exposure"):
        assert getattr(found, name).tobytes() == getattr(expected, name).tobytes(), name
    assert entries_of(found) == entries_of(expected)
    assert found.bags.ranges.shape == (N_ROWS, len(bag_sizes), 2)
    assert found.numeric.shape == (N_ROWS, n_numeric)
    assert found.codes.shape == (N_ROWS, len(cardinalities))
    assert len(found.weight) == N_ROWS * weighted


@pytest.mark.parametrize("window_blocks", [1, 3, 100])
@pytest.mark.parametrize("batch_size", [1, 16, 61, N_ROWS])
def test_each_row_comes_exactly_once_an_epoch(sound, batch_size, window_blocks):
    for epoch in range(2):
        batches = read_all(
            sound, batch_size=batch_size, window_blocks=window_blocks, cursor=Cursor(epoch)
        )
        assert sorted(ids_of(batches)) == list(range(N_ROWS))


@pytest.mark.parametrize("io", IO)
@pytest.mark.parametrize("readers", [1, 3])
@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_the_order_depends_on_no_thread_depth_or_way_of_reading(sound, prefetch, readers, io):
    plain = read_all(sound, window_blocks=3, epochs=2)
    options = {"prefetch": prefetch, "readers": readers, "io": io}
    assert read_all(sound, window_blocks=3, epochs=2, **options) == plain
    assert reader_threads() == []


@pytest.mark.parametrize("n_done", range(27))
def test_resume_yields_exactly_the_batches_that_remain(sound, n_done):
    whole = read_all(sound, epochs=2, window_blocks=3)
    assert len(whole) == 26
    head = whole[:n_done]
    cursor = head[-1][1] if head else Cursor()
    tail = read_all(sound, epochs=2 - cursor.epoch, cursor=cursor, window_blocks=3)
    assert head + tail == whole


@pytest.mark.parametrize("cardinality", [9, 900, 90_000])
def test_a_code_beyond_its_vocabulary_is_damage_even_if_the_digest_matches(
    tmp_path, file_format, cardinality
):
    folder = make(
        tmp_path / "ds", file_format, cardinalities=(5, cardinality), legible=False, n_rows=5000
    )
    raw = msgspec.json.decode((folder / MANIFEST_NAME).read_bytes())
    raw["schema"]["columns"][3]["cardinality"] -= cardinality // 9
    # Types of codes follow from the vocabularies: those of another width do not fit at all.
    write_manifest(folder, msgspec.convert(raw, Manifest))
    with pytest.raises(CorruptShardError, match=r"column 'c1' holds a code|cannot hold"):
        list(open_dataset(folder).batches(100))


@pytest.mark.parametrize("longest", [0, 1])
def test_a_row_longer_than_the_manifest_says_is_damage(tmp_path, file_format, longest):
    folder = make(tmp_path / "ds", file_format)
    raw = msgspec.json.decode((folder / MANIFEST_NAME).read_bytes())
    raw["schema"]["columns"][-1]["entries"]["longest"] = longest
    write_manifest(folder, msgspec.convert(raw, Manifest))
    with pytest.raises(CorruptShardError, match="column 'bag1' holds a code"):
        list(open_dataset(folder).batches(100))


@pytest.mark.parametrize(
    ("field", "value"),
    [("longest", -5), ("total", -1), ("words", [1, 9]), ("characters", [3, 2]), ("words", [0, 2])],
)
def test_a_bag_that_cannot_be_is_refused(tmp_path, field, value):
    folder = make(tmp_path / "ds", FORMATS[0])
    raw = msgspec.json.decode((folder / MANIFEST_NAME).read_bytes())
    raw["schema"]["columns"][-1]["entries"][field] = value
    write_manifest(folder, msgspec.convert(raw, Manifest))
    with pytest.raises(ManifestError, match="a bag that cannot be"):
        open_dataset(folder)


@pytest.mark.parametrize(
    ("tables", "bag_sizes"), [(TABLES, (400, 7)), ([*TABLES, "adopted"], ())], ids=["bags", "none"]
)
def test_the_same_rows_have_one_fingerprint_and_one_order_in_every_format(
    tmp_path, tables, bag_sizes
):
    datasets = [open_dataset(make(tmp_path / kind, kind, bag_sizes=bag_sizes)) for kind in tables]
    assert len({ds.fingerprint for ds in datasets}) == 1
    orders = [ids_of(read_all(ds, window_blocks=4, seed=5)) for ds in datasets]
    assert all(order == orders[0] for order in orders)
    other = open_dataset(make(tmp_path / "other", FORMATS[0], bag_sizes=bag_sizes, block_rows=8))
    assert other.fingerprint != datasets[0].fingerprint


# Damage


@pytest.mark.parametrize("io", IO)
def test_a_flipped_bit_is_found_in_every_shard_and_block(folder, io):
    blocks = list(every_block(folder))
    assert len(blocks) >= 13
    for shard, number, block in blocks:
        path = folder / shard.name
        whole = path.read_bytes()
        for position in (block.offset, block.offset + block.n_bytes - 1):
            damage(path, position)
            with pytest.raises(CorruptShardError, match="damaged") as caught:
                read_all(open_dataset(folder), io=io, window_blocks=2)
            assert caught.value.where == f"{path}, block {number}"
            with pytest.raises(CorruptShardError, match=f"in block {number}") as caught:
                verify_dataset(folder)
            assert caught.value.where == str(path)
            path.write_bytes(whole)
    assert len(read_all(open_dataset(folder), io=io)) == 13


@pytest.mark.parametrize("size", [0, 1, -1])
def test_a_truncated_shard_is_found_before_a_row_is_read(folder, size):
    for shard in read_manifest(folder).splits["train"]:
        path = folder / shard.name
        whole = path.read_bytes()
        path.write_bytes(whole[:size])
        with pytest.raises(CorruptShardError, match="expected") as caught:
            open_dataset(folder)
        assert caught.value.where == str(path)
        path.write_bytes(whole)


@pytest.mark.parametrize("io", IO)
def test_a_shard_that_is_cut_or_goes_away_while_it_is_read_is_found(folder, io):
    dataset = open_dataset(folder)
    read_all(dataset, io=io)  # what a footer says is kept
    for shard, number, block in every_block(folder):
        path = folder / shard.name
        whole = path.read_bytes()
        path.write_bytes(whole[: block.offset + block.n_bytes - 1])
        with pytest.raises(CorruptShardError, match="truncated") as caught:
            read_all(dataset, io=io, window_blocks=1, shuffle=False)
        assert caught.value.where == f"{path}, block {number}"
        path.unlink()
        with pytest.raises(CorruptShardError, match="missing") as caught:
            read_all(dataset, io=io, window_blocks=1, shuffle=False)
        assert caught.value.where == f"{path}, block 0"
        path.write_bytes(whole)


def test_a_missing_shard_is_found_before_a_row_is_read_and_never_filled_in(folder):
    for shard in read_manifest(folder).splits["train"]:
        path = folder / shard.name
        path.rename(folder / "aside")
        with pytest.raises(CorruptShardError, match="missing, with its") as caught:
            open_dataset(folder)
        assert caught.value.where == str(path)
        with pytest.raises(CorruptShardError, match="missing"):
            verify_dataset(folder)
        (folder / "aside").rename(path)


def swap(first, second, aside):
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


@pytest.mark.parametrize("io", IO)
def test_swapped_shards_of_equal_size_are_found(folder, layout, io):
    shards = read_manifest(folder).splits["train"]
    n_swapped = 0
    for name in {shard.array for shard in shards}:
        first, second = [folder / s.name for s in shards if s.array == name][:2]
        if first.read_bytes() == second.read_bytes():
            continue  # targets alternate: nothing to notice
        if first.stat().st_size != second.stat().st_size:
            continue  # compressed: found when the dataset is opened, as truncated ones are
        n_swapped += 1
        swap(first, second, folder / "aside")
        with pytest.raises(CorruptShardError, match=r"damaged"):
            read_all(open_dataset(folder), io=io)
        with pytest.raises(CorruptShardError, match="damaged in block 0"):
            verify_dataset(folder)
        swap(first, second, folder / "aside")
    assert n_swapped >= 1 or layout.endswith(("zstd", "blosc")) or layout == "adopted"
    read_all(open_dataset(folder), io=io)


@pytest.mark.parametrize("io", IO)
def test_blocks_that_changed_places_in_their_shard_are_found(folder, io):
    n_changed = 0
    for shard in read_manifest(folder).splits["train"]:
        path = folder / shard.name
        whole = path.read_bytes()
        pieces = [whole[k.offset : k.offset + k.n_bytes] for k in shard.blocks[:2]]
        if len(set(pieces)) < 2:
            continue  # one block, or targets, which alternate in each
        n_changed += 1
        start = shard.blocks[0].offset
        changed = bytearray(whole)
        changed[start : start + sum(map(len, pieces))] = b"".join(pieces[::-1])
        path.write_bytes(changed)
        with pytest.raises(CorruptShardError, match="damaged") as caught:
            read_all(open_dataset(folder), io=io)
        assert caught.value.where in {f"{path}, block {number}" for number in (0, 1)}
        path.write_bytes(whole)
    assert n_changed >= 3


@pytest.mark.parametrize("io", IO)
def test_a_shard_of_another_dataset_is_found(tmp_path, folder, layout, io):
    other = make(tmp_path / "other", layout, legible=False, seed=1)
    for shard, foreign in zip(
        read_manifest(folder).splits["train"], read_manifest(other).splits["train"], strict=True
    ):
        path = folder / shard.name
        whole = path.read_bytes()
        data = (other / foreign.name).read_bytes()
        assert shard.name == foreign.name
        path.write_bytes(data)
        if len(data) != len(whole):
            with pytest.raises(CorruptShardError, match="bytes, expected"):
                open_dataset(folder)
        else:
            with pytest.raises(CorruptShardError, match="damaged") as caught:
                read_all(open_dataset(folder), io=io)
            assert caught.value.where.startswith(f"{path}, block ")
        path.write_bytes(whole)


def test_a_link_out_of_the_dataset_is_refused(tmp_path, folder):
    for shard in read_manifest(folder).splits["train"]:
        path = folder / shard.name
        path.rename(tmp_path / "outside")
        path.symlink_to(tmp_path / "outside")
        with pytest.raises(CorruptShardError, match="link out of the dataset"):
            open_dataset(folder)
        path.unlink()
        (tmp_path / "outside").rename(path)


def test_verify_reads_every_byte_of_every_file(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "dataset.json")
    checked = verify_dataset(folder)
    assert checked.files == len(files)
    assert checked.n_bytes == sum(p.stat().st_size for p in files)
    for path in files:
        damage(path, path.stat().st_size - 1)
        with pytest.raises(CorruptShardError, match="damaged") as caught:
            verify_dataset(folder)
        assert caught.value.where == str(path)
        damage(path, path.stat().st_size - 1)


# From a source to parameters


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table with missing values, weights and fields of every width."""
    rng = np.random.default_rng(7)
    path = tmp_path_factory.mktemp("table") / "t.csv"
    with path.open("w", encoding="utf-8") as file:
        file.write("a,b,few,many,w,y\n")
        for i in range(3000):
            a, few = rng.normal(), "uvxyz"[rng.integers(5)]
            y = int(a + (few == "x") + rng.normal() > 0)
            cell = "" if i % 11 == 0 else f"{a:.4f}"
            file.write(f"{cell},{rng.random():.3f},{few},k{rng.integers(400)},{1 + i % 3},{y}\n")
    return path


def options_of(table, out, file_format, **more):
    return IngestOptions(
        sources=(str(table),),
        out=out,
        target="y",
        weight="w",
        format=file_format,
        **({"block_rows": 100} | more),
    )


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_same_table_trains_to_the_same_parameters_in_every_format(table, tmp_path, shuffle):
    digests, fingerprints = set(), set()
    for kind in TABLES:
        options = {"compression": kind.split()[1]} if " " in kind else {}
        report = ingest(
            options_of(table, tmp_path / kind, kind.split()[0], shuffle=shuffle, **options)
        )
        assert report.rows_written == 3000
        fingerprints.add(report.fingerprint)
        events = list(train(tmp_path / kind, out=tmp_path / f"run-{kind}", epochs=2, seed=3))
        digests.add(events[-1]["parameters_digest"])
    assert len(fingerprints) == 1
    assert len(digests) == 1


def test_a_run_is_resumed_on_the_same_rows_in_another_format(table, tmp_path):
    for kind in FORMATS:
        ingest(options_of(table, tmp_path / kind, kind))
    whole = list(train(tmp_path / FORMATS[0], out=tmp_path / "whole", epochs=2, seed=3))
    calls = iter(range(1000))
    first = train(
        tmp_path / FORMATS[0],
        out=tmp_path / "run",
        epochs=2,
        seed=3,
        checkpoint_every=3,
        should_stop=lambda: next(calls) > 4,
    )
    with pytest.raises(StreamtrainError, match="stopped"):
        list(first)
    rest = train(tmp_path / FORMATS[1], out=tmp_path / "run", epochs=2, seed=3, resume="auto")
    assert list(rest)[-1]["parameters_digest"] == whole[-1]["parameters_digest"]


KILLED_BEFORE_THE_MANIFEST = """
import data_tools.ingest as module
from data_tools.options import IngestOptions
module.write_manifest = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
table, out, file_format = sys.argv[1:]
module.ingest(IngestOptions(
    sources=(table,), out=pathlib.Path(out), target="y", weight="w", format=file_format,
    block_rows=100,
))
"""


def test_a_crash_before_the_manifest_leaves_no_dataset(table, tmp_path, file_format):
    out = tmp_path / "out"
    assert run_and_crash(KILLED_BEFORE_THE_MANIFEST, table, out, file_format, crash_at=1_000_000)
    with pytest.raises(NoInputError):
        open_dataset(out)
    debris = list(tmp_path.glob(".out.staging-*"))
    assert debris
    ingest(options_of(table, out, file_format))
    assert open_dataset(out).n_rows("train") > 0
    assert not list(tmp_path.glob(".out.staging-*"))


def test_an_ingest_that_is_killed_leaves_the_old_dataset_or_the_new_one(
    table, tmp_path, file_format
):
    body = KILLED_BEFORE_THE_MANIFEST.replace("module.write_manifest =", "_ =").replace(
        "block_rows=100", "block_rows=50, overwrite=True"
    )
    ingest(options_of(table, tmp_path / "old", file_format))
    old = open_dataset(tmp_path / "old").fingerprint
    seen = set()
    for crash_at in range(4, 1000, 31):
        out = tmp_path / "out"
        shutil.copytree(tmp_path / "old", out)
        killed = run_and_crash(body, table, out, file_format, crash_at=crash_at)
        verify_dataset(out)
        seen.add(open_dataset(out).fingerprint == old)
        shutil.rmtree(out)
        if not killed:
            break
    assert seen == {True, False}
