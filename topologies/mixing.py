"""Mixing matrices W of gossip averaging, x ← W x, and how fast they bring nodes together.

Row = receiver: ``W[i, j]`` is the weight that node i gives to what it hears from node j. Nodes are in the
order of the graph (``list(graph)``). A scheme makes a matrix of a graph; :data:`SCHEMES` lists them.
"""

from collections.abc import Callable, Mapping
from typing import Final

import networkx as nx  # type: ignore[import-untyped]  # ships no type information
import numpy as np

from p2pfl.topologies.errors import TopologyError
from p2pfl.topologies.fastest import fastest_edge_weights
from p2pfl.topologies.sparse import Floats, Ints, Weights

Scheme = Callable[[nx.Graph], Weights]


def metropolis(graph: nx.Graph) -> Weights:
    """W[i, j] = 1 / (1 + max(deg i, deg j)) for neighbours, the rest on the diagonal.

    Symmetric and doubly stochastic, so repeated averaging keeps the mean; needs to know no more than the
    neighbours' degrees (Xiao, Boyd and Lall, "Distributed average consensus with time-varying Metropolis
    weights", 2006).
    """
    edges, degrees = _undirected(graph, "metropolis")
    return _symmetric(len(degrees), edges, 1 / (1 + np.maximum(degrees[edges[0]], degrees[edges[1]])))


def max_degree(graph: nx.Graph) -> Weights:
    """W = I − L / (1 + largest degree): one weight for all edges, which everybody must know.

    Symmetric and doubly stochastic; never faster than Metropolis on a regular graph, and the same there.
    """
    edges, degrees = _undirected(graph, "max_degree")
    return _symmetric(len(degrees), edges, np.full(edges.shape[1], 1 / (1 + degrees.max(initial=0))))


def laplacian(graph: nx.Graph) -> Weights:
    """W = I − α L with the best constant α = 2 / (λ₂ + λₙ) of the Laplacian's eigenvalues (Xiao and Boyd,
    "Fast linear iterations for distributed averaging", 2004).

    Symmetric and keeps the mean; some weights of a node for itself may be negative. Takes all eigenvalues,
    so for some thousands of nodes at most.
    """
    edges, degrees = _undirected(graph, "laplacian")
    count = len(degrees)
    if not edges.size:
        return _symmetric(count, edges, np.zeros(0))
    spectrum = np.linalg.eigvalsh(np.diag(degrees) - _adjacency(count, edges))
    return _symmetric(count, edges, np.full(edges.shape[1], 2 / (spectrum[1] + spectrum[-1])))


def uniform(graph: nx.Graph) -> Weights:
    """The mean of oneself and of all whom one hears: W[i, j] = 1 / (1 + in-degree i).

    Rows add up to 1, columns only on regular graphs: elsewhere nodes agree, but **not on the mean**; those
    with many neighbours weigh more. Takes directed graphs (edge u → v: u sends to v).
    """
    senders, receivers = _arcs(graph)
    heard = np.bincount(receivers, minlength=len(graph))
    return Weights.of_edges(len(graph), receivers, senders, 1 / (1 + heard[receivers]))


def push(graph: nx.Graph) -> Weights:
    """Everybody cuts what it has into 1 + out-degree equal parts, keeps one and sends the others.

    Columns add up to 1, rows need not: for push-sum (:mod:`p2pfl.topologies.push_sum`), which mixes a weight
    along with the values and divides. Takes directed graphs.
    """
    senders, receivers = _arcs(graph)
    told = np.bincount(senders, minlength=len(graph))
    return Weights.of_edges(len(graph), senders, receivers, 1 / (1 + told[senders])).transposed


def fastest(graph: nx.Graph) -> Weights:
    """The symmetric W on this graph with the smallest |λ₂|, by convex optimisation (FDLA of Xiao and Boyd,
    2004); weights may be negative. Up to some hundreds of nodes.
    """
    return _solved(graph, "fastest", nonnegative=False)


def fastest_chain(graph: nx.Graph) -> Weights:
    """As :func:`fastest` among the matrices without negative weights (FMMC: Boyd, Diaconis and Xiao,
    "Fastest mixing Markov chain on a graph", 2004).
    """
    return _solved(graph, "fastest_chain", nonnegative=True)


SCHEMES: Final[Mapping[str, Scheme]] = {
    "metropolis": metropolis,
    "uniform": uniform,
    "max_degree": max_degree,
    "laplacian": laplacian,
    "fastest": fastest,
    "fastest_chain": fastest_chain,
    "push": push,
}
"""By the name that a command line gives."""


def metropolis_hastings(graph: nx.Graph) -> Floats:
    """:func:`metropolis` as a dense matrix; float64, shape (n, n)."""
    return metropolis(graph).dense


def spectral_gap(matrix: Floats) -> float:
    """1 − |λ₂|, λ₂ the eigenvalue of ``matrix`` with the second largest modulus; in [0, 1].

    For a doubly stochastic symmetric matrix, each step shrinks the consensus distance by |λ₂|² or more. 0:
    some nodes never meet (or the matrix swaps for ever); 1: one step averages exactly, as it does for one
    node alone.
    """
    if len(matrix) < 2:
        return 1.0
    symmetric = np.array_equal(matrix, matrix.T)
    moduli = np.sort(np.abs(np.linalg.eigvalsh(matrix) if symmetric else np.linalg.eigvals(matrix)))
    return float(np.clip(1 - moduli[-2], 0, 1))


def _arcs(graph: nx.Graph) -> tuple[Ints, Ints]:
    """Senders and receivers of all messages of a round, by position, without self-loops."""
    position = {node: index for index, node in enumerate(graph)}
    pairs = [(position[one], position[other]) for one, other in graph.edges if one != other]
    arcs = np.array(pairs, np.int64).reshape(-1, 2).T
    return (arcs[0], arcs[1]) if graph.is_directed() else (arcs.ravel(), arcs[::-1].ravel())


def _undirected(graph: nx.Graph, scheme: str) -> tuple[Ints, Ints]:
    """Edges by position, shape (2, m), and degrees, shape (n,); self-loops count nothing."""
    if graph.is_directed():
        raise TopologyError(f"{scheme} weights need edges that go both ways; take uniform or push")
    senders, receivers = _arcs(graph)
    half = len(senders) // 2
    return np.stack([senders[:half], receivers[:half]]), np.bincount(senders, minlength=len(graph))


def _adjacency(count: int, edges: Ints) -> Floats:
    matrix = np.zeros((count, count))
    matrix[edges[0], edges[1]] = matrix[edges[1], edges[0]] = 1
    return matrix


def _symmetric(count: int, edges: Ints, weights: Floats) -> Weights:
    twice = np.concatenate([weights, weights])
    return Weights.of_edges(count, edges.ravel(), edges[::-1].ravel(), twice)


def _solved(graph: nx.Graph, scheme: str, nonnegative: bool) -> Weights:
    edges, degrees = _undirected(graph, scheme)
    return _symmetric(len(degrees), edges, fastest_edge_weights(len(degrees), edges, nonnegative))
