"""Nodes that are all connected to each other, over the simulated network: how they start, crash, lose each
other and come back. What a node is, and what is done with its effects, is for the tests to say.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Self

import numpy as np

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.gossip.events import Effect, Event, PeerFound, PeerLost, TimerExpired
from p2pfl.gossip.simulation import Codec, Link, Machine, SimNetwork, steady
from p2pfl.gossip.wire import Message

IDENTITIES = [Identity.from_seed(bytes([number]) * 32) for number in range(1, 31)]
PEERS = [identity.peer_id for identity in IDENTITIES]
START = TimerExpired("test/start")
"""What a node is handed first."""


def address(number: int) -> str:
    return f"/ip4/10.0.0.{number}/tcp/4001/p2p/{PEERS[number]}"


@dataclass
class Connected(ABC):
    """``size`` nodes by number. Two are connected while both are up, unless a partition is between them or
    they are ``apart`` for ever.
    """

    size: int
    link: Link = field(default_factory=lambda: steady(0.02), kw_only=True)
    seed: int = field(default=0, kw_only=True)
    encoded: bool = field(default=False, kw_only=True)
    apart: frozenset[tuple[int, int]] = field(default=frozenset(), kw_only=True)

    def __post_init__(self) -> None:
        self.up: set[int] = set()
        self.cut: set[frozenset[PeerId]] = set()
        codec = self.codec() if self.encoded else None
        self.net = SimNetwork({}, self.perform, link=self._fate, codec=codec, seed=self.seed)

    @abstractmethod
    def codec(self) -> Codec:
        """What messages cross with if they are ``encoded``."""

    @abstractmethod
    def perform(self, net: SimNetwork, peer: PeerId, effect: Effect) -> None:
        """Carry out an effect that the network does not."""

    @abstractmethod
    def start(self, number: int, at: float = 0.0) -> Self:
        """Start a node, or start it again."""

    def begin(self, number: int, at: float, make: Callable[[], Machine]) -> Self:
        """Put a node there and connect it."""

        def act() -> None:
            peer = PEERS[number]
            self.net.machines[peer] = make()
            self.net.dead.discard(peer)
            self.net.post(peer, START)
            for other in self.up:
                self.connect(number, other)
            self.up.add(number)

        self.net.call(at, act)
        return self

    def kill(self, number: int, at: float) -> Self:
        def act() -> None:
            self.up.discard(number)
            self.net.crash(PEERS[number])

        self.net.call(at, act)
        return self

    def trouble(self, number: int, at: float, gone: float) -> None:
        """A crash and a restart, if it is up by then."""

        def act() -> None:
            if number in self.up:
                self.kill(number, self.net.now).restart(number, self.net.now + max(gone, 0.1))

        self.net.call(at, act)

    def restart(self, number: int, at: float) -> Self:
        """Start it with what its driver remembers."""
        return self.start(number, at)

    def partition(self, at: float, until: float, *sides: Iterable[int]) -> Self:
        across = [(a, b) for one, other in combinations(sides, 2) for a in one for b in other]

        def separate() -> None:
            for a, b in across:
                self.cut.add(frozenset((PEERS[a], PEERS[b])))
                self.lose(a, b, self.net.now + 0.5)

        def heal() -> None:
            self.cut.clear()
            for a, b in across:
                if {a, b} <= self.up:
                    self.connect(a, b)

        self.net.call(at, separate)
        self.net.call(until, heal)
        return self

    def chaos(self, until: float, gone: float) -> float:
        """Crashes, restarts and partitions at random, of ``gone`` seconds each on average; when they are
        over.
        """
        rng = np.random.default_rng(self.seed)
        at = 0.3
        while at < until:
            at += float(rng.exponential(2.0))
            number, away = int(rng.integers(self.size)), float(rng.exponential(gone))
            if rng.random() < 0.7:
                self.trouble(number, at, away)
            else:
                side = rng.random(self.size) < 0.5
                self.partition(at, at + away, np.flatnonzero(side).tolist(), np.flatnonzero(~side).tolist())
            at += 0.7 * away
        return at

    def connect(self, one: int, other: int) -> None:
        if not {(one, other), (other, one)} & self.apart:
            a, b = PEERS[one], PEERS[other]
            self.net.post(a, PeerFound(b), self.net.now + 0.02)
            self.net.post(b, PeerFound(a), self.net.now + 0.03)

    def lose(self, one: int, other: int, at: float) -> None:
        """Both see the connection end."""
        self.net.post(PEERS[one], PeerLost(PEERS[other]), at)
        self.net.post(PEERS[other], PeerLost(PEERS[one]), at)

    def shun(self, number: int, other: PeerId) -> None:
        """What the driver of a node does with whoever is excluded: it ends the connection, for good."""
        self.apart |= {(number, PEERS.index(other))}
        self.lose(number, PEERS.index(other), self.net.now + 0.01)

    def connect_all(self) -> None:
        for one, other in combinations(self.up, 2):
            self.connect(one, other)

    def _fate(
        self, sender: PeerId, receiver: PeerId, message: Message, rng: np.random.Generator
    ) -> Iterable[float]:
        if frozenset((sender, receiver)) in self.cut or receiver in self.net.dead:
            return ()
        return self.link(sender, receiver, message, rng)


class Silent:
    """In the place of a node: says nothing but what a test says for it."""

    def handle(self, event: Event, now: float) -> list[Effect]:
        return []
