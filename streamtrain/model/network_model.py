"""Train and score a network: its arrays, its first parameters, and calls of its kernels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from streamtrain.kernels import network as kernels
from streamtrain.kernels.bags import Bags, bag_work, bag_work_bytes, most_unique, no_bags
from streamtrain.kernels.lanes import aligned_zeros
from streamtrain.kernels.linear_tables import table_size
from streamtrain.kernels.network_table import F_WIDTH, N_FIELD, Batch, Moving, Net, Work
from streamtrain.kernels.row_key import row_keys
from streamtrain.kernels.team import Team
from streamtrain.kernels.updates import UpdateRule
from streamtrain.model.architecture import Architecture
from streamtrain.model.crosses import Crosser
from streamtrain.model.panels import Start, Wiring
from streamtrain.model.wiring import wire
from streamtrain.seeds import derive_key

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]

_PIECE_BYTES = 8 << 20
_SCORE_TILE = 64
_NOTHING = np.empty(0, np.float32)


@lru_cache(maxsize=8)
def wiring_of(architecture: Architecture) -> Wiring:
    """Return the wiring of an architecture's network."""
    assert architecture.network is not None
    return wire(
        architecture.network,
        cardinalities=architecture.field_sizes,
        n_scores=architecture.n_scores,
        bag_sizes=architecture.bag_sizes,
    )


def piece_rows(wiring: Wiring, batch_size: int) -> int:
    """Return M, the rows worked on at once: what 8 MiB of activations hold, 256 to 2,048."""
    per_row = 2 * 64 * wiring.n_panels
    rows = max(256, min(2048, _PIECE_BYTES // per_row // 64 * 64))
    return max(16, min(rows, -(-batch_size // 16) * 16))


@dataclass(frozen=True)
class _Sizes:
    """Numbers of the arrays of `Work`."""

    panels: int
    rows: int
    threads: int
    slots: int
    batch: int
    table: int
    width: int
    wt: int
    dense: int
    row_delta: int
    tasks: int
    scores: int
    bag_sizes: tuple[int, ...]
    entries: int

    @property
    def unique(self) -> int:
        """Most codes of a table task."""
        return max(self.batch, most_unique(self.bag_sizes, self.entries))

    @property
    def at_once(self) -> int:
        """Codes that move at once."""
        return max(self.batch, 256) if self.batch else 0

    @property
    def tiles(self) -> int:
        """Most tiles of a batch, of 16 rows or more; each piece may end in a short one."""
        return self.batch // 16 + self.batch // self.rows + 2 if self.bag_sizes else 0

    @property
    def n_own(self) -> int:
        """Codes of a part of a bag."""
        return self.unique if self.bag_sizes else 0

    def n_bytes(self) -> int:
        """Return the bytes of all arrays."""
        unique = self.unique if self.width else 0
        return (
            2 * 64 * self.panels * (self.rows + 16)
            + 4 * (self.wt + self.dense + self.batch * self.row_delta)
            + self.rows
            + 8 * self.tasks
            + 4 * self.slots * (self.table + 3 * unique + unique * self.width)
            + 4 * self.slots * (3 * self.at_once * self.width + self.n_own)
            + bag_work_bytes(
                self.bag_sizes, n_entries=self.entries, n_tiles=self.tiles, n_threads=self.threads
            )
            + 4 * self.threads * max(256, 2 * self.scores)
        )


def _sizes(
    wiring: Wiring,
    *,
    batch_size: int,
    n_threads: int,
    rows: int,
    clipped: bool,
    n_entries: int = 0,
) -> _Sizes:
    n_fields = len(wiring.fields)
    training = batch_size > 0
    return _Sizes(
        panels=wiring.n_panels,
        rows=rows,
        threads=n_threads,
        slots=(wiring.n_slots if clipped else n_threads) if n_fields and training else 0,
        batch=batch_size if n_fields else 0,
        table=table_size(batch_size) if training else 0,
        width=max((f[F_WIDTH] for f in wiring.fields), default=0),
        wt=wiring.n_wt if training else 0,
        dense=wiring.n_dense if training else 0,
        row_delta=wiring.n_row_delta,
        tasks=len(wiring.tasks),
        scores=wiring.score.width,
        bag_sizes=wiring.bag_sizes if training else (),
        entries=n_entries,
    )


def _work(sizes: _Sizes, seed: int) -> Work:
    # 16 rows more than are used: panels at powers of two would share their cache sets.
    act = aligned_zeros((sizes.panels, sizes.rows + 16, 16))
    training = sizes.dense > 0
    delta = aligned_zeros(act.shape if training else (1, 1, 16))
    n = sizes.batch
    return Work(
        act=act,
        delta=delta,
        flat_act=act.reshape(-1),
        flat_delta=delta.reshape(-1),
        wt=aligned_zeros(sizes.wt),
        gradient=aligned_zeros(sizes.dense),
        row_delta=aligned_zeros((n, sizes.row_delta)),
        sums=np.zeros((sizes.rows // 16, 2)),
        squares=np.zeros(sizes.tasks),
        slots=np.full((sizes.slots, sizes.table), -1, np.int32),
        unique=np.zeros((sizes.slots, sizes.unique), np.int32),
        places=np.zeros((sizes.slots, n), np.int32),
        which=np.zeros((sizes.slots, n), np.int32),
        table_gradient=aligned_zeros((sizes.slots, sizes.unique * sizes.width)),
        gathered=aligned_zeros((sizes.slots, 3, sizes.at_once * sizes.width)),
        n_unique=np.zeros(sizes.slots, np.int64),
        own=np.zeros((sizes.slots, sizes.n_own), np.float32),
        bags=bag_work(
            sizes.bag_sizes,
            n_entries=sizes.entries,
            n_tiles=sizes.tiles,
            n_threads=sizes.threads,
        ),
        block=np.zeros((sizes.threads, max(256, 2 * sizes.scores)), np.float32),
        zeros=np.zeros(16, np.float32),
        ones=np.ones(16, np.float32),
        key=np.array([derive_key("dropout", seed)], np.uint64),
        clock=np.zeros(3, np.int64),
    )


def network_scratch_bytes(
    architecture: Architecture,
    *,
    batch_size: int,
    n_threads: int,
    clips_norm: bool = False,
    n_entries: int = 0,
) -> int:
    """Return the bytes that `NetworkModel` keeps for a batch size and a team."""
    wiring = wiring_of(architecture)
    rows = piece_rows(wiring, batch_size)
    sizes = _sizes(
        wiring,
        batch_size=batch_size,
        n_threads=n_threads,
        rows=rows,
        clipped=clips_norm,
        n_entries=n_entries,
    )
    return sizes.n_bytes() + 64 * wiring.n_panels * (_SCORE_TILE * n_threads + 16)


def make_net(architecture: Architecture) -> Net:
    """Return an architecture's network as kernels take it."""
    wiring = wiring_of(architecture)
    network = architecture.network
    assert network is not None
    return Net(
        ops=wiring.ops_array(),
        reals=np.array(wiring.reals, np.float32),
        fields=np.array(wiring.fields, np.int64).reshape(-1, N_FIELD),
        bag_tables=wiring.bag_tables(),
        columns=np.array(wiring.columns, np.int64).reshape(-1, 5),
        shift=np.array([c.shift for c in network.columns], np.float32),
        scale=np.array([c.scale for c in network.columns], np.float32),
        knots=np.array(wiring.knots, np.float32),
        tasks=wiring.tasks_array(),
        plain=int(wiring.plain),
        score=wiring.score.panel,
        n_scores=architecture.n_scores,
        n_dense=wiring.n_dense,
        loss=architecture.loss_number,
        shapes=architecture.loss_shapes(),
        learnt=architecture.learnt(),
        shares=architecture.loss_shares(),
        class_weights=np.array(architecture.class_weights, np.float32),
        weight_scale=np.array([architecture.weight_scale], np.float32),
    )


class NetworkModel:
    """Train and score a network with a team of threads.

    Parameters
    ----------
    architecture : Architecture
    team : Team
    batch_size : int
        Largest batch; 0 for scoring alone.
    seed : int
        Of dropout.
    clips_norm : bool
        Whether the norm of the gradient is bounded: the gradients of all
        fields are then kept at once.
    n_entries : int
        Most entries of bags in a batch.
    """

    def __init__(
        self,
        architecture: Architecture,
        team: Team,
        *,
        batch_size: int = 0,
        seed: int = 0,
        clips_norm: bool = False,
        n_entries: int = 0,
    ) -> None:
        self.architecture = architecture
        self.layout = wiring_of(architecture)
        self._team = team
        self._net = make_net(architecture)
        self._crosser = Crosser(architecture.crosses, architecture.cardinalities)
        self._work: Work | None = None
        if batch_size:
            sizes = _sizes(
                self.layout,
                batch_size=batch_size,
                n_threads=team.n_threads,
                rows=piece_rows(self.layout, batch_size),
                clipped=clips_norm,
                n_entries=n_entries,
            )
            self._work = _work(sizes, seed)
        self._score_work: Work | None = None

    def initial_parameters(self, seed: int) -> Floats:
        """Return the parameters before the first step, drawn by `seed`, (P,) float32."""
        parameters = aligned_zeros(self.layout.n_parameters)
        key = np.uint64(derive_key("parameters", seed))
        for start in self.layout.starts:
            _draw(parameters, start, key)
        # The scores' biases are the first parameters.
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

        Parameters and result are those of `LinearModel.take_steps`.
        """
        assert self._work is not None
        n_rows = len(target)
        n_batches = -(-n_rows // batch_size)
        m = 16 * len(self._work.sums)
        if bags is None:
            bags = no_bags(n_rows, len(self.architecture.bag_sizes))
        n_tile = kernels.tile_rows(min(batch_size, m), self._team.n_threads)
        taken = self._team.run(
            kernels.train_network,
            self._net,
            Moving(parameters, rule.first, rule.second, rule.stamps, rule.shrinkage, rule.hyper),
            self._work,
            Batch(
                numeric,
                self._crosser(codes),
                bags,
                bags.ends(),
                self.architecture.flat_targets(target),
                weight,
                exposure,
            ),
            batch_size,
            n_rows - (n_batches - 1) * batch_size,
            n_batches,
            rule.number,
            rates,
            step,
            n_tile,
            step_sums,
            np.empty((0, self.architecture.n_scores), np.float32)
            if progressive is None
            else progressive,
        )
        # The loss in the target's own units; of several targets kernels make the mean of them.
        if self.architecture.n_targets == 1:
            step_sums[:, 0] /= self.architecture.loss_unit
        return int(taken)

    def phase_shares(self) -> dict[str, float]:
        """Return the shares of the caller's time in rows, in parameters, and waiting, so far."""
        assert self._work is not None
        total = max(int(self._work.clock.sum()), 1)
        names = ("rows", "parameters", "waiting")
        return {n: int(c) / total for n, c in zip(names, self._work.clock, strict=True)}

    def settled(self, parameters: Floats, rule: UpdateRule) -> Floats:
        """Return the parameters with all decay caught up; the rule stays as it is."""
        if not rule.shrinks:
            return parameters
        copy = parameters.copy()
        kernels.settle_tables(
            self._net.fields, copy, rule.stamps, rule.shrinkage[0], rule.shrinkage[1]
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
        if bags is None:
            bags = no_bags(len(numeric), len(self.architecture.bag_sizes))
        if self._score_work is None:
            sizes = _sizes(
                self.layout,
                batch_size=0,
                n_threads=self._team.n_threads,
                rows=_SCORE_TILE * self._team.n_threads,
                clipped=False,
            )
            self._score_work = _work(sizes, 0)
        none = np.empty((0, 2))
        out = np.empty((len(numeric), self.architecture.n_scores), np.float32)
        self._team.run(
            kernels.score_network,
            self._net,
            Moving(
                np.ascontiguousarray(parameters), _NOTHING, _NOTHING, none, np.zeros(2), np.zeros(1)
            ),
            self._score_work,
            Batch(
                numeric,
                self._crosser(codes),
                bags,
                np.zeros(1, np.int64),
                _NOTHING,
                _NOTHING,
                _NOTHING,
            ),
            _SCORE_TILE,
            out,
        )
        return out


def _draw(parameters: Floats, start: Start, key: np.uint64) -> None:
    """Set the first values of a range, a function of (seed, place) alone."""
    if start.kind == "one":
        parameters[start.first : start.first + start.n] = 1.0
        return
    step = 1 << 20
    for first in range(0, start.n, step):
        n = min(step, start.n - first)
        places = np.arange(start.first + first, start.first + first + n, dtype=np.uint64)
        keys = np.empty(n, np.uint64)
        row_keys(key, places, keys)
        if start.kind == "normal":
            # The sum of 12 uniform numbers less 6, from 5 bits each: no function that
            # another machine rounds otherwise.
            drawn = np.zeros(n)
            for k in range(12):
                drawn += ((keys >> np.uint64(5 * k)) & np.uint64(31)).astype(np.float64)
            drawn = (drawn / 32.0 - 6.0 + 12 / 64.0) * start.scale
        else:
            uniform = (keys >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0
            drawn = uniform * start.scale
        if start.every > 1:
            lane = (places - np.uint64(start.first)) % np.uint64(start.every)
            drawn[(lane < start.low) | (lane >= start.high)] = 0.0
        parameters[start.first + first : start.first + first + n] = drawn
