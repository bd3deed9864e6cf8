"""Was this record used? Membership inference against a federation, in the game of Carlini et al. 2022.

The federation is trained many times, every record of an honest member in or out by a coin. Each run is
attacked once; all the others are the attacker's shadow runs, so it knows every record there may be and the
whole method, and only not who was in. Two views:

    model     the last released model: what anybody has whom it is given to
    insider   the released statistics and every released model, less what the colluders added themselves

and two attacks on each:

    loss threshold     a record that the model fits well was in (Yeom et al. 2018); an insider takes the mean
                       over all models
    likelihood ratio   how much likelier the score is with the record than without it, going by normal
                       distributions fitted to the shadow runs (LiRA, online). Of the last model the score is
                       the confidence in the right label. An insider's is the best linear one: it correlates
                       what the others added in every round with what the record would have added, weighed by
                       the covariance of all that is unknown (other records, sampling, noise).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from p2pfl.attacks.group import Group, Seen, federate
from p2pfl.attacks.measures import Success, success
from p2pfl.baselines import pooled
from p2pfl.crypto.randomness import RandomBytes
from p2pfl.gossip.manifest import Manifest, TabularTask
from p2pfl.gossip.thresholds import Thresholds, thresholds
from p2pfl.node.privacy import step_noise
from p2pfl.node.training.table import Table
from p2pfl.node.training.trainer import Trainer

Vector = NDArray[np.float64]
View = Literal["model", "insider"]
Method = Literal["loss threshold", "likelihood ratio"]

MOST_COORDINATES: Final = 2048
"""Numbers of a run that an insider's linear score looks at; of longer runs it takes some rounds only."""
_PLACES: Final = 8
"""Rounds at which every record's step is computed; in between, the nearest before is taken."""
_IN: Final = 0.5
"""Chance that a record is in."""


@dataclass(frozen=True, slots=True)
class Result:
    """How one attack did."""

    view: View
    method: Method
    success: Success


@dataclass(frozen=True, slots=True, eq=False)
class _Runs:
    """Of f runs: which of n records were in, and the attacks' scores of all of them, (f, n)."""

    members: NDArray[np.bool_]
    confidence: Vector
    mean_confidence: Vector
    alignment: Vector

    def results(self, rng: np.random.Generator) -> list[Result]:
        scores: list[tuple[View, Method, Vector]] = [
            ("model", "loss threshold", self.confidence),
            ("model", "likelihood ratio", likelihood_ratios(self.confidence, self.members)),
            ("insider", "loss threshold", self.mean_confidence),
            ("insider", "likelihood ratio", likelihood_ratios(self.alignment, self.members)),
        ]
        return [Result(view, method, success(found, self.members, rng)) for view, method, found in scores]


def infer_membership(
    manifest: Manifest,
    tables: Sequence[Table],
    trials: int,
    random: RandomBytes,
    rng: np.random.Generator,
    tick: Callable[[], None] = lambda: None,
) -> list[Result]:
    """Train ``trials`` federations on the members' ``tables`` and attack each; the first ``groups.colluders``
    tables are the insider's. ``rng`` decides who is in, and ``random`` all else; ``tick`` is called after
    each federation.

    Raises PrivacyError if the manifest's noise cannot be drawn.
    """
    roster = thresholds(len(tables), manifest.groups.colluders)
    own, honest = tables[: roster.colluders], tables[roster.colluders :]
    targets = pooled(honest)
    members = rng.random((trials, len(targets))) < _IN
    edges = np.cumsum([len(table) for table in honest])[:-1]
    seen = []
    for there in members:
        parts = zip(honest, np.split(there, edges), strict=True)
        seen.append(
            federate(manifest, [*own, *(_part(table, chosen) for table, chosen in parts)], roster, random)
        )
        tick()
    confidences = np.array([_confidences(manifest, targets, one, random) for one in seen])
    alignment = _Insider(manifest, roster, targets, seen, random).scores(seen)
    runs = _Runs(members, confidences[:, -1], confidences.mean(axis=1), alignment)
    return runs.results(rng)


def _part(table: Table, chosen: NDArray[np.bool_]) -> Table:
    return Table(table.features[chosen], table.labels[chosen])


# -- scores
def _confidences(manifest: Manifest, targets: Table, seen: Seen, random: RandomBytes) -> Vector:
    """Of every released model, in every target's label: (rounds, n)."""
    trainer = Trainer(manifest, targets, None, random)
    predicted = (trainer.predict(model, seen.statistics, targets) for model in seen.models[1:])
    return np.array([confidence(manifest, each, targets.labels) for each in predicted])


def confidence(manifest: Manifest, predicted: Vector, labels: NDArray[Any]) -> Vector:
    """How well ``predicted``, what a Trainer predicts, fits every label: log-odds of the right class, its
    margin, or minus the squared error of a number.
    """
    if isinstance(manifest.task, TabularTask) and manifest.task.is_regression:
        return np.asarray(-((predicted - labels) ** 2))
    margins = manifest.model.kind == "svm"
    if predicted.ndim == 2:
        right = predicted[np.arange(len(labels)), labels]
    else:
        right = np.where(labels == 1, predicted, (0.0 if margins else 1.0) - predicted)
    if margins:
        return np.asarray(right)
    right = np.clip(right, 1e-12, 1 - 1e-12)
    return np.asarray(np.log(right) - np.log1p(-right))


def likelihood_ratios(scores: Vector, members: NDArray[np.bool_]) -> Vector:
    """Log of how much likelier every score of f runs and n records, (f, n), is for a member than for another
    record, by normal distributions fitted to the record's scores in all other runs: means of their own, one
    variance.
    """
    inside, outside = (_rest(scores, chosen) for chosen in (members, ~members))
    count = np.maximum(inside[0] + outside[0] - 2, 1)
    variance = np.maximum((inside[2] + outside[2]) / count, 1e-300)
    found: Vector = ((scores - outside[1]) ** 2 - (scores - inside[1]) ** 2) / (2 * variance)
    return found


def _rest(scores: Vector, chosen: NDArray[np.bool_]) -> tuple[Vector, Vector, Vector]:
    """Count, mean and sum of squared deviations of the ``chosen`` scores of all other runs, for every run."""
    centre = scores.mean(axis=0)
    values = np.where(chosen, scores - centre, 0.0)
    count = np.maximum(chosen.sum(axis=0) - chosen, 1)
    mean = (values.sum(axis=0) - values) / count
    squares = (values**2).sum(axis=0) - values**2 - count * mean**2
    return count, mean + centre, np.maximum(squares, 0.0)


# -- what an insider knows of a run beforehand
class _Insider:
    """Scores runs by what every record would have added: see :meth:`scores`."""

    def __init__(
        self,
        manifest: Manifest,
        roster: Thresholds,
        targets: Table,
        seen: Sequence[Seen],
        random: RandomBytes,
    ) -> None:
        training = manifest.training
        self._manifest, self._roster, self._random = manifest, roster, random
        self._steps = _Steps(manifest, targets)
        most = min(max(1, MOST_COORDINATES // seen[0].models.shape[1]), training.rounds)
        self._rounds = np.unique(np.linspace(0, training.rounds - 1, most).astype(int))
        self._taken = training.sampling_rate * training.local_steps
        self._statistics = self._steps.statistics.sum(axis=0)
        self._weights = self._weigh(seen)

    def scores(self, seen: Sequence[Seen]) -> Vector:
        """How what the others added to each run lines up with every record: (runs, n)."""
        found: Vector = np.array([self._surprise(one) for one in seen]) @ self._weights.T
        return found

    def _surprise(self, seen: Seen) -> Vector:
        """What the others added, less what is expected of them if every record is in with chance _IN."""
        honest = self._roster.members - self._roster.colluders
        training = self._manifest.training
        kept = (1 - training.learning_rate * training.weight_decay) ** training.local_steps
        parts = [seen.other_statistics - _IN * self._statistics]
        for round in self._rounds:
            model, before = seen.models[round], seen.models[max(round - 1, 0)]
            start = honest * (kept * model + training.momentum * (model - before))
            expected = _IN * self._taken * self._steps.of_all(model, seen.statistics)
            parts.append(seen.others[round] - start - expected)
        return np.concatenate(parts)

    def _weigh(self, seen: Sequence[Seen]) -> Vector:
        """What to multiply a run's surprise by, for every record: Σ⁻¹ times what it adds, (n, numbers)."""
        models = np.mean([one.models for one in seen], axis=0)
        statistics = np.mean([one.statistics for one in seen], axis=0)
        places = self._rounds[:: max(1, len(self._rounds) // _PLACES)]
        steps = np.stack([self._steps.of_each(models[place], statistics) for place in places], axis=1)
        steps = steps[:, np.searchsorted(places, self._rounds, side="right") - 1]
        known = self._steps.statistics
        added = np.concatenate([known, self._taken * steps.reshape(len(steps), -1)], axis=1)
        covariance = _IN * (1 - _IN) * added.T @ added
        self._add_sampling(covariance, steps)
        noise = np.repeat(self._noise(), [known.shape[1], len(covariance) - known.shape[1]])
        covariance[np.diag_indices_from(covariance)] += noise
        weights: Vector = np.linalg.solve(covariance, added.T).T
        return weights

    def _add_sampling(self, covariance: Vector, steps: Vector) -> None:
        """Whether a record is in is settled once; whether it is sampled, in every step anew."""
        _, rounds, size = steps.shape
        sampled = _IN * self._taken * (1 - self._manifest.training.sampling_rate)
        first = len(covariance) - rounds * size
        for place in range(rounds):
            block = slice(first + place * size, first + (place + 1) * size)
            covariance[block, block] += sampled * steps[:, place].T @ steps[:, place]

    def _noise(self) -> tuple[float, float]:
        """Variance of the noise, and of the encoding's rounding, in the sum of the others' statistics, and of
        their contributions.
        """
        group, training = Group(self._manifest, self._roster, self._random), self._manifest.training
        honest = self._roster.members - self._roster.colluders
        plans = (group.plan("statistics"), group.plan("training"))
        known, steps = (
            honest * (plan.sigma(self._roster) ** 2 + 0.25) * 4.0**-plan.encoding.fraction_bits
            for plan in plans
        )
        if self._manifest.privacy.mode == "local":
            local = step_noise(self._manifest, plans[1].dimension)
            sigma = math.ldexp(local.sigma, -local.fraction_bits)
            scale = training.learning_rate / training.expected_batch
            steps += honest * training.local_steps * (scale * sigma) ** 2
        return known, steps


class _Steps:
    """What records add to a step, clipped as the manifest says and without noise.

    A Trainer takes the records that its randomness samples; here that is chosen.
    """

    def __init__(self, manifest: Manifest, table: Table) -> None:
        training = replace(
            manifest.training, sampling_rate=0.5, local_steps=1, weight_decay=0.0, momentum=0.0, proximal=0.0
        )
        privacy = manifest.privacy
        if privacy.mode != "none":
            privacy = replace(privacy, mode="distributed")
        exact = replace(manifest, training=training, privacy=privacy)
        self._chosen = np.ones(len(table), np.bool_)
        self._trainer = Trainer(exact, table, None, self._sample)
        singles = [_part(table, row) for row in np.eye(len(table), dtype=np.bool_)]
        self.statistics = np.array([Trainer(exact, one, None, self._sample).statistics() for one in singles])
        """What each record adds to the statistics: (n, s); nothing, where they are about no record."""
        if not manifest.numeric_columns:
            self.statistics[:] = 0

    def of_all(self, model: Vector, statistics: Vector) -> Vector:
        """The sum over all records: shape (d,)."""
        self._chosen[:] = True
        return self._trainer.contribution(model, statistics) - model

    def of_each(self, model: Vector, statistics: Vector) -> Vector:
        """Of one record after the other: (n, d)."""
        found = []
        for number in range(len(self._chosen)):
            self._chosen[:] = False
            self._chosen[number] = True
            found.append(self._trainer.contribution(model, statistics) - model)
        return np.array(found)

    def _sample(self, count: int) -> bytes:
        """Randomness by which exactly the chosen records are sampled, at any rate below one."""
        words = np.where(self._chosen, 0, 2**64 - 1).astype("<u8").tobytes()
        return words[:count]
