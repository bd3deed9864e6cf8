"""Identities are libp2p's, signatures are Ed25519 bound to a purpose, hostile input is only ever refused."""

from typing import Any

import base58
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import Ed25519PrivateKey, create_new_key_pair
from libp2p.peer.id import ID

from p2pfl.crypto import labels
from p2pfl.crypto.identity import Identity, PeerId, parse_peer_id, peer_id_of, public_key_of, verify
from p2pfl.crypto.randomness import seeded_random

# RFC 8032, section 7.1, tests 1 to 3: secret key, public key.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
    ),
]

alice = Identity.generate(seeded_random(b"alice"))
bob = Identity.generate(seeded_random(b"bob"))


@pytest.mark.parametrize(("seed", "public"), RFC_8032)
def test_public_key_known_answers(seed: str, public: str) -> None:
    identity = Identity.from_seed(bytes.fromhex(seed))
    assert public_key_of(identity.peer_id).hex() == public
    assert identity.seed.hex() == seed


@given(st.binary(min_size=32, max_size=32))
def test_peer_id_is_libp2ps(seed: bytes) -> None:
    pair = create_new_key_pair(seed)
    identity = Identity.from_seed(seed)
    assert isinstance(pair.private_key, Ed25519PrivateKey)
    assert str(ID.from_pubkey(pair.public_key)) == identity.peer_id
    assert base58.b58decode(identity.peer_id).hex() == "002408011220" + pair.public_key.to_bytes().hex()
    assert parse_peer_id(identity.peer_id) == identity.peer_id
    assert peer_id_of(public_key_of(identity.peer_id)) == identity.peer_id


def test_generate_uses_the_randomness_it_is_given() -> None:
    assert Identity.generate(seeded_random(b"alice")).peer_id == alice.peer_id != bob.peer_id


def test_signature_is_plain_ed25519_over_label_zero_payload() -> None:
    signature = alice.sign(labels.READY, b"payload")
    key = Ed25519PublicKey.from_public_bytes(public_key_of(alice.peer_id))
    key.verify(signature, labels.READY + b"\x00" + b"payload")


@given(st.binary(max_size=300))
def test_verify_accepts_what_was_signed(payload: bytes) -> None:
    assert verify(alice.peer_id, labels.MASKED, payload, alice.sign(labels.MASKED, payload))


def test_verify_refuses_another_signer_purpose_or_payload() -> None:
    signature = alice.sign(labels.READY, b"payload")
    assert not verify(bob.peer_id, labels.READY, b"payload", signature)
    assert not verify(alice.peer_id, labels.ACK, b"payload", signature)
    assert not verify(alice.peer_id, labels.READY, b"payloae", signature)
    assert not verify(alice.peer_id, labels.READY, b"", signature)


@given(st.integers(0, 511))
def test_verify_refuses_every_flipped_bit(bit: int) -> None:
    signature = bytearray(alice.sign(labels.READY, b"payload"))
    signature[bit // 8] ^= 1 << bit % 8
    assert not verify(alice.peer_id, labels.READY, b"payload", bytes(signature))


def test_verify_refuses_the_second_form_of_a_signature() -> None:
    # S plus the group order satisfies the equation too; RFC 8032 forbids it, and signed digests rely on that.
    signature = alice.sign(labels.READY, b"payload")
    order = 2**252 + 27742317777372353535851937790883648493
    second = (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")
    assert not verify(alice.peer_id, labels.READY, b"payload", signature[:32] + second)


def test_verify_refuses_a_longer_signature_that_brings_its_own_label() -> None:
    inner = labels.REVEAL + b"\x00" + b"payload"
    signature = alice.sign(labels.READY, inner)
    assert not verify(alice.peer_id, labels.REVEAL, b"payload", signature + labels.READY + b"\x00")


def test_label_and_payload_cannot_trade_bytes() -> None:
    signature = alice.sign(b"p2pfl/a", b"b\x00c")
    assert not verify(alice.peer_id, b"p2pfl/a\x00b", b"c", signature)
    for label in (b"", b"p2pfl/a\x00b"):
        with pytest.raises(ValueError, match="label"):
            alice.sign(label, b"c")


@given(st.text(max_size=80), st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
def test_verify_never_raises(peer: str, label: bytes, payload: bytes, signature: bytes) -> None:
    assert not verify(PeerId(peer), label, payload, signature)
    assert not verify(alice.peer_id, label, payload, signature)


@pytest.mark.parametrize("junk", [None, 1, 1.5, [], {}, "x" * 64, bytearray(64), memoryview(bytes(64))])
def test_verify_never_raises_on_other_types(junk: Any) -> None:
    signature = alice.sign(labels.READY, b"payload")
    assert not verify(junk, labels.READY, b"payload", signature)
    assert not verify(alice.peer_id, junk, b"payload", signature)
    assert not verify(alice.peer_id, labels.READY, junk, signature)
    assert not verify(alice.peer_id, labels.READY, b"payload", junk)


def test_verify_refuses_a_small_order_key_that_signs_everything() -> None:
    # The neutral element with R = B·0 and S = 0 satisfies the plain verification equation for every message.
    neutral = peer_id_of(b"\x01" + bytes(31))
    assert not verify(neutral, labels.READY, b"payload", b"\x01" + bytes(63))


def _peer_id_of_protobuf(key: bytes) -> str:
    return base58.b58encode(bytes([0, len(key)]) + key).decode()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected text of the form 12D3KooW"),
        ("12D3KooW0OIl", "is not base58"),
        ("bob", "is of another kind or cut short"),
        ("12D3KooWé", "is not base58"),
        ("\ud800", "is not base58"),
        ("1" * 65, "expected text of the form 12D3KooW"),
        ("QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "only the hash of a key"),
        (_peer_id_of_protobuf(b"\x08\x02\x12\x21\x02" + bytes(32)), "is of a secp256k1 key"),
        (_peer_id_of_protobuf(b"\x08\x00\x12\x20" + bytes(32)), "is of an RSA key"),
        (_peer_id_of_protobuf(b"\x08\x03\x12\x20" + bytes(32)), "is of an ECDSA key"),
        (_peer_id_of_protobuf(b"\x08\x01\x12\x1f" + bytes(31)), "cut short"),
        (alice.peer_id[:-1], "cut short"),
        (alice.peer_id + "1", "another kind"),
        (alice.peer_id + "\n", "characters around it"),
        (peer_id_of(bytes(32)), "holds no public key, is it mistyped?"),
        (peer_id_of(b"\xff" * 32), "holds no public key, is it mistyped?"),
    ],
)
def test_parse_peer_id_says_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_peer_id(text)
    assert reason in str(caught.value)


@pytest.mark.parametrize("junk", [None, 7, b"12D3", ["12D3"], {}])
def test_parse_peer_id_refuses_other_types(junk: Any) -> None:
    with pytest.raises(ValueError, match="not a peer id"):
        parse_peer_id(junk)


@given(st.text(max_size=70))
def test_parse_peer_id_raises_nothing_but_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_peer_id(text)


def test_mistyped_peer_ids_are_nearly_always_refused() -> None:
    refused = 0
    for place in range(12, 52):
        other = "A" if alice.peer_id[place] != "A" else "B"
        try:
            parse_peer_id(alice.peer_id[:place] + other + alice.peer_id[place + 1 :])
        except ValueError:
            refused += 1
    assert refused > 32


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_from_seed_refuses_other_lengths(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Identity.from_seed(bytes(size))


def test_repr_shows_the_peer_id_and_no_secret() -> None:
    for text in (repr(alice), str(alice), f"{alice}"):
        assert text == f"<Identity {alice.peer_id}>"
        assert alice.seed.hex() not in text
