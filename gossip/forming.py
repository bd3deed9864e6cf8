"""Forming a group: one member's part in one attempt to agree with the others on a roster.

Round 0 (AdvertiseKeys) of Bonawitz et al. 2017, without the server that hands everybody the same list: who
takes part, and with which public keys, is agreed on here, by the members themselves.

    ready    Everybody sends everybody a Ready: fresh one-time public keys, a commitment to a fresh self-mask
             seed, and what it is ready for (stage and dim).
    propose  The *convener*, the first in drawn order that is there, puts the readies of its own stage into a
             Proposal, once it has one of everybody who is awaited or when patience ends. If it is silent, the
             next one does, and every further attempt begins with another one.
             Whoever was left out of the first attempt waits: it may be late, and would spoil the others' sum.
    accept   A member accepts the first proposal that contains its own ready, leaves out nobody whose ready
             it holds, and is not too small. One that leaves out somebody who is awaited but has not been
             heard is accepted only when patience ends, or if others have begun with it. Readies are signed,
             so nothing in a proposal needs to be believed, and conveners with the same readies propose the
             same roster. Whoever says nothing once there is one is shown it by all.
             Ends: with a roster, or with a refusal, which ends the attempt.

**What is summed together.** Readies of one stage and dim; with ``same_state`` of one state digest too.
Without noise a sum hides a single update only while all start from the same model: who is handed a model on
which only its own gradient is not zero contributes alone (Pasquini, Francati, Ateniese, CCS 2022).

**Waiting.** Whom a member waits for, how long, and whom it lets others leave out because it has seen them
silent, is said in :mod:`p2pfl.gossip.attendance`.

**Who learns what.** Forming shows the group who is ready for what, and from which model state; a convener
can delay an attempt, but neither choose the members nor learn more than any other. No secret is held here.
"""

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, TypeVar

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.gossip.attendance import Attendance
from p2pfl.gossip.errors import LocalProtocolError, RemoteProtocolError
from p2pfl.gossip.events import Effect, Prepared, Send, SetTimer
from p2pfl.gossip.masking import Secrets
from p2pfl.gossip.messages import (
    MAX_ATTEMPTS,
    MAX_MEMBERS,
    Message,
    Proposal,
    Ready,
    RoundMessage,
    SumMessage,
)
from p2pfl.gossip.roster import Roster
from p2pfl.gossip.suite import Suite
from p2pfl.gossip.wire import signed

_M = TypeVar("_M", bound=RoundMessage)


@dataclass(frozen=True, slots=True)
class Terms:
    """What every attempt of a round has in common.

    ``federation``, ``epoch_roster``: digests of 32 bytes. ``group``: who may take part, in drawn order;
    ``identity`` is one of them. ``minimum``: fewest members of a roster.
    """

    identity: Identity
    federation: bytes
    epoch_roster: bytes
    round: int
    group: tuple[PeerId, ...]
    minimum: int
    colluders: int
    same_state: bool
    suite: Suite

    def __post_init__(self) -> None:
        group = self.group
        if len(set(group)) != len(group) or self.me not in group or len(group) > MAX_MEMBERS:
            raise LocalProtocolError(f"no group to take part in: {list(group)}")

    @property
    def me(self) -> PeerId:
        return self.identity.peer_id

    @property
    def others(self) -> tuple[PeerId, ...]:
        """The group without us."""
        return tuple(peer for peer in self.group if peer != self.me)

    def same_sum(self, one: Ready, other: Ready) -> bool:
        """Whether what these two are ready for may be summed together."""
        same_sum = (one.stage, one.dim) == (other.stage, other.dim)
        return same_sum and not (self.same_state and one.state_digest != other.state_digest)


class FirstTwo(Generic[_M]):
    """Messages for later, two of a kind and author: enough for a contradiction to be noticed then."""

    def __init__(self) -> None:
        self._kept: dict[tuple[type[Message], PeerId], list[_M]] = {}

    def keep(self, message: _M) -> None:
        messages = self._kept.setdefault((type(message), message.author), [])
        if len(messages) < 2:
            messages.append(message)

    def __iter__(self) -> Iterator[_M]:
        return (message for messages in self._kept.values() for message in messages)


class Forming:
    """One attempt of one member.

    What arrives is checked with :meth:`is_ours` and kept with :meth:`keep`, also before we are prepared; from
    :meth:`announce` on :meth:`wake` goes as far as what is known and the time allow.

    ``lost``: members to which there is no connection now, kept up to date by the owner.
    """

    def __init__(self, terms: Terms, attempt: int, attendance: Attendance, lost: Set[PeerId]) -> None:
        self.agreed: tuple[Ready, ...] = ()
        """Of the roster, in drawn order; empty until there is one."""
        self.refused = False
        """Whether a proposal was refused: this attempt is over."""
        self.failure: str | None = None
        """Why no further attempt would do better."""
        self._early: FirstTwo[SumMessage] = FirstTwo()
        self._terms, self._attempt, self._me = terms, attempt, terms.me
        self._attendance, self._lost = attendance, lost
        self._readies: dict[PeerId, Ready] = {}
        self._proposals: dict[PeerId, Proposal] = {}
        self._timers: set[str] = set()
        self._look_at = 0.0  # the last time that we are to be woken at to see who is still awaited
        self._out: list[Effect] = []

    @property
    def ready(self) -> Set[PeerId]:
        """Whose ready is here."""
        return self._readies.keys()

    def announce(self, prepared: Prepared, secrets: Secrets, now: float) -> list[Effect]:
        """Tell everybody that we are ready, with the public side of ``secrets``."""
        terms = self._terms
        ready = Ready(
            terms.me,
            terms.federation,
            terms.epoch_roster,
            terms.round,
            self._attempt,
            prepared.stage,
            prepared.dim,
            secrets.mask_key.public,
            secrets.bundle_key.public,
            terms.suite.commit(secrets.seed),
            prepared.state_digest,
            prepared.spent,
        )
        self._readies[self._me] = ready = signed(terms.identity, ready)
        self._attendance.call(self._attempt, now)
        self._timer("patience", self._attendance.patient_until)
        self._out.extend(Send(peer, ready) for peer in terms.others)
        return self._drain()

    def keep(self, message: Ready | Proposal | SumMessage) -> None:
        """The first value of every author counts; what belongs to the sum waits for its roster."""
        match message:
            case Ready():
                self._readies.setdefault(message.author, message)
            case Proposal():
                self._proposals.setdefault(message.author, message)
            case _:
                self._early.keep(message)

    def lose(self, peer: PeerId) -> None:
        """Forget its ready: it may come back from a crash, and with another key."""
        self._readies.pop(peer, None)

    def take_early(self) -> list[SumMessage]:
        """What came before the roster was agreed, once."""
        early, self._early = list(self._early), FirstTwo()
        return early

    def wake(self, now: float) -> list[Effect]:
        """Accept a proposal, refuse one, or make our own if it is our turn: :attr:`agreed`, :attr:`refused`
        and :attr:`failure` say what came of it.
        """
        group, proposals = self._terms.group, self._proposals
        verdicts = {peer: self._judge(proposals[peer], now) for peer in group if peer in proposals}
        accepted = [peer for peer, verdict in verdicts.items() if verdict is _Verdict.ACCEPT]
        if accepted:
            self.agreed = proposals[accepted[0]].readies
        elif _Verdict.REFUSE in verdicts.values():
            self.refused = True
        else:
            self._propose(now)
        return self._drain()

    def remind(self, members: Iterable[PeerId]) -> list[Effect]:
        """Show the roster to those who have said nothing since: its convener may not have."""
        silent = self._attendance.unheard(members, self._lost)
        if silent:
            self._show(self.agreed, silent)
        return self._drain()

    # Judging what others propose.

    def _judge(self, proposal: Proposal, now: float) -> "_Verdict":
        ours, minimum, same_sum = self._readies[self._me], self._terms.minimum, self._terms.same_sum
        if not same_sum(proposal.readies[0], ours):
            return _Verdict.WAIT  # theirs is another sum
        chosen = {ready.author for ready in proposal.readies}
        late = self._attempt == 0 and self._me not in chosen and len(chosen) >= minimum
        if late and now < self._attendance.patient_until:
            # Who has our ready refuses it; if nobody does, we would only spoil their sum.
            return _Verdict.WAIT
        if ours not in proposal.readies or len(proposal.readies) < minimum:
            return _Verdict.REFUSE
        left_out = {peer for peer in self._terms.group if peer not in chosen and peer not in self._lost}
        ready = (left_out & self._readies.keys()) - self._attendance.dispensable(to_others=False)
        unfair = any(same_sum(self._readies[peer], ours) for peer in ready)
        if unfair and self._attempt < MAX_ATTEMPTS - 1:
            return _Verdict.REFUSE
        awaited = (left_out - self._readies.keys()) & self._attendance.awaited(self._lost, now)
        if not (unfair or awaited) or self._begun_by_others(proposal):
            return _Verdict.ACCEPT
        if now < self._attendance.patient_until:
            return _Verdict.WAIT
        return _Verdict.REFUSE if unfair else _Verdict.ACCEPT

    def _begun_by_others(self, proposal: Proposal) -> bool:
        """Whether more than may lie have begun with this roster, and wait for nobody else."""
        roster = Roster.of(proposal.readies, self._terms.colluders).digest
        dealt = {message.author for message in self._early if message.roster == roster}
        proposed = {peer for peer, other in self._proposals.items() if other.readies == proposal.readies}
        return len(dealt | proposed) > self._terms.colluders

    # Proposing.

    def _propose(self, now: float) -> None:
        ours, attendance, minimum = self._readies[self._me], self._attendance, self._terms.minimum
        awaited = attendance.awaited(self._lost, now)
        missing = awaited - self._readies.keys()
        self._look_again(attendance.look_again(missing, now), now)
        present = [peer for peer in self._terms.group if peer not in self._lost]
        readies = [self._readies[peer] for peer in present if peer in self._readies]
        fitting = [ready for ready in readies if self._terms.same_sum(ready, ours)]
        # Another convener for every attempt: one that spoils the first does not spoil them all.
        order = [peer for peer in present if peer == self._me or peer in awaited]
        before = (order.index(self._me) - self._attempt) % len(order)
        turn = attendance.patient_until + before * attendance.turn_seconds
        self._timer(f"turn/{before}", turn)
        if len(fitting) >= minimum and ((not missing and before == 0) or now >= turn):
            dispensable = attendance.dispensable(to_others=True)
            chosen = tuple(ready for ready in fitting if ready.author not in dispensable)
            self.agreed = chosen if len(chosen) >= minimum else tuple(fitting)
            self._show(self.agreed, self._terms.others)
        elif len(fitting) < minimum and not missing and now >= turn:
            count = "1 member is" if len(fitting) == 1 else f"{len(fitting)} members are"
            self.failure = f"{count} ready where at least {minimum} are needed"

    def _show(self, readies: tuple[Ready, ...], to: Iterable[PeerId]) -> None:
        terms = self._terms
        proposal = signed(terms.identity, Proposal(self._me, terms.round, self._attempt, readies))
        self._out.extend(Send(peer, proposal) for peer in to)

    def _look_again(self, times: Iterable[float], now: float) -> None:
        """Be woken at the first of these, and set the next timer then: they move on with every word of who is
        missing.
        """
        first = min(times, default=float("inf"))
        if first < float("inf") and not now < self._look_at <= first:
            self._look_at = first
            self._timer(f"awaited/{first}", first)

    # Checking what arrives.

    def is_ours(self, message: RoundMessage) -> bool:
        """Whether what it says of readiness is meant for this epoch. Raises RemoteProtocolError for what no
        honest member would sign.
        """
        match message:
            case Ready():
                return self._check_ready(message)
            case Proposal():
                return self._check_proposal(message)
        return True

    def _check_ready(self, ready: Ready) -> bool:
        if ready.federation != self._terms.federation:
            raise RemoteProtocolError(ready.author, "a ready for another federation")
        known = self._readies.get(ready.author) == ready
        if not known and not all(map(self._terms.suite.accepts_key, (ready.mask_key, ready.bundle_key))):
            raise RemoteProtocolError(ready.author, "a one-time key of small order")
        return ready.epoch_roster == self._terms.epoch_roster

    def _check_proposal(self, proposal: Proposal) -> bool:
        readies = proposal.readies
        authors = [ready.author for ready in readies]
        ordered = bool(authors) and authors == [peer for peer in self._terms.group if peer in authors]
        places = {(ready.round, ready.attempt) for ready in readies}
        alike = all(self._terms.same_sum(ready, readies[0]) for ready in readies)
        if not ordered or not alike or places != {(self._terms.round, proposal.attempt)}:
            raise RemoteProtocolError(proposal.author, "a proposal that is no roster of this group")
        try:
            checks = [self._check_ready(ready) for ready in readies]
        except RemoteProtocolError as error:
            raise RemoteProtocolError(proposal.author, f"proposed {error.reason}") from error
        return all(checks)

    # Small things.

    def _timer(self, name: str, at: float) -> None:
        if name not in self._timers:
            self._timers.add(name)
            self._out.append(SetTimer(f"round/{self._terms.round}/{self._attempt}/{name}", at))

    def _drain(self) -> list[Effect]:
        drained, self._out = self._out, []
        return drained


class _Verdict(Enum):
    """What to make of a proposal."""

    ACCEPT = auto()
    REFUSE = auto()
    WAIT = auto()
