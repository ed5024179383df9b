"""How a table lies in Zarr: a few row-major arrays by type, and their metadata.

    train.zarr/  numeric (N, D) float32     target (N,) float32
                 codes (N, F) uint8, uint16 or int32: the narrowest that holds every field
                 weight, exposure (N,) float32

An array that would have no column is not there. All have the same chunks along
the first axis, one for each block, in Zarr shards of as many chunks each: a
Zarr shard is one file, its chunks in order, then the index that other readers
want. A chunk is found by arithmetic, without the index.

    numeric/c/0/0    | chunk 0 | chunk 1 | ... | index: (offset, bytes) of each, crc32c |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streamtrain.store.schema import StoredColumns

CODE_TYPES = ("uint8", "uint16", "int32")
"""Types of codes. One for all fields: rows then widen several codes at a time, where fields
of several widths cost twice as much to scatter (docs/decisions/0005-zarr.md)."""

_ABSENT = 2**64 - 1
"""Offset and size of a chunk that is not there."""
_CRC32C = 0x82F63B78


@dataclass(frozen=True)
class ZarrArray:
    """One array of a split.

    Parameters
    ----------
    name : str
        Of the array in its group.
    dtype : str
        NumPy name; stored little-endian.
    columns : tuple of int
        Which stored columns it holds, by their number in shard order: neighbours.
    names : tuple of str
        What they are called.
    is_matrix : bool
        Whether it is (N, len(columns)) or (N,).
    """

    name: str
    dtype: str
    columns: tuple[int, ...]
    names: tuple[str, ...]
    is_matrix: bool

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return np.dtype(self.dtype).itemsize * len(self.columns)

    @property
    def tail(self) -> tuple[int, ...]:
        """Shape of a row."""
        return (len(self.columns),) if self.is_matrix else ()

    def chunk_key(self, shard: int) -> str:
        """Return the file of a Zarr shard, below the group."""
        return f"{self.name}/c/{shard}" + "/0" * len(self.tail)

    def pack(self, values: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
        """Return rows of this array from the bits of a block's columns.

        Parameters
        ----------
        values : (k, n) int32

        Returns
        -------
        (n, len(columns)) in C order, little-endian
        """
        chosen = values[self.columns[0] : self.columns[-1] + 1].T
        if self.dtype == "float32":
            return np.ascontiguousarray(chosen).view(np.float32)
        return chosen.astype(self.dtype, order="C")


def plan_arrays(columns: StoredColumns) -> tuple[ZarrArray, ...]:
    """Return the arrays of a table, in the order in which their chunks make a block."""
    n_numeric, n_codes = len(columns.numeric), len(columns.categorical)
    arrays = []
    if n_numeric:
        arrays.append(
            ZarrArray("numeric", "float32", tuple(range(n_numeric)), columns.numeric, True)
        )
    if n_codes:
        numbers = tuple(range(n_numeric, n_numeric + n_codes))
        arrays.append(ZarrArray("codes", _code_type(columns), numbers, columns.categorical, True))
    at = n_numeric + n_codes
    for role, column in (
        ("target", columns.target),
        ("weight", columns.weight),
        ("exposure", columns.exposure),
    ):
        if column is not None:
            arrays.append(ZarrArray(role, "float32", (at,), (column,), False))
            at += 1
    return tuple(arrays)


def _code_type(columns: StoredColumns) -> str:
    largest = max(columns.cardinalities) - 1
    return next(name for name in CODE_TYPES if largest <= np.iinfo(name).max)


def shard_index(n_chunks: int, chunk_bytes: int, *, n_entries: int) -> bytes:
    """Return the index that ends a Zarr shard whose chunks lie one behind another.

    Parameters
    ----------
    n_chunks, chunk_bytes : int
        Chunks in the file, and the bytes of each.
    n_entries : int
        Chunks that a shard of this array has room for; the rest are absent.

    Source
    ------
    Zarr v3 specification, codec "sharding_indexed", with its default index
    codecs: "bytes" (little-endian) and "crc32c".
    """
    entries = np.full((n_entries, 2), _ABSENT, "<u8")
    entries[:n_chunks, 0] = np.arange(n_chunks, dtype=np.uint64) * np.uint64(chunk_bytes)
    entries[:n_chunks, 1] = chunk_bytes
    data = entries.tobytes()
    return data + crc32c(data).to_bytes(4, "little")


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of some bytes.

    Source
    ------
    RFC 3720, appendix B.4; reflected polynomial 0x82F63B78, byte by byte.
    """
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _table() -> list[int]:
    table = []
    for value in range(256):
        crc = value
        for _ in range(8):
            crc = (crc >> 1) ^ (_CRC32C if crc & 1 else 0)
        table.append(crc)
    return table


_TABLE = _table()


def group_metadata(
    arrays: Sequence[ZarrArray], *, n_rows: int, chunk_rows: int, shard_chunks: int
) -> dict[str, bytes]:
    """Return every zarr.json of a split's group by its path in the group, as zarr writes it.

    Parameters
    ----------
    arrays : sequence of ZarrArray
    n_rows : int
    chunk_rows : int
        Rows of a chunk.
    shard_chunks : int
        Chunks of a Zarr shard.
    """
    import zarr
    from zarr.storage import MemoryStore

    files: dict[str, Any] = {}
    group = zarr.create_group(MemoryStore(store_dict=files), zarr_format=3)
    for array in arrays:
        group.create_array(
            array.name,
            shape=(n_rows, *array.tail),
            chunks=(chunk_rows, *array.tail),
            shards=(chunk_rows * shard_chunks, *array.tail),
            dtype=array.dtype,
            compressors=None,
            filters=None,
            # Every chunk is written: nothing is ever read from this.
            fill_value=float("nan") if array.dtype == "float32" else 0,
            dimension_names=("row", f"{array.name}_column")[: 1 + len(array.tail)],
            attributes={"columns": list(array.names)},
        )
    return {name: bytes(data.to_bytes()) for name, data in files.items()}
