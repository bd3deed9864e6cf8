"""The exchange for short vectors: everybody sends its masked vector to everybody, and adds up all of them.

The first member in drawn order chooses the survivors by signing a set of vectors that it holds; if it stays
silent, the next one does. The others sign the first such set of which they hold every vector, their own
included, and fetch what they lack from who has signed it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto import labels
from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.errors import RemoteProtocolError
from p2pfl.gossip.events import Values
from p2pfl.gossip.masking import Masker
from p2pfl.gossip.messages import Fetch, Message, Survivors
from p2pfl.gossip.seat import Seat
from p2pfl.gossip.vector_messages import Entries, Masked, VectorMessage, on_the_wire
from p2pfl.gossip.wire import digest

Choice = tuple[Entries, bytes]
"""What a member signs: the survivors and, in a reduce-scatter, the digest of the parts."""


def mask_slice(values: Values, where: slice, masker: Masker) -> tuple[memoryview, bytes]:
    """The masked elements as they cross the wire, and their digest. To be called slice after slice."""
    masked = np.array(values[where])
    masker.apply(masked)
    data = on_the_wire(masked)
    return data, digest(labels.MASKED_DIGEST, data)


class Broadcast:
    """One member's part in the broadcast of one attempt."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._masked_until = float("inf")
        self._commit_from: float | None = None
        self._vectors: dict[PeerId, dict[bytes, Masked]] = {}  # author -> at most two, by digest
        self._ask_from: dict[tuple[PeerId, bytes], float] = {}
        self._asked: set[tuple[PeerId, PeerId, bytes]] = set()

    def begin(self, masked_until: float) -> None:
        """Contributions are asked for, and waited for until then."""
        self._masked_until = masked_until

    def contribute(self, values: Values, masker: Masker) -> None:
        whole = self._seat.chunks.where(0)
        self._seat.compute("mask/0", lambda: mask_slice(values, whole, masker))

    def computed(self, key: str, value: Any) -> None:
        """Our vector is masked."""
        data, known = value
        message = Masked.of(self._seat.me, self._seat.context, 0, data, known)
        self._vectors[self._seat.me] = {known: self._seat.broadcast(message)}

    def receive(self, message: VectorMessage) -> None:
        """Raises RemoteProtocolError for what has no place in a broadcast."""
        if not isinstance(message, Masked) or message.chunk != 0:
            raise RemoteProtocolError(message.author, f"{message.TAG} where vectors are broadcast")
        if len(message.data) != self._seat.chunks.dim * self._seat.ring.bytes:
            raise RemoteProtocolError(message.author, "a masked vector of the wrong length")
        held = self._vectors.setdefault(message.author, {})
        if message.digest not in held and len(held) < 2:
            held[message.digest] = message
        if len(held) == 2:
            self._seat.accuse(message.author, "two masked vectors", *held.values())

    def serve(self, fetch: Fetch) -> Message | None:
        """What a request asks for, if we have it."""
        return self._vectors.get(fetch.of, {}).get(fetch.mark) if fetch.kind == Masked.TAG else None

    def step(self, ballots: Mapping[PeerId, Survivors], settled: Choice | None, now: float) -> None:
        """Ask for vectors that others count and we lack: after a while, as they may be on their way, but so
        that they come before it is our turn to sign a set of our own; one signer at a time.
        """
        seat = self._seat
        for ballot in ballots.values() if self._masked else ():
            chosen = seat.marks(ballot.entries)
            if seat.me not in chosen or settled not in (None, ballot.choice):
                continue
            for owner, mark in chosen.items():
                if self._holds(owner, mark):
                    continue
                patience = 0.0 if owner in seat.lost else seat.turn_seconds / 2
                due = self._ask_from.setdefault((owner, mark), now + patience)
                if now >= due and (ballot.author, owner, mark) not in self._asked:
                    self._asked.add((ballot.author, owner, mark))
                    seat.send(ballot.author, Fetch(seat.me, *seat.context, Masked.TAG, owner, 0, mark))
                    due = self._ask_from[owner, mark] = now + seat.turn_seconds
                seat.timer(f"fetch/{due}", due)

    def choose(self, ballots: Mapping[PeerId, Survivors], now: float) -> Choice | None:
        """What we sign, if it is time to."""
        if not self._masked:
            return None
        lost = self._seat.lost
        if self._commit_from is None and (
            now >= self._masked_until
            or all(peer in self._vectors or peer in lost for peer in self._seat.members)
        ):
            self._commit_from = now
        fair = [ballot for ballot in ballots.values() if self._is_fair(ballot, now)]
        whole = [ballot for ballot in fair if self.complete(ballot.choice)]
        if whole:
            return whole[0].choice
        return self._choose(now) if not fair or now >= self._masked_until else None

    def complete(self, choice: Choice) -> bool:
        """Whether we hold the masked sum that ``choice`` names."""
        return not choice[1] and all(self._holds(*entry) for entry in self._seat.marks(choice[0]).items())

    def total(self, choice: Choice) -> Callable[[], NDArray[Any]]:
        """What computes that sum, a fresh array."""
        chosen = self._seat.marks(choice[0])
        vectors = [self._vectors[peer][mark].data for peer, mark in chosen.items()]
        return lambda: add_up(vectors, self._seat.ring.dtype)

    @property
    def phase(self) -> str:
        """What is going on, in words for an operator."""
        return "collecting masked vectors" if self._commit_from is None else "agreeing on the survivors"

    @property
    def failure(self) -> str | None:
        return None

    @property
    def _masked(self) -> bool:
        return self._seat.me in self._vectors

    def _is_fair(self, ballot: Survivors, now: float) -> bool:
        """Whether we would sign what another has signed. Before the deadline nobody is left out who is
        still there, or the quickest to sign would choose the survivors.
        """
        chosen = self._seat.marks(ballot.entries)
        left_out = any(peer not in chosen for peer in self._seat.present)
        return self._seat.me in chosen and (not left_out or now >= self._masked_until)

    def _choose(self, now: float) -> Choice | None:
        """Everything we hold, once the phase is over and those before us in drawn order had their turn."""
        seat = self._seat
        held = {peer: next(iter(vectors)) for peer, vectors in self._vectors.items()}
        if self._commit_from is None or len(held) < seat.roster.thresholds.minimum_survivors:
            return None
        turn = seat.my_turn(self._commit_from)
        if now >= turn:
            return seat.entries(held), b""
        seat.timer(f"commit/{turn}", turn)
        return None

    def _holds(self, peer: PeerId, mark: bytes) -> bool:
        return mark in self._vectors.get(peer, ())


def add_up(vectors: Sequence[bytes | memoryview], dtype: "np.dtype[Any]") -> NDArray[Any]:
    """The sum of vectors over the ring, as they crossed the wire: a fresh array."""
    total = np.frombuffer(vectors[0], dtype).copy()
    for data in vectors[1:]:
        total += np.frombuffer(data, dtype)
    return total
