"""The bookkeeping of the transport: connections, the sessions made of them, and the queue of what they
report.

A *link* is one connection. A *session* is one admitted peer: usually one link, two if both sides dialled at
once. Each side sends its messages on one stream of one link and reads the other's on whichever link it chose.
When a link that carries messages ends, so does the session, because what was on its way is lost: between
connecting and disconnecting there is never a gap.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from p2pfl.crypto.identity import PeerId
from p2pfl.node.hardened.allowance import Allowance
from p2pfl.node.hardened.tcp import TcpStream
from p2pfl.node.hardened.yamux import Yamux
from p2pfl.node.hardened.yamux_stream import PIECE, YamuxStream
from p2pfl.node.transport.types import GuestRefused, Limits, MessageReceived, Traffic, TransportEvent

MAX_REFUSALS_QUEUED: Final = 1000
BURST_SECONDS: Final = 4.0
MOST_REPLACED: Final = 5
"""Times that a peer's session gives way to another in REPLACED_SECONDS, before one stays for KEPT_SECONDS."""
REPLACED_SECONDS: Final = 60.0
KEPT_SECONDS: Final = 300.0
MAX_COMINGS_QUEUED: Final = 4096
"""Peers' coming and going: with more of that unseen nobody new is let in."""


@dataclass(slots=True)
class Room:
    """For what is to be sent: so many messages and bytes for ``each`` peer, so many bytes for all of them."""

    messages: int
    each: int
    together: int
    used: int = 0


@dataclass(eq=False, slots=True)
class Link:
    """One connection to ``peer``.

    ``settled`` once it is admitted, refused or over; ``token`` names the peer's view of the session.
    """

    peer: PeerId
    muxer: Yamux
    tcp: TcpStream
    dialled: bool
    settled: trio.Event = field(default_factory=trio.Event)
    admitted: bool = False
    token: bytes = b""
    admission: YamuxStream | None = None

    @property
    def relayed(self) -> bool:
        """Whether a relay carries it."""
        return self.tcp.relay is not None

    @property
    def address(self) -> str:
        if self.tcp.relay is not None:
            return f"/p2p/{self.tcp.relay}/p2p-circuit"
        host, port = self.tcp.get_remote_address()
        return f"/ip{6 if ':' in host else 4}/{host}/tcp/{port}"


class Session:
    """One admitted peer.

    ``link`` carries what we send, ``reading`` what we receive, once the peer has begun.
    """

    def __init__(self, link: Link, limits: Limits, room: Room, replaced: Sequence[float] = ()) -> None:
        """``replaced``: when sessions of this peer gave way to one another, up to this one."""
        self.replaced = tuple(replaced)[-MOST_REPLACED:]
        self.peer = link.peer
        self.token = link.token
        self.link = link
        self.links = {link}
        self.reading: Link | None = None
        self.relays = True  # as far as is known
        self.lost = False  # its link is gone; what arrived is still being reported
        self.over = False
        self.writing_scope = trio.CancelScope()
        self.reading_scope = trio.CancelScope()
        self.answering = trio.Semaphore(limits.requests)
        self.sent = 0
        self.received = 0
        self.queued = 0  # bytes in the outbox
        self._room = room
        now, many, much = trio.current_time(), limits.messages_a_second, limits.bytes_a_second
        self._messages = Allowance(BURST_SECONDS * many, many, now)
        self._bytes = Allowance(BURST_SECONDS * much, much, now)
        self._outbox: deque[bytes] = deque()
        self._wake = trio.lowlevel.ParkingLot()

    def keeps_its_place(self, now: float) -> bool:
        """Whether no other may replace it for now: two nodes that run with one key would go on doing so
        without end, at the cost of every round.
        """
        times = self.replaced
        often = len(times) == MOST_REPLACED and times[-1] - times[0] <= REPLACED_SECONDS
        return often and now - times[-1] < KEPT_SECONDS

    def reads_on_after(self, size: int, now: float) -> float:
        """Seconds to leave what the peer sends unread, after a message of ``size`` bytes: 0 unless it sends
        more than ever is needed.
        """
        return max(self._messages.take(1, now), self._bytes.take(size, now))

    def count_received(self, size: int) -> None:
        """``size`` bytes of the application's came."""
        self.received += size

    @property
    def traffic(self) -> Traffic:
        """What this session moved so far; on the wire, what its present links did."""
        sockets = [link.tcp for link in self.links]
        return Traffic(
            self.sent, self.received, sum(tcp.sent for tcp in sockets), sum(tcp.received for tcp in sockets)
        )

    def put(self, message: bytes) -> bool:
        """Queue ``message``; False if that is more than a peer that keeps up would have in its queue."""
        if len(self._outbox) >= self._room.messages or self.queued + len(message) > self._room.each:
            return False
        self._outbox.append(message)
        self._use(len(message))
        self._wake.unpark_all()
        return True

    def _use(self, size: int) -> None:
        self.queued += size
        self._room.used += size

    async def next(self) -> Sequence[bytes]:
        """The oldest queued messages, one or so many as make up a piece. They count as queued until
        :meth:`done`.
        """
        while not self._outbox:
            await self._wake.park()
        first: list[bytes] = []
        size = 0
        for message in self._outbox:
            size += len(message)
            if first and size > PIECE:
                break
            first.append(message)
        return first

    def done(self, messages: Sequence[bytes]) -> None:
        """Those of :meth:`next` were handed to the connection."""
        for message in messages if not self.over else ():
            self._outbox.popleft()
            self._use(-len(message))
            self.sent += len(message)

    def drop_outbox(self) -> None:
        """Nothing more will be sent."""
        self._outbox.clear()
        self._use(-self.queued)


class EventQueue(trio.abc.ReceiveChannel[TransportEvent]):
    """Events in order. Messages wait for room, in the order in which they came to wait, so that a slow
    consumer stops the reading; the rest never waits.

    Of the rest, refusals are dropped if nobody looks at them, and :attr:`crowded` says when nobody sees peers
    come and go. Once closed, what is left can be received, and then there is EndOfChannel.
    """

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages, self._max_bytes = max_messages, max_bytes
        self._events: deque[TransportEvent] = deque()
        self._messages = self._bytes = 0
        self._closed = False
        self._away_since = math.inf
        self._turn = trio.StrictFIFOLock()
        self._filled = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()

    def put(self, event: TransportEvent) -> None:
        """Add an event other than a message."""
        if not isinstance(event, GuestRefused) or len(self._events) < MAX_REFUSALS_QUEUED:
            self._events.append(event)
            self._filled.unpark()

    @property
    def crowded(self) -> bool:
        """Whether too much other than messages waits for whoever receives."""
        return len(self._events) - self._messages >= MAX_COMINGS_QUEUED

    @property
    def waiting(self) -> int:
        """How many events there are."""
        return len(self._events)

    @property
    def standstill(self) -> float:
        """For how many seconds who receives has not come back for what is here; 0 while nothing is, or
        before the first time.
        """
        return max(0.0, trio.current_time() - self._away_since) if self._events else 0.0

    async def put_message(self, event: MessageReceived) -> None:
        """Add a message once there is room; one alone always has it."""
        async with self._turn:
            while self._messages and not self._fits(len(event.data)):
                await self._room.park()
        self._messages += 1
        self._bytes += len(event.data)
        self._events.append(event)
        self._filled.unpark()

    def _fits(self, size: int) -> bool:
        return self._messages < self._max_messages and self._bytes + size <= self._max_bytes

    async def receive(self) -> TransportEvent:
        """The next event. Raises trio.EndOfChannel once the queue is closed and empty."""
        self._away_since = math.inf
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._events:
            await trio.lowlevel.cancel_shielded_checkpoint()
        while not self._events:
            if self._closed:
                raise trio.EndOfChannel
            await self._filled.park()
        event = self._events.popleft()
        if isinstance(event, MessageReceived):
            self._messages -= 1
            self._bytes -= len(event.data)
            self._room.unpark_all()
        self._away_since = trio.current_time()
        return event

    def close(self) -> None:
        """There will be no more events."""
        self._closed = True
        self._filled.unpark_all()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()
