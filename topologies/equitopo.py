"""EquiTopo of Song et al., "Communication-Efficient Topologies for Decentralized Learning with O(1) Consensus
Rate" (NeurIPS 2022): messages go to random distances on a cycle.

A(u): everybody gets (n − 1)/n of who is u places behind it and keeps 1/n. Over all u in 1…n − 1 their mean is
exactly 11ᵀ/n, so the mean of a few is near it, whatever n is.
"""

from collections.abc import Callable, Sequence
from math import ceil, log

import numpy as np

from p2pfl.topologies import chance
from p2pfl.topologies.errors import TopologyError
from p2pfl.topologies.exponential import ahead
from p2pfl.topologies.placing import placed
from p2pfl.topologies.sparse import Weights


def equistatic(
    nodes: Sequence[str], beacon: bytes, *, samples: int | None = None, directed: bool = False
) -> Weights:
    """W = mean of A(u) over ``samples`` random distances u (and their transposes unless ``directed``): degree
    up to ``samples``, or twice that.

    ``samples``: 2·⌈ln n⌉ if directed, half of that if not, so that degrees are alike. With samples in
    proportion to ln n, |λ₂| is below a bound that does not depend on n, with high probability.
    """
    count = len(nodes)
    if count < 2:
        return ahead(nodes, beacon, [], [])
    chosen = samples or ceil(log(count)) * (2 if directed else 1)
    if chosen < 1:
        raise TopologyError(f"{samples} samples: there must be at least one")
    hops = chance.generator(beacon).integers(1, count, chosen).tolist()
    if not directed:
        hops += [-hop for hop in hops]
    return ahead(nodes, beacon, hops, [(1 - 1 / count) / len(hops)] * len(hops))


def equidyn(
    nodes: Sequence[str], beacon: bytes, *, eta: float = 0.5, directed: bool = False
) -> Callable[[int], Weights]:
    """A new distance u every round, W = (1 − η) I + η A(u): degree 1.

    Undirected: beginning at a random place, who is not matched yet is matched with the one u places ahead, if
    that one is free too; a pair exchanges η (n − 1)/n. Pairs give a secure sum no privacy: for simulation
    only.
    """
    if not 0 < eta < 1:
        raise TopologyError(f"eta {eta} is not between 0 and 1")
    count = len(nodes)
    share = eta * (1 - 1 / count)
    position = {node: index for index, node in enumerate(nodes)}
    order = np.array([position[node] for node in placed(nodes, beacon)], np.int64)

    def step(round: int) -> Weights:
        draws = chance.generator(beacon, round)
        if count < 2:
            return ahead(nodes, beacon, [], [])
        hop, start = int(draws.integers(1, count)), int(draws.integers(count))
        if directed:
            return ahead(nodes, beacon, [hop], [share])
        pairs = order[np.array(_matched(count, hop, start), np.int64)].T
        return Weights.of_edges(count, pairs.ravel(), pairs[::-1].ravel(), np.full(pairs.size, share))

    return step


def equidyn_contraction(count: int, *, eta: float = 0.5, directed: bool = False) -> float | None:
    """(1 − η)² + η² (n − 2)/n for the directed one, from E[A(u)] = 11ᵀ/n; no formula for the other."""
    if not directed or count < 2:
        return None
    return (1 - eta) ** 2 + eta**2 * (count - 2) / count


def _matched(count: int, hop: int, start: int) -> list[tuple[int, int]]:
    free = [True] * count
    pairs = []
    for turn in range(count):
        one = (start + turn) % count
        other = (one + hop) % count
        if free[one] and free[other]:
            free[one] = free[other] = False
            pairs.append((one, other))
    return pairs
