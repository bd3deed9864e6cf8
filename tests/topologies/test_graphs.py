import networkx as nx  # type: ignore[import-untyped]  # ships no type information
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.topologies.graphs import FAMILIES, random_regular

names = st.lists(st.text("abcdef", min_size=1, max_size=4), min_size=1, max_size=40, unique=True)
beacons = st.binary(min_size=32, max_size=32)
BEACON = bytes(range(32))


def nodes(count: int) -> list[str]:
    return [f"n{number:03}" for number in range(count)]


@given(st.sampled_from(sorted(FAMILIES)), names, beacons)
def test_every_family_gives_a_simple_connected_graph_over_any_nodes(
    family: str, roster: list[str], beacon: bytes
) -> None:
    graph = FAMILIES[family](roster, beacon)
    assert set(graph) == set(roster)
    assert nx.is_connected(graph)
    assert nx.number_of_selfloops(graph) == 0
    assert not graph.is_directed()


@given(st.sampled_from(sorted(FAMILIES)), names, beacons)
def test_the_order_of_the_nodes_does_not_matter(family: str, roster: list[str], beacon: bytes) -> None:
    one, other = FAMILIES[family](roster, beacon), FAMILIES[family](roster[::-1], beacon)
    assert list(one) == list(other)
    assert {frozenset(edge) for edge in one.edges} == {frozenset(edge) for edge in other.edges}


@pytest.mark.parametrize("family", ["ring", "exponential", "random_regular"])
def test_the_beacon_places_the_nodes(family: str) -> None:
    graphs = [FAMILIES[family](nodes(12), bytes([number]) * 32) for number in range(3)]
    assert len({frozenset(frozenset(edge) for edge in graph.edges) for graph in graphs}) == 3


@pytest.mark.parametrize(
    ("family", "count", "degrees"),
    [
        ("complete", 9, {8}),
        ("ring", 9, {2}),
        ("ring", 2, {1}),
        ("exponential", 16, {7}),  # 1, 2 and 4 either way, 8 is its own opposite
        ("exponential", 9, {6}),  # 1, 2, 4 and 8 either way; 8 and 1 coincide
        ("random_regular", 15, {6}),
        ("random_regular", 40, {6}),
        ("random_regular", 7, {6}),
    ],
)
def test_degrees(family: str, count: int, degrees: set[int]) -> None:
    assert {degree for _, degree in FAMILIES[family](nodes(count), BEACON).degree} == degrees


def test_a_ring_is_one_cycle() -> None:
    assert nx.is_isomorphic(FAMILIES["ring"](nodes(11), BEACON), nx.cycle_graph(11))


@given(st.integers(2, 9), st.integers(1, 30), beacons)
def test_random_regular_is_regular_or_refuses(degree: int, count: int, beacon: bytes) -> None:
    if degree < count - 1 and degree * count % 2:
        with pytest.raises(ValueError, match="odd"):
            random_regular(nodes(count), beacon, degree=degree)
        return
    graph = random_regular(nodes(count), beacon, degree=degree)
    assert {found for _, found in graph.degree} == {min(degree, count - 1)}


def test_random_regular_refuses_what_cannot_connect() -> None:
    with pytest.raises(ValueError, match="cannot connect"):
        random_regular(nodes(6), BEACON, degree=1)


def test_random_regular_edges_are_equally_likely() -> None:
    draws = 400
    met = sum(
        random_regular(nodes(9), number.to_bytes(32, "big"), degree=4).has_edge("n000", "n001")
        for number in range(draws)
    )
    assert abs(met / draws - 4 / 8) < 3.3 * (0.25 / draws) ** 0.5


def test_a_node_may_not_be_named_twice() -> None:
    with pytest.raises(ValueError, match="twice"):
        FAMILIES["ring"](["a", "b", "a"], BEACON)


def test_frozen() -> None:
    """Every implementation, version and platform must draw exactly these graphs."""
    ring = FAMILIES["ring"](nodes(6), BEACON)
    assert " ".join(ring) == "n005 n004 n001 n002 n000 n003"
    regular = random_regular(nodes(8), BEACON, degree=3)
    edges = sorted("".join(name[-1] for name in sorted(edge)) for edge in regular.edges)
    assert " ".join(edges) == "03 05 06 12 13 17 23 24 45 46 57 67"
