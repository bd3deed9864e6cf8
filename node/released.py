"""The released state of a federation: what every member may know, and a newcomer fetches.

It holds only decoded group sums and what is computed from them, so handing it to another member reveals
nothing new.
"""

import hashlib
import math
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto import labels
from p2pfl.gossip.canonical import pack, unpack_untrusted

MOST_ROUNDS = 1 << 40
_MOST_HEAD_BYTES = 48


@dataclass(frozen=True, slots=True)
class Place:
    """How far in its programme a federation is; the fields are those of :class:`Released`."""

    round: int
    training_start: int
    vote_rounds: int
    votes: float


@dataclass(frozen=True, slots=True)
class Released:
    """The model after ``round``.

    ``training_start`` is the first training round: the one after the statistics settled. ``statistics`` and
    ``parameters`` are float64 vectors; the first is the group mean of the preprocessing statistics.
    ``vote_rounds``: how many rounds a vote takes, settled with the statistics; 0 if there are no votes.
    ``votes``: if ``round`` is one of a vote, the mean of the members' votes as far as they are averaged, 1 to
    end and 0 to go on; else 0.
    """

    round: int
    training_start: int
    statistics: NDArray[np.float64] = field(repr=False)
    parameters: NDArray[np.float64] = field(repr=False)
    vote_rounds: int = 0
    votes: float = 0.0
    digest: bytes = field(init=False, repr=False)
    """SHA-256 of the canonical form: equal at two nodes exactly if they hold the same model at the same
    round.
    """

    def __post_init__(self) -> None:
        digest = hashlib.sha256(labels.STATE_DIGEST + b"\0" + self.to_bytes()).digest()
        object.__setattr__(self, "digest", digest)  # once: it is asked for all the time, and takes long

    @property
    def place(self) -> Place:
        """All but the vectors."""
        return Place(self.round, self.training_start, self.vote_rounds, self.votes)

    def to_bytes(self) -> bytes:
        """Canonical form: integers and little-endian float64 bytes."""
        votes, *vectors = [
            np.ascontiguousarray(vector, dtype="<f8").tobytes()
            for vector in (self.votes, self.statistics, self.parameters)
        ]
        return pack([self.round, self.training_start, self.vote_rounds, votes, *vectors])

    @classmethod
    def from_untrusted(cls, data: bytes, statistics_dimension: int, parameter_dimension: int) -> Self:
        """Parse what a peer sent. Raises ValueError unless it has exactly the dimensions of our manifest and
        is finite.
        """
        head, vectors, end = b"", [], len(data)
        for dimension in (parameter_dimension, statistics_dimension):
            # Cut out before anything is parsed: a general parser builds what a peer puts in their place, at a
            # hundred times its size.
            header = _header(8 * dimension)
            start = end - 8 * dimension
            if data[max(start - len(header), 0) : max(start, 0)] != header:
                raise ValueError("a vector has the wrong length for this federation's model")
            vectors.append(np.frombuffer(data[start:end], dtype="<f8").astype(np.float64))
            head, end = data[: start - len(header)], start - len(header)
        parameters, statistics = vectors
        match unpack_untrusted(head + 2 * pack(b""), _MOST_HEAD_BYTES):
            case [int(round), int(training_start), int(vote_rounds), bytes(packed), b"", b""] if (
                len(packed) == 8
            ):
                numbers, votes = (round, training_start, vote_rounds), float(np.frombuffer(packed, "<f8")[0])
            case _:
                raise ValueError("not a released state")
        if not all(type(number) is int and 0 <= number < MOST_ROUNDS for number in numbers):
            raise ValueError("round numbers out of range")
        if not (math.isfinite(votes) and np.isfinite(parameters).all() and np.isfinite(statistics).all()):
            raise ValueError("a vector holds values that are not finite")
        return cls(round, training_start, statistics, parameters, vote_rounds, votes)


def _header(size: int) -> bytes:
    """What msgpack writes before a byte string of this size."""
    for marker, length in ((b"\xc4", 1), (b"\xc5", 2)):
        if size < 1 << 8 * length:
            return marker + size.to_bytes(length, "big")
    return b"\xc6" + size.to_bytes(4, "big")
