"""Was this record used? Membership inference against a federation, in the game of Carlini et al. 2022.

The federation is trained many times, every target in or out by a coin. A target is a record of an honest
member; or, as mode organisation hides that, an honest member itself, which then takes part with all of its
records or with none. (That it takes part is no secret: rosters name it. Whether its records do is.) Each run
is attacked once; all the others are the attacker's shadow runs, so it knows every record there may be and the
whole method, and only not who was in. Two views:

    model     the last released model: what anybody has whom it is given to
    insider   the released statistics and every released model, less what the colluders added themselves

and two attacks on each:

    loss threshold     a record that the model fits well was in (Yeom et al. 2018), or an organisation whose
                       records it fits well on average; an insider takes the mean over all models
    likelihood ratio   how much likelier the score is with the record than without it, going by normal
                       distributions fitted to the shadow runs (LiRA, online). Of the last model the score is
                       the confidence in the right label. An insider's is the best linear one: it correlates
                       what the others added in every round with what the target would have added, weighed by
                       the covariance of all that is unknown (other targets, sampling, noise).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from p2pfl.attacks.added import Added, Organisations, Records, part
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
Unit = Literal["record", "organisation"]

MOST_COORDINATES: Final = 2048
"""Numbers of a run that an insider's linear score looks at; of longer runs it takes some rounds only."""
_PLACES: Final = 8
"""Rounds at which every target's step is computed; in between, the nearest before is taken."""
_IN: Final = 0.5
"""Chance that a target is in."""


@dataclass(frozen=True, slots=True)
class Result:
    """How one attack did."""

    view: View
    method: Method
    success: Success


@dataclass(frozen=True, slots=True, eq=False)
class _Runs:
    """Of f runs: which of n targets were in, and the attacks' scores of all of them, (f, n)."""

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
    unit: Unit = "record",
) -> list[Result]:
    """Train ``trials`` federations on the members' ``tables`` and attack each; the first ``groups.colluders``
    tables are the insider's. ``unit``: what is in or out. ``rng`` decides who is in, and ``random`` all else;
    ``tick`` is called after each federation.

    Raises PrivacyError if the manifest's noise cannot be drawn.
    """
    roster = thresholds(len(tables), manifest.groups.colluders)
    honest = tables[roster.colluders :]
    targets = pooled(honest)
    edges = np.cumsum([len(table) for table in honest])[:-1]
    members = rng.random((trials, len(targets) if unit == "record" else len(honest))) < _IN
    seen = []
    for there in members:
        if unit == "record":
            parts = zip(honest, np.split(there, edges), strict=True)
            held = [*tables[: roster.colluders], *(part(table, chosen) for table, chosen in parts)]
            seen.append(federate(manifest, held, roster, random))
        else:
            absent = roster.colluders + np.flatnonzero(~there)
            seen.append(federate(manifest, tables, roster, random, absent.tolist()))
        tick()
    confidences = np.array([_confidences(manifest, targets, one, random) for one in seen])
    added: Added
    if unit == "record":
        added = Records(manifest, targets)
    else:
        added = Organisations(manifest, honest, random)
        each = np.split(confidences, edges, axis=2)
        confidences = np.stack([some.mean(axis=2) for some in each], axis=2)
    alignment = _Insider(manifest, roster, added, seen, random).scores(seen)
    runs = _Runs(members, confidences[:, -1], confidences.mean(axis=1), alignment)
    return runs.results(rng)


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
    """Scores runs by what every target would have added: see :meth:`scores`."""

    def __init__(
        self,
        manifest: Manifest,
        roster: Thresholds,
        added: Added,
        seen: Sequence[Seen],
        random: RandomBytes,
    ) -> None:
        training = manifest.training
        self._manifest, self._roster, self._random = manifest, roster, random
        self._added = added
        most = min(max(1, MOST_COORDINATES // seen[0].models.shape[1]), training.rounds)
        self._rounds = np.unique(np.linspace(0, training.rounds - 1, most).astype(int))
        self._statistics = added.statistics.sum(axis=0)
        self._weights = self._weigh(seen)

    def scores(self, seen: Sequence[Seen]) -> Vector:
        """How what the others added to each run lines up with every target: (runs, n)."""
        found: Vector = np.array([self._surprise(one) for one in seen]) @ self._weights.T
        return found

    def _surprise(self, seen: Seen) -> Vector:
        """What the others added, less what is expected of them if every target is in with chance _IN."""
        honest = self._roster.members - self._roster.colluders
        added, momentum = self._added, self._manifest.training.momentum
        parts = [seen.other_statistics - _IN * self._statistics]
        for round in self._rounds:
            model, before = seen.models[round], seen.models[max(round - 1, 0)]
            start = honest * (added.kept * model + momentum * (model - before))
            expected = _IN * added.taken * added.of_all(model, seen.statistics)
            parts.append(seen.others[round] - start - expected)
        return np.concatenate(parts)

    def _weigh(self, seen: Sequence[Seen]) -> Vector:
        """What to multiply a run's surprise by, for every target: Σ⁻¹ times what it adds, (n, numbers)."""
        models = np.mean([one.models for one in seen], axis=0)
        statistics = np.mean([one.statistics for one in seen], axis=0)
        places = self._rounds[:: max(1, len(self._rounds) // _PLACES)]
        nearest = np.searchsorted(places, self._rounds, side="right") - 1
        steps = [self._added.of_each(models[place], statistics) for place in places]
        spreads = [
            self._added.spread(models[place], statistics, each)
            for place, each in zip(places, steps, strict=True)
        ]
        known = self._added.statistics
        moved = np.stack([steps[place] for place in nearest], axis=1)
        added = np.concatenate([known, self._added.taken * moved.reshape(len(known), -1)], axis=1)
        covariance = _IN * (1 - _IN) * added.T @ added
        _add_blocks(covariance, [_IN * spreads[place].T @ spreads[place] for place in nearest])
        noise = np.repeat(self._noise(), [known.shape[1], len(covariance) - known.shape[1]])
        covariance[np.diag_indices_from(covariance)] += noise
        weights: Vector = np.linalg.solve(covariance, added.T).T
        return weights

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


def _add_blocks(covariance: Vector, blocks: Sequence[Vector]) -> None:
    """Whether a target is in is settled once; what is sampled, in every round anew: ``blocks``, one for each,
    at the end of the diagonal.
    """
    for place, block in enumerate(reversed(blocks), 1):
        at = len(covariance) - place * len(block)
        covariance[at : at + len(block), at : at + len(block)] += block
