"""One-time keys, what two of them agree on, and the seal under an agreed key.

Two members who hold each other's one-time public keys derive the same 32 bytes, one value for each purpose;
nobody else learns any of them. Whoever holds either secret key derives them too: that is how a group that
has put together the one-time secret of a vanished member takes that member's masks out of the sum.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Final

import nacl.bindings
import nacl.exceptions
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from p2pfl.crypto import labels
from p2pfl.crypto.randomness import RandomBytes

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
SEAL_OVERHEAD: Final = _NONCE_BYTES + nacl.bindings.crypto_aead_xchacha20poly1305_ietf_ABYTES
"""How many bytes longer a sealed text is than the plain one: 40."""


@dataclass(frozen=True, slots=True)
class OneTimeKey:
    """An X25519 key pair for one attempt of one round; made by :meth:`generate` or :meth:`from_secret`."""

    public: bytes
    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls, random: RandomBytes) -> "OneTimeKey":
        """A new pair from 32 bytes of ``random``."""
        return cls.from_secret(random(KEY_BYTES))

    @classmethod
    def from_secret(cls, secret: bytes) -> "OneTimeKey":
        """The pair of a 32-byte secret. Raises :class:`ValueError` for another length."""
        _check_key(secret, "a one-time secret")
        return cls(public=nacl.bindings.crypto_scalarmult_base(secret), secret=secret)


def agree(secret: bytes, public: bytes, label: bytes, context: bytes) -> bytes:
    """The 32 bytes that the owners of two one-time keys share for the purpose ``label`` within ``context``.

    HKDF-SHA256 of the X25519 value (RFC 7748, section 6.1), bound to both public keys, the lower first, so
    that both ends get the same; a key for one direction only needs the direction in its ``context``. Raises
    :class:`ValueError` for keys of another length and for a public key of small order, with which everybody
    would know the result.
    """
    _check_key(secret, "a one-time secret")
    _check_key(public, "a one-time public key")
    try:
        shared = nacl.bindings.crypto_scalarmult(secret, public)
    except nacl.exceptions.RuntimeError as error:
        raise ValueError("the one-time public key has small order") from error
    ours = nacl.bindings.crypto_scalarmult_base(secret)
    return derive(shared, label, min(ours, public) + max(ours, public) + context)


def derive(secret: bytes, label: bytes, context: bytes) -> bytes:
    """32 bytes from a secret for the purpose ``label`` within ``context``: HKDF-SHA256 (RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=label, info=context).derive(secret)


def seal(key: bytes, plaintext: bytes, context: bytes) -> bytes:
    """Encrypt and authenticate ``plaintext`` under a 32-byte ``key``; ``context`` is authenticated, not sent.

    XChaCha20-Poly1305 with a synthetic nonce, a keyed hash of context and plaintext: it repeats only where
    both do, so neither randomness nor a counter is needed. :data:`SEAL_OVERHEAD` bytes longer than the
    plaintext.
    """
    _check_key(key, "a sealing key")
    message = labels.SEAL_NONCE + b"\x00" + len(context).to_bytes(8, "little") + context + plaintext
    nonce = hashlib.blake2b(message, digest_size=_NONCE_BYTES, key=key).digest()
    return nonce + nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(plaintext, context, nonce, key)


def open_sealed(key: bytes, sealed: bytes, context: bytes) -> bytes:
    """The plaintext of :func:`seal`. :class:`ValueError` unless sealed under this key and context."""
    _check_key(key, "a sealing key")
    if len(sealed) < SEAL_OVERHEAD:
        raise ValueError("the sealed text is cut short")
    nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
    try:
        return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(ciphertext, context, nonce, key)
    except nacl.exceptions.CryptoError as error:
        raise ValueError("the sealed text is forged, or meant for another key or context") from error


def _check_key(key: bytes, what: str) -> None:
    if len(key) != KEY_BYTES:
        raise ValueError(f"{what} has {KEY_BYTES} bytes, not {len(key)}")
