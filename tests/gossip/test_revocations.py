"""Revocations and changes of keys: what is believed, and that it reaches everybody."""

from dataclasses import replace
from itertools import pairwise

import pytest
from connected import IDENTITIES, PEERS
from epochs import FEDERATION, Federation, author
from hypothesis import given
from hypothesis import strategies as st
from test_exclusion import evidence, opened, sent

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.gossip.epoch_messages import NOTHING, Presence
from p2pfl.gossip.errors import RemoteProtocolError
from p2pfl.gossip.events import Delivered, Effect, Evidence, PeerFound, Received, Renewed, Send, TimerExpired
from p2pfl.gossip.evidence import Accusation
from p2pfl.gossip.exclusions import Exclusions, Ground, Retirement
from p2pfl.gossip.manifest import Manifest, from_toml
from p2pfl.gossip.presences import Author
from p2pfl.gossip.revocations import (
    MAX_REASON,
    MAX_REVOCATION_BYTES,
    Revocation,
    RevocationError,
    RevocationLine,
    check_revocation,
    parse_revocation_untrusted,
    revoke,
)
from p2pfl.gossip.successions import parse_succession_untrusted, succeed
from p2pfl.gossip.tickets import (
    MAX_CREDENTIALS_BYTES,
    Credentials,
    Standing,
    TicketError,
    issue,
    parse_credentials_untrusted,
)

NEW, NEWER, OTHER = (Identity.from_seed(bytes([200 + number]) * 32) for number in range(3))
ISSUERS = IDENTITIES[:3]


def line(
    number: int, by: Identity = IDENTITIES[0], reason: str = "left", **changes: object
) -> RevocationLine:
    fields = {"federation": FEDERATION, "peer": PEERS[number], "issued": 1_800_000_000, "reason": reason}
    return revoke(by, **{**fields, **changes})  # type: ignore[arg-type]


def revocation(number: int, by: int = 1) -> Revocation:
    return Revocation(PEERS[by], (line(number),))


def retirement(*keys: Identity, by: int = 1) -> Retirement:
    """Each of ``keys`` took the place of the one before."""
    chain = tuple(succeed(old, new, FEDERATION) for old, new in pairwise(keys))
    return Retirement(PEERS[by], Credentials((), chain[::-1]))


def manifest(quorum: int) -> Manifest:
    return from_toml(
        f"""
        name = "hearts"
        issuers = {[issuer.peer_id for issuer in ISSUERS]}
        issuer_quorum = {quorum}
        task.label = "y"
        task.positive = ["1"]
        task.columns = [{{ name = "x", kind = "numeric", low = 0, high = 1 }}]
        model = {{ kind = "logistic" }}
        training = {{ rounds = 1, learning_rate = 1, sampling_rate = 1, expected_batch = 1 }}
        privacy = {{ mode = "none" }}
        """
    )


# What a revocation is.


def test_a_quorum_of_issuers_must_sign() -> None:
    two = manifest(2)
    lines = tuple(line(5, by=issuer) for issuer in ISSUERS)
    check_revocation(lines[:2], two, FEDERATION)
    check_revocation(lines[:1], manifest(1), FEDERATION)
    for wrong, words in (
        (lines[:1], "1 issuer signed it where 2 must"),
        ((lines[0], line(5, by=IDENTITIES[4])), "no issuer of this federation"),
        ((line(5, federation=bytes(32)),), "another federation"),
    ):
        with pytest.raises(RevocationError, match=words):
            check_revocation(wrong, two, FEDERATION)


def test_lines_that_do_not_belong_together_are_refused() -> None:
    good = line(5)
    for lines, words in (
        ((good, good), "by one issuer"),
        ((good, line(4, by=IDENTITIES[1])), "about one peer"),
        ((good,) * 5, "1 to 4 lines"),
        ((), "1 to 4 lines"),
        ((replace(good, reason="another"),), "damaged"),
        ((replace(good, peer=PEERS[3]),), "damaged"),
        ((issue(IDENTITIES[0], federation=FEDERATION, peer=PEERS[5], expires=9),), "not a revocation"),
    ):
        with pytest.raises(RevocationError, match=words):
            parse_revocation_untrusted("\n".join(map(str, lines)))


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=MAX_REASON))
def test_lines_round_trip(reason: str) -> None:
    lines = tuple(line(5, by=issuer, reason=reason) for issuer in IDENTITIES[:4])
    text = "\n".join(map(str, lines))
    assert parse_revocation_untrusted(text) == lines
    assert len(text) <= MAX_REVOCATION_BYTES


# It reaches everybody.


def test_a_delivered_revocation_excludes_and_is_told_to_all() -> None:
    machine = opened(1, 2, 4)
    machine.handle(Received(PEERS[4], author(4).presence(0, NOTHING)), 1.0)
    effects = machine.handle(Delivered(revocation(4)), 1.0)
    assert sorted(sent(effects, Revocation)) == sorted((PEERS[1], PEERS[2], PEERS[4]))
    assert evidence(effects) == [PEERS[4]]
    assert machine.excluded == {PEERS[4]}
    assert PEERS[4] not in machine.connected
    assert machine.handle(Delivered(revocation(4)), 1.1) == []
    assert sent(machine.handle(PeerFound(PEERS[3]), 2.0), Revocation) == [PEERS[3]]


def test_one_delivery_is_enough_for_a_federation_and_a_member_that_was_away() -> None:
    federation = Federation(7, running=3.0, encoded=True)
    for number in range(6):
        federation.start(number)
    federation.net.post(PEERS[0], Delivered(revocation(4)), 10.0)
    federation.run(11.0)
    assert all(federation.machine(number).excluded == {PEERS[4]} for number in (0, 1, 2, 3, 5))
    federation.start(6, 12.0)
    federation.run(13.0)
    assert federation.machine(6).excluded == {PEERS[4]}


def test_what_was_kept_under_an_earlier_key_is_shown_as_our_own() -> None:
    federation = Federation(5)
    federation.evidence.append((0, Evidence(PEERS[4], "left", (revocation(4, by=3),))))
    machine = federation.node(0).machine
    machine.start(0.0)
    shown = [e.message for e in machine.handle(PeerFound(PEERS[1]), 0.1) if isinstance(e, Send)]
    assert shown[0] == revocation(4, by=0)


def test_a_revocation_that_does_not_hold_costs_its_bringer_the_connection() -> None:
    machine = opened(1)

    def refuse(shown: Revocation) -> None:
        raise RevocationError("nobody who may")

    machine._exchange._check = refuse
    with pytest.raises(RemoteProtocolError, match="nobody who may") as caught:
        machine.handle(Received(PEERS[1], revocation(4)), 1.0)
    assert caught.value.peer == PEERS[1]
    assert not machine.excluded


# A key in the place of another.


def test_a_succession_needs_both_keys() -> None:
    made = succeed(IDENTITIES[4], NEW, FEDERATION)
    assert parse_succession_untrusted(str(made)) == made
    stolen = replace(made, successor=NEWER.peer_id)  # a victim that never accepted
    for wrong in (str(stolen), str(made)[:-4], "", "p2pfl-succession-v1:AAAA"):
        with pytest.raises(ValueError):
            parse_succession_untrusted(wrong)


def test_credentials_lead_to_the_place_and_are_bounded() -> None:
    tickets = tuple(issue(i, federation=FEDERATION, peer=PEERS[4], expires=2**39) for i in IDENTITIES[:4])
    chain = retirement(IDENTITIES[4], NEW, NEWER, OTHER).credentials.successions
    most = Credentials(tickets, chain)
    assert parse_credentials_untrusted(str(most)) == most
    assert len(str(most)) <= MAX_CREDENTIALS_BYTES
    assert most.names(FEDERATION, OTHER.peer_id)[-1] == PEERS[4]
    assert most.admitted_until(manifest(3), FEDERATION, OTHER.peer_id) == 2**39
    for peer, federation in ((NEW.peer_id, FEDERATION), (OTHER.peer_id, bytes(32))):
        with pytest.raises(TicketError, match="another key, or for another federation"):
            most.names(federation, peer)


def shows(identity: Identity, shown: Retirement, epoch: int = 0) -> Presence:
    return Author(identity, FEDERATION, (), shown.ticket).presence(epoch, NOTHING)


def everybody(peer: PeerId, ticket: str) -> Standing:
    return Standing.MEMBER


GROUNDS: list[Ground] = [retirement(IDENTITIES[4], NEW), revocation(4)]


@pytest.mark.parametrize("order", [GROUNDS, GROUNDS[::-1]], ids=["rotated first", "revoked first"])
def test_what_is_held_against_a_key_is_held_against_its_successor(order: list[Ground]) -> None:
    known = Exclusions(order)
    assert known.out == {PEERS[4], NEW.peer_id}
    assert known.vacant == 1
    assert known.proof_against([NEW.peer_id]) == GROUNDS[1]


def test_a_retirement_alone_leaves_the_place_to_the_successor() -> None:
    known = Exclusions([retirement(IDENTITIES[4], NEW, NEWER)])
    assert known.out == {PEERS[4], NEW.peer_id}
    assert known.vacant == 0
    assert known.proof_against([NEWER.peer_id]) is None


def test_two_successors_of_one_key_are_evidence_and_all_three_are_out() -> None:
    machine = opened(1, 2, 3)
    machine._exchange._standing = everybody
    machine.handle(Received(PEERS[1], retirement(IDENTITIES[4], NEW)), 1.0)
    assert machine.excluded == {PEERS[4]}
    effects = machine.handle(Received(PEERS[2], retirement(IDENTITIES[4], OTHER, by=2)), 1.1)
    assert machine.excluded == {PEERS[4], NEW.peer_id, OTHER.peer_id}
    assert sorted(sent(effects, Accusation)) == sorted((PEERS[1], PEERS[2], PEERS[3]))
    third = shows(NEWER, retirement(IDENTITIES[4], NEWER))
    machine.handle(Received(PEERS[3], third), 1.2)
    assert NEWER.peer_id not in machine._exchange.gathering.authors


def test_a_presence_shows_whose_place_it_is_in() -> None:
    machine = opened(1, 2)
    machine._exchange._standing = everybody
    machine.handle(Received(PEERS[1], author(4).presence(0, NOTHING)), 1.0)
    effects = machine.handle(Received(PEERS[2], shows(NEW, retirement(IDENTITIES[4], NEW))), 1.1)
    assert evidence(effects) == [PEERS[4]]
    assert sorted(sent(effects, Retirement)) == [PEERS[1]]
    assert machine._exchange.gathering.roster == tuple(sorted({PEERS[0], NEW.peer_id}))


def test_a_stranger_retires_nobody() -> None:
    machine = opened(1)
    with pytest.raises(RemoteProtocolError, match="whom nothing admits"):
        machine.handle(Received(PEERS[1], retirement(IDENTITIES[4], NEW)), 1.0)
    assert not machine.excluded


# Renewal.


def test_a_renewed_ticket_is_shown_from_the_next_epoch_on() -> None:
    machine = Federation(6).node(0).machine
    machine.start(0.0)
    machine.handle(PeerFound(PEERS[1]), 0.1)
    assert machine.handle(Renewed("newer"), 0.2) == []
    shown: list[Effect] = machine.handle(TimerExpired("epoch/open"), 0.5)
    presences = [e.message for e in shown if isinstance(e, Send) and isinstance(e.message, Presence)]
    assert [presence.ticket for presence in presences] == ["newer"]
