"""Texts and lists from sources to shards, and back through prediction."""

import itertools
import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from data_tools import bag_rows, partitions
from data_tools.raw_rows import read_encoded
from streamtrain.errors import BudgetError, ConfigError, SchemaError, SourceError
from streamtrain.library import open_dataset
from streamtrain.memory import resident_bytes
from streamtrain.store.encode import Encoder
from tests.data_tools.reading import read_all, read_split
from tests.data_tools.tables import WRITERS, run, write
from tests.data_tools.test_vw import bag, entries

PLAIN = {"splits": {}, "shuffle": False}


def made_texts(n=500, seed=2):
    rng = random.Random(seed)
    words = [f"w{i}" for i in range(200)] + ["Zürich", "naïve", "日本", "😀"]
    return [
        rng.choice(["", "NA", None]) if rng.random() < 0.1
        else " ".join(rng.choices(words, k=rng.randrange(1, 30)))
        for _ in range(n)
    ]  # fmt: skip


def made_table(n=500):
    return pa.table({"t": made_texts(n), "x": range(n), "y": [i * i % 3 % 2 for i in range(n)]})


def test_words_and_runs_of_them_are_counted_and_divided_by_their_norm(tmp_path):
    (tmp_path / "a.csv").write_text('t,y\n"The cat, the CAT",1\ndog,0\n,1\nNA,0\n')
    _, manifest = run(tmp_path, str(tmp_path / "a.csv"), text=("t",), **PLAIN)
    (column,) = manifest.schema.columns
    assert (column.kind, column.cardinality) == ("bag", 1 << 18)
    assert (column.bag.keys, column.bag.words, column.bag.norm) == ("text", (1, 2), "l2")
    assert (column.bag.total, column.bag.longest, column.bag.empty) == (5, 4, 2)
    rows = bag(tmp_path / "dataset", "t")
    # the, cat and "the cat" twice, "cat the" once.
    assert sorted(value for _, value in rows[0]) == pytest.approx(
        np.array([1, 2, 2, 2]) / np.sqrt(13)
    )
    assert [value for _, value in rows[1]] == [1.0]
    assert rows[2:] == [[], []]


def test_characters_cases_and_counts_are_as_the_options_say(tmp_path):
    (tmp_path / "a.csv").write_text("t,y\nÄb,1\näB äb,0\nxab,1\n")
    options = {"text": ("t",), "words": (0, 0), "characters": (2, 2), "norm": "none", **PLAIN}
    run(tmp_path, str(tmp_path / "a.csv"), **options)
    one, two, other = bag(tmp_path / "dataset", "t")
    assert [value for _, value in one] == [1.0, 1.0, 1.0]  # ^ä äb b$
    assert two == [(code, 2.0) for code, _ in one]
    assert len(set(other) & set(one)) == 1  # b$


def test_every_kind_of_file_gives_the_same_entries(tmp_path):
    table = made_table()
    found = set()
    for kind in ("csv", "parquet", "ipc stream", "jsonl", "jsonl, gzip", "parquet, large strings"):
        name = write(kind, table, tmp_path, stem=kind.replace(" ", "-"))
        report, manifest = run(tmp_path, name, out=kind, text=("t",))
        assert (report.rows_read, report.rows_written, report.bags) == (500, 500, 1)
        found.add(manifest.fingerprint)
    assert len(found) == 1
    assert len(WRITERS) > len(found)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("file_format", ["parquet", "zarr"])
def test_neither_threads_memory_nor_partitions_change_a_byte(
    tmp_path, monkeypatch, shuffle, file_format
):
    name = write("csv", made_table(), tmp_path)
    options = {"text": ("t",), "shuffle": shuffle, "format": file_format}
    _, one = run(tmp_path, name, out="one", threads=1, **options)
    found = set()
    budget = resident_bytes() + (130 << 20)
    for k, given in enumerate(({"threads": 3}, {"memory": budget}, {"threads": 2}, {})):
        if k == 2:
            # One row at a time, and more partitions than rows would need.
            monkeypatch.setattr(bag_rows, "WORK_BYTES", 1)
            monkeypatch.setattr("data_tools.text_source.PIECE_BYTES", 4096)
            monkeypatch.setattr("data_tools.inputs._MANY_ROWS", 1e12)
            monkeypatch.setattr(
                "data_tools.inputs.Inputs.estimate_rows", lambda _: 1e9, raising=True
            )
        found.add(run(tmp_path, name, out=f"d{k}", **options, **given)[1].fingerprint)
    assert found == {one.fingerprint}


def test_rows_in_order_keep_their_entries_and_shuffled_ones_the_same(tmp_path):
    table = made_table()
    name = write("parquet", table, tmp_path)
    run(tmp_path, name, out="ordered", text=("t",), **PLAIN)
    run(tmp_path, name, out="shuffled", text=("t",))
    ordered = dict(enumerate(bag(tmp_path / "ordered", "t")))
    rows = read_all(tmp_path / "shuffled")
    for i, cell in zip(rows["x"].to_pylist(), rows["t"].to_pylist(), strict=True):
        assert entries(cell) == ordered[int(i)]
    assert len(rows) == 500


def test_prediction_gives_texts_the_codes_of_ingest(tmp_path):
    table = made_table()
    options = {"text": ("t",), "characters": (3, 4), "hash_bits": 12, **PLAIN}
    _, manifest = run(tmp_path, write("csv", table, tmp_path), **options)
    expected = [pair for row in bag(tmp_path / "dataset", "t") for pair in row]
    encoder = Encoder(manifest.schema, {})
    for kind in ("csv", "jsonl", "parquet"):
        name = write(kind, table.drop(["y"]), tmp_path, stem=f"new-{kind}")
        found = list(read_encoded([name], encoder, threads=2))
        pairs = [
            pair
            for piece in found
            for pair in zip(
                piece.rows.bags.codes.tolist(), piece.rows.bags.values.tolist(), strict=True
            )
        ]
        assert pairs == expected
    assert encoder.encode(table.to_batches()[0]).bags.codes.tolist() == [c for c, _ in expected]


def test_codes_collide_where_there_are_few_and_are_within_their_number(tmp_path):
    name = write("csv", made_table(), tmp_path)
    for bits in (1, 3, 28):
        _, manifest = run(
            tmp_path, name, out=f"b{bits}", text=("t",), hash_bits=bits, norm="none", **PLAIN
        )
        assert manifest.schema.columns[0].cardinality == 1 << bits
        rows = bag(tmp_path / f"b{bits}", "t")
        assert all(0 <= code < 1 << bits for row in rows for code, _ in row)
        # Each code once a row; what collides is added up.
        assert all(len({code for code, _ in row}) == len(row) for row in rows)
        totals = [sum(value for _, value in row) for row in rows]
        if bits == 1:
            expected = totals
        assert totals == expected


def test_a_text_as_long_as_a_record_may_be_is_one_row(tmp_path):
    long = "word " * 300_000
    table = pa.table({"t": ["a", long, "b", long + "é"], "y": [0, 1, 1, 0]})
    run(tmp_path, write("parquet", table, tmp_path), text=("t",), norm="none", **PLAIN)
    rows = bag(tmp_path / "dataset", "t")
    assert sorted(value for _, value in rows[1]) == [299_999, 300_000]
    assert len(rows[3]) == 4


def test_texts_and_lists_stand_beside_numbers_and_categories(tmp_path):
    prices = pa.map_(pa.string(), pa.float32())
    table = pa.table({
        "tags": [["a", "b"], None, [], ["b"]] * 10,
        "t": ["one two", "three", None, ""] * 10,
        "c": ["u", "v"] * 20,
        "x": [1.5, None, 2.5, 0.5] * 10,
        "prices": pa.array([[("p", 2.0)], [], None, [("q", None)]] * 10, prices),
        "y": [0, 1] * 20,
    })  # fmt: skip
    report, manifest = run(tmp_path, write("parquet", table, tmp_path), text=("t",), **PLAIN)
    assert (report.numeric, report.categorical, report.bags) == (1, 1, 3)
    assert [(c.name, c.kind) for c in manifest.schema.columns] == [
        ("tags", "bag"), ("t", "bag"), ("c", "categorical"), ("x", "numeric"), ("prices", "bag"),
    ]  # fmt: skip
    assert [len(row) for row in bag(tmp_path / "dataset", "tags")] == [2, 0, 0, 1] * 10
    assert [[v for _, v in row] for row in bag(tmp_path / "dataset", "prices")] == [
        [2.0], [], [], [],
    ] * 10  # fmt: skip
    assert manifest.schema.columns[0].bag.empty == 20


def test_rejected_rows_take_no_entries_and_the_counts_add_up(tmp_path):
    lines = ["t,x,y"] + [f"word{i} common,{'bad' if i % 7 == 0 else i},{i % 2}" for i in range(70)]
    lines.insert(30, "")
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\nshort\n")
    report, manifest = run(
        tmp_path, str(tmp_path / "a.csv"), text=("t",), words=(1, 1), numeric=("x",), **PLAIN
    )
    assert (report.rows_read, report.rows_written, report.rows_rejected) == (71, 60, 11)
    assert report.rows_blank == 1
    assert sum(len(row) for row in bag(tmp_path / "dataset", "t")) == 120
    assert manifest.schema.columns[0].bag.total == 120


def test_the_statistics_of_entries_are_those_of_the_train_split(tmp_path):
    _, manifest = run(tmp_path, write("csv", made_table(), tmp_path), text=("t",))

    def counts(split):
        cells = read_split(tmp_path / "dataset", split)["t"].to_pylist()
        return [len(entries(cell)) for cell in cells]

    spread = manifest.schema.columns[0].bag
    train = counts("train")
    assert (spread.total, spread.empty) == (sum(train), train.count(0))
    assert spread.longest == max(max(counts(s)) for s in ("train", "valid", "test"))


def test_zarr_python_reads_what_pyarrow_reads_of_parquet(tmp_path):
    table = made_table()
    name = write("csv", table, tmp_path)
    options = {"text": ("t",), "block_rows": 64, "splits": {}}
    run(tmp_path, name, out="p", **options)
    for compression in (None, "zstd"):
        out = f"z-{compression}"
        run(tmp_path, name, out=out, format="zarr", compression=compression, **options)
        group = zarr.open_group(tmp_path / out / "train.zarr", mode="r")
        cells = group["bag_0"][:]
        assert group["bag_0"].attrs["columns"] == ["t"]
        assert [bytes(cell) for cell in cells] == read_all(tmp_path / "p")["t"].to_pylist()
    (shard,) = (tmp_path / "p/train").glob("*.parquet")
    assert pq.read_schema(shard).field("t").type in {pa.large_binary(), pa.binary()}


def test_a_text_that_plays_another_role_is_refused(tmp_path):
    name = write("csv", made_table(), tmp_path)
    for options, says in (
        ({"text": ("t",), "categorical": ("t",)}, "categorical and text"),
        ({"text": ("t",), "target": "t"}, "cannot be a list or text, and target"),
        ({"text": ("tt",)}, "no column 'tt'"),
    ):
        with pytest.raises(SchemaError, match=says):
            run(tmp_path, name, **options)
    path = tmp_path / "lists.parquet"
    pq.write_table(pa.table({"l": [["a"]] * 4, "y": [0, 1] * 2}), path)
    with pytest.raises(SchemaError, match="cannot be a list or text, and target"):
        run(tmp_path, str(path), target="l")
    with pytest.raises(SchemaError, match="a list and categorical"):
        run(tmp_path, str(path), categorical=("l",))
    with pytest.raises(SchemaError, match="a column of lists is no text"):
        run(tmp_path, str(path), split_by="l")


def test_a_budget_that_cannot_hold_the_work_is_refused(tmp_path):
    name = write("csv", made_table(), tmp_path)
    with pytest.raises(BudgetError, match="ingest needs"):
        run(tmp_path, name, text=("t",), memory=resident_bytes() + (60 << 20))


def test_the_same_text_in_json_with_escapes_has_the_same_codes(tmp_path):
    texts = ["Zürich am See", 'a "quoted" word', "tab\tand\nline", "😀 smile"]
    rows = [{"t": t, "y": i % 2} for i, t in enumerate(texts)]
    for name, ascii_only in (("plain", False), ("escaped", True)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(r, ensure_ascii=ascii_only) + "\n" for r in rows))
        run(tmp_path, str(path), out=name, text=("t",), **PLAIN)
    assert bag(tmp_path / "plain", "t") == bag(tmp_path / "escaped", "t")


def as_lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def test_lists_of_names_in_json_are_those_of_parquet(tmp_path):
    tags = [["a", "é"], [], None, ["b", None, "a", "a"], ['quo"te', "tab\t"]] * 20
    table = pa.table({"tags": tags, "x": range(100), "y": [0, 1] * 50})
    _, one = run(tmp_path, write("parquet", table, tmp_path), out="parquet")
    for kind in ("jsonl", "jsonl, gzip"):
        _, other = run(tmp_path, write(kind, table, tmp_path), out=kind)
        assert other.fingerprint == one.fingerprint
    # A line that Arrow does not take makes its neighbours be read one by one.
    text = (tmp_path / "table.jsonl").read_text()
    (tmp_path / "b.jsonl").write_text(text + '{"tags": ["a", 5], "x": 7, "y": 1}\n')
    run(tmp_path, str(tmp_path / "b.jsonl"), out="mixed", **PLAIN)
    run(tmp_path, str(tmp_path / "table.jsonl"), out="all", **PLAIN)
    rows = bag(tmp_path / "mixed", "tags")
    assert rows[:100] == bag(tmp_path / "all", "tags")
    assert len(rows[100]) == 2


def test_objects_of_numbers_in_json_are_maps(tmp_path):
    prices = [{"p": 2.0, "q": -1.5}, {}, None, {"r": None, "é": 1e-3}] * 15
    kind = pa.map_(pa.string(), pa.float64())
    pairs = [None if row is None else list(row.items()) for row in prices]
    table = pa.table({"prices": pa.array(pairs, kind), "y": [0, 1] * 30})
    _, one = run(tmp_path, write("parquet", table, tmp_path), out="parquet")
    rows = [{"prices": row, "y": i % 2} for i, row in enumerate(prices)]
    del rows[2]["prices"]
    (tmp_path / "a.jsonl").write_text(as_lines(rows))
    _, other = run(tmp_path, str(tmp_path / "a.jsonl"), out="json")
    assert other.fingerprint == one.fingerprint


def test_values_of_json_that_are_no_entries_reject_their_rows(tmp_path, monkeypatch):
    good = [{"l": ["a"], "m": {"a": 1}, "y": i % 2} for i in range(200)]
    bad = [
        {"l": "a", "m": {}, "y": 0}, {"l": [["a"]], "m": {}, "y": 0},
        {"l": [], "m": {"a": {}}, "y": 1},
        {"l": [], "m": {"a": "x"}, "y": 0}, {"l": [], "m": {"a": True}, "y": 1},
    ]  # fmt: skip
    (tmp_path / "a.jsonl").write_text(
        as_lines(good + bad) + '{"l": [], "m": {"a": 1e400, "b": 2}, "y": 1}\n'
    )
    monkeypatch.setattr("data_tools.text_source.PIECE_BYTES", 4000)
    monkeypatch.setattr("data_tools.text_source._SAMPLE_BYTES", 1000)
    monkeypatch.setattr("data_tools.json_source._PLACES", 1)
    report, _ = run(tmp_path, str(tmp_path / "a.jsonl"), **PLAIN)
    assert report.reasons == {
        "l: no list of names": 1,
        "l: a list, expected a value": 1,
        "m: a value that is no number": 3,
        "m: not finite": 1,
    }
    assert report.rows_written == 200


def test_lists_that_are_empty_or_numbers_in_new_json_are_still_lists(tmp_path):
    (tmp_path / "a.jsonl").write_text(as_lines([{"l": ["a", "7"], "y": 0}, {"l": [], "y": 1}] * 5))
    _, manifest = run(tmp_path, str(tmp_path / "a.jsonl"), **PLAIN)
    expected = bag(tmp_path / "dataset", "l")[0]
    encoder = Encoder(manifest.schema, {})
    for rows, n in (([{"l": []}, {"l": None}], 0), ([{"l": [7]}, {"l": []}], 1)):
        (tmp_path / "b.jsonl").write_text(as_lines(rows))
        (piece,) = read_encoded([str(tmp_path / "b.jsonl")], encoder)
        assert piece.rows.bags.codes.tolist() == [expected[1][0]] * n


def test_lists_of_names_and_of_numbers_are_no_column(tmp_path):
    (tmp_path / "a.jsonl").write_text(as_lines([{"l": ["a"], "y": 0}, {"l": [1], "y": 1}] * 5))
    with pytest.raises(SchemaError, match="column 'l': is lists or objects"):
        run(tmp_path, str(tmp_path / "a.jsonl"))


def test_lists_of_whole_numbers_of_several_lengths_are_lists_of_names(tmp_path):
    lists = [[7, 8], [], None, [7, 7, 9]] * 10
    path = tmp_path / "ints.parquet"
    pq.write_table(pa.table({"l": lists, "y": [0, 1, 1, 0] * 10}), path)
    run(tmp_path, str(path), out="ints")
    names = [None if row is None else list(map(str, row)) for row in lists]
    pq.write_table(pa.table({"l": names, "y": [0, 1, 1, 0] * 10}), path)
    run(tmp_path, str(path), out="names")
    assert (
        open_dataset(tmp_path / "ints").fingerprint == open_dataset(tmp_path / "names").fingerprint
    )


def test_whole_numbers_are_values_and_keys_whatever_their_width(tmp_path):
    found = []
    for k, kind in enumerate((pa.int64(), pa.uint64(), pa.int16())):
        maps = pa.array([[(3, 2**40 + 1), (5, 1)], [(5, 4)]] * 10, pa.map_(kind, pa.int64()))
        path = tmp_path / f"{k}.parquet"
        pq.write_table(pa.table({"m": maps, "y": [0, 1] * 10}), path)
        run(tmp_path, str(path), out=f"d{k}")
        found.append(open_dataset(tmp_path / f"d{k}").fingerprint)
    assert len(set(found)) == 1


NAMES = {
    "dictionary": pa.list_(pa.dictionary(pa.int32(), pa.string())),
    "views": pa.large_list(pa.string_view()),
    "large": pa.large_list(pa.large_string()),
}


@pytest.mark.parametrize("kind", ["parquet", "ipc"])
def test_lists_of_names_are_the_same_however_arrow_keeps_them(tmp_path, kind):
    rng = random.Random(3)
    rows = [
        None if rng.random() < 0.1 else rng.choices(["a", "b", "c" * 40, None], k=rng.randrange(5))
        for _ in range(300)
    ]
    found = set()
    for name, told in {"plain": pa.list_(pa.string()), **NAMES}.items():
        table = pa.table({"l": pa.array(rows, told), "y": [i % 2 for i in range(300)]})
        path = tmp_path / f"{name}.{kind}"
        if kind == "parquet":
            pq.write_table(table, path, row_group_size=70)
            assert name == "plain" or pq.read_schema(path).field("l").type == told
        else:
            with pa.ipc.new_file(path, table.schema) as file:
                file.write_table(table, max_chunksize=70)
        report, manifest = run(tmp_path, str(path), out=name)
        assert (report.rows_written, report.bags) == (300, 1)
        found.add(manifest.fingerprint)
        encoder = Encoder(manifest.schema, {})
        pieces = read_encoded([str(path)], encoder)
        codes = np.concatenate([p.rows.bags.codes for p in pieces])
        direct = [encoder.encode(batch).bags.codes for batch in table.to_batches()]
        assert codes.tolist() == np.concatenate(direct).tolist()
    assert len(found) == 1


def test_lists_of_few_names_that_take_a_byte_each_are_read_in_small_pieces(tmp_path, monkeypatch):
    kind = pa.list_(pa.dictionary(pa.int8(), pa.string()))
    rows = pa.array([["a", "b"] * 3000] * 200, kind)
    table = pa.table({"l": rows, "y": [0, 1] * 100})
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as file:
        file.write_table(table)
    sizes = []
    real = bag_rows.slices
    monkeypatch.setattr(
        "data_tools.pass_one.slices",
        lambda bags, cells, n, **k: sizes.append(len(cells[0].keys)) or real(bags, cells, n, **k),
    )
    run(tmp_path, str(tmp_path / "a.arrow"), **PLAIN)
    assert sum(sizes) == 1_200_000
    assert max(sizes) <= (4 << 20) // 12


def test_lists_of_bytes_are_refused_in_a_line(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"l": pa.array([[b"a"], []] * 5, pa.list_(pa.binary())), "y": [0, 1] * 5})
    pq.write_table(table, path)
    with pytest.raises(ConfigError, match="list<element: binary>") as error:
        run(tmp_path, str(path), **PLAIN)
    assert "--drop" in error.value.remedy


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "ipc"])
def test_a_value_of_a_map_that_is_not_finite_rejects_its_row_with_a_reason(tmp_path, kind):
    n = 12
    values = [{"a": 1.0, "b": i / 2} for i in range(n)]
    values[3]["b"], values[7]["a"] = 1e300, -1e39
    if kind != "jsonl":
        values[5]["a"] = float("nan")
    wrong = 3 - (kind == "jsonl")
    path = tmp_path / f"a.{kind}"
    ys = [i % 2 for i in range(n)]
    if kind == "jsonl":
        path.write_text(
            "".join(json.dumps({"m": m, "y": y}) + "\n" for m, y in zip(values, ys, strict=True))
        )
    else:
        maps = pa.array([list(m.items()) for m in values], pa.map_(pa.string(), pa.float64()))
        table = pa.table({"m": maps, "y": ys})
        if kind == "parquet":
            pq.write_table(table, path)
        else:
            with pa.ipc.new_file(path, table.schema) as file:
                file.write_table(table)
    name = str(path)
    report, manifest = run(tmp_path, name, **PLAIN)
    assert (report.rows_read, report.rows_written, report.rows_rejected) == (n, n - wrong, wrong)
    assert report.reasons == {"m: not finite": wrong}
    assert manifest.sources[0].rows_read == n
    kept = (tmp_path / "dataset/rejected/part-00000.csv").read_text().splitlines()
    assert len(kept) == 1 + wrong
    assert all("m: not finite" in line for line in kept[1:])
    pieces = list(read_encoded([name], Encoder(manifest.schema, {})))
    reasons = {i: why for piece in pieces for i, why in piece.reasons.items()}
    assert set(reasons.values()) == {"m: not finite"}
    assert len(reasons) == wrong
    with pytest.raises(SourceError, match="m: not finite"):
        run(tmp_path, name, out="fails", on_bad_row="fail", **PLAIN)


def test_blocks_of_long_texts_that_do_not_fit_are_refused_before_a_shard(tmp_path):
    texts = [" ".join(f"w{i}{j}" for j in range(3000)) for i in range(1200)]
    path = tmp_path / "long.parquet"
    pq.write_table(pa.table({"t": texts, "y": [0, 1] * 600}), path)

    def ingest(out, **options):
        # What this process holds already differs from run to run.
        budget = resident_bytes() + (300 << 20)
        run(tmp_path, str(path), out=out, text=("t",), memory=budget, **options)

    ingest("fits")
    with pytest.raises(BudgetError, match="blocks being written"):
        ingest("wide", block_rows=16_384)
    assert not (tmp_path / "wide").exists()


@pytest.mark.parametrize("block_rows", [1, 5, 16])
def test_the_largest_block_of_each_number_of_rows_is_found(block_rows):
    rng = np.random.default_rng(4)
    counts, splits = rng.integers(0, 99, 500), rng.integers(0, 3, 500).astype(np.uint8)
    blocks = bag_rows.LargestBlocks(block_rows)
    for begin, end in itertools.pairwise([0, 0, 1, 2, 40, 333, 500]):
        blocks.add(counts[begin:end], splits[begin:end])
    for size, most in zip(blocks.sizes, blocks.entries, strict=True):
        assert most == max(
            int(of_split[at : at + size].sum())
            for of_split in (counts[splits == s] for s in range(3))
            for at in range(0, len(of_split), size)
        )
    assert blocks.sizes[0] == block_rows
    assert blocks.sizes[-1] == 1


@pytest.mark.parametrize("shuffle", [True, False])
def test_entries_are_counted_in_the_order_of_the_shards(tmp_path, monkeypatch, shuffle):
    found = []
    real = bag_rows.LargestBlocks.add
    monkeypatch.setattr(bag_rows.LargestBlocks, "add", lambda *a: found.append(a[1:]) or real(*a))
    monkeypatch.setattr("data_tools.ingest.BLOCK_ENTRY_BYTES", 8 * 200)
    loaded = partitions.entries_in_order
    monkeypatch.setattr(
        "data_tools.ingest.entries_in_order",
        lambda *a, **k: loaded(*a, **{**k, "max_bytes": 1000}),
    )
    name = write("csv", made_table(), tmp_path)
    _, manifest = run(tmp_path, name, text=("t",), shuffle=shuffle)
    assert len(found) > 5
    assert manifest.block_rows in {4, 8}
    for s, split in enumerate(("train", "valid", "test")):
        counts = np.concatenate([c[of == s] for c, of in found])
        rows = read_split(tmp_path / "dataset", split)
        assert counts.tolist() == [len(cell) // 8 for cell in rows["t"].to_pylist()]
    for _, block in manifest.blocks("train"):
        assert block.n_entries <= 200


@pytest.mark.parametrize("shuffle", [True, False])
def test_rows_are_loaded_with_their_own_entries_alone(tmp_path, monkeypatch, shuffle):
    # A few rows that are long, so that a partition must be divided, and read in parts.
    texts = [" ".join(f"w{i}{j}" for j in range(2000)) for i in range(40)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"t": texts, "y": [0, 1] * 20}), path)
    sizes, load = [], partitions.load_rows

    def loading(*a):
        rows, words = load(*a)
        sizes.append(len(words))
        return rows, words

    monkeypatch.setattr(partitions, "load_rows", loading)
    monkeypatch.setattr(bag_rows, "WORK_BYTES", 1)
    real = partitions.read_sorted
    monkeypatch.setattr(
        "data_tools.pass_two.read_sorted", lambda *a, **k: real(*a, **{**k, "max_bytes": 80_000})
    )
    run(tmp_path, str(path), text=("t",), shuffle=shuffle, threads=3)
    assert len(sizes) > 10
    assert max(sizes) <= 10_000


def test_a_row_whose_parts_need_more_than_is_left_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("t,y\n" + "\n".join(f"{'a b ' * 400_000},{i % 2}" for i in range(6)) + "\n")
    options = {"text": ("t",), "memory": resident_bytes() + (150 << 20)}
    run(tmp_path, str(path), out="words", **options, **PLAIN)
    with pytest.raises(BudgetError, match=r"a row may have [0-9,]+ parts"):
        run(tmp_path, str(path), out="all", characters=(1, 8), hash_bits=24, **options, **PLAIN)
    assert not (tmp_path / "all").exists()


def test_a_text_that_is_too_long_takes_nothing_before_it_is_rejected(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"t": ["a b", "a " * 1_200_000, "b"] * 4, "y": [0, 1] * 6}), path)
    longest = []
    real = bag_rows.code_texts
    monkeypatch.setattr(
        bag_rows, "code_texts",
        lambda cells, *a: longest.append((cells.stops - cells.starts).max()) or real(cells, *a),
    )  # fmt: skip
    report, _ = run(tmp_path, str(path), text=("t",), **PLAIN)
    assert report.reasons == {"t: longer than 2,097,152 bytes": 4}
    assert max(longest) == 3


def test_raw_rows_that_are_encoded_in_parts_are_those_of_the_whole(tmp_path, monkeypatch):
    texts = [" ".join(f"w{i % 7}" for i in range(k % 40)) for k in range(300)]
    rows = [f"{t},{'oops' if k % 11 == 5 else k},{k % 2}" for k, t in enumerate(texts)]
    path = tmp_path / "a.csv"
    path.write_text("t,x,y\n" + "\n".join(rows) + "\n")
    run(tmp_path, str(path), text=("t",), numeric=("x",), **PLAIN)
    schema = open_dataset(tmp_path / "dataset").schema

    def read():
        pieces = list(read_encoded([str(path)], Encoder(schema, {}), threads=1))
        lines = np.concatenate([p.lines for p in pieces])
        good = np.concatenate([p.lines[p.ordinals_within_batch] for p in pieces])
        bad = {int(p.lines[k]): why for p in pieces for k, why in p.reasons.items()}
        found = [
            sorted(
                zip(p.rows.bags.codes[a:b].tolist(), p.rows.bags.values[a:b].tolist(), strict=True)
            )
            for p in pieces
            for a, b in p.rows.bags.ranges[:, 0]
        ]
        return len(pieces), (lines.tolist(), good.tolist(), bad, found)

    n_whole, whole = read()
    monkeypatch.setattr("data_tools.raw_rows._MAX_ENTRIES", 60)
    n_parts, parts = read()
    assert n_parts > 20 > n_whole
    assert parts == whole
    assert whole[0] == list(range(2, 302))
    assert len(whole[2]) == 27


def test_rows_in_order_are_the_same_however_few_of_them_fit(tmp_path, monkeypatch):
    path = write("csv", made_table(), tmp_path)
    run(tmp_path, path, out="whole", text=("t",), shuffle=False)
    sizes = []
    load = partitions.load_rows
    monkeypatch.setattr(partitions, "load_rows", lambda *a: sizes.append(a[3]) or load(*a))
    real = partitions.read_sorted
    monkeypatch.setattr(
        "data_tools.pass_two.read_sorted",
        lambda *a, **k: real(*a, **{**k, "max_bytes": 3000, "min_rows": 1}),
    )
    run(tmp_path, path, out="parts", text=("t",), shuffle=False)
    assert len(sizes) > 20
    whole, parts = (open_dataset(tmp_path / name) for name in ("whole", "parts"))
    assert whole.fingerprint == parts.fingerprint


OF_TEXTS = {"words": (2, 3), "characters": (3, 4), "norm": "none", "hash_bits": 12}


@pytest.mark.parametrize("name", OF_TEXTS)
def test_options_of_texts_are_refused_where_no_column_looks_at_them(tmp_path, name):
    option = {"norm": "--text-norm"}.get(name, f"--{name.replace('_', '-')}")
    given = {name: OF_TEXTS[name]}
    np.save(tmp_path / "a.npy", np.ones((4, 2)))
    np.save(tmp_path / "y.npy", np.arange(4) % 2)
    table = pa.table({"c": ["a", "b"] * 5, "y": [0, 1] * 5})
    write("csv", table, tmp_path, stem="a")
    write("jsonl", table.append_column("l", pa.array([["a"]] * 10)), tmp_path, stem="lists")
    (tmp_path / "a.svm").write_text("1 3:1\n0 20000:1\n")
    plain = {"a.csv": {}, "a.svm": {"target": None, "sparse": True}}
    plain["a.npy"] = {"target_file": tmp_path / "y.npy", "format": "zarr", "target": "target"}
    # Names of lists are hashed, and nothing else of them is an option.
    if name == "hash_bits":
        run(tmp_path, str(tmp_path / "lists.jsonl"), out="lists", **given, **PLAIN)
    else:
        plain["lists.jsonl"] = {}
    for k, (source, options) in enumerate(plain.items()):
        with pytest.raises(ConfigError, match="has no effect without a column of texts") as error:
            run(tmp_path, str(tmp_path / source), out=f"d{k}", **given, **options, **PLAIN)
        assert error.value.where == option
        assert error.value.exit_code == 78
        assert "--text" in error.value.remedy
        assert not (tmp_path / f"d{k}").exists()
    run(tmp_path, str(tmp_path / "a.csv"), out="texts", text=("c",), **given, **PLAIN)


def test_columns_of_texts_are_refused_where_arrays_have_none(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((4, 2)))
    np.save(tmp_path / "y.npy", np.arange(4) % 2)
    with pytest.raises(ConfigError, match="names columns, an array has none"):
        run(
            tmp_path, str(tmp_path / "a.npy"), text=("0",), target="target", format="zarr",
            target_file=tmp_path / "y.npy", **PLAIN,
        )  # fmt: skip
