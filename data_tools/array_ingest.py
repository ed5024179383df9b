"""Arrays to a dataset: rows of one array with a target each, shuffled over all of it, as Zarr.

The same two passes as for tables. Pass 1 reads slabs of rows in order, judges them
and scatters them into temporary partitions; pass 2 sorts one partition at a time
and writes blocks. A packed row is two words of ordinal and split, the target, and
the features' bytes:

    | ordinal, split (8) | target float32 (4) | features, filled up to a multiple of 4 |
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from data_tools.array_plan import ArrayPlan, plan_array
from data_tools.array_schema import TARGET, ArrayStatistics, array_schema, read_targets
from data_tools.array_source import ArraySource, open_array
from data_tools.options import IngestOptions
from data_tools.partitions import Partitions, read_sorted
from data_tools.rejects import RejectFile
from data_tools.report import Listener, Progress
from data_tools.target import TargetCounter, decide_task
from streamtrain.errors import ConfigError, SourceError, StreamtrainError, UsageError
from streamtrain.kernels import packing
from streamtrain.kernels.row_key import row_keys
from streamtrain.seeds import derive_key
from streamtrain.store.adopted_zarr import narrowed
from streamtrain.store.manifest import FORMAT_VERSION, SPLITS, Manifest, write_manifest
from streamtrain.store.manifest import Source as SourceEntry
from streamtrain.store.schema import (
    MAX_ROW_VALUES,
)
from streamtrain.store.verify import file_digest
from streamtrain.store.zarr_shards import ZarrWriter

_HEAD = packing.HEAD_WORDS


@dataclass
class _Counts:
    """Rows so far."""

    read: int = 0
    written: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


def ingest_arrays(
    options: IngestOptions, staging: Path, listen: Listener, *, out: Path
) -> Manifest:
    """Write the dataset of an array and its targets into ``staging/dataset``.

    Raises
    ------
    SourceError
        If an array is damaged or holds no numbers, the lengths differ, or a target
        is not a finite number.
    ConfigError, UsageError
        If an option has no meaning for arrays.
    BudgetError
        If the budget cannot hold the least that can work.
    """
    _check_options(options)
    assert options.target_file is not None
    source = open_array(Path(options.sources[0]))
    target = open_array(options.target_file, option="--target-file")
    for each in (source, target):
        if out.resolve() in Path(each.name).resolve().parents:
            raise SourceError("lies inside the output", where=each.name)
    if target.shape != (source.shape[0],):
        raise SourceError(
            f"of shape {target.shape}, expected ({source.shape[0]},) for as many rows "
            f"as {source.name} has",
            where=target.name,
        )
    if len(source.shape) == 1:
        raise SourceError("has one axis, expected rows of features", where=source.name)
    n_values = math.prod(source.shape[1:])
    if n_values > MAX_ROW_VALUES:
        raise SourceError(
            f"a row has {n_values:,} values, expected at most {MAX_ROW_VALUES:,}",
            where=source.name,
        )
    return _ArrayIngest(options, staging, listen, source, target).run()


def _check_options(options: IngestOptions) -> None:
    if len(options.sources) != 1:
        raise UsageError("takes one array as its source", where="--target-file")
    table_only = {
        "--weight": options.weight,
        "--exposure": options.exposure,
        "--split-by": options.split_by,
        "--numeric": options.numeric,
        "--categorical": options.categorical,
        "--drop": options.drop,
        "--delimiter": options.delimiter,
    }
    for name, given in table_only.items():
        if given:
            raise ConfigError("names columns, an array has none", where=name, remedy="leave it out")


class _ArrayIngest:
    def __init__(
        self,
        options: IngestOptions,
        staging: Path,
        listen: Listener,
        source: ArraySource,
        target: ArraySource,
    ) -> None:
        self._options = options
        self._folder = staging / "dataset"
        self._staging = staging
        self._listen = listen
        self._source = source
        self._target = target
        self._split_key = np.uint64(derive_key("ingest split", options.seed))
        self._shuffle_key = derive_key("ingest shuffle", options.seed)
        valid = options.splits.get("valid", 0.0)
        limits = (valid, valid + options.splits.get("test", 0.0))
        self._limits = np.array([min(int(x * 2.0**64), 2**64 - 1) for x in limits], np.uint64)
        self._counter = TargetCounter()
        self._counts = _Counts()

    def run(self) -> Manifest:
        plan = plan_array(self._source, self._options)
        self._folder.mkdir()
        rejected = self._folder / "rejected/part-00000.csv"
        rejects = RejectFile(rejected, fail=self._options.on_bad_row == "fail")
        partitions = Partitions(
            self._staging / "partitions",
            bits=plan.bits if self._options.shuffle else 0,
            n_columns=plan.n_words,
        )
        try:
            self._read(plan, partitions, rejects)
        finally:
            partitions.close()
        files = {}
        if rejects.close():
            files["rejected/part-00000.csv"] = file_digest(rejected)[0]
        if not self._counts.written:
            raise SourceError(f"no row can be used: {rejects.first}", where=self._source.name)
        return self._write(plan, partitions, files)

    def _read(self, plan: ArrayPlan, partitions: Partitions, rejects: RejectFile) -> None:
        start = time.monotonic()
        total = self._source.shape[0]
        slabs = [source.slabs(plan.slab_rows) for source in (self._source, self._target)]
        for rows, targets in zip(*slabs, strict=True):
            first = self._counts.read
            values = read_targets(targets, first, self._counter, where=self._target.name)
            stored = narrowed(rows, plan.stored)
            good = self._judge(stored, first, rejects)
            self._counts.read += len(rows)
            self._scatter(plan, partitions, stored, values, good, first)
            seconds = time.monotonic() - start
            done = self._counts.read
            self._listen(Progress("read", done, done, total, seconds))

    def _judge(
        self, stored: npt.NDArray[Any], first: int, rejects: RejectFile
    ) -> npt.NDArray[np.bool_]:
        """Return which rows hold no infinity; NaN is a missing value."""
        if stored.dtype.kind != "f":
            return np.ones(len(stored), np.bool_)
        good: npt.NDArray[np.bool_] = ~np.isinf(stored).any(axis=1)
        for i in np.flatnonzero(~good).tolist():
            rejects.add(self._source.name, first + i + 1, "not finite", b"")
            self._counts.reasons["not finite"] += 1
        return good

    def _scatter(
        self,
        plan: ArrayPlan,
        partitions: Partitions,
        stored: npt.NDArray[Any],
        values: npt.NDArray[np.float32],
        good: npt.NDArray[np.bool_],
        first: int,
    ) -> None:
        ordinals = np.arange(first, first + len(stored), dtype=np.uint64)
        splits = np.empty(len(stored), np.uint8)
        packing.draw_splits(self._split_key, ordinals, self._limits, splits)
        picks = np.flatnonzero(good)
        self._counter.update_runs(values[picks].view(np.int32))
        self._counter.update_numbers(values[picks], splits[picks] == 0)
        n = len(picks)
        packed = np.zeros((n, _HEAD + plan.n_words), np.int32)
        heads = ordinals[picks] | (splits[picks].astype(np.uint64) << np.uint64(62))
        packed[:, :_HEAD] = heads.view(np.int32).reshape(n, _HEAD)
        packed[:, _HEAD] = values[picks].view(np.int32)
        as_bytes = packed.view(np.uint8)[:, 4 * (_HEAD + 1) :]
        chosen = stored if n == len(stored) else stored[picks]
        as_bytes[:, : plan.stored.feature_bytes] = chosen.view(np.uint8)
        counts = np.array([n], np.int64)
        if partitions.bits:
            keys = np.empty(n, np.uint64)
            row_keys(np.uint64(self._shuffle_key), ordinals[picks], keys)
            group = (keys >> np.uint64(64 - partitions.bits)).astype(np.int64)
            packed = packed[np.argsort(group, kind="stable")]
            counts = np.bincount(group, minlength=1 << partitions.bits)
        partitions.write(packed, counts)
        self._counts.written += n

    def _write(self, plan: ArrayPlan, partitions: Partitions, files: dict[str, str]) -> Manifest:
        options = self._options
        statistics = ArrayStatistics(plan.stored)
        writers = [
            ZarrWriter(
                self._folder,
                name,
                plan.stored,
                block_rows=plan.block_rows,
                compressed=options.compression is not None,
                on_block=statistics.update if name == "train" else None,
            )
            for name in SPLITS
        ]
        task = decide_task(self._counter, TARGET, is_text=False, positive=options.positive)
        start = time.monotonic()
        done, total = 0, self._counts.written
        width = plan.stored.feature_bytes
        try:
            for part in read_sorted(
                partitions,
                self._shuffle_key,
                shuffled=options.shuffle,
                max_bytes=plan.part,
                min_rows=1,
            ):
                as_bytes = part.rows.view(np.uint8)
                for order, writer in zip(part.order, writers, strict=True):
                    for picks in _runs(order, writer):
                        to = writer.matrix[writer.n_filled : writer.n_filled + len(picks)]
                        at = 4 * (_HEAD + 1)
                        to[:, :width] = as_bytes[picks, at : at + width]
                        to[:, width:] = as_bytes[picks, 4 * _HEAD : at]
                        writer.advance(len(picks))
                done += len(part.rows)
                self._listen(Progress("write", done, done, total, time.monotonic() - start))
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
        entries = self._entries()
        if done != total or total + self._counts.reasons.total() != self._counts.read:
            raise StreamtrainError(
                f"{self._counts.read} rows read, {done} written, "
                f"{self._counts.reasons.total()} rejected"
            )
        for writer in written.values():
            files |= writer.files
        schema = array_schema(plan.stored, statistics, task, self._counter, missing=options.missing)
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            format="zarr",
            schema=schema,
            splits={name: tuple(w.shards) for name, w in written.items()},
            sources=entries,
            files=files,
            seed=options.seed,
            shuffled=options.shuffle,
            block_rows=plan.block_rows,
            split_fractions=dict(options.splits),
            reject_reasons=dict(self._counts.reasons),
            contents={name: w.contents for name, w in written.items()},
            compression=options.compression or UNSET,
        )
        return write_manifest(self._folder, manifest)

    def _entries(self) -> tuple[SourceEntry, ...]:
        """Return the two files: the rows are counted with the features, once."""
        counts = self._counts
        found = []
        for source, n in ((self._source, 1), (self._target, 0)):
            end = source.end()
            rejected = counts.reasons.total()
            found.append(
                SourceEntry(
                    name=source.name,
                    n_bytes=end.n_bytes,
                    digest=end.digest,
                    rows_read=n * counts.read,
                    rows_written=n * counts.written,
                    rows_rejected=n * rejected,
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
