"""Every byte of a dataset against its manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import xxhash

from streamtrain import durable
from streamtrain.errors import CorruptShardError
from streamtrain.store.dataset import Dataset, open_dataset

_CHUNK = 1 << 22


@dataclass(frozen=True)
class Verified:
    """What was checked: files and their bytes."""

    files: int
    n_bytes: int


def file_digest(path: Path) -> tuple[str, int]:
    """Return (xxh3-128 in hex, bytes) of a file, a few MiB at a time."""
    digest = xxhash.xxh3_128()
    n_bytes = 0
    with path.open("rb", buffering=0) as file:
        while data := file.read(_CHUNK):
            digest.update(data)
            n_bytes += len(data)
    return digest.hexdigest(), n_bytes


def verify_dataset(path: Path) -> Verified:
    """Check every file that the manifest names, whole.

    Raises
    ------
    CorruptShardError
        Naming the first file that is missing or not what was written, and for a
        shard the first block that is damaged.
    ManifestError, NoInputError
        If the manifest is damaged or absent.
    """
    dataset = open_dataset(path)
    root = path.resolve()
    expected = {
        shard.name: shard.digest for shards in dataset.manifest.splits.values() for shard in shards
    } | dataset.manifest.files
    n_bytes = 0
    for name, digest in expected.items():
        file = path / name
        if not file.resolve().is_relative_to(root):
            raise CorruptShardError("a link out of the dataset", where=str(file))
        try:
            found, size = file_digest(file)
        except FileNotFoundError as error:
            raise CorruptShardError("missing", where=str(file)) from error
        except OSError as error:
            raise durable.as_read_error(error, file) from error
        n_bytes += size
        if found != digest:
            raise CorruptShardError(
                f"damaged{_damaged_block(dataset, name)}: digest {found}, expected {digest}",
                where=str(file),
                remedy="restore the file or ingest again",
            )
    return Verified(len(expected), n_bytes)


def _damaged_block(dataset: Dataset, name: str) -> str:
    # A file that was adopted may have blocks in several splits.
    named = [s for shards in dataset.manifest.splits.values() for s in shards if s.name == name]
    for shard in named:
        with (dataset.path / name).open("rb") as file:
            for k, block in enumerate(shard.blocks):
                file.seek(block.offset)
                if xxhash.xxh3_64_hexdigest(file.read(block.n_bytes)) != block.digest:
                    return f" in block {shard.number(k)}"
    return " outside of its blocks (footer)" if named else ""
