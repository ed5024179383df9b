"""One table in every kind of file, and an ingest of it."""

import gzip
import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from pyarrow import feather

from data_tools.ingest import ingest
from data_tools.options import IngestOptions
from streamtrain.store.manifest_file import read_manifest

N_ROWS = 700


def made_table(n=N_ROWS, seed=3):
    """Row i holds i in `id`; every other column has nulls."""
    rng = random.Random(seed)

    def some(values):
        return [rng.choice(values) for _ in range(n)]

    return pa.table({
        "id": pa.array(range(n), pa.int32()),
        "x": pa.array([rng.gauss(0, 1) if rng.random() < 0.9 else None for _ in range(n)]),
        "small": pa.array(some([0.1, 2.5, None]), pa.float32()),
        "count": pa.array(some([1, 2, 3, None]), pa.int64()),
        "flag": pa.array(some([True, False, None])),
        "colour": pa.array(some(["red", "blue", 'a "b"', "Zürich", None])),
        "y": pa.array(some([0, 1]), pa.uint8()),
    })  # fmt: skip


def as_jsonl(table):
    rows = (json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
    return "".join(rows).encode()


def write_stream(table, path, **options):
    with pa.ipc.new_stream(path, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as sink:
        sink.write_table(table, max_chunksize=97)


def write_file(table, path, **options):
    with pa.ipc.new_file(path, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as sink:
        sink.write_table(table, max_chunksize=97)


def encoded(table):
    """Return the table with other Arrow types for the same values."""
    return pa.table({
        "id": table["id"].cast(pa.int64()),
        "x": table["x"],
        "small": table["small"],
        "count": table["count"].cast(pa.decimal128(30, 2)),
        "flag": table["flag"],
        "colour": table["colour"].dictionary_encode(),
        "y": table["y"].cast(pa.float16()),
    })  # fmt: skip


def wide(table):
    schema = [
        pa.field(f.name, pa.large_string() if f.type == pa.string() else f.type)
        for f in table.schema
    ]
    return table.cast(pa.schema(schema))


def write_gz(data, path):
    path.write_bytes(gzip.compress(data))


def write_csv(table, path):
    pa_csv.write_csv(table, path)


WRITERS = {
    "csv": write_csv,
    "parquet": lambda t, p: pq.write_table(t, p, row_group_size=130),
    "parquet, one group, plain": lambda t, p: pq.write_table(t, p, use_dictionary=False),
    "parquet, other types": lambda t, p: pq.write_table(encoded(t), p, row_group_size=333),
    "parquet, large strings": lambda t, p: pq.write_table(wide(t), p),
    "ipc file": write_file,
    "ipc file, zstd": lambda t, p: write_file(t, p, compression="zstd"),
    "ipc file, other types": lambda t, p: write_file(encoded(t).combine_chunks(), p),
    "ipc stream": write_stream,
    "feather": lambda t, p: feather.write_feather(t, p, compression="lz4", chunksize=50),
    "jsonl": lambda t, p: p.write_bytes(as_jsonl(t)),
    "jsonl, gzip": lambda t, p: write_gz(as_jsonl(t), p),
    "jsonl, zstd": lambda t, p: p.write_bytes(pa.Codec("zstd").compress(as_jsonl(t), asbytes=True)),
}
ENDINGS = {
    "csv": ".csv", "parquet": ".parquet", "ipc file": ".arrow", "ipc stream": ".arrows",
    "feather": ".feather", "jsonl": ".jsonl", "jsonl, gzip": ".ndjson.gz",
    "jsonl, zstd": ".jsonl.zst",
}  # fmt: skip


def write(kind, table, folder, stem="table"):
    """Write a table as a kind of file; return its name."""
    ending = ENDINGS.get(kind) or ENDINGS.get(kind.split(",", maxsplit=1)[0])
    path = folder / f"{stem}{ending}"
    WRITERS[kind](table, path)
    return str(path)


def run(folder, *sources, out="dataset", target="y", **options):
    options.setdefault("threads", 2)
    report = ingest(IngestOptions(sources=sources, out=folder / out, target=target, **options))
    return report, read_manifest(folder / out)


def npy(folder, array, name="x.npy"):
    np.save(folder / name, array)
    return str(folder / name)
