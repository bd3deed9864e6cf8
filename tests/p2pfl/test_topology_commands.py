"""`p2pfl topology`: what it says, draws and refuses."""

import json
from collections.abc import Callable
from math import cos, pi
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from p2pfl import cli, figures
from p2pfl.drawing import MOST_NODES, Drawing
from p2pfl.node.errors import ExitCode
from p2pfl.topologies.graphs import FAMILIES
from p2pfl.topologies.registry import entries, topology

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """``p2pfl topology`` in an empty directory: status, output, errors."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        status = cli.main(["topology", *(word for part in words for word in part.split(" "))])
        return status, *capsys.readouterr()

    return run


def found(call: Call, *words: str) -> Any:
    status, out, err = call(*words, "--json")
    assert (status, err) == (0, "")
    return json.loads(out)


def test_the_list_has_every_family(call: Call) -> None:
    told = found(call, "list")
    assert {each["name"] for each in told["families"]} == set(entries())
    assert {each["name"] for each in told["families"] if each["in_manifests"]} == set(FAMILIES)
    assert "hospitals" in told["files"]
    _, out, _ = call("list")
    assert all(f"\n{name}" in out for name in entries())


def test_a_topology_in_numbers(call: Call) -> None:
    ring = found(call, "show ring --nodes 12 --parameters 1000")
    gap = 1 - (1 / 3 + 2 / 3 * cos(2 * pi / 12))
    assert ring["spectral_gap"] == pytest.approx(gap) == 1 - ring["closed_form"]
    assert (ring["diameter"], ring["degree_mean"], ring["bytes_mean"]) == (6, 2, 8000)
    assert ring["cut_vertices"] == []
    _, out, _ = call("show ring --nodes 12")
    assert f"spectral gap        {gap:.6f} (by the closed form {gap:.6f})" in out
    assert "the others stay connected" in out


def test_a_file_and_who_is_cut_off(call: Call) -> None:
    Path("bridge.edges").write_text("a b\nb c\nc a\nc d\nd e\n")
    shown = found(call, "show bridge.edges")
    assert shown["cut_vertices"] == [
        {"node": "c", "isolated": ["d", "e"]},
        {"node": "d", "isolated": ["e"]},
    ]
    _, out, _ = call("show bridge.edges")
    assert "c cuts off d, e\n" in out
    _, out, _ = call("audit bridge.edges")
    assert out.count("fails") == 2
    assert "If c fails, this cuts off d, e." in out
    Path("apart.edges").write_text("a b\nc d\n")
    _, out, _ = call("show apart.edges")
    assert "not connected" in out
    assert "stay connected" not in out


def test_values_behind_commas_are_for_one_source(call: Call) -> None:
    words = "random_regular,degree=4 ring complete,groups=4,schedule=grid torus,mixing=fastest"
    four, ring, groups, torus = found(call, f"compare {words} --nodes 16")
    alone = found(call, "show random_regular --nodes 16 --set degree=4")
    assert {name: alone[name] for name in four} == four
    assert (four["degree_mean"], ring["degree_mean"]) == (4, 2)
    assert (groups["name"], groups["rounds_measured"]) == ("grid groups of 4 on complete", 2)
    assert (torus["name"], torus["mixing"]) == ("torus, fastest weights", "fastest")


def test_an_audit_of_every_way_to_mix(call: Call) -> None:
    gossip, sums, groups = found(call, "audit complete --nodes 12 --groups 6 --colluders 2")
    assert [each["scheme"] for each in (gossip, sums, groups)] == ["gossip", "sums", "groups"]
    assert gossip["safe_up_to"] == 0
    assert [each["leverage"] for each in sums["coalitions"]] == pytest.approx([1 / 11, 1 / 10])
    assert [each["leverage"] for each in groups["coalitions"]] == pytest.approx([1 / 5, 1 / 4])
    _, out, _ = call("audit complete --nodes 12 --groups 6 --colluders 2")
    assert "random groups of 6 on complete  2        all 66    0.0%" in out
    assert "Random groups of 6 on complete: No pool of up to 2 curious nodes" in out


def test_an_audit_says_when_it_has_looked_at_some_only(call: Call) -> None:
    words = "audit random_regular --nodes 20 --colluders 2 --limit 50 --scheme sums"
    (sums,) = found(call, words)
    assert [each["exact"] for each in sums["coalitions"]] == [True, False]
    _, out, _ = call(words)
    assert "all 20 " in out
    assert "50 of 190, drawn" in out


OWN = """
import networkx as nx

def pairs(nodes, beacon, *, chords=0):
    graph = nx.cycle_graph(nodes)
    graph.add_edges_from((nodes[0], nodes[2 + at]) for at in range(chords))
    return graph

def broken(nodes, beacon):
    return lambda round: 1 / 0
"""


def test_code_of_ones_own(call: Call) -> None:
    Path("mine.py").write_text(OWN)
    assert found(call, "show mine.py:pairs --nodes 9 --set chords=2")["edges"] == 11
    status, out, err = call("show mine.py:broken --nodes 9")
    assert (status, out) == (ExitCode.USAGE, "")
    assert err.startswith(
        "p2pfl: error: mine.py:broken fails: ZeroDivisionError: division by zero (mine.py, line 10)\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("show rnig --nodes 5", "no topology 'rnig'; there are barabasi_albert"),
        ("show ring", "ring needs a number of nodes"),
        ("show ring --nodes many", "--nodes many: neither a number nor a graph file"),
        ("show ring --nodes 9 --set degree", "--set degree: not NAME=VALUE"),
        ("show ring --nodes 9 --set degree=4", "ring has no parameter 'degree'; it has none"),
        ("show ring --nodes 9 --mixing best", "unknown mixing scheme 'best'"),
        ("show ring --nodes 9 --seed -1", "--seed -1: must be from 0"),
        ("show ring --nodes 999999999", "--nodes 999999999: at most 20000"),
        ("show ring --nodes 9 --parameters 0", "argument --parameters: must be a whole number above 0"),
        ("show missing.graphml", "no file missing.graphml"),
        ("show missing.py:ring --nodes 9", "no file missing.py"),
        ("show hospitals --nodes 9", "hospitals has 20 nodes, not 9"),
        ("show complete --nodes 10 --groups 4 --schedule grid", "10 nodes fill no grid"),
        ("show complete --nodes 9 --groups 2 --minimum 3", "groups of 2 of at least 3 members"),
        (
            "show directed_exponential --nodes 9 --groups 4",
            "groups need a graph that stays and goes both ways",
        ),
        ("show complete,schedule=best --nodes 9", "unknown schedule 'best'"),
        ("audit ring --nodes 5 --colluders 4", "4 colluders among 5 nodes"),
        ("audit directed_exponential --nodes 9 --scheme groups", "is no schedule of groups"),
        ("plot ring.pdf ring --nodes 5", "ring.pdf must end in .svg or .png"),
        ("plot ring.svg ring --nodes 5 --round -1", "--round -1: must be from 0"),
        (f"plot ring.svg ring --nodes {MOST_NODES + 1}", "nodes are too many to draw"),
        ("plot no/such/place.svg ring --nodes 5", "no/such"),
        ("compare ring --nodes 5 --plot ring.txt", "ring.txt must end in"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(call: Call, words: str, said: str) -> None:
    status, out, err = call(words)
    assert status in (ExitCode.USAGE, ExitCode.STORAGE)
    assert out == ""
    message, *hints = err.splitlines()
    assert message.startswith("p2pfl: error: ")
    assert said in message
    assert len(hints) == 1
    assert hints[0].startswith("p2pfl: hint: ")


# -- pictures
def texts(picture: Path) -> list[str]:
    """What is written in an SVG."""
    return [
        "".join(each.itertext()).strip()
        for each in ElementTree.parse(picture).iter()
        if each.tag.endswith("}text")
    ]


def test_a_picture_is_the_same_every_time(call: Call) -> None:
    for name in ("one.svg", "two.svg"):
        assert call(f"plot {name} torus one_peer_exponential random_regular,groups=4 --nodes 12")[0] == 0
    assert Path("one.svg").read_bytes() == Path("two.svg").read_bytes()
    assert texts(Path("one.svg")) == ["torus", "one_peer_exponential", "random groups of 4 on random_regular"]


def test_regions_are_named_and_coloured(call: Call) -> None:
    status, out, err = call("plot regions.svg hospitals --json")
    assert (status, err) == (0, "p2pfl: wrote regions.svg\n")
    written = texts(Path("regions.svg"))
    assert {"east", "moor-clinic"} <= set(written)
    (drawn,) = json.loads(out)
    assert set(drawn["places"]) == set(topology("hospitals").nodes) <= set(written)
    used = [colour for colour in figures.COLOURS if f"fill: {colour}" in Path("regions.svg").read_text()]
    assert len(used) == 4


def test_names_are_shown_as_they_are(call: Call) -> None:
    names = ["<b>&amp;", "$x$", "a$", "ok"]
    Path("odd.edges").write_text("\n".join(f"{name} ok" for name in names[:3]))
    assert call("plot odd.svg odd.edges")[0] == 0
    assert set(names) <= set(texts(Path("odd.svg")))


def test_of_a_large_graph_only_the_groups_are_drawn(call: Call) -> None:
    (drawn,) = json.loads(call("plot groups.svg complete,groups=4 --nodes 220 --json")[1])
    assert len(drawn["links"]) == 55 * 6
    assert "#d9d9d9" not in Path("groups.svg").read_text()
    assert "24090 edges are too many to draw" in call("plot all.svg complete --nodes 220")[2]


def test_png(call: Call) -> None:
    assert call("plot ring.png ring --nodes 5")[0] == 0
    assert Path("ring.png").read_bytes().startswith(b"\x89PNG")


def test_a_comparison_is_drawn(call: Call) -> None:
    assert call("compare ring complete,groups=4 epidemic --nodes 16 --plot all.svg")[0] == 0
    assert {"ring", "random groups of 4 on complete", "epidemic", "rounds", "MB sent by a node"} <= set(
        texts(Path("all.svg"))
    )


def test_without_matplotlib(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    status, _, err = call("plot ring.svg ring --nodes 5")
    assert status == ExitCode.USAGE
    assert "pip install 'p2pfl-node[plots]'" in err
    assert not Path("ring.svg").exists()
    assert call("compare ring --nodes 5")[0] == 0


@pytest.mark.parametrize("name", sorted(entries()))
@pytest.mark.parametrize("nodes", [1, 2, 3, 12])
def test_every_family_finds_its_places(name: str, nodes: int) -> None:
    """Everybody has a place of their own, and nothing is outside of the picture."""
    parameters: dict[str, Any] = {"random_regular": {"degree": 2}, "hyper_hypercube": {"peers": 2}}.get(
        name, {}
    )
    made = topology(name, nodes, **parameters)
    places = Drawing(made, made).row()["places"]
    assert isinstance(places, dict)
    assert set(places) == set(made.nodes)
    assert len(set(places.values())) == nodes
    assert all(-1 <= coordinate <= 1 for place in places.values() for coordinate in place)
