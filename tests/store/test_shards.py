import threading

import numpy as np
import pyarrow.parquet as pq
import pytest

from streamtrain.errors import StreamtrainError
from streamtrain.store import shards
from streamtrain.store.dataset import open_dataset
from streamtrain.store.shards import MAX_BLOCK_ROWS, ShardWriter
from streamtrain.store.written_digests import HashingFile
from tests.made import make_dataset


def test_a_shard_is_synced_even_if_the_next_one_opens_before(tmp_path, monkeypatch):
    # Arrow closes the file of a sink that is let go: it must wait for the sync.
    schema = open_dataset(make_dataset(tmp_path / "like", n_rows=10)).schema
    next_is_open = threading.Event()
    finish = HashingFile.finish

    def late(file):
        assert next_is_open.wait(10)
        finish(file)

    monkeypatch.setattr(HashingFile, "finish", late)
    columns = [np.zeros(8, np.float32)] * 2 + [np.zeros(8, np.int32)] * 2 + [np.zeros(8, "f4")]
    (tmp_path / "ds").mkdir()
    with ShardWriter(tmp_path / "ds", "train", schema.stored, block_rows=8) as writer:
        writer.append(columns)
        writer.end_shard()
        writer.append(columns)
        next_is_open.set()
    assert [shard.n_rows for shard in writer.shards] == [8, 8]


@pytest.mark.parametrize("block_rows", [1, 7, MAX_BLOCK_ROWS])
def test_shards_are_parquet_that_other_readers_understand(tmp_path, block_rows):
    n_rows = 2 * block_rows + block_rows // 2
    make_dataset(tmp_path / "ds", n_rows=n_rows, block_rows=block_rows, legible=True)
    table = pq.read_table(tmp_path / "ds/train/part-00000.parquet")
    assert table.column_names == ["n0", "n1", "c0", "c1", "y"]
    for name in ("n0", "n1", "c0", "c1"):
        assert table[name].to_pylist() == list(range(n_rows))
    assert table["y"].to_pylist() == [i % 2 for i in range(n_rows)]


@pytest.mark.parametrize("block_rows", [0, -1, MAX_BLOCK_ROWS + 1])
def test_a_block_that_would_not_be_one_page_is_refused(tmp_path, block_rows):
    schema = open_dataset(make_dataset(tmp_path / "like", n_rows=10)).schema
    with pytest.raises(StreamtrainError, match="not possible"):
        ShardWriter(tmp_path, "train", schema.stored, block_rows=block_rows)


def test_the_shards_of_a_dataset_hold_its_rows_in_order_whatever_the_block_sizes(tmp_path):
    make_dataset(tmp_path / "ds", n_rows=100, block_rows=(7, 20, 1), shard_blocks=3, legible=True)
    files = sorted((tmp_path / "ds/train").glob("*.parquet"))
    assert len(files) == 4
    rows = [v for f in files for v in pq.read_table(f)["n0"].to_pylist()]
    assert rows == list(range(100))


def test_a_shard_of_many_small_blocks_ends_before_its_footer_takes_much_memory(
    tmp_path, monkeypatch
):
    schema = open_dataset(make_dataset(tmp_path / "like", n_rows=10)).schema  # 5 columns
    columns = [np.zeros(70, np.int32 if c in {2, 3} else np.float32) for c in range(5)]
    contents = []
    for name, most in (("few", 20), ("all", 1000)):
        monkeypatch.setattr(shards, "MAX_CHUNKS", most)
        (tmp_path / name).mkdir()
        with ShardWriter(tmp_path / name, "train", schema.stored, block_rows=8) as writer:
            writer.append(columns)
        contents.append(writer.contents)
        n_rows = [32, 32, 6] if name == "few" else [70]
        assert [shard.n_rows for shard in writer.shards] == n_rows
    assert contents[0] == contents[1]  # the values, whatever the files
