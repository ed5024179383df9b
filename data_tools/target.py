"""The target: its distinct values, runs in source order, and the task they suggest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_tools.judge import TargetSpan
from streamtrain.config import nearest
from streamtrain.errors import ConfigError, SchemaError, SourceError
from streamtrain.store.string_table import StringTable

MAX_CLASSES = 1000
"""Most classes of a text target."""
MAX_INTEGER_CLASSES = 20
"""Integers with more distinct values than this are numbers to regress on."""


class TargetCounter:
    """Counts values and runs of the target, fed in source order.

    Numbers are counted while they have at most `MAX_CLASSES` distinct values.
    """

    def __init__(self) -> None:
        self.table = StringTable()
        self.counts: dict[float, int] | None = {}
        self.n_rows = 0
        self.low, self.high, self.rounded = np.inf, -np.inf, False
        self._n_runs = 0
        self._last: int | None = None

    def update_runs(self, bits: npt.NDArray[np.int32]) -> None:
        """Add the stored bits of consecutive rows."""
        if not len(bits):
            return
        self.n_rows += len(bits)
        self._n_runs += int(np.count_nonzero(bits[1:] != bits[:-1]))
        self._n_runs += self._last is None or self._last != int(bits[0])
        self._last = int(bits[-1])

    def update_span(self, span: TargetSpan) -> None:
        """Take in what float32 made of numbers."""
        self.low, self.high = min(self.low, span.low), max(self.high, span.high)
        self.rounded = self.rounded or span.rounded

    def update_numbers(self, values: npt.NDArray[np.float32], train: npt.NDArray[np.bool_]) -> None:
        """Count numbers, those of train rows for the class counts."""
        if self.counts is None:
            return
        for value in np.unique(values).tolist():
            self.counts.setdefault(value, 0)
        for value, n in zip(
            *(a.tolist() for a in np.unique(values[train], return_counts=True)), strict=True
        ):
            self.counts[value] += n
        if len(self.counts) > MAX_CLASSES:
            self.counts = None

    @property
    def run_length(self) -> float:
        """Mean length of runs of equal targets."""
        return self.n_rows / max(self._n_runs, 1)


@dataclass(frozen=True)
class Task:
    """The task guessed.

    Parameters
    ----------
    name : {"binary", "classes", "regression"}
    classes : tuple of str
    values : tuple of float
        What shards hold for each class.
    counts : tuple of int
    remap : (ids + 1,) or (texts,) float32, or None
        Of a text target: what replaces a provisional id, or a place in a list of texts.
    """

    name: str
    classes: tuple[str, ...]
    values: tuple[float, ...]
    counts: tuple[int, ...]
    remap: npt.NDArray[np.float32] | None


def decide_task(
    counter: TargetCounter, column: str, *, is_text: bool, positive: str | None
) -> Task:
    """Guess the task from the distinct values of all rows that are kept.

    Raises
    ------
    SourceError
        If the target has one value.
    SchemaError
        If it is text with too many, `positive` is not one of two classes, or
        float32 cannot tell its values apart.
    """
    if is_text:
        return _decide_text(counter, column, positive)
    counts = counter.counts
    if counts is not None and len(counts) == 1 and _hides_others(counter):
        raise SchemaError(
            f"the target {column!r} holds whole numbers from {_spell(counter.low)} on, beyond "
            "2^53, where float32 cannot tell them apart",
            where="--target",
            remedy=f"subtract an offset from it, or give --categorical {column}",
        )
    if counts is not None and len(counts) == 1 and counter.low < counter.high:
        raise SchemaError(
            f"the target {column!r} holds {counter.low!r} to {counter.high!r}, "
            "one value as float32",
            where="--target",
            remedy="subtract an offset from it",
        )
    if counts is not None and len(counts) == 1:
        raise _constant(column, _spell(next(iter(counts))), counter.n_rows)
    if counts is None or (len(counts) > 2 and not _few_integers(counts)):
        if positive is not None:
            raise ConfigError(
                f"the target {column!r} is not binary: it is a number to regress on",
                where="--positive",
            )
        return Task("regression", (), (), (), None)
    if counter.rounded:
        raise SchemaError(
            f"the target {column!r} holds whole numbers above 2^24, which float32 would round",
            where="--target",
            remedy=f"give --categorical {column} to take them as names",
        )
    values = sorted(counts)
    classes = [_spell(v) for v in values]
    order = _positive_last(classes, column, positive)
    return Task(
        "binary" if len(values) == 2 else "classes",
        tuple(classes[i] for i in order),
        tuple(values[i] for i in order),
        tuple(counts[values[i]] for i in order),
        None,
    )


def _decide_text(counter: TargetCounter, column: str, positive: str | None) -> Task:
    table = counter.table
    if len(table) > MAX_CLASSES:
        raise SchemaError(
            f"the target {column!r} is text with {len(table):,} distinct values, "
            f"expected at most {MAX_CLASSES:,}",
            where="--target",
            remedy="choose another column, or --numeric if it should be numbers",
        )
    ids, train_counts, texts = table.listed()
    if len(texts) == 1:
        raise _constant(column, texts[0].decode(), counter.n_rows)
    by_text = sorted(range(len(texts)), key=lambda i: texts[i])
    classes = [texts[i].decode() for i in by_text]
    order = [by_text[i] for i in _positive_last(classes, column, positive)]
    remap = np.zeros(table.n_ids + 1, np.float32)
    remap[ids[order] + 1] = np.arange(len(order))
    return Task(
        "binary" if len(order) == 2 else "classes",
        tuple(texts[i].decode() for i in order),
        tuple(float(i) for i in range(len(order))),
        tuple(int(train_counts[i]) for i in order),
        remap,
    )


def decide_labels(
    counter: TargetCounter, texts: Sequence[str], column: str, *, positive: str | None
) -> Task:
    """Return the classes of a text target that was counted as places in `texts`.

    Raises
    ------
    SourceError, SchemaError
        As `decide_task` of a text.
    """
    if counter.counts is None:
        raise SchemaError(
            f"the target {column!r} is text with more than {MAX_CLASSES:,} distinct values",
            where="--target",
            remedy="choose another one",
        )
    used = sorted(counter.counts, key=lambda place: texts[int(place)].encode())
    classes = [texts[int(place)] for place in used]
    if len(classes) == 1:
        raise _constant(column, classes[0], counter.n_rows)
    order = _positive_last(classes, column, positive)
    remap = np.zeros(len(texts), np.float32)
    for rank, i in enumerate(order):
        remap[int(used[i])] = rank
    return Task(
        "binary" if len(order) == 2 else "classes",
        tuple(classes[i] for i in order),
        tuple(float(i) for i in range(len(order))),
        tuple(counter.counts[used[i]] for i in order),
        remap,
    )


def _positive_last(classes: list[str], column: str, positive: str | None) -> list[int]:
    order = list(range(len(classes)))
    if positive is None:
        return order
    if positive not in classes:
        shown = ", ".join(repr(c) for c in classes[:10])
        raise SchemaError(
            f"{positive!r} is not a value of the target {column!r}{nearest(positive, classes)}",
            where="--positive",
            remedy=f"its values are {shown}",
        )
    if len(classes) != 2:
        raise ConfigError(
            f"the target {column!r} has {len(classes)} classes, expected two", where="--positive"
        )
    order.append(order.pop(classes.index(positive)))
    return order


def _hides_others(counter: TargetCounter) -> bool:
    """Return whether the one value may be several, which float64 rounded already."""
    return counter.low == counter.high and abs(counter.low) >= 2.0**53


def _few_integers(counts: dict[float, int]) -> bool:
    return len(counts) <= MAX_INTEGER_CLASSES and all(v == int(v) for v in counts)


def _spell(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(np.float32(value)))


def _constant(column: str, value: str, n_rows: int) -> SourceError:
    return SourceError(
        f"the target has one value, {value!r}, in all {n_rows:,} rows: nothing to learn",
        where=f"column {column!r}",
        remedy="choose another --target",
    )
