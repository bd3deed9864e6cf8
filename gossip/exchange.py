"""Spreading presences: every node passes on what is new, and asks where digests differ.

Everybody brings its own presence to all its neighbours, and passes on a new one of somebody else to a few
of them, others every time (fast, wherever most are connected to most); digests are compared again and
again, and a few neighbours whose digest differs are asked for all they have (anti-entropy, sure: it reaches
those who are connected to few, and heals the loss of any message, and partitions). What a neighbour hands
on is signed by its authors, so nobody can alter it, only withhold it.

A presence shows by itself that its author is a member (:class:`~p2pfl.gossip.tickets.Standing`), so it counts
with everybody, whoever has a connection to the author. What every node refuses no honest one passes on: a
presence that nothing admits costs its bringer the connection, and reaches nobody else through us. A ticket
that has expired by our clock may be good by our neighbour's; such a presence is ignored, and nobody is to
blame. Nor is it held against a roster that others have closed: they took it in when it was good.

**Excluded** is who contradicted itself, was revoked, or left its place to another key
(:mod:`p2pfl.gossip.exclusions`). Whoever learns of it shows the ground to all its neighbours, once to each,
to those who connect later, and again to who brings a presence of the excluded. So it reaches everybody, and
with it the same gathered sets: the excluded leaves them. Rosters closed before stay as they are, and are
taken over with the excluded in them; it is just not there any more. As others show us grounds against no more
than a member each, none twice, and grounds that hold nothing cost the connection, nobody can fill the memory
with them. That a key took the place of another shows in its presences, too.

This holds the sets; when they are opened and closed is for :mod:`p2pfl.gossip.epoch` to say.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
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
from p2pfl.gossip.evidence import Accusation, contradiction
from p2pfl.gossip.exclusions import Exclusions, Ground, Retirement
from p2pfl.gossip.neighbours import Neighbours
from p2pfl.gossip.presences import Added, PresenceSet
from p2pfl.gossip.revocations import Revocation, RevocationError
from p2pfl.gossip.successions import PREFIX as SUCCESSION
from p2pfl.gossip.tickets import Standing, TicketError, parse_credentials_untrusted

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

    ``is_member`` says whether a connected peer is admitted, now; ``standing`` what the author of a presence
    with this ticket is. Effects go to ``emit``. ``present`` and ``round`` are told to the neighbours;
    ``lacking`` is the digest of an earlier roster that is to be fetched. ``check`` raises RevocationError for
    a revocation that the manifest does not allow. ``grounds`` are those that were known before a restart.
    """

    def __init__(
        self,
        federation: bytes,
        me: PeerId,
        is_member: Callable[[PeerId], bool],
        standing: Callable[[PeerId, str], Standing],
        epoch: int,
        emit: Callable[[Effect], None],
        check: Callable[[Revocation], None],
        grounds: Iterable[Ground] = (),
    ) -> None:
        # Each shows its own; with another key, it was another author that wrote them down.
        self.excluded = Exclusions(replace(ground, author=me) for ground in grounds)
        self.neighbours = Neighbours(self._admits)
        self.gathering = PresenceSet(federation, epoch)
        self.closed: PresenceSet | None = None
        self.present = False
        self.round = 0
        self.lacking: bytes | None = None
        self._federation, self._me, self._emit = federation, me, emit
        self._is_member, self._standing, self._check = is_member, standing, check
        self._archive: dict[bytes, PresenceSet] = {}
        self._offers: dict[bytes, PresenceSet] = {}
        self._ahead: dict[PeerId, Presence] = {}
        self._located: dict[PeerId, tuple[tuple[str, ...], float]] = {}
        # When each of them was last sent which set, by digest, or which ground, by the excluded.
        self._answered: dict[PeerId, dict[bytes | PeerId, float]] = {}
        self._told_at = 0.0
        self._tell_due = False
        self._turn = sum(me.encode())  # so that not all of us begin with the same neighbours

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

    # Exclusion.

    def accuse(self, found: Evidence, now: float) -> None:
        """Somebody broke the protocol: exclude it if what it signed proves that to everybody."""
        proof, ticket = contradiction(found.messages), self._ticket_of(found.peer)
        if proof is None or self._standing(found.peer, ticket) is Standing.STRANGER:
            self._emit(found)
        else:
            self._exclude(self._me, Accusation(self._me, ticket, proof), now)

    def deliver(self, ground: Ground, now: float) -> None:
        """Our operator hands in a ground that holds."""
        self._exclude(self._me, replace(ground, author=self._me), now)

    def _hear_ground(self, peer: PeerId, shown: Ground, now: float) -> None:
        match shown:
            case Accusation():
                stranger, who = self._standing(_holder(shown), shown.ticket), shown.accused
            case Retirement():
                stranger, who = self._standing(shown.successor, shown.ticket), shown.successor
            case Revocation():
                stranger, who = self._allowed(peer, shown), shown.against
        if stranger is Standing.STRANGER:
            raise RemoteProtocolError(peer, f"{_article(shown.TAG)} of {who}, whom nothing admits")
        if isinstance(shown, Accusation) and self._is_of_no_place(peer, shown, now):
            return
        self._exclude(peer, replace(shown, author=self._me), now)

    def _is_of_no_place(self, peer: PeerId, shown: Accusation, now: float) -> bool:
        """Whether the accused has its place of a key that is proved against, as the credentials shown say: a
        place has any number of such keys, and none of them counts.
        """
        if SUCCESSION not in shown.ticket:
            return False
        credentials = parse_credentials_untrusted(shown.ticket)  # its standing was found already
        self._exclude(peer, Retirement(self._me, credentials), now)
        names = credentials.names(self._federation, _holder(shown))
        return self.excluded.proof_against(names[names.index(shown.accused) + 1 :]) is not None

    def _allowed(self, peer: PeerId, shown: Revocation) -> Standing:
        """Who is revoked need not be known to anybody; who revokes must be."""
        try:
            self._check(shown)
        except RevocationError as error:
            raise RemoteProtocolError(peer, f"a revocation that does not hold: {error.reason}") from None
        return Standing.MEMBER

    def _exclude(self, source: PeerId, ground: Ground, now: float) -> None:
        out, conflict = self.excluded.add(ground), self.excluded.conflict(ground)
        if out is not None:
            for peer in self.neighbours.peers:  # the excluded, too: its operator may know nothing of it
                if peer != source:
                    self._send(peer, ground)
            for peer in out:
                self.neighbours.lost(peer)
                self.gathering.drop(peer)
                self._ahead.pop(peer, None)
            self._tell_soon(now)
            kind = ground.kind if isinstance(ground, Accusation) else ground.why
            self._emit(Evidence(ground.against, kind, (ground,)))
        if conflict is not None and isinstance(ground, Retirement):
            # By these credentials everybody has a place for it, whatever others show of that key.
            self._exclude(self._me, Accusation(self._me, ground.ticket, conflict), now)

    def _learn_succession(self, peer: PeerId, presence: Presence, now: float) -> None:
        """Its author shows that it took the place of another key."""
        if SUCCESSION in presence.ticket:
            credentials = parse_credentials_untrusted(presence.ticket)  # its standing was found already
            self._exclude(peer, Retirement(self._me, credentials), now)

    def _knows_place(self, presence: Presence) -> bool:
        """Whether the keys whose place its author took are kept as replaced: else two could be here in one
        place.
        """
        return SUCCESSION not in presence.ticket or self.excluded.knows(
            parse_credentials_untrusted(presence.ticket)
        )

    def _ground_against(self, presence: Presence) -> Ground | None:
        """Why its author takes part no more, if it does not."""
        if presence.author in self.excluded:
            return self.excluded[presence.author]
        if SUCCESSION not in presence.ticket:
            return None
        names = parse_credentials_untrusted(presence.ticket).names(self._federation, presence.author)
        return self.excluded.proof_against(names)

    def _admits(self, peer: PeerId) -> bool:
        return peer not in self.excluded and self._is_member(peer)

    def _ticket_of(self, peer: PeerId) -> str:
        """What it showed last; empty if it is in none of our sets."""
        sets = (self.gathering, *reversed(self._archive.values()), *self._offers.values())
        return next((held.held(peer)[0].ticket for held in sets if held.held(peer)), "")

    # Messages.

    def greet(self, peer: PeerId) -> None:
        """There is a connection to ``peer`` now."""
        if self.neighbours.found(peer):
            for ground in self.excluded.grounds:
                self._send(peer, ground)
            self._send(peer, self._sync())
            if self.present:
                for presence in self.gathering.held(self._me):
                    self._send(peer, presence)

    def lost(self, peer: PeerId) -> None:
        """The connection to ``peer`` ended."""
        self.neighbours.lost(peer)

    def receive(self, peer: PeerId, message: object, now: float) -> None:
        """Take a message of these; raises RemoteProtocolError for what no honest member would send."""
        if not isinstance(message, EpochMessage | Ground):
            raise LocalProtocolError(f"no message of an epoch: {type(message).__name__}")
        if not self._admits(peer):
            raise RemoteProtocolError(peer, "not a member of this federation")
        if peer not in self.neighbours:
            return  # the connection has ended since
        match message:
            case Presence():
                self._take(peer, message, self._judged(peer, message), now)
            case Sync():
                self._hear(message, now)
            case Wanted():
                self._answer(peer, message, now)
            case Presences():
                self._collect(peer, message, now)
            case Accusation() | Revocation() | Retirement():
                self._hear_ground(peer, message, now)

    def _judged(self, peer: PeerId, presence: Presence) -> Standing:
        """What the author of a presence that ``peer`` brought is; raises unless it is or was a member."""
        if presence in self.gathering.held(presence.author):
            return Standing.MEMBER
        if presence.federation != self._federation:
            raise RemoteProtocolError(peer, "a presence in another federation")
        standing = self._standing(presence.author, presence.ticket)
        if standing is Standing.STRANGER:
            raise RemoteProtocolError(peer, f"a presence of {presence.author}, whom nothing admits")
        return standing

    def _take(self, peer: PeerId, presence: Presence, standing: Standing, now: float) -> None:
        author, leap = presence.author, presence.epoch - self.gathering.epoch
        self._learn_succession(peer, presence, now)
        if (ground := self._ground_against(presence)) is not None:
            if leap >= 0 and self._may_answer(peer, author, now):
                self._send(peer, ground)
            return
        if standing is not Standing.MEMBER or not self._knows_place(presence):
            return
        self._locate(presence, now)
        if leap == 0:
            self._add(peer, presence, now)
        elif 0 < leap <= MAX_LEAP:
            held = self._ahead.get(author)
            if len(self._ahead) < MAX_ROSTER if held is None else held.epoch < presence.epoch:
                self._ahead[author] = presence

    def _add(self, peer: PeerId, presence: Presence, now: float) -> None:
        author = presence.author
        added = Added.REFUSED if author in self.excluded else self.gathering.add(presence)
        both = self.gathering.held(author)
        if added is Added.SECOND and contradiction(both) is not None:
            self.accuse(Evidence(author, "two presences for one epoch", both), now)
        if added in (Added.KNOWN, Added.REFUSED) or author in self.excluded:
            return
        others = [other for other in self.neighbours.peers if other not in (peer, author)]
        everybody = author == self._me or added is Added.SECOND
        for other in others if everybody else self._some(others):
            self._send(other, presence)
        self._tell_soon(now)

    def _tell_soon(self, now: float) -> None:
        if not self._tell_due:
            self._tell_due = True
            self._emit(SetTimer(TIMER_PREFIX + "tell", now + TELL_SECONDS))

    def _locate(self, presence: Presence, now: float) -> None:
        """Let the driver know where the author is if that is news; at most once a while for each author, and
        of so many authors.
        """
        author, addresses = presence.author, presence.addresses
        known, since = self._located.get(author, ((), -math.inf))
        if author == self._me or addresses in (known, ()) or now < since + HEARTBEAT_SECONDS:
            return
        self._located.pop(author, None)
        while len(self._located) >= MAX_ROSTER:
            del self._located[next(iter(self._located))]
        self._located[author] = addresses, now
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
        if found is not None and self._may_answer(peer, found.digest, now):
            self._send(peer, Presences(self._me, found.all()))

    def _may_answer(self, peer: PeerId, what: bytes | PeerId, now: float) -> bool:
        """Whether ``peer`` was not sent the same a moment ago; it is now."""
        sent = {w: at for w, at in self._answered.get(peer, {}).items() if now < at + BEAT_SECONDS / 2}
        self._answered[peer] = {**sent, what: sent.get(what, now)}
        return what not in sent

    def _collect(self, peer: PeerId, answer: Presences, now: float) -> None:
        epochs = {presence.epoch for presence in answer.presences}
        if len(epochs) > 1:
            raise RemoteProtocolError(peer, "presences that do not belong together")
        standings = [self._judged(peer, presence) for presence in answer.presences]
        claims = self.neighbours.claims()
        for epoch in epochs:
            offer = PresenceSet(self._federation, epoch, answer.presences)
            offers = {**self._offers, offer.digest: offer}
            self._offers = {
                digest: held
                for digest, held in offers.items()
                if digest == self.lacking or (held.epoch, digest) in claims
            }
        for presence, standing in zip(answer.presences, standings, strict=True):
            self._take(peer, presence, standing, now)

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
        if report.closed != NOTHING and report.epoch > 0 and self.content(*closed) is None:
            self._send(report.author, Wanted(self._me, *closed))
        if report.epoch > self.gathering.epoch:
            self._send(report.author, Wanted(self._me, report.epoch, report.digest))

    def _some(self, items: Sequence[_T]) -> list[_T]:
        """At most FANOUT of ``items``, others every time."""
        self._turn += FANOUT
        start = self._turn % max(1, len(items))
        return [*items[start:], *items[:start]][:FANOUT]

    def _sync(self) -> Sync:
        gathering, closed, before = self.gathering, self.closed, NOTHING
        if closed is not None and closed.epoch + 1 == gathering.epoch and self._me in closed.roster:
            before = closed.digest
        return Sync(self._me, gathering.epoch, gathering.digest, self.present, before, self.round)

    def _send(self, peer: PeerId, message: EpochMessage | Ground) -> None:
        self._emit(Send(peer, message))


def _holder(shown: Accusation) -> PeerId:
    """Whose credentials it shows: those of the accused, or of a key that took its place."""
    try:
        chain = parse_credentials_untrusted(shown.ticket).successions
    except TicketError:
        return shown.accused
    took_it = any(succession.author == shown.accused for succession in chain)
    return chain[0].successor if took_it else shown.accused


def _article(tag: str) -> str:
    return f"an {tag}" if tag[0] in "aeiou" else f"a {tag}"
