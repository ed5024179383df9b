"""The table of sources, and opening what the user named: files, directories, patterns, stdin."""

from __future__ import annotations

import glob
import os
import unicodedata
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_tools import ipc_source, json_source, npy_source, svm_source
from data_tools.byte_stream import ByteStream, compression_of, spool_stdin
from data_tools.csv_source import CsvOptions, CsvSource
from data_tools.object_source import ObjectReader
from data_tools.parquet_source import ParquetReader
from data_tools.source import Source, SourceEnd, names_of
from data_tools.table_source import TableReader, TableSource
from streamtrain import durable
from streamtrain.errors import ConfigError, NoInputError, SourceError, UsageError

_MAX_NAME_BYTES = 1024
_HEAD_BYTES = 64
_PACKED = (".gz", ".zst", ".zstd", ".bz2", ".lz4")
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class SourceOptions:
    """What opening a source may need to know.

    Parameters
    ----------
    csv : CsvOptions
        Its encoding is that of all text.
    null : str
        A text that reads as missing, for what is null in other files.
    strict : bool
        Whether a row of JSON may not have a field that the sample lacks.
    svm_width : int or None
        Columns of libsvm, None for those that the files have.
    target_file : Path or None
        The target of a .npy file.
    """

    csv: CsvOptions = field(default_factory=CsvOptions)
    null: str = ""
    strict: bool = True
    svm_width: int | None = None
    target_file: Path | None = None


@dataclass(frozen=True)
class Place:
    """A file to open: where it is, what the user calls it, and what is known of it.

    Parameters
    ----------
    path : Path
    name : str
    constants : dict of str to (str or None)
        The ``k=v`` of the directories on the way to it.
    ending : SourceEnd or None
        Size and digest, where they are known already.
    """

    path: Path
    name: str
    constants: Mapping[str, str | None] = field(default_factory=dict)
    ending: SourceEnd | None = None


Opener = Callable[[Place, SourceOptions], Source]


@dataclass(frozen=True)
class Kind:
    """One row of the table.

    Parameters
    ----------
    open : callable
    endings : tuple of str
        Of file names, without those of compression.
    magic : tuple of bytes
        First bytes that no other kind of file has: they go before the ending.
    unite : callable or None
        Gives several sources, all of this kind, the same columns.
    """

    open: Opener
    endings: tuple[str, ...]
    magic: tuple[bytes, ...] = ()
    unite: Callable[[Sequence[Any]], None] | None = None


def tables(make: Callable[[Path, str], TableReader]) -> Opener:
    """Return the opener of a file that is a `TableReader`."""

    def opener(place: Place, options: SourceOptions) -> Source:
        reader = make(place.path, place.name)
        return TableSource(reader, place.constants, null=options.null.encode())

    return opener


def _open_csv(place: Place, options: SourceOptions) -> Source:
    return CsvSource(place.path, place.name, options.csv, ending=place.ending)


def _open_json(place: Place, options: SourceOptions) -> Source:
    return json_source.JsonSource(
        place.path,
        place.name,
        null=options.null.encode(),
        strict=options.strict,
        encoding=options.csv.encoding,
        ending=place.ending,
    )


def _open_svm(place: Place, options: SourceOptions) -> Source:
    return svm_source.SvmSource(
        place.path,
        place.name,
        width=options.svm_width,
        encoding=options.csv.encoding,
        ending=place.ending,
    )


def _open_npy(place: Place, options: SourceOptions) -> Source:
    reader = npy_source.NpyReader(place.path, place.name, target_file=options.target_file)
    return TableSource(reader, null=options.null.encode())


KINDS: dict[str, Kind] = {
    "csv": Kind(_open_csv, (".csv", ".tsv", ".tab", ".txt", ".data")),
    "parquet": Kind(tables(ParquetReader), (".parquet", ".pq", ".parq"), (b"PAR1", b"PARE")),
    "ipc": Kind(
        tables(ipc_source.IpcReader),
        (".arrow", ".arrows", ".ipc", ".feather"),
        (ipc_source.FILE_MAGIC, ipc_source.STREAM_MAGIC, b"FEA1"),
    ),
    "json": Kind(_open_json, (".jsonl", ".ndjson", ".jsonlines"), unite=json_source.unite),
    "libsvm": Kind(_open_svm, (".libsvm", ".svm", ".svmlight"), unite=svm_source.widen_all),
    "npy": Kind(_open_npy, (".npy",), (npy_source.NPY_MAGIC,)),
    "npz": Kind(tables(npy_source.NpzReader), (".npz",), (npy_source.NPZ_MAGIC,)),
}
"""Every kind of source: another one is a module and a row here."""


def kind_of_file(path: Path, name: str) -> str:
    """Return the kind of a file: by its first bytes, then by its ending, else CSV."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise durable.as_read_error(error, name) from error
    found = _kind_of_head(head) or kind_of_name(name)
    if found is not None:
        return found
    if compression_of(head):
        view = bytearray(_HEAD_BYTES)
        with ByteStream(path, name) as stream:
            head = bytes(view[: stream.readinto(memoryview(view))])
    return "json" if head.lstrip()[:1] == b"{" else "csv"


def _kind_of_head(head: bytes) -> str | None:
    for kind, row in KINDS.items():
        if any(head.startswith(magic) for magic in row.magic):
            return kind
    return None


def kind_of_name(name: str) -> str | None:
    """Return the kind that a file's name tells, None if it tells nothing."""
    lower = name.lower()
    for ending in _PACKED:
        lower = lower.removesuffix(ending)
    for kind, row in KINDS.items():
        if lower.endswith(row.endings):
            return kind
    return None


def expand(names: Sequence[str]) -> list[Place]:
    """Return the files that names, directories and patterns stand for, each in sorted order.

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
        elif path.is_dir():
            found += _walk(path)
        elif path.exists():
            found.append(Place(path, name))
        else:
            matches = sorted(m for m in glob.glob(name, recursive=True) if Path(m).is_file())
            if not matches:
                raise NoInputError("no such file", where=name)
            found += [Place(Path(m), m) for m in matches]
    if not found:
        raise NoInputError("no source named")
    return found


def _walk(folder: Path) -> list[Place]:
    """Return the files of a directory whose endings tell a kind; hidden ones are nobody's."""
    found: list[Place] = []
    for parent, folders, files in os.walk(folder):
        # Writers keep their own files and unfinished work under such names.
        folders[:] = sorted(f for f in folders if not f.startswith((".", "_")))
        for file in files:
            if not file.startswith((".", "_")) and kind_of_name(file) is not None:
                path = Path(parent) / file
                found.append(Place(path, str(path), _constants(path.parent)))
    if not found:
        endings = ", ".join(row.endings[0] for row in KINDS.values())
        raise NoInputError(
            f"a directory without files that end in {endings}, ...",
            where=str(folder),
            remedy="name the files",
        )
    return sorted(found, key=lambda place: place.path.parts)


def _constants(folder: Path) -> dict[str, str | None]:
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

    Raises
    ------
    NoInputError, SourceError
        If one is not there, cannot be read, or has other columns than the first.
    """
    sources: list[Source] = []
    kinds: set[str] = set()
    for k, named in enumerate(names):
        if not isinstance(named, (str, os.PathLike)):
            reader = ObjectReader(named, "table" if len(names) == 1 else f"table {k + 1}")
            sources.append(TableSource(reader, null=options.null.encode()))
            kinds.add("object")
    paths = [os.fspath(n) for n in names if isinstance(n, (str, os.PathLike))]
    for place in expand(paths) if paths or not sources else []:
        there = _located(place, spool, out)
        kind = kind_of_file(there.path, there.name)
        if options.target_file is not None and (kind != "npy" or sources):
            raise ConfigError(
                "goes with one .npy file", where="--target-file", remedy="give --target instead"
            )
        kinds.add(kind)
        sources.append(KINDS[kind].open(there, options))
    unite = KINDS[next(iter(kinds))].unite if len(kinds) == 1 and kinds <= KINDS.keys() else None
    if unite is not None:
        unite(sources)
    return checked(sources)


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
        ending = spool_stdin(spool, as_it_is=lambda head: _kind_of_head(head) is not None)
        if ending.n_bytes == 0:
            raise SourceError("empty, expected rows", where="standard input")
        return Place(spool, name, ending=ending)
    if not place.path.is_file():
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


def missing_text(missing: Sequence[str]) -> str:
    """Return how a null is spelt among texts that read as missing: "" where it is one of them."""
    return "" if "" in missing or not missing else missing[0]
