"""Ingest's memory, part by part, before a row is read."""

from __future__ import annotations

from dataclasses import dataclass

from data_tools.bag_rows import WORK_BYTES
from data_tools.partitions import MAX_BITS
from data_tools.text_source import BUFFER_BYTES
from streamtrain import memory

_MIN_CELLS, _MAX_CELLS = 1 << 18, 1 << 20
_MIN_TABLES, _GOOD_TABLES = 8 << 20, 256 << 20
_MIN_PART, _MAX_PART = 4 << 20, 64 << 20
SLACK_BYTES = 16 << 20
"""Allocator fragments, Python's own objects, thread stacks."""
BLOCK_ENTRY_BYTES = 8 << 20
"""About what the entries of a block may take: it has fewer rows where rows are long."""
_ROW_BYTES = 64
"""Masks, keys and parsed numbers of a row in pass 1."""


@dataclass(frozen=True)
class MemoryPlan:
    """What each part of ingest may use, in bytes unless said otherwise.

    Parameters
    ----------
    n_threads : int
    max_cells : int
        Cells that a thread splits at once.
    tables : int
        All category tables together.
    part : int
        One loaded part of a partition; two exist at a time.
    bits : int
        log2 of the number of partitions.
    entries : int
        What the entries of one row may take while they are made.
    """

    n_threads: int
    max_cells: int
    tables: int
    part: int
    bits: int
    entries: int = 2 * WORK_BYTES


def plan_memory(
    budget: int,
    *,
    n_threads: int,
    n_columns: int,
    has_text: bool,
    row_estimate: float,
    block_rows: int,
    reading: int = 0,
    reading_share: float = 0.0,
    n_bags: int = 0,
    row_entries: float = 0.0,
) -> MemoryPlan:
    """Divide the budget; kernels are loaded, so that what is resident now is the base.

    Parameters
    ----------
    budget : int
    n_threads : int
        Wanted; fewer are used where memory is short.
    n_columns : int
        Stored columns.
    has_text : bool
        Whether there are category tables.
    row_estimate : float
        Rows of all sources.
    block_rows : int
    reading : int
        What the source needs to decode beside the pieces.
    reading_share : float
        How much of a larger budget that takes, too.
    n_bags : int
        Columns of variable length.
    row_entries : float
        Entries of a row in all of them, about.

    Raises
    ------
    BudgetError
        If the least that can work does not fit.
    """
    base = memory.resident_bytes() + SLACK_BYTES
    n_stored = n_columns + 2 * n_bags
    writers = writing_bytes(block_rows, n_columns, BLOCK_ENTRY_BYTES if n_bags else 0)

    def worker(max_cells: int) -> int:
        rows = max_cells // max(n_columns, 8)
        return max_cells * 16 + rows * _ROW_BYTES + bool(n_bags) * 2 * WORK_BYTES

    def parts(threads: int, cells: int, tables: int, part: int) -> dict[str, int]:
        pieces = (threads + 1) * BUFFER_BYTES + reading
        splitting = pieces + threads * worker(cells) + tables
        writing = 2 * part + writers + tables // 4
        return {
            "interpreter and compiled kernels": base,
            "pieces of rows": (threads + 1) * BUFFER_BYTES,
            **({"decoding of the source": reading} if reading else {}),
            "threads": threads * worker(cells),
            "category tables and shuffle": max(splitting, writing)
            - pieces
            - threads * worker(cells),
        }

    least_tables = _MIN_TABLES if has_text else 0
    while (
        n_threads > 1
        and sum(parts(n_threads, _MIN_CELLS, least_tables, _MIN_PART).values()) > budget
    ):
        n_threads -= 1
    needed = parts(n_threads, _MIN_CELLS, least_tables, _MIN_PART)
    total = sum(needed.values())
    memory.require(
        budget,
        needed,
        what="ingest",
        least=memory.enough(budget, lambda b: total + int(reading_share * (b - budget))),
    )
    cells = _MAX_CELLS
    # Tables that are pruned change results; a smaller batch costs a little time alone.
    wanted = _GOOD_TABLES if has_text else 0
    while cells > _MIN_CELLS and sum(parts(n_threads, cells, wanted, _MIN_PART).values()) > budget:
        cells //= 2
    free = budget - base - reading - (n_threads + 1) * BUFFER_BYTES - n_threads * worker(cells)
    # A table's arrays double: for a moment the old one and the new are there.
    tables = max(least_tables, free * 2 // 3) if has_text else 0
    part = part_bytes(budget - base - tables // 4, writers)
    in_partitions = row_estimate * (4 * n_stored + 8 + 33 + 8 * row_entries)
    bits = 0
    while bits < MAX_BITS and in_partitions / (1 << bits) > part / 2:
        bits += 1
    spare = max(free - tables, 0) // n_threads if n_bags else 0
    return MemoryPlan(n_threads, cells, tables, part, bits, 2 * WORK_BYTES + spare)


def part_bytes(budget: int, writers: int) -> int:
    """Return what a loaded part of a partition may take beside what is resident and the writers."""
    return min(max((budget - writers) // 3, _MIN_PART), _MAX_PART)


def writing_bytes(block_rows: int, n_columns: int, entry_bytes: int) -> int:
    """Return the memory of the blocks being written.

    Parameters
    ----------
    block_rows, n_columns : int
    entry_bytes : int
        Of the entries in the largest block.
    """
    # Of entries each split has the block that is filled and one that is written. Beside
    # those one block grows, and one is encoded: its values, its page, and what is written.
    return 3 * 4 * block_rows * 4 * n_columns + (3 * 2 + 1 + 3) * entry_bytes
