"""The way back through a network: who writes a derivative first, and who adds to it."""

from __future__ import annotations

from streamtrain.errors import ConfigError
from streamtrain.kernels import network_table as table
from streamtrain.kernels.network_table import as_row
from streamtrain.model.panels import Wiring


def mark_ways_back(wiring: Wiring, trained: set[int], wheres: list[str]) -> None:
    """Say of every operation whether the derivative it passes back is the first there.

    Parameters
    ----------
    wiring : Wiring
        Its operations are marked, and operations that zero are put between them.
    trained : set of int
        Panels whose derivative is wanted.
    wheres : list of str
        Of each operation the layer that it is for, "" for none.

    Raises
    ------
    ConfigError
        If nothing reads what a layer makes.
    """
    score = wiring.score
    written = set(range(score.panel, score.end))
    ops, reals = wiring.ops, wiring.reals
    for number in reversed(range(len(ops))):
        op = ops[number]
        kind = op[table.O_KIND]
        if kind in {table.BIAS, table.ENCODE, table.PERIODIC, table.SCALE, table.LOOKUP}:
            continue
        changed = (table.O_IN, table.O_N_IN) if kind == table.DROP else (table.O_OUT, table.O_N_OUT)
        made = range(op[changed[0]], op[changed[0]] + op[changed[1]])
        if wheres[number] and made and not written & set(made):
            raise ConfigError(
                "nothing reads what it makes",
                where=wheres[number],
                remedy='only layers "output" and "sum" add to the scores',
            )
        if kind == table.DROP:
            continue
        panels = list(range(op[table.O_IN], op[table.O_IN] + op[table.O_N_IN]))
        if kind in {table.AFFINE, table.HEAD}:
            while panels and panels[0] not in trained:
                panels.pop(0)
            op[table.O_BACK_FROM] = op[table.O_N_IN] - len(panels)
        zeroed: list[int] = []
        if kind == table.CROSS:
            firsts = range(op[table.O_MORE], op[table.O_MORE] + op[table.O_N_IN])
            zeroed = [p for p in firsts if p not in written]
        fresh = [p for p in panels if p not in written and p not in zeroed]
        if len(fresh) < len(panels):
            zeroed += fresh
        if not panels:
            op[table.O_BACK] = table.B_NONE
        else:
            op[table.O_BACK] = table.B_ADD if len(fresh) < len(panels) else table.B_WRITE
        for first, n in _runs(zeroed):
            ops.insert(number + 1, as_row(kind=table.ZERO, **{"in": first}, n_in=n))
            reals.insert(number + 1, 0.0)
            wheres.insert(number + 1, "")
            _shift_tasks(wiring, number + 1)
        written |= {*panels, *zeroed}
        if kind == table.CROSS:
            written |= set(range(op[table.O_EXTRA], op[table.O_EXTRA] + op[table.O_N_IN]))


def _shift_tasks(wiring: Wiring, inserted: int) -> None:
    for _, task in wiring.tasks:
        if task[table.T_KIND] < table.TABLE_TASK and task[table.T_OP] >= inserted:
            task[table.T_OP] += 1


def _runs(panels: list[int]) -> list[tuple[int, int]]:
    """Return (first, length) of runs of consecutive numbers."""
    runs: list[tuple[int, int]] = []
    for panel in sorted(set(panels)):
        if runs and sum(runs[-1]) == panel:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((panel, 1))
    return runs
