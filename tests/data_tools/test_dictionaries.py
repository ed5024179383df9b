"""Texts that a file keeps once for many rows: how much they may become, and what they may be."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_tools.parquet_source import ParquetReader
from data_tools.source import PIECE_BYTES, PieceBuffer
from data_tools.table_source import TableSource
from streamtrain.store.arrow_cells import plain
from tests.data_tools.reading import read_all
from tests.data_tools.tables import run, write_file, write_stream

LONG = [f"{i % 50:020}" + "q" * 20_000 for i in range(3000)]
TEXTS = {
    "one text": ["q" * 1_000_000] * 100,
    "fifty texts": LONG,
    "then short ones": [*LONG, *(f"{i:020}" for i in range(100_000))],
}


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("case", TEXTS)
def test_long_texts_that_rows_share_are_read_a_few_megabytes_at_a_time(tmp_path, case, told):
    texts = pa.array(TEXTS[case])
    table = pa.table({"s": texts.dictionary_encode() if told else texts})
    pq.write_table(table, tmp_path / "a.parquet", store_schema=told)
    source = TableSource(ParquetReader(tmp_path / "a.parquet", "a.parquet"))
    before = pa.total_allocated_bytes()
    n_rows = 0
    for piece in source.pieces(0, lambda: PieceBuffer(0), ["s"]):
        assert pa.total_allocated_bytes() - before < 10 * PIECE_BYTES
        assert plain(piece.batch.column("s")).nbytes < 2 * PIECE_BYTES
        n_rows += piece.batch.num_rows
    assert n_rows == len(texts)


def test_a_text_of_a_dictionary_that_is_not_utf8_rejects_its_rows(tmp_path):
    texts = pa.array([b"a", b"\xff", b"b", None] * 50)
    texts = pa.Array.from_buffers(pa.string(), len(texts), texts.buffers())
    table = pa.table({"s": texts, "y": [0, 1, 1, 0] * 50})
    pq.write_table(table, tmp_path / "a.parquet")
    report, _ = run(tmp_path, str(tmp_path / "a.parquet"), splits={}, target="y")
    assert report.rows_rejected == 50
    assert report.rows_written == 150


@pytest.mark.parametrize("write", [write_file, write_stream])
def test_a_dictionary_of_views_is_one_of_texts(tmp_path, write):
    codes = pa.array([0, 1, None] * 60, pa.int32())
    column = pa.DictionaryArray.from_arrays(codes, pa.array(["u", "vw"], pa.string_view()))
    write(pa.table({"s": column, "y": [0, 1, 1] * 60}), tmp_path / "a.arrow")
    _, manifest = run(tmp_path, str(tmp_path / "a.arrow"), splits={}, target="y")
    assert manifest.schema.categorical[0].cardinality == 4
    assert len(np.unique(read_all(tmp_path / "dataset")["s"])) == 3
