"""How long a node waits, by what it has seen; and by its own clock, which stands still while it is late."""

import numpy as np
import pytest
from connected import PEERS
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.gossip.deadlines import (
    LATE_SECONDS,
    LEAST_SECONDS,
    SILENT_SECONDS,
    SLOW,
    Durations,
    OwnTime,
    Patience,
    Phase,
    Trust,
)
from p2pfl.gossip.events import PeerFound, SetTimer, TimerExpired

A, B, C, D = PEERS[:4]


def seen(*times: tuple[str, float], rounds: int = 10) -> Durations:
    """Each of these took so long, again and again."""
    durations = Durations()
    for _ in range(rounds):
        for peer, seconds in times:
            durations.took(Phase.READY, peer, seconds)  # type: ignore[arg-type]
    return durations


def test_nothing_is_known_at_first_and_the_manifest_counts() -> None:
    assert Durations().expected(Phase.READY, [A, B], 20.0) == 20.0
    assert seen((A, 1.0), rounds=2).expected(Phase.READY, [A], 20.0) == 20.0


def test_a_steady_neighbour_is_given_its_own_time_a_varying_one_more() -> None:
    durations = seen((A, 10.0), (B, 12.0), (C, 14.0))
    assert durations.expected(Phase.READY, [A], 100.0) == 10.0
    assert durations.expected(Phase.READY, [A, C], 100.0) == 14.0
    rng = np.random.default_rng(0)
    for seconds in rng.normal(20.0, 2.0, 16).tolist():
        durations.took(Phase.READY, D, seconds)
    assert 24.0 < durations.expected(Phase.READY, [D], 100.0) < 34.0


def test_phases_are_told_apart_and_bounded_from_both_sides() -> None:
    durations = seen((A, 10.0))
    assert durations.expected(Phase.SHARE, [A], 20.0) == 20.0
    assert durations.expected(Phase.READY, [A], 5.0) == 5.0
    assert seen((A, 0.01)).expected(Phase.READY, [A], 20.0) == LEAST_SECONDS
    assert seen((A, 0.01)).expected(Phase.READY, [A], 1.0) == 1.0


def test_whoever_is_far_slower_than_the_rest_or_unknown_gets_a_multiple_of_what_is_usual() -> None:
    durations = seen((A, 2.0), (B, 2.0), (C, 100.0))
    assert durations.expected(Phase.READY, [A, B, C], 1000.0) == SLOW * 2.0
    assert durations.expected(Phase.READY, [D], 1000.0) == SLOW * 2.0


@given(st.lists(st.floats(0, 1e6), max_size=30), st.booleans())
def test_fewer_than_half_neither_shorten_nor_stretch_what_is_usual(lies: list[float], late: bool) -> None:
    honest = [2.0] * 31
    durations = Durations()
    for seconds in (*honest, *lies) if late else (*lies, *honest):
        durations.took(Phase.MASKED, B, seconds)
    assert durations.expected(Phase.MASKED, [D], 1e9) == SLOW * 2.0


def test_a_strike_counts_until_it_was_in_time_again_and_each_further_one_for_longer() -> None:
    trust = Trust()
    for strikes in range(1, 5):
        trust.missed([A], 0, 3)
        for _ in range(2 ** (strikes - 1)):
            assert not trust.trusts(A, 4**strikes + 1)
            trust.kept([A])
        assert trust.trusts(A, 1)
    for _ in range(100):
        trust.kept([A])
    assert trust.strikes(A) == 0


def test_who_is_always_late_costs_a_handful_of_deadlines_in_ten_thousand_rounds() -> None:
    trust, waited = Trust(), 0
    for round in range(10_000):
        if trust.trusts(A, round):
            waited += 1
            trust.missed([A], round, 3)
    assert waited <= 8


def test_if_more_than_half_are_late_nobody_is_blamed() -> None:
    trust = Trust()
    trust.missed([A, B], 0, 3)
    assert trust.trusts(A, 1)
    trust.missed([A], 0, 2)
    assert not trust.trusts(A, 1)


def test_one_excuse_until_it_was_in_time() -> None:
    trust = Trust()
    assert trust.unexcused({A, B}, {A}) == {B}
    assert trust.unexcused({A}, {A}) == {A}
    trust.kept([A])
    assert trust.unexcused({A}, {A}) == set()


def test_who_says_nothing_is_silent_and_who_is_not_connected_is_not() -> None:
    patience = Patience()
    patience.connected(A, True, 10.0)
    patience.heard(A, 12.0)
    assert not patience.is_silent(A, 12.0 + SILENT_SECONDS - 0.1)
    assert patience.is_silent(A, 12.0 + SILENT_SECONDS)
    patience.connected(A, False, 20.0)
    assert not patience.is_silent(A, 100.0)


def test_what_is_kept_is_bounded() -> None:
    durations, trust = Durations(), Trust()
    for number in range(5000):
        durations.took(Phase.READY, f"peer {number}", 1.0)  # type: ignore[arg-type]
        trust.missed([f"peer {number}"], 0, 3)  # type: ignore[list-item]
    assert len(durations._by_peer) <= 3 * 512
    assert len(trust._records) <= 512


# Our own time.


def test_time_stands_still_while_we_are_late_and_timers_run_on_from_there() -> None:
    time = OwnTime()
    assert time.look(0.0) == 0.0
    assert time.set(SetTimer("deadline", 5.0)) == SetTimer("deadline", 5.0)
    assert time.set(SetTimer("beat", 2.0)) == SetTimer("beat", 2.0)
    # We were stopped from 1 to 61. What others sent is read first, and then all timers run out.
    assert time.look(61.0) == 2.0
    assert time.is_early(PeerFound(A), 2.0) is None
    own = time.look(61.0)
    assert own == 2.0
    assert time.is_early(TimerExpired("beat"), own) is None
    again = time.is_early(TimerExpired("deadline"), own)
    assert again == SetTimer("deadline", 5.0)
    assert time.set(again) == SetTimer("deadline", 64.0)
    assert time.look(64.0) == 5.0
    assert time.is_early(TimerExpired("deadline"), 5.0) is None


def test_a_little_late_is_not_late_and_a_timer_set_anew_is_not_missed() -> None:
    time = OwnTime()
    time.set(SetTimer("beat", 1.0))
    assert time.look(1.0 + LATE_SECONDS) == 1.0 + LATE_SECONDS
    time.set(SetTimer("beat", 3.0))
    time.set(SetTimer("beat", 9.0))
    assert time.look(8.0) == 8.0
    assert time.look(9.0) == 9.0


@given(st.lists(st.tuples(st.floats(-5, 10), st.floats(0, 30)), max_size=40))
def test_our_time_never_runs_backwards_and_never_ahead(steps: list[tuple[float, float]]) -> None:
    time, now, last = OwnTime(), 0.0, 0.0
    for number, (wait, passed) in enumerate(steps):
        time.set(SetTimer(f"timer {number}", last + wait))
        now += passed
        own = time.look(now)
        assert last <= own + 1e-9
        assert own <= now
        last = own
    assert len(time._coming) <= len(steps)


@pytest.mark.parametrize("late", [0.0, 0.4])
def test_a_node_in_time_has_the_driver_s_time_to_the_last_bit(late: float) -> None:
    time, now = OwnTime(), 0.1
    for number in range(100):
        time.set(SetTimer(f"timer {number}", now + 0.3))
        now += 0.3 + late
        assert time.look(now) == now
        assert time.is_early(TimerExpired(f"timer {number}"), now) is None
