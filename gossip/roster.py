"""The agreed members of one attempt, in drawn order, and everything that follows from who they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.messages import Ready, roster_digest
from p2pfl.gossip.thresholds import Thresholds, thresholds


@dataclass(frozen=True, slots=True)
class Roster:
    """Made by :meth:`of` from readies that agree in round, attempt, stage and dim."""

    readies: tuple[Ready, ...]
    members: tuple[PeerId, ...]
    thresholds: Thresholds
    digest: bytes
    """Identifies the roster, and with it federation, epoch roster, round, attempt and all one-time keys."""

    @classmethod
    def of(cls, readies: Sequence[Ready], colluders: int) -> Self:
        """Raises ValueError if so few members cannot hide anyone from that many colluders."""
        ordered = tuple(readies)
        members = tuple(ready.author for ready in ordered)
        return cls(ordered, members, thresholds(len(members), colluders), roster_digest(ordered))

    @property
    def spent(self) -> int:
        """Members that have said that their privacy budget is spent."""
        return sum(ready.spent for ready in self.readies)

    @property
    def round(self) -> int:
        return self.readies[0].round

    @property
    def attempt(self) -> int:
        return self.readies[0].attempt

    @property
    def dim(self) -> int:
        return self.readies[0].dim

    @property
    def stage(self) -> str:
        return self.readies[0].stage

    @property
    def context(self) -> tuple[int, int, bytes]:
        """The fields with which every message of this attempt begins."""
        return self.round, self.attempt, self.digest
