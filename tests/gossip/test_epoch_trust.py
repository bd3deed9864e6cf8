"""What a node believes of what others say about epochs: liars, tickets, and one machine by hand."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from connected import IDENTITIES, PEERS, Silent, address
from epochs import FEDERATION, Federation, Timing, author

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.gossip.epoch import EpochMachine
from p2pfl.gossip.epoch_messages import MAX_ROSTER, NOTHING, Presence, Presences, Sync, Wanted
from p2pfl.gossip.errors import LocalProtocolError, RemoteProtocolError
from p2pfl.gossip.events import (
    Connect,
    Contribution,
    Effect,
    EpochBegan,
    PeerFound,
    PeerLost,
    Received,
    Send,
    TimerExpired,
)
from p2pfl.gossip.evidence import Accusation, without_payload
from p2pfl.gossip.presences import Author, PresenceSet
from p2pfl.gossip.simulation import steady
from p2pfl.gossip.wire import Message

# Liars.


def with_liar(size: int, liars: int = 1, epoch: int = 0, **options: object) -> Federation:
    """Honest nodes first, connected to the liars, who are the last ones."""
    federation = Federation(size, **options)  # type: ignore[arg-type]
    for number in range(size - liars):
        federation.start(number, 0.01 * number, epoch)
    for liar in range(size - liars, size):
        federation.net.machines[PEERS[liar]] = Silent()
        for number in range(size - liars):
            federation.net.post(PEERS[number], PeerFound(PEERS[liar]), 0.1)
    return federation


def lie(federation: Federation, at: float, message: Message, *receivers: int) -> None:
    for number in receivers or range(federation.size):
        if not isinstance(federation.net.machines.get(PEERS[number]), Silent):
            federation.net.post(PEERS[number], Received(message.author, message), at)


def test_a_far_epoch_of_one_colluder_drags_nobody() -> None:
    federation = with_liar(5)
    liar = author(4)
    for step, epoch in enumerate([1, 2, 50, 2000, 1 << 39]):
        presence = liar.presence(epoch, NOTHING)
        lie(federation, 0.2 + step, presence)
        lie(federation, 2.2 + step, Sync(PEERS[4], epoch, bytes(32), True, bytes([7]) * 32, epoch * 10))
        lie(federation, 3.2 + step, Presences(PEERS[4], (presence,)))
    federation.run(120)
    assert federation.epochs(0) == list(range(len(federation.epochs(0))))
    assert len(federation.epochs(0)) < 120 / federation.running
    assert federation.roster(0, 1) >= {0, 1, 2, 3}


@pytest.mark.parametrize(("size", "liars"), [(5, 2), (8, 3), (9, 4)])
def test_fewer_than_half_drag_nobody_however_many_may_collude_in_a_group(size: int, liars: int) -> None:
    """They are more than the colluders of a group, and enough for a roster of their own."""
    federation = with_liar(size, liars, epoch=3)
    last = range(size - liars, size)
    far = PresenceSet(FEDERATION, 5007, (author(number).presence(5007, NOTHING) for number in last))
    for step in range(20):
        for number in last:
            for message in (
                author(number).presence(5008, NOTHING),
                Sync(PEERS[number], 5008, bytes(32), True, far.digest, 50_080),
                Presences(PEERS[number], far.all()),
            ):
                lie(federation, 0.7 + step, message)
    federation.run(60)
    for number in range(size - liars):
        assert federation.epochs(number)[:3] == [3, 4, 5]
        assert max(federation.epochs(number)) < 20


def test_fewer_than_half_that_say_they_are_busy_hold_nobody_up_for_longer_than_a_round() -> None:
    federation = with_liar(7, 2, timing=Timing(round_seconds=20.0), listed=False)
    for step in range(300):
        for number in (5, 6):
            busy = Sync(PEERS[number], 1, bytes(32), False, bytes([1]) * 32, 0)
            lie(federation, 0.7 + step / 2, busy)
    federation.run(150)
    assert federation.epochs(0)[:3] == [0, 1, 2]
    waits = [federation.at(0, epoch + 1) - federation.at(0, epoch) for epoch in range(2)]
    assert max(waits) < federation.running + 20 + 15 + 1


def test_a_round_is_reached_when_most_of_the_neighbours_in_the_epoch_are_there() -> None:
    machine = opened(1, 2, 3, 4)
    closed = presences_of(0, 0, 1, 2, 3, 4)
    hand_over(machine, closed, 1.0, 1, 2, 3, 4)
    assert machine.current is not None
    for number, round in ((1, 9), (2, 9), (3, 3), (4, 4)):
        sync = Sync(PEERS[number], 1, bytes(32), False, closed.digest, round)
        machine.handle(Received(PEERS[number], sync), 1.1)
    assert machine.reached() == 4
    other = Sync(PEERS[4], 1, bytes(32), False, bytes([7]) * 32, 9)  # on another roster: no word in this
    machine.handle(Received(PEERS[4], other), 1.2)
    assert machine.reached() == 9


def test_nothing_is_asked_of_an_epoch_before_the_first() -> None:
    """Who claims that it closed one would be sent what no node may send."""
    machine = Federation(2).node(0).machine
    machine.start(0.0)
    machine.handle(PeerFound(PEERS[1]), 0.1)
    effects = machine.handle(Received(PEERS[1], Sync(PEERS[1], 0, bytes(32), True, bytes([1]) * 32, 0)), 0.2)
    assert not [e for e in effects if isinstance(e, Send) and isinstance(e.message, Wanted)]


def test_a_leap_is_bounded() -> None:
    federation = with_liar(4, colluders=0)
    lie(federation, 0.2, author(3).presence(200_000, NOTHING))
    federation.run(60)
    assert max(federation.epochs(0)) < 100


def test_below_the_minimum_colluders_waste_an_epoch_per_gather_time_and_no_more() -> None:
    federation = with_liar(3)
    for step in range(600):
        epoch = max(federation.epochs(0), default=0)
        lie(federation, 0.2 + step * 0.1, author(2).presence(1000 + epoch, NOTHING))
    federation.run(61)
    assert federation.machine(0)._exchange.gathering.epoch <= 61 // 15


def test_a_signer_of_two_presences_is_left_out_everywhere_and_shown() -> None:
    federation = with_liar(5)
    one = author(4).presence(0, NOTHING)
    forged = replace(one, nonce=bytes([9]) * 32)
    other = replace(forged, signature=IDENTITIES[4].sign(Presence.LABEL or b"", forged.signed_bytes()))
    lie(federation, 0.7, one, 0, 1)
    lie(federation, 0.7, other, 2, 3)
    federation.run(30)
    assert federation.agreed(0) == {0, 1, 2, 3}
    assert {number for number, _ in federation.evidence} == {0, 1, 2, 3}
    assert len(federation.evidence) == 4
    for _, evidence in federation.evidence:
        assert evidence.peer == PEERS[4]
        (accusation,) = evidence.messages
        assert isinstance(accusation, Accusation)
        assert set(accusation.messages) == {without_payload(one), without_payload(other)}


def test_other_addresses_are_no_second_presence() -> None:
    federation = with_liar(4)
    moved = replace(author(3), addresses=("/ip4/10.9.9.9/tcp/1",))
    lie(federation, 0.7, author(3).presence(0, NOTHING))
    lie(federation, 0.8, moved.presence(0, NOTHING))
    federation.run(5)
    assert federation.roster(0, 0) == {0, 1, 2, 3}
    assert not federation.evidence


def test_a_neighbour_that_never_agrees_delays_the_epoch_by_the_gather_time() -> None:
    federation = with_liar(4)
    lie(federation, 0.7, author(3).presence(0, NOTHING))
    for step in range(200):
        lie(federation, 0.8 + 0.2 * step, Sync(PEERS[3], 0, bytes([step]) * 32, True, NOTHING, 0))
    federation.run(30)
    assert 15 < federation.at(0, 0) < 17
    assert federation.roster(0, 0) == {0, 1, 2, 3}


def test_one_neighbour_cannot_close_a_roster_that_leaves_others_out() -> None:
    """The liar shows a true but small roster as closed while the others still wait for the fourth."""
    federation = with_liar(5)
    small = [author(number).presence(0, NOTHING) for number in (0, 1, 4)]
    claim = Sync(PEERS[4], 1, bytes(32), True, PresenceSet(FEDERATION, 0, small).digest, 10)
    lie(federation, 0.61, small[2])
    lie(federation, 0.62, claim)
    lie(federation, 0.63, Presences(PEERS[4], tuple(small)))
    federation.run(20)
    for number in range(4):
        assert federation.roster(number, 0) == {0, 1, 2, 3, 4}


# Strangers and tickets.


def test_strangers_are_refused() -> None:
    federation = Federation(5, strangers=frozenset({4})).start_all().run(30)
    assert federation.agreed(0) == {0, 1, 2, 3}
    assert federation.epochs(4) == []
    assert {error.reason for _, error in federation.net.errors} == {"not a member of this federation"}


def test_a_member_with_a_ticket_that_half_of_the_others_never_met_splits_no_roster() -> None:
    apart = frozenset({(5, 0), (5, 1)})
    federation = (
        Federation(6, tickets={5: "good"}, apart=apart, running=2.0, encoded=True).start_all().run(60)
    )
    assert min(len(federation.epochs(number)) for number in range(6)) > 15
    for epoch in range(15):
        assert federation.agreed(epoch) == set(range(6))
    assert not federation.net.errors


def test_a_presence_that_nothing_admits_costs_its_bringer_the_connection_and_goes_no_further() -> None:
    for ticket in ("", "forged"):
        machine = opened(1, 2)
        foreign = author(7, ticket).presence(0, NOTHING)
        for message in (foreign, Presences(PEERS[1], (author(2).presence(0, NOTHING), foreign))):
            with pytest.raises(RemoteProtocolError, match="whom nothing admits") as caught:
                machine.handle(Received(PEERS[1], message), 1.1)
            assert caught.value.peer == PEERS[1]
        assert machine._exchange.gathering.roster == (PEERS[0],)
        assert machine.handle(Received(PEERS[2], author(2).presence(0, NOTHING)), 1.2) != []


def test_a_ticket_that_has_expired_only_here_is_nobodys_fault() -> None:
    machine = opened(1, 2)
    late = author(7, "expired").presence(0, NOTHING)
    assert machine.handle(Received(PEERS[1], late), 1.1) == []
    assert machine.handle(Received(PEERS[1], Presences(PEERS[1], (late,))), 1.2) == []
    assert PEERS[7] not in machine._exchange.gathering.authors


def test_a_roster_that_others_closed_before_a_ticket_expired_is_taken() -> None:
    machine = opened(1, 2)
    late = author(7, "expired").presence(0, NOTHING)
    closed = PresenceSet(FEDERATION, 0, [*presences_of(0, 0, 1, 2).all(), late])
    assert began(hand_over(machine, closed, 1.0, 1, 2)) == [closed.roster]
    assert PEERS[7] in closed.roster


def test_presences_of_other_federations_are_the_senders_fault() -> None:
    machine = Federation(3).node(0).machine
    machine.start(0.0)
    machine.handle(PeerFound(PEERS[1]), 1.0)
    foreign = Author(IDENTITIES[1], bytes(32), ()).presence(0, NOTHING)
    for message in (foreign, Presences(PEERS[1], (foreign,))):
        with pytest.raises(RemoteProtocolError, match=r"another federation|belong together"):
            machine.handle(Received(PEERS[1], message), 1.1)
    mixed = Presences(PEERS[1], (author(1).presence(0, NOTHING), author(1).presence(1, NOTHING)))
    with pytest.raises(RemoteProtocolError, match="belong together"):
        machine.handle(Received(PEERS[1], mixed), 1.1)


def test_answers_are_rationed() -> None:
    machine = Federation(3).node(0).machine
    machine.start(0.0)
    machine.handle(PeerFound(PEERS[1]), 1.0)
    machine.handle(Received(PEERS[1], author(1).presence(0, NOTHING)), 1.0)
    wanted = Received(PEERS[1], Wanted(PEERS[1], 0, NOTHING))
    answers = [
        effect
        for tick in range(100)
        for effect in machine.handle(wanted, 1.0 + tick / 100)
        if isinstance(effect, Send) and isinstance(effect.message, Presences)
    ]
    assert 5 <= len(answers) <= 9


# One machine, by hand.


def opened(*neighbours: int, **options: object) -> EpochMachine:
    """Node 0, gathering for epoch 0 since half a second, with these neighbours."""
    machine = Federation(5, listed=False, timing=Timing(gather_seconds=2), **options).node(0).machine  # type: ignore[arg-type]
    machine.start(0.0)
    for number in neighbours:
        machine.handle(PeerFound(PEERS[number]), 0.1)
    machine.handle(TimerExpired("epoch/open"), 0.5)
    return machine


def presences_of(epoch: int, *numbers: int) -> PresenceSet:
    return PresenceSet(FEDERATION, epoch, (author(number).presence(epoch, NOTHING) for number in numbers))


def hand_over(machine: EpochMachine, closed: PresenceSet, now: float, *neighbours: int) -> list[Effect]:
    """These neighbours say that this roster is closed, and show it."""
    effects = []
    for number in neighbours:
        sync = Sync(PEERS[number], closed.epoch + 1, bytes(32), True, closed.digest, 10)
        effects += machine.handle(Received(PEERS[number], sync), now)
        effects += machine.handle(Received(PEERS[number], Presences(PEERS[number], closed.all())), now)
    return effects


def began(effects: list[Effect]) -> list[tuple[PeerId, ...]]:
    return [effect.roster for effect in effects if isinstance(effect, EpochBegan)]


@pytest.mark.parametrize(("late", "taken"), [(0.3, True), (0.9, True), (1.1, False)])
def test_one_neighbour_is_believed_about_what_was_complete_a_moment_ago(late: float, taken: bool) -> None:
    """Node 3 comes in just when another node has closed a roster without it."""
    machine = opened(1, 2)
    roster = presences_of(0, 0, 1, 2)
    for number in (1, 2):
        machine.handle(Received(PEERS[number], author(number).presence(0, NOTHING)), 2.1)
        sync = Sync(PEERS[number], 0, roster.digest, True, NOTHING, 0)
        machine.handle(Received(PEERS[number], sync), 2.1)
    machine.handle(PeerFound(PEERS[3]), 2.2)
    machine.handle(Received(PEERS[3], author(3).presence(0, NOTHING)), 2.2)
    sync = Sync(PEERS[1], 1, bytes(32), False, roster.digest, 0)
    answer = Presences(PEERS[1], roster.all())
    effects = [e for m in (sync, answer) for e in machine.handle(Received(PEERS[1], m), 2.1 + late)]
    assert began(effects) == ([roster.roster] if taken else [])


def test_a_lone_neighbour_is_believed_in_the_end() -> None:
    machine = opened(1)
    closed = presences_of(7, 1, 2, 3)
    hand_over(machine, closed, 1.0, 1)
    machine.handle(TimerExpired("epoch/beat"), 2.9)
    assert machine._exchange.gathering.epoch <= 7
    machine.handle(TimerExpired("epoch/beat"), 3.0)
    assert machine._exchange.closed is not None
    assert machine._exchange.closed.digest == closed.digest
    assert machine._exchange.gathering.epoch == 8


def test_a_neighbour_that_others_contradict_is_not() -> None:
    machine = opened(1, 2)
    machine.handle(Received(PEERS[2], Sync(PEERS[2], 0, bytes(32), True, NOTHING, 0)), 1.0)
    hand_over(machine, presences_of(7, 1, 3, 4), 1.0, 1)
    machine.handle(TimerExpired("epoch/beat"), 60.0)
    assert machine._exchange.closed is None


def test_no_roster_with_a_stranger_or_below_the_minimum_is_taken() -> None:
    machine = opened(1, 2, strangers=frozenset({4}))
    with pytest.raises(RemoteProtocolError, match="whom nothing admits"):
        hand_over(machine, presences_of(0, 0, 1, 2, 4), 1.0, 1, 2)
    assert began(hand_over(machine, presences_of(0, 0, 1), 1.0, 1, 2)) == []
    assert began(hand_over(machine, presences_of(0, 0, 1, 2), 1.0, 1, 2)) != []


def test_who_follows_begins_with_the_presences_that_led_it() -> None:
    machine = opened(1)
    for number in (2, 3, 4):
        machine.handle(Received(PEERS[1], author(number).presence(9, NOTHING)), 1.0)
    machine.handle(TimerExpired("epoch/beat"), 2.5)
    effects = machine.handle(TimerExpired("epoch/beat"), 3.0)
    syncs = [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Sync)]
    assert syncs[-1].epoch == 9
    assert syncs[-1].digest == presences_of(9, 0, 2, 3, 4).digest


def test_a_driver_that_has_committed_itself_stays() -> None:
    machine = opened(1, 2, 3)
    mine, other = presences_of(0, 0, 1, 2), presences_of(0, 0, 1, 2, 3)
    assert began(hand_over(machine, mine, 1.0, 1, 2)) == [mine.roster]
    machine.committed = True
    for number in (1, 2, 3):
        machine.handle(PeerFound(PEERS[number]), 1.0)
    assert began(hand_over(machine, other, 1.1, 1, 2, 3)) == []
    machine.committed = False
    assert began(machine.handle(TimerExpired("epoch/beat"), 1.2)) == [other.roster]


def told(effects: list[Effect]) -> list[tuple[str, ...]]:
    return [effect.addresses for effect in effects if isinstance(effect, Connect)]


def test_the_driver_hears_where_members_are_connected_or_not() -> None:
    machine = opened(1)
    for number in (1, 2):
        presence = author(number).presence(0, NOTHING)
        assert told(machine.handle(Received(PEERS[1], presence), 1.0)) == [(address(number),)]
        assert told(machine.handle(Received(PEERS[1], presence), 9.0)) == []
    assert told(machine.handle(PeerLost(PEERS[1]), 9.1)) == []


def test_new_addresses_are_told_but_not_all_the_time() -> None:
    machine = opened(1)
    heard = []
    for tick in range(100):
        moved = replace(author(2), addresses=(f"/ip4/10.0.0.2/tcp/{1 + tick}",))
        heard += told(machine.handle(Received(PEERS[1], moved.presence(0, NOTHING)), 1.0 + tick / 10))
    assert heard[:2] == [("/ip4/10.0.0.2/tcp/1",), ("/ip4/10.0.0.2/tcp/21",)]
    assert len(heard) == 5


def test_what_is_remembered_of_addresses_is_bounded() -> None:
    machine = opened(1)
    for number in range(MAX_ROSTER + 50):
        crowd = Author(Identity.from_seed(number.to_bytes(32, "big")), FEDERATION, ("/ip4/10.0.0.1/tcp/1",))
        machine._exchange._locate(crowd.presence(0, NOTHING), 1.0)
    assert len(machine._exchange._located) == MAX_ROSTER


def test_words_of_a_lost_connection_are_ignored() -> None:
    machine = opened(1)
    machine.handle(PeerLost(PEERS[1]), 1.0)
    assert machine.handle(Received(PEERS[1], author(1).presence(0, NOTHING)), 1.1) == []
    assert machine.connected == ()


# Drivers that err.


def test_driver_errors() -> None:
    machine = Federation(3).node(0).machine
    with pytest.raises(LocalProtocolError, match="no epoch to finish"):
        machine.finish(0.0)
    with pytest.raises(LocalProtocolError, match="no event of an epoch"):
        machine.handle(Contribution(0, np.zeros(1, np.uint32)), 0.0)


def test_a_few_who_withhold_a_presence_keep_nobody_out() -> None:
    """All to whom the author's only neighbour may happen to pass it on; digests bring it to the others."""
    author, usual = PEERS[6], steady(0.05)

    def link(one: PeerId, other: PeerId, message: Message, rng: np.random.Generator) -> Iterable[float]:
        shown = message.presences if isinstance(message, Presences) else (message,)
        about = any(isinstance(each, Presence) and each.author == author for each in shown)
        return () if about and one in PEERS[:3] else usual(one, other, message, rng)

    apart = frozenset((6, number) for number in range(5))
    federation = Federation(7, apart=apart, link=link, colluders=3).start_all().run(20)
    assert federation.agreed(0) == federation.agreed(1) == set(range(7))
