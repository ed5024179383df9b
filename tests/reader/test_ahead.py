"""Blocks are asked for in the order of reading, a bounded way ahead, and never wrongly."""

import copy
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from streamtrain.errors import CorruptShardError
from streamtrain.reader import ahead
from streamtrain.reader.ahead import ReadAhead
from streamtrain.store import dataset as store
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
    monkeypatch.setattr(Dataset, "is_cached", lambda self, block: False)
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


def looked(monkeypatch, cached):
    """Let `cached` say whether a byte is in the system's cache; return what else is asked of it."""
    asked = []

    def peek(fd, buffers, at, flags=0):
        assert (flags, [len(b) for b in buffers]) == (os.RWF_NOWAIT, [1])
        if not cached(at):
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return 1

    monkeypatch.setattr(os, "preadv", peek)
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, *rest: asked.append(rest))
    return asked


def test_a_block_is_cached_where_its_middle_is(dataset, monkeypatch):
    (block, *_) = [b for b in blocks_of(dataset) if b.n_rows > 1]
    (part,) = block.parts
    middle = part.block.offset + part.block.n_bytes // 2
    for cached in (True, False):
        asked = looked(monkeypatch, lambda at, cached=cached: (at == middle) == cached)
        assert dataset.is_cached(block) == cached
        # Without it a look reads megabytes that nobody wants.
        assert asked == [(0, 0, os.POSIX_FADV_RANDOM)]


def test_a_block_is_cached_where_all_its_parts_are(tmp_path, monkeypatch):
    dataset = legible(tmp_path / "zarr", file_format="zarr", block_rows=(16,))
    block = blocks_of(dataset)[0]
    assert len(block.parts) > 2
    n_looks = 0

    def cached(at):
        nonlocal n_looks
        n_looks += 1
        return n_looks < len(block.parts)

    looked(monkeypatch, lambda at: True)
    assert dataset.is_cached(block)
    looked(monkeypatch, cached)
    assert not dataset.is_cached(block)
    assert n_looks == len(block.parts)


def test_where_the_system_cannot_say_nothing_is_cached(dataset, monkeypatch):
    block = blocks_of(dataset)[0]
    looked(monkeypatch, lambda at: True)
    assert dataset.is_cached(block)
    monkeypatch.delattr(os, "RWF_NOWAIT")
    assert not dataset.is_cached(block)
    monkeypatch.undo()
    (dataset.path / block.parts[0].shard.name).unlink()
    assert not dataset.is_cached(block)


def many(dataset):
    return [copy.copy(block) for _ in range(20) for block in blocks_of(dataset)]


def test_asking_stops_where_the_system_has_the_blocks(dataset, monkeypatch):
    asked, looks, blocks = recorded(monkeypatch), [], many(dataset)
    every, enough = ahead._LOOK_EVERY, ahead._ENOUGH_LOOKS
    # One is missing before there are enough.
    early = enough - 2
    missing = {id(blocks[early])}

    def is_cached(self, block):
        looks.append(block)
        return id(block) not in missing

    monkeypatch.setattr(Dataset, "is_cached", is_cached)
    reading = ReadAhead(dataset, blocks, may_stop=True, ahead_bytes=1)
    again = -(-early // every) * every
    end = again + enough
    for _ in range(end + 30):
        reading.advance()
    assert looks == [*blocks[: early + 1], *blocks[again:end]]
    assert asked == blocks[:end]
    # What is asked for next is next to be read.
    reading.waited()
    missing.update(map(id, blocks))
    for _ in range(30):
        reading.advance()
    assert asked == [*blocks[:end], *blocks[end + 30 : end + 60]]


def test_who_hears_of_no_wait_asks_for_all(dataset, monkeypatch):
    asked, blocks = recorded(monkeypatch), many(dataset)
    monkeypatch.setattr(Dataset, "is_cached", lambda self, block: True)
    reading = ReadAhead(dataset, blocks)
    for _ in blocks:
        reading.advance()
    assert asked == blocks


@pytest.mark.parametrize("io", ["pread", "mmap"])
def test_an_epoch_asks_again_where_it_waited_for_a_block(dataset, monkeypatch, io):
    asked, blocks = recorded(monkeypatch), blocks_of(dataset)
    monkeypatch.setattr(Dataset, "is_cached", lambda self, block: True)
    monkeypatch.setitem(ReadAhead.__init__.__kwdefaults__, "ahead_bytes", 1)
    monkeypatch.setattr(ahead, "_ENOUGH_LOOKS", 2)
    plain = ids_of(read_all(dataset, shuffle=False, io=io))
    # Whether a map had to wait, nobody can tell.
    assert asked == (blocks[:2] if io == "pread" else blocks)
    asked.clear()
    waited, cached = blocks[4].parts[0].block, store._pread_cached
    monkeypatch.setattr(
        store,
        "_pread_cached",
        lambda fd, block, view: 0 if block is waited else cached(fd, block, view),
    )
    assert ids_of(read_all(dataset, shuffle=False, io=io)) == plain
    assert asked == ([*blocks[:2], *blocks[5:10]] if io == "pread" else blocks)


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
