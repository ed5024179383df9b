"""dataset.json: what a dataset holds, where, and the digest of every byte of it.

The manifest is committed last; a directory without one is not a dataset. Its
`fingerprint` covers contents alone (schema, vocabularies, the rows of every
block), so the same table from another kind of file gives the same one; its
`digest` covers the whole manifest, so that a damaged one is noticed.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import msgspec
import xxhash

from streamtrain import durable
from streamtrain.errors import ManifestError, NoInputError
from streamtrain.store.schema import FIRST_CODE, Schema

MANIFEST_NAME = "dataset.json"
FORMAT_VERSION = 1
SPLITS = ("train", "valid", "test")
_MAX_BYTES = 1 << 30


class Block(msgspec.Struct, frozen=True, array_like=True):
    """Contiguous rows of a shard: `n_bytes` at `offset`, with their xxh3-64 digest (hex)."""

    n_rows: int
    offset: int
    n_bytes: int
    digest: str


class Shard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One data file.

    Parameters
    ----------
    name : str
        Path below the dataset, ``train/part-00000.parquet``.
    n_rows, n_bytes : int
        Of the whole file.
    digest : str
        xxh3-128 of the whole file, hex.
    blocks : tuple of Block
    """

    name: str
    n_rows: int
    n_bytes: int
    digest: str
    blocks: tuple[Block, ...]


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One source file and its count: rows_read = rows_written + rows_rejected.

    `rows_read` counts every record that is not blank. `digest` is the xxh3-128 of
    the bytes as stored (compressed where they are).
    """

    name: str
    n_bytes: int
    digest: str
    rows_read: int
    rows_written: int
    rows_rejected: int
    rows_blank: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of dataset.json.

    Parameters
    ----------
    format_version : int
    format : str
        "parquet".
    schema : Schema
    splits : dict of str to tuple of Shard
        For each of train, valid, test that has rows.
    sources : tuple of Source
    files : dict of str to str
        xxh3-128 of every other file (vocabulary/, rejected/), by path.
    seed : int
        Of the shuffle and the splits.
    shuffled : bool
        Whether the rows of each split are in a random order.
    block_rows : int
        Rows of every block but the last of a split.
    split_fractions : dict of str to float
    split_by : str or None
    reject_reasons : dict of str to int
    fingerprint, digest : str
        Set by `write_manifest`.
    """

    format_version: int
    format: str
    schema: Schema
    splits: dict[str, tuple[Shard, ...]]
    sources: tuple[Source, ...]
    files: dict[str, str]
    seed: int
    shuffled: bool
    block_rows: int
    split_fractions: dict[str, float]
    split_by: str | None = None
    reject_reasons: dict[str, int] = {}
    fingerprint: str = ""
    digest: str = ""

    def n_rows(self, split: str) -> int:
        """Return the rows of a split, 0 if it is not there."""
        return sum(shard.n_rows for shard in self.splits.get(split, ()))

    def blocks(self, split: str) -> list[tuple[int, Block]]:
        """Return (index of the shard, block) of every block of a split, in order."""
        return [
            (i, block)
            for i, shard in enumerate(self.splits.get(split, ()))
            for block in shard.blocks
        ]


def _canonical(value: object) -> bytes:
    return msgspec.json.encode(value, order="sorted")


def _sealed(manifest: Manifest) -> Manifest:
    contents = {
        "format_version": manifest.format_version,
        "columns": manifest.schema.columns,
        "target": manifest.schema.target,
        "weight": manifest.schema.weight,
        "exposure": manifest.schema.exposure,
        "splits": {
            split: [(block.n_rows, block.digest) for shard in shards for block in shard.blocks]
            for split, shards in manifest.splits.items()
        },
    }
    fingerprint = xxhash.xxh3_128_hexdigest(_canonical(contents))
    unsealed = msgspec.structs.replace(manifest, fingerprint=fingerprint, digest="")
    digest = xxhash.xxh3_128_hexdigest(_canonical(unsealed))
    return msgspec.structs.replace(unsealed, digest=digest)


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Seal a manifest and write it durably as the last file of `folder`."""
    sealed = _sealed(manifest)
    durable.write_file(folder / MANIFEST_NAME, msgspec.json.format(_canonical(sealed), indent=1))
    return sealed


def check_name(name: str, *, where: str) -> None:
    """Refuse a path from a manifest that could leave the dataset.

    Raises
    ------
    ManifestError
        If it is absolute, has ``..`` or an empty part, a backslash or a NUL.
    """
    path = PurePosixPath(name)
    if (
        not name
        or path.is_absolute()
        or ".." in path.parts
        or path.as_posix() != name
        or any(c in name for c in "\\\0")
    ):
        raise ManifestError(f"the file name {name!r} could leave the dataset", where=where)


def _check_blocks(shard: Shard, *, where: str) -> None:
    """Refuse blocks that do not lie in their shard: readers take memory for what they claim."""
    n_rows = 0
    for number, block in enumerate(shard.blocks):
        n_rows += block.n_rows
        inside = block.offset >= 0 and 0 < block.n_bytes <= shard.n_bytes - block.offset
        if not inside or not 0 < 4 * block.n_rows <= block.n_bytes:
            raise ManifestError(f"{shard.name}, block {number}: cannot lie there", where=where)
    if n_rows != shard.n_rows:
        raise ManifestError(
            f"{shard.name}: its blocks hold {n_rows} rows, expected {shard.n_rows}", where=where
        )


def _check_contents(manifest: Manifest, *, where: str) -> None:
    """Refuse what no ingest writes, so that nobody else has to expect it."""
    schema, target = manifest.schema, manifest.schema.target
    wrong = {
        "no rows to train on": not manifest.n_rows("train"),
        "a split of another name": not set(manifest.splits) <= set(SPLITS),
        "a numeric column without statistics": any(
            c.statistics is None or c.statistics.std < 0 for c in schema.numeric
        ),
        "a categorical column without codes": any(
            c.cardinality < FIRST_CODE for c in schema.categorical
        ),
        "a target whose classes and values differ": len(target.classes) != len(target.values),
    }
    for what, found in wrong.items():
        if found:
            raise ManifestError(f"holds {what}", where=where, remedy="ingest again")


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of the dataset in `folder`.

    Raises
    ------
    NoInputError
        If there is no such directory or it holds no manifest.
    ManifestError
        If the manifest is damaged, hostile or of a later version.
    """
    path = folder / MANIFEST_NAME
    where = str(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ManifestError("larger than any manifest", where=where)
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        what = "not a dataset: it has no dataset.json" if folder.is_dir() else "no such dataset"
        raise NoInputError(
            what, where=str(folder), remedy="make one with `streamtrain ingest`"
        ) from error
    except OSError as error:
        raise durable.as_read_error(error, path) from error
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, RecursionError) as error:
        try:
            version = msgspec.json.decode(data, type=dict[str, msgspec.Raw])["format_version"]
        except (msgspec.DecodeError, RecursionError, KeyError):
            version = msgspec.Raw(b"0")
        if bytes(version).isdigit() and int(bytes(version)) > FORMAT_VERSION:
            raise ManifestError(
                f"written by a later version (format {bytes(version).decode()}, "
                f"this one reads {FORMAT_VERSION})",
                where=where,
                remedy="upgrade streamtrain",
            ) from error
        raise ManifestError(f"damaged: {error}", where=where, remedy="ingest again") from error
    if manifest.format_version != FORMAT_VERSION:
        raise ManifestError(
            f"format version {manifest.format_version}, this one reads {FORMAT_VERSION}",
            where=where,
        )
    if _sealed(manifest) != manifest:
        raise ManifestError(
            "damaged: its contents do not match its digest", where=where, remedy="ingest again"
        )
    for shards in manifest.splits.values():
        for shard in shards:
            check_name(shard.name, where=where)
            _check_blocks(shard, where=where)
    for name in manifest.files:
        check_name(name, where=where)
    _check_contents(manifest, where=where)
    return manifest
