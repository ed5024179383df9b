import io

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.csv_source import CsvSplitter
from data_tools.source import Piece, PieceBuffer
from data_tools.text_source import BUFFER_BYTES
from streamtrain.kernels import csv_rows

BUFFER = PieceBuffer(BUFFER_BYTES)


def split(text, n_fields, *, max_cells=4096, delimiter=","):
    """Return (fields of good records, [(reason, line, text)] of bad ones, lines, blank lines)."""
    BUFFER.data[: len(text)] = np.frombuffer(text, np.uint8)
    splitter = CsvSplitter(n_fields, range(n_fields), delimiter, max_cells=max_cells)
    good, bad, line, blank = [], [], 0, 0
    for records in splitter.split(Piece(0, BUFFER, 0, len(text), 0)):
        reasons = {r.record: r.reason for r in records.rejections}
        for i in range(records.n_records):
            if i in reasons:
                bad.append((reasons[i], line + int(records.lines[i]) + 1, records.text(i)))
            else:
                good.append([cells.text(i) for cells in records.cells])
        line += records.n_lines
        blank += records.n_blank
    return good, bad, line, blank


def arrow(text, n_fields):
    """Return what Arrow reads; None where it refuses the text."""
    names = [str(i) for i in range(n_fields)]
    try:
        table = pa.csv.read_csv(
            io.BytesIO(text),
            read_options=pa.csv.ReadOptions(column_names=names, use_threads=False),
            parse_options=pa.csv.ParseOptions(newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.binary()),
                strings_can_be_null=False,
                quoted_strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid:
        return None
    return [list(row.values()) for row in table.to_pylist()]


field = st.one_of(
    st.text("ab1 '.", max_size=4),
    st.text('a",\n\r ', max_size=5).map(lambda t: '"' + t.replace('"', '""') + '"'),
    st.builds(lambda q, t: f'"{q}"{t}', st.text("a,\n", max_size=3), st.text('b"', max_size=3)),
    st.text('a"', max_size=3).map(lambda t: "x" + t),
)


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(st.lists(field, min_size=3, max_size=3), min_size=1, max_size=6),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    last=st.booleans(),
    max_cells=st.sampled_from([8, 64, 4096]),
)
def test_every_field_is_what_arrow_reads(rows, end, last, max_cells):
    text = end.join(",".join(row) for row in rows).encode() + (end.encode() if last else b"")
    expected = arrow(text, 3)
    good, bad, _, _ = split(text, 3, max_cells=max_cells)
    if expected is None:
        assert bad
    elif not bad:
        assert good == expected


@settings(max_examples=200, deadline=None)
@given(text=st.text('a,"\n\r', max_size=40).map(str.encode), at=st.integers(0, 40))
def test_a_piece_is_cut_where_a_record_ends_whatever_follows(text, at):
    n = min(at, len(text))
    BUFFER.data[: len(text)] = np.frombuffer(text, np.uint8)
    cut = csv_rows.last_record_end(BUFFER.data, 0, n, ord(","))
    assert cut <= n
    # Unless a quote never closes, cutting there changes no record.
    whole = split(text, 2)
    if not any(reason == "unclosed quote" for reason, _, _ in whole[1]):
        first, second = split(text[:cut], 2), split(text[cut:], 2)
        assert first[0] + second[0] == whole[0]
        assert first[2] + second[2] == whole[2]
        assert first[3] + second[3] == whole[3]


def test_a_cut_leaves_no_more_than_the_last_record():
    text = b'1,2\n3,"4\n5"\n6,"7'
    BUFFER.data[: len(text)] = np.frombuffer(text, np.uint8)
    assert csv_rows.last_record_end(BUFFER.data, 0, len(text), ord(",")) == 12


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_and_blank_lines_are_counted_as_an_editor_does(end):
    text = end.join([b"a,b", b"", b'"c', b'd",e', b"", b"f", b"g,h", b""])
    good, bad, lines, blank = split(text, 2)
    assert good == [[b"a", b"b"], [b"c" + end + b"d", b"e"], [b"g", b"h"]]
    assert bad == [("1 field, expected 2", 6, b"f")]
    assert (lines, blank) == (7, 2)


def test_an_unclosed_quote_costs_one_line():
    good, bad, lines, _ = split(b'1,2\n3,"4\n5,6\n7,8\n', 2)
    assert good == [[b"1", b"2"], [b"5", b"6"], [b"7", b"8"]]
    assert bad == [("unclosed quote", 2, b'3,"4')]
    assert lines == 4


def test_a_quote_that_closes_too_late_counts_as_unclosed():
    row = b"5,6\n"
    n = csv_rows.QUOTE_LIMIT // len(row) + 10
    text = b'3,"4\n' + row * n + b'7,8"\n'
    good, bad, _, _ = split(text, 2, max_cells=1 << 20)
    assert bad == [("unclosed quote", 1, b'3,"4')]
    assert len(good) == n + 1
    BUFFER.data[: len(text)] = np.frombuffer(text, np.uint8)
    assert csv_rows.last_record_end(BUFFER.data, 0, len(text), ord(",")) == len(text)


def test_nul_and_bytes_that_are_not_utf8_are_found_in_their_rows():
    good, bad, _, _ = split("1,é\n2,\0\n".encode() + b"3,\xe9\n4,\xed\xa0\x80\n5,6\n", 2)
    assert good == [[b"1", "é".encode()], [b"5", b"6"]]
    assert [(reason, line) for reason, line, _ in bad] == [
        ("NUL byte", 2),
        ("not UTF-8", 3),
        ("not UTF-8", 4),
    ]


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.binary(max_size=6), st.text(max_size=3).map(str.encode)))
def test_utf8_is_judged_as_python_does(data):
    array = np.frombuffer(data + b"\x80\x80", np.uint8)
    try:
        data.decode()
        valid = True
    except UnicodeDecodeError:
        valid = False
    assert csv_rows.is_utf8(array, 0, len(data)) == valid
