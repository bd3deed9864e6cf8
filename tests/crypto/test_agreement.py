"""Both ends agree and nobody else does; what is sealed opens only whole, under its key and its context."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.crypto.agreement import SEAL_OVERHEAD, OneTimeKey, agree, derive, open_sealed, seal
from p2pfl.crypto.randomness import seeded_random

# RFC 7748, section 6.1.
ALICE_SECRET = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
ALICE_PUBLIC = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
BOB_SECRET = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
BOB_PUBLIC = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
SHARED = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")

# Every point whose order divides 8, and their encodings above the prime (cr.yp.to/ecdh.html), the last with
# the bit set that X25519 ignores.
SMALL_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000080",
]

secrets = st.binary(min_size=32, max_size=32)


def test_one_time_key_known_answers() -> None:
    assert OneTimeKey.from_secret(ALICE_SECRET).public == ALICE_PUBLIC
    assert OneTimeKey.from_secret(BOB_SECRET).public == BOB_PUBLIC


def test_generate_uses_the_randomness_it_is_given() -> None:
    key = OneTimeKey.generate(seeded_random(b"a"))
    assert key == OneTimeKey.generate(seeded_random(b"a")) == OneTimeKey.from_secret(key.secret)
    assert key != OneTimeKey.generate(seeded_random(b"b"))


def test_derive_known_answer() -> None:
    # RFC 5869, appendix A.1: the first 32 of its 42 bytes.
    salt, info = bytes(range(13)), bytes(range(0xF0, 0xFA))
    expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
    assert derive(b"\x0b" * 22, salt, info).hex() == expected


def test_agree_is_hkdf_of_the_x25519_value_and_both_public_keys() -> None:
    extracted = hmac.digest(b"label", SHARED, hashlib.sha256)
    info = ALICE_PUBLIC + BOB_PUBLIC + b"context"
    assert ALICE_PUBLIC < BOB_PUBLIC
    expected = hmac.digest(extracted, info + b"\x01", hashlib.sha256)
    assert agree(ALICE_SECRET, BOB_PUBLIC, b"label", b"context") == expected
    assert agree(BOB_SECRET, ALICE_PUBLIC, b"label", b"context") == expected


@given(secrets, secrets, st.binary(max_size=40), st.binary(max_size=40))
def test_both_ends_agree(one: bytes, other: bytes, label: bytes, context: bytes) -> None:
    ours, theirs = OneTimeKey.from_secret(one), OneTimeKey.from_secret(other)
    assert agree(ours.secret, theirs.public, label, context) == agree(
        theirs.secret, ours.public, label, context
    )


def test_label_context_and_either_key_change_the_result() -> None:
    carol = OneTimeKey.generate(seeded_random(b"carol"))
    results = {
        agree(ALICE_SECRET, BOB_PUBLIC, b"label", b"context"),
        agree(ALICE_SECRET, BOB_PUBLIC, b"other", b"context"),
        agree(ALICE_SECRET, BOB_PUBLIC, b"label", b"other"),
        agree(ALICE_SECRET, carol.public, b"label", b"context"),
        agree(carol.secret, BOB_PUBLIC, b"label", b"context"),
        # The same point in another encoding: the X25519 value is the same, the derived key must not be.
        agree(ALICE_SECRET, BOB_PUBLIC[:31] + bytes([BOB_PUBLIC[31] | 0x80]), b"label", b"context"),
    }
    assert len(results) == 6


@pytest.mark.parametrize("public", SMALL_ORDER)
def test_agree_refuses_small_order(public: str) -> None:
    with pytest.raises(ValueError, match="small order"):
        agree(ALICE_SECRET, bytes.fromhex(public), b"label", b"context")


@pytest.mark.parametrize("size", [0, 31, 33])
def test_other_lengths_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        agree(bytes(size), BOB_PUBLIC, b"label", b"context")
    with pytest.raises(ValueError, match="32 bytes"):
        agree(ALICE_SECRET, bytes(size), b"label", b"context")
    with pytest.raises(ValueError, match="32 bytes"):
        OneTimeKey.from_secret(bytes(size))
    with pytest.raises(ValueError, match="32 bytes"):
        seal(bytes(size), b"text", b"context")
    with pytest.raises(ValueError, match="32 bytes"):
        open_sealed(bytes(size), bytes(60), b"context")


def test_repr_shows_no_secret() -> None:
    key = OneTimeKey.from_secret(ALICE_SECRET)
    assert repr(ALICE_PUBLIC) in repr(key)
    for text in (repr(key), str(key), f"{key}"):
        assert repr(ALICE_SECRET) not in text
        assert ALICE_SECRET.hex() not in text


@given(secrets, st.binary(max_size=200), st.binary(max_size=50))
def test_sealed_text_opens(key: bytes, plaintext: bytes, context: bytes) -> None:
    sealed = seal(key, plaintext, context)
    assert len(sealed) == len(plaintext) + SEAL_OVERHEAD
    assert open_sealed(key, sealed, context) == plaintext


def test_nonces_repeat_only_with_the_whole_message() -> None:
    key, other = bytes(32), b"\x01" + bytes(31)
    messages = [
        (key, b"ab", b"c"),
        (key, b"b", b"ca"),
        (key, b"", b"abc"),
        (key, b"ab", b"d"),
        (other, b"ab", b"c"),
    ]
    nonces = {seal(*message)[:24] for message in messages}
    assert len(nonces) == len(messages)
    assert seal(key, b"ab", b"c") == seal(key, b"ab", b"c")


def test_seal_hides_the_plaintext() -> None:
    assert b"plaintext of some length" not in seal(bytes(32), b"plaintext of some length", b"context")


@given(st.integers(0, 8 * (5 + SEAL_OVERHEAD) - 1))
def test_every_flipped_bit_is_refused(bit: int) -> None:
    sealed = bytearray(seal(bytes(32), b"share", b"context"))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ValueError, match="forged"):
        open_sealed(bytes(32), bytes(sealed), b"context")


def test_another_key_or_context_is_refused() -> None:
    sealed = seal(bytes(32), b"share", b"context")
    with pytest.raises(ValueError, match="another key or context"):
        open_sealed(b"\x01" + bytes(31), sealed, b"context")
    with pytest.raises(ValueError, match="another key or context"):
        open_sealed(bytes(32), sealed, b"contex")


@given(st.binary(max_size=100))
def test_opening_garbage_raises_value_error_only(sealed: bytes) -> None:
    with pytest.raises(ValueError):
        open_sealed(bytes(32), sealed, b"context")
