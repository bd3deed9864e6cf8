"""Which symmetric weights bring a given graph together fastest: a small convex problem.

Xiao and Boyd, "Fast linear iterations for distributed averaging" (2004): over W = I − Σ wₑ bₑ bₑᵀ, bₑ the
difference of the ends of edge e, minimise t such that −t I ≤ W − J ≤ t I, J = 11ᵀ/n. We follow the central
path of the logarithmic barriers of these two inequalities, and of those that keep weights and diagonal above
0 where they must be, with Newton's method (Boyd and Vandenberghe, "Convex Optimization", 11.3 and 11.6). A
point on the path is within (terms in the barrier) / sharpness of the best t.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.linalg import LinAlgError

from p2pfl.topologies.errors import TopologyError
from p2pfl.topologies.sparse import Floats, Ints, totals

LARGEST: Final = 300
"""Nodes at most, and :data:`MOST_EDGES` links: as many equations are solved some hundred times."""
MOST_EDGES: Final = 2000
GAP: Final = 1e-6
"""How far at most the |λ₂| found is above the best."""
_STEEPER: Final = 3.0
"""Far steeper, and Newton's method begins so near a boundary that rounding stops it."""
_STEPS: Final = 500


def fastest_edge_weights(count: int, edges: Ints, nonnegative: bool) -> Floats:
    """The best weight of every edge, shape (m,), for ``edges`` of shape (2, m) between ``count`` nodes.

    ``nonnegative``: neither these nor the diagonal may be below 0. Within :data:`GAP` of the best |λ₂|.
    Raises TopologyError for more than :data:`LARGEST` nodes or :data:`MOST_EDGES` edges.
    """
    if count > LARGEST or edges.shape[1] > MOST_EDGES:
        raise TopologyError(
            f"the fastest weights of {count} nodes and {edges.shape[1]} links take too long to find; take"
            f" metropolis, or at most {LARGEST} nodes and {MOST_EDGES} links"
        )
    if not edges.size:
        return np.zeros(0)
    problem = _Problem(count, edges, nonnegative)
    point, sharpness = problem.start(), float(problem.terms)
    while problem.terms / sharpness > GAP / 2:
        sharpness *= _STEEPER
        point = _centred(problem, point, sharpness)
    weights: Floats = point[1:]
    return weights


@dataclass(frozen=True, eq=False, slots=True)
class _Problem:
    """Points are t and the weights of all edges, shape (1 + m,)."""

    count: int
    edges: Ints
    nonnegative: bool

    @property
    def terms(self) -> int:
        """Of the barrier."""
        return 2 * self.count + (self.count + len(self.edges[0]) if self.nonnegative else 0)

    def start(self) -> Floats:
        """Metropolis weights, which are inside all bounds, and a t far above their |λ₂|."""
        degrees = np.bincount(self.edges.ravel(), minlength=self.count)
        point: Floats = np.concatenate([[2.0], 1 / (1 + degrees[self.edges].max(axis=0))])
        return point

    def value(self, point: Floats, sharpness: float) -> float:
        """``sharpness`` t and the barrier; infinite outside of it."""
        room = self._room(point)
        if min(room, default=1.0) <= 0:
            return np.inf
        try:
            roots = np.linalg.cholesky(self._slack(point))
        except LinAlgError:
            return np.inf
        logs = 2 * np.log(np.diagonal(roots, axis1=1, axis2=2)).sum() + np.log(room).sum()
        return float(sharpness * point[0] - logs)

    def slopes(self, point: Floats, sharpness: float) -> tuple[Floats, Floats]:
        """Gradient, shape (1 + m,), and Hessian of :meth:`value`."""
        gradient, hessian = np.zeros_like(point), np.zeros((len(point), len(point)))
        gradient[0] = sharpness
        for sign, inverse in zip((1, -1), np.linalg.inv(self._slack(point)), strict=True):
            columns = self._differences(inverse.T).T  # of the inverse times all bₑ, shape (n, m)
            between = self._differences(columns)
            gradient[0] -= np.trace(inverse)
            gradient[1:] -= sign * np.diagonal(between)
            hessian[0, 0] += (inverse**2).sum()
            hessian[0, 1:] += sign * (columns**2).sum(axis=0)
            hessian[1:, 1:] += between**2
        hessian[1:, 0] = hessian[0, 1:]
        if self.nonnegative:
            room = self._room(point)
            itself, weights = room[: self.count], room[self.count :]
            one, other = self.edges
            gradient[1:] += 1 / itself[one] + 1 / itself[other] - 1 / weights
            ends = np.zeros((self.count, len(weights)))
            ends[one, np.arange(len(weights))] = ends[other, np.arange(len(weights))] = 1
            hessian[1:, 1:] += np.diag(1 / weights**2) + (ends.T / itself**2) @ ends
        return gradient, hessian

    def _differences(self, rows: Floats) -> Floats:
        differences: Floats = rows[self.edges[0]] - rows[self.edges[1]]
        return differences

    def _room(self, point: Floats) -> Floats:
        """What must stay above 0: the diagonal of W and the weights."""
        if not self.nonnegative:
            return np.ones(0)
        return np.concatenate([1 - self._sums(point[1:]), point[1:]])

    def _sums(self, weights: Floats) -> Floats:
        return totals(self.edges.ravel(), np.concatenate([weights, weights]), self.count)

    def _slack(self, point: Floats) -> Floats:
        """t I − (W − J) and t I + (W − J), shape (2, n, n)."""
        matrix = np.diag(1 - self._sums(point[1:])) - 1 / self.count
        matrix[self.edges[0], self.edges[1]] += point[1:]
        matrix[self.edges[1], self.edges[0]] += point[1:]
        bound = point[0] * np.eye(self.count)
        return np.stack([bound - matrix, bound + matrix])


def _centred(problem: _Problem, point: Floats, sharpness: float) -> Floats:
    """The point of the central path, by Newton's method with backtracking."""
    value = problem.value(point, sharpness)
    for _ in range(_STEPS):
        gradient, hessian = problem.slopes(point, sharpness)
        direction = -np.linalg.solve(hessian, gradient)
        slope, step = float(gradient @ direction), 1.0
        if slope > -1e-6:
            break
        while not (ahead := problem.value(point + step * direction, sharpness)) <= value + 0.1 * step * slope:
            step /= 2
            if step < 1e-9:
                return point
        point, value = point + step * direction, ahead
    return point
