"""Checkpoints: committed whole, verified when read, never fewer than two good ones.

checkpoints/step-000001234/
    state.safetensors    parameters, optimizer state
    state.json           progress, cursor, settings, dataset fingerprint
    COMMIT.json          xxh3-128 of the others, written last
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import safetensors.numpy
import xxhash

from streamtrain import durable
from streamtrain.errors import CheckpointError, DivergedError
from streamtrain.model_file import MODEL_NAME, TENSORS_NAME, load_model_file, read_model_header
from streamtrain.train.run import last_event, read_record
from streamtrain.train.settings import TrainSettings
from streamtrain.train.state import Progress, TrainState

FOLDER = "checkpoints"
_PREFIX = "step-"
_TENSORS, _STATE, _COMMIT = "state.safetensors", "state.json", "COMMIT.json"
_KEEP = 2
_CHUNK = 1 << 22


class CheckpointHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """state.json: what the arrays belong to.

    Parameters
    ----------
    format_version : int
    fingerprint : str
        Of the dataset.
    settings : TrainSettings
        With window_blocks as chosen.
    progress : Progress
    """

    format_version: int
    fingerprint: str
    settings: TrainSettings
    progress: Progress


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint: its directory and its header."""

    path: Path
    header: CheckpointHeader


def _digest(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while data := file.read(_CHUNK):
            digest.update(data)
    return digest.hexdigest()


def write_checkpoint(
    run: Path, state: TrainState, *, settings: TrainSettings, fingerprint: str
) -> Path:
    """Commit a checkpoint, then remove all but the newest two.

    Returns
    -------
    Path
        Its directory.

    Raises
    ------
    DivergedError
        If any number of the state is not finite; nothing is written then.
    DiskError
        If the disk is full or fails; earlier checkpoints are untouched.
    """
    progress = state.progress
    if not state.is_finite():
        raise DivergedError(
            "a parameter is no longer finite",
            where=f"step {progress.step}",
            remedy="lower --lr, or standardise extreme values",
        )
    root = run / FOLDER
    final = root / f"{_PREFIX}{progress.step:09d}"
    header = CheckpointHeader(1, fingerprint, settings, progress)
    try:
        root.mkdir(exist_ok=True)
        _remove_debris(root)
        if final.exists():
            # The same step again, a stop right after a checkpoint for instance. What
            # the run did since then without a step (a validation) it will do again.
            return final
        temporary = root / f".{final.name}.tmp"
        temporary.mkdir()
        tensors = {k: np.ascontiguousarray(v) for k, v in state.tensors().items()}
        safetensors.numpy.save_file(tensors, temporary / _TENSORS)
        durable.sync_file(temporary / _TENSORS)
        durable.write_directory_file(temporary / _STATE, msgspec.json.encode(header))
        _commit(temporary)
        durable.commit_directory(temporary, final)
    except OSError as error:
        raise durable.as_stream_error(error, final) from error
    except safetensors.SafetensorError as error:
        raise durable.as_foreign_error(error, final) from error
    for old in _in_order(root)[:-_KEEP]:
        discard(old)
    return final


def _commit(folder: Path) -> None:
    digests = {name: _digest(folder / name) for name in (_TENSORS, _STATE)}
    durable.write_file(folder / _COMMIT, msgspec.json.encode(digests))


def _in_order(root: Path) -> list[Path]:
    # By step: from the billionth on a name has more digits.
    return sorted(root.glob(f"{_PREFIX}*"), key=lambda folder: (len(folder.name), folder.name))


def _remove_debris(root: Path) -> None:
    for pattern in (".step-*.tmp", ".step-*.old"):
        for folder in root.glob(pattern):
            shutil.rmtree(folder, ignore_errors=True)


def discard(folder: Path) -> None:
    """Remove a checkpoint, its name first: half a removed one must not look like one."""
    doomed = folder.with_name(f".{folder.name}.old")
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Verify a checkpoint's digests and read its header.

    Raises
    ------
    CheckpointError
        If a file is missing or is not what was written.
    NoInputError, DiskError
        If it is there and cannot be read: it may be sound.
    """
    where = str(folder)
    try:
        digests = msgspec.json.decode((folder / _COMMIT).read_bytes(), type=dict[str, str])
        for name in (_TENSORS, _STATE):
            if digests.get(name) != _digest(folder / name):
                raise CheckpointError(f"{name} does not match its digest", where=where)
        header = msgspec.json.decode((folder / _STATE).read_bytes(), type=CheckpointHeader)
    except (
        FileNotFoundError, NotADirectoryError, IsADirectoryError,
        msgspec.DecodeError, RecursionError,
    ) as error:  # fmt: skip
        raise CheckpointError(f"incomplete: {error}", where=where) from error
    except OSError as error:
        # Not damage: a checkpoint that cannot be read just now must not be removed for it.
        raise durable.as_read_error(error, where) from error
    return Checkpoint(folder, header)


def find_checkpoints(run: Path) -> Iterator[Checkpoint | CheckpointError]:
    """Yield the checkpoints of a run, newest first: each verified, or why it is not."""
    for folder in reversed(_in_order(run / FOLDER)):
        try:
            yield read_checkpoint(folder)
        except CheckpointError as error:
            yield error


def load_arrays(checkpoint: Checkpoint, state: TrainState) -> TrainState:
    """Return a state with the arrays of a checkpoint, into those of `state`.

    Raises
    ------
    CheckpointError
        If it holds other arrays than this run needs.
    """
    try:
        with safetensors.safe_open(checkpoint.path / _TENSORS, framework="numpy") as file:
            expected = state.tensors()
            if set(file.keys()) != set(expected):
                raise CheckpointError("holds other arrays", where=str(checkpoint.path))
            for name, array in expected.items():
                saved = file.get_tensor(name)
                if saved.shape != array.shape or saved.dtype != array.dtype:
                    raise CheckpointError(
                        f"{name} has shape {saved.shape}, expected {array.shape}",
                        where=str(checkpoint.path),
                    )
                array[...] = saved
    except OSError as error:
        raise durable.as_read_error(error, checkpoint.path) from error
    except safetensors.SafetensorError as error:
        raise CheckpointError(str(error), where=str(checkpoint.path)) from error
    return replace(state, progress=checkpoint.header.progress)


def verify_run(run: Path) -> dict[str, int | str]:
    """Check a run's record, every checkpoint, and its model if it has one.

    Returns
    -------
    dict
        checkpoints, their number; model, "present" or "not yet".

    Raises
    ------
    CheckpointError
        For the first that is damaged.
    """
    read_record(run)
    n = 0
    for found in find_checkpoints(run):
        if isinstance(found, CheckpointError):
            raise found
        n += 1
    model = model_state(run)
    if model == "present":
        load_model_file(run)
    return {"checkpoints": n, "model": model}


def model_state(run: Path) -> Literal["present", "not yet"]:
    """Return whether a run has a model; of one that has only model.json is checked.

    Raises
    ------
    CheckpointError
        If its model.json is damaged, or a part of it is missing.
    """
    for name in (MODEL_NAME, TENSORS_NAME):
        if not os.path.lexists(run / name):
            # Training ends with the model, and then writes that it is done.
            if name == MODEL_NAME and last_event(run, "done") is None:
                return "not yet"
            raise CheckpointError(
                "missing",
                where=str(run / name),
                remedy="restore it, or write it again with `streamtrain train --resume auto`",
            )
    read_model_header(run)
    return "present"
