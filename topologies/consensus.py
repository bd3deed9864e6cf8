"""How fast nodes come to agree: measured by mixing random values, and by theory.

The error after t rounds is Σᵢ |xᵢ(t) − x̄(0)|² / Σᵢ |xᵢ(0) − x̄(0)|²: distance to the mean of the
**beginning**, so mixing that lets the mean drift is seen to stop short of it.
"""

import itertools
from collections.abc import Iterator
from math import ceil, log
from typing import Final

import numpy as np

from p2pfl.topologies import chance
from p2pfl.topologies.sparse import Floats, Weights
from p2pfl.topologies.spectra import is_normal, moduli, second_eigenvalue
from p2pfl.topologies.topology import Topology

_COLUMNS: Final = 32
_LOOKED_BACK: Final = (64, 256, 1024)
"""Rounds in which mixing is given up that has hardly got on since a quarter of them."""


def errors(
    topology: Topology, rounds: int, *, mixing: str | None = None, seed: int = 0, columns: int = _COLUMNS
) -> Floats:
    """The error after 0, 1, …, ``rounds`` rounds, shape (rounds + 1,), of normal values, shape (n, columns).

    Where rows do not add up to 1 a weight is mixed along and divided by, as in push-sum. The error of one
    node is 0.
    """
    return np.fromiter(itertools.islice(_course(topology, mixing, seed, columns), rounds + 1), np.float64)


def _course(topology: Topology, mixing: str | None, seed: int, columns: int) -> Iterator[float]:
    """The error after 0, 1, … rounds, without end."""
    if topology.is_complete:
        yield from itertools.chain([1.0], itertools.repeat(0.0))
    values = chance.generator(chance.seeded(seed)).standard_normal((len(topology.nodes), columns))
    values -= values.mean(axis=0)
    whole = float((values**2).sum())
    weight = np.ones((len(values), 1))
    for round in itertools.count():
        left = float(((values / weight) ** 2).sum())
        yield left / whole if whole else 0.0
        if not round or topology.period != 1:
            step = topology.weights(round, mixing)
        values, weight = step.apply(values), step.apply(weight)


def expected_errors(weights: Weights, rounds: int) -> Floats | None:
    """The expectation of :func:`errors` for one symmetric matrix used in every round: the mean of |λ|^2t.

    None for more nodes than all eigenvalues are computed of.
    """
    found = moduli(weights)
    if found is None:
        return None
    if not found.size:
        return np.zeros(rounds + 1)
    return np.array([float(np.mean(found ** (2 * round))) for round in range(rounds + 1)])


def measured_rounds(
    topology: Topology,
    tolerance: float = 1e-6,
    *,
    mixing: str | None = None,
    seed: int = 0,
    limit: int = 2000,
) -> int | None:
    """Rounds until the error is at most ``tolerance``; None if ``limit`` are not enough."""
    lasting = topology.period == 1 and topology.weights(0, mixing).is_symmetric()
    found: list[float] = []
    for error in itertools.islice(_course(topology, mixing, seed, 8), limit + 1):
        round = len(found)
        if error <= tolerance:
            return round
        found.append(error)
        if round in _LOOKED_BACK and error > 0.9 * found[round // 4]:
            return None
        if lasting and round and error * (error / found[-2]) ** (limit - round) > tolerance:
            return None  # a sum of powers of one matrix: no later round shrinks it more than this one did
    return None


def predicted_rounds(topology: Topology, tolerance: float = 1e-6, *, mixing: str | None = None) -> int | None:
    """What theory says of :func:`measured_rounds`; None where it says nothing.

    One matrix with orthogonal eigenvectors (all symmetric ones): exactly the expectation; another one, or of
    too many nodes, and a cycle of matrices: the asymptotic rate, or the round in which a cycle has averaged
    exactly; new every round: the contraction of its formula.
    """
    if len(topology.nodes) < 2:
        return 0
    if topology.period is None:
        return None if topology.contraction is None else _rounds(topology.contraction, tolerance)
    if topology.period > 1:
        return _cycle(topology, tolerance)
    weights = topology.weights(0, mixing)
    found = moduli(weights)
    if found is None or not is_normal(weights):
        second = second_eigenvalue(weights)
        return None if second is None else _rounds(second**2, tolerance)
    return _first(found, tolerance)


def group_contraction(count: int, groups: int) -> float:
    """What one round of averaging in ``groups`` random groups leaves of the expected squared distance of
    ``count`` nodes: (groups − 1) / (count − 1).

    With n / k groups of k that is (n − k) / (k (n − 1)) (Ryabinin et al., "Moshpit SGD", 2021); sizes need
    not be equal.
    """
    return (groups - 1) / (count - 1) if count > 1 else 0.0


def placed_contraction(weights: Weights) -> float:
    """What a round leaves if ``weights``, which keep the mean, are laid over the nodes anew at random each
    time: (Σ W² − 1) / (n − 1).
    """
    return max(0.0, float((weights.data**2).sum()) - 1) / (len(weights) - 1) if len(weights) > 1 else 0.0


def epidemic_contraction(count: int, sent: int) -> float:
    """Of epidemic learning where each node sends to ``sent`` others at random and takes the mean of what it
    has: (1 − (1 − s/(n−1))ⁿ) / s − 1 / (n − 1) (de Vos et al., "Epidemic Learning", 2023, EL-Local).

    The distance is to the mean of the round; the mean itself drifts.
    """
    sent = min(sent, count - 1)
    if count < 2:
        return 0.0
    return (1 - (1 - sent / (count - 1)) ** count) / sent - 1 / (count - 1)


def _rounds(contraction: float, tolerance: float) -> int | None:
    if contraction >= 1 - 1e-12:
        return None
    return max(1, ceil(log(tolerance) / log(contraction))) if contraction > 1e-15 else 1


def _first(moduli: Floats, tolerance: float) -> int | None:
    """The first t with mean |λ|^2t ≤ tolerance."""

    def enough(round: int) -> bool:
        return bool(np.mean(moduli ** (2 * round)) <= tolerance)

    if moduli[0] >= 1 - 1e-12:
        return None
    high = 1
    while not enough(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _cycle(topology: Topology, tolerance: float) -> int | None:
    count, period = len(topology.nodes), topology.period or 1
    if count > 400:
        return None
    product = np.eye(count) - 1 / count
    for round in range(period):
        product = topology.weights(round).apply(product)
        if float((product**2).sum()) / (count - 1) <= tolerance * 1e-12:
            return round + 1
    rate = float(np.abs(np.linalg.eigvals(product)).max()) ** (2 / period)
    return _rounds(rate, tolerance)
