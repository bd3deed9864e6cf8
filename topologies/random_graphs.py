"""Random graphs for simulations, drawn by networkx from the beacon, and again until they are connected."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import log
from typing import Final

import networkx as nx  # type: ignore[import-untyped]  # ships no type information
import numpy as np

from p2pfl.topologies import chance
from p2pfl.topologies.errors import TopologyError
from p2pfl.topologies.placing import placed

_TRIES: Final = 200


def erdos_renyi(nodes: Sequence[str], beacon: bytes, *, probability: float | None = None) -> nx.Graph:
    """Every pair is joined with the same probability; 2·ln(n) / n if none is given: degree about 2·ln(n).

    Raises TopologyError if the probability is so low that 200 draws are not connected.
    """
    count = len(nodes)
    chosen = min(1.0, 2 * log(count) / count) if probability is None else probability
    if not 0 <= chosen <= 1:
        raise TopologyError(f"probability {chosen} is not in 0 to 1")
    return _connected(
        nodes,
        beacon,
        lambda draws: nx.fast_gnp_random_graph(count, chosen, seed=draws),
        f"probability {chosen:g}",
    )


def watts_strogatz(nodes: Sequence[str], beacon: bytes, *, degree: int = 4, rewire: float = 0.2) -> nx.Graph:
    """A small world: the ``degree`` nearest on a cycle, each edge moved to a random end with probability
    ``rewire``: degree ``degree`` on average.

    Complete where there are not more nodes than that. Raises TopologyError for an odd degree.
    """
    if degree % 2 or degree < 2:
        raise TopologyError(f"degree {degree}: it must be even, half of the neighbours on either side")
    if not 0 <= rewire <= 1:
        raise TopologyError(f"rewire {rewire} is not in 0 to 1")
    if degree >= len(nodes) - 1:
        return _connected(nodes, beacon, lambda _: nx.complete_graph(len(nodes)), "")
    return _connected(
        nodes,
        beacon,
        lambda draws: nx.watts_strogatz_graph(len(nodes), degree, rewire, seed=draws),
        f"degree {degree}",
    )


def barabasi_albert(nodes: Sequence[str], beacon: bytes, *, links: int = 3) -> nx.Graph:
    """Nodes come one by one and link to ``links`` others, rather to those that have many links already.

    Complete where there are not more nodes than links. Raises TopologyError for less than one link.
    """
    if links < 1:
        raise TopologyError(f"{links} links: there must be at least one")
    if links >= len(nodes):
        return _connected(nodes, beacon, lambda _: nx.complete_graph(len(nodes)), "")
    return _connected(
        nodes, beacon, lambda draws: nx.barabasi_albert_graph(len(nodes), links, seed=draws), f"{links} links"
    )


def clustered(
    nodes: Sequence[str],
    beacon: bytes,
    *,
    region: Mapping[str, str] | None = None,
    regions: int = 4,
    degree: int = 6,
    bridges: int = 1,
) -> nx.Graph:
    """Dense inside regions, sparse between: each two regions share ``bridges`` edges of random ends.

    Inside, a random graph of ``degree``, one less where both that and the region are odd; complete where the
    region is not larger.

    ``region``: of every node, by its attribute where nodes have one; else ``regions`` equal parts are drawn.
    Nodes carry their region. Raises TopologyError if a node has none.
    """
    order = placed(nodes, beacon)
    if region is None:
        region = {
            node: f"region {at * min(regions, len(order)) // len(order)}" for at, node in enumerate(order)
        }
    missing = [node for node in order if node not in region]
    if missing:
        raise TopologyError(f"{missing[0]} has no region")
    parts: dict[str, list[str]] = {}
    for node in order:
        parts.setdefault(region[node], []).append(node)
    graph: nx.Graph = nx.Graph()
    graph.add_nodes_from((node, {"region": region[node]}) for node in order)
    draws = chance.generator(beacon)
    for name in sorted(parts):
        graph.add_edges_from(_inside(parts[name], degree, draws))
    for one, other in combinations(sorted(parts), 2):
        most = len(parts[one]) * len(parts[other])
        for place in draws.choice(most, min(bridges, most), replace=False).tolist():
            graph.add_edge(parts[one][place % len(parts[one])], parts[other][place // len(parts[one])])
    if not nx.is_connected(graph):
        raise TopologyError(f"{bridges} bridges leave the regions unconnected")
    return graph


def _inside(part: Sequence[str], degree: int, draws: np.random.Generator) -> list[tuple[str, str]]:
    if degree >= len(part) - 1:
        return list(combinations(part, 2))
    even = degree - degree * len(part) % 2
    if even < 2:
        raise TopologyError(f"degree {degree} cannot connect a region of {len(part)} nodes")
    drawn = _until_connected(lambda: nx.random_regular_graph(even, len(part), seed=draws), f"degree {degree}")
    return [(part[one], part[other]) for one, other in drawn.edges]


def _connected(
    nodes: Sequence[str], beacon: bytes, draw: Callable[[np.random.Generator], nx.Graph], what: str
) -> nx.Graph:
    order, draws = placed(nodes, beacon), chance.generator(beacon)
    drawn = _until_connected(lambda: draw(draws), what)
    graph: nx.Graph = nx.Graph()
    graph.add_nodes_from(order)
    graph.add_edges_from((order[one], order[other]) for one, other in drawn.edges)
    return graph


def _until_connected(draw: Callable[[], nx.Graph], what: str) -> nx.Graph:
    for _ in range(_TRIES):
        drawn = draw()
        if nx.is_connected(drawn):
            return drawn
    raise TopologyError(f"{what} is too little: {_TRIES} draws were not connected")
