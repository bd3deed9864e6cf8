"""The table is exact to its last bit, every random bit goes where it should, and samples follow the law."""

import math
import tracemalloc
import warnings
from bisect import bisect_right
from typing import Any

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray

from p2pfl.crypto.discrete_gaussian import (
    LARGEST_SIGMA,
    SMALLEST_SIGMA,
    DiscreteGaussian,
    Samples,
    _search,
    _table,
    _thresholds,
)
from p2pfl.crypto.randomness import seeded_random

SMALL = [SMALLEST_SIGMA, 0.5, 1.0, 2.5, 17.3]
UNIT = 2**128


@pytest.fixture(autouse=True)
def enough_digits() -> Any:
    with mpmath.workdps(90):
        yield


def weight(x: int, sigma: float) -> Any:
    return mpmath.exp(-(mpmath.mpf(x) ** 2) / (2 * mpmath.mpf(sigma) ** 2))


def total_weight(sigma: float) -> Any:
    """The sum of all weights, by Poisson's summation formula: another series than the one under test."""
    waves = [mpmath.exp(-2 * (mpmath.pi * k * mpmath.mpf(sigma)) ** 2) for k in range(-14, 15)]
    return mpmath.mpf(sigma) * mpmath.sqrt(2 * mpmath.pi) * sum(waves)


def law(sigma: float, reach: int) -> list[Any]:
    """P(|X| = x) for x below ``reach``, by the definition."""
    halves = [weight(x, sigma) / total_weight(sigma) for x in range(reach)]
    return [halves[0], *(2 * half for half in halves[1:])]


@pytest.mark.parametrize("sigma", SMALL)
def test_thresholds_are_the_cumulative_law_rounded_down(sigma: float) -> None:
    thresholds = _thresholds(sigma)
    cumulative = mpmath.mpf(0)
    for threshold, probability in zip(thresholds, law(sigma, len(thresholds)), strict=True):
        cumulative += probability
        assert threshold == int(mpmath.floor(cumulative * UNIT))
    rest = 1 - cumulative - 2 * weight(len(thresholds), sigma) / total_weight(sigma)
    assert rest * UNIT < 1, "the table ends too early"
    assert len(thresholds) <= 13.4 * sigma + 1


@pytest.mark.parametrize("sigma", [1000.0, LARGEST_SIGMA])
def test_large_thresholds_are_exact_at_both_ends(sigma: float) -> None:
    thresholds, total = _thresholds(sigma), total_weight(sigma)
    cumulative = weight(0, sigma) / total
    for x in range(20):
        assert thresholds[x] == int(mpmath.floor(cumulative * UNIT))
        cumulative += 2 * weight(x + 1, sigma) / total
    for tail in (12 * sigma, 13 * sigma, len(thresholds) - 1):
        x = int(tail)
        beyond = 2 * sum(weight(y, sigma) for y in range(x + 1, x + int(1.5 * sigma))) / total
        assert thresholds[x] == int(mpmath.floor((1 - beyond) * UNIT))
    assert thresholds == sorted(thresholds)
    assert len(thresholds) <= 13.4 * sigma + 1


@pytest.mark.parametrize("sigma", SMALL)
def test_total_variation_is_within_the_stated_bound(sigma: float) -> None:
    thresholds = _thresholds(sigma)
    drawn = [b - a for a, b in zip([0, *thresholds], [*thresholds, UNIT], strict=True)]
    exact = law(sigma, len(drawn) + 20)
    drawn += [0] * 20
    distance = sum(abs(mpmath.mpf(a) / UNIT - b) for a, b in zip(drawn, exact, strict=True)) / 2
    assert 0 < distance <= mpmath.mpf(len(thresholds)) / UNIT


def test_the_bound_of_the_largest_sigma() -> None:
    assert len(_thresholds(LARGEST_SIGMA)) * 2**111 < UNIT


@pytest.mark.parametrize("sigma", [0.3, 1.0, 64.0, 1000.0])
def test_search_tells_neighbouring_numbers_apart(sigma: float) -> None:
    thresholds, table = _thresholds(sigma), _table(sigma)
    numbers = {0, UNIT - 1}
    for threshold in thresholds:
        numbers |= {threshold - 1, threshold, threshold + 1}
    numbers |= {threshold ^ bit for threshold in thresholds[:50] for bit in (1 << 63, 1 << 64, 1 << 100)}
    ordered = sorted(numbers)
    words = np.array([number >> 64 for number in ordered], np.uint64)
    rests = np.array([number % 2**64 for number in ordered], np.uint64)
    found = _search(table.high, table.low, words, rests)
    assert found.tolist() == [bisect_right(thresholds, number) for number in ordered]


@pytest.mark.parametrize("sigma", [0.3, 1.0, 64.0, 1000.0, 8192.0])
def test_guide_settles_exactly_what_sixteen_bits_settle(sigma: float) -> None:
    thresholds, guide = _thresholds(sigma), _table(sigma).guide.tolist()
    for top, magnitude in enumerate(guide):
        lowest = bisect_right(thresholds, top << 112)
        highest = bisect_right(thresholds, (top << 112) + 2**112 - 1)
        assert magnitude == (lowest if lowest == highest else -1)


class ScriptedStream:
    """Stands in for the keystream: gives the samples' bits in the order in which the table asks for them."""

    def __init__(self, *parts: NDArray[Any]) -> None:
        self.parts = list(parts)

    def fill(self, out: NDArray[Any]) -> None:
        part = self.parts.pop(0)
        assert out.dtype == part.dtype
        assert out.shape == part.shape
        out[:] = part


@pytest.mark.parametrize("sigma", [0.3, 1.0, 64.0, 8192.0])
def test_every_bit_of_a_number_counts(sigma: float) -> None:
    thresholds, table = _thresholds(sigma), _table(sigma)
    some = thresholds[:40] + thresholds[-10:] + thresholds[:: max(1, len(thresholds) // 40)]
    numbers = [threshold + offset for threshold in some for offset in (-1, 0, 1)]
    numbers += [0, 1, UNIT // 2, UNIT - 1]
    signs = np.random.default_rng(0).integers(0, 2, len(numbers)).astype(np.uint8)
    unsettled = [number for number in numbers if table.guide[number >> 112] < 0]
    rest = np.zeros(2 * len(unsettled), "<u8")
    # The lowest 16 bits of a word are dropped: whatever they are makes no difference.
    rest[::2] = [((number >> 64) % 2**48 << 16) | 0xABCD for number in unsettled]
    rest[1::2] = [number % 2**64 for number in unsettled]
    tops = np.array([number >> 112 for number in numbers], "<u2")
    stream: Any = ScriptedStream(tops, rest, np.packbits(signs))
    out = np.full(len(numbers), 99, np.int64)
    table.fill(out, stream)
    expected = [
        bisect_right(thresholds, number) * (1 - 2 * int(s)) for number, s in zip(numbers, signs, strict=True)
    ]
    assert out.tolist() == expected
    assert len(unsettled) > 10
    assert not stream.parts


@pytest.mark.parametrize("sigma", [0.3, 0.7, 1.0, 3.0, 20.0])
def test_samples_follow_the_law(sigma: float) -> None:
    count = 400_000
    samples = DiscreteGaussian(sigma).sample(count, seeded_random(b"chi-square"))
    reach = int(6 * sigma) + 3
    total = float(total_weight(sigma))
    chi_square, cells, pooled_expected, pooled_observed = 0.0, 0, 0.0, 0
    for x in range(-reach, reach + 1):
        expected = count * float(weight(x, sigma)) / total
        observed = int(np.count_nonzero(samples == x))
        if expected < 10:
            pooled_expected, pooled_observed = pooled_expected + expected, pooled_observed + observed
            continue
        chi_square, cells = chi_square + (observed - expected) ** 2 / expected, cells + 1
    assert np.abs(samples).max() <= reach
    assert abs(pooled_observed - pooled_expected) <= 5 * math.sqrt(pooled_expected) + 1
    assert abs(chi_square - (cells - 1)) < 4 * math.sqrt(2 * cells)


@pytest.mark.parametrize("sigma", [100.0, 1000.0, LARGEST_SIGMA])
def test_large_samples_follow_the_normal_law(sigma: float) -> None:
    count = 500_000
    samples = np.sort(DiscreteGaussian(sigma).sample(count, seeded_random(b"large")))
    points = np.linspace(-4 * sigma, 4 * sigma, 161).round()
    empirical = np.searchsorted(samples, points, side="right") / count
    normal = np.array([0.5 * math.erfc(-(point + 0.5) / sigma / math.sqrt(2)) for point in points])
    # Kolmogorov and Smirnov: exceeded by chance once in 2e5 seeds.
    assert np.abs(empirical - normal).max() < 2.5 / math.sqrt(count)
    assert np.unique(samples).size > 3 * sigma


@pytest.mark.parametrize("sigma", [0.3, 1.0, 7.7, 64.0, 1000.0, LARGEST_SIGMA])
def test_moments(sigma: float) -> None:
    count = 1_000_000
    samples = DiscreteGaussian(sigma).sample(count, seeded_random(b"moments")).astype(np.float64)
    reach = max(10, int(10 * sigma)) if sigma < 20 else 0
    variance = (
        float(2 * sum(x**2 * weight(x, sigma) for x in range(reach)) / total_weight(sigma))
        if reach
        else sigma**2
    )
    assert variance <= sigma**2
    assert sigma < 1 or variance > sigma**2 * (1 - 1e-6)
    assert abs(samples.mean()) < 4 * math.sqrt(variance / count)
    spread = math.sqrt(max(2.0, 1 / variance) / count)
    assert abs(samples.var() / variance - 1) < 4 * spread
    assert abs(np.corrcoef(samples[:-1], samples[1:])[0, 1]) < 4 / math.sqrt(count)


def test_signs_are_fair_and_independent_of_magnitudes() -> None:
    samples = DiscreteGaussian(5.0).sample(400_000, seeded_random(b"signs"))
    for part in (samples[np.abs(samples) == 1], samples[np.abs(samples) == 5], samples[np.abs(samples) > 10]):
        positive = int(np.count_nonzero(part > 0))
        assert abs(positive - len(part) / 2) < 2 * math.sqrt(len(part))


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, 200_001])
def test_counts_across_batches(count: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples = DiscreteGaussian(1000.0).sample(count, seeded_random(b"count"))
    assert samples.dtype == np.int64
    assert samples.shape == (count,)
    assert np.count_nonzero(samples) >= count * 0.99


def test_batches_and_calls_are_different_and_a_seed_decides_them() -> None:
    noise, random = DiscreteGaussian(1000.0), seeded_random(b"seed")
    samples = noise.sample(1 << 17, random)
    assert not np.array_equal(samples[: 1 << 16], samples[1 << 16 :])
    assert not np.array_equal(samples, noise.sample(1 << 17, random))
    assert np.array_equal(samples, noise.sample(1 << 17, seeded_random(b"seed")))


def test_memory_beyond_the_result_is_bounded() -> None:
    noise = DiscreteGaussian(LARGEST_SIGMA)
    noise.sample(1, seeded_random(b"x"))
    tracemalloc.start()
    try:
        noise.sample(2_000_000, seeded_random(b"x"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - 2_000_000 * 8 < 4_000_000


@pytest.mark.parametrize("sigma", [0.0, -1.0, 0.2999, 8192.1, math.inf, -math.inf, math.nan])
def test_other_sigmas_are_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match=r"0\.3 to 8192 grid steps"):
        DiscreteGaussian(sigma)


def test_negative_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="-1 samples"):
        DiscreteGaussian(1.0).sample(-1, seeded_random(b"x"))


@pytest.mark.parametrize("count", [0, 5, (1 << 16) - 1, 1 << 16, 200_001])
@pytest.mark.parametrize("part", [1 << 14, 1 << 16, 70_001])
def test_samples_do_not_depend_on_where_they_are_cut(count: int, part: int) -> None:
    law = DiscreteGaussian(1000.0)
    whole, source = law.sample(count, seeded_random(b"cut")), Samples(law, count, seeded_random(b"cut"))
    parts = [source.take(min(part, count - at)) for at in range(0, count, part)]
    assert np.array_equal(np.concatenate([*parts, source.take(0)]), whole)


def test_no_more_samples_are_handed_out_than_there_are() -> None:
    source = Samples(DiscreteGaussian(1.0), 5, seeded_random(b"x"))
    source.take(3)
    for count in (3, -1):
        with pytest.raises(ValueError, match=f"cannot take {count} of 2"):
            source.take(count)
    assert len(source.take(2)) == 2
