"""What noise costs in accuracy, tried out on made-up records before anybody has a federation.

The problem: ``features`` independent normal numbers a record, and a label that is 1 with probability
sigmoid(3 u), u being a fixed combination of them with variance 1. Nobody can do better than about 84 % on it.
Members learn it by logistic regression from as many records, in as many rounds, with the sampling, clipping,
noise and groups that the terms say, everybody attending; in floating point and without the masks, which
change nothing but the last digits. Every mode has the best of a few learning rates, found in one run and
measured in others. Accuracy is computed by quadrature, so no test set blurs it.

It says what this noise does to this problem. Real records are harder or easier; what carries over is whether
the noise is far below the signal, or drowns it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2pfl.gossip.thresholds import thresholds
from p2pfl.node.accountant import Kind
from p2pfl.planning import Terms

CLIP_NORM = 1.0
LEARNING_RATES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
SIGNAL = 3.0
"""Standard deviation of the true logit."""
_MOST_NUMBERS = 2e7
_MOST_PRODUCTS = 1.5e10
_TINY = 1e-300
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(80)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Noised:
    """A way to learn. With a ``noise_multiplier`` of 0 nothing is clipped either."""

    kind: Kind
    noise_multiplier: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one way went. ``accuracy`` and its standard ``deviation`` over ``runs``.

    ``signal_to_noise``: length of a group's mean update over the expected length of the noise in it, averaged
    over the rounds; infinite without noise.
    """

    accuracy: float
    deviation: float
    runs: int
    learning_rate: float
    signal_to_noise: float


def noise_of_mean(terms: Terms, way: Noised, members: int) -> float:
    """Standard deviation per coordinate of the noise in the mean update of a group of ``members``, all of
    whom attend, in units of the clip norm.

    A mean update is of Σ clip(gradient) / expected batch, in mode organisation of clip(update).
    """
    return _noise_of_member(terms, way, members) / math.sqrt(members)


def _noise_of_member(terms: Terms, way: Noised, members: int) -> float:
    group = thresholds(members, terms.groups.colluders)
    shared = 1.0 if way.kind == "local" else group.minimum_survivors - group.colluders
    unit = 1.0 if way.kind == "organisation" else terms.batch
    return way.noise_multiplier * CLIP_NORM / unit / math.sqrt(shared)


def affordable(terms: Terms, ways: Sequence[Noised], features: int, runs: int) -> bool:
    """Whether :func:`measure` takes less than about half a minute, and less than a gigabyte."""
    seen = sum(terms.records if way.kind == "organisation" else terms.batch for way in ways)
    products = 2 * (runs + 1) * terms.rounds * terms.members * seen * features * len(LEARNING_RATES)
    numbers = terms.members * terms.records * features
    return numbers <= _MOST_NUMBERS and products <= _MOST_PRODUCTS


def best_possible() -> float:
    """The accuracy of whoever knows the truth."""
    return float(accuracies(np.array([1.0, 0.0]), np.ones(1)))


def measure(terms: Terms, ways: Sequence[Noised], features: int, runs: int) -> list[Outcome]:
    """What each of ``ways`` comes to, all on the same records and batches, in ``runs`` independent runs."""
    every = [_Run(terms, ways, features, seed).learn() for seed in range(runs + 1)]
    best = np.argmax(every[0][0], axis=1)
    chosen = np.arange(len(ways)), best
    accuracies = np.array([accuracy[chosen] for accuracy, _ in every[1:]])
    ratios = np.array([ratio[chosen] for _, ratio in every[1:]]).mean(axis=0)
    return [
        Outcome(
            float(accuracies[:, way].mean()),
            float(accuracies[:, way].std()),
            runs,
            LEARNING_RATES[best[way]],
            float(ratios[way]),
        )
        for way in range(len(ways))
    ]


class _Run:
    """One federation learning in every way at every learning rate. Arrays over all that: (ways, rates, …)."""

    def __init__(self, terms: Terms, ways: Sequence[Noised], features: int, seed: int) -> None:
        self._terms, self._ways = terms, ways
        self._rng = rng = np.random.default_rng(seed)
        direction = rng.normal(size=features)
        self._truth: Floats = direction / np.linalg.norm(direction)
        inputs = rng.normal(size=(terms.members, terms.records, features))
        chance = 1 / (1 + np.exp(-SIGNAL * inputs @ self._truth))
        self._labels: Floats = (rng.random(chance.shape) < chance).astype(np.float64)
        self._inputs = np.concatenate([inputs, np.ones((*inputs.shape[:2], 1))], axis=2)
        self._norms = np.linalg.norm(self._inputs, axis=2)
        self._rates = np.array(LEARNING_RATES)[:, None]
        self._limits = np.array([CLIP_NORM if way.noise_multiplier else math.inf for way in ways])
        self._ratios = np.zeros((len(ways), len(LEARNING_RATES)))

    def learn(self) -> tuple[Floats, Floats]:
        """Accuracies, and signal-to-noise ratios, after all rounds: shape (ways, rates)."""
        members, coordinates = self._terms.members, self._inputs.shape[2]
        models = np.zeros((len(self._ways), len(LEARNING_RATES), members, coordinates))
        for _ in range(self._terms.rounds):
            updates = self._updates(models)
            start = 0
            drawn = self._rng.permutation(members)
            for size in self._terms.group_sizes:
                group = drawn[start : start + size]
                start += size
                models[:, :, group] = self._averaged(models[:, :, group], updates[:, :, group])[:, :, None]
        ratios = self._ratios / (self._terms.rounds * len(self._terms.group_sizes))
        return accuracies(models.mean(axis=2), self._truth), ratios

    def _averaged(self, models: Floats, updates: Floats) -> Floats:
        """The group's model after a round: shape (ways, rates, coordinates)."""
        signal = updates.mean(axis=2)
        sigmas = np.array([noise_of_mean(self._terms, way, models.shape[2]) for way in self._ways])
        noise = sigmas[:, None, None] * self._rng.normal(size=signal.shape)
        with np.errstate(divide="ignore"):
            expected = sigmas[:, None] * math.sqrt(signal.shape[2])
            self._ratios += np.linalg.norm(signal, axis=2) / expected
        averaged: Floats = models.mean(axis=2) - self._rates * (signal + noise)
        return averaged

    def _updates(self, models: Floats) -> Floats:
        """What every member would subtract at learning rate 1: shape of ``models``."""
        whole = np.array([way.kind == "organisation" for way in self._ways])
        updates = np.empty_like(models)
        if not whole.all():
            chosen = self._rng.random(self._labels.shape) < self._terms.sampling_rate
            updates[~whole] = self._summed(models[~whole], chosen, self._limits[~whole]) / self._terms.batch
        if whole.any():
            unclipped = np.full(int(whole.sum()), math.inf)
            means = self._summed(models[whole], None, unclipped) / self._terms.records
            lengths = np.linalg.norm(means, axis=3, keepdims=True)
            limits = self._limits[whole, None, None, None]
            updates[whole] = means * np.minimum(1.0, limits / np.maximum(lengths, _TINY))
        return updates

    def _summed(self, models: Floats, chosen: NDArray[np.bool_] | None, limits: Floats) -> Floats:
        """Σ clip(gradient) over each member's ``chosen`` records, or all of them; ``limits``: of each way."""
        ways, rates, members, coordinates = models.shape
        columns = models.reshape(-1, members, coordinates).transpose(1, 2, 0)
        inputs, labels, norms = self._batch(chosen)
        errors = 1 / (1 + np.exp(-np.clip(inputs @ columns, -50, 50))) - labels[:, :, None]
        errors *= np.minimum(
            1.0, np.repeat(limits, rates) / np.maximum(np.abs(errors) * norms[:, :, None], _TINY)
        )
        sums = errors.transpose(0, 2, 1) @ inputs
        return sums.transpose(1, 0, 2).reshape(ways, rates, members, coordinates)

    def _batch(self, chosen: NDArray[np.bool_] | None) -> tuple[Floats, Floats, Floats]:
        """Inputs, labels and norms of the chosen records, members' batches filled up with zeros."""
        if chosen is None:
            return self._inputs, self._labels, self._norms
        longest = max(1, int(chosen.sum(axis=1).max()))
        order = np.argsort(~chosen, axis=1, kind="stable")[:, :longest]
        there = np.take_along_axis(chosen, order, axis=1)
        inputs = np.take_along_axis(self._inputs, order[:, :, None], axis=1) * there[:, :, None]
        labels, norms = (np.take_along_axis(part, order, axis=1) for part in (self._labels, self._norms))
        return inputs, labels, norms


def accuracies(models: Floats, truth: Floats) -> Floats:
    """Chance that a fresh record is classified rightly by each of ``models``, (…, features + 1): weights and
    a bias.
    """
    weights, bias = models[..., :-1], models[..., -1]
    length = np.maximum(np.linalg.norm(weights, axis=-1), 1e-12)
    along = weights @ truth
    across = np.sqrt(np.maximum(length**2 - along**2, 1e-24))
    scores = (along[..., None] * _NODES + bias[..., None]) / across[..., None]
    positive = 0.5 * (1 + _erf(scores / math.sqrt(2)))
    chance = 1 / (1 + np.exp(-SIGNAL * _NODES))
    right = chance * positive + (1 - chance) * (1 - positive)
    found: Floats = right @ _WEIGHTS / _WEIGHTS.sum()
    return found


def _erf(values: Floats) -> Floats:
    found: Floats = np.vectorize(math.erf, otypes=[np.float64])(values)
    return found
