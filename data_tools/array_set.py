"""Which arrays of a source are features, target and weights: files beside it, or parts of a group.

data.h5    features (N, ...)   target (N,)   weight (N,)       or as the options name them
cells.zarr X (N, D)   obs/cell_type (N,)   var/_index (D,)     AnnData
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_tools.array_files import RawSource
from data_tools.array_source import (
    ArrayGroup,
    ArraySource,
    checked,
    open_array,
    open_file_group,
    read_head,
)
from data_tools.labels import Labels, read_texts
from data_tools.source import SourceEnd
from data_tools.zarr_source import ZarrGroup, is_zarr, open_zarr
from streamtrain.config import nearest
from streamtrain.errors import SchemaError, SourceError, UsageError
from streamtrain.store.schema import MAX_ROW_VALUES, MAX_TARGETS

TARGET = "target"
_FEATURES = ("features", "X")
_TARGETS = ("target", "y")
_WEIGHTS = ("weight",)
_OBS = "obs"
_MAX_NAME = 1024
_SPARSE = ("csr_matrix", "csc_matrix")


@dataclass(frozen=True)
class ArrayNames:
    """What the user said of the arrays.

    Parameters
    ----------
    features, target, weight : str or None
        Paths in a group, like ``obs/age``; None takes what is called so by convention.
    column : str or None
        What ``--target`` says: a path too, or a column of ``obs``.
    dtype : str or None
    shape : tuple of int or None
        Of raw values; -1 as its first is as many rows as there are.
    optional : bool
        Whether a target that is not there is none, and no mistake.
    """

    features: str | None = None
    target: str | None = None
    weight: str | None = None
    column: str | None = None
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    optional: bool = False

    @property
    def in_group(self) -> bool:
        """Whether a path in a group is named."""
        return any(p is not None for p in (self.features, self.target, self.weight))


@dataclass(frozen=True)
class ArraySet:
    """The arrays of one source, of as many rows each.

    Parameters
    ----------
    features : ArraySource
        (N, ...).
    target : ArraySource, Labels or None
        (N,), or numbers (N, M).
    weight : ArraySource or None
        (N,).
    feature_names : tuple of str
        Of the D values of a row, () where they have none.
    file : str
        The name of the one file that holds all of them, "" where each has its own.
    """

    features: ArraySource
    target: ArraySource | Labels | None
    weight: ArraySource | None
    feature_names: tuple[str, ...] = ()
    file: str = ""

    @property
    def parts(self) -> tuple[ArraySource | Labels, ...]:
        """Those that there are, the features first."""
        return tuple(p for p in (self.features, self.target, self.weight) if p is not None)

    @property
    def n_targets(self) -> int:
        """M, the values of a row's target; 1 where there is none."""
        return 1 if self.target is None else math.prod(self.target.shape[1:])

    @property
    def chunk_bytes(self) -> int:
        """What reading decodes at once, beside slabs."""
        return sum(p.chunk_bytes for p in self.parts)

    def slabs(
        self, n_rows: int
    ) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any] | None, npt.NDArray[Any] | None]]:
        """Yield consecutive rows: features, targets, weights, None for what there is none of."""
        for found in zip(*(p.slabs(n_rows) for p in self.parts), strict=True):
            rest = iter(found[1:])
            yield (
                found[0],
                next(rest) if self.target is not None else None,
                next(rest) if self.weight is not None else None,
            )

    def ends(self) -> list[tuple[str, SourceEnd]]:
        """Return name, size and digest of each file, after `slabs` is exhausted."""
        found: dict[str, SourceEnd] = {}
        for part in self.parts:
            name = self.file if self.file and part.name.startswith(f"{self.file}:") else part.name
            found[name] = part.end()
        return list(found.items())


def only_array(group: ArrayGroup) -> ArraySource:
    """Return the array of a group that has one, or one that is called "features".

    Raises
    ------
    SourceError
        If there is none, or it is not clear which.
    """
    return checked(group.open(_features_path(group, ArrayNames(), set())))


def open_group(path: Path, name: str) -> ArrayGroup | None:
    """Return the arrays of a file or directory that holds several, None of one array."""
    if is_zarr(path):
        found = open_zarr(path, name)
        return found if isinstance(found, ZarrGroup) else None
    return open_file_group(path, read_head(path), name)


def open_set(
    path: Path,
    names: ArrayNames,
    *,
    target_file: Path | None = None,
    weight_file: Path | None = None,
    raw: bool = False,
    name: str | None = None,
) -> ArraySet:
    """Open the arrays of a source.

    Parameters
    ----------
    path : Path
        One array, or a file or directory of several.
    names : ArrayNames
    target_file, weight_file : Path or None
        Arrays beside it, which go before those of a group.
    raw : bool
        Whether it is values without a header.
    name : str or None
        What messages call it, if not by its path.

    Raises
    ------
    NoInputError, SourceError
        If one is not there, is no array that it could be, or has other rows.
    SchemaError
        If a group has nothing at a path that was named.
    UsageError
        If raw values have no type or shape.
    """
    group, name = None, name or str(path)
    if raw or names.dtype is not None or names.shape is not None:
        features = checked(_raw(path, names, name))
    else:
        group = open_group(path, name)
        features = _features(group, names) if group is not None else open_array(path, name=name)
    if group is None and names.in_group:
        raise SourceError("is one array and no group of several", where=name)
    target: ArraySource | Labels | None = None
    if target_file is not None:
        target = open_array(target_file, option="--target-file")
    elif group is not None:
        place = _target_path(group, names)
        target = None if place is None else _target(group, place)
    weight = None
    if weight_file is not None:
        weight = open_array(weight_file, option="--weight-file")
    elif group is not None:
        place = _path(group, names.weight, "--weight-path") or _first(group, _WEIGHTS)
        weight = None if place is None else checked(group.open(place))
    if target is not None:
        _check_rows(features, target, several=not isinstance(target, Labels))
    if weight is not None:
        _check_rows(features, weight, several=False)
    return ArraySet(
        features,
        target,
        weight,
        _feature_names(group, features) if group is not None else (),
        group.name if group is not None and group.is_file else "",
    )


def _check_rows(features: ArraySource, part: ArraySource | Labels, *, several: bool) -> None:
    n = features.shape[0]
    if part.shape in {(n,), (n, 1)}:
        return
    if part.shape[0] != n or len(part.shape) != 2 or not several:
        what = f"({n},)" + (f" or ({n}, M)" if several and len(part.shape) > 1 else "")
        raise SourceError(
            f"of shape {part.shape}, expected {what} for as many rows as {features.name} has",
            where=part.name,
            remedy="a row has one weight, and one target of text: give a column of it"
            if part.shape[0] == n and not several
            else "",
        )
    if part.shape[1] > MAX_TARGETS:
        raise SourceError(
            f"{part.shape[1]:,} targets for each row, at most {MAX_TARGETS:,} are learnt together",
            where=part.name,
            remedy="learn some of its columns at a time",
        )


def needs_target(found: ArraySet) -> ArraySource | Labels:
    """Return the target.

    Raises
    ------
    SchemaError
        If there is none.
    """
    if found.target is None:
        raise SchemaError(
            "has no target",
            where=found.file or found.features.name,
            remedy="give --target-file FILE, or --target-path of an array in it",
        )
    return found.target


def _raw(path: Path, names: ArrayNames, name: str) -> RawSource:
    if names.dtype is None or names.shape is None:
        raise UsageError(
            "raw values have no header",
            where="--kind raw",
            remedy="give both --dtype float32 and --shape N,D (-1 as N counts the rows)",
        )
    try:
        dtype = np.dtype(names.dtype)
    except (TypeError, ValueError, SyntaxError) as error:
        raise UsageError(f"{names.dtype!r} is no type of NumPy", where="--dtype") from error
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise UsageError(f"{names.dtype!r} is no type of numbers", where="--dtype")
    shape = names.shape
    if any(n < 1 for n in shape[1:]) or not (shape[0] > 0 or shape[0] == -1):
        raise UsageError(f"{','.join(map(str, shape))} is no shape", where="--shape")
    read_head(path)
    return RawSource(path, name, shape, dtype)


def _first(group: ArrayGroup, paths: Sequence[str]) -> str | None:
    return next((p for p in paths if group.kind(p)), None)


def _path(group: ArrayGroup, path: str | None, option: str) -> str | None:
    """Return a path that was named, None where none was."""
    if path is None:
        return None
    path = path.strip("/")
    if not path or not group.kind(path):
        parent = path.rpartition("/")[0]
        there = group.children(parent) if not parent or group.kind(parent) == "group" else []
        shown = ", ".join(there[:10]) or "none"
        raise SchemaError(
            f"has no array {path!r}{nearest(path.rpartition('/')[2], there)}",
            where=group.name,
            remedy=f"{option} takes one of its arrays: {shown}",
        )
    return path


def _features(group: ArrayGroup, names: ArrayNames) -> ArraySource:
    beside = {names.target, names.weight, *_TARGETS, *_WEIGHTS}
    path = _features_path(group, names, {p for p in beside if p is not None})
    if group.kind(path) == "group":
        encoding = str(group.attributes(path).get("encoding-type", ""))
        if encoding in _SPARSE:
            return _sparse(group, path, encoding)
        raise SourceError(f"{path} is a group, expected an array", where=group.name)
    return checked(group.open(path))


def _sparse(group: ArrayGroup, path: str, encoding: str) -> ArraySource:
    """Refuse a sparse matrix: what reads its rows will be called here."""
    raise SourceError(
        f"{path} is sparse ({encoding}), which is not read yet",
        where=group.name,
        remedy="write it dense: adata.X = adata.X.toarray()",
    )


def _features_path(group: ArrayGroup, names: ArrayNames, beside: set[str]) -> str:
    named = _path(group, names.features, "--features-path") or _first(group, _FEATURES)
    if named is not None:
        return named
    arrays = [p for p in group.children() if group.kind(p) == "array"]
    rest = [p for p in arrays if p not in beside]
    if len(rest) == 1:
        return rest[0]
    raise SourceError(
        f"a group, expected an array; its arrays: {', '.join(arrays[:10]) or 'none'}",
        where=group.name,
        remedy="name one of them with --features-path, or in Zarr as GROUP/ARRAY",
    )


def _target_path(group: ArrayGroup, names: ArrayNames) -> str | None:
    if names.target is not None:
        return _path(group, names.target, "--target-path")
    column = names.column
    if column is None or column == TARGET:
        return _first(group, _TARGETS)
    if column.lstrip("-").isdecimal():
        return None  # the position of a column
    below = f"{_OBS}/{column}"
    in_obs = is_anndata(group) and not column.startswith(f"{_OBS}/")
    if names.optional and not group.kind(below if in_obs else column):
        return None
    if in_obs:
        columns = group.children(_OBS)
        if column not in columns:
            raise SchemaError(
                f"obs has no column {column!r}{nearest(column, columns)}",
                where=group.name,
                remedy=f"--target takes one of {', '.join(columns[:10])}",
            )
        return below
    return _path(group, column, "--target")


def _target(group: ArrayGroup, path: str) -> ArraySource | Labels:
    """Open a target: numbers, text, or codes of categories as AnnData and xarray keep them."""
    if group.kind(path) == "array":
        found = group.open(path)
        return Labels(found) if found.dtype.kind in "TUS" else checked(found)
    encoding = str(group.attributes(path).get("encoding-type", ""))
    parts = (f"{path}/codes", f"{path}/categories")
    if encoding == "categorical" and all(group.kind(p) == "array" for p in parts):
        codes, categories = (group.open(p) for p in parts)
        return Labels(codes, categories)
    raise SourceError(
        f"{path} is {encoding or 'a group'}, expected numbers, text or categories",
        where=group.name,
        remedy="write it as one of them",
    )


def is_anndata(group: ArrayGroup) -> bool:
    """Return whether a group says that it is AnnData."""
    return group.attributes().get("encoding-type") == "anndata" and group.kind(_OBS) == "group"


def _feature_names(group: ArrayGroup, features: ArraySource) -> tuple[str, ...]:
    """Return the names of AnnData's variables, where they are names of X's columns."""
    if not is_anndata(group) or len(features.shape) != 2:
        return ()
    index = str(group.attributes("var").get("_index", "_index"))
    path = f"var/{index}"
    if group.kind(path) != "array":
        return ()
    names = tuple(read_texts(group.open(path), at_most=MAX_ROW_VALUES))
    if len(names) != features.shape[1]:
        raise SourceError(
            f"var has {len(names)} names, expected {features.shape[1]} for X", where=group.name
        )
    for text in names:
        if len(text) > _MAX_NAME or any(unicodedata.category(c) in {"Cc", "Cs"} for c in text):
            raise SourceError(
                f"var has the name {text[:20]!r}, with control characters or longer than "
                f"{_MAX_NAME:,}",
                where=group.name,
                remedy="rename it",
            )
    # A name twice is no name of a column.
    return names if len(set(names)) == len(names) else ()
