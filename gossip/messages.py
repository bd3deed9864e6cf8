"""The messages of a round. :mod:`p2pfl.gossip.wire` says how they are signed and written.

::

    forming     Ready, Proposal             who takes part in this attempt
    share       Bundle, Ack                 sealed shares of two secrets of everybody
    masked      Masked                      the masked vectors, one per member and round
    commit      Survivors, Fetch            whose vectors are summed; one signature per member and round
    reveal      Reveal                      shares: self-mask seeds of survivors, one-time keys of the others
    sum         Result                      digest of the sum, so that a difference is noticed

A ready names federation, epoch roster, round and attempt. Everything after the proposal names the digest of
the roster, which covers all of these, so a message means nothing in any other place than its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, Self, cast

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto import labels
from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.canonical import pack
from p2pfl.gossip.wire import Limits, Message, Reader, decode_relayed, decode_untrusted, digest, encode

__all__ = [  # the codec too, so that a driver finds all it needs here
    "MAX_ATTEMPTS",
    "MAX_MEMBERS",
    "MAX_STAGE_CHARACTERS",
    "ROUND_MESSAGES",
    "Ack",
    "Bundle",
    "Fetch",
    "Limits",
    "Masked",
    "Message",
    "Proposal",
    "Ready",
    "Result",
    "Reveal",
    "RoundMessage",
    "SumMessage",
    "Survivors",
    "decode_untrusted",
    "encode",
    "result_digest",
    "roster_digest",
    "survivors_digest",
]

MAX_MEMBERS: Final = 32
"""Largest group; with it the cost of a round (k vectors, k^2 shares) is bounded before anything is known."""
MAX_ATTEMPTS: Final = 4
"""Attempts to form the group of one round, numbered from 0."""
MAX_STAGE_CHARACTERS: Final = 32
MAX_SHARE_BYTES: Final = 40
MAX_SEALED_BYTES: Final = 256


@dataclass(frozen=True, slots=True)
class Ready(Message):
    """I am ready for this attempt, and these are my one-time public key and the commitment to my self-mask
    seed.

    The commitment travels here and not with the shares, so that the roster digest covers it and nobody can
    commit to different seeds before different members. Two different readies of one attempt are no
    evidence: a member that crashed and came back has forgotten its first.
    """

    TAG: ClassVar[str] = "ready"
    LABEL: ClassVar[bytes | None] = labels.READY

    federation: bytes
    epoch_roster: bytes
    round: int
    attempt: int
    stage: str
    dim: int
    mask_key: bytes
    bundle_key: bytes
    commitment: bytes
    state_digest: bytes

    def body(self) -> tuple[object, ...]:
        context = (self.federation, self.epoch_roster, self.round, self.attempt)
        keys = (self.mask_key, self.bundle_key, self.commitment)
        return (*context, self.stage, self.dim, *keys, self.state_digest)

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: bytes) -> Self:
        context = (fields.digest(), fields.digest(), fields.number(), fields.number(MAX_ATTEMPTS))
        stage, dim = fields.text(MAX_STAGE_CHARACTERS), fields.number(1 << 32)
        keys = (fields.digest(), fields.digest(), fields.digest())
        return cls(author, *context, stage, dim, *keys, fields.digest())


@dataclass(frozen=True, slots=True)
class Proposal(Message):
    """These members shall form the group: their readies, in drawn order. Whoever proposes the same readies
    proposes the same roster.
    """

    TAG: ClassVar[str] = "proposal"
    LABEL: ClassVar[bytes | None] = labels.PROPOSAL

    round: int
    attempt: int
    readies: tuple[Ready, ...]

    def body(self) -> tuple[object, ...]:
        return (self.round, self.attempt, tuple(encode(ready) for ready in self.readies))

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: bytes) -> Self:
        context = (fields.number(), fields.number(MAX_ATTEMPTS))
        wires = fields.items(MAX_MEMBERS, lambda item: item.blob(1024))
        kinds: dict[str, type[Message]] = {Ready.TAG: Ready}
        readies = (cast(Ready, decode_relayed(wire, Limits(0), kinds)) for wire in wires)
        return cls(author, *context, tuple(readies))


@dataclass(frozen=True, slots=True)
class Bundle(Message):
    """For ``recipient`` alone: its shares of my self-mask seed and of my one-time secret key, sealed."""

    TAG: ClassVar[str] = "bundle"
    LABEL: ClassVar[bytes | None] = labels.BUNDLE

    round: int
    attempt: int
    roster: bytes
    recipient: PeerId
    sealed: bytes = field(repr=False)

    def body(self) -> tuple[object, ...]:
        return (self.round, self.attempt, self.roster, self.recipient, self.sealed)

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: bytes) -> Self:
        return cls(author, *_context(fields), fields.peer(), fields.blob(MAX_SEALED_BYTES))


@dataclass(frozen=True, slots=True)
class Ack(Message):
    """I hold a bundle of every member of the roster."""

    TAG: ClassVar[str] = "ack"
    LABEL: ClassVar[bytes | None] = labels.ACK

    round: int
    attempt: int
    roster: bytes

    def body(self) -> tuple[object, ...]:
        return (self.round, self.attempt, self.roster)

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: bytes) -> Self:
        return cls(author, *_context(fields))


@dataclass(frozen=True, slots=True)
class Masked(Message):
    """My masked vector: uint32, shape (dim,); the signature covers its digest."""

    TAG: ClassVar[str] = "masked"
    LABEL: ClassVar[bytes | None] = labels.MASKED
    RELAYED: ClassVar[bool] = True

    round: int
    attempt: int
    roster: bytes
    digest: bytes
    values: NDArray[np.uint32] = field(repr=False, compare=False)

    @classmethod
    def of(cls, author: PeerId, context: tuple[int, int, bytes], values: NDArray[np.uint32]) -> Self:
        """The message (still unsigned) that carries ``values``; ``context`` is round, attempt, roster
        digest.
        """
        return cls(author, *context, digest(labels.MASKED_DIGEST, _little_endian(values)), values)

    def body(self) -> tuple[object, ...]:
        return (self.round, self.attempt, self.roster, self.digest)

    def payload(self) -> bytes:
        return _little_endian(self.values)

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: bytes) -> Self:
        context, claimed = _context(fields), fields.digest()
        if len(payload) % 4 or digest(labels.MASKED_DIGEST, payload) != claimed:
            raise ValueError("the masked vector is not the one that was signed")
        return cls(author, *context, claimed, np.frombuffer(payload, "<u4").astype(np.uint32, copy=False))

    @classmethod
    def max_payload_bytes(cls, limits: Limits) -> int:
        return 4 * limits.max_dim


@dataclass(frozen=True, slots=True)
class Survivors(Message):
    """I stand by summing exactly these vectors, named by author and digest in roster order. One per member
    and round.
    """

    TAG: ClassVar[str] = "survivors"
    LABEL: ClassVar[bytes | None] = labels.SURVIVORS

    round: int
    attempt: int
    roster: bytes
    entries: tuple[tuple[PeerId, bytes], ...]

    def body(self) -> tuple[object, ...]:
        return (self.round, self.attempt, self.roster, self.entries)

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: bytes) -> Self:
        context = _context(fields)
        return cls(author, *context, fields.items(MAX_MEMBERS, _entry))


def _entry(item: Reader) -> tuple[PeerId, bytes]:
    pair = item.nested()
    entry = (pair.peer(), pair.digest())
    pair.end()
    return entry


@dataclass(frozen=True, slots=True)
class Fetch(Message):
    """Send me the masked vector of ``owner`` with this digest. Not signed: it binds nobody."""

    TAG: ClassVar[str] = "fetch"
    LABEL: ClassVar[bytes | None] = None

    round: int
    attempt: int
    roster: bytes
    owner: PeerId
    digest: bytes

    def body(self) -> tuple[object, ...]:
        return (self.round, self.attempt, self.roster, self.owner, self.digest)

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: bytes) -> Self:
        return cls(author, *_context(fields), fields.peer(), fields.digest())


@dataclass(frozen=True, slots=True)
class Reveal(Message):
    """For the members in roster order: my share of the self-mask seed of a survivor, else of the one-time
    secret key.

    ``survivors`` is the digest of the settled set (:func:`survivors_digest`).
    """

    TAG: ClassVar[str] = "reveal"
    LABEL: ClassVar[bytes | None] = labels.REVEAL

    round: int
    attempt: int
    roster: bytes
    survivors: bytes
    shares: tuple[bytes, ...] = field(repr=False)

    def body(self) -> tuple[object, ...]:
        return (self.round, self.attempt, self.roster, self.survivors, self.shares)

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: bytes) -> Self:
        context, survivors = _context(fields), fields.digest()
        return cls(
            author, *context, survivors, fields.items(MAX_MEMBERS, lambda item: item.blob(MAX_SHARE_BYTES))
        )


@dataclass(frozen=True, slots=True)
class Result(Message):
    """The sum over ``survivors`` that I arrived at has this digest."""

    TAG: ClassVar[str] = "result"
    LABEL: ClassVar[bytes | None] = labels.RESULT

    round: int
    attempt: int
    roster: bytes
    survivors: bytes
    digest: bytes

    def body(self) -> tuple[object, ...]:
        return (self.round, self.attempt, self.roster, self.survivors, self.digest)

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: bytes) -> Self:
        return cls(author, *_context(fields), fields.digest(), fields.digest())


RoundMessage = Ready | Proposal | Bundle | Ack | Masked | Survivors | Fetch | Reveal | Result
SumMessage = Bundle | Ack | Masked | Survivors | Fetch | Reveal | Result
"""What is exchanged once a roster is agreed."""

ROUND_MESSAGES: Final[Mapping[str, type[Message]]] = {
    kind.TAG: kind for kind in (Ready, Proposal, Bundle, Ack, Masked, Survivors, Fetch, Reveal, Result)
}


def roster_digest(readies: tuple[Ready, ...]) -> bytes:
    """What identifies a roster: the digest of its readies in order, without signatures."""
    return digest(labels.ROSTER_DIGEST, pack([ready.signed_bytes() for ready in readies]))


def survivors_digest(roster: bytes, entries: tuple[tuple[PeerId, bytes], ...]) -> bytes:
    """What identifies a set of survivors of the roster with that digest."""
    return digest(labels.SURVIVORS, pack((roster, entries)))


def result_digest(survivors: bytes, total: NDArray[np.uint32]) -> bytes:
    """What identifies a sum over the survivors with that digest."""
    return digest(labels.RESULT_DIGEST, survivors + _little_endian(total))


def _context(fields: Reader) -> tuple[int, int, bytes]:
    return fields.number(), fields.number(MAX_ATTEMPTS), fields.digest()


def _little_endian(values: NDArray[np.uint32]) -> bytes:
    return values.astype("<u4", copy=False).tobytes()
