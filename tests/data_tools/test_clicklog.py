import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pytest
from click.testing import CliRunner

from data_tools.click_process import (
    CATEGORICAL_COLUMNS,
    CHUNK_ROWS,
    COLUMNS,
    NUMERIC_COLUMNS,
    TARGET,
    _columns,
)
from data_tools.clicklog import clicklog_chunk, main, write_clicklog
from streamtrain.errors import OutputError, UsageError

N_ROWS = 2 * CHUNK_ROWS + 777


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return write_clicklog(tmp_path_factory.mktemp("log") / "clicks.csv", N_ROWS, seed=5)


@pytest.fixture(scope="module")
def truth():
    """Return the rows of `log` as Arrow made them, and their true probabilities."""
    tables, probabilities = zip(*(clicklog_chunk(5, k) for k in range(3)), strict=True)
    return pa.concat_tables(tables)[:N_ROWS], np.concatenate(probabilities)[:N_ROWS]


def test_more_rows_extend_the_same_file(log, tmp_path):
    whole = log.path.read_bytes()
    for n_rows in (1, CHUNK_ROWS, CHUNK_ROWS + 1):
        head = write_clicklog(tmp_path / "head.csv", n_rows, seed=5).path.read_bytes()
        assert head.count(b"\n") == n_rows + 1
        assert whole.startswith(head)


def test_threads_change_no_byte_and_no_number(log, tmp_path):
    single = write_clicklog(tmp_path / "single.csv", N_ROWS, seed=5, threads=1)
    assert single.path.read_bytes() == log.path.read_bytes()
    assert single.best_possible_loss == log.best_possible_loss
    assert single.realised_loss == log.realised_loss


def test_another_seed_is_another_sample(log, tmp_path):
    other = write_clicklog(tmp_path / "other.csv", 100, seed=6)
    ours = log.path.read_text().splitlines()[1:101]
    assert not set(ours) & set(other.path.read_text().splitlines()[1:])


def test_chunks_of_one_seed_differ(truth):
    table, _ = truth
    assert not table[:CHUNK_ROWS].equals(table[CHUNK_ROWS : 2 * CHUNK_ROWS])


def test_the_file_reads_back_as_the_rows_that_were_drawn(log, truth):
    table, _ = truth
    options = pa_csv.ConvertOptions(
        column_types=table.schema, null_values=[""], strings_can_be_null=True
    )
    assert pa_csv.read_csv(log.path, convert_options=options).equals(table)


def test_types_that_a_reader_infers_are_the_columns_types(log):
    schema = pa_csv.read_csv(log.path).schema
    assert tuple(schema.names) == COLUMNS
    assert all(pa.types.is_string(schema.field(name).type) for name in CATEGORICAL_COLUMNS)
    assert not any(pa.types.is_string(schema.field(name).type) for name in NUMERIC_COLUMNS)


def test_rows_and_bytes_are_counted(log):
    data = log.path.read_bytes()
    assert log.csv_bytes == len(data)
    assert log.n_rows == data.count(b"\n") - 1 == N_ROWS
    assert 250 < log.csv_bytes / N_ROWS < 310


def test_losses_are_those_of_the_true_probabilities(log, truth):
    table, p = truth
    y = table[TARGET].to_numpy()
    entropy = -(p * np.log(p) + (1 - p) * np.log1p(-p))
    realised = -np.where(y == 1, np.log(p), np.log1p(-p))
    # Each is a sum of N_ROWS numbers below 10, in another order and by another formula.
    assert log.best_possible_loss == pytest.approx(entropy.mean(), rel=1e-12)
    assert log.realised_loss == pytest.approx(realised.mean(), rel=1e-12)
    # The realised loss strays from its expectation by the logit's luck alone.
    spread = np.sqrt(np.sum(p * (1 - p) * np.log(p / (1 - p)) ** 2)) / N_ROWS
    assert abs(log.realised_loss - log.best_possible_loss) < 5 * spread


def test_clicks_follow_their_probabilities(truth):
    table, p = truth
    y = table[TARGET].to_numpy()
    for part in np.array_split(np.argsort(p, kind="stable"), 10):
        sigma = np.sqrt(np.sum(p[part] * (1 - p[part])))
        assert abs(y[part].sum() - p[part].sum()) < 5 * sigma


def test_the_base_rate_is_about_a_quarter(log, truth):
    table, _ = truth
    assert log.base_rate == table[TARGET].to_numpy().mean()
    assert 0.22 < log.base_rate < 0.28


def test_the_logit_is_linear_in_the_numbers_of_the_file_and_additive_in_its_categories(truth):
    table, p = truth
    logit = np.log(p / (1 - p))
    for name, column in zip(CATEGORICAL_COLUMNS, _columns()[len(NUMERIC_COLUMNS) :], strict=True):
        effects = dict(zip(column.labels.to_pylist(), column.effects.tolist(), strict=True))
        assert len(effects) == len(column.effects)  # no label stands for two categories
        logit -= np.array([effects[label] for label in table[name].to_pylist()])
    features = [np.ones(N_ROWS)]
    for name in NUMERIC_COLUMNS:
        values = table[name].to_numpy(zero_copy_only=False).astype(float)
        # A missing number counts as the mean: up to the luck of the sample, no feature of its own.
        features.append(np.where(np.isnan(values), 0.0, values - np.nanmean(values)))
        if np.isnan(values).any():
            features.append(np.isnan(values).astype(float))
    matrix = np.stack(features, axis=1)
    slopes, *_ = np.linalg.lstsq(matrix / np.abs(matrix).max(axis=0), logit, rcond=None)
    residue = logit - matrix / np.abs(matrix).max(axis=0) @ slopes
    assert np.abs(residue).max() < 1e-9
    absent = np.isin(matrix, (0.0, 1.0)).all(axis=0)
    absent[0] = False
    # The sample's mean is within 5 standard errors: 0.35 of logit per deviation at most.
    assert absent.sum() == sum(table[name].null_count > 0 for name in NUMERIC_COLUMNS)
    assert np.abs(slopes[absent]).max() < 5 * 0.35 / np.sqrt(N_ROWS / 2)


def test_no_single_value_decides_a_click(truth):
    _, p = truth
    assert p.min() > 1e-5
    assert p.max() < 1 - 1e-4


def test_cardinalities_run_from_ten_to_a_hundred_thousand(truth):
    table, _ = truth
    distinct = {name: pc.count_distinct(table[name]).as_py() for name in CATEGORICAL_COLUMNS}
    assert distinct["device"] == 10
    assert distinct["network_block"] > N_ROWS // 4
    commonest = max(pc.value_counts(table["site"].drop_null()).field("counts").to_pylist())
    assert commonest > N_ROWS // 20


def test_sorted_by_target_moves_rows_and_nothing_else(log, tmp_path):
    told = []
    ordered = write_clicklog(
        tmp_path / "sorted.csv",
        N_ROWS,
        seed=5,
        sort_by_target=True,
        progress=lambda done, total: told.append((done, total)),
    )
    head, *rows = log.path.read_bytes().splitlines()
    sorted_head, *sorted_rows = ordered.path.read_bytes().splitlines()
    assert sorted_head == head
    # Python's sort is stable: each half keeps the order it had.
    assert sorted_rows == sorted(rows, key=lambda row: row[:1])
    assert ordered.csv_bytes == log.csv_bytes
    assert ordered.base_rate == log.base_rate
    assert ordered.best_possible_loss == log.best_possible_loss
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (N_ROWS, N_ROWS)


def test_the_process_and_the_sample_are_what_they_were(tmp_path):
    """Benchmarks name a seed: its bytes may change only on purpose."""
    log = write_clicklog(tmp_path / "clicks.csv", 1_000)
    digest = hashlib.sha256(log.path.read_bytes()).hexdigest()
    assert digest == "e679a04c3f6c03eee91037ae5c34b670fe68439f946380f5c9c6faa9c4f16d21"


def test_a_failure_leaves_the_old_file_and_no_debris(tmp_path):
    path = tmp_path / "clicks.csv"
    path.write_text("before")

    def stop(_done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_clicklog(path, N_ROWS, progress=stop)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("n_rows", "threads"), [(0, 1), (-5, 1), (1, 0)])
def test_counts_below_one_are_refused(tmp_path, n_rows, threads):
    with pytest.raises(UsageError, match="from 1 upwards"):
        write_clicklog(tmp_path / "clicks.csv", n_rows, threads=threads)
    assert not list(tmp_path.iterdir())


def test_a_directory_in_the_way_is_an_error_of_the_output(tmp_path):
    (tmp_path / "taken").write_text("a file, not a directory")
    with pytest.raises(OutputError):
        write_clicklog(tmp_path / "taken" / "clicks.csv", 10)


def test_the_command_prints_one_line_of_json(tmp_path):
    out = tmp_path / "clicks.csv"
    result = CliRunner().invoke(main, [str(out), "--rows", "50", "--seed", "5", "--sorted"])
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["path"] == str(out)
    assert told["csv_bytes"] == out.stat().st_size
    targets = [line[:1] for line in out.read_text().splitlines()[1:]]
    assert targets == sorted(targets)
    refused = CliRunner().invoke(main, [str(out), "--rows", "0"])
    assert refused.exit_code == 2
    assert json.loads(refused.stderr)["error"]["kind"] == "usage"
