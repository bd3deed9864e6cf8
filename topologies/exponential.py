"""Exponential graphs of Ying et al., "Exponential Graph is Provably Efficient for Decentralized Deep
Training" (NeurIPS 2021): messages go 1, 2, 4, … places ahead on a cycle, and never back.
"""

from collections.abc import Sequence

import numpy as np

from p2pfl.topologies.placing import placed
from p2pfl.topologies.sparse import Weights


def directed_exponential(nodes: Sequence[str], beacon: bytes) -> Weights:
    """Each sends to those 1, 2, 4, … places ahead and takes the mean of what it has: degree ⌈log2 n⌉.

    Doubly stochastic, not symmetric.
    """
    hops = _hops(len(nodes))
    return ahead(nodes, beacon, hops, [1 / (len(hops) + 1)] * len(hops))


def one_peer_exponential(nodes: Sequence[str], beacon: bytes) -> list[Weights]:
    """In round t each sends to the one 2^(t mod ⌈log2 n⌉) places ahead and takes the mean of two: degree 1.

    Where n is a power of two, all agree exactly after log2(n) rounds. Pairs give a secure sum no privacy: a
    member subtracts its own part. For simulation only.
    """
    return [ahead(nodes, beacon, [hop], [0.5]) for hop in _hops(len(nodes))] or [ahead(nodes, beacon, [], [])]


def ahead(nodes: Sequence[str], beacon: bytes, hops: Sequence[int], values: Sequence[float]) -> Weights:
    """Everybody gets the value ``values[h]`` of who is ``hops[h]`` places behind it, and keeps the rest.

    Rows in the order of ``nodes``, places drawn from the beacon.
    """
    position = {node: index for index, node in enumerate(nodes)}
    order = np.array([position[node] for node in placed(nodes, beacon)], np.int64)
    senders = np.concatenate([order, *([order] * len(hops))])
    receivers = np.concatenate([order, *(np.roll(order, -hop) for hop in hops)])
    itself = 1 - sum(values)
    weights = np.repeat([itself, *values], len(order))
    return Weights.of_entries(len(order), receivers, senders, weights)


def _hops(count: int) -> list[int]:
    return [1 << power for power in range(count.bit_length()) if 1 << power < count]
