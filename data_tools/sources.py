"""Opening what the user named: files, directories, patterns, standard input, objects."""

from __future__ import annotations

import dataclasses
import glob
import os
import unicodedata
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_tools.byte_stream import spool_stdin
from data_tools.kinds import (
    KINDS,
    Place,
    SourceOptions,
    kind_of_file,
    kind_of_head,
    kind_of_name,
)
from data_tools.object_source import ObjectReader
from data_tools.source import Source, names_of
from data_tools.table_source import TableSource
from data_tools.zarr_source import is_zarr
from streamtrain.errors import ConfigError, NoInputError, SourceError, UsageError
from streamtrain.store.adopted_manifest import is_adopted
from streamtrain.store.manifest import MANIFEST_NAME
from streamtrain.store.vocabulary import FOLDER

_MAX_NAME_BYTES = 1024
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


def expand(names: Sequence[str], *, any_ending: bool = False) -> list[Place]:
    """Return the files that names, directories and patterns stand for, each in sorted order.

    Parameters
    ----------
    names : sequence of str
    any_ending : bool
        Whether files of a directory are taken whatever their names end in.

    Raises
    ------
    NoInputError
        If a name is no file, or a directory or pattern has none.
    UsageError
        If standard input is named twice.
    """
    found: list[Place] = []
    for name in names:
        path = Path(name)
        if name == "-":
            if any(place.name == "-" for place in found):
                raise UsageError("standard input can be read once", where="-")
            found.append(Place(path, name))
        elif path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
            raise NoInputError("a directory that cannot be read", where=name)
        elif is_zarr(path):
            found.append(Place(path, name))
        elif path.is_dir():
            found += _walk(path, any_ending=any_ending)
        elif path.exists():
            found.append(Place(path, name))
        else:
            matches = [Path(m) for m in sorted(glob.glob(name, recursive=True))]
            # What ** finds in directories are files already.
            files = [m for m in matches if m.is_file() or is_zarr(m)]
            if not matches:
                raise NoInputError("no such file", where=name)
            found += [Place(m, str(m)) for m in files]
            if not files:
                for folder in matches:
                    found += _walk(folder, any_ending=any_ending)
    if not found:
        raise NoInputError("no source named")
    return found


def _walk(folder: Path, *, any_ending: bool) -> list[Place]:
    """Return the files of a directory whose endings tell a kind; hidden ones are nobody's."""
    found: list[Place] = []
    for parent, folders, files in os.walk(folder):
        # Writers keep their own files and unfinished work under such names.
        folders[:] = sorted(f for f in folders if not f.startswith((".", "_")))
        for name in [f for f in folders if is_zarr(Path(parent) / f)]:
            folders.remove(name)
            path = Path(parent) / name
            found.append(Place(path, str(path), constants_of(path.parent)))
        if is_adopted(Path(parent) / MANIFEST_NAME):
            folders[:] = [f for f in folders if f != FOLDER]
        elif MANIFEST_NAME in files:
            raise SourceError(
                "a dataset, whose shards hold codes, not a table",
                where=parent,
                remedy="give the files that it was made of",
            )
        for file in files:
            known = any_ending or kind_of_name(file) is not None
            if known and not file.startswith((".", "_")):
                path = Path(parent) / file
                found.append(Place(path, str(path), constants_of(path.parent)))
    if not found:
        endings = ", ".join(row.endings[0] for row in KINDS.values() if row.endings)
        raise NoInputError(
            f"a directory without files that end in {endings}, ...",
            where=str(folder),
            remedy="name the files",
        )
    return sorted(found, key=lambda place: place.path.parts)


def left_out(names: Sequence[Any]) -> list[str]:
    """Return the files in directories that `expand` leaves out, hidden ones not counted."""
    found: list[str] = []
    for name in names:
        path = Path(name) if isinstance(name, (str, os.PathLike)) else Path()
        if name == "-" or path == Path() or not path.is_dir() or is_zarr(path):
            continue
        for parent, folders, files in os.walk(path):
            folders[:] = sorted(
                f for f in folders if not f.startswith((".", "_")) and not is_zarr(Path(parent) / f)
            )
            found += [
                str(Path(parent) / file)
                for file in sorted(files)
                if not file.startswith((".", "_")) and kind_of_name(file) is None
            ]
    return found


def constants_of(folder: Path) -> dict[str, str | None]:
    """Return the columns that the ``k=v`` of directories are."""
    found: dict[str, str | None] = {}
    for part in folder.parts:
        key, equals, value = part.partition("=")
        if key and equals:
            text = urllib.parse.unquote(value)
            found[urllib.parse.unquote(key)] = None if text == _HIVE_NULL else text
    return found


def open_sources(
    names: Sequence[Any],
    options: SourceOptions,
    *,
    spool: Path,
    out: Path | None = None,
    target_files: Sequence[Path] = (),
    weight_files: Sequence[Path] = (),
) -> list[Source]:
    """Open every source and check that they agree.

    Parameters
    ----------
    names : sequence of str or of objects with ``__arrow_c_stream__``
        Files, directories, patterns, ``-``.
    options : SourceOptions
    spool : Path
        File to keep standard input in, if it is named.
    out : Path or None
        Nothing below it may be a source.
    target_files, weight_files : sequence of Path
        Arrays beside each source, or none.

    Raises
    ------
    UsageError
        If there is no such kind, or there are not as many arrays beside as sources.
    NoInputError, SourceError
        If one is not there, cannot be read, or has other columns than the first.
    """
    if options.kind is not None and options.kind not in KINDS:
        raise UsageError(
            f"no kind {options.kind!r}", where="--kind", remedy=f"choose of {', '.join(KINDS)}"
        )
    sources: list[Source] = []
    kinds: set[str] = set()
    for k, named in enumerate(names):
        if not isinstance(named, (str, os.PathLike)):
            reader = ObjectReader(named, "table" if len(names) == 1 else f"table {k + 1}")
            sources.append(TableSource(reader, null=options.null.encode()))
            kinds.add("object")
    paths = [os.fspath(n) for n in names if isinstance(n, (str, os.PathLike))]
    places = expand(paths, any_ending=options.kind is not None) if paths or not sources else []
    beside = [
        files_beside(files, len(places), option)
        for files, option in ((target_files, "--target-file"), (weight_files, "--weight-file"))
    ]
    for place, target_file, weight_file in zip(places, *beside, strict=True):
        there = _located(place, spool, out)
        kind = options.kind or kind_of_file(there.path, there.name)
        for file, option in ((target_file, "--target-file"), (weight_file, "--weight-file")):
            if file is not None and not KINDS[kind].is_array:
                raise ConfigError(
                    f"goes with arrays, {place.name} is {kind}",
                    where=option,
                    remedy=f"give {option.removesuffix('-file')} instead",
                )
        kinds.add(kind)
        wanted = dataclasses.replace(options, target_file=target_file, weight_file=weight_file)
        sources.append(KINDS[kind].open(there, wanted))
    unite = KINDS[next(iter(kinds))].unite if len(kinds) == 1 and kinds <= KINDS.keys() else None
    if unite is not None:
        unite(sources)
    return checked(sources)


def files_beside(files: Sequence[Path], n_sources: int, option: str) -> Sequence[Path | None]:
    """Return the array beside each source, None where there is none.

    Raises
    ------
    UsageError
        If there are some, and not one for each source.
    """
    if not files:
        return [None] * n_sources
    if len(files) != n_sources:
        raise UsageError(
            f"{len(files)} for {n_sources} sources, expected one for each, in their order",
            where=option,
            remedy="give it as often as there are sources",
        )
    return files


def checked(sources: list[Source]) -> list[Source]:
    """Return sources whose columns have names that can be used, and agree.

    Raises
    ------
    SourceError
        If they do not.
    """
    for source in sources:
        _check_names(source)
        _check_agreement(sources[0], source)
    return sources


def _located(place: Place, spool: Path, out: Path | None) -> Place:
    name = place.name
    if name == "-":
        ending = spool_stdin(spool, as_it_is=lambda head: kind_of_head(head) is not None)
        if ending.n_bytes == 0:
            raise SourceError("empty, expected rows", where="standard input")
        return Place(spool, name, ending=ending)
    if not place.path.is_file() and not is_zarr(place.path):
        # A pipe or device can be read once only, like standard input.
        raise NoInputError("not a regular file", where=name, remedy="pipe it in and name it -")
    if out is not None and out.resolve() in place.path.resolve().parents:
        raise SourceError(
            "lies inside the output", where=name, remedy="move it, or choose another --out"
        )
    return place


def _check_names(source: Source) -> None:
    if not source.fields:
        raise SourceError("no columns", where=source.name)
    seen: set[str] = set()
    for name in names_of(source.fields):
        if len(name) > _MAX_NAME_BYTES:
            raise SourceError(
                f"a column name of {len(name):,} characters, {name[:20]!r}..., "
                f"expected at most {_MAX_NAME_BYTES:,}",
                where=source.name,
            )
        if any(unicodedata.category(c) in {"Cc", "Cs"} for c in name):
            raise SourceError(
                f"the column name {name!r} holds control characters",
                where=source.name,
                remedy="rename it",
            )
        if name in seen:
            hint = ", or give --no-header and take columns by position" if source.delimiter else ""
            raise SourceError(
                f"the column name {name!r} occurs twice",
                where=source.name,
                remedy=f"rename one{hint}",
            )
        seen.add(name)


def _check_agreement(first: Source, last: Source) -> None:
    names, expected = names_of(last.fields), names_of(first.fields)
    remedy = "ingest files with the same columns"
    if len(names) != len(expected):
        gone = next((n for n in expected if n not in set(names)), None)
        new = next((n for n in names if n not in set(expected)), None)
        which = f"; no {gone!r}" if gone is not None else f"; {new!r} is new"
        raise SourceError(
            f"{len(names)} columns, expected {len(expected)} as in {first.name}{which}",
            where=last.name,
            remedy=remedy,
        )
    for a, b in zip(last.fields, first.fields, strict=True):
        if a.name != b.name:
            word = "position" if last.positional else "column"
            raise SourceError(
                f"{word} {a.name!r}, expected {b.name!r} as in {first.name}",
                where=last.name,
                remedy=remedy,
            )
        if a.kind != b.kind and "found" not in {a.kind, b.kind}:
            raise SourceError(
                f"column {a.name!r} is {a.told}, expected {b.told} as in {first.name}",
                where=last.name,
                remedy="write it with one type",
            )
