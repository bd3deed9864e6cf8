"""Where members were met: what worked last comes first, the book is bounded, and what is old is left out.

Old means: met long before the member that was met last. A node that was off for a year forgets nobody.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.canonical import pack, unpack_untrusted

MOST_REMEMBERED: Final = 256
MOST_KEPT_ADDRESSES: Final = 8
OLD_SECONDS: Final = 180 * 86_400
_MAX_ENTRY = 1 << 16


@dataclass(frozen=True, slots=True)
class Met:
    """Where a member was met, what worked last first; ``met``: when, in seconds since 1970, 0 if unknown."""

    addresses: tuple[str, ...]
    met: int = 0

    def to_bytes(self) -> bytes:
        """Canonical form."""
        return pack([self.met, list(self.addresses[:MOST_KEPT_ADDRESSES])])

    @classmethod
    def from_bytes(cls, raw: bytes) -> "Met":
        """Reverses :meth:`to_bytes`; format 1 had the addresses alone. Raises ValueError."""
        fields, met = unpack_untrusted(raw, _MAX_ENTRY), 0
        if isinstance(fields, list) and len(fields) == 2 and type(fields[0]) is int:
            met, fields = fields
        if met < 0 or not isinstance(fields, list) or not all(isinstance(each, str) for each in fields):
            raise ValueError("not an entry of the address book")
        return cls(tuple(map(str, fields)), met)


def worth_trying(book: Mapping[PeerId, Met]) -> dict[PeerId, tuple[str, ...]]:
    """The addresses of everybody met, but for old entries; who was met last comes first."""
    latest = max((entry.met for entry in book.values()), default=0)
    ordered: Sequence[tuple[PeerId, Met]] = sorted(book.items(), key=lambda item: -item[1].met)
    return {
        peer: entry.addresses for peer, entry in ordered if not entry.met or latest - entry.met <= OLD_SECONDS
    }
