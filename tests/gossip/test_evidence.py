"""What proves that a member contradicted itself, and what proves nothing."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statements import contradicted

from p2pfl.crypto.identity import Identity
from p2pfl.crypto.randomness import seeded_random
from p2pfl.gossip.canonical import pack
from p2pfl.gossip.epoch_messages import MAX_TICKET_BYTES, Presence, Sync
from p2pfl.gossip.errors import RemoteProtocolError
from p2pfl.gossip.events import Prepared
from p2pfl.gossip.evidence import (
    _KINDS,
    MAX_STATEMENT_BYTES,
    Accusation,
    contradiction,
    without_payload,
)
from p2pfl.gossip.messages import (
    Ack,
    Bundle,
    Check,
    Held,
    Masked,
    Message,
    Part,
    Pledge,
    Proposal,
    Ready,
    Result,
    Reveal,
    Survivors,
)
from p2pfl.gossip.participant import MESSAGES
from p2pfl.gossip.presences import Author
from p2pfl.gossip.rehearsal import Rehearsal
from p2pfl.gossip.simulation import unreliable
from p2pfl.gossip.successions import Succession, succeed
from p2pfl.gossip.wire import Limits, decode_untrusted, encode, signed

ALICE, BOB, CAROL = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2, 3))
SENDER = CAROL.peer_id
PLACE = (7, 1, bytes(range(32)))
ELSEWHERE = [(8, 1, PLACE[2]), (7, 0, PLACE[2]), (7, 1, bytes(32))]


def ready(key: int = 1) -> Ready:
    fields = (bytes(32), bytes(32), 7, 1, "training", 4)
    return signed(ALICE, Ready(ALICE.peer_id, *fields, bytes([key]) * 32, bytes(32), bytes(32), bytes(32)))


def presence(**changes: object) -> Presence:
    made = Author(ALICE, bytes(32), ("/ip4/10.0.0.1/tcp/1",)).presence(3, bytes(32))
    return signed(ALICE, replace(made, **changes))  # type: ignore[arg-type]


def masked(value: int, place: tuple[int, int, bytes] = PLACE) -> Masked:
    return Masked.of(ALICE.peer_id, place, 0, bytes([value]) * 16)


def said(value: int, place: tuple[int, int, bytes] = PLACE) -> dict[str, Message]:
    """What Alice says in one place, another thing for each value: a message of every kind that counts."""
    mark, me = bytes([value]) * 32, ALICE.peer_id
    made: list[Message] = [
        Bundle(me, *place, BOB.peer_id, mark),
        masked(value, place),
        Pledge(me, *place, (mark,)),
        Held(me, *place, ((0, mark),)),
        Part(me, *place, bytes(32), 0, mark, b""),
        Check(me, *place, bytes(32), (mark,), b""),
        Survivors(me, *place, ((0, mark), (1, bytes(32)))),
        Reveal(me, *place, bytes(32), (mark,)),
        Result(me, *place, bytes(32), mark),
    ]
    return {message.TAG: signed(ALICE, message) for message in made} | {
        Presence.TAG: presence(epoch=place[0], federation=place[2], nonce=mark),
        Succession.TAG: succeed(ALICE, Identity.from_seed(mark), place[2]),
    }


def accused(*messages: Message | bytes, ticket: str = "") -> bytes:
    wires = [m if isinstance(m, bytes) else without_payload(m) for m in messages]
    return pack((Accusation.TAG, pack((SENDER, ticket.encode())), b"", pack(wires)))


def decode(data: bytes) -> Message:
    return decode_untrusted(SENDER, data, Limits(4), MESSAGES)


def refused(data: bytes, words: str) -> None:
    with pytest.raises(RemoteProtocolError, match=words) as caught:
        decode(data)
    assert caught.value.peer == SENDER


# What counts.


@pytest.mark.parametrize("tag", _KINDS)
def test_two_things_said_in_one_place_prove_it_to_whoever_reads_them(tag: str) -> None:
    pair = said(1)[tag], said(2)[tag]
    wires = contradiction(pair)
    assert wires == (without_payload(pair[0]), without_payload(pair[1]))
    read = decode(accused(*pair))
    assert isinstance(read, Accusation)
    assert read == Accusation(SENDER, "", wires)
    assert read.accused == ALICE.peer_id
    assert read.kind == f"two contradicting {tag} messages"
    assert decode(encode(read)) == read


def test_the_numbers_of_the_members_are_part_of_what_is_said() -> None:
    """Whoever reads them need not know the roster: its digest is in the place, and names one member each."""
    ballots = [Survivors(ALICE.peer_id, *PLACE, ((0, bytes(32)), (who, bytes(32)))) for who in (1, 2)]
    proof = contradiction(signed(ALICE, ballot) for ballot in ballots)
    assert proof is not None
    assert Accusation(SENDER, "", proof).accused == ALICE.peer_id


@pytest.mark.parametrize("tag", _KINDS)
def test_the_same_twice_or_in_two_places_proves_nothing(tag: str) -> None:
    one = said(1)[tag]
    kept = {Presence.TAG: [0, 2], Succession.TAG: [2]}.get(tag, range(len(ELSEWHERE)))
    places = [ELSEWHERE[number] for number in kept]  # an attempt is no place of a presence, and so on
    for other in (one, *(said(2, place)[tag] for place in places)):
        assert contradiction((one, other)) is None
        refused(accused(one, other), "not of one author for one place|do not contradict")


def test_bundles_for_two_members_are_no_contradiction() -> None:
    one = said(1)[Bundle.TAG]
    assert isinstance(one, Bundle)
    other = signed(ALICE, replace(one, recipient=CAROL.peer_id, sealed=b"another"))
    assert contradiction((one, other)) is None


def test_what_a_crash_may_make_an_honest_member_say_twice_is_no_contradiction() -> None:
    """Readies and proposals with new keys; presences that name what is known after the restart."""
    for one, other in (
        (ready(1), ready(2)),
        *combinations(
            (signed(ALICE, Proposal(ALICE.peer_id, 7, 1, (ready(n),))) for n in (1, 2)),
            2,
        ),
        (presence(), presence(previous=bytes([1]) * 32, ticket="new", addresses=())),
        (signed(ALICE, Ack(ALICE.peer_id, *PLACE)), signed(ALICE, Ack(ALICE.peer_id, *PLACE))),
    ):
        assert contradiction((one, other)) is None
        refused(accused(one, other), "can contradict another|do not contradict")


@pytest.mark.parametrize("field", ["nonce", "commitment"])
def test_what_follows_from_the_identity_alone_no_restart_excuses(field: str) -> None:
    assert contradiction((presence(), presence(**{field: bytes(32)}))) is not None


def test_others_messages_and_those_of_two_authors_prove_nothing() -> None:
    alices = said(1)[Result.TAG]
    assert isinstance(alices, Result)
    bobs = signed(BOB, replace(alices, author=BOB.peer_id, digest=bytes(32)))
    refused(accused(alices, bobs), "not of one author")
    refused(accused(alices, said(2)[Survivors.TAG]), "not of one author")


@pytest.mark.parametrize("tag", _KINDS)
def test_what_the_accused_has_not_signed_proves_nothing(tag: str) -> None:
    one, other = said(1)[tag], said(2)[tag]
    forged = replace(other, signature=BOB.sign(b"p2pfl/result/v1", other.signed_bytes()))
    elsewhere = replace(other, signature=ALICE.sign(b"p2pfl/ready/v1", other.signed_bytes()))
    for bad in (forged, elsewhere, replace(other, signature=b""), replace(other, signature=one.signature)):
        assert contradiction((one, bad)) is None
        refused(accused(one, bad), "not signed by its author")


def test_of_all_that_is_known_any_two_count() -> None:
    one, other = masked(1), masked(2)
    pair = signed(ALICE, one), signed(ALICE, other)
    assert contradiction((ready(1), pair[0], ready(2), pair[1])) == tuple(map(without_payload, pair))


# The codec.


def test_nothing_else_is_an_accusation() -> None:
    one, other = said(1)[Masked.TAG], said(2)[Masked.TAG]
    whole = encode(one)
    for data, words in (
        (accused(one), "shows two messages"),
        (accused(one, other, one), "shows two messages"),
        (accused(whole, other), "can contradict another"),  # its payload has no business here
        (accused(Sync(ALICE.peer_id, 1, bytes(32), True, bytes(32), 1), other), "can contradict another"),
        (accused(b"", other), "malformed"),
        (accused(pack((Masked.TAG, pack((ALICE.peer_id, 7)), bytes(64), b"")), other), "author or place"),
        (accused(pack((Masked.TAG, pack(("nobody", 7, 1, b"", 0)), bytes(64), b"")), other), "peer id"),
        (accused(bytes(MAX_STATEMENT_BYTES + 1), other), "are allowed"),
        (accused(one, other, ticket="t" * (MAX_TICKET_BYTES + 1)), "not a byte string"),
    ):
        refused(data, words)
    with pytest.raises(RemoteProtocolError, match="of another author"):
        decode_untrusted(BOB.peer_id, accused(one, other), Limits(4), MESSAGES)


def test_the_longest_messages_of_all_fit() -> None:
    bodies = [pack((ALICE.peer_id, *PLACE, 0, bytes([value]) * 65_000)) for value in (1, 2)]
    label = Masked.LABEL
    assert label is not None
    wires = [pack((Masked.TAG, body, ALICE.sign(label, body), b"")) for body in bodies]
    assert isinstance(decode(accused(*wires, ticket="t" * MAX_TICKET_BYTES)), Accusation)


@given(st.sampled_from(sorted(_KINDS)), st.data())
def test_any_damage_is_the_senders_fault(tag: str, data: st.DataObject) -> None:
    wire = bytearray(accused(said(1)[tag], said(2)[tag]))
    at = data.draw(st.integers(0, len(wire) - 1))
    wire[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RemoteProtocolError) as caught:  # there is no ticket that could become another one
        decode(bytes(wire))
    assert caught.value.peer == SENDER


# No mix of what honest members sign is a contradiction.

VALUES = np.random.default_rng(0).integers(0, 2**32, (6, 3), dtype=np.uint32)


def authored(rehearsal: Rehearsal) -> Iterable[Message]:
    return (sent.message for sent in rehearsal.net.sent)


@settings(max_examples=60, deadline=None)
@given(
    members=st.integers(3, 6),
    seed=st.integers(0, 2**32 - 1),
    crashes=st.dictionaries(st.integers(0, 5), st.integers(0, 70), max_size=3),
    back=st.sampled_from([0.06, 0.3, 1.1, 2.5]),
    slow=st.sampled_from([0.02, 0.3, 1.5]),
    lost=st.sampled_from([0.0, 0.1]),
)
def test_a_round_with_crashes_and_members_that_begin_it_again(
    members: int, seed: int, crashes: dict[int, int], back: float, slow: float, lost: float
) -> None:
    """Even without a ledger: who comes back may contribute again, under another roster."""
    link = unreliable(0.0, slow, lost, 0.2)
    crashes = {number: step for number, step in crashes.items() if number < members}
    rehearsal = Rehearsal(VALUES[:members], seed=seed, crashes=crashes, link=link)

    def restart(number: int) -> None:
        peer = rehearsal.group[number]
        if peer in rehearsal.net.dead:
            rehearsal.ended.pop(peer, None)
            rehearsal.net.revive(peer, rehearsal.machine(number, seeded_random(b"again%d" % seed)))
            rehearsal.net.post(peer, Prepared(7, "training", 3, bytes(32)))

    for number in crashes:
        rehearsal.net.call(back + 0.01 * number, lambda number=number: restart(number))  # type: ignore[misc]
    rehearsal.run()
    assert contradicted(authored(rehearsal)) == set()


def test_this_would_be_noticed() -> None:
    one, other = signed(ALICE, masked(1)), signed(ALICE, masked(2))
    assert contradicted((one, one, ready(1), ready(2))) == set()
    assert contradicted((one, ready(1), other, ready(2))) == {ALICE.peer_id}
    assert contradicted((one, signed(BOB, replace(other, author=BOB.peer_id)))) == set()
