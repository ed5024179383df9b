"""The table of kinds of sources, and what opens each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_tools import ipc_source, json_source, npy_source, svm_source, vw_source
from data_tools.anndata_source import CsrReader, is_csr
from data_tools.array_set import TARGET, ArrayNames, open_set
from data_tools.array_table import ArrayTableReader
from data_tools.byte_stream import ByteStream, compression_of
from data_tools.csv_source import CsvOptions, CsvSource
from data_tools.h5_source import H5_MAGIC
from data_tools.npy_header import NPY_MAGIC
from data_tools.npz_group import NPZ_MAGIC
from data_tools.parquet_source import ParquetReader
from data_tools.source import Source, SourceEnd
from data_tools.table_source import TableReader, TableSource
from data_tools.zarr_source import is_zarr
from streamtrain import durable
from streamtrain.errors import SourceError

_HEAD_BYTES = 64
_PACKED = (".gz", ".zst", ".zstd", ".bz2", ".lz4")


@dataclass(frozen=True)
class SourceOptions:
    """What opening a source may need to know.

    Parameters
    ----------
    csv : CsvOptions
        Its encoding is that of all text.
    null : str
        A text that reads as missing, for what is null in other files.
    kind : str or None
        Of every file, where their names and first bytes do not tell.
    strict : bool
        Whether a row may not have what no column is: a field of JSON that the
        sample lacks, an index of libsvm beyond the last.
    svm_width : int or None
        Columns of libsvm, None for those that the files have.
    sparse : bool or None
        Whether the indices of libsvm are one column of entries; None decides by
        the greatest.
    bags : tuple of str or None
        Columns of entries that a model reads; None takes those that files have.
    target_file, weight_file : Path or None
        Targets and weights beside an array.
    arrays : ArrayNames
        What is what in a file of several arrays.
    """

    csv: CsvOptions = field(default_factory=CsvOptions)
    null: str = ""
    kind: str | None = None
    strict: bool = True
    svm_width: int | None = None
    sparse: bool | None = None
    bags: tuple[str, ...] | None = None
    target_file: Path | None = None
    weight_file: Path | None = None
    arrays: ArrayNames = field(default_factory=ArrayNames)


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

    def __post_init__(self) -> None:
        # A name of a file may be any bytes, and is kept in the manifest.
        told = {name: value and storable(value) for name, value in self.constants.items()}
        object.__setattr__(self, "name", storable(self.name))
        object.__setattr__(self, "constants", {storable(name): told[name] for name in told})


def storable(name: str) -> str:
    """Return a file's name, with escapes for bytes that are not UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


Opener = Callable[[Place, SourceOptions], Source]


@dataclass(frozen=True)
class Kind:
    """One row of the table.

    Parameters
    ----------
    open : callable
    is_array : bool
        Whether arrays beside it can be its targets and weights.
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
    is_array: bool = False


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
        bags=options.bags or (),
        encoding=options.csv.encoding,
        ending=place.ending,
    )


def _open_svm(place: Place, options: SourceOptions) -> Source:
    return svm_source.SvmSource(
        place.path,
        place.name,
        width=options.svm_width,
        sparse=options.sparse,
        strict=options.strict,
        encoding=options.csv.encoding,
        ending=place.ending,
    )


def _open_vw(place: Place, options: SourceOptions) -> Source:
    told = None if options.bags is None else [vw_source.namespace_of(b) for b in options.bags]
    return vw_source.VwSource(
        place.path,
        place.name,
        namespaces=told,
        encoding=options.csv.encoding,
        ending=place.ending,
    )


def _open_arrays(place: Place, options: SourceOptions, *, raw: bool = False) -> Source:
    found = open_set(
        place.path,
        options.arrays,
        target_file=options.target_file,
        weight_file=options.weight_file,
        raw=raw,
        name=place.name,
    )
    column = options.arrays.column
    named = options.target_file is None and options.arrays.target is None and column is not None
    reader = ArrayTableReader(found, target=str(column) if named else TARGET)
    return TableSource(reader, place.constants, null=options.null.encode())


def _open_raw(place: Place, options: SourceOptions) -> Source:
    return _open_arrays(place, options, raw=True)


def _open_npy(place: Place, options: SourceOptions) -> Source:
    if options.target_file is not None or options.weight_file is not None:
        return _open_arrays(place, options)
    return tables(npy_source.NpyReader)(place, options)


def _open_npz(place: Place, options: SourceOptions) -> Source:
    if options.arrays.in_group:
        return _open_arrays(place, options)
    return tables(npy_source.NpzReader)(place, options)


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
    "vw": Kind(_open_vw, (".vw",), unite=vw_source.unite),
    "npy": Kind(_open_npy, (".npy",), (NPY_MAGIC,), is_array=True),
    "npz": Kind(_open_npz, (".npz",), (NPZ_MAGIC,)),
    "hdf5": Kind(_open_arrays, (".h5", ".hdf5", ".h5ad"), (H5_MAGIC,), is_array=True),
    "zarr": Kind(_open_arrays, (".zarr",), is_array=True),
    "anndata": Kind(tables(CsrReader), ()),
    "raw": Kind(_open_raw, (), is_array=True),
}
"""Every kind of source: another one is a module and a row here."""


_NOT_READ = {
    b"\xfd7zXZ\0": ("compressed by xz", "decompress it first"),
    b"7z\xbc\xaf'\x1c": ("a 7z archive", "unpack it first"),
    b"PARE": ("encrypted Parquet", "decrypt it first"),
    b"FEA1": ("Feather of version 1", "write it as version 2"),
}
"""First bytes of what people have, and how each could be read."""


def kind_of_file(path: Path, name: str) -> str:
    """Return the kind of a file: by its first bytes, then by its ending, else CSV."""
    if is_zarr(path):
        return "anndata" if is_csr(path) else "zarr"
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise durable.as_read_error(error, name) from error
    for magic, (what, remedy) in _NOT_READ.items():
        if head.startswith(magic):
            raise SourceError(f"{what}, which is not read", where=name, remedy=remedy)
    if head.startswith(NPZ_MAGIC) and not name.lower().endswith(".npz"):
        raise SourceError("a ZIP archive, which is not read", where=name, remedy="unzip it first")
    found = kind_of_head(head) or kind_of_name(name)
    if found is not None:
        return found
    if compression_of(head):
        view = bytearray(_HEAD_BYTES)
        with ByteStream(path, name) as stream:
            head = bytes(view[: stream.readinto(memoryview(view))])
    text = head.lstrip()
    if text[:1] == b"[" and text[1:].lstrip()[:1] == b"{":
        raise SourceError(
            "a JSON array, expected JSON lines",
            where=name,
            remedy="write one object a line, as `jq -c '.[]'` does",
        )
    return "json" if text[:1] == b"{" else "csv"


def kind_of_head(head: bytes) -> str | None:
    """Return the kind that the first bytes of a file tell, None if they tell nothing."""
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
        if row.endings and lower.endswith(row.endings):
            return kind
    return None
