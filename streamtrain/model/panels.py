"""A network laid out: ranges of panels, and how its parameters begin."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from streamtrain.kernels import network_table as table
from streamtrain.kernels.bags import BagTables, plan_tables
from streamtrain.kernels.lanes import LANES


def panels_of(width: int) -> int:
    """Return the panels of 16 that hold `width` numbers."""
    return -(-width // LANES)


@dataclass(frozen=True)
class Range:
    """Consecutive panels that hold numbers."""

    panel: int
    width: int

    @property
    def n_panels(self) -> int:
        """Panels that it takes."""
        return panels_of(self.width)

    @property
    def end(self) -> int:
        """The panel behind it."""
        return self.panel + self.n_panels


@dataclass(frozen=True)
class Start:
    """How parameters first .. first + n - 1 begin.

    `kind` "uniform": within +-scale; "normal": with deviation `scale`; "one".
    Of every `every` numbers those outside of low .. high - 1 stay 0.
    """

    first: int
    n: int
    kind: str
    scale: float
    every: int = 1
    low: int = 0
    high: int = 1


@dataclass
class Wiring:
    """A network laid out: what `kernels.network_table.Net` holds, and sizes.

    Parameters
    ----------
    n_panels, n_dense, n_parameters, n_table_rows, n_wt, n_row_delta : int
        A; dense parameters, which come first; P; R; numbers of transposed
        weights; numbers of a row's derivative by its table rows.
    n_values : int
        Parameters that are not padding.
    n_fields : int
        Fields that are no bags: those come last in `fields`.
    flops : int
        Multiplications and additions of a row of training in dense layers.
    """

    ops: list[list[int]] = field(default_factory=list)
    reals: list[float] = field(default_factory=list)
    fields: list[list[int]] = field(default_factory=list)
    columns: list[list[int]] = field(default_factory=list)
    knots: list[float] = field(default_factory=list)
    tasks: list[tuple[int, list[int]]] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    score: Range = Range(0, 1)
    plain: bool = False
    n_panels: int = 0
    n_dense: int = 0
    n_parameters: int = 0
    n_table_rows: int = 0
    n_wt: int = 0
    n_row_delta: int = 0
    n_values: int = 0
    n_fields: int = 0
    flops: int = 0

    @property
    def bag_sizes(self) -> tuple[int, ...]:
        """Codes of each bag."""
        return tuple(f[table.F_CARDINALITY] for f in self.fields[self.n_fields :])

    def bag_tables(self) -> BagTables:
        """Return how the tables of bags are divided."""
        return plan_tables(self.bag_sizes, 0)

    @property
    def n_slots(self) -> int:
        """Gradients of tables that wait for their norm at once: fields, and parts of bags."""
        return self.n_fields + len(self.bag_tables().parts)

    def ops_array(self) -> npt.NDArray[np.int64]:
        """Return the operations, (O, N_OP) int64."""
        return np.array(self.ops, np.int64).reshape(-1, table.N_OP)

    def tasks_array(self) -> npt.NDArray[np.int64]:
        """Return the parameter tasks, the longest first, (K, N_TASK) int64."""
        ordered = sorted(self.tasks, key=lambda task: -task[0])
        return np.array([row for _, row in ordered], np.int64).reshape(-1, table.N_TASK)
