"""One round of one group: attempts to form a roster, as many as allowed, and one secure sum over it.

The group is drawn by the schedule, in an order that decides who acts first. A round is a line of phases, in
the order of the rounds of Bonawitz et al. 2017 (figure 4)::

    Prepared -> forming -> share | masked -> commit -> reveal -> sum -> Completed
                   ^        |    |
                   '--------'    '-- from here on nothing is tried again --> Skipped
                 next attempt

    forming      0, AdvertiseKeys            p2pfl.gossip.forming
    share        1, ShareKeys                p2pfl.gossip.secure_sum, as all that follow
    masked       2, MaskedInputCollection      (p2pfl.gossip.broadcast, p2pfl.gossip.scatter)
    commit       3, ConsistencyCheck
    reveal, sum  4, Unmasking                  (p2pfl.gossip.recovery)

**Attempts.** Until a member has asked its driver for the contribution nothing secret has left it, so
whatever goes wrong (a refused proposal, a lost member, a bundle that does not open, a deadline) makes it
forget all keys and begin the next attempt with a new Ready. Whoever sees a message of a later attempt, and
may still go back, follows: after its own ack, by which others may go on, or if its author is not on the
roster, only when an eighth of a phase has passed and they did not, or more than c members call. There are
:data:`~p2pfl.gossip.messages.MAX_ATTEMPTS`; a member that runs out of them skips the round.

**Waiting.** The times of the manifest are upper bounds; :mod:`p2pfl.gossip.attendance` says how long a member
really waits, and for whom.

**Ends.** ``round_seconds`` after :class:`~p2pfl.gossip.events.Prepared` at the latest, in Completed or
Skipped, exactly one of them. A completed machine goes on answering whoever needs a vector; a skipped one is
silent.

The driver must not prepare a round for which its ledger already shows a contribution: the machine remembers
that it has sent masked data, but not across a restart.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from itertools import count
from typing import Protocol

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
from p2pfl.gossip.forming import FirstTwo, Forming, Terms
from p2pfl.gossip.masking import Secrets
from p2pfl.gossip.messages import (
    MAX_ATTEMPTS,
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
        same_state: sum only with members that start from the same model (:mod:`p2pfl.gossip.forming`).
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
        least = next(size for size in count(minimum) if _hides(size, colluders))
        self._terms = terms = Terms(
            identity, federation, roster_digest, round, tuple(group), least, colluders, same_state, suite
        )
        self.round, self._me, self._others = round, terms.me, terms.others
        self._timing, self._random, self._cut = timing, random, cut
        self._lost = set(lost) - {terms.me}
        self._attendance = Attendance(
            patience or Patience(), round, terms.me, terms.others, least, timing, begun, round_of
        )
        self._prepared: Prepared | None = None
        self._ends_at = float("inf")
        self._finished = self._skipped = False
        self._sum: SecureSum | None = None
        self._left_out: tuple[tuple[PeerId, str], ...] = ()  # of the roster
        self._out: list[Effect] = []
        self._forget(attempt=0)

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
            missing = (peer for peer in self._others if peer not in self._forming.ready)
            return Course(self._terms.group, self._attempt, dropped=tuple(map(self._unready, missing)))
        roster = self._sum.roster
        dropped = (*self._left_out, *self._sum.missing())
        return Course(
            self._terms.group, self._attempt, roster.members, roster.digest, self._sum.settled, dropped
        )

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
                self._forming.lose(peer)

    def _receive(self, peer: PeerId, message: Message, now: float) -> None:
        if not isinstance(message, RoundMessage):
            raise LocalProtocolError(f"no message of a round: {message.TAG}")
        if message.round != self.round:
            return
        if message.author not in self._terms.group or (message.author != peer and not message.RELAYED):
            raise RemoteProtocolError(peer, f"{message.TAG} of a stranger to the group or of another author")
        if message.author == self._me or message.attempt < self._attempt or self._skipped:
            return  # our own, relayed back to us; or of no use any more
        if not self._forming.is_ours(message):
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
        if self._sum is None or isinstance(message, Ready | Proposal):
            self._forming.keep(message)
        else:
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

    def _forget(self, attempt: int) -> None:
        """Drop everything that belongs to one attempt, its secrets first of all, and form the group anew."""
        self._sum = None
        self._secrets: Secrets | None = None
        self._attempt = attempt
        self._forming = Forming(self._terms, attempt, self._attendance, self._lost)
        self._calls: FirstTwo[RoundMessage] = FirstTwo()  # to a later attempt
        self._follow_at = self._remind_at = float("inf")
        self._sent: dict[PeerId, list[Message]] = {}
        self._timers: set[str] = set()

    def _raise(self, now: float) -> None:
        self._enter(self._attempt + 1, now)

    def _enter(self, attempt: int, now: float) -> None:
        """Begin this attempt; before we are prepared we only take note of it."""
        if attempt >= MAX_ATTEMPTS:
            self._skip(f"no group could be formed in {MAX_ATTEMPTS} attempts")
            return
        if self._sum is not None:
            self._attendance.unshared(self._sum.roster.members, self._lost, now)
        self._forget(attempt)
        if self._prepared is not None:
            self._announce(now)

    def _hear_call(self, message: RoundMessage, now: float) -> None:
        """Others may go on by our ack, and whoever calls us away may know that. If they do, their vectors are
        about to come; if nobody does, no harm is done by waiting for a moment.
        """
        self._calls.keep(message)
        self._follow_at = min(self._follow_at, now + self._timing.phase_seconds / 8)
        if len({call.author for call in self._calls}) > self._terms.colluders:
            self._follow_at = now
        self._timer("follow", self._follow_at)

    def _follow(self, now: float) -> None:
        """To the attempt that we were called to."""
        calls = self._calls
        self._enter(max(message.attempt for message in calls), now)
        for message in calls:
            if message.attempt == self._attempt:
                self._store(message, now)

    def _announce(self, now: float) -> None:
        """Make the secrets of this attempt and tell everybody that we are ready."""
        assert self._prepared is not None
        self._secrets = secrets = Secrets.fresh(self._terms.suite, self._random)
        self._emit(self._forming.announce(self._prepared, secrets, now))

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
            self._remind_at = float("inf")
            self._emit(self._forming.remind(sum_.roster.members))
        if now >= self._follow_at and not sum_.committed:
            self._follow(now)
        elif sum_.failure is not None and sum_.committed:
            self._attendance.summed((), sum_.unmasked(now), self._lost)
            self._skip(sum_.failure)
        elif sum_.failure is not None:
            self._raise(now)

    def _skip(self, reason: str) -> None:
        assert self._prepared is not None
        sent_masked = self._sum is not None and self._sum.sent_masked
        course = self.course
        self._finished = self._skipped = True
        self._forget(self._attempt)
        self._out.append(Skipped(self.round, self._prepared.stage, reason, sent_masked, course))

    # The roster.

    def _form(self, now: float) -> None:
        forming = self._forming
        self._emit(forming.wake(now))
        if forming.agreed:
            self._begin(forming.agreed, now)
        elif forming.refused:
            self._raise(now)
        elif forming.failure is not None:
            self._skip(forming.failure)

    def _begin(self, readies: tuple[Ready, ...], now: float) -> None:
        """The roster is agreed as far as we are concerned; what came early for it is taken up."""
        assert self._secrets is not None
        roster, attendance = Roster.of(readies, self._terms.colluders), self._attendance
        seat = self._seat(roster)
        attendance.agreed(roster.members, self._forming.ready, self._lost, now)
        self._remind_at = attendance.remind_at
        self._timer("remind", self._remind_at)
        left_out = (peer for peer in self._others if peer not in roster.members)
        self._left_out = tuple(map(self._unready, left_out))
        self._sum = sum_ = SecureSum(seat, self._secrets, self._random, self._terms.suite)
        early = self._forming.take_early()
        self._emit(sum_.start(now))
        for message in early:
            if self._sum is not sum_:
                return
            attendance.spoke(message.author)
            try:
                self._pass_on(sum_, message, now)
            except RemoteProtocolError as error:  # not the doing of whoever we hear from right now
                self._out.append(Evidence(error.peer, error.reason, (message,)))

    def _seat(self, roster: Roster) -> Seat:
        assert self._prepared is not None
        ring, attendance = self._prepared.ring, self._attendance
        chunks = self._cut(roster.dim, len(roster.members), ring.bytes)
        return Seat(
            roster,
            self._terms.identity,
            self._lost,
            attendance.phase_seconds(scattered=chunks.scattered),
            ring,
            chunks,
            f"round/{self.round}/{self._attempt}/",
            share_seconds=attendance.share_seconds,
        )

    # Small things.

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


def _hides(members: int, colluders: int) -> bool:
    try:
        thresholds(members, colluders)
    except ValueError:
        return False
    return True
