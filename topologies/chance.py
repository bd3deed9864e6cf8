"""Fast random numbers for what only simulations draw."""

import hashlib

import numpy as np


def generator(beacon: bytes, tweak: int = 0) -> np.random.Generator:
    """The same numbers for one beacon, one tweak and one version of numpy.

    What real nodes must agree on is drawn with :class:`~p2pfl.topologies.draws.Draws` instead.
    """
    key = hashlib.sha256(b"p2pfl/simulated-topology\x00" + tweak.to_bytes(8, "big") + beacon).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(key, "big")))


def seeded(seed: int) -> bytes:
    """A beacon for a simulation: 32 bytes from ``seed``, 0 ≤ seed < 2^64."""
    return hashlib.sha256(b"p2pfl/simulated-beacon\x00" + seed.to_bytes(8, "big")).digest()


def of_round(beacon: bytes, round: int) -> bytes:
    """The beacon of one round, for a graph that is drawn anew in each."""
    return hashlib.sha256(beacon + round.to_bytes(8, "big")).digest()
