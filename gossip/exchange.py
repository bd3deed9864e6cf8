"""Spreading presences: every node passes on what is new, and asks where digests differ.

New presences go to all neighbours at once (flooding, fast); digests are compared again and again, and a few
neighbours whose digest differs are asked for all they have (anti-entropy, sure: it heals the loss of any
message, and partitions). What a neighbour hands on is signed by its authors, so nobody can alter it, only
withhold it.

This holds the sets; when they are opened and closed is for :mod:`p2pfl.gossip.epoch` to say.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.epoch_messages import (
    MAX_ROSTER,
    NOTHING,
    EpochMessage,
    Presence,
    Presences,
    Sync,
    Wanted,
)
from p2pfl.gossip.errors import LocalProtocolError, RemoteProtocolError
from p2pfl.gossip.events import Connect, Effect, Evidence, Send, SetTimer
from p2pfl.gossip.neighbours import Neighbours
from p2pfl.gossip.presences import Added, PresenceSet

TIMER_PREFIX: Final = "epoch/"
TELL_SECONDS: Final = 0.05
"""How long news of a change waits for more of them."""
BEAT_SECONDS: Final = 0.25
"""How often neighbours whose digest differs are asked for what they have."""
HEARTBEAT_SECONDS: Final = 2.0
"""How often everybody is told where we are even if nothing has changed."""
FANOUT: Final = 3
"""How many neighbours are asked at a time; each answer may carry a whole roster."""
MAX_LEAP: Final = 100_000
"""Presences further ahead are ignored. A federation with an epoch a minute gets there in ten weeks."""
_ARCHIVED: Final = 3  # the roster in use, the one before it for its beacon, and one for those who are behind

_T = TypeVar("_T")


class Exchange:
    """The presences that one node holds, and its talk about them.

    Effects go to ``emit``. ``present`` and ``round`` are told to the neighbours; ``lacking`` is the digest of
    an earlier roster that is to be fetched.
    """

    def __init__(
        self,
        federation: bytes,
        me: PeerId,
        is_member: Callable[[PeerId], bool],
        epoch: int,
        emit: Callable[[Effect], None],
    ) -> None:
        self.neighbours = Neighbours(is_member)
        self.gathering = PresenceSet(federation, epoch)
        self.closed: PresenceSet | None = None
        self.present = False
        self.round = 0
        self.lacking: bytes | None = None
        self._federation, self._me, self._is_member, self._emit = federation, me, is_member, emit
        self._archive: dict[bytes, PresenceSet] = {}
        self._offers: dict[bytes, PresenceSet] = {}
        self._ahead: dict[PeerId, Presence] = {}
        self._dialled: dict[PeerId, tuple[str, ...]] = {}
        self._answered: dict[PeerId, tuple[bytes, float]] = {}
        self._told_at = 0.0
        self._tell_due = False
        self._turn = 0

    # The sets.

    def publish(self, presence: Presence, now: float) -> None:
        """Our own presence for the epoch that is gathered for."""
        self._add(self._me, presence, now)

    def close(self, roster: PresenceSet) -> None:
        """This roster is settled. If it is a new one, gather for the epoch after it."""
        self.closed = roster
        archive = [*(held for held in self._archive.values() if held.digest != roster.digest), roster]
        self._archive = {held.digest: held for held in archive[-_ARCHIVED:]}
        if roster.epoch >= self.gathering.epoch:
            self.leap(roster.epoch + 1)

    def leap(self, epoch: int) -> None:
        """Gather for ``epoch``, beginning with the presences for it that came early."""
        self.present = False
        self.gathering = PresenceSet(self._federation, epoch)
        for presence in self._ahead.values():
            if presence.epoch == epoch:
                self.gathering.add(presence)
        self._ahead = {author: p for author, p in self._ahead.items() if p.epoch > epoch}

    def content(self, epoch: int, digest: bytes) -> PresenceSet | None:
        """The presences of ``epoch`` with this digest, if they are here."""
        for held in (self._archive.get(digest), self._offers.get(digest), self.gathering):
            if held is not None and (held.epoch, held.digest) == (epoch, digest):
                return held
        return None

    def later(self) -> list[int]:
        """Epochs after the one gathered for, one for each member whose presence says that it is there."""
        return [presence.epoch for presence in self._ahead.values()]

    def is_admissible(self, roster: PresenceSet) -> bool:
        """Whether it holds nobody who is not a member, as far as we know."""
        return all(author == self._me or self._is_member(author) for author in roster.authors)

    # Messages.

    def greet(self, peer: PeerId) -> None:
        """There is a connection to ``peer`` now."""
        if self.neighbours.found(peer):
            self._send(peer, self._sync())
            if self.present:
                for presence in self.gathering.held(self._me):
                    self._send(peer, presence)

    def lost(self, peer: PeerId) -> None:
        """The connection to ``peer`` ended."""
        self.neighbours.lost(peer)
        known = self.gathering.held(peer) or (() if self.closed is None else self.closed.held(peer))
        for presence in known[:1]:
            self._dial(presence)

    def receive(self, peer: PeerId, message: object, now: float) -> None:
        """Take a message of these; raises RemoteProtocolError for what no honest member would send."""
        if not isinstance(message, EpochMessage):
            raise LocalProtocolError(f"no message of an epoch: {type(message).__name__}")
        if not self._is_member(peer):
            raise RemoteProtocolError(peer, "not a member of this federation")
        if peer not in self.neighbours:
            return  # the connection has ended since
        match message:
            case Presence():
                self._take(peer, message, now)
            case Sync():
                self._hear(message, now)
            case Wanted():
                self._answer(peer, message, now)
            case Presences():
                self._collect(peer, message, now)

    def _take(self, peer: PeerId, presence: Presence, now: float) -> None:
        if presence.federation != self._federation:
            raise RemoteProtocolError(peer, "a presence in another federation")
        self._dial(presence)
        author, leap = presence.author, presence.epoch - self.gathering.epoch
        if author != self._me and not self._is_member(author):
            return
        if leap == 0:
            self._add(peer, presence, now)
        elif 0 < leap <= MAX_LEAP:
            held = self._ahead.get(author)
            if len(self._ahead) < MAX_ROSTER if held is None else held.epoch < presence.epoch:
                self._ahead[author] = presence

    def _add(self, peer: PeerId, presence: Presence, now: float) -> None:
        added = self.gathering.add(presence)
        if added in (Added.KNOWN, Added.REFUSED):
            return
        for other in self.neighbours.peers:
            if other not in (peer, presence.author):
                self._send(other, presence)
        if not self._tell_due:
            self._tell_due = True
            self._emit(SetTimer(TIMER_PREFIX + "tell", now + TELL_SECONDS))
        both = self.gathering.held(presence.author)
        if added is Added.SECOND and presence.author != self._me and both[0].contradicts(both[1]):
            self._emit(Evidence(presence.author, "two presences for one epoch", both))

    def _dial(self, presence: Presence) -> None:
        """Ask for a connection to an author we have none to, once for every set of addresses."""
        author, addresses = presence.author, presence.addresses
        if author == self._me or author in self.neighbours or not addresses:
            return
        room = author in self._dialled or len(self._dialled) < 2 * MAX_ROSTER
        if room and self._dialled.get(author) != addresses:
            self._dialled[author] = addresses
            self._emit(Connect(author, addresses))

    def _hear(self, report: Sync, now: float) -> None:
        self.neighbours.heard(report, now)
        if report.epoch < self.gathering.epoch:
            self._send(report.author, self._sync())
        else:
            self._ask_for_news(report)

    def _answer(self, peer: PeerId, wanted: Wanted, now: float) -> None:
        epochs = [self.gathering] if self.closed is None else [self.gathering, self.closed]
        by_epoch = next((held for held in epochs if held.epoch == wanted.epoch), None)
        found = self._archive.get(wanted.digest, by_epoch)
        digest, at = self._answered.get(peer, (NOTHING, 0.0))
        if found is not None and (digest != found.digest or now >= at + BEAT_SECONDS / 2):
            self._answered[peer] = (found.digest, now)
            self._send(peer, Presences(self._me, found.all()))

    def _collect(self, peer: PeerId, answer: Presences, now: float) -> None:
        epochs = {presence.epoch for presence in answer.presences}
        if len(epochs) > 1 or any(p.federation != self._federation for p in answer.presences):
            raise RemoteProtocolError(peer, "presences that do not belong together")
        claims = self.neighbours.claims()
        for epoch in epochs:
            offer = PresenceSet(self._federation, epoch, answer.presences)
            offers = {**self._offers, offer.digest: offer}
            self._offers = {
                digest: held
                for digest, held in offers.items()
                if digest == self.lacking or (held.epoch, digest) in claims
            }
        for presence in answer.presences:
            self._take(peer, presence, now)

    # Telling and asking.

    def tell(self, now: float) -> None:
        """Tell all neighbours where we are."""
        self._told_at, self._tell_due = now, False
        for peer in self.neighbours.peers:
            self._send(peer, self._sync())

    def beat(self, now: float) -> None:
        """Heal what was lost: to be called every BEAT_SECONDS, or at least every HEARTBEAT_SECONDS."""
        if now >= self._told_at + HEARTBEAT_SECONDS:
            self.tell(now)
        epoch, digest = self.gathering.epoch, self.gathering.digest
        reports = self.neighbours.reports
        for report in self._some([r for r in reports if r.epoch == epoch and r.digest != digest]):
            self._send(report.author, self._sync())
            self._send(report.author, Wanted(self._me, epoch, report.digest))
        for report in self._some([r for r in reports if r.epoch >= epoch]):
            self._ask_for_news(report)
        if self.closed is not None and self.lacking is not None:
            named = {p.author for p in self.closed.all() if p.previous == self.lacking}
            for peer in self._some([peer for peer in self.neighbours.peers if peer in named]):
                self._send(peer, Wanted(self._me, self.closed.epoch - 1, self.lacking))

    def _ask_for_news(self, report: Sync) -> None:
        """Get the roster that a neighbour has closed and we have not, and the evidence of an epoch after
        ours.
        """
        closed = report.epoch - 1, report.closed
        if report.closed != NOTHING and self.content(*closed) is None:
            self._send(report.author, Wanted(self._me, *closed))
        if report.epoch > self.gathering.epoch:
            self._send(report.author, Wanted(self._me, report.epoch, report.digest))

    def _some(self, items: Sequence[_T]) -> list[_T]:
        """At most FANOUT of ``items``, others every time."""
        self._turn += FANOUT
        start = self._turn % max(1, len(items))
        return [*items[start:], *items[:start]][:FANOUT]

    def _sync(self) -> Sync:
        gathering, closed = self.gathering, self.closed
        before = closed.digest if closed is not None and closed.epoch + 1 == gathering.epoch else NOTHING
        return Sync(self._me, gathering.epoch, gathering.digest, self.present, before, self.round)

    def _send(self, peer: PeerId, message: EpochMessage) -> None:
        self._emit(Send(peer, message))
