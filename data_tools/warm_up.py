"""Load (or compile) every kernel of ingest before memory is planned."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.csv_source import CsvSplitter
from data_tools.partitions import ordinals_of
from data_tools.source import Piece, PieceBuffer
from data_tools.statistics import Moments
from data_tools.svm_source import SparseSplitter, SvmSplitter
from data_tools.vw_source import VwSplitter, hash_of
from streamtrain.kernels import csv_rows, packing, strings, svm_rows, vw_rows
from streamtrain.kernels.row_key import row_keys
from streamtrain.store.bags import code_keys, code_texts, keyed_of
from streamtrain.store.cells import as_text
from streamtrain.store.entry_buffer import EntryBuffer
from streamtrain.store.schema import Entries, StoredColumns
from streamtrain.store.shards import as_arrow
from streamtrain.store.string_table import MissingTexts, StringTable, TextCells, parse_cells
from streamtrain.store.zarr_layout import group_metadata, plan_arrays


def warm_up(file_format: str = "parquet") -> None:
    """Call every kernel once, with the types that ingest uses, and load what a format needs."""
    text = b'1,a\n"2",b\n'
    buffer = PieceBuffer(13 << 20)
    buffer.data[: len(text)] = np.frombuffer(text, np.uint8)
    csv_rows.last_line_end(buffer.data, 0, len(text))
    csv_rows.last_record_end(buffer.data, 0, len(text), 44)
    csv_rows.next_line(buffer.data, 0, len(text))
    splitter = CsvSplitter(2, [0, 1], ",", max_cells=256)
    records = next(splitter.split(Piece(0, buffer, 0, len(text), 0)))
    n = records.n_records
    missing = MissingTexts(["", "?"])
    first = as_text(records.cells[0])
    parse_cells(first, records.good, missing, np.empty(n), np.empty(n, np.uint8))
    strings_seen = StringTable()
    stored = np.zeros((2, n), np.int32)
    cells: TextCells = as_text(records.cells[1])
    strings_seen.intern(cells, records.good, missing, stored[0])
    strings_seen.ranked(at_least=0, at_most=9)
    strings_seen.prune()
    missing.find(cells)
    ordinals, splits = np.arange(n, dtype=np.uint64), np.zeros(n, np.uint8)
    strings.hash_cells(cells.data, cells.starts, cells.stops, ordinals.copy())
    key = np.uint64(1)
    packing.draw_splits(key, ordinals, np.zeros(2, np.uint64), splits)
    row_keys(key, ordinals, ordinals.copy())
    rows = np.zeros((n, 4), np.int32)
    counts = np.zeros(1, np.int64)
    packing.pack_rows(stored, np.arange(n), ordinals, splits, key, np.uint64(64), counts, rows)
    ordinals_of(rows)
    ordinals_of(rows[:, :2].copy())
    packing.gather_columns(rows, np.arange(n), 0, n, stored, 0)
    Moments(2).update(stored.view(np.float32))
    text = b"1 qid:1 1:2\n"
    buffer.data[: len(text)] = np.frombuffer(text, np.uint8)
    svm_rows.scan_svm_rows(buffer.data, 0, len(text), np.zeros(svm_rows.N_STATE, np.int64))
    next(SvmSplitter(["label", "1"], ["1"], max_cells=256).split(Piece(0, buffer, 0, len(text), 0)))
    _split_entries(buffer)
    # Arrow's Parquet writer brings tens of megabytes of code and tables with it.
    table = pa.Table.from_arrays([as_arrow(counts)], names=["count"])
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    pq.read_metadata(pa.BufferReader(sink.getvalue()))
    if file_format == "zarr":
        group_metadata(plan_arrays(_LIKE), n_rows=1, chunk_rows=1, shard_chunks=1)


def _split_entries(buffer: PieceBuffer) -> None:
    text = b"1 1:2\n1 |f a:2\n"
    buffer.data[: len(text)] = np.frombuffer(text, np.uint8)
    sparse = SparseSplitter(1, ["label", "features"], strict=True, max_cells=256)
    next(sparse.split(Piece(0, buffer, 0, 6, 0)))
    hashes, counts = np.zeros(2, np.uint64), np.zeros(2, np.int64)
    places, state = np.zeros((2, 2), np.int64), np.zeros(vw_rows.N_STATE, np.int64)
    name = np.uint64(hash_of("f"))
    vw_rows.scan_vw_rows(buffer.data, 6, len(text), name, hashes, counts, places, state)
    vw = VwSplitter(["f"], ["label", "f"], strict=True, max_cells=256)
    next(vw.split(Piece(0, buffer, 6, len(text), 0)))


def warm_up_bags() -> None:
    """Call the kernels of columns of variable length."""
    cells = TextCells(np.zeros(16, np.uint8), np.zeros(1, np.int32), np.ones(1, np.int32))
    coded = code_texts(cells, Entries("text", (1, 2), (3, 5), "l2"), 4, MissingTexts([]))
    names = pa.array([["a"]], pa.list_(pa.string()))
    code_keys(keyed_of(names, where="", indexed=False), 4, indexed=False)
    rows, counts = np.zeros((1, 5), np.int32), np.ones(1, np.int64)
    packing.pack_entries(rows, counts, 1, coded.words(), coded.words(), counts.copy())
    buffer = EntryBuffer(1)
    buffer.append(np.zeros(1, np.int64), np.zeros(1, np.int64), coded.words())
    buffer.packed()


_LIKE = StoredColumns(numeric=("x",), categorical=(), cardinalities=(), target="y")


if __name__ == "__main__":
    if sys.argv[1:] == ["bags"]:
        warm_up_bags()
    else:
        warm_up()
