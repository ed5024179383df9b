"""The manifest: its versions, and what its fingerprint covers."""

import msgspec
import numpy as np
import pytest

from streamtrain.errors import ManifestError
from streamtrain.store.manifest import MANIFEST_NAME
from streamtrain.store.manifest_file import read_manifest, write_manifest
from streamtrain.store.schema import StoredColumns
from streamtrain.store.shards import ShardWriter
from streamtrain.store.written_digests import ContentsDigest
from tests.made import make_dataset


def as_version_1(folder):
    """Write the manifest as version 1 did: no contents, a fingerprint over stored bytes."""
    manifest = read_manifest(folder)
    return write_manifest(
        folder, msgspec.structs.replace(manifest, format_version=1, contents=msgspec.UNSET)
    )


def test_the_first_version_is_still_read_and_keeps_its_fingerprint(tmp_path):
    folder = make_dataset(tmp_path / "ds", n_rows=100)
    now = read_manifest(folder).fingerprint
    before = as_version_1(folder)
    raw = msgspec.json.decode((folder / MANIFEST_NAME).read_bytes())
    # No field that version 1 did not have: its digest covers them all.
    assert "contents" not in raw
    assert all("array" not in s for shards in raw["splits"].values() for s in shards)
    found = read_manifest(folder)
    assert found.fingerprint == before.fingerprint
    assert found.fingerprint != now


@pytest.mark.parametrize("version", [1, 3])
def test_contents_belong_to_the_second_version(tmp_path, version):
    folder = make_dataset(tmp_path / "ds", n_rows=100)
    manifest = read_manifest(folder)
    write_manifest(folder, msgspec.structs.replace(manifest, format_version=version))
    with pytest.raises(ManifestError, match=f"format version {version}"):
        read_manifest(folder)


def test_the_fingerprint_changes_with_what_the_order_of_rows_depends_on_and_no_more(tmp_path):
    options = {"n_rows": 64, "block_rows": 16, "splits": ("train",)}
    prints = [
        read_manifest(make_dataset(tmp_path / str(i), **(options | change))).fingerprint
        for i, change in enumerate([{}, {"shard_blocks": 2}, {"block_rows": 32}, {"seed": 1}])
    ]
    # Where shards end is no part of the contents.
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


@pytest.mark.parametrize("change", ["values", "order", "column"])
def test_the_contents_change_with_any_value_and_its_place(change):
    block = np.arange(12, dtype=np.int32).reshape(3, 4)
    other = block.copy()
    if change == "values":
        other[2, 3] += 1
    elif change == "order":
        other[:, [0, 1]] = other[:, [1, 0]]
    else:
        other[[0, 1]] = other[[1, 0]]
    digests = []
    for values in (block, other, block):
        digest = ContentsDigest()
        digest.update(values[:, :2])
        digest.update(values[:, 2:])
        digests.append(digest.hexdigest())
    assert digests[0] == digests[2] != digests[1]


def test_the_contents_are_in_the_fingerprint(tmp_path):
    # The same statistics in another order: nothing else tells the two apart.
    columns = StoredColumns(("a",), (), (), "y")
    manifest = read_manifest(make_dataset(tmp_path / "like", n_rows=8, splits=("train",)))
    prints = set()
    for name, values in (("up", np.arange(8)), ("down", np.arange(8)[::-1])):
        (tmp_path / name).mkdir()
        with ShardWriter(tmp_path / name, "train", columns, block_rows=8) as writer:
            writer.append([values.astype(np.float32)] * 2)
        changed = msgspec.structs.replace(
            manifest, splits={"train": tuple(writer.shards)}, contents={"train": writer.contents}
        )
        prints.add(write_manifest(tmp_path / name, changed).fingerprint)
    assert len(prints) == 2
