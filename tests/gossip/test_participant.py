"""Whole nodes over a simulated network: epochs, schedules and secure sums, with every sum checked against the
oracle.
"""

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from connected import IDENTITIES, PEERS
from swarm import DIM, NOISED, NOISELESS, TIMING, Swarm, values

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.errors import LocalProtocolError
from p2pfl.gossip.events import (
    Begin,
    Completed,
    Contribution,
    EpochBegan,
    PeerFound,
    Prepared,
    Received,
    Skipped,
    TimerExpired,
    Waiting,
)
from p2pfl.gossip.manifest import (
    GroupSpec,
    PrivacySpec,
)
from p2pfl.gossip.messages import Fetch, Masked, Proposal, Ready
from p2pfl.gossip.participant import MAX_AHEAD
from p2pfl.gossip.simulation import unreliable
from p2pfl.gossip.tickets import MAX_SKEW_SECONDS
from p2pfl.gossip.wire import Message, signed

# Everything in order.


def test_four_nodes_complete_every_round_of_several_epochs_exactly() -> None:
    swarm = Swarm(4, encoded=True).start_all().run(20)
    rounds = len(swarm.completed(0))
    assert rounds >= 20
    for number in range(4):
        assert swarm.completed(number)[: rounds - 1] == list(range(rounds - 1))
        assert not swarm.all(number, Skipped)
    assert all(len(completed.survivors) == 4 for completed in swarm.all(0, Completed))


@pytest.mark.parametrize(
    ("size", "privacy", "summed"), [(4, NOISELESS, {3}), (4, NOISED, {4}), (8, NOISELESS, {4})]
)
def test_without_noise_a_group_of_all_sums_equal_models_only(
    size: int, privacy: PrivacySpec, summed: set[int]
) -> None:
    """Where there are several groups each goes on from a model of its own, so that nothing can be asked."""
    models = [bytes([number == 2]) * 32 for number in range(size)]
    swarm = Swarm(size, privacy=privacy, state=models.__getitem__).start_all().run(20)
    assert {len(completed.survivors) for completed in swarm.all(0, Completed)} == summed


def test_twelve_nodes_in_random_groups() -> None:
    swarm = Swarm(12).start_all().run(12)
    rounds = min(len(swarm.completed(number)) for number in range(12))
    assert rounds >= 10
    for round in range(rounds):
        groups = {
            frozenset(completed.members)
            for number in range(12)
            for completed in swarm.all(number, Completed)
            if completed.round == round
        }
        assert sorted(len(group) for group in groups) == [4, 4, 4]
        assert frozenset().union(*groups) == frozenset(PEERS[:12])
    assert not any(swarm.all(number, Skipped) for number in range(12))


def test_the_grid_of_sixteen_meets_everybody_in_two_rounds() -> None:
    swarm = Swarm(16, groups=GroupSpec(schedule="grid")).start_all().run(5)
    first, second = [set(completed.members) for completed in swarm.all(0, Completed)[:2]]
    assert first & second == {PEERS[0]}


def test_a_grid_that_is_not_filled_falls_back_to_random_groups() -> None:
    swarm = Swarm(9, groups=GroupSpec(schedule="grid")).start_all().run(5)
    assert {len(completed.members) for completed in swarm.all(0, Completed)} == {4, 5}


def test_on_a_ring_whoever_has_no_group_sits_out_and_comes_back() -> None:
    swarm = Swarm(8, groups=GroupSpec(topology="ring", size=3)).start_all().run(30)
    rounds = max(swarm.completed(0))
    assert rounds >= 10
    for number in range(8):
        assert 3 <= len(swarm.completed(number)) < rounds
        assert "no group for us in round" in " ".join(effect.reason for effect in swarm.all(number, Waiting))
        assert not swarm.all(number, Skipped)


def test_timers_and_answers_of_rounds_gone_by_are_ignored() -> None:
    swarm = Swarm(4).start_all().run(3)
    participant = swarm.participants[0]
    for event in (
        TimerExpired("round/0/end"),
        TimerExpired("round/999/end"),
        TimerExpired("unknown"),
        Prepared(0, "training", DIM, bytes(32)),
        Contribution(0, values(0, 0)),
        Contribution(77, values(0, 77)),
    ):
        assert participant.handle(event, swarm.net.now) == []
    with pytest.raises(LocalProtocolError, match="no event"):
        participant.handle(None, swarm.net.now)  # type: ignore[arg-type]


# Coming and going.


def test_a_crash_drops_one_member_and_a_restart_brings_it_back() -> None:
    swarm = Swarm(4).start_all().kill(2, 3.05).start(2, 9.0).run(30)
    survivors = [len(completed.members) for completed in swarm.all(0, Completed)]
    assert {3, 4} == set(survivors)
    assert survivors[-1] == 4
    assert max(swarm.completed(2)) >= max(swarm.completed(0)) - 1
    assert swarm.completed(0) == list(range(len(swarm.completed(0))))


@pytest.mark.parametrize("step", range(12))
def test_a_node_killed_at_any_moment_and_restarted_resumes(step: int) -> None:
    at, gone = 2.0 + step * 0.073, (0.3, 2.0)[step % 2]
    swarm = Swarm(4).start_all().kill(1, at).start(1, at + gone).run(16)
    last = max(swarm.completed(0))
    assert last >= 10
    assert max(swarm.completed(1)) >= last - 1
    for number in (0, 2, 3):
        assert len(swarm.all(number, Skipped)) <= 2


def test_all_killed_at_once_go_on_after_the_power_cut() -> None:
    swarm = Swarm(4).start_all()
    for number in range(4):
        swarm.kill(number, 4.03 + 0.02 * number).start(number, 8.0 + number)
    swarm.run(30)
    last = max(swarm.completed(0))
    assert last >= 20
    assert all(max(swarm.completed(number)) >= last - 1 for number in range(4))


def test_below_the_minimum_everybody_waits_and_no_round_is_wasted() -> None:
    swarm = Swarm(4).start_all().kill(2, 3.0).kill(3, 3.0).run(60)
    stopped = max(swarm.completed(0))
    assert swarm.all(0, Waiting)[-1].reason == (
        "2 of the 4 members of our group are here, at least 3 are needed"
    )
    assert len(swarm.all(0, Skipped)) <= 1
    swarm.start(2, 60.0).run(62)
    assert max(swarm.completed(0)) > stopped
    assert max(swarm.completed(0)) - stopped < 30
    assert max(swarm.completed(2)) >= max(swarm.completed(0)) - 1


def test_a_new_member_ends_an_epoch_that_cannot_go_on() -> None:
    swarm = Swarm(5)
    for number in range(4):
        swarm.start(number)
    swarm.kill(2, 7.0).kill(3, 7.0).start(4, 20.0).run(40)
    assert swarm.all(0, EpochBegan)[-1].roster == tuple(sorted(PEERS[number] for number in (0, 1, 4)))
    assert max(swarm.completed(4)) == max(swarm.completed(0))


def test_a_latecomer_joins_at_the_next_epoch() -> None:
    swarm = Swarm(5)
    for number in range(4):
        swarm.start(number)
    swarm.start(4, 6.0).run(20)
    joined = swarm.all(4, EpochBegan)[0]
    assert joined.epoch == next(e.epoch for e in swarm.all(0, EpochBegan) if len(e.roster) == 5)
    assert swarm.completed(4)[0] == joined.first_round
    assert not swarm.all(0, Skipped)


def rosters(swarm: Swarm, epoch: int) -> set[tuple[PeerId, ...]]:
    return {
        e.roster for number in range(swarm.size) for e in swarm.all(number, EpochBegan) if e.epoch == epoch
    }


def test_a_guest_that_some_never_met_splits_no_roster_and_rounds_go_on() -> None:
    """It has no connection to half of the others, and they count it all the same."""
    apart = frozenset({(6, 0), (6, 1), (6, 2)})
    swarm = Swarm(7, guests=1, apart=apart, encoded=True).start_all().run(60)
    everybody = tuple(sorted(PEERS[:7]))
    reached = min(swarm.all(number, EpochBegan)[-1].epoch for number in range(7))
    assert reached >= 3
    assert all(rosters(swarm, epoch) == {everybody} for epoch in range(reached))
    for number in range(6):
        assert len(swarm.completed(number)) >= 0.6 * max(swarm.completed(0))


@pytest.mark.parametrize("expires", range(1, 12, 2))
def test_a_ticket_that_runs_out_splits_no_roster_however_clocks_differ(expires: int) -> None:
    clocks = lambda number: (number % 3 - 1) * MAX_SKEW_SECONDS / 2  # noqa: E731
    swarm = Swarm(5, guests=1, expires=expires, clocks=clocks).start_all().run(20)
    reached = min(swarm.all(number, EpochBegan)[-1].epoch for number in range(5))
    assert reached >= 1
    assert all(rosters(swarm, epoch) == {tuple(sorted(PEERS[:5]))} for epoch in range(reached))


# Slow nodes.


def test_a_slow_node_is_left_behind_and_keeps_up_again() -> None:
    """Node 3 trains far too long for rounds 6 and 7, and the others go on without it after ready_seconds."""
    slow = {(3, 6): 15.0, (3, 7): 9.0}
    swarm = Swarm(4, training=lambda number, round: slow.get((number, round), 0.1)).start_all().run(40)
    assert swarm.completed(0) == list(range(len(swarm.completed(0))))
    skipped = [effect.round for effect in swarm.all(3, Skipped)]
    assert skipped
    assert all(not effect.sent_masked for effect in swarm.all(3, Skipped))
    assert max(swarm.completed(3)) >= max(swarm.completed(0)) - 1


def test_a_node_far_behind_does_not_train_for_rounds_that_are_over() -> None:
    """Slow once, then cut off for a while: it comes back where the others are, not round by round."""
    slow = {(3, 5): 9.5}
    timing = replace(TIMING, epoch_rounds=50, ready_seconds=1.0)
    swarm = Swarm(4, timing=timing, training=lambda number, round: slow.get((number, round), 0.2))
    swarm.start_all().partition(6.0, 15.0, [0, 1, 2], [3]).run(40)
    began = [begin.round for begin in swarm.all(3, Begin)]
    gaps = [second - first for first, second in pairwise(began)]
    assert max(gaps) > 15
    assert len(swarm.all(3, Skipped)) <= 4
    assert max(swarm.completed(3)) >= max(swarm.completed(0)) - 1


def test_a_contribution_that_comes_too_late_is_not_sent() -> None:
    """Node 3 is asked, and by the time it answers the others are two rounds on."""
    late = {(3, 6): 12.0}
    swarm = Swarm(4, encoding=lambda number, round: late.get((number, round), 0.01)).start_all().run(40)
    # To the next one others go without who was silent in a sum; then they try it again.
    assert [(e.round, e.sent_masked) for e in swarm.all(3, Skipped)] == [(6, False), (7, False)]
    assert 8 in swarm.completed(3)
    assert max(swarm.completed(3)) >= max(swarm.completed(0)) - 1
    assert not any(
        isinstance(sent.message, Masked) and sent.sender == PEERS[3] and sent.message.round == 6
        for sent in swarm.net.sent
    )


def test_who_is_done_with_a_round_still_answers_those_who_are_not() -> None:
    """Node 1 misses a vector, and its request for it arrives when the others have begun the next round."""

    def link(sender: PeerId, receiver: PeerId, message: Message, rng: np.random.Generator) -> Iterable[float]:
        if isinstance(message, Masked) and message.round == 3 and sender == message.author == PEERS[0]:
            return () if receiver == PEERS[1] else (0.02,)
        return (0.3,) if isinstance(message, Fetch) else (0.02,)

    swarm = Swarm(4, link=link).start_all().run(10)
    assert any(isinstance(sent.message, Fetch) for sent in swarm.net.sent)
    assert swarm.at(1, 3) > swarm.at(0, 3) + 0.2
    assert not any(swarm.all(number, Skipped) for number in range(4))


def test_a_slow_group_is_not_torn_apart_by_fast_ones() -> None:
    """One node of twelve always trains ten times longer; its group waits for it, and nobody skips."""
    patient = replace(TIMING, ready_seconds=12.0)
    slow = lambda number, round: 1.0 if number == 5 else 0.1  # noqa: E731
    swarm = Swarm(12, timing=patient, training=slow).start_all().run(22)
    assert not any(swarm.all(number, Skipped) for number in range(12))
    assert min(len(swarm.completed(number)) for number in range(12)) >= 8


# Bad networks.


@pytest.mark.parametrize("seed", range(2))
def test_duplicates_and_reordering(seed: int) -> None:
    link = unreliable(0.005, 0.15, duplicate=0.15)
    swarm = Swarm(5, link=link, seed=seed).start_all().run(30)
    assert len(swarm.completed(0)) >= 15
    assert not any(swarm.all(number, Skipped) for number in range(5))


@pytest.mark.parametrize("seed", range(2))
def test_loss(seed: int) -> None:
    """One message in twenty lost, which no transport of ours does: rounds are skipped, and none is wrong."""
    link = unreliable(0.005, 0.1, drop=0.05)
    swarm = Swarm(5, link=link, seed=seed).start_all().run(150)
    for number in range(5):
        assert len(swarm.completed(number)) >= 3
    assert abs(max(swarm.completed(0)) - max(swarm.completed(1))) < 5


def test_a_partition_heals() -> None:
    swarm = Swarm(7).start_all().partition(5.0, 25.0, [0, 1, 2], [3, 4, 5, 6]).run(60)
    apart = {frozenset(e.roster) for e in swarm.all(0, EpochBegan)}
    assert frozenset(PEERS[:3]) in apart
    assert swarm.all(0, EpochBegan)[-1].roster == tuple(sorted(PEERS[:7]))
    last = max(swarm.completed(3))
    assert all(max(swarm.completed(number)) >= last - 1 for number in range(7))


def test_halves_that_closed_different_rosters_unite() -> None:
    """Two nodes hang for twelve seconds just as the roster closes: no half is a majority, nor big enough."""

    def link(
        sender: PeerId, receiver: PeerId, message: Message, rng: np.random.Generator
    ) -> tuple[float, ...]:
        hangs = receiver in (PEERS[1], PEERS[2]) and 0.78 < swarm.net.now < 12.78
        return (12.8 - swarm.net.now if hangs else 0.02,)

    timing = replace(
        TIMING, epoch_rounds=3, gather_seconds=3.0, ready_seconds=3.0, phase_seconds=3.0, round_seconds=12.0
    )
    swarm = Swarm(4, timing=timing, link=link, guests=4)
    swarm.start_all().run(40)
    assert [len(swarm.all(number, EpochBegan)[0].roster) for number in range(4)] == [4, 3, 3, 4]
    assert all(len(swarm.completed(number)) >= 3 for number in range(4))


def test_a_minority_waits_for_the_others() -> None:
    swarm = Swarm(5).start_all().partition(5.0, 25.0, [0, 1], [2, 3, 4]).run(60)
    last = max(swarm.completed(2))
    assert all(max(swarm.completed(number)) >= last - 1 for number in range(5))
    assert swarm.all(0, EpochBegan)[-1].roster == tuple(sorted(PEERS[:5]))


@pytest.mark.parametrize("seed", range(2))
def test_whatever_happened_no_sum_is_wrong_and_all_go_on(seed: int) -> None:
    """Half a minute of crashes, restarts and partitions at random; then connections come back."""
    size = int(np.random.default_rng(seed).integers(4, 9))
    swarm = Swarm(size, link=unreliable(0.005, 0.05, duplicate=0.05), seed=seed).start_all()
    at = swarm.chaos(30, 3.0)
    swarm.net.call(at + 10, swarm.connect_all)
    swarm.run(at + 60)
    last = max(swarm.completed(0))
    for number in range(size):
        assert abs(max(swarm.completed(number)) - last) <= 2
        assert swarm.all(number, EpochBegan)[-1].roster == tuple(sorted(PEERS[:size]))
        late = [
            effect.reason
            for time, effect in swarm.effects[number]
            if time > at + 40 and isinstance(effect, Skipped)
        ]
        assert late == []


# What others may not do.


def ready_of(swarm: Swarm, author: int, **changes: object) -> Ready:
    """A ready like one that was sent, signed by ``author``."""
    sent = next(sent.message for sent in swarm.net.sent if isinstance(sent.message, Ready))
    return signed(IDENTITIES[author], replace(sent, author=PEERS[author], **changes))  # type: ignore[arg-type]


def test_members_outside_the_group_do_not_reach_the_round() -> None:
    swarm = Swarm(8).start_all()
    current, participant = swarm.run_until_prepared(0), swarm.participants[0]
    outsider = next(number for number in range(8) if PEERS[number] not in current.group)
    ready = ready_of(swarm, outsider, epoch_roster=current.epoch.digest, round=current.number)
    for message in (
        ready,
        ready_of(swarm, outsider, round=current.number + MAX_AHEAD + 1),
        signed(IDENTITIES[outsider], Proposal(PEERS[outsider], current.number, 0, (ready,))),
    ):
        assert participant.handle(Received(PEERS[outsider], message), swarm.net.now) == []
    assert not participant._early


def test_a_member_with_another_roster_is_not_at_fault() -> None:
    swarm = Swarm(4).start_all()
    current = swarm.run_until_prepared(0)
    backwards = [PEERS.index(peer) for peer in reversed(current.group) if peer != PEERS[0]]
    readies = [ready_of(swarm, number, epoch_roster=bytes(32), round=current.number) for number in backwards]
    proposal = signed(IDENTITIES[1], Proposal(PEERS[1], current.number, 0, tuple(readies)))
    for message in (*readies, proposal):
        assert swarm.participants[0].handle(Received(message.author, message), swarm.net.now) == []


def test_what_is_remembered_of_rounds_ahead_is_bounded() -> None:
    swarm = Swarm(4).start_all().run(3)
    participant = swarm.participants[0]
    next_round = participant._next
    for round in range(next_round + 1, next_round + 100):
        for attempt in range(4):
            message = ready_of(swarm, 1, round=round, attempt=attempt)
            participant.handle(Received(PEERS[1], message), swarm.net.now)
    assert len(participant._early) == MAX_AHEAD
    assert {message.attempt for message in participant._early.values()} == {3}


def test_a_stranger_gets_no_word() -> None:
    swarm = Swarm(4).start_all().run(3)
    participant = swarm.participants[0]
    assert participant.handle(PeerFound(PEERS[9]), swarm.net.now) == []
    sends = [sent for sent in swarm.net.sent if sent.receiver == PEERS[9]]
    assert sends == []
