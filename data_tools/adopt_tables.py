"""Parquet files that are there as the manifest of a dataset.

Pass 1 is ingest's: it parses every file once, judges rows, counts categories and
targets. Pass 2 reads every block as training will, through the same decoder: it
digests bytes and values, and keeps statistics of the train split. What a reader
cannot decode is so found here, and not in the middle of a run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from data_tools.adopt_files import find_parquet, read_block
from data_tools.block_splits import FoundBlock, split_blocks
from data_tools.budget import MemoryPlan, plan_memory
from data_tools.draw import BlockSplits, Draw
from data_tools.in_place import CountedRejects, Unwritten
from data_tools.inputs import Inputs
from data_tools.kinds import KINDS, Place, SourceOptions
from data_tools.options import IngestOptions
from data_tools.outcome import count_sources, schema_of
from data_tools.parquet_source import allocated_bytes
from data_tools.pass_one import NotNumbersError, PassOne, PassOneResult
from data_tools.report import Listener, Progress
from data_tools.sources import checked
from data_tools.statistics import Moments, RowSample
from data_tools.stored_file import StoredFile
from data_tools.target import Task, decide_task
from streamtrain import memory
from streamtrain.errors import SchemaError
from streamtrain.seeds import derive_key
from streamtrain.store.adopted import AdoptedParquet, part_of_file
from streamtrain.store.adopted_manifest import Adopted
from streamtrain.store.adopted_rows import Tables, table_bytes
from streamtrain.store.cells import missing_text
from streamtrain.store.manifest import (
    FORMAT_VERSION,
    SPLITS,
    Block,
    Manifest,
    Shard,
)
from streamtrain.store.schema import Schema
from streamtrain.store.string_table import MissingTexts
from streamtrain.store.vocabulary import (
    Vocabulary,
    adopted_name,
    vocabulary_digest,
    vocabulary_file,
)
from streamtrain.store.written_digests import ContentsDigest

_SLACK = 16 << 20
_COPIES = 2
"""A block's stored columns, and those of numbers again while their moments are taken."""
_TEXT_COPIES = 2
"""Text of a batch, as Arrow decodes it and as cells."""


@dataclass
class _Train:
    """What the train split says; see `outcome.TrainStatistics`."""

    moments: Moments
    sample: RowSample
    missing: npt.NDArray[np.int64]
    rare: npt.NDArray[np.int64]


class TableAdoption:
    """Parquet files of a directory, as a manifest that is not yet written.

    Parameters
    ----------
    options : IngestOptions
    folder : Path
    listen : callable
    """

    n_rounded = 0

    def __init__(self, options: IngestOptions, folder: Path, listen: Listener) -> None:
        self._options = options
        self._folder = folder
        self._listen = listen
        self.pruned: dict[str, int] = {}

    def run(
        self, shares: dict[str, float] | None, patterns: dict[str, str]
    ) -> tuple[Manifest, dict[str, memoryview]]:
        """Return the manifest, and the files of the vocabularies by their names.

        Parameters
        ----------
        shares : dict of str to float, or None
        patterns : dict of str to str
            See `block_splits.split_blocks`.

        Raises
        ------
        SourceError
            If a file is damaged, or has rows that cannot be used.
        ConfigError
            If an option does not fit the files, or the budget cannot hold a row group.
        """
        options = self._options
        self._files, self._blocks = find_parquet(self._folder)
        stored = [StoredFile(self._folder / name, self._told(name)) for name in self._files]
        self._splits, told = split_blocks(
            self._blocks, shares=shares, patterns=patterns, seed=options.seed
        )
        if told:
            self._listen(told)
        null = SourceOptions(null=missing_text(options.missing))
        opened = checked(
            [
                KINDS["parquet"].open(
                    Place(self._folder / name, self._told(name), file.constants), null
                )
                for name, file in self._files.items()
            ]
        )
        inputs = Inputs(options, staging=self._folder, out=self._folder, opened=opened)
        self._refuse_bags(inputs)
        first = self._pass_one(inputs)
        self.pruned = {name: t.floor for name, t in first.tables.items() if t.floor}
        columns = inputs.columns
        task = decide_task(
            first.target, columns.target, is_text=columns.target_is_text, positive=options.positive
        )
        vocabularies, files, digests = self._vocabularies(first, columns.categorical)
        sources = count_sources(inputs.sources, first)
        train, shards, contents, adopted = self._pass_two(
            inputs, first, task, vocabularies, digests
        )
        for file in stored:
            file.check()
        if shares is None:
            n_rows = sum(block.n_rows for block in self._blocks)
            shares = {
                name: sum(s.n_rows for s in shards.get(name, ())) / n_rows for name in SPLITS[1:]
            }
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            format="parquet",
            schema=schema_of(inputs, task, first, train, digests, missing=options.missing),
            splits=shards,
            sources=sources,
            files={name: xxhash.xxh3_128_hexdigest(data) for name, data in files.items()},
            seed=options.seed,
            shuffled=False,
            block_rows=max(block.n_rows for block in self._blocks),
            split_fractions=shares,
            contents=contents,
            adopted=adopted,
        )
        return manifest, files

    def _refuse_bags(self, inputs: Inputs) -> None:
        bags = {bag.name for bag in inputs.columns.bags}
        for field in inputs.sources[0].fields:
            if field.name in bags:
                raise SchemaError(
                    f"is {field.told}, which is read of files that were ingested alone",
                    where=f"column {field.name!r}",
                    remedy=f"leave it out with --drop {field.name}, or use `streamtrain ingest`",
                )

    def _told(self, name: str) -> str:
        return str(self._folder / name)

    def _pass_one(self, inputs: Inputs) -> PassOneResult:
        options = self._options
        n_rows = [block.n_rows for block in self._blocks]
        starts = np.cumsum([0, *n_rows[:-1]]).astype(np.uint64)
        draw = Draw(0, 0, np.zeros(2, np.uint64), False, BlockSplits(starts, self._splits))
        while True:
            roles = inputs.roles
            self._require(inputs)
            rejects = CountedRejects()
            declared = {*roles.numeric, *(n for n in (roles.weight, roles.exposure) if n)}
            try:
                first = PassOne(
                    inputs.sources,
                    inputs.columns,
                    declared=frozenset(declared),
                    missing=MissingTexts(options.missing),
                    plan=self._plan(inputs),
                    draw=draw,
                    partitions=Unwritten(),
                    rejects=rejects,
                    listen=self._listen,
                ).run()
            except NotNumbersError as error:
                names = ", ".join(repr(name) for name in inputs.demote(error.columns))
                self._listen(f"{names}: not numbers after all, read again as categories")
            else:
                rejects.check()
                return first

    def _plan(self, inputs: Inputs) -> MemoryPlan:
        columns = inputs.columns
        return plan_memory(
            self._options.memory or memory.default_budget(),
            n_threads=self._options.threads or len(os.sched_getaffinity(0)),
            n_columns=len(columns.stored),
            has_text=bool(columns.text),
            row_estimate=0,
            block_rows=0,
            reading=inputs.reading_bytes(),
        )

    def _require(self, inputs: Inputs, tables: int = 0) -> None:
        """Refuse row groups that do not fit: their stored bytes, and the rows of one."""
        rows = max(block.n_rows for block in self._blocks)
        memory.require(
            self._options.memory or memory.default_budget(),
            {
                "interpreter and compiled kernels": memory.resident_bytes() + _SLACK,
                "the largest row group": max(block.n_bytes for block in self._blocks),
                "the rows of one": rows * (_COPIES * 4 * len(inputs.columns.stored) + 16),
                "decoding": inputs.reading_bytes(),
                "tables of categories": tables,
            },
            what="adopting row groups as they are",
            instead="use `streamtrain ingest`, which divides them",
        )

    def _vocabularies(
        self, first: PassOneResult, names: Sequence[str]
    ) -> tuple[list[Vocabulary], dict[str, memoryview], list[tuple[int, str]]]:
        found, files, digests = [], {}, []
        for name in names:
            table = first.tables[name]
            _, counts, offsets, data = table.ranked(
                at_least=self._options.rare, at_most=self._options.max_categories
            )
            table.clear()
            vocabulary = Vocabulary(offsets, data[: offsets[-1]])
            digest = vocabulary_digest(vocabulary, counts)
            files[adopted_name(name, digest)] = vocabulary_file(name, vocabulary, counts)
            found.append(vocabulary)
            digests.append((vocabulary.cardinality, digest))
        return found, files, digests

    def _pass_two(
        self,
        inputs: Inputs,
        first: PassOneResult,
        task: Task,
        vocabularies: list[Vocabulary],
        digests: list[tuple[int, str]],
    ) -> tuple[_Train, dict[str, tuple[Shard, ...]], dict[str, str], Adopted]:
        columns = inputs.columns
        n_numeric, n_codes = len(columns.numeric), len(columns.categorical)
        target = n_numeric + n_codes
        numbers = np.array([*range(n_numeric), *range(target, len(columns.stored))])
        sample_key = derive_key("ingest sample", self._options.seed)
        train = _Train(
            Moments(len(numbers)),
            RowSample(sample_key, len(numbers)),
            np.zeros(n_codes, np.int64),
            np.zeros(n_codes, np.int64),
        )

        def on_train(block: npt.NDArray[np.int32], ordinals: npt.NDArray[np.uint64]) -> None:
            values = block.view(np.float32)
            train.moments.update(values[numbers])
            train.sample.update(ordinals, values, numbers)
            codes = block[n_numeric:target]
            train.missing[:] += np.count_nonzero(codes == 0, axis=1)
            train.rare[:] += np.count_nonzero(codes == 1, axis=1)

        # Statistics are not known yet, and decoding needs none.
        schema = schema_of(inputs, task, first, train, digests, missing=self._options.missing)
        shared = sum(map(table_bytes, vocabularies))
        self._require(inputs, shared)
        names = [c.name for c in schema.categorical]
        of_name = dict(zip(columns.categorical, vocabularies, strict=True))
        tables = Tables(schema, lambda f: of_name[names[f]])
        lists = list_widths(inputs)
        decoder = AdoptedParquet(
            schema, Adopted(0, 0, self._files, lists), str(self._folder), tables
        )
        shards, contents, decode_bytes = self._read_blocks(schema, decoder, on_train)
        sources = {s.name: end for s in inputs.sources if (end := s.end())}
        splits = {
            name: tuple(
                msgspec.structs.replace(s, digest=sources[self._told(s.name)].digest) for s in group
            )
            for name, group in shards.items()
        }
        used = {s.name for group in splits.values() for s in group}
        files = {name: file for name, file in self._files.items() if name in used}
        adopted = Adopted(_TEXT_COPIES * decode_bytes, shared, files, lists)
        return train, splits, contents, adopted

    def _read_blocks(
        self,
        schema: Schema,
        decoder: AdoptedParquet,
        on_train: Callable[[npt.NDArray[np.int32], npt.NDArray[np.uint64]], None],
    ) -> tuple[dict[str, list[Shard]], dict[str, str], int]:
        """Return shards without digests of files, contents, and the memory of decoding."""
        start = time.monotonic()
        n_rows = max(block.n_rows for block in self._blocks)
        total = sum(block.n_rows for block in self._blocks)
        matrix = np.empty((len(schema.value_names), n_rows), np.int32)
        buffer = np.empty(max(block.n_bytes for block in self._blocks), np.uint8)
        contents = {name: ContentsDigest() for name in SPLITS}
        kept: dict[str, dict[str, list[tuple[int, Block]]]] = {name: {} for name in SPLITS}
        ordinal = decode_bytes = 0
        for place, split in zip(self._blocks, self._splits.tolist(), strict=True):
            block, data = read_block(self._folder, place, buffer)
            n_bytes = self._size_of(place)
            filled = 0
            before = allocated_bytes()
            for rows in decoder.decode(
                part_of_file(place.file, n_bytes, place.number, block), data
            ):
                matrix[:, filled : filled + rows.shape[1]] = rows
                filled += rows.shape[1]
                decode_bytes = max(decode_bytes, allocated_bytes() - before)
            values = matrix[:, :filled]
            name = SPLITS[split]
            contents[name].update(values)
            if split == 0:
                on_train(values, np.arange(ordinal, ordinal + filled, dtype=np.uint64))
            kept[name].setdefault(place.file, []).append((place.number, block))
            ordinal += filled
            self._listen(Progress("write", ordinal, ordinal, total, time.monotonic() - start))
        shards = {
            name: [self._shard(file, blocks) for file, blocks in files.items()]
            for name, files in kept.items()
            if files
        }
        return shards, {name: contents[name].hexdigest() for name in shards}, decode_bytes

    def _size_of(self, place: FoundBlock) -> int:
        footer = self._files[place.file].footer
        return footer.offset + footer.n_bytes

    def _shard(self, file: str, blocks: list[tuple[int, Block]]) -> Shard:
        numbers = tuple(number for number, _ in blocks)
        in_order = numbers == tuple(range(len(blocks)))
        footer = self._files[file].footer
        return Shard(
            name=file,
            n_rows=sum(block.n_rows for _, block in blocks),
            n_bytes=footer.offset + footer.n_bytes,
            digest="",
            blocks=tuple(block for _, block in blocks),
            numbers=() if in_order else numbers,
        )


def list_widths(inputs: Inputs) -> dict[str, int]:
    """Return the values of each list, of the columns of lists that are used."""
    found: dict[str, int] = {}
    names: Any = {field.name for field in inputs.sources[0].fields}
    for name in inputs.columns.stored:
        column, dot, place = name.rpartition(".")
        if dot and place.isdecimal() and name in names and name not in inputs.date_parts:
            k = int(place)
            while f"{column}.{k + 1}" in names:
                k += 1
            found[column] = max(found.get(column, 0), k + 1)
    return found
