"""What is said of a table when all of it was read: its schema, its sources, the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from data_tools.inputs import Inputs
from data_tools.pass_one import PassOneResult
from data_tools.report import IngestReport
from data_tools.source import Source
from data_tools.statistics import Moments, RowSample
from data_tools.target import Task
from streamtrain import memory
from streamtrain.errors import StreamtrainError
from streamtrain.kernels._jit import compile_seconds
from streamtrain.store.manifest import Manifest
from streamtrain.store.manifest import Source as SourceEntry
from streamtrain.store.schema import Column, NumericStatistics, Schema, Target


class TrainStatistics(Protocol):
    """What the rows of the train split say."""

    @property
    def moments(self) -> Moments:
        """Of the number columns of the shards: features, target, weight, exposure."""
        ...

    @property
    def sample(self) -> RowSample:
        """Of the same columns."""
        ...

    @property
    def missing(self) -> npt.NDArray[np.int64]:
        """Rows of each categorical column with code 0, (F,)."""
        ...

    @property
    def rare(self) -> npt.NDArray[np.int64]:
        """Rows of each with code 1, (F,)."""
        ...


def count_sources(sources: Sequence[Source], first: PassOneResult) -> tuple[SourceEntry, ...]:
    """Return the entry of every source, whose rows add up.

    Raises
    ------
    StreamtrainError
        If they do not.
    """
    entries = []
    for source, count in zip(sources, first.counts, strict=True):
        end = source.end()
        entries.append(
            SourceEntry(
                name=source.name,
                n_bytes=end.n_bytes,
                digest=end.digest,
                rows_read=count.read,
                rows_written=count.written,
                rows_rejected=count.rejected,
                rows_blank=count.blank + source.header_blank,
            )
        )
        if count.read != count.written + count.rejected:
            raise StreamtrainError(
                f"{count.read} rows read, {count.written} written, {count.rejected} rejected",
                where=source.name,
            )
    return tuple(entries)


def schema_of(
    inputs: Inputs,
    task: Task,
    first: PassOneResult,
    second: TrainStatistics,
    digests: Sequence[tuple[int, str]],
    *,
    missing: tuple[str, ...],
) -> Schema:
    """Return the schema of a table.

    Parameters
    ----------
    inputs, task, first
        What pass 1 knows.
    second : TrainStatistics
        What the rows of the train split say.
    digests : sequence of (int, str)
        Cardinality and digest of each vocabulary.
    missing : tuple of str
    """
    sources, columns = inputs.sources, inputs.columns
    found: dict[str, Column] = {}
    stats: list[NumericStatistics] = [
        second.moments.statistics(c, second.sample)
        for c in range(len(columns.stored) - len(columns.categorical))
    ]
    for c, name in enumerate(columns.numeric):
        found[name] = Column(name, "numeric", stats[c], missing=stats[c].missing)
    for f, name in enumerate(columns.categorical):
        cardinality, digest = digests[f]
        found[name] = Column(
            name,
            "categorical",
            cardinality=cardinality,
            vocabulary_digest=digest,
            missing=int(second.missing[f]),
            rare=int(second.rare[f]),
        )
    for v, bag in enumerate(columns.bags):
        counts = first.entries
        entries = msgspec.structs.replace(
            bag.spec,
            total=int(counts.total[v]),
            longest=int(counts.longest[v]),
            empty=int(counts.empty[v]),
        )
        found[bag.name] = Column(bag.name, "bag", cardinality=bag.cardinality, entries=entries)
    for name, (date_of, part) in inputs.date_parts.items():
        if name in found:
            found[name] = msgspec.structs.replace(found[name], date_of=date_of, part=part)
    rest = iter(stats[len(columns.numeric) :])
    target = Target(
        name=columns.target,
        task=task.name,  # type: ignore[arg-type]
        classes=task.classes,
        values=task.values,
        is_text=columns.target_is_text,
        counts=task.counts,
        statistics=next(rest),
        run_length=first.target.run_length,
    )
    return Schema(
        columns=tuple(found[f.name] for f in sources[0].fields if f.name in found),
        target=target,
        weight=columns.weight,
        weight_statistics=next(rest) if columns.weight is not None else None,
        exposure=columns.exposure,
        exposure_statistics=next(rest) if columns.exposure is not None else None,
        missing=missing,
        header=not sources[0].positional,
        delimiter=sources[0].delimiter,
    )


def report_of(
    manifest: Manifest,
    *,
    seconds: float,
    pruned: dict[str, int],
    apart_s: float,
    n_rounded: int = 0,
) -> IngestReport:
    """Return the report on a dataset that is there.

    Parameters
    ----------
    manifest : Manifest
    seconds : float
    pruned : dict of str to int
        Greatest count lost, of columns whose tables were pruned.
    apart_s : float
        Seconds of compiling in another process.
    n_rounded : int
        Integers of arrays that float32 does not hold exactly.
    """
    # A file that was adopted may have blocks in several splits: it counts once.
    shards = {s.name: s.n_bytes for group in manifest.splits.values() for s in group}
    return IngestReport(
        rows_read=sum(s.rows_read for s in manifest.sources),
        rows_written=sum(s.rows_written for s in manifest.sources),
        rows_rejected=sum(s.rows_rejected for s in manifest.sources),
        rows_blank=sum(s.rows_blank for s in manifest.sources),
        splits={name: manifest.n_rows(name) for name in manifest.splits},
        shards=len(shards),
        bytes=sum(shards.values()),
        seconds=seconds,
        peak_rss_bytes=memory.peak_resident_bytes(),
        fingerprint=manifest.fingerprint,
        source_bytes=sum(s.n_bytes for s in manifest.sources),
        target=manifest.schema.target.name,
        task=manifest.schema.target.task,
        classes=list(manifest.schema.target.classes),
        numeric=len(manifest.schema.numeric),
        categorical=len(manifest.schema.categorical),
        bags=len(manifest.schema.bags),
        reasons=manifest.reject_reasons,
        pruned=pruned,
        targets=manifest.schema.target.n_outputs,
        rounded=n_rounded,
        compile_seconds=compile_seconds() + apart_s,
    )
