"""Files of several arrays that are refused: one line, the right code, and nothing left."""

import json
import os
import pickle
import random
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from data_tools import array_ingest
from data_tools.array_set import ArrayNames, open_set
from data_tools.array_source import is_array
from streamtrain.errors import ConfigError, NoInputError, SourceError, StreamtrainError, UsageError
from tests.data_tools.arrays import N_ROWS, legible, write_array
from tests.data_tools.groups import anndata, parts, run, write_group, write_h5, write_zarr


def refused(folder, *sources, code=65, **options):
    with pytest.raises(StreamtrainError) as caught:
        run(folder, *sources, **options)
    said = str(caught.value)
    assert not (folder / "ds").exists()
    assert not list(folder.glob(".*staging*"))
    assert "\n" not in said
    assert len(said) < 700
    assert caught.value.exit_code == code, said
    return said


def h5(folder, arrays=None, change=lambda file: None):
    path = folder / "x.h5"
    write_h5(path, parts(weighted=False) if arrays is None else arrays)
    with h5py.File(path, "a") as file:
        change(file)
    return path


FORMATS = ["zarr", "parquet"]


@pytest.mark.parametrize("form", FORMATS)
def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch, form):
    path = h5(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    said = refused(tmp_path, path, code=78, format=form)
    assert "pip install 'streamtrain[hdf5]'" in said
    assert is_array(path)


def external(file):
    del file["features"]
    file["features"] = h5py.ExternalLink("other.h5", "/secret")


def hidden_external(file):
    external(file)
    file.move("features", "behind")
    file["features"] = h5py.SoftLink("/behind")


def external_storage(file):
    del file["features"]
    raw = [(os.fsencode(Path(file.filename).with_name("raw.bin")), 0, 2400)]
    file.create_dataset("features", (300, 2), "f4", external=raw)[:] = 1


def virtual(file):
    del file["features"]
    layout = h5py.VirtualLayout((300, 2), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "secret", (300, 2))
    file.create_virtual_dataset("features", layout)


def text_of_any_length(file):
    del file["features"]
    file.create_dataset("features", data=[["a", "bb"]] * 300, dtype=h5py.string_dtype())


def lists(file):
    del file["features"]
    file.create_dataset("features", (300,), h5py.vlen_dtype(np.int32))[0] = [1, 2]


def references(file):
    del file["features"]
    file.create_dataset("features", (300, 1), h5py.ref_dtype)[0] = file["target"].ref


def records(file):
    del file["features"]
    file.create_dataset("features", data=np.zeros(300, [("a", "f4"), ("b", "i4")]))


def missing_chunks(file):
    del file["features"]
    made = file.create_dataset("features", (300, 4), "f4", chunks=(100, 4))
    made[:100] = 1
    made[200:] = 2


def never_written(file):
    del file["features"]
    file.create_dataset("features", (300, 4), "f4")


def circle(file):
    del file["features"]
    file["features"] = h5py.SoftLink("/again")
    file["again"] = h5py.SoftLink("/features")


def scalar(file):
    del file["features"]
    file["features"] = 3.0


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (external, "link to another file"),
        (hidden_external, "link to another file"),
        (external_storage, "other files"),
        (virtual, "other files"),
        (text_of_any_length, "expected numbers"),
        (lists, "Python objects"),
        (references, "Python objects"),
        (records, "expected numbers"),
        (missing_chunks, "1 of 3 chunks are missing"),
        (never_written, "never written"),
        (circle, "expected an array"),
        (scalar, "no axes"),
    ],
)
def test_hdf5_that_is_no_array_of_numbers_in_its_file_is_refused(tmp_path, change, says, form):
    write_h5(tmp_path / "other.h5", {"secret": np.ones((300, 2), "f4")})
    path = h5(tmp_path, change=change)
    assert says in refused(tmp_path, path, format=form)


@pytest.mark.parametrize("kept", [0, 8, 100, 0.3, 0.9, 0.999])
def test_hdf5_that_is_cut_short_is_refused(tmp_path, kept):
    path = h5(tmp_path)
    size = path.stat().st_size
    os.truncate(path, int(size * kept) if isinstance(kept, float) else kept)
    refused(tmp_path, path, names=ArrayNames("features", "target"), code=65)


def test_flipped_bits_in_hdf5_are_refused_or_read_but_never_crash(tmp_path):
    rng, said = random.Random(3), set()
    whole = h5(tmp_path, parts()).read_bytes()
    for k in range(60):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 3])):
            data[rng.randrange(2200)] ^= 1 << rng.randrange(8)
        path = tmp_path / f"{k}.h5"  # HDF5 takes one name for one file
        path.write_bytes(data)
        try:
            found = open_set(path, ArrayNames())
            for _ in found.slabs(50):
                pass
        except StreamtrainError as error:
            said.add(str(error))
    assert said
    assert not any("\n" in line for line in said)


@pytest.mark.parametrize("kind", ["zarr", "hdf5", "npz"])
def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch, kind):
    path = write_group(tmp_path, kind, parts())
    file = path if path.is_file() else path / "features/c/0/0/0"
    original = array_ingest._ArrayIngest._write

    def change(self, *args):
        time.sleep(0.01)
        file.write_bytes(file.read_bytes())
        return original(self, *args)

    monkeypatch.setattr(array_ingest._ArrayIngest, "_write", change)
    said = refused(tmp_path, path, names=ArrayNames("features", "target"))
    assert "changed while" in said


@pytest.mark.parametrize("kind", ["zarr", "hdf5", "npz"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"target": np.arange(299) % 2}, "of shape (299,), expected (300,)"),
        ({"weight": np.ones(301)}, "of shape (301,), expected (300,)"),
        ({"weight": np.ones((300, 2))}, "of shape (300, 2), expected (300,)"),
        ({"weight": np.ones((300, 2))}, "a row has one weight, and one target of text"),
        ({"target": np.ones((300, 2, 2))}, "of shape (300, 2, 2), expected (300,) or (300, M)"),
        ({"target": np.ones((299, 2))}, "of shape (299, 2), expected (300,) or (300, M)"),
        ({"target": np.ones((300, 2))}, "each of the 2 values of the target is the same in all"),
        ({"weight": np.where(np.arange(300) == 211, -1.0, 1)}, "weight of row 211 is -1.0"),
        ({"weight": np.where(np.arange(300) == 211, np.nan, 1)}, "weight of row 211 is nan"),
        ({"weight": np.where(np.arange(300) == 211, np.inf, 1)}, "weight of row 211 is inf"),
        ({"target": np.where(np.arange(300) == 211, np.nan, 1)}, "target of row 211 is missing"),
        ({"features": np.zeros(300)}, "one axis"),
    ],
    ids=str,
)
def test_targets_and_weights_that_do_not_fit_are_refused(tmp_path, kind, change, says):
    path = write_group(tmp_path, kind, parts() | change)
    assert says in refused(tmp_path, path, names=ArrayNames("features", "target"))


@pytest.mark.parametrize(
    ("weight", "says"), [(np.ones(299), "(299,)"), (np.full(300, -0.5), "row 0 is -0.5")]
)
def test_a_weight_file_that_does_not_fit_is_refused(tmp_path, weight, says):
    values, target = legible()
    files = {"target_file": write_array(tmp_path, "y", target)}
    x, w = write_array(tmp_path, "x", values), write_array(tmp_path, "w", weight)
    assert says in refused(tmp_path, x, weight_file=w, **files)


@pytest.mark.parametrize("kind", ["zarr", "hdf5"])
def test_a_name_that_is_not_there_is_refused_with_the_nearest(tmp_path, kind):
    path = write_group(tmp_path, kind, parts())
    said = refused(tmp_path, path, names=ArrayNames("feature"), code=78)
    assert "no array 'feature' (did you mean 'features'?)" in said
    said = refused(tmp_path, path, target="tarjet", code=78)
    assert "did you mean 'target'" in said
    assert refused(tmp_path, path, names=ArrayNames("../features"), code=78)
    bare = write_group(tmp_path, kind, {"a": np.ones((3, 2)), "b": np.ones(3)}, "bare")
    assert "its arrays: a, b" in refused(tmp_path, bare)
    only = write_group(tmp_path, kind, {"a": np.ones((3, 2))}, "only")
    assert "has no target" in refused(tmp_path, only, code=78)


@pytest.mark.parametrize("member", ["features", "target", "weight"])
def test_pickled_objects_in_npz_are_refused(tmp_path, member):
    arrays = parts() | {member: np.array([print] * N_ROWS, object)}
    np.savez(tmp_path / "x.npz", **arrays)
    names = ArrayNames("features", "target")
    assert "Python objects" in refused(tmp_path, tmp_path / "x.npz", names=names)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
def test_an_npz_that_is_cut_or_damaged_is_refused(tmp_path, kept):
    path = write_group(tmp_path, "npz packed", parts())
    names = ArrayNames("features", "target")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    refused(tmp_path, path, names=names)
    data = bytearray(whole)
    data[200] ^= 16
    path.write_bytes(data)
    refused(tmp_path, path, names=names)


class Boom:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize("place", ["filters", "compressor"])
def test_zarr_chunks_that_are_pickles_are_refused_and_never_loaded(tmp_path, place):
    write_zarr(tmp_path / "x.zarr", parts(weighted=False), zarr_format=2)
    told = tmp_path / "x.zarr/features/.zarray"
    metadata = json.loads(told.read_text())
    metadata[place] = {"id": "pickle"} if place == "compressor" else [{"id": "pickle"}]
    told.write_text(json.dumps(metadata))
    for chunk in (tmp_path / "x.zarr/features").rglob("0"):
        if chunk.is_file():
            chunk.write_bytes(pickle.dumps(Boom()))
    said = refused(tmp_path, tmp_path / "x.zarr")
    assert "never loaded" in said or "pickle" in said


# AnnData


def test_a_sparse_x_is_told_from_an_array(tmp_path):
    path = anndata(tmp_path / "a.zarr")
    root = zarr.open_group(path, mode="a")
    del root["X"]
    x = root.create_group("X")
    x.attrs.update({"encoding-type": "csc_matrix", "shape": [120, 4]})
    said = refused(tmp_path, path, target="cell_type")
    assert "X is a csc_matrix, expected AnnData with a CSR matrix" in said
    x.attrs.update({"encoding-type": "csr_matrix"})
    assert "X/data cannot be read" in refused(tmp_path, path, target="cell_type")


def test_an_obs_column_that_is_not_there_is_refused_with_the_nearest(tmp_path):
    path = anndata(tmp_path / "a.zarr")
    said = refused(tmp_path, path, target="celltype", code=78)
    assert "obs has no column 'celltype' (did you mean 'cell_type'?)" in said
    assert "has no target" in refused(tmp_path, path, code=78)


@pytest.mark.parametrize(
    ("code", "says"), [(4, "row 7 has the code 4"), (-2, "row 7"), (-1, "row 7 is missing")]
)
def test_a_code_that_is_no_category_is_refused(tmp_path, code, says):
    path = anndata(tmp_path / "a.zarr")
    zarr.open_array(path / "obs/cell_type/codes", mode="a")[7] = code
    assert says in refused(tmp_path, path, target="cell_type")


def test_codes_that_are_missing_are_never_the_first_category(tmp_path):
    path = anndata(tmp_path / "a.zarr")
    next((path / "obs/cell_type/codes/c").iterdir()).unlink()
    assert "is missing" in refused(tmp_path, path, target="cell_type")


def test_a_category_column_of_another_encoding_is_refused(tmp_path):
    path = anndata(tmp_path / "a.zarr")
    zarr.open_group(path / "obs/cell_type", mode="a").attrs["encoding-type"] = "nullable-integer"
    assert "nullable-integer, expected" in refused(tmp_path, path, target="cell_type")


def test_names_of_another_number_than_columns_are_refused(tmp_path):
    path = anndata(tmp_path / "a.zarr", texts=["a", "b", "c"])
    assert "3 names, expected 4" in refused(tmp_path, path, target="cell_type")


@pytest.mark.parametrize("bad", ["a\x1b[31m", "n" * 1025, "two\nlines"])
@pytest.mark.parametrize("form", FORMATS)
def test_names_that_no_terminal_should_print_are_refused(tmp_path, bad, form):
    path = anndata(tmp_path / "a.zarr", texts=["a", "b", bad, "d"])
    assert "control characters" in refused(tmp_path, path, target="cell_type", format=form)


def test_a_text_target_of_too_many_values_is_refused(tmp_path):
    path = anndata(tmp_path / "a.zarr", n=1200)
    batch = zarr.open_array(path / "obs/batch", mode="a")
    batch[:] = np.array([f"b{i}" for i in range(1200)], np.dtypes.StringDType())
    assert "more than 1,000" in refused(tmp_path, path, target="batch", code=78)


# Several sources, and none of a header


def test_sources_that_do_not_agree_are_refused(tmp_path):
    values, target = legible()
    x, y = write_array(tmp_path, "x", values), write_array(tmp_path, "y", target)
    flat = write_array(tmp_path, "flat", values.reshape(N_ROWS, -1))
    said = refused(tmp_path, x, flat, target_file=(y, y))
    assert "rows of shape (20,), expected (4, 5) as in" in said
    assert "1 for 2 sources" in refused(tmp_path, x, x, target_file=(y,), code=2)
    assert "1 for 2 sources" in refused(
        tmp_path, x, x, target_file=(y, y), weight_file=(y,), code=2
    )
    one, two = (
        write_group(tmp_path, "zarr", parts()),
        write_group(tmp_path, "zarr", parts(weighted=False), "two"),
    )
    assert "some sources have row weights" in refused(tmp_path, one, two)
    assert "no group of several" in refused(
        tmp_path, x, target_file=y, names=ArrayNames("features")
    )


@pytest.mark.parametrize(
    ("names", "says", "code"),
    [
        (ArrayNames(), "give both --dtype", 2),
        (ArrayNames(dtype="f4"), "give both --dtype", 2),
        (ArrayNames(shape=(300, 2)), "give both --dtype", 2),
        (ArrayNames(dtype="f4", shape=(299, 2)), "expected 2392 for shape (299, 2)", 65),
        (ArrayNames(dtype="f4", shape=(-1, 7)), "no whole rows of 28 bytes", 65),
        (ArrayNames(dtype="f4", shape=(10**12, 10**6)), "bytes, expected", 65),
        (ArrayNames(dtype="object", shape=(300, 2)), "no type of numbers", 2),
        (ArrayNames(dtype="O", shape=(300, 2)), "no type of numbers", 2),
        (ArrayNames(dtype="nothing", shape=(300, 2)), "no type of NumPy", 2),
        (ArrayNames(dtype="f4", shape=(300, 0)), "no shape", 2),
        (ArrayNames(dtype="f4", shape=(-1, -1)), "no shape", 2),
    ],
    ids=str,
)
@pytest.mark.parametrize("form", FORMATS)
def test_raw_values_that_do_not_fit_their_shape_are_refused(tmp_path, names, says, code, form):
    np.zeros((300, 2), "f4").tofile(tmp_path / "x.bin")
    y = write_array(tmp_path, "y", np.arange(300) % 2)
    given = {"kind": "raw", "names": names, "target_file": y, "format": form, "code": code}
    assert says in refused(tmp_path, tmp_path / "x.bin", **given)


def test_raw_values_of_no_file_are_no_input(tmp_path):
    with pytest.raises(NoInputError):
        run(tmp_path, tmp_path / "no.bin", kind="raw", names=ArrayNames(dtype="f4", shape=(3, 2)))


def test_a_fortran_array_that_is_cut_is_refused(tmp_path):
    values, target = legible()
    x = write_array(tmp_path, "x", np.asfortranarray(values))
    y = write_array(tmp_path, "y", target)
    os.truncate(x, x.stat().st_size - 8)
    assert "bytes, expected" in refused(tmp_path, x, target_file=y)


def test_errors_are_of_the_kinds_that_carry_these_codes():
    codes = [SourceError.exit_code, UsageError.exit_code, ConfigError.exit_code]
    assert codes == [65, 2, 78]
