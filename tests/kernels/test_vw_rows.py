"""Lines of VW's text against a reading of them in plain Python."""

import random

import numpy as np
import pytest

from data_tools import entry_cells, vw_source
from data_tools.source import Piece, PieceBuffer
from data_tools.text_source import BUFFER_BYTES
from data_tools.vw_source import VwSource, VwSplitter, hash_of
from streamtrain.errors import SourceError
from streamtrain.kernels import entry_rows

NAMESPACES = ["f", "long name's", "features", "é"]
WANTED = ["é", "label", "f", "tag", "features", "importance"]


def number(text):
    try:
        value = float(text) if text.strip() == text and "_" not in text else None
    except ValueError:
        return None
    return value if value is not None and abs(value) < 3.4e38 else None


def oracle(line):
    """Return cells by name and entries by namespace of a line, or None if it is bad."""
    head, bar, body = line.partition("|")
    if not bar:
        return None
    tokens = head.split()
    tag = ""
    if tokens and (tokens[-1].startswith("'") or not head[-1].isspace()):
        tag = tokens.pop().removeprefix("'")
    if tokens and tokens[0] in {"shared", "ca", "ccb", "slates"}:
        return None
    if len(tokens) > 3 or any(":" in token for token in tokens):
        return None
    if len(tokens) == 3 and set(tokens[2]) - set("+-.0"):
        return None
    cells = {"label": "", "importance": "1", "tag": tag}
    cells |= dict(zip(("label", "importance"), tokens, strict=False))
    bags = {name: [] for name in NAMESPACES}
    for part in body.split("|"):
        words = part.split()
        name, scale = "features", 1.0
        if part and not part[0].isspace():
            name, colon, told = words.pop(0).partition(":")
            scale = number(told) if colon else 1.0
            if not name or scale is None:
                return None
        for word in words:
            feature, colon, told = word.partition(":")
            value = number(told) if colon else 1.0
            if not feature or value is None or abs(scale * value) > 3.4e38:
                return None
            bags[name].append((hash_of(feature), np.float32(scale * value)))
    return cells, bags


def made_line(rng):
    if rng.random() < 0.15:
        return rng.choice([
            "1", "1 :2", "shared |f a", "ca 1:2 |f a", "1:2:0.5 |f a", "1 1 2 |f a", "1 1 0 0 |f a",
            "1 |f a:x", "1 |f a:", "1 |f a:1:2", "1 |f:x a", "1 |: a", "1 |f :2", "1 |f a:inf",
            "1 |f a:1e39", "1 |f:1e30 a:1e30",
        ])  # fmt: skip
    head = rng.choice(["", " ", "1 ", "-1 ", "0.5 2 ", "1 2.5 0 ", "1 2 -0.0 ", "\t1  3 "])
    head += rng.choice(["", "", "'tag ", "tag", "'tag", "' ", "'a'b "])
    body = ""
    for _ in range(rng.randrange(4)):
        # The scale of the namespace without a name cannot be told.
        name = rng.choice(["f", "f:2", "f:-0.5", "é", "é:1e-3", "", "features", "f"])
        words = [
            rng.choice(["a", "b", "aa:2", "a^b:-1.5", "12:0.25", "é:3e2", "longer than_8=x:0"])
            for _ in range(rng.randrange(5))
        ]
        words = " ".join(words).split(" ")
        body += "|" + name + "".join(rng.choice([" ", "  ", "\t"]) + w for w in words if w)
        body += rng.choice(["", " "])
    return head + (body or "|")


def buffer_of(text):
    buffer = PieceBuffer(BUFFER_BYTES)
    buffer.data[: len(text)] = np.frombuffer(text, np.uint8)
    return buffer


@pytest.mark.parametrize("max_cells", [256, 1 << 16])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_lines_are_cut_as_plain_python_cuts_them(max_cells, ending):
    rng = random.Random(5)
    lines = [rng.choice([made_line(rng), made_line(rng), " "]) for _ in range(700)]
    text = (ending.join(lines) + rng.choice(["", ending])).encode()
    splitter = VwSplitter(NAMESPACES, WANTED, strict=True, max_cells=max_cells)
    expected = [(i, line, oracle(line)) for i, line in enumerate(lines) if line.strip()]
    at = line_number = n_blank = 0
    for records in splitter.split(Piece(0, buffer_of(text), 0, len(text), 0)):
        for r in range(records.n_records):
            i, line, found = expected[at]
            assert line_number + records.lines[r] == i
            assert records.text(r).decode() == line
            assert bool(records.good[r]) == (found is not None), line
            cells, bags = found or (dict.fromkeys(("label", "importance", "tag"), ""), {})
            for name, column in zip(WANTED, records.cells, strict=True):
                if name in cells:
                    assert column.text(r).decode() == cells[name], line
                    continue
                first, last = column.offsets[r : r + 2]
                pairs = list(zip(column.keys[first:last], column.values[first:last], strict=True))
                assert pairs == bags.get(name, []), line
            at += 1
        line_number += records.n_lines
        n_blank += records.n_blank
    assert at == len(expected)
    assert n_blank == len(lines) - at


def test_a_row_with_more_entries_than_there_is_room_for_is_bad_wherever_it_stands(monkeypatch):
    monkeypatch.setattr(entry_cells, "MAX_ROW_ENTRIES", 100)
    monkeypatch.setattr(vw_source, "MAX_ROW_ENTRIES", 100)
    sizes = [60, 100, 101, 3, 99, 1, 250, 100]
    for order in (sizes, sizes[::-1]):
        text = "".join(f"1 |f {' '.join(['a'] * n)}\n" for n in order).encode()
        splitter = VwSplitter(["f"], ["f"], strict=True, max_cells=256)
        found = []
        for records in splitter.split(Piece(0, buffer_of(text), 0, len(text), 0)):
            counts = np.diff(records.cells[0].offsets)
            found += [int(n) if g else None for n, g in zip(counts, records.good, strict=True)]
        assert found == [n if n <= 100 else None for n in order]
    bars = b"1 " + b"|f" * 101 + b"\n"
    (records,) = splitter.split(Piece(0, buffer_of(bars), 0, len(bars), 0))
    assert not records.good[0]


def test_a_scan_finds_the_namespaces_in_order_and_about_how_many_entries_they_have(tmp_path):
    path = tmp_path / "a.vw"
    path.write_text("1 |f a b |g c\n\n-1 tag| d:2 |f:0.5 e\n1 |é a|f|features x\n")
    source = VwSource(path, "a.vw")
    assert source.n_rows == 3
    assert source.entries == {"f": 1.0, "g": 1 / 3, "features": 2 / 3, "é": 1 / 3}
    assert [f.name for f in source.fields[:3]] == ["label", "importance", "tag"]


def test_more_namespaces_than_columns_are_refused_with_the_line(tmp_path):
    path = tmp_path / "a.vw"
    path.write_text("1 |f a\n" + "".join(f"1 |n{i} a\n" for i in range(256)))
    with pytest.raises(SourceError, match=r"a.vw, line 257: more than 256 namespaces"):
        VwSource(path, "a.vw")
    path.write_text("1,2\n3,4\n")
    with pytest.raises(SourceError, match=r"no line has a \|"):
        VwSource(path, "a.vw")


def test_entries_are_grouped_by_bag_in_the_order_of_rows():
    rng = np.random.default_rng(1)
    n, n_rows, n_bags = 500, 40, 3
    entries = np.zeros((entry_rows.N_ENTRY, n), np.int32)
    entries[entry_rows.E_ROW] = np.sort(rng.integers(0, n_rows, n))
    entries[entry_rows.E_BAG] = rng.integers(0, n_bags, n)
    keys, values = np.arange(n, dtype=np.uint64), rng.normal(size=n)
    good = (rng.random(n_rows) < 0.8).astype(np.uint8)
    offsets = np.full((n_bags, n_rows + 1), -1, np.int64)
    out_keys, out_values = np.empty(n, np.uint64), np.empty(n, np.float32)
    entry_rows.group_entries(entries, keys, values, good, offsets, out_keys, out_values)
    assert offsets[0, 0] == 0
    for v in range(n_bags):
        assert v == 0 or offsets[v, 0] == offsets[v - 1, -1]
        for r in range(n_rows):
            mine = (entries[entry_rows.E_ROW] == r) & (entries[entry_rows.E_BAG] == v)
            picks = np.flatnonzero(mine & (good[r] != 0))
            first, last = offsets[v, r : r + 2]
            assert out_keys[first:last].tolist() == picks.tolist()
            assert (out_values[first:last] == values[picks].astype(np.float32)).all()
