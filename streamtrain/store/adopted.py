"""Blocks of Parquet files that were adopted: decoded from checked bytes and nothing else.

A block is a row group of somebody's file, of any encoding and codec. The footer
says where its pages lie; both are checked against their digests, and Arrow gets
a file that has the bytes of the row group and no others:

    file     PAR1 | row group 0 | row group 1 | ... | footer
    Arrow's                     [ checked     ]

Rows are decoded some thousands at a time, so that memory is a page and a
dictionary of each column, and never the row group.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from streamtrain import durable
from streamtrain.errors import CorruptShardError, StreamtrainError
from streamtrain.kernels.bags import Bags
from streamtrain.kernels.scatter import scatter_block
from streamtrain.store.adopted_manifest import Adopted, AdoptedFile, ByteRange
from streamtrain.store.adopted_rows import FoundCodes, RowDecoder, Tables
from streamtrain.store.manifest import Part, Shard, StoredBlock
from streamtrain.store.schema import Schema
from streamtrain.store.vocabulary import read_vocabulary

Bytes = npt.NDArray[np.uint8]
BATCH_ROWS = 32_768
"""Rows decoded at once: their stored columns stay in cache until they are scattered."""
_FOOTER_BYTES = 4 << 20
"""Footers that are kept parsed, for the next block of their files."""
_FOOTER_FACTOR = 8
"""Memory of a parsed footer for each of its bytes."""
_REMEDY = "restore the file, or adopt the files again"


@dataclass
class _OpenFile:
    """A file whose footer is parsed; `source` holds the row group that is being decoded."""

    name: str
    source: CheckedRange
    reader: pq.ParquetFile
    columns: list[str]
    footer_bytes: int


class CheckedRange:
    """A read-only file of which one range exists: what Arrow decodes from.

    Parameters
    ----------
    n_bytes : int
        Size that the file claims.
    """

    closed = False

    def __init__(self, n_bytes: int) -> None:
        self._n_bytes = n_bytes
        self._at = self._start = 0
        self._view = memoryview(b"")

    def show(self, offset: int, data: Bytes | None) -> None:
        """Make the range at `offset` exist, and none other; None for none."""
        self._start = offset
        self._view = memoryview(b"") if data is None else data.data

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move, and return the position."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at}.get(whence, self._n_bytes)
        return self._at

    def read(self, n: int = -1) -> memoryview:
        """Return bytes of the range, as many as are asked for.

        Raises
        ------
        OSError
            If any of them were not checked.
        """
        begin = self._at - self._start
        if n < 0 or begin < 0 or begin + n > len(self._view):
            raise OSError("its footer leads out of the row group")
        self._at += n
        return self._view[begin : begin + n]

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing: the range is replaced, not closed."""


class AdoptedParquet:
    """Row groups of any encoding, decoded to the values that ingest would have stored.

    Parameters
    ----------
    schema : Schema
    adopted : Adopted
    root : str
        The dataset.
    tables : Tables or None
        None reads the vocabularies when the first block is decoded.
    """

    def __init__(
        self, schema: Schema, adopted: Adopted, root: str, tables: Tables | None = None
    ) -> None:
        self._schema = schema
        self._adopted = adopted
        self._root = Path(root)
        self._cardinality = np.array(schema.stored.cardinalities, np.int32)
        self._lock = threading.Lock()
        self._idle: list[_OpenFile] = []
        self._decoder = RowDecoder(schema, tables, adopted.lists) if tables is not None else None

    @property
    def scratch_bytes(self) -> int:
        """What a reading thread decodes with, beside the bytes of a block."""
        largest = max((f.footer.n_bytes for f in self._adopted.files.values()), default=0)
        rows = 4 * BATCH_ROWS * (len(self._schema.value_names) + 8)
        return self._adopted.decode_bytes + _FOOTER_FACTOR * largest + rows

    @property
    def shared_bytes(self) -> int:
        """Tables of categories, and footers that are kept parsed: one set for all threads."""
        footers = sum(file.footer.n_bytes for file in self._adopted.files.values())
        return self._adopted.shared_bytes + _FOOTER_FACTOR * min(footers, _FOOTER_BYTES)

    def check(self, block: StoredBlock) -> None:
        """Refuse nothing: what a row group of so many bytes decodes to shows as it does."""

    def scatter(
        self,
        block: StoredBlock,
        chunks: Sequence[Bytes],
        places: npt.NDArray[np.int32],
        *,
        numeric: npt.NDArray[Any],
        codes: npt.NDArray[np.int32],
        target: npt.NDArray[np.float32],
        weight: npt.NDArray[np.float32],
        exposure: npt.NDArray[np.float32],
        bags: Bags,
        entries_at: int,
    ) -> int:
        """Decode some thousands of rows, scatter them, and go on."""
        del bags, entries_at  # what was adopted has none
        first = 0
        for rows in self.decode(block.parts[0], chunks[0]):
            n = rows.shape[1]
            bad = scatter_block(
                rows.reshape(-1).view(np.uint8),
                n,
                4 * n,
                places[first : first + n],
                numeric,
                codes,
                target,
                weight,
                exposure,
                self._cardinality,
            )
            if bad >= 0:
                return int(bad)
            first += n
        return -1

    def decode(self, part: Part, data: Bytes) -> Iterator[npt.NDArray[np.int32]]:
        """Yield the rows of a block in order, (k, n) int32 each: stored columns, as bits.

        Parameters
        ----------
        part : Part
        data : (n_bytes,) uint8
            Its bytes, which match their digest.

        Raises
        ------
        CorruptShardError
            If the footer is not the one that was adopted, or the bytes do not decode
            to the block's rows.
        """
        name, n_rows = part.shard.name, part.block.n_rows
        decoder = self._decoder or self._make_decoder()
        file = None
        try:
            file = self._open(part)
            file.source.show(part.block.offset, data)
            done = 0
            found: dict[str, FoundCodes] = {}
            for batch in file.reader.iter_batches(
                BATCH_ROWS, row_groups=[part.number], columns=file.columns, use_threads=False
            ):
                done += batch.num_rows
                if done > n_rows:
                    break  # never more rows than memory was taken for
                if batch.num_rows:
                    yield decoder.decode(batch, self._adopted.files[name].constants, found)
            if done != n_rows:
                raise self._corrupt(part, f"decodes to other than its {n_rows:,} rows")
        except (StreamtrainError, GeneratorExit):
            raise
        except (pa.ArrowException, OSError, ValueError, KeyError, IndexError) as error:
            told = (str(error).splitlines() or [""])[0][:200]
            raise self._corrupt(part, f"cannot be decoded: {told}") from error
        finally:
            if file is not None:
                self._give_back(file)

    def _make_decoder(self) -> RowDecoder:
        with self._lock:
            if self._decoder is None:
                columns = self._schema.categorical
                tables = Tables(self._schema, lambda f: read_vocabulary(self._root, columns[f]))
                self._decoder = RowDecoder(self._schema, tables, self._adopted.lists)
        return self._decoder

    def _open(self, part: Part) -> _OpenFile:
        """Return a reader of a file that no other thread uses."""
        name = part.shard.name
        with self._lock:
            for k, kept in enumerate(self._idle):
                if kept.name == name:
                    return self._idle.pop(k)
        footer = self._adopted.files[name].footer
        metadata = pq.read_metadata(pa.BufferReader(self._read_footer(part, footer)))
        source = CheckedRange(part.shard.n_bytes)
        names = metadata.schema.to_arrow_schema().names
        columns = (self._decoder or self._make_decoder()).columns(names) or names[:1]
        texts = {c.name for c in self._schema.categorical} | {self._schema.target.name}
        reader = pq.ParquetFile(
            pa.PythonFile(source, mode="r"),
            metadata=metadata,
            pre_buffer=False,
            read_dictionary=_in_dictionaries(metadata, texts),
        )
        return _OpenFile(name, source, reader, columns, footer.n_bytes)

    def _give_back(self, file: _OpenFile) -> None:
        """Keep a reader for the next block of its file, as long as it is among the newest."""
        file.source.show(0, None)
        with self._lock:
            self._idle.append(file)
            while sum(kept.footer_bytes for kept in self._idle) > _FOOTER_BYTES:
                self._idle.pop(0)

    def _read_footer(self, part: Part, footer: ByteRange) -> bytes:
        path = self._root / part.shard.name
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(footer.offset)
                data = file.read(footer.n_bytes)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._corrupt(part, "missing") from error
        except OSError as error:
            raise durable.as_read_error(error, path) from error
        if len(data) < footer.n_bytes:
            raise self._corrupt(
                part, f"truncated: {len(data)} of {footer.n_bytes} bytes of the footer"
            )
        digest = xxhash.xxh3_64_hexdigest(data)
        if digest != footer.digest:
            raise self._corrupt(part, f"damaged: footer {digest}, expected {footer.digest}")
        return data

    def _corrupt(self, part: Part, what: str) -> CorruptShardError:
        where = f"{self._root / part.shard.name}, block {part.number}"
        return CorruptShardError(what, where=where, remedy=_REMEDY)


def _in_dictionaries(metadata: pq.FileMetaData, texts: set[str]) -> list[str]:
    """Return the columns of text that the file keeps in dictionaries: read as such, for speed."""
    if not metadata.num_row_groups:
        return []
    group = metadata.row_group(0)
    found = []
    for c in range(group.num_columns):
        column = group.column(c)
        if (
            column.path_in_schema in texts
            and metadata.schema.column(c).logical_type.type in {"STRING", "NONE"}
            and column.physical_type == "BYTE_ARRAY"
            and column.has_dictionary_page
        ):
            found.append(column.path_in_schema)
    return found


def group_ranges(metadata: pq.FileMetaData) -> list[tuple[int, int, int]]:
    """Return (rows, offset, bytes) of every row group: where its pages lie."""
    found = []
    for g in range(metadata.num_row_groups):
        group = metadata.row_group(g)
        starts, stops = [], []
        for c in range(group.num_columns):
            column = group.column(c)
            # Some writers leave 0 for a dictionary that is not there.
            start = column.data_page_offset
            if column.has_dictionary_page and column.dictionary_page_offset:
                start = min(start, column.dictionary_page_offset)
            starts.append(start)
            stops.append(start + column.total_compressed_size)
        start = min(starts, default=0)
        found.append((group.num_rows, start, max(stops, default=0) - start))
    return found


def adopted_file(
    path: Path, constants: dict[str, str | None]
) -> tuple[AdoptedFile, pq.FileMetaData, int]:
    """Return what the manifest keeps of a Parquet file, its metadata, and its size.

    Raises
    ------
    ArrowInvalid, OSError
        If it is not one.
    """
    with path.open("rb", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 8, 0))
        n_bytes = int.from_bytes(file.read(4), "little") + 8
        if n_bytes + 4 > size:
            raise OSError("its footer does not fit into it")
        file.seek(size - n_bytes)
        data = file.read(n_bytes)
    metadata = pq.read_metadata(pa.BufferReader(data))
    footer = ByteRange(size - n_bytes, n_bytes, xxhash.xxh3_64_hexdigest(data))
    return AdoptedFile(footer, constants), metadata, size


def part_of_file(name: str, n_bytes: int, number: int, block: Any) -> Part:
    """Return the part of a block that is not in a manifest yet."""
    return Part(Shard(name, block.n_rows, n_bytes, "", ()), number, block)
