"""What a dataset's columns are: names, roles, kinds and statistics.

Frozen values that the manifest and the model file both keep, so that training
and scoring see one definition.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

MISSING_CODE = 0
"""Code of a missing category."""
RARE_CODE = 1
"""Code of a category that was rare in, or absent from, the train split."""
FIRST_CODE = 2
"""Code of the most frequent category; its vocabulary row is 0."""

QUANTILE_PROBABILITIES = tuple(i / 64 for i in range(65))
"""Where the quantiles of `NumericStatistics` lie."""

DATE_PART_NAMES = ("hour", "weekday", "yearday", "epoch")
"""Hour 0 to 23, weekday 0 (Monday) to 6, day of the year 1 to 366, whole seconds since 1970."""

DEFAULT_MISSING = ("", "?", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "-nan", "#N/A")
"""Cells that read as missing unless --missing says otherwise."""


class NumericStatistics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Statistics of one numeric column over the train split.

    `mean`, `std` (population), `minimum`, `maximum` are over the `count` values
    present; all are 0 when there is none. `quantiles` are estimates at
    `QUANTILE_PROBABILITIES` from a uniform sample of rows.

    `knots` are up to 65 different values of that sample, rising, and `ranks`
    the share of rows below each, with half of those equal to it. Values that
    many rows share take one knot each, so that the others are told apart:
    of a column that is 0 in nine rows of ten, most quantiles are 0.
    """

    count: int
    missing: int
    mean: float
    std: float
    minimum: float
    maximum: float
    quantiles: tuple[float, ...] = ()
    knots: tuple[float, ...] = ()
    ranks: tuple[float, ...] = ()


class Entries(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column of variable length (a bag): each row has any number of codes with values.

    Parameters
    ----------
    keys : {"text", "hashed", "index"}
        Where a code is from: the hash of a part of a text, the hash of a name, or
        the number that the source gives.
    words, characters : (int, int)
        Of a text: lengths of the runs of words, and of the runs of characters in a
        word, that are parts; (0, 0) for none.
    norm : {"l2", "none"}
        Of a text: whether the values of a row, which count its parts, are divided
        by their Euclidean norm.
    total : int
        Entries of the train split.
    longest : int
        Most entries of a row, in any split.
    empty : int
        Rows of the train split without an entry.
    """

    keys: Literal["text", "hashed", "index"]
    words: tuple[int, int] = (0, 0)
    characters: tuple[int, int] = (0, 0)
    norm: Literal["l2", "none"] = "none"
    total: int = 0
    longest: int = 0
    empty: int = 0

    @property
    def key(self) -> tuple[Any, ...]:
        """How entries are made: what two columns must share for one model to read both."""
        return (self.keys, self.words, self.characters, self.norm)


MAX_BAG_CODES = 1 << 28
"""Codes that a bag can have."""
MAX_RUN = 8
"""Longest run of words or of characters that is a part of a text."""


def is_possible_bag(column: Column) -> bool:
    """Return whether a bag is one that ingest could have made: kernels rely on it."""
    entries = column.entries
    if isinstance(entries, msgspec.UnsetType):
        return False
    runs = (entries.words, entries.characters)
    lengths = all(run == (0, 0) or 1 <= run[0] <= run[1] <= MAX_RUN for run in runs)
    parts = entries.words[1] + entries.characters[1] > 0
    counted = min(entries.total, entries.longest, entries.empty) >= 0
    size = 0 < column.cardinality <= MAX_BAG_CODES
    return size and counted and lengths and (parts or entries.keys != "text")


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One feature column.

    Parameters
    ----------
    name : str
        As in the source.
    kind : {"numeric", "categorical", "bag"}
        Float32 values with NaN for missing, int32 codes, or any number of codes
        with values.
    statistics : NumericStatistics or None
        Of a numeric column.
    cardinality : int
        Number of codes of a categorical column, with 0 (missing) and 1 (rare), or
        of a bag; 0 for a numeric one.
    vocabulary_digest : str
        Digest of the categories and counts in code order.
    missing, rare : int
        Rows of the train split that took code 0 and code 1.
    date_of, part : str, or unset
        The column of times, as in the source, and which part of them this is.
    entries : Entries, or unset
        Of a bag.
    """

    name: str
    kind: Literal["numeric", "categorical", "bag"]
    statistics: NumericStatistics | None = None
    cardinality: int = 0
    vocabulary_digest: str = ""
    missing: int = 0
    rare: int = 0
    # Left out where unset, so that fingerprints of other columns stay as they are.
    date_of: str | msgspec.UnsetType = msgspec.UNSET
    part: str | msgspec.UnsetType = msgspec.UNSET
    entries: Entries | msgspec.UnsetType = msgspec.UNSET

    @property
    def bag(self) -> Entries:
        """What is known of a bag's entries.

        Raises
        ------
        TypeError
            If it is none.
        """
        if isinstance(self.entries, msgspec.UnsetType):
            raise TypeError(f"column {self.name!r} is no bag")
        return self.entries


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The target column and the task guessed from it.

    Parameters
    ----------
    name : str
    task : {"binary", "classes", "regression", "labels"}
        Two distinct values; a few text or integer values; anything else; several
        values of a row that are each 0 or 1.
    classes : tuple of str
        The distinct values as text in sort order (numeric order for numbers);
        for a binary task the last is positive. Empty for many numeric values.
    values : tuple of float
        What the shards hold for each class: the number itself for a numeric
        target, the class index for a text one. Same length as `classes`.
    is_text : bool
        Whether the source held text; then only class tasks are possible.
    counts : tuple of int
        Rows of the train split in each class; of labels those that have each.
    statistics : NumericStatistics
        Of what the shards hold; of several values of a row, all of them together.
    run_length : float
        Mean length of runs of equal targets in source order: a large value
        says that the source is sorted by target.
    outputs : tuple of NumericStatistics, length M, or unset
        Of each output, where a row has M > 1 of them; without quantiles.
    """

    name: str
    task: Literal["binary", "classes", "regression", "labels"]
    classes: tuple[str, ...]
    values: tuple[float, ...]
    is_text: bool
    counts: tuple[int, ...]
    statistics: NumericStatistics
    run_length: float
    # Left out where unset, so that fingerprints of other targets stay as they are.
    outputs: tuple[NumericStatistics, ...] | msgspec.UnsetType = msgspec.UNSET

    @property
    def n_outputs(self) -> int:
        """M, the values of a row's target."""
        return 1 if isinstance(self.outputs, msgspec.UnsetType) else len(self.outputs)


MAX_TARGETS = 4096
"""Values that the target of a row can have."""


def is_possible_target(target: Target) -> bool:
    """Return whether a target is one that ingest could have made: what reads it relies on it."""
    if isinstance(target.outputs, msgspec.UnsetType):
        return target.task != "labels" and len(target.classes) == len(target.values)
    numbers = [x for s in target.outputs for x in (s.mean, s.std, s.minimum, s.maximum)]
    return (
        2 <= len(target.outputs) <= MAX_TARGETS
        and target.task in {"regression", "labels"}
        and not (target.classes or target.values or target.is_text)
        and len(target.counts) == (len(target.outputs) if target.task == "labels" else 0)
        and all(math.isfinite(x) for x in numbers)
        and all(s.std >= 0 for s in target.outputs)
    )


FEATURE_TYPES = (
    "uint8", "int8", "uint16", "int16", "float16", "float32",
)  # fmt: skip
"""Types in which the values of an array are stored: float32 holds each of them exactly."""
_ITEM_BYTES = {"uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "float16": 2, "float32": 4}
MAX_POSITIONS = 4096
"""Rows of more values than this have one statistic for all of them."""
MAX_ROW_VALUES = 1 << 20
"""Values of a row that any array can have."""


class ArrayFeatures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The features of an array dataset: every row is one array of numbers.

    Parameters
    ----------
    dtype : str
        One of `FEATURE_TYPES`.
    shape : tuple of int
        Of a row; its D values are numeric features, in C order.
    statistics : tuple of NumericStatistics
        Of each position in a row, or one of all values together.
    names : tuple of str, or unset
        Of the D values of a row, where the source had names for them.
    """

    dtype: str
    shape: tuple[int, ...]
    statistics: tuple[NumericStatistics, ...]
    names: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET

    @property
    def stored(self) -> StoredFeatures:
        """What shards hold of it, without weights."""
        return StoredFeatures(self.dtype, self.shape)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The D numeric features, named as they are, or by their positions from 0."""
        last = len(self.statistics) - 1
        names: Iterable[str] = map(str, range(self.stored.n_values))
        if not isinstance(self.names, msgspec.UnsetType):
            names = self.names
        return tuple(
            Column(name, "numeric", self.statistics[min(j, last)]) for j, name in enumerate(names)
        )


@dataclass(frozen=True)
class StoredFeatures:
    """What shards of arrays hold: rows of `shape` and `dtype`, float32 targets, and weights."""

    dtype: str
    shape: tuple[int, ...]
    weighted: bool = False
    n_targets: int = 1

    @property
    def n_values(self) -> int:
        """D, the values of a row."""
        return math.prod(self.shape)

    @property
    def feature_bytes(self) -> int:
        """Bytes of a row's features."""
        return self.n_values * _ITEM_BYTES[self.dtype]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row: features, targets, and weight where there is one."""
        return self.feature_bytes + self.target_bytes + (4 if self.weighted else 0)

    @property
    def target_bytes(self) -> int:
        """Bytes of a row's targets."""
        return 4 * self.n_targets


@dataclass(frozen=True)
class StoredColumns:
    """What the shards of a table hold: names in shard order, and the range of each code.

    Parameters
    ----------
    numeric : tuple of str
        The D numeric features.
    categorical : tuple of str
        The F categorical features.
    cardinalities : tuple of int
        Codes of each.
    target : str
    weight, exposure : str or None
    bags : tuple of str
        The V bags.
    bag_sizes : tuple of int
        Codes of each.
    """

    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    cardinalities: tuple[int, ...]
    target: str
    weight: str | None = None
    exposure: str | None = None
    bags: tuple[str, ...] = ()
    bag_sizes: tuple[int, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every stored column but the bags: 4 bytes a row in memory."""
        extra = [name for name in (self.weight, self.exposure) if name is not None]
        return (*self.numeric, *self.categorical, self.target, *extra)


class Schema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything needed to turn raw rows into a model's input.

    Parameters
    ----------
    columns : tuple of Column
        Features in source order. In shards, numeric ones come first, then
        categorical ones, each in this order, then target, weight, exposure, then
        the bags.
    target : Target
    weight, exposure : str or None
        Column of row weights and of exposures.
    weight_statistics, exposure_statistics : NumericStatistics or None
    missing : tuple of str
        Cells that read as missing.
    header : bool
        Whether the source named its columns; otherwise names are positions.
    delimiter : str
        Of the text sources that were ingested, "" for others.
    features : ArrayFeatures, or unset
        Of a dataset made from arrays, which has no `columns`.
    """

    columns: tuple[Column, ...]
    target: Target
    weight: str | None = None
    weight_statistics: NumericStatistics | None = None
    exposure: str | None = None
    exposure_statistics: NumericStatistics | None = None
    missing: tuple[str, ...] = DEFAULT_MISSING
    header: bool = True
    delimiter: str = ","
    features: ArrayFeatures | msgspec.UnsetType = msgspec.UNSET

    @property
    def array(self) -> ArrayFeatures | None:
        """The features of a dataset made from arrays, None of a table."""
        return None if isinstance(self.features, msgspec.UnsetType) else self.features

    @property
    def stored_array(self) -> StoredFeatures | None:
        """What shards hold of a dataset made from arrays, None of a table."""
        if self.array is None:
            return None
        return StoredFeatures(
            self.array.dtype, self.array.shape, self.weight is not None, self.target.n_outputs
        )

    @property
    def numeric(self) -> tuple[Column, ...]:
        """The D numeric features, in shard order."""
        if self.array is not None:
            return self.array.columns
        return tuple(c for c in self.columns if c.kind == "numeric")

    @property
    def categorical(self) -> tuple[Column, ...]:
        """The F categorical features, in shard order."""
        return tuple(c for c in self.columns if c.kind == "categorical")

    @property
    def bags(self) -> tuple[Column, ...]:
        """The V columns of variable length, in shard order."""
        return tuple(c for c in self.columns if c.kind == "bag")

    @property
    def stored(self) -> StoredColumns:
        """What shards hold of it."""
        return StoredColumns(
            numeric=tuple(c.name for c in self.numeric),
            categorical=tuple(c.name for c in self.categorical),
            cardinalities=tuple(c.cardinality for c in self.categorical),
            target=self.target.name,
            weight=self.weight,
            exposure=self.exposure,
            bags=tuple(c.name for c in self.bags),
            bag_sizes=tuple(c.cardinality for c in self.bags),
        )

    @property
    def value_names(self) -> tuple[str, ...]:
        """Names of the stored columns but the bags, in shard order: 4 bytes a row each."""
        return self.stored.names
