"""Graph families: who may average with whom, as an undirected ``nx.Graph`` over the names of nodes.

A family is a function of the nodes, a beacon and its parameters. Positions in the graph are drawn from the
beacon (of the nodes in sorted order), so nobody chooses their neighbours by choosing a name, and every node
computes the same graph alone. Every family exists for every number of nodes: where its usual form does not,
the docstring says what stands in.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Final, Protocol

import networkx as nx  # type: ignore[import-untyped]  # ships no type information

from p2pfl.topologies.draws import Draws
from p2pfl.topologies.lattices import hypercube, torus
from p2pfl.topologies.placing import LABEL, circulant, graph_of, placed

DEFAULT_DEGREE: Final = 6
"""Even, so that a regular graph exists for every number of nodes; closed neighbourhoods of 7 hold a group of
4…7.
"""
_LABEL: Final = LABEL


class Family(Protocol):
    """``family(nodes, beacon)``: the graph; more parameters by keyword. Raises ValueError for impossible
    ones.
    """

    def __call__(self, nodes: Sequence[str], beacon: bytes) -> nx.Graph: ...


def complete(nodes: Sequence[str], beacon: bytes) -> nx.Graph:
    """Everybody may average with everybody."""
    order = placed(nodes, beacon)
    return graph_of(order, list(combinations(range(len(order)), 2)))


def ring(nodes: Sequence[str], beacon: bytes) -> nx.Graph:
    """A cycle; fewer than three nodes: a path."""
    order = placed(nodes, beacon)
    return graph_of(order, circulant(len(order), [1]))


def exponential(nodes: Sequence[str], beacon: bytes) -> nx.Graph:
    """Neighbours at distance 1, 2, 4, 8, … on a cycle, either way: degree about 2·log2(n), diameter about
    log2(n) / 2.

    The static exponential graph of Ying et al., "Exponential Graph is Provably Efficient for Decentralized
    Deep Training" (NeurIPS 2021), is directed; groups sit in neighbourhoods that go both ways, so its edges
    are here undirected.
    """
    order = placed(nodes, beacon)
    hops = [1 << power for power in range(len(order).bit_length()) if 1 << power < len(order)]
    return graph_of(order, circulant(len(order), hops))


def random_regular(nodes: Sequence[str], beacon: bytes, *, degree: int = DEFAULT_DEGREE) -> nx.Graph:
    """A random connected graph in which everybody has ``degree`` neighbours; complete if there are not more
    than that.

    Drawn by the algorithm of Steger and Wormald, "Generating random regular graphs quickly" (1999), nearly
    uniform for degrees far below the number of nodes; disconnected draws are repeated. Raises ValueError if
    no such graph exists (an odd degree over an odd number of nodes) or if it could not be connected (degree
    below 2).
    """
    if degree >= len(nodes) - 1:
        return complete(nodes, beacon)
    if degree < 2:
        raise ValueError(f"degree {degree} cannot connect {len(nodes)} nodes, it must be at least 2")
    if degree * len(nodes) % 2:
        raise ValueError(f"no graph over {len(nodes)} nodes, an odd number, has the odd degree {degree}")
    order = placed(nodes, beacon)
    draws = Draws(_LABEL, beacon, tweak=1)
    while True:
        edges = _pairing(len(order), degree, draws)
        if edges is not None:
            graph = graph_of(order, edges)
            if nx.is_connected(graph):
                return graph


FAMILIES: Final[Mapping[str, Family]] = {
    "complete": complete,
    "exponential": exponential,
    "hypercube": hypercube,
    "random_regular": random_regular,
    "ring": ring,
    "torus": torus,
}
"""By the name that a manifest gives."""


def _pairing(count: int, degree: int, draws: Draws) -> list[tuple[int, int]] | None:
    """Pair up ``degree`` stubs of each node at random, without loops and double edges; None where that gets
    stuck.
    """
    edges: set[tuple[int, int]] = set()
    stubs = [node for node in range(count) for _ in range(degree)]
    while stubs:
        drawn = draws.permutation(stubs)
        stubs = []
        for one, other in zip(drawn[::2], drawn[1::2], strict=True):
            edge = (min(one, other), max(one, other))
            if one == other or edge in edges:
                stubs += edge
            else:
                edges.add(edge)
        if stubs and not _joinable(stubs, edges):
            return None
    return sorted(edges)


def _joinable(stubs: Sequence[int], edges: set[tuple[int, int]]) -> bool:
    """Whether two nodes with stubs left are not neighbours yet."""
    left = sorted(set(stubs))
    return any(edge not in edges for edge in combinations(left, 2))
