"""A node's identity: one Ed25519 key that is its libp2p key and signs every protocol object.

The public half *is* the name: a :data:`PeerId` is the libp2p peer id of the key and holds the whole public
key, so whoever knows who is meant to have signed can check it. The secret half leaves :class:`Identity`
only through :attr:`Identity.seed`, for the one file it is stored in and for the transport's handshake.
"""

from functools import lru_cache
from typing import Final, NewType

import base58
import nacl.bindings
import nacl.exceptions
import nacl.signing

from p2pfl.crypto.randomness import SEED_BYTES, RandomBytes

PeerId = NewType("PeerId", str)
"""libp2p peer id of an Ed25519 key, base58 text ``12D3KooW…``; checked by :func:`parse_peer_id`."""

SIGNATURE_BYTES: Final = 64
KEY_MARK: Final = "P2PFL-SECRET-KEY-"
"""Begins the text form of every secret key, so that one in a wrong place is recognised and not shown."""

# libp2p's peer-ids specification: the identity multihash (00) of a 36-byte protobuf {Ed25519, public key}.
_PREFIX: Final = bytes.fromhex("002408011220")
_MAX_TEXT: Final = 64


class Identity:
    """The secret Ed25519 key of a node. Its representation shows the peer id only."""

    __slots__ = ("_key", "peer_id")

    peer_id: PeerId

    def __init__(self, key: nacl.signing.SigningKey) -> None:
        self._key = key
        self.peer_id = peer_id_of(bytes(key.verify_key))

    @classmethod
    def generate(cls, random: RandomBytes) -> "Identity":
        """A new identity from 32 bytes of ``random``."""
        return cls.from_seed(random(SEED_BYTES))

    @classmethod
    def from_seed(cls, seed: bytes) -> "Identity":
        """The identity of a stored 32-byte seed (RFC 8032). Raises :class:`ValueError` for another length."""
        if len(seed) != SEED_BYTES:
            raise ValueError(f"an identity seed has {SEED_BYTES} bytes, not {len(seed)}")
        return cls(nacl.signing.SigningKey(seed))

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes that make this identity."""
        return bytes(self._key)

    def sign(self, label: bytes, payload: bytes) -> bytes:
        """The 64-byte signature of ``payload`` for a purpose: ``label``, from :mod:`p2pfl.crypto.labels`.

        Raises :class:`ValueError` for a label that is empty or holds a zero byte.
        """
        return self._key.sign(_separated(label, payload)).signature

    def __repr__(self) -> str:
        return f"<Identity {self.peer_id}>"


def verify(peer: PeerId, label: bytes, payload: bytes, signature: bytes) -> bool:
    """Whether ``peer`` signed ``payload`` for the purpose ``label``. Never raises, whatever the peer sent."""
    try:
        if len(signature) != SIGNATURE_BYTES:
            return False
        nacl.bindings.crypto_sign_open(signature + _separated(label, payload), public_key_of(peer))
    except (ValueError, TypeError, nacl.exceptions.CryptoError):
        return False
    return True


def holds_secret_key(text: str) -> bool:
    """Whether the text form of a secret key, damaged or not, is anywhere in ``text``."""
    return KEY_MARK in text.upper()


def parse_peer_id(text: str) -> PeerId:
    """Check what a person or a peer gave as a peer id. Raises :class:`ValueError` with a reason to show."""
    public_key_of(PeerId(text))
    return PeerId(text)


def peer_id_of(public_key: bytes) -> PeerId:
    """The peer id of a 32-byte Ed25519 public key."""
    return PeerId(base58.b58encode(_PREFIX + public_key).decode("ascii"))


def public_key_of(peer: PeerId) -> bytes:
    """The 32-byte Ed25519 public key in a peer id. Raises :class:`ValueError` where there is none."""
    if not isinstance(peer, str) or not 0 < len(peer) <= _MAX_TEXT:
        raise ValueError("not a peer id: expected text of the form 12D3KooW…")
    return _decode(peer)


@lru_cache(maxsize=4096)
def _decode(peer: str) -> bytes:
    try:
        data = base58.b58decode(peer)
    except ValueError as error:
        raise ValueError(f"not a peer id: {peer!a} is not base58, expected the form 12D3KooW…") from error
    if len(data) != len(_PREFIX) + 32 or not data.startswith(_PREFIX):
        raise ValueError(f"not an Ed25519 peer id: {peer!a} {_other_kind(data)}")
    public_key = data[len(_PREFIX) :]
    if peer_id_of(public_key) != peer:
        raise ValueError(f"not a peer id: {peer!a} has characters around it")
    # A peer id has no check sum, but 15 of 16 mistyped ones hold no point of the curve's prime-order group.
    if not nacl.bindings.crypto_core_ed25519_is_valid_point(public_key):
        raise ValueError(f"not an Ed25519 peer id: {peer!a} holds no public key, is it mistyped?")
    return public_key


def _other_kind(data: bytes) -> str:
    if data[:1] == b"\x12":
        return "is only the hash of a key (an RSA peer id)"
    if data[:1] == b"\x00" and data[2:3] == b"\x08" and data[3:4] in (b"\x00", b"\x02", b"\x03"):
        return f"is of {('an RSA', '', 'a secp256k1', 'an ECDSA')[data[3]]} key"
    return "is of another kind or cut short, expected the form 12D3KooW…"


def _separated(label: bytes, payload: bytes) -> bytes:
    if not label or b"\x00" in label:
        raise ValueError("a label is not empty and holds no zero byte")
    return label + b"\x00" + payload
