"""How a dataset lies in Zarr: row-major arrays by type, and their metadata.

    train.zarr/  numeric (N, D) float32     target (N,) float32
                 codes (N, F) uint8, uint16 or int32: the narrowest that holds every field
                 weight, exposure (N,) float32
                 bag_0, bag_1, ... (N,) bytes: a row's entries, code (int32) and value
                 (float32) each, as the codec "vlen-bytes" lays them down

An array that would have no column is not there. A dataset made from arrays has
`features` (N, ...) of their own type in place of numeric and codes, `target` (N, M)
where a row has M > 1 of them, and `weight` if rows have one. All have the same chunks
along the first axis, one for each block, in Zarr shards of as many chunks each: a Zarr
shard is one file, its chunks in order, then the index that other readers want. A chunk
is found by arithmetic, without it.

    numeric/c/0/0    | chunk 0 | chunk 1 | ... | index: (offset, bytes) of each, crc32c |
"""

from __future__ import annotations

import abc
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streamtrain.store.chunk_codecs import Compression, chunk_codec
from streamtrain.store.schema import StoredColumns, StoredFeatures

CODE_TYPES = ("uint8", "uint16", "int32")
"""Types of codes. One for all fields: rows then widen several codes at a time, where fields
of several widths cost twice as much to scatter (docs/decisions/0007-zarr.md)."""

BAG_TYPE = "variable_length_bytes"
_ABSENT = 2**64 - 1
"""Offset and size of a chunk that is not there."""
_CRC32C = 0x82F63B78


@dataclass(frozen=True)
class ZarrArray(abc.ABC):
    """One array of a split.

    Parameters
    ----------
    name : str
        Of the array in its group.
    dtype : str
        NumPy name; stored little-endian.
    tail : tuple of int
        Shape of a row.
    columns : tuple of str
        What the values of a row are called; () if they have positions alone.
    """

    name: str
    dtype: str
    tail: tuple[int, ...]
    columns: tuple[str, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return np.dtype(self.dtype).itemsize * math.prod(self.tail)

    def chunk_key(self, shard: int) -> str:
        """Return the file of a Zarr shard, below the group."""
        return f"{self.name}/c/{shard}" + "/0" * len(self.tail)

    @property
    def item_bytes(self) -> int:
        """Bytes of one number, for codecs that look at them."""
        return np.dtype(self.dtype).itemsize

    @abc.abstractmethod
    def pack(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the rows of this array in a block: (n, *tail) in C order, little-endian.

        Parameters
        ----------
        values : array
            The block, as its writer's `matrix` holds it.
        """


@dataclass(frozen=True)
class ColumnsArray(ZarrArray):
    """Some neighbouring columns of a table, whose block is (k, n) int32 of bits.

    Parameters
    ----------
    first, last : int
        Which of the k, `last` not included.
    """

    first: int
    last: int

    def pack(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the columns as rows."""
        chosen = values[self.first : self.last].T
        if self.dtype == "float32":
            rows = np.ascontiguousarray(chosen).view(np.float32)
        else:
            rows = chosen.astype(self.dtype, order="C")
        return rows.reshape(len(rows), *self.tail)


@dataclass(frozen=True)
class BytesArray(ZarrArray):
    """Some neighbouring bytes of the rows of a block, (n, bytes) uint8.

    Parameters
    ----------
    first, last : int
        Which of them, `last` not included.
    """

    first: int
    last: int

    def pack(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the bytes as they are."""
        rows = np.ascontiguousarray(values[:, self.first : self.last])
        return rows.view(self.dtype).reshape(len(rows), *self.tail)


@dataclass(frozen=True)
class BagArray(ZarrArray):
    """One bag: byte strings, whose chunks are the number of rows, then each row's length and bytes.

    Parameters
    ----------
    bag : int
        Which of the V.
    """

    bag: int = 0

    @property
    def row_bytes(self) -> int:
        """Bytes of a row without entries."""
        return 4

    @property
    def item_bytes(self) -> int:
        """Bytes of a code, and of a value."""
        return 4

    def pack(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Refuse: `pack_bag` does it."""
        raise NotImplementedError


def bag_chunk_bytes(n_rows: int, n_entries: int) -> int:
    """Return the bytes of a bag's chunk of so many rows, without a codec."""
    return 4 + 4 * n_rows + 8 * n_entries


def plan_arrays(stored: StoredColumns | StoredFeatures) -> tuple[ZarrArray, ...]:
    """Return the arrays of a dataset, in the order in which their chunks make a block."""
    if isinstance(stored, StoredFeatures):
        n_bytes = stored.feature_bytes
        arrays = [BytesArray("features", stored.dtype, stored.shape, (), 0, n_bytes)]
        several = stored.n_targets > 1
        tail, names = ((stored.n_targets,), ()) if several else ((), ("target",))
        end = n_bytes + stored.target_bytes
        arrays.append(BytesArray("target", "float32", tail, names, n_bytes, end))
        if stored.weighted:
            arrays.append(BytesArray("weight", "float32", (), ("weight",), end, end + 4))
        return tuple(arrays)
    return _plan_table(stored)


def _plan_table(columns: StoredColumns) -> tuple[ZarrArray, ...]:
    n_numeric, n_codes = len(columns.numeric), len(columns.categorical)
    arrays: list[ZarrArray] = []
    if n_numeric:
        tail, names = (n_numeric,), columns.numeric
        arrays.append(ColumnsArray("numeric", "float32", tail, names, 0, n_numeric))
    at = n_numeric + n_codes
    if n_codes:
        kind, tail, names = _code_type(columns), (n_codes,), columns.categorical
        arrays.append(ColumnsArray("codes", kind, tail, names, n_numeric, at))
    for role, column in (
        ("target", columns.target),
        ("weight", columns.weight),
        ("exposure", columns.exposure),
    ):
        if column is not None:
            arrays.append(ColumnsArray(role, "float32", (), (column,), at, at + 1))
            at += 1
    bags = [
        BagArray(f"bag_{v}", BAG_TYPE, (), (name,), bag=v) for v, name in enumerate(columns.bags)
    ]
    return (*arrays, *bags)


def _code_type(columns: StoredColumns) -> str:
    largest = max(columns.cardinalities) - 1
    return next(name for name in CODE_TYPES if largest <= np.iinfo(name).max)


def shard_index(ends: Sequence[int], *, n_entries: int) -> bytes:
    """Return the index that ends a Zarr shard whose chunks lie one behind another.

    Parameters
    ----------
    ends : sequence of int
        Where each chunk of the file ends.
    n_entries : int
        Chunks that a shard of this array has room for; the rest are absent.

    Source
    ------
    Zarr v3 specification, codec "sharding_indexed", with its default index
    codecs: "bytes" (little-endian) and "crc32c".
    """
    entries = np.full((n_entries, 2), _ABSENT, "<u8")
    places = np.array([0, *ends], np.uint64)
    entries[: len(ends), 0] = places[:-1]
    entries[: len(ends), 1] = np.diff(places)
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


def _dimensions(array: ZarrArray) -> tuple[str, ...]:
    # No name may stand for two sizes in a group: xarray would refuse it.
    if isinstance(array, ColumnsArray):
        return tuple(f"{array.name}_column" for _ in array.tail)
    return tuple(f"{array.name}_{axis}" for axis in range(1, 1 + len(array.tail)))


def _fill_value(dtype: str) -> Any:
    if dtype == BAG_TYPE:
        return b""
    return float("nan") if dtype.startswith("float") else 0


def group_metadata(
    arrays: Sequence[ZarrArray],
    *,
    n_rows: int,
    chunk_rows: int,
    shard_chunks: int,
    compression: Compression | None = None,
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
    compression : {None, "zstd", "blosc"}
        What chunks are frames of.
    """
    import zarr
    from zarr.errors import UnstableSpecificationWarning
    from zarr.storage import MemoryStore

    codec = chunk_codec(compression) if compression else None
    files: dict[str, Any] = {}
    group = zarr.create_group(MemoryStore(store_dict=files), zarr_format=3)
    with warnings.catch_warnings():
        # The layout of bags is written down here and in docs/format.md, whatever zarr makes of it.
        warnings.simplefilter("ignore", UnstableSpecificationWarning)
        _create_arrays(
            group,
            arrays,
            n_rows=n_rows,
            chunk_rows=chunk_rows,
            shard_chunks=shard_chunks,
            codec=codec,
        )
    return {name: bytes(data.to_bytes()) for name, data in files.items()}


def _create_arrays(
    group: Any,
    arrays: Sequence[ZarrArray],
    *,
    n_rows: int,
    chunk_rows: int,
    shard_chunks: int,
    codec: Any,
) -> None:
    for array in arrays:
        group.create_array(
            array.name,
            shape=(n_rows, *array.tail),
            chunks=(chunk_rows, *array.tail),
            shards=(chunk_rows * shard_chunks, *array.tail),
            dtype=array.dtype,
            compressors=[codec.metadata(array.item_bytes)] if codec else None,
            filters=None,
            # Every chunk is written: nothing is ever read from this.
            fill_value=_fill_value(array.dtype),
            dimension_names=("row", *_dimensions(array)),
            attributes={"columns": list(array.columns)} if array.columns else {},
        )
