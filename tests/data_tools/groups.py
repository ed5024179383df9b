"""Features, target and weights in one file or directory: Zarr, HDF5, .npz, AnnData."""

import h5py
import numpy as np
import zarr

from data_tools.array_set import ArrayNames
from data_tools.ingest import ingest
from data_tools.options import IngestOptions
from streamtrain.library import open_dataset
from tests.data_tools.arrays import legible


def write_zarr(path, arrays, *, zarr_format=3, **options):
    group = zarr.create_group(path, zarr_format=zarr_format)
    for name, values in arrays.items():
        group.create_array(name, data=values, config={"write_empty_chunks": True}, **options)


def write_h5(path, arrays, **options):
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, **options)


def write_h5_chunks(path, arrays):
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            chunks = tuple(max(n // 3, 1) for n in values.shape)
            file.create_dataset(name, data=values, chunks=chunks, compression="gzip", shuffle=True)


def write_h5_columns(path, arrays):
    """Chunks of one column: the worst for reading rows."""
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            chunks = (values.shape[0], *(1 for _ in values.shape[1:]))
            file.create_dataset(name, data=values, chunks=chunks, compression="lzf")


GROUPS = {
    "zarr": (".zarr", write_zarr),
    "zarr2": (".zarr", lambda p, a: write_zarr(p, a, zarr_format=2)),
    "hdf5": (".h5", write_h5),
    "hdf5 chunks": (".hdf5", write_h5_chunks),
    "hdf5 columns": (".h5", write_h5_columns),
    "hdf5 big-endian": (
        ".h5",
        lambda p, a: write_h5(p, {k: v.astype(v.dtype.newbyteorder(">")) for k, v in a.items()}),
    ),
    "npz": (".npz", lambda p, a: np.savez(p, **a)),
    "npz packed": (".npz", lambda p, a: np.savez_compressed(p, **a)),
}


def write_group(folder, kind, arrays, stem="data"):
    """Write arrays as one source; return its path."""
    ending, write = GROUPS[kind]
    path = folder / f"{stem}{ending}"
    write(path, arrays)
    return path


def run(folder, *sources, out="ds", names=None, **options):
    """Ingest sources as arrays; return the dataset."""
    given = {"target": "target", "splits": {}, "format": "zarr", **options}
    ingest(
        IngestOptions(
            sources=tuple(map(str, sources)),
            out=folder / out,
            arrays=names or ArrayNames(),
            **given,
        )
    )
    return open_dataset(folder / out)


def parts(dtype="int16", weighted=True):
    """Return legible features, their parity as target, and weights of 1 to 3."""
    values, target = legible(dtype)
    weight = 1.0 + np.arange(len(values)) % 3
    return {"features": values, "target": target, **({"weight": weight} if weighted else {})}


TYPES = ["T", "B", "NK"]


def anndata(path, *, zarr_format=3, n=120, d=4, x=None, texts=None):
    """Write what anndata writes: X, obs with columns of every kind, var with names."""
    rows = np.arange(n)
    x = np.repeat(rows[:, None], d, 1).astype("f4") if x is None else x
    root = zarr.create_group(path, zarr_format=zarr_format)
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    keep = {"config": {"write_empty_chunks": True}}
    root.create_array("X", data=x, **keep)
    obs, var = root.create_group("obs"), root.create_group("var")
    for frame in (obs, var):
        frame.attrs.update({"encoding-type": "dataframe", "_index": "_index"})
    obs.create_array("score", data=rows / 7, **keep)
    text(obs, "batch", [f"b{i % 2}" for i in rows])
    text(var, "_index", texts or [f"gene{j}" for j in range(d)])
    kind = obs.create_group("cell_type")
    kind.attrs.update({"encoding-type": "categorical", "ordered": False})
    kind.create_array("codes", data=(rows % 3).astype("i1"), **keep)
    text(kind, "categories", [*TYPES, "never seen"])
    return path


def text(group, name, values):
    array = group.create_array(name, shape=len(values), dtype=str)
    array[:] = np.array(values, np.dtypes.StringDType())
