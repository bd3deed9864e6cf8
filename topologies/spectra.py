"""Eigenvalues of mixing matrices, measured and by formula."""

from collections.abc import Sequence
from functools import lru_cache
from math import ceil, cos, log2, pi
from typing import Any, Final

import numpy as np

from p2pfl.topologies.lattices import torus_shape
from p2pfl.topologies.sparse import Floats, Weights

DENSE: Final = 1500
"""Nodes up to which all eigenvalues are computed; beyond, symmetric matrices by Lanczos, others not."""
_LANCZOS_STEPS: Final = 400


@lru_cache(maxsize=1)
def moduli(weights: Weights) -> Floats | None:
    """|λ| of all eigenvalues but that of agreement, descending, shape (n − 1,); None for too many nodes.

    Not to be changed: who asks twice about one matrix gets the same array.
    """
    if len(weights) > DENSE:
        return None
    matrix = weights.dense
    values = np.linalg.eigvalsh(matrix) if weights.is_symmetric() else np.linalg.eigvals(matrix)
    distance = np.abs(values - 1)
    return np.sort(np.abs(np.delete(values, distance.argmin())))[::-1]


def second_eigenvalue(weights: Weights) -> float | None:
    """|λ₂|: what a round leaves of the slowest disagreement. In [0, 1] for doubly stochastic matrices.

    Exact to rounding for up to :data:`DENSE` nodes; beyond, for symmetric matrices, the largest that 400
    steps of Lanczos find (an estimate from below, poor where the gap is tiny); else None.
    """
    if len(weights) < 2:
        return 0.0
    found = moduli(weights)
    if found is not None:
        return float(found[0])
    return _lanczos(weights) if weights.is_symmetric() else None


def _lanczos(weights: Weights) -> float:
    """On the space orthogonal to agreement, with full reorthogonalisation."""
    count, steps = len(weights), min(len(weights) - 1, _LANCZOS_STEPS)
    basis = np.zeros((steps + 1, count))
    vector = np.random.Generator(np.random.PCG64(1)).standard_normal(count)
    basis[0] = (vector - vector.mean()) / np.linalg.norm(vector - vector.mean())
    diagonal, beside = np.zeros(steps), np.zeros(steps)
    for step in range(steps):
        vector = weights.apply(basis[step])
        diagonal[step] = vector @ basis[step]
        for _ in range(2):
            vector -= basis[: step + 1].T @ (basis[: step + 1] @ vector)
            vector -= vector.mean()
        beside[step] = np.linalg.norm(vector)
        if beside[step] < 1e-12:
            diagonal, beside = diagonal[: step + 1], beside[: step + 1]
            break
        basis[step + 1] = vector / beside[step]
    small = np.diag(diagonal) + np.diag(beside[:-1], 1) + np.diag(beside[:-1], -1)
    return float(np.abs(np.linalg.eigvalsh(small)).max())


# |λ₂| by formula, of Metropolis-Hastings weights unless said. None: no formula.


def complete(count: int, **_: Any) -> float:
    """0."""
    return 0.0


def ring(count: int, **_: Any) -> float:
    """max |1/3 + 2/3 cos(2πj/n)| over j = 1 and ⌊n/2⌋."""
    return 0.0 if count < 3 else max(abs(1 / 3 + 2 / 3 * cos(2 * pi * j / count)) for j in (1, count // 2))


def exponential(count: int, **_: Any) -> float:
    """Of the graph that goes both ways: largest |(1 + Σ cos(2πjh/n)) / (1 + degree)|, j ≠ 0, h over ±2^p."""
    hops = [1 << power for power in range(count.bit_length()) if 1 << power < count]
    return circulant(count, sorted({sign * hop % count for hop in hops for sign in (1, -1)}))


def circulant(count: int, hops: Sequence[int]) -> float:
    """Of a circulant graph with one weight for all: largest |(1 + Σ_h cos(2πjh/n)) / (1 + |hops|)|, j ≠ 0."""
    if count < 2:
        return 0.0
    waves = [
        (1 + sum(cos(2 * pi * j * hop / count) for hop in hops)) / (1 + len(hops)) for j in range(1, count)
    ]
    return max(map(abs, waves))


def directed_exponential(count: int, **_: Any) -> float | None:
    """1 − 2 / (1 + ⌈log2 n⌉) for even n (Ying et al. 2021); smaller for odd n, without a formula."""
    if count < 2:
        return 0.0
    return 1 - 2 / (1 + ceil(log2(count))) if count % 2 == 0 else None


def torus(count: int, **_: Any) -> float:
    """Largest |(1 + 2 cos(2πi/rows) + 2 cos(2πj/columns)) / 5|; (3 + 2 cos(2π/m)) / 5 on m × m, m > 3."""
    shape = torus_shape(count)
    if shape is None:
        root = int(count**0.5)
        return circulant(count, sorted({1 % count, -1 % count, root % count, -root % count} - {0}))
    waves = [
        (1 + 2 * cos(2 * pi * i / shape[0]) + 2 * cos(2 * pi * j / shape[1])) / 5
        for i in range(shape[0])
        for j in range(shape[1])
        if i or j
    ]
    return max(map(abs, waves))


def hypercube(count: int, **_: Any) -> float | None:
    """1 − 2 / (1 + log2 n) where n is a power of two."""
    digits = count.bit_length() - 1
    if count != 1 << digits:
        return None
    return 1 - 2 / (1 + digits) if digits else 0.0


def star(count: int, **_: Any) -> float:
    """1 − 1/n."""
    return 1 - 1 / count if count > 2 else 0.0
