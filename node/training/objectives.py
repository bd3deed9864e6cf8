"""What a model is trained for and measured by, for each kind of task.

An objective gives every record's loss (with the manifest's public class weights), and what the record adds to
an evaluation: how right the prediction is and how large the loss, each within [0, 1] so that one record's
part in a noised sum is bounded. The unit of the loss makes a model that knows nothing cost about 0.7:
log2(classes) nats for log losses.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax, one_hot, relu, softmax

from p2pfl.gossip.manifest import (
    ImageTask,
    ModelSpec,
    OutsideTask,
    PluginTask,
    TabularTask,
    TaskSpec,
    TextTask,
)
from p2pfl.node.training.own_objectives import OutsideObjective, PluginObjective
from p2pfl.node.training.plugins import installed
from p2pfl.node.training.text import PADDING

Array = NDArray[np.float64]


class Objective(Protocol):
    """``outputs`` are a model's for n records, ``targets`` as in :class:`~.table.Table`."""

    @property
    def unit(self) -> float:
        """What a loss of 1 in an evaluation stands for: in nats, margins, or squares of the number."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What training makes small: shape (n,)."""

    def slopes(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The derivatives of the losses by the outputs: shaped like the outputs."""

    def measured(self, outputs: Array, targets: NDArray[Any]) -> tuple[Array, Array]:
        """How right, in [0, 1], and the loss in units, not capped: each of shape (n,)."""

    def predicted(self, outputs: Array) -> Array:
        """What people are told: see :meth:`.trainer.Trainer.predict`."""


def objective(task: TaskSpec, model: ModelSpec) -> Objective:
    """What ``model`` is trained for on ``task``. Raises ManifestProblem if a plug-in cannot be used here."""
    match task:
        case PluginTask():
            return PluginObjective(installed(task))
        case OutsideTask():
            return OutsideObjective()
        case TextTask():
            return NextCharacter(task.outputs)
        case TabularTask(is_regression=True):
            return Number(task.low, task.high)
        case TabularTask() | ImageTask():
            hinge = model.kind == "svm"
            if task.outputs == 1:
                return TwoClasses(hinge, task.class_weights)
            return Classes(task.outputs, hinge, task.class_weights)


@dataclass(frozen=True, slots=True)
class TwoClasses:
    """One logit, above 0 for the positive class; targets 0 and 1."""

    hinge: bool
    weights: Sequence[float] = ()

    @property
    def unit(self) -> float:
        """One nat, or one margin."""
        return 1.0

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Log loss, or hinge loss max(0, 1 - margin)."""
        if self.hinge:
            losses = relu(1 - (2 * targets - 1) * outputs)
        else:
            losses = binary_cross_entropy_with_logits(outputs, targets, reduction="none")
        return self._weighted(losses, targets)

    def slopes(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Probability less target; for the hinge loss the margin's sign where the margin is short."""
        if self.hinge:
            signs = 2 * targets - 1
            return self._weighted(-signs * (signs * outputs < 1), targets)
        return self._weighted(torch.sigmoid(outputs) - targets, targets)

    def _weighted(self, values: Tensor, targets: Tensor) -> Tensor:
        if not self.weights:
            return values
        others, positive = self.weights
        return values * (others + (positive - others) * targets)

    def measured(self, outputs: Array, targets: NDArray[Any]) -> tuple[Array, Array]:
        """1 where the sign is right; log loss in nats, or hinge loss."""
        wanted = np.where(targets > 0, outputs, -outputs)
        losses = np.maximum(0.0, 1 - wanted) if self.hinge else np.logaddexp(0.0, -wanted)
        return ((outputs > 0) == (targets > 0)).astype(np.float64), losses

    def predicted(self, outputs: Array) -> Array:
        """Probability of the positive class, or the margin of a machine that has none: (n,)."""
        return outputs if self.hinge else np.exp(-np.logaddexp(0.0, -outputs))


@dataclass(frozen=True, slots=True)
class Classes:
    """A score for each class; targets are positions in the list of classes."""

    count: int
    hinge: bool
    weights: Sequence[float] = ()

    @property
    def unit(self) -> float:
        """log2(count) nats, or as many margins as there are classes."""
        return float(self.count) if self.hinge else math.log2(self.count)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Log loss of the right class, or the hinge losses of all against the rest."""
        wanted = targets.long()
        if self.hinge:
            own = outputs.gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
            losses = relu(1 + outputs).sum(-1) - relu(1 + own) + relu(1 - own)
        else:
            losses = -log_softmax(outputs, -1).gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
        return losses * outputs.new_tensor(self.weights)[wanted] if self.weights else losses

    def slopes(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Probabilities less 1 for the right class; for hinge losses, the signs of margins that are short."""
        wanted = targets.long()
        right = one_hot(wanted, self.count).to(outputs.dtype)
        if self.hinge:
            signs = 1 - 2 * right
            slopes = signs * (signs * outputs > -1)
        else:
            slopes = softmax(outputs, -1) - right
        return slopes * outputs.new_tensor(self.weights)[wanted].unsqueeze(-1) if self.weights else slopes

    def measured(self, outputs: Array, targets: NDArray[Any]) -> tuple[Array, Array]:
        """1 where the largest score is the right one; the loss in units."""
        wanted = torch.from_numpy(targets)
        plain = Classes(self.count, self.hinge).losses(torch.from_numpy(outputs), wanted)
        correct = (outputs.argmax(-1) == targets).astype(np.float64)
        losses: Array = plain.numpy() / self.unit
        return correct, losses

    def predicted(self, outputs: Array) -> Array:
        """Probability of each class, or its margin: (n, count)."""
        if self.hinge:
            return outputs
        shares: Array = np.exp(outputs - outputs.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        return shares


@dataclass(frozen=True, slots=True)
class Number:
    """One output, the number on the declared range scaled to [-1, 1]; so are targets."""

    low: float
    high: float

    @property
    def unit(self) -> float:
        """The squared width of the range."""
        return (self.high - self.low) ** 2

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Half the squared error."""
        return (outputs - targets) ** 2 / 2

    def slopes(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The error."""
        return outputs - targets

    def measured(self, outputs: Array, targets: NDArray[Any]) -> tuple[Array, Array]:
        """1 - |error| and error², both as parts of the range: predictions are cut to it."""
        errors = (np.clip(outputs, -1.0, 1.0) - targets.astype(np.float64)) / 2
        return 1 - np.abs(errors), errors**2

    def predicted(self, outputs: Array) -> Array:
        """The number itself, within the declared range: (n,)."""
        return (self.low + self.high) / 2 + np.clip(outputs, -1.0, 1.0) * (self.high - self.low) / 2


@dataclass(frozen=True, slots=True)
class NextCharacter:
    """A score for each character at each place; targets are the characters there, or PADDING."""

    alphabet: int

    @property
    def unit(self) -> float:
        """log2(alphabet) nats."""
        return math.log2(self.alphabet)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean log loss over the characters of a record."""
        there = (targets != PADDING).to(outputs.dtype)
        wanted = targets.long().clamp(min=0).unsqueeze(-1)
        chosen = log_softmax(outputs, -1).gather(-1, wanted).squeeze(-1)
        return -(chosen * there).sum(-1) / there.sum(-1).clamp(min=1)

    def slopes(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Probabilities less 1 for the right character, over the characters of the record."""
        there = (targets != PADDING).to(outputs.dtype)
        right = one_hot(targets.long().clamp(min=0), self.alphabet).to(outputs.dtype)
        shares = there / there.sum(-1, keepdim=True).clamp(min=1)
        return (softmax(outputs, -1) - right) * shares.unsqueeze(-1)

    def measured(self, outputs: Array, targets: NDArray[Any]) -> tuple[Array, Array]:
        """Share of a record's characters that were foreseen; mean loss in units."""
        there = targets != PADDING
        right = ((outputs.argmax(-1) == targets) & there).sum(-1) / np.maximum(there.sum(-1), 1)
        losses = self.losses(torch.from_numpy(outputs), torch.from_numpy(targets)).numpy() / self.unit
        return right.astype(np.float64), losses

    def predicted(self, outputs: Array) -> Array:
        """Probability of each character at each place: (n, length, alphabet)."""
        return Classes(self.alphabet, hinge=False).predicted(outputs)
