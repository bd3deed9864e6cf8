"""How long a node waits for others: no longer than they really take, and for nobody who lets it wait.

The manifest bounds every wait from above. Below that, a node learns: how long its neighbours take in each
phase (:class:`Durations`), which of them let it wait in vain (:class:`Trust`), and which say nothing at all
(:class:`Patience`). All of this is one node's own opinion, from what it saw itself: it is never told to
anybody, nobody can spread it, and it changes how long *we* wait, never who is a member.

**How long.** A neighbour is expected to take its median plus four times its spread (the median deviation,
as that of a normal distribution), of its last sixteen times. Those who were not seen often enough, and
those who are far slower than the rest, are given :data:`SLOW` times what is usual among all, and no less
than :data:`LEAST_SECONDS`. So fewer than half of the neighbours can neither shorten nor stretch what is
usual.

**In vain.** Whoever lets a deadline pass is not waited for from then on, until it was in time again. With
every such strike that takes twice as many times. Otherwise it is tried again in the rounds whose number is
a multiple of 4 to the power of its strikes: all who have found it late as often try it together, and one
that is always late costs a deadline a handful of times in ten thousand rounds. If more than half of the
others are late at once nobody is struck: then it is more likely us, or the network between us.

**Ourselves.** A node that was stopped or overloaded finds all its timers run out at once, and what the
others sent still to be read. :class:`OwnTime` is the time that we were awake for: it stands still while we
are late, so our own deadlines move on before anybody is blamed.
"""

import heapq
from collections import deque
from collections.abc import Collection, Iterable, Set
from dataclasses import dataclass
from enum import Enum, auto
from statistics import median
from typing import Final

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.events import Effect, Event, SetTimer, TimerExpired

LEAST_SECONDS: Final = 3.0
"""No deadline is set shorter, unless the manifest's is: a packet lost twice on the way takes as long."""
SILENT_SECONDS: Final = 6.0
"""A neighbour that has said nothing for so long is not waited for; all say something every few seconds."""
LATE_SECONDS: Final = 0.5
"""A timer that comes later than this shows that we were not awake."""
GRACE_SECONDS: Final = 0.25
"""How long a member that is not trusted is still waited for, at least, if it :meth:`Trust.deserves` that."""
SLOW: Final = 5
"""How many times the usual time anybody is given."""
_SPREADS: Final = 4
_NORMAL: Final = 1.4826  # of a median deviation, to a standard deviation
_KEPT, _POOLED = 16, 64  # times that are remembered: of one neighbour, of all together
_KNOWN, _USUAL = 3, 6  # how many of them say something
_MOST_STRIKES: Final = 6
_HOPELESS: Final = 3  # strikes, with which a member has to be in time to be waited for at all
_FORGIVEN: Final = 16  # times in a row that it was in time, for which a strike is forgotten
_MOST_NEIGHBOURS: Final = 512


class Phase(Enum):
    """What neighbours take their time for."""

    READY = auto()
    """From the beginning of the round to its ready: training, most of all."""
    SHARE = auto()
    """From the roster to its bundle."""
    MASKED = auto()
    """From the commitment point to the last piece of its vector."""


class Durations:
    """How long the neighbours took, lately, by phase."""

    def __init__(self) -> None:
        self._by_peer: dict[tuple[Phase, PeerId], deque[float]] = {}
        self._pooled = {phase: deque[float](maxlen=_POOLED) for phase in Phase}

    def took(self, phase: Phase, peer: PeerId, seconds: float) -> None:
        """Note one time; below zero, of somebody who was there before us, counts as none."""
        key, taken = (phase, peer), max(0.0, seconds)
        kept = self._by_peer.pop(key, None) or deque[float](maxlen=_KEPT)
        self._by_peer[key] = kept
        kept.append(taken)
        self._pooled[phase].append(taken)
        while len(self._by_peer) > len(Phase) * _MOST_NEIGHBOURS:
            del self._by_peer[next(iter(self._by_peer))]

    def usual(self, phase: Phase) -> float:
        """What all together take, as a rule; 0 as long as nothing is known."""
        pooled = self._pooled[phase]
        return median(pooled) if len(pooled) >= _USUAL else 0.0

    def expected(self, phase: Phase, peers: Iterable[PeerId], most: float) -> float:
        """When all of ``peers`` should be done, in seconds; ``most`` as long as nothing is known."""
        pooled = self._pooled[phase]
        if len(pooled) < _USUAL:
            return most
        longest = max(LEAST_SECONDS, SLOW * median(pooled))
        each = (self._by_peer.get((phase, peer), ()) for peer in peers)
        expected = (_usual_of(times) if len(times) >= _KNOWN else longest for times in each)
        return min(most, longest, max(LEAST_SECONDS, *expected, 0.0))


def _usual_of(times: Collection[float]) -> float:
    middle = median(times)
    return middle + _SPREADS * _NORMAL * median(abs(time - middle) for time in times)


@dataclass(slots=True)
class _Record:
    strikes: int
    struck_at: int
    in_time: int = 0  # in a row, since then


class Trust:
    """Who lets us wait in vain. Time counts in rounds, or in epochs: ``at``."""

    def __init__(self) -> None:
        self._records: dict[PeerId, _Record] = {}
        self._excused: set[PeerId] = set()

    def unexcused(self, late: Set[PeerId], excused: Set[PeerId]) -> Set[PeerId]:
        """Those of ``late`` without an excuse; one counts until it was in time again."""
        once = excused - self._excused
        self._excused |= once
        return late - once

    def missed(self, peers: Collection[PeerId], at: int, others: int) -> None:
        """These let a deadline pass, of so many others; if they are more than half, it is not held against
        them.
        """
        if 2 * len(peers) > others:
            return
        for peer in peers:
            record = self._records.pop(peer, None)
            strikes = 1 if record is None else min(record.strikes + 1, _MOST_STRIKES)
            self._records[peer] = _Record(strikes, at)
        while len(self._records) > _MOST_NEIGHBOURS:
            del self._records[next(iter(self._records))]

    def kept(self, peers: Iterable[PeerId]) -> None:
        """These were in time."""
        for peer in peers:
            self._excused.discard(peer)
            record = self._records.get(peer)
            if record is None:
                continue
            record.in_time += 1
            if record.in_time >= max(_FORGIVEN, 1 << record.strikes):
                record.strikes -= 1
                record.in_time = 1 << record.strikes >> 1
            if record.strikes == 0:
                del self._records[peer]

    def passed_over(self, peers: Iterable[PeerId]) -> None:
        """It went on without these, whether or not they were waited for."""
        for peer in peers:
            if peer in self._records:
                self._records[peer].in_time = 0

    def trusts(self, peer: PeerId, at: int) -> bool:
        """Whether to wait for it now."""
        record = self._records.get(peer)
        if record is None:
            return True
        every = 4**record.strikes
        tried_again = at % every == 0 and at - record.struck_at > every / 2
        return tried_again or record.in_time >= 1 << (record.strikes - 1)

    def deserves(self, peer: PeerId, at: int) -> bool:
        """Whether to give it a moment now if it is not trusted: it has not struck often, or was in time for
        the last, or it is its turn.
        """
        record = self._records.get(peer)
        return (
            record is None
            or record.strikes < _HOPELESS
            or record.in_time > 0
            or at % (1 << record.strikes) == 0
        )

    def strikes(self, peer: PeerId) -> int:
        """How often it let us wait, less what is forgotten."""
        record = self._records.get(peer)
        return 0 if record is None else record.strikes


class Patience:
    """What one node has learned of its neighbours, over all rounds."""

    def __init__(self) -> None:
        self.durations = Durations()
        self.rounds, self.sums, self.epochs = Trust(), Trust(), Trust()
        """Who is late for a group; who goes silent within a sum; who is late for an epoch."""
        self._heard_at: dict[PeerId, float] = {}

    def heard(self, peer: PeerId, now: float) -> None:
        """It has said something."""
        self._heard_at[peer] = now

    def connected(self, peer: PeerId, is_connected: bool, now: float) -> None:
        """There is a connection to it, which is a sign of life; or there is none any more."""
        if is_connected:
            self._heard_at[peer] = now
        else:
            self._heard_at.pop(peer, None)

    def silent_from(self, peer: PeerId) -> float:
        """When it counts as silent if it says nothing more."""
        return self._heard_at.get(peer, float("inf")) + SILENT_SECONDS

    def is_silent(self, peer: PeerId, now: float) -> bool:
        """Whether it is connected, and mute."""
        return now >= self.silent_from(peer)


class OwnTime:
    """The time that we were awake for, from that of the driver; see above. Both never run backwards.

    :meth:`look` at every event, ask whether its timer :meth:`is_early`, and :meth:`set` all timers.
    """

    def __init__(self) -> None:
        self._slept = self._looked_at = 0.0
        # Of each timer: when it is due by our time, what we had slept when it was set, and when the driver
        # fires it.
        self._due: dict[str, tuple[float, float, float]] = {}
        self._coming: list[tuple[float, str]] = []  # soonest first; some were set anew since

    def look(self, now: float) -> float:
        """What time it is for us."""
        late, self._looked_at = 0.0, now
        while self._coming and self._coming[0][0] <= now:
            at, key = heapq.heappop(self._coming)
            if key in self._due and self._due[key][2] == at:  # else it was set anew since, or has come
                late = max(late, now - at)
        if late > LATE_SECONDS:
            self._slept += late
        return now - self._slept

    def is_early(self, event: Event, own: float) -> SetTimer | None:
        """The timer to be set again, if ``event`` is that of one that was set before we slept."""
        if not isinstance(event, TimerExpired):
            return None
        due, slept, _ = self._due.pop(event.key, (own, self._slept, own))
        return SetTimer(event.key, due) if slept < self._slept and own < due else None

    def set(self, effect: Effect) -> Effect:
        """The effect with its time on the driver's clock."""
        if not isinstance(effect, SetTimer):
            return effect
        at = effect.at + self._slept
        fires = max(at, self._looked_at)
        self._due[effect.key] = effect.at, self._slept, fires
        heapq.heappush(self._coming, (fires, effect.key))
        return SetTimer(effect.key, at)
