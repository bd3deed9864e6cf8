"""Rényi accounting of sampled Gaussians, once more: it shares nothing with p2pfl.node.accountant."""

import math
from collections.abc import Callable, Sequence

import numpy as np

Releases = Sequence[tuple[float, float, int]]
"""(noise multiplier, sampling rate, count)."""


def divergence(releases: Releases, order: int) -> float:
    """Mironov, Talwar, Zhang 2019, section 3.3, for a whole ``order``."""
    total = 0.0
    for multiplier, rate, count in releases:
        terms = [
            math.lgamma(order + 1)
            - math.lgamma(k + 1)
            - math.lgamma(order - k + 1)
            + (k * math.log(rate) + (order - k) * math.log1p(-rate) if rate < 1 else 0.0)
            + k * (k - 1) / (2 * multiplier**2)
            for k in (range(order + 1) if rate < 1 else [order])
        ]
        total += count * float(np.logaddexp.reduce(terms)) / (order - 1)
    return total


def epsilon(releases: Releases, delta: float) -> float:
    """Converted as Canonne, Kamath, Steinke 2020."""
    return _least(releases, lambda order: math.log1p(-1 / order) - math.log(delta * order) / (order - 1))


def classical_epsilon(releases: Releases, delta: float) -> float:
    """Converted as Mironov 2017, Proposition 3: what was published before 2020."""
    return _least(releases, lambda order: -math.log(delta) / (order - 1))


def _least(releases: Releases, conversion: Callable[[int], float]) -> float:
    return min(divergence(releases, order) + conversion(order) for order in range(2, 200))
