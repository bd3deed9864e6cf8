"""Base-(k+1) graphs: any number of nodes agree exactly after few rounds of at most k neighbours each.

Takezawa, Sato, Bao, Niwa and Yamada, "Beyond Exponential Graph: Communication-Efficient Topologies for
Decentralized Learning via Finite-time Convergence" (NeurIPS 2023). Written from the paper's three algorithms:

* the k-peer hyper-hypercube: where n is a product of numbers up to k + 1, one round for each factor, in which
  cliques of that size average;
* the simple Base-(k+1) graph: write n = Σ aₗ (k+1)^pₗ; each part averages by a hyper-hypercube, then part j
  hands its share to all smaller parts at once, and evens out inside;
* the Base-(k+1) graph: split off the factors up to k + 1, take the simple one for what is left and a
  hyper-hypercube across; or the simple one for all, if that is shorter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from p2pfl.topologies.errors import TopologyError
from p2pfl.topologies.placing import placed
from p2pfl.topologies.sparse import Weights

_Edges = list[tuple[int, int, float]]
"""Pairs of places and the weight that each gives to the other."""


def base(nodes: Sequence[str], beacon: bytes, *, peers: int = 1) -> list[Weights]:
    """The Base-(k+1) graph for k = ``peers``: all agree exactly after at most 2·log(n)/log(k + 1) + 2 rounds.

    Symmetric and doubly stochastic. Some rounds hold pairs and stars, which give a secure sum no privacy: for
    simulation only; where n = k1·k2·… with every factor at least four, the schedule ``grid`` does the same
    with groups.
    """
    if peers < 1:
        raise TopologyError(f"{peers} peers: there must be at least one")
    position = {node: index for index, node in enumerate(nodes)}
    order = np.array([position[node] for node in placed(nodes, beacon)], np.int64)
    return [_weights(order, edges) for edges in rounds(len(order), peers)]


def hyper_hypercube(nodes: Sequence[str], beacon: bytes, *, peers: int = 1) -> list[Weights]:
    """The k-peer hyper-hypercube for k = ``peers``: all agree exactly after one round for each factor of n.

    With one peer and n = 2^m the one-peer hypercube. Raises TopologyError if n has a prime factor above k +
    1. Pairs give a secure sum no privacy.
    """
    if _smooth_part(len(nodes), peers + 1) != len(nodes):
        raise TopologyError(f"{len(nodes)} has a prime factor above {peers + 1}; take base, or more peers")
    position = {node: index for index, node in enumerate(nodes)}
    order = np.array([position[node] for node in placed(nodes, beacon)], np.int64)
    found = _cliques(list(range(len(order))), peers + 1)
    return [_weights(order, edges) for edges in found or [[]]]


def rounds(count: int, peers: int) -> list[_Edges]:
    """The edges of every round of the Base-(k+1) graph over the places 0 to ``count`` − 1."""
    radix = peers + 1
    across = _smooth_part(count, radix)
    left = count // across
    simple = _simple(list(range(count)), radix)
    parts = [_simple(list(range(part * left, (part + 1) * left)), radix) for part in range(across)]
    columns = [_cliques(list(range(start, count, left)), radix) for start in range(left)]
    joined = _together(parts) + _together(columns)
    return (simple if len(simple) < len(joined) else joined) or [[]]


def _together(parts: list[list[_Edges]]) -> list[_Edges]:
    """Rounds of equally many disjoint parts, side by side."""
    return [[edge for edges in row for edge in edges] for row in zip(*parts, strict=True)]


def _cliques(places: list[int], radix: int) -> list[_Edges]:
    """The hyper-hypercube: for each factor, places that differ in that digit only average."""
    found, stride = [], 1
    for factor in _factors(len(places), radix):
        edges = []
        for at in range(len(places)):
            if at // stride % factor == 0:
                clique = [places[at + step * stride] for step in range(factor)]
                edges += [(i, j, 1 / factor) for i in clique for j in clique if i < j]
        found.append(edges)
        stride *= factor
    return found


@dataclass(frozen=True, slots=True)
class _Part:
    """One digit of the number of nodes: ``blocks`` of radix^power places each.

    ``whole``: rounds after which all places agree; ``evening``: those after which each block does.
    """

    places: list[int]
    blocks: list[list[int]]
    whole: list[_Edges]
    evening: list[_Edges]


def _simple(places: list[int], radix: int) -> list[_Edges]:
    if _smooth_part(len(places), radix) == len(places):
        return _cliques(places, radix)
    parts = _digits(places, radix)
    apart = [
        [edge for part in parts for edge in _turn(part.whole, number)]
        for number in range(len(parts[0].whole))
    ]
    return apart + [_hand_over(parts, giver) for giver in range(1 + len(parts[0].evening))]


def _hand_over(parts: list[_Part], giver: int) -> _Edges:
    """Part ``giver`` hands its share to all smaller parts, if there are any; those before it even out."""
    edges = [edge for at, part in enumerate(parts[:giver]) for edge in _turn(part.evening, giver - at - 1)]
    smaller = [place for part in parts[giver + 1 :] for place in part.places]
    if smaller:
        given = parts[giver]
        share = len(given.places) / (len(given.places) + len(smaller)) / len(given.blocks)
        edges += [(place, block[turn], share) for turn, place in enumerate(smaller) for block in given.blocks]
    return edges


def _digits(places: list[int], radix: int) -> list[_Part]:
    parts, start, power = [], 0, 1
    while power * radix <= len(places):
        power *= radix
    while start < len(places):
        digit = (len(places) - start) // power
        if digit:
            here = places[start : start + digit * power]
            blocks = [here[at : at + power] for at in range(0, len(here), power)]
            evening = _together([_cliques(block, radix) for block in blocks])
            parts.append(_Part(here, blocks, _cliques(here, radix), evening))
            start += digit * power
        power //= radix
    return parts


def _turn(sequence: list[_Edges], number: int) -> _Edges:
    return sequence[number % len(sequence)] if sequence else []


def _factors(count: int, radix: int) -> list[int]:
    """``count`` as a product of numbers up to ``radix``, large ones taken out first, ascending."""
    found = []
    for factor in range(radix, 1, -1):
        while count % factor == 0:
            found.append(factor)
            count //= factor
    return found[::-1]


def _smooth_part(count: int, radix: int) -> int:
    """The largest divisor of ``count`` without a prime factor above ``radix``."""
    left = count
    for factor in range(2, radix + 1):
        while left % factor == 0:
            left //= factor
    return count // left


def _weights(order: "np.ndarray[tuple[int], np.dtype[np.int64]]", edges: _Edges) -> Weights:
    table = np.array(edges, np.float64).reshape(-1, 3)
    one, other = order[table[:, 0].astype(np.int64)], order[table[:, 1].astype(np.int64)]
    return Weights.of_edges(
        len(order), np.concatenate([one, other]), np.concatenate([other, one]), np.tile(table[:, 2], 2)
    )
