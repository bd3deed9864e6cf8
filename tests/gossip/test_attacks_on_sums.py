"""Attacks on the reduce-scatter: wrong sums, wrong checks, and chunks that are not what they are said to be.

As in test_attacks.py. A member whose signed words contradict each other, or the vectors that were pledged, is
named to all who see them; one that only lies about others, or is silent, is left out.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from attackers import (
    ALL,
    DIM,
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
    falls_silent_at,
    honest_of,
    lying,
    machine_of,
    part_with,
    place,
    plus_one,
    rehearse,
    silent_about,
    without,
)
from exchanges import scattered
from numpy.typing import NDArray

from p2pfl.crypto import labels
from p2pfl.crypto.identity import PeerId
from p2pfl.crypto.linear_check import CHECKS, Words, check_values
from p2pfl.gossip.canonical import pack
from p2pfl.gossip.events import Computed, Effect, Event, Received, Send
from p2pfl.gossip.messages import (
    Check,
    Fetch,
    Held,
    Masked,
    Message,
    Part,
    Plan,
    Pledge,
)
from p2pfl.gossip.scatter import Scatter
from p2pfl.gossip.simulation import Link, steady
from p2pfl.gossip.trial import WRONG_SUM, Trial
from p2pfl.gossip.wire import digest

# ---- sums and checks


def adds_wrongly(me: Attacker, event: Event) -> Event:
    """Its machine believes in a sum that is not: parts and checks agree with each other."""
    if isinstance(event, Computed) and "/add-" in event.key:
        data, _ = cast(tuple[bytes, bytes], event.value)
        return replace(event, value=(plus_one(data), digest(labels.PART_DIGEST, plus_one(data))))
    return event


def test_an_owner_that_adds_wrongly_is_named_and_left_out() -> None:
    wrap = {2: attacker(twist=adds_wrongly)}
    rehearsal = attacked("scatter", wrap)
    all_complete(rehearsal, wrap, without(2))
    assert accusations(rehearsal, wrap) == {(number, WRONG_SUM) for number in without(2)}


def test_an_owner_that_adds_wrongly_and_will_not_show_what_is_left_out() -> None:
    def change(me: Attacker, send: Send) -> Iterable[Send]:
        checked = any(isinstance(message, Check) for message in me.said)
        return () if isinstance(send.message, Masked) and checked else (send,)

    wrap = {2: attacker(change, twist=adds_wrongly)}
    all_complete(attacked("scatter", wrap), wrap, without(2))


def test_an_owner_that_tells_different_members_different_sums_is_named_and_left_out() -> None:
    def lie(me: Attacker, part: Part, to: PeerId) -> Message:
        return part_with(part, plus_one(part.data)) if GROUP.index(to) % 2 else part

    wrap = {2: attacker(lying(Part, lie))}
    rehearsal = attacked("scatter", wrap)
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
    rehearsal = attacked("scatter", wrap)
    all_complete(rehearsal, wrap, without(2))
    assert (0, "two different parts of one chunk") in accusations(rehearsal, wrap)


@pytest.mark.parametrize("twisted", [lambda data: data + bytes(4), lambda data: data[:-1], lambda data: b""])
def test_a_part_of_the_wrong_length_is_none(twisted: Callable[[bytes], bytes]) -> None:
    wrap = {2: attacker(lying(Part, lambda me, part, to: part_with(part, twisted(bytes(part.data)))))}
    rehearsal = attacked("scatter", wrap)
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
    rehearsal = attacked("scatter", wrap)
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
        more[scattered(DIM, members, 4).where(chunk).start] = 1
    return more


def test_an_owner_that_fudges_its_own_check_has_contributed_something_else() -> None:
    """Its chunk of its own vector nobody else has. It gets the sum of another vector of its own, no more."""

    def twist(me: Attacker, event: Event) -> Event:
        return fudges(2)(me, adds_wrongly(me, event))

    wrap = {2: attacker(twist=twist)}
    rehearsal = rehearse("scatter", wrap).run()
    audit(rehearsal, wrap, own_values=False)
    all_complete(rehearsal, wrap, ALL)
    assert accusations(rehearsal, wrap) == set()
    for peer in honest_of(rehearsal, wrap):
        difference = rehearsal.completed[peer].total - rehearsal.oracle(GROUP[:6])
        assert np.array_equal(difference, one_more_in((2, 8), 6))


def test_nor_do_an_owner_and_a_contributor_that_waits_for_its_sum_get_more() -> None:
    """The contributor's check comes when all parts and all other checks are known to both."""
    wrap = {2: attacker(twist=adds_wrongly), 4: attacker(twist=fudges(2))}
    rehearsal = rehearse("scatter", wrap, members=7, colluders=2).run()
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
    """And it costs the others little more than one owner's chunks: of the rest, they ask for its own only."""
    wrap = {2: attacker(twist=wrong_words)}
    rehearsal = attacked("scatter", wrap)
    all_complete(rehearsal, wrap, ALL)
    assert accusations(rehearsal, wrap) == {(number, "a check of another vector") for number in without(2)}
    fetches = [sent.message for sent in rehearsal.net.sent if isinstance(sent.message, Fetch)]
    asked = Counter(fetch.author for fetch in fetches if fetch.kind == "masked")
    one_owner, each = 6 * 2, 2
    assert max(asked.values()) <= one_owner + 5 * each


@pytest.mark.parametrize("liar", [0, 9])
def test_wrong_words_push_no_owner_out_however_narrow_its_line(liar: int) -> None:
    """It takes more than half a phase to send as much as a vector, and one member's check is false for
    everybody: ten owners have to show why. All that they added would be nine vectors.
    """
    free = dict.fromkeys(GROUP, 0.0)

    def link(sender: PeerId, receiver: PeerId, message: Message, rng: np.random.Generator) -> Iterable[float]:
        now = rehearsal.net.now
        size = len(message.data) if isinstance(message, Masked | Part) else 0
        free[sender] = max(free[sender], now) + 0.55 * size / (4 * DIM)
        return (free[sender] - now + 0.01,)

    wrap = {liar: attacker(twist=wrong_words)}
    rehearsal = rehearse("scatter", wrap, members=10, link=link)
    rehearsal.run()
    audit(rehearsal, wrap)
    honest = [number for number in range(10) if number != liar]
    all_complete(rehearsal, wrap, range(10))
    assert accusations(rehearsal, wrap) == {(number, "a check of another vector") for number in honest}
    assert max(rehearsal.ended_at.values()) < 3 * rehearsal.timing.phase_seconds


def wrong_about_the_second(me: Attacker, check: Check, to: PeerId) -> Message | None:
    row = CHECKS * 4
    return replace(check, words=check.words[:row] + plus_one(check.words[row:]))


def test_an_owner_that_never_got_the_wrong_words_hears_of_them() -> None:
    """They are wrong for its chunks alone. It cannot say whose they are before it has them, and is not asked
    for all that it added.
    """

    def lie(me: Attacker, check: Check, to: PeerId) -> Message | None:
        return None if to == GROUP[1] else wrong_about_the_second(me, check, to)

    wrap = {4: attacker(lying(Check, lie))}
    rehearsal = attacked("scatter", wrap)
    all_complete(rehearsal, wrap, ALL)
    assert max(rehearsal.ended_at.values()) < rehearsal.timing.phase_seconds / 2


def test_wrong_words_at_the_last_moment_push_no_owner_out() -> None:
    """The plan is nearly at its end when they come, and what their owner shows takes its time."""
    quick = steady()

    def link(sender: PeerId, receiver: PeerId, message: Message, rng: np.random.Generator) -> Iterable[float]:
        now = rehearsal.net.now
        if isinstance(message, Check) and sender == GROUP[4]:
            return (1.05 - now,)
        return (0.6,) if isinstance(message, Masked) and now > 1 else quick(sender, receiver, message, rng)

    wrap = {4: attacker(lying(Check, wrong_about_the_second))}
    rehearsal = rehearse("scatter", wrap, link=link)
    rehearsal.run()
    audit(rehearsal, wrap)
    all_complete(rehearsal, wrap, ALL)
    assert len({sent.message.mark for sent in rehearsal.net.sent if isinstance(sent.message, Plan)}) == 1


def test_wrong_words_for_some_do_not_divide_the_others() -> None:
    def lie(me: Attacker, check: Check, to: PeerId) -> Message:
        return replace(check, words=plus_one(check.words)) if GROUP.index(to) % 2 else check

    wrap = {2: attacker(lying(Check, lie))}
    all_complete(attacked("scatter", wrap), wrap, ALL)


def test_a_wrong_sum_and_wrong_words_at_once_are_told_apart() -> None:
    wrap = {2: attacker(twist=adds_wrongly), 4: attacker(twist=wrong_words)}
    rehearsal = attacked("scatter", wrap, members=8, colluders=2)
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
    rehearsal = attacked("scatter", wrap)
    all_complete(rehearsal, wrap, without(2))
    assert accusations(rehearsal, wrap) == set()


def test_nor_does_one_for_some_divide_the_others() -> None:
    """They get the other check from those who have signed; two are evidence."""
    wrap = {2: attacker(lying(Check, other_parts_for_some))}
    rehearsal = attacked("scatter", wrap)
    all_complete(rehearsal, wrap, ALL)
    assert accusations(rehearsal, wrap) == {(number, "two different values of check") for number in (1, 3, 5)}


def test_two_checks_are_evidence() -> None:
    wrap = {2: attacker(both(Check, other_parts))}
    rehearsal = attacked("scatter", wrap)
    all_complete(rehearsal, wrap, ALL)
    assert accusations(rehearsal, wrap) == {
        (number, "two different values of check") for number in without(2)
    }


@pytest.mark.parametrize(
    "twisted", [lambda words: words[:-4], lambda words: words + bytes(4), lambda words: b""]
)
def test_a_check_of_the_wrong_length_is_none(twisted: Callable[[bytes], bytes]) -> None:
    wrap = {2: attacker(lying(Check, lambda me, check, to: replace(check, words=twisted(check.words))))}
    rehearsal = attacked("scatter", wrap)
    all_complete(rehearsal, wrap, without(2))
    assert {error.reason for _, error in rehearsal.net.errors} == {"a check of the wrong length"}


def test_a_check_of_who_is_not_in_the_plan_is_none() -> None:
    """It says nothing of what it holds, nor makes a plan, so that it is left out; and checks nevertheless."""

    def react(me: Attacker, event: Event, now: float) -> Iterable[Effect]:
        if not isinstance(event, Received) or not isinstance(event.message, Plan):
            return ()
        plan = event.message
        words = bytes(len(plan.owners) * CHECKS * 4)
        return me.tell_all(me.sign(Check(me.peer, *place(plan), plan.mark, (bytes(32),) * 12, words)))

    wrap = {2: attacker(silent_about(Held, Plan), react)}
    rehearsal = attacked("scatter", wrap)
    all_complete(rehearsal, wrap, without(2))
    assert {error.reason for _, error in rehearsal.net.errors} <= {"a check of another sum"}


def test_anybody_can_tell_from_the_messages_that_the_checks_are_right() -> None:
    """The coins of each check come from the plan, and so from the vectors, and from all of the parts."""
    rehearsal = attacked("scatter", {})
    messages = [sent.message for sent in rehearsal.net.sent]
    (plan,) = {message.mark: message for message in messages if isinstance(message, Plan)}.values()
    parts = {message.chunk: message.digest for message in messages if isinstance(message, Part)}
    known = tuple(parts[chunk] for chunk in range(12))
    seed = digest(labels.CHALLENGE, pack((plan.mark, known)))
    owners = [chunk % 6 for chunk in range(12)]
    for check in (message for message in messages if isinstance(message, Check)):
        own = {m.chunk: m.data for m in messages if isinstance(m, Masked) and m.author == check.author}
        mine = machine_of(rehearsal, GROUP.index(check.author))._sum
        assert mine is not None
        assert isinstance(mine._exchange, Scatter)
        own |= {chunk: m.data for (of, chunk), m in mine._exchange._held.items() if of == check.author}
        words = check_values(seed, {c: np.frombuffer(data, np.uint32) for c, data in own.items()}, owners)
        assert check.words == b"".join(words[owner].tobytes() for owner in range(6))


# ---- chunks, pledges, and what is held


def another(me: Attacker, masked: Masked) -> Masked:
    return Masked.of(
        me.peer, (masked.round, masked.attempt, masked.roster), masked.chunk, plus_one(masked.data)
    )


def test_a_chunk_that_is_not_as_pledged_is_evidence_and_not_added() -> None:
    def lie(me: Attacker, masked: Masked, to: PeerId) -> Message:
        return another(me, masked) if to == GROUP[3] else masked

    wrap = {2: attacker(lying(Masked, lie))}
    rehearsal = attacked("scatter", wrap)
    all_complete(rehearsal, wrap)
    assert accusations(rehearsal, wrap) == {(3, "a chunk that is not the one it pledged")}


def test_nor_is_one_that_comes_in_two_versions() -> None:
    wrap = {2: attacker(both(Masked, lambda me, masked, to: another(me, masked)))}
    rehearsal = attacked("scatter", wrap)
    all_complete(rehearsal, wrap)
    assert accusations(rehearsal, wrap) == {(number, "two masked vectors") for number in without(2)}


@pytest.mark.parametrize("twisted", [lambda data: data + bytes(4), lambda data: data[:-4], lambda data: b""])
def test_a_chunk_of_the_wrong_length_is_none_though_it_is_pledged(twisted: Callable[[bytes], bytes]) -> None:
    def longer(me: Attacker, masked: Masked, to: PeerId) -> Message:
        place = (masked.round, masked.attempt, masked.roster)
        return Masked.of(me.peer, place, masked.chunk, twisted(bytes(masked.data)))

    def pledge(me: Attacker, pledge: Pledge, to: PeerId) -> Message:
        said = {m.chunk: m.digest for m in me.said if isinstance(m, Masked)}
        return replace(pledge, digests=tuple(said.get(at, own) for at, own in enumerate(pledge.digests)))

    wrap = {2: attacker(changes(lying(Masked, longer), lying(Pledge, pledge)))}
    rehearsal = attacked("scatter", wrap)
    all_complete(rehearsal, wrap, without(2))
    assert {error.reason for _, error in rehearsal.net.errors} == {"a masked chunk of the wrong length"}


def another_pledge(me: Attacker, pledge: Pledge, to: PeerId) -> Message:
    return replace(pledge, digests=(*pledge.digests[:-1], bytes(32)))


def test_a_vector_that_is_pledged_differently_to_different_members_is_left_out() -> None:
    def lie(me: Attacker, pledge: Pledge, to: PeerId) -> Message:
        return another_pledge(me, pledge, to) if GROUP.index(to) % 2 else pledge

    wrap = {2: attacker(lying(Pledge, lie))}
    all_complete(attacked("scatter", wrap), wrap, without(2))


@pytest.mark.parametrize("count", [0, 11, 13])
def test_a_pledge_of_another_number_of_chunks_is_none(count: int) -> None:
    def lie(me: Attacker, pledge: Pledge, to: PeerId) -> Message:
        return replace(pledge, digests=(pledge.digests * 2)[:count])

    wrap = {2: attacker(lying(Pledge, lie))}
    rehearsal = attacked("scatter", wrap)
    all_complete(rehearsal, wrap, without(2))
    assert {error.peer for _, error in rehearsal.net.errors} == {GROUP[2]}


def test_two_pledges_in_one_hand_are_evidence() -> None:
    wrap = {2: attacker(both(Pledge, another_pledge))}
    rehearsal = attacked("scatter", wrap)
    all_complete(rehearsal, wrap, ALL)
    assert accusations(rehearsal, wrap) == {
        (number, "two different values of pledge") for number in without(2)
    }


def holds_only_its_own(me: Attacker, held: Held, to: PeerId) -> Message:
    return replace(held, entries=tuple(entry for entry in held.entries if GROUP[entry[0]] == me.peer))


def lacks_one(me: Attacker, held: Held, to: PeerId) -> Message:
    return replace(held, entries=tuple(entry for entry in held.entries if entry[0] != 4))


def lacks_one_says_to_some(me: Attacker, held: Held, to: PeerId) -> Message:
    return lacks_one(me, held, to) if GROUP.index(to) % 2 else held


def holds_other_vectors(me: Attacker, held: Held, to: PeerId) -> Message:
    own = GROUP.index(me.peer)
    entries = tuple((number, mark if number == own else bytes(32)) for number, mark in held.entries)
    return replace(held, entries=entries)


def holds_not_even_its_own(me: Attacker, held: Held, to: PeerId) -> Message:
    return replace(held, entries=tuple((number, bytes(32)) for number, _ in held.entries))


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize(
    "lie",
    [holds_only_its_own, lacks_one, lacks_one_says_to_some, holds_other_vectors, holds_not_even_its_own],
)
def test_whoever_says_it_lacks_what_it_was_given_keeps_nobody_out(lie: Lie, number: int) -> None:
    wrap = {number: attacker(lying(Held, lie))}
    rehearsal = attacked("scatter", wrap)
    all_complete(rehearsal, wrap)
    assert set(honest_of(rehearsal, wrap)) <= set(rehearsal.completed[GROUP[1]].survivors)
    assert accusations(rehearsal, wrap) == set()


def holds_a_strangers(me: Attacker, held: Held, to: PeerId) -> Message:
    return replace(held, entries=(*held.entries, (len(ALL), bytes(32))))


def holds_others_only(me: Attacker, held: Held, to: PeerId) -> Message:
    return replace(held, entries=tuple(entry for entry in held.entries if GROUP[entry[0]] != me.peer))


@pytest.mark.parametrize("lie", [holds_a_strangers, holds_others_only])
def test_whoever_says_what_nobody_can_hold_has_said_nothing(lie: Lie) -> None:
    wrap = {2: attacker(lying(Held, lie))}
    rehearsal = attacked("scatter", wrap)
    all_complete(rehearsal, wrap)
    reason = "members that are no subset of the roster around it"
    assert {(error.peer, error.reason) for _, error in rehearsal.net.errors} == {(GROUP[2], reason)}


def unheard(number: int, by: int) -> Link:
    """No chunk of one member comes to another."""
    quick = steady()

    def link(sender: PeerId, receiver: PeerId, message: Message, rng: np.random.Generator) -> Iterable[float]:
        lost = isinstance(message, Masked) and (sender, receiver) == (GROUP[number], GROUP[by])
        return () if lost else quick(sender, receiver, message, rng)

    return link


def test_a_chunk_that_never_comes_keeps_nobody_out() -> None:
    """Who lacks it says so, and adds up nothing."""
    rehearsal = attacked("scatter", {}, link=unheard(4, by=2))
    all_complete(rehearsal, {}, ALL)
    for message in (sent.message for sent in rehearsal.net.sent):
        if isinstance(message, Held) and message.author == GROUP[2]:
            assert [number for number, _ in message.entries] == without(4)
        if isinstance(message, Part):
            assert message.author != GROUP[2]


def test_whoever_says_it_holds_what_it_never_got_is_left_out_or_the_other() -> None:
    """It never was given the chunks of member 4, and cannot add them up. Which of the two is to blame, nobody
    can tell.
    """

    def lie(me: Attacker, held: Held, to: PeerId) -> Message:
        marks = {m.author: m.mark for m in [*me.heard, *me.said] if isinstance(m, Pledge)}
        return replace(held, entries=tuple((number, marks[GROUP[number]]) for number in ALL))

    wrap = {2: attacker(lying(Held, lie))}
    rehearsal = attacked("scatter", wrap, link=unheard(4, by=2))
    all_complete(rehearsal, {2, 4})
    out = {GROUP[number] for number in ALL} - set(rehearsal.completed[GROUP[0]].survivors)
    assert out in ({GROUP[2]}, {GROUP[4]})
    assert accusations(rehearsal, wrap) == set()


def test_a_contributor_that_gives_its_chunks_to_no_other_owner_ends_in_time() -> None:
    """One owner vanishes; who steps in asks for the chunks, and member 2 does not hand them out. Who of the
    two it is, the others cannot tell: the round may be skipped.
    """

    def refuses(me: Attacker, send: Send) -> Iterable[Send]:
        pledged = any(isinstance(message, Pledge) for message in me.said)
        return () if isinstance(send.message, Masked) and pledged else (send,)

    wrap = {2: attacker(refuses), 3: attacker(falls_silent_at(Pledge))}
    rehearsal = attacked("scatter", wrap, members=8)
    assert accusations(rehearsal, wrap) == set()
