"""Putting together the secrets that unmask a sum, from the shares that its members revealed.

Every secret is checked against what its owner's ready shows, so wrong shares never give a wrong secret; they
make it necessary to look for the right ones. What that may cost is bounded for a whole round.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import chain, combinations, islice, takewhile
from typing import Final

from p2pfl.gossip.roster import Roster
from p2pfl.gossip.suite import Suite

MAX_SUBSETS: Final = 1 << 15
"""Subsets of shares that are tried in a round; when they are used up, those of neighbours only. For one
secret of a group of up to 16 there are no more than 11440 in all. In larger groups the search may be cut off:
a sum lost to members that deal or reveal wrong shares."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What the search for the secrets of all members has come to. Nothing in it ever changes, so that another
    thread can go on from here: :meth:`with_shares`.
    """

    roster: Roster
    suite: Suite
    survivors: frozenset[int]
    """Members whose self-mask seed is looked for; of all others it is the one-time secret key."""
    secrets: Mapping[int, bytes] = field(default_factory=dict, repr=False)
    """By owner."""
    tried: frozenset[int] = frozenset()
    """Holders among whose shares of the next secret there are not enough right ones."""
    doubted: frozenset[int] = frozenset()
    """Holders of a share that was wrong: theirs are tried last."""
    left: int = MAX_SUBSETS

    @property
    def complete(self) -> bool:
        return len(self.secrets) == len(self.roster.members)

    def with_shares(self, reveals: Mapping[int, Sequence[bytes]]) -> "Recovery":
        """One step further with all ``reveals`` so far: by holder, a share of every member's secret."""
        found = self
        for owner in range(len(self.roster.members)):
            if owner not in found.secrets:
                found = found._with_secret(owner, {holder: shown[owner] for holder, shown in reveals.items()})
                if owner not in found.secrets:
                    break
        return found

    def _with_secret(self, owner: int, shares: Mapping[int, bytes]) -> "Recovery":
        threshold, spent = self.roster.thresholds.threshold, 0
        holders = sorted(shares, key=lambda holder: (holder in self.doubted, holder))
        others = islice(_subsets(holders, threshold, self.tried), self.left)
        for spent, subset in enumerate(chain(_neighbours(holders, threshold), others), 1):
            if (secret := self._secret(owner, shares, subset)) is not None:
                return self._found(owner, secret, shares, subset, self.left - spent)
        return replace(self, tried=frozenset(shares), left=max(self.left - spent, 0))

    def _found(
        self, owner: int, secret: bytes, shares: Mapping[int, bytes], right: Sequence[int], left: int
    ) -> "Recovery":
        """Others' shares are tried in the place of a right one, to know whom to doubt from now on."""
        others = shares.keys() - set(right)
        wrong = {one for one in others if self._secret(owner, shares, (one, *right[1:])) is None}
        secrets, doubted = {**self.secrets, owner: secret}, self.doubted | wrong
        return replace(self, secrets=secrets, tried=frozenset(), doubted=doubted, left=max(left, 0))

    def _secret(self, owner: int, shares: Mapping[int, bytes], holders: Sequence[int]) -> bytes | None:
        """The secret from these shares, if it is the one that the owner's ready shows."""
        ready = self.roster.readies[owner]
        try:
            secret = self.suite.combine(
                {holder: shares[holder] for holder in holders}, self.roster.thresholds.threshold
            )
            right = (
                self.suite.commit(secret) == ready.commitment
                if owner in self.survivors
                else self.suite.key_of(secret).public == ready.mask_key
            )
        except ValueError:
            return None
        return secret if right else None


def _neighbours(holders: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Of every holder and those that follow it, cyclically: few, and often enough."""
    ring = [*holders, *holders]
    return (ring[start : start + size] for start in range(len(holders)) if size <= len(holders))


def _subsets(holders: Sequence[int], size: int, tried: Set[int]) -> Iterator[Sequence[int]]:
    """All of ``size`` holders that are not within ``tried``."""
    new_first = sorted(holders, key=tried.__contains__)
    return takewhile(lambda subset: subset[0] not in tried, combinations(new_first, size))
