"""Crosses of categorical columns: a code for every combination, numbered or hashed."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

from streamtrain.config import nearest
from streamtrain.errors import ConfigError
from streamtrain.kernels.crosses import cross_codes
from streamtrain.store.schema import Schema

Codes = npt.NDArray[np.int32]
_MAX_FIELDS = 8


class Cross(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One cross.

    Parameters
    ----------
    fields : tuple of int
        Places of its columns among the categorical ones.
    size : int
        Codes: every combination, or so many buckets of a hash if there are more.
    """

    fields: tuple[int, ...]
    size: int


def plan_crosses(
    schema: Schema, crosses: tuple[tuple[str, ...], ...], *, max_size: int
) -> tuple[Cross, ...]:
    """Return the crosses of named columns.

    Raises
    ------
    ConfigError
        If a name is no categorical column, or a cross has fewer than 2 or more
        than 8 columns.
    """
    where = "--cross"
    places = {column.name: k for k, column in enumerate(schema.categorical)}
    numeric = {column.name for column in schema.numeric}
    planned = []
    for names in crosses:
        if not 2 <= len(set(names)) <= _MAX_FIELDS or len(set(names)) < len(names):
            raise ConfigError(
                f"a cross needs 2 to {_MAX_FIELDS} different columns, found {','.join(names)!r}",
                where=where,
            )
        for name in names:
            if name in numeric:
                raise ConfigError(
                    f"column {name!r} is numeric, a cross needs categories",
                    where=where,
                    remedy=f"ingest again with --categorical {name}",
                )
            if name not in places:
                raise ConfigError(f"no column {name!r}{nearest(name, places)}", where=where)
        fields = tuple(places[name] for name in names)
        all_of_them = math.prod(schema.categorical[f].cardinality for f in fields)
        planned.append(Cross(fields, min(all_of_them, max_size)))
    return tuple(planned)


class Crosser:
    """Append the codes of crosses to those of rows, in memory that is used again.

    Parameters
    ----------
    crosses : tuple of Cross
    cardinalities : tuple of int, length F
    """

    def __init__(self, crosses: tuple[Cross, ...], cardinalities: tuple[int, ...]) -> None:
        width = max((len(c.fields) for c in crosses), default=0)
        self._n_fields = len(cardinalities)
        self._sizes = np.array([c.size for c in crosses], np.int64)
        self._members = np.full((len(crosses), width), -1, np.int64)
        self._strides = np.zeros((len(crosses), width), np.int64)
        for x, cross in enumerate(crosses):
            self._members[x, : len(cross.fields)] = cross.fields
            sizes = [cardinalities[f] for f in cross.fields]
            if math.prod(sizes) == cross.size:
                self._strides[x, : len(sizes)] = [
                    math.prod(sizes[k + 1 :]) for k in range(len(sizes))
                ]
        self._buffer = np.empty((0, self._n_fields + len(crosses)), np.int32)

    def __call__(self, codes: Codes) -> Codes:
        """Return (n, F + X) codes of (n, F); valid until the next call."""
        if not len(self._sizes):
            return codes
        if len(self._buffer) < len(codes):
            self._buffer = np.empty((len(codes), self._buffer.shape[1]), np.int32)
        out = self._buffer[: len(codes)]
        cross_codes(codes, self._members, self._strides, self._sizes, out)
        return out
