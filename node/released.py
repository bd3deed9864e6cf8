"""The released state of a federation: what every member may know, and a newcomer fetches.

It holds only decoded group sums and what is computed from them, so handing it to another member reveals
nothing new.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto import labels
from p2pfl.gossip.canonical import pack, unpack_untrusted

MOST_ROUNDS = 1 << 40


@dataclass(frozen=True, slots=True)
class Released:
    """The model after ``round``.

    ``training_start`` is the first training round: the one after the statistics settled. ``statistics`` and
    ``parameters`` are float64 vectors; the first is the group mean of the preprocessing statistics.
    """

    round: int
    training_start: int
    statistics: NDArray[np.float64] = field(repr=False)
    parameters: NDArray[np.float64] = field(repr=False)

    def to_bytes(self) -> bytes:
        """Canonical form: integers and little-endian float64 bytes."""
        vectors = [
            np.ascontiguousarray(vector, dtype="<f8").tobytes()
            for vector in (self.statistics, self.parameters)
        ]
        return pack([self.round, self.training_start, *vectors])

    @property
    def digest(self) -> bytes:
        """SHA-256 of the canonical form: equal at two nodes exactly if they hold the same model at the same
        round.
        """
        return hashlib.sha256(labels.STATE_DIGEST + b"\0" + self.to_bytes()).digest()

    @classmethod
    def from_untrusted(cls, data: bytes, statistics_dimension: int, parameter_dimension: int) -> Self:
        """Parse what a peer sent. Raises ValueError unless it has exactly the dimensions of our manifest and
        is finite.
        """
        expected = 8 * (statistics_dimension + parameter_dimension) + 64
        fields = unpack_untrusted(data, expected)
        if not isinstance(fields, list) or len(fields) != 4:
            raise ValueError("not a released state")
        round, training_start, statistics, parameters = fields
        if not all(type(number) is int and 0 <= number < MOST_ROUNDS for number in (round, training_start)):
            raise ValueError("round numbers out of range")
        vectors = []
        for raw, dimension in ((statistics, statistics_dimension), (parameters, parameter_dimension)):
            if not isinstance(raw, bytes) or len(raw) != 8 * dimension:
                raise ValueError("a vector has the wrong length for this federation's model")
            vector = np.frombuffer(raw, dtype="<f8").astype(np.float64)
            if not np.isfinite(vector).all():
                raise ValueError("a vector holds values that are not finite")
            vectors.append(vector)
        return cls(round, training_start, vectors[0], vectors[1])
