"""Pass 1: parse every source once, judge and count every row, scatter the good ones."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from data_tools.bag_rows import BagCounts, part_of, slices, without
from data_tools.budget import MemoryPlan
from data_tools.category_tables import CategoryTables
from data_tools.columns import ColumnPlan
from data_tools.draw import Draw
from data_tools.infer import MAX_BAD_SHARE
from data_tools.judge import Judged, judge
from data_tools.partitions import Partitions
from data_tools.rejects import RejectFile
from data_tools.report import Progress
from data_tools.source import Piece, PieceBuffer, Records, Source
from data_tools.target import TargetCounter
from data_tools.text_source import BUFFER_BYTES
from data_tools.turnstile import AbandonedError, Turnstile
from streamtrain.kernels import packing, strings
from streamtrain.store.cells import Cells, as_text
from streamtrain.store.string_table import MissingTexts, StringTable

_EARLY_FAILURES = 1000


class NotNumbersError(Exception):
    """Columns taken for numbers that hold too much else: pass 1 starts again without them."""

    def __init__(self, columns: Sequence[str]) -> None:
        super().__init__(*columns)
        self.columns = tuple(columns)


@dataclass
class SourceCount:
    """Records of one source so far."""

    read: int = 0
    written: int = 0
    rejected: int = 0
    blank: int = 0
    lines: int = 0


@dataclass
class PassOneResult:
    """What pass 2 and the manifest need."""

    counts: list[SourceCount]
    tables: dict[str, StringTable]
    target: TargetCounter
    reasons: Counter[str] = field(default_factory=Counter)
    n_written: int = 0
    entries: BagCounts = field(default_factory=lambda: BagCounts(0))


class PassOne:
    """Runs pass 1 on worker threads.

    Parameters
    ----------
    sources : sequence of Source
    columns : ColumnPlan
    declared : frozenset of str
        Columns that are numbers whatever they hold.
    missing : MissingTexts
    plan : MemoryPlan
    draw : Draw
    partitions : Partitions
    rejects : RejectFile
    listen : callable
        Receives `Progress` as pieces are read.

    Notes
    -----
    Each worker takes the next piece, splits, parses and judges its rows on its
    own, then passes lane 0 (ordinals, rejected rows), one lane for each text
    column (its string table) and one for the target, in the order of the pieces.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        columns: ColumnPlan,
        *,
        declared: frozenset[str],
        missing: MissingTexts,
        plan: MemoryPlan,
        draw: Draw,
        partitions: Partitions,
        rejects: RejectFile,
        listen: Callable[[Progress], None],
    ) -> None:
        self._sources = sources
        self._columns = columns
        self._declared = declared
        self._missing = missing
        self._plan = plan
        self._draw = draw
        self._partitions = partitions
        self._rejects = rejects
        self._listen = listen
        self._turns = Turnstile(2 + len(columns.categorical))
        self._target_lane = 1 + len(columns.categorical)
        self._tables = CategoryTables(columns.categorical, plan.tables)
        self._bad = np.zeros(len(columns.stored), np.int64)
        self._present = np.zeros(len(columns.stored), np.int64)
        self._next_ordinal = 0
        self.result = PassOneResult(
            counts=[SourceCount() for _ in sources],
            tables=self._tables.named,
            target=TargetCounter(),
            entries=BagCounts(len(columns.bags)),
        )
        self._failures: list[tuple[int, BaseException]] = []

    def run(self) -> PassOneResult:
        """Read everything.

        Raises
        ------
        NotNumbersError
            If a column inferred to be numbers is not.
        StreamtrainError
            The first error in source order.
        """
        n = self._plan.n_threads
        free: queue.SimpleQueue[PieceBuffer] = queue.SimpleQueue()
        for _ in range(n + 1):
            free.put(PieceBuffer(BUFFER_BYTES))
        work: queue.SimpleQueue[tuple[int, Piece] | None] = queue.SimpleQueue()
        workers = [
            threading.Thread(target=self._work, args=(work, free), name=f"ingest-{i}")
            for i in range(n)
        ]
        for worker in workers:
            worker.start()
        try:
            self._read(work, free)
        except BaseException:
            self._turns.fail()
            raise
        finally:
            for _ in workers:
                work.put(None)
            for worker in workers:
                worker.join()
        if self._failures:
            raise min(self._failures, key=lambda pair: pair[0])[1]
        self._check_types(final=True)
        return self.result

    def _read(
        self,
        work: queue.SimpleQueue[tuple[int, Piece] | None],
        free: queue.SimpleQueue[PieceBuffer],
    ) -> None:
        start = time.monotonic()
        total = sum(source.n_bytes for source in self._sources)
        index = before = 0
        for s, source in enumerate(self._sources):
            for piece in source.pieces(s, free.get, self._columns.wanted):
                work.put((index, piece))
                index += 1
                if self._failures:
                    return
                rows = self._next_ordinal
                seconds = time.monotonic() - start
                self._listen(Progress("read", rows, before + piece.n_bytes, total, seconds))
            before += source.n_bytes

    def _work(
        self,
        work: queue.SimpleQueue[tuple[int, Piece] | None],
        free: queue.SimpleQueue[PieceBuffer],
    ) -> None:
        worker = _Worker(self._sources, self._columns, self._plan.max_cells)
        while True:
            item = work.get()
            if item is None:
                return
            turn, piece = item
            try:
                if not self._failures:
                    self._do_piece(turn, piece, worker)
            except AbandonedError:
                pass
            except BaseException as error:  # noqa: BLE001 (raised again by `run`)
                self._failures.append((turn, error))
                self._turns.fail()
            finally:
                free.put(piece.buffer)

    def _do_piece(self, turn: int, piece: Piece, worker: _Worker) -> None:
        for records in worker.split(piece):
            self._do_records(turn, piece, records, worker)

    def _do_records(self, turn: int, piece: Piece, records: Records, worker: _Worker) -> None:
        n = records.n_records
        n_fixed = len(self._columns.stored)
        stored = worker.stored[:n_fixed, :n]
        judged = judge(records, self._columns, self._missing, stored, worker)
        picks = np.flatnonzero(judged.good)
        hashes = None
        if self._columns.split_by is not None:
            cells = as_text(records.cells[self._columns.wanted.index(self._columns.split_by)])
            hashes = np.empty(n, np.uint64)
            strings.hash_cells(cells.data, cells.starts, cells.stops, hashes)

        self._turns.wait(0, turn)
        ordinal = self._next_ordinal
        first_row = self.result.n_written
        self._count(turn, piece, records, judged, len(picks))
        if records.is_last:
            self._turns.advance(0)

        ordinals = np.arange(ordinal, ordinal + n, dtype=np.uint64)
        splits = self._draw.splits_of(ordinals, hashes)
        use = judged.good * np.where(splits == 0, np.uint8(2), np.uint8(1))
        first_text = len(self._columns.numeric)
        for f, table in enumerate(self._tables.named.values()):
            self._turns.wait(1 + f, turn)
            at = first_text + f
            table.intern(as_text(records.cells[at]), use, self._missing, stored[at])
            if records.is_last:
                self._turns.advance(1 + f)
        self._turns.wait(self._target_lane, turn)
        if judged.target is not None:
            self.result.target.update_span(judged.target)
        self._count_target(records.cells, stored, use, picks)
        if records.is_last:
            self._turns.advance(self._target_lane)
        bags = records.cells[n_fixed : n_fixed + len(self._columns.bags)]
        bags = [without(cells, judged.good) for cells in bags]
        at = 0
        for begin, end in slices(self._columns.bags, bags, n, room=self._plan.entries):
            some = picks[at : at + np.searchsorted(picks[at:], end)]
            words = self._code(bags, some, begin, end, splits, worker)
            self._scatter(
                worker.stored[:, :n], some, ordinals, splits, first_row + at, words, worker
            )
            at += len(some)

    def _code(
        self,
        cells: Sequence[Cells],
        picks: npt.NDArray[np.int64],
        begin: int,
        end: int,
        splits: npt.NDArray[np.uint8],
        worker: _Worker,
    ) -> npt.NDArray[np.int32] | None:
        """Write where the entries of rows begin, and how many they are; return the entries."""
        if not self._columns.bags:
            return None
        parts = []
        counts = np.empty((end - begin, len(cells)), np.int64)
        total = 0
        for v, (bag, column) in enumerate(zip(self._columns.bags, cells, strict=True)):
            coded = bag.code(part_of(column, begin, end), self._missing)
            counts[:, v] = np.diff(coded.offsets)
            at = len(self._columns.stored) + 2 * v
            worker.stored[at, begin:end] = coded.offsets[:-1] + total
            worker.stored[at + 1, begin:end] = counts[:, v]
            parts.append(coded.words())
            total += len(coded.codes)
        self.result.entries.add(counts[picks - begin], splits[picks] == 0)
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def _count_target(
        self,
        cells: Sequence[Cells],
        stored: npt.NDArray[np.int32],
        use: npt.NDArray[np.uint8],
        picks: npt.NDArray[np.int64],
    ) -> None:
        counter = self.result.target
        at = len(self._columns.numeric) + len(self._columns.categorical)
        if self._columns.target_is_text:
            if len(counter.table) <= 1_000_000:  # far too many already: refused at the end
                counter.table.intern(as_text(cells[at]), use, self._missing, stored[at])
            counter.update_runs(stored[at, picks])
            return
        values = stored[at, picks]
        counter.update_runs(values)
        counter.update_numbers(values.view(np.float32), use[picks] == 2)

    def _count(
        self, turn: int, piece: Piece, records: Records, judged: Judged, n_good: int
    ) -> None:
        count = self.result.counts[piece.source]
        count.lines += piece.first_line
        if judged.reasons:
            source = self._sources[piece.source]
            for i, reason in sorted(judged.reasons.items()):
                line = count.lines + int(records.lines[i]) + 1
                self._rejects.add(source.name, line, reason, records.text(i), unit=source.unit)
                self.result.reasons[_reason_kind(reason)] += 1
        n = records.n_records
        count.lines += records.n_lines
        count.blank += records.n_blank
        count.read += n
        count.written += n_good
        count.rejected += len(judged.reasons)
        self._next_ordinal += n
        self.result.n_written += n_good
        self._bad += judged.bad
        self._present += judged.present
        self._check_types(final=False)
        if self._tables:
            self._tables.make_room(n, piece.end - piece.begin, lambda: self._turns.wait_all(turn))

    def _check_types(self, *, final: bool) -> None:
        over = self._bad >= MAX_BAD_SHARE * self._present
        over &= self._bad > (0 if final else _EARLY_FAILURES)
        names = [
            name
            for name, is_over in zip(self._columns.stored, over, strict=True)
            if is_over and name not in self._declared
        ]
        if names:
            raise NotNumbersError(names)

    def _scatter(
        self,
        stored: npt.NDArray[np.int32],
        picks: npt.NDArray[np.int64],
        ordinals: npt.NDArray[np.uint64],
        splits: npt.NDArray[np.uint8],
        first_row: int,
        words: npt.NDArray[np.int32] | None,
        worker: _Worker,
    ) -> None:
        rows = worker.packed[: len(picks)]
        counts = np.empty(1 << self._partitions.bits, np.int64)
        shift = 64 - self._partitions.bits
        packing.pack_rows(
            stored,
            picks,
            ordinals,
            splits,
            np.uint64(self._draw.shuffle_key),
            np.uint64(shift),
            counts,
            rows,
        )
        first = -1 if self._draw.shuffled else first_row
        self._partitions.write(rows, counts, first_row=first, words=words)


def _reason_kind(reason: str) -> str:
    """Return the reason without its particulars, for counting."""
    if " field" in reason and "expected" in reason:
        return "wrong number of fields"
    return reason


class _Worker:
    """The memory of one thread."""

    def __init__(self, sources: Sequence[Source], columns: ColumnPlan, max_cells: int) -> None:
        self._sources = sources
        self._columns = columns
        self._max_cells = max_cells
        self._source = -1
        k = len(columns.stored) + 2 * len(columns.bags)
        n = max_cells // max(len(columns.wanted), 8) + 64
        self.stored: npt.NDArray[np.int32] = np.empty((k, n), np.int32)
        self.packed: npt.NDArray[np.int32] = np.empty((n, k + packing.HEAD_WORDS), np.int32)
        self.values: npt.NDArray[np.float64] = np.empty(n)
        self.status: npt.NDArray[np.uint8] = np.empty(n, np.uint8)

    def split(self, piece: Piece) -> Iterator[Records]:
        """Yield the records of a piece."""
        if piece.source != self._source:
            source = self._sources[piece.source]
            self._splitter = source.splitter(self._columns.wanted, max_cells=self._max_cells)
            self._source = piece.source
        return self._splitter.split(piece)
