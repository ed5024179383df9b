"""Which columns are numbers: from a sample over the whole source."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_tools.columns import Roles
from data_tools.source import Source
from streamtrain.errors import SchemaError
from streamtrain.store.string_table import MissingTexts, parse_cells

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
    present = dict.fromkeys(wanted, 0)
    bad = dict.fromkeys(wanted, 0)
    n_records = n_bytes = 0
    chosen = (
        sources
        if len(sources) <= _PLACES
        else [sources[i * len(sources) // _PLACES] for i in range(_PLACES)]
    )
    for source in chosen:
        for records in source.sample(wanted, n_places=max(_PLACES // len(chosen), 1)):
            n = records.n_records
            values, status = np.empty(n), np.empty(n, np.uint8)
            for name, cells in zip(wanted, records.cells, strict=True):
                ok, wrong, infinite = parse_cells(cells, records.good, missing, values, status)
                present[name] += ok + wrong + infinite
                bad[name] += wrong
                n_bytes += int((cells.stops - cells.starts).sum()) + n
            n_records += n
    found = {name: bad[name] == 0 or bad[name] < MAX_BAD_SHARE * present[name] for name in wanted}
    for name in wanted:
        if name in roles.numeric:
            found[name] = True
        elif name in roles.categorical:
            found[name] = False
    if roles.target in roles.categorical and present[roles.target] == 0:
        raise SchemaError(f"the target {roles.target!r} has no value", where="--target")
    return found, n_bytes / max(n_records, 1)
