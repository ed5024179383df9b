"""Targets of several values in every kind of file of arrays, and what is found of them."""

import numpy as np
import pytest
import zarr

from data_tools.array_plan import plan_arrays
from data_tools.array_set import ArrayNames, open_set
from data_tools.ingest import ingest
from data_tools.options import IngestOptions
from data_tools.several_targets import OutputsCounter, decide_outputs
from streamtrain.errors import BudgetError, SourceError
from streamtrain.library import open_dataset
from streamtrain.memory import resident_bytes
from streamtrain.store.manifest_file import read_manifest
from streamtrain.store.verify import verify_dataset
from tests.data_tools.arrays import KINDS, legible, make, rows_of, write_array
from tests.data_tools.groups import GROUPS, run, write_group

N = 300
M = 3


def targets(n=N, m=M, dtype="f8"):
    """Return targets of which that of row i holds i, 2 i, 3 i, ..."""
    return (np.arange(n)[:, None] * np.arange(1, m + 1)).astype(dtype)


def check_rows(dataset, split="train", **options):
    numeric, target = rows_of(dataset, split, **options)
    np.testing.assert_array_equal(target, numeric[:, :1] * np.arange(1, M + 1))
    return numeric[:, 0]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("kind", [k for k in KINDS if k != "zarr_group"])
def test_targets_keep_their_rows_in_every_kind_of_file(tmp_path, kind, shuffle):
    dataset = make(
        tmp_path, legible()[0], targets(dtype="i4"), target_kind=kind, shuffle=shuffle,
        splits={"valid": 0.2}, block_rows=16,
    )  # fmt: skip
    seen = np.concatenate([check_rows(dataset, split) for split in ("train", "valid")])
    assert sorted(seen.tolist()) == list(range(N))
    assert verify_dataset(tmp_path / "ds") is not None
    target = dataset.schema.target
    assert (target.task, target.n_outputs, target.classes) == ("regression", M, ())


@pytest.mark.parametrize("kind", GROUPS)
def test_targets_of_a_group_are_found(tmp_path, kind):
    arrays = {"features": legible()[0], "target": targets(), "weight": 1.0 + np.arange(N) % 3}
    path = write_group(tmp_path, kind, arrays)
    dataset = run(tmp_path, path, names=ArrayNames("features", "target", "weight"))
    for batch, _ in dataset.batches(7):
        np.testing.assert_array_equal(batch.target, batch.numeric[:, :1] * [1, 2, 3])
        np.testing.assert_array_equal(batch.weight, 1 + batch.numeric[:, 0] % 3)
    found = dataset.schema.weight_statistics
    assert (found.mean, found.minimum, found.maximum) == (2.0, 1.0, 3.0)


def test_raw_values_may_have_targets_beside_them(tmp_path):
    legible("f4")[0].tofile(tmp_path / "x.bin")
    np.save(tmp_path / "y.npy", targets())
    options = IngestOptions(
        sources=(str(tmp_path / "x.bin"),),
        target="target",
        target_file=tmp_path / "y.npy",
        format="zarr",
        kind="raw",
        arrays=ArrayNames(dtype="float32", shape=(-1, 4, 5)),
        splits={},
        out=tmp_path / "ds",
    )
    ingest(options)
    check_rows(open_dataset(tmp_path / "ds"))


@pytest.mark.parametrize("compression", [None, "zstd", "blosc"])
def test_zarr_python_reads_what_was_written(tmp_path, compression):
    values, y = legible("f4")[0], targets() / 7
    make(tmp_path, values, y, shuffle=False, compression=compression, block_rows=64)
    group = zarr.open_group(tmp_path / "ds/train.zarr", mode="r")
    assert group["target"].dtype == np.float32
    assert group["target"].chunks == (64, M)
    np.testing.assert_array_equal(group["target"][:], y.astype("f4"))
    np.testing.assert_array_equal(group["features"][:], values)
    check = rows_of(open_dataset(tmp_path / "ds"), shuffle=False)
    np.testing.assert_array_equal(check[1], y.astype("f4"))


def test_neither_chunks_nor_budget_nor_compression_show_in_the_fingerprint(tmp_path):
    prints = set()
    for name, options in {
        "a": {},
        "b": {"compression": "zstd"},
        "c": {"memory": resident_bytes() + (100 << 20)},
        "d": {"target_kind": "zarr"},
        "e": {"target_kind": "idx"},
    }.items():
        (tmp_path / name).mkdir()
        made = make(tmp_path / name, legible()[0], targets(dtype="i4"), **options)
        prints.add(made.fingerprint)
    assert len(prints) == 1
    (tmp_path / "other").mkdir()
    other = targets(dtype="i4")
    other[17, 2] += 1
    assert make(tmp_path / "other", legible()[0], other).fingerprint not in prints


def test_one_column_is_a_target_of_one_value_as_before(tmp_path):
    prints = []
    for name, y in (("flat", np.arange(N) / 2), ("column", (np.arange(N) / 2)[:, None])):
        (tmp_path / name).mkdir()
        made = make(tmp_path / name, legible()[0], y)
        prints.append(made.fingerprint)
        assert b"outputs" not in (tmp_path / name / "ds/dataset.json").read_bytes()
        assert rows_of(made)[1].shape == (N,)
    assert prints[0] == prints[1]


def test_statistics_are_those_of_the_train_split(tmp_path):
    rng = np.random.default_rng(0)
    y = rng.normal(size=(N, M)) * [1, 20, 0.1] + [0, 500, -3]
    dataset = make(tmp_path, legible()[0], y, splits={"valid": 0.3})
    numeric, _ = rows_of(dataset)
    seen = y.astype("f4").astype("f8")[numeric[:, 0].astype(int)]
    target = dataset.schema.target
    for m, told in enumerate(target.outputs):
        assert (told.count, told.missing, told.quantiles) == (len(seen), 0, ())
        assert told.mean == pytest.approx(seen[:, m].mean(), rel=1e-6, abs=1e-9)
        assert told.std == pytest.approx(seen[:, m].std(), rel=1e-6)
        assert (told.minimum, told.maximum) == (seen[:, m].min(), seen[:, m].max())
    whole = target.statistics
    assert whole.count == seen.size
    assert (whole.mean, whole.std) == pytest.approx((seen.mean(), seen.std()), rel=1e-6)
    assert (whole.minimum, whole.maximum) == (seen.min(), seen.max())


@pytest.mark.parametrize("dtype", ["u1", "f8", "?"])
def test_values_of_0_and_1_are_labels(tmp_path, dtype):
    rng = np.random.default_rng(1)
    y = (rng.random((N, M)) < [0.1, 0.5, 0.9]).astype(dtype)
    dataset = make(tmp_path, legible()[0], y, splits={"valid": 0.3})
    target = dataset.schema.target
    numeric, found = rows_of(dataset)
    assert target.task == "labels"
    assert target.counts == tuple(found.sum(axis=0).astype(int))
    assert sum(target.counts) < y.sum()
    np.testing.assert_array_equal(found, y[numeric[:, 0].astype(int)])


def test_one_value_that_is_no_label_makes_numbers_of_all(tmp_path):
    y = (np.arange(N)[:, None] % [2, 3, 5] == 0).astype("f4")
    y[200, 1] = 2
    assert make(tmp_path, legible()[0], y).schema.target.task == "regression"
    assert make_task(y[:200]) == "labels"


def make_task(y):
    counter = OutputsCounter(y.shape[1])
    counter.update(y, np.ones(len(y), bool))
    return decide_outputs(counter, "target").name


def test_a_constant_output_is_no_error_where_another_varies(tmp_path):
    y = targets()
    y[:, 1] = 7
    dataset = make(tmp_path, legible()[0], y)
    assert dataset.schema.target.outputs[1].std == 0
    (tmp_path / "none").mkdir()
    with pytest.raises(SourceError, match="each of the 3 values"):
        make(tmp_path / "none", legible()[0], np.full((N, M), 7.0))
    labels = np.zeros((N, 2))
    labels[:, 1] = np.arange(N) % 2
    (tmp_path / "labels").mkdir()
    assert make(tmp_path / "labels", legible()[0], labels).schema.target.task == "labels"


def test_runs_of_equal_targets_are_counted_over_slabs():
    y = np.repeat(np.arange(20), 5)[:, None] * np.array([[1, 0]])
    y = y.astype("f4")
    for size in (1, 3, 5, 100):
        counter = OutputsCounter(2)
        for first in range(0, len(y), size):
            part = y[first : first + size]
            counter.update(part, np.ones(len(part), bool))
        assert counter.run_length == 5
        assert counter.n_rows == 100


def test_rows_that_are_rejected_take_their_targets_with_them(tmp_path):
    values = legible("f4")[0]
    values[[3, 77], 0, 0] = np.inf
    dataset = make(tmp_path, values, targets())
    assert read_manifest(tmp_path / "ds").sources[0].rows_rejected == 2
    seen = check_rows(dataset)
    assert sorted(seen.tolist()) == [i for i in range(N) if i not in {3, 77}]


def test_several_sources_have_as_many_targets_each(tmp_path):
    for name, m in (("a", 3), ("b", 3), ("c", 2)):
        write_array(tmp_path, f"x{name}", legible()[0])
        write_array(tmp_path, f"y{name}", targets(m=m))

    def sources(names):
        options = IngestOptions(
            sources=tuple(str(tmp_path / f"x{n}.npy") for n in names),
            target="target",
            target_file=tuple(tmp_path / f"y{n}.npy" for n in names),
            format="zarr",
            splits={},
            out=tmp_path / names,
        )
        return ingest(options)

    assert sources("ab").rows_written == 2 * N
    check_rows(open_dataset(tmp_path / "ab"))
    with pytest.raises(SourceError, match=r"2 targets for each row, expected 3 as in .*ya.npy"):
        sources("ac")


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (np.zeros((N, 2, 2)), "expected (300,) or (300, M)"),
        (np.zeros((N - 1, 2)), "expected (300,) or (300, M)"),
        (np.zeros((2, N)), "expected (300,) or (300, M)"),
        (np.zeros((N, 4097), "u1"), "4,097 targets for each row, at most 4,096"),
    ],
    ids=["axes", "rows", "transposed", "many"],
)
def test_shapes_that_are_no_targets_are_refused(tmp_path, y, says):
    with pytest.raises(SourceError) as caught:
        make(tmp_path, legible()[0], y)
    assert says in str(caught.value)
    assert not (tmp_path / "ds").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_a_target_that_is_no_number_names_its_row(tmp_path, value):
    y = targets()
    y[211, 1] = value
    y[250, 0] = np.nan
    with pytest.raises(SourceError, match="value 1 of the target of row 211 is") as caught:
        make(tmp_path, legible()[0], y)
    assert caught.value.exit_code == 65
    assert "\n" not in str(caught.value)


def test_memory_for_many_targets_is_planned(tmp_path):
    x = write_array(tmp_path, "x", np.zeros((9000, 2), "f4"))
    y = write_array(tmp_path, "y", np.zeros((9000, 4096), "f4"))
    options = IngestOptions(sources=(str(x),), out=tmp_path / "ds", target="target", format="zarr")
    found = open_set(x, ArrayNames(), target_file=y)
    plan = plan_arrays([found], options)
    # A slab of targets, as all else that is read at once, takes some megabytes.
    assert plan.slab_rows * 4096 * 4 <= 8 << 20
    assert plan.n_beside == 4096
    assert plan.packed.row_bytes == 8 + 4 * 4096
    tight = IngestOptions(
        sources=(str(x),), out=tmp_path / "ds", target="target", format="zarr", memory=1 << 20
    )
    with pytest.raises(BudgetError):
        plan_arrays([found], tight)
