"""Targets that are text, as numbers: each a place in a list of texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from data_tools.array_source import ArraySource
from data_tools.source import SourceEnd
from streamtrain.errors import SourceError

MAX_TEXTS = 100_000
"""Of one array: the target's own limit is checked when all rows are known."""
_MAX_TEXT_BYTES = 64 << 20


class Labels:
    """An array of text, or of codes and their categories, as an array of places in `texts`.

    Parameters
    ----------
    source : ArraySource
        (N,), of text or, with `categories`, of whole numbers: -1 is missing.
    categories : ArraySource or None
        (C,), of text or numbers.

    Attributes
    ----------
    texts : list of str
        Of those read so far, or all categories.

    Raises
    ------
    SourceError
        If there are more than 100,000 texts.
    """

    def __init__(self, source: ArraySource, categories: ArraySource | None = None) -> None:
        self.name = source.name
        self.shape = source.shape
        self.dtype: np.dtype[Any] = np.dtype(np.float64)
        self.step, self.chunk_bytes = source.step, source.chunk_bytes
        self._source = source
        self._fixed = categories is not None
        self.texts: list[str] = [] if categories is None else read_texts(categories)
        self._places = {text: i for i, text in enumerate(self.texts)}
        if self._fixed and (source.dtype.kind not in "iu" or len(source.shape) != 1):
            raise SourceError("codes of categories that are no whole numbers", where=self.name)

    def slabs(self, n_rows: int) -> Iterator[npt.NDArray[np.float64]]:
        """Yield places in `texts`, NaN for what is missing."""
        first = 0
        for rows in self._source.slabs(n_rows):
            yield self._codes(rows, first) if self._fixed else self._numbered(rows)
            first += len(rows)

    def _codes(self, rows: npt.NDArray[Any], first: int) -> npt.NDArray[np.float64]:
        bad = np.flatnonzero((rows < -1) | (rows >= len(self.texts)))
        if len(bad):
            raise SourceError(
                f"row {first + int(bad[0])} has the code {rows[bad[0]]}, "
                f"expected one of {len(self.texts)} categories",
                where=self.name,
            )
        return np.where(rows < 0, np.nan, rows.astype(np.float64))

    def _numbered(self, rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        out = np.empty(len(rows))
        for i, value in enumerate(rows.tolist()):
            text = _as_text(value)
            place = self._places.get(text)
            if place is None:
                place = self._places[text] = len(self.texts)
                self.texts.append(text)
                if place >= MAX_TEXTS:
                    raise too_many(self.name)
            out[i] = place
        return out

    def end(self) -> SourceEnd:
        """Return size and digest."""
        return self._source.end()


def read_texts(source: ArraySource, *, at_most: int = MAX_TEXTS) -> list[str]:
    """Return every value of a short array as text.

    Raises
    ------
    SourceError
        If it has other axes than one, or too many values.
    """
    if len(source.shape) != 1:
        raise SourceError(f"of shape {source.shape}, expected a list of names", where=source.name)
    if source.shape[0] > at_most:
        raise too_many(source.name, at_most)
    found: list[str] = []
    n_bytes = 0
    if source.shape[0]:
        for rows in source.slabs(4096):
            found += [_as_text(value) for value in rows.tolist()]
            n_bytes += sum(map(len, found[-len(rows) :]))
            if n_bytes > _MAX_TEXT_BYTES:
                raise SourceError("more text than any list of names holds", where=source.name)
    return found


def too_many(name: str, at_most: int = MAX_TEXTS) -> SourceError:
    """Return the error for an array of more texts than a list may have."""
    return SourceError(f"more than {at_most:,} different texts", where=name)


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
