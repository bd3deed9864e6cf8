"""Any threshold of holders recover the secret, fewer fit every secret, and nothing else parses."""

import itertools
import random as insecure_random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.crypto.randomness import seeded_random
from p2pfl.crypto.shamir import MAX_HOLDERS, PRIME, SECRET_BYTES, SHARE_BYTES, combine, split

secrets = st.binary(min_size=32, max_size=32)


def is_probably_prime(number: int) -> bool:
    """Miller and Rabin, 64 random bases: wrong with chance below 2^-128."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    generator = insecure_random.Random(0)
    for _ in range(64):
        power = pow(generator.randrange(2, number - 1), odd, number)
        if power not in (1, number - 1) and not any(
            (power := power * power % number) == number - 1 for _ in range(twos - 1)
        ):
            return False
    return True


def test_prime_is_the_smallest_above_two_to_the_256() -> None:
    assert is_probably_prime(PRIME)
    assert not any(is_probably_prime(2**256 + offset) for offset in range(1, PRIME - 2**256))


@st.composite
def sharings(draw: st.DrawFn) -> tuple[int, int]:
    holders = draw(st.integers(2, 12))
    return holders, draw(st.integers(2, holders))


@given(secrets, sharings(), st.binary(max_size=8), st.data())
def test_any_threshold_of_holders_recover_the_secret(
    secret: bytes, sharing: tuple[int, int], seed: bytes, data: st.DataObject
) -> None:
    holders, threshold = sharing
    shares = split(secret, holders, threshold, seeded_random(seed))
    assert [len(share) for share in shares] == [SHARE_BYTES] * holders
    size = data.draw(st.integers(threshold, holders))
    present = data.draw(st.permutations(range(holders)))[:size]
    assert combine({holder: shares[holder] for holder in present}, threshold) == secret


def test_every_subset_of_a_small_group() -> None:
    secret = bytes(range(32))
    shares = split(secret, 6, 4, seeded_random(b"subsets"))
    for subset in itertools.combinations(range(6), 4):
        assert combine({holder: shares[holder] for holder in subset}, 4) == secret


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, bytes(31) + b"\x01", b"\x80" + bytes(31)])
def test_extreme_secrets(secret: bytes) -> None:
    shares = split(secret, MAX_HOLDERS, MAX_HOLDERS, seeded_random(b"extreme"))
    assert combine(dict(enumerate(shares)), MAX_HOLDERS) == secret


def test_shares_are_values_of_the_polynomial() -> None:
    drawn = [7, PRIME - 1]
    shares = split((11).to_bytes(32, "big"), 5, 3, lambda size: drawn.pop(0).to_bytes(size, "big"))
    for holder, share in enumerate(shares):
        x = holder + 1
        assert int.from_bytes(share, "big") == (7 * x**2 + (PRIME - 1) * x + 11) % PRIME


def test_coefficients_are_uniform_not_merely_reduced() -> None:
    # 2^264 is no multiple of the prime: numbers above its last multiple are drawn again.
    end = 2**264 // PRIME * PRIME
    drawn = [2**264 - 1, end, end - 1, 2]
    shares = split(bytes(32), 2, 2, lambda size: drawn.pop(0).to_bytes(size, "big"))
    assert drawn == [2]
    assert [int.from_bytes(share, "big") for share in shares] == [PRIME - 1, PRIME - 2]


@given(secrets, secrets, sharings(), st.binary(max_size=8))
def test_fewer_than_the_threshold_fit_every_secret(
    secret: bytes, other: bytes, sharing: tuple[int, int], seed: bytes
) -> None:
    """One share less than needed: exactly one last share turns the secret into any other one."""
    holders, threshold = sharing
    shares = split(secret, holders, threshold, seeded_random(seed))
    known = {holder: shares[holder] for holder in range(threshold - 1)}
    at_zero = {0: other, **{holder + 1: share for holder, share in known.items()}}
    last = 0
    for x, value in at_zero.items():
        weight = 1
        for y in at_zero:
            if y != x:
                weight = weight * (threshold - y) * pow(x - y, -1, PRIME) % PRIME
        last += weight * int.from_bytes(value, "big")
    completed = known | {threshold - 1: (last % PRIME).to_bytes(SHARE_BYTES, "big")}
    assert combine(completed, threshold) == other


def test_of_more_shares_the_lowest_holders_are_used() -> None:
    secret = bytes(range(32))
    shares = dict(enumerate(split(secret, 5, 3, seeded_random(b"order"))))
    wrong = (1).to_bytes(SHARE_BYTES, "big")
    backwards = dict(reversed((shares | {3: wrong, 4: wrong}).items()))
    assert combine(backwards, 3) == secret
    for holder in range(3):
        try:
            assert combine(shares | {holder: wrong}, 3) != secret
        except ValueError as error:
            assert "belong together" in str(error)  # noqa: PT017


def test_a_result_beyond_32_bytes_is_refused() -> None:
    # The constant polynomial 2^256 is one that no secret of 32 bytes has.
    share = (2**256).to_bytes(SHARE_BYTES, "big")
    with pytest.raises(ValueError, match="do not belong together"):
        combine({0: share, 1: share}, 2)


@pytest.mark.parametrize(
    ("holders", "threshold"), [(1, 1), (2, 1), (3, 0), (3, -1), (3, 4), (0, 0), (MAX_HOLDERS + 1, 2)]
)
def test_impossible_sharings_are_refused(holders: int, threshold: int) -> None:
    with pytest.raises(ValueError, match="cannot share"):
        split(bytes(32), holders, threshold, seeded_random(b"x"))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_secrets_of_other_lengths_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"{SECRET_BYTES} bytes"):
        split(bytes(size), 3, 2, seeded_random(b"x"))


@pytest.mark.parametrize("threshold", [3, 4, 1, 0, -1])
def test_combine_refuses_too_few_shares_and_impossible_thresholds(threshold: int) -> None:
    shares = split(bytes(32), 3, 2, seeded_random(b"x"))
    with pytest.raises(ValueError, match="threshold"):
        combine({0: shares[0], 1: shares[1]}, threshold)


@pytest.mark.parametrize(
    "bad",
    [
        {0: PRIME.to_bytes(33, "big")},
        {1: b"\xff" * 33},
        {0: b""},
        {0: bytes(32)},
        {0: bytes(34)},
        {2: PRIME.to_bytes(33, "big")},
        {-1: bytes(33)},
        {MAX_HOLDERS: bytes(33)},
        {2**300: bytes(33)},
    ],
)
def test_combine_refuses_impossible_holders_and_shares_used_or_not(bad: Any) -> None:
    shares = dict(enumerate(split(bytes(range(32)), 3, 2, seeded_random(b"x"))))
    with pytest.raises(ValueError, match="holder"):
        combine(shares | bad, 2)


@given(
    st.dictionaries(st.integers(-1, 300), st.binary(min_size=33, max_size=33), max_size=5), st.integers(-1, 6)
)
def test_garbage_gives_a_secret_or_value_error(shares: dict[int, bytes], threshold: int) -> None:
    try:
        assert len(combine(shares, threshold)) == SECRET_BYTES
    except ValueError as error:
        assert str(error)  # noqa: PT017
