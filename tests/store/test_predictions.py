import errno
import os

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from streamtrain.errors import DiskError, OutputError, UsageError
from streamtrain.store import predictions
from streamtrain.store.predictions import PredictionWriter


def test_predictions_are_written_as_csv_with_empty_cells_for_bad_rows(tmp_path):
    path = tmp_path / "p.csv"
    with PredictionWriter(path, ["value", "label"]) as writer:
        writer.write([np.array([0.5, np.nan], np.float32), pa.array(["a", "b,c"])])
        writer.write([np.array([1.0], np.float32), pa.array([None], pa.string())])
    assert path.read_text() == '"value","label"\n0.5,"a"\n,"b,c"\n1,\n'


def test_predictions_are_written_as_parquet(tmp_path):
    path = tmp_path / "p.parquet"
    with PredictionWriter(path, ["value"]) as writer:
        writer.write([np.array([0.5, np.nan])])
    assert pq.read_table(path)["value"].to_pylist() == [0.5, None]


@pytest.mark.parametrize("name", ["p.csv", "p.parquet"])
def test_no_rows_still_make_a_file(tmp_path, name):
    with PredictionWriter(tmp_path / name, ["value"]):
        pass
    assert (tmp_path / name).exists()


def test_an_existing_file_is_kept_unless_told_otherwise(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("mine")
    with pytest.raises(OutputError, match="--overwrite"):
        PredictionWriter(path, ["v"])
    with PredictionWriter(path, ["v"], overwrite=True) as writer:
        writer.write([np.array([1.0])])
    assert path.read_text() == '"v"\n1\n'


def test_a_file_that_comes_up_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "p.csv"
    with pytest.raises(OutputError), PredictionWriter(path, ["v"]):
        path.write_text("mine")
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path):
    with pytest.raises(ValueError), PredictionWriter(tmp_path / "p.csv", ["v"]) as writer:
        writer.write([np.array([1.0]), np.array([2.0])])
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer = PredictionWriter(tmp_path / "p.csv", ["v"])
    monkeypatch.setattr("streamtrain.durable.os.fsync", full)
    with pytest.raises(DiskError):
        writer.close()
    assert not list(tmp_path.iterdir())


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(UsageError):
        PredictionWriter(tmp_path / "p.txt", ["v"])


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_many_columns_are_gathered_to_row_groups_whatever_the_pieces(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(predictions, "GROUP_BYTES", 65 * 8 * 100)
    names = [f"p{m}" for m in range(65)]
    values = np.arange(65 * 1030.0).reshape(65, 1030)
    with PredictionWriter(tmp_path / f"p.{ending}", names) as writer:
        for first in range(0, 1030, 7):
            writer.write(list(values[:, first : first + 7]))
    if ending == "csv":
        found = pa.csv.read_csv(tmp_path / "p.csv")
    else:
        file = pq.ParquetFile(tmp_path / "p.parquet")
        rows = [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)]
        assert rows == [105] * 9 + [85]
        found = file.read()
    assert found.column_names == names
    for name, expected in zip(names, values, strict=True):
        np.testing.assert_array_equal(found[name].to_numpy(), expected)
    path = tmp_path / f"p.{ending}"
    assert (predictions.waiting_bytes(path, 65) > 0) == (ending == "parquet")
    assert predictions.waiting_bytes(path, 64) == 0
