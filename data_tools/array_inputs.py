"""The arrays that an ingest was given: opened, and of rows that go together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data_tools.array_set import ArraySet, needs_target, open_set
from data_tools.array_table import WEIGHT
from data_tools.kinds import kind_of_file
from data_tools.options import IngestOptions
from data_tools.several_targets import refuse_positive
from data_tools.sources import expand, files_beside
from data_tools.zarr_source import is_zarr
from streamtrain.errors import SourceError
from streamtrain.store.schema import MAX_ROW_VALUES


def wants_arrays(options: IngestOptions) -> bool:
    """Return whether sources are kept as arrays, and not as the columns of a table."""
    if options.format != "zarr" or options.sql is not None:
        return False
    if options.target_files:
        return True
    column = (options.target or "").lstrip("-")
    paths = [Path(s) for s in options.sources if isinstance(s, str) and Path(s).exists()]
    if not paths or len(paths) != len(options.sources) or column.isdecimal():
        return False
    kinds = {options.kind or kind_of_file(p, str(p)) for p in paths if _is_one(p)}
    several = {"zarr", "hdf5"} | ({"npz"} if options.arrays.in_group else set())
    return bool(kinds) and kinds <= several and all(_is_one(p) for p in paths)


def _is_one(path: Path) -> bool:
    """Return whether a path is one source: a file, or a directory of Zarr."""
    return path.is_file() or is_zarr(path)


def open_sets(options: IngestOptions, out: Path) -> list[ArraySet]:
    """Open every source, with its target and weights.

    Parameters
    ----------
    options : IngestOptions
    out : Path
        Nothing below it may be a source.

    Raises
    ------
    SourceError, NoInputError
        If one cannot be read, or its rows are not like those of the first.
    ConfigError, UsageError
        If an option has no meaning for arrays.
    """
    _check_options(options)
    names = replace(options.arrays, column=None if options.target_files else options.target)
    places = expand([str(s) for s in options.sources], any_ending=options.kind is not None)
    targets = files_beside(options.target_files, len(places), "--target-file")
    weights = files_beside(options.weight_files, len(places), "--weight-file")
    sets = []
    for place, target_file, weight_file in zip(places, targets, weights, strict=True):
        for path in (place.path, target_file, weight_file):
            if path is not None and out.resolve() in path.resolve().parents:
                raise SourceError("lies inside the output", where=str(path))
        found = open_set(
            place.path,
            names,
            target_file=target_file,
            weight_file=weight_file,
            raw=options.kind == "raw",
        )
        needs_target(found)
        sets.append(found)
    _check_agreement(sets)
    refuse_positive(options.positive, sets[0].n_targets)
    return sets


def _check_options(options: IngestOptions) -> None:
    options.refuse_names_of_columns(
        weight=None if options.weight == WEIGHT else options.weight,
        exposure=options.exposure,
        split_by=options.split_by,
        numeric=options.numeric,
        categorical=options.categorical,
        drop=options.drop,
        text=options.text,
        delimiter=options.delimiter,
    )
    options.check_use(texts=False, hashed=False)


def _check_agreement(sets: Sequence[ArraySet]) -> None:
    first = sets[0]
    for each in sets:
        name, shape = each.features.name, each.features.shape
        if len(shape) == 1:
            raise SourceError("has one axis, expected rows of features", where=name)
        n_values = math.prod(shape[1:])
        if n_values > MAX_ROW_VALUES:
            raise SourceError(
                f"a row has {n_values:,} values, expected at most {MAX_ROW_VALUES:,}", where=name
            )
        if shape[1:] != first.features.shape[1:]:
            raise SourceError(
                f"rows of shape {shape[1:]}, expected {first.features.shape[1:]} as in "
                f"{first.features.name}",
                where=name,
            )
        if each.n_targets != first.n_targets:
            raise SourceError(
                f"{each.n_targets:,} targets for each row, expected {first.n_targets:,} as in "
                f"{needs_target(first).name}",
                where=needs_target(each).name,
            )
        if each.feature_names != first.feature_names:
            raise SourceError(
                f"its features have other names than those of {first.features.name}", where=name
            )
        if (each.weight is None) != (first.weight is None):
            raise SourceError(
                f"some sources have row weights, and {name if each.weight is None else 'others'} "
                "not",
                where=name,
                remedy="give --weight-file for each",
            )
