"""A dataset that is open for reading: blocks by number, each checked as it is read."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import xxhash

from streamtrain import durable
from streamtrain.errors import ConfigError, CorruptShardError
from streamtrain.store.manifest import Block, Manifest, read_manifest
from streamtrain.store.schema import Schema

IoMethod = Literal["pread", "mmap"]
_MAX_HEADER_BYTES = 4096
T = TypeVar("T")


@dataclass(frozen=True)
class BlockLayout:
    """Where a block's columns lie: each takes `stride` bytes that end in its values."""

    n_rows: int
    stride: int


class Dataset:
    """A dataset on disk.

    Parameters
    ----------
    path : Path
    manifest : Manifest

    Notes
    -----
    Made by `open_dataset`. Holds no file open; any number of threads may read.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @property
    def schema(self) -> Schema:
        """The columns."""
        return self.manifest.schema

    @property
    def fingerprint(self) -> str:
        """Digest of the contents: equal for equal data, whatever it was ingested from."""
        return self.manifest.fingerprint

    def n_rows(self, split: str = "train") -> int:
        """Return the rows of a split.

        Raises
        ------
        ConfigError
            If the dataset has no such split.
        """
        if split not in self.manifest.splits:
            raise ConfigError(
                f"there is no split {split!r}, only {', '.join(self.manifest.splits)}",
                where=str(self.path),
                remedy="ingest again with --split",
            )
        return self.manifest.n_rows(split)

    def block_name(self, split: str, number: int) -> str:
        """Return "shard, block k" for messages."""
        shards = self.manifest.splits[split]
        index, _ = self.manifest.blocks(split)[number]
        first = sum(len(shard.blocks) for shard in shards[:index])
        return f"{self.path / shards[index].name}, block {number - first}"

    def block_layout(self, block: Block) -> BlockLayout:
        """Return where the columns of a block lie.

        Raises
        ------
        CorruptShardError
            If its bytes cannot hold its rows.
        """
        n_columns = len(self.schema.value_names)
        stride, rest = divmod(block.n_bytes, n_columns)
        if rest or not 0 <= stride - 4 * block.n_rows <= _MAX_HEADER_BYTES:
            raise CorruptShardError(
                f"{block.n_bytes} bytes cannot hold {block.n_rows} rows of {n_columns} columns",
                where=str(self.path),
            )
        return BlockLayout(block.n_rows, stride)

    def with_block(
        self,
        split: str,
        number: int,
        located: tuple[int, Block],
        buffer: npt.NDArray[np.uint8],
        consume: Callable[[npt.NDArray[np.uint8]], T],
        *,
        io: IoMethod = "pread",
    ) -> T:
        """Call `consume` with the bytes of a block, checked against their digest.

        Parameters
        ----------
        split : str
        number : int
            Of the block in its split, for messages.
        located : tuple of int and Block
            As `Manifest.blocks` gives it.
        buffer : (n,) uint8
            At least as long as the block; "pread" reads into it.
        consume : callable
            Takes a (n_bytes,) uint8 array that is gone when it returns.
        io : {"pread", "mmap"}
            Copy from the page cache, or map; hashing a mapped range first makes
            its page faults sequential. The map is closed with the block, because
            mapped pages count as resident memory.

        Raises
        ------
        CorruptShardError
            If the bytes are not those that were written, or are not there.
        """
        index, block = located
        shard = self.manifest.splits[split][index]
        where = self.path / shard.name
        try:
            fd = os.open(where, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise CorruptShardError("missing", where=str(where)) from error
        except OSError as error:
            raise durable.as_read_error(error, where) from error
        try:
            if io == "pread":
                view = buffer[: block.n_bytes]
                self._check_size(_pread(fd, block, view), split, number, block)
                self._check_digest(view, split, number, block)
                return consume(view)
            available = os.fstat(fd).st_size - block.offset
            self._check_size(min(max(available, 0), block.n_bytes), split, number, block)
            start = block.offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
            skip = block.offset - start
            mapped = mmap.mmap(fd, skip + block.n_bytes, access=mmap.ACCESS_COPY, offset=start)
            try:
                view = np.frombuffer(mapped, np.uint8, block.n_bytes, skip)
                try:
                    self._check_digest(view, split, number, block)
                    return consume(view)
                finally:
                    del view
            finally:
                # A map cannot be closed while an array shows it, and the traceback of
                # an error keeps one: the map then goes with the error.
                with contextlib.suppress(BufferError):
                    mapped.close()
        except OSError as error:
            raise durable.as_read_error(error, where) from error
        finally:
            os.close(fd)

    def _check_size(self, n_read: int, split: str, number: int, block: Block) -> None:
        if n_read < block.n_bytes:
            raise CorruptShardError(
                f"truncated: {n_read} of {block.n_bytes} bytes",
                where=self.block_name(split, number),
                remedy="restore the file or ingest again",
            )

    def _check_digest(
        self, view: npt.NDArray[np.uint8], split: str, number: int, block: Block
    ) -> None:
        digest = xxhash.xxh3_64_hexdigest(view.data)
        if digest != block.digest:
            raise CorruptShardError(
                f"damaged: digest {digest}, expected {block.digest}",
                where=self.block_name(split, number),
                remedy="restore the file or ingest again",
            )


def _pread(fd: int, block: Block, view: npt.NDArray[np.uint8]) -> int:
    n_read = 0
    while n_read < block.n_bytes:
        n = os.preadv(fd, [view[n_read:].data], block.offset + n_read)
        if n == 0:
            break
        n_read += n
    return n_read


def open_dataset(path: str | os.PathLike[str]) -> Dataset:
    """Open a dataset: read its manifest, and check that every shard is there whole.

    Raises
    ------
    NoInputError
        If `path` is not a dataset.
    ManifestError
        If the manifest is damaged.
    CorruptShardError
        If a shard is missing, has another size, or is a link out of the dataset.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    root = folder.resolve()
    for shards in manifest.splits.values():
        for shard in shards:
            file = folder / shard.name
            where = str(file)
            if not file.resolve().is_relative_to(root):
                raise CorruptShardError("a link out of the dataset", where=where)
            try:
                size = file.stat().st_size
            except OSError as error:
                raise CorruptShardError("missing", where=where, remedy="ingest again") from error
            if size != shard.n_bytes:
                raise CorruptShardError(
                    f"{size} bytes, expected {shard.n_bytes}",
                    where=where,
                    remedy="restore the file or ingest again",
                )
    return Dataset(folder, manifest)
