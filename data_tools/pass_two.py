"""Pass 2: partitions in order of their keys, encoded, to shards."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from data_tools.columns import ColumnPlan
from data_tools.partitions import Partitions, SortedRows, ordinals_of, read_sorted
from data_tools.report import Progress
from data_tools.statistics import Moments, RowSample
from streamtrain.kernels import packing
from streamtrain.store.chunk_codecs import Compression
from streamtrain.store.formats import open_writer
from streamtrain.store.manifest import SPLITS, Shard
from streamtrain.store.schema import RARE_CODE, StoredColumns

T = TypeVar("T")
_FREE_IDS = 1 << 16
"""A remap with more ids than this beside those kept is searched, not indexed."""


class Remap:
    """Turns provisional ids of one column into codes.

    Parameters
    ----------
    ids : (k,) int64
        Provisional ids of codes 2, 3, ...
    n_ids : int
        Ids given in all.
    """

    def __init__(self, ids: npt.NDArray[np.int64], n_ids: int) -> None:
        self._table: npt.NDArray[np.int32] | None = None
        if n_ids <= 4 * len(ids) + _FREE_IDS:
            self._table = np.full(n_ids + 1, RARE_CODE, np.int32)
            self._table[0] = 0
            self._table[ids + 1] = np.arange(2, 2 + len(ids))
            return
        order = np.argsort(ids)
        self._ids = (ids[order] + 1).astype(np.int32)
        self._codes = (order + 2).astype(np.int32)

    def apply(self, values: npt.NDArray[np.int32]) -> None:
        """Replace 0 or 1 + id by the code, in place."""
        if self._table is not None:
            np.take(self._table, values, out=values, mode="clip")
            return
        at = np.searchsorted(self._ids, values)
        at[at == len(self._ids)] = 0
        known = self._ids[at] == values if len(self._ids) else np.zeros(len(values), np.bool_)
        codes = np.where(known, self._codes[at] if len(self._ids) else 0, RARE_CODE)
        values[:] = np.where(values == 0, 0, codes)


@dataclass(frozen=True)
class PassTwoResult:
    """Shards, and statistics of the train split.

    Parameters
    ----------
    shards : dict of str to tuple of Shard
        For each split that has rows.
    contents : dict of str to str
        Digest of the values of each.
    files : dict of str to str
        Digests of other files that the format wants.
    moments : Moments
        Of the number columns of the shards: features, target, weight, exposure.
    sample : RowSample
        Of the same columns.
    missing, rare : (F,) int64
        Train rows with code 0 and 1.
    """

    shards: dict[str, tuple[Shard, ...]]
    contents: dict[str, str]
    files: dict[str, str]
    moments: Moments
    sample: RowSample
    missing: npt.NDArray[np.int64]
    rare: npt.NDArray[np.int64]


def write_shards(
    partitions: Partitions,
    folder: Path,
    stored: StoredColumns,
    columns: ColumnPlan,
    *,
    file_format: str,
    compression: Compression | None,
    remaps: list[Remap],
    target_remap: npt.NDArray[np.float32] | None,
    shuffle_key: int,
    sample_key: int,
    shuffled: bool,
    block_rows: int,
    part_bytes: int,
    bag_row_bytes: int = 0,
    listen: Callable[[Progress], None],
) -> PassTwoResult:
    """Write every split in the order of the row keys.

    One thread loads and sorts the next part while this one gathers and writes.

    Raises
    ------
    DiskError
        If the disk is full or fails.
    """
    n_numeric, n_codes = len(columns.numeric), len(columns.categorical)
    target = n_numeric + n_codes
    numbers = np.array([*range(n_numeric), *range(target, len(columns.stored))])
    moments = Moments(len(numbers))
    sample = RowSample(sample_key, len(numbers))
    missing, rare = np.zeros(n_codes, np.int64), np.zeros(n_codes, np.int64)

    def on_train_block(block: npt.NDArray[np.int32]) -> None:
        values = block.view(np.float32)
        moments.update(values[numbers])
        codes = block[n_numeric:target]
        missing[:] += np.count_nonzero(codes == 0, axis=1)
        rare[:] += np.count_nonzero(codes == 1, axis=1)

    writers = [
        open_writer(
            file_format,
            folder,
            name,
            stored,
            block_rows=block_rows,
            compression=compression,
            bag_row_bytes=bag_row_bytes,
            on_block=on_train_block if name == "train" else None,
        )
        for name in SPLITS
    ]
    turn = threading.Lock()
    for writer in writers:
        writer.take_turns(turn)
    start = time.monotonic()
    total = int(partitions.n_rows.sum())
    done = 0
    try:
        parts = read_sorted(partitions, shuffle_key, shuffled=shuffled, max_bytes=part_bytes)
        for part in _one_ahead(parts):
            for split, writer in enumerate(writers):
                order = part.order[split]
                at = 0
                while at < len(order):
                    matrix, filled = writer.matrix, writer.n_filled
                    n = min(len(order) - at, block_rows - filled)
                    packing.gather_columns(part.rows, order, at, n, matrix, filled)
                    for v, bag in enumerate(writer.bags):
                        starts, counts = part.bag(v, len(writer.bags), order[at : at + n])
                        bag.append(starts, counts, part.words)
                    new = matrix[:, filled : filled + n]
                    for f, remap in enumerate(remaps):
                        remap.apply(new[n_numeric + f])
                    if target_remap is not None:
                        row = new[target]
                        row.view(np.float32)[:] = target_remap[row]
                    if split == 0:
                        picked = part.rows[order[at : at + n], : packing.HEAD_WORDS]
                        sample.update(ordinals_of(picked), new.view(np.float32), numbers)
                    writer.advance(n)
                    at += n
            done += len(part.rows)
            listen(Progress("write", done, done, total, time.monotonic() - start))
        for writer in writers:
            writer.close()
    except BaseException:
        for writer in writers:
            writer.abandon()
        raise
    written = {name: w for name, w in zip(SPLITS, writers, strict=True) if w.shards}
    return PassTwoResult(
        shards={name: tuple(w.shards) for name, w in written.items()},
        contents={name: w.contents for name, w in written.items()},
        files={file: digest for w in written.values() for file, digest in w.files.items()},
        moments=moments,
        sample=sample,
        missing=missing,
        rare=rare,
    )


def _one_ahead(items: Iterator[SortedRows]) -> Iterator[SortedRows]:
    """Yield items in order; another thread makes the next one meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="ingest-load") as executor:
        future = executor.submit(next, items, None)
        while True:
            item = future.result()
            if item is None:
                return
            future = executor.submit(next, items, None)
            yield item
            del item
