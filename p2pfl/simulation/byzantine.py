"""Members that follow the protocol but for one thing: what the others must bear."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from p2pfl.crypto import labels
from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.gossip.epoch_messages import Presence
from p2pfl.gossip.events import Effect, Event, Send
from p2pfl.gossip.messages import Ready, Reveal, RoundMessage, Survivors
from p2pfl.gossip.simulation import Machine
from p2pfl.gossip.vector_messages import Masked, Part
from p2pfl.gossip.wire import Message, digest, signed

Lie = Callable[[Identity, Message, PeerId], Iterable[Message]]
"""What goes out to a peer instead of a message of its own."""


@dataclass
class Liar:
    """In the place of an honest ``machine`` of ``identity``: what it sends is changed on the way out, from
    ``since`` on.
    """

    machine: Machine
    identity: Identity
    lie: Lie
    since: float = 0.0

    def handle(self, event: Event, now: float) -> list[Effect]:
        """As the machine does, with other messages."""
        out: list[Effect] = []
        for effect in self.machine.handle(event, now):
            own = isinstance(effect, Send) and effect.message.author == self.identity.peer_id
            if isinstance(effect, Send) and own and now >= self.since:
                told = self.lie(self.identity, effect.message, effect.peer)
                out += [Send(effect.peer, message) for message in told]
            else:
                out.append(effect)
        return out


def _odd(peer: PeerId) -> bool:
    """Half of all peers."""
    return digest(b"odd", peer.encode())[0] % 2 == 1


def _equivocates(me: Identity, message: Message, to: PeerId) -> Iterable[Message]:
    if not isinstance(message, Survivors) or not _odd(to):
        return (message,)
    *most, (number, mark) = message.entries
    other = (*most, (number, digest(b"another", mark)))
    return (signed(me, replace(message, entries=other)),)


def _withholds(me: Identity, message: Message, to: PeerId) -> Iterable[Message]:
    return () if isinstance(message, Reveal) else (message,)


def _miscounts(me: Identity, message: Message, to: PeerId) -> Iterable[Message]:
    if not isinstance(message, Part):
        return (message,)
    elements = np.frombuffer(message.data, np.uint32).copy()
    elements[0] += 1
    data = elements.tobytes()
    return (signed(me, replace(message, data=data, digest=digest(labels.PART_DIGEST, data))),)


def _silent(me: Identity, message: Message, to: PeerId) -> Iterable[Message]:
    return () if isinstance(message, RoundMessage) and not isinstance(message, Ready) else (message,)


def _garbles(me: Identity, message: Message, to: PeerId) -> Iterable[Message]:
    return (replace(message, data=bytes(len(message.data))),) if isinstance(message, Masked) else (message,)


def _two_faced(me: Identity, message: Message, to: PeerId) -> Iterable[Message]:
    if not isinstance(message, Presence) or not _odd(to):
        return (message,)
    return (signed(me, replace(message, commitment=digest(b"another", message.commitment))),)


LIES: Final[Mapping[str, Lie]] = {
    "equivocates": _equivocates,
    "withholds": _withholds,
    "miscounts": _miscounts,
    "silent": _silent,
    "garbles": _garbles,
    "two-faced": _two_faced,
}
"""By the name of the behaviour."""
