"""vocabulary/<column>.parquet: the categories of a column and how often each was seen.

Columns `category` (string) and `count` (int64, of the train split). The code of
a category is its row number + FIRST_CODE; codes 0 (missing) and 1 (rare or
unseen) have no row. Rows go by count descending, then by bytes ascending.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from streamtrain import durable
from streamtrain.errors import ManifestError, SchemaError
from streamtrain.store.schema import FIRST_CODE, Column
from streamtrain.store.shards import as_arrow

FOLDER = "vocabulary"
_BATCH = 1024
"""Arrow's own batch, of categories up to 1 KiB."""
_MAX_NAME_BYTES = 180
_ARROW_SCHEMA = pa.schema(
    [
        pa.field("category", pa.string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Vocabulary:
    """The categories of one column, in code order.

    Parameters
    ----------
    offsets : (k + 1,) int64
        Category c is data[offsets[c] : offsets[c + 1]], in UTF-8; its code is c + FIRST_CODE.
    data : uint8
    """

    offsets: npt.NDArray[np.int64]
    data: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def cardinality(self) -> int:
        """Number of codes."""
        return len(self) + FIRST_CODE

    def texts(self) -> list[str]:
        """Return the categories as text."""
        raw, at = self.data.tobytes(), self.offsets.tolist()
        return [raw[a:b].decode() for a, b in zip(at, at[1:], strict=False)]


def vocabulary_digest(vocabulary: Vocabulary, counts: npt.NDArray[np.int64]) -> str:
    """Return the xxh3-128 of categories and counts, hex."""
    digest = xxhash.xxh3_128()
    n_bytes = int(vocabulary.offsets[-1])
    for array, kind in (
        (vocabulary.offsets, "<i8"),
        (vocabulary.data[:n_bytes], "u1"),
        (counts, "<i8"),
    ):
        digest.update(np.ascontiguousarray(array.astype(kind, copy=False)).data)
    return digest.hexdigest()


def file_name(column: str) -> str:
    """Return the file of a column's vocabulary below the dataset.

    Letters, digits, ``_``, ``-``, space and inner dots stay; other bytes become
    ``%XX``. A long name is cut and ends in a digest of the whole.

    >>> file_name("../a b")
    'vocabulary/%2E.%2Fa b.parquet'
    """
    encoded = []
    for i, byte in enumerate(column.encode("utf-8", "surrogatepass")):
        char = chr(byte)
        plain = byte < 128 and (char.isalnum() or char in "_- " or (char == "." and i > 0))
        encoded.append(char if plain else f"%{byte:02X}")
    name = "".join(encoded) or "%"
    if len(name) > _MAX_NAME_BYTES:
        digest = xxhash.xxh3_64_hexdigest(column.encode("utf-8", "surrogatepass"))
        name = f"{name[:_MAX_NAME_BYTES]}%{digest}"
    return f"{FOLDER}/{name}.parquet"


def adopted_name(column: str, digest: str) -> str:
    """Return the file of a column's vocabulary beside files that were adopted.

    Its name tells its contents, so that another adoption replaces the manifest
    and never a file that the present one names.
    """
    return f"{file_name(column).removesuffix('.parquet')}-{digest[:16]}.parquet"


def vocabulary_file(
    column: str, vocabulary: Vocabulary, counts: npt.NDArray[np.int64]
) -> memoryview:
    """Return the bytes of a vocabulary's file.

    Raises
    ------
    SchemaError
        If the categories are too long for one.
    """
    if vocabulary.offsets[-1] >= 1 << 31:
        raise SchemaError(
            f"the categories of {column!r} take {int(vocabulary.offsets[-1]):,} bytes, over 2 GiB",
            where="--max-categories",
        )
    offsets = vocabulary.offsets.astype(np.int32)
    data = np.ascontiguousarray(vocabulary.data[: offsets[-1]])
    strings = pa.StringArray.from_buffers(
        len(vocabulary), pa.py_buffer(offsets), pa.py_buffer(data)
    )
    table = pa.Table.from_arrays(
        [strings, as_arrow(np.ascontiguousarray(counts))], schema=_ARROW_SCHEMA
    )
    # A page ends after a batch at the earliest: one of long categories has fewer of them.
    longest = int(np.diff(offsets).max(initial=1))
    batch = max(min(_BATCH, (_BATCH << 10) // max(longest, 1)), 1)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", store_schema=False, write_batch_size=batch)
    return memoryview(sink.getvalue())


def write_vocabulary(
    folder: Path, column: str, vocabulary: Vocabulary, counts: npt.NDArray[np.int64]
) -> tuple[str, str]:
    """Write a vocabulary into a dataset that is not yet committed.

    Returns
    -------
    tuple of str
        The file below `folder`, and the xxh3-128 of its bytes.

    Raises
    ------
    DiskError
        If the disk is full or fails.
    """
    name = file_name(column)
    buffer = vocabulary_file(column, vocabulary, counts)
    path = folder / name
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise durable.as_stream_error(error, path.parent) from error
    durable.write_directory_file(path, buffer)
    return name, xxhash.xxh3_128_hexdigest(buffer)


def read_vocabulary(folder: Path, column: Column) -> Vocabulary:
    """Read and check the vocabulary of a categorical column of the dataset in `folder`.

    Raises
    ------
    ManifestError
        If it is not there, damaged, or not the one the schema describes.
    """
    path = folder / file_name(column.name)
    adopted = folder / adopted_name(column.name, column.vocabulary_digest)
    path = adopted if adopted.exists() else path
    try:
        # Not read_table: it brings the dataset module, threads and 50 MB of memory.
        with pq.ParquetFile(path, memory_map=False) as file:
            table = file.read(use_threads=False).combine_chunks()
    except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ManifestError(
            f"the vocabulary of {column.name!r} cannot be read",
            where=str(path),
            remedy="ingest again",
        ) from error
    if table.schema.names == ["category", "count"] and table.schema.types == _ARROW_SCHEMA.types:
        array = table.column(0).combine_chunks()
        counts = _as_int64(table.column(1).combine_chunks())
        if not array.null_count and len(array) + FIRST_CODE == column.cardinality:
            vocabulary = from_strings(array)
            if vocabulary_digest(vocabulary, counts) == column.vocabulary_digest:
                return vocabulary
    raise ManifestError(
        f"the vocabulary of {column.name!r} does not match its digest",
        where=str(path),
        remedy="ingest again",
    )


def _as_int64(array: pa.Array) -> npt.NDArray[np.int64]:
    """Return the values of an array without nulls; `to_numpy` would import pandas."""
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], pa.int64())
    buffer = array.buffers()[1]
    if buffer is None:
        return np.zeros(0, np.int64)
    return np.frombuffer(buffer, np.int64)[array.offset : array.offset + len(array)]


def from_strings(array: pa.Array) -> Vocabulary:
    """Return the vocabulary of an Arrow array of strings without nulls."""
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], pa.string())
    n = len(array)
    if n == 0:
        return Vocabulary(np.zeros(1, np.int64), np.zeros(0, np.uint8))
    _, offset_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)[array.offset : array.offset + n + 1]
    data = np.frombuffer(data_buffer, np.uint8) if data_buffer else np.zeros(0, np.uint8)
    return Vocabulary(
        offsets.astype(np.int64) - int(offsets[0]), data[int(offsets[0]) : int(offsets[-1])].copy()
    )
