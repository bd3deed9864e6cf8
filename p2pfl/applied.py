"""The federation's model, taken from a node's directory and applied to a file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.randomness import system_random
from p2pfl.node.errors import StorageError
from p2pfl.node.model_file import read_model
from p2pfl.node.training.table import Table
from p2pfl.node.training.trainer import Evaluation, Trainer
from p2pfl.opened import State


@dataclass(frozen=True, slots=True)
class AppliedModel:
    """``round`` is that of the release, None for a model from a file."""

    state: State
    parameters: NDArray[np.float64]
    statistics: NDArray[np.float64]
    round: int | None

    @classmethod
    def load(cls, state: State, model_file: Path | None) -> "AppliedModel":
        """The model in ``model_file``, or else the node's latest. Raises UserError if there is none."""
        if model_file is not None:
            return cls(state, *read_model(model_file, state.manifest), None)
        released = state.store.released()
        if released is None:
            what = f"the node in {state.config.state} has no model yet"
            raise StorageError(what, "let it run until a round has completed, or give --model")
        return cls(state, released.parameters, released.statistics, released.round)

    def evaluate(self, table: Table) -> Evaluation:
        """How well it does on ``table``."""
        return self._trainer(table).evaluate(self.parameters, self.statistics, table)

    def predict(self, table: Table) -> NDArray[np.float64]:
        """Probability of being positive: float64, shape (records,)."""
        return self._trainer(table).predict(self.parameters, self.statistics, table)

    def _trainer(self, table: Table) -> Trainer:
        return Trainer(self.state.manifest, table, None, system_random)
