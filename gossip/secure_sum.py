"""One attempt at a secure sum, from the agreed roster to the total, as a sans-I/O machine.

After Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning" (CCS 2017),
with the server's work done by every member. Roster order gives members the numbers 0 ... k-1. Member i has
secrets made for this attempt only: the self-mask seed b_i and the mask key sk_i, which are shared, and the
bundle key, to which others seal their shares and which never leaves i. Its ready shows a commitment to the
first and the public halves of the others. Any two members derive a pairwise seed s_ij from their mask keys.

    share    i splits b_i and sk_i among all members, so that t of them recover either, and sends j its two
             shares, sealed (Bundle). Whoever holds a bundle of everybody tells everybody (Ack).
             Ends: all who are not lost have acked, or at the deadline t have, or more than c others have
             contributed; else the attempt fails.
    masked   i asks its driver for v_i and broadcasts (Masked)
                 y_i = v_i + sum_{j>i} PRG(s_ij) - sum_{j<i} PRG(s_ij) + PRG(b_i)   mod 2^32.
             From here on nothing is tried again: one masked vector per member and round.
             Ends: all who are not lost have sent, or at the deadline.
    commit   The first member in drawn order signs the set U of (member, digest of y) that it holds; if it
             stays silent, the next one does. The others sign the first such set of which they hold every
             vector, their own included (Survivors), and fetch what they lack (Fetch). One signature per
             member and round.
             Ends: t members have signed the same U, which is then settled.
    reveal   The members of U send each other their shares: of b_j for j in U, of sk_j for all other j
             (Reveal). Never both of one j, and for one U only.
             Ends: t members of U have revealed.
    sum      sum_{j in U} v_j = sum_{j in U} (y_j - PRG(b_j)) - what is left of masks with members outside U.
             Recovered secrets are checked against commitments and public keys. Members sign a digest of the
             total (Result), so that a difference is evidence.

**Who learns what.** The members of U learn the sum over U. Fewer than t shares tell nothing about b_j or
sk_j, so a vector that stays outside U keeps its self-mask, even if it arrives late, and one inside U keeps
its masks with every other honest member of U. An honest member reveals for one U only; unmasking U takes t
who reveal, and 2t > k + c leaves no room for a second U even if c colluders reveal for both. As |U| >= t and
t >= c + 2, a sum always covers two honest members.

**Who can stop it.** One member can make an attempt fail; before anybody was asked for its contribution that
costs the attempt only. After that k - t members may vanish at any moment without harm; if more do, or if
one has dealt wrong shares and then vanishes, there is no sum.

Everything that arrives is stored under its author, first value wins, and what happens next depends only on
what is stored: order and duplicates cannot matter. Two different values of one author in one place are
evidence against it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any, Final, cast

from numpy.typing import NDArray

from p2pfl.crypto.identity import PeerId
from p2pfl.crypto.randomness import RandomBytes
from p2pfl.gossip.broadcast import Broadcast, Choice
from p2pfl.gossip.errors import LocalProtocolError, RemoteProtocolError
from p2pfl.gossip.events import Agreed, Completed, Contribute, Effect, Values
from p2pfl.gossip.masking import HeldShares, Masker, Masking, Secrets
from p2pfl.gossip.messages import (
    Ack,
    Bundle,
    Fetch,
    Masked,
    Pledge,
    Result,
    Reveal,
    SumMessage,
    Survivors,
    result_digest,
    survivors_digest,
)
from p2pfl.gossip.recovery import Recovery
from p2pfl.gossip.scatter import Scatter
from p2pfl.gossip.seat import Seat
from p2pfl.gossip.suite import Suite

_SECRETS: Final = "secrets"
_TOTAL: Final = "total"
_RESULT: Final = "result"


class SecureSum:
    """One member's part in one attempt. :class:`~p2pfl.gossip.round.RoundMachine` owns it and drives it.

    ``secrets`` are those to which our ready in the roster commits; the owner of ``seat`` calls :meth:`wake`
    after a change of who is lost.
    """

    def __init__(self, seat: Seat, secrets: Secrets, random: RandomBytes, suite: Suite) -> None:
        self.roster = seat.roster
        self.committed = False
        """The driver was asked for our contribution: this round has no further attempt."""
        self.sent_masked = False
        self.completed = False
        self.failure: str | None = None
        """Why there will be no sum, once that is certain."""
        self._seat, self._me, self._random = seat, seat.me, random
        self._lost_before = frozenset(seat.lost)
        self._masking = Masking(seat.roster, seat.number[seat.me], secrets, suite)
        self._exchange = Scatter(seat) if seat.chunks.scattered else Broadcast(seat)
        self._deal_until = self._share_until = self._masked_until = float("inf")
        self._shares: dict[PeerId, HeldShares] = {}
        self._bundles: dict[PeerId, Bundle] = {}
        self._acks: dict[PeerId, Ack] = {}
        self._elsewhere: set[PeerId] = set()  # who has shown us another roster of this attempt
        self._contributors: set[PeerId] = set()  # who has sent us something of its masked vector
        self._ballots: dict[PeerId, Survivors] = {}
        self._served: set[tuple[PeerId, bytes]] = set()  # to whom, and the signature of what
        self._settled: Choice | None = None
        self._settled_mark = b""
        self._reveals: dict[PeerId, Reveal] = {}
        self._suite = suite
        self._recovery: Recovery | None = None  # once the survivors are settled
        self._reveals_tried = 0
        self._computing = False
        self._results: dict[PeerId, Result] = {}
        self._told_agreed = False

    # Called by the owner.

    def start(self, now: float) -> list[Effect]:
        """Deal the shares of our two secrets."""
        seat = self._seat
        # Whoever lacks a bundle says so before the others would go on without it.
        self._deal_until = now + 3 / 4 * seat.share_seconds
        self._share_until = now + seat.share_seconds
        seat.timer("deal", self._deal_until)
        seat.timer("share", self._share_until)
        self._shares[self._me], sealed = self._masking.deal(self._random)
        for number, data in sealed.items():
            peer = seat.members[number]
            seat.broadcast(Bundle(self._me, *seat.context, peer, data), (peer,))
        return self._flush(now)

    def receive(self, message: SumMessage, now: float) -> list[Effect]:
        """Take a message of this very roster.

        Raises:
            RemoteProtocolError: no honest member would have written this.
        """
        if message.author not in self._seat.number:
            raise RemoteProtocolError(message.author, "not a member of the roster")
        match message:
            case Bundle():
                self._take_bundle(message)
            case Ack():
                self._seat.keep(self._acks, message)
            case Survivors():
                self._take_ballot(message)
            case Fetch():
                self._serve(message)
            case Reveal():
                self._take_reveal(message)
            case Result():
                if self._seat.keep(self._results, message):
                    self._compare(message)
            case _:
                self._exchange.receive(message)
                if isinstance(message, Masked | Pledge):
                    self._contributors.add(message.author)
        return self._flush(now)

    def shown_elsewhere(self, peer: PeerId, now: float) -> list[Effect]:
        """``peer`` has sent a bundle or an ack of another roster. If we have not acked, nobody goes on here
        without us before the deadline, and we had better begin again. Once we have, others may go on by our
        word; everybody has dealt in this roster, so only those who play both sides show another.
        """
        self._elsewhere.add(peer)
        if not self.acked or len(self._elsewhere) > self.roster.thresholds.colluders:
            self.failure = "the group has split over two proposals"
        return self._flush(now)

    def contribute(self, values: Values, now: float) -> list[Effect]:
        """Mask our contribution (over the ring, shape (dim,)) and send it. Once, after Contribute asked for
        it.
        """
        if not self.committed or self.sent_masked:
            raise LocalProtocolError("a contribution nobody asked for")
        dtype, dim = self._seat.ring.dtype, self.roster.dim
        if values.dtype != dtype or values.shape != (dim,):
            raise LocalProtocolError(f"contributed {values.dtype}{values.shape}, not {dim} of {dtype}")
        self.sent_masked = True
        self._exchange.contribute(values, self._masking.masker())
        return self._flush(now)

    def computed(self, key: str, value: object, now: float) -> list[Effect]:
        """Take what the work that we asked for under ``key`` came to."""
        if key == _SECRETS:
            self._recovery, self._computing = cast(Recovery, value), False
        elif key == _TOTAL:
            self._conclude(cast(NDArray[Any], value))
        elif key == _RESULT:
            self._show_result(cast(bytes, value))
        else:
            self._exchange.computed(key, value)
        return self._flush(now)

    def wake(self, now: float) -> list[Effect]:
        """Look again: time has passed, or a peer was lost or found."""
        return self._flush(now)

    @property
    def acked(self) -> bool:
        """Others may go on by our word."""
        return self._me in self._acks

    @property
    def phase(self) -> str:
        """What is going on, in words for an operator."""
        if not self.committed:
            return "sharing secrets"
        if not self.sent_masked:
            return "preparing our own contribution"
        return self._exchange.phase if self._settled is None else "revealing shares"

    @property
    def settled(self) -> bytes:
        """The digest of the survivors; empty until they are settled."""
        return self._settled_mark

    @property
    def scattered(self) -> bool:
        """Whether vectors are exchanged in chunks."""
        return self._seat.chunks.scattered

    @property
    def survivors(self) -> tuple[PeerId, ...]:
        """Whose vectors are in the sum; nobody until that is settled."""
        return () if self._settled is None else tuple(self._seat.marks(self._settled[0]))

    def unmasked(self, now: float) -> tuple[PeerId, ...]:
        """Whose vectors are missing when the sum is done, or the time for them is over."""
        if not self.completed and now < self._masked_until:
            return ()
        return tuple(p for p in self._seat.members if p != self._me and p not in self._contributors)

    def missing(self) -> tuple[tuple[PeerId, str], ...]:
        """The members that are not in the sum, or keep it waiting, each with the phase it is missing in."""
        others = [peer for peer in self._seat.members if peer != self._me]
        if not self.committed:
            return tuple((peer, "share") for peer in others if peer not in self._acks)
        if self._settled is None:
            silent = [(peer, "masked") for peer in others if peer not in self._contributors]
            late = (peer for peer in others if peer in self._contributors and peer not in self._ballots)
            return (*silent, *((peer, "commit") for peer in late))
        chosen = self._seat.marks(self._settled[0])
        gone = (peer for peer in chosen if peer in self._seat.lost and peer not in self._reveals)
        return (
            *((peer, "masked") for peer in others if peer not in chosen),
            *((peer, "reveal") for peer in gone),
        )

    def agreed(self, *, last_chance: bool = False) -> list[Effect]:
        """Say who signed our sum, once every survivor that is here has, or at the ``last_chance``."""
        ours = self._results.get(self._me)
        if self._told_agreed or ours is None or self._settled is None:
            return []
        chosen = self._seat.marks(self._settled[0])
        if not last_chance and any(p not in self._results for p in chosen if p not in self._seat.lost):
            return []
        self._told_agreed = True
        known = [self._results[peer] for peer in chosen if peer in self._results]
        alike = [one for one in known if (one.survivors, one.digest) == (ours.survivors, ours.digest)]
        return [Agreed(self.roster.round, tuple(alike))]

    # What arrives is checked and stored.

    def _take_bundle(self, bundle: Bundle) -> None:
        if bundle.recipient != self._me:
            raise RemoteProtocolError(bundle.author, "a bundle for somebody else")
        if not self._seat.keep(self._bundles, bundle):
            return
        try:
            self._shares[bundle.author] = self._masking.open(self._seat.number[bundle.author], bundle.sealed)
        except ValueError:
            self._seat.accuse(bundle.author, "a bundle that does not open", bundle)
            self.failure = "a bundle did not open"

    def _take_ballot(self, ballot: Survivors) -> None:
        self._seat.check_survivors(ballot.author, ballot.entries)
        if bool(ballot.parts) != self._seat.chunks.scattered:
            raise RemoteProtocolError(ballot.author, "survivors of another kind of exchange")
        self._seat.keep(self._ballots, ballot)

    def _take_reveal(self, reveal: Reveal) -> None:
        if len(reveal.shares) != len(self._seat.members):
            raise RemoteProtocolError(reveal.author, "a reveal of another number of shares")
        self._seat.keep(self._reveals, reveal)

    def _serve(self, fetch: Fetch) -> None:
        """Hand out each message once to each: whoever asks again, in whatever words, costs us nothing."""
        message = self._exchange.serve(fetch)
        if message is not None and (fetch.author, message.signature) not in self._served:
            self._served.add((fetch.author, message.signature))
            self._seat.send(fetch.author, message)

    def _compare(self, result: Result) -> None:
        ours = self._results.get(self._me)
        if ours is not None and result.survivors == ours.survivors and result.digest != ours.digest:
            self._seat.accuse(result.author, "another sum of the same vectors", result, ours)

    # What follows from what is stored.

    def _flush(self, now: float) -> list[Effect]:
        """Go as far as what is stored and the time allow, and hand over the effects. Idempotent."""
        for step in (self._share, self._bring_together, self._settle, self._sum):
            if self.failure is None and not self.completed:
                step(now)
        return self._seat.take_effects()

    def _share(self, now: float) -> None:
        if self.committed:
            return
        seat, limits = self._seat, self.roster.thresholds
        missing = [peer for peer in seat.members if peer not in self._shares]
        if not missing and not self.acked:
            self._acks[self._me] = seat.broadcast(Ack(self._me, *seat.context))
        waiting = [peer for peer in seat.present if peer not in self._acks]
        over = not waiting or now >= self._share_until
        # One of them is honest, and has been told that enough hold the shares.
        others_went_on = len(self._contributors) > limits.colluders
        if not missing and (others_went_on or (over and len(self._acks) >= limits.threshold)):
            self.committed = True
            self._masked_until = now + seat.phase_seconds
            seat.timer("masked", self._masked_until)
            self._exchange.begin(self._masked_until)
            place = (self.roster.round, self.roster.attempt)
            seat.emit(Contribute(*place, seat.members, limits, self.roster.spent))
        elif over or (missing and now >= self._deal_until) or self._died(missing):
            self.failure = "not everybody's shares arrived"

    def _bring_together(self, now: float) -> None:
        """The exchange: until we can stand by a masked sum, and sign it. One signature, whatever comes."""
        self._exchange.step(self._ballots, self._settled, now)
        if self._me not in self._ballots:
            choice = self._exchange.choose(self._ballots, now)
            if choice is not None:
                self._ballots[self._me] = self._seat.broadcast(
                    Survivors(self._me, *self._seat.context, *choice)
                )
            elif self._settled is None:
                self.failure = self._exchange.failure

    def _settle(self, now: float) -> None:
        """Once t members have signed the same survivors, reveal for them. We come past the first line only
        once.
        """
        if self._settled is not None:
            return
        votes = Counter(ballot.choice for ballot in self._ballots.values())
        threshold = self.roster.thresholds.threshold
        settled = [choice for choice, count in votes.items() if count >= threshold]
        if not settled:
            undecided = self._count_on(set(self._seat.members) - set(self._ballots), now)
            if max(votes.values(), default=0) + undecided < threshold:
                self.failure = "too few members are left, or too many disagree, to settle on survivors"
            return
        chosen = self._seat.marks(settled[0][0])
        if self._me in chosen and not self.sent_masked:
            self.failure = "the others settled on a vector that we never sent"
            return
        self._settled = settled[0]
        self._settled_mark = survivors_digest(self.roster.digest, settled[0][0])
        if self._me not in chosen:
            self.failure = "the others settled on survivors without us"
            return
        held = ((peer, self._shares[peer]) for peer in self._seat.members)
        shares = tuple(held.seed if peer in chosen else held.key for peer, held in held)
        reveal = Reveal(self._me, *self._seat.context, self._settled_mark, shares)
        self._reveals[self._me] = self._seat.broadcast(reveal, chosen)
        survivors = frozenset(number for number, _ in settled[0][0])
        self._recovery = Recovery(self.roster, self._suite, survivors)

    def _sum(self, now: float) -> None:
        """Once every secret is recovered and the masked sum is here, unmask it."""
        if self._settled is None or self._recovery is None or self._computing:
            return
        chosen, number = self._seat.marks(self._settled[0]), self._seat.number
        reveals = {
            number[peer]: reveal.shares
            for peer, reveal in self._reveals.items()
            if peer in chosen and reveal.survivors == self._settled_mark
        }
        to_come = self._count_on(set(chosen) - set(self._reveals), now)
        if len(reveals) + to_come < self.roster.thresholds.threshold:
            self.failure = "too few members are left to reveal their shares"
        elif not self._recovery.complete:
            self._recover(self._recovery, reveals, len(chosen))
        elif self._exchange.complete(self._settled):
            self._computing = True
            unmasker = self._masking.unmasker(self._recovery.survivors, self._recovery.secrets)
            masked = self._exchange.total(self._settled)
            self._seat.compute(_TOTAL, lambda: _unmasked(masked, unmasker))

    def _recover(self, recovery: Recovery, reveals: Mapping[int, tuple[bytes, ...]], survivors: int) -> None:
        """Look for the secrets that are still missing; after wrong shares again, once there are new ones."""
        if len(reveals) >= self.roster.thresholds.threshold and len(reveals) > self._reveals_tried:
            self._computing, self._reveals_tried = True, len(reveals)
            self._seat.compute(_SECRETS, lambda: recovery.with_shares(reveals))
        elif len(reveals) == survivors:
            self.failure = "the shares that were revealed do not reconstruct every secret"

    def _conclude(self, total: NDArray[Any]) -> None:
        assert self._settled is not None
        roster, mark = self.roster, self._settled_mark
        survivors = tuple(self._seat.marks(self._settled[0]))
        self.completed = True
        self._masking.forget()
        self._shares.clear()
        self._recovery = None
        self._seat.emit(
            Completed(roster.round, roster.stage, total, survivors, roster.members, roster.thresholds)
        )
        self._seat.compute(_RESULT, lambda: result_digest(mark, total))

    def _show_result(self, mark: bytes) -> None:
        """Nobody waits for it: it only tells the others what we came to."""
        assert self._settled is not None
        result = Result(self._me, *self.roster.context, self._settled_mark, mark)
        self._results[self._me] = self._seat.broadcast(result, self._seat.marks(self._settled[0]))
        for other in self._results.values():
            self._compare(other)

    # Small things.

    def _died(self, peers: Iterable[PeerId]) -> bool:
        """Whether one of them was lost in this attempt. Another whom we cannot reach, but could whoever
        proposed the roster, may be back in time; giving up on it at once would use up the attempts.
        """
        return any(peer in self._seat.lost and peer not in self._lost_before for peer in peers)

    def _count_on(self, peers: Set[PeerId], now: float) -> int:
        """How many of them may still answer: the lost ones have until the deadline to come back."""
        return sum(now < self._masked_until or peer not in self._seat.lost for peer in peers)


def _unmasked(masked: Callable[[], NDArray[Any]], unmasker: Masker) -> NDArray[Any]:
    """The sum, which nobody may change: its digest is taken while others read it."""
    total = masked()
    unmasker.apply(total)
    total.flags.writeable = False
    return total
