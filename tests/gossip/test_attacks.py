"""Attacks on a round, mounted on the real machines: what the attacker gets, and what becomes of the others.

Six members, of which one may collude: t = 4, and two may vanish. What holds for the honest in every case is
in :func:`attackers.audit`; the tests say what else does.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from attackers import (
    DIM,
    EXCHANGES,
    GROUP,
    Attacker,
    Change,
    Lie,
    accusations,
    all_complete,
    attacked,
    attacker,
    audit,
    both,
    changes,
    cut_small,
    honest_of,
    kept_bytes,
    lying,
    machine_of,
    rehearse,
    silent_about,
)
from numpy.typing import NDArray

from p2pfl.crypto import labels
from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.crypto.randomness import RandomBytes
from p2pfl.gossip.events import Computed, Effect, Event, PeerFound, PeerLost, Received, Send
from p2pfl.gossip.linear_check import Words, check_values
from p2pfl.gossip.messages import (
    Ack,
    Bundle,
    Check,
    Fetch,
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
from p2pfl.gossip.rehearsal import Wrap, identity_of
from p2pfl.gossip.round import RoundMachine
from p2pfl.gossip.scatter import Scatter
from p2pfl.gossip.simulation import Link, Machine, steady
from p2pfl.gossip.trial import WRONG_SUM, Trial
from p2pfl.gossip.wire import digest, signed

ALL = range(6)
exchanges = pytest.mark.parametrize("exchange", EXCHANGES)
scatter = "scatter"


def without(*numbers: int) -> list[int]:
    return [number for number in ALL if number not in numbers]


# ---- saying nothing

SAID = {
    "broadcast": (Masked, Survivors, Reveal, Result),
    "scatter": (Masked, Pledge, Held, Plan, Part, Check, Survivors, Reveal, Result),
}
WITHHELD = [(exchange, kind) for exchange, kinds in SAID.items() for kind in kinds]


def falls_silent_at(kind: type[Message]) -> Change:
    """From the first message of this kind on, nothing."""
    over: list[bool] = []

    def change(me: Attacker, send: Send) -> Iterable[Send]:
        if isinstance(send.message, kind):
            over.append(True)
        return () if over else (send,)

    return change


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
    return me.tell_all(forged, replace(event.message, round=8), replace(event.message, signature=b""))


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
        return me.tell_all(*recorded, *(me.sign(replace(m, round=7)) for m in own))

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
            *old, *(me.sign(replace(m, attempt=1)) for m in own if not isinstance(m, Bundle | Ack))
        )

    wrap = {2: attacker(lying(Bundle, spoil), react)}
    rehearsal = attacked(exchange, wrap)
    all_complete(rehearsal, wrap, ALL)
    assert {kind for _, kind in accusations(rehearsal, wrap)} <= {"a bundle that does not open"}


def vars_of(message: Message) -> dict[str, object]:
    return {name: getattr(message, name) for name in message.__dataclass_fields__}


# ---- who is in the group


def leaves_out_the_last(me: Attacker, proposal: Proposal, to: PeerId) -> Message:
    return replace(proposal, readies=proposal.readies[:-1])


def adds_a_stranger(me: Attacker, proposal: Proposal, to: PeerId) -> Message:
    ready = replace(proposal.readies[0], author=GROUP[9])
    return replace(proposal, readies=(*proposal.readies, signed(identity_of(9), ready)))


def takes_in_who_is_not_ready(me: Attacker, proposal: Proposal, to: PeerId) -> Message:
    invented = replace(proposal.readies[-1], commitment=bytes(32))
    return replace(proposal, readies=(*proposal.readies[:-1], invented))


@exchanges
@pytest.mark.parametrize("lie", [leaves_out_the_last, adds_a_stranger, takes_in_who_is_not_ready])
def test_a_convener_does_not_choose_the_group(exchange: str, lie: Lie) -> None:
    wrap = {0: attacker(lying(Proposal, lie))}
    rehearsal = attacked(exchange, wrap)
    all_complete(rehearsal, wrap, ALL)
    assert {len(end.members) for end in rehearsal.completed.values()} == {6}


@exchanges
def test_nor_does_it_split_the_group_with_two_proposals(exchange: str) -> None:
    def odd(to: PeerId) -> bool:
        return GROUP.index(to) % 2 == 1

    def other(me: Attacker, ready: Ready) -> Ready:
        twin = me.sign(replace(ready, commitment=bytes(32)))
        assert isinstance(twin, Ready)
        return twin

    def two_readies(me: Attacker, ready: Ready, to: PeerId) -> Message:
        return other(me, ready) if odd(to) else ready

    def two_proposals(me: Attacker, proposal: Proposal, to: PeerId) -> Message:
        mine, *others = proposal.readies
        return replace(proposal, readies=(other(me, mine), *others)) if odd(to) else proposal

    wrap = {0: attacker(changes(lying(Ready, two_readies), lying(Proposal, two_proposals)))}
    rehearsal = rehearse(exchange, wrap).run()
    audit(rehearsal, wrap)
    rosters = {sent.message.roster for sent in rehearsal.net.sent if isinstance(sent.message, Survivors)}
    assert len(rosters) <= 1


# ---- whose vectors are summed


def fewer_for_some(me: Attacker, ballot: Survivors, to: PeerId) -> Message:
    return replace(ballot, entries=ballot.entries[:-1]) if GROUP.index(to) > 2 else ballot


def invents_a_mark(me: Attacker, ballot: Survivors, to: PeerId) -> Message:
    peer, _ = ballot.entries[-1]
    return replace(ballot, entries=(*ballot.entries[:-1], (peer, bytes(32))))


def invents_parts(me: Attacker, ballot: Survivors, to: PeerId) -> Message:
    return replace(ballot, parts=bytes(len(ballot.parts)))


@exchanges
@pytest.mark.parametrize("number", [0, 3])
@pytest.mark.parametrize("lie", [fewer_for_some, invents_a_mark, invents_parts])
def test_one_set_of_survivors_is_settled_whatever_one_member_signs(
    exchange: str, lie: Lie, number: int
) -> None:
    wrap = {number: attacker(lying(Survivors, lie))}
    all_complete(attacked(exchange, wrap), wrap, ALL)


@exchanges
def test_two_sets_in_one_hand_are_evidence(exchange: str) -> None:
    wrap = {0: attacker(both(Survivors, invents_a_mark))}
    rehearsal = attacked(exchange, wrap)
    all_complete(rehearsal, wrap, ALL)
    assert accusations(rehearsal, wrap) == {
        (number, "two different values of survivors") for number in without(0)
    }


def plan_without_the_last(me: Attacker, plan: Plan, to: PeerId) -> Message:
    return replace(plan, entries=plan.entries[:-1], owners=plan.owners[:-1])


def two_plans(me: Attacker, plan: Plan, to: PeerId) -> Message:
    out = GROUP.index(to) % 2 + 3
    kept = tuple(entry for entry in plan.entries if entry[0] != GROUP[out])
    return replace(plan, entries=kept, owners=tuple(peer for peer, _ in kept))


def plan_with_a_stranger(me: Attacker, plan: Plan, to: PeerId) -> Message:
    return replace(plan, entries=(*plan.entries, (GROUP[9], bytes(32))))


def plan_of_an_unknown_vector(me: Attacker, plan: Plan, to: PeerId) -> Message:
    return replace(plan, entries=(*plan.entries[:-1], (GROUP[5], bytes(32))))


def plan_that_one_adds_up(me: Attacker, plan: Plan, to: PeerId) -> Message:
    return replace(plan, owners=(me.peer,))


def plan_that_nobody_adds_up(me: Attacker, plan: Plan, to: PeerId) -> Message:
    return replace(plan, owners=())


def plan_that_a_stranger_adds_up(me: Attacker, plan: Plan, to: PeerId) -> Message:
    return replace(plan, owners=(*plan.owners, GROUP[9]))


@pytest.mark.parametrize(
    "lie",
    [
        plan_without_the_last,
        two_plans,
        plan_with_a_stranger,
        plan_of_an_unknown_vector,
        plan_that_one_adds_up,
        plan_that_nobody_adds_up,
        plan_that_a_stranger_adds_up,
    ],
)
def test_whoever_makes_the_plan_does_not_choose_the_survivors(lie: Lie) -> None:
    wrap = {0: attacker(lying(Plan, lie))}
    all_complete(attacked(scatter, wrap), wrap, ALL)


@pytest.mark.parametrize("everybody_lacks", [True, False])
def test_a_plan_of_vectors_that_nobody_holds_is_none(everybody_lacks: bool) -> None:
    """Its author pledges a vector and gives no chunk of it to anybody, or to some."""

    def chunks(me: Attacker, masked: Masked, to: PeerId) -> Message | None:
        return None if everybody_lacks or GROUP.index(to) < 4 else masked

    def plan(me: Attacker, plan: Plan, to: PeerId) -> Message:
        everybody = {m.author: (m.author, m.mark) for m in [*me.heard, *me.said] if isinstance(m, Pledge)}
        entries = tuple(everybody[peer] for peer in GROUP if peer in everybody)
        return replace(plan, entries=entries, owners=())

    wrap = {0: attacker(changes(lying(Masked, chunks), lying(Plan, plan)))}
    all_complete(attacked(scatter, wrap), wrap, without(0))


@pytest.mark.parametrize("number", [0, 4])
def test_plans_that_shrink_without_end_end(number: int) -> None:
    """One after the other, each without one member more, as soon as others might take it."""

    def react(me: Attacker, event: Event, now: float) -> Iterable[Effect]:
        plans = [m for m in me.said if isinstance(m, Plan)] or [m for m in me.heard if isinstance(m, Plan)]
        if not plans:
            return ()
        others = [entry for entry in plans[-1].entries if entry[0] != me.peer]
        kept = [entry for entry in plans[-1].entries if len(others) < 2 or entry != others[-1]]
        owners = tuple(peer for peer, _ in kept)
        plan = me.sign(replace(plans[-1], entries=tuple(kept), owners=owners))
        me.said.append(plan)
        return me.tell_all(plan)

    wrap = {number: attacker(silent_about(Part, Check), react)}
    attacked(scatter, wrap)


# ---- shares and keys


def random_shares(shares_for: Callable[[int], bool]) -> Wrap:
    """Deals shares that were never of its secrets, to some."""

    def wrap(machine: RoundMachine, identity: Identity) -> Machine:
        right = machine._suite.split

        def split(secret: bytes, holders: int, threshold: int, random: RandomBytes) -> list[bytes]:
            dealt, other = (right(each, holders, threshold, random) for each in (secret, random(32)))
            return [other[holder] if shares_for(holder) else dealt[holder] for holder in range(holders)]

        machine._suite = replace(machine._suite, split=split)
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


# ---- sums and checks


def plus_one(data: bytes) -> bytes:
    """One more in the first element."""
    elements = np.frombuffer(data, np.uint32).copy()
    elements[0] += 1
    return elements.tobytes()


def part_with(part: Part, data: bytes) -> Part:
    return replace(part, data=data, digest=digest(labels.PART_DIGEST, data))


def adds_wrongly(me: Attacker, event: Event) -> Event:
    """Its machine believes in a sum that is not: parts and checks agree with each other."""
    if isinstance(event, Computed) and "/add-" in event.key:
        data, _ = event.value
        return replace(event, value=(plus_one(data), digest(labels.PART_DIGEST, plus_one(data))))
    return event


def test_an_owner_that_adds_wrongly_is_named_and_left_out() -> None:
    wrap = {2: attacker(twist=adds_wrongly)}
    rehearsal = attacked(scatter, wrap)
    all_complete(rehearsal, wrap, without(2))
    assert accusations(rehearsal, wrap) == {(number, WRONG_SUM) for number in without(2)}


def test_an_owner_that_adds_wrongly_and_will_not_show_what_is_left_out() -> None:
    def change(me: Attacker, send: Send) -> Iterable[Send]:
        checked = any(isinstance(message, Check) for message in me.said)
        return () if isinstance(send.message, Masked) and checked else (send,)

    wrap = {2: attacker(change, twist=adds_wrongly)}
    all_complete(attacked(scatter, wrap), wrap, without(2))


def test_an_owner_that_tells_different_members_different_sums_is_named_and_left_out() -> None:
    def lie(me: Attacker, part: Part, to: PeerId) -> Message:
        return part_with(part, plus_one(part.data)) if GROUP.index(to) % 2 else part

    wrap = {2: attacker(lying(Part, lie))}
    rehearsal = attacked(scatter, wrap)
    all_complete(rehearsal, wrap, without(2))
    assert accusations(rehearsal, wrap) == {
        (number, "two different parts of one chunk") for number in without(2)
    }


def test_nor_does_one_member_alone_get_another_sum() -> None:
    """All but one have the right part; it learns that from their checks."""
    wrap = {
        2: attacker(
            lying(Part, lambda me, part, to: part_with(part, plus_one(part.data)) if to == GROUP[0] else part)
        )
    }
    rehearsal = attacked(scatter, wrap)
    all_complete(rehearsal, wrap, without(2))
    assert (0, "two different parts of one chunk") in accusations(rehearsal, wrap)


@pytest.mark.parametrize("twisted", [lambda data: data + bytes(4), lambda data: data[:-1], lambda data: b""])
def test_a_part_of_the_wrong_length_is_none(twisted: Callable[[bytes], bytes]) -> None:
    wrap = {2: attacker(lying(Part, lambda me, part, to: part_with(part, twisted(part.data))))}
    rehearsal = attacked(scatter, wrap)
    all_complete(rehearsal, wrap, without(2))
    assert {error.reason for _, error in rehearsal.net.errors} == {"a part of the wrong length"}


def test_nor_is_a_part_of_a_chunk_that_another_adds_up() -> None:
    """It takes the place of the owner's part, if it may, before that one comes."""

    def change(me: Attacker, send: Send) -> Iterable[Send]:
        if not isinstance(send.message, Part) or send.message.author != me.peer:
            return (send,)
        others = (me.sign(replace(send.message, chunk=chunk)) for chunk in range(13))
        return (*(Send(send.peer, other) for other in others), send)

    wrap = {2: attacker(change)}
    rehearsal = attacked(scatter, wrap)
    all_complete(rehearsal, wrap, ALL)
    assert {error.peer for _, error in rehearsal.net.errors} == {GROUP[2]}


def the_trial(me: Attacker, key: str) -> Trial:
    assert me.machine._sum is not None
    exchange = me.machine._sum._exchange
    assert isinstance(exchange, Scatter)
    return exchange._trials[bytes.fromhex(key.split("/")[-2])]


def fudges(owner: int) -> Callable[[Attacker, Event], Event]:
    """Adds to its own words those of the error that :func:`adds_wrongly` makes in the chunks of an owner."""

    def twist(me: Attacker, event: Event) -> Event:
        if not isinstance(event, Computed) or not event.key.endswith("/check"):
            return event
        trial = the_trial(me, event.key)
        chunks = {chunk: part for chunk, part in trial._parts.items() if trial._owners[chunk] == owner}
        error = {
            chunk: np.frombuffer(plus_one(bytes(len(part.data))), np.uint32) for chunk, part in chunks.items()
        }
        words, sums = cast(tuple[Words, Words], event.value)
        more = check_values(trial._seed, error, trial._owners)[owner]
        return replace(event, value=({**words, owner: words[owner] + more}, sums))

    return twist


def one_more_in(chunks: Iterable[int], members: int) -> NDArray[np.uint32]:
    """What :func:`adds_wrongly` adds."""
    more = np.zeros(DIM, np.uint32)
    for chunk in chunks:
        more[cut_small(DIM, members, 4).where(chunk).start] = 1
    return more


def test_an_owner_that_fudges_its_own_check_has_contributed_something_else() -> None:
    """Its chunk of its own vector nobody else has. It gets the sum of another vector of its own, no more."""

    def twist(me: Attacker, event: Event) -> Event:
        return fudges(2)(me, adds_wrongly(me, event))

    wrap = {2: attacker(twist=twist)}
    rehearsal = rehearse(scatter, wrap).run()
    audit(rehearsal, wrap, own_values=False)
    all_complete(rehearsal, wrap, ALL)
    assert accusations(rehearsal, wrap) == set()
    for peer in honest_of(rehearsal, wrap):
        difference = rehearsal.completed[peer].total - rehearsal.oracle(GROUP[:6])
        assert np.array_equal(difference, one_more_in((2, 8), 6))


def test_nor_do_an_owner_and_a_contributor_that_waits_for_its_sum_get_more() -> None:
    """The contributor's check comes when all parts and all other checks are known to both."""
    wrap = {2: attacker(twist=adds_wrongly), 4: attacker(twist=fudges(2))}
    rehearsal = rehearse(scatter, wrap, members=7, colluders=2).run()
    audit(rehearsal, wrap, own_values=False)
    all_complete(rehearsal, wrap, range(7))
    for peer in honest_of(rehearsal, wrap):
        difference = rehearsal.completed[peer].total - rehearsal.oracle(GROUP[:7])
        assert np.array_equal(difference, one_more_in((2, 9), 7))


def wrong_words(me: Attacker, event: Event) -> Event:
    if isinstance(event, Computed) and event.key.endswith("/check"):
        words, sums = cast(tuple[Words, Words], event.value)
        return replace(event, value=({owner: row + 1 for owner, row in words.items()}, sums))
    return event


def test_a_contributor_with_wrong_words_is_named_and_its_vector_summed() -> None:
    wrap = {2: attacker(twist=wrong_words)}
    rehearsal = attacked(scatter, wrap)
    all_complete(rehearsal, wrap, ALL)
    assert accusations(rehearsal, wrap) == {(number, "a check of another vector") for number in without(2)}


def test_wrong_words_for_some_do_not_divide_the_others() -> None:
    def lie(me: Attacker, check: Check, to: PeerId) -> Message:
        return replace(check, words=plus_one(check.words)) if GROUP.index(to) % 2 else check

    wrap = {2: attacker(lying(Check, lie))}
    all_complete(attacked(scatter, wrap), wrap, ALL)


def test_a_wrong_sum_and_wrong_words_at_once_are_told_apart() -> None:
    wrap = {2: attacker(twist=adds_wrongly), 4: attacker(twist=wrong_words)}
    rehearsal = attacked(scatter, wrap, members=8, colluders=2)
    all_complete(rehearsal, wrap)
    blamed = {(evidence.peer, evidence.kind) for _, evidence in rehearsal.evidence}
    assert (GROUP[2], WRONG_SUM) in blamed
    assert (GROUP[4], WRONG_SUM) not in blamed


def other_parts(me: Attacker, check: Check, to: PeerId) -> Message:
    return replace(check, parts=(bytes(32), *check.parts[1:]))


def other_parts_for_some(me: Attacker, check: Check, to: PeerId) -> Message:
    return other_parts(me, check, to) if GROUP.index(to) % 2 else check


def test_a_check_of_parts_that_never_were_keeps_its_author_out() -> None:
    wrap = {2: attacker(lying(Check, other_parts))}
    rehearsal = attacked(scatter, wrap)
    all_complete(rehearsal, wrap, without(2))
    assert accusations(rehearsal, wrap) == set()


def test_nor_does_one_for_some_divide_the_others() -> None:
    """They get the other check from those who have signed; two are evidence."""
    wrap = {2: attacker(lying(Check, other_parts_for_some))}
    rehearsal = attacked(scatter, wrap)
    all_complete(rehearsal, wrap, ALL)
    assert accusations(rehearsal, wrap) == {(number, "two different values of check") for number in (1, 3, 5)}


def test_two_checks_are_evidence() -> None:
    wrap = {2: attacker(both(Check, other_parts))}
    rehearsal = attacked(scatter, wrap)
    all_complete(rehearsal, wrap, ALL)
    assert accusations(rehearsal, wrap) == {
        (number, "two different values of check") for number in without(2)
    }


@pytest.mark.parametrize(
    "twisted", [lambda words: words[:-4], lambda words: words + bytes(4), lambda words: b""]
)
def test_a_check_of_the_wrong_length_is_none(twisted: Callable[[bytes], bytes]) -> None:
    wrap = {2: attacker(lying(Check, lambda me, check, to: replace(check, words=twisted(check.words))))}
    rehearsal = attacked(scatter, wrap)
    all_complete(rehearsal, wrap, without(2))
    assert {error.reason for _, error in rehearsal.net.errors} == {"a check of the wrong length"}


# ---- chunks, pledges, and what is held


def another(me: Attacker, masked: Masked) -> Masked:
    return Masked.of(
        me.peer, (masked.round, masked.attempt, masked.roster), masked.chunk, plus_one(masked.data)
    )


def test_a_chunk_that_is_not_as_pledged_is_evidence_and_not_added() -> None:
    def lie(me: Attacker, masked: Masked, to: PeerId) -> Message:
        return another(me, masked) if to == GROUP[3] else masked

    wrap = {2: attacker(lying(Masked, lie))}
    rehearsal = attacked(scatter, wrap)
    all_complete(rehearsal, wrap)
    assert accusations(rehearsal, wrap) == {(3, "a chunk that is not the one it pledged")}


def test_nor_is_one_that_comes_in_two_versions() -> None:
    wrap = {2: attacker(both(Masked, lambda me, masked, to: another(me, masked)))}
    rehearsal = attacked(scatter, wrap)
    all_complete(rehearsal, wrap)
    assert accusations(rehearsal, wrap) == {(number, "two masked vectors") for number in without(2)}


def another_pledge(me: Attacker, pledge: Pledge, to: PeerId) -> Message:
    return replace(pledge, digests=(*pledge.digests[:-1], bytes(32)))


def test_a_vector_that_is_pledged_differently_to_different_members_is_left_out() -> None:
    def lie(me: Attacker, pledge: Pledge, to: PeerId) -> Message:
        return another_pledge(me, pledge, to) if GROUP.index(to) % 2 else pledge

    wrap = {2: attacker(lying(Pledge, lie))}
    all_complete(attacked(scatter, wrap), wrap, without(2))


def test_two_pledges_in_one_hand_are_evidence() -> None:
    wrap = {2: attacker(both(Pledge, another_pledge))}
    rehearsal = attacked(scatter, wrap)
    all_complete(rehearsal, wrap, ALL)
    assert accusations(rehearsal, wrap) == {
        (number, "two different values of pledge") for number in without(2)
    }


def holds_only_its_own(me: Attacker, held: Held, to: PeerId) -> Message:
    return replace(held, entries=tuple(entry for entry in held.entries if entry[0] == me.peer))


def lacks_one(me: Attacker, held: Held, to: PeerId) -> Message:
    return replace(held, entries=tuple(entry for entry in held.entries if entry[0] != GROUP[4]))


def lacks_one_says_to_some(me: Attacker, held: Held, to: PeerId) -> Message:
    return lacks_one(me, held, to) if GROUP.index(to) % 2 else held


def holds_other_vectors(me: Attacker, held: Held, to: PeerId) -> Message:
    return replace(
        held, entries=tuple((peer, mark if peer == me.peer else bytes(32)) for peer, mark in held.entries)
    )


def holds_not_even_its_own(me: Attacker, held: Held, to: PeerId) -> Message:
    return replace(held, entries=tuple((peer, bytes(32)) for peer, _ in held.entries))


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize(
    "lie",
    [holds_only_its_own, lacks_one, lacks_one_says_to_some, holds_other_vectors, holds_not_even_its_own],
)
def test_whoever_says_it_lacks_what_it_was_given_keeps_nobody_out(lie: Lie, number: int) -> None:
    wrap = {number: attacker(lying(Held, lie))}
    rehearsal = attacked(scatter, wrap)
    all_complete(rehearsal, wrap)
    assert set(honest_of(rehearsal, wrap)) <= set(rehearsal.completed[GROUP[1]].survivors)
    assert accusations(rehearsal, wrap) == set()


def test_whoever_says_it_holds_what_it_never_got_is_left_out() -> None:
    """It never was given the chunks of member 4, and cannot add them up."""
    quick = steady()

    def link(sender: PeerId, receiver: PeerId, message: Message, rng: np.random.Generator) -> Iterable[float]:
        lost = isinstance(message, Masked) and (sender, receiver) == (GROUP[4], GROUP[2])
        return () if lost else quick(sender, receiver, message, rng)

    def lie(me: Attacker, held: Held, to: PeerId) -> Message:
        marks = {m.author: m.mark for m in [*me.heard, *me.said] if isinstance(m, Pledge)}
        return replace(held, entries=tuple((peer, marks[peer]) for peer in GROUP[:6]))

    wrap = {2: attacker(lying(Held, lie))}
    rehearsal = attacked(scatter, wrap, link=link)
    all_complete(rehearsal, wrap, without(2))
    assert accusations(rehearsal, wrap) == set()


def test_a_contributor_that_gives_its_chunks_to_no_other_owner_ends_in_time() -> None:
    """One owner vanishes; who steps in asks for the chunks, and member 2 does not hand them out. Who of the
    two it is, the others cannot tell: the round may be skipped.
    """

    def refuses(me: Attacker, send: Send) -> Iterable[Send]:
        pledged = any(isinstance(message, Pledge) for message in me.said)
        return () if isinstance(send.message, Masked) and pledged else (send,)

    wrap = {2: attacker(refuses), 3: attacker(falls_silent_at(Pledge))}
    rehearsal = attacked(scatter, wrap, members=8)
    assert accusations(rehearsal, wrap) == set()


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


# ---- floods


def flood(make: Callable[[Attacker, Message, int], Message | None], count: int) -> Wrap:
    """So many of them to everybody, at the first sign of every new kind of message."""
    seen: set[type[Message]] = set()

    def react(me: Attacker, event: Event, now: float) -> Iterable[Effect]:
        context = next((m for m in me.said if hasattr(m, "roster")), None)
        if not isinstance(event, Received) or context is None or type(event.message) in seen:
            return ()
        seen.add(type(event.message))
        made = [made for number in range(count) if (made := make(me, context, number)) is not None]
        return me.tell_all(*(m if m.LABEL is None else me.sign(m) for m in made))

    return attacker(react=react)


def place(context: Message) -> tuple[int, int, bytes]:
    values = vars_of(context)
    return values["round"], values["attempt"], values["roster"]  # type: ignore[return-value]


def mark(number: int) -> bytes:
    return number.to_bytes(32, "big")


LONG = bytes(4096)  # much more than a chunk has here, and less than the codec takes


def parts_of_unknown_plans(me: Attacker, context: Message, number: int) -> Message:
    return part_with(Part(me.peer, *place(context), mark(number), number % 13, b"", b""), bytes(8))


def long_parts_of_one_plan(me: Attacker, context: Message, number: int) -> Message:
    return part_with(Part(me.peer, *place(context), mark(0), number % 500, b"", b""), LONG)


def checks_of_unknown_plans(me: Attacker, context: Message, number: int) -> Message:
    return Check(me.peer, *place(context), mark(number), (bytes(32),) * 12, bytes(4096))


def chunks_for_others(me: Attacker, context: Message, number: int) -> Message:
    return Masked.of(me.peer, place(context), number % 500 + 1, LONG[: 4 * DIM])


def plans(me: Attacker, context: Message, number: int) -> Message:
    return Plan(me.peer, *place(context), tuple((peer, mark(number)) for peer in GROUP[:6]), GROUP[:6])


def ballots(me: Attacker, context: Message, number: int) -> Message:
    return Survivors(
        me.peer, *place(context), tuple((peer, mark(number)) for peer in GROUP[:6]), mark(number)
    )


def pledges(me: Attacker, context: Message, number: int) -> Message:
    return Pledge(me.peer, *place(context), (mark(number),) * 12)


def fetches(me: Attacker, context: Message, number: int) -> Message:
    return Fetch(me.peer, *place(context), "part", GROUP[number % 10], number % 12, mark(number))


FLOODS = {
    "broadcast": [parts_of_unknown_plans, chunks_for_others, ballots, fetches],
    "scatter": [
        *(parts_of_unknown_plans, long_parts_of_one_plan, checks_of_unknown_plans, chunks_for_others, plans),
        *(ballots, pledges, fetches),
    ],
}


@pytest.mark.parametrize(
    ("exchange", "make"), [(exchange, make) for exchange in FLOODS for make in FLOODS[exchange]]
)
def test_a_flood_fills_no_memory(
    exchange: str, make: Callable[[Attacker, Message, int], Message | None]
) -> None:
    """Four times as much of it leaves no more behind, and it all comes to a good end."""
    kept = []
    for count in (50, 200):
        wrap = {3: flood(make, count)}
        rehearsal = attacked(exchange, wrap)
        all_complete(rehearsal, wrap)
        kept.append(kept_bytes(machine_of(rehearsal, 1)))
    assert kept[1] <= kept[0] + 1000


@exchanges
def test_what_is_asked_for_again_is_not_sent_again(exchange: str) -> None:
    """In any words: with names and numbers that do not matter for what is asked for, too."""
    asked: set[bytes] = set()

    def react(me: Attacker, event: Event, now: float) -> Iterable[Effect]:
        if not isinstance(event, Received) or event.message.signature in asked:
            return ()
        message = event.message
        asked.add(message.signature)
        if isinstance(message, Masked):
            what = ("masked", (message.author,), (0, message.chunk), _vector_mark(me, message))
        elif isinstance(message, Part):
            what = ("part", (message.author, GROUP[4]), (message.chunk,), message.plan)
        elif isinstance(message, Check):
            what = ("check", (message.author,), range(12), message.plan)
        else:
            return ()
        kind, whose, chunks, name = what
        return me.tell_all(
            *(Fetch(me.peer, *place(message), kind, of, chunk, name) for of in whose for chunk in chunks),
            *(Fetch(me.peer, *place(message), kind, of, chunk, name) for of in whose for chunk in chunks),
        )

    wrap = {3: attacker(react=react)}
    rehearsal = attacked(exchange, wrap)
    all_complete(rehearsal, wrap, ALL)
    got = Counter(
        (sent.sender, sent.message.signature)
        for sent in rehearsal.net.sent
        if sent.receiver == GROUP[3] and isinstance(sent.message, Masked | Part | Check)
    )
    assert len(got) > 30 or exchange == "broadcast"
    assert max(got.values()) <= 2, "as it is said to everybody, and once more on request"


def _vector_mark(me: Attacker, masked: Masked) -> bytes:
    marks = {m.author: m.mark for m in [*me.heard, *me.said] if isinstance(m, Pledge)}
    return marks.get(masked.author, masked.digest)
