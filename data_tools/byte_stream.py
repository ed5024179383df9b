"""Bytes of a file in order: decompressed, in UTF-8, digested as stored.

Compression is told by the first bytes, not by the name.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import xxhash

from data_tools.source import SourceEnd
from streamtrain import durable
from streamtrain.errors import NoInputError, SourceError, StreamtrainError, UsageError

_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
)
_DECODE_BYTES = 1 << 20


def compression_of(head: bytes) -> str:
    """Return the codec that the first bytes of a file name, "" for none."""
    for magic, codec in _MAGIC:
        if head.startswith(magic):
            return codec
    if head.startswith(b"BZh") and head[4:10] in {b"1AY&SY", b"\x17rE8P\x90"}:
        return "bz2"
    return ""


def check_encoding(name: str) -> str:
    """Return the canonical name of a text encoding.

    Raises
    ------
    UsageError
        If Python knows no such encoding.
    """
    try:
        known = codecs.lookup(name)
    except LookupError as error:
        raise UsageError(f"{name!r} is not an encoding", where="--encoding") from error
    if not known._is_text_encoding:  # noqa: SLF001 (what bytes.decode itself asks)
        raise UsageError(f"{name!r} is not a text encoding", where="--encoding")
    return known.name


class _DigestingFile(io.RawIOBase):
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = xxhash.xxh3_128()
        self.n_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        n = self._file.readinto(buffer)  # type: ignore[attr-defined]
        self.digest.update(memoryview(buffer)[:n])
        self.n_bytes += n
        return int(n)

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        self.n_bytes += len(data)
        return data


class ByteStream:
    """An open file.

    Parameters
    ----------
    path : Path
    name : str
        What messages call it.
    encoding : str
        Of the text; everything else sees UTF-8.

    Raises
    ------
    NoInputError
        If there is no such file.
    SourceError
        From `readinto`, if the file is damaged or not in that encoding.
    """

    def __init__(self, path: Path, name: str, *, encoding: str = "utf-8") -> None:
        self._name = name
        try:
            file = path.open("rb", buffering=0)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise NoInputError("no such file", where=name) from error
        except OSError as error:
            raise NoInputError(f"cannot be read: {error.strerror}", where=name) from error
        self._file = file
        self._status = os.fstat(file.fileno())
        self._raw = _DigestingFile(file)
        self.codec = compression_of(os.pread(file.fileno(), 16, 0))
        self._source: Any = self._raw
        if self.codec:
            self._source = pa.CompressedInputStream(pa.PythonFile(self._raw, mode="r"), self.codec)
        self._decoder = None
        self._decoded = b""
        if encoding != "utf-8":
            self._decoder = codecs.getincrementaldecoder(encoding)()

    @property
    def n_bytes(self) -> int:
        """Stored bytes read so far."""
        return self._raw.n_bytes

    def readinto(self, view: memoryview) -> int:
        """Fill a view as far as the stream goes; return the bytes written."""
        done = 0
        while done < len(view):
            n = self._read_some(view[done:])
            if n == 0:
                break
            done += n
        return done

    def _read_some(self, view: memoryview) -> int:
        try:
            if self._decoder is None:
                return int(self._source.readinto(view))
            while not self._decoded:
                data = self._source.read(_DECODE_BYTES)
                self._decoded = self._decoder.decode(data, final=not data).encode()
                if not data:
                    break
        except UnicodeError as error:
            raise SourceError(
                f"not {self._decoder_name()}: {error}",
                where=self._name,
                remedy="name another --encoding",
            ) from error
        except (OSError, pa.ArrowInvalid) as error:
            raise self._as_stream_error(error) from error
        n = min(len(view), len(self._decoded))
        view[:n] = self._decoded[:n]
        self._decoded = self._decoded[n:]
        return n

    def _decoder_name(self) -> str:
        return "text in the encoding named"

    def _as_stream_error(self, error: Exception) -> StreamtrainError:
        if isinstance(error, OSError) and error.errno is not None:
            return durable.as_stream_error(error, self._name)
        return SourceError(
            f"damaged or cut short: {error}", where=self._name, remedy="fetch or compress it again"
        )

    def end(self) -> SourceEnd:
        """Return size and digest of what was read; the file must not have changed meanwhile.

        Raises
        ------
        SourceError
            If it has.
        """
        # A codec may leave bytes behind the end of its last frame unread.
        while self._raw.read(1 << 20):
            pass
        now = os.fstat(self._file.fileno())
        before = self._status
        if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns) or (
            self._raw.n_bytes != now.st_size
        ):
            raise SourceError(
                "changed while it was being read",
                where=self._name,
                remedy="ingest again when nothing writes to it",
            )
        return SourceEnd(self._raw.n_bytes, self._raw.digest.hexdigest())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def spool_stdin(path: Path, *, as_it_is: Callable[[bytes], bool] = lambda _: False) -> SourceEnd:
    """Copy standard input to a file, compressed, so that it can be read twice.

    Parameters
    ----------
    path : Path
    as_it_is : callable
        Whether a file that begins with some bytes must not be compressed.

    Raises
    ------
    DiskError
        If the disk is full or fails.
    """
    digest = xxhash.xxh3_128()
    n_bytes = 0
    stream = sys.stdin.buffer
    try:
        head = stream.read(_DECODE_BYTES)
        with pa.OSFile(str(path), "wb") as file:
            # What comes compressed stays as it is.
            plain = compression_of(head) or as_it_is(head)
            sink = file if plain else pa.CompressedOutputStream(file, "lz4")
            while head:
                sink.write(head)
                digest.update(head)
                n_bytes += len(head)
                head = stream.read(_DECODE_BYTES)
            if sink is not file:
                sink.close()
    except OSError as error:
        raise durable.as_stream_error(error, path) from error
    return SourceEnd(n_bytes, digest.hexdigest())
