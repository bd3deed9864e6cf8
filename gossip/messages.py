"""The messages of a round. :mod:`p2pfl.gossip.wire` says how they are signed and written.

::

    forming     Ready, Proposal             who takes part in this attempt
    share       Bundle, Ack                 sealed shares of two secrets of everybody
    masked      Masked, Pledge              the masked vectors, one per member and round
    gather      Held, Plan, Part, Check     sums of their chunks, where they are not broadcast
    commit      Survivors, Fetch            whose vectors are summed; one signature per member and round
    reveal      Reveal                      shares: self-mask seeds of survivors, one-time keys of the others
    sum         Result                      digest of the sum, so that a difference is noticed

A ready names federation, epoch roster, round and attempt. Everything after the proposal names the digest of
the roster, which covers all of these, so a message means nothing in any other place than its own. Those of
masked and gather are in :mod:`p2pfl.gossip.vector_messages`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Self, cast

from numpy.typing import NDArray

from p2pfl.crypto import labels
from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.canonical import pack
from p2pfl.gossip.chunks import MAX_CHUNKS
from p2pfl.gossip.vector_messages import (
    MAX_ATTEMPTS,
    MAX_MEMBERS,
    Check,
    Entries,
    Held,
    Masked,
    Part,
    Plan,
    Pledge,
    VectorMessage,
    on_the_wire,
    read_context,
    read_entries,
)
from p2pfl.gossip.wire import (
    DIGEST_BYTES,
    Limits,
    Message,
    Reader,
    decode_relayed,
    decode_untrusted,
    digest,
    encode,
)

__all__ = [  # the codec too, so that a driver finds all it needs here
    "MAX_ATTEMPTS",
    "MAX_MEMBERS",
    "MAX_STAGE_CHARACTERS",
    "ROUND_MESSAGES",
    "Ack",
    "Bundle",
    "Check",
    "Fetch",
    "Held",
    "Limits",
    "Masked",
    "Message",
    "Part",
    "Plan",
    "Pledge",
    "Proposal",
    "Ready",
    "Result",
    "Reveal",
    "RoundMessage",
    "SumMessage",
    "Survivors",
    "decode_untrusted",
    "encode",
    "parts_digest",
    "result_digest",
    "roster_digest",
    "survivors_digest",
]

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
    spent: bool = False
    """My privacy budget is spent: none of my records are in what I contribute, and nobody may count on my
    noise.
    """

    def body(self) -> tuple[object, ...]:
        context = (self.federation, self.epoch_roster, self.round, self.attempt)
        keys = (self.mask_key, self.bundle_key, self.commitment)
        return (*context, self.stage, self.dim, *keys, self.state_digest, self.spent)

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: memoryview) -> Self:
        context = (fields.digest(), fields.digest(), fields.number(), fields.number(MAX_ATTEMPTS))
        stage, dim = fields.text(MAX_STAGE_CHARACTERS), fields.number(1 << 32)
        keys = (fields.digest(), fields.digest(), fields.digest())
        return cls(author, *context, stage, dim, *keys, fields.digest(), fields.flag())


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
    def read(cls, author: PeerId, fields: Reader, payload: memoryview) -> Self:
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
    def read(cls, author: PeerId, fields: Reader, payload: memoryview) -> Self:
        return cls(author, *read_context(fields), fields.peer(), fields.blob(MAX_SEALED_BYTES))


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
    def read(cls, author: PeerId, fields: Reader, payload: memoryview) -> Self:
        return cls(author, *read_context(fields))


@dataclass(frozen=True, slots=True)
class Survivors(Message):
    """I stand by summing exactly these vectors, named by author and mark, and hold their masked sum. One per
    member and round. ``parts`` names the parts (:func:`parts_digest`), or is empty where vectors were
    broadcast.
    """

    TAG: ClassVar[str] = "survivors"
    LABEL: ClassVar[bytes | None] = labels.SURVIVORS

    round: int
    attempt: int
    roster: bytes
    entries: Entries
    parts: bytes = b""

    @property
    def choice(self) -> tuple[Entries, bytes]:
        """What must be signed alike."""
        return self.entries, self.parts

    def body(self) -> tuple[object, ...]:
        return (self.round, self.attempt, self.roster, self.entries, self.parts)

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: memoryview) -> Self:
        context, entries = read_context(fields), read_entries(fields)
        parts = fields.blob(DIGEST_BYTES)
        if len(parts) not in (0, DIGEST_BYTES):
            raise ValueError("the parts are neither named by a digest nor left out")
        return cls(author, *context, entries, parts)


@dataclass(frozen=True, slots=True)
class Fetch(Message):
    """Send me what you hold of ``of``: its masked chunk where ``mark`` names its vector, or where ``mark``
    names a plan its part for that chunk, or its check. Not signed: it binds nobody.
    """

    TAG: ClassVar[str] = "fetch"
    LABEL: ClassVar[bytes | None] = None

    round: int
    attempt: int
    roster: bytes
    kind: str
    of: PeerId
    chunk: int
    mark: bytes

    def body(self) -> tuple[object, ...]:
        return (self.round, self.attempt, self.roster, self.kind, self.of, self.chunk, self.mark)

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: memoryview) -> Self:
        context, kind = read_context(fields), fields.text(MAX_STAGE_CHARACTERS)
        if kind not in (Masked.TAG, Part.TAG, Check.TAG):
            raise ValueError("nothing of this kind is fetched")
        return cls(author, *context, kind, fields.peer(), fields.number(MAX_CHUNKS), fields.digest())


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
    def read(cls, author: PeerId, fields: Reader, payload: memoryview) -> Self:
        context, survivors = read_context(fields), fields.digest()
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
    def read(cls, author: PeerId, fields: Reader, payload: memoryview) -> Self:
        return cls(author, *read_context(fields), fields.digest(), fields.digest())


SumMessage = Bundle | Ack | VectorMessage | Survivors | Fetch | Reveal | Result
"""What is exchanged once a roster is agreed."""
RoundMessage = Ready | Proposal | SumMessage

ROUND_MESSAGES: Final[Mapping[str, type[Message]]] = {
    kind.TAG: kind
    for kind in (
        *(Ready, Proposal, Bundle, Ack, Masked, Pledge, Held, Plan, Part, Check),
        *(Survivors, Fetch, Reveal, Result),
    )
}


def roster_digest(readies: tuple[Ready, ...]) -> bytes:
    """What identifies a roster: the digest of its readies in order, without signatures."""
    return digest(labels.ROSTER_DIGEST, pack([ready.signed_bytes() for ready in readies]))


def survivors_digest(roster: bytes, entries: Entries) -> bytes:
    """What identifies a set of survivors of the roster with that digest."""
    return digest(labels.SURVIVORS, pack((roster, entries)))


def parts_digest(survivors: bytes, parts: Sequence[bytes]) -> bytes:
    """What identifies the parts with these digests, in order, of the sum over the survivors with that
    digest.
    """
    return digest(labels.PARTS_DIGEST, pack((survivors, tuple(parts))))


def result_digest(survivors: bytes, total: NDArray[Any]) -> bytes:
    """What identifies a sum over the survivors with that digest."""
    return digest(labels.RESULT_DIGEST, survivors, on_the_wire(total))
