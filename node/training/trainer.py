"""One organisation's learning: what its records add to each round, and how good a model is on them.

A step is x - (lr / b) Σ clip(gradient, C) over a Poisson sample, b a public constant. So a member with more
records takes a larger step, a mean over members is a step of pooled SGD, and no private record count is ever
a denominator. Modes differ in where noise enters:

    distributed   one step a round; noise is added after encoding, by :func:`p2pfl.node.privacy.noise`
    local         several steps a round, each with all the noise of its own
    none          several steps a round, neither clipped nor noised
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.randomness import RandomBytes
from p2pfl.gossip.manifest import Manifest
from p2pfl.node.errors import ManifestProblem
from p2pfl.node.privacy import LOSS_CAP, dimension, poisson_sample, step_noise
from p2pfl.node.training.models import Model
from p2pfl.node.training.preprocessing import Standardiser, statistics_of
from p2pfl.node.training.table import Table


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Sums over test records; floats, because a sum with noise in it is no count.

    ``loss``: of min(log loss, LOSS_CAP), in nats.
    """

    correct: float
    total: float
    loss: float

    @property
    def accuracy(self) -> float:
        """Within [0, 1], whatever the noise did; nan without records."""
        return min(max(self.correct / self.total, 0.0), 1.0) if self.total > 0 else math.nan

    def as_dict(self) -> dict[str, float]:
        """The three sums by name, and the accuracy if there is one."""
        sums = {"correct": self.correct, "total": self.total, "loss": self.loss}
        return sums | ({"accuracy": self.accuracy} if self.total > 0 else {})


class Trainer:
    """Learns on ``train`` as ``manifest`` says and evaluates on ``test``. Not thread safe.

    ``statistics`` in every method is the released sum of :meth:`statistics`, or a multiple of it such as its
    mean; ``parameters`` is float64 of shape (dimension("training"),).
    """

    def __init__(self, manifest: Manifest, train: Table, test: Table | None, random: RandomBytes) -> None:
        """Raises PrivacyError if the manifest's noise cannot be drawn."""
        self._manifest = manifest
        self._train = train
        self._test = test
        self._random = random
        self.model = Model(manifest.model, manifest.task.features)
        self._step_noise = (
            step_noise(manifest, self.model.dimension) if manifest.privacy.mode == "local" else None
        )
        self._inputs: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    def dimension(self, stage: str) -> int:
        """Length of the vector of ``stage``. Raises LocalProtocolError for a stage that is not this
        trainer's.
        """
        return dimension(self._manifest, stage)

    def initial_parameters(self) -> NDArray[np.float64]:
        """What training starts from: the same vector at every member."""
        return self.model.initial(self._manifest.digest)

    def statistics(self) -> NDArray[np.float64]:
        """What the training records add to the sum of stage statistics."""
        return statistics_of(self._manifest.task, self._train)

    def contribution(
        self, parameters: NDArray[np.float64], statistics: NDArray[np.float64], *, train: bool = True
    ) -> NDArray[np.float64]:
        """What this node adds to a training round: the model after its steps, or as it is unless ``train``.

        Raises ManifestProblem if training diverged.
        """
        model = parameters.copy()
        if not train:
            return model
        spec = self._manifest.training
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(spec.local_steps):
                model -= spec.learning_rate / spec.expected_batch * self._step(model, statistics)
        if not np.isfinite(model).all():
            raise ManifestProblem(
                "training diverged", "a lower training.learning_rate needs another federation"
            )
        return model

    def mean(self, total: NDArray[np.float64], members: int) -> NDArray[np.float64]:
        """The model that follows from ``total``, the decoded sum of ``members`` contributions."""
        return total / members

    def evaluation(
        self, parameters: NDArray[np.float64], statistics: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """What the test records add to the sum of stage evaluation: (correct, total, loss)."""
        result = self.evaluate(parameters, statistics)
        return np.array([result.correct, result.total, result.loss])

    def evaluate(
        self, parameters: NDArray[np.float64], statistics: NDArray[np.float64], table: Table | None = None
    ) -> Evaluation:
        """How the model does on ``table``, or on this node's test records; all zero without any. Not noised:
        not to be sent.
        """
        table = self._test if table is None else table
        if table is None:
            return Evaluation(0.0, 0.0, 0.0)
        logits = self._logits(parameters, statistics, table)
        correct = np.count_nonzero((logits > 0) == (table.labels > 0))
        losses = np.logaddexp(0.0, np.where(table.labels > 0, -logits, logits))
        return Evaluation(float(correct), float(len(table)), float(np.minimum(losses, LOSS_CAP).sum()))

    def predict(
        self, parameters: NDArray[np.float64], statistics: NDArray[np.float64], table: Table
    ) -> NDArray[np.float64]:
        """Probability of being positive for every record of ``table``: float64, shape (n,)."""
        return np.exp(-np.logaddexp(0.0, -self._logits(parameters, statistics, table)))

    def _logits(
        self, parameters: NDArray[np.float64], statistics: NDArray[np.float64], table: Table
    ) -> NDArray[np.float64]:
        return self.model.logits(parameters, self._standardiser(statistics).inputs(table))

    def _standardiser(self, statistics: NDArray[np.float64]) -> Standardiser:
        noised = self._manifest.privacy.mode != "none"
        return Standardiser.from_statistics(self._manifest.task, statistics, noised=noised)

    def _step(self, parameters: NDArray[np.float64], statistics: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of gradients over a fresh Poisson sample, clipped and noised as the mode asks."""
        privacy = self._manifest.privacy
        chosen = poisson_sample(len(self._train), self._manifest.training.sampling_rate, self._random)
        inputs, labels = self._train_inputs(statistics)[chosen], self._train.labels[chosen]
        clip_norm = math.inf if privacy.mode == "none" else privacy.clip_norm
        total = self.model.summed_gradient(parameters, inputs, labels, clip_norm)
        return total if self._step_noise is None else self._step_noise.apply(total, self._random)

    def _train_inputs(self, statistics: NDArray[np.float64]) -> NDArray[np.float64]:
        """The training records' inputs, kept as long as the statistics stay."""
        if self._inputs is None or not np.array_equal(self._inputs[0], statistics):
            self._inputs = statistics.copy(), self._standardiser(statistics).inputs(self._train)
        return self._inputs[1]
