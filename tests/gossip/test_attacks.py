"""Attacks on a round, mounted on the real machines: what the attacker gets, and what becomes of the others.

Six members, of which one may collude: t = 4, and two may vanish. What holds for the honest in every case is
in :func:`attackers.audit`; the tests say what else does. Sums and floods have files of their own.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest
from attackers import (
    ALL,
    EXCHANGES,
    GROUP,
    Attacker,
    Lie,
    accusations,
    all_complete,
    attacked,
    attacker,
    audit,
    both,
    elsewhere,
    falls_silent_at,
    honest_of,
    lying,
    rehearse,
    silent_about,
    vars_of,
    without,
)

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.crypto.randomness import RandomBytes
from p2pfl.gossip.events import Effect, Event, PeerFound, PeerLost, Received, Send
from p2pfl.gossip.messages import (
    Ack,
    Bundle,
    Check,
    Held,
    Masked,
    Message,
    Part,
    Plan,
    Pledge,
    Proposal,
    Ready,
    Result,
    Reveal,
    Survivors,
)
from p2pfl.gossip.rehearsal import Wrap
from p2pfl.gossip.round import RoundMachine
from p2pfl.gossip.simulation import Link, Machine, steady

exchanges = pytest.mark.parametrize("exchange", EXCHANGES)


# ---- saying nothing

SAID = {
    "broadcast": (Masked, Survivors, Reveal, Result),
    "scatter": (Masked, Pledge, Held, Plan, Part, Check, Survivors, Reveal, Result),
}
WITHHELD = [(exchange, kind) for exchange, kinds in SAID.items() for kind in kinds]


@pytest.mark.parametrize("number", [0, 5])
@pytest.mark.parametrize(("exchange", "kind"), WITHHELD)
def test_whoever_withholds_one_kind_of_message_stops_nobody(
    exchange: str, kind: type[Message], number: int
) -> None:
    wrap = {number: attacker(silent_about(kind))}
    all_complete(attacked(exchange, wrap), wrap)


@pytest.mark.parametrize("number", [0, 5])
@pytest.mark.parametrize(("exchange", "kind"), WITHHELD)
def test_whoever_falls_silent_after_contributing_stops_nobody(
    exchange: str, kind: type[Message], number: int
) -> None:
    """After it has learned the sum, too: it takes it along, and the others have it as well."""
    wrap = {number: attacker(falls_silent_at(kind))}
    all_complete(attacked(exchange, wrap), wrap)


@exchanges
@pytest.mark.parametrize("kind", [Ready, Proposal, Bundle, Ack])
def test_whoever_falls_silent_before_stops_nobody_or_spoils_the_round(
    exchange: str, kind: type[Message]
) -> None:
    wrap = {0: attacker(falls_silent_at(kind))}
    rehearsal = attacked(exchange, wrap)
    if rehearsal.skipped.keys() - {GROUP[0]}:
        assert not any(rehearsal.masked_vectors(peer) for peer in honest_of(rehearsal, wrap))


# ---- messages of others, of other places and other times


def parrot(me: Attacker, event: Event, now: float) -> Iterable[Effect]:
    """Passes on whatever it hears."""
    return me.tell_all(event.message) if isinstance(event, Received) else ()


def forger(me: Attacker, event: Event, now: float) -> Iterable[Effect]:
    """Passes on what it hears under its own signature, and with another content under the old one."""
    if not isinstance(event, Received) or event.message.LABEL is None:
        return ()
    forged = replace(me.sign(event.message), author=event.message.author)
    return me.tell_all(forged, elsewhere(event.message, round=8), replace(event.message, signature=b""))


@exchanges
@pytest.mark.parametrize("react", [parrot, forger])
def test_messages_of_others_are_theirs_alone(exchange: str, react: "Callable[..., Iterable[Effect]]") -> None:
    wrap = {2: attacker(react=react)}
    rehearsal = attacked(exchange, wrap)
    all_complete(rehearsal, wrap, ALL)
    assert accusations(rehearsal, wrap) == set()
    assert {error.peer for _, error in rehearsal.net.errors} == {GROUP[2]}


def replaying(recorded: list[Message]) -> Wrap:
    """Everything, as it was, at the beginning and whenever something new begins; what was its own also as of
    this round and roster.
    """
    seen: set[type[Message]] = set()

    def react(me: Attacker, event: Event, now: float) -> Iterable[Effect]:
        fresh = isinstance(event, Received) and type(event.message) not in seen
        if not fresh or not isinstance(event, Received):
            return ()
        seen.add(type(event.message))
        own = [m for m in recorded if m.author == me.peer and m.LABEL is not None]
        return me.tell_all(*recorded, *(me.sign(elsewhere(m, round=7)) for m in own))

    return attacker(react=react)


def some(recorded: Iterable[Message]) -> list[Message]:
    """One of each kind and author."""
    return list({(type(message), message.author): message for message in recorded}.values())


@exchanges
def test_what_was_said_in_another_round_means_nothing_in_this_one(exchange: str) -> None:
    before = rehearse(exchange, {}, round=6, seed=1).run()
    wrap = {2: replaying(some(sent.message for sent in before.net.sent))}
    rehearsal = attacked(exchange, wrap)
    assert accusations(rehearsal, wrap) == set()


@exchanges
def test_nor_does_what_was_said_in_another_federation(exchange: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("p2pfl.gossip.rehearsal.FEDERATION", bytes(32))
        before = rehearse(exchange, {}, seed=1).run()
    wrap = {2: replaying(some(sent.message for sent in before.net.sent))}
    rehearsal = attacked(exchange, wrap)
    assert accusations(rehearsal, wrap) == set()
    assert {error.peer for _, error in rehearsal.net.errors} == {GROUP[2]}


@exchanges
def test_nor_what_was_said_in_another_attempt(exchange: str) -> None:
    """Member 2 spoils the first with bundles that do not open."""

    def spoil(me: Attacker, bundle: Bundle, to: PeerId) -> Message:
        return replace(bundle, sealed=bytes(106)) if bundle.attempt == 0 else bundle

    def react(me: Attacker, event: Event, now: float) -> Iterable[Effect]:
        if not isinstance(event, Received) or getattr(event.message, "attempt", 0) == 0:
            return ()
        old = [m for m in some([*me.heard, *me.said]) if m.LABEL is not None and vars_of(m)["attempt"] == 0]
        own = [m for m in old if m.author == me.peer and not isinstance(m, Ready)]
        return me.tell_all(
            *old, *(me.sign(elsewhere(m, attempt=1)) for m in own if not isinstance(m, Bundle | Ack))
        )

    wrap = {2: attacker(lying(Bundle, spoil), react)}
    rehearsal = attacked(exchange, wrap)
    all_complete(rehearsal, wrap, ALL)
    assert {kind for _, kind in accusations(rehearsal, wrap)} <= {"a bundle that does not open"}


# ---- shares and keys


def random_shares(shares_for: Callable[[int], bool]) -> Wrap:
    """Deals shares that were never of its secrets, to some."""

    def wrap(machine: RoundMachine, identity: Identity) -> Machine:
        right = machine._terms.suite.split

        def split(secret: bytes, holders: int, threshold: int, random: RandomBytes) -> list[bytes]:
            dealt, other = (right(each, holders, threshold, random) for each in (secret, random(32)))
            return [other[holder] if shares_for(holder) else dealt[holder] for holder in range(holders)]

        machine._terms = replace(machine._terms, suite=replace(machine._terms.suite, split=split))
        return attacker()(machine, identity)

    return wrap


@exchanges
def test_shares_dealt_wrong_to_all_spoil_the_round_and_nothing_else(exchange: str) -> None:
    wrap = {3: random_shares(lambda holder: True)}
    rehearsal = attacked(exchange, wrap)
    assert rehearsal.completed == {}
    assert accusations(rehearsal, wrap) == set()


@exchanges
def test_shares_dealt_wrong_to_as_many_as_may_vanish_do_no_harm(exchange: str) -> None:
    wrap = {3: random_shares(lambda holder: holder < 2)}
    all_complete(attacked(exchange, wrap), wrap, ALL)


def reveals_garbage(me: Attacker, reveal: Reveal, to: PeerId) -> Message:
    return replace(reveal, shares=tuple(bytes(range(len(share))) for share in reveal.shares))


def reveals_the_other_secrets(me: Attacker, reveal: Reveal, to: PeerId) -> Message:
    assert me.machine._sum is not None
    held = me.machine._sum._shares
    return replace(reveal, shares=tuple(held[peer].key for peer in me.machine._sum.roster.members))


def reveals_for_another_set(me: Attacker, reveal: Reveal, to: PeerId) -> Message:
    return replace(reveal, survivors=bytes(32))


@exchanges
@pytest.mark.parametrize("lie", [reveals_garbage, reveals_the_other_secrets, reveals_for_another_set])
def test_shares_revealed_wrong_do_no_harm(exchange: str, lie: Lie) -> None:
    wrap = {0: attacker(lying(Reveal, lie))}
    all_complete(attacked(exchange, wrap), wrap, ALL)


@exchanges
def test_nor_do_two_reveals_which_are_evidence(exchange: str) -> None:
    wrap = {0: attacker(both(Reveal, reveals_the_other_secrets))}
    rehearsal = attacked(exchange, wrap)
    all_complete(rehearsal, wrap, ALL)
    assert accusations(rehearsal, wrap) == {
        (number, "two different values of reveal") for number in without(0)
    }


@exchanges
@pytest.mark.parametrize("field", ["mask_key", "bundle_key"])
@pytest.mark.parametrize("key", [bytes(32), bytes([1]) + bytes(31)])
def test_a_key_of_small_order_keeps_its_owner_out(exchange: str, field: str, key: bytes) -> None:
    """With it the seed of a pair would be known to everybody."""
    wrap = {1: attacker(lying(Ready, lambda me, ready, to: replace(ready, **{field: key})))}
    rehearsal = attacked(exchange, wrap)
    all_complete(rehearsal, wrap, without(1))
    assert {(error.peer, error.reason) for _, error in rehearsal.net.errors} == {
        (GROUP[1], "a one-time key of small order")
    }


# ---- late and gone


def late_from(number: int, kinds: tuple[type[Message], ...], seconds: float) -> Link:
    """What this member says of its vector comes when all is over."""
    quick = steady()

    def link(sender: PeerId, receiver: PeerId, message: Message, rng: np.random.Generator) -> Iterable[float]:
        if message.author == GROUP[number] and isinstance(message, kinds):
            return (seconds,)
        return quick(sender, receiver, message, rng)

    return link


@exchanges
@pytest.mark.parametrize("seconds", [1.2, 1.6, 3.0, 10.0])
def test_a_vector_that_comes_too_late_is_not_opened(exchange: str, seconds: float) -> None:
    """Its owner is honest, and everybody reveals what opens a vector that never came: its masks with others.
    Its self-mask stays, by the audit.
    """
    kinds = (Masked, Pledge) if exchange == "scatter" else (Masked,)
    rehearsal = rehearse(exchange, {}, link=late_from(3, kinds, seconds)).run()
    audit(rehearsal, {})
    others = [peer for peer in rehearsal.completed if peer != GROUP[3]]
    assert len(others) == 5
    assert GROUP[3] not in rehearsal.completed[GROUP[0]].survivors


@exchanges
def test_whoever_seems_lost_and_sends_later_gets_nothing_more(exchange: str) -> None:
    """It hangs up before it sends its vector, and comes back with it once the others have revealed."""
    kept: list[Send] = []

    def change(me: Attacker, send: Send) -> Iterable[Send]:
        if kept or (isinstance(send.message, Masked) and send.message.author == me.peer):
            kept.append(send)
            return ()
        return (send,)

    def react(me: Attacker, event: Event, now: float) -> Iterable[Effect]:
        if not any(isinstance(message, Reveal) for message in me.heard):
            return ()
        late, kept[:] = list(kept), kept[:1]
        return late[1:] if kept else ()

    wrap = {3: attacker(change, react)}
    rehearsal = rehearse(exchange, wrap)
    for peer in GROUP[:6]:
        if peer != GROUP[3]:
            rehearsal.net.post(peer, PeerLost(GROUP[3]), 0.2)
            rehearsal.net.post(peer, PeerFound(GROUP[3]), 0.5)
    rehearsal.run()
    audit(rehearsal, wrap)
    all_complete(rehearsal, wrap)


@exchanges
@pytest.mark.parametrize("at", [0.05, 0.08, 0.1, 0.12, 0.15, 0.2])
def test_a_connection_that_flaps_stops_nobody(exchange: str, at: float) -> None:
    """The attacker hangs up on everybody, comes back, and again; everybody sends it all of it again."""
    wrap = {0: attacker()}
    rehearsal = rehearse(exchange, wrap)
    for peer in GROUP[1:6]:
        for again in range(5):
            rehearsal.net.post(peer, PeerLost(GROUP[0]), at + 0.06 * again)
            rehearsal.net.post(peer, PeerFound(GROUP[0]), at + 0.03 + 0.06 * again)
    rehearsal.run()
    audit(rehearsal, wrap)
    all_complete(rehearsal, wrap)


@exchanges
def test_where_too_few_are_left_to_reveal_the_others_do_not_wait_for_the_end(exchange: str) -> None:
    wrap = dict.fromkeys((1, 2, 3), attacker(silent_about(Reveal)))
    rehearsal = rehearse(exchange, wrap)
    for peer in (GROUP[0], *GROUP[4:6]):
        for number in wrap:
            rehearsal.net.post(peer, PeerLost(GROUP[number]), 2.0)
    rehearsal.run()
    for peer in honest_of(rehearsal, wrap):
        assert rehearsal.skipped[peer].reason == "too few members are left to reveal their shares"
        assert rehearsal.ended_at[peer] == 2.0
