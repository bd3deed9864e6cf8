"""What coalitions see, against the table of the literature notes and against cases one can check by hand."""

import networkx as nx  # type: ignore[import-untyped]  # ships no type information
import numpy as np
import pytest

from p2pfl.topologies.audit import Audit, audit, leverages
from p2pfl.topologies.errors import TopologyError
from p2pfl.topologies.grouped import grouped
from p2pfl.topologies.registry import topology
from p2pfl.topologies.topology import Topology


def exposing(found: Audit) -> list[float]:
    return [round(100 * each.exposing, 1) for each in found.coalitions]


def test_the_table_of_neighbourhood_sums() -> None:
    """n = 24, equal weights: the percentage of coalitions of 1, 2 and 3 nodes that isolate somebody.

    On the ring those are the coalitions with two neighbours in them: 24 of 276, 504 of 2,024."""
    assert exposing(audit(topology("ring", 24), 3, mixing="uniform")) == [0, 8.7, 24.9]
    assert exposing(audit(topology("torus", 24), 3, mixing="uniform")) == [0, 0, 0]
    assert exposing(audit(topology("random_regular", 24), 2, mixing="uniform")) == [0, 0]
    hubs = [audit(topology("barabasi_albert", 24, seed=seed), 1, mixing="uniform") for seed in range(6)]
    assert any(each.coalitions[0].exposing > 0 for each in hubs)


def test_one_clique_has_leverage_one_over_the_honest() -> None:
    for size, curious in ((4, 1), (5, 2), (7, 1)):
        found = audit(topology("complete", size), curious, mixing="uniform")
        assert found.coalitions[-1].leverage == pytest.approx(1 / (size - curious))
        assert found.safe_up_to == curious


def test_several_rounds_of_neighbourhood_sums() -> None:
    """n = 24, 20 rounds, Metropolis weights: the worst mean leverage for one curious node."""
    for name, expected in (("ring", 0.44), ("torus", 0.20)):
        found = audit(topology(name, 24), 1, rounds=20)
        assert found.coalitions[0].leverage == pytest.approx(expected, abs=0.01)


def test_plain_gossip_exposes_all_neighbours_and_says_so() -> None:
    found = audit(topology("ring", 12), 1, scheme="gossip")
    assert found.coalitions[0].exposing == 1
    assert len(found.coalitions[0].exposed) == 2
    assert "secure sums" in found.advice
    distant = audit(nx_path(), 1, scheme="gossip", rounds=4)
    assert distant.coalitions[0].leverage == pytest.approx(1)


def nx_path() -> Topology:
    return topology(nx.relabel_nodes(nx.path_graph(4), str))


def test_groups_expose_nobody_below_their_threshold() -> None:
    """Groups of 5, one colluder assumed: three see a sum of two, four rebuild the masks."""
    schedule = grouped(topology("complete", 5), size=5)
    found = audit(schedule, 3)
    assert found.scheme == "groups"
    assert [each.leverage for each in found.coalitions] == pytest.approx([1 / 4, 1 / 3, 1 / 2])
    assert not any(each.exposing for each in found.coalitions)
    schedule = grouped(topology("complete", 6), size=6)
    assert [bool(each.exposing) for each in audit(schedule, 4).coalitions] == [False, False, False, True]
    assert [bool(each.exposing) for each in audit(schedule, 4, assumed=3).coalitions] == [False] * 4


def test_groups_of_random_partitions_stay_clean_when_all_sums_are_public() -> None:
    """Every fresh update is in exactly one sum: 1 / (k − curious inside), whatever else is known."""
    schedule = grouped(topology("complete", 20), size=5, seed=4)
    assert audit(schedule, 1, rounds=4, public=True).coalitions[0].peak == pytest.approx(1 / 4)
    overlapping = audit(topology("random_regular", 20), 1, public=True)
    assert overlapping.coalitions[0].leverage == pytest.approx(1)


def test_sampling_is_said() -> None:
    found = audit(topology("torus", 24), 3, limit=300)
    assert [each.exact for each in found.coalitions] == [True, True, False]
    assert [each.examined for each in found.coalitions] == [24, 276, 300]
    assert found.coalitions[-1].total == 2024
    assert "drawn" in found.advice
    assert found == audit(topology("torus", 24), 3, limit=300)


def test_cut_vertices_and_who_they_isolate() -> None:
    found = audit(topology("hospitals"), 1)
    assert [cut.node for cut in found.cut_vertices] == ["westbridge-general"]
    assert found.cut_vertices[0].isolated == ("forest", "lakeside", "moor-clinic")
    assert "If westbridge-general fails, forest, lakeside, moor-clinic are cut off" in found.advice
    assert audit(topology("ring", 9), 1).cut_vertices == ()


def test_leverage_is_the_diagonal_of_the_projection() -> None:
    seen = np.array([[1.0, 1, 0, 0], [0, 1, 1, 0], [1, 2, 1, 0]])
    assert np.allclose(leverages(seen), np.diag(np.linalg.pinv(seen) @ seen))
    assert np.allclose(leverages(np.array([[1.0, 1, 1, 0], [1, 1, 0, 0]])), [0.5, 0.5, 1, 0])


def test_what_cannot_be_audited_is_refused() -> None:
    for wrong in (
        {"colluders": 11},
        {"colluders": 0},
        {"scheme": "trust"},
        {"scheme": "groups"},
        {"rounds": 100_000},
    ):
        with pytest.raises(TopologyError):
            audit(topology("ring", 12), **{"colluders": 1, **wrong})  # type: ignore[arg-type]
