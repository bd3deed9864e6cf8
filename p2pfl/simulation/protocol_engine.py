"""Whole federations of real machines on a virtual network, under everything that a scenario lets happen."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, Final, Protocol

import networkx as nx  # type: ignore[import-untyped]  # ships no type information
import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.declared import ManifestError
from p2pfl.gossip.events import (
    Begin,
    Completed,
    Connect,
    Contribute,
    Contribution,
    Effect,
    EpochBegan,
    Event,
    Evidence,
    Prepared,
    Skipped,
    TimerExpired,
    Values,
    Waiting,
)
from p2pfl.gossip.evidence import Accusation
from p2pfl.gossip.manifest import Manifest
from p2pfl.gossip.participant import Participant
from p2pfl.gossip.simulation import Machine, SimNetwork
from p2pfl.gossip.wire import Limits
from p2pfl.simulation.byzantine import LIES, Liar
from p2pfl.simulation.faults import Faults
from p2pfl.simulation.protocol_network import Codec, Lines, ProtocolNetwork, drawn
from p2pfl.simulation.protocol_nodes import Drifting, Roll, WallClock
from p2pfl.simulation.scenario import Scenario
from p2pfl.simulation.trace import Recorded, Recorder
from p2pfl.topologies import files

START: Final = TimerExpired("scenario/start")
"""What a machine is handed first, to be started."""
_ENCODING_SECONDS: Final = 0.01
_STARTING_SECONDS: Final = 0.2
_STEP_SECONDS: Final = 0.25  # between two looks at whether all are done


class Work(Protocol):
    """What the nodes do besides the protocol; by number. All of it takes no simulated time by itself."""

    def prepare(self, node: int, round: int) -> Prepared | None:
        """Train for a round; None if nothing is left to do."""

    def contribute(self, node: int, effect: Contribute) -> Values:
        """What it adds to the sum."""

    def ended(self, node: int, end: Completed | Skipped, now: float) -> None:
        """A round is over."""

    def over(self, node: int, round: int) -> bool:
        """Whether there is nothing left to do from ``round`` on."""

    def epoch_began(self, node: int, effect: EpochBegan) -> None:
        """A roster is settled."""


@dataclass(slots=True)
class Node:
    """What the driver of one node keeps, through all its lives."""

    number: int
    lives: int = 0
    next_round: int = 0
    participant: Participant | None = None
    accusations: dict[PeerId, Accusation] = field(default_factory=dict)
    completed: list[int] = field(default_factory=list)
    skipped: list[tuple[int, str]] = field(default_factory=list)
    epochs: int = 0
    waited: Counter[str] = field(default_factory=Counter)
    finished_at: float | None = None


class Started:
    """A participant that is started by its first event."""

    def __init__(self, participant: Participant, clock: WallClock) -> None:
        self._participant, self._clock = participant, clock

    def handle(self, event: Event, now: float) -> list[Effect]:
        """As the participant does."""
        self._clock.now = now
        if event == START:
            return self._participant.start(now)
        return self._participant.handle(event, now)


class ProtocolFederation:
    """The nodes of ``scenario`` at ``work``, by the rules of ``manifest``. Paths are relative to ``base``.

    Raises ManifestError or TopologyError for a scenario that does not fit together.
    """

    def __init__(
        self,
        scenario: Scenario,
        work: Work,
        manifest: Manifest,
        limits: Limits,
        *,
        trace: Recorder | None = None,
        base: Path = Path(),
    ) -> None:
        self.scenario, self.manifest = scenario, manifest
        self.nodes = [Node(number) for number in range(scenario.nodes)]
        self.evidence: list[tuple[int, int, str]] = []
        """Who holds evidence against whom, and of what."""
        self._work, self._trace = work, trace
        self._roll = Roll(scenario, manifest)
        self._peers = [identity.peer_id for identity in self._roll.identities]
        self._number = {peer: number for number, peer in enumerate(self._peers)}
        self._rng = np.random.default_rng([scenario.seed, 1])
        self._faults = Faults(scenario, np.random.default_rng([scenario.seed, 2]))
        lines = Lines(
            scenario.network,
            scenario.nodes,
            self._faults.slower,
            _graph(scenario, base),
            np.random.default_rng([scenario.seed, 3]),
        )
        self.net = ProtocolNetwork(self._peers, self._perform, lines, scenario.network, Codec(limits))
        self._few = self._spare() if scenario.network.connections == "few" else None
        self._expected = set(range(scenario.nodes)) - self._faults.byzantine.keys() - self._faults.lost

    def run(self) -> "ProtocolFederation":
        """Until all who can be are done, or the scenario's time is over."""
        for node in self.nodes:
            # Organisations do not start at the same instant.
            self.net.call(float(self._rng.uniform(0, _STARTING_SECONDS)), partial(self.start, node.number))
        self._faults.schedule(self)
        self._schedule_breaks()
        at = 0.0
        while not self._settled() and at < self.scenario.seconds:
            at = min(at + _STEP_SECONDS, self.scenario.seconds)
            self.net.run(at)
            for node in self.nodes:
                if node.participant is not None and self.net.is_up(node.number):
                    self._look_at(node, node.participant.round)  # some have no group at the end
        return self

    @property
    def finished(self) -> bool:
        """Whether every honest node that is to be there at the end has done all rounds."""
        return all(self.nodes[number].finished_at is not None for number in self._expected)

    def _settled(self) -> bool:
        """Whether all are done, or most, so long ago that the rest waits in vain: nobody begins an epoch."""
        done = [self.nodes[number].finished_at for number in self._expected]
        times = sorted(at for at in done if at is not None)
        if len(times) <= len(done) // 2:
            return False
        timing = self.manifest.timing
        patience = timing.gather_seconds + timing.round_seconds
        return len(times) == len(done) or self.net.now > times[len(done) // 2] + patience

    def number_of(self, peer: PeerId) -> int:
        """Which node that is."""
        return self._number[peer]

    @property
    def honest(self) -> list[Node]:
        """Who follows the protocol in everything."""
        return [node for node in self.nodes if node.number not in self._faults.byzantine]

    # What faults do.

    def start(self, number: int) -> None:
        """Start a node, or start it again, and connect it."""
        node = self.nodes[number]
        if self.net.is_up(number):
            return
        node.lives += 1
        self.net.up(number, self._machine(node))
        self.net.handle(number, START)
        for other in self._wanted(number):
            self.net.connect(number, other)

    def kill(self, number: int) -> None:
        """At any moment, whatever it is doing."""
        if self.net.is_up(number):
            self.net.down(number)

    def pause(self, number: int, until: float) -> None:
        """Let a node stand still."""
        self.net.pause(number, until)

    def separate(self, side: Collection[int]) -> None:
        """Let nothing pass between ``side`` and all others."""
        for one, other in self._across(side):
            self.net.bar(one, other)

    def unite(self, side: Collection[int]) -> None:
        """Undo :meth:`separate`; those who were apart find each other after a while."""
        at = self.net.now + self.scenario.network.reconnect_seconds
        for one, other in self._across(side):
            self.net.unbar(one, other)
            if other in self._wanted(one) or one in self._wanted(other):
                self.net.call(at, partial(self.net.connect, one, other))

    def _across(self, side: Collection[int]) -> list[tuple[int, int]]:
        others = [number for number in range(self.scenario.nodes) if number not in side]
        return [(one, other) for one in sorted(side) for other in others]

    def _schedule_breaks(self) -> None:
        """When connections end by themselves."""
        spec, end = self.scenario.network, self.scenario.seconds
        if not spec.breaks_per_hour:
            return
        for one, other in combinations(range(self.scenario.nodes), 2):
            at = float(self._rng.exponential(3600 / spec.breaks_per_hour))
            while at < end:
                self.net.call(at, partial(self._break, one, other))
                at += float(self._rng.exponential(3600 / spec.breaks_per_hour))

    def _break(self, one: int, other: int) -> None:
        if self.net.connected(one, other):
            self.net.cut(one, other)

    # Who connects to whom.

    def _wanted(self, number: int) -> Sequence[int]:
        return range(self.scenario.nodes) if self._few is None else sorted(self._few[number])

    def _spare(self) -> list[set[int]]:
        """A few connections of everybody that do not depend on the epoch: a ring and random others."""
        count = self.scenario.nodes
        few: list[set[int]] = [set() for _ in range(count)]
        pairs = [(number, (number + 1) % count) for number in range(count)]
        for _ in range(round(count * (self.scenario.network.spare - 2) / 2)):
            one, other = self._rng.choice(count, 2, replace=False).tolist()
            pairs.append((one, other))
        for one, other in pairs:
            few[one].add(other)
            few[other].add(one)
        return few

    def _connect_groups(self, node: Node, first_round: int) -> None:
        """With whom the epoch will bring it together."""
        assert node.participant is not None
        last = min(first_round + self.manifest.timing.epoch_rounds, self.scenario.rounds + 1)
        for round in range(max(first_round, node.next_round), last):
            for peer in node.participant.group_of(round):
                self.net.connect(node.number, self._number[peer])

    # The driver of a node.

    def _machine(self, node: Node) -> Machine:
        clock = WallClock(self._faults.ahead.get(node.number, 0.0))
        kept = list(node.accusations.values())
        node.participant = self._roll.participant(node.number, node.lives, node.next_round, kept, clock)
        machine: Machine = Started(node.participant, clock)
        if self._trace is not None:
            self._trace.life(node.number, node.lives, node.next_round, kept, clock.ahead)
            machine = Recorded(machine, node.number, self._trace)
        if node.number in self._faults.drift:
            machine = Drifting(machine, 1 + self._faults.drift[node.number])
        for behaviour, since in self._faults.byzantine.get(node.number, ()):
            machine = Liar(machine, self._roll.identities[node.number], LIES[behaviour], since)
        return machine

    def _perform(self, net: SimNetwork, peer: PeerId, effect: Effect) -> None:
        node = self.nodes[self._number[peer]]
        match effect:
            case Begin(round):
                self._begin(node, round)
            case Contribute(round):
                node.next_round = round + 1
                values = self._work.contribute(node.number, effect)
                net.post(peer, Contribution(round, values), net.now + _ENCODING_SECONDS)
            case Completed() | Skipped():
                self._end(node, effect)
            case EpochBegan():
                node.epochs += 1
                self._work.epoch_began(node.number, effect)
                if self._few is not None:
                    self._connect_groups(node, effect.first_round)
            case Evidence():
                self._keep(node, effect)
            case Waiting(reason):
                node.waited[reason] += 1
            case Connect():
                pass  # whoever is to be connected is, or will be

    def _begin(self, node: Node, round: int) -> None:
        prepared = self._work.prepare(node.number, round)
        self._look_at(node, round)
        if prepared is None:
            return
        seconds = drawn(self.scenario.training, self._rng) * self._faults.slower.get(node.number, 1.0)
        self.net.post(self._peers[node.number], prepared, self.net.now + seconds)

    def _end(self, node: Node, end: Completed | Skipped) -> None:
        if isinstance(end, Completed):
            node.completed.append(end.round)
        else:
            node.skipped.append((end.round, end.reason))
        self._work.ended(node.number, end, self.net.now)
        self._look_at(node, end.round + 1)

    def _look_at(self, node: Node, round: int) -> None:
        """Note when it is done."""
        if node.finished_at is None and self._work.over(node.number, round):
            node.finished_at = self.net.now

    def _keep(self, node: Node, found: Evidence) -> None:
        accused = self._number[found.peer]
        self.evidence.append((node.number, accused, found.kind))
        match found.messages:
            case (Accusation() as accusation,):
                node.accusations[found.peer] = accusation
                self.net.bar(node.number, accused)


def _graph(scenario: Scenario, base: Path) -> nx.Graph | None:
    """The graph that the scenario names, if its nodes say all that is needed."""
    source = scenario.network.graph
    if not source:
        return None
    graph = files.read(source if source in files.examples() else base / source)
    if len(graph) != scenario.nodes:
        raise ManifestError("network.graph", f"{source} has {len(graph)} nodes; there are {scenario.nodes}")
    for node, known in graph.nodes(data=True):
        for name in ("latency", "bandwidth"):
            if not isinstance(known.get(name), int | float) or not known[name] > 0:
                raise ManifestError("network.graph", f"{source}: {node} needs a {name} above 0")
    return graph


class Sums:
    """The work of a scenario: vectors of random elements, whose every sum is checked.

    ``wrong`` tells of every sum that was not that of its survivors' vectors, or not the same for two members.
    """

    def __init__(self, scenario: Scenario, peers: Sequence[PeerId]) -> None:
        self.wrong: list[str] = []
        self._scenario = scenario
        self._number = {peer: number for number, peer in enumerate(peers)}
        self._ends: dict[tuple[int, tuple[PeerId, ...]], tuple[PeerId, ...]] = {}

    def values(self, node: int, round: int) -> NDArray[np.uint32]:
        """What a node contributes to a round: uint32, shape (elements,)."""
        rng = np.random.default_rng([self._scenario.seed, 4, node, round])
        return rng.integers(0, 1 << 32, self._scenario.elements, dtype=np.uint32)

    def prepare(self, node: int, round: int) -> Prepared | None:
        """Nothing to train; None after the last round."""
        if round >= self._scenario.rounds:
            return None
        return Prepared(round, "training", self._scenario.elements, bytes(32))

    def contribute(self, node: int, effect: Contribute) -> Values:
        """The same vector for whoever asks."""
        return self.values(node, effect.round)

    def ended(self, node: int, end: Completed | Skipped, now: float) -> None:
        """Check the sum."""
        if isinstance(end, Completed):
            survivors = self._ends.setdefault((end.round, end.members), end.survivors)
            expected = self._sum(end)
            if end.survivors != survivors or not np.array_equal(end.total, expected):
                self.wrong.append(f"round {end.round} at node {node}")

    def over(self, node: int, round: int) -> bool:
        """After the last round."""
        return round >= self._scenario.rounds

    def epoch_began(self, node: int, effect: EpochBegan) -> None:
        """Of no account."""

    def _sum(self, end: Completed) -> NDArray[Any]:
        total = np.zeros(self._scenario.elements, np.uint32)
        for peer in end.survivors:
            total += self.values(self._number[peer], end.round)
        return total
