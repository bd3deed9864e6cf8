"""The schedule: disjoint groups for every round, as a pure function of public things that all nodes share.

Three kinds, of which real federations draw the first two:

``random``
    On the complete graph, a uniformly random partition into floor(n / k) groups, as equal as can be, so of
    k…2k − 1 members; n < 2k nodes form one group. Everybody has a group in every round. A round shrinks the
    expected consensus distance by about (n − k) / (k (n − 1)) (Ryabinin et al., "Moshpit SGD", NeurIPS 2021;
    exact if k divides n).

    On any other graph, greedily in drawn order: a node that has no group yet gathers k of the nodes in its
    closed neighbourhood that have none either; when no such node is left, those who can gather at least
    ``minimum`` do; who is still left joins the smallest group whose centre is its neighbour, if it has fewer
    than 2k − 1 members. The rest sit the round out: a few at most on dense graphs, many where closed
    neighbourhoods are hardly larger than the minimum.

``grid``
    For n = k1·k2·…·km, every factor at least four and in k…2k − 1, on the complete graph: nodes have
    coordinates in an m-dimensional grid, drawn from the beacon, and round r averages along axis r mod m. Any
    m consecutive rounds average all nodes exactly.

``clustered``
    Inside regions, the attribute ``region`` of every node: ``random`` on each region by itself, regions that
    are smaller than ``minimum`` together; in every :data:`ACROSS`-th round ``random`` on the whole graph. So
    three rounds of four stay on the short links. For simulation: a manifest knows no regions.

What always holds: groups are disjoint; each lies inside one closed neighbourhood of the graph (the centre is
a member); each has ``minimum`` to 2k − 1 members; and the outcome depends on the arguments only, never on the
order of nodes in the graph, the platform or the version of Python. Within a group members are in **drawn
order**, which says who convenes.
"""

from collections.abc import Collection
from itertools import pairwise
from typing import Final

import networkx as nx  # type: ignore[import-untyped]  # ships no type information

from p2pfl.topologies.draws import Draws

LABEL: Final = b"p2pfl/schedule/v1"
SMALLEST_FACTOR: Final = 4
"""A line of a grid is a group, and groups below four hide too little."""
ACROSS: Final = 4
"""Of so many rounds of ``clustered`` the last one is across regions."""

Groups = tuple[tuple[str, ...], ...]


class ScheduleError(ValueError):
    """This schedule cannot be made over these nodes; the message says why."""


def groups(
    graph: nx.Graph | Collection[str],
    size: int,
    minimum: int,
    beacon: bytes,
    round: int,
    kind: str = "random",
) -> Groups:
    """The groups of ``round`` (0 ≤ round < 2^64) over the nodes of ``graph``, each in drawn order.
    Names alone, without a graph, stand for the complete one, which need not be made.

    ``size`` is k, the size aimed at; ``minimum``, at most k, the least of any group. No groups at all if
    there are fewer nodes than that. Raises ScheduleError if ``kind`` is a grid that these nodes do not fill,
    or clustered and a node has no region.
    """
    if not 1 <= minimum <= size:
        raise ValueError(f"a minimum of {minimum} does not fit groups of {size}")
    if kind == "grid":
        return _lines(graph, size, minimum, beacon, round)
    if kind not in ("random", "clustered"):
        raise ValueError(f"unknown schedule {kind!r}")
    drawn = Draws(LABEL, beacon, round).permutation(sorted(graph))
    if kind == "clustered" and round % ACROSS != ACROSS - 1:
        parts = _regions(graph, minimum)
        return tuple(group for part in parts for group in _cut(part, drawn, size, minimum))
    return _cut(graph, drawn, size, minimum)


def grid_shape(count: int, size: int, minimum: int = 1) -> tuple[int, ...]:
    """The factors k1 ≤ k2 ≤ … of ``count`` that a grid is made of: as few as possible, as equal as possible.

    Raises ScheduleError if there are none between max(``size``, four) and 2·``size`` − 1; a single factor,
    one group of everybody, may be as small as ``minimum``.
    """
    if max(minimum, SMALLEST_FACTOR) <= count < 2 * size:
        return (count,)
    low, high = max(size, SMALLEST_FACTOR), 2 * size - 1
    shapes = _factorisations(count, low, high)
    if not shapes:
        raise ScheduleError(
            f"{count} nodes fill no grid: {count} is no product of numbers from {low} to {high}"
        )
    return min(shapes, key=lambda shape: (len(shape), shape[-1] - shape[0], shape))


def _cut(graph: nx.Graph | Collection[str], order: list[str], size: int, minimum: int) -> Groups:
    """Groups of the nodes of ``graph``, which come in ``order`` (others may be in it)."""
    if _is_complete(graph):
        return _partition(
            order if len(order) == len(graph) else [n for n in order if n in graph], size, minimum
        )
    return _greedy(graph, [node for node in order if node in graph], size, minimum)


def _regions(graph: nx.Graph | Collection[str], minimum: int) -> list[nx.Graph]:
    """The graph of each region, by its name; those of regions too small for a group come together, last."""
    if not isinstance(graph, nx.Graph):
        raise ScheduleError("clustered groups need a graph whose nodes have regions, not names alone")
    found: dict[str, set[str]] = {}
    for node, region in graph.nodes(data="region"):
        if region is None:
            raise ScheduleError(f"clustered groups need to know regions: {node} has none")
        found.setdefault(str(region), set()).add(node)
    large = [found[name] for name in sorted(found) if len(found[name]) >= minimum]
    small: set[str] = set().union(*(part for part in found.values() if len(part) < minimum))
    return [graph.subgraph(part) for part in (*large, small) if part]


def _is_complete(graph: nx.Graph | Collection[str]) -> bool:
    return not isinstance(graph, nx.Graph) or all(degree == len(graph) - 1 for _, degree in graph.degree)


def _partition(drawn: list[str], size: int, minimum: int) -> Groups:
    if len(drawn) < minimum:
        return ()
    count = max(1, len(drawn) // size)
    base, larger = divmod(len(drawn), count)
    ends = [number * base + min(number, larger) for number in range(count + 1)]
    return tuple(tuple(drawn[start:end]) for start, end in pairwise(ends))


def _greedy(graph: nx.Graph, drawn: list[str], size: int, minimum: int) -> Groups:
    place = {node: index for index, node in enumerate(drawn)}
    closed = {node: sorted([node, *graph[node]], key=place.__getitem__) for node in drawn}
    free = set(drawn)
    gathered: dict[str, list[str]] = {}
    for least in (size, minimum):
        for centre in drawn:
            near = [node for node in closed[centre] if node in free]
            if centre in free and len(near) >= least:
                gathered[centre] = [centre, *[node for node in near if node != centre][: size - 1]]
                free.difference_update(gathered[centre])
    for node in drawn:
        if node in free:
            open_to = [c for c in closed[node] if c in gathered and len(gathered[c]) < 2 * size - 1]
            if open_to:
                gathered[min(open_to, key=lambda c: len(gathered[c]))].append(node)
    return tuple(tuple(sorted(members, key=place.__getitem__)) for members in gathered.values())


def _lines(graph: nx.Graph | Collection[str], size: int, minimum: int, beacon: bytes, round: int) -> Groups:
    if not _is_complete(graph):
        raise ScheduleError(
            "a grid needs the complete topology: its lines are no neighbourhoods of another graph"
        )
    shape = grid_shape(len(graph), size, minimum)
    axis = round % len(shape)
    placed = Draws(LABEL + b"/grid", beacon).permutation(sorted(graph))
    stride = 1
    for factor in shape[:axis]:
        stride *= factor
    lines: dict[int, list[str]] = {}
    for position, node in enumerate(placed):
        along = position // stride % shape[axis]
        lines.setdefault(position - along * stride, []).append(node)
    order = Draws(LABEL, beacon, round)
    return tuple(tuple(order.permutation(line)) for line in lines.values())


def _factorisations(count: int, low: int, high: int) -> list[tuple[int, ...]]:
    """All ways to write ``count`` as a product of numbers in [low, high], each in ascending order."""
    whole = [(count,)] if low <= count <= high else []
    split = [
        (factor, *rest)
        for factor in range(low, high + 1)
        if count % factor == 0
        for rest in _factorisations(count // factor, factor, high)
    ]
    return whole + split
