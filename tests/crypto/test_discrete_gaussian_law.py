"""The sampler's exact law, and samples by statistics: both are the discrete Gaussian's.

Exactly, by feeding `fill` every number that matters: whole words of 128 bits, and every number of 20 bits.
"""

import hashlib
import math
from bisect import bisect_right
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray

from p2pfl.crypto.discrete_gaussian import (
    LARGEST_SIGMA,
    SAMPLE_DISTANCE,
    DiscreteGaussian,
    _Table,
    _table,
    _thresholds,
    _variances,
)
from p2pfl.crypto.randomness import SEED_BYTES, Keystream, seeded_random

UNIT = 2**128
PARTS = 2.0**-140
"""What a sum of two exact parts is off by, as the module states."""


@pytest.fixture(autouse=True)
def enough_digits() -> Any:
    with mpmath.workdps(90):
        yield


def weight(x: Any, variance: Any) -> Any:
    return mpmath.exp(-(mpmath.mpf(x) ** 2) / (2 * real(variance)))


def real(number: Any) -> Any:
    return mpmath.mpf(number.numerator) / number.denominator if isinstance(number, Fraction) else number


def total_weight(variance: Any) -> Any:
    """The sum of all weights, by Poisson's summation formula: another series than the one under test."""
    waves = [mpmath.exp(-2 * (mpmath.pi * k) ** 2 * real(variance)) for k in range(-14, 15)]
    return mpmath.sqrt(2 * mpmath.pi * real(variance)) * sum(waves)


# -- exactly


class ScriptedStream:
    """Gives a table the bits of ``numbers`` (128 each) and ``signs`` when it asks for them."""

    def __init__(self, numbers: list[int], signs: NDArray[np.uint8], table: _Table) -> None:
        unsettled = [number for number in numbers if table.guide[number >> 112] < 0]
        tops = np.array([number >> 112 for number in numbers], "<u2").view(np.uint8)
        rest = np.zeros(2 * len(unsettled), "<u8")
        rest[::2] = [(number >> 64) % 2**48 | 0xABCD << 48 for number in unsettled]
        rest[1::2] = [number % 2**64 for number in unsettled]
        self.parts = [np.concatenate([tops, np.packbits(signs)]), rest]

    def fill(self, out: NDArray[Any]) -> None:
        out[:] = self.parts.pop(0)


def drawn(table: _Table, numbers: list[int], sign: int = 0) -> list[int]:
    """What the table makes of ``numbers``, all with that sign bit."""
    stream: Any = ScriptedStream(numbers, np.full(len(numbers), sign, np.uint8), table)
    out = np.full(len(numbers), 99, np.int16)
    table.fill(out, stream)
    return out.tolist()


def exact_law(variance: Fraction) -> dict[int, int]:
    """How many of the 2^129 inputs of 128 bits and a sign give each value.

    Magnitudes never fall as the number rises, so it is enough to see both ends of every 16-bit cell and both
    sides of every step within one.
    """
    table = _table(variance)
    numbers = {end for top in range(1 << 16) for end in (top << 112, (top + 1 << 112) - 1)}
    numbers |= {threshold - side for threshold in _thresholds(variance) for side in (0, 1)}
    ordered = sorted(numbers)
    values, negatives = drawn(table, ordered), drawn(table, ordered, sign=1)
    assert negatives == [-value for value in values]
    law: dict[int, int] = {}
    start = 0
    for at in range(1, len(ordered)):
        if values[at] != values[at - 1]:
            assert values[at] > values[at - 1]
            assert ordered[at] == ordered[at - 1] + 1, "a step where no threshold is"
            law[values[at - 1]] = ordered[at] - start
            start = ordered[at]
    law[values[-1]] = UNIT - start
    return {sign * x: count << (x == 0) for x, count in law.items() for sign in (1, -1)}


def distance(law: NDArray[Any], reach: int, unit: int, variance: Any) -> Any:
    """Total variation between ``law``, counts out of ``unit`` for -reach … reach, and the discrete Gaussian;
    there is next to nothing of either beyond.
    """
    total = total_weight(variance)
    magnitudes = [weight(x, variance) / total for x in range(reach + 1)]
    parts = (abs(mpmath.mpf(law[reach + x]) / unit - magnitudes[abs(x)]) for x in range(-reach, reach + 1))
    return sum(parts) / 2


def as_array(law: dict[int, int], reach: int) -> NDArray[Any]:
    return np.array([law.get(x, 0) for x in range(-reach, reach + 1)], object)


@pytest.mark.parametrize("sigma", [0.3, 0.7, 3.0, 20.0, 72.0, 512.0])
def test_the_exact_law_of_a_table_is_within_its_bound(sigma: float) -> None:
    variance = Fraction(sigma) ** 2
    law = exact_law(variance)
    assert sum(law.values()) == 2 * UNIT
    reach = int(14 * sigma) + 12
    apart = distance(as_array(law, reach), reach, 2 * UNIT, variance)
    assert 0 < apart <= mpmath.mpf(len(_thresholds(variance))) / UNIT <= SAMPLE_DISTANCE


def test_the_exact_law_of_a_sample_of_two_parts_is_within_the_stated_bound() -> None:
    variance = Fraction(600) ** 2
    wide, fine = _variances(variance)
    reach = 14 * 600
    law = np.zeros(2 * reach + 1, object)
    fine_law = exact_law(fine)
    most = max(fine_law)
    fine_array = as_array(fine_law, most)
    for x, count in exact_law(wide).items():
        middle = reach + 32 * x
        start, end = max(0, middle - most), min(len(law), middle + most + 1)
        law[start:end] += count * fine_array[start - middle + most : end - middle + most]
    assert 1 - Fraction(int(law.sum()), (2 * UNIT) ** 2) < Fraction(1, 2**125)
    assert 0 < distance(law, reach, (2 * UNIT) ** 2, variance) <= SAMPLE_DISTANCE


@pytest.mark.parametrize("sigma", [math.nextafter(512.0, 513), 513.7, 1000.0, 2048.0, 2.0**13.9])
def test_the_law_of_a_sum_of_exact_parts_is_as_near_as_stated(sigma: float) -> None:
    """P(x) over the discrete Gaussian's, at points of every residue, near zero and far out."""
    variance = Fraction(sigma) ** 2
    wide, fine = _variances(variance)
    norm = total_weight(wide) * total_weight(fine) / total_weight(variance)
    points = [*range(34), 100, *(int(part * sigma) for part in (0.5, 1, 2, 4, 8, 13))]
    for x in points:
        nearest = round(32 * wide / variance * x)
        sum_of_parts = sum(
            weight(h, wide) * weight(x - 32 * h, fine) for h in range(nearest - 50, nearest + 51)
        )
        assert abs(sum_of_parts / norm / weight(x, variance) - 1) < PARTS


@pytest.mark.parametrize("sigma", [512.5, 2.0**14, 16400.0, 1e5, 2.0**20 / 3, LARGEST_SIGMA])
def test_parts_add_up_and_stay_wide_enough(sigma: float) -> None:
    variance = whole = Fraction(sigma) ** 2
    parts = _variances(whole)
    assert sum(part * 32 ** (2 * scale) for scale, part in enumerate(reversed(parts))) == whole
    assert len(parts) <= 4
    assert parts[0] <= 512**2
    for fine in reversed(parts[1:]):
        wide = (variance - fine) / 32**2
        assert wide * fine / variance > Fraction(496, 100)
        variance = wide
    assert 2.01 * math.exp(-2 * math.pi**2 * 4.96) < PARTS * (1 - PARTS)


def test_four_of_the_largest_tables_are_within_the_bound_of_a_sample() -> None:
    entries = len(_thresholds(Fraction(512) ** 2))
    assert entries <= 13.4 * 512 + 1
    assert 4 * (entries / UNIT + PARTS) < SAMPLE_DISTANCE


@pytest.mark.parametrize("shift", [0, 62, 108])
@pytest.mark.parametrize("sigma", [0.5, 3.0, 40.0])
def test_every_number_of_twenty_bits(sigma: float, shift: int) -> None:
    """The same table of a small word: 16 bits that lead, and 4 more, which lie at ``shift`` of the 112."""
    bits, variance = 20, Fraction(sigma) ** 2
    thresholds = [threshold >> 128 - bits for threshold in _thresholds(variance)]
    table = _Table.of([spread(threshold, shift) for threshold in thresholds])
    settled = table.guide[table.guide >= 0]
    numbers = [top << 4 | low for top in np.flatnonzero(table.guide < 0).tolist() for low in range(16)]
    values = drawn(table, [spread(number, shift) for number in numbers])
    assert values == [bisect_right(thresholds, number) for number in numbers]
    law = 16 * np.bincount(settled, minlength=len(thresholds) + 1)
    law += np.bincount(values, minlength=len(thresholds) + 1)
    assert law.tolist() == np.diff([0, *thresholds, 1 << bits]).tolist()
    total = total_weight(variance)
    exact = [(2 if x else 1) * weight(x, variance) / total for x in range(len(law))]
    apart = sum(abs(mpmath.mpf(n) / 2**bits - p) for n, p in zip(law.tolist(), exact, strict=True)) / 2
    assert 0 < apart <= mpmath.mpf(len(thresholds)) / 2**bits


def spread(number: int, shift: int) -> int:
    return (number >> 4 << 112) | (number & 15) << shift


# -- the stream


def slow_sample(sigma: float, count: int, seed: bytes) -> list[int]:
    """As the module says in words, one sample after the other."""
    stream = Keystream(seed)
    tables = [_thresholds(variance) for variance in _variances(Fraction(sigma) ** 2)]
    samples = []
    for start in range(0, count, 1 << 15):
        size = min(count - start, 1 << 15)
        batch = [0] * size
        for thresholds in tables:
            prefixes = np.frombuffer(stream.read(2 * size), "<u2").tolist()
            signs = "".join(f"{byte:08b}" for byte in stream.read(-(-size // 8)))
            magnitudes = []
            for prefix in prefixes:
                least, most = (bisect_right(thresholds, (prefix + up << 112) - up) for up in (0, 1))
                if least != most:
                    words = [int.from_bytes(stream.read(8), "little") for _ in range(2)]
                    bits = words[0] % 2**48 << 64 | words[1]
                    least = bisect_right(thresholds, prefix << 112 | bits)
                magnitudes.append(least)
            signed = [-m if s == "1" else m for m, s in zip(magnitudes, signs, strict=False)]
            batch = [32 * wide + fine for wide, fine in zip(batch, signed, strict=True)]
        samples += batch
    return samples


@pytest.mark.parametrize(
    ("sigma", "count"),
    [(0.5, 1001), (512.0, 40_000), (513.0, 40_000), (8192.0, 1), (1e5, 3000), (LARGEST_SIGMA, (1 << 15) + 9)],
)
def test_samples_are_the_ones_that_the_stream_says(sigma: float, count: int) -> None:
    seed = seeded_random(b"stream")(SEED_BYTES)
    samples = DiscreteGaussian(sigma).sample(count, lambda _: seed)
    assert samples.tolist() == slow_sample(sigma, count, seed)


def test_the_same_seed_gives_the_same_samples_everywhere() -> None:
    samples = [
        DiscreteGaussian(sigma).sample(50_000, seeded_random(b"x")) for sigma in (1.0, 300.0, 1e4, 1e7)
    ]
    joined = np.concatenate(samples).astype("<i8").tobytes()
    assert (
        hashlib.sha256(joined).hexdigest()
        == "12fb26ac0151bc8aafad0506e9316a85a30b5375a3ac89a7c56d318931a1d725"
    )


# -- by statistics


def normal_quantiles(sigma: float, count: int) -> NDArray[np.float64]:
    return np.array(
        [mpmath.sqrt(2) * mpmath.erfinv(2 * k / count - 1) * sigma for k in range(1, count)], float
    )


def chi_square(observed: NDArray[Any], expected: NDArray[Any]) -> float:
    """How many standard deviations the statistic is above its mean."""
    statistic = float(((observed - expected) ** 2 / expected).sum())
    degrees = len(observed) - 1
    return (statistic - degrees) / math.sqrt(2 * degrees)


@pytest.mark.parametrize("sigma", [0.3, 0.7, 1.0, 3.0, 20.0])
def test_every_value_comes_as_often_as_it_should(sigma: float) -> None:
    count, reach = 400_000, int(7 * sigma) + 3
    samples = DiscreteGaussian(sigma).sample(count, seeded_random(b"chi-square"))
    assert np.abs(samples).max() <= reach
    total = total_weight(sigma**2)
    exact = [float(weight(x, sigma**2) / total) for x in range(-reach, reach + 1)]
    expected, observed = count * np.array(exact), np.bincount(samples + reach, minlength=2 * reach + 1)
    often = expected >= 10
    rest = count - expected[often].sum(), count - observed[often].sum()
    assert abs(chi_square(observed[often], expected[often])) < 4
    assert abs(rest[1] - rest[0]) <= 5 * math.sqrt(rest[0]) + 1


WIDE = [100.0, 512.0, 520.0, 2048.0, 8192.0, 1e5, LARGEST_SIGMA]


@pytest.mark.parametrize("sigma", WIDE)
def test_wide_samples_follow_the_normal_law(sigma: float) -> None:
    """In 128 cells of equal weight, and in the tails."""
    count, cells = 500_000, 128
    samples = DiscreteGaussian(sigma).sample(count, seeded_random(b"normal"))
    edges = np.floor(normal_quantiles(sigma, cells))
    below = [0.0, *(0.5 * math.erfc(-(edge + 0.5) / sigma / math.sqrt(2)) for edge in edges), 1.0]
    observed = np.bincount(np.searchsorted(edges, samples, side="left"), minlength=cells)
    assert abs(chi_square(observed, count * np.diff(below))) < 4
    for tail in (3.0, 3.5, 4.0, 4.5):
        edge = math.floor(tail * sigma)
        expected = count * 0.5 * math.erfc((edge + 0.5) / sigma / math.sqrt(2))
        for side in (samples, -samples):
            assert abs(np.count_nonzero(side > edge) - expected) < 4 * math.sqrt(expected) + 1


@pytest.mark.parametrize("sigma", WIDE)
def test_the_lowest_bits_of_wide_samples_are_even(sigma: float) -> None:
    """Where a part of the sum was missing or too narrow, residues would not come equally often."""
    samples = DiscreteGaussian(sigma).sample(500_000, seeded_random(b"residues"))
    for modulus in (2, 3, 31, 32, 33, 64):
        observed = np.bincount(samples % modulus, minlength=modulus)
        assert abs(chi_square(observed, np.full(modulus, len(samples) / modulus))) < 4.5


@pytest.mark.parametrize("sigma", [0.3, 1.0, 7.7, *WIDE])
def test_moments(sigma: float) -> None:
    count = 1_000_000
    samples = DiscreteGaussian(sigma).sample(count, seeded_random(b"moments")).astype(np.float64)
    reach = range(-int(10 * sigma) - 10, int(10 * sigma) + 11) if sigma < 20 else ()
    variance = float(sum(x**2 * weight(x, sigma**2) for x in reach) / total_weight(sigma**2)) or sigma**2
    assert sigma**2 * (1 - 1e-6) * (sigma >= 1) < variance <= sigma**2
    assert abs(samples.mean()) < 4 * math.sqrt(variance / count)
    assert abs(samples.var() / variance - 1) < 4 * math.sqrt(max(2.0, 1 / variance) / count)
    if sigma >= 1:
        assert abs((samples**4).mean() / variance**2 - 3) < 4 * math.sqrt(96 / count) + 1e-5
    assert abs(np.corrcoef(samples[:-1], samples[1:])[0, 1]) < 4 / math.sqrt(count)


@pytest.mark.parametrize("sigma", [5.0, 1000.0])
def test_signs_are_fair_and_independent_of_magnitudes(sigma: float) -> None:
    samples = DiscreteGaussian(sigma).sample(400_000, seeded_random(b"signs"))
    for least, most in ((1, sigma / 5), (sigma, 1.1 * sigma), (2 * sigma, 9 * sigma)):
        part = samples[(np.abs(samples) >= least) & (np.abs(samples) <= most)]
        assert abs(np.count_nonzero(part > 0) - len(part) / 2) < 2 * math.sqrt(len(part))
