"""The one artefact of training: everything needed to score raw rows.

model.json           architecture, schema with its encoders' settings, provenance,
                     and the digest of the other file; committed last
model.safetensors    parameters, and the categories of every field
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors.numpy
import xxhash

from streamtrain import durable
from streamtrain.errors import CheckpointError, NoInputError
from streamtrain.model.architecture import Architecture, has_possible_targets
from streamtrain.model.models import layout_of
from streamtrain.seal import is_sealed, seal
from streamtrain.store.schema import FIRST_CODE, Schema, is_possible_bag, is_possible_target
from streamtrain.store.vocabulary import Vocabulary

MODEL_NAME, TENSORS_NAME = "model.json", "model.safetensors"
_FORMAT_VERSION = 1
_CHUNK = 1 << 22


class ModelHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """model.json.

    Parameters
    ----------
    format_version : int
    architecture : Architecture
    schema : Schema
    fingerprint : str
        Of the dataset it was trained from.
    steps : int
    parameters_digest : str
        sha256 of the parameters' bytes (little-endian float32).
    tensors_digest : str
        xxh3-128 of model.safetensors.
    digest : str
        Of all the others: a damaged mean or class name would score otherwise
        without an error. Set by `save_model`.
    """

    format_version: int
    architecture: Architecture
    schema: Schema
    fingerprint: str
    steps: int
    parameters_digest: str
    tensors_digest: str = ""
    digest: str = ""


@dataclass(frozen=True)
class ModelFile:
    """A loaded artefact.

    Parameters
    ----------
    header : ModelHeader
    parameters : (P,) float32
    vocabularies : tuple of Vocabulary
        One for each categorical column.
    """

    header: ModelHeader
    parameters: npt.NDArray[np.float32]
    vocabularies: tuple[Vocabulary, ...]

    @property
    def architecture(self) -> Architecture:
        """What it computes."""
        return self.header.architecture

    @property
    def schema(self) -> Schema:
        """What it takes."""
        return self.header.schema


def parameters_digest(parameters: npt.NDArray[np.float32]) -> str:
    """Return the sha256 of all parameters, as little-endian float32."""
    data = np.ascontiguousarray(parameters, dtype="<f4")
    return hashlib.sha256(data.view(np.uint8).data).hexdigest()


def _umask() -> int:
    """Return the process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _file_digest(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while data := file.read(_CHUNK):
            digest.update(data)
    return digest.hexdigest()


def save_model(folder: Path, model: ModelFile) -> None:
    """Commit a model to `folder`, replacing one that is there.

    Raises
    ------
    DiskError, OutputError
        If the disk is full, fails or refuses.
    """
    tensors: dict[str, npt.NDArray[np.generic]] = {"parameters": model.parameters}
    for i, vocabulary in enumerate(model.vocabularies):
        tensors[f"categories.{i}.offsets"] = vocabulary.offsets
        tensors[f"categories.{i}.bytes"] = vocabulary.data
    final = folder / TENSORS_NAME
    temporary = folder / f".{TENSORS_NAME}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        safetensors.numpy.save_file(
            {k: np.ascontiguousarray(v) for k, v in tensors.items()}, temporary
        )
        # The library writes for its owner alone; the model is as public as model.json.
        temporary.chmod(0o666 & ~_umask())
        durable.sync_file(temporary)
        digest = _file_digest(temporary)
        temporary.rename(final)
        durable.sync_directory(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise durable.as_stream_error(error, final) from error
    except safetensors.SafetensorError as error:
        temporary.unlink(missing_ok=True)
        raise durable.as_foreign_error(error, final) from error
    header = seal(msgspec.structs.replace(model.header, tensors_digest=digest))
    durable.write_file(
        folder / MODEL_NAME, msgspec.json.format(msgspec.json.encode(header), indent=1)
    )


def read_model_header(folder: Path) -> ModelHeader:
    """Read and verify the model.json in a run's directory.

    Raises
    ------
    NoInputError
        If there is none.
    CheckpointError
        If it is damaged.
    """
    where = str(folder)
    try:
        data = (folder / MODEL_NAME).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "holds no finished model" if folder.is_dir() else "no such run"
        raise NoInputError(
            what, where=where, remedy="finish it with `streamtrain train`"
        ) from error
    except OSError as error:
        raise durable.as_read_error(error, folder / MODEL_NAME) from error
    try:
        header = msgspec.json.decode(data, type=ModelHeader)
    except (msgspec.DecodeError, RecursionError) as error:
        raise CheckpointError(f"damaged: {error}", where=str(folder / MODEL_NAME)) from error
    if not is_sealed(header):
        raise CheckpointError(
            "damaged: its contents do not match its digest",
            where=str(folder / MODEL_NAME),
            remedy="restore it, or train again",
        )
    target = header.schema.target
    if not (is_possible_target(target) and has_possible_targets(header.architecture, target)):
        raise CheckpointError(
            "its targets cannot be those of a model",
            where=str(folder / MODEL_NAME),
            remedy="restore it, or train again",
        )
    return header


def load_model_file(folder: Path) -> ModelFile:
    """Read and verify the model in a run's directory.

    Raises
    ------
    NoInputError
        If there is none.
    CheckpointError
        If it is damaged, or its parts do not fit each other.
    """
    where = str(folder)
    header = read_model_header(folder)
    path = folder / TENSORS_NAME
    try:
        if _file_digest(path) != header.tensors_digest:
            raise CheckpointError("does not match its digest in model.json", where=str(path))
        with safetensors.safe_open(path, framework="numpy") as file:
            parameters = file.get_tensor("parameters")
            vocabularies = tuple(
                Vocabulary(
                    file.get_tensor(f"categories.{i}.offsets"),
                    file.get_tensor(f"categories.{i}.bytes"),
                )
                for i in range(len(header.schema.categorical))
            )
    except FileNotFoundError as error:
        raise CheckpointError("missing", where=str(path)) from error
    except OSError as error:
        raise durable.as_read_error(error, path) from error
    except safetensors.SafetensorError as error:
        raise CheckpointError(str(error), where=str(path)) from error
    layout = layout_of(header.architecture)
    fits = (
        parameters.shape == (layout.n_parameters,)
        and parameters.dtype == np.float32
        and all(
            _fits(v, n)
            for v, n in zip(vocabularies, header.architecture.cardinalities, strict=True)
        )
        and header.schema.stored.bag_sizes == header.architecture.bag_sizes
        and all(is_possible_bag(c) for c in header.schema.bags)
        and parameters_digest(parameters) == header.parameters_digest
    )
    if not fits:
        raise CheckpointError("parameters and categories do not fit the schema", where=where)
    return ModelFile(header, parameters, vocabularies)


def _fits(vocabulary: Vocabulary, cardinality: int) -> bool:
    offsets, data = vocabulary.offsets, vocabulary.data
    return bool(
        offsets.shape == (cardinality - FIRST_CODE + 1,)
        and offsets.dtype == np.int64
        and data.dtype == np.uint8
        and offsets[0] == 0
        and offsets[-1] == len(data)
        and (np.diff(offsets) >= 0).all()
    )
