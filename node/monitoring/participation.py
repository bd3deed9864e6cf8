"""Who took part in the rounds: what a receipt says of one round, counted over all of them.

A member counts for a round that this node completed if the round's epoch knew it in this node's group, where
it is a survivor or *missed* the round, or did not know it at all: whoever publishes no presence misses all
rounds. One that was drawn into another group counts for neither: this node cannot tell. Rounds without a sum
count for nobody, since this node may have been the one that was away.

A newcomer is on the roster, and drawn into groups, before it has loaded what it trains with and taken over
the model: where rounds take less than a second it misses several. They count in all, but nobody is to be
asked about them: what it misses in NEW_SECONDS, before it ever took part, is not among its recent rounds.
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Final

from p2pfl.crypto.identity import PeerId
from p2pfl.node.storage.receipts import Population, Receipt

RECENT: Final = 20
"""Rounds of a member that are looked at to see whether it is here."""
LOW: Final = 0.5
"""Whoever took part in a smaller share of them is missed, loudly."""
LEAST: Final = 5
"""Rounds that must count for a member before anything is said."""
NEW_SECONDS: Final = 60.0
"""After the first round that counts for a member, in which it is given time to come."""


@dataclass(frozen=True, slots=True)
class Share:
    """``peer`` took part in ``recent`` of the last ``recent_of`` rounds that counted for it, but for those
    before it had come, and in ``took`` of ``of`` in all.
    """

    peer: PeerId
    recent: int
    recent_of: int
    took: int
    of: int

    @property
    def low(self) -> bool:
        """Whether it is missed now."""
        return self.recent_of >= LEAST and self.recent < LOW * self.recent_of

    @property
    def low_in_all(self) -> bool:
        """Whether it was missed on the whole."""
        return self.of >= LEAST and self.took < LOW * self.of

    def as_dict(self) -> dict[str, object]:
        """For the status file."""
        return asdict(self)

    def __str__(self) -> str:
        percent = 100 * self.took / max(self.of, 1)
        return (
            f"{self.peer} took part in {self.recent} of the last {self.recent_of} rounds, in {self.took} of"
            f" {self.of} in all ({percent:.0f} %)"
        )


class Participation:
    """Counts rounds as they end. ``own`` is this node, ``listed`` are the members of the manifest; peers that
    are ``gone`` for good, since they are excluded or others took their place, are not asked after.
    """

    def __init__(self, own: PeerId, listed: Collection[PeerId] = (), gone: Collection[PeerId] = ()) -> None:
        self._left_out = {own, *gone}
        self._here: frozenset[PeerId] = frozenset()
        self._took: dict[PeerId, list[int]] = {peer: [0, 0] for peer in listed}
        self._recent: dict[PeerId, deque[bool]] = {}
        self._since: dict[PeerId, float] = {}

    @classmethod
    def of(
        cls,
        own: PeerId,
        listed: Collection[PeerId],
        receipts: Iterable[Receipt],
        populations: Iterable[Population],
        gone: Collection[PeerId] = (),
    ) -> "Participation":
        """As it follows from all receipts of a node."""
        found, ahead = cls(own, listed, gone), deque(populations)
        for receipt in receipts:
            while ahead and ahead[0].first_round <= receipt.round:
                found.enter(ahead.popleft().members)
            if receipt.completed:
                found.count(receipt.group, receipt.survivors, receipt.ended)
        for population in ahead:
            found.enter(population.members)
        return found

    def enter(self, members: Collection[PeerId]) -> None:
        """From now on the epoch's roster is this."""
        self._here = frozenset(members)
        for peer in members:
            self._took.setdefault(peer, [0, 0])

    def count(self, group: Collection[PeerId], survivors: Collection[PeerId], ended: float) -> None:
        """A round of ``group`` was completed here, at ``ended`` (seconds since 1970)."""
        for peer in group:
            self._took.setdefault(peer, [0, 0])
        elsewhere = self._here - set(group)
        for peer, counts in self._took.items():
            if peer in elsewhere:
                continue
            took = peer in survivors
            counts[0] += took
            counts[1] += 1
            new = 0 <= ended - self._since.setdefault(peer, ended) < NEW_SECONDS
            if counts[0] or not new:
                self._recent.setdefault(peer, deque(maxlen=RECENT)).append(took)

    def leave(self, peer: PeerId) -> None:
        """From now on ``peer`` is gone."""
        self._left_out.add(peer)

    def shares(self) -> list[Share]:
        """Everybody else's, who was here least first."""
        found = [
            Share(peer, sum(recent), len(recent), *counts)
            for peer, counts in self._took.items()
            if peer not in self._left_out
            for recent in [self._recent.get(peer, ())]
        ]
        return sorted(found, key=lambda share: (share.took / max(share.of, 1), share.peer))


def missed_on_the_whole(shares: Iterable[Mapping[str, object]]) -> str:
    """Who of the shares in a status file was missed on the whole; empty if nobody was."""
    missed = [share for share in map(_share, shares) if share.low_in_all]
    if not missed:
        return ""
    who = ", ".join(f"{one.peer} in {one.took} of {one.of}" for one in missed)
    members = "1 member" if len(missed) == 1 else f"{len(missed)} members"
    return f"{members} took part in less than half of the rounds: {who}"


def _share(fields: Mapping[str, object]) -> Share:
    numbers = (int(str(fields[name])) for name in ("recent", "recent_of", "took", "of"))
    return Share(PeerId(str(fields["peer"])), *numbers)
