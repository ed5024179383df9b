"""Models behind one interface: what trains, scores and checkpoints them does not ask which."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from streamtrain.kernels.bags import Bags
from streamtrain.kernels.team import Team
from streamtrain.kernels.updates import UpdateRule
from streamtrain.model import linear
from streamtrain.model.architecture import Architecture
from streamtrain.model.network_model import NetworkModel, network_scratch_bytes, wiring_of

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]


class Layout(Protocol):
    """Sizes of a model's one flat parameter array: dense parameters, then tables."""

    @property
    def n_parameters(self) -> int:
        """P."""

    @property
    def n_dense(self) -> int:
        """Parameters that are not in tables; they come first."""

    @property
    def n_table_rows(self) -> int:
        """Rows of categories."""

    @property
    def n_values(self) -> int:
        """Parameters that are not padding."""


class Model(Protocol):
    """A model with a team of threads."""

    architecture: Architecture

    @property
    def layout(self) -> Layout:
        """Sizes of its parameters."""

    def initial_parameters(self, seed: int) -> Floats:
        """Return the parameters before the first step, (P,) float32."""

    def take_steps(
        self,
        parameters: Floats,
        rule: UpdateRule,
        *,
        numeric: Floats,
        codes: Codes,
        bags: Bags | None = ...,
        target: Floats,
        weight: Floats,
        exposure: Floats = ...,
        batch_size: int,
        step: int,
        rates: npt.NDArray[np.float64],
        step_sums: npt.NDArray[np.float64],
        progressive: Floats | None = None,
    ) -> int:
        """Take steps on consecutive batches, as `LinearModel.take_steps` says."""

    def settled(self, parameters: Floats, rule: UpdateRule) -> Floats:
        """Return the parameters with all shrinkage caught up."""

    def scores(
        self, parameters: Floats, numeric: Floats, codes: Codes, bags: Bags | None = ...
    ) -> Floats:
        """Return the scores of rows, (n, C) float32."""


def make_model(
    architecture: Architecture,
    team: Team,
    *,
    batch_size: int = 0,
    seed: int = 0,
    clips_norm: bool = False,
    n_entries: int = 0,
) -> Model:
    """Return the model of an architecture.

    Parameters
    ----------
    architecture : Architecture
    team : Team
    batch_size : int
        Largest batch; 0 for scoring alone.
    seed : int
        Of dropout.
    clips_norm : bool
        Whether the norm of the gradient is bounded.
    n_entries : int
        Most entries of fields of variable length in a batch.
    """
    if architecture.network is None:
        return linear.LinearModel(architecture, team, batch_size=batch_size, n_entries=n_entries)
    return NetworkModel(
        architecture,
        team,
        batch_size=batch_size,
        seed=seed,
        clips_norm=clips_norm,
        n_entries=n_entries,
    )


def layout_of(architecture: Architecture) -> Layout:
    """Return the sizes of an architecture's parameters."""
    if architecture.network is None:
        return linear.layout_of(architecture)
    return wiring_of(architecture)


def scratch_bytes(
    architecture: Architecture,
    *,
    batch_size: int,
    n_threads: int,
    clips_norm: bool = False,
    n_entries: int = 0,
) -> int:
    """Return the bytes that a model keeps for a batch size and a team."""
    if architecture.network is None:
        return linear.scratch_bytes(
            linear.layout_of(architecture),
            batch_size=batch_size,
            n_threads=n_threads,
            clips_norm=clips_norm,
            n_entries=n_entries,
        )
    return network_scratch_bytes(
        architecture,
        batch_size=batch_size,
        n_threads=n_threads,
        clips_norm=clips_norm,
        n_entries=n_entries,
    )
