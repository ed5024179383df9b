"""Which Zarr arrays of a directory are the features and the targets."""

from __future__ import annotations

from pathlib import Path

from data_tools.array_set import TARGET
from data_tools.array_table import WEIGHT
from data_tools.options import IngestOptions
from data_tools.zarr_source import is_zarr
from streamtrain.errors import ConfigError, SourceError


def holds_arrays(folder: Path) -> bool:
    """Return whether a directory is a Zarr group or array, or holds one."""
    return is_zarr(folder) or any(is_zarr(path) for path in folder.iterdir())


def find_zarr(folder: Path) -> Path | None:
    """Return the Zarr group or array that a directory is or holds, None if there is not one."""
    if is_zarr(folder):
        return folder
    found = [path for path in sorted(folder.iterdir()) if is_zarr(path)]
    return found[0] if len(found) == 1 else None


def find_arrays(folder: Path, options: IngestOptions) -> tuple[Path, Path]:
    """Return the paths of features and target below a directory that is adopted.

    Parameters
    ----------
    folder : Path
    options : IngestOptions
        `target` is the array of a group, where `target_file` names no other.

    Raises
    ------
    ConfigError, UsageError
        If an option has no meaning for arrays, or the target is not there.
    SourceError
        If it is not clear which array has the features.
    """
    options.refuse_names_of_columns(
        weight=options.weight,
        exposure=options.exposure,
        numeric=options.numeric,
        categorical=options.categorical,
        drop=options.drop,
    )
    root = find_zarr(folder)
    if options.target_files:
        (target,) = options.target_files
        if not target.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(
                f"{target} lies outside of {folder}: a dataset holds all that it is made of",
                where="--target-file",
                remedy="copy it there",
            )
        target = folder / target.resolve().relative_to(folder.resolve())
        others = [p for p in sorted(folder.iterdir()) if is_zarr(p) and p != target]
        root = root if root is not None else (others[0] if len(others) == 1 else None)
        if root is None:
            raise SourceError("more than one Zarr array beside the targets", where=str(folder))
    else:
        if root is None:
            raise SourceError("more than one Zarr group", where=str(folder), remedy="name one")
        target = root / (options.target or TARGET)
        if not is_zarr(target):
            found = ", ".join(sorted(p.name for p in root.iterdir() if is_zarr(p))) or "none"
            raise ConfigError(
                f"no array {options.target!r} in {root}",
                where="--target",
                remedy=f"its arrays are {found}; or give --target-file",
            )
    if _is_array(root):
        return root, target
    if is_zarr(root / WEIGHT):
        raise SourceError(
            "row weights, which are read of arrays that were ingested alone",
            where=str(root / WEIGHT),
            remedy="use `streamtrain ingest`, or move it out of the group",
        )
    arrays = [p for p in sorted(root.iterdir()) if is_zarr(p) and _is_array(p) and p != target]
    if root / "features" in arrays:
        return root / "features", target
    if len(arrays) != 1:
        names = ", ".join(path.name for path in arrays) or "none"
        raise SourceError(
            f"a Zarr group, expected an array `features` or one array; found {names}",
            where=str(root),
        )
    return arrays[0], target


def _is_array(path: Path) -> bool:
    text = b""
    for mark in ("zarr.json", ".zarray"):
        if (path / mark).is_file():
            text = (path / mark).read_bytes()
            return mark == ".zarray" or b'"array"' in text
    return False
