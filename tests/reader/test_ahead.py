"""Blocks are asked for in the order of reading, a bounded way ahead, and never wrongly."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from streamtrain.errors import CorruptShardError
from streamtrain.reader import ahead
from streamtrain.reader.ahead import ReadAhead
from streamtrain.store.dataset import Dataset
from tests.reader.reading import ids_of, legible, read_all


@pytest.fixture
def dataset(tmp_path):
    return legible(tmp_path / "ds")


def blocks_of(dataset):
    return [block for _, block in dataset.manifest.blocks("train")]


def recorded(monkeypatch):
    asked = []
    monkeypatch.setattr(Dataset, "ask", lambda self, block: asked.append(block))
    return asked


@pytest.mark.parametrize("ahead_bytes", [1, 1000, 3000, 1 << 30])
def test_each_block_is_asked_for_once_before_it_is_read(dataset, monkeypatch, ahead_bytes):
    asked, blocks = recorded(monkeypatch), blocks_of(dataset)
    reading = ReadAhead(dataset, blocks, ahead_bytes=ahead_bytes)
    for n_read in range(len(blocks)):
        reading.advance()
        assert len(asked) > n_read
        # What is asked for and not read passes the bound by less than its last block.
        pending = [block.n_bytes for block in asked[n_read:-1]]
        assert sum(pending) < ahead_bytes
        far = sum(block.n_bytes for block in asked[n_read:])
        assert far >= ahead_bytes or len(asked) == len(blocks)
    assert asked == blocks


def test_threads_that_read_together_ask_once_for_each_block(dataset, monkeypatch):
    asked, blocks = recorded(monkeypatch), blocks_of(dataset)
    many = blocks * 50
    reading = ReadAhead(dataset, many, ahead_bytes=2000)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: reading.advance(), many))
    assert sorted(map(id, asked)) == sorted(map(id, many))


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_epoch_asks_for_the_blocks_that_it_reads_in_that_order(dataset, monkeypatch, prefetch):
    asked, read = recorded(monkeypatch), []
    whole = Dataset.with_block

    def with_block(self, block, *args, **kwargs):
        read.append(block)
        return whole(self, block, *args, **kwargs)

    monkeypatch.setattr(Dataset, "with_block", with_block)
    read_all(dataset, window_blocks=3, prefetch=prefetch)
    assert asked == read
    assert len(read) == len(blocks_of(dataset))


def test_the_system_is_asked_for_the_bytes_of_each_part(dataset, monkeypatch):
    asked = []
    monkeypatch.setattr(
        os,
        "posix_fadvise",
        lambda fd, *rest: asked.append((str(Path(f"/proc/self/fd/{fd}").readlink()), *rest)),
    )
    for block in blocks_of(dataset):
        dataset.ask(block)
    assert asked == [
        (
            str((dataset.path / part.shard.name).resolve()),
            part.block.offset,
            part.block.n_bytes,
            os.POSIX_FADV_WILLNEED,
        )
        for block in blocks_of(dataset)
        for part in block.parts
    ]


def test_where_nothing_can_be_asked_rows_are_read_all_the_same(dataset, monkeypatch):
    plain = ids_of(read_all(dataset))

    def refuse(*args):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "posix_fadvise", refuse)
    assert ids_of(read_all(dataset)) == plain
    monkeypatch.delattr(os, "posix_fadvise")
    assert ids_of(read_all(dataset)) == plain
    n_open = len(list(Path("/proc/self/fd").iterdir()))
    for block in blocks_of(dataset):
        dataset.ask(block)
    assert len(list(Path("/proc/self/fd").iterdir())) == n_open


def test_a_shard_that_is_gone_is_found_by_reading_not_by_asking(dataset):
    (name,) = {block.parts[0].shard.name for block in blocks_of(dataset)[:1]}
    (dataset.path / name).unlink()
    dataset.ask(blocks_of(dataset)[0])
    with pytest.raises(CorruptShardError, match="missing"):
        read_all(dataset)


def test_asking_starts_no_thread(dataset):
    before = threading.active_count()
    reading = ReadAhead(dataset, blocks_of(dataset))
    for _ in blocks_of(dataset):
        reading.advance()
    assert threading.active_count() == before
    assert ahead.AHEAD_BYTES >= 1 << 20
