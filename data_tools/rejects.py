"""rejected/part-00000.csv: every row that was refused, verbatim, with place and reason."""

from __future__ import annotations

from pathlib import Path

from streamtrain import durable
from streamtrain.errors import SourceError

_HEADER = b"source,line,reason,row\n"


class RejectFile:
    """Collects rejected rows in source order; the file is made with the first.

    Parameters
    ----------
    path : Path
    fail : bool
        Raise at the first row instead.
    """

    def __init__(self, path: Path, *, fail: bool) -> None:
        self._path = path
        self._fail = fail
        self._pending = bytearray()
        self._started = False
        self.first = ""

    def add(self, source: str, line: int, reason: str, row: bytes, *, unit: str = "line") -> None:
        """Add a row.

        Parameters
        ----------
        source : str
        line : int
            From 1; of a source that is no text the row.
        reason : str
        row : bytes
        unit : {"line", "row"}
            What messages call the place.

        Raises
        ------
        SourceError
            If the first bad row is to end the work.
        DiskError
            If the disk is full or fails.
        """
        if not self.first:
            self.first = f"{unit} {line}: {reason}"
        if self._fail:
            remedy = "mend it, or leave out --on-bad-row fail to keep such rows apart"
            if reason == "not UTF-8":
                remedy = "give --encoding latin-1 (or what it is), or leave out --on-bad-row fail"
            raise SourceError(reason, where=f"{source}, {unit} {line}", remedy=remedy)
        self._pending += b"%s,%d,%s,%s\n" % (
            _quoted(source.encode("utf-8", "surrogateescape")),
            line,
            _quoted(reason.encode()),
            _quoted(row),
        )
        if len(self._pending) > 1 << 20:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        try:
            if not self._started:
                self._path.parent.mkdir()
                self._pending[:0] = _HEADER
            with self._path.open("ab", buffering=0) as file:
                view = memoryview(bytes(self._pending))
                while view:
                    view = view[file.write(view) :]
        except OSError as error:
            raise durable.as_stream_error(error, self._path) from error
        self._started = True
        self._pending.clear()

    def close(self) -> bool:
        """Make the file durable; return whether there is one."""
        self._flush()
        if self._started:
            try:
                durable.sync_file(self._path)
            except OSError as error:
                raise durable.as_stream_error(error, self._path) from error
        return self._started


def _quoted(text: bytes) -> bytes:
    if any(c in text for c in b',"\r\n'):
        return b'"' + text.replace(b'"', b'""') + b'"'
    return text
