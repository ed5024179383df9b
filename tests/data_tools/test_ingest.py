import bz2
import csv
import gzip
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from data_tools import partitions as partitions_module
from data_tools import pass_one as pass_one_module
from data_tools import source as source_module
from data_tools.ingest import ingest
from data_tools.options import IngestOptions
from streamtrain.errors import BudgetError
from streamtrain.store.manifest_file import read_manifest
from streamtrain.store.schema import FIRST_CODE
from streamtrain.store.vocabulary import read_vocabulary
from tests.data_tools.reading import read_all, read_split

N_ROWS = 3000


def made_rows(n=N_ROWS, seed=1):
    """Row i holds i in `id`, so that a row out of place reads itself."""
    rng = random.Random(seed)
    return [
        {
            "id": str(i),
            "x": rng.choice(["", "?", f"{rng.gauss(0, 1):.4f}"]),
            "colour": rng.choice(["red", "blue", "blue", 'a "b"', "two\nlines", "NA", "007"]),
            "y": str(int(rng.random() < 0.3)),
        }
        for i in range(n)
    ]


def write_csv(path, rows, **options):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), **options)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def run(tmp_path, *sources, out="dataset", target="y", **options):
    options.setdefault("threads", 2)
    report = ingest(IngestOptions(sources=sources, out=tmp_path / out, target=target, **options))
    return report, tmp_path / out


def digest_of(folder):
    return {
        p.relative_to(folder): xxhash.xxh3_64_hexdigest(p.read_bytes())
        for p in folder.rglob("*.parquet")
    }


@pytest.fixture
def source(tmp_path):
    return write_csv(tmp_path / "rows.csv", made_rows())


def test_every_row_arrives_once_with_its_own_values(tmp_path, source):
    report, folder = run(tmp_path, source)
    rows = made_rows()
    table = read_all(folder).to_pydict()
    assert sorted(table["id"]) == list(range(N_ROWS))
    manifest = read_manifest(folder)
    (column,) = manifest.schema.categorical
    categories = read_vocabulary(folder, column).texts()
    for place, i in enumerate(map(int, table["id"])):
        x, colour = rows[i]["x"], rows[i]["colour"]
        assert table["y"][place] == float(rows[i]["y"])
        if x in {"", "?"}:
            assert np.isnan(table["x"][place])
        else:
            assert table["x"][place] == np.float32(float(x))
        code = table["colour"][place]
        assert code == 0 if colour == "NA" else categories[code - FIRST_CODE] == colour
    assert report.rows_read == report.rows_written == N_ROWS
    assert report.rows_rejected == report.rows_blank == 0
    assert sum(report.splits.values()) == N_ROWS


def test_the_splits_have_their_shares_and_a_random_order(tmp_path, source):
    report, folder = run(tmp_path, source, splits={"valid": 0.2, "test": 0.1})
    # Binomial standard deviations: 22 and 16 rows; five of them.
    assert abs(report.splits["valid"] - 600) < 110
    assert abs(report.splits["test"] - 300) < 82
    ids = np.array(read_split(folder, "train")["id"])
    assert abs(np.corrcoef(ids, np.arange(len(ids)))[0, 1]) < 0.1


def test_counts_statistics_and_quantiles_are_those_of_the_train_split(tmp_path, source):
    _, folder = run(tmp_path, source)
    schema = read_manifest(folder).schema
    train = read_split(folder, "train")
    x = np.array(train["x"], np.float64)
    present = x[~np.isnan(x)]
    found = schema.columns[1].statistics
    assert found is not None
    assert (found.count, found.missing) == (len(present), len(x) - len(present))
    # Sums of n float64 values: relative error below n * eps.
    tolerance = len(x) * np.finfo(np.float64).eps
    assert found.mean == pytest.approx(present.mean(), rel=10 * tolerance, abs=tolerance)
    assert found.std == pytest.approx(present.std(), rel=10 * tolerance)
    assert (found.minimum, found.maximum) == (present.min(), present.max())
    assert found.quantiles[32] == np.quantile(present, 0.5, method="inverted_cdf")
    codes = Counter(np.array(train["colour"]).tolist())
    counts = pq.read_table(folder / "vocabulary/colour.parquet")["count"].to_pylist()
    assert counts == [codes[i + FIRST_CODE] for i in range(len(counts))]
    assert counts == sorted(counts, reverse=True)
    (column,) = schema.categorical
    assert column.missing == codes[0]
    assert sum(schema.target.counts) == len(x)


def test_a_huge_offset_does_not_spoil_the_deviation(tmp_path):
    rows = [{"x": f"{16_000_000 + i % 2}", "y": str(i % 2)} for i in range(20_000)]
    _, folder = run(tmp_path, write_csv(tmp_path / "a.csv", rows), splits={})
    assert read_manifest(folder).schema.columns[0].statistics.std == pytest.approx(0.5, rel=1e-9)


@pytest.mark.parametrize("shuffle", [True, False])
def test_neither_threads_nor_memory_nor_pieces_change_a_byte(
    tmp_path, source, monkeypatch, shuffle
):
    _, one = run(tmp_path, source, out="one", shuffle=shuffle, threads=1)
    # Small pieces, many partitions, parts that must be divided again.
    monkeypatch.setattr("data_tools.text_source.PIECE_BYTES", 4096)
    monkeypatch.setattr(partitions_module, "loaded_bytes", lambda n, width: n * 60_000)
    plan = pass_one_module.MemoryPlan(3, 1 << 9, 8 << 20, 4 << 20, 2)
    monkeypatch.setattr("data_tools.ingest.plan_memory", lambda *_, **__: plan)
    _, other = run(tmp_path, source, out="other", shuffle=shuffle, threads=3)
    assert digest_of(one) == digest_of(other)
    assert read_manifest(one).fingerprint == read_manifest(other).fingerprint


def test_another_seed_gives_another_order_and_other_splits(tmp_path, source):
    _, one = run(tmp_path, source, out="one", seed=0)
    _, other = run(tmp_path, source, out="other", seed=1)
    first, second = (np.array(read_split(d, "train")["id"]) for d in (one, other))
    assert set(first.tolist()) != set(second.tolist())


def test_no_shuffle_keeps_the_order_within_each_split(tmp_path, source):
    _, folder = run(tmp_path, source, shuffle=False)
    for split in ("train", "valid", "test"):
        ids = read_split(folder, split)["id"].to_pylist()
        assert ids == sorted(ids)
    manifest = read_manifest(folder)
    assert not manifest.shuffled
    assert manifest.block_rows == 512


@pytest.mark.parametrize("kind", ["gz", "two gz members", "bz2", "zst", "crlf", "bom", "latin-1"])
def test_other_spellings_of_the_same_table_give_the_same_dataset(tmp_path, source, kind):
    _, plain = run(tmp_path, source, out="plain")
    text = Path(source).read_bytes()
    options = {}
    if kind == "gz":
        text = gzip.compress(text)
    elif kind == "two gz members":
        text = gzip.compress(text[:5000]) + gzip.compress(text[5000:])
    elif kind == "bz2":
        text = bz2.compress(text)
    elif kind == "zst":
        text = pa.Codec("zstd").compress(text, asbytes=True)
    elif kind == "crlf":
        text = text.replace(b"\n", b"\r\n").replace(b"two\r\nlines", b"two\nlines")
    elif kind == "bom":
        text = b"\xef\xbb\xbf" + text
    else:
        options["encoding"] = "latin-1"
    (tmp_path / "other").write_bytes(text)
    report, other = run(tmp_path, str(tmp_path / "other"), out="out", **options)
    assert digest_of(plain) == digest_of(other)
    assert report.source_bytes == len(text)
    assert read_manifest(other).sources[0].digest == xxhash.xxh3_128_hexdigest(text)


def test_several_files_are_one_table_and_each_is_accounted_for(tmp_path):
    rows = made_rows()
    whole = write_csv(tmp_path / "whole.csv", rows)
    write_csv(tmp_path / "part-1.csv", rows[:1000])
    write_csv(tmp_path / "part-2.csv", rows[1000:])
    _, one = run(tmp_path, whole, out="one")
    _, other = run(tmp_path, str(tmp_path / "part-*.csv"), out="other")
    assert digest_of(one) == digest_of(other)
    sources = read_manifest(other).sources
    assert [s.rows_read for s in sources] == [1000, 2000]
    assert [s.name.rsplit("/", 1)[-1] for s in sources] == ["part-1.csv", "part-2.csv"]


def test_standard_input_is_a_source(tmp_path, source, monkeypatch):
    _, one = run(tmp_path, source, out="one")
    with Path(source).open("rb") as file:
        monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": file})())
        report, other = run(tmp_path, "-", out="other")
    assert digest_of(one) == digest_of(other)
    assert report.rows_read == N_ROWS


def test_rows_equal_in_the_split_column_stay_together(tmp_path):
    rows = [{"user": f"u{i % 50}", "x": str(i), "y": str(i % 2)} for i in range(2000)]
    source = write_csv(tmp_path / "a.csv", rows)
    _, folder = run(tmp_path, source, split_by="user", splits={"test": 0.3})
    users = {
        s: {int(x) % 50 for x in read_split(folder, s)["x"].to_pylist()} for s in ("train", "test")
    }
    assert not users["train"] & users["test"]
    assert len(users["train"]) + len(users["test"]) == 50
    assert 5 <= len(users["test"]) <= 27


def test_without_a_header_columns_are_positions(tmp_path):
    (tmp_path / "a.tsv").write_text("".join(f"{i}\t{i % 7}\t{i % 2}\n" for i in range(100)))
    _, folder = run(tmp_path, str(tmp_path / "a.tsv"), target="-1", header=False, drop=("0",))
    schema = read_manifest(folder).schema
    assert (schema.target.name, [c.name for c in schema.columns]) == ("2", ["1"])
    assert schema.delimiter == "\t"


def test_declared_kinds_win_and_number_like_categories_keep_their_text(tmp_path):
    rows = [{"zip": f"{i % 3:03d}", "x": str(i), "y": str(i % 2)} for i in range(300)]
    source = write_csv(tmp_path / "a.csv", rows)
    _, folder = run(tmp_path, source, categorical=("zip",))
    (column,) = read_manifest(folder).schema.categorical
    assert sorted(read_vocabulary(folder, column).texts()) == ["000", "001", "002"]


def test_a_column_that_turns_out_to_be_text_is_read_again_as_categories(tmp_path, monkeypatch):
    # The sample sees numbers alone: its places miss the middle.
    rows = [{"x": "v" if 400 <= i < 600 else "1", "y": str(i % 2)} for i in range(1000)]
    source = write_csv(tmp_path / "a.csv", rows)
    monkeypatch.setattr("data_tools.text_source.PIECE_BYTES", 512)
    monkeypatch.setattr("data_tools.text_source._SAMPLE_BYTES", 64)
    monkeypatch.setattr("data_tools.infer._PLACES", 2)
    messages = []
    report = ingest(
        IngestOptions(sources=(source,), out=tmp_path / "d", target="y"), listen=messages.append
    )
    assert report.rows_written == 1000
    assert [c.kind for c in read_manifest(tmp_path / "d").schema.columns] == ["categorical"]
    assert any("'x'" in m for m in messages if isinstance(m, str))


def test_rare_and_surplus_categories_share_one_code(tmp_path):
    rows = [{"c": c, "y": str(i % 2)} for i, c in enumerate("aaaaabbbbccd" * 10 + "e")]
    source = write_csv(tmp_path / "a.csv", rows)
    _, folder = run(tmp_path, source, splits={}, rare=11)
    assert pq.read_table(folder / "vocabulary/c.parquet")["category"].to_pylist() == ["a", "b", "c"]
    assert read_manifest(folder).schema.columns[0].rare == 11
    _, folder = run(tmp_path, source, out="few", splits={}, max_categories=1)
    assert pq.read_table(folder / "vocabulary/c.parquet")["category"].to_pylist() == ["a"]


@pytest.mark.parametrize(
    ("values", "task", "classes", "stored"),
    [
        (["no", "yes"], "binary", ("no", "yes"), (0.0, 1.0)),
        (["10", "9"], "binary", ("9", "10"), (9.0, 10.0)),
        (["-1", "1"], "binary", ("-1", "1"), (-1.0, 1.0)),
        (["c", "a", "b"], "classes", ("a", "b", "c"), (0.0, 1.0, 2.0)),
        (["1", "2", "10"], "classes", ("1", "2", "10"), (1.0, 2.0, 10.0)),
        (["1.5", "2", "10"], "regression", (), ()),
        ([str(i) for i in range(21)], "regression", (), ()),
    ],
)
def test_the_task_is_guessed_from_the_targets_values(tmp_path, values, task, classes, stored):
    rows = [{"x": str(i), "y": values[i % len(values)]} for i in range(210)]
    _, folder = run(tmp_path, write_csv(tmp_path / "a.csv", rows))
    target = read_manifest(folder).schema.target
    assert (target.task, target.classes, target.values) == (task, classes, stored)


def test_the_positive_class_can_be_chosen(tmp_path):
    rows = [{"x": str(i), "y": "no" if i % 3 else "yes"} for i in range(90)]
    _, folder = run(tmp_path, write_csv(tmp_path / "a.csv", rows), positive="no", splits={})
    target = read_manifest(folder).schema.target
    assert (target.classes, target.counts) == (("yes", "no"), (30, 60))
    assert read_split(folder, "train")["y"].to_pylist() == [
        float(int(x) % 3 > 0) for x in read_split(folder, "train")["x"].to_pylist()
    ]


def test_run_length_tells_a_sorted_source(tmp_path):
    rows = [{"x": str(i), "y": str(i // 500)} for i in range(1000)]
    _, folder = run(tmp_path, write_csv(tmp_path / "a.csv", rows))
    assert read_manifest(folder).schema.target.run_length == 500


def test_weight_and_exposure_are_stored_and_are_no_features(tmp_path):
    rows = [{"x": "1", "w": str(i), "e": "0.5", "y": str(i % 2)} for i in range(50)]
    source = write_csv(tmp_path / "a.csv", rows)
    _, folder = run(tmp_path, source, weight="w", exposure="e", splits={}, shuffle=False)
    schema = read_manifest(folder).schema
    assert [c.name for c in schema.columns] == ["x"]
    assert schema.weight_statistics.maximum == 49
    table = read_split(folder, "train")
    assert table.column_names == ["x", "y", "w", "e"]
    assert table["w"].to_pylist() == list(range(50))


def test_exposures_of_zero_are_rejected_and_weights_of_zero_are_not(tmp_path):
    cells = ["0", "0.0", "-0", "1e-60", "0.5", "2", "-1", ""]
    rows = [{"x": "1", "w": "0", "e": e, "y": str(i % 2)} for i, e in enumerate(cells * 5)]
    source = write_csv(tmp_path / "a.csv", rows)
    report, folder = run(tmp_path, source, weight="w", exposure="e", splits={}, shuffle=False)
    assert report.as_dict()["rows_rejected"] == 30
    assert set(read_split(folder, "train")["e"].to_pylist()) == {0.5, 2.0}
    text = (folder / "rejected/part-00000.csv").read_text()
    assert text.count("e: zero") == 20
    assert text.count("e: negative") == text.count("missing e") == 5


def test_hostile_column_names_stay_inside_the_dataset(tmp_path):
    names = ["../../up", "/abs", ".hidden", "a" * 300, "sp ace", "y"]
    rows = [dict(zip(names, ["u", "v", "w", "z", "s", str(i % 2)], strict=True)) for i in range(40)]
    _, folder = run(tmp_path, write_csv(tmp_path / "a.csv", rows), splits={})
    files = sorted(p.name for p in (folder / "vocabulary").iterdir())
    assert len(files) == 5
    assert "%2E.%2F..%2Fup.parquet" in files
    for column in read_manifest(folder).schema.categorical:
        assert len(read_vocabulary(folder, column)) == 1


def test_the_report_is_json(tmp_path, source):
    report, _ = run(tmp_path, source)
    found = json.loads(json.dumps(report.as_dict()))
    assert {
        "rows_read",
        "splits",
        "shards",
        "bytes",
        "peak_rss_bytes",
        "fingerprint",
    } <= found.keys()


def test_a_budget_that_cannot_hold_is_refused_with_its_parts(tmp_path, source):
    with pytest.raises(BudgetError) as caught:
        run(tmp_path, source, memory=50_000_000)
    assert "interpreter and compiled kernels" in caught.value.parts
    assert not (tmp_path / "dataset").exists()


def test_pieces_are_constant_so_that_results_do_not_depend_on_the_budget():
    assert source_module.PIECE_BYTES == 4 << 20
