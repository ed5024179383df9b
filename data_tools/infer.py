"""Which columns are numbers or times: from their types, or a sample over the whole source."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from data_tools.columns import Roles
from data_tools.source import Records, Source
from streamtrain.errors import SchemaError
from streamtrain.store.cells import Cells, as_text, read_numbers, strings_of
from streamtrain.store.dates import read_times
from streamtrain.store.string_table import MissingTexts, TextCells

MAX_BAD_SHARE = 0.01
"""A column is of numbers when fewer of its present cells than this are not."""
_PLACES = 64


@dataclass(frozen=True)
class Kinds:
    """What a sample found.

    Parameters
    ----------
    is_number : dict of str to bool
        Of every feature and the target. Declared columns are as declared; one
        without a present cell counts as numbers.
    times : tuple of str
        Features whose every present cell in the sample is a time.
    record_bytes : float
        Mean bytes of a record, as decoded.
    text_bytes : float
        Of them those of texts.
    """

    is_number: dict[str, bool]
    times: tuple[str, ...]
    record_bytes: float
    text_bytes: float = 0.0


def find_kinds(sources: Sequence[Source], roles: Roles, missing: MissingTexts) -> Kinds:
    """Decide for every feature and the target whether it is a column of numbers or of times.

    Raises
    ------
    SchemaError
        If the target is declared categorical and has no value.
    """
    plain = (name for name in roles.features if name not in roles.bags | roles.text)
    wanted = tuple(dict.fromkeys((*plain, roles.target)))
    told = _told(sources, wanted)
    declared = roles.numeric | roles.categorical
    maybe = [
        name
        for name in wanted
        if name != roles.target
        and name not in declared
        and told.get(name, "found") in {"found", "text"}
    ]
    sampled = _Sample(wanted, missing, maybe)
    chosen = (
        sources
        if len(sources) <= _PLACES
        else [sources[i * len(sources) // _PLACES] for i in range(_PLACES)]
    )
    for source in chosen:
        # What its footer tells need not be sampled.
        names = wanted
        if source.n_rows is not None:
            names = tuple(n for n in wanted if told.get(n, "found") == "found" or n in maybe)
        if names:
            for records in source.sample(names, n_places=max(_PLACES // len(chosen), 1)):
                sampled.add(names, records)
    is_number = {
        name: told[name] == "number" if name in told else sampled.is_number(name) for name in wanted
    }
    if roles.text:
        # Their length is part of what the partitions must hold.
        for source in chosen:
            for records in source.sample(tuple(roles.text), n_places=8):
                sampled.add_text(records)
    is_number |= {name: True for name in wanted if name in roles.numeric}
    is_number |= {name: False for name in wanted if name in roles.categorical}
    if roles.target in roles.categorical and sampled.is_empty(roles.target):
        raise SchemaError(f"the target {roles.target!r} has no value", where="--target")
    certain = [
        n for n in wanted if n != roles.target and told.get(n) == "time" and n not in declared
    ]
    found = [n for n in maybe if not is_number[n] and sampled.is_time(n)]
    return Kinds(
        is_number,
        (*certain, *found),
        sampled.n_bytes / max(sampled.n_records, 1) + sampled.text_bytes / max(sampled.n_texts, 1),
        sampled.text_bytes / max(sampled.n_texts, 1),
    )


def _told(sources: Sequence[Source], wanted: Sequence[str]) -> dict[str, str]:
    """Return the kinds of the columns whose types a source knows."""
    found: dict[str, str] = {}
    for source in sources:
        for field in source.fields:
            if field.kind != "found":
                found.setdefault(field.name, field.kind)
    return {name: found[name] for name in wanted if name in found}


class _Sample:
    """Counts of what the cells of a sample are."""

    def __init__(
        self, wanted: Sequence[str], missing: MissingTexts, maybe: Collection[str]
    ) -> None:
        self._missing = missing
        self._present = dict.fromkeys(wanted, 0)
        self._bad = dict.fromkeys(wanted, 0)
        self._times = dict.fromkeys(maybe, 0)
        self._seen = dict.fromkeys(wanted, 0)
        self.n_records = self.n_bytes = 0
        self.n_texts = self.text_bytes = 0

    def add_text(self, records: Records) -> None:
        for column in records.cells:
            cells = as_text(column)
            self.text_bytes += int((cells.stops - cells.starts).sum())
        self.n_texts += records.n_records

    def add(self, names: Sequence[str], records: Records) -> None:
        n = records.n_records
        values, status = np.empty(n), np.empty(n, np.uint8)
        for name, cells in zip(names, records.cells, strict=True):
            ok, wrong, infinite = read_numbers(cells, records.good, self._missing, values, status)
            self._present[name] += ok + wrong + infinite
            self._bad[name] += wrong
            self._seen[name] += n
            if isinstance(cells, TextCells):
                self.n_bytes += int((cells.stops - cells.starts).sum()) + n
            else:
                self.n_bytes += 8 * n
            if name in self._times:
                self._look_for_times(name, cells, records)
        self.n_records += n

    def _look_for_times(self, name: str, cells: Cells, records: Records) -> None:
        if not isinstance(cells, TextCells):
            del self._times[name]
            return
        there = np.flatnonzero(~self._missing.find(cells) & (records.good != 0))
        # Most columns of text show within a few cells that they are none of times.
        for picks in (there[:64], there[64:]):
            _, good = read_times(strings_of(cells, picks))
            if not good.all():
                del self._times[name]
                return
        self._times[name] += len(there)

    def is_number(self, name: str) -> bool:
        bad = self._bad[name]
        return bad == 0 or bad < MAX_BAD_SHARE * self._present[name]

    def is_time(self, name: str) -> bool:
        return self._times.get(name, 0) > 0

    def is_empty(self, name: str) -> bool:
        return self._seen[name] > 0 and self._present[name] == 0
