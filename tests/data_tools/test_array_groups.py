"""Arrays of one source of several, of several sources, and their weights."""

import json
import subprocess

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

import streamtrain as st
from data_tools import array_table
from data_tools.array_judge import count_rounded
from data_tools.array_rows import ArrayFiles, read_array_rows
from data_tools.array_set import ArrayNames, open_set
from data_tools.array_source import open_array
from data_tools.ingest import ingest
from data_tools.options import IngestOptions
from streamtrain.errors import SchemaError
from streamtrain.library import train
from streamtrain.predict import load_model
from streamtrain.store.verify import verify_dataset
from tests.data_tools.arrays import N_ROWS, SHAPE, legible, make, rows_of, write_array
from tests.data_tools.groups import (
    GROUPS,
    TYPES,
    anndata,
    parts,
    run,
    text,
    write_group,
    write_h5,
    write_zarr,
)
from tests.end_to_end import command


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("kind", GROUPS)
def test_every_kind_of_group_gives_the_same_dataset(tmp_path, kind, shuffle):
    arrays = parts()
    (tmp_path / "npy").mkdir()
    weight = write_array(tmp_path, "w", arrays["weight"])
    options = {"block_rows": 64, "shuffle": shuffle}
    expected = make(
        tmp_path / "npy", arrays["features"], arrays["target"], weight_file=weight, **options
    )
    path = write_group(tmp_path, kind, arrays)
    names = ArrayNames("features", "target") if "npz" in kind else None
    dataset = run(tmp_path, path, names=names, **options)
    assert dataset.fingerprint == expected.fingerprint
    assert (dataset.schema.array.dtype, dataset.schema.array.shape) == ("int16", SHAPE)
    numeric, target, found = everything(dataset, shuffle=shuffle)
    assert sorted(numeric[:, 0]) == list(range(N_ROWS))
    assert (target == numeric[:, 0] % 2).all()
    assert (found == 1 + numeric[:, 0] % 3).all()
    if not shuffle:
        assert numeric[:, 0].tolist() == list(range(N_ROWS))
    verify_dataset(dataset.path)


def everything(dataset, **options):
    batches = [
        (b.numeric.copy(), b.target.copy(), b.weight.copy())
        for b, _ in dataset.batches(7, **options)
    ]
    return [np.concatenate(column) for column in zip(*batches, strict=True)]


@pytest.mark.parametrize("kind", ["zarr", "hdf5"])
def test_arrays_of_other_names_and_depths_are_named(tmp_path, kind):
    arrays = parts(weighted=False)
    deep = {"in/put": arrays["features"], "label": arrays["target"], "w/w": np.ones(N_ROWS)}
    path = write_group(tmp_path, kind, deep)
    names = ArrayNames("in/put", "/label", "w/w")
    dataset = run(tmp_path, path, names=names)
    assert dataset.schema.weight == "weight"
    # What --target says is a path as well.
    again = run(
        tmp_path, path, out="again", names=ArrayNames("in/put", weight="w/w"), target="label"
    )
    assert again.manifest.contents == dataset.manifest.contents
    assert again.schema.target.name == "label"


@pytest.mark.parametrize("kind", ["zarr", "hdf5"])
def test_a_group_may_have_its_target_in_a_file(tmp_path, kind):
    arrays = parts(weighted=False)
    target = write_array(tmp_path, "y", 1 - arrays["target"])
    path = write_group(tmp_path, kind, arrays)
    numeric, found = rows_of(run(tmp_path, path, target_file=target))
    assert (found == 1 - numeric[:, 0] % 2).all()
    # One array of it is an array like any other.
    if kind == "zarr":
        again = run(tmp_path, path / "features", out="again", target_file=path / "target")
        assert rows_of(again)[1].tolist() != found.tolist()


@pytest.mark.parametrize("kind", ["npz", "hdf5"])
def test_a_file_of_several_arrays_is_one_source_with_all_rows(tmp_path, kind):
    path = write_group(tmp_path, kind, parts())
    dataset = run(tmp_path, path, names=ArrayNames("features", "target"))
    (source,) = dataset.manifest.sources
    assert (source.name, source.n_bytes) == (str(path), path.stat().st_size)
    assert (source.rows_read, source.rows_written) == (N_ROWS, N_ROWS)


def as_table(folder, *sources, **options):
    report = ingest(
        IngestOptions(
            sources=tuple(map(str, sources)),
            out=folder / "table",
            **{"target": "target", "splits": {}, "shuffle": False} | options,
        )
    )
    (shard,) = sorted((folder / "table/train").glob("*.parquet"))
    return report, pq.read_table(shard)


@pytest.mark.parametrize("kind", GROUPS)
def test_a_table_in_a_group_is_a_table(tmp_path, kind):
    values, target = legible("f4", shape=(3,))
    path = write_group(tmp_path, kind, {"X": values, "y": target, "weight": target + 1.0})
    names = ArrayNames("X", "y") if "npz" in kind else ArrayNames()
    report, table = as_table(tmp_path, path, arrays=names)
    assert table.column_names == ["0", "1", "2", "target", "weight"]
    assert table["1"].to_pylist() == list(range(N_ROWS))
    assert table["target"].to_pylist() == target.tolist()
    assert table["weight"].to_pylist() == (target + 1).tolist()
    assert report.rows_written == N_ROWS


def test_the_target_of_a_table_in_hdf5_may_be_a_column_of_it(tmp_path):
    values, _ = legible("f4", shape=(3,))
    write_h5(tmp_path / "t.h5", {"X": values})
    _, table = as_table(tmp_path, tmp_path / "t.h5", target="-1")
    assert table.column_names == ["0", "1", "2"]


def test_a_row_without_a_number_is_rejected_from_a_table_in_hdf5(tmp_path):
    values, target = legible("f4", shape=(3,))
    values[5, 1], values[8, 0] = np.inf, np.nan
    target = target.astype("f4")
    target[7] = np.nan
    write_h5(tmp_path / "t.h5", {"X": values, "y": target})
    report, table = as_table(tmp_path, tmp_path / "t.h5")
    assert report.reasons == {"1: not finite": 1, "missing target": 1}
    assert (report.rows_read, report.rows_written) == (N_ROWS, N_ROWS - 2)
    assert np.isnan(table["0"][6].as_py())


def test_hdf5_comes_through_a_pipe_too(tmp_path):
    values, target = legible("f4", shape=(3,))
    path = write_group(tmp_path, "hdf5 columns", {"X": values, "y": target})
    with path.open("rb") as file:
        done = subprocess.run(
            command.words("ingest", "-", "--target", "y", "--out", tmp_path / "ds"),
            env=command.environment(), stdin=file, capture_output=True, check=False, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    dataset = st.open_dataset(tmp_path / "ds")
    (source,) = dataset.manifest.sources
    assert (source.name, source.n_bytes) == ("-", path.stat().st_size)


@pytest.mark.parametrize("kind", ["hdf5 chunks", "hdf5 columns", "zarr"])
@pytest.mark.parametrize("piece", [1000, 5000, 1 << 20])
def test_pieces_of_a_table_do_not_show(tmp_path, monkeypatch, kind, piece):
    values, target = legible("f4", shape=(3,))
    path = write_group(tmp_path, kind, {"X": values, "y": target})
    monkeypatch.setattr(array_table, "PIECE_BYTES", piece)
    monkeypatch.setattr(array_table, "_BAND_BYTES", 3 * piece)
    _, table = as_table(tmp_path, path)
    assert table["2"].to_pylist() == list(range(N_ROWS))
    assert table["target"].to_pylist() == target.tolist()


def test_soft_links_inside_a_file_are_followed(tmp_path):
    arrays = parts(weighted=False)
    path = write_group(tmp_path, "hdf5", {"a/b": arrays["features"], "t": arrays["target"]})
    with h5py.File(path, "a") as file:
        file["X"] = h5py.SoftLink("a/b")
        file["y"] = h5py.SoftLink("/t")
    assert run(tmp_path, path).n_rows() == N_ROWS


# AnnData


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("target", ["cell_type", "obs/cell_type"])
def test_anndata_has_classes_and_names_of_features(tmp_path, zarr_format, target):
    path = anndata(tmp_path / "a.zarr", zarr_format=zarr_format)
    dataset = run(tmp_path, path, target=target)
    schema = dataset.schema
    assert [c.name for c in schema.numeric] == [f"gene{j}" for j in range(4)]
    assert schema.target.is_text
    assert schema.target.classes == tuple(sorted(TYPES))
    assert schema.target.counts == (40, 40, 40)
    numeric, found = rows_of(dataset)
    classes = sorted(TYPES)
    assert [classes[int(y)] for y in found] == [TYPES[int(r[0]) % 3] for r in numeric]


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("column", "task"), [("score", "regression"), ("batch", "binary"), ("cell_type", "classes")]
)
def test_every_kind_of_obs_column_is_a_target(tmp_path, zarr_format, column, task):
    path = anndata(tmp_path / "a.zarr", zarr_format=zarr_format)
    dataset = run(tmp_path, path, target=column, shuffle=False)
    assert dataset.schema.target.task == task
    _, found = rows_of(dataset, shuffle=False)
    if column == "score":
        np.testing.assert_allclose(found, np.arange(120) / 7, rtol=1e-6)
    if column == "batch":
        assert found.tolist() == [i % 2 for i in range(120)]
        assert dataset.schema.target.classes == ("b0", "b1")


def test_anndata_is_a_table_with_named_columns_too(tmp_path):
    path = anndata(tmp_path / "a.zarr")
    report, table = as_table(tmp_path, path, target="cell_type")
    assert table.column_names == [*(f"gene{j}" for j in range(4)), "cell_type"]
    assert report.classes == sorted(TYPES)
    assert report.task == "classes"


def test_names_that_occur_twice_are_no_names(tmp_path):
    path = anndata(tmp_path / "a.zarr", texts=["g", "g", "h", "i"])
    dataset = run(tmp_path, path, target="cell_type")
    assert [c.name for c in dataset.schema.numeric] == ["0", "1", "2", "3"]


def test_the_positive_class_of_text_is_chosen(tmp_path):
    path = anndata(tmp_path / "a.zarr")
    dataset = run(tmp_path, path, target="batch", positive="b0", shuffle=False)
    assert dataset.schema.target.classes == ("b1", "b0")
    assert rows_of(dataset, shuffle=False)[1].tolist() == [1.0 - i % 2 for i in range(120)]


def test_a_model_of_anndata_is_evaluated_on_it_and_wants_the_same_genes(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 4)).astype("f4")
    x[:, 1] += 3 * (np.arange(120) % 3)
    path = anndata(tmp_path / "a.zarr", x=x)
    dataset = run(tmp_path, path, target="cell_type")
    list(train(dataset, out=tmp_path / "run", epochs=30, batch_size=10))
    model = load_model(tmp_path / "run")
    pieces = read_array_rows([str(path)], model.schema, files=ArrayFiles(with_target=True))
    found = model.evaluate_rows(piece.rows for piece in pieces)
    assert found["rows"] == 120
    assert found["rows_without_target"] == 0
    assert found["accuracy"] > 0.7
    assert found["loss"] == pytest.approx(model.evaluate_dataset(dataset, "train")["loss"])
    other = anndata(tmp_path / "b.zarr", x=x, texts=["gene1", "gene0", "gene2", "gene3"])
    with pytest.raises(SchemaError, match="not those of training"):
        next(read_array_rows([str(other)], model.schema))


# Weights


def weighted(tmp_path, weight, name="w", **options):
    values, target = legible("f4", shape=(3,))
    file = write_array(tmp_path, name, weight)
    return make(tmp_path, values, target, weight_file=file, out=tmp_path / name, **options)


def test_a_weight_of_two_counts_as_two_rows(tmp_path):
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(200, 3)), rng.integers(0, 2, 200)
    weight = 1 + np.arange(200) % 2
    twice = np.repeat(np.arange(200), weight)
    losses = []
    for name, rows, w in (("w", np.arange(200), weight), ("r", twice, np.ones(len(twice)))):
        folder = tmp_path / name
        folder.mkdir()
        file = write_array(folder, "w", w)
        ds = make(folder, x[rows], y[rows], weight_file=file, shuffle=False)
        *_, done = train(
            ds, out=folder / "run", epochs=300, batch_size=len(rows), shuffle=False,
            optimizer="sgd", lr=0.1, numeric_encoding=None,
        )  # fmt: skip
        losses.append(done["train"]["loss"])
        assert load_model(folder / "run").evaluate_dataset(ds, "train")["loss"] == pytest.approx(
            done["train"]["loss"]
        )
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    plain = make(tmp_path, x, y, shuffle=False)
    *_, done = train(
        plain, out=tmp_path / "run", epochs=300, batch_size=200, optimizer="sgd", lr=0.1
    )
    assert abs(done["train"]["loss"] - losses[0]) > 1e-4


def test_weights_are_in_the_fingerprint_and_the_statistics(tmp_path):
    ones = weighted(tmp_path, np.ones(N_ROWS), "a")
    twos = weighted(tmp_path, np.full(N_ROWS, 2.0), "b")
    assert ones.fingerprint != twos.fingerprint
    assert twos.schema.weight_statistics.mean == 2.0
    group = zarr.open_group(twos.path / "train.zarr", mode="r")
    assert group["weight"][:].tolist() == [2.0] * N_ROWS


def test_a_weight_file_goes_with_a_table_too(tmp_path):
    values, target = legible("f4", shape=(3,))
    x = write_array(tmp_path, "x", values)
    files = {
        "target_file": write_array(tmp_path, "y", target),
        "weight_file": write_array(tmp_path, "w", target + 1.0),
    }
    _, table = as_table(tmp_path, x, **files)
    assert table.column_names == ["0", "1", "2", "target", "weight"]
    assert table["weight"].to_pylist() == (target + 1).tolist()


# Several sources


@pytest.mark.parametrize("budget", ["one", "many"])
def test_several_arrays_are_one_dataset(tmp_path, budget):
    values, target = legible()
    (tmp_path / "whole").mkdir()
    expected = make(tmp_path / "whole", values, target)
    cuts = [0, 17, 190, N_ROWS]
    xs, ys = [], []
    for k, (a, b) in enumerate(zip(cuts, cuts[1:], strict=False)):
        kind = ["npy", "zarr", "idx"][k]
        xs.append(write_array(tmp_path, f"x{k}", values[a:b].astype("i2"), kind))
        ys.append(write_array(tmp_path, f"y{k}", target[a:b]))
    dataset = run(tmp_path, *xs, target_file=tuple(ys))
    numeric, found = rows_of(dataset)
    assert sorted(numeric[:, 0]) == list(range(N_ROWS))
    assert (found == numeric[:, 0] % 2).all()
    assert rows_of(expected)[0].shape == numeric.shape
    assert [s.rows_read for s in dataset.manifest.sources] == [17, 0, 173, 0, 110, 0]


def test_several_groups_have_a_target_each_and_share_classes(tmp_path):
    a = anndata(tmp_path / "a.zarr")
    b = anndata(tmp_path / "b.zarr")
    kind = zarr.open_group(b / "obs/cell_type", mode="a")
    del kind["categories"]
    text(kind, "categories", ["NK", "T", "B"])  # in another order
    dataset = run(tmp_path, a, b, target="cell_type", shuffle=False)
    assert dataset.schema.target.classes == tuple(sorted(TYPES))
    _, found = rows_of(dataset, shuffle=False)
    names = [sorted(TYPES)[int(y)] for y in found]
    assert names == [TYPES[i % 3] for i in range(120)] + [
        ["NK", "T", "B"][i % 3] for i in range(120)
    ]


def test_a_pattern_and_a_directory_name_several(tmp_path):
    (tmp_path / "in").mkdir()
    y = np.arange(300) % 2
    for k in range(3):
        write_zarr(tmp_path / f"in/{k}.zarr", {"features": np.ones((300, 2)), "target": y})
    assert (
        run(
            tmp_path, tmp_path / "in/*.zarr", out="a", names=ArrayNames("features", "target")
        ).n_rows()
        == 900
    )
    report, _ = as_table(tmp_path, tmp_path / "in", arrays=ArrayNames("target", "target"), drop=())
    assert report.rows_read == 900


# Other orders and no headers


@pytest.mark.parametrize("shape", [(), (3,), (4, 5), (2, 3, 4)])
@pytest.mark.parametrize("n_rows", [1, 7, 100, 1000])
def test_a_npy_in_fortran_order_is_read_as_it_is(tmp_path, shape, n_rows):
    values = np.arange(300 * int(np.prod(shape))).reshape(300, *shape).astype("f4")
    np.save(tmp_path / "x.npy", np.asfortranarray(values))
    source = open_array(tmp_path / "x.npy")
    slabs = list(source.slabs(n_rows))
    np.testing.assert_array_equal(np.concatenate(slabs), values)
    assert all(s.flags.c_contiguous and len(s) <= n_rows for s in slabs)
    assert source.end().n_bytes == (tmp_path / "x.npy").stat().st_size


def test_fortran_order_gives_the_same_dataset(tmp_path):
    values, target = legible()
    (tmp_path / "c").mkdir()
    expected = make(tmp_path / "c", values, target)
    assert make(tmp_path, np.asfortranarray(values), target).fingerprint == expected.fingerprint


@pytest.mark.parametrize("rows", [-1, N_ROWS])
def test_raw_values_have_their_type_and_shape_named(tmp_path, rows):
    values, target = legible()
    (tmp_path / "c").mkdir()
    expected = make(tmp_path / "c", values, target)
    values.astype(">u2").tofile(tmp_path / "x.bin")
    y = write_array(tmp_path, "y", target)
    names = ArrayNames(dtype=">u2", shape=(rows, *SHAPE))
    dataset = run(tmp_path, tmp_path / "x.bin", kind="raw", names=names, target_file=y)
    assert dataset.fingerprint == expected.fingerprint
    flat = ArrayNames(dtype=">u2", shape=(rows, 20))
    _, table = as_table(tmp_path, tmp_path / "x.bin", kind="raw", arrays=flat, target_file=y)
    assert table["7"].to_pylist() == list(range(N_ROWS))


# Integers


@pytest.mark.parametrize("given", ["i4", "u4", "i8", "u8", ">i8"])
@pytest.mark.parametrize(
    ("low", "high", "stored"),
    [
        (0, 255, "uint8"),
        (3, 256, "uint16"),
        (-1, 127, "int8"),
        (-1, 128, "int16"),
        (0, 65_535, "uint16"),
        (0, 65_536, "float32"),
        (-5, 2**24, "float32"),
    ],
)
def test_integers_are_stored_in_the_narrowest_type_that_holds_them(
    tmp_path, given, low, high, stored
):
    if np.dtype(given).kind == "u" and low < 0:
        return
    rng = np.random.default_rng(5)
    values = rng.integers(low, high, (N_ROWS, 6), endpoint=True).astype(given)
    values[0, 0], values[200, 3] = low, high
    target = np.arange(N_ROWS) % 2
    dataset = make(tmp_path, values, target, shuffle=False)
    assert dataset.schema.array.dtype == stored
    np.testing.assert_array_equal(rows_of(dataset, shuffle=False)[0], values)
    if stored != "float32":
        (tmp_path / "narrow").mkdir()
        again = make(tmp_path / "narrow", values.astype(stored), target, shuffle=False)
        assert again.fingerprint == dataset.fingerprint


def test_integers_that_float32_cannot_hold_are_rounded_and_counted(tmp_path):
    values = np.zeros((N_ROWS, 2), np.int64)
    values[:, 0] = np.arange(N_ROWS) + 2**24
    x = write_array(tmp_path, "x", values)
    y = write_array(tmp_path, "y", np.arange(N_ROWS) % 2)
    report = ingest(
        IngestOptions(
            sources=(str(x),), out=tmp_path / "ds", target="target", target_file=y, format="zarr"
        )
    )
    assert report.rounded == N_ROWS // 2
    assert st.open_dataset(tmp_path / "ds").schema.array.dtype == "float32"


@pytest.mark.parametrize("kind", ["i4", "i8", "u4", "u8"])
def test_rounded_integers_are_counted_exactly(kind):
    rng = np.random.default_rng(1)
    info = np.iinfo(kind)
    shifts = rng.integers(0, 8 * info.dtype.itemsize, 5000).astype(kind)
    values = rng.integers(info.min, info.max, 5000, dtype=kind, endpoint=True) >> shifts
    values[:3] = [info.min, info.max, 2**24 + 1]
    # Python's integers and floats are exact.
    expected = sum(int(np.float32(v)) != int(v) for v in values)
    assert count_rounded(values) == expected


# The command line


def test_raw_arrays_are_scored_and_measured(tmp_path):
    rng = np.random.default_rng(8)
    x = rng.normal(size=(400, 5)).astype("f4")
    y = (x[:, 0] > 0).astype(int)
    files = {
        "npy": ([write_array(tmp_path, "x", x)], ["--target-file", write_array(tmp_path, "y", y)]),
        "h5": ([write_group(tmp_path, "hdf5", {"X": x, "y": y})], []),
        "npz": ([write_group(tmp_path, "npz", {"X": x, "y": y})], []),
        "zarr": (
            [write_group(tmp_path, "zarr", {"in": x, "out": y})],
            ["--features-path", "in", "--target-path", "out"],
        ),
    }
    x.tofile(tmp_path / "x.bin")
    raw = ["--kind", "raw", "--dtype", "float32", "--shape", "-1,5"]
    files["raw"] = ([tmp_path / "x.bin"], [*raw, *files["npy"][1]])
    for form in ("zarr", "parquet"):
        ds, model = tmp_path / f"ds-{form}", tmp_path / f"run-{form}"
        sources, options = files["zarr"]
        done = command.run("ingest", *sources, *options, "--format", form, "--out", ds, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["rows_written"] == 400
        assert command.run("train", ds, "--out", model, "--epochs", 60).returncode == 0
        found = set()
        for name, (sources, options) in files.items():
            if form == "parquet" and name == "npz":
                options = ["--features-path", "X", "--target-path", "y"]  # noqa: PLW2901
            done = command.run("evaluate", model, *sources, *options, "--json")
            assert done.returncode == 0, done.stderr
            report = json.loads(done.stdout)
            assert report["rows"] == 400
            assert report["accuracy"] > 0.9
            found.add(report["loss"])
            options = [*options]  # noqa: PLW2901
            for gone in ("--target-file", "--target-path"):
                if gone in options:
                    del options[options.index(gone) : options.index(gone) + 2]
            out = tmp_path / f"{form}-{name}.csv"
            done = command.run("predict", model, *sources, *options, "--out", out)
            assert done.returncode == 0, done.stderr
            assert len(out.read_text().splitlines()) == 401
        assert len(found) == 1
        scores = {p.read_text() for p in tmp_path.glob(f"{form}-*.csv")}
        assert len(scores) == 1


def test_weights_count_when_raw_arrays_are_measured(tmp_path):
    x, y = legible("f4", shape=(3,))
    weight = (np.arange(N_ROWS) < 10).astype("f4")
    files = {k: write_array(tmp_path, k, v) for k, v in (("x", x), ("y", y), ("w", weight))}
    dataset = make(tmp_path, x, y, weight_file=files["w"])
    list(train(dataset, out=tmp_path / "run", epochs=1, batch_size=16))
    model = load_model(tmp_path / "run")

    def loss(*weights):
        given = ArrayFiles(targets=(files["y"],), weights=weights, with_target=True)
        pieces = read_array_rows([str(files["x"])], model.schema, files=given)
        return model.evaluate_rows(piece.rows for piece in pieces)["loss"]

    assert loss(files["w"]) == pytest.approx(model.evaluate_dataset(dataset, "train")["loss"])
    assert loss(files["w"]) != pytest.approx(loss())


def test_the_library_takes_groups_and_lists_of_files(tmp_path):
    path = write_group(tmp_path, "hdf5", parts())
    first = st.ingest(path, out=tmp_path / "a", format="zarr")
    xs = [write_array(tmp_path, f"x{k}", parts()["features"]) for k in range(2)]
    ys = [write_array(tmp_path, f"y{k}", parts()["target"]) for k in range(2)]
    again = st.ingest(*xs, out=tmp_path / "b", target_file=ys, format="zarr")
    assert again.rows_read == 2 * first.rows_read
    named = st.ingest(
        path, out=tmp_path / "c", features_path="features", target_path="target", format="zarr"
    )
    assert named.fingerprint == first.fingerprint


def test_chunks_of_columns_are_counted_in_the_plan(tmp_path):
    path = write_group(tmp_path, "hdf5 columns", parts("f8"))
    found = open_set(path, ArrayNames())
    assert found.features.step == N_ROWS
    assert found.features.chunk_bytes >= 8 * N_ROWS
