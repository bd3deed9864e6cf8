"""One attempt at a secure sum, from the agreed roster to the total, as a sans-I/O machine.

After Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning" (CCS 2017),
with the server's work done by every member. Roster order gives members the numbers 0 ... k-1. Member i has
secrets made for this attempt only: the self-mask seed b_i and the mask key sk_i, which are shared, and the
bundle key, to which others seal their shares and which never leaves i. Its ready shows a commitment to the
first and the public halves of the others. Any two members derive a pairwise seed s_ij from their mask keys.

    share    i splits b_i and sk_i among all members, so that t of them recover either, and sends j its two
             shares, sealed (Bundle). Whoever holds a bundle of everybody tells everybody (Ack).
             Ends: all who are not lost have acked, or at the deadline t have; else the attempt fails.
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
from collections.abc import Collection, Iterable, Mapping, Set
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.crypto.randomness import RandomBytes
from p2pfl.gossip.errors import LocalProtocolError, RemoteProtocolError
from p2pfl.gossip.events import Completed, Contribute, Effect, Evidence, Send, SetTimer
from p2pfl.gossip.masking import HeldShares, Masking, Secrets
from p2pfl.gossip.messages import (
    Ack,
    Bundle,
    Fetch,
    Masked,
    Result,
    Reveal,
    SumMessage,
    Survivors,
    result_digest,
    survivors_digest,
)
from p2pfl.gossip.roster import Roster
from p2pfl.gossip.suite import Suite
from p2pfl.gossip.wire import Message, signed

_S = TypeVar("_S", bound=SumMessage)
Entries = tuple[tuple[PeerId, bytes], ...]


class SecureSum:
    """One member's part in one attempt. :class:`~p2pfl.gossip.round.RoundMachine` owns it and drives it.

    Args:
        roster: the agreed members; ``identity`` is one of them. key, seed: the secrets to which our ready
        in the roster commits. lost: peers without a connection; the owner keeps this set up to date and
        calls :meth:`wake` after a change. timer_prefix: begins the keys of all timers.
    """

    def __init__(
        self,
        *,
        roster: Roster,
        identity: Identity,
        secrets: Secrets,
        lost: Set[PeerId],
        phase_seconds: float,
        random: RandomBytes,
        suite: Suite,
        timer_prefix: str,
    ) -> None:
        self.roster = roster
        self.committed = False
        """The driver was asked for our contribution: this round has no further attempt."""
        self.sent_masked = False
        self.completed = False
        self.failure: str | None = None
        """Why there will be no sum, once that is certain."""
        self._identity, self._me = identity, identity.peer_id
        self._random = random
        self._lost_before = frozenset(lost)
        self._lost, self._phase_seconds, self._timer_prefix = lost, phase_seconds, timer_prefix
        self._index = {peer: index for index, peer in enumerate(roster.members)}
        self._masking = Masking(roster, self._index[self._me], secrets, suite)
        self._out: list[Effect] = []
        self._timers: set[str] = set()
        self._accused: set[tuple[PeerId, str]] = set()
        self._deal_until = self._share_until = self._masked_until = float("inf")
        self._commit_from: float | None = None
        self._shares: dict[PeerId, HeldShares] = {}
        self._bundles: dict[PeerId, Bundle] = {}
        self._acks: dict[PeerId, Ack] = {}
        self._vectors: dict[PeerId, dict[bytes, Masked]] = {}  # author -> at most two, by digest
        self._ballots: dict[PeerId, Survivors] = {}
        self._ask_from: dict[tuple[PeerId, bytes], float] = {}
        self._asked: set[tuple[PeerId, PeerId, bytes]] = set()
        self._served: set[tuple[PeerId, PeerId, bytes]] = set()
        self._settled: Entries | None = None
        self._settled_mark = b""
        self._reveals: dict[PeerId, Reveal] = {}
        self._recovered: dict[int, bytes] = {}
        self._reveals_tried = 0
        self._results: dict[PeerId, Result] = {}

    # Called by the owner.

    def start(self, now: float) -> list[Effect]:
        """Deal the shares of our two secrets."""
        # Whoever lacks a bundle says so before the others would go on without it.
        self._deal_until = now + 3 / 4 * self._phase_seconds
        self._share_until = now + self._phase_seconds
        self._timer("deal", self._deal_until)
        self._timer("share", self._share_until)
        self._shares[self._me], sealed = self._masking.deal(self._random)
        for index, data in sealed.items():
            peer = self.roster.members[index]
            bundle = signed(self._identity, Bundle(self._me, *self.roster.context, peer, data))
            self._out.append(Send(peer, bundle))
        return self._flush(now)

    def receive(self, message: SumMessage, now: float) -> list[Effect]:
        """Take a message of this very roster.

        Raises:
            RemoteProtocolError: no honest member would have written this.
        """
        if message.author not in self._index:
            raise RemoteProtocolError(message.author, "not a member of the roster")
        match message:
            case Bundle():
                self._take_bundle(message)
            case Ack():
                self._keep(self._acks, message)
            case Masked():
                self._take_vector(message)
            case Survivors():
                self._take_ballot(message)
            case Fetch():
                self._serve(message)
            case Reveal():
                self._take_reveal(message)
            case Result():
                if self._keep(self._results, message):
                    self._compare(message)
        return self._flush(now)

    def contribute(self, values: NDArray[np.uint32], now: float) -> list[Effect]:
        """Mask our contribution (uint32, shape (dim,)) and send it. Once, after Contribute asked for it."""
        if not self.committed or self.sent_masked:
            raise LocalProtocolError("a contribution nobody asked for")
        if values.dtype != np.uint32 or values.shape != (self.roster.dim,):
            raise LocalProtocolError(
                f"contributed {values.dtype}{values.shape}, not {self.roster.dim} of uint32"
            )
        self.sent_masked = True
        masked = signed(self._identity, Masked.of(self._me, self.roster.context, self._masking.mask(values)))
        self._vectors[self._me] = {masked.digest: masked}
        self._broadcast(masked)
        return self._flush(now)

    def wake(self, now: float) -> list[Effect]:
        """Look again: time has passed, or a peer was lost or found."""
        return self._flush(now)

    @property
    def phase(self) -> str:
        """What is going on, in words for an operator."""
        if not self.committed:
            return "sharing secrets"
        if not self.sent_masked:
            return "preparing our own contribution"
        if self._commit_from is None:
            return "collecting masked vectors"
        return "agreeing on the survivors" if self._settled is None else "revealing shares"

    # What arrives is checked and stored.

    def _take_bundle(self, bundle: Bundle) -> None:
        if bundle.recipient != self._me:
            raise RemoteProtocolError(bundle.author, "a bundle for somebody else")
        if not self._keep(self._bundles, bundle):
            return
        try:
            self._shares[bundle.author] = self._masking.open(self._index[bundle.author], bundle.sealed)
        except ValueError:
            self._accuse(bundle.author, "a bundle that does not open", bundle)
            self.failure = "a bundle did not open"

    def _take_vector(self, masked: Masked) -> None:
        if masked.values.shape != (self.roster.dim,):
            raise RemoteProtocolError(masked.author, "a masked vector of the wrong length")
        held = self._vectors.setdefault(masked.author, {})
        if masked.digest not in held and len(held) < 2:
            held[masked.digest] = masked
        if len(held) == 2:
            self._accuse(masked.author, "two masked vectors", *held.values())

    def _take_ballot(self, ballot: Survivors) -> None:
        peers = [peer for peer, _ in ballot.entries]
        if peers != [peer for peer in self.roster.members if peer in peers] or ballot.author not in peers:
            raise RemoteProtocolError(ballot.author, "survivors that are no subset of the roster around it")
        if len(peers) < self.roster.thresholds.minimum_survivors:
            raise RemoteProtocolError(ballot.author, "fewer survivors than may be summed")
        self._keep(self._ballots, ballot)

    def _take_reveal(self, reveal: Reveal) -> None:
        if len(reveal.shares) != len(self.roster.members):
            raise RemoteProtocolError(reveal.author, "a reveal of another number of shares")
        self._keep(self._reveals, reveal)

    def _serve(self, fetch: Fetch) -> None:
        """Answer each request once: whoever repeats it costs us nothing."""
        request = (fetch.author, fetch.owner, fetch.digest)
        masked = self._vectors.get(fetch.owner, {}).get(fetch.digest)
        if masked is not None and request not in self._served:
            self._served.add(request)
            self._out.append(Send(fetch.author, masked))

    def _compare(self, result: Result) -> None:
        ours = self._results.get(self._me)
        if ours is not None and result.survivors == ours.survivors and result.digest != ours.digest:
            self._accuse(result.author, "another sum of the same vectors", result, ours)

    def _keep(self, slots: dict[PeerId, _S], message: _S) -> bool:
        """Store under the author; True if it is new. A second, different value is evidence."""
        known = slots.setdefault(message.author, message)
        if known is not message and known.signed_bytes() != message.signed_bytes():
            self._accuse(message.author, f"two different values of {message.TAG}", known, message)
        return known is message

    # What follows from what is stored.

    def _flush(self, now: float) -> list[Effect]:
        """Go as far as what is stored and the time allow, and hand over the effects. Idempotent."""
        for step in (self._share, self._fetch, self._commit, self._settle, self._sum):
            if self.failure is None and not self.completed:
                step(now)
        effects, self._out = self._out, []
        return effects

    def _share(self, now: float) -> None:
        if self.committed:
            return
        members, limits = self.roster.members, self.roster.thresholds
        missing = [peer for peer in members if peer not in self._shares]
        if not missing and self._me not in self._acks:
            self._acks[self._me] = self._broadcast(
                signed(self._identity, Ack(self._me, *self.roster.context))
            )
        waiting = [peer for peer in members if peer not in self._acks and peer not in self._lost]
        over = not waiting or now >= self._share_until
        if over and not missing and len(self._acks) >= limits.threshold:
            self.committed = True
            self._masked_until = now + self._phase_seconds
            self._timer("masked", self._masked_until)
            self._out.append(Contribute(self.roster.round, self.roster.attempt, members, limits))
        elif over or (missing and now >= self._deal_until) or self._died(missing):
            self.failure = "not everybody's shares arrived"

    def _fetch(self, now: float) -> None:
        """Ask for vectors that others count and we lack: after a while, as they may be on their way, and
        one signer at a time.
        """
        for ballot in self._ballots.values() if self.sent_masked else ():
            if self._me not in dict(ballot.entries) or self._settled not in (None, ballot.entries):
                continue
            for owner, mark in ballot.entries:
                if self._holds(owner, mark):
                    continue
                patience = 0.0 if owner in self._lost else self._turn_seconds
                due = self._ask_from.setdefault((owner, mark), now + patience)
                if now >= due and (ballot.author, owner, mark) not in self._asked:
                    self._asked.add((ballot.author, owner, mark))
                    self._out.append(Send(ballot.author, Fetch(self._me, *self.roster.context, owner, mark)))
                    due = self._ask_from[owner, mark] = now + self._turn_seconds
                self._timer(f"fetch/{due}", due)

    def _commit(self, now: float) -> None:
        if not self.sent_masked or self._me in self._ballots:
            return
        members = self.roster.members
        if self._commit_from is None and (
            now >= self._masked_until or all(peer in self._vectors or peer in self._lost for peer in members)
        ):
            self._commit_from = now
        fair = [ballot for ballot in self._ballots.values() if self._is_fair(ballot, now)]
        whole = [ballot for ballot in fair if all(self._holds(*entry) for entry in ballot.entries)]
        if whole:
            self._sign(whole[0].entries)
        elif not fair or now >= self._masked_until:
            self._choose(now)

    def _is_fair(self, ballot: Survivors, now: float) -> bool:
        """Whether we would sign what another has signed. Before the deadline nobody is left out who is
        still there, or the quickest to sign would choose the survivors.
        """
        chosen = dict(ballot.entries)
        left_out = any(peer not in chosen and peer not in self._lost for peer in self.roster.members)
        return self._me in chosen and (not left_out or now >= self._masked_until)

    def _choose(self, now: float) -> None:
        """Sign everything we hold, once the phase is over and those before us in drawn order had their
        turn.
        """
        members = self.roster.members
        held = tuple((peer, next(iter(self._vectors[peer]))) for peer in members if peer in self._vectors)
        if self._commit_from is None or len(held) < self.roster.thresholds.minimum_survivors:
            return
        before = sum(peer not in self._lost for peer in members[: self._index[self._me]])
        turn = self._commit_from + before * self._turn_seconds
        if now >= turn:
            self._sign(held)
        else:
            self._timer(f"commit/{before}", turn)

    def _sign(self, entries: Entries) -> None:
        """Stand by one set. :meth:`_commit` comes here at most once."""
        ballot = signed(self._identity, Survivors(self._me, *self.roster.context, entries))
        self._ballots[self._me] = self._broadcast(ballot)

    def _settle(self, now: float) -> None:
        """Once t members have signed the same survivors, reveal for them. We come past the first line only
        once.
        """
        if self._settled is not None:
            return
        votes = Counter(ballot.entries for ballot in self._ballots.values())
        threshold = self.roster.thresholds.threshold
        settled = [entries for entries, count in votes.items() if count >= threshold]
        if not settled:
            undecided = self._count_on(set(self.roster.members) - set(self._ballots), now)
            if max(votes.values(), default=0) + undecided < threshold:
                self.failure = "too few members are left, or too many disagree, to settle on survivors"
            return
        chosen = dict(settled[0])
        if self._me in chosen and not self.sent_masked:
            self.failure = "the others settled on a vector that we never sent"
            return
        self._settled = settled[0]
        self._settled_mark = survivors_digest(self.roster.digest, settled[0])
        if self._me not in chosen:
            self.failure = "the others settled on survivors without us"
            return
        held = ((peer, self._shares[peer]) for peer in self.roster.members)
        shares = tuple(held.seed if peer in chosen else held.key for peer, held in held)
        reveal = signed(self._identity, Reveal(self._me, *self.roster.context, self._settled_mark, shares))
        self._reveals[self._me] = self._broadcast(reveal, chosen)

    def _sum(self, now: float) -> None:
        """Once every secret is recovered and every vector is here, take the sum."""
        if self._settled is None:
            return
        chosen = dict(self._settled)
        reveals = {
            self._index[peer]: reveal.shares
            for peer, reveal in self._reveals.items()
            if peer in chosen and reveal.survivors == self._settled_mark
        }
        to_come = self._count_on(set(chosen) - set(self._reveals), now)
        if len(reveals) + to_come < self.roster.thresholds.threshold:
            self.failure = "too few members are left to reveal their shares"
        elif all(self._holds(*entry) for entry in self._settled) and self._recover(chosen, reveals):
            total = np.zeros(self.roster.dim, np.uint32)
            for peer, mark in self._settled:
                total += self._vectors[peer][mark].values
            self._masking.unmask(total, [self._index[peer] for peer in chosen], self._recovered)
            self._conclude(total, tuple(chosen))

    def _recover(self, chosen: Mapping[PeerId, bytes], reveals: Mapping[int, tuple[bytes, ...]]) -> bool:
        """Put together the secrets that are still missing; wrong shares are worth a new try only with new
        ones.
        """
        if len(reveals) == self._reveals_tried:
            return False
        self._reveals_tried = len(reveals)
        for owner, peer in enumerate(self.roster.members):
            if owner not in self._recovered:
                shares = {holder: shown[owner] for holder, shown in reveals.items()}
                secret = self._masking.recover(owner, peer in chosen, shares)
                if secret is None:
                    return False
                self._recovered[owner] = secret
        return True

    def _conclude(self, total: NDArray[np.uint32], survivors: tuple[PeerId, ...]) -> None:
        roster = self.roster
        self.completed = True
        self._out.append(
            Completed(roster.round, roster.stage, total, survivors, roster.members, roster.thresholds)
        )
        mark = result_digest(self._settled_mark, total)
        result = Result(self._me, *roster.context, self._settled_mark, mark)
        self._results[self._me] = self._broadcast(signed(self._identity, result), survivors)
        for other in self._results.values():
            self._compare(other)

    # Small things.

    @property
    def _turn_seconds(self) -> float:
        """How long each member in turn is given to speak up: all together half a phase."""
        return self._phase_seconds / (2 * len(self.roster.members))

    def _died(self, peers: Iterable[PeerId]) -> bool:
        """Whether one of them was lost in this attempt. Another whom we cannot reach, but could whoever
        proposed the roster, may be back in time; giving up on it at once would use up the attempts.
        """
        return any(peer in self._lost and peer not in self._lost_before for peer in peers)

    def _count_on(self, peers: Set[PeerId], now: float) -> int:
        """How many of them may still answer: the lost ones have until the deadline to come back."""
        return sum(now < self._masked_until or peer not in self._lost for peer in peers)

    def _holds(self, peer: PeerId, mark: bytes) -> bool:
        return mark in self._vectors.get(peer, ())

    def _broadcast(self, message: _S, to: Collection[PeerId] | None = None) -> _S:
        self._out.extend(Send(peer, message) for peer in to or self.roster.members if peer != self._me)
        return message

    def _accuse(self, peer: PeerId, kind: str, *messages: Message) -> None:
        if (peer, kind) not in self._accused:
            self._accused.add((peer, kind))
            self._out.append(Evidence(peer, kind, messages))

    def _timer(self, name: str, at: float) -> None:
        if name not in self._timers:
            self._timers.add(name)
            self._out.append(SetTimer(f"{self._timer_prefix}{name}", at))
