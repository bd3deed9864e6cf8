"""How a vector is cut for its way through the group, and who adds up which part.

A *broadcast* vector stays whole, and everybody adds up everything. In a *reduce-scatter* it is cut into
chunks, each with an owner who adds it up for all (Patarasu and Yuan, "Bandwidth optimal all-reduce
algorithms", 2009): 2 (k - 1) / k vectors sent by a member instead of k - 1, for more exchanges of messages.

Which of the two it is, and where the cuts are, follows from the size alone, so that all members agree.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

BROADCAST_BYTES: Final = 4 << 20
"""Most that a member sends to everybody as a whole vector."""
CHUNK_BYTES: Final = 1 << 20
"""Usual size of a chunk: what is computed, sent and held up at a time."""
USUAL_CHUNKS: Final = 512
"""Beyond so many, chunks grow instead, so that a list of their digests stays short."""
MAX_CHUNKS: Final = 544
"""Most there ever are: the former, rounded up to a multiple of the largest group's 32 members."""


@dataclass(frozen=True, slots=True)
class Chunks:
    """The cuts of vectors of ``dim`` elements among ``members``; chunk c of ``count`` is :meth:`where` (c).

    ``count`` is 1 for a broadcast, else a multiple of ``members``, and member c mod k owns chunk c.
    """

    dim: int
    members: int
    count: int

    @classmethod
    def of(cls, dim: int, members: int, element_bytes: int) -> "Chunks":
        """For vectors of ``dim`` elements of ``element_bytes`` each, among two members or more."""
        if element_bytes * dim * (members - 1) <= BROADCAST_BYTES:
            return cls(dim, members, 1)
        return cls(dim, members, members * -(-dim // (members * _longest(dim, element_bytes))))

    @property
    def scattered(self) -> bool:
        """Whether this is a reduce-scatter."""
        return self.count > 1

    def where(self, chunk: int) -> slice:
        """The elements of a chunk."""
        return slice(chunk * self.dim // self.count, (chunk + 1) * self.dim // self.count)

    def length(self, chunk: int) -> int:
        """Elements of a chunk."""
        return (chunk + 1) * self.dim // self.count - chunk * self.dim // self.count

    def owner(self, chunk: int, survivors: Collection[int]) -> int:
        """Who of ``survivors`` (numbers in the roster) adds up ``chunk``: its owner, or the next there is."""
        first = chunk % self.members
        _, number = min(((number - first) % self.members, number) for number in survivors)
        return number


def longest_chunk_bytes(dim: int, element_bytes: int) -> int:
    """The most that a chunk of a vector of at most ``dim`` elements weighs, whatever the group."""
    whole = element_bytes * dim
    return min(whole, max(BROADCAST_BYTES, element_bytes * _longest(dim, element_bytes)))


def _longest(dim: int, element_bytes: int) -> int:
    return max(CHUNK_BYTES // element_bytes, -(-dim // USUAL_CHUNKS))
