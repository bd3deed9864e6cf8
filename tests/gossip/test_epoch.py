"""Epochs agreed on by real machines over a simulated network: starts, deaths, partitions, losses."""

from itertools import combinations

import numpy as np
import pytest
from connected import PEERS
from epochs import Federation, Timing

from p2pfl.gossip.events import EpochBegan
from p2pfl.gossip.simulation import steady, unreliable

# Starting.


def test_four_listed_nodes_that_start_one_by_one_begin_together_soon_after_the_last() -> None:
    federation = Federation(4, encoded=True)
    for number, at in enumerate([0.0, 1.0, 2.5, 4.0]):
        federation.start(number, at)
    federation.run(12)
    assert federation.agreed(0) == {0, 1, 2, 3}
    assert all(4.5 < federation.at(number, 0) < 5.5 for number in range(4))
    assert federation.agreed(1) == {0, 1, 2, 3}
    assert not federation.net.errors
    assert not federation.evidence


def test_without_a_list_of_members_the_first_epoch_waits_for_whoever_starts_up_too() -> None:
    federation = Federation(5, listed=False)
    for number, at in enumerate([0.0, 1.0, 2.0, 3.0, 7.0]):
        federation.start(number, at)
    federation.run(20)
    assert federation.agreed(0) == {0, 1, 2, 3, 4}
    times = [federation.at(number, 0) for number in range(5)]
    assert 12.5 < min(times) < max(times) < 14, times


def test_but_no_longer_than_agreed() -> None:
    federation = Federation(8, listed=False)
    for number in range(8):
        federation.start(number, 3.0 * number)
    federation.run(30)
    assert 15 < federation.at(0, 0) < 17
    assert federation.roster(0, 0) == {0, 1, 2, 3, 4, 5}


def test_a_listed_member_that_never_comes_is_waited_for_once() -> None:
    federation = Federation(4).start(0).start(1, 0.1).start(2, 0.2).run(60)
    assert federation.agreed(0) == {0, 1, 2}
    # Nobody new has come for a third of gather_seconds.
    assert 5 < federation.at(0, 0) < 7
    # Later epochs begin as soon as everybody connected is there.
    assert federation.at(0, 1) - federation.at(0, 0) < federation.running + 1


def test_below_the_minimum_a_node_waits_says_so_and_stays_at_its_epoch() -> None:
    federation = Federation(4).start(0).start(1, 0.1).run(500)
    assert federation.began[0] == []
    assert federation.waiting[0][-1] == "2 of at least 3 members are here"
    federation.start(2, 500).run(530)
    assert federation.agreed(0) == {0, 1, 2}
    assert federation.at(0, 0) < 502


def test_first_round_follows_from_the_epoch() -> None:
    federation = Federation(3, timing=Timing(epoch_rounds=7)).start_all(5, 5, 5).run(10)
    assert federation.began[0][0][1] == EpochBegan(5, 35, tuple(sorted(PEERS[:3])))


def test_ten_epochs_of_twelve_nodes_agree() -> None:
    federation = Federation(12, running=1.0).start_all().run(19)
    for epoch in range(11):
        assert federation.agreed(epoch) == set(range(12))
    assert len({federation.beacon(epoch) for epoch in range(11)}) == 11


# Coming and going.


def test_a_latecomer_waits_for_the_next_epoch_and_draws_the_same_beacon() -> None:
    federation = Federation(5, listed=False, timing=Timing(gather_seconds=2))
    for number in range(4):
        federation.start(number)
    federation.start(4, 5.0).run(30)
    assert federation.agreed(0) == {0, 1, 2, 3}
    assert federation.agreed(1) == {0, 1, 2, 3, 4}
    assert federation.agreed(2) == {0, 1, 2, 3, 4}
    assert federation.waiting[4][-1] == "epoch 0 is under way without us, we join the next one"


def test_a_latecomer_late_in_the_life_of_a_federation() -> None:
    federation = Federation(5, listed=False, timing=Timing(gather_seconds=2))
    for number in range(4):
        federation.start(number, epoch=4000)
    federation.start(4, 20.0, epoch=0).run(40)
    first = federation.epochs(4)[0]
    assert first > 4000
    assert federation.agreed(first) == {0, 1, 2, 3, 4}


def test_newcomers_join_even_if_they_are_more_than_those_who_are_there() -> None:
    """Three at epoch 4000, and four others that could make an epoch of their own."""
    federation = Federation(7, listed=False, timing=Timing(gather_seconds=2), running=20.0)
    for number in range(3):
        federation.start(number, epoch=4000)
    for number in range(3, 7):
        federation.start(number, 30.0 + number / 10)
    federation.run(70)
    assert federation.agreed(4002) == set(range(7))
    assert all(min(federation.epochs(number)) > 4000 for number in range(3, 7))


def test_even_if_those_who_are_there_start_up_too() -> None:
    federation = Federation(7, listed=False, timing=Timing(gather_seconds=2)).start_all(*[4000] * 3, *[0] * 4)
    federation.run(30)
    assert federation.agreed(4001) == set(range(7))
    assert min(min(federation.epochs(number)) for number in range(7)) == 4000


def test_the_dead_are_not_waited_for() -> None:
    federation = Federation(5).start_all().kill(2, 4.0).run(20)
    assert federation.agreed(1) == {0, 1, 3, 4}
    assert federation.at(0, 1) - federation.at(0, 0) < federation.running + 1


def test_a_silent_neighbour_is_waited_for_as_long_as_agreed() -> None:
    """Its connection lives, but it does not: it holds the others up for gather_seconds, no longer."""
    federation = Federation(4).start_all()
    federation.net._loss_seconds = None
    federation.kill(3, 6.0).run(60)
    assert federation.agreed(1) == {0, 1, 2}
    assert 15 < federation.at(0, 1) - federation.at(0, 0) - federation.running < 17


def test_a_node_restarted_within_an_epoch_takes_part_in_it_again() -> None:
    federation = Federation(4, running=20).start_all().kill(1, 5.0).start(1, 8.0).run(60)
    assert federation.epochs(1)[:3] == [0, 0, 1]
    assert federation.began[1][0][1:] == federation.began[1][1][1:]
    assert federation.began[1][1][0] < 9.0
    assert federation.agreed(1) == {0, 1, 2, 3}
    assert not federation.evidence


def test_it_fetches_the_roster_before_for_the_beacon() -> None:
    federation = Federation(4, running=20).start_all().kill(1, 50.0).start(1, 53.0).run(80)
    first, again = [(began, beacon) for _, began, beacon in federation.began[1] if began.epoch == 2]
    assert first == again
    assert federation.agreed(2) == federation.agreed(3) == {0, 1, 2, 3}


def test_a_node_restarted_after_its_epoch_rejoins_at_the_next() -> None:
    federation = Federation(4).start_all().kill(1, 3.0).start(1, 9.0).run(40)
    assert federation.agreed(0) == {0, 1, 2, 3}
    assert federation.agreed(1) == {0, 2, 3}
    assert federation.agreed(2) == {0, 1, 2, 3}
    assert not federation.evidence


@pytest.mark.parametrize("at", [0.2, 0.55, 0.7, 1.0, 6.3, 6.5, 6.7, 6.9])
@pytest.mark.parametrize("gone", [0.1, 0.6, 3.0])
def test_a_node_that_crashes_while_gathering_does_no_harm(at: float, gone: float) -> None:
    federation = Federation(4).start_all().kill(1, at).start(1, at + gone).run(60)
    assert not federation.evidence
    assert not federation.net.errors
    last = min(federation.epochs(number)[-1] for number in range(4))
    assert last >= 5
    assert federation.agreed(last) == {0, 1, 2, 3}


def test_all_restart_and_go_on_where_they_were() -> None:
    federation = Federation(4).start_all()
    for number in range(4):
        federation.kill(number, 20.0)
        federation.start(number, 25.0 + number, epoch=7)
    federation.run(60)
    assert {federation.epochs(number)[-1] for number in range(4)} == {federation.epochs(0)[-1]}
    assert federation.agreed(7) == {0, 1, 2, 3}


def test_nodes_that_stopped_on_both_sides_of_an_epochs_end_find_together() -> None:
    """Two and two, and no roster on either side: those behind follow two signatures."""
    federation = Federation(4).start_all(3, 3, 4, 4).run(30)
    assert 3 not in federation.epochs(0)
    assert federation.agreed(4) == {0, 1, 2, 3}
    assert federation.at(0, 4) < 20


def test_even_if_only_one_had_gone_further() -> None:
    federation = Federation(3).start_all(3, 3, 4).run(60)
    assert federation.agreed(4) == {0, 1, 2}
    assert federation.at(0, 4) < 20


def test_those_who_are_enough_do_not_give_up_an_epoch_for_one_who_is_ahead() -> None:
    federation = Federation(4).start_all(3, 3, 3, 4).run(60)
    assert federation.agreed(3) == {0, 1, 2}
    assert federation.agreed(4) == {0, 1, 2, 3}


# The end of an epoch.


def test_a_busy_neighbour_is_waited_for() -> None:
    """For longer than gather_seconds, and less than a round may take."""
    federation = Federation(4).start_all()
    federation.net.call(0.3, lambda: federation.speed(3, 45.0))
    federation.run(70)
    assert federation.agreed(1) == {0, 1, 2, 3}
    assert 45 < federation.at(0, 1) - federation.at(0, 0) < 47


def test_a_neighbour_busy_for_longer_than_a_round_is_left_behind() -> None:
    federation = Federation(4, timing=Timing(round_seconds=20)).start_all()
    federation.net.call(0.3, lambda: federation.speed(3, 40.0))
    federation.run(38)
    assert federation.agreed(1) | {3} == {0, 1, 2, 3}
    assert federation.roster(0, 1) == {0, 1, 2}


def test_observers_do_not_begin_without_those_who_are_busy() -> None:
    """Three latecomers could make a roster of their own, however long the epoch under way takes."""
    federation = Federation(7, listed=False, running=400.0, timing=Timing(gather_seconds=2, round_seconds=60))
    for number in range(4):
        federation.start(number)
    for number in range(4, 7):
        federation.start(number, 10.0)
    federation.run(500)
    assert federation.agreed(0) == {0, 1, 2, 3}
    assert federation.agreed(1) == set(range(7))


# Partitions and losses.


def test_a_partition_heals_and_the_halves_unite() -> None:
    federation = Federation(6, running=4.0).start_all().partition(6.0, 40.0, [0, 1, 2], [3, 4, 5]).run(80)
    assert federation.roster(0, 3) == {0, 1, 2}
    assert federation.roster(3, 3) == {3, 4, 5}
    last = min(federation.epochs(number)[-1] for number in range(6))
    assert federation.agreed(last) == set(range(6))
    assert not federation.evidence


def test_the_smaller_side_of_a_partition_waits_and_then_follows() -> None:
    federation = Federation(5, running=4.0).start_all().partition(6.0, 60.0, [0, 1], [2, 3, 4]).run(80)
    assert "2 of at least 3 members are here" in federation.waiting[0]
    assert len(federation.epochs(2)) > len(federation.epochs(0)) + 5
    last = min(federation.epochs(number)[-1] for number in range(5))
    assert federation.agreed(last) == set(range(5))


def test_a_node_follows_the_majority_to_another_roster_of_the_same_epoch() -> None:
    """Cut off for the moment in which the roster closes, node 3 and its like find out when they are back."""
    federation = Federation(8, running=30.0).start_all().partition(0.3, 20.0, [0, 1, 2], range(3, 8)).run(33)
    assert federation.roster(3, 0) == {3, 4, 5, 6, 7}
    assert federation.roster(0, 0) == {0, 1, 2}
    assert federation.machine(0).current is None  # not on the majority's roster, so it waits for the next
    federation.run(60)
    assert federation.roster(0, 1) == set(range(8))
    assert federation.agreed(1) == set(range(8))


@pytest.mark.parametrize("fast", [[0, 1, 2, 3], [4, 5, 6]])
def test_the_smaller_side_comes_to_the_larger_one_or_waits_for_it(fast: list[int]) -> None:
    """Both have gone on, one of them faster."""
    federation = Federation(7, running=4.0).start_all().partition(6.0, 60.0, [0, 1, 2, 3], [4, 5, 6])
    for number in fast:
        node = federation.net.call
        node(7.0, lambda number=number: federation.speed(number, 1.0))  # type: ignore[misc]
        node(60.0, lambda number=number: federation.speed(number, 4.0))  # type: ignore[misc]
    federation.run(61)
    ahead, behind = fast[0], 4 if fast[0] == 0 else 0
    assert max(federation.epochs(ahead)) > max(federation.epochs(behind)) + 10
    federation.run(200)
    last = min(federation.epochs(number)[-1] for number in range(7))
    assert federation.agreed(last) == set(range(7))


@pytest.mark.parametrize("seed", range(4))
def test_loss_delay_duplication_and_reordering(seed: int) -> None:
    """5 % lost, 10 % doubled, delays up to a fifth of a second: all agree on every epoch in the end."""
    federation = Federation(
        6, running=3.0, link=unreliable(0.01, 0.2, drop=0.05, duplicate=0.1), seed=seed, encoded=seed < 2
    )
    federation.start_all().run(60)
    assert not federation.evidence
    assert not federation.net.errors
    shared = set.intersection(*(set(federation.epochs(number)) for number in range(6)))
    assert len(shared) >= 10
    for epoch in shared:
        assert len({federation.roster(number, epoch) == set(range(6)) for number in range(6)}) == 1


def test_terrible_network() -> None:
    federation = Federation(5, running=3.0, link=unreliable(0.0, 1.0, drop=0.4, duplicate=0.2), seed=3)
    federation.start_all().run(150)
    assert min(len(federation.epochs(number)) for number in range(5)) > 5
    federation.link = steady(0.05)
    federation.run(180)
    last = min(federation.epochs(number)[-1] for number in range(5))
    assert federation.agreed(last) == set(range(5))


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happened_all_unite_once_it_is_over(seed: int) -> None:
    """Forty seconds of crashes, restarts and partitions at random; then connections come back."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(4, 9))
    link = unreliable(0.005, 0.1, drop=0.02, duplicate=0.05)
    federation = Federation(size, running=float(rng.uniform(1, 5)), link=link, seed=seed).start_all()
    at = federation.chaos(40, 4.0)
    federation.net.call(at + 20, federation.connect_all)
    federation.run(at + 60)
    ends = [federation.began[number][-1] for number in range(size)]
    assert min(at for at, _, _ in ends) > federation.net.now - 10
    last = min(began.epoch for _, began, _ in ends)
    found = [next(b for _, b, _ in reversed(federation.began[n]) if b.epoch == last) for n in range(size)]
    assert {began.roster for began in found} == {tuple(sorted(PEERS[:size]))}
    assert not federation.evidence


def test_presences_travel_over_neighbours() -> None:
    """On a line of six only adjacent nodes are connected."""
    far = frozenset((a, b) for a, b in combinations(range(6), 2) if b - a > 1)
    federation = Federation(6, apart=far).start_all()
    federation.run(20)
    assert federation.agreed(0) == set(range(6))
    assert federation.agreed(1) == set(range(6))


# Beacons.


def test_the_beacon_changes_with_the_nonces_and_not_with_the_clock() -> None:
    one, other = Federation(4).start_all().run(20), Federation(4, running=3.0).start_all().run(20)
    assert [one.beacon(epoch) for epoch in range(3)] == [other.beacon(epoch) for epoch in range(3)]
    smaller = Federation(4).start_all().kill(3, 3.0).run(20)
    assert smaller.beacon(0) == one.beacon(0)
    assert smaller.beacon(1) != one.beacon(1)
