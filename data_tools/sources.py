"""Opening what the user named: files, globs, standard input; the table of kinds."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from pathlib import Path

from data_tools.byte_stream import spool_stdin
from data_tools.csv_source import CsvOptions, CsvSource
from data_tools.source import Source, SourceEnd
from streamtrain.errors import NoInputError, SourceError, UsageError

Opener = Callable[[Path, str, CsvOptions, SourceEnd | None], Source]


def _open_csv(path: Path, name: str, options: CsvOptions, ending: SourceEnd | None) -> Source:
    return CsvSource(path, name, options, ending=ending)


KINDS: dict[str, Opener] = {"csv": _open_csv}
"""Kind of file to what opens it. Another kind is one module and one row here."""


def expand(names: Sequence[str]) -> list[str]:
    """Return the files that names and globs stand for, each glob's in sorted order.

    Raises
    ------
    NoInputError
        If a name is no file, or a glob matches none.
    UsageError
        If standard input is named twice.
    """
    found: list[str] = []
    for name in names:
        if name == "-":
            if "-" in found:
                raise UsageError("standard input can be read once", where="-")
            found.append(name)
        elif Path(name).is_file():
            found.append(name)
        elif Path(name).is_dir():
            raise NoInputError(
                "a directory, expected a file", where=name, remedy=f"try '{name}/*.csv'"
            )
        elif Path(name).exists():
            found.append(name)
        else:
            matches = sorted(m for m in glob.glob(name, recursive=True) if Path(m).is_file())
            if not matches:
                raise NoInputError("no such file", where=name)
            found.extend(matches)
    if not found:
        raise NoInputError("no source named")
    return found


def open_sources(
    names: Sequence[str], options: CsvOptions, *, spool: Path, out: Path | None = None
) -> list[Source]:
    """Open every source and check that they agree.

    Parameters
    ----------
    names : sequence of str
        Files, globs, ``-``.
    options : CsvOptions
    spool : Path
        File to keep standard input in, if it is named.
    out : Path or None
        Nothing below it may be a source.

    Raises
    ------
    NoInputError, SourceError
        If one is not there, cannot be read, or has another header than the first.
    """
    sources: list[Source] = []
    for name in expand(names):
        ending = None
        path = Path(name)
        if name == "-":
            path, ending = spool, spool_stdin(spool)
            if ending.n_bytes == 0:
                raise SourceError("empty, expected rows", where="standard input")
        elif not path.is_file():
            # A pipe or device can be read once only, like standard input.
            raise NoInputError("not a regular file", where=name, remedy="pipe it in and name it -")
        elif out is not None and out.resolve() in path.resolve().parents:
            raise SourceError(
                "lies inside the output", where=name, remedy="move it, or choose another --out"
            )
        sources.append(KINDS["csv"](path, name, options, ending))
        first, last = sources[0], sources[-1]
        if last.columns != first.columns:
            raise SourceError(
                _difference(first, last, header=options.header),
                where=last.name,
                remedy="ingest files with the same columns",
            )
    return sources


def _difference(first: Source, last: Source, *, header: bool) -> str:
    n, m = len(last.columns), len(first.columns)
    if n != m:
        return f"{n} columns, expected {m} as in {first.name}"
    pair = next((a, b) for a, b in zip(last.columns, first.columns, strict=True) if a != b)
    return (
        f"{'column' if header else 'position'} {pair[0]!r}, expected {pair[1]!r} as in {first.name}"
    )
