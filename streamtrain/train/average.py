"""The parameters that are validated and kept: those of the last step, or their average."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streamtrain.kernels.averaging import move_average
from streamtrain.kernels.team import Team
from streamtrain.model.models import Model
from streamtrain.optim.averaging import Averaging
from streamtrain.train.state import TrainState


class Average:
    """Keeps `state.average` as `plan` says.

    Parameters
    ----------
    plan : Averaging
    model : Model
    state : TrainState
        Its average is updated in place.
    team : Team
    """

    def __init__(self, plan: Averaging, model: Model, state: TrainState, team: Team) -> None:
        self._plan = plan
        self._model = model
        self._state = state
        self._team = team

    def steps_left(self) -> int:
        """Return the steps after which `take` wants to be called."""
        return self._plan.steps_left(self._state.progress.step)

    def take(self) -> None:
        """Add a snapshot, if the step is one for it."""
        share = self._plan.share(self._state.progress.step)
        if share:
            settled = self._model.settled(self._state.parameters, self._state.rule)
            self._team.run(move_average, self._state.average, settled, np.float32(share))

    def parameters(self) -> npt.NDArray[np.float32]:
        """Return the average, or the last step's parameters settled before there is one."""
        if self._plan.n_snapshots(self._state.progress.step):
            return self._state.average
        return self._model.settled(self._state.parameters, self._state.rule)
