"""Integer noise: the discrete Gaussian, drawn from a cryptographic stream by a 128-bit cumulative table.

P(X = x) is proportional to exp(-x^2 / (2 sigma^2)) over all integers (Canonne, Kamath and Steinke, NeurIPS
2020). No floating-point number comes near a sample, so the low bits tell nothing, unlike those of
continuous noise (Mironov, CCS 2012). Only whoever draws the noise learns it. Table look-ups take a time that
depends on the values drawn: someone who can time this process closely is not kept out here.

How far a sample is from that law: the table holds the cumulative probabilities of |X| out of 2^128, each
rounded down by less than one, and the sign is one fair bit. The total variation distance is therefore at
most 2^-128 times the number of entries, 13.3 sigma + 1: below 2^-111 for the largest sigma, per coordinate,
given a uniform stream.
"""

from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from functools import lru_cache
from itertools import takewhile
from typing import Final

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.randomness import SEED_BYTES, Keystream, RandomBytes

SMALLEST_SIGMA: Final = 0.3
LARGEST_SIGMA: Final = 8192.0

# Samples drawn at a time, so that memory beyond the result stays bounded and in the cache.
_BATCH: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class DiscreteGaussian:
    """The discrete Gaussian of scale ``sigma``, in grid steps, centred at zero.

    ``sigma`` lies within [0.3, 8192], else :class:`ValueError`: below, the noise is nearly always zero and
    protects nothing; above, the table outgrows the cache and a coarser grid serves as well. The variance is
    never more than sigma^2, and less by under one millionth from sigma = 1 on.
    """

    sigma: float

    def __post_init__(self) -> None:
        if not SMALLEST_SIGMA <= self.sigma <= LARGEST_SIGMA:
            span = f"{SMALLEST_SIGMA} to {LARGEST_SIGMA:g} grid steps"
            raise ValueError(f"sigma of discrete noise is {span}, not {self.sigma}")

    def sample(self, count: int, random: RandomBytes) -> NDArray[np.int64]:
        """``count`` independent samples, int64 of shape (count,), from a 32-byte seed drawn from ``random``.

        The first call for a sigma builds its table, in 0.1 s and 3 MB at most; later ones share it. Raises
        :class:`ValueError` for a negative count.
        """
        return Samples(self, count, random).take(count)


class Samples:
    """What :meth:`DiscreteGaussian.sample` would return at once, handed out in order, however it is cut.

    It draws its seed when it is made. Raises :class:`ValueError` for a negative count.
    """

    def __init__(self, law: DiscreteGaussian, count: int, random: RandomBytes) -> None:
        if count < 0:
            raise ValueError(f"cannot draw {count} samples")
        self._table, self._stream = _table(law.sigma), Keystream(random(SEED_BYTES))
        self._undrawn = count
        self._drawn = np.empty(0, np.int64)

    def take(self, count: int) -> NDArray[np.int64]:
        """The next ``count``; raises :class:`ValueError` if there are not so many left."""
        if not 0 <= count <= self._undrawn + len(self._drawn):
            raise ValueError(f"cannot take {count} of {self._undrawn + len(self._drawn)} samples")
        taken = np.empty(count, np.int64)
        at = 0
        while at < count:
            if len(self._drawn) == 0:
                self._draw()
            part = self._drawn[: count - at]
            taken[at : at + len(part)] = part
            at, self._drawn = at + len(part), self._drawn[len(part) :]
        return taken

    def _draw(self) -> None:
        self._drawn = np.empty(min(self._undrawn, _BATCH), np.int64)
        self._undrawn -= len(self._drawn)
        self._table.fill(self._drawn, self._stream)


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Rising thresholds T_0, T_1, … out of 2^128: a uniform u below 2^128 means the magnitude #{x: T_x <= u}.

    ``high`` and ``low`` are their 64-bit halves. ``guide`` has the magnitude for each value of the topmost
    16 bits of u, or -1 where these do not settle it; only then are the other 112 drawn.
    """

    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    guide: NDArray[np.int64]

    def fill(self, out: NDArray[np.int64], stream: Keystream) -> None:
        top = np.empty(len(out), "<u2")
        stream.fill(top)
        np.take(self.guide, top, out=out, mode="clip")
        unsettled = np.flatnonzero(out < 0)
        rest = np.empty(2 * len(unsettled), "<u8")
        stream.fill(rest)
        word = (top[unsettled].astype(np.uint64) << np.uint64(48)) | (rest[::2] >> np.uint64(16))
        out[unsettled] = _search(self.high, self.low, word, rest[1::2])
        signs = np.empty(-(-len(out) // 8), np.uint8)
        stream.fill(signs)
        np.multiply(out, 1 - 2 * np.unpackbits(signs, count=len(out)).view(np.int8), out=out)


@lru_cache(maxsize=8)
def _table(sigma: float) -> _Table:
    thresholds = _thresholds(sigma)
    high = np.array([threshold >> 64 for threshold in thresholds], np.uint64)
    low = np.array([threshold & (2**64 - 1) for threshold in thresholds], np.uint64)
    first = np.arange(1 << 16, dtype=np.uint64) << np.uint64(48)
    last = first | np.uint64(2**48 - 1)
    lowest = _search(high, low, first, np.zeros_like(first))
    highest = _search(high, low, last, np.full_like(last, 2**64 - 1))
    return _Table(high, low, np.where(lowest == highest, lowest, -1))


def _search(
    high: NDArray[np.uint64], low: NDArray[np.uint64], words: NDArray[np.uint64], rests: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """How many thresholds are at most 2^64 words + rests: by the high halves and, where they tie, the low."""
    found = np.searchsorted(high, words, side="left")
    for tie in np.flatnonzero(high[np.minimum(found, len(high) - 1)] == words):
        start, end = found[tie], np.searchsorted(high, words[tie], side="right")
        found[tie] += np.searchsorted(low[start:end], rests[tie], side="right")
    return found


def _thresholds(sigma: float) -> list[int]:
    """T_x = floor(2^128 P(|X| <= x)) for x = 0, 1, … as far as it stays below 2^128 - 1.

    In integers out of 2^256: the weight exp(-x^2 / 2 sigma^2) of x + 1 is that of x times a ratio, which
    itself shrinks by exp(-1 / sigma^2). Rounding moves a probability by less than 2^-200, nothing beside
    the unit 2^-128.
    """
    with localcontext(Context(prec=100)):
        ratio = int((-1 / (2 * Decimal(sigma) ** 2)).exp() * 2**256)
    square = ratio * ratio >> 256
    # A sign follows, so zero has half its weight: it comes about in two ways.
    sums, weight = [1 << 255], 1 << 256
    while weight >> 96:
        weight, ratio = weight * ratio >> 256, ratio * square >> 256
        sums.append(sums[-1] + weight)
    thresholds = ((partial << 128) // sums[-1] for partial in sums)
    return list(takewhile(lambda threshold: threshold < 2**128 - 1, thresholds))
