"""Where nodes sit: positions drawn from the beacon, and graphs made of positions. Integers only."""

from collections.abc import Sequence
from typing import Final

import networkx as nx  # type: ignore[import-untyped]  # ships no type information

from p2pfl.topologies.draws import Draws

LABEL: Final = b"p2pfl/topology/v1"


def placed(nodes: Sequence[str], beacon: bytes) -> list[str]:
    """The nodes in the order of their positions. Raises ValueError if one is named twice."""
    if len(set(nodes)) != len(nodes):
        raise ValueError("a node is named twice")
    return Draws(LABEL, beacon).permutation(sorted(nodes))


def graph_of(order: Sequence[str], edges: Sequence[tuple[int, int]]) -> nx.Graph:
    """The graph over ``order`` whose ``edges`` are pairs of positions."""
    graph: nx.Graph = nx.Graph()
    graph.add_nodes_from(order)
    graph.add_edges_from((order[one], order[other]) for one, other in edges)
    return graph


def circulant(count: int, hops: Sequence[int]) -> list[tuple[int, int]]:
    """Every position joined to those ``hops`` further on a cycle of ``count``."""
    return [(at, (at + hop) % count) for hop in hops if hop < count for at in range(count)]
