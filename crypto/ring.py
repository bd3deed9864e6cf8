"""Fixed-point numbers in the rings Z_2^16, Z_2^32 and Z_2^64, where shares and masks live.

A vector of reals becomes a vector of unsigned words that is summed with native wrap-around; the sum over all
members decodes to the sum of what each of them encoded. Values are rounded at random, without bias, to the
grid of step 2^-f, where f is :attr:`Encoding.fraction_bits`.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.randomness import SEED_BYTES, Keystream, RandomBytes

RingVector: TypeAlias = NDArray[np.unsignedinteger[Any]]
"""One-dimensional, of :attr:`Ring.dtype`."""

# Elements worked on at a time, so that every pass but the first finds them in the level-2 cache.
_BLOCK: Final = 1 << 15
_MAX_FRACTION_BITS: Final = 64
_COIN_BITS: Final = 16
# A float64 below 2^35 plus this holds that number times 2^16, in two's complement, in its lowest 51 bits.
_TO_FIXED_POINT: Final = 1.5 * 2.0 ** (52 - _COIN_BITS)
_FIXED_POINT_ZERO: Final = np.uint64(np.float64(_TO_FIXED_POINT).view(np.uint64) >> _COIN_BITS)


@dataclass(frozen=True, slots=True)
class Ring:
    """The integers modulo 2^``bits``. Raises :class:`ValueError` for a width other than 16, 32 or 64."""

    bits: Literal[16, 32, 64]

    def __post_init__(self) -> None:
        if self.bits not in (16, 32, 64):
            raise ValueError(f"a ring has 16, 32 or 64 bits, not {self.bits}")

    @property
    def dtype(self) -> "np.dtype[np.unsignedinteger[Any]]":
        """Of vectors over the ring, and of their bytes on the wire: unsigned, little-endian."""
        return np.dtype(f"<u{self.bytes}")

    @property
    def bytes(self) -> int:
        """What one element weighs."""
        return self.bits // 8


RING_16: Final = Ring(16)
RING_32: Final = Ring(32)
RING_64: Final = Ring(64)


@dataclass(frozen=True, slots=True)
class Encoding:
    """How reals lie in ``ring``: ``fraction_bits`` after the binary point, values clipped to [-limit, limit].

    A value may take up to a quarter of the ring, 2^(bits - 2) grid steps, to either side of zero. Raises
    :class:`ValueError` beyond that.
    """

    fraction_bits: int
    limit: float
    ring: Ring = RING_32

    def __post_init__(self) -> None:
        if not (math.isfinite(self.limit) and self.limit > 0):
            raise ValueError(f"the limit of an encoding is positive and finite, not {self.limit}")
        most = 2.0 ** (self.ring.bits - 2 - self.fraction_bits)
        if not 0 <= self.fraction_bits <= _MAX_FRACTION_BITS or self.limit > most:
            raise ValueError(f"{self.fraction_bits} fraction bits do not suit the limit {self.limit}")


def largest_fraction_bits(members: int, limit: float, ring: Ring = RING_32) -> int:
    """The finest grid on which a sum of ``members`` values within ``limit`` leaves one guard bit for noise.

    f = bits - 1 - ceil(log2 members) - ceil(log2 limit) - 1: encoded values add up to at most a quarter of
    the ring (and one step for the rounding of each), and the sum wraps beyond a half. Raises
    :class:`ValueError` where no such grid exists.
    """
    if members < 1 or not (math.isfinite(limit) and limit > 0):
        raise ValueError(f"no encoding for {members} members and limit {limit}")
    mantissa, exponent = math.frexp(limit)
    limit_bits = exponent - 1 if mantissa == 0.5 else exponent
    bits = ring.bits - 1 - (members - 1).bit_length() - limit_bits - 1
    if bits < 0:
        raise ValueError(f"the sum of {members} values up to {limit} does not fit into {ring.bits} bits")
    return min(bits, _MAX_FRACTION_BITS)


class Encoder:
    """The encoding of one vector, computed slice by slice and in order: ``encoder[0:n]``, then ``[n:m]``, …

    The slices of any partition are, one after the other, the bytes of the encoding in one piece. Each is
    clipped, scaled and rounded when it is taken, into a fresh array of the ring's dtype. ``values`` (float64,
    shape (d,)) must stay as they are until the last one.

    Each value goes to one of its two neighbours on the grid, so it is off by less than 2^-f, with chances
    that make the expectation right to within 2^-17 of a step; a value on the grid stays as it is. (A ring of
    64 bits may have a finer grid than float64; values from 2^52 steps on lie on it.) The coins come from a
    32-byte seed drawn from ``random`` at once. Raises :class:`ValueError` for a nan or an infinity before it
    draws anything.
    """

    def __init__(self, values: NDArray[np.float64], encoding: Encoding, random: RandomBytes) -> None:
        if values.dtype != np.float64 or values.ndim != 1:
            raise ValueError(f"expected a float64 vector, not {values.dtype} of shape {values.shape}")
        low, high = _extent(values)
        self._clips = low < -encoding.limit or high > encoding.limit
        self._values, self._encoding = values, encoding
        self._stream = Keystream(random(SEED_BYTES))
        size = min(len(values), _BLOCK)
        self._scratch, self._coins = np.empty(size, np.float64), np.empty(size, "<u2")
        self._taken = 0
        self.saturated = 0
        """How many values were clipped so far."""

    def __len__(self) -> int:
        return len(self._values)

    @property
    def shape(self) -> tuple[int]:
        """(d,)."""
        return (len(self),)

    @property
    def dtype(self) -> "np.dtype[np.unsignedinteger[Any]]":
        """The ring's."""
        return self._encoding.ring.dtype

    def __getitem__(self, part: slice) -> RingVector:
        """The next elements. Raises :class:`ValueError` unless ``part`` starts where the last one ended."""
        start, stop, step = part.indices(len(self))
        if start != self._taken or stop < start or step != 1:
            raise ValueError(f"slices are taken in order: the next starts at {self._taken}, not {part}")
        encoded = np.empty(stop - start, self.dtype)
        for at in range(0, len(encoded), _BLOCK):
            out = encoded[at : at + _BLOCK]
            self._encode(self._values[self._taken : self._taken + len(out)], out)
            self._taken += len(out)
        return encoded

    def _encode(self, block: NDArray[np.float64], out: RingVector) -> None:
        limit, bits = self._encoding.limit, self._encoding.fraction_bits
        scratch = self._scratch[: len(block)]
        if self._clips:
            self.saturated += int(np.count_nonzero(np.abs(block, out=scratch) > limit))
            block = np.clip(block, -limit, limit, out=scratch)
        if self._encoding.ring != RING_64:
            np.copyto(out, self._rounded(block, bits, scratch), casting="unsafe")
            return
        scaled = np.multiply(block, math.ldexp(1.0, bits), out=scratch)
        nearest = np.rint(scaled)
        moved = self._rounded(np.subtract(scaled, nearest, out=scratch), 0, scratch)
        np.subtract(moved, _FIXED_POINT_ZERO, out=moved)
        np.add(moved, nearest.astype(np.int64).view(np.uint64), out=out)

    def _rounded(
        self, block: NDArray[np.float64], fraction_bits: int, scratch: NDArray[np.float64]
    ) -> NDArray[np.uint64]:
        """``block``, below 2^35 steps, in whole steps: 64-bit integers that are :data:`_FIXED_POINT_ZERO` too
        large. They lie in ``scratch``, which may be ``block``.
        """
        coins, words = self._coins[: len(block)], scratch.view(np.uint64)
        # Scaling both by 2^f would give the same mantissa, in one more pass.
        np.add(block, math.ldexp(_TO_FIXED_POINT, -fraction_bits), out=scratch)
        self._stream.fill(coins)
        np.add(words, coins, out=words)
        return np.right_shift(words, _COIN_BITS, out=words)


def encode(values: NDArray[np.float64], encoding: Encoding, random: RandomBytes) -> tuple[RingVector, int]:
    """The encoding of ``values`` in one piece, by an :class:`Encoder`; also counts the clipped ones."""
    encoder = Encoder(values, encoding, random)
    return encoder[:], encoder.saturated


def decode(total: RingVector, encoding: Encoding) -> NDArray[np.float64]:
    """The float64 values of a sum (of the ring's dtype, shape (d,)): signed residues times 2^-f.

    Exact but for residues beyond 2^53, of a ring of 64 bits, which go to the nearest float64.
    """
    ring = encoding.ring
    if total.dtype != ring.dtype or total.ndim != 1:
        raise ValueError(f"expected a {ring.dtype} vector, not {total.dtype} of shape {total.shape}")
    values = total.view(f"<i{ring.bytes}").astype(np.float64)
    values *= math.ldexp(1.0, -encoding.fraction_bits)
    return values


def _extent(values: NDArray[np.float64]) -> tuple[float, float]:
    low = high = 0.0
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK]
        lowest, highest = float(block.min()), float(block.max())
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            index = start + int(np.flatnonzero(~np.isfinite(block))[0])
            raise ValueError(f"value {index} of {len(values)} is not finite: nothing was encoded")
        low, high = min(low, lowest), max(high, highest)
    return low, high
