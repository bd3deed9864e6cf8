"""The words of a vector: a linear map, computed exactly, that hardly any error escapes.

The oracle is written from docs/protocol.md with Python's integers and a plain cipher, and shares no code with
what it checks.
"""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2pfl.crypto import linear_check
from p2pfl.crypto.linear_check import BLOCK_ROWS, CHECKS, WIDTH, check_values
from p2pfl.gossip.chunks import Chunks

SEED: Final = hashlib.sha256(b"seed").digest()
DTYPES: Final = ("<u2", "<u4", "<u8")
BLOCK: Final = BLOCK_ROWS * WIDTH

each_ring = pytest.mark.parametrize("dtype", DTYPES)


def a_vector(length: int, dtype: str, seed: int = 1) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, np.iinfo(dtype).max, length, np.dtype(dtype).newbyteorder("="), endpoint=True)


def cut(vector: NDArray[Any], chunks: Chunks) -> dict[int, NDArray[Any]]:
    return {chunk: vector[chunks.where(chunk)] for chunk in range(chunks.count)}


def words_of(vector: NDArray[Any], chunks: Chunks, seed: bytes = SEED) -> NDArray[Any]:
    """All words, by owner, of a vector of a group that nobody has left."""
    owners = [chunk % chunks.members for chunk in range(chunks.count)]
    words = check_values(seed, cut(vector, chunks), owners)
    assert all(each.dtype == vector.dtype and each.shape == (CHECKS,) for each in words.values())
    return np.concatenate([words[owner] for owner in sorted(words)])


# ---- the oracle


def bits(seed: bytes, purpose: str, count: int, start: int = 0) -> list[int]:
    key = hashlib.sha256(b"p2pfl/check-seed/v1\x00" + seed + purpose.encode("ascii")).digest()
    stream = Cipher(AES(key), CTR(bytes(16))).encryptor().update(bytes((start + count) // 8))[start // 8 :]
    return [octet >> (7 - place) & 1 for octet in stream for place in range(8)]


def matrix(coins: Sequence[int], columns: int) -> list[Sequence[int]]:
    return [coins[start : start + columns] for start in range(0, len(coins), columns)]


def slow_words(seed: bytes, chunks: dict[int, list[int]], modulus: int) -> list[int]:
    """Of one owner's chunks."""
    rows = [[0] * 256 for _ in range(40)]
    for number, chunk in chunks.items():
        for place in range(0, len(chunk), 65536):
            block = chunk[place : place + 65536]
            coins = matrix(bits(seed, f"chunk {number}", 40 * 256, place // 65536 * 40 * 256), 256)
            for row, line in zip(rows, coins, strict=True):
                for at, word in enumerate(block):
                    if line[at // 256]:
                        row[at % 256] += word
    right, last = matrix(bits(seed, "right", 40 * 256), 256), matrix(bits(seed, "last", 40 * 1600), 1600)
    square = [
        sum(coin * word for coin, word in zip(line, row, strict=True)) for line in right for row in rows
    ]
    return [sum(coin * word for coin, word in zip(line, square, strict=True)) % modulus for line in last]


def against_the_oracle(chunks: dict[int, NDArray[Any]]) -> None:
    (dtype,) = {chunk.dtype for chunk in chunks.values()}
    owner = 3
    found = check_values(SEED, chunks, [owner] * (max(chunks) + 1))
    slow = slow_words(
        SEED, {number: chunk.tolist() for number, chunk in chunks.items()}, 1 << 8 * dtype.itemsize
    )
    assert set(found) == {owner}
    assert found[owner].tolist() == slow


@each_ring
@settings(max_examples=12)
@given(st.dictionaries(st.integers(0, 543), st.integers(0, 700), min_size=1, max_size=3), st.integers(0, 99))
def test_the_words_are_what_the_protocols_page_says(dtype: str, lengths: dict[int, int], seed: int) -> None:
    against_the_oracle({number: a_vector(length, dtype, seed) for number, length in lengths.items()})


@each_ring
def test_and_where_everything_is_as_large_as_it_can_be(dtype: str) -> None:
    """Beyond a block; sums of the largest words must not be rounded."""
    largest = np.full(BLOCK + 300, np.iinfo(dtype).max, dtype)
    against_the_oracle({0: largest, 5: largest[: BLOCK - 1]})


def test_the_oracle_and_the_code_have_the_same_sizes() -> None:
    assert (CHECKS, WIDTH, BLOCK_ROWS) == (40, 256, 256)


# ---- a linear map


@each_ring
@settings(max_examples=20)
@given(
    length=st.integers(1, 3000), members=st.integers(2, 5), factor=st.integers(0, 1 << 64), seed=st.binary()
)
def test_the_words_of_a_sum_are_the_sum_of_the_words(
    dtype: str, length: int, members: int, factor: int, seed: bytes
) -> None:
    chunks, seed = Chunks(length, members, 2 * members), hashlib.sha256(seed).digest()
    one, other = a_vector(length, dtype, 1), a_vector(length, dtype, 2)
    times = np.array(factor % (1 << 8 * one.itemsize), dtype)
    together = words_of(one + times * other, chunks, seed)
    assert np.array_equal(together, words_of(one, chunks, seed) + times * words_of(other, chunks, seed))


@each_ring
def test_and_over_many_blocks_of_many_vectors(dtype: str) -> None:
    chunks = Chunks(3 * BLOCK + 77, 2, 2)
    vectors = [a_vector(chunks.dim, dtype, seed) for seed in range(32)]
    added = np.add.reduce([words_of(vector, chunks) for vector in vectors], dtype=vectors[0].dtype)
    assert np.array_equal(words_of(np.add.reduce(vectors, dtype=vectors[0].dtype), chunks), added)


def test_words_of_zeros_are_zeros_and_others_are_not() -> None:
    chunks = Chunks(1000, 4, 8)
    assert not words_of(np.zeros(1000, np.uint32), chunks).any()
    assert words_of(a_vector(1000, "<u4"), chunks).all()


# ---- what escapes it


def errors(chunks: Chunks, dtype: str) -> Iterator[NDArray[Any]]:
    """Every single word in every chunk, off by the least and the most that is."""
    for place in range(chunks.dim):
        for wrong in (1, 1 << (np.iinfo(dtype).bits - 1), np.iinfo(dtype).max):
            error = np.zeros(chunks.dim, dtype)
            error[place] = wrong
            yield error


@each_ring
def test_every_single_wrong_word_shows(dtype: str) -> None:
    chunks = Chunks(29, 2, 4)
    for error in errors(chunks, dtype):
        place = int(np.flatnonzero(error)[0])
        (chunk,) = (c for c in range(4) if chunks.where(c).start <= place < chunks.where(c).stop)
        words = words_of(error, chunks).reshape(2, CHECKS)
        assert words[chunk % 2].any(), "its owner's words differ"
        assert not words[1 - chunk % 2].any(), "and nobody else's"


@each_ring
def test_wrong_words_show_wherever_in_a_long_chunk_they_are(dtype: str) -> None:
    chunk = np.zeros(BLOCK + 5000, dtype)
    rng = np.random.default_rng(4)
    for place in (0, 255, 256, BLOCK - 1, BLOCK, len(chunk) - 1, *rng.integers(0, len(chunk), 30)):
        chunk[place] = 1 << (np.iinfo(dtype).bits - 1)
        assert check_values(SEED, {0: chunk}, [0])[0].any()
        chunk[place] = 0


@each_ring
def test_errors_that_cancel_somewhere_show(dtype: str) -> None:
    """In one row or column of a chunk, between two chunks of an owner, and multiples of half the ring."""
    half = np.array(1 << (np.iinfo(dtype).bits - 1), dtype)[()]
    one = np.array(1, dtype)[()]
    chunks, length = Chunks(8 * 700, 4, 8), 700  # chunks 1 and 5 have one owner
    at = chunks.where(1).start
    for wrong in (one, half, half - one):
        for places in ((0, 1), (0, 256), (3, 3 + 512), (5, 256 + 4), (0, 4 * length), (9, 4 * length + 9)):
            error = np.zeros(chunks.dim, dtype)
            error[[at + places[0], at + places[1]]] = wrong
            np.negative(error[at + places[1] :], out=error[at + places[1] :])
            assert words_of(error, chunks).reshape(4, CHECKS)[1].any(), places
    for spread in (np.arange(length) % 2, np.ones(length), np.arange(length) < 256):
        error = np.zeros(chunks.dim, dtype)
        error[at : at + length] = half * spread.astype(dtype)
        assert words_of(error, chunks).reshape(4, CHECKS)[1].any()


def test_sums_in_the_wrong_order_show() -> None:
    """Two chunks of one owner that are exchanged, and one that is turned around."""
    one, other = a_vector(600, "<u4", 1), a_vector(600, "<u4", 2)
    right = check_values(SEED, {1: one, 5: other}, [1] * 6)[1]
    assert not np.array_equal(check_values(SEED, {1: other, 5: one}, [1] * 6)[1], right)
    assert not np.array_equal(check_values(SEED, {1: one[::-1].copy(), 5: other}, [1] * 6)[1], right)


@pytest.mark.parametrize("checks", [2, 4, 8])
def test_as_few_escape_as_the_bound_says(checks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With so few words that it can be measured. An error of half the ring in one row or column escapes most
    often, at each of the three steps with probability 2^-checks; none does more often than 3 * 2^-checks.
    """
    monkeypatch.setattr(linear_check, "CHECKS", checks)
    monkeypatch.setattr(linear_check, "_SCRATCH", linear_check._Scratch())
    tries, bound = 2000, 3 * 2.0**-checks
    margin = 4 * (bound / tries) ** 0.5
    half = np.uint32(1 << 31)
    for places, wrong in (((7,), half), ((7, 300), half), ((7, 8), half), ((7,), np.uint32(1))):
        chunk = np.zeros(600, np.uint32)
        chunk[list(places)] = wrong
        escaped = sum(
            not check_values(number.to_bytes(32, "big"), {0: chunk}, [0])[0].any() for number in range(tries)
        )
        assert escaped / tries <= bound + margin
        if wrong == half and 300 not in places:
            least = 1 - (1 - 2.0**-checks) ** 3
            assert escaped / tries == pytest.approx(least, abs=margin), "and the measure is no illusion"


# ---- coins


def test_coins_differ_with_the_seed_and_the_chunk() -> None:
    chunk = a_vector(500, "<u4")
    seen = {
        check_values(hashlib.sha256(bytes([seed])).digest(), {number: chunk}, [0] * 9)[0].tobytes()
        for seed in range(8)
        for number in range(9)
    }
    assert len(seen) == 72


def test_whose_a_chunk_is_does_not_matter_for_its_words() -> None:
    chunk = a_vector(500, "<u4")
    first, second = check_values(SEED, {0: chunk}, [0])[0], check_values(SEED, {0: chunk}, [7])[7]
    assert np.array_equal(first, second)


def test_threads_do_not_share_what_they_work_in() -> None:
    vectors = [a_vector(4 * BLOCK, "<u4", seed) for seed in range(4)]
    expected = [check_values(SEED, {0: vector}, [0])[0].tolist() for vector in vectors]
    found: dict[int, list[list[int]]] = {}

    def work(number: int) -> None:
        found[number] = [check_values(SEED, {0: vectors[number]}, [0])[0].tolist() for _ in range(5)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [words] * 5 for number, words in enumerate(expected)}
