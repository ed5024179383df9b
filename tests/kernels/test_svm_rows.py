"""Lines of libsvm against a reading of them in plain Python."""

import random

import numpy as np
import pytest

from data_tools.source import Piece, PieceBuffer
from data_tools.svm_source import SparseSplitter, SvmSplitter
from data_tools.text_source import BUFFER_BYTES
from streamtrain.kernels import svm_rows

WIDTH = 6
NAMES = ["label", "qid", *map(str, range(1, WIDTH + 1))]


def oracle(line):
    """Return the cells of a line by name, None if it is malformed, {} if it is blank."""
    tokens = line.split("#", maxsplit=1)[0].split()
    if not tokens:
        return {}
    cells = {"label": tokens[0], "qid": ""} | dict.fromkeys(NAMES[2:], "0")
    last = 0
    for token in tokens[1:]:
        key, colon, value = token.partition(":")
        if colon and key == "qid":
            cells["qid"] = value
        elif colon and key.isdigit() and last < int(key) <= WIDTH:
            last = int(key)
            cells[key] = value
        else:
            return None
    return cells


def made_line(rng):
    if rng.random() < 0.1:
        return rng.choice(
            ["", "  ", "# nothing", "1 2", "1 x:3", "1 :3", "1 3:", "1 7:1", "1 2:1 1:1"]
        )
    tokens = [rng.choice(["0", "1", "-1.5", "1e3"])]
    if rng.random() < 0.2:
        tokens.append(f"qid:{rng.randrange(9)}")
    kept = sorted(rng.sample(range(1, WIDTH + 1), rng.randrange(WIDTH + 1)))
    tokens += [f"{i}:{rng.choice(['0.5', '-2', 'nan', '1:2', ''])}" for i in kept]
    return rng.choice([" ", "  ", "\t"]).join(tokens) + rng.choice(["", " ", " # by hand", "#x"])


@pytest.mark.parametrize("wanted", [NAMES, ["3", "label"], ["qid"]])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_lines_are_cut_as_plain_python_cuts_them(wanted, ending):
    rng = random.Random(5)
    lines = [made_line(rng) for _ in range(400)]
    text = (ending.join(lines) + rng.choice(["", ending])).encode()
    buffer = PieceBuffer(BUFFER_BYTES)
    buffer.data[: len(text)] = np.frombuffer(text, np.uint8)
    splitter = SvmSplitter(NAMES, wanted, max_cells=256)
    expected = [(i, line, oracle(line)) for i, line in enumerate(lines) if oracle(line) != {}]
    at = line_number = n_blank = 0
    for records in splitter.split(Piece(0, buffer, 0, len(text), 0)):
        for r in range(records.n_records):
            i, line, cells = expected[at]
            assert line_number + records.lines[r] == i
            assert records.text(r).decode() == line
            assert bool(records.good[r]) == (cells is not None)
            if cells is not None:
                found = [column.text(r).decode() for column in records.cells]
                assert found == [cells[name] for name in wanted]
            at += 1
        line_number += records.n_lines
        n_blank += records.n_blank
    assert at == len(expected)
    assert n_blank == len(lines) - at


@pytest.mark.parametrize("max_cells", [256, 1 << 16])
def test_entries_are_those_of_plain_python(max_cells):
    rng = random.Random(7)
    lines = [made_line(rng) for _ in range(500)]
    text = "\n".join(lines).encode()
    buffer = PieceBuffer(BUFFER_BYTES)
    buffer.data[: len(text)] = np.frombuffer(text, np.uint8)
    splitter = SparseSplitter(WIDTH, ["qid", "features"], strict=True, max_cells=max_cells)
    expected = [oracle(line) for line in lines if oracle(line) != {}]
    at = 0
    for records in splitter.split(Piece(0, buffer, 0, len(text), 0)):
        queries, bag = records.cells
        for r in range(records.n_records):
            cells = expected[at]
            written = {k: v for k, v in (cells or {}).items() if k.isdigit() and v != "0"}
            good = cells is not None and all(v in {"0.5", "-2"} for v in written.values())
            assert bool(records.good[r]) == good
            first, last = bag.offsets[r : r + 2]
            if good:
                assert queries.text(r).decode() == cells["qid"]
                assert bag.keys[first:last].tolist() == [int(k) for k in written]
                assert bag.values[first:last].tolist() == [float(v) for v in written.values()]
            else:
                assert first == last
            at += 1
    assert at == len(expected)


def test_a_scan_finds_the_width_and_the_first_line_that_is_out_of_order():
    def scan(text):
        state = np.zeros(svm_rows.N_STATE, np.int64)
        data = np.frombuffer(bytearray(text), np.uint8)
        cut = text.index(b"\n") + 1
        svm_rows.scan_svm_rows(data, 0, cut, state)
        svm_rows.scan_svm_rows(data, cut, len(text), state)
        return state[:5].tolist()

    assert scan(b"1 2:1 9:1\n0 qid:3 4:1") == [9, 1, 2, svm_rows.GOOD, 0]
    assert scan(b"1 2:1\n# 0:1\n1 3:1 3:2\n1 0:1\n") == [3, 0, 4, svm_rows.OUT_OF_ORDER, 3]
    assert scan(b"1 0:1\n1 99999999999:1\n") == [1 << 31, 0, 2, svm_rows.ZERO_INDEX, 1]
