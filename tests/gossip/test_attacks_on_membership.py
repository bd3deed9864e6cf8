"""Attacks on who takes part: in the group, in the sum, and in the attempt that the others are in.

As in test_attacks.py.
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
    changes,
    elsewhere,
    lying,
    rehearse,
    silent_about,
    without,
)

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.events import Effect, Event, Received, Send, SetTimer, TimerExpired
from p2pfl.gossip.messages import (
    Ack,
    Bundle,
    Check,
    Masked,
    Message,
    Part,
    Plan,
    Pledge,
    Proposal,
    Ready,
    Survivors,
)
from p2pfl.gossip.rehearsal import identity_of
from p2pfl.gossip.simulation import steady
from p2pfl.gossip.wire import signed

exchanges = pytest.mark.parametrize("exchange", EXCHANGES)


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
    number, _ = ballot.entries[-1]
    return replace(ballot, entries=(*ballot.entries[:-1], (number, bytes(32))))


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
    kept = tuple(entry for entry in plan.entries if entry[0] != out)
    return replace(plan, entries=kept, owners=tuple(number for number, _ in kept))


def plan_with_a_stranger(me: Attacker, plan: Plan, to: PeerId) -> Message:
    return replace(plan, entries=(*plan.entries, (9, bytes(32))))


def plan_of_an_unknown_vector(me: Attacker, plan: Plan, to: PeerId) -> Message:
    return replace(plan, entries=(*plan.entries[:-1], (5, bytes(32))))


def plan_that_one_adds_up(me: Attacker, plan: Plan, to: PeerId) -> Message:
    return replace(plan, owners=(GROUP.index(me.peer),))


def plan_that_nobody_adds_up(me: Attacker, plan: Plan, to: PeerId) -> Message:
    return replace(plan, owners=())


def plan_that_a_stranger_adds_up(me: Attacker, plan: Plan, to: PeerId) -> Message:
    return replace(plan, owners=(*plan.owners, 9))


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
    rehearsal = attacked("scatter", wrap)
    all_complete(rehearsal, wrap, ALL)
    breaks = lie in (plan_with_a_stranger, plan_that_nobody_adds_up, plan_that_a_stranger_adds_up)
    assert breaks == any(error.peer == GROUP[0] for _, error in rehearsal.net.errors)


def test_whoever_is_left_out_with_good_reason_says_nothing_more() -> None:
    """Too many lack its chunks. One of the others still tells it everything: were it to check the sum, it
    would be taken for an intruder.
    """
    quick = steady()

    def link(sender: PeerId, receiver: PeerId, message: Message, rng: np.random.Generator) -> Iterable[float]:
        lost = isinstance(message, Masked) and sender == GROUP[5] and receiver in GROUP[1:4]
        return () if lost else quick(sender, receiver, message, rng)

    def tells(me: Attacker, event: Event, now: float) -> Iterable[Effect]:
        heard = isinstance(event, Received) and isinstance(event.message, Part | Check | Plan)
        told = [event.message] if heard and isinstance(event, Received) else []
        return [
            Send(GROUP[5], message)
            for message in [*told, *me.said]
            if isinstance(message, Part | Check | Plan)
        ]

    wrap = {0: attacker(react=tells)}
    rehearsal = attacked("scatter", wrap, link=link)
    assert all(rehearsal.completed[peer].survivors == GROUP[:5] for peer in GROUP[1:5])
    said = [sent.message for sent in rehearsal.net.sent if sent.sender == GROUP[5]]
    assert not any(isinstance(message, Check | Survivors) for message in said)


@exchanges
@pytest.mark.parametrize("liars", [(3,), (3, 4)])
@pytest.mark.parametrize("kind", [Ack, Bundle])
def test_whoever_has_contributed_is_not_brought_to_begin_again(
    exchange: str, kind: type[Message], liars: tuple[int, ...]
) -> None:
    """By one, or more than may collude, that answers another proposal than all the others, once they have
    sent their vectors.
    """

    def react(me: Attacker, event: Event, now: float) -> Iterable[Effect]:
        mine = [message for message in me.said if isinstance(message, kind)]
        if not (isinstance(event, Received) and isinstance(event.message, Masked) and mine):
            return ()
        return [
            Send(peer, me.sign(elsewhere(mine[0], roster=bytes(32)))) for peer in GROUP[:6] if peer != me.peer
        ]

    wrap = dict.fromkeys(liars, attacker(react=react))
    all_complete(attacked(exchange, wrap), wrap, ALL)


def another_roster(me: Attacker, kind: type[Message]) -> Message:
    mine = next(message for message in me.said if isinstance(message, kind))
    return elsewhere(mine, roster=bytes(32))


CALLS_AWAY: dict[str, Callable[[Attacker], Message | None]] = {
    "nothing": lambda me: None,
    "an ack of another roster": lambda me: another_roster(me, Ack),
    "a bundle of another roster": lambda me: another_roster(me, Bundle),
    "a ready of another attempt": lambda me: elsewhere(
        next(message for message in me.said if isinstance(message, Ready)), attempt=1
    ),
    "an ack of the last attempt": lambda me: elsewhere(another_roster(me, Ack), attempt=3),
}


@exchanges
@pytest.mark.parametrize("seconds", [0.0, 0.02])
@pytest.mark.parametrize("said", CALLS_AWAY)
def test_nor_is_whoever_has_acked_while_the_others_go_on_by_its_word(
    exchange: str, said: str, seconds: float
) -> None:
    """One member acks to all but its victim, and tells the victim something else. It is not even late."""

    def change(me: Attacker, send: Send) -> Iterable[Send]:
        keeps = isinstance(send.message, Ack) and send.peer == GROUP[3] and send.message.roster != bytes(32)
        return () if keeps else (send,)

    def react(me: Attacker, event: Event, now: float) -> Iterable[Effect]:
        if isinstance(event, TimerExpired) and event.key == "now":
            lie = CALLS_AWAY[said](me)
            return () if lie is None else (Send(GROUP[3], me.sign(lie)),)
        acked = any(isinstance(message, Ack) for message in me.said) and not waits
        waits.extend([True] * acked)
        return [SetTimer("now", now + seconds)] if acked else ()

    waits: list[bool] = []
    wrap = {1: attacker(change, react)}
    rehearsal = attacked(exchange, wrap)
    all_complete(rehearsal, wrap, ALL)
    assert rehearsal.ended_at[GROUP[3]] < rehearsal.timing.phase_seconds


@exchanges
def test_whoever_lacks_a_bundle_is_followed_by_those_who_have_acked(exchange: str) -> None:
    """One member deals to the last in such a way that it cannot ack: all others have, and wait for it."""

    def spoil(me: Attacker, bundle: Bundle, to: PeerId) -> Message:
        return replace(bundle, sealed=bytes(106)) if to == GROUP[5] and bundle.attempt == 0 else bundle

    wrap = {2: attacker(lying(Bundle, spoil))}
    rehearsal = attacked(exchange, wrap)
    all_complete(rehearsal, wrap, ALL)
    assert max(rehearsal.ended_at.values()) < rehearsal.timing.phase_seconds


@pytest.mark.parametrize("everybody_lacks", [True, False])
def test_a_plan_of_vectors_that_nobody_holds_is_none(everybody_lacks: bool) -> None:
    """Its author pledges a vector and gives no chunk of it to anybody, or to some."""

    def chunks(me: Attacker, masked: Masked, to: PeerId) -> Message | None:
        return None if everybody_lacks or GROUP.index(to) < 4 else masked

    def plan(me: Attacker, plan: Plan, to: PeerId) -> Message:
        marks = {GROUP.index(m.author): m.mark for m in [*me.heard, *me.said] if isinstance(m, Pledge)}
        entries = tuple(sorted(marks.items()))
        return replace(plan, entries=entries, owners=())

    wrap = {0: attacker(changes(lying(Masked, chunks), lying(Plan, plan)))}
    all_complete(attacked("scatter", wrap), wrap, without(0))


def test_no_plan_takes_back_who_was_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever spoils one plan, and is not in the next, says the first again. They might go to and fro."""
    monkeypatch.setattr("p2pfl.gossip.simulation._MAX_EVENTS", 10_000)

    def react(me: Attacker, event: Event, now: float) -> Iterable[Effect]:
        plans = [message for message in me.heard if isinstance(message, Plan)]
        if not isinstance(event, TimerExpired) or not plans or now < 1.0:
            return ()
        return me.tell_all(me.sign(plans[0]))

    wrap = {2: attacker(silent_about(Part, Check), react)}
    all_complete(attacked("scatter", wrap), wrap, without(2))


@pytest.mark.parametrize("number", [0, 4])
def test_plans_that_shrink_without_end_end(number: int) -> None:
    """One after the other, each without one member more, as soon as others might take it."""

    def react(me: Attacker, event: Event, now: float) -> Iterable[Effect]:
        plans = [m for m in me.said if isinstance(m, Plan)] or [m for m in me.heard if isinstance(m, Plan)]
        if not plans:
            return ()
        others = [entry for entry in plans[-1].entries if entry[0] != number]
        kept = [entry for entry in plans[-1].entries if len(others) < 2 or entry != others[-1]]
        owners = tuple(each for each, _ in kept)
        plan = me.sign(replace(plans[-1], entries=tuple(kept), owners=owners))
        me.said.append(plan)
        return me.tell_all(plan)

    wrap = {number: attacker(silent_about(Part, Check), react)}
    attacked("scatter", wrap)
