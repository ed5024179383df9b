"""Somebody's files, and what the manifest says of them: the adopted datasets of the suites."""

from itertools import cycle
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
import zarr

from data_tools.adopt_chunks import ZarrChunks
from data_tools.zarr_source import open_zarr
from streamtrain.store.adopted import adopted_file, group_ranges
from streamtrain.store.adopted_manifest import Adopted
from streamtrain.store.adopted_zarr import part_names
from streamtrain.store.manifest import Block, Shard
from streamtrain.store.schema import FIRST_CODE
from streamtrain.store.verify import file_digest
from streamtrain.store.written_digests import ContentsDigest


def as_somebody_has_them(schema, columns):
    """Return stored columns as a table that decodes to them: texts, nulls, other widths."""
    fields = {}
    n_numeric = len(schema.numeric)
    for at, (name, values) in enumerate(zip(schema.value_names, columns, strict=True)):
        if n_numeric <= at < n_numeric + len(schema.categorical):
            texts = [
                None,
                "unseen",
                *(f"k{c}" for c in range(FIRST_CODE, max(values, default=0) + 1)),
            ]
            fields[name] = pa.array([texts[code] for code in values], pa.string())
        else:
            kind = pa.float32() if at % 2 else pa.float64()
            fields[name] = pa.array(values, mask=np.isnan(values)).cast(kind)
    return pa.table(fields)


def write_tables(folder, split, schema, columns, sizes, shard_blocks):
    """Write Parquet files of dictionaries and snappy; return what a writer of shards knows."""
    (folder / split).mkdir()
    n_rows, done, n_blocks = len(columns[0]), 0, 0
    contents, groups = ContentsDigest(), [[]]
    for size in cycle(sizes):
        if done == n_rows:
            break
        take = min(size, n_rows - done)
        groups[-1].append([column[done : done + take] for column in columns])
        for column in groups[-1][-1]:
            contents.update(np.ascontiguousarray(column).reshape(1, -1))
        done, n_blocks = done + take, n_blocks + 1
        if shard_blocks and n_blocks % shard_blocks == 0 and done < n_rows:
            groups.append([])
    shards, files = [], {}
    for number, blocks in enumerate(groups):
        name = f"{split}/{number:03d}.parquet"
        path = folder / name
        tables = [as_somebody_has_them(schema, block) for block in blocks]
        with pq.ParquetWriter(path, tables[0].schema) as writer:
            for table in tables:
                writer.write_table(table)
        files[name], metadata, n_bytes = adopted_file(path, {})
        data = path.read_bytes()
        found = tuple(
            Block(n, start, size, xxhash.xxh3_64_hexdigest(data[start : start + size]))
            for n, start, size in group_ranges(metadata)
        )
        shards.append(
            Shard(name, sum(b.n_rows for b in found), n_bytes, file_digest(path)[0], found)
        )
    return SimpleNamespace(
        shards=shards,
        contents=contents.hexdigest(),
        files={},
        adopted=Adopted(1 << 20, 1 << 20, files=files),
    )


def write_arrays(folder, values, target, *, shape, block_rows, shard_blocks):
    """Write a Zarr group with Zarr shards; return what a writer of shards knows."""
    group = zarr.open_group(folder, mode="w", zarr_format=3)
    n_rows = len(values)
    contents, shards = ContentsDigest(), []
    starts = range(0, n_rows, block_rows)
    described = {}
    for name, rows in (("features", values.reshape(n_rows, *shape)), ("target", target)):
        chunk = (block_rows, *rows.shape[1:])
        array = group.create_array(
            name, shape=rows.shape, dtype=rows.dtype, chunks=chunk,
            shards=(shard_blocks * block_rows, *rows.shape[1:]), compressors=None,
            config={"write_empty_chunks": True},
        )  # fmt: skip
        array[:] = rows
        chunks = ZarrChunks(open_zarr(folder / name, name))
        described[name] = chunks.described()
        part = part_names(shape, chunk, 0)[0] if name == "features" else "target/0"
        blocks = {}
        for k, first in enumerate(starts):
            at = chunks.find((k, *(0 for _ in rows.shape[1:])))
            data = at.path.read_bytes()[at.offset : at.offset + at.n_bytes]
            n = min(block_rows, n_rows - first)
            block = Block(n, at.offset, at.n_bytes, xxhash.xxh3_64_hexdigest(data))
            blocks.setdefault(at.path, []).append(block)
        for path, found in blocks.items():
            file = path.relative_to(folder).as_posix()
            digest, n_bytes = file_digest(path)
            n = sum(block.n_rows for block in found)
            shards.append(Shard(file, n, n_bytes, digest, tuple(found), array=part))
    for first in starts:
        rows = values[first : first + block_rows]
        marks = target[first : first + block_rows].view(np.uint8).reshape(len(rows), 4)
        contents.update(np.concatenate([rows.view(np.uint8), marks], axis=1))
    metadata = [p.relative_to(folder).as_posix() for p in folder.rglob("zarr.json")]
    return SimpleNamespace(
        shards=shards,
        contents=contents.hexdigest(),
        files={name: file_digest(folder / name)[0] for name in metadata},
        adopted=Adopted(
            1 << 20,
            0,
            arrays=described,
            first_rows={"train": tuple(starts)},
        ),
    )
