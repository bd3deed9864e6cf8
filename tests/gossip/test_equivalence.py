"""One machine, three drivers: the vectorised oracle, the discrete-event network and trio tasks agree bit
for bit.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing
from exchanges import CUTS, Cut
from numpy.typing import NDArray

from p2pfl.crypto.identity import PeerId
from p2pfl.crypto.randomness import seeded_random
from p2pfl.crypto.ring import RING_16, RING_32, RING_64, Ring
from p2pfl.gossip.events import (
    Completed,
    Compute,
    Computed,
    Contribute,
    Contribution,
    Effect,
    Event,
    PeerLost,
    Prepared,
    Received,
    Send,
    SetTimer,
    Skipped,
    TimerExpired,
)
from p2pfl.gossip.messages import ROUND_MESSAGES
from p2pfl.gossip.rehearsal import EPOCH_ROSTER, FEDERATION, FixedTiming, Rehearsal, identity_of
from p2pfl.gossip.round import RoundMachine
from p2pfl.gossip.simulation import unreliable
from p2pfl.gossip.vectorised import group_sums
from p2pfl.gossip.wire import Limits, decode_untrusted, encode

ROUND = 7


@dataclass
class Node:
    """A member under trio: one task owns the machine, the network and the clock only feed its inbox."""

    machine: RoundMachine
    peer: PeerId
    values: NDArray[Any]
    ring: Ring
    deaf: bool = False
    end: Completed | Skipped | None = None

    async def run(self, swarm: "Swarm", nursery: trio.Nursery) -> None:
        timers: dict[str, float] = {}
        _, inbox = swarm.inboxes[self.peer]
        prepared = Prepared(ROUND, "training", len(self.values), bytes(32), self.ring)
        self.perform(prepared, swarm, nursery, timers)
        while timers:
            key = min(timers, key=timers.__getitem__)
            event: Event = TimerExpired(key)
            with trio.move_on_at(timers[key]):
                event = await inbox.receive()
            if isinstance(event, TimerExpired):
                del timers[key]
            self.perform(event, swarm, nursery, timers)

    def perform(self, event: Event, swarm: "Swarm", nursery: trio.Nursery, timers: dict[str, float]) -> None:
        for effect in self.machine.handle(event, trio.current_time()):
            match effect:
                case Send(receiver, message):
                    if not self.deaf:
                        nursery.start_soon(swarm.carry, self.peer, receiver, encode(message))
                case SetTimer(key, at):
                    timers[key] = at
                case Contribute():
                    self.perform(Contribution(ROUND, self.values), swarm, nursery, timers)
                case Compute():
                    nursery.start_soon(swarm.compute, self.peer, effect)
                case Completed() | Skipped():
                    self.end = effect


class Swarm:
    """Memory channels between nodes, with a seeded delay for every message."""

    def __init__(self, nodes: list[Node], seed: int) -> None:
        self.nodes = nodes
        self.rng = np.random.default_rng(seed)
        self.inboxes = {node.peer: trio.open_memory_channel[Event](math.inf) for node in nodes}

    async def carry(self, sender: PeerId, receiver: PeerId, data: bytes) -> None:
        await trio.sleep(self.rng.uniform(0.001, 0.05))
        limits = Limits(len(self.nodes[0].values))
        message = decode_untrusted(sender, data, limits, ROUND_MESSAGES)
        await self.inboxes[receiver][0].send(Received(sender, message))

    async def compute(self, peer: PeerId, effect: Compute) -> None:
        await trio.sleep(self.rng.uniform(0.001, 0.05))  # meanwhile messages arrive
        await self.inboxes[peer][0].send(Computed(effect.round, effect.key, effect.work()))

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for node in self.nodes:
                for other in self.nodes:
                    if other.deaf:
                        self.inboxes[node.peer][0].send_nowait(PeerLost(other.peer))
                nursery.start_soon(node.run, self, nursery)


def cases() -> list[tuple[int, tuple[tuple[int, ...], ...]]]:
    """Seeds, and partitions of twelve nodes into groups."""
    rng = np.random.default_rng(0)
    shapes = [(12,), (4, 4, 4), (3, 4, 5), (7, 5)]
    partitions = []
    for seed, sizes in enumerate(shapes):
        order, cuts = rng.permutation(12).tolist(), np.cumsum((0, *sizes)).tolist()
        partitions.append((seed, tuple(tuple(order[a:b]) for a, b in pairwise(cuts))))
    return partitions


@dataclass(frozen=True)
class Setting:
    """How the values of twelve nodes are summed, and who of them is lost from the start."""

    values: NDArray[Any]
    seed: int
    cut: Cut
    ring: Ring
    lost: frozenset[int]

    def by_simulation(self, group: tuple[int, ...]) -> list[Effect]:
        rehearsal = Rehearsal(
            self.values[list(group)],
            seed=self.seed,
            link=unreliable(0.001, 0.05, duplicate=0.1),
            codec=True,
            cut=self.cut,
            ring=self.ring,
            crashes={group.index(node): 0 for node in group if node in self.lost},
        ).run()
        return [rehearsal.ended[peer] for peer in rehearsal.group if peer in rehearsal.ended]

    def by_trio(self, group: tuple[int, ...]) -> list[Effect]:
        identities = [identity_of(number) for number in range(len(group))]
        peers = [identity.peer_id for identity in identities]
        nodes = [
            Node(
                RoundMachine(
                    identity=identity,
                    federation=FEDERATION,
                    roster_digest=EPOCH_ROSTER,
                    round=ROUND,
                    group=peers,
                    minimum=3,
                    colluders=1,
                    timing=FixedTiming(),
                    random=seeded_random(b"%d/%d" % (self.seed, number)),
                    cut=self.cut,
                ),
                identity.peer_id,
                self.values[group[number]],
                self.ring,
                deaf=group[number] in self.lost,
            )
            for number, identity in enumerate(identities)
        ]
        swarm = Swarm(nodes, self.seed)
        trio.run(swarm.run, clock=trio.testing.MockClock(autojump_threshold=0))
        return [node.end for node in nodes if node.end is not None and not node.deaf]


def agree(groups: tuple[tuple[int, ...], ...], seed: int, cut: Cut, ring: Ring, drop: bool) -> None:
    """Whatever is between the members, they come to what the oracle says."""
    values = np.random.default_rng(seed).integers(0, 1 << ring.bits, (12, 9), ring.dtype)
    lost = frozenset(group[-1] for group in groups if len(group) > 3) if drop else frozenset[int]()
    setting = Setting(values, seed, cut, ring, lost)
    oracle = group_sums(values, groups, set(range(12)) - lost)
    for group, total in zip(groups, oracle, strict=True):
        for ends in (setting.by_simulation(group), setting.by_trio(group)):
            assert len(ends) == len(set(group) - lost)
            for end in ends:
                assert isinstance(end, Completed)
                assert end.total.dtype == ring.dtype
                assert np.array_equal(end.total, total)


@pytest.mark.parametrize("exchange", CUTS)
@pytest.mark.parametrize("drop", [False, True], ids=["everybody", "one lost"])
@pytest.mark.parametrize(("seed", "groups"), cases())
def test_three_drivers_agree_bit_for_bit(
    seed: int, groups: tuple[tuple[int, ...], ...], drop: bool, exchange: str
) -> None:
    agree(groups, seed, CUTS[exchange], RING_32, drop)


@pytest.mark.parametrize("exchange", CUTS)
@pytest.mark.parametrize("ring", [RING_16, RING_64], ids=lambda ring: f"{ring.bits} bits")
def test_and_in_every_ring(ring: Ring, exchange: str) -> None:
    agree(((0, 1, 2, 3), (4, 5, 6, 7, 8)), 5, CUTS[exchange], ring, drop=True)


def test_the_two_exchanges_come_to_the_same() -> None:
    values = np.random.default_rng(9).integers(0, 2**32, (5, 33), dtype=np.uint32)
    for members in range(3, 6):
        totals = [
            Rehearsal(values[:members], cut=cut).run().completed[identity_of(0).peer_id].total
            for cut in CUTS.values()
        ]
        for total in totals:
            assert np.array_equal(total, values[:members].sum(axis=0, dtype=np.uint32))


def test_the_oracle_is_the_obvious_sum() -> None:
    values = np.random.default_rng(3).integers(0, 2**32, (7, 4), dtype=np.uint32)
    got = group_sums(values, [(6, 0, 2), (1, 3, 5, 4)], {0, 1, 2, 3, 6})
    for row, nodes in zip(got, [(0, 2, 6), (1, 3)], strict=True):
        expected = [sum(int(values[node, column]) for node in nodes) % 2**32 for column in range(4)]
        assert row.tolist() == expected


@pytest.mark.parametrize("exchange", CUTS)
def test_same_seed_same_history(exchange: str) -> None:
    def history(seed: int) -> list[object]:
        values = np.arange(12, dtype=np.uint32).reshape(4, 3)
        link = unreliable(0.0, 1.0, 0.05, 0.1)
        rehearsal = Rehearsal(values, seed=seed, link=link, cut=CUTS[exchange]).run()
        return [(sent.at, sent.sender, sent.receiver, encode(sent.message)) for sent in rehearsal.net.sent]

    assert history(1) == history(1)
    assert history(1) != history(2)
