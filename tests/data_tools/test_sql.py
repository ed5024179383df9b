"""Queries as sources, through DuckDB."""

import sys

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from data_tools import sql_source
from streamtrain.errors import BudgetError, ConfigError, SourceError, UsageError
from tests.data_tools.reading import read_all
from tests.data_tools.tables import made_table, run, write

pytest.importorskip("duckdb")


def test_a_query_over_a_file_gives_the_dataset_of_the_file(tmp_path):
    name = write("parquet", made_table(), tmp_path)
    _, one = run(tmp_path, name, out="one")
    report, other = run(tmp_path, out="other", sql=f"select * from '{name}'")
    assert one.fingerprint == other.fingerprint
    (source,) = other.sources
    assert (source.name, source.rows_read) == ("--sql", 700)
    assert report.rows_read == report.rows_written == 700


def test_joins_filters_and_derived_columns_are_the_querys(tmp_path):
    users = pa.table({"u": range(10), "country": ["CH", "NZ"] * 5})
    for k in range(2):
        clicks = pa.table({"u": [i % 10 for i in range(100)], "click": [i % 3 for i in range(100)]})
        pq.write_table(clicks, tmp_path / f"clicks-{k}.parquet")
    pa_csv.write_csv(users, tmp_path / "users.csv")
    query = f"""
        select country, u * 2 as double_u, click > 0 as clicked  -- what is wanted
        from '{tmp_path}/clicks-*.parquet' join '{tmp_path}/users.csv' using (u)
        where click < 2;
    """
    report, manifest = run(tmp_path, sql=query, target="clicked", splits={})
    assert report.rows_read == 134
    assert report.classes == ["false", "true"]
    assert [c.name for c in manifest.schema.columns] == ["country", "double_u"]
    rows = read_all(tmp_path / "dataset").to_pydict()
    assert max(rows["double_u"]) == 18
    assert not list(tmp_path.glob(".dataset*"))


def test_the_same_query_gives_the_same_dataset(tmp_path):
    query = "select i % 97 as a, hash(i) % 1000 as b, i % 2 as y from range(50000) t(i)"
    query = f"select l.a, r.b, l.y from ({query}) l join ({query}) r on l.a = r.b % 97 limit 40000"
    found = {run(tmp_path, out=f"d{k}", sql=query)[1].fingerprint for k in range(2)}
    assert len(found) == 1


def test_a_query_runs_on_one_thread_within_its_share(tmp_path):
    query = "select current_setting('threads')::int as n, i % 2 as y from range(9) t(i)"
    # What this process holds from other tests has room in it.
    run(tmp_path, sql=query, splits={}, memory=4 << 30)
    assert set(read_all(tmp_path / "dataset")["n"].to_pylist()) == {1.0}


def test_no_name_in_a_query_is_a_variable_of_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr(sql_source, "secret", pa.table({"x": [1], "y": [0]}), raising=False)
    with pytest.raises(SourceError, match="secret does not exist"):
        run(tmp_path, sql="select * from secret")


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("selec 1", "Parser Error"),
        ("select nothing from range(3)", "Binder Error"),
        ("select * from 'no-such-*.parquet'", "IO Error"),
        ("select 1 as x; select 2 as y", "not one SELECT"),
        ("create table t (i int)", "not one SELECT"),
        ("copy (select 1) to 'out.csv'", "not one SELECT"),
        ("", "not one SELECT"),
        ("select * from made_table", "Catalog Error"),
        ("select 1 as x, 0 as y where false", "empty, expected rows"),
        ("select i as x, cast('a' || i as int) as y from range(5) t(i)", "Conversion Error"),
    ],
)
def test_a_query_that_cannot_be_read_is_refused_in_one_line(tmp_path, monkeypatch, query, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError) as caught:
        run(tmp_path, sql=query)
    line = str(caught.value)
    assert says in line
    assert line.startswith("--sql: ")
    assert line.isprintable()
    assert caught.value.exit_code == 65
    assert not list(tmp_path.iterdir())


def test_an_error_behind_the_first_rows_leaves_nothing(tmp_path):
    query = "select i as x, case when i < 200000 then i % 2 else error('too far') end as y"
    with pytest.raises(SourceError, match="too far"):
        run(tmp_path, sql=f"{query} from range(300000) t(i)")
    assert not list(tmp_path.iterdir())


def test_without_duckdb_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(ConfigError, match=r"pip install 'streamtrain\[sql\]'") as caught:
        run(tmp_path, sql="select 1 as x, 2 as y")
    assert caught.value.exit_code == 78


def test_a_query_has_a_share_of_the_budget_and_says_when_it_is_too_small(tmp_path):
    query = "select list(i) as x, 1 as y from range(60000000) t(i)"
    with pytest.raises(BudgetError, match="the query needs more than 134,217,728 bytes"):
        run(tmp_path, sql=query, memory=512 << 20, drop=("x",))
    with pytest.raises(BudgetError, match="decoding of the source"):
        run(tmp_path, sql="select 1 as x, 2 as y", memory=220_000_000)
    assert not list(tmp_path.iterdir())


def test_a_query_goes_in_place_of_files(tmp_path):
    with pytest.raises(UsageError):
        run(tmp_path, "a.csv", sql="select 1 as x")
