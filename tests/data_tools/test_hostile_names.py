"""Names that are no UTF-8, files that go away, and texts that a format does not have."""

import os
from pathlib import Path

import numpy as np
import pytest

from data_tools import sources
from data_tools.array_source import open_array
from data_tools.kinds import kind_of_file
from data_tools.sources import expand
from streamtrain.errors import NoInputError, SchemaError, SourceError
from tests.data_tools.tables import run


def test_a_name_that_is_not_utf8_is_kept_with_escapes(tmp_path):
    path = tmp_path / os.fsdecode(b"n\xff.csv")
    try:
        path.write_text("y,x\n" + "1,2\n0,1\n" * 20)
    except OSError:
        pytest.skip("names of this file system are UTF-8")
    report, manifest = run(tmp_path, str(path), splits={})
    assert report.rows_written == 40
    assert Path(manifest.sources[0].name).name == "n\\xff.csv"


def test_a_directory_that_cannot_be_read_is_an_input_that_cannot(tmp_path, monkeypatch):
    monkeypatch.setattr(sources.os, "access", lambda *_: False)
    with pytest.raises(NoInputError, match="cannot be read"):
        expand([str(tmp_path)])


@pytest.mark.parametrize("gone", ["gone.csv", "file/gone.csv"])
def test_a_file_that_is_gone_when_it_is_opened_is_no_such_file(tmp_path, gone):
    (tmp_path / "file").write_text("")
    with pytest.raises(NoInputError, match="no such file"):
        kind_of_file(tmp_path / gone, gone)


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_that_goes_away_while_it_is_read_has_changed(tmp_path, order):
    path = tmp_path / "x.npy"
    np.save(path, np.asarray(np.ones((50, 3)), order=order))
    array = open_array(path)
    path.unlink()
    with pytest.raises(SourceError, match="changed while it was being read"):
        list(array.slabs(10))


@pytest.mark.parametrize("sparse", [False, True])
def test_what_is_no_number_in_libsvm_rejects_its_row(tmp_path, sparse):
    path = tmp_path / "a.svm"
    path.write_text("1 1:1 2:1\n-1 1:1e400 2:3\n1 1:0x10 2:2\n-1 2:4\n")
    report, _ = run(tmp_path, str(path), target=None, splits={}, sparse=sparse)
    assert (report.rows_written, report.rows_rejected) == (2, 2)


def test_several_labels_of_libsvm_are_refused(tmp_path):
    path = tmp_path / "a.svm"
    path.write_text("1 1:1\n0,1 2:1.5\n")
    with pytest.raises(SourceError, match="line 2: a label with a comma: several labels"):
        run(tmp_path, str(path), target=None, splits={})


def test_whole_numbers_that_float64_rounds_are_not_called_one_value(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x,y\n" + f"1,{2**53}\n2,{2**53 + 1}\n" * 100)
    with pytest.raises(SchemaError, match=r"beyond 2\^53, where float32 cannot tell them apart"):
        run(tmp_path, str(path), splits={})
