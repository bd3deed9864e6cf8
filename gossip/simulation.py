"""A network in one process: the real machines, a virtual clock, and every fault a network or a peer can have.

Deterministic from its seed. Nothing here knows what the machines do: it carries messages, keeps timers,
tells peers of lost connections, and hands every other effect to the caller. With a codec, every message
crosses as bytes, through :func:`~p2pfl.gossip.wire.encode` and :func:`~p2pfl.gossip.wire.decode_untrusted`.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Final, Protocol

import numpy as np

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.errors import RemoteProtocolError
from p2pfl.gossip.events import (
    Compute,
    Computed,
    Effect,
    Event,
    PeerFound,
    PeerLost,
    Received,
    Send,
    SetTimer,
    TimerExpired,
)
from p2pfl.gossip.wire import Limits, Message, decode_untrusted, encode

_MAX_EVENTS: Final = 1_000_000


class Machine(Protocol):
    """What can be driven: see :mod:`p2pfl.gossip.events`."""

    def handle(self, event: Event, now: float) -> list[Effect]: ...


Link = Callable[[PeerId, PeerId, Message, np.random.Generator], Iterable[float]]
"""What becomes of a message from one peer to another: the delay, in seconds, of every copy that arrives."""


def steady(seconds: float = 0.01) -> Link:
    """Every message arrives once, after the same time."""
    return lambda sender, receiver, message, rng: (seconds,)


def unreliable(low: float, high: float, drop: float = 0.0, duplicate: float = 0.0) -> Link:
    """Delays uniform in [low, high), so that messages overtake each other; some are dropped or doubled."""

    def delays(
        sender: PeerId, receiver: PeerId, message: Message, rng: np.random.Generator
    ) -> Iterable[float]:
        fate = rng.random()
        copies = 0 if fate < drop else 2 if fate < drop + duplicate else 1
        return [float(rng.uniform(low, high)) for _ in range(copies)]

    return delays


@dataclass(frozen=True, slots=True)
class Codec:
    """How messages cross: bounded by ``limits``, of these ``kinds``."""

    limits: Limits
    kinds: Mapping[str, type[Message]]


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that left ``sender``; whether it arrived is another matter."""

    at: float
    sender: PeerId
    receiver: PeerId
    message: Message


@dataclass(order=True, slots=True)
class _Due:
    at: float
    number: int
    peer: PeerId = field(compare=False)
    event: Event | Callable[[], None] = field(compare=False)


class SimNetwork:
    """Drives ``machines`` (by peer) against each other.

    Args:
        perform: takes every effect but Send and SetTimer, with the network and the peer that asks for it;
        it answers
            with :meth:`post`.
        link: fate of every message.
        codec: if given, messages cross as bytes.
        crashes: after so many steps the peer is dead. A step is an event handled or an effect carried out, so
            this counts every point between two things that others could notice.
        loss_seconds: how long after a crash the others see the connection end; None: never, it just falls
        silent.
    """

    def __init__(
        self,
        machines: Mapping[PeerId, Machine],
        perform: Callable[["SimNetwork", PeerId, Effect], None],
        *,
        link: Link | None = None,
        codec: Codec | None = None,
        crashes: Mapping[PeerId, int] | None = None,
        loss_seconds: float | None = 0.05,
        seed: int = 0,
    ) -> None:
        self.now = 0.0
        self.machines = dict(machines)
        self.sent: list[Sent] = []
        self.bytes_sent = 0
        self.steps: Counter[PeerId] = Counter()
        self.dead: set[PeerId] = set()
        self.errors: list[tuple[PeerId, RemoteProtocolError]] = []
        """Who found fault, and with whom."""
        self._perform, self._link, self._codec = perform, link or steady(), codec
        self._crashes, self._loss_seconds = dict(crashes or {}), loss_seconds
        self._random = np.random.default_rng(seed)
        self._numbers, self._due = count(), list[_Due]()
        self._crossing: tuple[PeerId, Message, Message | RemoteProtocolError] | None = None
        self._crossing_bytes = 0

    def post(self, peer: PeerId, event: Event, at: float | None = None) -> None:
        """Let ``event`` happen to ``peer``, now or at a later time."""
        self._push(self.now if at is None else at, peer, event)

    def call(self, at: float, action: Callable[[], None]) -> None:
        """Let the test itself do something at a time of its own."""
        self._push(at, PeerId(""), action)

    def crash(self, peer: PeerId) -> None:
        """Kill it: what it sent is on its way, and nothing else of it remains."""
        self.dead.add(peer)
        if self._loss_seconds is not None:
            for other in self.machines:
                self.post(other, PeerLost(peer), self.now + self._loss_seconds)

    def revive(self, peer: PeerId, machine: Machine) -> None:
        """Start it again from nothing, with a new machine, and reconnect it."""
        self.machines[peer] = machine
        self.dead.discard(peer)
        self._crashes.pop(peer, None)
        for other in self.machines:
            self.post(other, PeerFound(peer))

    def run(self, until: float = float("inf")) -> None:
        """Let things happen until nothing is left to happen before ``until``."""
        for _ in range(_MAX_EVENTS):
            if not self._due or self._due[0].at > until:
                return
            due = heapq.heappop(self._due)
            self.now = due.at
            if callable(due.event):
                due.event()
            elif due.peer not in self.dead:
                self._handle(due.peer, due.event)
        raise RuntimeError(f"no end after {_MAX_EVENTS} events: the machines keep each other busy")

    def _handle(self, peer: PeerId, event: Event) -> None:
        try:
            effects = self.machines[peer].handle(event, self.now)
        except RemoteProtocolError as error:
            self.errors.append((peer, error))
            effects = []
        for effect in (None, *effects):
            if self.steps[peer] == self._crashes.get(peer):
                self.crash(peer)
                return
            self.steps[peer] += 1
            if effect is not None:
                self._carry_out(peer, effect)

    def _carry_out(self, peer: PeerId, effect: Effect) -> None:
        match effect:
            case Send(receiver, message):
                self.sent.append(Sent(self.now, peer, receiver, message))
                self._transmit(peer, receiver, message)
            case SetTimer(key, at):
                self.post(peer, TimerExpired(key), max(at, self.now))
            case Compute(round, key, work):
                self.post(peer, Computed(round, key, work()))
            case _:
                self._perform(self, peer, effect)

    def _transmit(self, sender: PeerId, receiver: PeerId, message: Message) -> None:
        if self._codec is not None:
            arrived = self._crossed(sender, message, self._codec)
            self.bytes_sent += self._crossing_bytes
            if isinstance(arrived, RemoteProtocolError):
                self.errors.append((receiver, arrived))
                return
            message = arrived
        if receiver in self.machines:
            for delay in self._link(sender, receiver, message, self._random):
                self.post(receiver, Received(sender, message), self.now + delay)

    def _crossed(self, sender: PeerId, message: Message, codec: Codec) -> Message | RemoteProtocolError:
        """What arrives, or what is wrong with it: the same for everybody to whom it is sent in a row."""
        if self._crossing is None or self._crossing[0] != sender or self._crossing[1] is not message:
            data = encode(message)
            self._crossing_bytes = len(data)
            arrived: Message | RemoteProtocolError
            try:
                arrived = decode_untrusted(sender, data, codec.limits, codec.kinds)
            except RemoteProtocolError as error:
                arrived = error
            self._crossing = sender, message, arrived
        return self._crossing[2]

    def _push(self, at: float, peer: PeerId, event: Event | Callable[[], None]) -> None:
        heapq.heappush(self._due, _Due(at, next(self._numbers), peer, event))
