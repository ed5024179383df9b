"""A dataset of files that are there: a manifest beside them, and not a byte moved."""

from __future__ import annotations

import os
import time
from pathlib import Path

from msgspec import UNSET

from data_tools.adopt_arrays import ArrayAdoption
from data_tools.adopt_files import holds_tables
from data_tools.adopt_find import holds_arrays
from data_tools.adopt_tables import TableAdoption
from data_tools.options import IngestOptions
from data_tools.outcome import report_of
from data_tools.report import IngestReport, Listener
from data_tools.warm_up import warm_up
from streamtrain import durable
from streamtrain.errors import NoInputError, OutputError, StreamtrainError, UsageError
from streamtrain.kernels.warm import compile_apart
from streamtrain.store.allocator import tame_allocators
from streamtrain.store.manifest import MANIFEST_NAME, Manifest
from streamtrain.store.manifest_file import read_manifest, write_manifest


def adopt(
    options: IngestOptions,
    *,
    splits: dict[str, float] | None = None,
    split_files: dict[str, str] | None = None,
    listen: Listener = lambda _: None,
) -> IngestReport:
    """Make a directory of Parquet files or of Zarr arrays a dataset, by files beside them.

    Parameters
    ----------
    options : IngestOptions
        `out` is the directory; `sources`, `splits` and what concerns text or the
        writing of shards is of no effect.
    splits : dict of str to float, or None
        Shares of the rows drawn for valid and test, in whole blocks. None takes the
        directories train, valid and test where they are.
    split_files : dict of str to str
        Patterns of the files of valid and test, in place of `splits`.
    listen : callable
        Receives `Progress`, and messages as text.

    Raises
    ------
    StreamtrainError
        See section 12 of the design; the directory is then as it was.
    """
    start = time.monotonic()
    folder = Path(options.out)
    old = check_folder(folder, overwrite=options.overwrite)
    tame_allocators()
    apart_s = compile_apart("data_tools.warm_up", "ingest")
    warm_up()
    run: TableAdoption | ArrayAdoption
    if holds_tables(folder) or not holds_arrays(folder):
        if options.target_files:
            raise UsageError("goes with a Zarr array, not with a table", where="--target-file")
        run = TableAdoption(options, folder, listen)
    else:
        warm_up("zarr")
        run = ArrayAdoption(options, folder, listen)
    manifest, vocabularies = run.run(splits, split_files or {})
    sealed = commit(folder, manifest, vocabularies, old)
    return report_of(
        sealed,
        seconds=time.monotonic() - start,
        pruned=run.pruned,
        apart_s=apart_s,
        n_rounded=run.n_rounded,
    )


def check_folder(folder: Path, *, overwrite: bool) -> Manifest | None:
    """Return the manifest that is to be replaced, None where there is none.

    Raises
    ------
    NoInputError
        If there is no such directory.
    OutputError
        If it is a dataset that may not be replaced, or cannot be written to.
    """
    where = str(folder)
    if not folder.is_dir():
        what = "not a directory" if folder.exists() else "no such directory"
        raise NoInputError(what, where=where)
    old = None
    if (folder / MANIFEST_NAME).exists():
        if not overwrite:
            raise OutputError(
                "a dataset already", where=where, remedy="give --overwrite to adopt it again"
            )
        try:
            old = read_manifest(folder)
        except StreamtrainError as error:
            raise OutputError(
                f"its {MANIFEST_NAME} is not that of adopted files",
                where=where,
                remedy="remove it if nothing needs it",
            ) from error
        if old.adopted is UNSET:
            raise OutputError(
                "a dataset that ingest wrote: its shards hold codes",
                where=where,
                remedy="train on it as it is",
            )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError("cannot create: Permission denied", where=where)
    return old


def commit(
    folder: Path, manifest: Manifest, vocabularies: dict[str, memoryview], old: Manifest | None
) -> Manifest:
    """Write vocabularies, then the manifest, which makes the dataset; then remove what it replaced.

    Names of vocabularies tell their contents: until the manifest is replaced, the
    old one finds all that it names.
    """
    for name, data in vocabularies.items():
        path = folder / name
        try:
            if not path.parent.is_dir():
                path.parent.mkdir()
                durable.sync_directory(folder)
        except OSError as error:
            raise durable.as_stream_error(error, path.parent) from error
        durable.write_file(path, data)
    sealed = write_manifest(folder, manifest)
    for name in old.files.keys() - sealed.files.keys() if old is not None else ():
        (folder / name).unlink(missing_ok=True)
    return sealed
