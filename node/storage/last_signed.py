"""Whether this node's ledger is behind what the node has done: an old backup was put back.

A survivor of a round signs the sum (message ``result``), and the other members keep that signature with their
receipts. So a node that starts asks those who are here for the latest that they hold of its own (request
``signed``). Its own signature of a round after the last one in its ledger proves that the ledger is an older
copy, and the node stops: it would tell less than its records have paid. Nobody else can make it stop, but for
a member that has such a signature from another federation: give every federation a key of its own.

What only this node and members that are away know of is not found.
"""

from collections.abc import Iterable

from p2pfl.crypto import labels
from p2pfl.crypto.identity import PeerId, verify
from p2pfl.gossip.canonical import pack, unpack_untrusted
from p2pfl.gossip.messages import MAX_ATTEMPTS, Result
from p2pfl.gossip.wire import Message, Reader
from p2pfl.node.errors import StorageError
from p2pfl.node.storage.receipts import Kept, result_of

REQUEST = "signed"
MAX_ANSWER_BYTES = 256
_SIGNATURE_BYTES = 64


class LastSigned:
    """The latest result that each peer has signed, as this node keeps it with its receipts."""

    def __init__(self, receipts: Iterable[Kept]) -> None:
        self._results: dict[PeerId, bytes] = {}
        for kept in receipts:
            for peer, signature in kept.agreed:
                self._results[peer] = _written(result_of(kept.receipt, peer), signature)

    def note(self, results: Iterable[Message]) -> None:
        """These were signed since."""
        for result in results:
            if isinstance(result, Result):
                self._results[result.author] = _written(result, result.signature)

    def of(self, peer: PeerId) -> bytes:
        """What ``peer`` is answered: empty if nothing of it is here."""
        return self._results.get(peer, b"")


def _written(result: Result, signature: bytes) -> bytes:
    digests = [result.roster, result.survivors, result.digest]
    return pack([result.round, result.attempt, *digests, signature])


def round_in(answer: bytes, own: PeerId) -> int:
    """The round of which ``answer`` holds the signature of ``own``; -1 if it is empty.

    Raises ValueError for anything else.
    """
    if not answer:
        return -1
    fields = Reader(unpack_untrusted(answer, MAX_ANSWER_BYTES))
    place = (fields.number(), fields.number(MAX_ATTEMPTS), fields.digest(), fields.digest(), fields.digest())
    signature = fields.blob(_SIGNATURE_BYTES, _SIGNATURE_BYTES)
    fields.end()
    if not verify(own, labels.RESULT, Result(own, *place).signed_bytes(), signature):
        raise ValueError("not a signature of this node")
    return place[0]


def require_newest(answers: Iterable[tuple[PeerId, bytes]], own: PeerId, last: int) -> None:
    """Raise StorageError if one of ``answers`` shows that ``own`` took part in a round after ``last``, the
    latest in its ledger.
    """
    for peer, answer in answers:
        try:
            round = round_in(answer, own)
        except ValueError:
            continue
        if round > last:
            known = f"knows nothing after round {last}" if last >= 0 else "is empty"
            raise StorageError(
                f"{peer} holds this node's own signature of round {round}, and the ledger here {known}: an"
                " older copy of the state directory was put back",
                "restore a newer backup; without one the way back is a new identity and a new ticket"
                " (docs/handbook.md, Storage)",
            )
