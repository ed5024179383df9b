"""A run's directory: what is in it, who holds it, and what its past was."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

import streamtrain
from streamtrain import durable
from streamtrain.errors import CheckpointError, MismatchError, NoInputError, OutputError
from streamtrain.seal import is_sealed, seal
from streamtrain.train.settings import TrainSettings

RUN_NAME, METRICS_NAME, LOCK_NAME = "run.json", "metrics.jsonl", ".lock"


class RunRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """run.json: what a run was asked to do, and where.

    Parameters
    ----------
    format_version : int
    dataset : str
        Path as given, made absolute.
    fingerprint : str
        Of the dataset.
    settings : TrainSettings
        With everything chosen filled in.
    versions, host : dict of str to str
    digest : str
        Of all the others: a damaged seed would resume another run without an
        error. Set by `write_record`.
    """

    format_version: int
    dataset: str
    fingerprint: str
    settings: TrainSettings
    versions: dict[str, str]
    host: dict[str, str]
    digest: str = ""


def new_record(dataset: Path, fingerprint: str, settings: TrainSettings) -> RunRecord:
    """Return the record of a run that starts here and now."""
    return RunRecord(
        format_version=1,
        dataset=str(dataset.resolve()),
        fingerprint=fingerprint,
        settings=settings,
        versions={"streamtrain": streamtrain.__version__, "python": platform.python_version()},
        host={"machine": platform.machine(), "system": platform.system()},
    )


def is_run(path: Path) -> bool:
    """Return whether a directory holds a run."""
    return (path / RUN_NAME).is_file()


def read_record(run: Path) -> RunRecord:
    """Read run.json.

    Raises
    ------
    NoInputError
        If `run` is not a run.
    CheckpointError
        If its record is damaged.
    """
    try:
        record = msgspec.json.decode((run / RUN_NAME).read_bytes(), type=RunRecord)
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "not a run: it has no run.json" if run.is_dir() else "no such run"
        raise NoInputError(
            what, where=str(run), remedy="make one with `streamtrain train`"
        ) from error
    except OSError as error:
        raise durable.as_read_error(error, run / RUN_NAME) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise CheckpointError(f"damaged: {error}", where=str(run / RUN_NAME)) from error
    if not is_sealed(record):
        raise CheckpointError(
            "damaged: its contents do not match its digest",
            where=str(run / RUN_NAME),
            remedy="restore it, or train into another directory",
        )
    return record


def write_record(run: Path, record: RunRecord) -> None:
    """Commit run.json."""
    data = msgspec.json.encode(seal(record))
    durable.write_file(run / RUN_NAME, msgspec.json.format(data, indent=2))


def check_same(record: RunRecord, settings: TrainSettings, fingerprint: str, *, run: Path) -> None:
    """Refuse to resume a run with another dataset or other settings.

    Raises
    ------
    MismatchError
        Naming the first difference.
    """
    where = str(run)
    if record.fingerprint != fingerprint:
        raise MismatchError(
            f"trained from the dataset with fingerprint {record.fingerprint}, "
            f"this one has {fingerprint}",
            where=where,
            remedy="resume with the same dataset, or train into another directory",
        )
    # The batch size first: defaults of others follow it.
    for name in ("batch_size", *TrainSettings.__struct_fields__):
        then, now = getattr(record.settings, name), getattr(settings, name)
        if name == "window_blocks" and now == 0:
            continue
        if then != now:
            raise MismatchError(
                f"started with {name} = {_shown(then)}, resumed with {_shown(now)}",
                where=where,
                remedy="resume with the same settings, or train into another directory",
            )


def _shown(value: object) -> str:
    return msgspec.json.encode(value).decode()


@contextlib.contextmanager
def hold_run(run: Path) -> Iterator[None]:
    """Create a run's directory if need be, and hold it for this process alone.

    Raises
    ------
    OutputError
        If it cannot be made, is a file, or another process trains in it.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create: {error.strerror}", where=str(run)) from error
    with durable.open_lock(run / LOCK_NAME) as free:
        if not free:
            raise OutputError("another process is training in it", where=str(run))
        yield


class MetricsLog:
    """metrics.jsonl: one JSON object an event, append only.

    Parameters
    ----------
    run : Path

    Notes
    -----
    Lines are not synced one by one: they are a record, the checkpoints are the
    truth. A line cut by a crash is ended before the next one is written.
    """

    def __init__(self, run: Path) -> None:
        self._path = run / METRICS_NAME
        try:
            self._file = self._path.open("a+b", buffering=0)
            if self._file.tell() > 0:
                self._file.seek(-1, os.SEEK_END)
                if self._file.read(1) != b"\n":
                    self._file.write(b"\n")
        except OSError as error:
            raise durable.as_stream_error(error, self._path) from error

    def write(self, event: dict[str, Any]) -> None:
        """Append an event."""
        try:
            self._file.write(msgspec.json.encode(event) + b"\n")
        except OSError as error:
            raise durable.as_stream_error(error, self._path) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def last_event(run: Path, name: str) -> dict[str, Any] | None:
    """Return the last event of a name in metrics.jsonl, or None."""
    found = None
    try:
        with (run / METRICS_NAME).open("rb") as file:
            for line in file:
                if f'"event":"{name}"'.encode() in line:
                    with contextlib.suppress(msgspec.DecodeError):
                        found = msgspec.json.decode(line, type=dict[str, Any])
    except FileNotFoundError:
        return None
    return found
