"""Damage to a dataset is reported where it is, and never trained on."""

import msgspec
import pytest
import xxhash

from streamtrain.errors import CorruptShardError, ManifestError, NoInputError, StreamtrainError
from streamtrain.library import open_dataset
from streamtrain.store.manifest import MANIFEST_NAME, Manifest
from streamtrain.store.manifest_file import read_manifest, write_manifest
from streamtrain.store.verify import verify_dataset
from tests.made import make_dataset
from tests.reader.reading import damage, read_all

IO = ["pread", "mmap"]


@pytest.fixture
def folder(tmp_path):
    # Two shards of the same size, with other rows in them.
    return make_dataset(
        tmp_path / "ds", n_rows=128, block_rows=16, shard_blocks=4, legible=True, splits=("train",)
    )


def read(folder, io):
    return read_all(open_dataset(folder), io=io, window_blocks=2)


@pytest.mark.parametrize("io", IO)
def test_a_flipped_bit_anywhere_in_a_block_is_found(folder, io):
    shard = folder / "train/part-00001.parquet"
    whole = shard.read_bytes()
    blocks = open_dataset(folder).manifest.splits["train"][1].blocks
    for number, block in enumerate(blocks):
        for position in (block.offset, block.offset + 77, block.offset + block.n_bytes - 1):
            shard.write_bytes(whole)
            damage(shard, position)
            with pytest.raises(CorruptShardError, match=rf"part-00001.parquet, block {number}: "):
                read(folder, io)
            with pytest.raises(CorruptShardError, match=f"in block {number}"):
                verify_dataset(folder)
    shard.write_bytes(whole)
    assert len(read(folder, io)) == 8


def test_verify_finds_a_flipped_bit_outside_of_the_blocks(folder):
    shard = folder / "train/part-00000.parquet"
    damage(shard, shard.stat().st_size - 9)
    with pytest.raises(CorruptShardError, match="footer"):
        verify_dataset(folder)


@pytest.mark.parametrize("io", IO)
def test_swapped_shards_of_equal_size_are_found(folder, io):
    first, second = (folder / f"train/part-0000{k}.parquet" for k in (0, 1))
    assert first.stat().st_size == second.stat().st_size
    second.rename(folder / "aside")
    first.rename(second)
    (folder / "aside").rename(first)
    with pytest.raises(CorruptShardError, match="damaged"):
        read(folder, io)
    with pytest.raises(CorruptShardError, match="damaged"):
        verify_dataset(folder)


@pytest.mark.parametrize("size", [0, 10, 400, -1])
def test_a_truncated_shard_is_found_before_a_row_is_read(folder, size):
    shard = folder / "train/part-00001.parquet"
    data = shard.read_bytes()
    shard.write_bytes(data[:size])
    with pytest.raises(CorruptShardError, match="expected"):
        open_dataset(folder)


@pytest.mark.parametrize("io", IO)
def test_a_shard_that_is_cut_or_goes_away_while_it_is_read_is_found(folder, io):
    dataset = open_dataset(folder)
    shard = folder / "train/part-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(CorruptShardError, match="truncated"):
        read_all(dataset, io=io)
    shard.unlink()
    with pytest.raises(CorruptShardError, match="missing"):
        read_all(dataset, io=io)


def test_a_missing_shard_is_found_before_a_row_is_read(folder):
    (folder / "train/part-00000.parquet").unlink()
    with pytest.raises(CorruptShardError, match="missing"):
        open_dataset(folder)


@pytest.mark.parametrize("whole_folder", [False, True])
def test_a_link_out_of_the_dataset_is_refused(folder, tmp_path, whole_folder):
    name = "train" if whole_folder else "train/part-00000.parquet"
    (folder / name).rename(tmp_path / "outside")
    (folder / name).symlink_to(tmp_path / "outside")
    with pytest.raises(CorruptShardError, match="link out of the dataset"):
        open_dataset(folder)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff\xfe{}", b'{"a":1}']
)
def test_a_manifest_that_is_not_one_is_damage(folder, content):
    (folder / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(ManifestError, match="damaged"):
        open_dataset(folder)


def test_any_changed_figure_of_a_manifest_is_found(folder):
    path = folder / MANIFEST_NAME
    whole = path.read_bytes()
    for old, new in (
        (b'"n_rows": 64', b'"n_rows": 65'),
        (b'"seed": 0', b'"seed": 1'),
        (b'"y"', b'"z"'),
    ):
        assert old in whole
        path.write_bytes(whole.replace(old, new, 1))
        with pytest.raises(ManifestError, match="damaged"):
            open_dataset(folder)


def test_a_later_version_is_named_as_such(folder):
    path = folder / MANIFEST_NAME
    path.write_bytes(b'{"format_version": 9, "something": "new"}')
    with pytest.raises(ManifestError, match="later version") as caught:
        open_dataset(folder)
    assert "upgrade" in caught.value.remedy


def test_a_directory_without_a_manifest_is_no_dataset(tmp_path):
    with pytest.raises(NoInputError, match=r"no dataset\.json"):
        open_dataset(tmp_path)
    with pytest.raises(NoInputError, match="no such dataset"):
        open_dataset(tmp_path / "nothing")


def resealed(folder, change):
    """Change the manifest as an attacker would: with digests that match."""
    path = folder / MANIFEST_NAME
    raw = msgspec.json.decode(path.read_bytes())
    change(raw)
    manifest = msgspec.convert(raw, Manifest) if _fits(raw) else None
    if manifest is None:
        path.write_bytes(msgspec.json.encode(raw))
        return
    write_manifest(folder, manifest)


def _fits(raw):
    try:
        msgspec.convert(raw, Manifest)
    except msgspec.ValidationError:
        return False
    return True


HOSTILE_NAMES = [
    "../x",
    "/etc/passwd",
    "train/../../x",
    "",
    "a//b",
    "./a",
    "a\\b",
    "a\0b",
    "train/",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_shard_name_that_could_leave_the_dataset_is_refused(folder, name):
    resealed(folder, lambda raw: raw["splits"]["train"][0].update(name=name))
    with pytest.raises(ManifestError, match="could leave"):
        read_manifest(folder)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_another_file_name_that_could_leave_the_dataset_is_refused(folder, name):
    resealed(folder, lambda raw: raw["files"].update({name: "00"}))
    with pytest.raises(ManifestError, match="could leave"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [(0, 0), (0, -5), (0, 10**12), (1, -4096), (1, 10**15), (2, -1), (2, 0), (2, 10**15)],
)
def test_blocks_that_cannot_lie_in_their_shard_are_refused_before_memory_is_taken(
    folder, field, value
):
    def change(raw):
        raw["splits"]["train"][0]["blocks"][1][field] = value

    resealed(folder, change)
    with pytest.raises((ManifestError, CorruptShardError)):
        read(folder, "pread")


def test_counts_of_rows_that_disagree_are_refused(folder):
    resealed(folder, lambda raw: raw["splits"]["train"][0].update(n_rows=63))
    with pytest.raises(ManifestError, match="rows"):
        open_dataset(folder)


@pytest.mark.parametrize("cardinality", [-1, 0])
def test_a_categorical_column_without_codes_is_refused(folder, cardinality):
    def change(raw):
        column = next(c for c in raw["schema"]["columns"] if c["kind"] == "categorical")
        column["cardinality"] = cardinality

    resealed(folder, change)
    with pytest.raises(StreamtrainError):
        read(folder, "pread")


@pytest.mark.parametrize(
    ("says", "change"),
    [
        ("no rows to train on", lambda raw: raw.update(splits={})),
        ("no rows to train on", lambda raw: raw["splits"].update(train=[])),
        ("another name", lambda raw: raw["splits"].update({"../x": raw["splits"]["train"]})),
        ("without statistics", lambda raw: raw["schema"]["columns"][0].update(statistics=None)),
        ("differ", lambda raw: raw["schema"]["target"]["values"].append(7.0)),
    ],
    ids=["no splits", "no shards", "name", "statistics", "values"],
)
def test_contents_that_no_ingest_writes_are_refused(folder, says, change):
    resealed(folder, change)
    with pytest.raises(ManifestError, match=says):
        open_dataset(folder)


def test_codes_beyond_the_vocabulary_are_damage_even_if_the_digest_matches(folder):
    def change(raw):
        column = next(c for c in raw["schema"]["columns"] if c["kind"] == "categorical")
        column["cardinality"] = 100

    resealed(folder, change)
    with pytest.raises(CorruptShardError, match="holds a code that its vocabulary does not"):
        read(folder, "pread")


def test_verify_counts_every_file_and_byte(folder):
    dataset = open_dataset(folder)
    names = [s.name for s in dataset.manifest.splits["train"]] + list(dataset.manifest.files)
    checked = verify_dataset(folder)
    assert checked.files == len(names) == 4
    assert checked.n_bytes == sum((folder / n).stat().st_size for n in names)
    vocabulary = folder / "vocabulary/c0.parquet"
    assert dataset.manifest.files["vocabulary/c0.parquet"] == xxhash.xxh3_128_hexdigest(
        vocabulary.read_bytes()
    )
    damage(vocabulary)
    with pytest.raises(CorruptShardError, match="damaged"):
        verify_dataset(folder)
