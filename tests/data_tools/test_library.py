"""st.ingest: the command as a function."""

import pyarrow as pa
import pytest

import streamtrain as st
from streamtrain.errors import ConfigError, UsageError
from streamtrain.store.manifest_file import read_manifest
from tests.data_tools.tables import made_table, run, write


def test_ingest_takes_files_paths_and_tables(tmp_path):
    table = made_table(200)
    name = write("parquet", table, tmp_path)
    _, expected = run(tmp_path, name, drop=("id",), splits={"valid": 0.5})
    for k, source in enumerate((name, tmp_path / "table.parquet", table)):
        report = st.ingest(
            source, out=tmp_path / str(k), target="y", drop=["id"], splits={"valid": 0.5},
            memory="1GB",
        )  # fmt: skip
        assert report.fingerprint == expected.fingerprint
        assert st.open_dataset(tmp_path / str(k)).fingerprint == report.fingerprint


def test_ingest_takes_a_stream_once(tmp_path):
    table = made_table(200)
    reader = pa.RecordBatchReader.from_batches(table.schema, iter(table.to_batches()))
    st.ingest(reader, out=tmp_path / "d", target="y", splits={})
    assert read_manifest(tmp_path / "d").n_rows("train") == 200


def test_an_unknown_option_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"no option 'spilts' \(did you mean 'splits'\?\)"):
        st.ingest("a.csv", out=tmp_path / "d", target="y", spilts={})
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="no target"):
        st.ingest(tmp_path / "a.csv", out=tmp_path / "d")
