"""What a member of a roster computes in a secure sum: dealing, masking, unmasking.

Apart from when each of it happens, which is :mod:`p2pfl.gossip.secure_sum`'s business, and written with the
numbers 0 … k-1 that the roster's order gives its members. Secrets stay inside, except where a function's
purpose is to hand one out.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Self

from numpy.typing import NDArray

from p2pfl.crypto import labels
from p2pfl.crypto.agreement import OneTimeKey
from p2pfl.crypto.randomness import RandomBytes
from p2pfl.gossip.roster import Roster
from p2pfl.gossip.suite import Suite

_BLOCK: Final = 1 << 14
"""Elements that every mask goes over before the next ones: they stay in the nearest cache meanwhile."""


class HeldShares(NamedTuple):
    """What one holder keeps of one member's secrets. It may show one of the two, never both."""

    seed: bytes
    key: bytes

    def __repr__(self) -> str:
        return "<HeldShares>"


@dataclass(frozen=True, slots=True)
class Secrets:
    """What a member makes anew for every attempt and commits to in its ready."""

    mask_key: OneTimeKey
    """sk_i: pairwise masks; shared, and recovered if its owner drops out."""
    bundle_key: OneTimeKey
    """Opens the bundles of others, and never leaves its owner."""
    seed: bytes = field(repr=False)
    """b_i: the self-mask; shared, and recovered if its owner survives."""

    @classmethod
    def fresh(cls, suite: Suite, random: RandomBytes) -> Self:
        return cls(suite.new_key(random), suite.new_key(random), suite.new_seed(random))


class Masker:
    """Masks to be added to a vector and taken from it, slice by slice, from the first element to the last."""

    def __init__(self, suite: Suite, added: Iterable[bytes], taken: Iterable[bytes]) -> None:
        self._added = [suite.mask(seed) for seed in added]
        self._taken = [suite.mask(seed) for seed in taken]

    def apply(self, values: NDArray[Any]) -> None:
        """To the next ``len(values)`` elements, in place."""
        for start in range(0, len(values), _BLOCK):
            block = values[start : start + _BLOCK]
            for mask in self._added:
                mask.add_to(block)
            for mask in self._taken:
                mask.take_from(block)


class Masking:
    """The part of the member number ``me``, with the secrets it made for this attempt.

    The keys in the roster must have been found usable (``suite.accepts_key``).
    """

    def __init__(self, roster: Roster, me: int, secrets: Secrets, suite: Suite) -> None:
        self._roster, self._me, self._secrets, self._suite = roster, me, secrets, suite
        self._others = [index for index in range(len(roster.members)) if index != me]

    def deal(self, random: RandomBytes) -> tuple[HeldShares, dict[int, bytes]]:
        """Split both secrets: our own shares, and for every other member its shares, sealed."""
        holders, threshold = len(self._roster.members), self._roster.thresholds.threshold
        seed = self._suite.split(self._secrets.seed, holders, threshold, random)
        key = self._suite.split(self._secrets.mask_key.secret, holders, threshold, random)
        sealed = {
            other: self._suite.seal(
                self._bundle_key(self._me, other), seed[other] + key[other], self._roster.digest
            )
            for other in self._others
        }
        return HeldShares(seed[self._me], key[self._me]), sealed

    def open(self, dealer: int, sealed: bytes) -> HeldShares:
        """Our shares of the secrets of ``dealer``. Raises ValueError unless it sealed two shares for us."""
        opened = self._suite.open_sealed(self._bundle_key(dealer, self._me), sealed, self._roster.digest)
        size = self._suite.share_bytes
        if len(opened) != 2 * size:
            raise ValueError("not two shares")
        return HeldShares(opened[:size], opened[size:])

    def masker(self) -> "Masker":
        """What makes our masked vector, over the whole roster:
        y_i = v_i + sum_{j>i} PRG(s_ij) - sum_{j<i} PRG(s_ij) + PRG(b_i).
        """
        added, taken = [self._self_mask(self._secrets.seed)], list[bytes]()
        for other in self._others:
            seed = self._pair_seed(self._secrets.mask_key.secret, self._me, other)
            (added if other > self._me else taken).append(seed)
        return Masker(self._suite, added, taken)

    def forget(self) -> None:
        """Our secrets are of no more use, and not kept."""
        del self._secrets

    def unmasker(self, survivors: Collection[int], secrets: Mapping[int, bytes]) -> "Masker":
        """What takes out of the sum of the survivors' masked vectors everything that did not cancel: their
        self-masks, and their masks with members that did not survive. ``secrets`` are by owner, as recovered.
        """
        added, taken = list[bytes](), list[bytes]()
        for owner, secret in secrets.items():
            if owner in survivors:
                taken.append(self._self_mask(secret))
                continue
            for survivor in survivors:
                (added if owner < survivor else taken).append(self._pair_seed(secret, owner, survivor))
        return Masker(self._suite, added, taken)

    def _self_mask(self, seed: bytes) -> bytes:
        return self._suite.derive(seed, labels.SELF_MASK, self._roster.digest)

    def _pair_seed(self, secret: bytes, owner: int, other: int) -> bytes:
        """Of the members ``owner``, whose secret this is, and ``other``.

        It depends on who they are, and not on their keys alone: a member that announces the key of another as
        its own must not make a third mask its vector twice with one seed, once added and once taken away.
        """
        public = self._roster.readies[other].mask_key
        context = self._roster.digest + bytes(sorted((owner, other)))
        return self._suite.agree(secret, public, labels.PAIRWISE_MASK, context)

    def _bundle_key(self, dealer: int, recipient: int) -> bytes:
        """A key for one direction, so that a bundle cannot be handed back to its dealer."""
        public = self._roster.readies[recipient if dealer == self._me else dealer].bundle_key
        context = self._roster.digest + bytes((dealer, recipient))
        return self._suite.agree(self._secrets.bundle_key.secret, public, labels.BUNDLE_KEY, context)
