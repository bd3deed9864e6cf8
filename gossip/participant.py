"""One node in the protocol: an epoch machine and one round machine at a time, wired together.

::

    EpochMachine --EpochBegan--> draw our group --Begin--> the driver trains --Prepared--> RoundMachine
         ^                           ^   |                                                      |
         |                           |   '-- too few of it connected: Waiting                   |
         |                           '------------ next round <---------- Completed | Skipped --'
         '------ after the last one -------------------'

Rounds are numbered through: epoch e holds rounds e·E … e·E + E − 1. Every node draws the groups of a round by
itself (:mod:`p2pfl.gossip.grouping`).

**Falling behind.** Neighbours say which round they are in. A round is over without us once so many of our
group have left it, and more than ``colluders``, that those who remain are fewer than the minimum. Before we
are asked for a contribution that ends it for us at once (Skipped); after that only when they are two rounds
on, since one round back everybody still answers. Whoever missed a round has to learn of its sum first, and
would be late for the next by that, for ever: left behind again and again, it begins rounds before the others
do. A node without a group in a round, or with too few of it connected, follows :func:`enough
<p2pfl.gossip.neighbours.enough>` of the neighbours in the epoch. If the group stays away while a newcomer
waits for the next epoch, or has another roster for ``round_seconds``, the epoch ends early: halves of a
federation that closed different rosters unite in the next one.

**Excluded.** Who is excluded (:mod:`p2pfl.gossip.exclusions`) is lost to every round from the moment
we learn of it: what comes over its connection is refused, and a group that it leaves too small ends the epoch
early after ``round_seconds``. Its vectors that others counted before are still taken from them.

**Who learns what** is said in :mod:`p2pfl.gossip.epoch`, :mod:`p2pfl.gossip.forming` and
:mod:`p2pfl.gossip.secure_sum`; nothing is added here.
Nobody outside our group reaches a round machine, and neither do messages of rounds long gone or far ahead.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.crypto.randomness import RandomBytes
from p2pfl.gossip.deadlines import LEAST_SECONDS, OwnTime, Patience, Phase
from p2pfl.gossip.epoch import Epoch, EpochMachine
from p2pfl.gossip.epoch_messages import EPOCH_MESSAGES, EpochMessage
from p2pfl.gossip.errors import LocalProtocolError, RemoteProtocolError
from p2pfl.gossip.events import (
    Begin,
    Completed,
    Computed,
    Contribute,
    Contribution,
    Delivered,
    Effect,
    Event,
    Evidence,
    PeerFound,
    PeerLost,
    Prepared,
    Received,
    Renewed,
    SetTimer,
    Skipped,
    TimerExpired,
    Waiting,
)
from p2pfl.gossip.exchange import TIMER_PREFIX
from p2pfl.gossip.exclusions import GROUNDS, Ground
from p2pfl.gossip.grouping import Grouping
from p2pfl.gossip.manifest import Manifest
from p2pfl.gossip.messages import ROUND_MESSAGES, Message, Proposal, Ready, RoundMessage
from p2pfl.gossip.presences import Author
from p2pfl.gossip.revocations import check_revocation
from p2pfl.gossip.round import RoundMachine
from p2pfl.gossip.tickets import Standing

MESSAGES: Final[Mapping[str, type[Message]]] = {
    **ROUND_MESSAGES,
    **EPOCH_MESSAGES,
    **GROUNDS,
}
"""Every message a node takes, by its tag: what a driver decodes with."""
MAX_AHEAD: Final = 4
"""Rounds ahead of ours whose forming is remembered; of each member the last ready and the last proposal."""

MOST_HURRY: Final = 16
"""How many rounds before the others a node begins one at most, if it comes too late for those they are in."""


@dataclass(slots=True)
class _Round:
    """A round that we have begun."""

    machine: RoundMachine
    group: tuple[PeerId, ...]
    epoch: Epoch
    begun: float
    stage: str = ""  # empty: we are not prepared yet, or nobody else is here
    held: Prepared | None = None  # until the others are here
    asked: bool = False  # for our contribution
    answered: bool = False

    @property
    def number(self) -> int:
        return self.machine.round

    def concerns(self, message: RoundMessage) -> bool:
        """Whether it is of this round, and by somebody who has drawn the same group as we."""
        readies = message.readies if isinstance(message, Proposal) else (message,)
        return (
            message.round == self.number
            and message.author in self.group
            and all(r.epoch_roster == self.epoch.digest for r in readies if isinstance(r, Ready))
        )


class Participant:
    """One node's protocol machine: everything but training, storage and the network.

    Args:
        addresses: our multiaddresses, shown to the members.
        ticket: the text of ours, shown to the members; empty if the manifest lists us.
        is_member: whether a connected peer is admitted, now.
        standing: what a peer that shows the text of this ticket is, as by
            :func:`p2pfl.gossip.tickets.standing`.
        next_round: the first round that we may take part in. It must come after every round for which a
            contribution was ever handed out, before a restart too: one masked vector per member and round.
        exclusions: who was excluded before a restart, and why: the one message of every Evidence that had
            a :data:`~p2pfl.gossip.exclusions.Ground`; and of our own key that it took the place of another.

    A driver calls :meth:`start` once and then :meth:`handle` for every event. It answers Begin with Prepared
    and Contribute with Contribution when it can; an answer for a round that is over by then is ignored.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        manifest: Manifest,
        addresses: tuple[str, ...],
        random: RandomBytes,
        is_member: Callable[[PeerId], bool],
        standing: Callable[[PeerId, str], Standing],
        ticket: str = "",
        next_round: int = 0,
        exclusions: Iterable[Ground] = (),
    ) -> None:
        self._identity, self._me, self._random = identity, identity.peer_id, random
        self._spec, self._timing, self._federation = manifest.groups, manifest.timing, manifest.digest
        self._time, self._patience = OwnTime(), Patience()
        self._epochs = EpochMachine(
            author=Author(identity, self._federation, addresses, ticket),
            expected=len(manifest.members),
            minimum=manifest.groups.minimum,
            colluders=manifest.groups.colluders,
            timing=manifest.timing,
            is_member=is_member,
            standing=standing,
            epoch=next_round // manifest.timing.epoch_rounds,
            check=lambda shown: check_revocation(shown.lines, manifest, self._federation),
            grounds=exclusions,
            patience=self._patience,
        )
        self._excluded = set(self._epochs.excluded)  # as far as the rounds know
        self._noiseless = manifest.privacy.mode == "none"
        self._epoch: Epoch | None = None
        self._grouping: Grouping | None = None
        self._next = next_round  # the round we are in, or the first that we may begin
        self._group: tuple[PeerId, ...] | None = None  # ours of that round, once drawn
        self._waits_since: float | None = None
        self._announced: int | None = None
        self._behind = 0  # rounds in a row that went on without us
        self._ahead = 0  # how many rounds before the others we began the current one
        self._current: _Round | None = None
        self._previous: _Round | None = None
        self._early: dict[tuple[int, PeerId, type[Message]], Ready | Proposal] = {}
        self._punctual: set[PeerId] = set()  # who of our group was heard to be ready in this round
        self._said = ""
        self._out: list[Effect] = []

    def start(self, now: float) -> list[Effect]:
        """Find out who is there."""
        self._out += self._epochs.start(self._time.look(now))
        return self._timed(self._settle(now))

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event at ``now`` and say what is to be done.

        Raises:
            RemoteProtocolError: the peer broke the protocol; nothing else has changed.
            LocalProtocolError: the driver did.
        """
        own = self._time.look(now)
        again = self._time.is_early(event, own)
        return self._timed([again] if again is not None else self._take(event, own))

    def _timed(self, effects: Iterable[Effect]) -> list[Effect]:
        return [self._time.set(effect) for effect in effects]

    def _take(self, event: Event, now: float) -> list[Effect]:
        """An event, ``now`` being the time that we were awake for."""
        if isinstance(event, Received) and event.peer in self._epochs.connected:
            self._patience.heard(event.peer, now)
        match event:
            case Received(peer) if peer in self._excluded:
                raise RemoteProtocolError(peer, "excluded from this federation")
            case PeerFound(peer) if peer in self._excluded:
                pass
            case Received(_, message) if isinstance(message, RoundMessage):
                self._receive(event, message, now)
            case Received(_, message) if isinstance(message, EpochMessage | Ground):
                self._out += self._epochs.handle(event, now)
            case Delivered() | Renewed():
                self._out += self._epochs.handle(event, now)
            case TimerExpired(key) if key.startswith(TIMER_PREFIX):
                self._out += self._epochs.handle(event, now)
            case PeerFound(peer) | PeerLost(peer):
                self._patience.connected(peer, isinstance(event, PeerFound), now)
                self._out += self._epochs.handle(event, now)
                self._drive(event, now)
            case TimerExpired():
                self._drive(event, now)
            case Prepared() | Contribution():
                self._answer(event, now)
            case Computed():
                for known in (self._previous, self._current):
                    if known is not None and known.number == event.round:
                        self._pass(known, event, now)
            case _:
                raise LocalProtocolError(f"no event of a participant: {event}")
        return self._settle(now)

    @property
    def round(self) -> int:
        """The one we are in, or would be in next."""
        return self._next

    def group_of(self, round: int) -> tuple[PeerId, ...]:
        """Whom we average with in ``round`` of the current epoch, ourselves included, in drawn order: nobody
        if no group has room for us, or there is no epoch.
        """
        return () if self._grouping is None else self._grouping.group_of(self._me, round)

    # Events.

    def _receive(self, event: Received, message: RoundMessage, now: float) -> None:
        if isinstance(message, Ready) and event.peer == message.author:
            self._note(message, now)
        for known in (self._current, self._previous):
            if known is not None and known.stage and known.number == message.round:
                if known.concerns(message):
                    self._pass(known, event, now)
                return
        if isinstance(message, Ready | Proposal) and self._next <= message.round <= self._next + MAX_AHEAD:
            key = (message.round, message.author, type(message))
            held = self._early.get(key)
            newer = held is None or held.attempt <= message.attempt
            if newer and event.peer == message.author and event.peer in self._epochs.connected:
                self._early[key] = message

    def _note(self, ready: Ready, now: float) -> None:
        """How long its author took, once for each round."""
        current, peer = self._current, ready.author
        if current is not None and current.concerns(ready) and peer not in self._punctual:
            self._punctual.add(peer)
            self._patience.durations.took(Phase.READY, peer, now - current.begun)

    def _answer(self, event: Prepared | Contribution, now: float) -> None:
        current = self._current
        if current is None or current.number != event.round:
            return  # that round is over
        if isinstance(event, Prepared):
            current.held = event
            self._out.append(SetTimer(f"participant/{event.round}/held", self._held_until(current)))
        else:
            current.answered = True
            self._pass(current, event, now)

    def _held_until(self, current: _Round) -> float:
        if not self._ahead:
            return current.begun
        rounds = 2 * (self._ahead + 1) * self._patience.durations.usual(Phase.READY)
        return current.begun + min(self._timing.round_seconds, max(2 * LEAST_SECONDS, rounds))

    def _prepare(self, current: _Round, prepared: Prepared, now: float) -> None:
        """We are prepared, and so is the time: others are in this round, or we have not hurried ahead."""
        if self._ahead:
            current.begun = now
        current.held, current.stage = None, prepared.stage
        self._pass(current, prepared, now)
        self._catch_up(current, now)

    def _catch_up(self, current: _Round, now: float) -> None:
        """Hand over what came before we were prepared: readies first, proposals need them."""
        early = [message for key, message in self._early.items() if key[0] == current.number]
        for message in sorted(early, key=lambda message: isinstance(message, Proposal)):
            try:
                if current.concerns(message) and self._current is current:
                    self._pass(current, Received(message.author, message), now)
            except RemoteProtocolError as error:  # not the doing of whoever we hear from right now
                self._out.append(Evidence(error.peer, error.reason, (message,)))

    def _drive(self, event: PeerFound | PeerLost | TimerExpired, now: float) -> None:
        for known in (self._previous, self._current):
            if known is not None:
                self._pass(known, event, now)

    def _pass(self, to: _Round, event: Event, now: float) -> None:
        """Hand ``event`` to a round's machine, and note what has become of the round."""
        for effect in to.machine.handle(event, now):
            outcome = isinstance(effect, Contribute | Completed | Skipped)
            if outcome and to is not self._current:
                continue  # we gave that round up
            if isinstance(effect, Evidence):
                self._out += self._epochs.accuse(effect, now)
                continue
            self._out.append(effect)
            if isinstance(effect, Contribute):
                to.asked = self._epochs.committed = True
            elif outcome:
                if isinstance(effect, Completed):
                    self._behind = max(0, self._behind - 1)
                self._end()

    # From round to round.

    def _settle(self, now: float) -> list[Effect]:
        """Go as far as what is known and the time allow, and tell the neighbours where that is."""
        while self._step(now):
            pass
        if self._epoch is not None and self._announced != self._next:
            self._announced = self._next
            self._out += self._epochs.announce(self._next, now)
        effects, self._out = self._out, []
        return effects

    def _step(self, now: float) -> bool:
        """Take one step if it is time; whether it was."""
        if excluded := self._epochs.excluded - self._excluded:
            self._excluded |= excluded
            for peer in excluded:
                self._drive(PeerLost(peer), now)
        elif self._epochs.current is not self._epoch:
            self._enter(self._epochs.current)
        elif self._epoch is None:
            return False
        elif self._next >= (self._epoch.number + 1) * self._timing.epoch_rounds:
            self._leave(now)
        elif self._current is not None:
            return self._go_on(self._current, now)
        else:
            return self._begin(now)
        return True

    def _go_on(self, current: _Round, now: float) -> bool:
        """Take up the current round, or leave it to the others, if it is time; whether it was."""
        if self._left_behind(current):
            self._give_up(current, "the others went on without us")
            self._hurry(current)
            return True
        if current.held is None:
            return False
        if self._epochs.reached() < current.number and now < self._held_until(current):
            return False
        self._prepare(current, current.held, now)
        return True

    def _hurry(self, left: _Round) -> None:
        """After we were left behind again and again, aim at a round that the others have yet to begin."""
        self._behind = min(self._behind + 1, MOST_HURRY)
        if self._behind > 1 and not self._same_state(left.group, left.epoch):
            self._ahead = min(1 << (self._behind - 2), MOST_HURRY)
            last = (left.epoch.number + 1) * self._timing.epoch_rounds - 1
            self._go_to(max(self._next, min(self._epochs.reached() + self._ahead, last)))

    def _enter(self, epoch: Epoch | None) -> None:
        """Another epoch, or none."""
        if self._current is not None:
            self._give_up(self._current, "the roster of the epoch was replaced")
        self._epoch, self._ahead = epoch, 0
        if epoch is not None:
            self._grouping = Grouping(self._spec, epoch)
            first = epoch.number * self._timing.epoch_rounds
            self._go_to(max(self._next, first, self._epochs.reached()))

    def _leave(self, now: float) -> None:
        """The current epoch is over for us."""
        assert self._epoch is not None
        self._out += self._epochs.finish(now)
        self._announced = None
        self._go_to(max(self._next, (self._epoch.number + 1) * self._timing.epoch_rounds))

    def _go_to(self, number: int) -> None:
        self._next, self._group, self._waits_since = number, None, None
        self._early = {key: message for key, message in self._early.items() if key[0] >= number}

    def _end(self) -> None:
        """The current round is over, one way or another."""
        assert self._current is not None
        if self._current.asked:
            if self._previous is not None:
                self._out += self._previous.machine.conclude()
            self._previous = self._current
        self._current, self._epochs.committed, self._ahead = None, False, 0
        self._go_to(self._next + 1)

    def _give_up(self, current: _Round, reason: str) -> None:
        how = (current.stage, reason, current.answered, current.machine.course)
        self._out.append(Skipped(current.number, *how))
        self._end()

    def _left_behind(self, current: _Round) -> bool:
        return self._gone(current.group, current.number + (1 if current.asked else 0))

    def _gone(self, group: tuple[PeerId, ...], number: int) -> bool:
        """Whether so many of ``group`` are past a round that the others are too few for it."""
        past = sum(self._epochs.round_of(peer) > number for peer in group)
        return past > max(self._spec.colluders, len(group) - self._spec.minimum)

    # Beginning a round.

    def _begin(self, now: float) -> bool:
        """Begin the next round if enough of our group is here, else wait; whether anything changed."""
        assert self._epoch is not None
        if self._group is None:
            self._group = self.group_of(self._next)
        group = self._group
        if self._gone(group, self._next):
            self._go_to(self._next + 1)
            return True
        connected = {peer for peer in group if peer == self._me or peer in self._epochs.connected}
        here = {peer for peer in connected if not self._patience.is_silent(peer, now)}
        astray = {peer for peer in here if self._epochs.elsewhere(peer)}
        if len(here - astray) < self._spec.minimum:
            return self._wait(len(here - astray), lost=astray | (self._excluded & set(group)), now=now)
        self._said = ""
        machine = self._machine(self._epoch, group, set(group) - connected, now)
        self._current = _Round(machine, group, self._epoch, now)
        self._out.append(Begin(self._next, group))
        self._punctual.clear()
        for early in self._early.values():
            if isinstance(early, Ready):
                self._note(early, now)
        return True

    def _machine(
        self, epoch: Epoch, group: tuple[PeerId, ...], lost: set[PeerId], now: float
    ) -> RoundMachine:
        return RoundMachine(
            identity=self._identity,
            federation=self._federation,
            roster_digest=epoch.digest,
            round=self._next,
            group=group,
            minimum=self._spec.minimum,
            colluders=self._spec.colluders,
            timing=self._timing,
            random=self._random,
            same_state=self._same_state(group, epoch),
            lost=lost,
            patience=self._patience,
            begun=now,
            round_of=self._epochs.round_of,
        )

    def _same_state(self, group: tuple[PeerId, ...], epoch: Epoch) -> bool:
        """Groups of several in one epoch each go on from a model of their own."""
        return self._noiseless and len(group) == len(epoch.roster)

    def _wait(self, here: int, lost: set[PeerId], now: float) -> bool:
        """No round for us now: go on if others did, or end the epoch early if that may help, since ``lost``
        come to no round of this one.
        """
        since = self._waits_since
        if since is None:
            since = self._waits_since = now
            waits = {"gather": self._timing.gather_seconds, "round": self._timing.round_seconds}
            for name, patience in waits.items():
                self._out.append(SetTimer(f"participant/{self._next}/{name}", now + patience))
        if self._epochs.reached() > self._next:
            # Somebody without a group has one again in the next round; somebody cut off is behind by more.
            self._go_to(self._epochs.reached() if self._group else self._next + 1)
            return True
        if not self._group:
            self._say(f"no group for us in round {self._next}")
            over = now >= since + self._timing.round_seconds
            if over:
                self._go_to(self._next + 1)
            return over
        least, drawn = self._spec.minimum, len(self._group)
        self._say(f"{here} of the {drawn} members of our group are here, at least {least} are needed")
        newcomers = self._epochs.newcomers and now >= since + self._timing.gather_seconds
        if newcomers or (lost and now >= since + self._timing.round_seconds):
            self._leave(now)
            return True
        return False

    def _say(self, reason: str) -> None:
        if reason != self._said:
            self._said = reason
            self._out.append(Waiting(reason))
