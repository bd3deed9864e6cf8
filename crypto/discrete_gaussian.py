"""Integer noise: the discrete Gaussian, drawn from a cryptographic stream by 128-bit cumulative tables.

P(X = x) is proportional to exp(-x^2 / (2 sigma^2)) over all integers (Canonne, Kamath and Steinke, NeurIPS
2020). No floating-point number comes near a sample, so the low bits tell nothing, unlike those of
continuous noise (Mironov, CCS 2012). Only whoever draws the noise learns it. Table look-ups take a time that
depends on the values drawn: someone who can time this process closely is not kept out here.

Up to sigma = 512 one table does. A larger sample is X = Y + 32 X' (Micciancio and Walter, CRYPTO 2017): Y has
the scale s = 72, X' the scale s' with s^2 + 32^2 s'^2 = sigma^2, and is made likewise. Tables stay small, so
nearly all draws are settled by their first 16 bits, within the cache.

How far a sample is from its law, in total variation and given a uniform stream:

* A table holds the cumulative probabilities of a magnitude out of 2^128, each rounded down by less than one,
  and the sign is one fair bit: at most 2^-128 times its entries, which are no more than 13.4 * 512 + 1.
* Y + 32 X' of exact parts has P(x) in proportion to exp(-x^2 / 2 sigma^2) times the sum, over all integers h,
  of exp(-(h - c x)^2 / 2 t^2), where t = s s' / sigma and c = 32 s'^2 / sigma^2. By Poisson's summation
  formula that sum stays, for every x, within 1 ± d of one number, d <= 2.01 exp(-2 pi^2 t^2), so P is within
  d / (1 - d) of the law. From sigma = 512 on, t^2 >= 4.96 and that is below 2^-140.

There are four tables at most: a sample is within 2^-113 of its law (:data:`SAMPLE_DISTANCE`), n samples
within n 2^-113. A mechanism that is (epsilon, delta)-private with exact noise is so with these n samples at
delta + (1 + e^epsilon) n 2^-113; 10^13 of them, at epsilon = 10, add less than 10^-16.

Which bytes make which samples: they come in batches of 2^15, the last one shorter. For each table of a batch,
the widest first: two bytes for every sample; a bit for every sign, highest first, to a whole byte; 16 more
bytes for every sample that the two did not settle, of which the highest 16 bits of the first 64 go unused.
Integers are little-endian.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from itertools import takewhile
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.randomness import SEED_BYTES, Keystream, RandomBytes

SMALLEST_SIGMA: Final = 0.3
LARGEST_SIGMA: Final = 2.0**24
SAMPLE_DISTANCE: Final = 2.0**-113
"""Total variation distance between the law of a sample and the discrete Gaussian, at most."""

# Beyond this scale, two draws from small tables are quicker than one from a large one.
_LARGEST_TABLE: Final = 512
_STRIDE: Final = 32
_FINE_SIGMA: Final = 72

# Eight signs for each byte of the stream, highest bit first: -1 where it is set.
_SIGNS: Final = (1 - 2 * np.unpackbits(np.arange(256, dtype=np.uint8)).view(np.int8)).view(np.uint64)

# Samples drawn at a time, so that they stay in the level-2 cache, beside a guide, until they are used.
_BATCH: Final = 1 << 15


@dataclass(frozen=True, slots=True)
class DiscreteGaussian:
    """The discrete Gaussian of scale ``sigma``, in grid steps, centred at zero.

    ``sigma`` lies within [0.3, 2^24], else :class:`ValueError`: below, the noise is nearly always zero and
    protects nothing; above, a coarser grid serves as well. The variance is never more than sigma^2, and less
    by under one millionth from sigma = 1 on.
    """

    sigma: float

    def __post_init__(self) -> None:
        if not SMALLEST_SIGMA <= self.sigma <= LARGEST_SIGMA:
            span = f"{SMALLEST_SIGMA} to {LARGEST_SIGMA:.0f} grid steps"
            raise ValueError(f"sigma of discrete noise is {span}, not {self.sigma}")

    def sample(self, count: int, random: RandomBytes) -> NDArray[np.int64]:
        """``count`` independent samples, int64 of shape (count,), from a 32-byte seed drawn from ``random``.

        The first call for a sigma builds its tables, in 20 ms and 0.6 MB at most; later ones share them.
        Raises :class:`ValueError` for a negative count.
        """
        return Samples(self, count, random).take(count)


class Samples:
    """What :meth:`DiscreteGaussian.sample` would return at once, handed out in order, however it is cut.

    It draws its seed when it is made. Raises :class:`ValueError` for a negative count.
    """

    def __init__(self, law: DiscreteGaussian, count: int, random: RandomBytes) -> None:
        if count < 0:
            raise ValueError(f"cannot draw {count} samples")
        self._tables, self._stream = _tables(law.sigma), Keystream(random(SEED_BYTES))
        self._undrawn = count
        self._part = np.empty(min(count, _BATCH), np.int16)
        self._batch = np.empty(len(self._part), np.int32)
        self._drawn = self._batch[:0]

    def take(self, count: int) -> NDArray[np.int64]:
        """The next ``count``, a fresh array; raises :class:`ValueError` if there are not so many left."""
        self._require(count)
        taken = np.empty(count, np.int64)
        for where, part in self._next(count):
            taken[where] = part
        return taken

    def add_to(self, values: NDArray[Any]) -> None:
        """Add the next ``len(values)`` to ``values``, in place: float64, signed, or words of a ring, in which
        the sum wraps. Raises :class:`ValueError` if there are not so many left.
        """
        self._require(len(values))
        for where, part in self._next(len(values)):
            values[where] += part.astype(values.dtype)

    def _require(self, count: int) -> None:
        left = self._undrawn + len(self._drawn)
        if not 0 <= count <= left:
            raise ValueError(f"cannot take {count} of {left} samples")

    def _next(self, count: int) -> Iterator[tuple[slice, NDArray[np.int32]]]:
        """The next ``count``, in pieces that are overwritten in turn, and where among them each belongs."""
        at = 0
        while at < count:
            if len(self._drawn) == 0:
                self._draw()
            part = self._drawn[: count - at]
            yield slice(at, at + len(part)), part
            at, self._drawn = at + len(part), self._drawn[len(part) :]

    def _draw(self) -> None:
        size = min(self._undrawn, _BATCH)
        self._drawn, part = self._batch[:size], self._part[:size]
        self._undrawn -= size
        widest, *others = self._tables
        widest.fill(part, self._stream)
        self._drawn[:] = part
        for table in others:
            np.multiply(self._drawn, _STRIDE, out=self._drawn)
            table.fill(part, self._stream)
            np.add(self._drawn, part, out=self._drawn)


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Rising thresholds T_0, T_1, … out of 2^128: a uniform u below 2^128 means the magnitude #{x: T_x <= u}.

    ``high`` and ``low`` are their 64-bit halves. ``guide`` has the magnitude for each value of the topmost
    16 bits of u, or -1 where these do not settle it; only then are the other 112 drawn.
    """

    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    guide: NDArray[np.int16]

    @classmethod
    def of(cls, thresholds: list[int]) -> "_Table":
        high = np.array([threshold >> 64 for threshold in thresholds], np.uint64)
        low = np.array([threshold & (2**64 - 1) for threshold in thresholds], np.uint64)
        first = np.arange(1 << 16, dtype=np.uint64) << np.uint64(48)
        last = first | np.uint64(2**48 - 1)
        lowest = _search(high, low, first, np.zeros_like(first))
        highest = _search(high, low, last, np.full_like(last, 2**64 - 1))
        return cls(high, low, np.where(lowest == highest, lowest, -1).astype(np.int16))

    def fill(self, out: NDArray[np.int16], stream: Keystream) -> None:
        bits = np.empty(2 * len(out) + -(-len(out) // 8), np.uint8)
        stream.fill(bits)
        top, signs = bits[: 2 * len(out)].view("<u2"), bits[2 * len(out) :]
        np.take(self.guide, top, out=out, mode="clip")
        unsettled = np.flatnonzero(out < 0)
        words = np.empty(2 * len(unsettled), "<u8")
        stream.fill(words)
        words.view("<u2")[3::8] = top[unsettled]
        out[unsettled] = _search(self.high, self.low, words[::2], words[1::2])
        np.multiply(out, _SIGNS[signs].view(np.int8)[: len(out)], out=out)


@lru_cache(maxsize=16)
def _tables(sigma: float) -> tuple[_Table, ...]:
    """For the parts of a sample, the widest first: each counts :data:`_STRIDE` times what the next does."""
    return tuple(_table(variance) for variance in _variances(Fraction(sigma) ** 2))


@lru_cache(maxsize=16)
def _table(variance: Fraction) -> _Table:
    return _Table.of(_thresholds(variance))


def _variances(variance: Fraction) -> list[Fraction]:
    if variance <= _LARGEST_TABLE**2:
        return [variance]
    return [*_variances((variance - _FINE_SIGMA**2) / _STRIDE**2), Fraction(_FINE_SIGMA**2)]


def _search(
    high: NDArray[np.uint64], low: NDArray[np.uint64], words: NDArray[np.uint64], rests: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """How many thresholds are at most 2^64 words + rests: by the high halves and, where they tie, the low."""
    found = np.searchsorted(high, words, side="left")
    for tie in np.flatnonzero(high[np.minimum(found, len(high) - 1)] == words):
        start, end = found[tie], np.searchsorted(high, words[tie], side="right")
        found[tie] += np.searchsorted(low[start:end], rests[tie], side="right")
    return found


def _thresholds(variance: Fraction) -> list[int]:
    """T_x = floor(2^128 P(|X| <= x)) for x = 0, 1, … as far as it stays below 2^128 - 1; sigma^2 is
    ``variance``.

    In integers out of 2^256: the weight exp(-x^2 / 2 sigma^2) of x + 1 is that of x times a ratio, which
    itself shrinks by exp(-1 / sigma^2). Rounding moves a probability by less than 2^-200, nothing beside
    the unit 2^-128.
    """
    with localcontext(Context(prec=100)):
        ratio = int((-Decimal(variance.denominator) / (2 * Decimal(variance.numerator))).exp() * 2**256)
    square = ratio * ratio >> 256
    # A sign follows, so zero has half its weight: it comes about in two ways.
    sums, weight = [1 << 255], 1 << 256
    while weight >> 96:
        weight, ratio = weight * ratio >> 256, ratio * square >> 256
        sums.append(sums[-1] + weight)
    thresholds = ((partial << 128) // sums[-1] for partial in sums)
    return list(takewhile(lambda threshold: threshold < 2**128 - 1, thresholds))
