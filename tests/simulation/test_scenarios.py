"""Scenarios: whole federations of the real machines under faults, against what they came to before."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest

from p2pfl.crypto.identity import Identity
from p2pfl.gossip.epoch_messages import NOTHING, Presences, Sync
from p2pfl.gossip.errors import RemoteProtocolError
from p2pfl.gossip.messages import Ack
from p2pfl.gossip.presences import Author
from p2pfl.gossip.records import FieldError
from p2pfl.gossip.wire import Limits, encode, signed
from p2pfl.simulation.protocol_network import Codec, Lines
from p2pfl.simulation.scenario import (
    Byzantine,
    Churn,
    Fixed,
    NetworkSpec,
    Region,
    Route,
    Scenario,
    Uniform,
    from_plain,
    from_text,
    read,
)
from p2pfl.simulation.scenario_report import baseline, changes, in_table, perform
from p2pfl.simulation.trace import Recorder, TraceError, replay
from p2pfl.topologies import files

SMALL = Scenario("a test", 4, rounds=3, elements=8)


def traced(scenario: Scenario, most_bytes: int = 1 << 30) -> list[str]:
    out = io.StringIO()
    perform(scenario, trace=Recorder(scenario, out, most_bytes))
    return out.getvalue().splitlines()


def test_the_table_of_scenarios_is_as_it_was_stored() -> None:
    rows = {name: perform(read(name)).row for name in in_table()}
    changed = "\n".join(changes(baseline(), rows))
    assert not changed, f"{changed}\nif that is as it should be: make scenarios"
    assert not any(row["wrong"] for row in rows.values())


def test_changes_are_said_number_by_number() -> None:
    before = {"calm": {"messages": 100, "wrong": 0}, "old": {}}
    after = {"calm": {"messages": 110, "wrong": 1}, "new": {}}
    assert list(changes(before, after)) == [
        "calm: messages was 100, is 110 (+10.0 %)",
        "calm: wrong was 0, is 1",
        "new: is new",
        "old: is gone",
    ]


@pytest.mark.slow
def test_a_crowd_of_two_hundred() -> None:
    report = perform(read("crowd-200"))
    assert report.finished
    assert not report.wrong
    assert report.row["completed"] >= 0.9 * 200 * report.rounds


def test_two_faces_are_excluded_and_the_others_go_on() -> None:
    liar = Byzantine("byzantine", "two-faced", nodes=(2,))
    report = perform(replace(SMALL, nodes=6, faults=(liar,)))
    assert report.excluded == (2,)
    assert report.accused == {2: 5}
    assert report.finished
    assert not report.wrong


# What a scenario may say.


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("nodes = 4", "about"),
        ("about = 'x'\nnodes = 2", "nodes"),
        ("about = 'x'\nnodes = 4\n[network]\nlatenc = 3", "network.latenc"),
        ("about = 'x'\nnodes = 4\n[network]\nlatency = { kind = 'fixd' }", "network.latency.kind"),
        ("about = 'x'\nnodes = 4\n[[faults]]\nkind = 'slow'\nfactor = 2", "faults[0]"),
        ("about = 'x'\nnodes = 4\n[[faults]]\nkind = 'slow'\nfactor = 2\nnodes = [4]", "faults[0].nodes"),
        (
            "about = 'x'\nnodes = 4\n[[faults]]\nkind = 'crash'\nat = 5\nuntil = 4\nshare = 1",
            "faults[0].until",
        ),
        ("about = 'x'\nnodes = 4\n[[network.regions]]\nname = 'a'\nnodes = 3", "network.regions"),
    ],
)
def test_a_scenario_that_makes_no_sense_is_refused_by_field(text: str, field: str) -> None:
    with pytest.raises(FieldError) as error:
        from_text(text)
    assert error.value.field == field


def test_an_unknown_name_is_answered_with_the_closest() -> None:
    with pytest.raises(FieldError, match="did you mean churn"):
        read("chrun")


@pytest.mark.parametrize("name", ["wan", "churn", "clocks", "byzantine"])
def test_a_scenario_survives_being_written_down(name: str) -> None:
    scenario = read(name)
    assert from_plain(scenario.table) == scenario


# The network.


def lines(spec: NetworkSpec, nodes: int = 4, slower: dict[int, float] | None = None) -> Lines:
    return Lines(spec, nodes, slower or {}, None, np.random.default_rng(0))


STEADY = NetworkSpec(Fixed("fixed", 0.1), Fixed("fixed", 8.0), jitter=0.0)


def test_messages_share_an_uplink_one_after_the_other() -> None:
    net = lines(STEADY, slower={1: 10.0})
    assert net.arrival(0, 1, 1_000_000, 5.0) == pytest.approx(6.1)
    assert net.arrival(0, 2, 500_000, 5.0) == pytest.approx(6.6)
    assert net.arrival(1, 2, 500_000, 5.0) == pytest.approx(10.1)
    assert net.arrival(0, 2, 0, 20.0) == pytest.approx(20.1)


def test_what_is_lost_is_sent_again() -> None:
    net = lines(replace(STEADY, loss=0.5, retry_seconds=1.0))
    delays = np.array([net.arrival(0, 1, 0, 0.0) for _ in range(2000)]) - 0.1
    assert np.isin(np.round(delays, 6), [2**count - 1 for count in range(30)]).all()
    assert np.mean(delays > 0.5) == pytest.approx(0.5, abs=0.05)


def test_routes_and_graphs_say_what_is_not_drawn() -> None:
    regions = (Region("here", 2), Region("there", 2))
    net = lines(replace(STEADY, regions=regions, routes=(Route(("there", "here"), 0.5),)))
    assert [net.latency(0, other) for other in (1, 2, 3)] == [0.1, 0.5, 0.5]
    graph = files.read("hospitals")
    known = [graph.nodes[node] for node in graph]
    from_graph = Lines(STEADY, len(known), {}, graph, np.random.default_rng(0))
    assert from_graph.latency(2, 1) == pytest.approx((known[1]["latency"] + known[2]["latency"]) / 1e3)


ONE, OTHER = Identity.from_seed(bytes(32)), Identity.from_seed(b"1" * 32)


def test_the_codec_checks_signatures_and_authors() -> None:
    codec = Codec(Limits(4))
    ack = signed(ONE, Ack(ONE.peer_id, 1, 0, bytes(32)))
    for _ in range(2):
        found, size = codec.cross(ONE.peer_id, ack)
        assert found == ack
        assert size == len(encode(ack))
    assert isinstance(codec.cross(OTHER.peer_id, ack)[0], RemoteProtocolError)
    assert isinstance(codec.cross(ONE.peer_id, replace(ack, round=2))[0], RemoteProtocolError)
    sync = Sync(ONE.peer_id, 1, bytes(32), True, NOTHING, 7)
    assert codec.cross(ONE.peer_id, sync)[0] == sync


def test_presences_weigh_what_they_weigh_on_the_wire_and_are_checked() -> None:
    author = Author(ONE, bytes(32), ("/ip4/10.0.0.1/tcp/4001",), "")
    shown = [author.presence(epoch, NOTHING) for epoch in range(3)]
    several, codec = Presences(OTHER.peer_id, tuple(shown)), Codec(Limits(4))
    assert codec.cross(OTHER.peer_id, several) == (several, len(encode(several)))
    forged = Presences(OTHER.peer_id, (shown[0], replace(shown[1], epoch=9)))
    assert isinstance(codec.cross(OTHER.peer_id, forged)[0], RemoteProtocolError)


# Traces.


def test_a_trace_is_replayed_by_fresh_machines_and_alike() -> None:
    trouble = (
        Churn("churn", 1.0, 20.0, 600.0, Uniform("uniform", 0.5, 2.0), share=0.5),
        Byzantine("byzantine", "two-faced", nodes=(1,)),
    )
    lines = traced(replace(SMALL, nodes=6, rounds=6, faults=trouble))
    done = replay(iter(lines))
    assert done.difference == ""
    assert done.lives > 6
    assert done.events == sum("event" in json.loads(line) for line in lines)


def test_another_answer_is_noticed() -> None:
    lines = traced(SMALL)
    for at, line in enumerate(lines):
        if '"contribution"' in line:
            lines[at] = line.replace("compute ", "computed ")
            break
    difference = replay(iter(lines)).difference
    assert "contribution: it answered computed 0" in difference
    assert "and now compute 0" in difference


def test_a_long_trace_is_cut_off_and_says_so() -> None:
    lines = traced(SMALL, most_bytes=20_000)
    assert sum(map(len, lines)) < 25_000
    done = replay(iter(lines))
    assert done.truncated
    assert done.events > 10
    assert done.difference == ""


@pytest.mark.parametrize("text", ["", "{}", "x", '{"trace": 2}', '{"trace": 1, "scenario": {}}'])
def test_what_is_no_trace_is_refused(text: str) -> None:
    with pytest.raises(TraceError):
        replay(iter(text.splitlines()))
