"""A file that a library reads in any order: its digest, and whether it stays as it was."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import xxhash

from data_tools.source import SourceEnd
from streamtrain import durable
from streamtrain.errors import NoInputError, SourceError, StreamtrainError

_READ_BYTES = 1 << 20


class StoredFile:
    """What is known of a file from the moment that it was opened first.

    Parameters
    ----------
    path : Path
    name : str
        What messages call it.

    Raises
    ------
    NoInputError
        If there is no such file, or it cannot be read.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        try:
            with path.open("rb", buffering=0) as file:
                self._status = os.fstat(file.fileno())
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise NoInputError("no such file", where=name) from error
        except OSError as error:
            raise NoInputError(f"cannot be read: {error.strerror}", where=name) from error
        self.n_bytes = self._status.st_size

    def check(self) -> None:
        """Refuse a file that is not the one that was opened first.

        Raises
        ------
        SourceError
            If it has another size, time or inode.
        """
        try:
            now = self.path.stat()
        except OSError as error:
            raise changed(self.name) from error
        kept = self._status
        if (now.st_ino, now.st_size, now.st_mtime_ns) != (
            kept.st_ino,
            kept.st_size,
            kept.st_mtime_ns,
        ):
            raise changed(self.name)

    def digest(self) -> FileDigest:
        """Return a digest that is fed as far as reading has come."""
        self.check()
        return FileDigest(self)


class FileDigest:
    """The digest of a whole file, made in stretches just ahead of a library that decodes them.

    What was digested is in the page cache when it is decoded: the disk is read once.
    """

    def __init__(self, stored: StoredFile) -> None:
        self._stored = stored
        self._digest = xxhash.xxh3_128()
        self._at = 0
        try:
            self._file = stored.path.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise changed(stored.name) from error
        except OSError as error:
            raise as_source_error(error, stored.name) from error

    def advance(self, offset: int) -> None:
        """Take in everything before an offset of the file."""
        buffer = bytearray(_READ_BYTES)
        view = memoryview(buffer)
        try:
            while self._at < offset:
                n = self._file.readinto(view[: min(_READ_BYTES, offset - self._at)])
                if not n:
                    break
                self._digest.update(view[:n])
                self._at += n
        except OSError as error:
            raise as_source_error(error, self._stored.name) from error

    def end(self) -> SourceEnd:
        """Take in the rest; return size and digest.

        Raises
        ------
        SourceError
            If the file has changed since it was opened first.
        """
        self.advance(self._stored.n_bytes)
        self._stored.check()
        if self._at != self._stored.n_bytes:
            raise changed(self._stored.name)
        return SourceEnd(self._at, self._digest.hexdigest())

    def __enter__(self) -> FileDigest:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def changed(name: str) -> SourceError:
    """Return the error for a file that is not what it was when it was opened first."""
    return SourceError(
        "changed while it was being read",
        where=name,
        remedy="ingest again when nothing writes to it",
    )


READ_ERRORS = (pa.ArrowException, OSError, UnicodeDecodeError, ValueError, KeyError, MemoryError)
"""What libraries raise on files that are damaged or not theirs."""


def as_source_error(error: Exception, name: str, what: str = "damaged") -> StreamtrainError:
    """Return the error for a file that a library cannot read.

    Parameters
    ----------
    error : Exception
    name : str
    what : str
        What is said of the file when the operating system has no part in it.
    """
    if isinstance(error, StreamtrainError):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        return durable.as_read_error(error, name)
    told = (str(error).splitlines() or [""])[0].strip()
    if len(told) > 200:
        told = told[:197] + "..."
    return SourceError(
        f"{what}: {told}" if told else what, where=name, remedy="write or fetch it again"
    )
