"""What compresses the chunks of Zarr: one frame each, as zarr's own codecs write them.

A frame never says how much memory it gets: a reader decodes it to the bytes that the
manifest's rows come to, and to no others.
"""

from __future__ import annotations

import struct
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Bytes = npt.NDArray[np.uint8]
Compression = Literal["zstd", "blosc"]

_ZSTD_LEVEL = 3
_BLOSC_LEVEL = 5
_BLOSC_NAME: Literal["lz4"] = "lz4"
_BLOSC_HEADER = struct.Struct("<BBBBIII")
_BLOSC_VERSION = 2
_MAX_BLOSC_BLOCK = 1 << 20
"""Bytes that Blosc decodes at a time: LZ4 at this level makes blocks of half of that."""
MAX_BLOSC_BYTES = 2**31 - 1 - 16
"""Most bytes of a chunk that a frame of Blosc can hold."""


class ChunkCodec(Protocol):
    """Compresses and decodes chunks; a thread has its own."""

    def compress(self, data: bytes, item_bytes: int) -> bytes:
        """Return a frame of some bytes, which are items of a size."""
        ...

    def decompress(self, frame: Bytes, n_bytes: int) -> Bytes:
        """Return exactly `n_bytes`.

        Raises
        ------
        ValueError, OSError, RuntimeError
            If the frame is damaged, or holds another number of bytes.
        """
        ...

    def scratch_bytes(self) -> int:
        """Return the memory of decoding, beside the frame and what it decodes to."""
        ...

    def metadata(self, item_bytes: int) -> Any:
        """Return zarr's codec for arrays of items of a size."""
        ...


class _Zstd:
    def __init__(self) -> None:
        self._codec = pa.Codec("zstd", compression_level=_ZSTD_LEVEL)

    def compress(self, data: bytes, item_bytes: int) -> bytes:
        del item_bytes
        frame: bytes = self._codec.compress(data, asbytes=True)
        return frame

    def decompress(self, frame: Bytes, n_bytes: int) -> Bytes:
        data = self._codec.decompress(pa.py_buffer(frame), decompressed_size=n_bytes)
        return np.frombuffer(data, np.uint8, n_bytes)

    def scratch_bytes(self) -> int:
        return 0

    def metadata(self, item_bytes: int) -> Any:
        from zarr.codecs import ZstdCodec

        del item_bytes
        return ZstdCodec(level=_ZSTD_LEVEL)


class _Blosc:
    def __init__(self) -> None:
        from numcodecs import blosc

        # Its own threads take turns on one lock, and would be beside --threads.
        blosc.use_threads = False
        self._blosc = blosc

    def compress(self, data: bytes, item_bytes: int) -> bytes:
        return bytes(
            self._blosc.compress(
                np.frombuffer(data, f"V{item_bytes}"),
                _BLOSC_NAME.encode(),
                _BLOSC_LEVEL,
                self._blosc.SHUFFLE,
                0,
            )
        )

    def decompress(self, frame: Bytes, n_bytes: int) -> Bytes:
        check_blosc(frame, n_bytes)
        out = np.empty(n_bytes, np.uint8)
        self._blosc.decompress(frame, out)
        return out

    def scratch_bytes(self) -> int:
        # One block without its shuffle, one as it is decoded, and one beside.
        return 3 * (_MAX_BLOSC_BLOCK + 4 * 255)

    def metadata(self, item_bytes: int) -> Any:
        from zarr.codecs import BloscCodec

        return BloscCodec(
            typesize=item_bytes, cname=_BLOSC_NAME, clevel=_BLOSC_LEVEL, shuffle="shuffle"
        )


def check_blosc(frame: Bytes, n_bytes: int) -> None:
    """Refuse a frame whose header is not that of a chunk of `n_bytes`, before memory is taken.

    Raises
    ------
    ValueError
        If it is not.

    Source
    ------
    c-blosc 1.21, README_CHUNK_FORMAT: version, version of the compressor, flags, size of
    an item; then bytes decoded, of a block, and of the frame, little-endian.
    """
    if len(frame) < _BLOSC_HEADER.size:
        raise ValueError("shorter than a header")
    version, _, _, item, decoded, block, size = _BLOSC_HEADER.unpack_from(frame.data)
    if version != _BLOSC_VERSION or not item:
        raise ValueError("no frame of Blosc")
    if decoded != n_bytes or size != len(frame):
        raise ValueError(f"a frame of {size} bytes that claims {decoded}")
    if not 0 < block <= max(min(n_bytes, _MAX_BLOSC_BLOCK), 1):
        raise ValueError(f"its blocks claim {block} bytes")


def chunk_codec(compression: Compression) -> ChunkCodec:
    """Return a codec of one thread."""
    return _Blosc() if compression == "blosc" else _Zstd()
