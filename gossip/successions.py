"""Successions: a member's old key states which new key takes its place in one federation.

The **old key** signs, so nobody else can give its place away; the **new key** accepts with a signature of
its own, so nobody can be made another's successor: what the old key is accused of holds for the new one, too
(:mod:`p2pfl.gossip.exclusions`). Two successors named by one old key contradict each other, and exclude both
(:mod:`p2pfl.gossip.evidence`). Whoever lost its key cannot do this: issuers revoke that, and admit another.

The text form is a line like a ticket's, and is shown along with tickets (:mod:`p2pfl.gossip.tickets`).
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, Self

from p2pfl.crypto import labels
from p2pfl.crypto.identity import Identity, PeerId, verify
from p2pfl.gossip.canonical import pack
from p2pfl.gossip.wire import Limits, Message, Reader, decode_relayed, encode, signed

PREFIX: Final = "p2pfl-succession-v1:"
MAX_SUCCESSIONS: Final = 3
"""How often a member may change its key in one federation."""
_MAX_LINE: Final = 512  # it has about 415 characters
_SIGNATURE_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class Succession(Message):
    """In this federation ``successor`` takes my place, and I take no part any more.

    ``acceptance`` is the successor's signature. An author signs one of these in a federation.
    """

    TAG: ClassVar[str] = "succession"
    LABEL: ClassVar[bytes | None] = labels.SUCCESSION
    RELAYED: ClassVar[bool] = True

    federation: bytes
    successor: PeerId
    acceptance: bytes = field(repr=False)

    def body(self) -> tuple[object, ...]:
        return (self.federation, self.successor, self.acceptance)

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: memoryview) -> Self:
        federation, successor = fields.digest(), fields.peer()
        acceptance = fields.blob(_SIGNATURE_BYTES, _SIGNATURE_BYTES)
        accepted = _accepted(federation, author)
        if successor == author or not verify(successor, labels.SUCCESSION_ACCEPTANCE, accepted, acceptance):
            raise ValueError("the successor did not accept")
        return cls(author, federation, successor, acceptance)

    def __str__(self) -> str:
        """The text form, one line of printable characters; :func:`parse_succession_untrusted` reads it."""
        return PREFIX + base64.urlsafe_b64encode(encode(self)).rstrip(b"=").decode()


_KINDS: Final[Mapping[str, type[Message]]] = {Succession.TAG: Succession}


def succeed(old: Identity, new: Identity, federation: bytes) -> Succession:
    """``new`` takes the place of ``old``, both of one organisation, in ``federation`` (a digest)."""
    acceptance = new.sign(labels.SUCCESSION_ACCEPTANCE, _accepted(federation, old.peer_id))
    return signed(old, Succession(old.peer_id, federation, new.peer_id, acceptance))


def _accepted(federation: bytes, old: PeerId) -> bytes:
    return pack([federation, old])


def parse_succession_untrusted(text: str) -> Succession:
    """Read the text form, both signatures checked. Raises ValueError, and nothing else."""
    if not text.startswith(PREFIX) or len(text) > _MAX_LINE:
        raise ValueError("not a succession")
    encoded = text.removeprefix(PREFIX)
    try:
        wire = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise ValueError("a damaged succession") from None
    return parse_wire_untrusted(wire, text)


def parse_wire_untrusted(wire: bytes, text: str = "") -> Succession:
    """Read the wire form; it must be spelled ``text`` if that is given. Raises ValueError."""
    found = decode_relayed(wire, Limits(0), _KINDS)
    assert isinstance(found, Succession)
    if text and str(found) != text:
        raise ValueError("a succession in another spelling")
    return found
