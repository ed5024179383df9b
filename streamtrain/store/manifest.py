"""What a dataset holds, where, and the digest of every byte of it: the records of dataset.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from streamtrain.store.adopted_manifest import Adopted
from streamtrain.store.schema import Schema

MANIFEST_NAME = "dataset.json"
FORMAT_VERSION = 2
"""Version 1 had Parquet alone, and fingerprints over its bytes: it is still read."""
MAX_BLOCK_ENTRIES = 1 << 26
"""Entries of a bag that any block can have."""
MAX_BLOCK_ROWS = 1 << 20
"""Rows that any block can have: what readers take memory for is bounded."""
SPLITS = ("train", "valid", "test")


class Block(msgspec.Struct, frozen=True, array_like=True):
    """Contiguous rows of a shard: `n_bytes` at `offset`, with their xxh3-64 digest (hex)."""

    n_rows: int
    offset: int
    n_bytes: int
    digest: str


class BagRun(msgspec.Struct, frozen=True, array_like=True):
    """The entries of one bag in a block, and the bytes in which they lie at the block's end."""

    n_entries: int
    n_bytes: int


class Shard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One data file.

    Parameters
    ----------
    name : str
        Path below the dataset, ``train/part-00000.parquet``.
    n_rows, n_bytes : int
        Of the whole file.
    digest : str
        xxh3-128 of the whole file, hex.
    blocks : tuple of Block
    array : str
        In Zarr, the array that the file is a range of; the same rows of other
        arrays are in shards of their own. "" where a shard has all columns.
    runs : tuple of tuple of BagRun
        For each block, each bag that lies in this file; empty where none does.
    numbers : tuple of int
        Of the blocks in their file, where it has others too: a file that was
        adopted may give blocks to several splits. Then `n_rows` are those of the blocks.
    """

    name: str
    n_rows: int
    n_bytes: int
    digest: str
    blocks: tuple[Block, ...]
    array: str = ""
    runs: tuple[tuple[BagRun, ...], ...] = ()
    numbers: tuple[int, ...] = ()

    def number(self, k: int) -> int:
        """Return the number in the file of the k-th of `blocks`."""
        return self.numbers[k] if self.numbers else k


@dataclass(frozen=True, slots=True)
class Part:
    """Where a block's values lie in one shard: the `number`-th block of its file."""

    shard: Shard
    number: int
    block: Block


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """Rows that are read at once: one part in each array of its format, in order."""

    parts: tuple[Part, ...]

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.parts[0].block.n_rows

    @property
    def runs(self) -> tuple[BagRun, ...]:
        """Each bag's entries in it."""
        return tuple(
            run for part in self.parts if part.shard.runs for run in part.shard.runs[part.number]
        )

    @property
    def n_entries(self) -> int:
        """Entries of all bags."""
        return sum(run.n_entries for run in self.runs)

    @property
    def n_bytes(self) -> int:
        """Bytes of a buffer that holds all parts, each at a multiple of `ALIGNMENT`."""
        return sum(aligned(part.block.n_bytes) for part in self.parts)


ALIGNMENT = 64


def aligned(n_bytes: int) -> int:
    """Return `n_bytes` rounded up to `ALIGNMENT`."""
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One source file and its count: rows_read = rows_written + rows_rejected.

    `rows_read` counts every record that is not blank. `digest` is the xxh3-128 of
    the bytes as stored (compressed where they are).
    """

    name: str
    n_bytes: int
    digest: str
    rows_read: int
    rows_written: int
    rows_rejected: int
    rows_blank: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of dataset.json.

    Parameters
    ----------
    format_version : int
    format : {"parquet", "zarr"}
    schema : Schema
    splits : dict of str to tuple of Shard
        For each of train, valid, test that has rows.
    sources : tuple of Source
    files : dict of str to str
        xxh3-128 of every other file (vocabulary/, rejected/), by path.
    seed : int
        Of the shuffle and the splits.
    shuffled : bool
        Whether the rows of each split are in a random order.
    block_rows : int
        Rows of every block but the last of a split.
    split_fractions : dict of str to float
    split_by : str or None
    reject_reasons : dict of str to int
    compression : {"zstd", "blosc"}, or unset
        Of Zarr chunks.
    adopted : Adopted, or unset
        Of files that were there before: how they are decoded.
    contents : dict of str to str
        For each split the xxh3-128 of its values (`ContentsDigest`), which do
        not depend on the format. Not in version 1.
    fingerprint, digest : str
        Set by `write_manifest`.
    """

    format_version: int
    format: str
    schema: Schema
    splits: dict[str, tuple[Shard, ...]]
    sources: tuple[Source, ...]
    files: dict[str, str]
    seed: int
    shuffled: bool
    block_rows: int
    split_fractions: dict[str, float]
    split_by: str | None = None
    reject_reasons: dict[str, int] = {}
    contents: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    compression: Literal["zstd", "blosc"] | msgspec.UnsetType = msgspec.UNSET
    adopted: Adopted | msgspec.UnsetType = msgspec.UNSET
    fingerprint: str = ""
    digest: str = ""

    def n_rows(self, split: str) -> int:
        """Return the rows of a split, 0 if it is not there."""
        return count_rows(self.splits.get(split, ()))

    def blocks(self, split: str) -> list[tuple[int, StoredBlock]]:
        """Return (number, block) of every block of a split, in order."""
        arrays: dict[str, list[Part]] = {}
        for shard in self.splits.get(split, ()):
            parts = arrays.setdefault(shard.array, [])
            parts.extend(
                Part(shard, shard.number(k), block) for k, block in enumerate(shard.blocks)
            )
        return list(enumerate(map(StoredBlock, zip(*arrays.values(), strict=True))))


def count_rows(shards: Sequence[Shard]) -> int:
    """Return the rows of a split: those of its first array, all have the same."""
    return sum(shard.n_rows for shard in shards if shard.array == shards[0].array)
