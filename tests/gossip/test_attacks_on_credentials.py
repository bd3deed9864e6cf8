"""What a member can do with keys of its own making, and what others signed elsewhere."""

from dataclasses import replace
from itertools import permutations

import pytest
from connected import IDENTITIES, PEERS
from epochs import FEDERATION
from hypothesis import given
from hypothesis import strategies as st
from test_exclusion import accusation, opened, two_presences
from test_revocations import NEW, NEWER, OTHER, retirement, revocation

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.gossip.epoch import EpochMachine
from p2pfl.gossip.epoch_messages import NOTHING, Presence
from p2pfl.gossip.errors import RemoteProtocolError
from p2pfl.gossip.events import Delivered, Effect, Received, Send
from p2pfl.gossip.evidence import Accusation, contradiction
from p2pfl.gossip.exclusions import Exclusions, Retirement
from p2pfl.gossip.manifest import Manifest, from_toml
from p2pfl.gossip.presences import Author
from p2pfl.gossip.successions import succeed
from p2pfl.gossip.tickets import Credentials, Standing, Ticket, issue, standing
from p2pfl.gossip.wire import Message

LISTED = IDENTITIES[4]
MANIFEST: Manifest = from_toml(
    f"""
    name = "hearts"
    members = {[PEERS[0], PEERS[1], PEERS[2], PEERS[3], LISTED.peer_id]}
    issuers = ["{PEERS[0]}"]
    task.label = "y"
    task.positive = ["1"]
    task.columns = [{{ name = "x", kind = "numeric", low = 0, high = 1 }}]
    model = {{ kind = "logistic" }}
    training = {{ rounds = 1, learning_rate = 1, sampling_rate = 1, expected_batch = 1 }}
    privacy = {{ mode = "none" }}
    """
)


def judging(*neighbours: int) -> EpochMachine:
    """Node 0, which judges credentials by a manifest."""
    machine = opened(*neighbours)

    def judged(peer: PeerId, ticket: str) -> Standing:
        return standing(MANIFEST, FEDERATION, peer, ticket, 1_800_000_000)

    machine._exchange._standing = judged
    return machine


def fresh(number: int) -> Identity:
    return Identity.from_seed(number.to_bytes(32, "big"))


def presence(identity: Identity, credentials: Credentials | str) -> Presence:
    return Author(identity, FEDERATION, (), str(credentials)).presence(0, NOTHING)


def in_place_of(old: Identity, new: Identity, *tickets: Ticket) -> Credentials:
    return Credentials(tickets, (succeed(old, new, FEDERATION),))


def ticket(identity: Identity) -> Ticket:
    return issue(IDENTITIES[0], federation=FEDERATION, peer=identity.peer_id, expires=1 << 39)


def accusations(effects: list[Effect]) -> list[Accusation]:
    return [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Accusation)]


@pytest.mark.parametrize("shown", ["p2pfl-succession-v1:AAAA", "nonsense", "linked to nobody"])
def test_what_a_listed_member_shows_without_need_must_hold_too(shown: str) -> None:
    machine = judging(1)
    if shown == "linked to nobody":
        shown = str(in_place_of(NEW, NEWER))
    with pytest.raises(RemoteProtocolError, match="nothing admits"):
        machine.handle(Received(PEERS[1], presence(IDENTITIES[1], shown)), 1.0)
    proof = contradiction(two_presences(IDENTITIES[2], 0))
    assert proof is not None
    with pytest.raises(RemoteProtocolError, match="nothing admits"):
        machine.handle(Received(PEERS[1], Accusation(PEERS[1], shown, proof)), 1.0)


def test_what_was_signed_in_another_federation_retires_nobody() -> None:
    """The victim changed its key elsewhere; a listed member shows that behind a succession of its own."""
    machine = judging(1)
    elsewhere = succeed(IDENTITIES[2], NEW, bytes(32))
    own = succeed(OTHER, IDENTITIES[1], FEDERATION)
    for chain in ((own, elsewhere), (elsewhere,)):
        shown = Retirement(PEERS[1], Credentials((), chain))
        with pytest.raises(RemoteProtocolError, match="nothing admits"):
            machine.handle(Received(PEERS[1], shown), 1.0)
    assert not machine.excluded


def test_a_place_has_no_keys_before_the_one_that_was_admitted() -> None:
    """A listed member, and one by ticket, say that they took the place of keys of their own making. Nodes
    would keep some of them, each node others, and no longer agree on who is there; and accusations of those
    keys would take the room of all others.
    """
    guest = fresh(2)
    for place, tickets in ((LISTED, ()), (guest, (ticket(guest),))):
        before = fresh(1)
        shown = in_place_of(before, place, *tickets)
        proof = contradiction(two_presences(before, 0, str(shown)))
        assert proof is not None
        said: tuple[Message, ...] = (
            Retirement(PEERS[1], shown),
            Accusation(PEERS[1], str(shown), proof),
            presence(place, shown),
        )
        for message in said:
            machine = judging(1)
            with pytest.raises(RemoteProtocolError, match="nothing admits"):
                machine.handle(Received(PEERS[1], message), 1.0)
            assert not machine._exchange.excluded.grounds


def test_one_place_makes_no_room_for_many() -> None:
    machine = judging(1)
    machine.handle(Received(PEERS[1], presence(LISTED, "")), 1.0)
    for number in range(1, 5):
        own = fresh(number)
        machine.handle(Received(PEERS[1], presence(own, in_place_of(LISTED, own))), 1.1)
    assert machine._exchange.gathering.authors == {PEERS[0]}
    assert len(machine._exchange.excluded.grounds) <= 3


@pytest.mark.parametrize("order", [*permutations(range(3))])
def test_three_that_give_their_places_to_one_are_out_for_everybody(order: tuple[int, ...]) -> None:
    """Else some would count one of them, and some another, in every epoch."""
    machine = judging(5)
    for number in order:
        shown = in_place_of(IDENTITIES[1 + number], NEW)
        machine.handle(Received(PEERS[5], Retirement(PEERS[5], shown)), 1.0)
    assert machine.excluded == set(PEERS[1:4])


def test_without_room_for_a_succession_nobody_is_there_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = judging(1)
    monkeypatch.setattr("p2pfl.gossip.exclusions.MAX_ROSTER", 0)
    machine.handle(Received(PEERS[1], presence(LISTED, "")), 1.0)
    machine.handle(Received(PEERS[1], presence(NEW, in_place_of(LISTED, NEW))), 1.0)
    assert machine._exchange.gathering.authors == {PEERS[0], LISTED.peer_id}


def test_keys_of_one_place_that_contradict_themselves_leave_room_for_the_issuers() -> None:
    machine = judging(1)
    for number in range(1, 300):
        own = fresh(number)
        shown = str(in_place_of(LISTED, own))
        proof = contradiction(two_presences(own, 0, shown))
        assert proof is not None
        machine.handle(Received(PEERS[1], Accusation(PEERS[1], shown, proof)), 1.0)
    assert len(machine._exchange.excluded.grounds) < 8
    machine.handle(Delivered(revocation(5)), 2.0)
    assert PEERS[5] in machine.excluded


def test_accusations_take_no_room_of_revocations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfl.gossip.exclusions.MAX_ROSTER", 1)
    known = Exclusions([accusation(2, by=1)])
    assert known.add(accusation(3, by=1)) is None
    assert known.add(revocation(4)) == frozenset({PEERS[4]})


@pytest.mark.parametrize("turned", [False, True])
def test_nobody_is_cut_off_for_telling_of_two_successors(turned: bool) -> None:
    """One successor has a ticket of its own, too, the other that of the key before: others must believe
    whoever tells them, whichever it was shown last.
    """
    old, machine, other = fresh(1), judging(1, 2), judging(1)
    shown = [
        Retirement(PEERS[1], in_place_of(old, NEW, ticket(NEW), ticket(old))),
        Retirement(PEERS[1], in_place_of(old, NEWER, ticket(old))),
    ]
    machine.handle(Received(PEERS[1], shown[turned]), 1.0)
    said = accusations(machine.handle(Received(PEERS[1], shown[not turned]), 1.1))
    assert said
    other.handle(Received(PEERS[1], Accusation(PEERS[1], said[0].ticket, said[0].messages)), 1.0)
    for each in (machine, other):
        assert {old.peer_id, NEW.peer_id} <= each.excluded or {old.peer_id, NEWER.peer_id} <= each.excluded
    for ground in machine._exchange.excluded.grounds:
        other.handle(Received(PEERS[1], replace(ground, author=PEERS[1])), 1.2)
    assert other.excluded == machine.excluded == {old.peer_id, NEW.peer_id, NEWER.peer_id}


@given(st.permutations(range(4)))
def test_who_is_out_follows_from_what_is_known_in_whatever_order(order: list[int]) -> None:
    """A key that took two places shows the one to some and the other to others."""
    first, second = fresh(1), fresh(2)
    grounds = [
        retirement(first, NEW, NEWER),
        retirement(second, NEW, NEWER),
        retirement(NEWER, OTHER),
        retirement(first, NEW),
    ]
    known = Exclusions(grounds[number] for number in order)
    assert known.out == {first.peer_id, second.peer_id, NEW.peer_id, NEWER.peer_id}
    assert Exclusions(known.grounds).out == known.out
