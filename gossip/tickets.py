"""Tickets: an issuer named in the manifest states that a peer may join one federation until a date.

A manifest may ask for several issuers (``issuer_quorum``): then a peer needs a ticket of each of so many, and
is admitted until the first of them expires. What a peer shows of itself, tickets and how it came by the place
of an earlier key (:mod:`p2pfl.gossip.successions`), are its :class:`Credentials`.

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
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from typing import NoReturn

from p2pfl.crypto import labels
from p2pfl.crypto.identity import Identity, PeerId, holds_secret_key, parse_peer_id, verify
from p2pfl.gossip.canonical import pack, unpack_untrusted
from p2pfl.gossip.manifest import MAX_QUORUM, Manifest
from p2pfl.gossip.records import shown
from p2pfl.gossip.successions import MAX_SUCCESSIONS, Succession, parse_succession_untrusted
from p2pfl.gossip.successions import PREFIX as SUCCESSION_PREFIX

PREFIX = "p2pfl-ticket-v1:"
MAX_TEXT = 1024  # a ticket has about 310 characters
MAX_CREDENTIALS_BYTES = 2560
"""Of all that a peer shows: the most tickets that a quorum asks for, and the most successions."""
MAX_SKEW_SECONDS = 300.0
"""How far the clocks of two nodes may differ without harm."""
_LATEST = 1 << 40  # seconds since 1970; some 35 000 years from now, and well inside every integer type
_DAY = 86_400
_KEPT_IN_MIND = 1024  # credentials and tickets that were checked


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
    """Return if ``ticket`` is one of those that admit ``peer`` to the federation of ``manifest`` at ``now``
    (seconds since 1970).

    Raises TicketError with the one reason that its holder can act on.
    """
    check_holder(ticket, manifest.digest, now, peer=peer)
    _check_issuer(ticket, manifest)


def check_holder(ticket: Ticket, federation: bytes, now: float, *, peer: PeerId) -> None:
    """All of :func:`check` that a newcomer, who has no manifest yet, can check of its own ticket."""
    _check_signed(ticket, federation, [peer])
    _check_date(ticket.expires, now)


def _check_signed(ticket: Ticket, federation: bytes, names: Sequence[PeerId]) -> None:
    if ticket.federation != federation:
        raise TicketError(
            f"it is for another federation, {ticket.federation.hex()[:12]}…, not {federation.hex()[:12]}…"
        )
    if ticket.peer not in names:
        raise TicketError(f"it was issued to another peer, {ticket.peer}")
    if not _is_signed(ticket):
        raise TicketError("it was altered: the issuer's signature does not match")


@lru_cache(maxsize=_KEPT_IN_MIND)
def _is_signed(ticket: Ticket) -> bool:
    statement = _statement(ticket.federation, ticket.peer, ticket.issuer, ticket.expires)
    return verify(ticket.issuer, labels.TICKET, statement, ticket.signature)


def _check_issuer(ticket: Ticket, manifest: Manifest) -> None:
    if ticket.issuer not in manifest.issuers:
        raise TicketError(f"its issuer {ticket.issuer} is not named in this federation's manifest")


def _check_date(expires: float, now: float) -> None:
    if now >= expires:
        raise TicketError(f"it expired {_duration(now - expires)} ago")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a peer shows of itself: ``successions`` lead from its key, newest first, to the one that the
    manifest lists or ``tickets`` admit; without them it is its own key.
    """

    tickets: tuple[Ticket, ...] = ()
    successions: tuple[Succession, ...] = ()

    def __str__(self) -> str:
        """The text form, printable; :func:`parse_credentials_untrusted` reads it."""
        return " ".join(map(str, (*self.successions, *self.tickets)))

    def names(self, federation: bytes, peer: PeerId) -> tuple[PeerId, ...]:
        """``peer`` and the keys whose place it took, newest first. Raises TicketError if its successions lead
        elsewhere.
        """
        names = [peer]
        for succession in self.successions:
            if (succession.federation, succession.successor) != (federation, names[-1]):
                raise TicketError("its succession is of another key, or for another federation")
            names.append(succession.author)
        return tuple(names)

    def admitted_until(self, manifest: Manifest, federation: bytes, peer: PeerId) -> float:
        """Until when (seconds since 1970) they admit ``peer`` to the federation of ``manifest``, whose digest
        is ``federation``: infinite for the place of a listed member. Raises TicketError if they never did.

        The key that the place began with must have been admitted itself: whoever has a place could give
        itself any number of keys before it otherwise. Tickets of several issuers count together if they are
        of one key: two peers that one issuer each let in would make one member otherwise, by a succession.
        """
        names = self.names(federation, peer)
        if names[-1] in manifest.members:
            return math.inf
        expiries: dict[PeerId, dict[PeerId, int]] = {}  # by whom they were issued to, and the issuer
        problem = TicketError("there is none")
        for ticket in self.tickets:
            try:
                _check_signed(ticket, federation, names)
                _check_issuer(ticket, manifest)
            except TicketError as error:
                problem = error
            else:
                own = expiries.setdefault(ticket.peer, {})
                own[ticket.issuer] = max(ticket.expires, own.get(ticket.issuer, 0))
        quorum = manifest.issuer_quorum
        enough = {
            key: sorted(each.values())[-quorum] for key, each in expiries.items() if len(each) >= quorum
        }
        if names[-1] in enough:
            return max(enough.values())
        if enough:
            raise TicketError(f"nothing shown admits {names[-1]}, the key that its successions begin with")
        if expiries:
            few = f"{max(map(len, expiries.values()))} of at least {quorum} issuers gave one"
            raise TicketError(f"{few}; ask another issuer, and put all tickets in one file, a line each")
        raise problem

    def check(self, manifest: Manifest, federation: bytes, now: float, *, peer: PeerId) -> None:
        """Return if they admit ``peer`` at ``now`` (seconds since 1970). Raises TicketError."""
        _check_date(self.admitted_until(manifest, federation, peer), now)

    def check_holder(self, federation: bytes, now: float, *, peer: PeerId) -> None:
        """All of :meth:`check` that a newcomer, who has no manifest yet, can check of its own."""
        names = self.names(federation, peer)
        for ticket in self.tickets:
            _check_signed(ticket, federation, names)
            _check_date(ticket.expires, now)


def standing(manifest: Manifest, federation: bytes, peer: PeerId, ticket: str, now: float) -> Standing:
    """What ``peer``, who shows the text of its credentials or nothing, is to the federation of ``manifest``
    at ``now`` (seconds since 1970).

    ``federation`` is the digest of ``manifest``, at hand because it takes long to compute.
    """
    if peer in manifest.members and not ticket:
        return Standing.MEMBER
    try:
        until = parse_credentials_untrusted(ticket).admitted_until(manifest, federation, peer)
    except TicketError:
        return Standing.STRANGER
    grace = MAX_SKEW_SECONDS + manifest.timing.gather_seconds + manifest.timing.round_seconds
    return Standing.MEMBER if now < until + grace else Standing.EXPIRED


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{max(1, int(seconds))} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min"
    return f"{int(seconds // 3600)} h" if seconds < 2 * _DAY else f"{int(seconds // _DAY)} days"


@lru_cache(maxsize=_KEPT_IN_MIND)
def parse_credentials_untrusted(text: str) -> Credentials:
    """Read tickets and successions with white space between them; none is an empty text. The tickets'
    signatures are not checked here. Raises TicketError, and nothing else.

    Members show the same ones in every presence, and each takes up to ten signatures to check.
    """
    if len(text) > MAX_CREDENTIALS_BYTES:
        raise TicketError("it is too long to be tickets")
    words = text.split()
    successions = [word for word in words if word.startswith(SUCCESSION_PREFIX)]
    tickets = [word for word in words if not word.startswith(SUCCESSION_PREFIX)]
    if len(tickets) > MAX_QUORUM or len(successions) > MAX_SUCCESSIONS:
        raise TicketError(f"there are more than {MAX_QUORUM} tickets or {MAX_SUCCESSIONS} successions")
    try:
        chain = tuple(map(parse_succession_untrusted, successions))
    except ValueError:
        raise TicketError("its succession is damaged") from None
    return Credentials(tuple(map(parse_ticket_untrusted, tickets)), chain)


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
