"""The files of a directory that is adopted, and the bytes of their blocks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from data_tools.block_splits import FoundBlock
from data_tools.kinds import KINDS
from data_tools.sources import constants_of
from data_tools.stored_file import READ_ERRORS, StoredFile, as_source_error
from streamtrain.errors import ConfigError, ManifestError, NoInputError, SourceError
from streamtrain.store.adopted import adopted_file, group_ranges
from streamtrain.store.adopted_manifest import AdoptedFile
from streamtrain.store.manifest import MAX_BLOCK_ROWS, Block
from streamtrain.store.manifest_file import check_name
from streamtrain.store.vocabulary import FOLDER


def find_parquet(folder: Path) -> tuple[dict[str, AdoptedFile], list[FoundBlock]]:
    """Return the Parquet files below a directory in order of path, and their row groups.

    Hidden files, those that begin with ``_``, and a directory ``vocabulary`` are
    left out.

    Raises
    ------
    NoInputError
        If there are none.
    SourceError
        If one is no Parquet file, a link out of the directory, or has no rows.
    ConfigError
        If a row group has more rows than a block may.
    """
    files: dict[str, AdoptedFile] = {}
    blocks: list[FoundBlock] = []
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        where = str(path)
        try:
            check_name(name, where=where)
        except ManifestError as error:
            raise SourceError(error.message, where=where, remedy="rename it") from error
        if not path.resolve().is_relative_to(folder.resolve()):
            raise SourceError("a link out of the directory", where=where, remedy="copy it there")
        StoredFile(path, where)
        constants = constants_of(path.relative_to(folder).parent)
        try:
            files[name], metadata, n_bytes = adopted_file(path, constants)
        except READ_ERRORS as error:
            raise as_source_error(error, where, "not a Parquet file, or cut short") from error
        for number, (n_rows, offset, size) in enumerate(group_ranges(metadata)):
            if n_rows == 0:
                continue
            if n_rows > MAX_BLOCK_ROWS:
                raise ConfigError(
                    f"row group {number} has {n_rows:,} rows, at most {MAX_BLOCK_ROWS:,} are "
                    "read at once",
                    where=where,
                    remedy="use `streamtrain ingest`, which divides it",
                )
            if offset < 0 or size <= 0 or offset + size > n_bytes:
                raise SourceError(
                    f"row group {number} does not lie in the file",
                    where=where,
                    remedy="write or fetch it again",
                )
            blocks.append(FoundBlock(name, number, n_rows, offset, size))
    if not files:
        raise NoInputError(
            "a directory without Parquet files or Zarr arrays",
            where=str(folder),
            remedy="name another, or use `streamtrain ingest`",
        )
    if not blocks:
        raise SourceError("empty, expected rows", where=str(folder))
    return files, blocks


def holds_tables(folder: Path) -> bool:
    """Return whether there is a Parquet file below a directory."""
    return bool(_walk(folder))


def _walk(folder: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [
            f
            for f in folders
            if not f.startswith((".", "_")) and not (f == FOLDER and Path(parent) == folder)
        ]
        found += [
            Path(parent) / name
            for name in names
            if name.lower().endswith(KINDS["parquet"].endings) and not name.startswith((".", "_"))
        ]
    return sorted(found, key=lambda path: path.parts)


def read_block(
    folder: Path, place: FoundBlock, buffer: npt.NDArray[np.uint8]
) -> tuple[Block, npt.NDArray[np.uint8]]:
    """Return the entry of a block, and its bytes in `buffer`.

    Raises
    ------
    SourceError
        If the file is shorter than it was.
    """
    where = str(folder / place.file)
    view = buffer[: place.n_bytes]
    try:
        with (folder / place.file).open("rb", buffering=0) as file:
            file.seek(place.offset)
            done = 0
            while done < len(view):
                n = file.readinto(view[done:].data)
                if not n:
                    raise SourceError("changed while it was being read", where=where)
                done += n
    except OSError as error:
        raise as_source_error(error, where) from error
    digest = xxhash.xxh3_64_hexdigest(view.data)
    return Block(place.n_rows, place.offset, place.n_bytes, digest), view
