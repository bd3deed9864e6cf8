"""The round machine: forming, attempts, deadlines, and members that break the rules. No fault of the
network here.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.crypto.randomness import seeded_random
from p2pfl.gossip.events import (
    Completed,
    Contribute,
    Effect,
    Event,
    Evidence,
    PeerFound,
    PeerLost,
    Prepared,
    Received,
    Send,
    SetTimer,
    Skipped,
)
from p2pfl.gossip.messages import (
    Bundle,
    Fetch,
    Masked,
    Proposal,
    Ready,
    Result,
    Reveal,
    Survivors,
)
from p2pfl.gossip.rehearsal import FixedTiming, Rehearsal, identity_of
from p2pfl.gossip.round import RoundMachine
from p2pfl.gossip.simulation import Machine
from p2pfl.gossip.suite import SUITE
from p2pfl.gossip.wire import Message, signed

VALUES = np.random.default_rng(1).integers(0, 2**32, (16, 5), dtype=np.uint32)
FOUR = VALUES[:4]
IDENTITIES = [identity_of(number) for number in range(4)]
GROUP = tuple(identity.peer_id for identity in IDENTITIES)
STRANGER = identity_of(99)


class Tampering:
    """A member whose machine is honest and whose effects are rewritten on the way out."""

    def __init__(self, machine: Machine, rewrite: Callable[[Effect], Iterable[Effect]]) -> None:
        self._machine, self._rewrite = machine, rewrite

    def handle(self, event: Event, now: float) -> list[Effect]:
        return [new for effect in self._machine.handle(event, now) for new in self._rewrite(effect)]


def tampering(
    rewrite: Callable[[Identity, Effect], Iterable[Effect]],
) -> Callable[[RoundMachine, Identity], Machine]:
    return lambda machine, identity: Tampering(machine, lambda effect: rewrite(identity, effect))


def complete(rehearsal: Rehearsal, members: Iterable[int] = range(4)) -> None:
    """Exactly these members completed, with the exact sum over one and the same survivors."""
    assert sorted(rehearsal.group.index(peer) for peer in rehearsal.completed) == sorted(members)
    ends = list(rehearsal.completed.values())
    assert len({end.survivors for end in ends}) == 1
    for end in ends:
        assert np.array_equal(end.total, rehearsal.oracle(end.survivors))


# ---- the usual course


@pytest.mark.parametrize(("members", "colluders"), [(3, 1), (4, 1), (5, 2), (6, 3), (8, 3), (16, 5)])
def test_everybody_learns_the_exact_sum_at_once(members: int, colluders: int) -> None:
    rehearsal = Rehearsal(VALUES[:members], colluders=colluders, codec=True).run()
    complete(rehearsal, range(members))
    end = rehearsal.completed[rehearsal.group[0]]
    assert end.survivors == end.members == rehearsal.group
    assert (end.round, end.stage) == (7, "training")
    assert end.thresholds.members == members
    assert max(rehearsal.ended_at.values()) < 0.1  # eight hops of 10 ms: no deadline is waited for
    assert rehearsal.evidence == []
    assert rehearsal.net.errors == []


def test_both_secrets_of_one_member_are_never_shown() -> None:
    """Recognise every share in every reveal, in rounds with all kinds of losses."""
    for crashes in ({}, {0: 30}, {1: 32}, {2: 34}, {3: 36}, {3: 40}, {0: 45}):
        kinds: dict[bytes, tuple[bytes, bytes]] = {}

        def split(secret: bytes, holders: int, threshold: int, random: Callable[[int], bytes]) -> list[bytes]:
            shares = SUITE.split(secret, holders, threshold, random)
            commitment, public = SUITE.commit(secret), SUITE.key_of(secret).public
            kinds.update(dict.fromkeys(shares, (commitment, public)))  # noqa: B023
            return shares

        rehearsal = Rehearsal(FOUR, crashes=crashes, suite=replace(SUITE, split=split)).run()
        sent = [sent.message for sent in rehearsal.net.sent]
        seeds = {ready.commitment: ready for ready in sent if isinstance(ready, Ready)}
        keys = {ready.mask_key: ready for ready in sent if isinstance(ready, Ready)}
        shown: dict[Ready, set[str]] = {}
        for reveal in (message for message in sent if isinstance(message, Reveal)):
            for share in reveal.shares:
                commitment, public = kinds[share]
                ready, kind = (seeds[commitment], "seed") if commitment in seeds else (keys[public], "key")
                shown.setdefault(ready, set()).add(kind)
        assert len(rehearsal.completed) >= 3
        assert all(len(both) == 1 for both in shown.values())
        dropped = len(rehearsal.completed[rehearsal.group[1 if 0 in crashes else 0]].members) - len(
            rehearsal.completed[rehearsal.group[1 if 0 in crashes else 0]].survivors
        )
        assert sum(both == {"key"} for both in shown.values()) == dropped


def test_secrets_have_no_representation() -> None:
    rehearsal = Rehearsal(FOUR).run()
    text = repr([sent.message for sent in rehearsal.net.sent]) + repr(list(rehearsal.ended.values()))
    assert "share" not in text
    assert "array" not in text
    assert "sealed" not in text


# ---- conveners and deadlines


def silent(identity: Identity, effect: Effect) -> Iterable[Effect]:
    return [effect] if isinstance(effect, SetTimer) else []


def without(*kinds: type[Message]) -> Callable[[Identity, Effect], Iterable[Effect]]:
    """A member that never sends these."""
    return lambda identity, effect: (
        [] if isinstance(effect, Send) and isinstance(effect.message, kinds) else [effect]
    )


def test_a_convener_that_proposes_nothing_is_replaced() -> None:
    patient = FixedTiming(phase_seconds=3.0)
    rehearsal = Rehearsal(FOUR, wrap={0: tampering(without(Proposal))}, timing=patient).run()
    complete(rehearsal, range(4))
    assert 1.0 < max(rehearsal.ended_at.values()) < 1.3  # ready_seconds, and the turn of the second


def test_a_lost_convener_is_replaced_at_once() -> None:
    rehearsal = Rehearsal(FOUR, crashes={0: 0}).run()
    complete(rehearsal, (1, 2, 3))
    assert max(rehearsal.ended_at.values()) < 0.2


@pytest.mark.parametrize("convener", [0, 1])
def test_a_member_that_stays_silent_is_left_out(convener: int) -> None:
    rehearsal = Rehearsal(FOUR, wrap={3 - convener: tampering(silent)}).run()
    others = {0, 1, 2, 3} - {3 - convener}
    complete(rehearsal, others)
    assert max(rehearsal.ended_at[rehearsal.group[number]] for number in others) < 2.0


@pytest.mark.parametrize("late", [0.0, 0.005, 0.015, 0.025, 0.035, 0.045])
def test_a_latecomer_calls_nobody_away(late: float) -> None:
    """Some may be past the commitment point by then: to call others to another attempt spoils their sum."""
    rehearsal = Rehearsal(FOUR, prepared_at=(0.0, 0.0, 0.0, 1.005 + late)).run()
    complete(rehearsal, range(3))
    assert max(rehearsal.ended_at[peer] for peer in rehearsal.completed) < 1.2


@pytest.mark.parametrize("slow", range(4))
def test_what_came_before_we_were_prepared_counts(slow: int) -> None:
    """A member that is late by less than ``ready_seconds`` is waited for, and holds nobody up beyond that."""
    rehearsal = Rehearsal(FOUR, prepared_at=[0.5 if number == slow else 0.0 for number in range(4)]).run()
    complete(rehearsal, range(4))
    assert max(rehearsal.ended_at.values()) < 0.6


def test_nobody_waits_for_members_that_are_ready_for_something_else() -> None:
    rehearsal = Rehearsal(FOUR, stages=("training", "training", "evaluation", "training")).run()
    complete(rehearsal, (0, 1, 3))
    assert max(rehearsal.ended_at[peer] for peer in rehearsal.completed) < 0.1
    (skip,) = rehearsal.skipped.values()
    assert skip.reason == "1 member is ready where at least 3 are needed"
    assert not skip.sent_masked


@pytest.mark.parametrize("same_state", [False, True])
def test_without_noise_only_those_who_start_from_one_model_are_summed(same_state: bool) -> None:
    """One member was handed a model of its own: with the others' sum known, its update would be too."""
    states = (b"a" * 32, b"a" * 32, b"b" * 32, b"a" * 32)
    rehearsal = Rehearsal(FOUR, states=states, same_state=same_state, codec=True).run()
    complete(rehearsal, (0, 1, 3) if same_state else range(4))
    assert (rehearsal.group[2] in rehearsal.contributed) is not same_state
    assert rehearsal.net.errors == []


def test_too_few_members_skip() -> None:
    rehearsal = Rehearsal(FOUR, minimum=4, crashes={2: 0}).run()
    assert {skip.reason for skip in rehearsal.skipped.values()} == {
        "3 members are ready where at least 4 are needed"
    }
    assert max(rehearsal.ended_at.values()) < 1.5
    assert rehearsal.contributed == []


def test_a_lonely_member_ends_with_the_round() -> None:
    rehearsal = Rehearsal(FOUR, wrap=dict.fromkeys((1, 2, 3), tampering(silent))).run()
    assert rehearsal.skipped[GROUP[0]].reason == "the round ended while forming a group"
    assert rehearsal.ended_at[GROUP[0]] == rehearsal.timing.round_seconds


def test_the_minimum_follows_from_the_colluders_too() -> None:
    rehearsal = Rehearsal(FOUR, minimum=2, colluders=3).run()
    assert rehearsal.completed == {}
    assert "at least 5" in rehearsal.skipped[GROUP[0]].reason


def test_attempts_run_out() -> None:
    def garbage(identity: Identity, effect: Effect) -> Iterable[Effect]:
        if isinstance(effect, Send) and isinstance(effect.message, Bundle):
            return [Send(effect.peer, signed(identity, replace(effect.message, sealed=bytes(106))))]
        return [effect]

    rehearsal = Rehearsal(FOUR, wrap={2: tampering(garbage)}).run()
    assert {skip.reason for skip in rehearsal.skipped.values()} == {"no group could be formed in 4 attempts"}
    assert {(found.peer, found.kind) for _, found in rehearsal.evidence} == {
        (GROUP[2], "a bundle that does not open")
    }
    assert rehearsal.contributed == []


@pytest.mark.parametrize("field", ["mask", "bundle"])
def test_a_bad_key_costs_only_its_owner(field: str) -> None:
    def small_order(identity: Identity, effect: Effect) -> Iterable[Effect]:
        if isinstance(effect, Send) and isinstance(effect.message, Ready):
            good = effect.message
            bad = (
                replace(good, mask_key=bytes(32)) if field == "mask" else replace(good, bundle_key=bytes(32))
            )
            return [Send(effect.peer, signed(identity, bad))]
        return [effect]

    rehearsal = Rehearsal(FOUR, wrap={1: tampering(small_order)}).run()
    assert {0, 2, 3} <= {rehearsal.group.index(peer) for peer in rehearsal.completed}
    assert GROUP[1] not in rehearsal.completed[GROUP[0]].members
    assert {(error.peer, error.reason) for _, error in rehearsal.net.errors} == {
        (GROUP[1], "a one-time key of small order")
    }


@pytest.mark.parametrize("cut", [0.0, 0.015, 0.025, 0.035, 0.045, 0.055, 0.065, 0.075])
@pytest.mark.parametrize("pair", [(0, 1), (1, 2), (0, 3)])
def test_a_connection_that_breaks_and_comes_back(cut: float, pair: tuple[int, int]) -> None:
    """Whatever was lost meanwhile is sent again. Where two members that see each other dead had to decide
    in that very moment, one may be left behind, or nobody agrees and the round is over at once.
    """
    ends = [GROUP[number] for number in pair]

    def link(
        sender: PeerId, receiver: PeerId, message: Message, rng: np.random.Generator
    ) -> tuple[float, ...]:
        broken = cut <= rehearsal.net.now < 0.4 and sender in ends and receiver in ends
        return () if broken else (0.01,)

    rehearsal = Rehearsal(FOUR, link=link)
    for peer, other in (ends, ends[::-1]):
        rehearsal.net.post(peer, PeerLost(other), cut)
        rehearsal.net.post(peer, PeerFound(other), 0.4)
    rehearsal.run()
    assert rehearsal.evidence == []
    assert len(rehearsal.completed) in ((0, 3, 4) if cut in (0.025, 0.035) else (4,))
    if rehearsal.completed:
        complete(rehearsal, [rehearsal.group.index(peer) for peer in rehearsal.completed])
    else:
        assert max(rehearsal.ended_at.values()) < 1.0


@pytest.mark.parametrize("step", range(0, 60, 3))
def test_a_member_that_starts_again_in_the_same_round_disturbs_nobody(step: int) -> None:
    rehearsal = Rehearsal(FOUR, crashes={3: step})

    def restart() -> None:
        if GROUP[3] in rehearsal.net.dead:
            rehearsal.ended.pop(GROUP[3], None)
            rehearsal.net.revive(GROUP[3], rehearsal.machine(3, seeded_random(b"again")))
            rehearsal.net.post(GROUP[3], Prepared(7, "training", 5, bytes(32)))

    rehearsal.net.call(0.3, restart)
    rehearsal.run()
    assert {0, 1, 2} <= {rehearsal.group.index(peer) for peer in rehearsal.completed}
    assert rehearsal.evidence == []
    for end in rehearsal.completed.values():
        assert np.array_equal(end.total, rehearsal.oracle(end.survivors))


# ---- replays


def test_replaying_everything_again_and_again_changes_nothing() -> None:
    """Each member hears all it ever heard once more after every step, over every connection."""
    rehearsal = Rehearsal(FOUR)
    heard: dict[PeerId, list[Event]] = {peer: [] for peer in GROUP}

    class Echo:
        def __init__(self, inner: Machine, peer: PeerId) -> None:
            self.inner, self.peer = inner, peer

        def handle(self, event: Event, now: float) -> list[Effect]:
            effects = self.inner.handle(event, now)
            for old in heard[self.peer]:
                again = self.inner.handle(old, now)
                assert not any(isinstance(e, Send) and not isinstance(e.message, Masked) for e in again)
                assert not any(isinstance(e, Contribute | Completed | Skipped | Evidence) for e in again)
            if isinstance(event, Received):
                heard[self.peer].append(event)
            return effects

    rehearsal.net.machines = {peer: Echo(it, peer) for peer, it in rehearsal.net.machines.items()}
    complete(rehearsal.run(), range(4))


def test_nobody_goes_back_once_it_has_been_asked_for_its_contribution() -> None:
    """Member 3 calls for another attempt with its masked vector: too late."""

    said: list[Ready] = []

    def calls(identity: Identity, effect: Effect) -> Iterable[Effect]:
        if isinstance(effect, Send) and isinstance(effect.message, Ready):
            said.append(effect.message)
        if isinstance(effect, Send) and isinstance(effect.message, Masked):
            return [Send(effect.peer, signed(identity, replace(said[0], attempt=1))), effect]
        return [effect]

    rehearsal = Rehearsal(FOUR, wrap={3: tampering(calls)}).run()
    complete(rehearsal, range(4))
    assert sorted(rehearsal.contributed) == sorted(GROUP)


def test_nor_for_one_that_was_not_in_the_roster() -> None:
    """It is ready when the others are done, and refuses their proposal."""
    rehearsal = Rehearsal(FOUR, prepared_at=[0, 0, 0, 5.0]).run()
    complete(rehearsal, range(3))
    again = {sent.sender for sent in rehearsal.net.sent if getattr(sent.message, "attempt", 0) > 0}
    assert again == {GROUP[3]}


# ---- members that contradict themselves


def to_odd(
    identity: Identity, effect: Effect, kind: type[Message], lie: Callable[[Message], Message]
) -> list[Effect]:
    """Tell members 1 and 3 something else than member 2."""
    if (
        isinstance(effect, Send)
        and isinstance(effect.message, kind)
        and effect.message.author == identity.peer_id
    ):
        twisted = Send(effect.peer, signed(identity, lie(effect.message)))
        return [effect if effect.peer == GROUP[2] else twisted]
    return [effect]


def shifted(message: Message) -> Message:
    assert isinstance(message, Masked)
    values = np.frombuffer(message.data, "<u4") + np.uint32(1)
    place = (message.round, message.attempt, message.roster)
    return Masked.of(message.author, place, message.chunk, values.tobytes())


def test_two_masked_vectors_of_one_member_never_make_a_wrong_sum() -> None:
    """Everybody sums the same one; the two are evidence. Only the liar's own number is its own affair."""
    liar = tampering(lambda identity, effect: to_odd(identity, effect, Masked, shifted))
    rehearsal = Rehearsal(FOUR, wrap={0: liar}).run()
    honest = [rehearsal.completed[peer] for peer in GROUP[1:] if peer in rehearsal.completed]
    assert len(honest) == 3
    assert len({(end.survivors, end.total.tobytes()) for end in honest}) == 1
    difference = honest[0].total - rehearsal.oracle(honest[0].survivors)
    assert len(set(difference.tolist())) == 1
    assert difference[0] in (0, 1)
    found = {(witness, e.peer, e.kind) for witness, e in rehearsal.evidence}
    assert "two masked vectors" in {kind for _, _, kind in found}
    assert {accused for _, accused, _ in found} == {GROUP[0]}
    for _, e in rehearsal.evidence:
        if e.kind == "two masked vectors":
            one, two = e.messages
            assert isinstance(one, Masked)
            assert isinstance(two, Masked)
            assert one.digest != two.digest


def test_two_ballots_of_one_member_are_evidence_and_settle_one_set() -> None:
    def fewer(message: Message) -> Message:
        assert isinstance(message, Survivors)
        return replace(message, entries=message.entries[:3])

    liar = tampering(lambda identity, effect: to_odd(identity, effect, Survivors, fewer))
    rehearsal = Rehearsal(FOUR, wrap={0: liar}).run()
    honest = [rehearsal.completed[peer] for peer in GROUP[1:] if peer in rehearsal.completed]
    assert len(honest) == 3
    assert len({end.survivors for end in honest}) == 1
    for end in honest:
        assert np.array_equal(end.total, rehearsal.oracle(end.survivors))
    ballots: dict[PeerId, set[bytes]] = {}
    for sent in rehearsal.net.sent:
        if isinstance(sent.message, Survivors):
            ballots.setdefault(sent.sender, set()).add(sent.message.signed_bytes())
    assert [len(ballots[peer]) for peer in GROUP] == [2, 1, 1, 1]


def test_both_ballots_in_one_hand_are_evidence() -> None:
    def twice(identity: Identity, effect: Effect) -> Iterable[Effect]:
        if isinstance(effect, Send) and isinstance(effect.message, Survivors):
            other = replace(effect.message, entries=effect.message.entries[:3])
            return [effect, Send(effect.peer, signed(identity, other))]
        return [effect]

    rehearsal = Rehearsal(FOUR, wrap={1: tampering(twice)}).run()
    complete(rehearsal, range(4))
    assert {(witness, e.peer, e.kind) for witness, e in rehearsal.evidence} == {
        (peer, GROUP[1], "two different values of survivors") for peer in GROUP if peer != GROUP[1]
    }


def test_the_quickest_ballot_does_not_choose_the_survivors() -> None:
    """A member that signs the smallest set it may, at once, does not get anybody left out who is there."""

    def hasty(identity: Identity, effect: Effect) -> Iterable[Effect]:
        if isinstance(effect, Send) and isinstance(effect.message, Survivors):
            return [
                Send(
                    effect.peer, signed(identity, replace(effect.message, entries=effect.message.entries[:3]))
                )
            ]
        return [effect]

    rehearsal = Rehearsal(FOUR, wrap={0: tampering(hasty)}).run()
    assert all(rehearsal.completed[peer].survivors == GROUP for peer in GROUP[1:])


def test_a_wrong_result_is_evidence() -> None:
    def lie(message: Message) -> Message:
        assert isinstance(message, Result)
        return replace(message, digest=bytes(32))

    liar = tampering(lambda identity, effect: to_odd(identity, effect, Result, lie))
    rehearsal = Rehearsal(FOUR, wrap={0: liar}).run()
    complete(rehearsal, range(4))
    assert {(witness, e.peer, e.kind) for witness, e in rehearsal.evidence} == {
        (peer, GROUP[0], "another sum of the same vectors") for peer in (GROUP[1], GROUP[3])
    }


def test_wrong_shares_in_one_reveal_do_no_harm() -> None:
    def lie(message: Message) -> Message:
        assert isinstance(message, Reveal)
        return replace(message, shares=tuple(bytes(33) for _ in message.shares))

    liar = tampering(lambda identity, effect: to_odd(identity, effect, Reveal, lie))
    complete(Rehearsal(FOUR, wrap={0: liar}).run(), range(4))


def test_a_vector_that_no_one_can_show_is_not_counted() -> None:
    """A ballot over an invented digest finds no second signature."""

    def invent(message: Message) -> Message:
        assert isinstance(message, Survivors)
        return replace(message, entries=(*message.entries[:3], (message.entries[3][0], bytes(32))))

    liar = tampering(lambda identity, effect: to_odd(identity, effect, Survivors, invent))
    rehearsal = Rehearsal(FOUR, wrap={0: liar}).run()
    assert {1, 2, 3} <= {rehearsal.group.index(peer) for peer in rehearsal.completed}
    for end in rehearsal.completed.values():
        assert np.array_equal(end.total, rehearsal.oracle(end.survivors))
    asked = {(sent.sender, sent.receiver) for sent in rehearsal.net.sent if isinstance(sent.message, Fetch)}
    assert asked <= {(GROUP[1], GROUP[0]), (GROUP[3], GROUP[0])}
