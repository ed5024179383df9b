"""dataset.json, written and read: sealed, and checked before anything relies on it.

It is committed last; a directory without one is not a dataset. Its
`fingerprint` covers contents alone (schema, vocabularies, the values of every
block), so the same table gives the same one whatever kind of file it came from
and whatever format it is stored in; its `digest` covers the whole manifest, so
that a damaged one is noticed.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import msgspec
import xxhash

from streamtrain import durable
from streamtrain.errors import ManifestError, NoInputError
from streamtrain.store.adopted_manifest import check_adopted
from streamtrain.store.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    MAX_BLOCK_ENTRIES,
    MAX_BLOCK_ROWS,
    SPLITS,
    Manifest,
    Shard,
)
from streamtrain.store.schema import (
    FEATURE_TYPES,
    FIRST_CODE,
    MAX_ROW_VALUES,
    ArrayFeatures,
    is_possible_bag,
    is_possible_target,
)

_MAX_BYTES = 1 << 30


def _canonical(value: object) -> bytes:
    return msgspec.json.encode(value, order="sorted")


def _sealed(manifest: Manifest) -> Manifest:
    columns: dict[str, object] = {
        "columns": manifest.schema.columns,
        "target": manifest.schema.target,
        "weight": manifest.schema.weight,
        "exposure": manifest.schema.exposure,
    }
    if manifest.schema.array is not None:
        columns["features"] = manifest.schema.array
    contents: dict[str, object]
    if isinstance(manifest.contents, msgspec.UnsetType):
        splits = {
            split: [(block.n_rows, block.digest) for shard in shards for block in shard.blocks]
            for split, shards in manifest.splits.items()
        }
        contents = {"format_version": manifest.format_version, **columns, "splits": splits}
    else:
        # Values and the boundaries of blocks, which the order of rows depends on: no bytes.
        rows = {
            split: [
                block.n_rows for s in shards if s.array == shards[0].array for block in s.blocks
            ]
            for split, shards in manifest.splits.items()
        }
        contents = {**columns, "rows": rows, "contents": manifest.contents}
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
        if not inside or not 0 < block.n_rows <= MAX_BLOCK_ROWS:
            raise ManifestError(f"{shard.name}, block {number}: cannot lie there", where=where)
    if shard.runs and len(shard.runs) != len(shard.blocks):
        raise ManifestError(f"{shard.name}: other bags than blocks", where=where)
    for block, runs in zip(shard.blocks, shard.runs, strict=False):
        # Entries take 8 bytes each, before any codec: what is claimed is what memory is taken for.
        if any(
            not (0 <= run.n_entries < MAX_BLOCK_ENTRIES and 0 <= run.n_bytes <= block.n_bytes)
            for run in runs
        ):
            raise ManifestError(f"{shard.name}: entries that cannot lie there", where=where)
    if shard.numbers and (len(shard.numbers) != len(shard.blocks) or min(shard.numbers) < 0):
        raise ManifestError(f"{shard.name}: its blocks have no numbers", where=where)
    if shard.numbers and shard.runs:
        raise ManifestError(f"{shard.name}: bags in a file that was adopted", where=where)
    if n_rows != shard.n_rows:
        raise ManifestError(
            f"{shard.name}: its blocks hold {n_rows} rows, expected {shard.n_rows}", where=where
        )


def _check_arrays(split: str, shards: tuple[Shard, ...], *, where: str) -> None:
    """Refuse arrays of a split whose blocks do not hold the same rows."""
    arrays: dict[str, list[int]] = {}
    for shard in shards:
        arrays.setdefault(shard.array, []).extend(block.n_rows for block in shard.blocks)
    first = next(iter(arrays.values()), [])
    for name, n_rows in arrays.items():
        if n_rows != first:
            raise ManifestError(
                f"{split}: the array {name!r} has other blocks than {next(iter(arrays))!r}",
                where=where,
            )


def _is_possible(manifest: Manifest, array: ArrayFeatures) -> bool:
    schema = manifest.schema
    # Each factor first: the product of hostile ones is no reason to count that far.
    return (
        manifest.format == "zarr"
        and array.dtype in FEATURE_TYPES
        and len(array.shape) <= 32
        and all(0 < n <= MAX_ROW_VALUES for n in array.shape)
        and array.stored.n_values <= MAX_ROW_VALUES
        and len(array.statistics) in {1, array.stored.n_values}
        and (manifest.adopted is msgspec.UNSET or schema.target.n_outputs == 1)
        and not schema.columns
        and schema.weight in {None, "weight"}
        and (
            isinstance(array.names, msgspec.UnsetType) or len(array.names) == array.stored.n_values
        )
        and schema.exposure is None
    )


def _check_contents(manifest: Manifest, *, where: str) -> None:
    """Refuse what no ingest writes, so that nobody else has to expect it."""
    schema, target = manifest.schema, manifest.schema.target
    if schema.array is not None and not _is_possible(manifest, schema.array):
        raise ManifestError("holds an array that cannot be one", where=where, remedy="ingest again")
    wrong = {
        "no rows to train on": not manifest.n_rows("train"),
        "a split of another name": not set(manifest.splits) <= set(SPLITS),
        "a numeric column without statistics": any(
            c.statistics is None or c.statistics.std < 0 for c in schema.numeric
        ),
        "a categorical column without codes": any(
            c.cardinality < FIRST_CODE for c in schema.categorical
        ),
        "a bag that cannot be": not all(is_possible_bag(c) for c in schema.bags),
        "other bags than its schema": any(
            len(block.runs) != len(schema.bags)
            for split in manifest.splits
            for _, block in manifest.blocks(split)
        ),
        "a target whose classes and values differ": len(target.classes) != len(target.values),
        "a target that cannot be": not is_possible_target(target),
        "several targets of a row of a table": schema.array is None and target.n_outputs > 1,
        "contents of other splits": not isinstance(manifest.contents, msgspec.UnsetType)
        and set(manifest.contents) != set(manifest.splits),
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
    is_first = isinstance(manifest.contents, msgspec.UnsetType)
    if manifest.format_version != (1 if is_first else FORMAT_VERSION):
        raise ManifestError(
            f"format version {manifest.format_version}, this one reads {FORMAT_VERSION}",
            where=where,
        )
    if _sealed(manifest) != manifest:
        raise ManifestError(
            "damaged: its contents do not match its digest", where=where, remedy="ingest again"
        )
    for split, shards in manifest.splits.items():
        for shard in shards:
            check_name(shard.name, where=where)
            _check_blocks(shard, where=where)
        _check_arrays(split, shards, where=where)
    for name in manifest.files:
        check_name(name, where=where)
    if not isinstance(manifest.adopted, msgspec.UnsetType):
        sizes = {s.name: s.n_bytes for shards in manifest.splits.values() for s in shards}
        check_adopted(manifest.adopted, sizes, where=where)
    _check_contents(manifest, where=where)
    return manifest
