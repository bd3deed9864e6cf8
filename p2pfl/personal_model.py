"""The released model fitted to one node's own records, and kept in that node's directory."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from p2pfl.applied import AppliedModel
from p2pfl.crypto.randomness import system_random
from p2pfl.node.errors import UsageError
from p2pfl.node.start import load_records, require_same_share
from p2pfl.node.storage.own_file import PERSONAL, write_own
from p2pfl.node.training.metrics import Evaluation
from p2pfl.node.training.personal import personalised
from p2pfl.node.training.trainer import Trainer
from p2pfl.opened import State
from p2pfl.personal_figures import FIGURES


@dataclass(frozen=True, slots=True)
class Fitted:
    """``shared`` and ``personal``: how good both models are on the held-out records, None without any.
    ``round``: that of the shared one. ``records``: how many it was fitted to.
    """

    shared: Evaluation | None
    personal: Evaluation | None
    round: int | None
    records: int
    file: Path

    def as_dict(self) -> dict[str, object]:
        """For other software."""
        return {**self.figures, "file": str(self.file)}

    @property
    def figures(self) -> dict[str, object]:
        """What the file says of itself, for `p2pfl status`."""
        pairs = (("shared", self.shared), ("personal", self.personal))
        measured = {name: None if found is None else found.as_dict() for name, found in pairs}
        return {**measured, "round": self.round, "records": self.records}


def fit(state: State, epochs: int, learning_rate: float | None) -> Fitted:
    """Train the latest model of the node in ``state`` for ``epochs`` on its training records, and keep it as
    its personal one. Raises UserError if there is no model, or no records of its own.
    """
    manifest = state.manifest
    if manifest.task.kind == "outside":
        raise UsageError("this federation's records are outside of p2pfl", "fit the model where you train it")
    require_same_share(state.config, state.store)
    records, shared = load_records(state.config, manifest), AppliedModel.load(state, None)
    trainer = Trainer(manifest, records.train, records.test, system_random, records.backbone)
    shared.recall_private(trainer)
    before = _measured(trainer, shared.parameters, shared.statistics)
    rate = manifest.training.learning_rate if learning_rate is None else learning_rate
    start = trainer.whole(shared.parameters)
    whole = personalised(trainer, start, shared.statistics, epochs, rate, system_random)
    vectors = _split(trainer, whole) | {"statistics": shared.statistics}
    file = state.config.state / PERSONAL
    trainer.private = vectors.get("private", trainer.private)
    after = _measured(trainer, vectors["parameters"], shared.statistics)
    fitted = Fitted(before, after, shared.round, trainer.records, file)
    write_own(file, vectors, {FIGURES: json.dumps(fitted.figures, allow_nan=False)})
    return fitted


def _split(trainer: Trainer, whole: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    private = trainer.model.private
    found = {"parameters": whole[~private]}
    return found | ({"private": whole[private]} if private.any() else {})


def _measured(
    trainer: Trainer, parameters: NDArray[np.float64], statistics: NDArray[np.float64]
) -> Evaluation | None:
    found = trainer.evaluate(parameters, statistics)
    return found if found.total else None
