"""One round of one group: forming a roster, in as many attempts as allowed, and one secure sum over it.

The group is drawn by the schedule, in an order that decides who acts first. A round is a line of phases;
everything from *share* on is :mod:`p2pfl.gossip.secure_sum`::

    Prepared -> forming -> share | masked -> commit -> reveal -> sum -> Completed
                   ^        |    |
                   '--------'    '-- from here on nothing is tried again --> Skipped
                 next attempt

    forming  Everybody sends everybody a Ready: fresh one-time public keys, a commitment to a fresh self-mask
             seed, and what it is ready for (stage and dim). The *convener*, the first in drawn order that is
             there, puts the readies of its own stage into a Proposal, once it has one of everybody who is
             awaited or when patience ends. If it is silent, the next one does, and every further attempt
             begins with another one.
             Whoever was left out of the first attempt waits: it may be late, and would spoil the others' sum.
             A member accepts the first proposal that contains its own ready, leaves out nobody whose ready
             it holds, and is not too small. One that leaves out somebody who is awaited but has not been
             heard is accepted only when patience ends, or if others have begun with it. Readies are signed,
             so nothing in a proposal needs to be believed, and conveners with the same readies propose the
             same roster. Whoever says nothing once there is one is shown it by all.
             Ends: with a roster, or with a refusal, which raises the attempt.

**What is summed together.** Readies of one stage and dim; with ``same_state`` of one state digest too.
Without noise a sum hides a single update only while all start from the same model: who is handed a model on
which only its own gradient is not zero contributes alone (Pasquini, Francati, Ateniese, CCS 2022).

**Attempts.** Until a member has asked its driver for the contribution nothing secret has left it, so
whatever goes wrong (a refused proposal, a lost member, a bundle that does not open, a deadline) makes it
forget all keys and begin the next attempt with a new Ready. Whoever sees a message of a later attempt, and
may still go back, follows: after its own ack, by which others may go on, or if its author is not on the
roster, only when an eighth of a phase has
passed and they did not, or more than c members call. There are
:data:`~p2pfl.gossip.messages.MAX_ATTEMPTS`; a member that runs out of them skips the round.

**Waiting.** The times of the manifest are upper bounds. Whom a member waits for, how long, and whom it lets
others leave out because it has seen them silent, is said in :mod:`p2pfl.gossip.attendance`.

**Who learns what.** Forming shows the group who is ready for what, and from which model state; a convener
can delay an attempt, but neither choose the members nor learn more than any other.

**Ends.** ``round_seconds`` after :class:`~p2pfl.gossip.events.Prepared` at the latest, in Completed or
Skipped, exactly one of them. A completed machine goes on answering whoever needs a vector; a skipped one is
silent.

The driver must not prepare a round for which its ledger already shows a contribution: the machine remembers
that it has sent masked data, but not across a restart.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from enum import Enum, auto
from itertools import count
from typing import Protocol, TypeVar

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.crypto.randomness import RandomBytes
from p2pfl.gossip.attendance import Attendance
from p2pfl.gossip.chunks import Chunks
from p2pfl.gossip.deadlines import Patience
from p2pfl.gossip.errors import LocalProtocolError, RemoteProtocolError
from p2pfl.gossip.events import (
    Completed,
    Computed,
    Contribution,
    Course,
    Effect,
    Event,
    Evidence,
    PeerFound,
    PeerLost,
    Prepared,
    Received,
    Send,
    SetTimer,
    Skipped,
    TimerExpired,
)
from p2pfl.gossip.masking import Secrets
from p2pfl.gossip.messages import (
    MAX_ATTEMPTS,
    MAX_MEMBERS,
    Ack,
    Bundle,
    Masked,
    Message,
    Pledge,
    Proposal,
    Ready,
    RoundMessage,
    SumMessage,
)
from p2pfl.gossip.roster import Roster
from p2pfl.gossip.seat import Seat
from p2pfl.gossip.secure_sum import SecureSum
from p2pfl.gossip.suite import SUITE, Suite
from p2pfl.gossip.thresholds import thresholds
from p2pfl.gossip.wire import signed

_M = TypeVar("_M", bound=RoundMessage)
_Kept = dict[tuple[type[Message], PeerId], list[_M]]


class Timing(Protocol):
    """Deadlines in seconds."""

    @property
    def ready_seconds(self) -> float: ...
    @property
    def phase_seconds(self) -> float: ...
    @property
    def round_seconds(self) -> float: ...


class RoundMachine:
    """One member's part in one round.

    Args:
        federation, roster_digest: 32 bytes each, the manifest's digest and the epoch roster's.
        group: all who may take part, in drawn order; ``identity`` is one of them.
        minimum: fewest members of a roster; what ``colluders`` demands may be more.
        same_state: sum only with members that start from the same model (see above).
        cut: how vectors are cut, by dim, members and bytes of an element; the same for everybody.
        timing: longest deadlines, all counted from when this member enters a phase.
        random: source of all secrets.
        lost: members to which there is no connection now.
        patience: what is known of the members from earlier rounds; nothing by default.
        begun: when the round began for us, on the clock of ``now``; None: when we are prepared.
        round_of: the round that a member says it is in, or −1.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        federation: bytes,
        roster_digest: bytes,
        round: int,
        group: Sequence[PeerId],
        minimum: int,
        colluders: int,
        timing: Timing,
        random: RandomBytes,
        same_state: bool = False,
        suite: Suite = SUITE,
        cut: Callable[[int, int, int], Chunks] = Chunks.of,
        lost: Collection[PeerId] = (),
        patience: Patience | None = None,
        begun: float | None = None,
        round_of: Callable[[PeerId], int] = lambda peer: -1,
    ) -> None:
        if len(set(group)) != len(group) or identity.peer_id not in group or len(group) > MAX_MEMBERS:
            raise LocalProtocolError(f"no group to take part in: {list(group)}")
        self.round = round
        self._identity, self._me = identity, identity.peer_id
        self._federation, self._epoch_roster = federation, roster_digest
        self._group, self._colluders = tuple(group), colluders
        self._others = tuple(peer for peer in group if peer != identity.peer_id)
        self._minimum = next(size for size in count(minimum) if _hides(size, colluders))
        self._timing, self._random, self._suite, self._cut = timing, random, suite, cut
        self._same_state = same_state
        self._lost = set(lost) - {self._me}
        self._attendance = Attendance(
            patience or Patience(), round, self._me, self._others, self._minimum, timing, begun, round_of
        )
        self._prepared: Prepared | None = None
        self._ends_at = float("inf")
        self._finished = self._skipped = False
        self._sum: SecureSum | None = None
        self._left_out: tuple[tuple[PeerId, str], ...] = ()  # of the roster
        self._out: list[Effect] = []
        self._attempt = 0
        self._forget()

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event at ``now`` and say what is to be done.

        Raises:
            RemoteProtocolError: the peer broke the protocol; nothing else has changed.
            LocalProtocolError: the driver did.
        """
        self._out = []
        match event:
            case Received(peer, message):
                self._receive(peer, message, now)
            case TimerExpired():
                pass  # time is looked at after every event
            case PeerLost(peer):
                self._lose(peer)
            case PeerFound(peer):
                self._lost.discard(peer)
                self._out.extend(Send(peer, message) for message in self._sent.get(peer, ()))
            case Prepared():
                self._prepare(event, now)
            case Contribution():
                self._contribute(event, now)
            case Computed():
                self._take_computed(event, now)
            case _:
                raise LocalProtocolError(f"no event of a round: {type(event).__name__}")
        self._advance(now)
        if self._finished and self._sum is not None:
            self._out.extend(self._sum.agreed())
        return self._out

    def conclude(self) -> list[Effect]:
        """Nothing more is handed to this machine: say who agreed on the sum, if that was not said."""
        return [] if self._sum is None else self._sum.agreed(last_chance=True)

    @property
    def course(self) -> Course:
        """How the round has gone."""
        if self._sum is None:
            missing = (peer for peer in self._others if peer not in self._readies)
            return Course(self._group, self._attempt, dropped=tuple(map(self._unready, missing)))
        roster = self._sum.roster
        dropped = (*self._left_out, *self._sum.missing())
        return Course(self._group, self._attempt, roster.members, roster.digest, self._sum.settled, dropped)

    def _unready(self, peer: PeerId) -> tuple[PeerId, str]:
        return peer, "absent" if peer in self._lost else "forming"

    # Events.

    def _prepare(self, event: Prepared, now: float) -> None:
        if self._prepared is not None or event.round != self.round or event.dim < 1:
            raise LocalProtocolError(f"round {self.round} cannot begin with {event}")
        self._prepared = event
        self._attendance.prepared(now)
        self._ends_at = now + self._timing.round_seconds
        self._out.append(SetTimer(f"round/{self.round}/end", self._ends_at))
        self._announce(now)

    def _contribute(self, event: Contribution, now: float) -> None:
        if event.round != self.round or self._prepared is None:
            raise LocalProtocolError(f"a contribution to round {event.round} in round {self.round}")
        if self._finished:
            return  # it was asked for, but the round ended first
        if self._sum is None:
            raise LocalProtocolError("a contribution nobody asked for")
        self._emit(self._sum.contribute(event.values, now))

    def _take_computed(self, event: Computed, now: float) -> None:
        """What an attempt asked for; the answer may come after its end."""
        prefix = f"round/{self.round}/{self._attempt}/"
        if self._sum is not None and not self._skipped and event.key.startswith(prefix):
            self._emit(self._sum.computed(event.key.removeprefix(prefix), event.value, now))

    def _lose(self, peer: PeerId) -> None:
        if peer in self._others:
            self._lost.add(peer)
            if self._sum is None:
                self._readies.pop(peer, None)  # it may come back from a crash, and with another key

    def _receive(self, peer: PeerId, message: Message, now: float) -> None:
        if not isinstance(message, RoundMessage):
            raise LocalProtocolError(f"no message of a round: {message.TAG}")
        if message.round != self.round:
            return
        if message.author not in self._group or (message.author != peer and not message.RELAYED):
            raise RemoteProtocolError(peer, f"{message.TAG} of a stranger to the group or of another author")
        if message.author == self._me or message.attempt < self._attempt or self._skipped:
            return  # our own, relayed back to us; or of no use any more
        if isinstance(message, Ready) and not self._check_ready(message):
            return
        if isinstance(message, Proposal) and not self._check_proposal(message):
            return
        if message.attempt > self._attempt:
            if self._committed:
                return
            if self._sum is not None and (self._sum.acked or message.author not in self._sum.roster.members):
                self._hear_call(message, now)
                return
            self._enter(message.attempt, now)
        if message.author == peer:
            self._attendance.spoke(peer)
        self._store(message, now)

    def _store(self, message: RoundMessage, now: float) -> None:
        match message:
            case Ready():
                self._readies.setdefault(message.author, message)
            case Proposal():
                self._proposals.setdefault(message.author, message)
            case _ if self._sum is None:
                _keep_two(self._early, message)
            case _:
                self._pass_on(self._sum, message, now)

    def _pass_on(self, sum_: SecureSum, message: SumMessage, now: float) -> None:
        if message.roster == sum_.roster.digest:
            self._emit(sum_.receive(message, now))
            self._note(message, sum_, now)
        elif isinstance(message, Bundle | Ack) and not sum_.committed:
            self._emit(sum_.shown_elsewhere(message.author, now))
            if sum_.failure is not None:
                self._raise(now)

    def _note(self, message: SumMessage, sum_: SecureSum, now: float) -> None:
        """How long its author took."""
        if isinstance(message, Bundle):
            self._attendance.dealt(message.author, now)
        elif isinstance(message, Pledge if sum_.scattered else Masked):
            self._attendance.masked(message.author, now)

    # Attempts.

    @property
    def _committed(self) -> bool:
        return self._sum is not None and self._sum.committed

    def _forget(self) -> None:
        """Drop everything that belongs to one attempt, its secrets first of all."""
        self._sum = None
        self._secrets: Secrets | None = None
        self._readies: dict[PeerId, Ready] = {}
        self._proposals: dict[PeerId, Proposal] = {}
        self._early: _Kept[SumMessage] = {}
        self._calls: _Kept[RoundMessage] = {}  # to a later attempt
        self._follow_at = float("inf")
        self._sent: dict[PeerId, list[Message]] = {}
        self._timers: set[str] = set()
        self._agreed: tuple[Ready, ...] = ()  # of the roster
        self._remind_at = float("inf")
        self._look_at = 0.0  # the last time that we are to be woken at to see who is still awaited

    def _raise(self, now: float) -> None:
        self._enter(self._attempt + 1, now)

    def _enter(self, attempt: int, now: float) -> None:
        """Begin this attempt; before we are prepared we only take note of it."""
        if attempt >= MAX_ATTEMPTS:
            self._skip(f"no group could be formed in {MAX_ATTEMPTS} attempts")
            return
        if self._sum is not None:
            self._attendance.unshared(self._sum.roster.members, self._lost, now)
        self._forget()
        self._attempt = attempt
        if self._prepared is not None:
            self._announce(now)

    def _hear_call(self, message: RoundMessage, now: float) -> None:
        """Others may go on by our ack, and whoever calls us away may know that. If they do, their vectors are
        about to come; if nobody does, no harm is done by waiting for a moment.
        """
        _keep_two(self._calls, message)
        self._follow_at = min(self._follow_at, now + self._timing.phase_seconds / 8)
        if len({author for _, author in self._calls}) > self._colluders:
            self._follow_at = now
        self._timer("follow", self._follow_at)

    def _follow(self, now: float) -> None:
        """To the attempt that we were called to."""
        calls = [message for messages in self._calls.values() for message in messages]
        self._enter(max(message.attempt for message in calls), now)
        for message in calls:
            if message.attempt == self._attempt:
                self._store(message, now)

    def _announce(self, now: float) -> None:
        """Make the secrets of this attempt and tell everybody that we are ready."""
        assert self._prepared is not None
        self._secrets = secrets = Secrets.fresh(self._suite, self._random)
        ready = Ready(
            self._me,
            self._federation,
            self._epoch_roster,
            self.round,
            self._attempt,
            self._prepared.stage,
            self._prepared.dim,
            secrets.mask_key.public,
            secrets.bundle_key.public,
            self._suite.commit(secrets.seed),
            self._prepared.state_digest,
            self._prepared.spent,
        )
        self._readies[self._me] = ready = signed(self._identity, ready)
        self._attendance.call(self._attempt, now)
        self._timer("patience", self._attendance.patient_until)
        self._emit(Send(peer, ready) for peer in self._others)

    def _advance(self, now: float) -> None:
        """Go as far as what is known and the time allow."""
        while self._prepared is not None and not self._finished:
            attempt = self._attempt
            if self._sum is not None and self._sum.completed:
                self._finished, self._secrets = True, None
                self._attendance.summed(self._sum.survivors, self._sum.unmasked(now), self._lost)
            elif now >= self._ends_at:
                phase = "forming a group" if self._sum is None else self._sum.phase
                self._skip(f"the round ended while {phase}")
            elif self._sum is None:
                self._form(now)
            else:
                self._drive(self._sum, now)
            if self._attempt == attempt:
                return

    def _drive(self, sum_: SecureSum, now: float) -> None:
        self._emit(sum_.wake(now))
        if sum_.committed:
            self._attendance.committed(now)
        if now >= self._remind_at and not sum_.committed:
            self._remind(sum_.roster.members)
        if now >= self._follow_at and not sum_.committed:
            self._follow(now)
        elif sum_.failure is not None and sum_.committed:
            self._attendance.summed((), sum_.unmasked(now), self._lost)
            self._skip(sum_.failure)
        elif sum_.failure is not None:
            self._raise(now)

    def _remind(self, members: Collection[PeerId]) -> None:
        """Show the roster to those who have said nothing since: its convener may not have."""
        self._remind_at = float("inf")
        silent = self._attendance.unheard(members, self._lost)
        if silent:
            proposal = signed(self._identity, Proposal(self._me, self.round, self._attempt, self._agreed))
            self._emit(Send(peer, proposal) for peer in silent)

    def _skip(self, reason: str) -> None:
        assert self._prepared is not None
        sent_masked = self._sum is not None and self._sum.sent_masked
        course = self.course
        self._finished = self._skipped = True
        self._forget()
        self._out.append(Skipped(self.round, self._prepared.stage, reason, sent_masked, course))

    # Forming.

    def _form(self, now: float) -> None:
        """Accept a proposal, refuse one, or make our own if it is our turn."""
        verdicts = {
            peer: self._judge(self._proposals[peer], now) for peer in self._group if peer in self._proposals
        }
        accepted = [peer for peer, verdict in verdicts.items() if verdict is _Verdict.ACCEPT]
        if accepted:
            self._begin(self._proposals[accepted[0]].readies, now)
        elif _Verdict.REFUSE in verdicts.values():
            self._raise(now)
        else:
            self._propose(now)

    def _judge(self, proposal: Proposal, now: float) -> "_Verdict":
        ours = self._readies[self._me]
        if not self._same_purpose(proposal.readies[0], ours):
            return _Verdict.WAIT  # theirs is another sum
        chosen = {ready.author for ready in proposal.readies}
        late = self._attempt == 0 and self._me not in chosen and len(chosen) >= self._minimum
        if late and now < self._attendance.patient_until:
            return (
                _Verdict.WAIT
            )  # who has our ready refuses it; if nobody does, we would only spoil their sum
        if ours not in proposal.readies or len(proposal.readies) < self._minimum:
            return _Verdict.REFUSE
        left_out = {peer for peer in self._group if peer not in chosen and peer not in self._lost}
        ready = (left_out & self._readies.keys()) - self._attendance.dispensable(to_others=False)
        unfair = any(self._same_purpose(self._readies[peer], ours) for peer in ready)
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
        roster = Roster.of(proposal.readies, self._colluders).digest
        early = self._early.items()
        dealt = {author for (_, author), kept in early if any(each.roster == roster for each in kept)}
        proposed = {peer for peer, other in self._proposals.items() if other.readies == proposal.readies}
        return len(dealt | proposed) > self._colluders

    def _propose(self, now: float) -> None:
        ours, attendance = self._readies[self._me], self._attendance
        awaited = attendance.awaited(self._lost, now)
        missing = awaited - self._readies.keys()
        self._look_again(attendance.look_again(missing, now), now)
        present = [peer for peer in self._group if peer not in self._lost]
        readies = [self._readies[peer] for peer in present if peer in self._readies]
        fitting = [ready for ready in readies if self._same_purpose(ready, ours)]
        dispensable = attendance.dispensable(to_others=True)
        chosen = tuple(ready for ready in fitting if ready.author not in dispensable)
        # Another convener for every attempt: one that spoils the first does not spoil them all.
        order = [peer for peer in present if peer == self._me or peer in awaited]
        before = (order.index(self._me) - self._attempt) % len(order)
        turn = attendance.patient_until + before * attendance.turn_seconds
        self._timer(f"turn/{before}", turn)
        if len(fitting) >= self._minimum and ((not missing and before == 0) or now >= turn):
            readies_ = chosen if len(chosen) >= self._minimum else tuple(fitting)
            proposal = signed(self._identity, Proposal(self._me, self.round, self._attempt, readies_))
            self._emit(Send(peer, proposal) for peer in self._others)
            self._begin(readies_, now)
        elif len(fitting) < self._minimum and not missing and now >= turn:
            count = "1 member is" if len(fitting) == 1 else f"{len(fitting)} members are"
            self._skip(f"{count} ready where at least {self._minimum} are needed")

    def _look_again(self, times: Iterable[float], now: float) -> None:
        """Be woken at the first of these, and set the next timer then: they move on with every word of who is
        missing.
        """
        first = min(times, default=float("inf"))
        if first < float("inf") and not now < self._look_at <= first:
            self._look_at = first
            self._timer(f"awaited/{first}", first)

    def _begin(self, readies: tuple[Ready, ...], now: float) -> None:
        """The roster is agreed as far as we are concerned; what came early for it is taken up."""
        assert self._secrets is not None
        assert self._prepared is not None
        roster, ring = Roster.of(readies, self._colluders), self._prepared.ring
        chunks, attendance = self._cut(roster.dim, len(readies), ring.bytes), self._attendance
        seat = Seat(
            roster,
            self._identity,
            self._lost,
            attendance.phase_seconds(scattered=chunks.scattered),
            ring,
            chunks,
            f"round/{self.round}/{self._attempt}/",
            share_seconds=attendance.share_seconds,
        )
        attendance.agreed(roster.members, self._readies.keys(), self._lost, now)
        self._agreed, self._remind_at = readies, attendance.remind_at
        self._timer("remind", self._remind_at)
        left_out = (peer for peer in self._others if peer not in roster.members)
        self._left_out = tuple(map(self._unready, left_out))
        self._sum = sum_ = SecureSum(seat, self._secrets, self._random, self._suite)
        early = [message for messages in self._early.values() for message in messages]
        self._early.clear()
        self._emit(sum_.start(now))
        for message in early:
            if self._sum is not sum_:
                return
            self._attendance.spoke(message.author)
            try:
                self._pass_on(sum_, message, now)
            except RemoteProtocolError as error:  # not the doing of whoever we hear from right now
                self._out.append(Evidence(error.peer, error.reason, (message,)))

    def _check_ready(self, ready: Ready) -> bool:
        """Whether it is meant for this epoch; raises for one that no honest member would sign."""
        if ready.federation != self._federation:
            raise RemoteProtocolError(ready.author, "a ready for another federation")
        known = self._readies.get(ready.author) == ready
        if not known and not all(map(self._suite.accepts_key, (ready.mask_key, ready.bundle_key))):
            raise RemoteProtocolError(ready.author, "a one-time key of small order")
        return ready.epoch_roster == self._epoch_roster

    def _check_proposal(self, proposal: Proposal) -> bool:
        readies = proposal.readies
        authors = [ready.author for ready in readies]
        ordered = bool(authors) and authors == [peer for peer in self._group if peer in authors]
        places = {(ready.round, ready.attempt) for ready in readies}
        alike = all(self._same_purpose(ready, readies[0]) for ready in readies)
        if not ordered or not alike or places != {(self.round, proposal.attempt)}:
            raise RemoteProtocolError(proposal.author, "a proposal that is no roster of this group")
        try:
            checks = [self._check_ready(ready) for ready in readies]
        except RemoteProtocolError as error:
            raise RemoteProtocolError(proposal.author, f"proposed {error.reason}") from error
        return all(checks)

    # Small things.

    def _same_purpose(self, one: Ready, other: Ready) -> bool:
        same_sum = (one.stage, one.dim) == (other.stage, other.dim)
        return same_sum and not (self._same_state and one.state_digest != other.state_digest)

    def _emit(self, effects: Iterable[Effect]) -> None:
        """Remember what was sent to whom: a peer that comes back within the attempt is sent all of it
        again.
        """
        for effect in effects:
            self._out.append(replace(effect, course=self.course) if isinstance(effect, Completed) else effect)
            if isinstance(effect, Send):
                self._sent.setdefault(effect.peer, []).append(effect.message)

    def _timer(self, name: str, at: float) -> None:
        if name not in self._timers:
            self._timers.add(name)
            self._out.append(SetTimer(f"round/{self.round}/{self._attempt}/{name}", at))


def _keep_two(kept: "_Kept[_M]", message: _M) -> None:
    """Of a kind and author; two, so that a contradiction is noticed later."""
    messages = kept.setdefault((type(message), message.author), [])
    if len(messages) < 2:
        messages.append(message)


class _Verdict(Enum):
    """What to make of a proposal."""

    ACCEPT = auto()
    REFUSE = auto()
    WAIT = auto()


def _hides(members: int, colluders: int) -> bool:
    try:
        thresholds(members, colluders)
    except ValueError:
        return False
    return True
