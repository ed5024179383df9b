"""Sources to a dataset: plan, pass 1, pass 2, manifest, commit."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import xxhash
from msgspec import UNSET

from data_tools.array_ingest import ingest_arrays
from data_tools.array_inputs import wants_arrays
from data_tools.bag_rows import LargestBlocks
from data_tools.budget import (
    BLOCK_ENTRY_BYTES,
    SLACK_BYTES,
    MemoryPlan,
    part_bytes,
    plan_memory,
    writing_bytes,
)
from data_tools.byte_stream import check_encoding
from data_tools.draw import Draw
from data_tools.inputs import Inputs
from data_tools.options import IngestOptions
from data_tools.outcome import count_sources, report_of, schema_of
from data_tools.partitions import ENTRY_BYTES, Partitions, entries_in_order
from data_tools.pass_one import NotNumbersError, PassOne, PassOneResult
from data_tools.pass_two import Remap, write_shards
from data_tools.rejects import RejectFile
from data_tools.report import IngestReport, Listener
from data_tools.source import NUMBERS_ALONE
from data_tools.sources import left_out
from data_tools.sql_source import SHARE
from data_tools.target import decide_task
from data_tools.warm_up import warm_up, warm_up_bags
from streamtrain import durable, memory
from streamtrain.errors import (
    ConfigError,
    OutputError,
    SourceError,
    StreamtrainError,
    UsageError,
)
from streamtrain.kernels.warm import compile_apart
from streamtrain.seeds import derive_key
from streamtrain.store.adopted_manifest import is_adopted
from streamtrain.store.allocator import tame_allocators
from streamtrain.store.formats import MAX_BLOCK_ROWS
from streamtrain.store.manifest import FORMAT_VERSION, MANIFEST_NAME, Manifest, count_rows
from streamtrain.store.manifest_file import write_manifest
from streamtrain.store.schema import StoredColumns
from streamtrain.store.string_table import MissingTexts
from streamtrain.store.vocabulary import Vocabulary, vocabulary_digest, write_vocabulary

_SHUFFLED_BLOCK_ROWS, _ORDERED_BLOCK_ROWS = 8192, 512
_REJECTED = "rejected/part-00000.csv"


def ingest(options: IngestOptions, *, listen: Listener = lambda _: None) -> IngestReport:
    """Turn sources into a dataset.

    Parameters
    ----------
    options : IngestOptions
    listen : callable
        Receives `Progress`, and messages as text.

    Returns
    -------
    IngestReport

    Raises
    ------
    StreamtrainError
        See section 12 of the design; nothing is left behind then.
    """
    start = time.monotonic()
    out = Path(options.out)
    if out.name in {"", ".."}:
        out = out.resolve()  # no directory is renamed to "."
    _check(options, out)
    tame_allocators()
    apart_s = compile_apart("data_tools.warm_up", "ingest")
    warm_up(options.format)
    with durable.staging_directory(out) as staging:
        pruned: dict[str, int] = {}
        n_rounded = 0
        if wants_arrays(options):
            manifest, n_rounded = ingest_arrays(options, staging, listen, out=out)
        else:
            job = _Ingest(options, out, staging, listen)
            manifest, first = job.run()
            apart_s += job.compile_s
            pruned = {name: t.floor for name, t in first.tables.items() if t.floor}
        durable.commit_directory(staging / "dataset", out, replace=options.overwrite)
    return report_of(
        manifest,
        seconds=time.monotonic() - start,
        pruned=pruned,
        apart_s=apart_s,
        n_rounded=n_rounded,
    )


def _check(options: IngestOptions, out: Path) -> None:
    if options.delimiter is not None and (
        len(options.delimiter) != 1
        or options.delimiter in '"\r\n\0'
        or ord(options.delimiter) > 127
    ):
        raise UsageError(f"{options.delimiter!r} is not a delimiter", where="--delimiter")
    check_encoding(options.encoding)
    if options.compression is not None and options.format != "zarr":
        raise ConfigError(
            "Parquet shards are read as they lie",
            where="--compression",
            remedy="give --format zarr, or leave it out",
        )
    most = MAX_BLOCK_ROWS[options.format]
    if options.block_rows is not None and not 1 <= options.block_rows <= most:
        raise UsageError(f"{options.block_rows} is not between 1 and {most}", where="--block-rows")
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise OutputError("exists and is not a directory", where=str(out))
    if out.is_dir() and any(out.iterdir()) and not options.overwrite:
        raise OutputError("exists already", where=str(out), remedy="give --overwrite to replace it")
    if is_adopted(out / MANIFEST_NAME):
        raise OutputError(
            "holds files that were adopted, which --overwrite would remove",
            where=str(out),
            remedy="choose another --out",
        )
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST_NAME).is_file():
        # --overwrite removes what is there: never somebody's home directory.
        raise OutputError(
            "exists and is not a dataset", where=str(out), remedy="choose another --out"
        )


class _Ingest:
    def __init__(self, options: IngestOptions, out: Path, staging: Path, listen: Listener) -> None:
        self._options = options
        self._out = out
        self._staging = staging
        self._folder = staging / "dataset"
        self._listen = listen
        default = _SHUFFLED_BLOCK_ROWS if options.shuffle else _ORDERED_BLOCK_ROWS
        self._block_rows = options.block_rows or default
        self.compile_s = 0.0

    def run(self) -> tuple[Manifest, PassOneResult]:
        options = self._options
        inputs = Inputs(options, staging=self._staging, out=self._out)
        if options.kind is None and (ignored := left_out(options.sources)):
            shown = ", ".join(ignored[:5]) + (", ..." if len(ignored) > 5 else "")
            self._listen(
                f"left out {len(ignored):,} files whose endings tell no kind: {shown}; "
                "name them to read them"
            )
        missing = MissingTexts(options.missing)
        while True:
            plan = self._plan(inputs)
            try:
                first, partitions = self._pass_one(inputs, missing, plan)
                break
            except NotNumbersError as error:
                names = ", ".join(repr(name) for name in inputs.demote(error.columns))
                self._listen(f"{names}: not numbers after all, read again as categories")
                shutil.rmtree(self._folder)
                shutil.rmtree(self._staging / "partitions")
        if first.n_written == 0:
            if not any(count.read for count in first.counts):
                raise SourceError("empty, expected rows", where=inputs.sources[0].name)
            raise SourceError(
                f"no row can be used: {self._first_reject}",
                where=inputs.sources[0].name,
                remedy="check --delimiter, --no-header, --encoding and --target"
                if inputs.sources[0].delimiter
                else "check the target",
            )
        return self._pass_two(inputs, plan, first, partitions), first

    def _plan(self, inputs: Inputs) -> MemoryPlan:
        columns = inputs.columns
        if columns.bags:
            self.compile_s += compile_apart("data_tools.warm_up", "bags")
            warm_up_bags()
        return plan_memory(
            self._options.memory or memory.default_budget(),
            n_threads=self._options.threads or len(os.sched_getaffinity(0)),
            n_columns=len(columns.stored),
            has_text=bool(columns.text),
            row_estimate=inputs.estimate_rows(),
            block_rows=self._block_rows,
            reading=inputs.reading_bytes(),
            reading_share=SHARE if self._options.sql else 0.0,
            n_bags=len(columns.bags),
            row_entries=inputs.estimate_entries() if columns.bags else 0.0,
        )

    def _pass_one(
        self, inputs: Inputs, missing: MissingTexts, plan: MemoryPlan
    ) -> tuple[PassOneResult, Partitions]:
        roles, columns = inputs.roles, inputs.columns
        options = self._options
        self._folder.mkdir()
        rejects = RejectFile(self._folder / _REJECTED, fail=options.on_bad_row == "fail")
        partitions = Partitions(
            self._staging / "partitions",
            bits=plan.bits if options.shuffle else 0,
            n_columns=len(columns.stored),
            n_bags=len(columns.bags),
        )
        valid = options.splits.get("valid", 0.0)
        limits = [valid, valid + options.splits.get("test", 0.0)]
        draw = Draw(
            split_key=derive_key("ingest split", options.seed),
            shuffle_key=derive_key("ingest shuffle", options.seed),
            limits=np.array([min(int(x * 2.0**64), 2**64 - 1) for x in limits], np.uint64),
            shuffled=options.shuffle,
        )
        self._draw = draw
        declared = {*roles.numeric, *(n for n in (roles.weight, roles.exposure) if n)}
        # Formats that have numbers only: what is none makes its row a bad one.
        fields = inputs.sources[0].fields
        declared |= {f.name for f in fields if f.told == NUMBERS_ALONE}
        try:
            first = PassOne(
                inputs.sources,
                columns,
                declared=frozenset(declared),
                missing=missing,
                plan=plan,
                draw=draw,
                partitions=partitions,
                rejects=rejects,
                listen=self._listen,
            ).run()
        finally:
            partitions.close()
        self._has_rejects = rejects.close()
        self._first_reject = rejects.first
        return first, partitions

    def _pass_two(
        self, inputs: Inputs, plan: MemoryPlan, first: PassOneResult, partitions: Partitions
    ) -> Manifest:
        sources, columns = inputs.sources, inputs.columns
        options = self._options
        try:
            task = decide_task(
                first.target,
                columns.target,
                is_text=columns.target_is_text,
                positive=options.positive,
            )
        except SourceError as error:
            if not first.reasons:
                raise
            # Most likely the cause.
            raise SourceError(
                f"{error.message}; {first.reasons.total():,} rows were rejected, "
                f"the first is {self._first_reject}",
                where=error.where,
                remedy="look into that first",
            ) from error
        files: dict[str, str] = {}
        remaps: list[Remap] = []
        digests: list[tuple[int, str]] = []
        for name in columns.categorical:
            table = first.tables[name]
            ids, counts, offsets, data = table.ranked(
                at_least=options.rare, at_most=options.max_categories
            )
            table.clear()
            vocabulary = Vocabulary(offsets, data[: offsets[-1]])
            path, digest = write_vocabulary(self._folder, name, vocabulary, counts)
            files[path] = digest
            digests.append((vocabulary.cardinality, vocabulary_digest(vocabulary, counts)))
            remaps.append(Remap(ids, table.n_ids))
        if self._has_rejects:
            files[_REJECTED] = _file_digest(self._folder / _REJECTED)
        part = self._plan_blocks(first, partitions, plan) if columns.bags else plan.part
        stored = StoredColumns(
            numeric=columns.numeric,
            categorical=columns.categorical,
            cardinalities=tuple(cardinality for cardinality, _ in digests),
            target=columns.target,
            weight=columns.weight,
            exposure=columns.exposure,
            bags=tuple(bag.name for bag in columns.bags),
            bag_sizes=tuple(bag.cardinality for bag in columns.bags),
        )
        second = write_shards(
            partitions,
            self._folder,
            stored,
            columns,
            file_format=options.format,
            compression=options.compression,
            remaps=remaps,
            target_remap=task.remap,
            shuffle_key=self._draw.shuffle_key,
            sample_key=derive_key("ingest sample", options.seed),
            shuffled=options.shuffle,
            block_rows=self._block_rows,
            part_bytes=part,
            bag_row_bytes=int(ENTRY_BYTES * first.entries.all / max(first.n_written, 1)),
            listen=self._listen,
        )
        entries = count_sources(sources, first)
        n_rows = sum(count_rows(shards) for shards in second.shards.values())
        if n_rows != first.n_written:
            raise StreamtrainError(f"{n_rows} rows in shards, expected {first.n_written}")
        if "train" not in second.shards:
            raise SourceError(
                f"none of the {n_rows:,} rows is in the train split",
                where="--split",
                remedy="leave more rows to train on",
            )
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            format=options.format,
            schema=schema_of(inputs, task, first, second, digests, missing=options.missing),
            splits=second.shards,
            sources=entries,
            files=files | second.files,
            seed=options.seed,
            shuffled=options.shuffle,
            block_rows=self._block_rows,
            split_fractions=dict(options.splits),
            split_by=columns.split_by,
            reject_reasons=dict(sorted(first.reasons.items())),
            contents=second.contents,
            compression=options.compression or UNSET,
        )
        return write_manifest(self._folder, manifest)

    def _plan_blocks(self, first: PassOneResult, partitions: Partitions, plan: MemoryPlan) -> int:
        """Choose the rows of a block by their entries; return what a part may take.

        Raises
        ------
        BudgetError
            If the blocks do not fit.
        """
        options = self._options
        row_bytes = ENTRY_BYTES * first.entries.longest_row
        block_bytes = row_bytes * min(self._block_rows, first.n_written)
        if block_bytes > BLOCK_ENTRY_BYTES:
            blocks = LargestBlocks(self._block_rows)
            for counts, splits in entries_in_order(
                partitions, self._draw.shuffle_key, shuffled=options.shuffle, max_bytes=plan.part
            ):
                blocks.add(counts, splits)
            found = [ENTRY_BYTES * n for n in blocks.entries]
            # A block of long rows has fewer of them: what readers hold is bounded. One
            # row among many that is longer than that does not make all blocks tiny.
            limit = max(BLOCK_ENTRY_BYTES, 2 * row_bytes)
            k = 0
            if options.block_rows is None:
                k = next((k for k, n in enumerate(found) if n <= limit), len(found) - 1)
            self._block_rows, block_bytes = blocks.sizes[k], found[k]
        if block_bytes <= BLOCK_ENTRY_BYTES:
            return plan.part
        budget = options.memory or memory.default_budget()
        process = memory.resident_bytes() + SLACK_BYTES // 2
        writers = writing_bytes(self._block_rows, partitions.n_columns, block_bytes)
        part = min(part_bytes(budget - process, writers), plan.part)
        memory.require(
            budget,
            {
                "process so far": process,
                "parts of partitions": 2 * max(part, row_bytes),
                "blocks being written": writers,
            },
            instead="give fewer --block-rows",
            what="writing blocks of texts or lists",
        )
        return part


def _file_digest(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()
