"""What one node knows of the peers that it is connected to: who they are, and what each last said of itself.

A claim is believed of the peer that makes it and of nobody else. ``colluders`` is what a *group* withstands;
a federation has many groups, and may have as many times more members that lie together. So where claims would
move us, what counts is what :func:`enough` of those say who have something to say: a majority.

Who does have something to say about epochs? Those on the roster of one (:attr:`Neighbours.members`). Others
are waiting to get in, just as we may be, and their waiting is no reason for us to wait.
"""

from collections.abc import Callable
from dataclasses import dataclass

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.epoch_messages import NOTHING, Sync

Claim = tuple[int, bytes]
"""An epoch and the digest of its closed roster."""


def enough(colluders: int, voters: int) -> int:
    """How many of ``voters`` must say the same to be believed: a strict majority, and more than
    ``colluders``.
    """
    return max(colluders + 1, voters // 2 + 1)


@dataclass(frozen=True, slots=True)
class Absent:
    """Neighbours who may still join an epoch."""

    busy: frozenset[PeerId]
    """Have said of late that they are in an epoch before it."""
    silent: frozenset[PeerId]
    """All others."""


class Neighbours:
    """The connected members. ``is_member`` says whether a peer is admitted; others are not neighbours."""

    def __init__(self, is_member: Callable[[PeerId], bool]) -> None:
        self._is_member = is_member
        self._reports: dict[PeerId, Sync | None] = {}
        self._heard_at: dict[PeerId, float] = {}
        self._claimed_at: dict[Claim, float] = {}

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """Everybody connected, sorted."""
        return tuple(sorted(self._reports))

    @property
    def reports(self) -> tuple[Sync, ...]:
        """The last word of everybody who said something."""
        return tuple(report for report in self._reports.values() if report is not None)

    @property
    def members(self) -> int:
        """How many say that they are on the roster of an epoch."""
        return sum(report.closed != NOTHING for report in self.reports)

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._reports

    def report(self, peer: PeerId) -> Sync | None:
        """What ``peer`` last said, None if nothing yet or not connected."""
        return self._reports.get(peer)

    def found(self, peer: PeerId) -> bool:
        """Whether ``peer``, now connected, is a neighbour."""
        if self._is_member(peer):
            self._reports.setdefault(peer, None)
        return peer in self._reports

    def lost(self, peer: PeerId) -> None:
        """The connection ended, and with it goes what the peer said."""
        self._reports.pop(peer, None)
        self._heard_at.pop(peer, None)

    def heard(self, report: Sync, now: float) -> None:
        """Note what a neighbour says of itself."""
        self._reports[report.author] = report
        self._heard_at[report.author] = now
        self._claimed_at = {claim: self._claimed_at.get(claim, now) for claim in self.claims()}

    def claims(self) -> dict[Claim, set[PeerId]]:
        """The rosters said to be closed, and who says so."""
        claims: dict[Claim, set[PeerId]] = {}
        for report in self.reports:
            if report.closed != NOTHING and report.epoch > 0:
                claims.setdefault((report.epoch - 1, report.closed), set()).add(report.author)
        return claims

    def unanimous(self, claim: Claim, since: float) -> bool:
        """Whether everybody who says anything has been making ``claim``, and somebody has since that time."""
        claimed = self.claims().get(claim, set())
        return len(claimed) == len(self.reports) > 0 and self._claimed_at[claim] <= since

    def round_of(self, peer: PeerId, epoch: int, closed: bytes, end: int) -> int:
        """The round that ``peer`` claims to be in while we are in ``epoch``, whose roster is ``closed``.

        ``end``, where the epoch ends, if it has left it; −1 if it says nothing, is behind, or has closed
        another roster.
        """
        report = self._reports.get(peer)
        if report is None or report.epoch <= epoch:
            return -1
        if report.epoch > epoch + 1:
            return end
        return min(report.round, end) if report.closed == closed else -1

    def elsewhere(self, peer: PeerId, epoch: int, closed: bytes) -> bool:
        """Whether ``peer`` says that it is past the start of ``epoch``, but not on the roster ``closed``."""
        report = self._reports.get(peer)
        return report is not None and report.epoch == epoch + 1 and report.closed != closed

    def absent(self, epoch: int, here: frozenset[PeerId], since: float) -> Absent:
        """Who may still join ``here``, the authors present in ``epoch``; what was said before ``since`` does
        not count.

        Those who are ahead of ``epoch`` will not come back and are not waited for.
        """
        busy, silent = set(), set()
        for peer, report in self._reports.items():
            if peer in here or (report is not None and report.epoch > epoch):
                continue
            if report is not None and self._heard_at[peer] >= since and _at_work(report, epoch):
                busy.add(peer)
            else:
                silent.add(peer)
        return Absent(frozenset(busy), frozenset(silent))

    def agree(self, epoch: int, digest: bytes, since: float) -> bool:
        """Whether nobody who gathers for ``epoch`` has said ``since`` then that its presences have another
        digest.
        """
        return all(
            report.digest == digest or self._heard_at[report.author] < since
            for report in self.reports
            if report.epoch == epoch
        )


def _at_work(report: Sync, epoch: int) -> bool:
    """Whether it speaks of rounds before those of ``epoch``."""
    return not report.present if report.epoch == epoch else report.epoch < epoch and report.closed != NOTHING
