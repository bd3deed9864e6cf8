"""Which symmetric weights bring a given graph together fastest: a small convex problem.

Xiao and Boyd, "Fast linear iterations for distributed averaging" (2004): over W = I − Σ wₑ Lₑ minimise the
largest modulus of the eigenvalues of W − J, J = 11ᵀ/n. That modulus is convex in w but has kinks where
eigenvalues meet, as they do at the optimum; so we minimise log Σ (exp μλᵢ + exp −μλᵢ) / μ, which exceeds it
by log(2n) / μ at most, for growing μ, with L-BFGS. Where weights must not be negative, a logarithmic barrier
keeps them and the diagonal above 0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from p2pfl.topologies.errors import TopologyError
from p2pfl.topologies.sparse import Floats, Ints, totals

LARGEST: Final = 300
"""Nodes; an eigendecomposition is taken in each of some hundred steps."""
_SHARPNESS: Final = (30.0, 200.0, 1200.0, 8000.0)
_STEPS: Final = 60
_MEMORY: Final = 12

_Function = Callable[[Floats], tuple[float, Floats]]


def fastest_edge_weights(count: int, edges: Ints, nonnegative: bool) -> Floats:
    """The best weight of every edge, shape (m,), for ``edges`` of shape (2, m) between ``count`` nodes.

    ``nonnegative``: neither these nor the diagonal may be below 0. Within about 10⁻³ of the best |λ₂|. Raises
    TopologyError for more than :data:`LARGEST` nodes.
    """
    if count > LARGEST:
        raise TopologyError(
            f"the fastest weights of {count} nodes take too long to find; take metropolis, or {LARGEST} nodes"
        )
    problem = _Problem(count, edges, nonnegative)
    best = weights = problem.start()
    for sharpness in _SHARPNESS if edges.size else ():
        weights = _descend(lambda point, mu=sharpness: problem.value(point, mu), weights)  # type: ignore[misc]
        best = min(best, weights, key=problem.second)
    return best


@dataclass(frozen=True, eq=False, slots=True)
class _Problem:
    count: int
    edges: Ints
    nonnegative: bool

    def start(self) -> Floats:
        """Metropolis weights, which are inside all bounds."""
        degrees = np.bincount(self.edges.ravel(), minlength=self.count)
        start: Floats = 1 / (1 + np.maximum(degrees[self.edges[0]], degrees[self.edges[1]]))
        return start

    def second(self, weights: Floats) -> float:
        return float(np.abs(np.linalg.eigvalsh(self._deviation(weights))).max())

    def value(self, weights: Floats, mu: float) -> tuple[float, Floats]:
        """The smoothed modulus, the barrier added, and its gradient."""
        room = 1 - self._sums(weights)
        if self.nonnegative and min(weights.min(), room.min()) <= 0:
            return np.inf, weights
        values, vectors = np.linalg.eigh(self._deviation(weights))
        exponents = mu * np.concatenate([values, -values])
        top = exponents.max()
        shares = np.exp(exponents - top)
        total = shares.sum()
        pull = (shares[: self.count] - shares[self.count :]) / total
        drift = (vectors * pull) @ vectors.T
        one, other = self.edges
        gradient: Floats = 2 * drift[one, other] - np.diag(drift)[one] - np.diag(drift)[other]
        smooth = float(top + np.log(total)) / mu
        if not self.nonnegative:
            return smooth, gradient
        barrier = -(np.log(weights).sum() + np.log(room).sum()) / mu
        return smooth + barrier, gradient + (1 / room[one] + 1 / room[other] - 1 / weights) / mu

    def _sums(self, weights: Floats) -> Floats:
        return totals(self.edges.ravel(), np.concatenate([weights, weights]), self.count)

    def _deviation(self, weights: Floats) -> Floats:
        """W − J, shape (n, n)."""
        matrix = np.diag(1 - self._sums(weights)) - 1 / self.count
        matrix[self.edges[0], self.edges[1]] += weights
        matrix[self.edges[1], self.edges[0]] += weights
        return matrix


def _descend(function: _Function, point: Floats) -> Floats:
    """L-BFGS with backtracking (Nocedal 1980)."""
    value, gradient = function(point)
    pairs: list[tuple[Floats, Floats]] = []
    for _ in range(_STEPS):
        direction = -_two_loops(pairs, gradient)
        slope = float(direction @ gradient)
        if slope >= 0:
            pairs, direction, slope = [], -gradient, -float(gradient @ gradient)
        step = 1.0 if pairs else min(1.0, 0.05 / (float(np.abs(gradient).max()) + 1e-300))
        while True:
            ahead = point + step * direction
            found, slopes = function(ahead)
            if found <= value + 1e-4 * step * slope or step < 1e-12:
                break
            step /= 2
        if not found < value:
            return point
        pairs.append((ahead - point, slopes - gradient))
        pairs = [pair for pair in pairs[-_MEMORY:] if pair[0] @ pair[1] > 1e-300]
        settled = value - found < 2e-7
        point, value, gradient = ahead, found, slopes
        if settled:
            break
    return point


def _two_loops(pairs: list[tuple[Floats, Floats]], gradient: Floats) -> Floats:
    """The inverse Hessian, as the last ``pairs`` of steps and changes show it, times the gradient."""
    result = gradient.copy()
    shares = []
    for step, change in reversed(pairs):
        share = float(step @ result) / float(step @ change)
        result -= share * change
        shares.append(share)
    if pairs:
        step, change = pairs[-1]
        result *= float(step @ change) / float(change @ change)
    for (step, change), share in zip(pairs, reversed(shares), strict=True):
        result += step * (share - float(change @ result) / float(step @ change))
    return result
