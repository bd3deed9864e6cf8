"""Epidemic learning: random receivers, new every round (de Vos et al., "Epidemic Learning: Boosting
Decentralized Learning with Randomized Communication", NeurIPS 2023).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from p2pfl.topologies import chance
from p2pfl.topologies.consensus import epidemic_contraction
from p2pfl.topologies.errors import TopologyError
from p2pfl.topologies.sparse import Floats, Ints, Weights


def epidemic(
    nodes: Sequence[str], beacon: bytes, *, sent: int = 4, push: bool = False
) -> Callable[[int], Weights]:
    """EL-Local: each round everybody sends to ``sent`` others at random and takes the mean of what it has:
    degree ``sent``.

    Rows add up to 1, columns only on average, so the mean drifts; with ``push`` columns do, for push-sum,
    which keeps it. The graph that is new and random regular every round is EL-Oracle.
    """
    if sent < 1:
        raise TopologyError(f"{sent} sent: there must be at least one")
    count, least = len(nodes), min(sent, len(nodes) - 1)

    def step(round: int) -> Weights:
        senders = np.repeat(np.arange(count), least)
        receivers = _others(count, least, chance.generator(beacon, round)).ravel()
        if push:
            shares = np.full(len(senders), 1 / (least + 1))
            return Weights.of_edges(count, senders, receivers, shares).transposed
        heard = np.bincount(receivers, minlength=count)
        return Weights.of_edges(count, receivers, senders, 1 / (1 + heard[receivers]))

    return step


def contraction(count: int, *, sent: int = 4, push: bool = False, **_: Any) -> float | None:
    """:func:`~p2pfl.topologies.consensus.epidemic_contraction`; no formula for push-sum."""
    return None if push else epidemic_contraction(count, sent)


def _others(count: int, least: int, draws: np.random.Generator) -> Ints:
    """``least`` different others for each of ``count`` nodes, uniformly, shape (count, least)."""
    if least * 3 > count:
        keys: Floats = draws.random((count, count))
        np.fill_diagonal(keys, 2)
        return np.argsort(keys, axis=1)[:, :least].astype(np.int64)
    chosen = draws.integers(1, count, (count, least))
    while True:
        ordered = np.sort(chosen, axis=1)
        twice = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
        if not twice.size:
            return (chosen + np.arange(count)[:, None]) % count
        chosen[twice] = draws.integers(1, count, (len(twice), least))
