"""A network for simulated daemons: connections that take time, break and come back, and count what crosses.

Streams over TCP neither lose nor alter messages: what a bad line does to them is delay, and what a worse one
does is an end of the connection, with everything under way. Both are here; single lost messages are not.
Messages may overtake each other, as each goes over a stream of its own.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import ClassVar, Final

import networkx as nx  # type: ignore[import-untyped]  # ships no type information
import numpy as np

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.epoch_messages import Presence, Presences
from p2pfl.gossip.errors import RemoteProtocolError
from p2pfl.gossip.events import Effect, Event, PeerFound, PeerLost, Received
from p2pfl.gossip.participant import MESSAGES
from p2pfl.gossip.simulation import Machine, SimNetwork
from p2pfl.gossip.wire import Limits, Message, decode_relayed, encode
from p2pfl.simulation.scenario import Distribution, Fixed, NetworkSpec, Uniform

_CACHED_BYTES: Final = 64 << 20
Pair = tuple[int, int]


def drawn(distribution: Distribution, rng: np.random.Generator) -> float:
    """One value of it."""
    match distribution:
        case Fixed():
            return distribution.value
        case Uniform():
            return float(rng.uniform(distribution.low, distribution.high))
    return float(distribution.median * rng.lognormal(0.0, distribution.spread))


@dataclass(frozen=True, slots=True)
class _Written(Message):
    """Presences whose wire forms are at hand."""

    TAG: ClassVar[str] = Presences.TAG
    LABEL: ClassVar[bytes | None] = None

    wires: tuple[bytes, ...]

    def body(self) -> tuple[object, ...]:
        return (len(self.wires),)

    def payload(self) -> bytes:
        return b"".join(len(wire).to_bytes(2, "big") + wire for wire in self.wires)


class Codec:
    """Every message crosses as bytes. The same bytes are read, and their signatures checked, once for all:
    the most expensive part of a daemon's work is not repeated for every receiver.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._written: dict[int, tuple[Message, bytes]] = {}
        self._read: dict[bytes, Message | ValueError] = {}
        self._held = 0

    def cross(self, sender: PeerId, message: Message) -> tuple[Message | RemoteProtocolError, int]:
        """What a receiver makes of a message of ``sender``, and its bytes on the wire."""
        data = self._bytes_of(message)
        found: Message | ValueError
        if isinstance(message, Presences):
            inside = [self._message(self._bytes_of(presence)) for presence in message.presences]
            wrong = [each for each in inside if not isinstance(each, Presence)]
            found = wrong[0] if wrong else replace(message, presences=tuple(inside))  # type: ignore[arg-type]
        else:
            found = self._message(data)
        if isinstance(found, ValueError):
            return RemoteProtocolError(sender, f"malformed message: {found}"), len(data)
        if found.author != sender and not found.RELAYED:
            return RemoteProtocolError(sender, f"{found.TAG} of another author"), len(data)
        return found, len(data)

    def _bytes_of(self, message: Message) -> bytes:
        known = self._written.get(id(message))
        if known is None:
            written = message
            if isinstance(message, Presences):
                wires = tuple(map(self._bytes_of, message.presences))
                written = _Written(message.author, wires)
            known = self._written[id(message)] = message, encode(written)
            self._hold(known[1])
        return known[1]

    def _message(self, data: bytes) -> Message | ValueError:
        found = self._read.get(data)
        if found is None:
            try:
                found = decode_relayed(data, self._limits, MESSAGES)
                self._written[id(found)] = found, data
            except ValueError as error:
                found = error
            self._read[data] = found
            self._hold(data)
        return found

    def _hold(self, data: bytes) -> None:
        """Forget everything now and then: messages are not sent again for long."""
        self._held += len(data)
        if self._held > _CACHED_BYTES:
            self._written.clear()
            self._read.clear()
            self._held = 0


class Lines:
    """How long things take between nodes, by number: drawn once from ``spec``."""

    def __init__(
        self,
        spec: NetworkSpec,
        nodes: int,
        slower: Mapping[int, float],
        graph: nx.Graph | None,
        rng: np.random.Generator,
    ) -> None:
        """``slower``: factor by which a node's uplink is slower. ``graph``: whose nodes have ``latency`` and
        ``bandwidth``, in the order of the numbers.
        """
        self._spec, self._rng = spec, rng
        self._place = [region.name for region in spec.regions for _ in range(region.nodes)]
        self._routes = {frozenset(route.between): route.seconds for route in spec.routes}
        known = None if graph is None else [graph.nodes[node] for node in graph]
        self._access = None if known is None else [float(each["latency"]) / 1e3 for each in known]
        self._bandwidth = [
            (drawn(spec.bandwidth, rng) if known is None else float(known[node]["bandwidth"]))
            * 1e6
            / 8
            / slower.get(node, 1.0)
            for node in range(nodes)
        ]
        self._latency = {
            (one, other): self._one_way(one, other) for other in range(nodes) for one in range(other)
        }
        self._free_at = [0.0] * nodes

    def latency(self, one: int, other: int) -> float:
        """Seconds one way, as drawn for the pair."""
        return self._latency[min(one, other), max(one, other)]

    def arrival(self, sender: int, receiver: int, size: int, now: float) -> float:
        """When a message of ``size`` bytes that is sent now will be there."""
        leaves = max(now, self._free_at[sender]) + size / self._bandwidth[sender]
        self._free_at[sender] = leaves
        delay = self.latency(sender, receiver) * (1 + self._spec.jitter * self._rng.random())
        again = self._spec.retry_seconds
        while self._spec.loss and self._rng.random() < self._spec.loss:
            delay += again
            again *= 2
        return leaves + delay

    def _one_way(self, one: int, other: int) -> float:
        if self._access is not None:
            return self._access[one] + self._access[other]
        if self._place:
            route = self._routes.get(frozenset((self._place[one], self._place[other])))
            if route is not None:
                return route
        return drawn(self._spec.latency, self._rng)


class ProtocolNetwork(SimNetwork):
    """Nodes ``peers``, numbered in that order, over ``lines``. Whoever is to be there is brought :meth:`up`.

    ``messages`` and ``bytes`` count what was sent, by kind. Connections are asked for and ended by whoever
    drives the nodes; a message without one is gone.
    """

    def __init__(
        self,
        peers: list[PeerId],
        perform: Callable[[SimNetwork, PeerId, Effect], None],
        lines: Lines,
        spec: NetworkSpec,
        codec: Codec,
    ) -> None:
        super().__init__({}, perform)
        self.messages: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.events = 0
        self._peers, self._number = peers, {peer: number for number, peer in enumerate(peers)}
        self._lines, self._spec, self._wire = lines, spec, codec
        self._up: set[int] = set()
        self._paused: dict[int, float] = {}  # until when
        self._open: dict[Pair, int] = {}
        self._told: dict[Pair, int] = {}  # of whom the first believes that it is connected to the second
        self._barred: Counter[Pair] = Counter()
        self._generations = count(1)

    def is_up(self, number: int) -> bool:
        """Whether that node runs."""
        return number in self._up

    def up(self, number: int, machine: Machine) -> None:
        """Start a node, connected to nobody yet."""
        peer = self._peers[number]
        self.machines[peer] = machine
        self.dead.discard(peer)
        self._up.add(number)

    def down(self, number: int) -> None:
        """Kill it; the others notice after a while."""
        self._up.discard(number)
        self._paused.pop(number, None)
        self.dead.add(self._peers[number])
        for pair in [pair for pair in self._open if number in pair]:
            self.disconnect(*pair)
        for other in range(len(self._peers)):
            self._told.pop((number, other), None)

    def pause(self, number: int, until: float) -> None:
        """It stands still: what happens to it happens later, and in the same order."""
        if number in self._up:
            self._paused[number] = until

    def connected(self, one: int, other: int) -> bool:
        """Whether there is a connection, whether or not both ends know."""
        return _pair(one, other) in self._open

    def connect(self, one: int, other: int) -> None:
        """Connect two nodes, if both are up and nothing is between them."""
        pair = _pair(one, other)
        if pair in self._open or self._barred[pair] or not {one, other} <= self._up or one == other:
            return
        generation = self._open[pair] = next(self._generations)
        # A handshake: two ways there and back.
        at = self.now + 4 * self._lines.latency(one, other)
        for near, far in ((one, other), (other, one)):
            self.call(at, partial(self._tell, near, far, generation))

    def disconnect(self, one: int, other: int) -> None:
        """End the connection, and what is under way; both ends notice after a while."""
        generation = self._open.pop(_pair(one, other), None)
        if generation is not None:
            at = self.now + self._spec.notice_seconds
            for near, far in ((one, other), (other, one)):
                self.call(at, partial(self._untell, near, far, generation))

    def cut(self, one: int, other: int) -> None:
        """The connection ends by itself; it is made again a while after that was noticed."""
        self.disconnect(one, other)
        again = self.now + self._spec.notice_seconds + self._spec.reconnect_seconds
        self.call(again, partial(self.connect, one, other))

    def bar(self, one: int, other: int) -> None:
        """Let nothing pass between two nodes until as many calls of :meth:`unbar`."""
        self._barred[_pair(one, other)] += 1
        self.disconnect(one, other)

    def unbar(self, one: int, other: int) -> None:
        """Undo one :meth:`bar`."""
        self._barred[_pair(one, other)] -= 1

    def post(self, peer: PeerId, event: Event, at: float | None = None) -> None:
        """Let ``event`` happen to the machine that ``peer`` runs now, unless it is gone by then."""
        self.call(self.now if at is None else at, partial(self._happen, peer, self.machines[peer], event))

    def _happen(self, peer: PeerId, machine: Machine, event: Event) -> None:
        if self.machines[peer] is machine and peer not in self.dead:
            if self.now < (until := self._paused.get(self._number[peer], 0.0)):
                self.call(until, partial(self._happen, peer, machine, event))
                return
            self.events += 1
            known = len(self.errors)
            self._handle(peer, event)
            for _, error in self.errors[known:]:
                self._refuse(self._number[peer], error)

    def handle(self, number: int, event: Event) -> None:
        """Let an event happen to a node at once, if it is up."""
        if number in self._up:
            peer = self._peers[number]
            self._happen(peer, self.machines[peer], event)

    def _refuse(self, number: int, error: RemoteProtocolError) -> None:
        """What a daemon does with whoever breaks the protocol: it ends the connection."""
        self.cut(number, self._number[error.peer])

    def _tell(self, near: int, far: int, generation: int) -> None:
        if self._open.get(_pair(near, far)) != generation:
            return
        if (near, far) in self._told:  # it had not noticed that the one before had ended
            self.handle(near, PeerLost(self._peers[far]))
        self._told[near, far] = generation
        self.handle(near, PeerFound(self._peers[far]))

    def _untell(self, near: int, far: int, generation: int) -> None:
        if self._told.get((near, far)) == generation:
            del self._told[near, far]
            self.handle(near, PeerLost(self._peers[far]))

    def _transmit(self, sender: PeerId, receiver: PeerId, message: Message) -> None:
        self.sent.clear()  # counted here: a long run must not keep every message
        near, far = self._number[sender], self._number[receiver]
        generation = self._open.get(_pair(near, far))
        if generation is None:
            return
        arriving, size = self._wire.cross(sender, message)
        self.messages[message.TAG] += 1
        self.bytes[message.TAG] += size
        at = self._lines.arrival(near, far, size, self.now)
        self.call(at, partial(self._arrive, near, far, arriving, generation))

    def _arrive(self, near: int, far: int, arriving: Message | RemoteProtocolError, generation: int) -> None:
        if self._open.get(_pair(near, far)) != generation:
            return
        if isinstance(arriving, Message):
            self.handle(far, Received(self._peers[near], arriving))
        else:
            self.errors.append((self._peers[far], arriving))
            self._refuse(far, arriving)


def _pair(one: int, other: int) -> Pair:
    return (one, other) if one < other else (other, one)
