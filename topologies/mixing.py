"""Mixing matrices W of gossip averaging, x ← W x, and how fast they bring nodes together.

Row = receiver: ``W[i, j]`` is the weight that node i gives to what it hears from node j. Nodes are in the
order of the graph (``list(graph)``).
"""

import networkx as nx  # type: ignore[import-untyped]  # ships no type information
import numpy as np
from numpy.typing import NDArray


def metropolis_hastings(graph: nx.Graph) -> NDArray[np.float64]:
    """W[i, j] = 1 / (1 + max(deg i, deg j)) for neighbours, the rest on the diagonal; float64, shape (n, n).

    Symmetric and doubly stochastic, so repeated averaging keeps the mean; needs to know no more than the
    neighbours' degrees (Xiao, Boyd and Lall, "Distributed average consensus with time-varying Metropolis
    weights", 2006).
    """
    position = {node: index for index, node in enumerate(graph)}
    matrix = np.zeros((len(position), len(position)))
    for one, other in graph.edges:
        i, j = position[one], position[other]
        matrix[i, j] = matrix[j, i] = 1 / (1 + max(graph.degree[one], graph.degree[other]))
    np.fill_diagonal(matrix, 1 - matrix.sum(axis=1))
    return matrix


def spectral_gap(matrix: NDArray[np.float64]) -> float:
    """1 − |λ₂|, λ₂ the eigenvalue of ``matrix`` with the second largest modulus; in [0, 1].

    For a doubly stochastic symmetric matrix, each step shrinks the consensus distance by |λ₂|² or more. 0:
    some nodes never meet (or the matrix swaps for ever); 1: one step averages exactly, as it does for one
    node alone.
    """
    if len(matrix) < 2:
        return 1.0
    moduli = np.sort(np.abs(np.linalg.eigvals(matrix)))
    return float(np.clip(1 - moduli[-2], 0, 1))
