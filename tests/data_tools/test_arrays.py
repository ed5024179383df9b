"""Arrays to datasets: every kind of file, every type, and what is refused."""

import numpy as np
import pytest
import zarr

from data_tools import array_plan, array_schema
from data_tools.array_source import is_array
from streamtrain.errors import (
    SchemaError,
)
from streamtrain.library import train
from streamtrain.predict import load_model
from streamtrain.reader import windows
from streamtrain.reader.windows import allocate_rows, handover_rows, row_bytes
from streamtrain.store.verify import verify_dataset
from tests.data_tools.arrays import KINDS, N_ROWS, SHAPE, legible, make, rows_of


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_of_file_gives_the_same_dataset(tmp_path, kind):
    values, target = legible("int16")
    (tmp_path / "npy").mkdir()
    expected = make(tmp_path / "npy", values, target, block_rows=64)
    dataset = make(tmp_path, values, target, kind=kind, block_rows=64)
    assert dataset.fingerprint == expected.fingerprint
    features = dataset.schema.array
    assert (features.dtype, features.shape) == ("int16", SHAPE)
    numeric, found = rows_of(dataset)
    assert sorted(numeric[:, 0]) == list(range(N_ROWS))
    assert (numeric == numeric[:, :1]).all()
    assert (found == numeric[:, 0] % 2).all()
    verify_dataset(dataset.path)
    assert is_array(tmp_path / f"x.{kind}")


def test_another_shape_of_the_same_values_is_another_dataset(tmp_path):
    values, target = legible()
    prints = set()
    for name, rows in (("square", values), ("flat", values.reshape(N_ROWS, -1))):
        (tmp_path / name).mkdir()
        prints.add(make(tmp_path / name, rows, target).fingerprint)
    assert len(prints) == 2


@pytest.mark.parametrize("kind", ["npy", "idx", "idx.gz", "zarr"])
def test_targets_come_from_every_kind_too(tmp_path, kind):
    values, target = legible()
    dataset = make(tmp_path, values, target.astype("u1"), target_kind=kind)
    numeric, found = rows_of(dataset)
    assert (found == numeric[:, 0] % 2).all()


STORED = {
    "?": "uint8", "u1": "uint8", "i1": "int8", "<u2": "uint16", ">i2": "int16", "f2": "float16",
    ">f4": "float32", "f8": "float32", "i4": "float32", "u4": "float32", "i8": "float32",
}  # fmt: skip


@pytest.mark.parametrize(("given", "stored"), STORED.items())
def test_values_are_stored_in_their_own_type_where_float32_is_exact(tmp_path, given, stored):
    rng = np.random.default_rng(1)
    values = rng.integers(0, 2 if given == "?" else 100, (N_ROWS, 6)).astype(given)
    if values.dtype.kind in "if":
        values = -values
    dataset = make(tmp_path, values, np.arange(N_ROWS) % 2, shuffle=False)
    assert dataset.schema.array.dtype == stored
    group = zarr.open_group(dataset.path / "train.zarr", mode="r")
    assert group["features"].dtype == stored
    np.testing.assert_array_equal(group["features"][:], values.astype(stored))
    numeric, _ = rows_of(dataset, shuffle=False)
    assert numeric.dtype == np.float32
    np.testing.assert_array_equal(numeric, values.astype(np.float32))


def test_windows_hold_rows_in_their_narrow_type(tmp_path):
    values, target = legible("uint8", n_rows=200)
    dataset = make(tmp_path, values, target)
    assert allocate_rows(dataset, 3).numeric.dtype == np.uint8
    assert row_bytes(dataset) == 20 + 4 + 4


@pytest.mark.parametrize("at_once", [1, 40, 10_000])
@pytest.mark.parametrize("batch_size", [1, 16, 61])
def test_batches_are_widened_a_few_at_a_time_and_none_is_lost(
    tmp_path, monkeypatch, batch_size, at_once
):
    values, target = legible("uint8", n_rows=200)
    dataset = make(tmp_path, values, target, block_rows=16)
    monkeypatch.setattr(windows, "_HANDOVER_BYTES", 4 * 20 * at_once)
    found = [
        (b.numeric[:, 0].astype(int).tolist(), cursor.row)
        for b, cursor in dataset.batches(batch_size, window_blocks=2)
    ]
    assert sorted(i for ids, _ in found for i in ids) == list(range(200))
    assert [row for _, row in found] == [*range(batch_size, 200, batch_size), 200]
    assert all(len(ids) == batch_size for ids, _ in found[:-1])
    assert handover_rows(dataset, batch_size) == batch_size * max(at_once // batch_size, 1)


def test_statistics_are_those_of_the_train_split_position_by_position(tmp_path):
    rng = np.random.default_rng(2)
    values = rng.integers(0, 256, (2000, 3, 2), dtype=np.uint8)
    dataset = make(
        tmp_path, values, rng.integers(0, 3, 2000), splits={"valid": 0.3}, block_rows=128
    )
    rows, _ = rows_of(dataset)
    assert len(dataset.schema.array.statistics) == 6
    for j, s in enumerate(dataset.schema.array.statistics):
        assert s.count == len(rows)
        assert s.mean == pytest.approx(rows[:, j].mean(dtype=np.float64), rel=1e-12)
        assert s.std == pytest.approx(rows[:, j].std(dtype=np.float64), rel=1e-12)
        assert (s.minimum, s.maximum) == (rows[:, j].min(), rows[:, j].max())
    assert dataset.schema.target.classes == ("0", "1", "2")
    assert sum(dataset.schema.target.counts) == len(rows)


def test_rows_of_many_values_share_one_statistic(tmp_path, monkeypatch):
    monkeypatch.setattr(array_schema, "MAX_POSITIONS", 19)
    values, target = legible()
    dataset = make(tmp_path, values, target)
    (shared,) = dataset.schema.array.statistics
    assert shared.count == N_ROWS * 20
    assert shared.mean == pytest.approx((N_ROWS - 1) / 2)
    assert [c.statistics for c in dataset.schema.numeric] == [shared] * 20


@pytest.mark.parametrize("shuffle", [True, False])
def test_slabs_partitions_and_budgets_do_not_show(tmp_path, monkeypatch, shuffle):
    rng = np.random.default_rng(3)
    values = rng.normal(size=(1500, 30)).astype("f2")
    target = rng.normal(size=1500)
    (tmp_path / "plain").mkdir()
    options = {"shuffle": shuffle, "splits": {"valid": 0.2, "test": 0.1}, "block_rows": 100}
    plain = make(tmp_path / "plain", values, target, **options)
    monkeypatch.setattr(array_plan, "_SLAB_BYTES", 1000)
    monkeypatch.setattr(array_plan, "_MIN_PART", 6000)
    monkeypatch.setattr(array_plan, "_MAX_PART", 6000)
    small = make(tmp_path, values, target, **options)
    assert small.fingerprint == plain.fingerprint
    if not shuffle:
        ids = {tuple(row): i for i, row in enumerate(values.astype("f4").tolist())}
        found = [ids[tuple(r)] for r in rows_of(small, shuffle=False)[0].tolist()]
        assert found == sorted(found)


def test_arrays_can_be_compressed(tmp_path):
    values, target = legible()
    (tmp_path / "plain").mkdir()
    plain = make(tmp_path / "plain", values, target, block_rows=64)
    small = make(tmp_path, values, target, block_rows=64, compression="zstd")
    assert small.fingerprint == plain.fingerprint
    assert small.manifest.splits["train"][0].n_bytes < plain.manifest.splits["train"][0].n_bytes
    np.testing.assert_array_equal(rows_of(small)[0], rows_of(plain)[0])
    found = zarr.open_group(small.path / "train.zarr", mode="r")["features"][:]
    assert sorted(found[:, 0, 0].tolist()) == list(range(N_ROWS))


def test_every_row_is_in_one_split_and_counted(tmp_path):
    values, target = legible()
    dataset = make(tmp_path, values, target, splits={"valid": 0.2, "test": 0.2})
    splits = {name: rows_of(dataset, name)[0][:, 0].tolist() for name in dataset.manifest.splits}
    assert set(splits) == {"train", "valid", "test"}
    assert sorted(i for ids in splits.values() for i in ids) == list(range(N_ROWS))
    features, targets = dataset.manifest.sources
    assert (features.rows_read, features.rows_written, features.rows_rejected) == (
        N_ROWS,
        N_ROWS,
        0,
    )
    assert targets.rows_read == 0
    assert targets.n_bytes == (tmp_path / "y.npy").stat().st_size


def test_nan_is_missing_and_a_row_with_infinity_is_rejected_and_named(tmp_path):
    values, target = legible("f8")
    values[3, 0, 0] = np.nan
    values[7, 1, 1] = np.inf
    values[9, 0, 0] = 1e300
    dataset = make(tmp_path, values, target, shuffle=False)
    assert dataset.n_rows() == N_ROWS - 2
    assert dataset.manifest.reject_reasons == {"not finite": 2}
    assert dataset.schema.array.statistics[0].missing == 1
    lines = (dataset.path / "rejected/part-00000.csv").read_text().splitlines()
    assert [line.split(",")[1:3] for line in lines[1:]] == [
        ["8", "not finite"],
        ["10", "not finite"],
    ]
    numeric, _ = rows_of(dataset, shuffle=False)
    assert np.isnan(numeric[3, 0])
    assert np.isfinite(numeric[:, 1:]).all()
    verify_dataset(dataset.path)


def test_a_model_of_arrays_learns_and_scores_what_it_is_given(tmp_path):
    rng = np.random.default_rng(4)
    values = rng.integers(0, 256, (600, 4, 4), dtype=np.uint8)
    target = (values[:, 0, 0] > 127).astype(np.int64)
    dataset = make(tmp_path, values, target, splits={"test": 0.3})
    train_it = train(dataset, out=tmp_path / "run", epochs=20, batch_size=16)
    assert list(train_it)[-1]["event"] == "done"
    model = load_model(tmp_path / "run")
    assert model.evaluate_dataset(dataset, "test")["accuracy"] > 0.95
    scores = model.predict(values)
    assert ((scores > 0.5) == target).mean() > 0.95
    np.testing.assert_array_equal(model.predict(values.reshape(600, 16).astype(float)), scores)
    with pytest.raises(SchemaError, match="trained on"):
        model.predict(values[:, :3])
    with pytest.raises(SchemaError, match="expected numbers"):
        model.predict(values.astype(str))


@pytest.mark.parametrize("budget", [None, "small"])
def test_training_is_the_same_whatever_type_the_values_came_in(tmp_path, budget):
    rng = np.random.default_rng(4)
    values = rng.integers(0, 256, (600, 9), dtype=np.uint8)
    target = (values[:, 0] > 127).astype(np.int64)
    digests = set()
    for kind in ("u1", "f4"):
        (tmp_path / kind).mkdir()
        dataset = make(tmp_path / kind, values.astype(kind), target)
        # The order is keyed by the fingerprint, and types differ: read in order.
        run = train(dataset, out=tmp_path / kind / "run", epochs=2, batch_size=16, shuffle=False)
        digests.add(list(run)[-1]["parameters_digest"])
    assert len(digests) == 1
