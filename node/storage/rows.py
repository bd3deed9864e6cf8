"""What stands in single rows and values of the database, read with suspicion.

Every function takes what a row holds, and raises ValueError if that is not what p2pfl writes there.
"""

from typing import Final, TypeVar

from p2pfl.crypto.identity import PeerId, parse_peer_id
from p2pfl.gossip.canonical import unpack_untrusted
from p2pfl.node.released import MOST_ROUNDS
from p2pfl.node.storage.receipts import interned

MAX_ROW: Final = 1 << 20

_T = TypeVar("_T")


def version_of(raw: bytes) -> int:
    if not raw.isdigit():
        raise ValueError("not a version")
    return int(raw)


def peer_of(raw: bytes) -> PeerId:
    return parse_peer_id(raw.decode())


def fields_of(raw: bytes) -> object:
    return unpack_untrusted(raw, MAX_ROW)


def federation_of(body: bytes) -> bytes:
    match fields_of(body):
        case [bytes(digest)]:
            return digest
        case _:
            raise ValueError("not a federation")


def peers_of(fields: object) -> tuple[PeerId, ...]:
    return interned(tuple(PeerId(peer) for peer in all_of(str, fields)))


def pointer_of(raw: bytes) -> tuple[int, int, int, float, bytes]:
    match fields_of(raw):
        case [int(round), int(start), int(vote_rounds), str(votes), bytes(digest)] if (
            0 <= round < MOST_ROUNDS
        ):
            return round, start, vote_rounds, float(votes), digest
    raise ValueError("not a pointer to a model")


def signed_of(raw: bytes) -> tuple[PeerId, bytes]:
    match fields_of(raw):
        case [bytes(peer), bytes(signed)]:
            return peer_of(peer), signed
    raise ValueError("not what a peer holds")


def messages_of(raw: bytes) -> tuple[bytes, ...]:
    return all_of(bytes, fields_of(raw))


def all_of(kind: type[_T], fields: object) -> tuple[_T, ...]:
    if not isinstance(fields, list) or not all(isinstance(field, kind) for field in fields):
        raise ValueError(f"not a list of {kind.__name__}")
    return tuple(fields)
