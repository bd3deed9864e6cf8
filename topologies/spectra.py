"""Eigenvalues of mixing matrices, measured and by formula."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import ceil, cos, log2, pi, sqrt
from typing import Any, Final

import numpy as np

from p2pfl.topologies.lattices import torus_shape
from p2pfl.topologies.sparse import Floats, Weights

DENSE: Final = 1500
"""Nodes up to which all eigenvalues are computed; beyond, the largest of normal matrices by Lanczos."""
_LANCZOS_STEPS: Final = (100, 200, 400, 800, 1600, 3200, 6400)
_SETTLED: Final = 1e-6
"""Of the spectral gap: a change that is none."""


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


@lru_cache(maxsize=1)
def second_eigenvalue(weights: Weights) -> float | None:
    """|λ₂|: what a round leaves of the slowest disagreement. In [0, 1] for doubly stochastic matrices.

    Exact to rounding for up to :data:`DENSE` nodes. Beyond, for normal matrices that keep the mean (all
    symmetric ones, all circulant ones), what Lanczos finds, 1 − |λ₂| to six digits, or, where 6400 steps do
    not settle it, an estimate from below: gaps of 10⁻⁷ and less. Else None.
    """
    if len(weights) < 2:
        return 0.0
    found = moduli(weights)
    if found is not None:
        return float(found[0])
    if not (is_normal(weights) and weights.keeps_mean()):
        return None
    if weights.is_symmetric():
        return _lanczos(weights.apply, len(weights))
    back = weights.transposed
    return sqrt(_lanczos(lambda values: back.apply(weights.apply(values)), len(weights)))


def is_normal(weights: Weights) -> bool:
    """Whether W Wᵀ = Wᵀ W, so that eigenvectors are orthogonal; seen on random values."""
    if weights.is_symmetric():
        return True
    back, values = weights.transposed, _values(len(weights))
    return bool(
        np.allclose(weights.apply(back.apply(values)), back.apply(weights.apply(values)), rtol=0, atol=1e-12)
    )


def _lanczos(apply: Callable[[Floats], Floats], count: int) -> float:
    """The largest modulus on the space orthogonal to agreement. Vectors are not made orthogonal to all before
    them: that lets eigenvalues that are found already be found again, and no others.
    """
    before, vector = np.zeros(count), _values(count)
    diagonal: list[float] = []
    beside: list[float] = []
    found = size = 0.0
    for steps in _LANCZOS_STEPS:
        while len(diagonal) < steps:
            ahead = apply(vector)
            diagonal.append(float(vector @ ahead))
            ahead -= diagonal[-1] * vector + size * before
            ahead -= ahead.mean()
            size = float(np.linalg.norm(ahead))
            if size < 1e-12:
                return _largest(diagonal, beside)
            beside.append(size)
            before, vector = vector, ahead / size
        known, found = found, _largest(diagonal, beside)
        if found - known <= _SETTLED * abs(1 - found):
            break
    return found


def _values(count: int) -> Floats:
    """A random vector of length 1 orthogonal to agreement."""
    vector = np.random.Generator(np.random.PCG64(1)).standard_normal(count)
    vector -= vector.mean()
    unit: Floats = vector / np.linalg.norm(vector)
    return unit


def _largest(diagonal: Sequence[float], beside: Sequence[float]) -> float:
    """The largest modulus of the eigenvalues of a symmetric tridiagonal matrix, by bisection: x is above all
    of them if all pivots of x I − T are positive, and of x I + T.
    """
    squares = [0.0, *(size * size for size in beside)]

    def is_above(x: float, sign: float) -> bool:
        pivot = 1.0
        for entry, square in zip(diagonal, squares, strict=False):
            pivot = x - sign * entry - square / pivot
            if pivot <= 0:
                return False
        return True

    low, high = 0.0, max(map(abs, diagonal)) + 2 * max(beside, default=0.0)
    while high - low > 1e-15 * high:
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if is_above(middle, 1) and is_above(middle, -1):
            high = middle
        else:
            low = middle
    return high


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
