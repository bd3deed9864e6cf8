"""How well an attack tells members from others, and what epsilon that proves: figures with their errors."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

FALSE_POSITIVES: Final = 0.01
"""Share of the others that may be taken for members where true positives are counted."""
CONFIDENCE: Final = 0.95
"""Of every interval and every bound here."""
_RESAMPLED: Final = 200
_PILOT: Final = 10
"""One in so many trials is for choosing cuts."""
_LEVELS: Final = (0.6, 0.8, 0.9, 0.97, 0.99, 0.997, 0.999, 1.0)
"""Shares of the scores of one kind that cuts are to lie above."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """``value``, and the interval from ``low`` to ``high`` that holds the true one with CONFIDENCE."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Success:
    """Of an attack. ``auc``: how often a member has a higher score than another record, ½ is a coin's.
    ``caught``: share of the members found at FALSE_POSITIVES.
    """

    auc: Estimate
    caught: Estimate


def success(scores: Vector, members: NDArray[np.bool_], rng: np.random.Generator) -> Success:
    """Of ``scores`` of n records in f federations, (f, n), of which ``members`` were in.

    Intervals come from drawing the federations anew (percentile bootstrap): records of one federation are not
    independent.
    """
    order = np.argsort(-scores, axis=None, kind="stable")
    federation, inside = np.unravel_index(order, scores.shape)[0], members.ravel()[order]
    count = len(scores)
    whole = _measured(np.ones(count), federation, inside)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=_RESAMPLED).astype(np.float64)
    found = np.array([_measured(weights, federation, inside) for weights in drawn])
    low, high = np.quantile(found, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    auc, caught = (Estimate(*map(float, column)) for column in zip(whole, low, high, strict=True))
    return Success(auc, caught)


def _measured(
    weights: Vector, federation: NDArray[np.intp], inside: NDArray[np.bool_]
) -> tuple[float, float]:
    """Area under the curve, and true positives at FALSE_POSITIVES, of records from the highest score down."""
    weight = weights[federation]
    others = np.cumsum(np.where(inside, 0.0, weight))
    members = np.cumsum(np.where(inside, weight, 0.0))
    area = float(np.sum(np.where(inside, 0.0, weight) * members)) / (others[-1] * members[-1])
    allowed = int(np.searchsorted(others, FALSE_POSITIVES * others[-1], side="right"))
    return area, float(members[allowed - 1] / members[-1]) if allowed else 0.0


def epsilon_bound(present: Vector, absent: Vector, delta: float) -> float:
    """What epsilon is at least, with CONFIDENCE, of a mechanism that gave these scores, one for each trial,
    with a canary and without it.

    A mechanism that is (epsilon, delta)-private has P(score > cut | present) <= e^epsilon P(score > cut |
    absent) + delta for every cut, and the same of -score > cut with the two exchanged. The first trials
    choose cuts, so that the others judge them fairly. The limits of all rates are exact (Clopper-Pearson) and
    hold together, so the best of the cuts may be taken.
    """
    doubt = (1 - CONFIDENCE) / (2 * 2 * len(_LEVELS))  # a rate of each kind for each side and cut
    best = 0.0
    for more, less in ((present, absent), (-absent, -present)):
        pilot = len(less) // _PILOT
        judged = more[len(more) // _PILOT :], less[pilot:]
        for cut in np.quantile(less[:pilot], _LEVELS) if pilot else ():
            least = 1 - upper_limit(int(np.sum(judged[0] <= cut)), len(judged[0]), doubt)
            most = upper_limit(int(np.sum(judged[1] > cut)), len(judged[1]), doubt)
            if least > delta:
                best = max(best, math.log((least - delta) / most))
    return best


def upper_limit(hits: int, trials: int, doubt: float) -> float:
    """The largest rate at which so few ``hits`` in ``trials`` have a chance of ``doubt``: Clopper-Pearson."""
    if hits >= trials:
        return 1.0
    low, high = hits / trials, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _chance_of_at_most(hits, trials, middle) > doubt else (low, middle)
    return high


def _chance_of_at_most(hits: int, trials: int, rate: float) -> float:
    """P(X <= hits) of a binomial X whose mean is at least ``hits``; ``rate`` within (0, 1).

    Terms that are further off than 6 sqrt(trials), at least twelve standard deviations, are left out.
    """
    combinations = math.lgamma(trials + 1) - math.lgamma(hits + 1) - math.lgamma(trials - hits + 1)
    last = combinations + hits * math.log(rate) + (trials - hits) * math.log1p(-rate)
    counts = np.arange(hits, max(0, hits - 6 * math.isqrt(trials) - 60), -1)
    ratios = np.log(counts * (1 - rate) / ((trials - counts + 1) * rate))
    return math.exp(last) * (1 + float(np.exp(np.cumsum(ratios)).sum()))
