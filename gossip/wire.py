"""The codec of all messages: what they have in common, how they are signed, written and read.

A message on the wire is the canonical msgpack of ``[tag, body, signature, payload]``: a short string and
three byte strings. ``body`` is itself the canonical msgpack of the message's fields, and ``signature`` is
its author's Ed25519 signature over ``label || 0x00 || body``, so evidence can be shown to anybody. Bulk
data (the masked vector) is the ``payload``, bound by a digest in the body; it is the one part that may be
long, and it is never parsed.

Every message names its author. It is taken only from its author's own connection, except the two that
travel through others: readies inside a proposal and masked vectors that were fetched. A ready names
federation, epoch roster, round and attempt; everything later names the roster digest, which covers all of
these.

:func:`decode_untrusted` is the only way in. It bounds every length before it allocates and raises nothing but
:class:`~p2pfl.gossip.errors.RemoteProtocolError`. Other modules bring messages of their own: subclass
:class:`Message` and pass a larger ``kinds``.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final, Self, TypeVar

from p2pfl.crypto.identity import Identity, PeerId, parse_peer_id, verify
from p2pfl.gossip.canonical import pack, unpack_untrusted
from p2pfl.gossip.errors import RemoteProtocolError

DIGEST_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 64
_MAX_PEER_CHARACTERS: Final = 64
_MAX_ENVELOPE_OVERHEAD: Final = 128
_EMPTY: Final = 2
"""Bytes of an empty byte string."""
_BITS: Final = 63

_LENGTHS: Final = {b"\xc4": 1, b"\xc5": 2, b"\xc6": 4}
"""Of the length of a byte string, by its first byte."""

_B = TypeVar("_B", bytes, memoryview)
_M = TypeVar("_M", bound="Message")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Limits:
    """What we are willing to allocate for one message."""

    max_dim: int
    """Most ring elements in a vector: of the largest stage that is known."""
    max_body_bytes: int = 1 << 16
    """Longest body; the longest of a round is a proposal of 32 members, 16 kB."""


class Reader:
    """Takes the fields of a body one by one, each with its type and its bound; failures are ValueError."""

    __slots__ = ("_at", "_values")

    def __init__(self, value: object) -> None:
        if not isinstance(value, list):
            raise ValueError("fields are not a list")
        self._values: list[object] = value
        self._at = 0

    def _take(self) -> object:
        if self._at == len(self._values):
            raise ValueError("a field is missing")
        self._at += 1
        return self._values[self._at - 1]

    def end(self) -> None:
        """Raise unless every field was taken."""
        if self._at != len(self._values):
            raise ValueError("there are fields too many")

    def number(self, end: int = 1 << _BITS) -> int:
        """An integer in [0, end)."""
        value = self._take()
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < end:
            raise ValueError(f"field {self._at} is not a number below {end}")
        return value

    def flag(self) -> bool:
        """A boolean."""
        value = self._take()
        if not isinstance(value, bool):
            raise ValueError(f"field {self._at} is not a boolean")
        return value

    def blob(self, most: int, least: int = 0) -> bytes:
        """A byte string of ``least`` to ``most`` bytes."""
        value = self._take()
        if not isinstance(value, bytes) or not least <= len(value) <= most:
            raise ValueError(f"field {self._at} is not a byte string of {least} to {most} bytes")
        return value

    def digest(self) -> bytes:
        """A byte string of 32 bytes."""
        return self.blob(DIGEST_BYTES, DIGEST_BYTES)

    def text(self, most: int) -> str:
        """A string of 1 to ``most`` printable ASCII characters.

        What else is printable differs from one version of Unicode to the next, and so would the verdict on a
        message that is passed on.
        """
        value = self._take()
        if not isinstance(value, str) or not (value.isascii() and value.isprintable()):
            raise ValueError(f"field {self._at} is not a text of printable ASCII characters")
        if not 1 <= len(value) <= most:
            raise ValueError(f"field {self._at} is not a text of 1 to {most} characters")
        return value

    def peer(self) -> PeerId:
        """A peer id."""
        return parse_peer_id(self.text(_MAX_PEER_CHARACTERS))

    def nested(self) -> "Reader":
        """A reader of the list in this field."""
        return Reader(self._take())

    def items(self, most: int, read: "Callable[[Reader], _T]") -> tuple[_T, ...]:
        """A list of at most ``most``; ``read`` takes each item from a reader that holds the whole list."""
        inner = self.nested()
        if len(inner._values) > most:
            raise ValueError(f"field {self._at} has more than {most} items")
        items = tuple(read(inner) for _ in inner._values)
        inner.end()
        return items


@dataclass(frozen=True, slots=True)
class Message:
    """What all messages have in common. Subclasses say how they are written and read."""

    TAG: ClassVar[str]
    LABEL: ClassVar[bytes | None]
    """Domain of the signature; None for messages that bind nobody and are not signed."""
    RELAYED: ClassVar[bool] = False
    """Whether it may arrive over another connection than its author's."""

    author: PeerId
    signature: bytes = field(default=b"", kw_only=True, repr=False)

    def body(self) -> tuple[object, ...]:
        """The fields that are signed, in order, without the author (which comes first by itself)."""
        raise NotImplementedError

    def signed_bytes(self) -> bytes:
        """The canonical bytes that the signature covers (after its label)."""
        return pack((self.author, *self.body()))

    def payload(self) -> bytes | memoryview:
        """Bulk data outside the body; whatever binds it is in the body."""
        return b""

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: memoryview) -> Self:
        """The inverse of :meth:`body` and :meth:`payload`; raises ValueError for anything malformed."""
        raise NotImplementedError

    @classmethod
    def max_payload_bytes(cls, limits: Limits) -> int:
        """Longest payload that will be looked at."""
        return 0


def digest(label: bytes, *data: bytes | memoryview) -> bytes:
    """SHA-256 of ``label || 0x00 || data``, where ``data`` may come in pieces; long ones are not copied."""
    hashed = hashlib.sha256(label + b"\0")
    for piece in data:
        hashed.update(piece)
    return hashed.digest()


def signed(identity: Identity, message: _M) -> _M:
    """``message`` with the signature of its author, whose identity this must be."""
    assert message.LABEL is not None
    return replace(message, signature=identity.sign(message.LABEL, message.signed_bytes()))


def encode(message: Message) -> bytes:
    """The wire form of ``message``."""
    payload = message.payload()
    head = pack((message.TAG, message.signed_bytes(), message.signature, b""))[:-_EMPTY]
    return b"".join((head, _byte_string_head(len(payload)), payload))  # one copy of what may be long


def decode_untrusted(
    sender: PeerId, data: bytes, limits: Limits, kinds: Mapping[str, type[Message]]
) -> Message:
    """The message that ``sender`` wrote over its connection: well-formed, within bounds, and signed by its
    author.

    ``kinds`` maps the tags that are expected here to their messages.

    Raises:
        RemoteProtocolError: for anything else, whatever the bytes are.
    """
    try:
        message = decode_relayed(data, limits, kinds)
    except ValueError as error:
        raise RemoteProtocolError(sender, f"malformed message: {error}") from error
    if message.author != sender and not message.RELAYED:
        raise RemoteProtocolError(sender, f"{message.TAG} of another author")
    return message


def decode_relayed(data: bytes, limits: Limits, kinds: Mapping[str, type[Message]]) -> Message:
    """Like :func:`decode_untrusted`, for a message inside another one: ValueError, and no blame."""
    tag, rest = _tag(data)
    kind = kinds.get(tag)
    if kind is None:
        raise ValueError("unknown kind of message")
    if len(data) > limits.max_body_bytes + kind.max_payload_bytes(limits) + _MAX_ENVELOPE_OVERHEAD:
        raise ValueError(f"{len(data)} bytes are too many for {tag}")
    body, rest = _byte_string(data, rest)
    signature, rest = _byte_string(data, rest)
    payload, rest = _byte_string(memoryview(data), rest)
    if rest != len(data) or len(payload) > kind.max_payload_bytes(limits):
        raise ValueError(f"{tag} is longer than allowed")
    fields = Reader(unpack_untrusted(body, limits.max_body_bytes))
    author = fields.peer()
    if kind.LABEL is None and signature:
        raise ValueError(f"{tag} carries a signature")
    if kind.LABEL is not None and not (
        len(signature) == _SIGNATURE_BYTES and verify(author, kind.LABEL, body, signature)
    ):
        raise ValueError(f"{tag} is not signed by its author")
    message = kind.read(author, fields, payload)
    fields.end()
    return replace(message, signature=signature)


def longest(limits: Limits, kinds: Mapping[str, type[Message]]) -> int:
    """Bytes of the longest message that :func:`decode_untrusted` takes: no more need be read."""
    payload = max(kind.max_payload_bytes(limits) for kind in kinds.values())
    return limits.max_body_bytes + payload + _MAX_ENVELOPE_OVERHEAD


def _tag(data: bytes) -> tuple[str, int]:
    """The tag, and where the rest begins. By hand, like :func:`_byte_string`: a general parser would build
    whatever nested structure a peer puts in the place of a long payload, at fifty times its size.
    """
    length = data[1] - 0xA0 if len(data) > 1 else -1
    if data[:1] != b"\x94" or not 0 < length < 32:
        raise ValueError("not a message")
    return data[2 : 2 + length].decode("ascii"), 2 + length


def _byte_string(data: _B, at: int) -> tuple[_B, int]:
    """The msgpack byte string at ``at``, in its shortest spelling, and where the next field begins."""
    marker = bytes(data[at : at + 1])
    size = _LENGTHS.get(marker, 0)
    start = at + 1 + size
    length = int.from_bytes(data[at + 1 : start], "big")
    if size == 0 or _byte_string_head(length) != bytes(data[at:start]) or start + length > len(data):
        raise ValueError("not a message")
    return data[start : start + length], start + length


def _byte_string_head(length: int) -> bytes:
    """What comes before a byte string of that length."""
    marker = b"\xc4" if length < 1 << 8 else b"\xc5" if length < 1 << 16 else b"\xc6"
    return marker + length.to_bytes(_LENGTHS[marker], "big")
