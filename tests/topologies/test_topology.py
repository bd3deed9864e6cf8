"""Topologies by name, from files and from code of one's own; and the report of one."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import networkx as nx  # type: ignore[import-untyped]  # ships no type information
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfl.topologies import files
from p2pfl.topologies.analysis import compare, report
from p2pfl.topologies.errors import CodeError, TopologyError
from p2pfl.topologies.grouped import grouped
from p2pfl.topologies.mixing import SCHEMES, spectral_gap
from p2pfl.topologies.reach import cut_vertices, diameter
from p2pfl.topologies.registry import entries, topology
from p2pfl.topologies.schedule import ACROSS, ScheduleError, groups
from p2pfl.topologies.sparse import Weights
from p2pfl.topologies.topology import Topology, topology_of


@settings(max_examples=60)
@given(st.sampled_from(sorted(entries())), st.integers(1, 40), st.integers(0, 2**32), st.booleans())
def test_every_family_mixes_any_number_of_nodes(name: str, count: int, seed: int, fresh: bool) -> None:
    parameters: dict[str, Any] = {"peers": max(1, count - 1)} if name == "hyper_hypercube" else {}
    drawn = topology(name, count, seed=seed, fresh=fresh and entries()[name].kind == "graph", **parameters)
    again = topology(name, count, seed=seed, fresh=fresh and entries()[name].kind == "graph", **parameters)
    for round in range(min(drawn.period or 3, 3)):
        weights = drawn.weights(round)
        assert len(weights) == count
        assert np.allclose(weights.row_sums(), 1)
        assert name == "epidemic" or weights.keeps_mean()
        assert weights.data.min() > -1e-12
        assert set(drawn.graph(round)) == set(drawn.nodes)
        assert np.array_equal(weights.dense, again.weights(round).dense)
    mixing = drawn.weights().dense
    if drawn.period == 1 and count > 1:
        assert spectral_gap(mixing) > 1e-9


@pytest.mark.parametrize("name", sorted(entries()))
def test_every_family_is_documented(name: str) -> None:
    entry = entries()[name]
    assert entry.summary
    assert entry.formula
    assert entry.good_for
    page = (Path(__file__).parents[2] / "docs" / "topologies.md").read_text(encoding="utf-8")
    assert f"`{name}`" in page


@settings(max_examples=40)
@given(st.sampled_from(sorted(SCHEMES)), st.integers(3, 14), st.integers(0, 2**31))
def test_every_scheme_stays_on_the_graph_and_says_truly_what_it_keeps(
    scheme: str, count: int, seed: int
) -> None:
    graph = nx.relabel_nodes(nx.connected_watts_strogatz_graph(count, 3, 0.4, seed=seed), str)
    weights = topology_of("graph", graph).weights(mixing=scheme)
    matrix = weights.dense
    assert not (matrix - np.diag(np.diag(matrix)))[nx.to_numpy_array(graph) == 0].any()
    assert weights.keeps_mean() or scheme == "uniform"
    assert np.allclose(weights.row_sums(), 1) or scheme == "push"
    if scheme not in ("uniform", "push"):
        assert weights.is_symmetric()
    if scheme not in ("laplacian", "fastest"):
        assert matrix.min() >= -1e-12


@pytest.mark.parametrize(
    ("graph", "scheme", "best"),
    [
        (nx.path_graph(8), "fastest_chain", np.cos(np.pi / 8)),  # Boyd, Diaconis, Sun and Xiao 2006
        (nx.path_graph(21), "fastest_chain", np.cos(np.pi / 21)),
        (nx.star_graph(8), "fastest", 8 / 10),  # edge-transitive: 1 and n are the Laplacian's eigenvalues
        (nx.star_graph(8), "fastest_chain", 7 / 8),
        (nx.hypercube_graph(4), "fastest", 3 / 5),
        (nx.petersen_graph(), "fastest", 3 / 7),
        (nx.complete_graph(6), "fastest_chain", 0),
        (nx.path_graph(2), "fastest", 0),
        (nx.disjoint_union(nx.path_graph(3), nx.path_graph(3)), "fastest_chain", 1),
        (nx.cycle_graph(10), "fastest", (2 + 2 * np.cos(np.pi / 5)) / (6 - 2 * np.cos(np.pi / 5))),
    ],
)
def test_the_fastest_weights_of_small_graphs_are_known(graph: nx.Graph, scheme: str, best: float) -> None:
    found = 1 - spectral_gap(SCHEMES[scheme](graph).dense)
    assert best - 1e-9 <= found <= best + 1e-6


@settings(max_examples=10)
@given(st.integers(5, 30), st.integers(0, 2**31))
def test_nothing_is_faster_than_the_fastest(count: int, seed: int) -> None:
    graph = nx.barabasi_albert_graph(count, 2, seed=seed)
    left = {
        scheme: 1 - spectral_gap(SCHEMES[scheme](graph).dense)
        for scheme in ("fastest", "fastest_chain", "metropolis", "max_degree", "laplacian")
    }
    assert left["fastest"] <= min(left.values()) + 1e-6
    assert left["fastest_chain"] <= min(left["metropolis"], left["max_degree"]) + 1e-6


@pytest.mark.parametrize("graph", [nx.path_graph(301), nx.complete_graph(70)])
def test_what_would_take_too_long_is_refused(graph: nx.Graph) -> None:
    with pytest.raises(TopologyError, match="at most 300 nodes and 2000 links"):
        SCHEMES["fastest"](graph)


@given(st.integers(1, 9), st.integers(0, 2**31))
def test_sparse_is_dense(count: int, seed: int) -> None:
    draws = np.random.default_rng(seed)
    matrix = draws.standard_normal((count, count)) * (draws.random((count, count)) < 0.4)
    weights = Weights.of_matrix(matrix)
    assert np.array_equal(weights.dense, matrix)
    assert np.array_equal(weights.transposed.dense, matrix.T)
    values = draws.standard_normal((count, 3))
    assert np.allclose(weights.apply(values), matrix @ values)
    assert np.allclose(weights.apply(values[:, 0]), matrix @ values[:, 0])
    assert weights.is_symmetric() == np.array_equal(matrix, matrix.T)


def test_rows_follow_the_nodes_whatever_the_order_of_the_graph() -> None:
    graph = nx.path_graph(["b", "a", "c"])
    drawn = topology_of("path", graph, ["a", "b", "c"])
    assert drawn.weights().dense[1, 2] == 0  # b and c are not joined
    assert drawn.weights().dense[0, 1] == pytest.approx(1 / 3)


CODE = '''
import networkx as nx
import numpy as np

def lollipop(nodes, beacon, *, tail: int = 3):
    """A clique with a tail."""
    return nx.relabel_nodes(nx.lollipop_graph(len(nodes) - tail, tail), dict(enumerate(nodes)))

def shift(nodes, beacon):
    n = len(nodes)
    return [(np.eye(n) + np.roll(np.eye(n), hop, axis=1)) / 2 for hop in (1, 2)]

def per_round(nodes, beacon):
    return lambda round: nx.path_graph(nodes) if round % 2 else nx.cycle_graph(nodes)

def strangers(nodes, beacon):
    return nx.path_graph(["x", "y"])

def broken(nodes, beacon):
    return 3

def raising(nodes, beacon):
    raise ValueError("no such\\ndegree")

def numbered(nodes, beacon):
    return nx.cycle_graph(len(nodes))

def unweighted(nodes, beacon):
    return np.ones((len(nodes), len(nodes)))

def looped(nodes, beacon):
    return nx.Graph([*nx.cycle_graph(nodes).edges, (nodes[0], nodes[0])])

def late(nodes, beacon):
    def at(round):
        return {}[round]
    return at

three = nx.path_graph(["a", "b", "c"])
'''


def test_a_researcher_adds_a_topology_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    mine = topology(f"{path}:lollipop", 8, code=True, tail=2)
    assert sorted(degree for _, degree in mine.graph().degree) == [1, 2, 5, 5, 5, 5, 5, 6]
    assert len(report(mine).cut_vertices) == 2
    assert topology(f"{path}:shift", 8, code=True).period == 2
    changing = topology(f"{path}:per_round", 5, code=True)
    assert [changing.graph(round).number_of_edges() for round in range(3)] == [5, 4, 5]
    assert topology(f"{path}:three", ["a", "b", "c"], code=True).graph().number_of_edges() == 2
    for wrong, message in (
        ("strangers", "n000 is not in its graph and 'x' in its graph is none of the 8 nodes"),
        ("numbered", "relabel: nx.relabel_nodes"),
        ("unweighted", "neither the rows of its matrix add up to 1"),
        ("broken", "gives int"),
        ("raising", r"mine.py:raising fails: ValueError: no such degree \(mine.py, line 23\)"),
        ("missing", "has no 'missing'"),
    ):
        with pytest.raises(TopologyError, match=message):
            topology(f"{path}:{wrong}", 8, code=True)
    with pytest.raises(TopologyError, match="no parameter 'size'"):
        topology(f"{path}:lollipop", 8, code=True, size=2)
    assert report(topology(f"{path}:looped", 8, code=True)).degree_most == 2
    with pytest.raises(CodeError, match=r"mine.py:late fails: KeyError: 7 \(mine.py, line 36\)"):
        topology(f"{path}:late", 8, code=True).graph(7)
    path.write_text("import nothing_of_the_kind\n")
    with pytest.raises(CodeError, match=r"No module named 'nothing_of_the_kind' \(mine.py, line 1\)"):
        topology(f"{path}:anything", 8, code=True)


def test_code_runs_only_where_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(TopologyError, match="command line"):
        topology(f"{path}:anything", 8)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["graphml", "csv", "edges"])
def test_graphs_are_read_from_files(name: str, tmp_path: Path) -> None:
    graph = nx.relabel_nodes(nx.petersen_graph(), lambda node: f"site-{node}")
    path = tmp_path / f"petersen.{name}"
    if name == "graphml":
        nx.write_graphml(graph, path)
    elif name == "edges":
        path.write_text("# ten\n" + "\n".join(f"{one} {other} 0.5" for one, other in graph.edges) + "\n")
    else:
        rows = nx.to_numpy_array(graph).astype(int)
        lines = [",".join([node, *map(str, row)]) for node, row in zip(graph, rows, strict=True)]
        path.write_text("\n".join([",".join(["", *graph]), *lines]) + "\n")
    drawn = topology(str(path))
    assert nx.utils.graphs_equal(nx.Graph(drawn.graph().edges), nx.Graph(graph.edges)) or (
        {frozenset(edge) for edge in drawn.graph().edges} == {frozenset(edge) for edge in graph.edges}
    )
    assert report(drawn).diameter == 2


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("g.graphml", "<graphml", "not GraphML"),
        ("g.graphml", '<!DOCTYPE a [<!ENTITY b "c">]><graphml/>', "entities"),
        ("g.edges", "a b\nc\n", "line 2"),
        ("g.edges", "", "no nodes"),
        ("g.csv", ",a,b\na,0,1\n", "first column"),
        ("g.csv", ",a,b\na,0,1\nb,1\n", "line 3"),
        ("g.csv", ",a,b\na,0,x\nb,1,0\n", "numbers"),
        ("g.csv", ",a,b\na,0,nan\nb,nan,0\n", "numbers"),
        ("g.csv", ",a,a\na,0,1\na,1,0\n", "twice"),
        ("g.edges", "St Mary\tNorth\n", "names with spaces"),
        ("g.csv", "0,1,0\n1,0,1\n0,1,0\n", "must hold names"),
        ("g.edges", "a,b\n", "with a space between"),
        ("g.csv", b"\xff\xfe", "it is not UTF-8"),
    ],
)
def test_wrong_files_are_refused(name: str, text: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(TopologyError, match=message):
        topology(str(path))


@pytest.mark.parametrize(
    "text", [";Zürich;b, c\nZürich;0;0,5\nb, c;0,5;0\n", "\tZürich\tb, c\nZürich\t0\t1\nb, c\t1\t\n"]
)
def test_tables_are_read_as_spreadsheets_of_any_country_write_them(text: str, tmp_path: Path) -> None:
    path = tmp_path / "g.csv"
    path.write_text(text, encoding="utf-8-sig")
    assert list(topology(str(path)).graph().edges) == [("Zürich", "b, c")]


@pytest.mark.parametrize(("bandwidth", "latency"), [("fast", 1), (0, 1), (-5, 1), (10, "nan")])
def test_attributes_that_are_no_numbers_are_refused(bandwidth: object, latency: object) -> None:
    graph = nx.path_graph(["a", "b"])
    for node in graph:
        graph.nodes[node].update(bandwidth=bandwidth, latency=latency)
    with pytest.raises(TopologyError, match=r"a: (bandwidth|latency) must be a number above 0"):
        report(topology(graph))


def test_a_file_has_as_many_nodes_as_are_asked_for_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "g.edges"
    path.write_text("\ufeffb a {'weight': 2}\nb c 0.5\n", encoding="utf-8")  # as spreadsheets begin a text
    assert topology(str(path), ["a", "b", "c"]).nodes == ("a", "b", "c")
    assert topology(str(path), ["x", "y", "z"]).nodes == ("b", "a", "c")
    with pytest.raises(TopologyError, match="has 3 nodes, not 4"):
        topology(str(path), ["a", "b", "c", "d"])


def test_a_matrix_that_is_not_symmetric_is_directed(tmp_path: Path) -> None:
    path = tmp_path / "g.csv"
    path.write_text(",a,b,c\na,0,1,0\nb,0,0,1\nc,1,0,0\n")
    drawn = topology(str(path))
    assert drawn.graph().is_directed()
    assert drawn.weights().dense[1, 0] == 0.5  # a sends to b: b's row
    with pytest.raises(TopologyError, match="both ways"):
        drawn.weights(mixing="metropolis")


@pytest.mark.parametrize("name", files.examples())
def test_the_shipped_graphs_are_whole(name: str) -> None:
    found = report(topology(name))
    assert found.diameter is not None
    assert json.loads(json.dumps(found.row()))["nodes"] == len(topology(name).nodes)


def test_attributes_are_respected() -> None:
    network = topology("hospitals")
    assert {"region", "bandwidth", "latency"} <= set(network.attributes["seaview"])
    found = report(network, parameters=250_000)
    # valley-clinic: 35 ms, and two or more models of 1 MB over 20 Mbit/s.
    degree = network.graph().degree["valley-clinic"]
    assert found.seconds == pytest.approx(0.035 + degree * 8 / 20)
    regional = topology("clustered", network.graph(), degree=20)
    graph = regional.graph()
    inside = [graph.nodes[one]["region"] == graph.nodes[other]["region"] for one, other in graph.edges]
    assert sum(inside) == 15 + 10 + 10 + 6
    assert len(inside) - sum(inside) == 6


@settings(max_examples=30)
@given(st.integers(4, 60), st.integers(0, 2**32), st.integers(0, 40), st.integers(2, 5), st.booleans())
def test_clustered_groups_stay_in_their_region_but_for_some_rounds(
    count: int, seed: int, round: int, size: int, dense: bool
) -> None:
    drawn = topology("clustered", count, seed=seed, bridges=2)
    graph = drawn.graph()
    if dense:
        graph.add_edges_from(nx.complete_graph(drawn.nodes).edges)
    found = groups(graph, size, 2, bytes(32), round, "clustered")
    members = [node for group in found for node in group]
    assert len(members) == len(set(members))
    region = nx.get_node_attributes(graph, "region")
    parts = {name: [node for node in graph if region[node] == name] for name in set(region.values())}
    if round % ACROSS == ACROSS - 1:
        assert found == groups(graph, size, 2, bytes(32), round, "random")
        return
    for group in found:
        within = {region[node] for node in group}
        assert len(within) == 1 or all(len(parts[name]) < 2 for name in within)
    if dense:
        assert set(members) >= {node for part in parts.values() if len(part) >= 2 for node in part}


def test_clustered_groups_need_regions() -> None:
    with pytest.raises(ScheduleError, match="region"):
        grouped(topology("complete", 12), schedule="clustered")


def test_a_report_counts_bytes() -> None:
    ring, groups_of_5 = topology("ring", 25), grouped(topology("complete", 25), size=5)
    one, other = compare([ring, groups_of_5], parameters=1000, bytes_per_value=4)
    assert (one.bytes_mean, one.bytes_most) == (8000, 8000)
    assert other.bytes_mean == pytest.approx(2 * 4 / 5 * 4000)
    assert report(topology("star", 9), parameters=1000).bytes_most == 8 * 4000


def test_what_is_asked_for_wrongly_is_refused() -> None:
    def asked(*args: object, **kwargs: object) -> Topology:
        return topology(*args, **kwargs)  # type: ignore[arg-type]

    for wrong, message in (
        (lambda: asked("rin", 5), "there are"),
        (lambda: asked("ring"), "number of nodes"),
        (lambda: asked("ring", 0), "at least one"),
        (lambda: asked("ring", ["a", "a"]), "twice"),
        (lambda: asked("watts_strogatz", 9, degree=3), "even"),
        (lambda: asked("erdos_renyi", 30, probability=0.001), "not connected"),
        (lambda: asked("hyper_hypercube", 7), "prime factor"),
        (lambda: asked("hospitals", 5), "20 nodes"),
        (lambda: asked("ring", 5).weights(mixing="magic"), "unknown mixing"),
        (lambda: asked("base", 5).weights(mixing="metropolis"), "of its own"),
        (lambda: grouped(asked("base", 5)), "stays"),
    ):
        with pytest.raises(TopologyError, match=message):
            wrong()


def test_the_code_on_the_page_runs(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "topologies.md").read_text(encoding="utf-8")
    first, own = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", first], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
    )
    assert "westbridge-general" in done.stdout
    (tmp_path / "two_hubs.py").write_text(own)
    drawn = topology(f"{tmp_path / 'two_hubs.py'}:two_hubs", 24, code=True)
    assert len(report(drawn).cut_vertices) == 2


@given(count=st.integers(2, 14), edges=st.floats(0.3, 1.0), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_what_is_known_of_dense_graphs_is_so(count: int, edges: float, seed: int) -> None:
    graph = nx.gnp_random_graph(count, edges, seed=seed)
    graph.add_edges_from((node, node) for node in range(seed % 3))  # a loop is no neighbour
    assert diameter(graph) == (nx.diameter(graph) if nx.is_connected(graph) else None)
    assert {cut.node for cut in cut_vertices(graph)} == {str(node) for node in nx.articulation_points(graph)}
