"""Windows filled from blocks: fetch, check, and scatter each row to its shuffled place.

    block   | col 0 | col 1 | ... |        bytes, checked: Parquet's columns, or
            | rows | rows |                a chunk of each Zarr array
               |  r0 -> place 5   r1 -> place 0   ...
    window  numeric (n, D)   codes (n, F)   target (n,)   row-major, reused

Memory is the windows and one block for each reading thread; no copy of either.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from streamtrain.errors import ConfigError, CorruptShardError
from streamtrain.kernels.bags import Bags, copy_entries
from streamtrain.kernels.lanes import aligned_zeros
from streamtrain.kernels.scatter import class_indices
from streamtrain.kernels.team import Team
from streamtrain.kernels.widen import widen_half
from streamtrain.reader.ahead import ReadAhead
from streamtrain.reader.order import OrderSettings, WindowPlan, window_places
from streamtrain.store.dataset import Dataset, IoMethod

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Rows:
    """Rows in row-major arrays.

    Parameters
    ----------
    numeric : (n, D) float32
        NaN is missing. In a window of an array dataset the type it is stored in.
    codes : (n, F) int32
    target : (n,) float32, or (n, M) where a row has M > 1 of them
        Class index, or the value where there are no classes.
    weight, exposure : (n,) float32, or (0,) where the dataset has none
    bags : Bags of n rows
    """

    numeric: npt.NDArray[Any]
    codes: Codes
    target: Floats
    weight: Floats
    exposure: Floats
    bags: Bags

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.target)

    def slice(self, start: int, stop: int) -> Rows:
        """Return views of rows start .. stop - 1."""
        has_weight, has_exposure = len(self.weight) > 0, len(self.exposure) > 0
        return Rows(
            self.numeric[start:stop],
            self.codes[start:stop],
            self.target[start:stop],
            self.weight[start:stop] if has_weight else self.weight,
            self.exposure[start:stop] if has_exposure else self.exposure,
            self.bags.slice(start, stop),
        )

    def put(self, at: int, rows: Rows) -> None:
        """Copy `rows` to rows at, at + 1, ...; those before are in place already."""
        end = at + rows.n_rows
        self.numeric[at:end] = rows.numeric
        self.codes[at:end] = rows.codes
        self.target[at:end] = rows.target
        if len(self.weight):
            self.weight[at:end] = rows.weight
        if len(self.exposure):
            self.exposure[at:end] = rows.exposure
        if self.bags.ranges.shape[1]:
            to = int(self.bags.ranges[at - 1, -1, 1]) if at else 0
            copy_entries(*rows.bags, at, to, *self.bags)


def allocate_rows(dataset: Dataset, n_rows: int, n_entries: int) -> Rows:
    """Return uninitialised rows with the columns of a dataset, and room for entries of bags."""
    schema = dataset.schema
    kind = schema.array.dtype if schema.array else "float32"
    n_targets = schema.target.n_outputs
    return Rows(
        np.empty((n_rows, len(schema.numeric)), kind),
        np.empty((n_rows, len(schema.categorical)), np.int32),
        np.empty(n_rows if n_targets == 1 else (n_rows, n_targets), np.float32),
        np.empty(n_rows if schema.weight else 0, np.float32),
        np.empty(n_rows if schema.exposure else 0, np.float32),
        Bags(
            np.empty((n_rows, len(schema.bags), 2), np.int32),
            np.empty(n_entries, np.int32),
            np.empty(n_entries, np.float32),
        ),
    )


class HandOver:
    """Rows on their way to a model, as float32: narrow types stay in windows alone.

    Parameters
    ----------
    dataset : Dataset
    batch_size : int

    Notes
    -----
    Whole batches at a time, about 4 MiB of them, so that what was widened is
    still in cache when it is used. Rows that are float32 are passed on as they are.
    """

    def __init__(self, dataset: Dataset, batch_size: int) -> None:
        array = dataset.schema.array
        self._rows: int | None = None
        if array is not None and array.dtype != "float32":
            self._rows = handover_rows(dataset, batch_size)
            self._wide = np.empty((self._rows, array.stored.n_values), np.float32)

    def pieces(self, rows: Rows) -> Iterator[Rows]:
        """Yield rows of whole batches in turn, each valid until the next."""
        if self._rows is None:
            yield rows
            return
        for start in range(0, rows.n_rows, self._rows):
            piece = rows.slice(start, min(start + self._rows, rows.n_rows))
            wide = self._wide[: piece.n_rows]
            if piece.numeric.dtype == np.float16:  # NumPy widens these one by one
                widen_half(piece.numeric.view(np.uint16).reshape(-1), wide.reshape(-1))
            else:
                np.copyto(wide, piece.numeric)
            yield replace(piece, numeric=wide)


def handover_rows(dataset: Dataset, batch_size: int) -> int:
    """Return the rows that are float32 at a time, 0 where windows hold them as such."""
    array = dataset.schema.array
    if array is None or array.dtype == "float32":
        return 0
    batch_bytes = 4 * array.stored.n_values * batch_size
    return batch_size * max(_HANDOVER_BYTES // batch_bytes, 1)


_HANDOVER_BYTES = 4 << 20


def handover_bytes(dataset: Dataset, batch_size: int) -> int:
    """Return the memory of `HandOver`."""
    array = dataset.schema.array
    return 4 * array.stored.n_values * handover_rows(dataset, batch_size) if array else 0


def row_bytes(dataset: Dataset) -> int:
    """Return the bytes of a row in a window, with its place in the permutation."""
    array = dataset.schema.stored_array
    if array is not None:
        return array.row_bytes + 4
    return 4 * len(dataset.schema.value_names) + 4 + 8 * len(dataset.schema.bags)


ENTRY_BYTES = 8
"""Of an entry of a bag in a window."""


def window_entries(dataset: Dataset, split: str, window_blocks: int) -> int:
    """Return the most entries of bags that any window of so many blocks can have.

    Raises
    ------
    ConfigError
        If a window could have more than its index counts.
    """
    if not dataset.schema.bags:
        return 0
    entries = sorted((block.n_entries for _, block in dataset.manifest.blocks(split)), reverse=True)
    found = sum(entries[:window_blocks])
    if found > _MAX_ENTRIES:
        raise ConfigError(
            f"a window of {window_blocks} blocks could hold {found:,} entries, "
            f"at most {_MAX_ENTRIES:,} are counted",
            where="--window-blocks",
            remedy="give fewer",
        )
    return found


_MAX_ENTRIES = (1 << 31) - 1


def batch_entries(dataset: Dataset, split: str, window_blocks: int, batch_size: int) -> int:
    """Return the most entries that any batch can have: what a spill and a model keep room for.

    A batch lies in as many windows as its rows may need and one more, and no row is
    longer than the longest.
    """
    schema = dataset.schema
    if not schema.bags:
        return 0
    longest = sum(column.bag.longest for column in schema.bags)
    block_rows = sorted(block.n_rows for _, block in dataset.manifest.blocks(split))
    least = max(sum(block_rows[: min(window_blocks, len(block_rows))]), 1)
    windows = -(-batch_size // least) + 1
    most = windows * window_entries(dataset, split, window_blocks)
    found = min(batch_size * longest, most)
    if found > _MAX_ENTRIES:
        raise ConfigError(
            f"a batch of {batch_size:,} rows could hold {found:,} entries, "
            f"at most {_MAX_ENTRIES:,} are counted",
            where="--batch-size",
            remedy="give fewer rows",
        )
    return found


@dataclass
class ReaderTimes:
    """Where time went, in seconds: waiting for windows, reading and checking, scattering.

    The last two are summed over reading threads.
    """

    wait_s: float = 0.0
    read_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True)
class Window:
    """A filled window: rows in their final order, and how many rows precede it."""

    plan: WindowPlan
    rows: Rows
    buffer: Rows = field(repr=False)


class WindowFiller:
    """Fill windows of one split, each into a free buffer.

    Parameters
    ----------
    dataset : Dataset
    split : str
    settings : OrderSettings
    window_rows : int
        Rows of the largest window.
    n_buffers : int
        Windows in memory at once.
    n_readers : int
        Threads that read blocks of one window, the caller being one of them.
    io : {"pread", "mmap"}
    class_values : (C,) float32
        Where targets become indices; empty for values as they are.

    Notes
    -----
    One thread at a time calls `fill`; `give_back` may come from another.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        settings: OrderSettings,
        *,
        window_rows: int,
        n_buffers: int,
        n_readers: int = 1,
        io: IoMethod = "pread",
        class_values: Floats | None = None,
    ) -> None:
        self._dataset = dataset
        self._split = split
        self._settings = settings
        self._io = io
        self._blocks = [block for _, block in dataset.manifest.blocks(split)]
        self._block_bytes = max(block.n_bytes for block in self._blocks)
        values = np.empty(0, np.float32) if class_values is None else class_values
        self._class_values = values
        entries = window_entries(dataset, split, settings.window_blocks)
        self._free = [allocate_rows(dataset, window_rows, entries) for _ in range(n_buffers)]
        self._places = np.empty(window_rows, np.int32)
        self._local = threading.local()
        self.times = ReaderTimes()
        self._team = Team(n_readers, work="reader")

    def close(self) -> None:
        """Let the reading threads end."""
        self._team.close()

    def give_back(self, window: Window) -> None:
        """Take back the buffer of a window that is no longer used."""
        self._free.append(window.buffer)

    def fill_all(self, plans: Sequence[WindowPlan]) -> Iterator[Window]:
        """Yield the windows of several plans in turn, every byte of them checked.

        Raises
        ------
        CorruptShardError
            If a block is not what was written.
        """
        blocks = [self._blocks[i] for plan in plans for i in plan.blocks]
        # Whether a map had to wait for its pages, nobody tells.
        ahead = ReadAhead(self._dataset, blocks, may_stop=self._io == "pread")
        for plan in plans:
            yield self._fill(plan, ahead)

    def _fill(self, plan: WindowPlan, ahead: ReadAhead) -> Window:
        buffer = self._free.pop()
        rows = buffer.slice(0, plan.n_rows)
        places = window_places(self._settings, plan, self._places)
        jobs: list[tuple[int, Codes, int]] = []
        start = entries_at = 0
        for number in plan.blocks:
            n_rows = self._blocks[number].n_rows
            jobs.append((number, places[start : start + n_rows], entries_at))
            start += n_rows
            entries_at += self._blocks[number].n_entries
        self._run(jobs, rows, ahead)
        if len(self._class_values):
            class_indices(self._class_values, rows.target, plan.n_rows)
            if plan.n_rows and rows.target.min() < 0:
                raise CorruptShardError(
                    "a target is none of the classes in the manifest", where=self._split
                )
        return Window(plan, rows, buffer)

    def _run(self, jobs: list[tuple[int, Codes, int]], rows: Rows, ahead: ReadAhead) -> None:
        """Scatter blocks, all threads together; raise the error of the first that has one."""
        errors: dict[int, BaseException] = {}
        # One iterator for all: the interpreter gives each block to one thread.
        queue = enumerate(jobs)

        def work(*_: object) -> None:
            for at, job in queue:
                try:
                    ahead.advance()
                    self._scatter(*job, rows, ahead)
                except BaseException as error:  # noqa: BLE001 (raised below)
                    errors[at] = error
                # Behind the block: one that was taken is always read.
                if errors:
                    return

        try:
            self._team.run(work)
        except BaseException as error:  # noqa: BLE001 (an interrupt while others are at work)
            errors[len(jobs)] = error
        if errors:
            # An interrupt comes first, whatever else went wrong.
            at = min(errors, key=lambda at: (isinstance(errors[at], Exception), at))
            first = errors[at]
            # What an error shows holds this frame: neither may hold the other, and the window.
            errors.clear()
            try:
                raise first
            finally:
                del first

    def _scatter(
        self, number: int, places: Codes, entries_at: int, rows: Rows, ahead: ReadAhead
    ) -> None:
        block = self._blocks[number]
        buffer = getattr(self._local, "buffer", None)
        if buffer is None:
            n_words = -(-self._block_bytes // 4) if self._io == "pread" else 0
            # The system copies a sixth faster to where a cache line begins.
            buffer = self._local.buffer = aligned_zeros(n_words).view(np.uint8)
        started = time.perf_counter()
        scattered_s = 0.0

        def scatter(chunks: list[npt.NDArray[np.uint8]]) -> int:
            nonlocal scattered_s
            arrived = time.perf_counter()
            bad = self._dataset.format.scatter(
                block,
                chunks,
                places,
                numeric=rows.numeric,
                codes=rows.codes,
                target=rows.target,
                weight=rows.weight,
                exposure=rows.exposure,
                bags=rows.bags,
                entries_at=entries_at,
            )
            scattered_s = time.perf_counter() - arrived
            return bad

        bad = self._dataset.with_block(block, buffer, scatter, io=self._io, on_wait=ahead.waited)
        self.times.decode_s += scattered_s
        self.times.read_s += time.perf_counter() - started - scattered_s
        if bad >= 0:
            schema = self._dataset.schema
            name = (*schema.value_names, *schema.stored.bags)[bad]
            raise CorruptShardError(
                f"column {name!r} holds a code that its vocabulary does not",
                where=self._dataset.part_name(block.parts[0]),
            )
