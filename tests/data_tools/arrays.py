"""Arrays in every kind of file that ingest takes."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import zarr

from data_tools.ingest import ingest
from data_tools.options import IngestOptions
from streamtrain.library import open_dataset

_IDX = {"u1": 8, "i1": 9, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx_bytes(values):
    """Return an array as an IDX file."""
    code = _IDX[values.dtype.str[1:]]
    head = struct.pack(f">HBB{values.ndim}I", 0, code, values.ndim, *values.shape)
    return head + values.astype(values.dtype.newbyteorder(">")).tobytes()


def write_npy(path, values):
    np.save(path, values)


def write_idx(path, values):
    path.write_bytes(idx_bytes(values))


def write_idx_gz(path, values):
    path.write_bytes(gzip.compress(idx_bytes(values)))


def write_zarr(path, values, **options):
    chunks = tuple(max(n // 3, 1) for n in values.shape)
    options = {"chunks": chunks, "config": {"write_empty_chunks": True}} | options
    zarr.create_array(path, data=values, **options)


def write_zarr2(path, values):
    write_zarr(path, values, zarr_format=2)


def write_zarr_shards(path, values):
    inner = tuple(max(n // 6, 1) for n in values.shape)
    write_zarr(path, values, chunks=inner, shards=tuple(2 * n for n in inner))


def write_zarr_group(path, values):
    group = zarr.create_group(path)
    group.create_array("features", data=values, config={"write_empty_chunks": True})
    group.create_array("other", data=np.zeros(3))


KINDS = {
    "npy": write_npy,
    "idx": write_idx,
    "idx.gz": write_idx_gz,
    "zarr": write_zarr,
    "zarr2": write_zarr2,
    "zarr_shards": write_zarr_shards,
    "zarr_group": write_zarr_group,
}


def write_array(folder, name, values, kind="npy"):
    """Write an array as a kind of file; return its path."""
    path = folder / f"{name}.{kind}"
    KINDS[kind](path, values)
    return path


N_ROWS = 300
SHAPE = (4, 5)


def legible(dtype="uint16", n_rows=N_ROWS, shape=SHAPE):
    """Return rows that hold their number in every place, and their parity."""
    rows = np.arange(n_rows).astype(dtype)
    values = np.broadcast_to(rows.reshape(-1, *(1 for _ in shape)), (n_rows, *shape)).copy()
    return values, np.arange(n_rows) % 2


def make(folder, values, target, *, kind="npy", target_kind="npy", **options):
    source = write_array(folder, "x", values, kind)
    targets = write_array(folder, "y", target, target_kind)
    given = {"splits": {}, "out": folder / "ds"} | options
    ingest(
        IngestOptions(
            sources=(str(source),), target="target", target_file=targets, format="zarr", **given
        )
    )
    return open_dataset(given["out"])


def rows_of(dataset, split="train", **options):
    numeric, target = [], []
    for batch, _ in dataset.batches(7, split=split, **options):
        numeric.append(batch.numeric.copy())
        target.append(batch.target.copy())
    return np.concatenate(numeric), np.concatenate(target)


def options_for(folder, path, **options):
    return IngestOptions(
        sources=(str(path),),
        target="target",
        target_file=folder / "y.npy",
        format="zarr",
        **({"splits": {}, "out": folder / "ds"} | options),
    )
