"""The bookkeeping of the transport: connections, the sessions made of them, and the queue of what they
report.

A *link* is one connection. A *session* is one admitted peer: usually one link, two if both sides dialled at
once. Each side sends its messages on one stream of one link and reads the other's on whichever link it chose.
When a link that carries messages ends, so does the session, because what was on its way is lost: between
connecting and disconnecting there is never a gap.
"""

from collections import deque
from dataclasses import dataclass, field

import trio

from p2pfl.crypto.identity import PeerId
from p2pfl.node.hardened.tcp import TcpStream
from p2pfl.node.hardened.yamux import Yamux
from p2pfl.node.hardened.yamux_stream import YamuxStream
from p2pfl.node.transport_types import GuestRefused, Limits, MessageReceived, Traffic, TransportEvent

_MAX_REFUSALS_QUEUED = 1000


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
    def address(self) -> str:
        host, port = self.tcp.get_remote_address()
        return f"/ip{6 if ':' in host else 4}/{host}/tcp/{port}"


class Session:
    """One admitted peer.

    ``link`` carries what we send, ``reading`` what we receive, once the peer has begun.
    """

    def __init__(self, link: Link, limits: Limits) -> None:
        self.peer = link.peer
        self.token = link.token
        self.link = link
        self.links = {link}
        self.reading: Link | None = None
        self.lost = False  # its link is gone; what arrived is still being reported
        self.over = False
        self.writing_scope = trio.CancelScope()
        self.reading_scope = trio.CancelScope()
        self.answering = trio.Semaphore(limits.requests)
        self.sent = 0
        self.received = 0
        self._limits = limits
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._wake = trio.lowlevel.ParkingLot()

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
        full = len(self._outbox) >= self._limits.outbox_messages
        if full or self._outbox_bytes + len(message) > self._limits.outbox_bytes:
            return False
        self._outbox.append(message)
        self._outbox_bytes += len(message)
        self._wake.unpark_all()
        return True

    async def next(self) -> bytes:
        """The oldest queued message. It counts as queued until :meth:`done`."""
        while not self._outbox:
            await self._wake.park()
        return self._outbox[0]

    def done(self) -> None:
        """The message of :meth:`next` was handed to the connection."""
        size = len(self._outbox.popleft())
        self._outbox_bytes -= size
        self.sent += size


class EventQueue:
    """Events in order. Messages wait for room, so that a slow consumer stops the reading; the rest never
    waits.

    The rest is bounded by the peers there are, but for refusals, of which the newest are dropped if nobody
    looks at them.
    """

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages, self._max_bytes = max_messages, max_bytes
        self._events: deque[TransportEvent] = deque()
        self._messages = self._bytes = 0
        self._filled = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        self._send, self.receive = trio.open_memory_channel[TransportEvent](0)

    def put(self, event: TransportEvent) -> None:
        """Add an event other than a message."""
        if not isinstance(event, GuestRefused) or len(self._events) < _MAX_REFUSALS_QUEUED:
            self._events.append(event)
            self._filled.unpark_all()

    async def put_message(self, event: MessageReceived) -> None:
        """Add a message once there is room; one alone always has it."""
        while self._messages and not self._fits(len(event.data)):
            await self._room.park()
        self._messages += 1
        self._bytes += len(event.data)
        self._events.append(event)
        self._filled.unpark_all()

    def _fits(self, size: int) -> bool:
        return self._messages < self._max_messages and self._bytes + size <= self._max_bytes

    async def run(self) -> None:
        """Pass events to :attr:`receive` until cancelled, or until nobody holds its other end."""
        async with self._send:
            while True:
                while not self._events:
                    await self._filled.park()
                try:
                    await self._send.send(self._events[0])
                except trio.BrokenResourceError:
                    self._events.clear()
                    await trio.sleep_forever()
                passed = self._events.popleft()
                if isinstance(passed, MessageReceived):
                    self._messages -= 1
                    self._bytes -= len(passed.data)
                    self._room.unpark_all()
