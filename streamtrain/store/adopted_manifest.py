"""What the manifest says of files that were adopted: how their bytes are decoded.

The shards of an adopted dataset are somebody's files, of any encoding. Beside the
digests of their blocks the manifest keeps what decoding needs and what it takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from streamtrain.errors import ManifestError

MAX_DECODE_BYTES = 1 << 40
_MAX_AXES = 33
_TYPES = ("b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")


class ByteRange(msgspec.Struct, frozen=True, array_like=True):
    """`n_bytes` at `offset` of a file, with their xxh3-64 digest (hex)."""

    offset: int
    n_bytes: int
    digest: str


class AdoptedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One Parquet file.

    Parameters
    ----------
    footer : ByteRange
        From the first byte of its metadata to the end of the file.
    constants : dict of str to (str or None)
        Columns with one value in all rows: the ``k=v`` of its directories.
    """

    footer: ByteRange
    constants: dict[str, str | None] = {}


class AdoptedArray(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One array of Zarr, or a .npy of targets.

    Parameters
    ----------
    chunk : tuple of int
        Shape of a chunk; of a .npy (0,): a part holds the rows of its block.
    dtype : str
        As NumPy spells it, with the order of its bytes.
    codec : {"plain", "zstd", "zarr"}
        Bytes in C order, one frame of zstd that holds them, or whatever `metadata` says.
    metadata : str
        The zarr.json or .zarray of an array of one chunk, for "zarr"; else "".
    """

    chunk: tuple[int, ...]
    dtype: str
    codec: Literal["plain", "zstd", "zarr"]
    metadata: str


class Adopted(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How the blocks of files that were adopted become rows.

    Parameters
    ----------
    decode_bytes : int
        Most that decoding a block took beside its stored bytes, as measured when the
        files were adopted: the memory of a reading thread is planned by it.
    shared_bytes : int
        Of the tables that turn categories into codes, one for all threads.
    files : dict of str to AdoptedFile
        Every shard in Parquet.
    lists : dict of str to int
        Values of each list, of columns of lists.
    arrays : dict of str to AdoptedArray
        "features" and "target", of Zarr.
    first_rows : dict of str to tuple of int
        Of each split, where its blocks begin in the arrays.
    """

    decode_bytes: int
    shared_bytes: int
    files: dict[str, AdoptedFile] = {}
    lists: dict[str, int] = {}
    arrays: dict[str, AdoptedArray] = {}
    first_rows: dict[str, tuple[int, ...]] = {}


def is_adopted(manifest: Path) -> bool:
    """Return whether a manifest, damaged or not, is that of files that were there before.

    Nothing may remove its directory: the files are not ours.
    """
    try:
        return b'"adopted": {' in manifest.read_bytes()
    except OSError:
        return False


def check_adopted(adopted: Adopted, file_bytes: Mapping[str, int], *, where: str) -> None:
    """Refuse what no adopt writes.

    Parameters
    ----------
    adopted : Adopted
    file_bytes : mapping of str to int
        Size of every shard.

    Raises
    ------
    ManifestError
        If a file has no footer inside of it, or a size cannot be one.
    """
    sizes = (adopted.decode_bytes, adopted.shared_bytes)
    possible = all(0 <= size <= MAX_DECODE_BYTES for size in sizes)
    possible &= all(width > 0 for width in adopted.lists.values())
    if adopted.files:
        possible &= adopted.files.keys() == file_bytes.keys()
    for name, file in adopted.files.items():
        footer = file.footer
        end = file_bytes.get(name, 0)
        possible &= 0 < footer.n_bytes <= end and footer.offset == end - footer.n_bytes
    for array in adopted.arrays.values():
        possible &= array.dtype[:1] in "<>|" and array.dtype[1:] in _TYPES
        possible &= 0 < len(array.chunk) <= _MAX_AXES
        possible &= all(0 <= n <= MAX_DECODE_BYTES for n in array.chunk)
    if not possible:
        raise ManifestError(
            "holds adopted files that cannot be", where=where, remedy="adopt them again"
        )
