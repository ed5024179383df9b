"""Hostile text for Vowpal Wabbit and libsvm: every row is counted, or the file is refused."""

import gzip
import os
import random

import pytest

from data_tools import byte_stream
from streamtrain.errors import NoInputError, SourceError, StreamtrainError
from tests.data_tools.tables import run

GOOD = {
    "vw": b"1 |f a b:2 |g c\n-1 'x|f a\n",
    "svm": b"1 1:2 70000:1\n0 qid:3 2:0.5\n",
}
BYTES = {
    "vw": b"01 -.e:|'\tfgab#\n\r\x00\xff\xc3\xa9 shared",
    "svm": b"01 -.e:#\tqid 123\n\r\x00\xff\xc3\xa9",
}


def refused(folder, name, kind=SourceError, **options):
    before = {p.name for p in folder.iterdir()}
    with pytest.raises(kind) as caught:
        run(folder, str(name), target=None, **options)
    assert {p.name for p in folder.iterdir()} == before
    return str(caught.value)


@pytest.mark.parametrize("ending", GOOD)
@pytest.mark.parametrize("seed", range(40))
def test_random_bytes_never_crash_and_every_row_is_counted(tmp_path, monkeypatch, ending, seed):
    rng = random.Random(seed)
    monkeypatch.setattr("data_tools.text_source.PIECE_BYTES", rng.choice([64, 4096, 1 << 20]))
    lines = [GOOD[ending].splitlines()[0]]
    for _ in range(rng.randrange(1, 60)):
        if rng.random() < 0.4:
            lines.append(rng.choice(GOOD[ending].splitlines()))
        else:
            noise = bytes(rng.choices(BYTES[ending], k=rng.randrange(30)))
            lines.append(noise.replace(b"\n", b""))
    text = rng.choice([b"\n", b"\r\n"]).join(lines) + GOOD[ending] * rng.randrange(2)
    path = tmp_path / f"a.{ending}"
    path.write_bytes(text)
    options = {"splits": {}, "sparse": rng.random() < 0.5, "split_by": None, "shuffle": False}
    found = None
    try:
        found = run(tmp_path, str(path), target=None, **options)
    except StreamtrainError as error:
        assert error.exit_code in {65, 78}  # noqa: PT017 (most seeds give a dataset)
    if found is None:
        return
    report, manifest = found
    (source,) = manifest.sources
    assert report.rows_read == report.rows_written + report.rows_rejected
    n_lines = text.count(b"\n") + (not text.endswith(b"\n"))
    assert source.rows_blank + report.rows_read == n_lines
    assert sum(report.reasons.values()) == report.rows_rejected


@pytest.mark.parametrize("ending", GOOD)
def test_a_compressed_file_that_is_cut_or_damaged_is_refused(tmp_path, ending):
    data = gzip.compress(GOOD[ending] * 5000)
    for name, found in (("cut", data[:-40]), ("flipped", data[:60] + b"\x00\xff" + data[62:])):
        path = tmp_path / f"{name}.{ending}.gz"
        path.write_bytes(found)
        assert "damaged or cut short" in refused(tmp_path, path)


@pytest.mark.parametrize("ending", GOOD)
def test_nothing_and_blank_lines_are_no_rows(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    for text in (b"", b"\n\n\r\n"):
        path.write_bytes(text)
        assert "empty, expected rows" in refused(tmp_path, path)
    assert "no such file" in refused(tmp_path, tmp_path / "none.vw", kind=NoInputError)


def test_text_that_is_not_utf8_as_a_whole_says_how_to_read_it(tmp_path):
    path = tmp_path / "a.vw"
    path.write_bytes(GOOD["vw"].decode().encode("utf-16"))
    assert "--encoding utf-16" in refused(tmp_path, path)
    report, _ = run(tmp_path, str(path), target=None, encoding="utf-16", splits={})
    assert report.rows_written == 2


@pytest.mark.parametrize("ending", GOOD)
def test_a_line_without_an_end_is_refused(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(GOOD[ending] + GOOD[ending].splitlines()[0] + b" " * (7 << 20))
    assert "a row has no end within" in refused(tmp_path, path)


@pytest.mark.parametrize("ending", GOOD)
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch, ending):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(GOOD[ending] * 10)
    original = byte_stream.ByteStream.end

    def change(stream):
        os.utime(path, ns=(1, 1))
        return original(stream)

    monkeypatch.setattr(byte_stream.ByteStream, "end", change)
    assert "changed while it was being read" in refused(tmp_path, path)


@pytest.mark.parametrize("ending", GOOD)
def test_standard_input_is_read_as_a_file_of_its_kind(tmp_path, monkeypatch, ending):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(GOOD[ending] * 10)
    _, expected = run(tmp_path, str(path), target=None, out="file")
    with path.open("rb") as file:
        monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": file})())
        kind = {"svm": "libsvm"}.get(ending, ending)
        _, found = run(tmp_path, "-", target=None, kind=kind, out="stdin")
    assert found.fingerprint == expected.fingerprint


@pytest.mark.parametrize("ending", GOOD)
def test_one_bad_row_stops_an_ingest_that_is_to_fail(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(GOOD[ending] * 3 + b"1 2\n" + GOOD[ending])
    assert "line 7: " in refused(tmp_path, path, on_bad_row="fail")
