"""Who is to blame when the protocol is broken: us or the peer.

ProtocolError
├── LocalProtocolError    our own code asked for something the protocol forbids: a bug, let it crash
└── RemoteProtocolError   a peer did: drop it, say so, go on

Bytes from the network may only ever raise :class:`RemoteProtocolError`.
"""

from p2pfl.crypto.identity import PeerId


class ProtocolError(Exception):
    """Base of the two; never raised itself."""


class LocalProtocolError(ProtocolError):
    """Our own code broke the protocol."""


class RemoteProtocolError(ProtocolError):
    """A peer broke the protocol. ``peer`` is its id, ``reason`` a lower-case sentence without secrets."""

    def __init__(self, peer: PeerId, reason: str) -> None:
        super().__init__(f"peer {peer}: {reason}")
        self.peer = peer
        self.reason = reason
