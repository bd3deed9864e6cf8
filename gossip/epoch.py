"""Epochs: who takes part in the next rounds, agreed on by neighbours that tell each other what they heard.

An epoch is a fixed number of rounds with a fixed roster. Between two of them every node that is there says so
with a signed **presence**, which everybody passes on. The presences of one epoch are a set that only grows
(:mod:`p2pfl.gossip.presences`), so nodes that talk long enough hold the same one, and its digest tells
whether they do::

    start, or finish() of the epoch before
       |
       v
    gathering   publish our presence, pass on others', compare digests (p2pfl.gossip.exchange)
       |  ^       ends: everybody who is waited for is there, and all neighbours have had our digest
       |  |             for SETTLE_SECONDS; or they have closed a roster, and we take theirs
       v  |
    closed      fetch the previous roster if we have another one; draw the beacon
       |  |       ends: EpochBegan; or we are not on the roster, and gather for the next epoch
       v  |
    running     the driver runs the rounds, then calls finish()

**Who is waited for.** All neighbours: ``gather_seconds`` if they are silent, ``round_seconds`` if they keep
saying that they are busy with an earlier epoch, and without end while :func:`enough of them
<p2pfl.gossip.neighbours.enough>` are: then most of the federation is, and its epoch ends. A node that has
just started also waits ``gather_seconds`` for whoever starts up with it, or until nobody new has come for a
third of that, unless all members that the manifest lists are there. Neighbours that are connected but mute,
and those who let an earlier epoch wait in vain, are not waited for (:mod:`p2pfl.gossip.deadlines`). A
roster below ``minimum`` is never closed: the node says so (:class:`~p2pfl.gossip.events.Waiting`) and goes
on gathering. So a lone node stays at its epoch however long it waits.

**Agreement.** If messages take less than two fifths of SETTLE_SECONDS, connected nodes close the same roster:
who closes one has shown its digest for that long, and tells everybody at once. Losses, longer delays and
partitions can close different ones. Then rounds in which their members meet are skipped, a node follows a
strict majority of its neighbours to another roster of the same epoch, and at the latest the next epoch unites
all.

That takes neighbours: nodes should be connected to all others, which :class:`~p2pfl.gossip.events.Connect`
works towards, and rounds need anyway. Who has no more than ``colluders`` neighbours may have to wait for more
of them.

**Catching up.** ``colluders`` is what a group withstands, and a federation of many groups may have more
liars. So a node follows only :func:`~p2pfl.gossip.neighbours.enough` of its neighbours, a strict majority and
more than ``colluders``. It takes over a roster with ``minimum`` signatures that enough of those neighbours
call closed who are in an epoch; if that is further on than the next epoch, enough of all neighbours. While it
gathers, it follows presences for later epochs by as many members as are enough of all neighbours. Nobody can
turn back, so those who are ahead of a majority wait for it. So two parts of a federation that were separated
unite: the smaller one leaps if it is behind, and waits if it is ahead.

A newcomer, which has never been in an epoch, has none to be dragged away from, and may be one of many
newcomers to a small federation. It takes over what enough of the neighbours in an epoch call closed, however
far on, and after ``gather_seconds`` it follows ``minimum`` presences for later epochs. So does a node that
has been below the minimum for ``gather_seconds``; if there are fewer such presences, it goes one epoch
further. That keeps a federation alive whose nodes all stopped around the end of an epoch. Colluders without
whom there is no minimum can waste epochs that way, one every ``gather_seconds``; as long as they are needed,
they can waste rounds by not being ready, too. Finally, a roster is taken over that all neighbours have called
closed for ``gather_seconds``, however few they are. Nobody goes more than
:data:`~p2pfl.gossip.exchange.MAX_LEAP` epochs at once.

**Who learns what.** Members learn each other's ids, tickets, addresses, and when they are there. Nothing else
is said here; secret are only the identity's key and, until each is revealed, the nonces derived from it.
Presences of peers that are not members are refused: they enter no set and are passed on to nobody. Nor do
those of members that are excluded because they contradicted themselves (:mod:`p2pfl.gossip.evidence`): they
are no neighbours any more, and on no roster that is closed from then on.

What malicious members can do: delay an epoch by the waiting times above; split a roster by telling neighbours
different things just before it closes, which costs rounds, not secrets; stay away, which redraws the groups
once per colluder.
"""

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, replace
from typing import Final, Protocol, cast

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.deadlines import Patience
from p2pfl.gossip.epoch_messages import NOTHING
from p2pfl.gossip.errors import LocalProtocolError
from p2pfl.gossip.events import (
    Delivered,
    Effect,
    EpochBegan,
    Event,
    Evidence,
    PeerFound,
    PeerLost,
    Received,
    Renewed,
    SetTimer,
    TimerExpired,
    Waiting,
)
from p2pfl.gossip.exchange import BEAT_SECONDS, HEARTBEAT_SECONDS, MAX_LEAP, TIMER_PREFIX, Exchange
from p2pfl.gossip.exclusions import Ground
from p2pfl.gossip.neighbours import enough
from p2pfl.gossip.presences import Author, PresenceSet
from p2pfl.gossip.revocations import Revocation
from p2pfl.gossip.tickets import Standing

SETTLE_SECONDS: Final = 0.5
"""How long all neighbours must have shared our digest."""
_FRESH_SECONDS: Final = 3 * HEARTBEAT_SECONDS  # who has said nothing for longer is silent


class Timing(Protocol):
    """The rounds of an epoch, and waiting times in seconds."""

    @property
    def epoch_rounds(self) -> int: ...
    @property
    def gather_seconds(self) -> float: ...
    @property
    def round_seconds(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Epoch:
    """An epoch we take part in. ``roster`` is sorted, ``digest`` names it, ``beacon`` draws its groups."""

    number: int
    roster: tuple[PeerId, ...]
    digest: bytes
    beacon: bytes


class EpochMachine:
    """One node's part in agreeing on epochs.

    Args:
        author: signs our presences.
        expected: how many members the manifest lists; 0 if it leaves that open.
        minimum: fewest members of a roster.
        colluders: how many members of a group may be malicious together.
        is_member: whether a connected peer is admitted, now.
        standing: what the author of a presence with this ticket is.
        epoch: where to begin.
        check: raises RevocationError for a revocation that the manifest does not allow.
        grounds: who was excluded before a restart, and why.
        patience: what is known of the neighbours; nothing by default.

    Its driver sets ``committed`` while it has handed out a contribution and must not be torn out of the
    epoch.
    """

    def __init__(
        self,
        *,
        author: Author,
        expected: int,
        minimum: int,
        colluders: int,
        timing: Timing,
        is_member: Callable[[PeerId], bool],
        standing: Callable[[PeerId, str], Standing],
        epoch: int,
        check: Callable[[Revocation], None],
        grounds: Iterable[Ground] = (),
        patience: Patience | None = None,
    ) -> None:
        self.current: Epoch | None = None
        self.committed = False
        self._author, self._me = author, author.identity.peer_id
        self._remembers_nothing = epoch == 0
        self._expected, self._minimum, self._colluders = expected, minimum, colluders
        self._timing, self._patience = timing, patience or Patience()
        self._out: list[Effect] = []
        self._exchange = Exchange(
            author.federation, self._me, is_member, standing, epoch, self._emit, check, grounds
        )
        self._exchange.round = epoch * timing.epoch_rounds
        self._neighbours = self._exchange.neighbours
        self._opens_at: float | None = None  # we gather from then on; None: we do, or we run
        self._joins_until: float | None = None  # closed; until then we wait for the previous roster
        self._started = self._opened = self._patience_from = self._beat_at = 0.0
        self._behind_since: float | None = None
        self._changed = b"", 0.0  # what we gather when we have just started, and since when
        self._complete_since: float | None = None
        self._complete: dict[bytes, float] = {}
        self._agreed: tuple[bytes, float] | None = None
        self._said = ""

    # What the driver calls.

    def start(self, now: float) -> list[Effect]:
        """Begin. Our first presence waits a moment: after a restart neighbours may still hold the one before
        it.
        """
        self._started = now
        self._opens_at = now + SETTLE_SECONDS
        self._timer("open", self._opens_at)
        self._beat(now)
        return self._drain()

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event at ``now`` and say what is to be done.

        Raises:
            RemoteProtocolError: the peer broke the protocol; nothing else has changed.
            LocalProtocolError: the driver did.
        """
        match event:
            case PeerFound(peer):
                self._exchange.greet(peer)
            case PeerLost(peer):
                self._exchange.lost(peer)
            case Delivered(ground):
                self._exchange.deliver(cast(Ground, ground), now)
            case Renewed(ticket):
                self._author = replace(self._author, ticket=ticket)
            case Received(peer, message):
                self._exchange.receive(peer, message, now)
            case TimerExpired(key) if key == TIMER_PREFIX + "tell":
                self._exchange.tell(now)
            case TimerExpired(key) if key == TIMER_PREFIX + "beat":
                if now >= self._beat_at:  # else one that was put off
                    self._beat(now)
            case TimerExpired():
                pass  # time is looked at after every event
            case _:
                raise LocalProtocolError(f"no event of an epoch: {type(event).__name__}")
        self._advance(now)
        return self._drain()

    def finish(self, now: float) -> list[Effect]:
        """The rounds of the current epoch are over for us: gather for the next one."""
        if self.current is None:
            raise LocalProtocolError("there is no epoch to finish")
        self._open(now)
        self._beat(now)
        self._advance(now)
        return self._drain()

    def announce(self, round: int, now: float) -> list[Effect]:
        """Tell the neighbours that we are in ``round``."""
        self._exchange.round = round
        self._exchange.tell(now)
        return self._drain()

    def accuse(self, found: Evidence, now: float) -> list[Effect]:
        """A member broke the protocol in a round: exclude it if what it signed proves that to everybody."""
        self._exchange.accuse(found, now)
        self._advance(now)
        return self._drain()

    # What the driver asks.

    @property
    def excluded(self) -> Set[PeerId]:
        """Who takes part in nothing any more: it contradicted itself, was revoked, or has another key."""
        return self._exchange.excluded.out

    @property
    def connected(self) -> tuple[PeerId, ...]:
        """The neighbours: connected, and members."""
        return self._neighbours.peers

    @property
    def newcomers(self) -> bool:
        """Whether somebody who is not on the current roster is there for the next epoch."""
        return self.current is not None and not self._exchange.gathering.authors <= set(self.current.roster)

    def round_of(self, peer: PeerId) -> int:
        """The round of the current epoch that ``peer`` says it is in.

        The end of the epoch if it has left it; −1 if it says nothing, is behind, or has another roster.
        """
        epoch = self.current
        if epoch is None:
            return -1
        end = (epoch.number + 1) * self._timing.epoch_rounds
        return self._neighbours.round_of(peer, epoch.number, epoch.digest, end)

    def elsewhere(self, peer: PeerId) -> bool:
        """Whether ``peer`` takes no part in the current epoch as we know it: it has another roster, or left
        the epoch out.
        """
        epoch = self.current
        return epoch is not None and self._neighbours.elsewhere(peer, epoch.number, epoch.digest)

    def reached(self) -> int:
        """The round that enough of the neighbours in our epoch are in or past, in the terms of
        :meth:`round_of`.
        """
        known = [round for round in map(self.round_of, self._neighbours.peers) if round >= 0]
        return _reached(known, enough(self._colluders, len(known)), -1)

    # Phases.

    def _advance(self, now: float) -> None:
        while self._step(now):
            pass

    def _step(self, now: float) -> bool:
        """Go one phase further if it is time; whether it was."""
        elsewhere = self._closed_elsewhere(now)
        if elsewhere is not None:
            self._close(elsewhere, now)
        elif self._joins_until is not None:
            return self._join(now, self._joins_until)
        elif self._opens_at is not None and now >= self._opens_at:
            self._open(now)
        elif self.current is not None or self._opens_at is not None:
            return False
        elif (later := self._later_epoch(now)) is not None:
            return self._follow(later, now)
        elif self._may_close(now):
            self._note_who_came()
            self._close(self._exchange.gathering, now)
        else:
            return False
        return True

    def _open(self, now: float) -> None:
        """Gather, ourselves included."""
        exchange, gathering = self._exchange, self._exchange.gathering
        self.current, self._opens_at, self._joins_until = None, None, None
        self._opened = self._patience_from = now
        self._behind_since = self._complete_since = self._agreed = None
        self._complete.clear()
        exchange.round = gathering.epoch * self._timing.epoch_rounds
        exchange.present = True
        if self._me not in gathering.authors:
            closed = exchange.closed
            known = closed is not None and closed.epoch + 1 == gathering.epoch
            previous = closed.digest if closed is not None and known else NOTHING
            exchange.publish(self._author.presence(gathering.epoch, previous), now)
        exchange.tell(now)

    def _close(self, roster: PresenceSet, now: float) -> None:
        """This is the roster of its epoch; begin it if we are on it, gather for the next one if not."""
        exchange = self._exchange
        exchange.close(roster)
        self.current = self._joins_until = None
        if self._me in roster.roster:
            self._opens_at = None
            exchange.lacking = roster.previous_roster(self._colluders)
            self._joins_until = now + self._timing.gather_seconds
        else:
            self._say(f"epoch {roster.epoch} is under way without us, we join the next one")
            self._opens_at = now
        exchange.tell(now)
        exchange.beat(now)

    def _join(self, now: float, until: float) -> bool:
        """Begin the closed epoch once its beacon can be drawn, or leave it out if that takes too long."""
        exchange, closed = self._exchange, self._exchange.closed
        assert closed is not None
        previous = None
        if exchange.lacking is not None:
            previous = exchange.content(closed.epoch - 1, exchange.lacking)
            if previous is None and now < until:
                return False
        self._joins_until = None
        if exchange.lacking is not None and previous is None:
            self._say(f"epoch {closed.epoch}: nobody had the roster before it, we join the next one")
            self._opens_at = now
            return True
        exchange.lacking = None
        self._said = ""
        self.current = Epoch(closed.epoch, closed.roster, closed.digest, closed.beacon(previous))
        self._emit(EpochBegan(closed.epoch, closed.epoch * self._timing.epoch_rounds, closed.roster))
        return True

    # When to close.

    def _may_close(self, now: float) -> bool:
        """Whether what we have gathered may be the roster."""
        gathering = self._exchange.gathering
        roster = gathering.roster
        incomplete = self._incomplete(len(roster), now)
        if incomplete or self._me not in roster or len(roster) < self._minimum:
            self._complete_since = self._agreed = None
            return False
        digest = gathering.digest
        self._complete_since = now if self._complete_since is None else self._complete_since
        self._complete[digest] = now
        if not self._neighbours.agree(gathering.epoch, digest, now - _FRESH_SECONDS):
            self._agreed = None
        elif self._agreed is None or self._agreed[0] != digest:
            self._agreed = digest, now
            self._timer("settled", now + SETTLE_SECONDS)
        settled = self._agreed is not None and now >= self._agreed[1] + SETTLE_SECONDS
        return settled or now >= self._complete_since + self._timing.gather_seconds

    def _incomplete(self, count: int, now: float) -> bool:
        """Whether there is still somebody to wait for."""
        gathering = self._exchange.gathering
        absent = self._neighbours.absent(gathering.epoch, gathering.authors, now - _FRESH_SECONDS)
        if len(absent.busy) >= self._enough and self._exchange.closed is not None:
            self._patience_from = now
        elif count < self._minimum and now >= self._opened + 2 * SETTLE_SECONDS:
            self._say(f"{count} of at least {self._minimum} members are here")
        waited = now - self._patience_from
        busy = waited < self._timing.round_seconds and self._awaited(absent.busy, now)
        if busy or (waited < self._timing.gather_seconds and self._awaited(absent.silent, now)):
            return True
        known = count + self._exchange.excluded.vacant
        first = self._exchange.closed is None and not 0 < self._expected <= known
        return first and now < self._started + self._timing.gather_seconds and not self._is_quiet(now)

    def _is_quiet(self, now: float) -> bool:
        """Whether nobody has come for a third of the time that we wait at first, and nobody is further on."""
        if self._exchange.gathering.digest != self._changed[0]:
            self._changed = self._exchange.gathering.digest, now
        return not self._exchange.later() and now >= self._changed[1] + self._timing.gather_seconds / 3

    def _awaited(self, peers: Iterable[PeerId], now: float) -> bool:
        """Whether one of them has neither gone mute nor let us wait in vain before."""
        epoch, patience = self._exchange.gathering.epoch, self._patience
        return any(patience.epochs.trusts(p, epoch) and not patience.is_silent(p, now) for p in peers)

    def _note_who_came(self) -> None:
        """Of the neighbours, now that the set we gathered is closed."""
        gathering, peers = self._exchange.gathering, self._neighbours.peers
        absent = self._neighbours.absent(gathering.epoch, gathering.authors, 0.0)
        self._patience.epochs.missed(absent.busy | absent.silent, gathering.epoch, len(peers))
        self._patience.epochs.kept(peer for peer in peers if peer in gathering.authors)

    def _closed_elsewhere(self, now: float) -> PresenceSet | None:
        """A roster that our neighbours have closed and that we should take: of a later epoch, or instead of
        ours.
        """
        if self.committed:
            return None
        found: list[tuple[int, int, bytes, PresenceSet]] = []
        for (epoch, digest), peers in self._neighbours.claims().items():
            content = self._exchange.content(epoch, digest)
            if (
                content is not None
                and self._preferable(epoch, digest, len(peers), now)
                and len(content.roster) >= self._minimum
            ):
                found.append((epoch, len(peers), digest, content))
        return max(found, key=lambda entry: entry[:3])[3] if found else None

    def _preferable(self, epoch: int, digest: bytes, peers: int, now: float) -> bool:
        """Whether the claim of so many peers that this roster is closed should move us."""
        gathering, closed = self._exchange.gathering.epoch, self._exchange.closed
        if epoch == gathering - 1:
            if closed is None or closed.epoch != epoch or closed.digest == digest:
                return False
            ours = 1 + len(self._neighbours.claims().get((epoch, closed.digest), ()))
            return peers >= self._enough and peers > ours
        if self.current is not None or not gathering <= epoch <= gathering + MAX_LEAP:
            return False
        near = epoch <= gathering + 1 or self._newcomer
        if peers >= (self._enough if near else enough(self._colluders, len(self._neighbours.reports))):
            return True
        # A single neighbour may be right, too: about what we held complete a moment ago, or if there is
        # nobody else.
        lately = self._complete.get(digest)
        if epoch == gathering and lately is not None and now <= lately + 2 * SETTLE_SECONDS:
            return True
        return self._neighbours.unanimous((epoch, digest), now - self._timing.gather_seconds)

    # When to follow.

    def _later_epoch(self, now: float) -> int | None:
        """An epoch after the one we gather for in which we should be; then we close no roster of this one."""
        exchange, later = self._exchange, self._exchange.later()
        found = here = exchange.gathering.epoch
        alone = len(exchange.gathering.roster) < self._minimum
        stranded = alone and now >= self._opened + self._timing.gather_seconds
        if not (stranded or self._newcomer):
            found = _reached(later, enough(self._colluders, len(self._neighbours.reports)), here)
        elif now >= self._started + self._timing.gather_seconds:
            found = _reached(later, self._minimum, here + 1 if later and stranded else here)
        if found > here:
            return found
        self._behind_since = None
        return None

    def _follow(self, epoch: int, now: float) -> bool:
        """Gather for a later epoch, unless its closed roster, which is worth more, may be on its way."""
        self._behind_since = now if self._behind_since is None else self._behind_since
        if now < self._behind_since + SETTLE_SECONDS:
            return False
        self._exchange.leap(epoch)
        self._open(now)
        return True

    # Small things.

    @property
    def _newcomer(self) -> bool:
        """Whether we have never been in an epoch, and so have none to be dragged away from."""
        return self._remembers_nothing and self._exchange.closed is None

    @property
    def _enough(self) -> int:
        """How many neighbours in an epoch must say the same of it to move us."""
        return enough(self._colluders, self._neighbours.members)

    def _beat(self, now: float) -> None:
        self._beat_at = now + (BEAT_SECONDS if self.current is None else HEARTBEAT_SECONDS)
        self._timer("beat", self._beat_at)
        self._exchange.beat(now)

    def _say(self, reason: str) -> None:
        if reason != self._said:
            self._said = reason
            self._emit(Waiting(reason))

    def _timer(self, name: str, at: float) -> None:
        self._emit(SetTimer(TIMER_PREFIX + name, at))

    def _emit(self, effect: Effect) -> None:
        self._out.append(effect)

    def _drain(self) -> list[Effect]:
        drained, self._out[:] = self._out[:], []
        return drained


def _reached(numbers: Iterable[int], needed: int, otherwise: int) -> int:
    """The number that ``needed`` of them are at or past."""
    ordered = sorted(numbers, reverse=True)
    return ordered[needed - 1] if len(ordered) >= needed else otherwise
