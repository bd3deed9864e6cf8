"""The schedule: what it guarantees, on every family and many seeds, and that all platforms draw the same."""

import math
from collections import Counter
from itertools import combinations

import networkx as nx  # type: ignore[import-untyped]  # ships no type information
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.topologies.graphs import FAMILIES
from p2pfl.topologies.schedule import Groups, ScheduleError, grid_shape, groups

BEACON = bytes(range(32))
counts = st.integers(1, 60)
sizes = st.integers(3, 9)
beacons = st.binary(min_size=32, max_size=32)
rounds = st.integers(0, 2**64 - 1)


def names(count: int) -> list[str]:
    return [f"n{number:03}" for number in range(count)]


def complete(count: int) -> nx.Graph:
    return FAMILIES["complete"](names(count), BEACON)


def shown(drawn: Groups) -> str:
    return " / ".join(" ".join(str(int(name[1:])) for name in group) for group in drawn)


def average(values: np.ndarray, drawn: Groups) -> np.ndarray:
    """One round of exact group averaging of ``values``, shape (n,)."""
    result = values.copy()
    for group in drawn:
        rows = [int(name[1:]) for name in group]
        result[rows] = values[rows].mean()
    return result


@given(st.sampled_from(sorted(FAMILIES)), counts, sizes, st.data(), beacons, rounds)
def test_groups_are_disjoint_of_the_right_size_and_inside_a_closed_neighbourhood(
    family: str, count: int, size: int, data: st.DataObject, beacon: bytes, round: int
) -> None:
    minimum = data.draw(st.integers(2, size))
    graph = FAMILIES[family](names(count), beacon)
    drawn = groups(graph, size, minimum, beacon, round)
    members = [name for group in drawn for name in group]
    assert len(members) == len(set(members))
    assert set(members) <= set(graph)
    for group in drawn:
        assert minimum <= len(group) <= 2 * size - 1
        assert any(set(group) <= {centre, *graph[centre]} for centre in group)


@given(counts, sizes, beacons, rounds)
def test_on_the_complete_graph_everybody_has_a_group(
    count: int, size: int, beacon: bytes, round: int
) -> None:
    drawn = groups(complete(count), size, 2, beacon, round)
    lengths = sorted(map(len, drawn))
    if count < 2:
        assert drawn == ()
    elif count < 2 * size:
        assert lengths == [count]
    else:
        assert sum(lengths) == count
        assert len(lengths) == count // size
        assert lengths[0] >= size
        assert lengths[-1] - lengths[0] <= 1


@given(st.sampled_from(["exponential", "random_regular", "ring"]), counts, sizes, beacons, rounds)
def test_on_a_sparse_graph_nobody_sits_out_who_could_have_been_placed(
    family: str, count: int, size: int, beacon: bytes, round: int
) -> None:
    graph = FAMILIES[family](names(count), beacon)
    drawn = groups(graph, size, 3, beacon, round)
    left = set(graph) - {name for group in drawn for name in group}
    for name in left:
        assert len(left & {name, *graph[name]}) < 3


def test_dense_random_graphs_leave_few_out() -> None:
    out = 0
    for number in range(50):
        beacon = number.to_bytes(32, "big")
        graph = FAMILIES["random_regular"](names(40), beacon)
        out += 40 - sum(map(len, groups(graph, 4, 3, beacon, 0)))
    assert out / (50 * 40) < 0.1


def test_too_few_nodes_have_no_group() -> None:
    assert groups(complete(3), 4, 4, BEACON, 0) == ()


@given(st.sampled_from(sorted(FAMILIES)), counts, st.randoms(use_true_random=False))
def test_the_order_of_nodes_and_edges_does_not_matter(family: str, count: int, shuffler) -> None:  # type: ignore[no-untyped-def]
    graph = FAMILIES[family](names(count), BEACON)
    nodes, edges = list(graph), list(graph.edges)
    shuffler.shuffle(nodes)
    shuffler.shuffle(edges)
    other = nx.Graph()
    other.add_nodes_from(nodes)
    other.add_edges_from(edges)
    assert groups(graph, 4, 3, BEACON, 5) == groups(other, 4, 3, BEACON, 5)


def test_rounds_and_beacons_draw_afresh() -> None:
    graph = complete(16)
    drawn = {groups(graph, 4, 3, bytes([beacon]) * 32, round) for beacon in range(5) for round in range(5)}
    assert len(drawn) == 25


def test_partitions_are_uniform() -> None:
    """Six nodes, groups of three: each of the ten partitions, and each first convener, is equally likely."""
    draws = 10 * 300
    partitions: Counter[frozenset[frozenset[str]]] = Counter()
    first: Counter[str] = Counter()
    graph = complete(6)
    for round in range(draws):
        drawn = groups(graph, 3, 3, BEACON, round)
        partitions[frozenset(map(frozenset, drawn))] += 1
        first.update(group[0] for group in drawn)
    assert len(partitions) == math.comb(6, 3) // 2
    # Chi-squared, 0.999 quantiles with 9 and 5 degrees of freedom. (The latter is conservative: two a round.)
    assert sum((count - 300) ** 2 / 300 for count in partitions.values()) < 27.9
    assert sum((count - draws / 3) ** 2 / (draws / 3) for count in first.values()) < 20.5


def test_everybody_meets_everybody_equally_often_with_uneven_groups() -> None:
    met: Counter[frozenset[str]] = Counter()
    draws, graph = 1500, complete(7)
    for round in range(draws):
        for group in groups(graph, 3, 3, BEACON, round):  # a group of three and one of four
            met.update(frozenset(pair) for pair in combinations(group, 2))
    expected = draws * (math.comb(3, 2) + math.comb(4, 2)) / math.comb(7, 2)
    assert len(met) == math.comb(7, 2)
    assert all(abs(count - expected) < 4 * expected**0.5 for count in met.values())


@pytest.mark.parametrize(("count", "size"), [(24, 4), (25, 5), (64, 8)])
def test_random_groups_contract_as_theory_says(count: int, size: int) -> None:
    """E consensus distance shrinks by (n - k) / (k (n - 1)) a round: the mean of a group of k without
    replacement.
    """
    graph, values = complete(count), np.random.default_rng(1).normal(size=count)
    values -= values.mean()
    after = [np.var(average(values, groups(graph, size, 3, BEACON, round))) for round in range(600)]
    expected = (count - size) / (size * (count - 1))
    assert np.mean(after) / np.var(values) == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize(
    ("count", "size", "shape"),
    [
        (16, 4, (4, 4)),
        (20, 4, (4, 5)),
        (36, 4, (6, 6)),
        (64, 4, (4, 4, 4)),
        (64, 8, (8, 8)),
        (120, 4, (4, 5, 6)),
        (7, 4, (7,)),
        (4, 4, (4,)),
        (5, 8, (5,)),
        (20, 3, (4, 5)),
    ],
)
def test_grid_averages_exactly_in_as_many_rounds_as_it_has_factors(
    count: int, size: int, shape: tuple[int, ...]
) -> None:
    assert grid_shape(count, size, 3) == shape
    graph = complete(count)
    rng = np.random.default_rng(0)
    for start in range(4):
        values = rng.integers(-1000, 1000, count).astype(np.float64) * math.prod(
            shape
        )  # every mean is an integer
        mean = values.mean()
        for round in range(start, start + len(shape)):
            drawn = groups(graph, size, 3, BEACON, round, "grid")
            assert sorted(name for group in drawn for name in group) == names(count)
            assert {len(group) for group in drawn} == {shape[round % len(shape)]}
            values = average(values, drawn)
        assert (values == mean).all()


@pytest.mark.parametrize(("count", "size"), [(15, 4), (17, 4), (22, 4), (12, 4), (3, 3), (2, 4), (9, 3)])
def test_grid_refuses_what_does_not_fill_it(count: int, size: int) -> None:
    with pytest.raises(ScheduleError, match=f"{count} nodes fill no grid"):
        groups(complete(count), size, 3, BEACON, 0, "grid")


def test_grid_refuses_other_topologies() -> None:
    with pytest.raises(ScheduleError, match="complete topology"):
        groups(FAMILIES["exponential"](names(16), BEACON), 4, 3, BEACON, 0, "grid")


@given(st.integers(4, 400), sizes)
def test_grid_shapes_multiply_to_the_count(count: int, size: int) -> None:
    try:
        shape = grid_shape(count, size)
    except ScheduleError:
        return
    assert math.prod(shape) == count
    assert list(shape) == sorted(shape)
    assert all(4 <= factor < 2 * size for factor in shape)
    assert all(factor >= size for factor in shape) or len(shape) == 1


def test_grid_conveners_change_from_round_to_round() -> None:
    graph = complete(16)
    assert (
        len(
            {frozenset(g[0] for g in groups(graph, 4, 3, BEACON, round, "grid")) for round in range(0, 20, 2)}
        )
        > 5
    )


@pytest.mark.parametrize(("size", "minimum"), [(4, 5), (4, 0)])
def test_nonsense_is_refused(size: int, minimum: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        groups(complete(8), size, minimum, BEACON, 0)


def test_unknown_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown schedule 'pairs'"):
        groups(complete(8), 4, 3, BEACON, 0, "pairs")


def test_frozen() -> None:
    """Every implementation, version and platform must draw exactly these groups."""
    assert shown(groups(complete(9), 4, 3, BEACON, 0)) == "1 8 3 0 6 / 4 2 7 5"
    assert shown(groups(complete(9), 4, 3, BEACON, 2**63)) == "4 3 5 1 2 / 6 7 8 0"
    assert (
        shown(groups(complete(16), 4, 3, BEACON, 1, "grid")) == "12 14 7 9 / 5 4 13 1 / 15 11 6 3 / 2 8 0 10"
    )
    assert shown(groups(FAMILIES["ring"](names(8), BEACON), 4, 3, BEACON, 0)) == "6 5 1 / 3 0 4"
    assert (
        shown(groups(FAMILIES["random_regular"](names(12), BEACON), 4, 3, BEACON, 3))
        == "6 11 3 8 / 10 0 1 2 / 4 9 7 5"
    )
