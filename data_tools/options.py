"""What ingest is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from data_tools.array_set import ArrayNames
from streamtrain.errors import ConfigError
from streamtrain.store.schema import DATE_PART_NAMES, DEFAULT_MISSING


@dataclass(frozen=True, kw_only=True)
class IngestOptions:
    """Everything that `ingest` can be told.

    Parameters
    ----------
    sources : tuple
        Files, directories, patterns, ``-`` for standard input, or objects with
        ``__arrow_c_stream__`` (an Arrow table, a Polars or pandas frame, a reader).
    out : Path
        The dataset to write.
    target : str or None
        Column to predict. A column without a header is its position, and a
        negative one counts from the end. None takes the one that the format has
        (the label of libsvm and of Vowpal Wabbit).
    splits : dict of str to float
        Share of the rows drawn for valid and test; the rest is train.
    split_by : str or None
        Rows with equal text in this column stay in one split.
    weight, exposure : str or None
        Columns of row weights and exposures: numbers, not negative.
    numeric, categorical, drop : tuple of str
        Declared columns; kinds of others are found from a sample.
    text : tuple of str
        Columns of texts, whose parts (words, runs of words, runs of characters)
        become entries of variable length.
    words, characters : (int, int)
        Lengths of the runs of words, and of characters in a word; (0, 0) for none.
    norm : {"l2", "none"}
        Whether the counts of a text are divided by their Euclidean norm.
    hash_bits : int
        log2 of the codes of a text, or of a list of names.
    header : bool
        Whether the first line names the columns.
    delimiter : str or None
        None finds it from the first line.
    encoding : str
    missing : tuple of str
        Cells that read as missing, spaces around them aside.
    on_bad_row : {"reject", "fail"}
    rare : int
        Categories seen fewer times than this in the train split share one
        code; 1 keeps all that were seen.
    max_categories : int
        Keep at most this many of a column, the most frequent.
    positive : str or None
        The positive class of a binary target.
    shuffle : bool
        Order rows at random over all sources; otherwise keep their order.
    format : {"parquet", "zarr"}
        Of the shards. Both hold the same rows in the same order: parquet is
        smaller in files that other table tools read, zarr is read faster.
    compression : {None, "zstd", "blosc"}
        Of Zarr chunks; decoded by the reading threads.
    block_rows : int or None
        Rows of a block; None is 8192 shuffled, 512 in order. More read
        faster, fewer mix better when the order was kept.
    memory : int or None
        Bytes the process may use; None is half of what there is.
    threads : int or None
        None is the cores this process may use. Changes speed alone.
    seed : int
    overwrite : bool
    kind : str or None
        Of every source, one of `data_tools.kinds.KINDS`; None tells it by first
        bytes and name.
    target_file, weight_file : Path, tuple of Path or None
        Arrays of the targets and row weights of each source, where that is an array
        too; of a table they become the columns "target" and "weight".
    arrays : ArrayNames
        Which arrays of a file of several are what, and the type of raw values.
    svm_width : int or None
        Columns of libsvm, 1 to this; None finds the greatest index.
    sparse : bool
        Take the indices of libsvm as entries of one column, "features", though
        they are few enough for dense columns.
    sql : str or None
        A query for DuckDB in place of sources.
    date_parts : tuple of str
        Which parts of times become columns; none leaves times as categories.
    """

    sources: tuple[Any, ...]
    out: Path
    target: str | None = None
    splits: dict[str, float] = field(default_factory=lambda: {"valid": 0.1, "test": 0.1})
    split_by: str | None = None
    weight: str | None = None
    exposure: str | None = None
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    words: tuple[int, int] = (1, 2)
    characters: tuple[int, int] = (0, 0)
    norm: Literal["l2", "none"] = "l2"
    hash_bits: int = 18
    header: bool = True
    delimiter: str | None = None
    encoding: str = "utf-8"
    missing: tuple[str, ...] = DEFAULT_MISSING
    on_bad_row: Literal["reject", "fail"] = "reject"
    rare: int = 1
    max_categories: int = 1_000_000
    positive: str | None = None
    shuffle: bool = True
    format: Literal["parquet", "zarr"] = "parquet"
    compression: Literal["zstd", "blosc"] | None = None
    block_rows: int | None = None
    memory: int | None = None
    threads: int | None = None
    seed: int = 0
    overwrite: bool = False
    kind: str | None = None
    target_file: Path | tuple[Path, ...] | None = None
    weight_file: Path | tuple[Path, ...] | None = None
    arrays: ArrayNames = field(default_factory=ArrayNames)
    svm_width: int | None = None
    sparse: bool = False
    sql: str | None = None
    date_parts: tuple[str, ...] = DATE_PART_NAMES

    def refuse_names_of_columns(self, **given: Any) -> None:
        """Refuse options that name columns, where an array has none.

        Raises
        ------
        ConfigError
            Naming the option.
        """
        for name, value in given.items():
            if value:
                raise ConfigError(
                    "names columns, an array has none",
                    where=f"--{name.replace('_', '-')}",
                    remedy="leave it out",
                )

    def check_use(self, *, texts: bool, hashed: bool) -> None:
        """Refuse an option of texts or lists that no column looks at: it would change nothing.

        Parameters
        ----------
        texts : bool
            Whether there are columns of texts.
        hashed : bool
            Whether there are columns of texts, or lists of names.

        Raises
        ------
        ConfigError
            Naming the option.
        """
        for name, default in _OF_TEXTS.items():
            if getattr(self, name) != default and not (hashed if name == "hash_bits" else texts):
                raise ConfigError(
                    "has no effect without a column of texts"
                    + (", or of lists of names" if name == "hash_bits" else ""),
                    where="--text-norm" if name == "norm" else f"--{name.replace('_', '-')}",
                    remedy="leave it out, or name such a column with --text",
                )

    @property
    def target_files(self) -> tuple[Path, ...]:
        """Arrays of targets, one for each source, or none."""
        return _as_files(self.target_file)

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """Arrays of row weights, one for each source, or none."""
        return _as_files(self.weight_file)


_OF_TEXTS = {
    f.name: f.default
    for f in fields(IngestOptions)
    if f.name in {"words", "characters", "norm", "hash_bits"}
}


def _as_files(given: Path | tuple[Path, ...] | None) -> tuple[Path, ...]:
    if given is None:
        return ()
    return given if isinstance(given, tuple) else (given,)
