"""Whom one member counts on in one round, and how long it waits for them.

The round machine asks: whose ready is waited for, who may be left out of a proposal although its ready is
there, how long the phases are. What happens in the round goes into the node's
:class:`~p2pfl.gossip.deadlines.Patience`.

**Left out** of a proposal, though ready, are those who went silent after an earlier roster: of this round;
or, in its first attempt, of rounds before, as long as they are not trusted again. Others may not have seen
that. They refuse such a proposal, so in later attempts a convener leaves out nobody whom the others have
not seen silent as well. Whoever has, accepts that it is left out by others. To be silent is to send nothing
at all between the roster and the deadline, not even after everybody else has shown the member the roster:
so a convener that keeps it from an honest member makes that one late, but not silent.

Nobody is left out, or not waited for, without whom there are too few.
"""

from collections.abc import Callable, Collection, Iterable, Set
from typing import Protocol

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.deadlines import GRACE_SECONDS, LEAST_SECONDS, Patience, Phase


class Timing(Protocol):
    """Upper bounds, in seconds."""

    @property
    def ready_seconds(self) -> float: ...
    @property
    def phase_seconds(self) -> float: ...


class Attendance:
    """One member's view of one round of a group; ``others`` are in it besides ``me``.

    ``begun``: when the round began for us, None: when we were prepared. ``minimum``: fewest members of a
    roster. ``round_of``: the round that a member says it is in, or −1.
    """

    def __init__(
        self,
        patience: Patience,
        round: int,
        me: PeerId,
        others: Collection[PeerId],
        minimum: int,
        timing: Timing,
        begun: float | None,
        round_of: Callable[[PeerId], int],
    ) -> None:
        self.patient_until = float("inf")
        """Until then readies are waited for."""
        self._patience, self._round, self._me, self._others = patience, round, me, tuple(others)
        self._minimum, self._timing, self._begun = minimum, timing, begun
        self._round_of = round_of
        self._attempt = 0
        self._called_at = 0.0
        self._silent: set[PeerId] = set()  # after a roster of this round
        self._heard: set[PeerId] = set()  # since the roster
        self._timed: set[tuple[Phase, PeerId]] = set()
        self._agreed_at = self._share_seconds = 0.0
        self._committed_at: float | None = None

    # What happens.

    def prepared(self, now: float) -> None:
        """We are ready."""
        self._begun = now if self._begun is None else self._begun
        self._patience.durations.took(Phase.READY, self._me, now - self._begun)

    def call(self, attempt: int, now: float) -> None:
        """We tell the others of this attempt that we are ready."""
        assert self._begun is not None
        self._attempt, self._called_at = attempt, now
        most, ago = self._timing.ready_seconds, now - self._begun
        expected = self._patience.durations.expected
        ready = expected(Phase.READY, self._others, ago + most) - ago
        # In a later attempt all are ready, and only have to hear of it.
        least = LEAST_SECONDS if attempt == 0 else expected(Phase.SHARE, self._others, most)
        self.patient_until = now + min(most, max(ready, least))

    def spoke(self, peer: PeerId) -> None:
        """It sent us a message of its own, of this attempt."""
        self._heard.add(peer)

    def agreed(self, members: Collection[PeerId], ready: Set[PeerId], lost: Set[PeerId], now: float) -> None:
        """There is a roster; in the first attempt that settles who was in time."""
        self._heard.clear()
        self._timed.clear()
        self._committed_at = None
        self._agreed_at, self._share_seconds = now, self.share_seconds
        if self._attempt == 0:
            trust = self._patience.rounds
            # Others may have waited as long as they would, and gone on, a little before us.
            enough = now >= (self._called_at + self.patient_until) / 2
            late = self._trusted(lost, now) - ready if enough else set()
            if 2 * len(late) <= len(self._others):
                behind = {peer for peer in late if 0 <= self._round_of(peer) < self._round}
                trust.missed(trust.unexcused(late, behind), self._round, len(self._others))
            trust.kept(peer for peer in self._others if peer in members)
            trust.passed_over(peer for peer in self._others if peer not in members)

    def committed(self, now: float) -> None:
        """We are past the commitment point; counts once for each roster."""
        self._committed_at = now if self._committed_at is None else self._committed_at

    def dealt(self, peer: PeerId, now: float) -> None:
        """Its bundle is here."""
        self._took(Phase.SHARE, peer, now - self._agreed_at)

    def masked(self, peer: PeerId, now: float) -> None:
        """All of its vector that we are to get is here."""
        since = now if self._committed_at is None else self._committed_at
        self._took(Phase.MASKED, peer, now - since)

    def _took(self, phase: Phase, peer: PeerId, seconds: float) -> None:
        """Once for each roster: whoever says it again would count for many."""
        if (phase, peer) not in self._timed:
            self._timed.add((phase, peer))
            self._patience.durations.took(phase, peer, seconds)

    def unshared(self, members: Iterable[PeerId], lost: Set[PeerId], now: float) -> None:
        """The attempt is given up before the commitment point; who was silent for long enough?"""
        if now < self._agreed_at + self._share_seconds / 2:
            return
        silent = self.unheard(members, lost)
        if 2 * len(silent) <= len(self._others):
            self._silent.update(silent)
        self._patience.sums.missed(silent, self._round, len(self._others))

    def summed(self, survivors: Iterable[PeerId], unmasked: Iterable[PeerId], lost: Set[PeerId]) -> None:
        """The sum is done; we lack the vectors of ``unmasked``."""
        self._patience.sums.missed(set(unmasked) - lost, self._round, len(self._others))
        self._patience.sums.kept(survivors)

    # What follows.

    def awaited(self, lost: Set[PeerId], now: float) -> set[PeerId]:
        """Whose ready there is still to wait for: everybody's if those whom we trust are too few."""
        trusted = self._trusted(lost, now)
        if len(trusted) + 1 < self._minimum:
            late = now >= self.patient_until
            return {p for p in self._others if p not in lost and not (late and self._is_gone(p, now))}
        if now >= self._called_at + self._grace_seconds:
            return trusted
        rounds = self._patience.rounds
        return {p for p in self._there(lost, now) if rounds.deserves(p, self._round)} | trusted

    def look_again(self, awaited: Iterable[PeerId], now: float) -> list[float]:
        """When it may be that somebody is awaited no longer."""
        times = [self._called_at + self._grace_seconds, *map(self._patience.silent_from, awaited)]
        return [at for at in times if now < at < self.patient_until]

    def dispensable(self, *, to_others: bool) -> set[PeerId]:
        """Who may be left out although it is ready; ``to_others``: so that they are sure to accept it."""
        trust = self._patience.sums
        if to_others and self._attempt > 0:
            return set(self._silent)
        return self._silent | {peer for peer in self._others if not trust.trusts(peer, self._round)}

    def unheard(self, members: Iterable[PeerId], lost: Set[PeerId]) -> list[PeerId]:
        """Who has said nothing since the roster."""
        return [peer for peer in members if peer not in self._heard | lost and peer != self._me]

    @property
    def _grace_seconds(self) -> float:
        """What it takes to fetch the model that the others have, about: whoever lacks one does that first."""
        usual = self._patience.durations.usual
        return min(LEAST_SECONDS, max(GRACE_SECONDS, 2 * (usual(Phase.SHARE) + usual(Phase.MASKED))))

    @property
    def remind_at(self) -> float:
        """When whoever has said nothing since the roster is shown it by us, too."""
        return self._agreed_at + self._share_seconds / 3

    @property
    def turn_seconds(self) -> float:
        """How long each convener is given to propose once readies are not waited for any longer."""
        return (self.patient_until - self._called_at) / (2 * (len(self._others) + 1))

    @property
    def share_seconds(self) -> float:
        """How long the share phase is."""
        return self._patience.durations.expected(Phase.SHARE, self._others, self._timing.phase_seconds)

    def phase_seconds(self, *, scattered: bool) -> float:
        """How long later phases are; where chunks are exchanged, more than vectors has to cross in one."""
        most = self._timing.phase_seconds
        expected = self._patience.durations.expected(Phase.MASKED, self._others, most)
        return min(most, 2 * expected if scattered else expected)

    def _trusted(self, lost: Set[PeerId], now: float) -> set[PeerId]:
        return {p for p in self._there(lost, now) if self._patience.rounds.trusts(p, self._round)}

    def _is_gone(self, peer: PeerId, now: float) -> bool:
        """Whether it will not come to this round any more."""
        return self._round_of(peer) > self._round or self._patience.is_silent(peer, now)

    def _there(self, lost: Set[PeerId], now: float) -> set[PeerId]:
        away = lost | self.dispensable(to_others=True)
        return {p for p in self._others if p not in away and not self._is_gone(p, now)}
