"""Write a click log of a known process (`click_process`) as CSV.

The file comes with the best possible loss on it, so that what a model reaches can
be judged. Rows are drawn in chunks, each from its own generator: more rows of a
seed extend the same file, and threads change nothing.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv

from data_tools.click_process import ARROW_POOL, CHUNK_ROWS, COLUMNS, draw_chunk
from streamtrain.durable import as_stream_error, staging_directory, sync_directory
from streamtrain.errors import StreamtrainError, UsageError


@dataclasses.dataclass(frozen=True)
class ClickLog:
    """What was written, and the best that any model can do on it.

    Parameters
    ----------
    path : Path
        The file.
    n_rows, csv_bytes : int
        Rows without the header; bytes with it.
    base_rate : float
        Share of rows with a click.
    best_possible_loss : float
        Mean over the rows of the entropy of their click, in nats: the expected
        log loss of the true probabilities.
    realised_loss : float
        Log loss of the true probabilities on the clicks as drawn, in nats.
    seconds : float
        From the call until the file was durable.
    """

    path: Path
    n_rows: int
    csv_bytes: int
    base_rate: float
    best_possible_loss: float
    realised_loss: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class _Piece:
    """The text of one chunk, or of its rows with one target, and sums over the chunk."""

    text: Any
    n_rows: int
    n_clicks: int
    entropy: float
    loss: float


def clicklog_chunk(seed: int, k: int) -> tuple[Any, npt.NDArray[np.float64]]:
    """Return chunk k of the log with the true probability of every click.

    Parameters
    ----------
    seed : int
        Which sample of the process.
    k : int
        Which chunk, from 0; it holds the rows [k * CHUNK_ROWS, (k + 1) * CHUNK_ROWS).

    Returns
    -------
    table : pyarrow.Table
        CHUNK_ROWS rows of `COLUMNS`; missing cells are null.
    probabilities : (CHUNK_ROWS,) float64
        P(click = 1) of each row.
    """
    draw = draw_chunk(seed, k)
    return draw.table(slice(None), as_text=False), draw.probabilities


def write_clicklog(
    path: Path,
    n_rows: int,
    *,
    seed: int = 0,
    sort_by_target: bool = False,
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> ClickLog:
    """Write a click log as CSV in one durable commit, replacing what `path` held.

    Parameters
    ----------
    path : Path
        The file to write; its directory is created.
    n_rows : int
        At least 1. A longer log of the same seed begins with a shorter one.
    seed : int
        Which sample of the process; the process itself never changes.
    sort_by_target : bool
        All rows without a click first, each half in the order it has unsorted.
        Draws every row twice instead of keeping any.
    threads : int
        Threads that make text, each in about 20 MB; the bytes do not depend on them.
    progress : callable, optional
        Told (rows written, `n_rows`) after each piece, on the calling thread.

    Returns
    -------
    ClickLog
        The file and the best possible loss on it.

    Raises
    ------
    UsageError
        If `n_rows` or `threads` is less than 1.
    OutputError, DiskError
        If the file cannot be created or written; `path` is then as it was.
    """
    for name, value in (("n_rows", n_rows), ("threads", threads)):
        if value < 1:
            raise UsageError(f"{value} is not a number from 1 upwards", where=name)
    began = time.perf_counter()
    done = n_clicks = 0
    entropies: list[float] = []
    losses: list[float] = []
    pool = ThreadPoolExecutor(threads, thread_name_prefix="clicklog")
    try:
        with staging_directory(path) as folder, (folder / "log.csv").open("xb", 0) as file:
            _write_all(file, (",".join(COLUMNS) + "\n").encode())
            for only in (False, True) if sort_by_target else (None,):
                for piece in _pieces(seed, n_rows, only=only, pool=pool, ahead=threads + 1):
                    _write_all(file, piece.text)
                    done += piece.n_rows
                    if only is not True:  # the second pass sees the same rows again
                        n_clicks += piece.n_clicks
                        entropies.append(piece.entropy)
                        losses.append(piece.loss)
                    if progress is not None:
                        progress(done, n_rows)
            os.fsync(file.fileno())
            csv_bytes = file.tell()
            (folder / "log.csv").rename(path)
            sync_directory(path.parent)
    except OSError as error:
        raise as_stream_error(error, path) from error
    finally:
        pool.shutdown(cancel_futures=True)
    return ClickLog(
        path=path,
        n_rows=n_rows,
        csv_bytes=csv_bytes,
        base_rate=n_clicks / n_rows,
        best_possible_loss=math.fsum(entropies) / n_rows,
        realised_loss=math.fsum(losses) / n_rows,
        seconds=time.perf_counter() - began,
    )


def _pieces(
    seed: int, n_rows: int, *, only: bool | None, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[_Piece]:
    """Yield the pieces of a pass in order, made at most `ahead` in advance."""
    pending: deque[Future[_Piece]] = deque()
    for k, first in enumerate(range(0, n_rows, CHUNK_ROWS)):
        if len(pending) == ahead:
            yield pending.popleft().result()
        rows = min(CHUNK_ROWS, n_rows - first)
        pending.append(pool.submit(_make_piece, seed, k, rows, only=only))
    while pending:
        yield pending.popleft().result()


def _make_piece(seed: int, k: int, n_rows: int, *, only: bool | None) -> _Piece:
    """Return the first n_rows of chunk k as text: all, or only those with one target."""
    draw = draw_chunk(seed, k)
    clicks = draw.clicks[:n_rows]
    rows = slice(n_rows) if only is None else np.flatnonzero(clicks == only)
    table = draw.table(rows, as_text=True)
    sink = pa.BufferOutputStream(memory_pool=ARROW_POOL)
    options = pa_csv.WriteOptions(include_header=False, quoting_style="none", batch_size=4_096)
    pa_csv.write_csv(table, sink, options, memory_pool=ARROW_POOL)
    entropy, loss = draw.losses(n_rows)
    return _Piece(sink.getvalue(), table.num_rows, int(clicks.sum()), entropy, loss)


def _write_all(file: Any, data: Any) -> None:
    view = memoryview(data).cast("B")
    while view:
        view = view[file.write(view) :]


@click.command()
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--rows", default=1_000_000, show_default=True, help="Rows to write.")
@click.option("--seed", default=0, show_default=True, help="Which sample of the process.")
@click.option("--sorted", "sort_by_target", is_flag=True, help="All rows without a click first.")
@click.option("--threads", default=2, show_default=True, help="Threads that make text.")
def main(out: Path, rows: int, seed: int, *, sort_by_target: bool, threads: int) -> None:
    """Write a click log of a known process to OUT and print one JSON line about it.

    \b
    Example:
        python -m data_tools.clicklog clicks.csv --rows 1000000
    """
    try:
        log = write_clicklog(out, rows, seed=seed, sort_by_target=sort_by_target, threads=threads)
    except StreamtrainError as error:
        click.echo(json.dumps({"error": error.as_dict()}), err=True)
        sys.exit(error.exit_code)
    click.echo(json.dumps(dataclasses.asdict(log) | {"path": str(log.path)}))


if __name__ == "__main__":
    main()
