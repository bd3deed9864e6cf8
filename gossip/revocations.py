"""Revocations: issuers state that a key is no member's any more, whatever admitted it.

One line for each issuer, as with tickets; as many issuers as the manifest asks for (``issuer_quorum``) make
it hold, for good: whoever is to come back does so with another key. A revocation is not secret. It travels
from member to member like an accusation (:mod:`p2pfl.gossip.exclusions`).
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, Self

from p2pfl.crypto import labels
from p2pfl.crypto.identity import Identity, PeerId, parse_peer_id, verify
from p2pfl.gossip.canonical import pack, unpack_untrusted
from p2pfl.gossip.manifest import MAX_QUORUM, Manifest
from p2pfl.gossip.wire import Message, Reader

PREFIX: Final = "p2pfl-revocation-v1:"
MAX_REASON: Final = 120
MAX_REVOCATION_BYTES: Final = 2560
_LATEST: Final = 1 << 40


class RevocationError(ValueError):
    """A revocation does not hold, for ``reason``: lower case, safe to print."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class RevocationLine:
    """``issuer`` revokes ``peer`` in ``federation`` (a digest) at ``issued`` (seconds since 1970), because of
    ``reason``: 1 to MAX_REASON printable ASCII characters.
    """

    federation: bytes
    peer: PeerId
    issuer: PeerId
    issued: int
    reason: str
    signature: bytes = field(repr=False)

    def __str__(self) -> str:
        """The text form; :func:`parse_revocation_untrusted` reads it."""
        packed = pack([*self._statement, self.signature])
        return PREFIX + base64.urlsafe_b64encode(packed).rstrip(b"=").decode()

    @property
    def _statement(self) -> list[object]:
        return [self.federation, self.peer, self.issuer, self.issued, self.reason]

    @property
    def signed_bytes(self) -> bytes:
        """What the issuer signs under its label."""
        return pack(self._statement)


def revoke(
    identity: Identity, *, federation: bytes, peer: PeerId, issued: int, reason: str
) -> RevocationLine:
    """A line signed by ``identity``. Raises ValueError if ``reason`` cannot be one."""
    _require_reason(reason)
    unsigned = RevocationLine(federation, peer, identity.peer_id, issued, reason, b"")
    signature = identity.sign(labels.REVOCATION, unsigned.signed_bytes)
    return RevocationLine(federation, peer, identity.peer_id, issued, reason, signature)


@dataclass(frozen=True, slots=True)
class Revocation(Message):
    """These issuers revoke one peer. Neither signed nor passed on as it is: each neighbour shows its own."""

    TAG: ClassVar[str] = "revocation"
    LABEL: ClassVar[bytes | None] = None

    lines: tuple[RevocationLine, ...]

    def body(self) -> tuple[object, ...]:
        return (" ".join(map(str, self.lines)).encode("ascii"),)

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: memoryview) -> Self:
        text = fields.blob(MAX_REVOCATION_BYTES).decode("ascii")
        lines = parse_revocation_untrusted(text)
        if " ".join(map(str, lines)) != text:
            raise ValueError("a revocation in another spelling")
        return cls(author, lines)

    @property
    def against(self) -> PeerId:
        """Whom it revokes."""
        return self.lines[0].peer

    @property
    def why(self) -> str:
        """What happened, in a clause."""
        return f"issuers revoked it: {self.lines[0].reason}"


def check_revocation(lines: Sequence[RevocationLine], manifest: Manifest, federation: bytes) -> None:
    """Return if ``lines``, whose signatures were checked, hold in the federation of ``manifest``, whose
    digest is ``federation``. Raises RevocationError.
    """
    if lines[0].federation != federation:
        there = lines[0].federation.hex()[:12]
        raise RevocationError(f"it is for another federation, {there}…, not {federation.hex()[:12]}…")
    for line in lines:
        if line.issuer not in manifest.issuers:
            raise RevocationError(f"{line.issuer}, who signed it, is no issuer of this federation")
    if len(lines) < manifest.issuer_quorum:
        raise RevocationError(
            f"{len(lines)} issuer signed it where {manifest.issuer_quorum} must: put their lines in one file"
        )


def parse_revocation_untrusted(text: str) -> tuple[RevocationLine, ...]:
    """Read one to MAX_QUORUM lines by distinct issuers about one peer of one federation, with white space
    between them; signatures are checked, whether the manifest names the issuers is not.

    Raises RevocationError, and nothing else.
    """
    words = text.split() if len(text) <= 2 * MAX_REVOCATION_BYTES else []
    if not 1 <= len(words) <= MAX_QUORUM:
        raise RevocationError(f"it must be 1 to {MAX_QUORUM} lines, each starting with {PREFIX}")
    lines = tuple(map(_parse_line, words))
    if len({(line.federation, line.peer) for line in lines}) > 1:
        raise RevocationError("its lines are not all about one peer in one federation")
    if len({line.issuer for line in lines}) < len(lines):
        raise RevocationError("two of its lines are by one issuer: leave one of them out")
    return lines


def _parse_line(text: str) -> RevocationLine:
    if not text.startswith(PREFIX):
        raise RevocationError(f"it is not a revocation: a revocation starts with {PREFIX}")
    encoded = text.removeprefix(PREFIX)
    damaged = RevocationError("it is damaged: copy it again, whole, each line in one piece")
    try:
        packed = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        line = _from_fields(unpack_untrusted(packed, MAX_REVOCATION_BYTES))
    except (binascii.Error, ValueError):
        raise damaged from None
    if str(line) != text or not verify(line.issuer, labels.REVOCATION, line.signed_bytes, line.signature):
        raise damaged
    return line


def _from_fields(fields: object) -> RevocationLine:
    match fields:
        case [bytes(federation), str(peer), str(issuer), int(issued), str(reason), bytes(signature)]:
            pass
        case _:
            raise ValueError("not the fields of a revocation")
    if len(federation) != 32 or type(issued) is not int or not 0 <= issued < _LATEST:
        raise ValueError("a field is out of range")
    _require_reason(reason)
    return RevocationLine(federation, parse_peer_id(peer), parse_peer_id(issuer), issued, reason, signature)


def _require_reason(reason: str) -> None:
    if not (reason.isascii() and reason.isprintable() and 1 <= len(reason) <= MAX_REASON):
        raise ValueError(f"a reason has 1 to {MAX_REASON} printable ASCII characters")
