"""Signed contradictions: what proves to everybody that a member is not honest.

An honest member says one thing in one place. Two messages of one author for one place that say different
things, both with its signature, prove that it is not honest. Nobody needs to believe whoever shows them, so
they travel from member to member (:class:`Accusation`, spread by :mod:`p2pfl.gossip.exchange`), and the
author is excluded: its presences count no more, and it is let in nowhere.

**What counts** must be beyond what a crash can do to an honest member, or an older copy of its disk, or a
second process with its key: all of them make it forget what it said. The places of a round name the digest of
the roster, and with it the one-time keys that the author made for this roster and keeps in memory alone. A
process without them has no place in that roster, and one with them has not forgotten. So everything that
names a roster counts. Readies and proposals name none, and do not. Of a presence, nonce and commitment count:
they follow from the identity's key, the federation and the epoch, whatever was forgotten; all else may change
with a restart. Of a succession the successor counts: it is named once, by hand, and the old key is deleted
then. Two vectors in *different* rosters of one round are not evidence either, though no honest member sends
them: the ledger that prevents it may be an older copy.

**Members in it** are named by their numbers in the roster, whose digest is signed with them: two sets of
numbers are two sets of members, whoever they are. The author names itself.

**Which federation** a roster belongs to, its digest does not show. It need not: an honest identity
contradicts itself in none. Who did in another federation is excluded here, too.

What else a member is blamed for (a bundle that does not open, another sum of the same vectors) takes more
than its signatures to judge. It stays with those who saw it.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations
from typing import ClassVar, Final, NamedTuple, Self

from p2pfl.crypto.identity import PeerId, parse_peer_id, verify
from p2pfl.gossip.canonical import pack, unpack_untrusted
from p2pfl.gossip.epoch_messages import MAX_TICKET_BYTES, Presence
from p2pfl.gossip.messages import Bundle, Check, Held, Masked, Part, Pledge, Result, Reveal, Survivors
from p2pfl.gossip.successions import Succession
from p2pfl.gossip.wire import Limits, Message, Reader

MAX_STATEMENT_BYTES: Final = (1 << 16) + 128
"""Of a message without its payload: the longest body, and what is around it."""


class _Kind(NamedTuple):
    """Where in the fields of a body, after the author, a message says what its place is, and what binds its
    author there.
    """

    message: type[Message]
    place: slice
    bound: slice


_KINDS: Final[Mapping[str, _Kind]] = {
    kind.message.TAG: kind
    for kind in (
        _Kind(Presence, slice(0, 2), slice(3, 5)),  # federation, epoch; nonce, commitment
        _Kind(Succession, slice(0, 1), slice(1, 2)),  # federation; successor
        _Kind(Bundle, slice(0, 4), slice(4, None)),  # round, attempt, roster, recipient
        _Kind(Masked, slice(0, 4), slice(4, None)),  # round, attempt, roster, chunk
        _Kind(Pledge, slice(0, 3), slice(3, None)),  # round, attempt, roster
        _Kind(Held, slice(0, 3), slice(3, None)),
        _Kind(Part, slice(0, 5), slice(5, None)),  # round, attempt, roster, plan, chunk
        _Kind(Check, slice(0, 4), slice(4, None)),  # round, attempt, roster, plan
        _Kind(Survivors, slice(0, 3), slice(3, None)),
        _Kind(Reveal, slice(0, 3), slice(3, None)),
        _Kind(Result, slice(0, 3), slice(3, None)),
    )
}
"""Every kind of message of which an honest member signs at most one in a place."""


@dataclass(frozen=True, slots=True)
class Accusation(Message):
    """These two messages of one author contradict each other.

    ``ticket`` is the text of its ticket, as in its presences: so whoever has the manifest can tell that the
    accused is or was a member. ``messages`` are their wire forms without the payload
    (:func:`without_payload`). Neither signed nor passed on as it is: each neighbour shows its own.
    """

    TAG: ClassVar[str] = "accusation"
    LABEL: ClassVar[bytes | None] = None

    ticket: str
    messages: tuple[bytes, bytes] = field(repr=False)

    def body(self) -> tuple[object, ...]:
        return (self.ticket.encode("ascii"),)

    def payload(self) -> bytes:
        return pack(self.messages)

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: memoryview) -> Self:
        ticket = fields.blob(MAX_TICKET_BYTES).decode("ascii")
        match unpack_untrusted(bytes(payload), cls.max_payload_bytes(Limits(0))):
            case [bytes(first), bytes(second)]:
                _require_contradiction(first, second)
                return cls(author, ticket, (first, second))
        raise ValueError("an accusation shows two messages")

    @classmethod
    def max_payload_bytes(cls, limits: Limits) -> int:
        return 2 * MAX_STATEMENT_BYTES + 16

    @property
    def accused(self) -> PeerId:
        """Who signed both."""
        return _statement(self.messages[0]).author

    @property
    def against(self) -> PeerId:
        """The accused."""
        return self.accused

    @property
    def why(self) -> str:
        """What happened, in a clause."""
        return f"it signed {self.kind}"

    @property
    def kind(self) -> str:
        """What the accused did, in a few words."""
        return f"two contradicting {_statement(self.messages[0]).tag} messages"


def without_payload(message: Message) -> bytes:
    """What ``message`` proves against its author: its wire form but for the payload, which no signature
    covers but by the digest in the body.
    """
    return pack((message.TAG, message.signed_bytes(), message.signature, b""))


def contradiction(messages: Iterable[Message]) -> tuple[bytes, bytes] | None:
    """Two of ``messages`` that contradict each other, without their payloads; None if no two do."""
    for first, second in combinations(map(without_payload, messages), 2):
        with suppress(ValueError):
            _require_contradiction(first, second)
            return first, second
    return None


@dataclass(frozen=True, slots=True)
class _Statement:
    """What somebody said, and where; in canonical form."""

    author: PeerId
    tag: str
    place: bytes
    bound: bytes


def _require_contradiction(first: bytes, second: bytes) -> None:
    """Raise ValueError unless both are an author's, and no honest one signs both."""
    one, other = _statement(first), _statement(second)
    if (one.author, one.tag, one.place) != (other.author, other.tag, other.place):
        raise ValueError("two messages that are not of one author for one place")
    if one.bound == other.bound:
        raise ValueError("two messages that do not contradict each other")


def _statement(wire: bytes) -> _Statement:
    """Read a message without payload as far as it matters here. Raises ValueError if it is none that binds
    its author, or not signed by it.

    Other fields than those are not looked at: whatever they are, no honest author signs two bodies for one
    place.
    """
    match unpack_untrusted(wire, MAX_STATEMENT_BYTES):
        case [str(tag), bytes(body), bytes(signature), b""] if tag in _KINDS:
            kind = _KINDS[tag]
        case _:
            raise ValueError("not a message that can contradict another")
    match unpack_untrusted(body, MAX_STATEMENT_BYTES):
        case [str(name), *fields] if len(fields) >= kind.place.stop:
            author = parse_peer_id(name)
        case _:
            raise ValueError(f"{tag} without author or place")
    if kind.message.LABEL is None or not verify(author, kind.message.LABEL, body, signature):
        raise ValueError(f"{tag} is not signed by its author")
    return _Statement(author, tag, pack(fields[kind.place]), pack(fields[kind.bound]))
