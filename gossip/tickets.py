"""Tickets: an issuer named in the manifest states that a peer may join one federation until a date.

A ticket is not a secret: it names the one peer id that it admits, and only that peer's key can use it. Its
text form carries a prefix, so that a ticket in a key's place, or a key in a ticket's, is recognised and
refused instead of used or published.

**Expiry** is judged by each node's own clock, and clocks differ. Where only the two ends of a connection are
concerned that is harmless, and :func:`check` is strict. A roster, though, must be the same everywhere. So a
presence is judged by :func:`standing` in two parts. Whether an issuer signed is the same for everybody.
Whether the ticket is still good is not, so there is a grace: as much as clocks may differ, and as long as
presences are gathered. Whoever's ticket ran out loses its connections first, one after the other within that
difference. By the time the first node stops taking its presences, there is nobody left through whom it could
bring new ones.
"""

import base64
import binascii
from dataclasses import dataclass
from enum import Enum, auto
from typing import NoReturn

from p2pfl.crypto import labels
from p2pfl.crypto.identity import Identity, PeerId, holds_secret_key, parse_peer_id, verify
from p2pfl.gossip.canonical import pack, unpack_untrusted
from p2pfl.gossip.manifest import Manifest
from p2pfl.gossip.records import shown

PREFIX = "p2pfl-ticket-v1:"
MAX_TEXT = 1024  # a ticket has about 370 characters
MAX_SKEW_SECONDS = 300.0
"""How far the clocks of two nodes may differ without harm."""
_LATEST = 1 << 40  # seconds since 1970; some 35 000 years from now, and well inside every integer type
_DAY = 86_400


class TicketError(ValueError):
    """A ticket admits nobody, for ``reason``: lower case, safe to print."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Standing(Enum):
    """What the author of a presence is to its federation."""

    MEMBER = auto()
    EXPIRED = auto()
    """Its ticket was good once, and is not by this node's clock."""
    STRANGER = auto()
    """Nothing admits it; every node that has the manifest comes to the same verdict."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """``issuer`` admits ``peer`` to ``federation`` (a digest, 32 bytes) until ``expires`` (seconds since
    1970, UTC, exclusive).
    """

    federation: bytes
    peer: PeerId
    issuer: PeerId
    expires: int
    signature: bytes

    def __str__(self) -> str:
        """The text form, one line of printable characters; :func:`parse_ticket_untrusted` reads it."""
        packed = pack([self.federation, self.peer, self.issuer, self.expires, self.signature])
        return PREFIX + base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def _statement(federation: bytes, peer: PeerId, issuer: PeerId, expires: int) -> bytes:
    return pack([federation, peer, issuer, expires])


def issue(identity: Identity, *, federation: bytes, peer: PeerId, expires: int) -> Ticket:
    """A ticket signed by ``identity``.

    Whether the manifest lets it issue is for :func:`check` to say, not for this.
    """
    if len(federation) != 32 or not 0 < expires < _LATEST:
        raise ValueError("a ticket needs a federation digest of 32 bytes and an expiry after 1970")
    statement = _statement(federation, peer, identity.peer_id, expires)
    return Ticket(federation, peer, identity.peer_id, expires, identity.sign(labels.TICKET, statement))


def check(ticket: Ticket, manifest: Manifest, now: float, *, peer: PeerId) -> None:
    """Return if ``ticket`` admits ``peer`` to the federation of ``manifest`` at ``now`` (seconds since 1970).

    Raises TicketError with the one reason that its holder can act on.
    """
    check_holder(ticket, manifest.digest, now, peer=peer)
    if ticket.issuer not in manifest.issuers:
        raise TicketError(f"its issuer {ticket.issuer} is not named in this federation's manifest")


def check_holder(ticket: Ticket, federation: bytes, now: float, *, peer: PeerId) -> None:
    """All of :func:`check` that a newcomer, who has no manifest yet, can check of its own ticket."""
    if ticket.federation != federation:
        raise TicketError(
            f"it is for another federation, {ticket.federation.hex()[:12]}…, not {federation.hex()[:12]}…"
        )
    if ticket.peer != peer:
        raise TicketError(f"it was issued to another peer, {ticket.peer}")
    statement = _statement(ticket.federation, ticket.peer, ticket.issuer, ticket.expires)
    if not verify(ticket.issuer, labels.TICKET, statement, ticket.signature):
        raise TicketError("it was altered: the issuer's signature does not match")
    if now >= ticket.expires:
        raise TicketError(f"it expired {_duration(now - ticket.expires)} ago")


def standing(manifest: Manifest, federation: bytes, peer: PeerId, ticket: str, now: float) -> Standing:
    """What ``peer``, who shows a ticket's text or nothing, is to the federation of ``manifest`` at ``now``
    (seconds since 1970).

    ``federation`` is the digest of ``manifest``, at hand because it takes long to compute.
    """
    if peer in manifest.members:
        return Standing.MEMBER
    try:
        found = parse_ticket_untrusted(ticket)
        check_holder(found, federation, 0, peer=peer)  # 1970, when no ticket had expired
    except TicketError:
        return Standing.STRANGER
    if found.issuer not in manifest.issuers:
        return Standing.STRANGER
    grace = MAX_SKEW_SECONDS + manifest.timing.gather_seconds + manifest.timing.round_seconds
    return Standing.MEMBER if now < found.expires + grace else Standing.EXPIRED


def _duration(seconds: float) -> str:
    if seconds < 3600:
        return f"{max(1, int(seconds // 60))} min"
    return f"{int(seconds // 3600)} h" if seconds < 2 * _DAY else f"{int(seconds // _DAY)} days"


def parse_ticket_untrusted(text: str) -> Ticket:
    """Read a ticket's text form. Its signature is not checked here.

    Raises TicketError, and nothing else, unless ``text`` is exactly what ``str(ticket)`` gives, give
    or take white space around it.
    """
    text = text.strip() if len(text) <= 2 * MAX_TEXT else text
    if not text.startswith(PREFIX):
        _refuse_foreign(text)
    if len(text) > MAX_TEXT:
        raise TicketError("it is too long to be a ticket")
    encoded = text.removeprefix(PREFIX)
    try:
        packed = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        fields = unpack_untrusted(packed, MAX_TEXT)
    except (binascii.Error, ValueError):
        raise TicketError("it is damaged: copy it again, whole and in one line") from None
    ticket = _from_fields(fields)
    if str(ticket) != text:
        raise TicketError("it is damaged: not in canonical form")
    return ticket


def _from_fields(fields: object) -> Ticket:
    match fields:
        case [bytes(federation), str(peer), str(issuer), int(expires), bytes(signature)]:
            pass
        case _:
            raise TicketError("it is damaged: not the fields of a ticket")
    if len(federation) != 32 or len(signature) != 64 or type(expires) is not int or not 0 < expires < _LATEST:
        raise TicketError("it is damaged: a field is out of range")
    try:
        return Ticket(federation, parse_peer_id(peer), parse_peer_id(issuer), expires, signature)
    except ValueError:
        raise TicketError(f"it is damaged: not a peer id: {shown([peer, issuer])}") from None


def _refuse_foreign(text: str) -> NoReturn:
    if holds_secret_key(text):
        raise TicketError("it is a secret key, not a ticket; whoever has seen it can act as that node")
    if text.startswith("p2pfl-ticket-v"):
        raise TicketError("it has another version's form; this p2pfl reads " + PREFIX.rstrip(":"))
    raise TicketError(f"it is not a ticket: a ticket starts with {PREFIX}")
