"""What the transport is told and what it tells, without libp2p: limits, admission, events, errors.

:mod:`.network` exports all of it.
"""

from dataclasses import dataclass
from typing import Protocol

from p2pfl.crypto.identity import PeerId
from p2pfl.node.errors import NetworkError

MAX_GREETING = 16 << 10
MAX_REASON = 500
OUTBOX_SPARE = 8 << 20
"""Room in a queue for everything that does not grow with the model."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one peer, and all of them together, may cost. Sizes in bytes, times in seconds.

    ``max_message``      longest message, and ``max_request`` longest body of a request
    ``max_response``     longest answer this side gives to a request
    ``max_peers``        admitted peers at a time
    ``max_guests``       connections at a time whose admission is not complete, old acquaintances not counted;
                         one more turns out the oldest
    ``guest_seconds``    time for an admission
    ``guest_bytes``      what a guest may send in it
    ``outbox_messages``  queued for one peer: with one more it counts as lost
    ``outbox_bytes``     the same in bytes; :meth:`outboxes_for` has fewer, for a model that is known
    ``outboxes_bytes``   queued for all peers together: with more the one with the fullest queue is lost
    ``inbox_messages``   received and not yet consumed, over all peers; ``inbox_bytes``: then reading waits
    ``messages_a_second`` that are read of one peer, and ``bytes_a_second`` in them; four times that at once
    ``max_streams``      that a peer may have open at a time
    ``requests``         answered at a time for one peer: further ones wait
    ``idle_seconds``     without a sign of life until a peer counts as lost (quiet ones are pinged); for
                         64 KiB of what was begun to come or be taken, for 256 KiB of all that is sent
    ``dial_seconds``     for a connection with everything that belongs to it
    """

    max_message: int = 64 << 20
    max_request: int = 1 << 20
    max_response: int = 256 << 20
    max_peers: int = 512
    max_guests: int = 32
    guest_seconds: float = 10.0
    guest_bytes: int = 128 << 10
    outbox_messages: int = 4096
    outbox_bytes: int = 256 << 20
    outboxes_bytes: int = 512 << 20
    inbox_messages: int = 64
    inbox_bytes: int = 256 << 20
    messages_a_second: int = 1024
    bytes_a_second: int = 128 << 20
    max_streams: int = 64
    requests: int = 4
    idle_seconds: float = 30.0
    dial_seconds: float = 15.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is not positive")
        if self.outbox_bytes < self.max_message:
            raise ValueError("outbox_bytes is below max_message: the longest message could never be sent")
        if self.guest_bytes < 2 * MAX_GREETING:
            raise ValueError(f"guest_bytes is below {2 * MAX_GREETING}: a greeting might not fit")

    def outboxes_for(self, vector: int) -> tuple[int, int]:
        """Bytes to queue for one peer, and for all, where rounds sum vectors of ``vector`` bytes.

        A round hands a neighbour at most a vector in chunks, and again as many sums of chunks if members are
        lost on the way; all neighbours together get twice that. What a slow neighbour has not taken of the
        round before may be as much.
        """
        each = min(2 * vector + OUTBOX_SPARE, self.outbox_bytes)
        return each, min(4 * vector + 4 * OUTBOX_SPARE, self.outboxes_bytes)


class Admission(Protocol):
    """Who may be a peer.

    Decided by the daemon, without I/O; no method may raise, whatever bytes a stranger sent.
    """

    def at_handshake(self, peer: PeerId) -> str | None:
        """Why to hang up on ``peer`` at once (banned, not on a closed list), or None: perhaps a member."""

    def greeting(self) -> bytes:
        """What this node presents of itself, at most 16 KiB."""

    def judge(self, peer: PeerId, greeting: bytes) -> str | None:
        """Why not to admit ``peer``, which presented ``greeting``; it is told the reason. None admits it."""


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """Both sides admitted each other. ``address`` is the peer's end of the connection."""

    peer: PeerId
    address: str


@dataclass(frozen=True, slots=True)
class PeerDisconnected:
    """The peer is gone.

    Everything it sent that arrived has been reported; what was still to be sent to it is lost.
    """

    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """One message of a peer: in the order sent, none left out between connecting and disconnecting."""

    peer: PeerId
    data: bytes


@dataclass(frozen=True, slots=True)
class GuestRefused:
    """A stranger was turned away. ``peer`` is its true id: the handshake proved it."""

    peer: PeerId
    reason: str


TransportEvent = PeerConnected | PeerDisconnected | MessageReceived | GuestRefused


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes to and from a peer.

    ``sent``, ``received``            messages, requests and answers
    ``wire_sent``, ``wire_received``  everything, on the socket
    """

    sent: int = 0
    received: int = 0
    wire_sent: int = 0
    wire_received: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(
            self.sent + other.sent,
            self.received + other.received,
            self.wire_sent + other.wire_sent,
            self.wire_received + other.wire_received,
        )


class Unreachable(NetworkError):  # noqa: N818 - what the operator reads, like the rest of node.errors
    """There is no connection to ``address``, for ``reason``."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(
            f"cannot reach {address}: {reason}",
            "check that the node there runs, that it printed this address, and that no firewall is between",
        )
        self.address = address
        self.reason = reason


class AdmissionRefused(NetworkError):  # noqa: N818
    """``peer`` does not admit this node, or this node does not admit ``peer``."""

    def __init__(self, peer: PeerId, reason: str) -> None:
        super().__init__(
            f"no admission between this node and {peer}: {reason}",
            "check that both are in one federation, and that the ticket is for this peer id and still valid",
        )
        self.peer = peer
        self.reason = reason


class RequestFailed(NetworkError):  # noqa: N818
    """``peer`` did not answer the request ``name`` as asked."""

    def __init__(self, peer: PeerId, name: str, reason: str) -> None:
        super().__init__(f"request {name} to {peer}: {reason}", "ask another member, or again later")
        self.peer = peer
        self.name = name
        self.reason = reason


class RequestRefused(Exception):  # noqa: N818
    """A responder raises it to answer with a reason instead of a body."""
