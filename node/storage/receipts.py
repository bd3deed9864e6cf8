"""Receipts: what became of every round, signed by the node that says so.

A receipt names federation, round, group and roster, who survived, who dropped in which phase, and the digest
of the sum; it says how much epsilon the node had spent by then. Below it are the signatures of the other
survivors under the same digest, made for the messages ``result`` that ended the round: so a receipt shows
that they arrived at the same sum, whoever keeps it. They are added when they have arrived, so the last
receipt before a crash may lack them.

Receipts are rows of the journal, kind ``receipt``, and the signatures below them rows of kind ``agreed``:
docs/protocol.md has the fields.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from p2pfl.crypto import labels
from p2pfl.crypto.identity import Identity, PeerId, verify
from p2pfl.gossip.canonical import pack, unpack_untrusted
from p2pfl.gossip.epoch_messages import MAX_ROSTER
from p2pfl.gossip.events import Course
from p2pfl.gossip.messages import Result
from p2pfl.gossip.wire import Message, Reader

PHASES = ("absent", "forming", "share", "masked", "commit", "reveal")
"""In which a member can have been missing."""
MAX_TEXT = 400
"""Characters of a reason that are kept."""
_MOST_MEMBERS = 256
_SIGNATURE_BYTES = 64
_END = 1 << 40
_MOST_ROW = 1 << 20


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """How one round ended here. ``reason`` is empty when it completed; ``survivors`` is empty when it was
    skipped. ``saturated``: values of this node that were cut. ``left_out``: how often a record's gradient was
    not finite, and counted as zero. ``evaluation``: of a completed evaluation that counts, the sums over the
    group (:mod:`p2pfl.node.training.metrics`).
    """

    round: int
    stage: str
    members: tuple[PeerId, ...]
    survivors: tuple[PeerId, ...]
    reason: str
    sent_masked: bool
    saturated: int
    evaluation: tuple[float, ...] | None = None
    left_out: int = 0

    @property
    def completed(self) -> bool:
        return not self.reason


@dataclass(frozen=True, slots=True)
class Receipt:
    """What ``author`` says became of ``round``, which ended at ``ended``, in seconds since 1970.

    ``members`` of the drawn ``group`` were in the roster, ``survivors`` are in the sum; who ``dropped`` is
    named with the phase it was missing in. ``reason`` says why there is no sum, and is empty if there is one.
    ``roster``, ``settled`` and ``result`` are the digests of roster, survivors and sum, empty as far as it
    did not come to them. ``epsilon``: an upper bound (Rényi accounting) on what the ledger has spent, as the
    ``repr`` of a float; empty in mode none.
    """

    author: PeerId
    federation: bytes
    round: int
    attempt: int
    stage: str
    ended: int
    reason: str
    sent_masked: bool
    group: tuple[PeerId, ...]
    members: tuple[PeerId, ...]
    survivors: tuple[PeerId, ...]
    dropped: tuple[tuple[PeerId, str], ...]
    roster: bytes
    settled: bytes
    result: bytes
    epsilon: str

    @property
    def completed(self) -> bool:
        return not self.reason

    def to_bytes(self) -> bytes:
        """Canonical form, which is signed; members are their numbers in the group."""
        number = {peer: place for place, peer in enumerate(self.group)}
        texts = self.stage.encode(), self.reason.encode(), self.epsilon.encode()
        how = [self.round, self.attempt, self.ended, self.sent_masked, *texts]
        who = [[number[peer] for peer in some] for some in (self.members, self.survivors)]
        dropped = [[number[peer], phase] for peer, phase in self.dropped]
        digests = [self.roster, self.settled, self.result]
        return pack([self.author, self.federation, *how, list(self.group), *who, dropped, *digests])

    @classmethod
    def from_untrusted(cls, body: object) -> Self:
        """The inverse, of what was unpacked. Raises ValueError for anything else."""
        fields = Reader(body)
        author, federation = fields.peer(), fields.digest()
        round, attempt, ended = (fields.number(_END) for _ in range(3))
        sent, stage, reason, epsilon = fields.flag(), *(_text(fields) for _ in range(3))
        group = interned(fields.items(_MOST_MEMBERS, Reader.peer))
        members, survivors = (
            interned(fields.items(_MOST_MEMBERS, lambda item: group[item.number(len(group))]))
            for _ in range(2)
        )
        dropped = fields.items(_MOST_MEMBERS, lambda item: _dropped(item.nested(), group))
        digests = (_digest(fields), _digest(fields), _digest(fields))
        fields.end()
        float(epsilon or 0)
        how = (round, attempt, stage, ended, reason, sent)
        return cls(author, federation, *how, group, members, survivors, dropped, *digests, epsilon)


@dataclass(frozen=True, slots=True)
class Kept:
    """A receipt, its author's ``signature``, and below it those of survivors under the same sum."""

    receipt: Receipt
    signature: bytes
    agreed: tuple[tuple[PeerId, bytes], ...] = ()

    @property
    def confirmed(self) -> bool:
        """Whether every survivor signed the same sum."""
        return self.receipt.completed and {peer for peer, _ in self.agreed} >= set(self.receipt.survivors)

    def false(self) -> str:
        """What does not verify, in words; empty if everything does."""
        receipt = self.receipt
        if not verify(receipt.author, labels.RECEIPT, receipt.to_bytes(), self.signature):
            return f"the receipt of round {receipt.round} is not signed by {receipt.author}"
        for peer, signature in self.agreed:
            if not verify(peer, labels.RESULT, result_of(receipt, peer).signed_bytes(), signature):
                return f"in the receipt of round {receipt.round}, {peer} did not sign this sum"
        return ""

    def as_dict(self) -> dict[str, object]:
        """For people and scripts; ``receipt`` is what is signed, in hexadecimal digits."""
        one = self.receipt
        return {
            **{name: getattr(one, name) for name in ("round", "stage", "attempt", "ended", "reason")},
            "completed": one.completed,
            "sent_masked": one.sent_masked,
            **{name: list(getattr(one, name)) for name in ("group", "members", "survivors")},
            "dropped": [{"peer": peer, "phase": phase} for peer, phase in one.dropped],
            **{name: getattr(one, name).hex() for name in ("federation", "roster", "settled", "result")},
            "epsilon": float(one.epsilon) if one.epsilon else None,
            "confirmed": self.confirmed,
            "receipt": one.to_bytes().hex(),
            "signature": self.signature.hex(),
            "agreed": {peer: signature.hex() for peer, signature in self.agreed},
        }


def signed_receipt(
    identity: Identity,
    federation: bytes,
    outcome: RoundOutcome,
    course: Course,
    *,
    ended: int,
    result: bytes,
    epsilon: str,
) -> Kept:
    """The receipt of a round that ``outcome`` and ``course`` tell about, by ``identity``."""
    receipt = Receipt(
        identity.peer_id,
        federation,
        outcome.round,
        course.attempt,
        outcome.stage,
        ended,
        outcome.reason[:MAX_TEXT],
        outcome.sent_masked,
        course.group or outcome.members,
        course.members or outcome.members,
        outcome.survivors,
        course.dropped,
        course.roster,
        course.settled,
        result,
        epsilon,
    )
    return Kept(receipt, identity.sign(labels.RECEIPT, receipt.to_bytes()))


def result_of(receipt: Receipt, peer: PeerId) -> Result:
    """The message by which ``peer`` says that it arrived at the sum of ``receipt``, without its signature."""
    return Result(peer, receipt.round, receipt.attempt, receipt.roster, receipt.settled, receipt.result)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Who signed the sum of ``round``, below the receipt."""

    round: int
    signatures: tuple[tuple[PeerId, bytes], ...]

    @classmethod
    def of(cls, receipt: Receipt, results: Iterable[Message]) -> Self:
        """From those ``results`` that are of the sum of ``receipt``."""
        signed = [
            (one.author, one.signature)
            for one in results
            if one.author in receipt.survivors
            and one.signed_bytes() == result_of(receipt, one.author).signed_bytes()
        ]
        return cls(receipt.round, tuple(signed))

    def to_bytes(self) -> bytes:
        return pack([self.round, [[peer, signature] for peer, signature in self.signatures]])

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """The inverse. Raises ValueError for anything else."""
        fields = Reader(unpack_untrusted(raw, _MOST_ROW))
        round, signed = fields.number(_END), fields.items(_MOST_MEMBERS, lambda item: _signed(item.nested()))
        fields.end()
        return cls(round, signed)


@dataclass(frozen=True, slots=True)
class Entry:
    """A receipt as it stands in the journal, beside what of the ``outcome`` is this node's alone."""

    kept: Kept
    outcome: RoundOutcome

    def to_bytes(self) -> bytes:
        outcome = self.outcome
        sums = None if outcome.evaluation is None else [repr(value) for value in outcome.evaluation]
        own = [outcome.saturated, sums, outcome.left_out]
        return pack([self.kept.receipt.to_bytes(), self.kept.signature, *own])

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """The inverse. Raises ValueError for anything else."""
        match unpack_untrusted(raw, _MOST_ROW):
            case [bytes(body), bytes(signature), int(cut), list() | None as sums, int(left_out)]:
                one = Receipt.from_untrusted(unpack_untrusted(body, _MOST_ROW))
                members = one.members if one.completed else ()
                how = (one.reason, one.sent_masked, cut, _sums(sums), left_out)
                outcome = RoundOutcome(one.round, one.stage, members, one.survivors, *how)
                return cls(Kept(one, signature), outcome)
        raise ValueError("not a receipt")


@dataclass(frozen=True, slots=True)
class Population:
    """The ``members`` of the epoch's roster, from ``first_round`` on."""

    first_round: int
    members: frozenset[PeerId]

    def to_bytes(self) -> bytes:
        return pack([self.first_round, sorted(self.members)])

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """The inverse. Raises ValueError for anything else."""
        fields = Reader(unpack_untrusted(raw, _MOST_ROW))
        first_round, members = fields.number(_END), fields.items(MAX_ROSTER, Reader.peer)
        fields.end()
        return cls(first_round, frozenset(members))


def outcome_of_format_1(raw: bytes) -> RoundOutcome:
    """The row ``round`` of a journal before there were receipts. Raises ValueError for anything else."""
    match unpack_untrusted(raw, _MOST_ROW):
        case [
            int(round),
            str(stage),
            list(members),
            list(survivors),
            str(reason),
            bool(sent),
            int(cut),
            list() | None as sums,
            int(left_out),
        ]:
            who = (_peers(members), _peers(survivors))
            return RoundOutcome(round, stage, *who, reason, sent, cut, _sums(sums), left_out)
    raise ValueError("not the outcome of a round")


def _peers(fields: list[object]) -> tuple[PeerId, ...]:
    if not all(isinstance(field, str) for field in fields):
        raise ValueError("not a list of peers")
    return interned(tuple(PeerId(str(field)) for field in fields))


def _sums(fields: list[object] | None) -> tuple[float, ...] | None:
    if fields is None:
        return None
    if not all(isinstance(field, str) for field in fields):
        raise ValueError("not a list of numbers")
    return tuple(float(str(field)) for field in fields)


def _signed(fields: Reader) -> tuple[PeerId, bytes]:
    peer, signature = fields.peer(), fields.blob(_SIGNATURE_BYTES, _SIGNATURE_BYTES)
    fields.end()
    return peer, signature


def _dropped(fields: Reader, group: tuple[PeerId, ...]) -> tuple[PeerId, str]:
    peer, phase = group[fields.number(len(group))], fields.text(max(map(len, PHASES)))
    fields.end()
    if phase not in PHASES:
        raise ValueError("not a phase")
    return peer, phase


def _text(fields: Reader) -> str:
    return fields.blob(4 * MAX_TEXT).decode()


def _digest(fields: Reader) -> bytes:
    digest = fields.blob(32)
    if len(digest) not in (0, 32):
        raise ValueError("neither a digest nor nothing")
    return digest


@lru_cache(maxsize=4096)
def interned(peers: tuple[PeerId, ...]) -> tuple[PeerId, ...]:
    """The same groups come again and again."""
    return peers
