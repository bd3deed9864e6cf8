"""What one slow, mute or flapping member costs the others: a deadline, once. And that nobody can be made to
look like one.
"""

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from connected import PEERS
from swarm import NOISED, Swarm

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.deadlines import GRACE_SECONDS, LEAST_SECONDS, SILENT_SECONDS
from p2pfl.gossip.epoch_messages import Presence
from p2pfl.gossip.events import Begin, Completed, EpochBegan, Skipped, Waiting
from p2pfl.gossip.manifest import TimingSpec
from p2pfl.gossip.messages import Proposal, Ready
from p2pfl.gossip.simulation import Link, steady, unreliable
from p2pfl.gossip.wire import Message

DEFAULT = TimingSpec()
LONG = replace(DEFAULT, epoch_rounds=1000)


def pauses(swarm: Swarm, number: int, since: float = 0.0) -> list[float]:
    """Seconds from one completed round to the next."""
    ends = [at for at, effect in swarm.effects[number] if isinstance(effect, Completed) and at >= since]
    return [later - sooner for sooner, later in pairwise(ends)]


def mute(swarm: Swarm, number: int, at: float) -> Swarm:
    """It stands still, and nobody sees a connection end."""
    swarm.net._loss_seconds = None
    return swarm.kill(number, at)


@pytest.mark.parametrize("at", [6.05, 6.32, 6.55, 6.61])
def test_a_mute_member_costs_one_deadline_once_over_epochs(at: float) -> None:
    swarm = mute(Swarm(5, timing=DEFAULT, privacy=NOISED).start_all(), 3, at).run(60)
    for number in (0, 1, 2, 4):
        slow = [pause for pause in pauses(swarm, number, since=3.0) if pause > 1.5]
        assert sum(slow) < SILENT_SECONDS + LEAST_SECONDS
        assert sum(pause > 2.0 for pause in slow) <= 1
        assert not swarm.all(number, Skipped)
        assert len(swarm.completed(number)) > 60


def test_a_group_too_small_without_the_mute_one_waits_and_says_so_and_goes_on_when_it_speaks() -> None:
    swarm = mute(Swarm(3, timing=LONG).start_all(), 2, 6.05).run(40)
    assert "2 of the 3 members of our group are here" in swarm.all(0, Waiting)[-1].reason
    done = max(swarm.completed(0))
    assert len(swarm.all(0, Begin)) <= done + 3
    swarm.start(2, 40.0).run(60)
    assert max(swarm.completed(0)) > done + 10


def test_a_site_ten_times_slower_costs_a_deadline_and_is_not_waited_for_again() -> None:
    """Two that differ by a factor of three are both in every sum."""
    seconds = {0: 1.0, 1: 2.0, 2: 3.0, 3: 30.0, 4: 2.5}
    swarm = Swarm(5, timing=LONG, privacy=NOISED, training=lambda number, round: seconds[number])
    swarm.start_all().run(300)
    usual = [end for end in swarm.all(0, Completed) if end.round >= 3]
    assert len(usual) > 60
    slow = [pause for pause in pauses(swarm, 0) if pause > 3.0 + GRACE_SECONDS + 0.5]
    assert len(slow) <= 3  # besides the first: in rounds 4, 16 and 64
    assert all({PEERS[n] for n in (0, 1, 2, 4)} <= set(end.survivors) for end in usual)


def test_where_it_is_needed_a_slow_site_is_waited_for() -> None:
    swarm = Swarm(3, timing=LONG, training=lambda number, round: 12.0 if number == 2 else 1.0)
    swarm.start_all().run(150)
    assert len(swarm.completed(0)) > 8
    assert not swarm.all(0, Skipped)


def test_one_that_is_as_fast_again_is_in_every_sum_again() -> None:
    def training(number: int, round: int) -> float:
        return 15.0 if number == 3 and round < 12 else 1.0

    swarm = Swarm(5, timing=LONG, privacy=NOISED, training=training).start_all().run(120)
    late = [end for end in swarm.all(0, Completed) if end.round > 40]
    assert len(late) > 20
    assert all(len(end.survivors) == 5 for end in late)


def test_one_that_comes_and_goes_holds_nobody_up() -> None:
    swarm = Swarm(5, timing=DEFAULT, privacy=NOISED).start_all()
    for again in range(10):
        swarm.kill(3, 6.0 + 4 * again).start(3, 8.3 + 4 * again)
    swarm.run(60)
    slow = [pause for pause in pauses(swarm, 0, since=3.0) if pause > 1.5]
    assert len(slow) <= 2
    assert sum(slow) < 2 * LEAST_SECONDS
    assert {len(end.survivors) for end in swarm.all(0, Completed)[-5:]} == {5}


# Who was late comes back.


def trailing(late: float, usual: float, fetch: float) -> Swarm:
    """The fourth takes ``late`` seconds for its first round, then ``usual``; whoever missed a round ``fetch``
    more. All do one thing at a time, and drop what has not begun when they are asked for something else.
    """
    at_work = [(0.0, 0.0)] * 4

    def training(number: int, round: int) -> float:
        seconds = late if (number, round) == (3, 0) else usual if number == 3 else 0.2
        if round > 0 and max(swarm.completed(number), default=-1) < round - 1:
            seconds += fetch
        since, until = at_work[number]
        if since <= swarm.net.now:
            since = max(swarm.net.now, until)
        at_work[number] = since, since + seconds
        return since + seconds - swarm.net.now

    link = unreliable(0.001, 0.05)
    swarm = Swarm(4, timing=replace(LONG, ready_seconds=3.0), privacy=NOISED, training=training, link=link)
    return swarm.start_all()


@pytest.mark.parametrize(("late", "fetch"), [(8.0, 0.0), (8.0, 0.5), (12.0, 1.5)])
def test_one_that_trails_one_round_behind_is_in_every_sum_again_soon(late: float, fetch: float) -> None:
    """It costs the others nothing meanwhile: it begins a round before they do, and nobody waits for it."""
    swarm = trailing(late, 0.2, fetch).run(late + 12)
    able = late + next(at for at, effect in swarm.effects[3] if isinstance(effect, Begin))
    ends = [(at, PEERS[3] in e.survivors) for at, e in swarm.effects[0] if isinstance(e, Completed)]
    back = next(at for at, inside in ends if inside)
    assert back < able + 4 * (fetch + 0.5)
    assert all(inside for at, inside in ends if at >= back)
    assert sum(pause > 1.0 for pause in pauses(swarm, 0)) <= 1


def test_one_that_is_too_slow_for_every_round_is_in_some_and_holds_nobody_up() -> None:
    swarm = trailing(4.0, 4.0, 0.1).run(60)
    ends = swarm.all(0, Completed)
    assert len(ends) > 80
    assert sum(PEERS[3] in end.survivors for end in ends) >= 4
    assert sum(pause > 2.0 for pause in pauses(swarm, 0)) <= 4


# Nobody is made to look silent.


def keeping_back(kind: type[Message], sender: int, receiver: int) -> Link:
    """All arrives, but what ``sender`` itself says of this kind to ``receiver``."""
    usual = steady(0.02)

    def link(one: PeerId, other: PeerId, message: Message, rng: np.random.Generator) -> Iterable[float]:
        kept = isinstance(message, kind) and (one, other) == (PEERS[sender], PEERS[receiver])
        return () if kept else usual(one, other, message, rng)

    return link


def test_a_convener_that_keeps_its_proposals_from_one_member_shuts_it_out_of_nothing() -> None:
    swarm = Swarm(5, timing=LONG, link=keeping_back(Proposal, 0, 3)).start_all().run(60)
    ends = swarm.all(1, Completed)
    assert len(ends) > 30
    assert all(PEERS[3] in end.survivors for end in ends)
    assert all(swarm.participants[n]._patience.sums.strikes(PEERS[3]) == 0 for n in (1, 2, 4))


def test_whom_one_member_cannot_hear_the_others_do_not_leave_out() -> None:
    swarm = Swarm(5, timing=LONG, link=keeping_back(Ready, 3, 1)).start_all().run(60)
    assert len(swarm.all(0, Completed)) > 20
    strikes = [swarm.participants[n]._patience.sums.strikes(PEERS[3]) for n in (0, 2, 4)]
    assert strikes == [0, 0, 0]


# Whom a member lets others leave out.


def test_only_whom_it_saw_silent_itself_does_a_member_let_others_leave_out() -> None:
    """One that is ready, and that we trust, is left out by nobody; one that was silent may be for a while."""
    swarm = Swarm(5, timing=LONG).start_all()
    current = swarm.run_until_prepared(0)
    patience = swarm.participants[0]._patience
    attendance = current.machine._attendance
    assert attendance.dispensable(to_others=False) == attendance.dispensable(to_others=True) == set()
    patience.sums.missed([PEERS[3]], current.number, 4)
    assert attendance.dispensable(to_others=False) == attendance.dispensable(to_others=True) == {PEERS[3]}
    attendance.call(1, swarm.net.now)  # in a later attempt the others must have seen it, too
    assert attendance.dispensable(to_others=True) == set()
    assert attendance.dispensable(to_others=False) == {PEERS[3]}


@pytest.mark.parametrize("size", [6, 12, 24])
def test_presences_of_an_epoch_are_passed_on_to_a_few(size: int) -> None:
    """One to everybody by its author, and three by everybody else: far from n³."""
    swarm = Swarm(size, timing=LONG).start_all()
    swarm.net.run(3.5)
    sent = [each for each in swarm.net.sent if isinstance(each.message, Presence)]
    assert swarm.all(0, EpochBegan)
    greetings = size * (size - 1)  # nodes that start after it was published are shown it when they connect
    assert len(sent) <= 4 * size * (size - 1) + greetings
