"""The keystream is AES-256-CTR, however it is asked for, and a seed decides a run."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.crypto.randomness import Keystream, seeded_random, system_random

# AES-256 under the zero key: H, E(K, Y0) and the first ciphertext of test cases 13 and 14 of the GCM
# specification (McGrew and Viega), which are the counters 0, 1 and 2.
ZERO_KEY_STREAM = bytes.fromhex(
    "dc95c078a2408989ad48a21492842087530f8afbc74536b9a963b4f1c4cb738bcea7403d4d606b6e074ec5d3baf39d18"
)
# NIST AESAVS, KeySbox known answer test for 256-bit keys, count 0.
KEY_SBOX_KEY = bytes.fromhex("c47b0294dbbbee0fec4757f22ffeee3587ca4730c3d33b691df38bab076bc558")
KEY_SBOX_BLOCK = bytes.fromhex("46f2fb342d6f0ab477476fc501242c5f")


def test_keystream_known_answers() -> None:
    assert Keystream(bytes(32)).read(48) == ZERO_KEY_STREAM
    assert Keystream(KEY_SBOX_KEY).read(16) == KEY_SBOX_BLOCK


@given(st.lists(st.integers(0, 100), max_size=20))
def test_keystream_continues_over_calls_of_any_size(sizes: list[int]) -> None:
    stream = Keystream(bytes(32))
    assert b"".join(stream.read(size) for size in sizes) == Keystream(bytes(32)).read(sum(sizes))


@pytest.mark.parametrize("count", [0, 1, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, (1 << 19) + 7])
def test_fill_and_read_agree_across_blocks(count: int) -> None:
    words = np.full(count, 0xAA, np.uint8)
    Keystream(KEY_SBOX_KEY).fill(words)
    assert words.tobytes() == Keystream(KEY_SBOX_KEY).read(count)


def test_fill_writes_every_byte_of_any_dtype() -> None:
    words = np.zeros(6, "<u8")
    Keystream(bytes(32)).fill(words)
    assert words.tobytes() == ZERO_KEY_STREAM


def test_fill_refuses_memory_with_gaps() -> None:
    with pytest.raises(ValueError):
        Keystream(bytes(32)).fill(np.zeros(8, np.uint32)[::2])


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_keystream_refuses_other_seeds(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Keystream(bytes(size))


def test_seeded_random_is_reproducible_and_depends_on_the_seed() -> None:
    one, same, other = seeded_random(b"a"), seeded_random(b"a"), seeded_random(b"b")
    first = one(40)
    assert first == same(40)
    assert first != other(40)
    assert first != one(40)
    assert one(40) == (same(40), same(40))[1]
    assert len(seeded_random(b"")(1000)) == 1000


def test_system_random_is_fresh() -> None:
    assert len(system_random(32)) == 32
    assert system_random(32) != system_random(32)


def test_repr_shows_no_seed() -> None:
    assert KEY_SBOX_KEY.hex() not in repr(Keystream(KEY_SBOX_KEY))
    assert repr(KEY_SBOX_KEY) not in repr(Keystream(KEY_SBOX_KEY))
