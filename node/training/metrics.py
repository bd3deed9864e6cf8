"""What an evaluation sums, and the figures that come out of the sum, noised or not.

Every vector begins with how right the predictions are, how many records there are, and the capped losses. To
these a record adds at most (1, 1, LOSS_CAP). What follows depends on the task, and so does the L2 norm of all
that one record can add, which the noise is laid out for:

    two classes   how many records of each class have a score in each of BINS bins: √(3 + 1), one count is 1
    classes       of each class, how many records are right and how many wrong: √(3 + 1) again
    a number      u and u² - ½ of the label u in [-1, 1]: √(2 + 1 + ¼), as u² + (u² - ½)² <= 1 + ¼, and right
                  is 1 - |e| where the loss is e², so that both squares together are at most 1
    any other     nothing: √3

Sums of noised counts may be anything. So every figure is cut to where it can lie, and is nan where there is
nothing to compute it from. The errors of a number are nan where they are impossible: at their limit, 0, they
would be the best that there are.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from p2pfl.gossip.manifest import Manifest
from p2pfl.gossip.task_spec import ImageTask, TabularTask, TaskSpec, TextTask

Array = NDArray[np.float64]

LOSS_CAP: Final = 1.0
"""Nats. A test record adds at most this to the sum of losses, which bounds what its presence shows."""
BINS: Final = 24
"""Bins of a score: their edges are 4/3 ln(i / (BINS - i)), 0.2 apart around 0 and out to 4.2 on either side.
Finer ones would lose less of narrow scores, and more to the noise that there is on every bin.
"""
_EDGES: Final = 4 / 3 * np.log(np.arange(1, BINS) / (BINS - np.arange(1, BINS)))
_ROUNDED: Final = 1e-6
"""How far beyond its limit, or another, a mean may lie that has no noise in it, but was encoded."""
HEAD: Final = 3
"""Sums that every evaluation begins with."""


class Measures(Protocol):
    """What is measured for one kind of task. ``dimension``: of what follows the first three sums.
    ``sensitivity``: L2 norm of the most that a record adds to the whole vector, all its parts together.
    """

    @property
    def dimension(self) -> int: ...
    @property
    def sensitivity(self) -> float: ...

    def details(self, outputs: Array, targets: NDArray[Any], right: Array) -> Array:
        """What the records add beyond the first three sums: shape (dimension,)."""

    def figures(self, right: float, loss: float, details: Array) -> dict[str, float]:
        """By the names of :func:`p2pfl.gossip.evaluation_spec.metrics_of`. All three are divided by the
        number of records, and may be anything.
        """


def measures(task: TaskSpec, *, hinge: bool = False) -> Measures:
    """What is measured for ``task``. ``hinge``: losses are margins, of a model of kind svm."""
    match task:
        case TextTask():
            return RightAndLoss(math.log2(task.outputs))
        case TabularTask(is_regression=True):
            return Numbers(task.high - task.low)
        case TabularTask() if task.outputs == 1:
            return TwoClasses()
        case TabularTask() | ImageTask():
            return SeveralClasses(task.outputs, hinge)
        case _:
            return RightAndLoss(1.0)


def summed(task: TaskSpec, outputs: Array, targets: NDArray[Any], right: Array, losses: Array) -> Array:
    """What n records add to an evaluation: shape (HEAD + dimension,). ``right`` and ``losses``, of shape
    (n,), are cut to [0, 1] and [0, LOSS_CAP], and are as bad as can be where they are not numbers.
    """
    right = np.nan_to_num(np.clip(right, 0.0, 1.0))
    losses = np.nan_to_num(np.clip(losses, 0.0, LOSS_CAP), nan=LOSS_CAP)
    details = measures(task).details(outputs, targets, right)
    return np.array([right.sum(), len(targets), losses.sum(), *details])


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Sums over test records; floats, because a sum with noise in it is no count. ``exact``: figures, by
    name, that whoever holds the records knows better than the sums do.
    """

    sums: tuple[float, ...]
    measured: Measures = field(repr=False)
    exact: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, manifest: Manifest, sums: Iterable[float], exact: Mapping[str, float] | None = None
    ) -> "Evaluation":
        """What ``sums`` say of a federation's model. Raises ValueError if they are not of its task."""
        measured = measures(manifest.task, hinge=manifest.model.kind == "svm")
        found = cls(tuple(map(float, sums)), measured, exact or {})
        if len(found.sums) != HEAD + found.measured.dimension:
            raise ValueError(f"{len(found.sums)} sums are no evaluation of this task")
        return found

    @property
    def total(self) -> float:
        """Records."""
        return self.sums[1]

    @property
    def figures(self) -> dict[str, float]:
        """Everything that follows from the sums, by name; all nan without records."""
        total = self.total if self.total > 0 else math.nan
        right, _, loss, *details = np.array(self.sums) / total
        return {**self.measured.figures(float(right), float(loss), np.array(details)), **self.exact}

    @property
    def accuracy(self) -> float:
        """The figure of this name. Raises KeyError where a number is predicted, which has none."""
        return self.figures["accuracy"]

    def as_dict(self) -> dict[str, float]:
        """For JSON: the number of records as ``total``, and the figures that there are."""
        known = {name: figure for name, figure in self.figures.items() if math.isfinite(figure)}
        return {"total": self.total} | known


def dimension_of(task: TaskSpec) -> int:
    """Length of an evaluation's vector."""
    return HEAD + measures(task).dimension


@dataclass(frozen=True, slots=True)
class TwoClasses:
    """Accuracy, and what a histogram of the scores of each class tells."""

    @property
    def dimension(self) -> int:
        return 2 * BINS

    @property
    def sensitivity(self) -> float:
        return math.hypot(1.0, 1.0, LOSS_CAP, 1.0)

    def details(self, outputs: Array, targets: NDArray[Any], right: Array) -> Array:
        """Bins of the others, then of the positive. A score on an edge is in the bin below, as one of 0 is
        taken for no. What is not a number is in the last bin.
        """
        bins = np.searchsorted(_EDGES, outputs, side="left") + BINS * (targets > 0)
        return np.bincount(bins, minlength=2 * BINS).astype(np.float64)

    def figures(self, right: float, loss: float, details: Array) -> dict[str, float]:
        others, positive = np.maximum(details.reshape(2, BINS), 0.0)
        shares = [_ratio(others[: BINS // 2], others), _ratio(positive[BINS // 2 :], positive)]
        return {
            "accuracy": _cut(right),
            "balanced_accuracy": sum(shares) / 2,
            "auc": area_under_the_curve(others, positive),
            "mean_loss": _cut(loss),
        }


@dataclass(frozen=True, slots=True)
class SeveralClasses:
    """Accuracy, over all records and as the mean of the classes'."""

    count: int
    hinge: bool

    @property
    def dimension(self) -> int:
        return 2 * self.count

    @property
    def sensitivity(self) -> float:
        return math.hypot(1.0, 1.0, LOSS_CAP, 1.0)

    def details(self, outputs: Array, targets: NDArray[Any], right: Array) -> Array:
        """Of each class in turn, how many are right; then of each, how many are wrong."""
        cells = targets.astype(np.int64) + self.count * (right < 1)
        return np.bincount(cells, minlength=2 * self.count).astype(np.float64)

    def figures(self, right: float, loss: float, details: Array) -> dict[str, float]:
        found = np.maximum(details.reshape(2, self.count), 0.0)
        there = found.sum(axis=0) > 0
        shares = found[0][there] / found.sum(axis=0)[there]
        balanced = float(shares.mean()) if there.any() else math.nan
        unit = float(self.count) if self.hinge else math.log2(self.count)
        return {"accuracy": _cut(right), "balanced_accuracy": balanced, "mean_loss": unit * _cut(loss)}


@dataclass(frozen=True, slots=True)
class Numbers:
    """Errors in units of the label, ``width`` being that of its declared range, and R²."""

    width: float

    @property
    def dimension(self) -> int:
        return 2

    @property
    def sensitivity(self) -> float:
        return math.sqrt(1 + 1 + 1.25)

    def details(self, outputs: Array, targets: NDArray[Any], right: Array) -> Array:
        """Sums of u and of u² - ½, u the labels on the range scaled to [-1, 1]."""
        scaled = np.clip(targets.astype(np.float64), -1.0, 1.0)
        return np.array([scaled.sum(), (scaled**2 - 0.5).sum()])

    def figures(self, right: float, loss: float, details: Array) -> dict[str, float]:
        """R² is at least -1: a model far worse than the mean is bad enough. Impossible figures are nan: only
        noise makes them.
        """
        absolute, loss = _possible(1 - right), _possible(loss)
        if math.sqrt(loss) < absolute - _ROUNDED:
            absolute = loss = math.nan
        mean, square = float(details[0]), _possible(float(details[1]) + 0.5)
        variance = (square - mean**2) / 4  # in squares of the range, which is 2 wide for u
        explained = 1 - loss / variance if variance > 0 else math.nan
        return {
            "mean_absolute_error": absolute * self.width,
            "root_mean_squared_error": math.sqrt(loss) * self.width,
            "r2": math.nan if math.isnan(explained) else max(explained, -1.0),
        }


@dataclass(frozen=True, slots=True)
class RightAndLoss:
    """No more than what every evaluation begins with: of text, and of tasks with code of their own. ``unit``:
    what a loss of 1 in a sum stands for.
    """

    unit: float

    @property
    def dimension(self) -> int:
        return 0

    @property
    def sensitivity(self) -> float:
        return math.hypot(1.0, 1.0, LOSS_CAP)

    def details(self, outputs: Array, targets: NDArray[Any], right: Array) -> Array:
        """Nothing."""
        return np.zeros(0)

    def figures(self, right: float, loss: float, details: Array) -> dict[str, float]:
        return {"accuracy": _cut(right), "mean_loss": self.unit * _cut(loss)}


def area_under_the_curve(others: Array, positive: Array) -> float:
    """How often a positive has the larger score, of all pairs with one of the others, from their histograms,
    both without negative counts; equal bins count half. nan unless there is something in both.
    """
    pairs = float(others.sum() * positive.sum())
    if pairs <= 0:
        return math.nan
    below = np.cumsum(others) - others / 2
    return float(positive @ below) / pairs


def area_under_the_curve_of_scores(scores: Array, positive: NDArray[np.bool_]) -> float:
    """The same, exactly, from the scores themselves, both of shape (n,); equal scores count half, and what is
    not a number is above all others.
    """
    there, others = int(positive.sum()), int((~positive).sum())
    if not there or not others:
        return math.nan
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return (float(ranks[positive].sum()) - there * (there + 1) / 2) / (there * others)


def _cut(mean: float) -> float:
    return float(np.clip(mean, 0.0, 1.0))


def _possible(mean: float) -> float:
    """``mean`` if it can be one of numbers in [0, 1], else nan."""
    return _cut(mean) if -_ROUNDED <= mean <= 1 + _ROUNDED else math.nan


def _ratio(part: Array, whole: Array) -> float:
    count = float(whole.sum())
    return float(part.sum()) / count if count > 0 else math.nan
