"""Arrays to a dataset: rows with a target each, shuffled over all of them, as Zarr.

The same two passes as for tables. Pass 1 reads slabs of rows in order, judges them
and scatters them into temporary partitions; pass 2 sorts one partition at a time
and writes blocks. A packed row is two words of ordinal and split, its M targets, the
weight where rows have one, and the features' bytes:

    | ordinal, split (8) | targets float32 (4 M) | weight (4) | features, up to a multiple of 4 |
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from data_tools.array_inputs import open_sets
from data_tools.array_judge import RowJudge
from data_tools.array_plan import ArrayPlan, block_rows, narrowest, plan_arrays
from data_tools.array_schema import array_schema
from data_tools.array_set import TARGET, ArraySet
from data_tools.array_statistics import ArrayStatistics
from data_tools.options import IngestOptions
from data_tools.partitions import Partitions, read_sorted
from data_tools.rejects import RejectFile
from data_tools.report import Listener, Progress
from data_tools.target import Task
from streamtrain.errors import SourceError, StreamtrainError
from streamtrain.kernels import packing
from streamtrain.kernels.row_key import row_keys
from streamtrain.seeds import derive_key
from streamtrain.store.manifest import FORMAT_VERSION, SPLITS, Manifest
from streamtrain.store.manifest import Source as SourceEntry
from streamtrain.store.manifest_file import write_manifest
from streamtrain.store.schema import StoredFeatures
from streamtrain.store.verify import file_digest
from streamtrain.store.zarr_shards import ZarrWriter

_HEAD = packing.HEAD_WORDS
_REJECTED = "rejected/part-00000.csv"


@dataclass
class _Counts:
    """Rows of one source so far."""

    read: int = 0
    written: int = 0
    rejected: int = 0


def ingest_arrays(
    options: IngestOptions, staging: Path, listen: Listener, *, out: Path
) -> tuple[Manifest, int]:
    """Write the dataset of arrays and their targets into ``staging/dataset``.

    Returns
    -------
    manifest : Manifest
    n_rounded : int
        Integers that float32 does not hold exactly.

    Raises
    ------
    SourceError
        If an array is damaged or holds no numbers, the lengths differ, a target
        is not a finite number, or a weight is negative or missing.
    ConfigError, UsageError
        If an option has no meaning for arrays.
    BudgetError
        If the budget cannot hold the least that can work.
    """
    return _ArrayIngest(options, staging, listen, open_sets(options, out)).run()


@dataclass
class _ArrayIngest:
    options: IngestOptions
    staging: Path
    listen: Listener
    sets: Sequence[ArraySet]
    counts: list[_Counts] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._folder = self.staging / "dataset"
        seed = self.options.seed
        self._split_key = np.uint64(derive_key("ingest split", seed))
        self._shuffle_key = derive_key("ingest shuffle", seed)
        valid = self.options.splits.get("valid", 0.0)
        limits = (valid, valid + self.options.splits.get("test", 0.0))
        self._limits = np.array([min(int(x * 2.0**64), 2**64 - 1) for x in limits], np.uint64)

    def run(self) -> tuple[Manifest, int]:
        options = self.options
        plan = plan_arrays(self.sets, options)
        self._folder.mkdir()
        rejected = self._folder / _REJECTED
        rejects = RejectFile(rejected, fail=options.on_bad_row == "fail")
        partitions = Partitions(
            self.staging / "partitions",
            bits=plan.bits if options.shuffle else 0,
            n_columns=plan.n_words,
        )
        judge = RowJudge(plan, rejects, self.reasons)
        try:
            self._read(plan, partitions, judge)
        finally:
            partitions.close()
        files = {}
        if rejects.close():
            files[_REJECTED] = file_digest(rejected)[0]
        if not sum(c.written for c in self.counts):
            where = self.sets[0].features.name
            raise SourceError(f"no row can be used: {rejects.first}", where=where)
        stored = plan.packed
        if plan.is_wide and not judge.span.n_rounded:
            stored = replace(stored, dtype=narrowest(judge.span.low, judge.span.high))
        return self._write(plan, stored, partitions, judge, files), judge.span.n_rounded

    def _read(self, plan: ArrayPlan, partitions: Partitions, judge: RowJudge) -> None:
        start = time.monotonic()
        total = sum(s.features.shape[0] for s in self.sets)
        done = 0
        for arrays in self.sets:
            counts = _Counts()
            self.counts.append(counts)
            judge.begin(arrays)
            for rows, targets, weights in arrays.slabs(plan.slab_rows):
                assert targets is not None
                first = counts.read
                beside = [judge.targets(targets, first)]
                if weights is not None:
                    beside.append(judge.weights(weights, first))
                stored, good = judge.features(rows, first)
                n = self._scatter(plan, partitions, judge, stored, beside, good, done)
                counts.read += len(rows)
                counts.written += n
                counts.rejected += len(rows) - int(np.count_nonzero(good))
                done += len(rows)
                self.listen(Progress("read", done, done, total, time.monotonic() - start))

    def _scatter(
        self,
        plan: ArrayPlan,
        partitions: Partitions,
        judge: RowJudge,
        stored: npt.NDArray[np.generic],
        beside: Sequence[npt.NDArray[np.float32]],
        good: npt.NDArray[np.bool_],
        first: int,
    ) -> int:
        """Write the good rows to their partitions; return how many there are."""
        ordinals = np.arange(first, first + len(stored), dtype=np.uint64)
        splits = np.empty(len(stored), np.uint8)
        packing.draw_splits(self._split_key, ordinals, self._limits, splits)
        picks = np.flatnonzero(good)
        judge.count(beside[0][picks], splits[picks] == 0)
        n = len(picks)
        packed = np.zeros((n, _HEAD + plan.n_words), np.int32)
        heads = ordinals[picks] | (splits[picks].astype(np.uint64) << np.uint64(62))
        packed[:, :_HEAD] = heads.view(np.int32).reshape(n, _HEAD)
        at = _HEAD
        for columns in beside:
            words = columns[picks].view(np.int32).reshape(n, -1)
            packed[:, at : at + words.shape[1]] = words
            at += words.shape[1]
        as_bytes = packed.view(np.uint8)[:, 4 * (_HEAD + plan.n_beside) :]
        chosen = stored if n == len(stored) else stored[picks]
        as_bytes[:, : plan.packed.feature_bytes] = chosen.view(np.uint8)
        counts = np.array([n], np.int64)
        if partitions.bits:
            keys = np.empty(n, np.uint64)
            row_keys(np.uint64(self._shuffle_key), ordinals[picks], keys)
            group = (keys >> np.uint64(64 - partitions.bits)).astype(np.int64)
            packed = packed[np.argsort(group, kind="stable")]
            counts = np.bincount(group, minlength=1 << partitions.bits)
        partitions.write(packed, counts)
        return n

    def _write(
        self,
        plan: ArrayPlan,
        stored: StoredFeatures,
        partitions: Partitions,
        judge: RowJudge,
        files: dict[str, str],
    ) -> Manifest:
        options = self.options
        statistics = ArrayStatistics(stored)
        n_block = block_rows(stored, options)
        writers = [
            ZarrWriter(
                self._folder,
                name,
                stored,
                block_rows=n_block,
                compression=options.compression,
                on_block=statistics.update if name == "train" else None,
            )
            for name in SPLITS
        ]
        task = judge.task(options.target or TARGET, positive=options.positive)
        total = sum(c.written for c in self.counts)
        try:
            done = self._fill(plan, stored, partitions, writers, task, total)
            for writer in writers:
                writer.close()
        except BaseException:
            for writer in writers:
                writer.abandon()
            raise
        written = {name: w for name, w in zip(SPLITS, writers, strict=True) if w.shards}
        if "train" not in written:
            raise SourceError(
                f"none of the {total:,} rows is in the train split",
                where="--split",
                remedy="leave more rows to train on",
            )
        n_read = sum(c.read for c in self.counts)
        if done != total or total + self.reasons.total() != n_read:
            raise StreamtrainError(
                f"{n_read} rows read, {done} written, {self.reasons.total()} rejected"
            )
        for writer in written.values():
            files |= writer.files
        schema = array_schema(
            stored,
            statistics,
            task,
            judge.run_length,
            target=options.target or TARGET,
            missing=options.missing,
            is_text=judge.is_text,
            names=self.sets[0].feature_names,
        )
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            format="zarr",
            schema=schema,
            splits={name: tuple(w.shards) for name, w in written.items()},
            sources=self._entries(),
            files=files,
            seed=options.seed,
            shuffled=options.shuffle,
            block_rows=n_block,
            split_fractions=dict(options.splits),
            reject_reasons=dict(self.reasons),
            contents={name: w.contents for name, w in written.items()},
            compression=options.compression or UNSET,
        )
        return write_manifest(self._folder, manifest)

    def _fill(
        self,
        plan: ArrayPlan,
        stored: StoredFeatures,
        partitions: Partitions,
        writers: Sequence[ZarrWriter],
        task: Task,
        total: int,
    ) -> int:
        """Write every row of the partitions; return how many there were."""
        start, done = time.monotonic(), 0
        width, packed_width = stored.feature_bytes, plan.packed.feature_bytes
        at = 4 * (_HEAD + plan.n_beside)
        for part in read_sorted(
            partitions,
            self._shuffle_key,
            shuffled=self.options.shuffle,
            max_bytes=plan.part,
            min_rows=1,
        ):
            if task.remap is not None:
                places = part.rows[:, _HEAD].view(np.float32).astype(np.int64)
                part.rows[:, _HEAD] = task.remap[places].view(np.int32)
            as_bytes = part.rows.view(np.uint8)
            for order, writer in zip(part.order, writers, strict=True):
                for picks in _runs(order, writer):
                    to = writer.matrix[writer.n_filled : writer.n_filled + len(picks)]
                    features = as_bytes[picks, at : at + packed_width]
                    if stored.dtype != plan.packed.dtype:
                        wide = features.view(plan.packed.dtype)
                        features = wide.astype(stored.dtype).view(np.uint8)
                    to[:, :width] = features
                    to[:, width:] = as_bytes[picks, 4 * _HEAD : at]
                    writer.advance(len(picks))
            done += len(part.rows)
            self.listen(Progress("write", done, done, total, time.monotonic() - start))
        return done

    def _entries(self) -> tuple[SourceEntry, ...]:
        """Return every file: rows are counted with the features, once."""
        found = []
        for arrays, counts in zip(self.sets, self.counts, strict=True):
            for i, (name, end) in enumerate(arrays.ends()):
                n = int(i == 0)
                found.append(
                    SourceEntry(
                        name=name,
                        n_bytes=end.n_bytes,
                        digest=end.digest,
                        rows_read=n * counts.read,
                        rows_written=n * counts.written,
                        rows_rejected=n * counts.rejected,
                        rows_blank=0,
                    )
                )
        return tuple(found)


def _runs(order: npt.NDArray[np.int64], writer: ZarrWriter) -> Iterator[npt.NDArray[np.int64]]:
    """Yield what of the order fits into the block that is being filled, in turn."""
    at = 0
    while at < len(order):
        n = min(len(order) - at, len(writer.matrix) - writer.n_filled)
        yield order[at : at + n]
        at += n
