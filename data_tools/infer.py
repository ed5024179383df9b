"""Which columns are numbers: from a sample over the whole source."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_tools.cells import read_numbers
from data_tools.columns import Roles
from data_tools.source import Source
from streamtrain.errors import SchemaError
from streamtrain.store.string_table import MissingTexts, TextCells

MAX_BAD_SHARE = 0.01
"""A column is of numbers when fewer of its present cells than this are not."""
_PLACES = 64


def infer_numbers(
    sources: Sequence[Source], roles: Roles, missing: MissingTexts
) -> tuple[dict[str, bool], float]:
    """Decide for every feature and the target whether it is a column of numbers.

    Returns
    -------
    dict of str to bool
        Declared columns as declared; a column without a present cell counts as numbers.
    float
        Mean bytes of a record, as decoded.

    Raises
    ------
    SchemaError
        If the target is declared categorical or numeric and is a feature elsewhere.
    """
    wanted = tuple(dict.fromkeys((*roles.features, roles.target)))
    found = _known(sources, wanted)
    open_names = tuple(name for name in wanted if name not in found)
    present = dict.fromkeys(wanted, 0)
    bad = dict.fromkeys(wanted, 0)
    n_records = n_bytes = 0
    chosen = (
        sources
        if len(sources) <= _PLACES
        else [sources[i * len(sources) // _PLACES] for i in range(_PLACES)]
    )
    for source in chosen:
        if source.n_rows is not None and not open_names:
            continue  # its footer has told all that a sample would
        sampled = open_names if source.n_rows is not None else wanted
        for records in source.sample(sampled, n_places=max(_PLACES // len(chosen), 1)):
            n = records.n_records
            values, status = np.empty(n), np.empty(n, np.uint8)
            for name, cells in zip(sampled, records.cells, strict=True):
                ok, wrong, infinite = read_numbers(cells, records.good, missing, values, status)
                present[name] += ok + wrong + infinite
                bad[name] += wrong
                if isinstance(cells, TextCells):
                    n_bytes += int((cells.stops - cells.starts).sum()) + n
                else:
                    n_bytes += 8 * n
            n_records += n
    for name in open_names:
        found[name] = bad[name] == 0 or bad[name] < MAX_BAD_SHARE * present[name]
    for name in wanted:
        if name in roles.numeric:
            found[name] = True
        elif name in roles.categorical:
            found[name] = False
    if roles.target in roles.categorical and n_records and present[roles.target] == 0:
        raise SchemaError(f"the target {roles.target!r} has no value", where="--target")
    return found, n_bytes / max(n_records, 1)


def _known(sources: Sequence[Source], wanted: Sequence[str]) -> dict[str, bool]:
    """Return of each column whose type its sources tell whether it is of numbers."""
    found: dict[str, bool] = {}
    for source in sources:
        for field in source.fields:
            if field.kind != "found" and field.name not in found:
                found[field.name] = field.kind == "number"
    return {name: found[name] for name in wanted if name in found}
