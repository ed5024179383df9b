"""Splits of whole blocks: rows that stay where they are can only go with their neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from streamtrain.errors import ConfigError, UsageError
from streamtrain.kernels.row_key import row_keys
from streamtrain.seeds import derive_key
from streamtrain.store.manifest import SPLITS


@dataclass(frozen=True)
class FoundBlock:
    """A block of a file that is there.

    Parameters
    ----------
    file : str
        Path below the directory.
    number : int
        Of the block in it.
    n_rows, offset, n_bytes : int
    """

    file: str
    number: int
    n_rows: int
    offset: int
    n_bytes: int


def split_blocks(
    blocks: Sequence[FoundBlock],
    *,
    shares: Mapping[str, float] | None,
    patterns: Mapping[str, str],
    seed: int,
) -> tuple[npt.NDArray[np.uint8], str]:
    """Return the split of every block, and what was done about it.

    Parameters
    ----------
    blocks : sequence of FoundBlock
    shares : mapping of str to float, or None
        Of valid and test. None takes the directories train, valid and test where
        they are, else a tenth of the rows each.
    patterns : mapping of str to str
        Files of valid and test, in place of shares.
    seed : int

    Returns
    -------
    splits : (m,) uint8
        0, 1, 2: train, valid, test.
    told : str
        A message, or "".

    Raises
    ------
    ConfigError
        If a pattern fits no file, shares cannot be met, or nothing is left to train on.
    UsageError
        If both are given.
    """
    if patterns:
        if shares:
            raise UsageError("goes in place of --split", where="--split-files")
        return _by_patterns(blocks, patterns), ""
    if shares is None:
        tops = {block.file.partition("/")[0] for block in blocks if "/" in block.file}
        inside = all("/" in block.file for block in blocks)
        if inside and "train" in tops and tops <= set(SPLITS) and len(tops) > 1:
            found = [SPLITS.index(block.file.partition("/")[0]) for block in blocks]
            told = ", ".join(sorted(tops, key=SPLITS.index))
            return np.array(found, np.uint8), f"splits are the directories {told}"
        if len(blocks) < len(SPLITS):
            told = "too few blocks to split: all rows are in train" if blocks else ""
            return np.zeros(len(blocks), np.uint8), told
        shares = {"valid": 0.1, "test": 0.1}
    return _by_shares(blocks, shares, seed), ""


def _by_patterns(
    blocks: Sequence[FoundBlock], patterns: Mapping[str, str]
) -> npt.NDArray[np.uint8]:
    splits = np.zeros(len(blocks), np.uint8)
    for name, pattern in patterns.items():
        fits = np.array([fnmatchcase(block.file, pattern) for block in blocks], np.bool_)
        if not fits.any():
            raise ConfigError(f"no file fits {pattern!r}", where="--split-files")
        if splits[fits].any():
            raise ConfigError("a file fits two patterns", where="--split-files")
        splits[fits] = SPLITS.index(name)
    if splits.all():
        raise ConfigError("no file is left to train on", where="--split-files")
    return splits


def _by_shares(
    blocks: Sequence[FoundBlock], shares: Mapping[str, float], seed: int
) -> npt.NDArray[np.uint8]:
    """Return splits of about those shares of the rows, by ascending keys of the blocks."""
    splits = np.zeros(len(blocks), np.uint8)
    wanted = {name: share for name, share in shares.items() if share > 0}
    if not wanted:
        return splits
    if len(blocks) <= len(wanted):
        raise ConfigError(
            f"{len(blocks)} blocks cannot be divided into {len(wanted) + 1} splits",
            where="--split",
            remedy="rows stay with their blocks: give --split none, or use `streamtrain ingest`",
        )
    keys = np.empty(len(blocks), np.uint64)
    row_keys(
        np.uint64(derive_key("adopt split", seed)), np.arange(len(blocks), dtype=np.uint64), keys
    )
    order = np.argsort(keys, kind="stable").tolist()
    total = sum(block.n_rows for block in blocks)
    left = len(wanted)
    for name, share in wanted.items():
        left -= 1
        taken = 0
        # Always one, and one is left to every split behind; then as near as blocks allow.
        while len(order) > left + 1 and (
            taken == 0 or taken + blocks[order[0]].n_rows / 2 <= share * total
        ):
            block = order.pop(0)
            splits[block] = SPLITS.index(name)
            taken += blocks[block].n_rows
    return splits
