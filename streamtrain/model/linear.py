"""The linear model: the layout of its parameters, and calls of its kernels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamtrain.kernels import linear as kernels
from streamtrain.kernels.bags import (
    Bags,
    bag_work,
    bag_work_bytes,
    most_unique,
    no_bags,
    plan_tables,
)
from streamtrain.kernels.linear_tables import n_sums, table_size
from streamtrain.kernels.losses import N_SHAPE
from streamtrain.kernels.team import Team
from streamtrain.kernels.updates import UpdateRule
from streamtrain.model.architecture import Architecture
from streamtrain.model.crosses import Crosser

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]
_NOTHING: Floats = np.empty(0, np.float32)
_LEAST_AT_ONCE = 256


@dataclass(frozen=True)
class LinearLayout:
    """Where the parameters of a linear model lie in one flat array.

    Rows of C: the bias, D numeric features, D weights of their missing values,
    then one row for every code of every field and of every bag.
    """

    n_numeric: int
    cardinalities: tuple[int, ...]
    n_scores: int
    bag_sizes: tuple[int, ...] = ()

    @property
    def n_dense_rows(self) -> int:
        """Rows that every batch touches."""
        return 1 + 2 * self.n_numeric

    @property
    def n_table_rows(self) -> int:
        """Rows of categories and of bags."""
        return sum(self.cardinalities) + sum(self.bag_sizes)

    @property
    def n_field_rows(self) -> int:
        """Rows before those of bags."""
        return self.n_dense_rows + sum(self.cardinalities)

    @property
    def n_dense(self) -> int:
        """Parameters that are not in tables; they come first."""
        return self.n_dense_rows * self.n_scores

    @property
    def n_values(self) -> int:
        """Parameters that are not padding: all."""
        return self.n_parameters

    @property
    def n_tasks(self) -> int:
        """Tasks of a step's update: the numeric rows, each field, each part of a bag's table."""
        return 1 + len(self.cardinalities) + len(plan_tables(self.bag_sizes, 0).parts)

    def most_codes(self, batch_size: int, n_entries: int) -> int:
        """Return the most codes that a task can have in a batch of so many rows and entries."""
        return max(batch_size, most_unique(self.bag_sizes, n_entries))

    @property
    def n_parameters(self) -> int:
        """P."""
        return (self.n_dense_rows + self.n_table_rows) * self.n_scores

    def first_row(self) -> npt.NDArray[np.int64]:
        """Return the row of code 0 of each field, (F,) int64."""
        ends = np.cumsum(self.cardinalities, dtype=np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), ends])[: len(self.cardinalities)]
        return starts + self.n_dense_rows


def layout_of(architecture: Architecture) -> LinearLayout:
    """Return the layout of an architecture's parameters."""
    return LinearLayout(
        len(architecture.mean),
        architecture.field_sizes,
        architecture.n_scores,
        architecture.bag_sizes,
    )


def scratch_bytes(
    layout: LinearLayout,
    *,
    batch_size: int,
    n_threads: int,
    clips_norm: bool = False,
    n_entries: int = 0,
) -> int:
    """Return the bytes that `LinearModel` keeps for a batch size and a team.

    Parameters
    ----------
    n_entries : int
        Most entries of bags in a batch.
    clips_norm : bool
        Whether the norm of the gradient is bounded: the gradients of all
        fields are then kept at once.
    """
    per_thread = 4 * (
        n_sums(layout.cardinalities, layout.n_scores)
        + table_size(batch_size)
        + batch_size
        + 3 * max(batch_size, _LEAST_AT_ONCE) * layout.n_scores
        + layout.n_scores
    )
    most = layout.most_codes(batch_size, n_entries)
    per_gradient = 4 * (most + max(most, layout.n_dense_rows) * layout.n_scores)
    tiles = batch_size // kernels.tile_rows(batch_size) + 1
    return (
        n_threads * per_thread
        + (layout.n_tasks if clips_norm else n_threads) * per_gradient
        + 4 * batch_size * layout.n_scores
        + 16 * (tiles + layout.n_tasks)
        # Settings of the loss, mean, scale and share, of each target: as many as scores, or 1.
        + (4 * N_SHAPE + 16) * layout.n_scores
        + bag_work_bytes(layout.bag_sizes, n_entries=n_entries, n_tiles=tiles, n_threads=n_threads)
    )


class LinearModel:
    """Train and score a linear model with a team of threads.

    Parameters
    ----------
    architecture : Architecture
    team : Team
    batch_size : int
        Largest batch; 0 for scoring alone.
    n_entries : int
        Most entries of bags in a batch.
    """

    def __init__(
        self,
        architecture: Architecture,
        team: Team,
        *,
        batch_size: int = 0,
        n_entries: int = 0,
    ) -> None:
        self.architecture = architecture
        self.layout = layout_of(architecture)
        self._team = team
        self._crosser = Crosser(architecture.crosses, architecture.cardinalities)
        self._bag_tables = plan_tables(self.layout.bag_sizes, self.layout.n_field_rows)
        self._most = self.layout.most_codes(batch_size, n_entries)
        self._mean = np.array(architecture.mean, np.float32)
        self._scale = np.array(architecture.scale, np.float32)
        self._first_row = self.layout.first_row()
        self._shapes = architecture.loss_shapes()
        self._learnt = architecture.learnt()
        self._shares = architecture.loss_shares()
        self._class_weights = np.array(architecture.class_weights, np.float32)
        n, k, c = batch_size, team.n_threads, self.layout.n_scores
        self._n_tile = kernels.tile_rows(n)
        self._scores = np.zeros((k, c), np.float32)
        self._delta = np.zeros((n, c), np.float32)
        self._tile_sums = np.zeros((n // self._n_tile + 1, 2))
        sums = n_sums(self.layout.cardinalities, c) if n else 0
        self._sums = np.zeros((k, sums), np.float32)
        self._slots = np.full((k, table_size(n) if n else 0), -1, np.int32)
        self._places = np.zeros((k, n), np.int32)
        self._gathered = np.zeros((k, 3, max(n, _LEAST_AT_ONCE) * c if n else 0), np.float32)
        self._bag_work = bag_work(
            self.layout.bag_sizes,
            n_entries=n_entries,
            n_tiles=len(self._tile_sums),
            n_threads=k,
        )
        self._counts = np.zeros(self.layout.n_tasks, np.int64)
        self._squares = np.zeros(self.layout.n_tasks)
        self._keep_gradients(k)

    def _keep_gradients(self, n: int) -> None:
        c, size = self.layout.n_scores, self._most
        self._unique = np.zeros((n, size), np.int32)
        self._gradient = np.zeros((n, max(size, self.layout.n_dense_rows) * c), np.float32)

    def initial_parameters(self, seed: int) -> Floats:
        """Return the parameters before the first step: zeros but for the bias.

        The bias is `Architecture.initial_scores`; the seed changes nothing.
        """
        del seed
        parameters = np.zeros(self.layout.n_parameters, np.float32)
        # The bias is the first row.
        bias = self.architecture.initial_scores
        parameters[: len(bias)] = bias
        return parameters

    def take_steps(
        self,
        parameters: Floats,
        rule: UpdateRule,
        *,
        numeric: Floats,
        codes: Codes,
        bags: Bags | None = None,
        target: Floats,
        weight: Floats,
        exposure: Floats = _NOTHING,
        batch_size: int,
        step: int,
        rates: npt.NDArray[np.float64],
        step_sums: npt.NDArray[np.float64],
        progressive: Floats | None = None,
    ) -> int:
        """Take one step on each of the consecutive batches of some rows.

        Parameters
        ----------
        parameters : (P,) float32, updated
        rule : UpdateRule, updated
        numeric, codes : (n, D) float32, (n, F) int32
        target : (n,) float32, or (n, M) for M > 1 targets of a row
        bags : Bags of n rows, or None
        weight : (n,) float32 or (0,)
        exposure : (n,) float32 or (0,)
            Positive; log links alone look at it.
        batch_size : int
            B; there are ceil(n / B) batches.
        step : int
            Steps taken before.
        rates : (n_batches,) float64
        step_sums : (n_batches, 2) float64, overwritten
            Weighted sum of losses, and sum of weights, of each batch; the loss of a
            row of several targets is the mean over them.
        progressive : (n, C) float32 or None, overwritten
            Scores of each row before the step of its own batch.

        Returns
        -------
        int
            Steps taken: fewer than the batches if a loss was not finite; the
            parameters are then those before that batch.
        """
        n_rows = len(target)
        n_batches = -(-n_rows // batch_size)
        if bags is None:
            bags = no_bags(n_rows, len(self.layout.bag_sizes))
        if rule.clips_norm and len(self._gradient) < self.layout.n_tasks:
            self._keep_gradients(self.layout.n_tasks)
        taken = self._team.run(
            kernels.train_linear,
            numeric,
            self._crosser(codes),
            bags,
            bags.ends(),
            self.architecture.flat_targets(target),
            weight,
            exposure,
            0,
            batch_size,
            n_rows - (n_batches - 1) * batch_size,
            n_batches,
            parameters,
            rule.first,
            rule.second,
            rule.stamps,
            rule.shrinkage,
            self._mean,
            self._scale,
            self._first_row,
            self.layout.n_field_rows,
            self._bag_tables,
            self.architecture.loss_number,
            self._shapes,
            self._class_weights,
            rule.number,
            rates,
            rule.hyper,
            step,
            self._learnt,
            self._shares,
            np.float32(self.architecture.weight_scale),
            self._n_tile,
            self._scores,
            self._delta,
            self._tile_sums,
            self._bag_work,
            self._sums,
            self._slots,
            self._unique,
            self._places,
            self._counts,
            self._squares,
            self._gradient,
            self._gathered,
            step_sums,
            np.empty((0, self.layout.n_scores), np.float32) if progressive is None else progressive,
        )
        # The loss in the target's own units; of several targets kernels make the mean of them.
        if self.architecture.n_targets == 1:
            step_sums[:, 0] /= self.architecture.loss_unit
        return int(taken)

    def settled(self, parameters: Floats, rule: UpdateRule) -> Floats:
        """Return the parameters with all shrinkage caught up; the rule stays as it is.

        A copy where weights shrink (so that looking never changes what training
        computes), the array itself otherwise.
        """
        if not rule.shrinks:
            return parameters
        copy = parameters.copy()
        kernels.settle_rows(
            copy,
            self.layout.n_scores,
            self.layout.n_dense_rows,
            rule.stamps,
            rule.shrinkage[0],
            rule.shrinkage[1],
        )
        return copy

    def scores(
        self, parameters: Floats, numeric: Floats, codes: Codes, bags: Bags | None = None
    ) -> Floats:
        """Return the scores of rows, (n, C) float32.

        Parameters
        ----------
        parameters : (P,) float32
            Settled.
        numeric, codes : (n, D) float32, (n, F) int32
        bags : Bags of n rows, or None
        """
        out = np.empty((len(numeric), self.layout.n_scores), np.float32)
        self._team.run(
            kernels.score_linear,
            numeric,
            self._crosser(codes),
            no_bags(len(numeric), len(self.layout.bag_sizes)) if bags is None else bags,
            parameters,
            self._mean,
            self._scale,
            self._first_row,
            self._bag_tables,
            256,
            out,
        )
        return out
