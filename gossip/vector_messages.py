"""The messages by which a masked vector goes round: whole, or cut into chunks whose sums are gathered.

All begin with their place: round, attempt, and the digest of the roster, in which members have numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto import labels
from p2pfl.crypto.identity import PeerId
from p2pfl.crypto.linear_check import CHECKS
from p2pfl.gossip.canonical import pack
from p2pfl.gossip.chunks import MAX_CHUNKS, longest_chunk_bytes
from p2pfl.gossip.wire import Limits, Message, Reader, digest

MAX_MEMBERS: Final = 32
"""Largest group; with it the cost of a round (k vectors, k^2 shares) is bounded before anything is known."""
MAX_ATTEMPTS: Final = 4
"""Attempts to form the group of one round, numbered from 0."""
MAX_ELEMENT_BYTES: Final = 8
"""Of one ring element, in the widest ring."""
MAX_CHECK_BYTES: Final = MAX_MEMBERS * CHECKS * MAX_ELEMENT_BYTES

Entries = tuple[tuple[int, bytes], ...]
"""Members, by their numbers in the roster, ascending; each with the mark of its masked vector."""
Context = tuple[int, int, bytes]
"""Round, attempt, roster digest."""


@dataclass(frozen=True, slots=True)
class Masked(Message):
    """Chunk ``chunk`` of my masked vector, over the ring; the signature covers its digest."""

    TAG: ClassVar[str] = "masked"
    LABEL: ClassVar[bytes | None] = labels.MASKED
    RELAYED: ClassVar[bool] = True

    round: int
    attempt: int
    roster: bytes
    chunk: int
    digest: bytes
    data: bytes | memoryview = field(repr=False, compare=False)
    """The elements, little-endian."""

    @classmethod
    def of(
        cls,
        author: PeerId,
        context: Context,
        chunk: int,
        data: bytes | memoryview,
        known: bytes | None = None,
    ) -> Self:
        """The message (still unsigned) that carries ``data``; ``known``: its digest, if it is at hand."""
        return cls(author, *context, chunk, known or digest(labels.MASKED_DIGEST, data), data)

    def body(self) -> tuple[object, ...]:
        return (self.round, self.attempt, self.roster, self.chunk, self.digest)

    def payload(self) -> bytes | memoryview:
        return self.data

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: memoryview) -> Self:
        context, chunk, claimed = read_context(fields), fields.number(MAX_CHUNKS), fields.digest()
        if digest(labels.MASKED_DIGEST, payload) != claimed:
            raise ValueError("the masked chunk is not the one that was signed")
        return cls(author, *context, chunk, claimed, payload)

    @classmethod
    def max_payload_bytes(cls, limits: Limits) -> int:
        return longest_chunk_bytes(limits.max_dim, MAX_ELEMENT_BYTES)


@dataclass(frozen=True, slots=True)
class Pledge(Message):
    """The chunks of my masked vector have these digests, in order."""

    TAG: ClassVar[str] = "pledge"
    LABEL: ClassVar[bytes | None] = labels.PLEDGE

    round: int
    attempt: int
    roster: bytes
    digests: tuple[bytes, ...]

    @property
    def mark(self) -> bytes:
        """What names the vector in a set of survivors."""
        return digest(labels.PLEDGE, pack((self.roster, self.digests)))

    def body(self) -> tuple[object, ...]:
        return (self.round, self.attempt, self.roster, self.digests)

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: memoryview) -> Self:
        return cls(author, *read_context(fields), fields.items(MAX_CHUNKS, Reader.digest))


@dataclass(frozen=True, slots=True)
class Held(Message):
    """I hold the pledges of these members, and of their vectors the chunks that are mine to add up. I wait
    for no others.
    """

    TAG: ClassVar[str] = "held"
    LABEL: ClassVar[bytes | None] = labels.HELD

    round: int
    attempt: int
    roster: bytes
    entries: Entries

    def body(self) -> tuple[object, ...]:
        return (self.round, self.attempt, self.roster, self.entries)

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: memoryview) -> Self:
        return cls(author, *read_context(fields), read_entries(fields))


@dataclass(frozen=True, slots=True)
class Plan(Message):
    """Let us add up these vectors, and these members, by their numbers in the roster, the chunks. Binds
    nobody; each plan of an author has fewer vectors than its last.
    """

    TAG: ClassVar[str] = "plan"
    LABEL: ClassVar[bytes | None] = labels.PLAN

    round: int
    attempt: int
    roster: bytes
    entries: Entries
    owners: tuple[int, ...]

    @property
    def mark(self) -> bytes:
        """What names the plan, whoever its author is."""
        return digest(labels.PLAN, pack((self.roster, self.entries, self.owners)))

    def body(self) -> tuple[object, ...]:
        return (self.round, self.attempt, self.roster, self.entries, self.owners)

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: memoryview) -> Self:
        context, entries = read_context(fields), read_entries(fields)
        owners = fields.items(MAX_MEMBERS, _number)
        _require_ascending(owners)
        return cls(author, *context, entries, owners)


@dataclass(frozen=True, slots=True)
class Part(Message):
    """The sum of chunk ``chunk`` of the masked vectors of the plan with that mark."""

    TAG: ClassVar[str] = "part"
    LABEL: ClassVar[bytes | None] = labels.PART
    RELAYED: ClassVar[bool] = True

    round: int
    attempt: int
    roster: bytes
    plan: bytes
    chunk: int
    digest: bytes
    data: bytes | memoryview = field(repr=False, compare=False)
    """The elements, little-endian."""

    def body(self) -> tuple[object, ...]:
        return (self.round, self.attempt, self.roster, self.plan, self.chunk, self.digest)

    def payload(self) -> bytes | memoryview:
        return self.data

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: memoryview) -> Self:
        context, plan = read_context(fields), fields.digest()
        chunk, claimed = fields.number(MAX_CHUNKS), fields.digest()
        if digest(labels.PART_DIGEST, payload) != claimed:
            raise ValueError("the part is not the one that was signed")
        return cls(author, *context, plan, chunk, claimed, payload)

    @classmethod
    def max_payload_bytes(cls, limits: Limits) -> int:
        return longest_chunk_bytes(limits.max_dim, MAX_ELEMENT_BYTES)


@dataclass(frozen=True, slots=True)
class Check(Message):
    """I was given parts with these digests, and these are the words of my own masked vector for every owner
    of chunks (:mod:`p2pfl.crypto.linear_check`), one after the other in roster order.
    """

    TAG: ClassVar[str] = "check"
    LABEL: ClassVar[bytes | None] = labels.CHECK
    RELAYED: ClassVar[bool] = True

    round: int
    attempt: int
    roster: bytes
    plan: bytes
    parts: tuple[bytes, ...]
    words: bytes

    def body(self) -> tuple[object, ...]:
        return (self.round, self.attempt, self.roster, self.plan, self.parts, self.words)

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: memoryview) -> Self:
        context, plan = read_context(fields), fields.digest()
        parts = fields.items(MAX_CHUNKS, Reader.digest)
        return cls(author, *context, plan, parts, fields.blob(MAX_CHECK_BYTES))


VectorMessage = Masked | Pledge | Held | Plan | Part | Check
"""What brings everybody the masked sum."""


def on_the_wire(values: NDArray[Any]) -> memoryview:
    """The bytes of ring elements as they cross the wire, little-endian: the array's own, which must not
    change any more.
    """
    own = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
    own.flags.writeable = False
    return own.view(np.uint8).data


def read_context(fields: Reader) -> Context:
    """The place of a message."""
    return fields.number(), fields.number(MAX_ATTEMPTS), fields.digest()


def read_entries(fields: Reader) -> Entries:
    """A set of members, with what each of them gave."""
    entries = fields.items(MAX_MEMBERS, _entry)
    _require_ascending([number for number, _ in entries])
    return entries


def _entry(item: Reader) -> tuple[int, bytes]:
    pair = item.nested()
    entry = (_number(pair), pair.digest())
    pair.end()
    return entry


def _number(item: Reader) -> int:
    """Of a member. The roster that it counts in may be smaller; whoever knows it looks."""
    return item.number(MAX_MEMBERS)


def _require_ascending(numbers: Sequence[int]) -> None:
    """One set of members, one spelling: what is signed alike compares alike."""
    if any(one >= other for one, other in pairwise(numbers)):
        raise ValueError("members out of order, or twice")
