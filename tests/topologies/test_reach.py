"""Who reaches whom, against looking at every way there is."""

from dataclasses import asdict, replace

import networkx as nx  # type: ignore[import-untyped]  # ships no type information
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfl.topologies.analysis import report
from p2pfl.topologies.errors import TopologyError
from p2pfl.topologies.reach import CutVertex, cut_vertices, diameter
from p2pfl.topologies.registry import topology


def cuts(graph: nx.Graph) -> set[CutVertex]:
    """By taking each node away."""
    plain, found = nx.Graph(graph), set()
    for node in plain:
        home = nx.node_connected_component(plain, node) - {node}
        parts = sorted(
            nx.connected_components(plain.subgraph(home)), key=lambda part: (-len(part), min(part))
        )
        if len(parts) > 1:
            found.add(CutVertex(node, tuple(sorted(set().union(*parts[1:])))))
    return found


@settings(max_examples=80)
@given(st.integers(1, 24), st.floats(0.02, 0.3), st.integers(0, 999), st.booleans())
def test_cut_vertices_are_those_without_which_others_are_apart(
    count: int, edges: float, seed: int, directed: bool
) -> None:
    drawn = nx.gnp_random_graph(count, edges, seed=seed, directed=directed)
    graph = nx.relabel_nodes(drawn, {node: f"n{node:02}" for node in drawn})
    found = cut_vertices(graph)
    assert set(found) == cuts(graph)
    assert [len(cut.isolated) for cut in found] == sorted((len(cut.isolated) for cut in found), reverse=True)


@pytest.mark.parametrize(
    ("graph", "longest"),
    [
        (nx.path_graph(1601), 1600),
        (nx.cycle_graph(1602), 801),
        (nx.cycle_graph(1600, create_using=nx.DiGraph), 1599),
        (nx.path_graph(1600, create_using=nx.DiGraph), None),
        (nx.empty_graph(1600), None),
    ],
)
def test_large_graphs_are_swept(graph: nx.Graph, longest: int | None) -> None:
    assert diameter(graph) == longest


def test_of_the_complete_graph_all_is_known_without_drawing_it() -> None:
    everybody = topology("complete", 9)
    drawn = asdict(report(replace(everybody, family=None)))
    known = asdict(report(everybody))
    for name in ("second_eigenvalue", "closed_form"):
        assert known.pop(name) == pytest.approx(drawn.pop(name) or 0.0, abs=1e-12)
    assert known == drawn
    large = topology("complete", 20_000)
    assert (report(large).edges, report(large, mixing="push").mixing) == (199_990_000, "push")
    with pytest.raises(TopologyError, match="unknown mixing"):
        report(large, mixing="best")
    with pytest.raises(TopologyError, match="too many to hold: take groups, or at most 3000 nodes"):
        large.weights()
