"""The messages between rounds: who is there for the next epoch, and what each node knows of it.

::

    Presence     signed by its author, passed on by everybody: I am there for this epoch
    Sync         what the sender knows and where it is, as digests
    Wanted       send me the presences behind this digest
    Presences    the answer

Only the presence binds anybody. The other three are between two neighbours, are never passed on, and the
connection they arrive over says whose they are.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, Final, Self, cast

from p2pfl.crypto import labels
from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.canonical import pack
from p2pfl.gossip.tickets import MAX_CREDENTIALS_BYTES
from p2pfl.gossip.wire import DIGEST_BYTES, Limits, Message, Reader, decode_relayed, digest, encode

MAX_ROSTER: Final = 256
"""Most members of an epoch: as many as a manifest can list."""
MAX_ADDRESSES: Final = 8
MAX_ADDRESS_BYTES: Final = 256
MAX_TICKET_BYTES: Final = MAX_CREDENTIALS_BYTES
MAX_EPOCH: Final = 1 << 40
"""Far beyond use, and rounds (an epoch has at most 100 000) still fit 63 bits."""
NOTHING: Final = bytes(DIGEST_BYTES)
"""In the place of a digest: of nothing that I know."""

_MAX_PRESENCE_BYTES: Final = 5632
_LENGTH_BYTES: Final = 2
_MOST_OF_AN_AUTHOR: Final = 2
"""Both presences of one that signed two are handed on, as proof."""
_MAX_PRESENCES_BYTES: Final = _MOST_OF_AN_AUTHOR * MAX_ROSTER * (_LENGTH_BYTES + _MAX_PRESENCE_BYTES)


@dataclass(frozen=True, slots=True)
class Presence(Message):
    """I am there for this epoch, this ticket admits me, and these are my multiaddresses.

    ``nonce`` is what I committed to in the epoch before, ``commitment`` (see :func:`commitment_to`) binds me
    to my nonce of the next one. ``previous`` is the digest of the previous epoch's roster as I know it, or
    :data:`NOTHING`. ``ticket`` is the text of the author's credentials, empty if the manifest lists it: so
    whoever has the manifest can tell a member from a stranger without ever having met it. An author signs one
    presence per epoch; only the addresses may differ between two, and after a restart all but nonce and
    commitment, which must follow from the identity alone.
    """

    TAG: ClassVar[str] = "presence"
    LABEL: ClassVar[bytes | None] = labels.PRESENCE
    RELAYED: ClassVar[bool] = True

    federation: bytes
    epoch: int
    previous: bytes
    nonce: bytes
    commitment: bytes
    ticket: str
    addresses: tuple[str, ...]

    def body(self) -> tuple[object, ...]:
        return (*self._bound, self.addresses)

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: memoryview) -> Self:
        context = (fields.digest(), fields.number(MAX_EPOCH), fields.digest())
        secrets = (fields.digest(), fields.digest())
        ticket = fields.blob(MAX_TICKET_BYTES).decode("ascii")
        return cls(author, *context, *secrets, ticket, fields.items(MAX_ADDRESSES, _address))

    @property
    def _bound(self) -> tuple[object, ...]:
        secrets = (self.nonce, self.commitment)
        return (self.federation, self.epoch, self.previous, *secrets, self.ticket.encode("ascii"))

    @property
    def substance(self) -> bytes:
        """What its author is bound to, as 32 bytes: everything but the addresses."""
        return digest(labels.PRESENCE, pack((self.author, *self._bound)))


def _address(item: Reader) -> str:
    return item.text(MAX_ADDRESS_BYTES)


@dataclass(frozen=True, slots=True)
class Sync(Message):
    """Where I am: gathering presences for ``epoch``, those so far having this ``digest``.

    ``present``: my own is among them; else I am still in the epoch before (or starting up). ``closed``: the
    digest of the roster of the epoch before, :data:`NOTHING` if I know none or am not on it. ``round``: the
    one I am in, or would be in next.
    """

    TAG: ClassVar[str] = "sync"
    LABEL: ClassVar[bytes | None] = None

    epoch: int
    digest: bytes
    present: bool
    closed: bytes
    round: int

    def body(self) -> tuple[object, ...]:
        return (self.epoch, self.digest, self.present, self.closed, self.round)

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: memoryview) -> Self:
        gathering = (fields.number(MAX_EPOCH), fields.digest(), fields.flag())
        return cls(author, *gathering, fields.digest(), fields.number())


@dataclass(frozen=True, slots=True)
class Wanted(Message):
    """Send me the presences of ``epoch`` that have this ``digest``, or what you have of that epoch."""

    TAG: ClassVar[str] = "wanted"
    LABEL: ClassVar[bytes | None] = None

    epoch: int
    digest: bytes

    def body(self) -> tuple[object, ...]:
        return (self.epoch, self.digest)

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: memoryview) -> Self:
        return cls(author, fields.number(MAX_EPOCH), fields.digest())


@dataclass(frozen=True, slots=True)
class Presences(Message):
    """All presences that I hold of one epoch. On the wire: each with its length before it, in 16 bits,
    big-endian.
    """

    TAG: ClassVar[str] = "presences"
    LABEL: ClassVar[bytes | None] = None

    presences: tuple[Presence, ...] = field(repr=False)

    def body(self) -> tuple[object, ...]:
        return (len(self.presences),)

    def payload(self) -> bytes:
        wires = [encode(presence) for presence in self.presences]
        return b"".join(len(wire).to_bytes(_LENGTH_BYTES, "big") + wire for wire in wires)

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: memoryview) -> Self:
        presences, at = [], 0
        authors = Counter[PeerId]()
        for _ in range(fields.number(_MOST_OF_AN_AUTHOR * MAX_ROSTER + 1)):
            start = at + _LENGTH_BYTES
            at = start + int.from_bytes(payload[at:start], "big")
            if not start < at <= len(payload) or at - start > _MAX_PRESENCE_BYTES:
                raise ValueError("the presences are cut short")
            presence = _decoded_presence(bytes(payload[start:at]))
            presences.append(presence)
            authors[presence.author] += 1
            if authors[presence.author] > _MOST_OF_AN_AUTHOR:
                raise ValueError("more presences of an author than a set keeps")
        if at != len(payload):
            raise ValueError("there is more than presences")
        return cls(author, tuple(presences))

    @classmethod
    def max_payload_bytes(cls, limits: Limits) -> int:
        return _MAX_PRESENCES_BYTES


_PRESENCE: Final[Mapping[str, type[Message]]] = {Presence.TAG: Presence}


@lru_cache(maxsize=4 * MAX_ROSTER)
def _decoded_presence(wire: bytes) -> Presence:
    """The same ones come from every neighbour, and each has a signature to check."""
    return cast(Presence, decode_relayed(wire, Limits(0), _PRESENCE))


EpochMessage = Presence | Sync | Wanted | Presences

EPOCH_MESSAGES: Final[Mapping[str, type[Message]]] = {
    kind.TAG: kind for kind in (Presence, Sync, Wanted, Presences)
}


def commitment_to(federation: bytes, epoch: int, author: PeerId, nonce: bytes) -> bytes:
    """What ``author`` publishes an epoch earlier to be bound to ``nonce`` in ``epoch``.

    Hiding, because the nonce has 256 bits nobody else knows; binding, because SHA-256 resists collisions.
    """
    return digest(labels.PRESENCE_COMMITMENT, pack((federation, epoch, author, nonce)))
