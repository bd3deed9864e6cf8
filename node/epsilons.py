"""Epsilon of Gaussian releases: the one module that imports dp-accounting, which brings SciPy along, most of
a second and 70 MB. Whoever wants a number asks :mod:`p2pfl.node.accountant`.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import dp_accounting  # type: ignore[import-untyped]
import numpy as np
from dp_accounting.pld import PLDAccountant  # type: ignore[import-untyped]
from dp_accounting.rdp import RdpAccountant  # type: ignore[import-untyped]
from dp_accounting.rdp.rdp_privacy_accountant import compute_epsilon  # type: ignore[import-untyped]
from numpy.typing import NDArray

Releases = tuple[tuple[float, float, int], ...]
"""Noise multiplier, sampling rate and count of each kind of release."""


def pld(releases: Releases, delta: float, interval: float) -> float:
    """Epsilon of ``releases``, one or more, at ``delta`` by their privacy loss, on a grid of ``interval``."""
    with _quiet():
        accountant = PLDAccountant(value_discretization_interval=interval)
        composed = dp_accounting.ComposedDpEvent([_event(*release) for release in releases])
        return float(accountant.compose(composed).get_epsilon(delta))


def rdp(releases: Releases, delta: float) -> float:
    """Epsilon of ``releases``, one or more, at ``delta`` by Rényi divergences."""
    orders, _ = _rdp_of(*releases[0][:2])
    divergences = sum(count * _rdp_of(multiplier, rate)[1] for multiplier, rate, count in releases)
    return float(compute_epsilon(orders, divergences, delta)[0])


@lru_cache(maxsize=256)
def _rdp_of(multiplier: float, rate: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rényi orders, and the divergence of one release at each: they add up, and take long to compute."""
    with _quiet():
        accountant = RdpAccountant().compose(_event(multiplier, rate, 1))
    return np.asarray(accountant.orders), np.asarray(accountant.rdp)


def _event(multiplier: float, rate: float, count: int) -> dp_accounting.DpEvent:
    noise = dp_accounting.GaussianDpEvent(multiplier)
    once = noise if rate == 1 else dp_accounting.PoissonSampledDpEvent(rate, noise)
    return dp_accounting.SelfComposedDpEvent(once, count)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep dp-accounting from warning, through absl, about every fractional order that it skips."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
