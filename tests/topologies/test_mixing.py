import math

import networkx as nx  # type: ignore[import-untyped]  # ships no type information
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.topologies.graphs import FAMILIES
from p2pfl.topologies.mixing import metropolis_hastings, spectral_gap

BEACON = bytes(32)


def names(count: int) -> list[str]:
    return [f"n{number:03}" for number in range(count)]


@given(st.integers(1, 24), st.floats(0, 1), st.integers(0, 2**31))
def test_metropolis_hastings_is_doubly_stochastic_and_stays_on_the_graph(
    count: int, density: float, seed: int
) -> None:
    graph = nx.gnp_random_graph(count, density, seed=seed)
    matrix = metropolis_hastings(graph)
    assert matrix.shape == (count, count)
    assert np.allclose(matrix.sum(axis=0), 1)
    assert np.allclose(matrix.sum(axis=1), 1)
    assert np.array_equal(matrix, matrix.T)
    assert (matrix >= 0).all()
    off_diagonal = matrix - np.diag(np.diag(matrix))
    assert np.array_equal(off_diagonal > 0, nx.to_numpy_array(graph, dtype=bool))
    assert (spectral_gap(matrix) > 1e-9) == nx.is_connected(graph)


def test_metropolis_hastings_of_a_path() -> None:
    matrix = metropolis_hastings(nx.path_graph(3))
    assert np.allclose(matrix, np.array([[2, 1, 0], [1, 1, 1], [0, 1, 2]]) / 3)


@pytest.mark.parametrize("count", [3, 4, 5, 8, 16, 25])
def test_gap_of_the_ring(count: int) -> None:
    matrix = metropolis_hastings(FAMILIES["ring"](names(count), BEACON))
    assert spectral_gap(matrix) == pytest.approx(1 - (1 / 3 + 2 / 3 * math.cos(2 * math.pi / count)))


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_gap_of_the_complete_graph(count: int) -> None:
    assert spectral_gap(metropolis_hastings(FAMILIES["complete"](names(count), BEACON))) == pytest.approx(1)


@pytest.mark.parametrize("dimension", [1, 2, 3, 4, 5])
def test_gap_of_the_hypercube(dimension: int) -> None:
    matrix = metropolis_hastings(nx.hypercube_graph(dimension))
    assert spectral_gap(matrix) == pytest.approx(2 / (1 + dimension))


@pytest.mark.parametrize("count", [4, 9, 32])
def test_gap_of_the_star(count: int) -> None:
    assert spectral_gap(metropolis_hastings(nx.star_graph(count - 1))) == pytest.approx(1 / count)


def test_gap_counts_negative_eigenvalues() -> None:
    assert spectral_gap(np.array([[0.0, 1.0], [1.0, 0.0]])) == 0
