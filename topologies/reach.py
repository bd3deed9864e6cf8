"""Who reaches whom: the longest way through a graph, and the nodes whose failure separates others."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import networkx as nx  # type: ignore[import-untyped]  # ships no type information

_ALL_PAIRS: Final = 1500
_Near = Callable[[str], Iterable[str]]


@dataclass(frozen=True, slots=True)
class CutVertex:
    """A node without which ``isolated`` (everybody but the largest part that is left) reach no-one else."""

    node: str
    isolated: tuple[str, ...]


def diameter(graph: nx.Graph) -> int | None:
    """The longest of all shortest ways; None if somebody cannot be reached.

    Above 1500 nodes the longest that two sweeps find, a lower bound, exact for lattices and trees.
    """
    if _is_dense(graph):
        return 1 if _least_degree(graph) == len(graph) - 1 else 2
    ways: list[_Near] = [graph.neighbors, graph.predecessors] if graph.is_directed() else [graph.neighbors]
    start = next(iter(graph))
    sweeps = [list(_sweep(start, way)) for way in ways]
    if any(len(sweep) < len(graph) for sweep in sweeps):
        return None
    if len(graph) <= _ALL_PAIRS:
        return int(nx.diameter(graph, usebounds=not graph.is_directed()))
    ends = [sweep[-1][0] for sweep in sweeps]
    return max(list(_sweep(end, way))[-1][1] for end, way in zip(ends, reversed(ways), strict=True))


def cut_vertices(graph: nx.Graph) -> tuple[CutVertex, ...]:
    """The nodes whose failure separates others, worst first; directions are not looked at."""
    if _is_dense(graph):
        return ()
    near = {node: list(graph.neighbors(node)) for node in graph}
    if graph.is_directed():
        near = {node: [*others, *graph.predecessors(node)] for node, others in near.items()}
    found = [cut for component, behind in _searched(near) for cut in _cuts(component, behind)]
    return tuple(sorted(found, key=lambda cut: (-len(cut.isolated), cut.node)))


def _sweep(start: str, near: _Near) -> Iterator[tuple[str, int]]:
    """Everybody who is reached from ``start``, nearest first, and how far away."""
    met, layer, distance = {start}, [start], 0
    while layer:
        yield from ((node, distance) for node in layer)
        reached = dict.fromkeys(other for node in layer for other in near(node))
        layer = [node for node in reached if node not in met]
        met.update(layer)
        distance += 1


_Behind = Mapping[str, Sequence[slice]]


def _searched(near: Mapping[str, Sequence[str]]) -> Iterator[tuple[Sequence[str], _Behind]]:
    """Every component in the order of a depth-first search, and the slices of it that reach the others only
    through a node: the subtrees without an edge to above it (Hopcroft and Tarjan, 1973).
    """
    place: dict[str, int] = {}
    for root in near:
        if root in place:
            continue
        place[root], first = 0, [0]  # first: the smallest place that a node's subtree has an edge to
        order = [root]
        behind: dict[str, list[slice]] = {}
        path = [(root, iter(near[root]))]
        while path:
            node, others = path[-1]
            other = next(others, None)
            if other is None:
                path.pop()
                if path:
                    above = path[-1][0]
                    if first[place[node]] >= place[above]:
                        behind.setdefault(above, []).append(slice(place[node], len(order)))
                    first[place[above]] = min(first[place[above]], first[place[node]])
            elif other in place:
                first[place[node]] = min(first[place[node]], place[other])
            else:
                place[other] = len(order)
                first.append(place[other])
                order.append(other)
                path.append((other, iter(near[other])))
        yield order, behind


def _cuts(component: Sequence[str], behind: _Behind) -> Iterator[CutVertex]:
    for node, slices in behind.items():
        parts = [component[each] for each in slices]
        if node != component[0]:
            kept = {node}.union(*parts)
            parts.append([other for other in component if other not in kept])
        if len(parts) > 1:
            parts.sort(key=lambda part: (-len(part), min(part)))
            yield CutVertex(str(node), tuple(sorted(other for part in parts[1:] for other in part)))


def _is_dense(graph: nx.Graph) -> bool:
    """Whether everybody reaches half of all at once. Two nodes that are no neighbours then have one in
    common, and a cycle goes through all (Dirac, 1952): the diameter is at most 2, and no node cuts off
    another.
    """
    return not graph.is_directed() and len(graph) > 2 and 2 * _least_degree(graph) >= len(graph)


def _least_degree(graph: nx.Graph) -> int:
    return min(len(near) - (node in near) for node, near in graph.adjacency())
