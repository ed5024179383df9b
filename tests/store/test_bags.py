"""Texts and lists to codes and values, against plain Python."""

import random
import unicodedata
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from streamtrain.errors import SchemaError, SourceError
from streamtrain.kernels.text import hash_names, most_parts, text_codes
from streamtrain.store import bags
from streamtrain.store.bags import (
    Coded,
    Keyed,
    cells_of_strings,
    code_keys,
    code_texts,
    entries_of,
    gather_bags,
    is_bag_type,
    keyed_array,
    keyed_of,
)
from streamtrain.store.schema import Column, Entries
from streamtrain.store.string_table import MissingTexts

MASK = 2**64 - 1
WORD, CHARACTER = 0x5851F42D4C957F2D, 0x14057B7EF767814F
NONE = MissingTexts([])


def mix(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def words_of(text):
    """Return the words of a text, small."""
    small = "".join(
        c if unicodedata.category(c)[0] in "LNM" or c == "_" else " " for c in text.lower()
    )
    return small.split()


def hash_word(word):
    data = word.encode()
    h = len(data) ^ WORD
    for byte in data:
        h = ((h ^ byte) * 0x100000001B3) & MASK
        h ^= h >> 29
    return mix(h)


def run_hash(hashes, salt):
    h = hashes[0]
    for word in hashes[1:]:
        h = mix(h ^ ((word + salt) & MASK))
    return h


def oracle(text, spec, cardinality):
    """Return code and value of the parts of a text, by code."""
    words = words_of(text)
    codes = []

    def add(items, lengths, salt, mark):
        for length in range(lengths[0], lengths[1] + 1) if lengths[1] else ():
            runs = [items[i : i + length] for i in range(len(items) - length + 1)]
            codes.extend(mix(run_hash(run, salt) ^ (mark + length)) for run in runs)

    add([hash_word(w) for w in words], spec.words, WORD, 0)
    for word in words:
        marks = [2, *(int.from_bytes(c.encode(), "big") for c in word), 3]
        add([mix(c ^ CHARACTER) for c in marks], spec.characters, CHARACTER, 64)
    counts = Counter(code % cardinality for code in codes)
    norm = np.sqrt(sum(n * n for n in counts.values())) if spec.norm == "l2" else 1.0
    return {code: counts[code] / norm for code in sorted(counts)}


def rows_of(coded):
    return [
        dict(zip(coded.codes[a:b].tolist(), coded.values[a:b].tolist(), strict=True))
        for a, b in zip(coded.offsets[:-1], coded.offsets[1:], strict=True)
    ]


def cells(texts):
    return cells_of_strings(pa.array(texts, pa.large_string()))


def check(texts, spec, cardinality=1 << 28):
    found = rows_of(code_texts(cells(texts), spec, cardinality, NONE))
    for text, row in zip(texts, found, strict=True):
        expected = oracle(text or "", spec, cardinality)
        assert list(row) == list(expected), text
        np.testing.assert_allclose(list(row.values()), list(expected.values()), rtol=1e-6)


SPECS = [
    Entries("text", (1, 2), (0, 0), "l2"),
    Entries("text", (1, 1), (0, 0), "none"),
    Entries("text", (2, 3), (0, 0), "none"),
    Entries("text", (0, 0), (3, 5), "l2"),
    Entries("text", (1, 8), (1, 8), "none"),
]
TEXTS = [
    "", " ", "a", "A", "The cat sat on THE mat; the cat.", "under_score x2 2x", "a-b a b",
    "Ärger über Öl", "ärger ÜBER öl", "naïve — “quoted” text…", "日本語 テキスト", "e\u0301 accent",
    "emoji 😀 word😀word", "a\tb\nc\r\nd", "\x00nul\x01", "ends in a word", "?!.,", None,
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("cardinality", [1 << 28, 16, 1])
def test_parts_of_texts_are_those_of_plain_python(spec, cardinality):
    check(TEXTS, spec, cardinality)
    # An ASCII text has the same parts whatever stands beside it.
    check([t for t in TEXTS if t and t.isascii()], spec, cardinality)


def test_parts_of_random_texts_are_those_of_plain_python():
    rng = random.Random(3)
    alphabet = "aAbBzZ09_ .-'\täÖé日😀"
    texts = ["".join(rng.choices(alphabet, k=rng.randrange(40))) for _ in range(300)]
    for spec in SPECS:
        check(texts, spec)


def test_texts_longer_than_a_chunk_are_whole(monkeypatch):
    long = " ".join(f"word{i % 1000}" for i in range(60_000))
    texts = ["a b", long, "", "b c", long + " é"]
    whole = rows_of(code_texts(cells(texts), SPECS[0], 1 << 20, NONE))
    assert whole[1] == pytest.approx(oracle(long, SPECS[0], 1 << 20))
    monkeypatch.setattr(bags, "_CHUNK_BYTES", 5)
    assert rows_of(code_texts(cells(texts), SPECS[0], 1 << 20, NONE)) == whole


def test_a_kernel_writes_no_more_parts_than_there_is_said_to_be_room_for():
    for spec in SPECS:
        for text in ("a b c d e f g", "a" * 50, "a.b" * 20, "x y" * 9, ""):
            column = cells([text])
            most = most_parts(len(text) + 1, spec.words, spec.characters)
            codes, values = np.full(most + 9, -1, np.int32), np.zeros(most + 9, np.float32)
            words, characters = np.array(spec.words), np.array(spec.characters)
            text_codes(
                column.data, column.starts, column.stops, words, characters, 1 << 28, False,
                np.zeros(1, np.int64), codes, values,
            )  # fmt: skip
            assert (codes[most:] == -1).all(), (spec, text)


def test_missing_texts_have_no_parts_though_they_are_words():
    found = rows_of(code_texts(cells(["NA", " NA ", "na", ""]), SPECS[1], 99, MissingTexts(["NA"])))
    assert [len(row) for row in found] == [0, 0, 1, 0]


def name_hash(text):
    column = cells([text])
    out = np.empty(1, np.uint64)
    hash_names(column.data, column.starts, column.stops, out)
    return int(out[0])


PAIR = pa.struct([("k", pa.string()), ("v", pa.float64())])
NUMBERED = pa.struct([("k", pa.int32()), ("v", pa.int16())])
LISTS = {
    "strings": (pa.list_(pa.string()), [["a", "b"], [], None, ["a", None, "a"], [""]]),
    "large": (pa.large_list(pa.large_string()), [["a" * 30], ["é", "b"], None]),
    "pairs": (
        pa.list_(PAIR),
        [
            [{"k": "a", "v": 2.0}, {"k": "b", "v": None}, None, {"k": None, "v": 1.0}],
            None,
            [{"k": "c", "v": 0.25}, {"k": "d", "v": float("inf")}, {"k": "e", "v": -1.5}],
        ],
    ),
    "dictionary": (
        pa.list_(pa.dictionary(pa.int8(), pa.string())),
        [["a", "b"], None, ["a", None, "c" * 30, "a"], []],
    ),
    "views": (pa.large_list(pa.string_view()), [["a", "b" * 30], [], None, ["é", None]]),
    "fixed": (pa.list_(pa.string(), 2), [["a", "b"], None, [None, "c"]]),
    "numbers": (pa.list_(NUMBERED), [[{"k": 7, "v": 3}, {"k": 0, "v": -1}], []]),
    "map": (
        pa.map_(pa.string(), pa.float32()),
        [[("a", 1.0), ("b", None)], None, [], [("c", 0.0)]],
    ),
}


def expected_pairs(row, hashed):
    found = []
    for item in row or ():
        if item is None:
            continue
        key, value = (
            (item, 1.0)
            if isinstance(item, str)
            else tuple(item.values())
            if isinstance(item, dict)
            else item
        )
        if key is None or value is None:
            continue
        found.append((name_hash(str(key)) if hashed else key, value))
    return found


def pairs(rows):
    return [
        list(zip(rows.keys[a:b].tolist(), rows.values[a:b].tolist(), strict=True))
        for a, b in zip(rows.offsets[:-1], rows.offsets[1:], strict=True)
    ]


@pytest.mark.parametrize("kind", LISTS)
def test_lists_are_read_as_plain_python_reads_them(kind):
    told, rows = LISTS[kind]
    array = pa.array(rows * 3, told)
    assert is_bag_type(told)
    hashed = [expected_pairs(row, True) for row in rows * 3]
    assert pairs(keyed_of(array, where="x", indexed=False)) == hashed
    # A slice begins in the middle of the buffers.
    assert pairs(keyed_of(array.slice(2, 5), where="x", indexed=False)) == hashed[2:7]
    assert pairs(keyed_of(array.slice(0, 0), where="x", indexed=False)) == []
    if kind == "numbers":
        indexed = [expected_pairs(row, False) for row in rows * 3]
        assert pairs(keyed_of(array, where="x", indexed=True)) == indexed


def test_dictionaries_of_views_and_with_nulls_and_names_that_nobody_uses_are_lists():
    names = pa.array(["a", None, "unused", "b" * 30], pa.string_view())
    items = pa.DictionaryArray.from_arrays(pa.array([0, 3, 1, None, 0], pa.uint8()), names)
    array = pa.LargeListArray.from_arrays([0, 2, 5], items)
    a, b = name_hash("a"), name_hash("b" * 30)
    found = keyed_of(array, where="x", indexed=False)
    assert pairs(found) == [[(a, 1.0), (b, 1.0)], [(a, 1.0)]]
    numbers = pa.DictionaryArray.from_arrays(pa.array([1, 0, 1]), pa.array([7, 5]))
    array = pa.ListArray.from_arrays([0, 1, 3], numbers)
    assert pairs(keyed_of(array, where="x", indexed=True)) == [[(5, 1.0)], [(7, 1.0), (5, 1.0)]]
    assert is_bag_type(pa.map_(pa.dictionary(pa.int8(), pa.string()), pa.float32()))


def test_one_long_name_that_is_there_often_is_not_written_out(monkeypatch):
    # Decoded, a million of these would take a terabyte.
    names = pa.array(["a" * 1_000_000])
    items = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1_000_000, np.int8)), names)
    array = pa.ListArray.from_arrays([0, 1_000_000], items)
    found = keyed_of(array, where="x", indexed=False)
    assert set(found.keys.tolist()) == {name_hash("a" * 1_000_000)}
    views = np.zeros((3000, 4), np.int32)
    views[:] = np.frombuffer(pa.array(["a" * 1_000_000], pa.string_view()).buffers()[1], np.int32)
    many = pa.Array.from_buffers(
        pa.string_view(), 3000, [None, pa.py_buffer(views), pa.py_buffer(b"a" * 1_000_000)]
    )
    with pytest.raises(SourceError, match="longer than 1 GiB"):
        keyed_of(pa.ListArray.from_arrays([0, 3000], many), where="x", indexed=False)


def test_rows_with_a_value_that_is_not_finite_are_told_and_refused_by_a_model():
    rows = [[("a", 1.0)], [("a", 1.0), ("b", np.nan)], [], [("a", 1e300), ("b", np.inf)], None]
    array = pa.array(rows, pa.map_(pa.string(), pa.float64()))
    assert keyed_of(array, where="x", indexed=False).not_finite().tolist() == [1, 3]
    assert keyed_of(array[2:], where="x", indexed=False).not_finite().tolist() == [1]
    column = Column("x", "bag", cardinality=8, entries=Entries("hashed"))
    assert len(entries_of(array[2:3], column, NONE)) == 1
    with pytest.raises(SchemaError, match="a value that is not finite"):
        entries_of(array, column, NONE)


def test_lists_of_other_things_and_negative_indices_are_refused():
    for kind in (
        pa.list_(pa.list_(pa.string())),
        pa.list_(pa.bool_()),
        pa.string(),
        pa.list_(pa.binary()),
        pa.list_(pa.dictionary(pa.int8(), pa.binary())),
    ):
        assert not is_bag_type(kind)
        with pytest.raises(SchemaError, match="expected lists of names or numbers"):
            keyed_of(pa.array([], kind), where="x", indexed=False)
    with pytest.raises(SchemaError, match="a negative index"):
        keyed_of(pa.array([[-1]], pa.list_(pa.int64())), where="x", indexed=True)
    with pytest.raises(SchemaError, match="expected indices"):
        keyed_of(pa.array([["a"]], pa.list_(pa.string())), where="x", indexed=True)


def test_an_array_of_keys_gives_the_rows_that_were_picked():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 5, 30)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    rows = Keyed(
        offsets,
        rng.integers(0, 2**64, offsets[-1], np.uint64),
        rng.normal(size=offsets[-1]).astype(np.float32),
    )
    for picks in (np.arange(30), np.array([3, 4, 9, 29]), np.empty(0, np.int64)):
        again = keyed_of(keyed_array(rows, picks), where="x", indexed=False)
        assert pairs(again) == [pairs(rows)[i] for i in picks]


def test_hashes_fall_into_codes_and_indices_beyond_them_are_left_out():
    rows = Keyed(
        np.array([0, 3, 3, 5]),
        np.array([7, 2**64 - 1, 9, 10, 3], np.uint64),
        np.arange(5, dtype="f4"),
    )
    hashed = code_keys(rows, 10, indexed=False)
    assert hashed.codes.tolist() == [7, (2**64 - 1) % 10, 9, 0, 3]
    assert hashed.offsets.tolist() == [0, 3, 3, 5]
    indexed = code_keys(rows, 10, indexed=True)
    assert indexed.codes.tolist() == [7, 9, 3]
    assert indexed.values.tolist() == [0, 2, 4]
    assert indexed.offsets.tolist() == [0, 2, 2, 3]


def test_columns_are_gathered_row_by_row():
    a = Coded(np.array([0, 2, 2]), np.array([5, 6], np.int32), np.ones(2, np.float32))
    b = Coded(np.array([0, 0, 1]), np.array([9], np.int32), np.full(1, 2, np.float32))
    found = gather_bags([a, b], 2)
    assert found.ranges.tolist() == [[[0, 2], [2, 2]], [[2, 2], [2, 3]]]
    assert found.codes.tolist() == [5, 6, 9]
    assert gather_bags([], 3).ranges.shape == (3, 0, 2)


def test_a_column_of_another_kind_is_refused_with_its_name():
    text = Column("t", "bag", cardinality=1 << 20, entries=SPECS[0])
    names = Column("n", "bag", cardinality=8, entries=Entries("hashed"))
    with pytest.raises(SchemaError, match="column 't': is int64, expected text"):
        entries_of(pa.array([1]), text, NONE)
    with pytest.raises(SchemaError, match="column 'n': is string, expected lists"):
        entries_of(pa.array(["a"]), names, NONE)
    assert entries_of(pa.nulls(3), text, NONE).offsets.tolist() == [0, 0, 0, 0]
    same = entries_of(pa.array(["a b", "a b"]).dictionary_encode(), text, NONE)
    assert same.codes[:3].tolist() == same.codes[3:].tolist()
