"""Graphs with coordinates: torus, hypercube and, as the baseline with a centre, the star. Integers only."""

from collections.abc import Sequence
from math import isqrt

import networkx as nx  # type: ignore[import-untyped]  # ships no type information

from p2pfl.topologies.placing import circulant, graph_of, placed


def torus(nodes: Sequence[str], beacon: bytes) -> nx.Graph:
    """A grid whose opposite sides meet, as square as it can be: degree 4.

    Where no grid of at least three rows and at most twice as many columns holds exactly these nodes, a
    twisted torus stands in: neighbours at distance 1 and floor(√n) on a cycle, either way.
    """
    order = placed(nodes, beacon)
    shape = torus_shape(len(order))
    if shape is None:
        return graph_of(order, [*circulant(len(order), [1]), *circulant(len(order), [isqrt(len(order))])])
    columns = shape[1]
    right = [(at, at - at % columns + (at + 1) % columns) for at in range(len(order))]
    down = [(at, (at + columns) % len(order)) for at in range(len(order))]
    return graph_of(order, right + down)


def torus_shape(count: int) -> tuple[int, int] | None:
    """Rows and columns of the grid that ``count`` nodes fill, rows ≤ columns ≤ 2·rows; None: no grid does."""
    rows = max((rows for rows in range(1, isqrt(count) + 1) if count % rows == 0), default=1)
    return (rows, count // rows) if rows > 2 and count // rows <= 2 * rows else None


def hypercube(nodes: Sequence[str], beacon: bytes) -> nx.Graph:
    """Neighbours are the positions that differ in one binary digit: degree and diameter log2(n).

    Where n is no power of two, the incomplete hypercube stands in: the edges among the first n positions
    (Katseff, "Incomplete hypercubes", 1988). It is connected, with degrees that differ.
    """
    order = placed(nodes, beacon)
    digits = [1 << digit for digit in range(len(order).bit_length())]
    return graph_of(
        order,
        [(at, at ^ digit) for at in range(len(order)) for digit in digits if at < at ^ digit < len(order)],
    )


def star(nodes: Sequence[str], beacon: bytes) -> nx.Graph:
    """One node in the middle, joined to all others, who are joined to nobody else: as with a server."""
    order = placed(nodes, beacon)
    return graph_of(order, [(0, leaf) for leaf in range(1, len(order))])
