"""Datasets made for tests, without ingest: legible rows, sizes as asked."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import numpy as np
import pyarrow as pa
from msgspec import UNSET

from streamtrain.store.manifest import FORMAT_VERSION, Manifest
from streamtrain.store.manifest_file import write_manifest
from streamtrain.store.schema import (
    FIRST_CODE,
    QUANTILE_PROBABILITIES,
    ArrayFeatures,
    Column,
    Entries,
    NumericStatistics,
    Schema,
    StoredFeatures,
    Target,
)
from streamtrain.store.shards import ShardWriter
from streamtrain.store.vocabulary import from_strings, vocabulary_digest, write_vocabulary
from streamtrain.store.zarr_layout import plan_arrays
from streamtrain.store.zarr_shards import ZarrWriter
from tests.made_adopted import write_arrays, write_tables


def statistics(values):
    present = values[~np.isnan(values)].astype(np.float64)
    if not len(present):
        return NumericStatistics(0, len(values), 0.0, 0.0, 0.0, 0.0)
    return NumericStatistics(
        len(present),
        len(values) - len(present),
        float(present.mean()),
        float(present.std()),
        float(present.min()),
        float(present.max()),
        tuple(np.quantile(present, QUANTILE_PROBABILITIES).tolist()),
    )


def categories(cardinality):
    """Return the vocabulary of a made column and its counts: "k2" has code 2, and so on."""
    names = pa.array([f"k{code}" for code in range(FIRST_CODE, cardinality)], pa.string())
    return from_strings(names), np.arange(cardinality - FIRST_CODE, 0, -1, dtype=np.int64)


def make_dataset(
    folder: Path,
    *,
    n_rows=1000,
    n_numeric=2,
    cardinalities=(5, 40),
    block_rows=64,
    shard_blocks=None,
    splits=("train", "valid"),
    n_classes=2,
    weighted=False,
    exposed=False,
    missing=0.0,
    seed=0,
    legible=False,
    file_format="parquet",
    compression=None,
    bag_sizes=(),
):
    """Write a dataset whose target follows from its columns.

    Parameters
    ----------
    block_rows : int or tuple of int
        Rows of a block; of several, in turn.
    shard_blocks : int or None
        Blocks of a shard; None puts all of a split into one.
    missing : float
        Share of numeric values that are missing.
    exposed : bool
        The target is a count, or 1.5 times one, over an exposure of 0.25 to 4.
    legible : bool
        Every column of row i holds i.
    file_format : {"parquet", "zarr", "adopted"}
        Zarr wants one size of blocks, and what is adopted has no bags.
    """
    sizes = (block_rows,) if isinstance(block_rows, int) else tuple(block_rows)
    rng = np.random.default_rng(seed)
    bags = {
        split: make_entries(
            n_rows if split == "train" else max(n_rows // 4, 1), bag_sizes, seed, legible=legible
        )
        for split in splits
    }
    spread = [
        Entries(
            "hashed",
            total=int(bags["train"][v][0][-1]),
            longest=max(int(np.diff(b[v][0]).max()) for b in bags.values()),
            empty=int((np.diff(bags["train"][v][0]) == 0).sum()),
        )
        for v in range(len(bag_sizes))
    ]
    parts = {}
    effects = [rng.normal(size=c) for c in cardinalities]
    for split in splits:
        n = n_rows if split == "train" else max(n_rows // 4, 1)
        numeric = rng.normal(size=(n, n_numeric)).astype(np.float32)
        codes = np.stack(
            [rng.integers(0, c, n) for c in cardinalities] or [np.zeros(n, int)], axis=1
        )[:, : len(cardinalities)].astype(np.int32)
        score = numeric.sum(axis=1) + sum(e[codes[:, f]] for f, e in enumerate(effects))
        if n_classes == 0:
            target = score + 0.1 * rng.normal(size=n)
        elif n_classes == 2:
            target = (rng.random(n) < 1 / (1 + np.exp(-score))).astype(float)
        else:
            target = np.clip(np.floor((score + 3) * n_classes / 6), 0, n_classes - 1)
        exposure = np.ones(n, np.float32)
        if exposed:
            exposure = rng.uniform(0.25, 4.0, n).astype(np.float32)
            target = 1.5 * rng.poisson(exposure * np.exp(0.4 * score - 1.0))
        if missing:
            numeric[rng.random(numeric.shape) < missing] = np.nan
        if legible:
            numeric[:] = np.arange(n, dtype=np.float32)[:, None]
            codes[:] = np.arange(n)[:, None]
            target = np.arange(n) % 2 if n_classes == 2 else np.arange(n)
        weight = rng.uniform(0.5, 2.0, n).astype(np.float32)
        parts[split] = (numeric, codes, np.asarray(target, np.float32), weight, exposure)
    if legible:
        cardinalities = tuple(max(n_rows, c) for c in cardinalities)
    numeric, _, target, weight, exposure = parts["train"]
    if exposed:
        n_classes = 0
    tasks = {0: "regression", 2: "binary"}
    schema = Schema(
        columns=(
            *(
                Column(f"n{j}", "numeric", statistics=statistics(numeric[:, j]))
                for j in range(n_numeric)
            ),
            *(
                Column(
                    f"c{f}",
                    "categorical",
                    cardinality=c,
                    vocabulary_digest=vocabulary_digest(*categories(c)),
                )
                for f, c in enumerate(cardinalities)
            ),
            *(
                Column(f"bag{v}", "bag", cardinality=c, entries=spread[v])
                for v, c in enumerate(bag_sizes)
            ),
        ),
        target=Target(
            "y",
            tasks.get(n_classes, "classes"),
            tuple(str(c) for c in range(n_classes)),
            tuple(float(c) for c in range(n_classes)),
            False,
            tuple(int((target == c).sum()) for c in range(n_classes)),
            statistics(target),
            1.0,
        ),
        weight="w" if weighted else None,
        weight_statistics=statistics(weight) if weighted else None,
        exposure="e" if exposed else None,
        exposure_statistics=statistics(exposure) if exposed else None,
    )
    folder.mkdir(parents=True)
    shards, contents, files, adopted = {}, {}, {}, UNSET
    for split, (x, k, y, w, e) in parts.items():
        columns = [np.ascontiguousarray(x[:, j]) for j in range(n_numeric)]
        columns += [np.ascontiguousarray(k[:, f]) for f in range(len(cardinalities))]
        columns += [y, *([w] if weighted else []), *([e] if exposed else [])]
        if file_format == "adopted":
            assert not bag_sizes, "adopted files have no bags"
            writer = write_tables(folder, split, schema, columns, sizes, shard_blocks)
            adopted = writer.adopted
        elif file_format == "parquet":
            writer = write_parquet(folder, split, schema, columns, sizes, shard_blocks, bags[split])
        else:
            writer = write_zarr(
                folder, split, schema, columns, sizes, shard_blocks, bags[split],
                compression=compression,
            )  # fmt: skip
        shards[split], contents[split] = tuple(writer.shards), writer.contents
        files |= writer.files
    for f, c in enumerate(cardinalities):
        name, digest = write_vocabulary(folder, f"c{f}", *categories(c))
        files[name] = digest
    write_manifest(
        folder,
        Manifest(
            format_version=FORMAT_VERSION,
            format="parquet" if file_format == "adopted" else file_format,
            adopted=adopted,
            schema=schema,
            splits=shards,
            sources=(),
            files=files,
            seed=0,
            shuffled=True,
            block_rows=max(sizes),
            split_fractions={},
            contents=contents,
            compression=compression or UNSET,
        ),
    )
    return folder


def make_entries(n_rows, sizes, seed, *, legible=False):
    """Make (offsets, words) of each bag; of legible rows every third is empty, others hold i.

    Row i then has i % 3 entries, codes i (modulo the size) and values i.
    """
    rng = np.random.default_rng([seed, 3])
    found = []
    for size in sizes:
        counts = np.arange(n_rows) % 3 if legible else rng.integers(0, 6, n_rows)
        offsets = np.zeros(n_rows + 1, np.int64)
        np.cumsum(counts, out=offsets[1:])
        rows = np.repeat(np.arange(n_rows), counts)
        words = np.empty((len(rows), 2), np.int32)
        words[:, 0] = rows % size if legible else rng.integers(0, size, len(rows))
        values = rows if legible else rng.normal(size=len(rows))
        words[:, 1] = np.asarray(values, np.float32).view(np.int32)
        found.append((offsets, words))
    return found


def write_parquet(folder, split, schema, columns, sizes, shard_blocks, bags=()):
    """Write columns in blocks of the given sizes, in turn."""
    n_rows, done, n_blocks = len(columns[0]), 0, 0
    with ShardWriter(
        folder,
        split,
        schema.stored,
        block_rows=max(sizes),
        shard_bytes=1 << 40,  # a shard then ends where this says so, and not by its bytes
    ) as writer:
        for size in cycle(sizes):
            if done == n_rows:
                break
            take = min(size, n_rows - done)
            parts = [(offsets[done : done + take + 1], words) for offsets, words in bags]
            writer.append([column[done : done + take] for column in columns], parts)
            writer.end_block()
            done, n_blocks = done + take, n_blocks + 1
            if shard_blocks and n_blocks % shard_blocks == 0:
                writer.end_shard()
    return writer


def write_zarr(folder, split, schema, columns, sizes, shard_blocks, bags=(), *, compression=None):
    """Write columns in blocks of one size, `shard_blocks` to a shard."""
    (block_rows,) = sizes
    row_bytes = sum(array.row_bytes for array in plan_arrays(schema.stored))
    shard_bytes = shard_blocks * block_rows * row_bytes if shard_blocks else 1 << 40
    with ZarrWriter(
        folder,
        split,
        schema.stored,
        block_rows=block_rows,
        shard_bytes=shard_bytes,
        compression=compression,
    ) as writer:
        writer.append(columns, bags)
    return writer


def make_array_dataset(
    folder,
    *,
    n_rows=200,
    block_rows=16,
    shard_blocks=3,
    legible=True,
    seed=0,
    dtype="uint8",
    shape=(2, 3),
    compression=None,
    weighted=False,
    adopted=False,
):
    """Write a dataset of arrays whose row i holds i in every place, or random values."""
    rng = np.random.default_rng(seed)
    stored = StoredFeatures(dtype, shape, weighted)
    if legible:
        values = np.repeat(np.arange(n_rows), stored.n_values).reshape(n_rows, -1)
    else:
        values = rng.integers(0, 100, (n_rows, stored.n_values))
    values = values.astype(dtype)
    target = (np.arange(n_rows) % 2 if legible else rng.integers(0, 2, n_rows)).astype(np.float32)
    folder.mkdir(parents=True)
    weight = rng.uniform(0.5, 2.0, n_rows).astype(np.float32)
    if adopted:
        assert not weighted, "adopted arrays have no weights"
        sizes = {"block_rows": block_rows, "shard_blocks": shard_blocks}
        writer = write_arrays(folder, values, target, shape=shape, **sizes)
    else:
        with ZarrWriter(
            folder,
            "train",
            stored,
            block_rows=block_rows,
            shard_bytes=shard_blocks * block_rows * stored.row_bytes,
            compression=compression,
        ) as writer:
            for row, y, w in zip(values, target, weight, strict=True):
                data = row.tobytes() + y.tobytes() + (w.tobytes() if weighted else b"")
                writer.matrix[writer.n_filled] = np.frombuffer(data, np.uint8)
                writer.advance(1)
    schema = Schema(
        columns=(),
        target=Target(
            "target", "binary", ("0", "1"), (0.0, 1.0), False, (0, 0), statistics(target), 1.0
        ),
        weight="weight" if weighted else None,
        weight_statistics=statistics(weight) if weighted else None,
        features=ArrayFeatures(
            dtype, shape, tuple(statistics(values[:, j]) for j in range(stored.n_values))
        ),
    )
    write_manifest(
        folder,
        Manifest(
            format_version=FORMAT_VERSION,
            format="zarr",
            schema=schema,
            splits={"train": tuple(writer.shards)},
            sources=(),
            files=writer.files,
            seed=0,
            shuffled=True,
            block_rows=block_rows,
            split_fractions={},
            contents={"train": writer.contents},
            compression=compression or UNSET,
            adopted=writer.adopted if adopted else UNSET,
        ),
    )
    return folder
