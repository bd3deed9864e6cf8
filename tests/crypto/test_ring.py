"""Encoding rounds without bias by less than a step, sums decode to sums, nothing wraps that may not, and it
makes no difference where a vector is cut.
"""

import math
import warnings
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from p2pfl.crypto import ring
from p2pfl.crypto.randomness import Keystream, seeded_random
from p2pfl.crypto.ring import (
    RING_16,
    RING_32,
    RING_64,
    Encoder,
    Encoding,
    Ring,
    RingVector,
    decode,
    encode,
    largest_fraction_bits,
)

RINGS = [RING_16, RING_32, RING_64]
seeds = st.binary(min_size=1, max_size=8)
each_ring = pytest.mark.parametrize("ring_", RINGS, ids=lambda ring: f"{ring.bits} bits")


@st.composite
def encodings(draw: st.DrawFn, members: int = 1) -> Encoding:
    among = draw(st.sampled_from(RINGS))
    limit = draw(st.floats(1e-6, min(1e6, 2.0 ** (among.bits - 4) / members)))
    finest = largest_fraction_bits(members, limit, among)
    return Encoding(draw(st.integers(max(0, finest - 30), finest)), limit, among)


@st.composite
def encodings_with_values(draw: st.DrawFn) -> tuple[Encoding, NDArray[np.float64]]:
    encoding = draw(encodings())
    elements = st.floats(-encoding.limit, encoding.limit)
    return encoding, draw(arrays(np.float64, st.integers(0, 40), elements=elements))


def grid(values: RingVector) -> list[int]:
    """The encoded values as signed grid steps."""
    size = 2 ** (8 * values.itemsize)
    return [value - size if value >= size // 2 else value for value in values.tolist()]


def oracle(values: NDArray[np.float64], encoding: Encoding, seed: bytes) -> list[int]:
    """The definition in exact arithmetic: to 2^-16 of a step, half to even, then up if the coin says so."""
    coins = np.frombuffer(Keystream(seed).read(2 * len(values)), "<u2").tolist()
    steps = []
    for value, coin in zip(values.tolist(), coins, strict=True):
        clipped = min(max(Fraction(value), -Fraction(encoding.limit)), Fraction(encoding.limit))
        fixed = round(clipped * 2**encoding.fraction_bits * 2**16)
        steps.append((fixed + coin) // 2**16)
    return steps


@given(encodings_with_values(), st.binary(min_size=32, max_size=32), st.floats(0.1, 1.0))
def test_encode_follows_its_definition(
    case: tuple[Encoding, NDArray[np.float64]], seed: bytes, fraction: float
) -> None:
    encoding, values = case
    narrow = replace(encoding, limit=encoding.limit * fraction)
    encoded, saturated = encode(values, narrow, lambda count: seed[:count])
    assert grid(encoded) == oracle(values, narrow, seed)
    assert saturated == sum(abs(value) > narrow.limit for value in values.tolist())


@each_ring
def test_encode_follows_its_definition_over_many_blocks(ring_: Ring) -> None:
    values = np.random.default_rng(1).normal(0, 3, 100_003)
    encoding, seed = Encoding(largest_fraction_bits(4, 8.0, ring_), 8.0, ring_), bytes(range(32))
    encoded, saturated = encode(values, encoding, lambda _: seed)
    assert grid(encoded) == oracle(values, encoding, seed)
    assert saturated == np.count_nonzero(np.abs(values) > 8.0) > 0


@given(encodings_with_values(), seeds)
def test_error_is_below_one_step(case: tuple[Encoding, NDArray[np.float64]], seed: bytes) -> None:
    encoding, values = case
    encoded, saturated = encode(values, encoding, seeded_random(seed))
    assert encoded.dtype == encoding.ring.dtype
    assert saturated == 0
    for got, value in zip(grid(encoded), values.tolist(), strict=True):
        assert abs(Fraction(got, 2**encoding.fraction_bits) - Fraction(value)) < Fraction(
            1, 2**encoding.fraction_bits
        )


@given(encodings(), st.data(), seeds)
def test_values_on_the_grid_are_exact(encoding: Encoding, data: st.DataObject, seed: bytes) -> None:
    most = math.floor(math.ldexp(encoding.limit, encoding.fraction_bits))
    steps = data.draw(st.lists(st.integers(-most, most), max_size=20))
    values = np.array(steps, dtype=np.float64) * math.ldexp(1.0, -encoding.fraction_bits)
    values = values[np.abs(values) <= encoding.limit]
    encoded, _ = encode(values, encoding, seeded_random(seed))
    assert np.array_equal(decode(encoded, encoding), values)


@given(st.integers(1, 64), st.integers(0, 8), st.data())
def test_sum_in_the_ring_is_the_exact_sum_of_the_encoded(
    members: int, length: int, data: st.DataObject
) -> None:
    encoding = data.draw(encodings(members))
    elements = st.floats(-2 * encoding.limit, 2 * encoding.limit) | st.just(encoding.limit)
    total = np.zeros(length, encoding.ring.dtype)
    expected = [0] * length
    rows = data.draw(arrays(np.float64, (members, length), elements=elements))
    for member, values in enumerate(rows):
        encoded, _ = encode(values, encoding, seeded_random(bytes([member])))
        total += encoded
        expected = [a + b for a, b in zip(expected, grid(encoded), strict=True)]
    assert grid(total) == expected
    assert decode(total, encoding).tolist() == [
        math.ldexp(step, -encoding.fraction_bits) for step in expected
    ]


@pytest.mark.parametrize(
    ("members", "limit", "ring_", "bits"),
    [
        (8, 64.0, RING_32, 21),
        (16, 16.0, RING_32, 22),
        (8, 0.0625, RING_32, 31),
        (8, 0.0625, RING_16, 15),
        (8, 64.0, RING_16, 5),
        (8, 64.0, RING_64, 53),
        (8, 0.0078125, RING_64, 64),
    ],
)
def test_largest_fraction_bits_known_values(members: int, limit: float, ring_: Ring, bits: int) -> None:
    assert largest_fraction_bits(members, limit, ring_) == bits


@given(st.integers(1, 2**20), st.floats(1e-9, 1e9), st.sampled_from(RINGS))
def test_largest_fraction_bits_leaves_one_guard_bit_and_wastes_less_than_two(
    members: int, limit: float, among: Ring
) -> None:
    try:
        bits = largest_fraction_bits(members, limit, among)
    except ValueError:
        assert members * limit > 2 ** (among.bits - 4)
        return
    reach = members * Fraction(limit) * Fraction(2) ** bits
    assert reach <= 2 ** (among.bits - 2)
    assert reach > 2 ** (among.bits - 4) or bits == 64
    Encoding(bits, limit, among)


@each_ring
@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("members", [1, 2, 4, 5, 8, 16])
def test_extreme_sum_with_room_for_noise_does_not_wrap(members: int, sign: float, ring_: Ring) -> None:
    limit = 63.7
    encoding = Encoding(largest_fraction_bits(members, limit, ring_), limit, ring_)
    values = np.full(1000, sign * 1e9)
    total = np.zeros(1000, ring_.dtype)
    for member in range(members):
        encoded, saturated = encode(values, encoding, seeded_random(bytes([member])))
        assert saturated == 1000
        total += encoded
    noise = int(sign) * (2 ** (ring_.bits - 2) - members - 1)
    total += np.array(noise % 2**ring_.bits, ring_.dtype)
    expected = sign * members * limit + math.ldexp(noise, -encoding.fraction_bits)
    assert np.allclose(
        decode(total, encoding), expected, atol=members * math.ldexp(1.0, -encoding.fraction_bits)
    )


class EveryCoin:
    """Stands in for the keystream: coin i of a fill is i, so 2^16 equal values meet every coin once."""

    def __init__(self, seed: bytes) -> None:
        assert len(seed) == 32

    def fill(self, out: NDArray[np.uint16]) -> None:
        out[:] = np.arange(len(out))


@each_ring
@pytest.mark.parametrize(
    "sixteenths", [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, -1, -0x8000, 12345 * 65536 + 77]
)
def test_rounding_is_exactly_unbiased_over_all_coins(
    sixteenths: int, ring_: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring, "Keystream", EveryCoin)
    monkeypatch.setattr(ring, "_BLOCK", 1 << 16)
    encoding = Encoding(10, 15.0, ring_)
    values = np.full(1 << 16, math.ldexp(sixteenths, -26))
    encoded, _ = encode(values, encoding, bytes)
    assert sum(grid(encoded)) == sixteenths
    assert set(grid(encoded)) <= {sixteenths // 2**16, -(-sixteenths // 2**16)}


@each_ring
def test_rounding_is_unbiased_and_its_variance_is_that_of_a_coin(ring_: Ring) -> None:
    values = np.full(1_000_000, 0.3 / 1024)
    encoded, _ = encode(values, Encoding(10, 1.0, ring_), seeded_random(b"bias"))
    steps = encoded.astype(np.float64)
    deviation = math.sqrt(0.3 * 0.7 / len(values))
    assert abs(steps.mean() - 0.3) < 4 * deviation
    assert abs(steps.var() - 0.21) < 4 * deviation
    assert abs(np.corrcoef(steps[:-1], steps[1:])[0, 1]) < 4e-3


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("index", [0, 1, 40_000, 99_999])
def test_non_finite_values_are_refused_before_anything_else(bad: float, index: int) -> None:
    def no_randomness(count: int) -> bytes:
        raise AssertionError("randomness was drawn")

    values = np.zeros(100_000)
    values[index] = bad
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=f"value {index} of 100000 is not finite"):
            encode(values, Encoding(10, 1.0), no_randomness)


def test_the_input_is_left_alone_and_coins_are_fresh() -> None:
    values = np.random.default_rng(2).normal(size=1000)
    before = values.copy()
    random = seeded_random(b"fresh")
    first, _ = encode(values, Encoding(10, 0.5), random)
    second, _ = encode(values, Encoding(10, 0.5), random)
    assert np.array_equal(values, before)
    assert not np.array_equal(first, second)


def test_a_value_at_the_limit_is_not_saturated() -> None:
    above = math.nextafter(2.0, 3.0)
    values = np.array([2.0, -2.0, above, -above, 0.0])
    encoded, saturated = encode(values, Encoding(4, 2.0), seeded_random(b"x"))
    assert grid(encoded) == [32, -32, 32, -32, 0]
    assert saturated == 2


def test_strided_and_huge_values() -> None:
    values = np.array([1e308, 0.0, -1e308, 0.0, 0.25, 0.0])[::2]
    encoded, saturated = encode(values, Encoding(2, 4.0), seeded_random(b"x"))
    assert grid(encoded) == [16, -16, 1]
    assert saturated == 2


def test_a_grid_finer_than_float64_holds_it_exactly() -> None:
    encoding = Encoding(56, 64.0, RING_64)
    values = np.array([64.0, -64.0, 0.1, -63.9, math.nextafter(1.0, 2.0), 2.0**-52, 0.0])
    encoded, _ = encode(values, encoding, seeded_random(b"x"))
    assert grid(encoded) == [int(Fraction(value) * 2**56) for value in values.tolist()]
    assert np.array_equal(decode(encoded, encoding), values)


def test_beyond_float64_decoding_goes_to_the_nearest() -> None:
    steps = [2**53, 2**53 + 1, 2**53 + 3, 2**63 - 1, -(2**63), -(2**53) - 1]
    total = np.array([step % 2**64 for step in steps], "<u8")
    assert decode(total, Encoding(3, 1.0, RING_64)).tolist() == [float(step) / 8 for step in steps]


@given(encodings(), st.integers(0, 60), st.lists(st.integers(0, 60), max_size=6), seeds)
def test_it_makes_no_difference_where_a_vector_is_cut(
    encoding: Encoding, length: int, cuts: list[int], seed: bytes
) -> None:
    values = np.random.default_rng(length).normal(0, encoding.limit, length)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ring, "_BLOCK", 7)
        whole, saturated = encode(values, encoding, seeded_random(seed))
        encoder = Encoder(values, encoding, seeded_random(seed))
        assert (len(encoder), encoder.shape, encoder.dtype) == (length, whole.shape, whole.dtype)
        ends = [*sorted(min(cut, length) for cut in cuts), length]
        parts, start = [], 0
        for end in ends:
            parts.append(encoder[start:end])
            start = end
            assert encoder.saturated == np.count_nonzero(np.abs(values[:end]) > encoding.limit)
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    assert encoder.saturated == saturated


def test_slices_are_fresh_and_taken_in_order() -> None:
    encoder = Encoder(np.zeros(10), Encoding(10, 1.0), seeded_random(b"x"))
    first = encoder[:4]
    for part in (slice(0, 4), slice(5, 6), slice(4, 2), slice(4, 8, 2), slice(-1, None)):
        with pytest.raises(ValueError, match="in order: the next starts at 4"):
            encoder[part]
    second = encoder[4:8]
    assert not np.shares_memory(first, second)
    assert len(encoder[8:99]) == 2
    assert len(encoder[10:]) == 0


@pytest.mark.parametrize("values", [np.zeros(3, np.float32), np.zeros(3, np.int64), np.zeros((3, 1))])
def test_encode_refuses_other_arrays(values: Any) -> None:
    with pytest.raises(ValueError, match="float64 vector"):
        encode(values, Encoding(10, 1.0), seeded_random(b"x"))


@each_ring
def test_decode_refuses_other_arrays(ring_: Ring) -> None:
    dtypes: list[Any] = [np.int16, np.int32, np.int64, np.float64, ">u4", np.uint8]
    for dtype in [*dtypes, *(other.dtype for other in RINGS if other != ring_)]:
        with pytest.raises(ValueError, match=f"uint{ring_.bits} vector"):
            decode(np.zeros(3, dtype), Encoding(10, 1.0, ring_))
    with pytest.raises(ValueError, match=r"of shape \(3, 1\)"):
        decode(np.zeros((3, 1), ring_.dtype), Encoding(10, 1.0, ring_))


@each_ring
def test_impossible_encodings_are_refused(ring_: Ring) -> None:
    most = ring_.bits - 2
    Encoding(most, 1.0, ring_)
    for bits, limit in [(-1, 1.0), (most + 1, 1.0), (65, 1e-12), (10, 0.0), (10, -1.0), (64, 1e300)]:
        with pytest.raises(ValueError):
            Encoding(bits, limit, ring_)
    for limit in (math.inf, math.nan):
        with pytest.raises(ValueError):
            Encoding(10, limit, ring_)


@pytest.mark.parametrize("bits", [0, 8, 24, 128])
def test_there_are_three_rings(bits: Any) -> None:
    with pytest.raises(ValueError, match="16, 32 or 64 bits"):
        Ring(bits)
    assert [(each.bytes, each.dtype.str) for each in RINGS] == [(2, "<u2"), (4, "<u4"), (8, "<u8")]


@pytest.mark.parametrize(
    ("members", "limit"),
    [(0, 1.0), (4, 0.0), (4, -1.0), (4, math.inf), (4, math.nan), (4, 2.0**29), (2**31, 1.0)],
)
def test_impossible_federations_have_no_grid(members: int, limit: float) -> None:
    with pytest.raises(ValueError):
        largest_fraction_bits(members, limit)
