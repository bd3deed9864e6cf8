"""The federation's model, taken from a node's directory and applied to a file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.randomness import system_random
from p2pfl.node.errors import StorageError
from p2pfl.node.privacy import dimension
from p2pfl.node.start import load_backbone
from p2pfl.node.storage.model_file import read_model
from p2pfl.node.storage.own_file import PERSONAL, is_own, read_own
from p2pfl.node.training.metrics import Evaluation
from p2pfl.node.training.table import Table
from p2pfl.node.training.trainer import Trainer
from p2pfl.opened import State


@dataclass(frozen=True, slots=True)
class AppliedModel:
    """``round`` is that of the release, None for a model from a file. ``private``: its private layers; None:
    those that the node keeps, if the model has any.
    """

    state: State
    parameters: NDArray[np.float64]
    statistics: NDArray[np.float64]
    round: int | None
    private: NDArray[np.float64] | None = None

    @classmethod
    def load(cls, state: State, model_file: Path | None) -> "AppliedModel":
        """The model in ``model_file``, or else the node's latest. Raises UserError if there is none."""
        if model_file is not None and model_file.is_file() and is_own(model_file):
            return cls._own(state, model_file)
        if model_file is not None:
            return cls(state, *read_model(model_file, state.manifest), None)
        released = state.store.released()
        if released is None:
            what = f"the node in {state.config.state} has no model yet"
            raise StorageError(what, "let it run until a round has completed, or give --model")
        return cls(state, released.parameters, released.statistics, released.round)

    @classmethod
    def personal(cls, state: State) -> "AppliedModel | None":
        """The model that `p2pfl personalise` fitted to the node's records; None if there is none."""
        file = state.config.state / PERSONAL
        return cls._own(state, file) if file.is_file() else None

    @classmethod
    def _own(cls, state: State, file: Path) -> "AppliedModel":
        model, features = state.manifest.model, state.manifest.task.features
        sizes = {stage: dimension(state.manifest, stage) for stage in ("statistics", "training")}
        sizes["parameters"] = sizes.pop("training")
        if model.private:
            sizes["private"] = model.trained(features) - model.parameters(features)
        found = read_own(file, sizes)
        if found is None:
            raise StorageError(f"{file} is gone", "run `p2pfl personalise` again")
        return cls(state, found["parameters"], found["statistics"], None, found.get("private"))

    def evaluate(self, table: Table) -> Evaluation:
        """How well it does on ``table``."""
        return self._trainer(table).evaluate(self.parameters, self.statistics, table)

    def predict(self, table: Table) -> NDArray[np.float64]:
        """Probability of being positive: float64, shape (records,)."""
        return self._trainer(table).predict(self.parameters, self.statistics, table)

    def trainer(self) -> Trainer:
        """The model itself, without records."""
        return self._trainer(Table(np.empty((0, 1)), np.empty(0)))

    def _trainer(self, table: Table) -> Trainer:
        backbone = load_backbone(self.state.config, self.state.manifest)
        trainer = Trainer(self.state.manifest, table, None, system_random, backbone)
        self.recall_private(trainer)
        return trainer

    def recall_private(self, trainer: Trainer) -> None:
        """Give ``trainer`` the private layers of this model, if it has any."""
        kept = self.private
        if kept is None and len(trainer.private):
            kept = self.state.store.private(len(trainer.private))
        if kept is not None:
            trainer.private = kept
