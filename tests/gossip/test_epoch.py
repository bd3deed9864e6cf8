"""Epochs agreed on by real machines over a simulated network: starts, deaths, partitions, losses, liars."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
import pytest

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.gossip.epoch import EpochMachine
from p2pfl.gossip.epoch_messages import EPOCH_MESSAGES, NOTHING, Presence, Presences, Sync, Wanted
from p2pfl.gossip.errors import LocalProtocolError, RemoteProtocolError
from p2pfl.gossip.events import (
    Connect,
    Contribution,
    Effect,
    EpochBegan,
    Event,
    Evidence,
    PeerFound,
    PeerLost,
    Received,
    Send,
    SetTimer,
    TimerExpired,
    Waiting,
)
from p2pfl.gossip.presences import Author, PresenceSet
from p2pfl.gossip.simulation import Codec, Link, SimNetwork, steady, unreliable
from p2pfl.gossip.wire import Limits, Message

FEDERATION = bytes(range(32))
IDENTITIES = [Identity.from_seed(bytes([number]) * 32) for number in range(1, 31)]
PEERS = [identity.peer_id for identity in IDENTITIES]


@dataclass(frozen=True)
class Timing:
    epoch_rounds: int = 10
    gather_seconds: float = 15.0
    round_seconds: float = 120.0


def author(number: int) -> Author:
    return Author(IDENTITIES[number], FEDERATION, (f"/ip4/10.0.0.{number}/tcp/4001/p2p/{PEERS[number]}",))


@dataclass
class Node:
    """An epoch machine and the least of a driver: it spends ``running`` seconds in each epoch."""

    machine: EpochMachine
    running: float
    ends_at: float = 0.0

    def handle(self, event: Event, now: float) -> list[Effect]:
        machine, before = self.machine, self.machine.current
        match event:
            case TimerExpired("test/start"):
                effects = machine.start(now)
            case TimerExpired("test/finish"):
                over = before is not None and now >= self.ends_at
                effects = machine.finish(now) if over else []
            case _:
                effects = machine.handle(event, now)
        if machine.current is not before and machine.current is not None:
            self.ends_at = now + self.running
            effects.append(SetTimer("test/finish", self.ends_at))
        return effects


@dataclass
class Federation:
    """``size`` nodes, all connected to each other from the moment they start, unless cut."""

    size: int
    minimum: int = 3
    colluders: int = 1
    timing: Timing = Timing()
    listed: bool = True
    running: float = 5.0
    link: Link = field(default_factory=lambda: steady(0.05))
    seed: int = 0
    strangers: frozenset[int] = frozenset()
    encoded: bool = False

    def __post_init__(self) -> None:
        self.began: dict[int, list[tuple[float, EpochBegan, bytes]]] = {n: [] for n in range(self.size)}
        self.waiting: dict[int, list[str]] = {n: [] for n in range(self.size)}
        self.evidence: list[tuple[int, Evidence]] = []
        self.up: set[int] = set()
        self.cut: set[frozenset[PeerId]] = set()
        codec = Codec(Limits(0), EPOCH_MESSAGES) if self.encoded else None
        self.net = SimNetwork({}, self._perform, link=self._fate, codec=codec, seed=self.seed)

    def node(self, number: int, epoch: int = 0) -> Node:
        machine = EpochMachine(
            author=author(number),
            expected=self.size if self.listed else 0,
            minimum=self.minimum,
            colluders=self.colluders,
            timing=self.timing,
            is_member=lambda peer: peer in PEERS[: self.size] and PEERS.index(peer) not in self.strangers,
            epoch=epoch,
        )
        return Node(machine, self.running)

    def start(self, number: int, at: float = 0.0, epoch: int = 0) -> "Federation":
        def begin() -> None:
            peer = PEERS[number]
            self.net.machines[peer] = self.node(number, epoch)
            self.net.dead.discard(peer)
            self.net.post(peer, TimerExpired("test/start"))
            for other in self.up:
                self._connect(number, other)
            self.up.add(number)

        self.net.call(at, begin)
        return self

    def start_all(self, *epochs: int) -> "Federation":
        for number in range(self.size):
            self.start(number, 0.01 * number, epochs[number] if epochs else 0)
        return self

    def kill(self, number: int, at: float) -> "Federation":
        def end() -> None:
            self.up.discard(number)
            self.net.crash(PEERS[number])

        self.net.call(at, end)
        return self

    def trouble(self, number: int, at: float, gone: float) -> None:
        """A crash, and a restart with what its driver remembers, if it is up by then."""

        def crash() -> None:
            if number in self.up:
                epoch = max(self.epochs(number), default=0)
                self.kill(number, self.net.now).start(number, self.net.now + max(gone, 0.1), epoch)

        self.net.call(at, crash)

    def partition(self, at: float, until: float, *sides: Iterable[int]) -> "Federation":
        across = [(a, b) for one, other in combinations(sides, 2) for a in one for b in other]

        def separate() -> None:
            for a, b in across:
                self.cut.add(frozenset((PEERS[a], PEERS[b])))
                self.net.post(PEERS[a], PeerLost(PEERS[b]), self.net.now + 1)
                self.net.post(PEERS[b], PeerLost(PEERS[a]), self.net.now + 1)

        def heal() -> None:
            self.cut.clear()
            for a, b in across:
                if {a, b} <= self.up:
                    self._connect(a, b)

        self.net.call(at, separate)
        self.net.call(until, heal)
        return self

    def connect_all(self) -> None:
        for one, other in combinations(self.up, 2):
            self._connect(one, other)

    def run(self, until: float) -> "Federation":
        self.net.run(until)
        return self

    def machine(self, number: int) -> EpochMachine:
        node = self.net.machines[PEERS[number]]
        assert isinstance(node, Node)
        return node.machine

    def epochs(self, number: int) -> list[int]:
        return [began.epoch for _, began, _ in self.began[number]]

    def at(self, number: int, epoch: int) -> float:
        return next(at for at, began, _ in self.began[number] if began.epoch == epoch)

    def roster(self, number: int, epoch: int) -> set[int]:
        found = next(began for _, began, _ in self.began[number] if began.epoch == epoch)
        return {PEERS.index(peer) for peer in found.roster}

    def agreed(self, epoch: int) -> set[int]:
        """The members of an epoch; fails unless exactly they began it, with the same roster and beacon."""
        seen = {
            (began.roster, beacon)
            for began_here in self.began.values()
            for _, began, beacon in began_here
            if began.epoch == epoch
        }
        assert len(seen) == 1, f"{len(seen)} rosters or beacons of epoch {epoch}"
        ((roster, _),) = seen
        assert {PEERS[n] for n in self.began if epoch in self.epochs(n)} == set(roster)
        return {PEERS.index(peer) for peer in roster}

    def beacon(self, epoch: int) -> bytes:
        return next(
            beacon for here in self.began.values() for _, began, beacon in here if began.epoch == epoch
        )

    def _connect(self, one: int, other: int) -> None:
        a, b = PEERS[one], PEERS[other]
        self.net.post(a, PeerFound(b), self.net.now + 0.02)
        self.net.post(b, PeerFound(a), self.net.now + 0.03)

    def _fate(
        self, sender: PeerId, receiver: PeerId, message: Message, rng: np.random.Generator
    ) -> Iterable[float]:
        if frozenset((sender, receiver)) in self.cut or receiver in self.net.dead:
            return ()
        return self.link(sender, receiver, message, rng)

    def _perform(self, net: SimNetwork, peer: PeerId, effect: Effect) -> None:
        number = PEERS.index(peer)
        match effect:
            case EpochBegan():
                current = self.machine(number).current
                assert current is not None
                self.began[number].append((net.now, effect, current.beacon))
            case Waiting(reason):
                self.waiting[number].append(reason)
            case Evidence():
                self.evidence.append((number, effect))
            case Connect():
                pass
            case _:
                raise AssertionError(f"no effect of an epoch: {effect}")


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
    for number, at in enumerate([0.0, 1.0, 2.0, 3.0, 11.0]):
        federation.start(number, at)
    federation.run(20)
    assert federation.agreed(0) == {0, 1, 2, 3, 4}
    times = [federation.at(number, 0) for number in range(5)]
    assert 15 < min(times) < max(times) < 17, times


def test_a_listed_member_that_never_comes_is_waited_for_once() -> None:
    federation = Federation(4).start(0).start(1, 0.1).start(2, 0.2).run(60)
    assert federation.agreed(0) == {0, 1, 2}
    assert 15 < federation.at(0, 0) < 16
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
    federation.net.call(0.3, lambda: setattr(federation.net.machines[PEERS[3]], "running", 45.0))
    federation.run(70)
    assert federation.agreed(1) == {0, 1, 2, 3}
    assert 45 < federation.at(0, 1) - federation.at(0, 0) < 47


def test_a_neighbour_busy_for_longer_than_a_round_is_left_behind() -> None:
    federation = Federation(4, timing=Timing(round_seconds=20)).start_all()
    federation.net.call(0.3, lambda: setattr(federation.net.machines[PEERS[3]], "running", 40.0))
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
    at = 0.3
    while at < 40:
        at += float(rng.exponential(2.0))
        number, gone = int(rng.integers(size)), float(rng.exponential(4.0))
        if rng.random() < 0.7:
            federation.trouble(number, at, gone)
        else:
            side = rng.random(size) < 0.5
            federation.partition(at, at + gone, np.flatnonzero(side).tolist(), np.flatnonzero(~side).tolist())
        at += 0.7 * gone
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
    federation = Federation(6)
    federation.cut = {frozenset((PEERS[a], PEERS[b])) for a, b in combinations(range(6), 2) if b - a > 1}
    for number in range(6):
        federation.start(number)

    def forget() -> None:
        for a, b in combinations(range(6), 2):
            if b - a > 1:
                federation.net.post(PEERS[a], PeerLost(PEERS[b]))
                federation.net.post(PEERS[b], PeerLost(PEERS[a]))

    federation.net.call(0.04, forget)
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


# Liars.


class Liar:
    """A member that says what a test makes it say."""

    def handle(self, event: Event, now: float) -> list[Effect]:
        return []


def with_liar(size: int, **options: object) -> Federation:
    """Honest nodes 0 … size − 2, connected to the liar, node size − 1."""
    federation = Federation(size, **options)  # type: ignore[arg-type]
    for number in range(size - 1):
        federation.start(number, 0.01 * number)
    federation.net.machines[PEERS[size - 1]] = Liar()
    for number in range(size - 1):
        federation.net.post(PEERS[number], PeerFound(PEERS[size - 1]), 0.1)
    return federation


def lie(federation: Federation, at: float, message: Message, *receivers: int) -> None:
    for number in receivers or range(federation.size - 1):
        federation.net.post(PEERS[number], Received(message.author, message), at)


def test_a_far_epoch_of_one_colluder_drags_nobody() -> None:
    federation = with_liar(5)
    liar = author(4)
    for step, epoch in enumerate([1, 2, 50, 2000, 1 << 39]):
        presence = liar.presence(epoch, NOTHING)
        lie(federation, 0.2 + step, presence)
        lie(federation, 2.2 + step, Sync(PEERS[4], epoch, bytes(32), True, bytes([7]) * 32, epoch * 10))
        lie(federation, 3.2 + step, Presences(PEERS[4], (presence,)))
    federation.run(120)
    assert federation.epochs(0) == list(range(len(federation.epochs(0))))
    assert len(federation.epochs(0)) < 120 / federation.running
    assert federation.roster(0, 1) >= {0, 1, 2, 3}


def test_more_signatures_than_colluders_are_evidence() -> None:
    federation = with_liar(5)
    for number in (3, 4):  # 3 is not started: its key has fallen to the liar
        federation.net.machines[PEERS[number]] = Liar()
    for number in (3, 4):
        lie(federation, 2.0, author(number).presence(50, NOTHING), 0, 1, 2)
    federation.run(40)
    assert federation.machine(0).current is not None or 50 in federation.epochs(0)


def test_a_leap_is_bounded() -> None:
    federation = with_liar(4, colluders=0)
    lie(federation, 0.2, author(3).presence(200_000, NOTHING))
    federation.run(60)
    assert max(federation.epochs(0)) < 100


def test_below_the_minimum_colluders_waste_an_epoch_per_gather_time_and_no_more() -> None:
    federation = with_liar(3)
    for step in range(600):
        epoch = max(federation.epochs(0), default=0)
        lie(federation, 0.2 + step * 0.1, author(2).presence(1000 + epoch, NOTHING))
    federation.run(61)
    assert federation.machine(0)._exchange.gathering.epoch <= 61 // 15


def test_a_signer_of_two_presences_is_left_out_everywhere_and_shown() -> None:
    federation = with_liar(5)
    one = author(4).presence(0, NOTHING)
    forged = replace(one, nonce=bytes([9]) * 32)
    other = replace(forged, signature=IDENTITIES[4].sign(Presence.LABEL or b"", forged.signed_bytes()))
    lie(federation, 0.7, one, 0, 1)
    lie(federation, 0.7, other, 2, 3)
    federation.run(30)
    assert federation.agreed(0) == {0, 1, 2, 3}
    assert {number for number, _ in federation.evidence} == {0, 1, 2, 3}
    for _, evidence in federation.evidence:
        assert evidence.peer == PEERS[4]
        assert set(evidence.messages) == {one, other}


def test_other_addresses_are_no_second_presence() -> None:
    federation = with_liar(4)
    moved = replace(author(3), addresses=("/ip4/10.9.9.9/tcp/1",))
    lie(federation, 0.7, author(3).presence(0, NOTHING))
    lie(federation, 0.8, moved.presence(0, NOTHING))
    federation.run(5)
    assert federation.roster(0, 0) == {0, 1, 2, 3}
    assert not federation.evidence


def test_a_neighbour_that_never_agrees_delays_the_epoch_by_the_gather_time() -> None:
    federation = with_liar(4)
    lie(federation, 0.7, author(3).presence(0, NOTHING))
    for step in range(200):
        lie(federation, 0.8 + 0.2 * step, Sync(PEERS[3], 0, bytes([step]) * 32, True, NOTHING, 0))
    federation.run(30)
    assert 15 < federation.at(0, 0) < 17
    assert federation.roster(0, 0) == {0, 1, 2, 3}


def test_one_neighbour_cannot_close_a_roster_that_leaves_others_out() -> None:
    """The liar shows a true but small roster as closed while the others still wait for the fourth."""
    federation = with_liar(5)
    small = [author(number).presence(0, NOTHING) for number in (0, 1, 4)]
    claim = Sync(PEERS[4], 1, bytes(32), True, PresenceSet(FEDERATION, 0, small).digest, 10)
    lie(federation, 0.61, small[2])
    lie(federation, 0.62, claim)
    lie(federation, 0.63, Presences(PEERS[4], tuple(small)))
    federation.run(20)
    for number in range(4):
        assert federation.roster(number, 0) == {0, 1, 2, 3, 4}


def test_strangers_are_refused() -> None:
    federation = Federation(5, strangers=frozenset({4})).start_all().run(30)
    assert federation.agreed(0) == {0, 1, 2, 3}
    assert federation.epochs(4) == []
    assert {error.reason for _, error in federation.net.errors} == {"not a member of this federation"}


def test_a_strangers_presence_is_not_passed_on_but_we_call_back() -> None:
    machine = Federation(3).node(0).machine
    machine.start(0.0)
    machine.handle(TimerExpired("epoch/open"), 0.5)
    machine.handle(PeerFound(PEERS[1]), 1.0)
    machine.handle(PeerFound(PEERS[2]), 1.0)
    stranger = author(7).presence(0, NOTHING)
    effects = machine.handle(Received(PEERS[1], stranger), 1.1)
    assert effects == [Connect(PEERS[7], stranger.addresses)]
    assert machine.handle(Received(PEERS[1], stranger), 1.2) == []


def test_presences_of_other_federations_are_the_senders_fault() -> None:
    machine = Federation(3).node(0).machine
    machine.start(0.0)
    machine.handle(PeerFound(PEERS[1]), 1.0)
    foreign = Author(IDENTITIES[1], bytes(32), ()).presence(0, NOTHING)
    for message in (foreign, Presences(PEERS[1], (foreign,))):
        with pytest.raises(RemoteProtocolError, match=r"another federation|belong together"):
            machine.handle(Received(PEERS[1], message), 1.1)
    mixed = Presences(PEERS[1], (author(1).presence(0, NOTHING), author(1).presence(1, NOTHING)))
    with pytest.raises(RemoteProtocolError, match="belong together"):
        machine.handle(Received(PEERS[1], mixed), 1.1)


def test_answers_are_rationed() -> None:
    machine = Federation(3).node(0).machine
    machine.start(0.0)
    machine.handle(PeerFound(PEERS[1]), 1.0)
    machine.handle(Received(PEERS[1], author(1).presence(0, NOTHING)), 1.0)
    wanted = Received(PEERS[1], Wanted(PEERS[1], 0, NOTHING))
    answers = [
        effect
        for tick in range(100)
        for effect in machine.handle(wanted, 1.0 + tick / 100)
        if isinstance(effect, Send) and isinstance(effect.message, Presences)
    ]
    assert 5 <= len(answers) <= 9


# One machine, by hand.


def opened(*neighbours: int, **options: object) -> EpochMachine:
    """Node 0, gathering for epoch 0 since half a second, with these neighbours."""
    machine = Federation(5, listed=False, timing=Timing(gather_seconds=2), **options).node(0).machine  # type: ignore[arg-type]
    machine.start(0.0)
    for number in neighbours:
        machine.handle(PeerFound(PEERS[number]), 0.1)
    machine.handle(TimerExpired("epoch/open"), 0.5)
    return machine


def presences_of(epoch: int, *numbers: int) -> PresenceSet:
    return PresenceSet(FEDERATION, epoch, (author(number).presence(epoch, NOTHING) for number in numbers))


def hand_over(machine: EpochMachine, closed: PresenceSet, now: float, *neighbours: int) -> list[Effect]:
    """These neighbours say that this roster is closed, and show it."""
    effects = []
    for number in neighbours:
        sync = Sync(PEERS[number], closed.epoch + 1, bytes(32), True, closed.digest, 10)
        effects += machine.handle(Received(PEERS[number], sync), now)
        effects += machine.handle(Received(PEERS[number], Presences(PEERS[number], closed.all())), now)
    return effects


def began(effects: list[Effect]) -> list[tuple[PeerId, ...]]:
    return [effect.roster for effect in effects if isinstance(effect, EpochBegan)]


@pytest.mark.parametrize(("late", "taken"), [(0.3, True), (0.9, True), (1.1, False)])
def test_one_neighbour_is_believed_about_what_was_complete_a_moment_ago(late: float, taken: bool) -> None:
    """Node 3 comes in just when another node has closed a roster without it."""
    machine = opened(1, 2)
    roster = presences_of(0, 0, 1, 2)
    for number in (1, 2):
        machine.handle(Received(PEERS[number], author(number).presence(0, NOTHING)), 2.1)
        sync = Sync(PEERS[number], 0, roster.digest, True, NOTHING, 0)
        machine.handle(Received(PEERS[number], sync), 2.1)
    machine.handle(PeerFound(PEERS[3]), 2.2)
    machine.handle(Received(PEERS[3], author(3).presence(0, NOTHING)), 2.2)
    sync = Sync(PEERS[1], 1, bytes(32), False, roster.digest, 0)
    answer = Presences(PEERS[1], roster.all())
    effects = [e for m in (sync, answer) for e in machine.handle(Received(PEERS[1], m), 2.1 + late)]
    assert began(effects) == ([roster.roster] if taken else [])


def test_a_lone_neighbour_is_believed_in_the_end() -> None:
    machine = opened(1)
    closed = presences_of(7, 1, 2, 3)
    hand_over(machine, closed, 1.0, 1)
    machine.handle(TimerExpired("epoch/beat"), 2.9)
    assert machine._exchange.gathering.epoch <= 7
    machine.handle(TimerExpired("epoch/beat"), 3.0)
    assert machine._exchange.closed is not None
    assert machine._exchange.closed.digest == closed.digest
    assert machine._exchange.gathering.epoch == 8


def test_a_neighbour_that_others_contradict_is_not() -> None:
    machine = opened(1, 2)
    machine.handle(Received(PEERS[2], Sync(PEERS[2], 0, bytes(32), True, NOTHING, 0)), 1.0)
    hand_over(machine, presences_of(7, 1, 3, 4), 1.0, 1)
    machine.handle(TimerExpired("epoch/beat"), 60.0)
    assert machine._exchange.closed is None


def test_no_roster_with_a_stranger_or_below_the_minimum_is_taken() -> None:
    machine = opened(1, 2, strangers=frozenset({4}))
    for closed in (presences_of(0, 0, 1, 2, 4), presences_of(0, 0, 1)):
        assert began(hand_over(machine, closed, 1.0, 1, 2)) == []
    assert began(hand_over(machine, presences_of(0, 0, 1, 2), 1.0, 1, 2)) != []


def test_who_follows_begins_with_the_presences_that_led_it() -> None:
    machine = opened(1)
    for number in (2, 3):
        machine.handle(Received(PEERS[1], author(number).presence(9, NOTHING)), 1.0)
    effects = machine.handle(TimerExpired("epoch/beat"), 1.5)
    told = [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Sync)]
    assert told[-1].epoch == 9
    assert told[-1].digest == presences_of(9, 0, 2, 3).digest


def test_a_driver_that_has_committed_itself_stays() -> None:
    machine = opened(1, 2, 3)
    mine, other = presences_of(0, 0, 1, 2), presences_of(0, 0, 1, 2, 3)
    assert began(hand_over(machine, mine, 1.0, 1, 2)) == [mine.roster]
    machine.committed = True
    for number in (1, 2, 3):
        machine.handle(PeerFound(PEERS[number]), 1.0)
    assert began(hand_over(machine, other, 1.1, 1, 2, 3)) == []
    machine.committed = False
    assert began(machine.handle(TimerExpired("epoch/beat"), 1.2)) == [other.roster]


def test_a_lost_neighbour_is_called_back_at_its_address() -> None:
    machine = opened(1)
    presence = author(1).presence(0, NOTHING)
    assert Connect(PEERS[1], presence.addresses) not in machine.handle(Received(PEERS[1], presence), 1.0)
    assert machine.handle(PeerLost(PEERS[1]), 1.1) == [Connect(PEERS[1], presence.addresses)]
    machine.handle(PeerFound(PEERS[1]), 1.2)
    assert machine.handle(PeerLost(PEERS[1]), 1.3) == []  # whoever connects for us knows the address by now


def test_words_of_a_lost_connection_are_ignored() -> None:
    machine = opened(1)
    machine.handle(PeerLost(PEERS[1]), 1.0)
    assert machine.handle(Received(PEERS[1], author(1).presence(0, NOTHING)), 1.1) == []
    assert machine.connected == ()


# Drivers that err.


def test_driver_errors() -> None:
    machine = Federation(3).node(0).machine
    with pytest.raises(LocalProtocolError, match="no epoch to finish"):
        machine.finish(0.0)
    with pytest.raises(LocalProtocolError, match="no event of an epoch"):
        machine.handle(Contribution(0, np.zeros(1, np.uint32)), 0.0)
