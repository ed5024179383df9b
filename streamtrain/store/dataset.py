"""A dataset that is open for reading: blocks by number, each checked as it is read."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import xxhash
from msgspec import UNSET

from streamtrain import durable
from streamtrain.errors import ConfigError, CorruptShardError
from streamtrain.store.formats import block_format
from streamtrain.store.manifest import Block, Manifest, Part, StoredBlock, aligned
from streamtrain.store.manifest_file import read_manifest
from streamtrain.store.schema import Schema

IoMethod = Literal["pread", "mmap"]
T = TypeVar("T")


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
        self.format = block_format(manifest, where=str(path))

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

    def part_name(self, part: Part) -> str:
        """Return "shard, block k" for messages."""
        return f"{self.path / part.shard.name}, block {part.number}"

    def ask(self, block: StoredBlock) -> None:
        """Let the system fetch a block's bytes into its cache, and wait for nothing.

        What cannot be asked for is not: reading says what is wrong with it.
        """
        if not hasattr(os, "posix_fadvise"):
            return
        for part in block.parts:
            with contextlib.suppress(OSError):
                fd = os.open(self.path / part.shard.name, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.posix_fadvise(
                        fd, part.block.offset, part.block.n_bytes, os.POSIX_FADV_WILLNEED
                    )
                finally:
                    os.close(fd)

    def is_cached(self, block: StoredBlock) -> bool:
        """Return whether the system's cache has a block, as far as the middle of each part tells.

        Its ends would not tell: their pages are its neighbours' too. False where the system
        cannot say.
        """
        return all(self._is_cached(part) for part in block.parts)

    def _is_cached(self, part: Part) -> bool:
        middle = part.block.offset + part.block.n_bytes // 2
        try:
            fd = os.open(self.path / part.shard.name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                # A look at what is not there fetches it: the one page, and not what follows.
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
                return os.preadv(fd, [bytearray(1)], middle, os.RWF_NOWAIT) == 1
            finally:
                os.close(fd)
        except (AttributeError, OSError):
            return False

    def with_block(
        self,
        block: StoredBlock,
        buffer: npt.NDArray[np.uint8],
        consume: Callable[[list[npt.NDArray[np.uint8]]], T],
        *,
        io: IoMethod = "pread",
        on_wait: Callable[[], None] | None = None,
    ) -> T:
        """Call `consume` with the bytes of a block, checked against their digests.

        Parameters
        ----------
        block : StoredBlock
            As `Manifest.blocks` gives it.
        buffer : (n,) uint8
            At least `block.n_bytes` long; "pread" reads into it.
        consume : callable
            Takes a (n_bytes,) uint8 array for each part, gone when it returns.
        io : {"pread", "mmap"}
            Copy from the page cache, or map; hashing a mapped range first makes
            its page faults sequential. A map is closed with the block, because
            mapped pages count as resident memory.
        on_wait : callable or None
            Called where "pread" found that the system's cache had not all of them, or
            could not find out.

        Raises
        ------
        CorruptShardError
            If the bytes are not those that were written, or are not there.
        """
        self.format.check(block)
        chunks: list[npt.NDArray[np.uint8]] = []
        start = 0
        with contextlib.ExitStack() as stack:
            try:
                for part in block.parts:
                    n_bytes = part.block.n_bytes
                    view = buffer[start : start + n_bytes] if io == "pread" else None
                    chunks.append(self._checked(part, view, stack, on_wait))
                    start += aligned(n_bytes)
                return consume(chunks)
            finally:
                chunks.clear()

    def _checked(
        self,
        part: Part,
        buffer: npt.NDArray[np.uint8] | None,
        stack: contextlib.ExitStack,
        on_wait: Callable[[], None] | None,
    ) -> npt.NDArray[np.uint8]:
        """Return the bytes of a part: read into `buffer`, or mapped until `stack` unwinds."""
        where = self.path / part.shard.name
        try:
            fd = os.open(where, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise CorruptShardError("missing", where=self.part_name(part)) from error
        except OSError as error:
            raise durable.as_read_error(error, where) from error
        try:
            if buffer is not None:
                view: npt.NDArray[np.uint8] | None = buffer
                n_read = _pread_cached(fd, part.block, buffer)
                if n_read < part.block.n_bytes:
                    n_read = _pread(fd, part.block, buffer, n_read)
                    if on_wait is not None:
                        on_wait()
            else:
                available = max(os.fstat(fd).st_size - part.block.offset, 0)
                n_read = min(available, part.block.n_bytes)
                view = _map(fd, part.block, stack) if n_read == part.block.n_bytes else None
        except OSError as error:
            raise durable.as_read_error(error, where) from error
        finally:
            os.close(fd)
        if view is None or n_read < part.block.n_bytes:
            raise CorruptShardError(
                f"truncated: {n_read} of {part.block.n_bytes} bytes",
                where=self.part_name(part),
                remedy=_remedy(self.manifest),
            )
        digest = xxhash.xxh3_64_hexdigest(view.data)
        if digest != part.block.digest:
            raise CorruptShardError(
                f"damaged: digest {digest}, expected {part.block.digest}",
                where=self.part_name(part),
                remedy=_remedy(self.manifest),
            )
        return view


def _remedy(manifest: Manifest) -> str:
    again = "ingest again" if manifest.adopted is UNSET else "adopt the files again"
    return f"restore the file or {again}"


def _pread_cached(fd: int, block: Block, view: npt.NDArray[np.uint8]) -> int:
    """Read as many bytes from the start of a block as the system has at hand."""
    try:
        return os.preadv(fd, [view.data], block.offset, os.RWF_NOWAIT)
    except (AttributeError, OSError):  # none, or a system that cannot say
        return 0


def _pread(fd: int, block: Block, view: npt.NDArray[np.uint8], n_read: int) -> int:
    """Read what is left of a block behind its first `n_read` bytes; return how many are there."""
    while n_read < block.n_bytes:
        n = os.preadv(fd, [view[n_read:].data], block.offset + n_read)
        if n == 0:
            break
        n_read += n
    return n_read


def _map(fd: int, block: Block, stack: contextlib.ExitStack) -> npt.NDArray[np.uint8]:
    start = block.offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    skip = block.offset - start
    mapped = mmap.mmap(fd, skip + block.n_bytes, access=mmap.ACCESS_COPY, offset=start)
    stack.callback(_unmap, mapped)
    return np.frombuffer(mapped, np.uint8, block.n_bytes, skip)


def _unmap(mapped: mmap.mmap) -> None:
    # A map cannot be closed while an array shows it, and the traceback of an error
    # keeps one: the map then goes with the error.
    with contextlib.suppress(BufferError):
        mapped.close()


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
                raise CorruptShardError(
                    f"missing, with its {len(shard.blocks)} blocks",
                    where=where,
                    remedy=_remedy(manifest),
                ) from error
            if size != shard.n_bytes:
                raise CorruptShardError(
                    f"{size} bytes, expected {shard.n_bytes}",
                    where=where,
                    remedy=_remedy(manifest),
                )
    return Dataset(folder, manifest)
