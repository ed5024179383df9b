"""Zarr arrays that are there as the manifest of a dataset: features, and a target each.

One pass: every block's chunks are read, digested, and decoded as training will. Wide
integers are read once before, for the type that holds them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from data_tools.adopt_chunks import Located, NpyRows, ZarrChunks, metadata_files
from data_tools.adopt_find import find_arrays
from data_tools.array_files import NpySource
from data_tools.array_judge import IntegerSpan
from data_tools.array_plan import narrowest, stored_type
from data_tools.array_schema import array_schema, read_targets
from data_tools.array_set import TARGET
from data_tools.array_source import ArraySource, open_array
from data_tools.array_statistics import ArrayStatistics
from data_tools.block_splits import FoundBlock, split_blocks
from data_tools.options import IngestOptions
from data_tools.report import Listener, Progress
from data_tools.stored_file import READ_ERRORS, StoredFile, as_source_error
from data_tools.target import TargetCounter, decide_task
from data_tools.zarr_source import ZarrSource
from streamtrain import memory
from streamtrain.errors import ConfigError, SourceError, UsageError
from streamtrain.store.adopted_manifest import Adopted
from streamtrain.store.adopted_zarr import AdoptedRows, grid_of, narrowed, part_names
from streamtrain.store.manifest import (
    FORMAT_VERSION,
    MAX_BLOCK_ROWS,
    SPLITS,
    Block,
    Manifest,
    Shard,
)
from streamtrain.store.manifest import Source as SourceEntry
from streamtrain.store.schema import MAX_ROW_VALUES, StoredFeatures
from streamtrain.store.verify import file_digest
from streamtrain.store.written_digests import ContentsDigest

_SLACK = 16 << 20
_COUNTED_BYTES = 5 * 8
"""For each wide integer: it, its absolute value, and what its bits are told from."""


@dataclass
class _Split:
    """What is kept of a split: for each array its chunks in order, and contents."""

    parts: dict[str, list[tuple[Located, Block]]] = field(default_factory=dict)
    first_rows: list[int] = field(default_factory=list)
    contents: ContentsDigest = field(default_factory=ContentsDigest)


class ArrayAdoption:
    """Zarr arrays of a directory, as a manifest that is not yet written.

    Parameters
    ----------
    options : IngestOptions
    folder : Path
    listen : callable
    """

    pruned: dict[str, int] = {}  # noqa: RUF012 (never changed: arrays have no categories)

    def __init__(self, options: IngestOptions, folder: Path, listen: Listener) -> None:
        self._options = options
        self._folder = folder
        self._listen = listen
        paths = find_arrays(folder, options)
        self._source = open_array(paths[0])
        self._target_source = open_array(paths[1], option="--target-file")
        self._files = [f for path in paths for f in metadata_files(folder, path)]
        source, target = self._source, self._target_source
        if not isinstance(source, ZarrSource):
            raise UsageError("is no Zarr array", where=source.name)
        self._chunks = ZarrChunks(source)
        if isinstance(target, NpySource):
            self._targets: ZarrChunks | NpyRows = NpyRows(paths[1], target)
            self._kept = StoredFile(paths[1], target.name)
        elif isinstance(target, ZarrSource):
            self._targets = ZarrChunks(target)
        else:
            raise SourceError(
                "rows that have no place in the file, as those of .npy and Zarr have",
                where=target.name,
                remedy="save the targets as .npy",
            )  # fmt: skip
        self._check_shapes(source, target)
        shape = source.shape[1:]
        self._stored = StoredFeatures(stored_type(source.dtype), shape)
        self._is_wide = source.dtype.kind in "iu" and self._stored.dtype == "float32"
        self.n_rounded = 0
        self._block_rows = min(self._chunks.chunk[0], source.shape[0])
        size = self._targets.chunk[0]
        starts = range(0, source.shape[0], self._chunks.chunk[0])
        self._n_targets = max(self._last(r) // size - r // size + 1 for r in starts) if size else 1
        self._names = part_names(shape, self._chunks.chunk, self._n_targets)
        self._located = list(self._blocks())

    def _check_shapes(self, source: ArraySource, target: ArraySource) -> None:
        if target.shape != (source.shape[0],):
            raise SourceError(
                f"of shape {target.shape}, expected ({source.shape[0]},) for as many rows "
                f"as {source.name} has",
                where=target.name,
                remedy="use `streamtrain ingest` for several targets of a row"
                if target.shape[:1] == source.shape[:1]
                else "",
            )
        if len(source.shape) == 1:
            raise SourceError("has one axis, expected rows of features", where=source.name)
        if math.prod(source.shape[1:]) > MAX_ROW_VALUES:
            raise SourceError(
                f"a row has {math.prod(source.shape[1:]):,} values, expected at most "
                f"{MAX_ROW_VALUES:,}",
                where=source.name,
            )
        if min(self._chunks.chunk[0], source.shape[0]) > MAX_BLOCK_ROWS:
            raise ConfigError(
                f"chunks of {self._chunks.chunk[0]:,} rows, at most {MAX_BLOCK_ROWS:,} are "
                "read at once",
                where=source.name,
                remedy="use `streamtrain ingest`",
            )

    def _last(self, first: int) -> int:
        """Return the last row of the block that begins at one."""
        return min(first + self._chunks.chunk[0], self._source.shape[0]) - 1

    def run(
        self, shares: dict[str, float] | None, patterns: dict[str, str]
    ) -> tuple[Manifest, dict[str, memoryview]]:
        """Return the manifest; arrays have no vocabularies.

        Raises
        ------
        SourceError
            If a chunk is damaged, or has rows that cannot be used.
        ConfigError
            If the options do not fit, or the budget cannot hold a chunk.
        """
        options = self._options
        adopted = Adopted(
            self._decode_bytes(),
            0,
            arrays={"features": self._chunks.described(), "target": self._targets.described()},
        )
        self._require(adopted)
        blocks = [
            FoundBlock(
                p[0].path.relative_to(self._folder).as_posix(), p[0].number, n, 0, p[0].n_bytes
            )
            for _, n, p in self._located
        ]
        if self._is_wide:
            self._narrow(adopted)
        found, told = split_blocks(blocks, shares=shares, patterns=patterns, seed=options.seed)
        if told:
            self._listen(told)
        counter, statistics = TargetCounter(), ArrayStatistics(self._stored)
        splits = {name: _Split() for name in SPLITS}
        digests = self._read(adopted, found, splits, counter, statistics)
        sources = self._entries(digests)
        task = decide_task(
            counter, options.target or TARGET, is_text=False, positive=options.positive
        )
        used = {name: split for name, split in splits.items() if split.first_rows}
        known: dict[Path, tuple[str, int]] = {}
        shards = {name: self._shards(split, known) for name, split in used.items()}
        n_rows = self._source.shape[0]
        if shares is None:
            shares = {
                name: sum(b.n_rows for b, s in zip(blocks, found, strict=True) if s == k) / n_rows
                for k, name in enumerate(SPLITS)
                if k
            }
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            format="zarr",
            schema=array_schema(
                self._stored,
                statistics,
                task,
                counter.run_length,
                target=options.target or TARGET,
                missing=options.missing,
            ),
            splits=shards,
            sources=sources,
            files={
                path.relative_to(self._folder).as_posix(): file_digest(path)[0]
                for path in self._files
            },
            seed=options.seed,
            shuffled=False,
            block_rows=self._block_rows,
            split_fractions=shares,
            contents={name: split.contents.hexdigest() for name, split in used.items()},
            adopted=Adopted(
                adopted.decode_bytes,
                0,
                arrays=adopted.arrays,
                first_rows={name: tuple(split.first_rows) for name, split in used.items()},
            ),
        )
        return manifest, {}

    def _decode_bytes(self) -> int:
        """Return what decoding a block takes: by the shapes, whatever a frame claims."""
        source, rows = self._source, self._block_rows
        chunk = math.prod(self._chunks.chunk) * source.dtype.itemsize
        raw = rows * math.prod(source.shape[1:]) * source.dtype.itemsize
        target = self._n_targets * self._targets.chunk[0] * self._target_source.dtype.itemsize
        return 2 * chunk + raw + rows * (self._stored.feature_bytes + 16) + 2 * target

    def _require(self, adopted: Adopted) -> None:
        stored = self._stored
        block = max(sum(p.n_bytes for p in parts) for _, _, parts in self._located)
        # The rows, packed, and as float32 columns while their moments are taken; before
        # that, wide integers while those are counted that float32 does not hold.
        rows = 2 * stored.feature_bytes + 8 * stored.n_values + 16
        rows = self._block_rows * max(rows, self._is_wide * _COUNTED_BYTES * stored.n_values)
        memory.require(
            self._options.memory or memory.default_budget(),
            {
                "interpreter and compiled kernels": memory.resident_bytes() + _SLACK,
                "the chunks of a block": block,
                "decoding": adopted.decode_bytes,
                "its rows": rows,
            },
            what="adopting chunks as they are",
            instead="use `streamtrain ingest`, which divides them",
        )

    def _narrow(self, adopted: Adopted) -> None:
        """Store wide integers in the narrowest type that holds all of them, as ingest does."""
        start, total = time.monotonic(), self._source.shape[0]
        decoder, span = AdoptedRows(adopted, self._stored), IntegerSpan()
        for first, n, parts in self._located:
            rows, _ = _decoded(decoder, [_read_range(part) for part in parts], first, n, parts)
            span.update(rows)
            self._listen(Progress("read", first + n, first + n, total, time.monotonic() - start))
        self.n_rounded = span.n_rounded
        if not span.n_rounded:
            self._stored = replace(self._stored, dtype=narrowest(span.low, span.high))

    def _blocks(self) -> Iterator[tuple[int, int, list[Located]]]:
        """Yield (first row, rows, parts) of every block in order."""
        step = self._chunks.chunk[0]
        grid = grid_of(self._source.shape[1:], self._chunks.chunk)
        for number, first in enumerate(range(0, self._source.shape[0], step)):
            last = self._last(first)
            parts = [self._chunks.find((number, *place)) for place in np.ndindex(*grid)]
            if isinstance(self._targets, NpyRows):
                parts.append(self._targets.find_rows(first, last - first + 1, number))
            else:
                size = self._targets.chunk[0]
                parts += [
                    self._targets.find((min(first // size + k, last // size),))
                    for k in range(self._n_targets)
                ]
            yield first, last - first + 1, parts

    def _read(
        self,
        adopted: Adopted,
        found: npt.NDArray[np.uint8],
        splits: dict[str, _Split],
        counter: TargetCounter,
        statistics: ArrayStatistics,
    ) -> tuple[str, str]:
        """Read every block once; return the digests of the values of both arrays."""
        start, total = time.monotonic(), self._source.shape[0]
        decoder = AdoptedRows(adopted, self._stored)
        width = self._stored.feature_bytes
        digests = xxhash.xxh3_128(), xxhash.xxh3_128()
        n_bad, first_bad = 0, 0
        for number, (first, n, parts) in enumerate(self._located):
            chunks = [_read_range(part) for part in parts]
            rows, targets = _decoded(decoder, chunks, first, n, parts)
            for digest, values in zip(digests, (rows, targets), strict=True):
                digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
            stored = narrowed(rows, self._stored)
            if stored.dtype.kind == "f":
                bad = np.flatnonzero(np.isinf(stored).any(axis=1))
                first_bad = first_bad if n_bad or not len(bad) else first + int(bad[0]) + 1
                n_bad += len(bad)
            target = read_targets(targets, first, counter, where=self._target_source.name)
            block = np.empty((n, width + 4), np.uint8)
            block[:, :width] = stored.view(np.uint8).reshape(n, width)
            block[:, width:] = target.view(np.uint8).reshape(n, 4)
            name = SPLITS[int(found[number])]
            counter.update_runs(target.view(np.int32))
            counter.update_numbers(target, np.full(n, name == "train"))
            if name == "train":
                statistics.update(block)
            splits[name].contents.update(block)
            splits[name].first_rows.append(first)
            for array, part, data in zip(self._names, parts, chunks, strict=True):
                entry = Block(n, part.offset, part.n_bytes, xxhash.xxh3_64_hexdigest(data.data))
                splits[name].parts.setdefault(array, []).append((part, entry))
            self._listen(Progress("write", first + n, first + n, total, time.monotonic() - start))
        if n_bad:
            raise SourceError(
                f"{n_bad:,} rows cannot be used (not finite), the first is row {first_bad:,}",
                where=self._source.name,
                remedy="rows cannot be left out in place: use `streamtrain ingest`, "
                "which keeps them apart",
            )
        return digests[0].hexdigest(), digests[1].hexdigest()

    def _shards(self, split: _Split, known: dict[Path, tuple[str, int]]) -> tuple[Shard, ...]:
        shards = []
        for array, parts in split.parts.items():
            at = 0
            while at < len(parts):
                path = parts[at][0].path
                end = at
                while end < len(parts) and parts[end][0].path == path:
                    end += 1
                run = parts[at:end]
                numbers = tuple(part.number for part, _ in run)
                if path not in known:
                    if not path.resolve().is_relative_to(self._folder.resolve()):
                        raise SourceError("a link out of the directory", where=str(path))
                    known[path] = file_digest(path)
                digest, n_bytes = known[path]
                shards.append(
                    Shard(
                        name=path.relative_to(self._folder).as_posix(),
                        n_rows=sum(block.n_rows for _, block in run),
                        n_bytes=n_bytes,
                        digest=digest,
                        blocks=tuple(block for _, block in run),
                        array=array,
                        numbers=() if numbers == tuple(range(len(run))) else numbers,
                    )
                )
                at = end
        return tuple(shards)

    def _entries(self, digests: tuple[str, str]) -> tuple[SourceEntry, ...]:
        """Return both arrays; the rows are counted with the features, once."""
        entries = []
        n_rows = self._source.shape[0]
        for source, digest, n in (
            (self._source, digests[0], n_rows),
            (self._target_source, digests[1], 0),
        ):
            if isinstance(source, ZarrSource):
                n_bytes = source.end().n_bytes
            else:
                self._kept.check()
                digest, n_bytes = file_digest(self._kept.path)  # noqa: PLW2901
            entries.append(SourceEntry(source.name, n_bytes, digest, n, n, 0, 0))
        return tuple(entries)


def _decoded(
    decoder: AdoptedRows,
    chunks: list[npt.NDArray[np.uint8]],
    first: int,
    n_rows: int,
    parts: list[Located],
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    try:
        return decoder.decode(chunks, first, n_rows)
    except Exception as error:  # whatever a codec makes of damaged bytes
        told = (str(error).splitlines() or [""])[0][:200]
        raise SourceError(f"cannot be decoded: {told}", where=str(parts[0].path)) from error


def _read_range(part: Located) -> npt.NDArray[np.uint8]:
    try:
        with part.path.open("rb", buffering=0) as file:
            file.seek(part.offset)
            data = file.read(part.n_bytes)
    except READ_ERRORS as error:
        raise as_source_error(error, str(part.path)) from error
    if len(data) < part.n_bytes:
        raise SourceError("changed while it was being read", where=str(part.path))
    return np.frombuffer(data, np.uint8)
