"""Tables are exact to their last bit, and samples are handed out as asked. Their law has its own file."""

import math
import tracemalloc
import warnings
from bisect import bisect_right
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest

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

UNIT = 2**128


@pytest.fixture(autouse=True)
def enough_digits() -> Any:
    with mpmath.workdps(90):
        yield


def thresholds_of(sigma: float) -> list[int]:
    return _thresholds(Fraction(sigma) ** 2)


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


@pytest.mark.parametrize("sigma", [SMALLEST_SIGMA, 0.5, 1.0, 2.5, 17.3, 72.0])
def test_thresholds_are_the_cumulative_law_rounded_down(sigma: float) -> None:
    thresholds = thresholds_of(sigma)
    cumulative = mpmath.mpf(0)
    for threshold, probability in zip(thresholds, law(sigma, len(thresholds)), strict=True):
        cumulative += probability
        assert threshold == int(mpmath.floor(cumulative * UNIT))
    rest = 1 - cumulative - 2 * weight(len(thresholds), sigma) / total_weight(sigma)
    assert rest * UNIT < 1, "the table ends too early"
    assert len(thresholds) <= 13.4 * sigma + 1


@pytest.mark.parametrize("sigma", [400.0, 512.0])
def test_large_thresholds_are_exact_at_both_ends(sigma: float) -> None:
    thresholds, total = thresholds_of(sigma), total_weight(sigma)
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


@pytest.mark.parametrize("sigma", [0.3, 1.0, 64.0, 512.0])
def test_search_tells_neighbouring_numbers_apart(sigma: float) -> None:
    thresholds, table = thresholds_of(sigma), _table(Fraction(sigma) ** 2)
    numbers = {0, UNIT - 1}
    for threshold in thresholds:
        numbers |= {threshold - 1, threshold, threshold + 1}
    numbers |= {threshold ^ bit for threshold in thresholds[:50] for bit in (1 << 63, 1 << 64, 1 << 100)}
    ordered = sorted(numbers)
    words = np.array([number >> 64 for number in ordered], np.uint64)
    rests = np.array([number % 2**64 for number in ordered], np.uint64)
    found = _search(table.high, table.low, words, rests)
    assert found.tolist() == [bisect_right(thresholds, number) for number in ordered]


@pytest.mark.parametrize("sigma", [0.3, 1.0, 64.0, 512.0])
def test_guide_settles_exactly_what_sixteen_bits_settle(sigma: float) -> None:
    thresholds, guide = thresholds_of(sigma), _table(Fraction(sigma) ** 2).guide.tolist()
    for top, magnitude in enumerate(guide):
        lowest = bisect_right(thresholds, top << 112)
        highest = bisect_right(thresholds, (top << 112) + 2**112 - 1)
        assert magnitude == (lowest if lowest == highest else -1)


@pytest.mark.parametrize("sigma", [1000.0, 1e6])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, (1 << 15) - 1, 1 << 15, (1 << 15) + 1, 200_001])
def test_counts_across_batches(count: int, sigma: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples = DiscreteGaussian(sigma).sample(count, seeded_random(b"count"))
    assert samples.dtype == np.int64
    assert samples.shape == (count,)
    assert np.count_nonzero(samples) >= count * 0.99


def test_batches_and_calls_are_different_and_a_seed_decides_them() -> None:
    noise, random = DiscreteGaussian(1000.0), seeded_random(b"seed")
    samples = noise.sample(1 << 16, random)
    assert not np.array_equal(samples[: 1 << 15], samples[1 << 15 :])
    assert not np.array_equal(samples, noise.sample(1 << 16, random))
    assert np.array_equal(samples, noise.sample(1 << 16, seeded_random(b"seed")))


def test_memory_beyond_the_result_is_bounded() -> None:
    noise = DiscreteGaussian(LARGEST_SIGMA)
    noise.sample(1, seeded_random(b"x"))
    tracemalloc.start()
    try:
        noise.sample(2_000_000, seeded_random(b"x"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - 2_000_000 * 8 < 1_500_000


@pytest.mark.parametrize("sigma", [0.0, -1.0, 0.2999, 2.0**24 + 1, math.inf, -math.inf, math.nan])
def test_other_sigmas_are_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match=r"0\.3 to 16777216 grid steps"):
        DiscreteGaussian(sigma)


def test_negative_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="-1 samples"):
        DiscreteGaussian(1.0).sample(-1, seeded_random(b"x"))


@pytest.mark.parametrize("count", [0, 5, (1 << 15) - 1, 1 << 15, 200_001])
@pytest.mark.parametrize("part", [1 << 14, 1 << 15, 70_001])
def test_samples_do_not_depend_on_where_they_are_cut(count: int, part: int) -> None:
    law = DiscreteGaussian(1000.0)
    whole, source = law.sample(count, seeded_random(b"cut")), Samples(law, count, seeded_random(b"cut"))
    parts = [source.take(min(part, count - at)) for at in range(0, count, part)]
    assert np.array_equal(np.concatenate([*parts, source.take(0)]), whole)


def test_samples_taken_before_stay_as_they_are() -> None:
    source = Samples(DiscreteGaussian(1000.0), 3 << 15, seeded_random(b"kept"))
    first = source.take(100)
    kept = first.copy()
    source.take(2 << 15)
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("dtype", ["<u2", "<u4", "<u8", "<i8", "<f8"])
def test_samples_are_added_in_the_ring_and_in_floats(dtype: str) -> None:
    law, count = DiscreteGaussian(3000.0), 70_000
    samples = law.sample(count, seeded_random(b"add"))
    values = np.random.default_rng(0).integers(0, 2**16, count).astype(dtype)
    expected = (values.astype(np.int64) + samples).astype(dtype)
    source = Samples(law, count, seeded_random(b"add"))
    source.add_to(values[:40_001])
    source.add_to(values[40_001:])
    assert np.array_equal(values, expected)


def test_no_more_samples_are_handed_out_than_there_are() -> None:
    source = Samples(DiscreteGaussian(1.0), 5, seeded_random(b"x"))
    source.take(3)
    for count in (3, -1):
        with pytest.raises(ValueError, match=f"cannot take {count} of 2"):
            source.take(count)
    with pytest.raises(ValueError, match="cannot take 3 of 2"):
        source.add_to(np.zeros(3))
    assert len(source.take(2)) == 2
