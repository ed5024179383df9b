"""Legible data: row i holds i in every column, so a wrong order reads itself."""

import contextlib
import gc
import threading
import weakref

import numpy as np
import pytest

from streamtrain.errors import ConfigError, CorruptShardError
from streamtrain.reader import windows
from streamtrain.reader.order import Cursor
from streamtrain.reader.stream import choose_window_blocks, largest_window
from streamtrain.store.dataset import Dataset
from tests.reader.reading import collect, damage, ids_of, legible, read_all, reader_threads

N_ROWS = 200


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return legible(tmp_path_factory.mktemp("legible") / "ds")


@pytest.mark.parametrize("window_blocks", [1, 3, 5, 1000])
@pytest.mark.parametrize("batch_size", [1, 16, 40, 61, N_ROWS])
def test_each_row_comes_exactly_once_an_epoch(dataset, batch_size, window_blocks):
    batches = read_all(dataset, batch_size=batch_size, window_blocks=window_blocks)
    assert sorted(ids_of(batches)) == list(range(N_ROWS))
    whole, rest = divmod(N_ROWS, batch_size)
    assert [len(ids) for ids, _ in batches] == [batch_size] * whole + [rest] * bool(rest)
    assert [c.row for _, c in batches] == [
        min((k + 1) * batch_size, N_ROWS) for k in range(len(batches))
    ]


def test_the_order_is_none_of_the_plain_ones(dataset):
    ids = ids_of(read_all(dataset, window_blocks=4))
    assert ids != sorted(ids)
    # Rows of one block are spread over their window, not delivered together.
    neighbours = np.abs(np.diff(ids)) == 1
    assert neighbours.mean() < 0.2


@pytest.mark.parametrize("io", ["pread", "mmap"])
@pytest.mark.parametrize("readers", [1, 3])
@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_the_order_depends_on_no_thread_depth_or_way_of_reading(dataset, prefetch, readers, io):
    plain = read_all(dataset, window_blocks=3, epochs=2)
    found = read_all(dataset, window_blocks=3, epochs=2, prefetch=prefetch, readers=readers, io=io)
    assert found == plain


@pytest.mark.parametrize("window_blocks", [1, 4])
@pytest.mark.parametrize("n_done", range(27))
def test_resume_yields_exactly_the_batches_that_remain(dataset, n_done, window_blocks):
    options = {"window_blocks": window_blocks, "seed": 3}
    whole = read_all(dataset, epochs=2, **options)
    assert len(whole) == 26
    head = whole[:n_done]
    cursor = head[-1][1] if head else Cursor()
    tail = read_all(dataset, epochs=2 - cursor.epoch, cursor=cursor, **options)
    assert head + tail == whole


@pytest.mark.parametrize("n_done", range(13))
def test_resume_with_drop_last_leaves_out_the_same_rows(dataset, n_done):
    whole = read_all(dataset, window_blocks=2, drop_last=True)
    assert len(whole) == 12
    assert sorted(ids_of(whole)) != list(range(192))
    cursor = whole[n_done - 1][1] if n_done else Cursor()
    tail = read_all(dataset, window_blocks=2, drop_last=True, cursor=cursor)
    assert tail == whole[n_done:]


def test_batches_span_windows(dataset):
    # Windows of one block have 7, 23, 1 and 16 rows: a batch of 61 takes several.
    in_parts = ids_of(read_all(dataset, batch_size=61, window_blocks=1))
    assert in_parts == ids_of(read_all(dataset, batch_size=1, window_blocks=1))


def test_epochs_and_seeds_have_orders_of_their_own_and_sums_do_not_coincide(dataset):
    orders = {
        (seed, epoch): ids_of(read_all(dataset, seed=seed, cursor=Cursor(epoch), window_blocks=3))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len({tuple(ids) for ids in orders.values()}) == 9
    assert orders[1, 1] != orders[2, 0]


def test_another_dataset_of_the_same_shape_has_another_order(dataset, tmp_path):
    other = legible(tmp_path / "ds", seed=1, weighted=True)
    assert ids_of(read_all(other, window_blocks=3)) != ids_of(read_all(dataset, window_blocks=3))


def test_without_shuffle_rows_come_as_they_lie(dataset):
    assert ids_of(read_all(dataset, shuffle=False, window_blocks=3)) == list(range(N_ROWS))


def test_weights_travel_with_their_rows(tmp_path):
    dataset = legible(tmp_path / "ds", weighted=True)
    in_order = np.concatenate(
        [rows.weight.copy() for rows, _ in dataset.batches(16, shuffle=False)]
    )
    for rows, _ in dataset.batches(16, window_blocks=2):
        assert (rows.weight == in_order[rows.numeric[:, 0].astype(int)]).all()


def test_a_batch_larger_than_the_split_or_below_one_row_is_refused(dataset):
    with pytest.raises(ConfigError, match="larger than the split"):
        next(dataset.batches(N_ROWS + 1))
    with pytest.raises(ConfigError, match="not possible"):
        next(dataset.batches(0))
    with pytest.raises(ConfigError, match="no split"):
        next(dataset.batches(1, split="test"))


@pytest.mark.parametrize("readers", [1, 3])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_leaving_early_leaves_no_thread(dataset, prefetch, readers):
    batches = dataset.batches(8, prefetch=prefetch, readers=readers, window_blocks=1)
    for _ in range(5):
        next(batches)
    batches.close()
    assert reader_threads() == []


@pytest.mark.parametrize("io", ["pread", "mmap"])
@pytest.mark.parametrize("readers", [1, 3])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_damage_arrives_after_the_batches_before_it_and_leaves_no_thread(
    tmp_path, prefetch, readers, io
):
    dataset = legible(tmp_path / "ds")
    options = {"prefetch": prefetch, "readers": readers, "io": io, "window_blocks": 2}
    whole = read_all(dataset, batch_size=1, **options)
    # A byte of the values of the third shard.
    damage(dataset.path / "train/part-00002.parquet", 60)
    found = []
    with pytest.raises(CorruptShardError, match=r"part-00002.parquet, block 0: damaged"):
        collect((int(rows.target[0]) for rows, _ in dataset.batches(1, **options)), found)
    assert found == [ids[0] % 2 for ids, _ in whole][: len(found)]
    assert len(found) < N_ROWS
    assert reader_threads() == []


@pytest.mark.parametrize("readers", [1, 2, 5])
def test_of_several_damaged_blocks_the_first_in_order_is_told(tmp_path, readers):
    dataset = legible(tmp_path / "ds")
    options = {"readers": readers, "window_blocks": len(dataset.manifest.blocks("train"))}
    for path in sorted((dataset.path / "train").iterdir())[1:]:
        damage(path, 60)
    for _ in range(20):
        with pytest.raises(CorruptShardError, match=r"part-00001.parquet, block 0: damaged"):
            next(dataset.batches(200, shuffle=False, **options))


@pytest.mark.parametrize("readers", [1, 2])
def test_an_error_that_was_caught_keeps_no_window(tmp_path, monkeypatch, readers):
    dataset = legible(tmp_path / "ds")
    damage(dataset.path / "train/part-00002.parquet", 60)
    kept, allocate = [], windows.allocate_rows

    def allocated(*args):
        rows = allocate(*args)
        kept.append(weakref.ref(rows.numeric))
        return rows

    monkeypatch.setattr(windows, "allocate_rows", allocated)
    gc.disable()
    try:
        with contextlib.suppress(CorruptShardError):
            read_all(dataset, readers=readers, prefetch=0, window_blocks=12)
        assert len(kept) == 1
        assert kept[0]() is None
    finally:
        gc.enable()


def test_an_interrupt_is_told_before_damage(dataset, monkeypatch):
    both = threading.Barrier(2)
    (_, first), *_ = dataset.manifest.blocks("train")

    def fail(self, block, *args, **kwargs):
        both.wait(10)
        raise CorruptShardError("damaged") if block == first else KeyboardInterrupt

    monkeypatch.setattr(Dataset, "with_block", fail)
    with pytest.raises(KeyboardInterrupt):
        next(dataset.batches(8, readers=2, prefetch=0, window_blocks=12, shuffle=False))


def test_an_interrupt_ends_reading_on_all_threads(dataset, monkeypatch):
    n_read = 0

    def stop(*args, **kwargs):
        nonlocal n_read
        n_read += 1
        raise KeyboardInterrupt

    monkeypatch.setattr(Dataset, "with_block", stop)
    with pytest.raises(KeyboardInterrupt):
        next(dataset.batches(8, readers=2, window_blocks=12))
    assert n_read <= 2
    assert reader_threads() == []


def test_a_window_is_chosen_from_rows_and_budget():
    assert choose_window_blocks([512] * 1000, row_bytes=100, budget_bytes=1 << 40) == 256
    assert choose_window_blocks([512] * 10, row_bytes=100, budget_bytes=1 << 40) == 10
    assert choose_window_blocks([512] * 1000, row_bytes=100, budget_bytes=512 * 100 * 3) == 3
    assert choose_window_blocks([512] * 1000, row_bytes=100, budget_bytes=0) == 1
    assert largest_window([3, 9, 1, 7], 2) == 16
