"""Fixed-point numbers in the ring Z_2^32, where shares and masks live.

A vector of reals becomes a vector of uint32 that is summed with native wrap-around; the sum over all
members decodes to the exact sum of what each of them encoded. Values are rounded at random, without bias,
to the grid of step 2^-f, where f is :attr:`Encoding.fraction_bits`.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.randomness import SEED_BYTES, Keystream, RandomBytes

# Elements worked on at a time, so that every pass but the first finds them in the level-2 cache.
_BLOCK: Final = 1 << 15
_MAX_FRACTION_BITS: Final = 64
_COIN_BITS: Final = 16
# A float64 below 2^35 plus this holds that number times 2^16, in two's complement, in its lowest 51 bits.
_TO_FIXED_POINT: Final = 1.5 * 2.0 ** (52 - _COIN_BITS)


@dataclass(frozen=True, slots=True)
class Encoding:
    """How reals lie in the ring: ``fraction_bits`` after the binary point, values clipped to [-limit, limit].

    A value may take up to 2^30 grid steps to either side of zero. Raises :class:`ValueError` beyond that.
    """

    fraction_bits: int
    limit: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.limit) and self.limit > 0):
            raise ValueError(f"the limit of an encoding is positive and finite, not {self.limit}")
        if not 0 <= self.fraction_bits <= _MAX_FRACTION_BITS or self.limit > 2.0 ** (30 - self.fraction_bits):
            raise ValueError(f"{self.fraction_bits} fraction bits do not suit the limit {self.limit}")


def largest_fraction_bits(members: int, limit: float) -> int:
    """The finest grid on which a sum of ``members`` values within ``limit`` leaves one guard bit for noise.

    f = 31 - ceil(log2 members) - ceil(log2 limit) - 1: encoded values add up to at most 2^30 steps (and one
    step for the rounding of each), and the sum wraps beyond 2^31. Raises :class:`ValueError` where no such
    grid exists.
    """
    if members < 1 or not (math.isfinite(limit) and limit > 0):
        raise ValueError(f"no encoding for {members} members and limit {limit}")
    mantissa, exponent = math.frexp(limit)
    limit_bits = exponent - 1 if mantissa == 0.5 else exponent
    bits = 31 - (members - 1).bit_length() - limit_bits - 1
    if bits < 0:
        raise ValueError(f"the sum of {members} values up to {limit} does not fit into 32 bits")
    return min(bits, _MAX_FRACTION_BITS)


def encode(
    values: NDArray[np.float64], encoding: Encoding, random: RandomBytes
) -> tuple[NDArray[np.uint32], int]:
    """Clip, scale and round ``values`` (float64, shape (d,)) into the ring; also counts the clipped ones.

    Each value goes to one of its two neighbours on the grid, so it is off by less than 2^-f, with chances
    that make the expectation right to within 2^-17 of a step; a value on the grid stays as it is. The coins
    come from a 32-byte seed drawn from ``random``. Raises :class:`ValueError` for a nan or an infinity
    before it does anything.
    """
    if values.dtype != np.float64 or values.ndim != 1:
        raise ValueError(f"expected a float64 vector, not {values.dtype} of shape {values.shape}")
    low, high = _extent(values)
    clips = low < -encoding.limit or high > encoding.limit
    scale = math.ldexp(1.0, encoding.fraction_bits)
    stream, saturated = Keystream(random(SEED_BYTES)), 0
    encoded = np.empty(values.shape, np.uint32)
    size = min(len(values), _BLOCK)
    scaled, coins = np.empty(size, np.float64), np.empty(size, "<u2")
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK]
        fixed, coin = scaled[: len(block)], coins[: len(block)]
        if clips:
            saturated += int(np.count_nonzero(np.abs(block) > encoding.limit))
            block = np.clip(block, -encoding.limit, encoding.limit, out=fixed)
        np.multiply(block, scale, out=fixed)
        np.add(fixed, _TO_FIXED_POINT, out=fixed)
        stream.fill(coin)
        bits = fixed.view(np.uint64)
        np.add(bits, coin, out=bits)
        np.right_shift(bits, _COIN_BITS, out=bits)
        np.copyto(encoded[start : start + _BLOCK], bits, casting="unsafe")
    return encoded, saturated


def decode(total: NDArray[np.uint32], encoding: Encoding) -> NDArray[np.float64]:
    """The float64 values of a sum (uint32, shape (d,)): residues in [-2^31, 2^31) times 2^-f, exactly."""
    if total.dtype != np.uint32 or total.ndim != 1:
        raise ValueError(f"expected a uint32 vector, not {total.dtype} of shape {total.shape}")
    values = total.view(np.int32).astype(np.float64)
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
