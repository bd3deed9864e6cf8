"""Who contradicts itself is out, everywhere and for good, and nobody else is."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from connected import IDENTITIES, PEERS, Silent
from epochs import FEDERATION, Federation, Timing, author
from hypothesis import given, settings
from hypothesis import strategies as st
from statements import contradicted
from swarm import TIMING, Swarm

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.gossip.epoch import EpochMachine
from p2pfl.gossip.epoch_messages import MAX_ROSTER, NOTHING, Presence, Presences, Sync
from p2pfl.gossip.errors import RemoteProtocolError
from p2pfl.gossip.events import (
    Begin,
    Completed,
    Effect,
    EpochBegan,
    Event,
    Evidence,
    PeerFound,
    Received,
    Send,
    TimerExpired,
)
from p2pfl.gossip.evidence import Accusation, contradiction, without_payload
from p2pfl.gossip.manifest import GroupSpec
from p2pfl.gossip.messages import Masked, Survivors
from p2pfl.gossip.presences import Author, PresenceSet
from p2pfl.gossip.simulation import Machine, unreliable
from p2pfl.gossip.tickets import Standing
from p2pfl.gossip.wire import Message, signed


def two_presences(identity: Identity, epoch: int, ticket: str = "") -> tuple[Presence, Presence]:
    honest = Author(identity, FEDERATION, (), ticket).presence(epoch, NOTHING)
    return honest, signed(identity, replace(honest, nonce=bytes([9]) * 32))


def accusation(number: int, by: int, epoch: int = 0, ticket: str = "") -> Accusation:
    proof = contradiction(two_presences(IDENTITIES[number], epoch, ticket))
    assert proof is not None
    return Accusation(PEERS[by], ticket, proof)


# One machine, by hand.


def opened(*neighbours: int, tickets: dict[int, str] | None = None) -> EpochMachine:
    """Node 0, gathering for epoch 0, with these neighbours."""
    federation = Federation(6, listed=False, timing=Timing(gather_seconds=2), tickets=tickets or {})
    machine = federation.node(0).machine
    machine.start(0.0)
    for number in neighbours:
        machine.handle(PeerFound(PEERS[number]), 0.1)
    machine.handle(TimerExpired("epoch/open"), 0.5)
    return machine


def sent(effects: list[Effect], kind: type[Message] = Accusation) -> list[PeerId]:
    return [
        effect.peer for effect in effects if isinstance(effect, Send) and isinstance(effect.message, kind)
    ]


def evidence(effects: list[Effect]) -> list[PeerId]:
    return [effect.peer for effect in effects if isinstance(effect, Evidence)]


def test_it_is_passed_on_once_and_not_to_its_bringer() -> None:
    machine = opened(1, 2, 3)
    effects = machine.handle(Received(PEERS[1], accusation(4, by=1)), 1.0)
    assert sorted(sent(effects)) == sorted((PEERS[2], PEERS[3]))
    assert evidence(effects) == [PEERS[4]]
    assert machine.excluded == {PEERS[4]}
    for bringer, other in ((1, accusation(4, by=1)), (2, accusation(4, by=2, epoch=3))):
        for _ in range(100):
            assert machine.handle(Received(PEERS[bringer], other), 1.1) == []


def test_who_connects_later_hears_of_it_first_of_all() -> None:
    machine = opened(1)
    machine.handle(Received(PEERS[1], accusation(4, by=1)), 1.0)
    effects = machine.handle(PeerFound(PEERS[2]), 2.0)
    first = effects[0]
    assert isinstance(first, Send)
    assert first == Send(PEERS[2], accusation(4, by=0))


def test_it_is_known_after_a_restart() -> None:
    federation = Federation(5)
    federation.evidence.append((0, Evidence(PEERS[4], "lied", (accusation(4, by=0),))))
    machine = federation.node(0).machine
    machine.start(0.0)
    assert machine.excluded == {PEERS[4]}
    assert sent(machine.handle(PeerFound(PEERS[1]), 0.1)) == [PEERS[1]]
    assert machine.handle(PeerFound(PEERS[4]), 0.1) == []
    with pytest.raises(RemoteProtocolError, match="not a member"):
        machine.handle(Received(PEERS[4], author(4).presence(0, NOTHING)), 0.2)


def test_the_accused_counts_in_no_set_that_is_gathered() -> None:
    machine = opened(1, 2, 4)
    for number, epoch in ((1, 0), (2, 0), (4, 0), (4, 5)):
        machine.handle(Received(PEERS[number], author(number).presence(epoch, NOTHING)), 1.0)
    machine.handle(Received(PEERS[1], accusation(4, by=1)), 1.1)
    assert machine._exchange.gathering.roster == tuple(sorted(PEERS[:3]))
    assert machine._exchange.later() == []
    assert PEERS[4] not in machine.connected
    late = machine.handle(Received(PEERS[2], author(4).presence(0, NOTHING)), 1.2)
    assert sent(late, Presence) == []
    assert machine._exchange.gathering.roster == tuple(sorted(PEERS[:3]))


def test_who_brings_a_presence_of_the_accused_is_told_now_and_then() -> None:
    machine = opened(1, 2)
    machine.handle(Received(PEERS[1], accusation(4, by=1)), 1.0)
    late = author(4).presence(0, NOTHING)
    for at, message in enumerate((late, Presences(PEERS[2], (late, author(2).presence(0, NOTHING)))), 2):
        told = [sent(machine.handle(Received(PEERS[2], message), at + tick / 100)) for tick in range(100)]
        assert [peer for peers in told for peer in peers] == [PEERS[2]] * 8
    older = Federation(6, timing=Timing(gather_seconds=2)).node(0, 7).machine
    older.start(0.0)
    older.handle(PeerFound(PEERS[2]), 0.1)
    older.handle(Received(PEERS[2], accusation(4, by=2)), 0.2)
    assert sent(older.handle(Received(PEERS[2], author(4).presence(6, NOTHING)), 3.0)) == []  # history


def test_a_roster_that_others_closed_is_taken_with_the_accused_in_it() -> None:
    machine = opened(1, 2, 3)
    machine.handle(Received(PEERS[3], accusation(4, by=3)), 0.9)
    closed = PresenceSet(FEDERATION, 0, (author(number).presence(0, NOTHING) for number in (0, 1, 2, 4)))
    effects = []
    for number in (1, 2):
        sync = Sync(PEERS[number], 1, bytes(32), True, closed.digest, 10)
        effects += machine.handle(Received(PEERS[number], sync), 1.0)
        effects += machine.handle(Received(PEERS[number], Presences(PEERS[number], closed.all())), 1.0)
    assert [effect.roster for effect in effects if isinstance(effect, EpochBegan)] == [closed.roster]
    assert PEERS[4] in closed.roster


@pytest.mark.parametrize("ticket", ["good", "expired"])
def test_members_by_ticket_are_accused_with_it(ticket: str) -> None:
    machine = opened(1, 2, tickets={4: ticket})
    effects = machine.handle(Received(PEERS[1], accusation(4, by=1, ticket=ticket)), 1.0)
    assert machine.excluded == {PEERS[4]}
    assert sent(effects) == [PEERS[2]]


def test_the_ticket_that_a_presence_showed_goes_with_the_proof() -> None:
    machine = opened(1, 2, tickets={4: "good"})
    for presence in two_presences(IDENTITIES[4], 0, "good"):
        effects = machine.handle(Received(PEERS[1], presence), 1.0)
    assert Send(PEERS[2], accusation(4, by=0, ticket="good")) in effects


def test_an_accusation_of_a_stranger_costs_its_bringer_the_connection() -> None:
    machine = opened(1, 2)
    with pytest.raises(RemoteProtocolError, match="whom nothing admits") as caught:
        machine.handle(Received(PEERS[1], accusation(9, by=1)), 1.0)
    assert caught.value.peer == PEERS[1]
    assert not machine.excluded


def test_there_is_room_for_as_many_as_a_federation_has() -> None:
    machine = EpochMachine(
        author=author(0),
        expected=0,
        minimum=3,
        colluders=1,
        timing=Timing(),
        is_member=lambda peer: True,
        standing=lambda peer, ticket: Standing.MEMBER,
        epoch=0,
        check=Federation.check,
    )
    machine.start(0.0)
    machine.handle(PeerFound(PEERS[1]), 0.1)
    for number in range(MAX_ROSTER + 3):
        proof = contradiction(two_presences(Identity.from_seed(number.to_bytes(32, "big")), 0))
        assert proof is not None
        machine.handle(Received(PEERS[1], Accusation(PEERS[1], "", proof)), 1.0)
    assert len(machine.excluded) == MAX_ROSTER


def test_what_proves_nothing_to_others_stays_here() -> None:
    machine = opened(1, 2)
    one, other = two_presences(IDENTITIES[4], 0)
    for messages in ((one,), (one, one), (one, replace(other, signature=bytes(64)))):
        found = Evidence(PEERS[4], "lied", messages)
        assert machine.accuse(found, 1.0) == [found]
    assert not machine.excluded


def test_a_node_that_is_accused_itself_says_so_and_keeps_away() -> None:
    machine = opened(1, 2)
    effects = machine.handle(Received(PEERS[1], accusation(0, by=1)), 1.0)
    assert evidence(effects) == [PEERS[0]]
    assert PEERS[0] not in machine._exchange.gathering.authors


# Federations: they agree on who is out.

Place = Callable[[int, int], bool]


def ring(one: int, other: int) -> bool:
    return abs(one - other) in (1, 6)


def line_of_pairs(one: int, other: int) -> bool:
    return abs(one - other) <= 2


def everybody(one: int, other: int) -> bool:
    return True


def federation_of(size: int, joined: Place, **options: object) -> Federation:
    apart = frozenset((a, b) for a in range(size) for b in range(a) if not joined(b, a))
    return Federation(size, apart=apart, running=3.0, encoded=True, **options)  # type: ignore[arg-type]


def rosters(federation: Federation, epoch: int, honest: range) -> set[frozenset[int]]:
    return {frozenset(federation.roster(n, epoch)) for n in honest if epoch in federation.epochs(n)}


@dataclass
class Told:
    """Which epoch node 0 was handed two presences for."""

    epoch: int = -1


def contradict(federation: Federation, number: int, at: float) -> Told:
    """Let node 1 hand node 0 two presences of ``number``, which otherwise takes part as it should."""
    told = Told()

    def act() -> None:
        told.epoch = federation.machine(0)._exchange.gathering.epoch
        for presence in reversed(two_presences(IDENTITIES[number], told.epoch)):
            federation.net.post(PEERS[0], Received(PEERS[1], presence))

    federation.net.call(at, act)
    return told


@pytest.mark.parametrize("joined", [everybody, ring, line_of_pairs])
@pytest.mark.parametrize("at", np.arange(0.6, 6.0, 0.7).tolist())
def test_what_one_node_sees_excludes_everywhere_within_an_epoch(joined: Place, at: float) -> None:
    federation = federation_of(7, joined).start_all()
    told = contradict(federation, 6, at)
    federation.run(40)
    honest = range(6)
    last = min(max(federation.epochs(number)) for number in honest)
    assert last >= told.epoch + 4
    assert rosters(federation, told.epoch, honest) <= {frozenset(range(7)), frozenset(honest)}
    for epoch in range(told.epoch + 1, last + 1):
        assert rosters(federation, epoch, honest) == {frozenset(honest)}
    for number in honest:
        assert federation.machine(number).excluded == {PEERS[6]}
    assert sorted(number for number, _ in federation.evidence) in ([*honest], [*range(7)])
    assert {error.peer for _, error in federation.net.errors} <= {PEERS[6]}


@pytest.mark.parametrize("joined", [everybody, ring, line_of_pairs])
def test_who_was_away_learns_it_before_it_counts_the_accused(joined: Place) -> None:
    """And who has seen it all is away, too, and has kept it."""
    federation = federation_of(7, joined).start_all()
    contradict(federation, 6, 6.0)
    for number, gone, back in ((3, 4.0, 20.0), (2, 20.0, 30.0), (0, 25.0, 26.0)):
        federation.kill(number, gone).restart(number, back)
    federation.run(100)
    honest = range(6)
    last = min(max(federation.epochs(number)) for number in honest)
    assert max(federation.epochs(3)) >= last >= 8
    assert rosters(federation, last, honest) == {frozenset(honest)}
    later = [epoch for epoch in federation.epochs(3) if federation.at(3, epoch) > 20]
    assert all(6 not in federation.roster(3, epoch) for epoch in later)
    assert sorted(number for number, _ in federation.evidence if number != 6) == [*honest]


def test_a_lossy_network_agrees_all_the_same() -> None:
    """No transport of ours loses messages; whoever shows that it does not know is told again."""
    federation = federation_of(7, ring, link=unreliable(0.01, 0.05, drop=0.2)).start_all()
    contradict(federation, 6, 2.0)
    federation.run(120)
    honest = range(6)
    last = min(max(federation.epochs(number)) for number in honest)
    assert all(6 not in roster for roster in rosters(federation, last, honest))
    assert all(federation.machine(number).excluded == {PEERS[6]} for number in honest)


@dataclass
class Forger(Silent):
    """Shows everybody who connects an accusation that proves nothing."""

    shown: Accusation

    def handle(self, event: Event, now: float) -> list[Effect]:
        return [Send(event.peer, self.shown)] if isinstance(event, PeerFound) else []


def forged() -> dict[str, tuple[Message, Message]]:
    honest, other = two_presences(IDENTITIES[1], 3)
    elsewhere = two_presences(IDENTITIES[1], 4)[1]
    place = (7, 0, bytes(32))
    votes = [signed(IDENTITIES[n], Survivors(PEERS[n], *place, ())) for n in (1, 2)]
    return {
        "a bad signature": (honest, replace(other, signature=bytes(64))),
        "the same twice": (honest, honest),
        "two places": (honest, elsewhere),
        "a restart": (honest, signed(IDENTITIES[1], replace(honest, previous=bytes(32)[::-1]))),
        "two authors": (votes[0], votes[1]),
    }


@pytest.mark.parametrize("pair", forged().values(), ids=forged())
def test_a_forged_accusation_costs_its_bringer_the_connection_and_nobody_else(
    pair: tuple[Message, Message],
) -> None:
    federation = Federation(5, encoded=True)
    wires = (without_payload(pair[0]), without_payload(pair[1]))
    federation.net.machines[PEERS[4]] = Forger(Accusation(PEERS[4], "", wires))
    for number in range(4):
        federation.start(number)
        federation.net.post(PEERS[4], PeerFound(PEERS[number]), 1.0)
    federation.run(40)
    assert sorted((holder, error.peer) for holder, error in federation.net.errors) == sorted(
        (PEERS[number], PEERS[4]) for number in range(4)
    )
    assert federation.evidence == []
    assert federation.agreed(1) == {0, 1, 2, 3}


# Whole nodes.


@dataclass
class TwoFaced:
    """Takes part as it should, but that half of the others get another masked vector in rounds from
    ``first`` on.
    """

    machine: Machine
    number: int
    first: int

    def handle(self, event: Event, now: float) -> list[Effect]:
        return [self._tampered(effect) for effect in self.machine.handle(event, now)]

    def _tampered(self, effect: Effect) -> Effect:
        match effect:
            case Send(peer, Masked() as masked) if PEERS.index(peer) % 2 and self._is_mine(masked):
                place = (masked.round, masked.attempt, masked.roster)
                other = Masked.of(masked.author, place, 0, bytes(masked.data[:-1]) + b"x")
                return Send(peer, signed(IDENTITIES[self.number], other))
        return effect

    def _is_mine(self, masked: Masked) -> bool:
        return masked.author == PEERS[self.number] and masked.round >= self.first


@dataclass
class Liars(Swarm):
    """The last ``liars`` nodes are two-faced from round ``first`` on."""

    liars: int = 1
    first: int = 3

    @property
    def honest(self) -> range:
        return range(self.size - self.liars)

    def start(self, number: int, at: float = 0.0) -> "Liars":
        super().start(number, at)
        if number not in self.honest:

            def wrap() -> None:
                self.net.machines[PEERS[number]] = TwoFaced(
                    self.net.machines[PEERS[number]], number, self.first
                )

            self.net.call(at, wrap)
        return self

    def check(self, until: float) -> None:
        """Go on until then: sums are right, the liars are out everywhere, and nobody else is."""
        self.net.run(until)
        guilty = set(PEERS[: self.size]) - {PEERS[number] for number in self.honest}
        assert contradicted(sent.message for sent in self.net.sent) == guilty
        assert {error.peer for _, error in self.net.errors} <= guilty
        for number in self.honest:
            assert {evidence.peer for evidence in self.all(number, Evidence)} == guilty
            assert len(self.all(number, Evidence)) == len(guilty)
            assert self.all(number, EpochBegan)[-1].roster == tuple(sorted(PEERS[n] for n in self.honest))
            for completed in self.all(number, Completed):
                if not guilty & set(completed.survivors):
                    self._check_sum(completed)


@pytest.mark.parametrize("topology", ["complete", "ring", "random_regular"])
def test_two_masked_vectors_exclude_and_the_rounds_go_on(topology: str) -> None:
    size = 5 if topology == "complete" else 9
    swarm = Liars(size, encoded=True, groups=GroupSpec(topology=topology, size=3))
    swarm.start_all().check(40)
    known = min(at for number in swarm.honest for at, e in swarm.effects[number] if isinstance(e, Evidence))
    for number in swarm.honest:
        later = [(at, e) for at, e in swarm.effects[number] if at > known + 0.5]
        began = [e.epoch for _, e in later if isinstance(e, EpochBegan)]
        assert all(
            PEERS[size - 1] not in e.roster
            for _, e in later
            if isinstance(e, EpochBegan) and e.epoch > began[0]
        )
        assert all(PEERS[size - 1] not in e.survivors for _, e in later if isinstance(e, Completed))
        assert len([e for _, e in later if isinstance(e, Completed)]) >= 15
    assert len({e.kind for e in swarm.all(0, Evidence)}) == 1


def test_honest_nodes_that_were_away_learn_of_it_and_keep_it_over_restarts() -> None:
    swarm = Liars(6, first=6).start_all().kill(0, 2.0).start(0, 20.0)
    swarm.kill(1, 15.0).start(1, 22.0).kill(1, 30.0).start(1, 31.0)
    swarm.check(60)
    for number in (0, 1):
        last = max(effect.round for effect in swarm.all(number, Completed))
        assert last >= max(effect.round for effect in swarm.all(2, Completed)) - 1


def test_groups_that_are_too_small_without_the_accused_end_the_epoch() -> None:
    """Of eight in groups of four, two in different groups are out: in this epoch nobody has a group."""
    patient = replace(TIMING, epoch_rounds=500)
    swarm = Liars(8, liars=2, timing=patient, groups=GroupSpec(size=4, minimum=4))
    swarm.start_all().check(90)
    assert swarm.all(0, EpochBegan)[0].epoch == 0
    for number in swarm.honest:
        assert len(swarm.all(number, EpochBegan)) <= 4
        assert max(e.round for e in swarm.all(number, Completed)) > 520


def test_what_the_accused_sends_is_refused_from_then_on() -> None:
    swarm = Swarm(4).start_all()
    current, participant = swarm.run_until_prepared(0), swarm.participants[0]
    participant.handle(Received(PEERS[1], vectors_of(3, by=1)), swarm.net.now)
    assert current.machine._lost == {PEERS[3]}
    sync = Sync(PEERS[3], 1, bytes(32), True, bytes(32), 1)
    with pytest.raises(RemoteProtocolError, match="excluded") as caught:
        participant.handle(Received(PEERS[3], sync), swarm.net.now)
    assert caught.value.peer == PEERS[3]
    assert participant.handle(PeerFound(PEERS[3]), swarm.net.now) == []
    assert current.machine._lost == {PEERS[3]}


def vectors_of(number: int, by: int) -> Accusation:
    place = (1, 0, bytes(32))
    vectors = [Masked.of(PEERS[number], place, 0, bytes([value]) * 20) for value in (1, 2)]
    proof = contradiction([signed(IDENTITIES[number], vector) for vector in vectors])
    assert proof is not None
    return Accusation(PEERS[by], "", proof)


# Nobody else.


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**16), size=st.integers(4, 7), gone=st.sampled_from([0.3, 2.0]))
def test_crashes_restarts_and_partitions_make_nobody_contradict_itself(
    seed: int, size: int, gone: float
) -> None:
    swarm = Swarm(size, link=unreliable(0.005, 0.1, duplicate=0.1), seed=seed).start_all()
    swarm.net.call(swarm.chaos(12, gone), swarm.connect_all)
    swarm.run(20)
    assert contradicted(sent.message for sent in swarm.net.sent) == set()


def test_a_node_whose_ledger_was_put_back_contradicts_itself_in_no_place() -> None:
    """Its disk is an older copy: it takes part again in rounds that it has contributed to. That is not what
    an honest node does, but nothing that it signs can exclude it.
    """
    swarm = Swarm(4)
    for number in range(4):
        swarm.start(number, 0.1 * number)
    swarm.kill(3, 2.51).net.call(2.6, lambda: swarm.ledger[3].clear())
    swarm.start(3, 2.7)
    swarm.net.run(20)
    again = [e.round for e in swarm.all(3, Begin)]
    assert len(again) > len(set(again)) or min(again) == 0
    assert contradicted(sent.message for sent in swarm.net.sent) == set()
