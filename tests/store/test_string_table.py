from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtrain.store.string_table import MissingTexts, StringIndex, StringTable, TextCells

MISSING = MissingTexts(["", "?"])


def cells_of(texts):
    encoded = [t.encode() for t in texts]
    stops = np.cumsum([len(t) for t in encoded]).astype(np.int32)
    starts = stops - np.array([len(t) for t in encoded], np.int32)
    return TextCells(np.frombuffer(b"".join(encoded) + bytes(8), np.uint8), starts, stops)


def intern(table, texts, use=2):
    out = np.empty(len(texts), np.int32)
    table.intern(cells_of(texts), np.full(len(texts), use, np.uint8), MISSING, out)
    return out.tolist()


# Equal beginnings, lengths around one word, and texts that are missing.
texts = st.lists(
    st.one_of(st.sampled_from(["", "?", " ? ", "a", "abcdefgh", "abcdefghi", "abcdefghj"]),
              st.text("ab", max_size=20)),
    max_size=200,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(texts)
def test_strings_are_numbered_in_order_of_appearance_and_counted(cells):
    present = [t for t in cells if t.strip(" \t") not in {"", "?"}]
    numbers = {t: i for i, t in enumerate(dict.fromkeys(present))}
    table = StringTable()
    assert intern(table, cells) == [numbers[t] + 1 if t in numbers else 0 for t in cells]
    ids, counts, offsets, data = table.ranked(at_least=1, at_most=10**6)
    ranked = sorted(Counter(present).items(), key=lambda p: (-p[1], p[0].encode()))
    raw = data.tobytes()
    found = [raw[a:b].decode() for a, b in zip(offsets, offsets[1:], strict=False)]
    assert list(zip(found, counts.tolist(), strict=True)) == ranked
    assert ids.tolist() == [numbers[t] for t, _ in ranked]


@settings(max_examples=100, deadline=None)
@given(texts, texts)
def test_an_index_finds_what_it_holds_and_nothing_else(known, asked):
    known = list(dict.fromkeys(t for t in known if t.strip(" \t") not in {"", "?"}))
    encoded = [t.encode() for t in known]
    offsets = np.cumsum([0, *map(len, encoded)]).astype(np.int64)
    index = StringIndex(offsets, np.frombuffer(b"".join(encoded), np.uint8))
    codes = {t: i + 2 for i, t in enumerate(known)}
    expected = [0 if t.strip(" \t") in {"", "?"} else codes.get(t, 1) for t in asked]
    assert index.find(cells_of(asked), MISSING, np.empty(len(asked), np.int32)).tolist() == expected


def test_rows_outside_train_are_numbered_but_not_counted():
    table = StringTable()
    intern(table, ["a", "b"], use=1)
    intern(table, ["b"], use=2)
    assert table.ranked(at_least=1, at_most=9)[1].tolist() == [1]
    assert len(table) == 2


def test_ties_go_by_bytes_and_the_least_frequent_are_cut():
    table = StringTable()
    intern(table, ["zz", "y", "x", "x", "longer than a word b", "longer than a word a"])
    _, _, offsets, data = table.ranked(at_least=1, at_most=4)
    assert data[: offsets[-1]].tobytes() == b"xlonger than a word alonger than a word by"


@pytest.mark.parametrize("n_distinct", [50_000])
def test_a_table_grows_past_any_first_size(n_distinct):
    table = StringTable()
    cells = [f"category {i}" for i in range(n_distinct)]
    assert intern(table, cells) == list(range(1, n_distinct + 1))
    assert intern(table, cells[::-1]) == list(range(n_distinct, 0, -1))


def test_pruning_keeps_the_frequent_and_bounds_what_it_forgets():
    table, true = StringTable(), Counter()
    for i in range(40):
        batch = ["often"] * 50 + [f"once {i} {j}" for j in range(200)] + ["at times"] * 10
        intern(table, batch)
        true.update(batch)
        if len(table) > 500:
            table.prune()
    ids, counts, offsets, data = table.ranked(at_least=1, at_most=10**6)
    raw = data.tobytes()
    kept = {
        raw[a:b].decode(): n for a, b, n in zip(offsets, offsets[1:], counts.tolist(), strict=False)
    }
    assert kept["often"] == 2000
    assert table.floor < 50
    for text, n in true.items():
        assert n - table.floor <= kept.get(text, 0) <= n
    assert len(set(ids.tolist())) == len(ids)
    assert ids.max() < table.n_ids
