"""The messages of rounds and epochs, each kind a target."""

from random import Random
from typing import Final

import numpy as np
from mutations import mutated, mutated_value, packed, unpacked
from target import Target, require_same

from p2pfl.crypto import labels
from p2pfl.crypto.identity import Identity
from p2pfl.gossip.epoch_messages import Presence, Presences, Sync, Wanted
from p2pfl.gossip.errors import RemoteProtocolError
from p2pfl.gossip.evidence import Accusation, without_payload
from p2pfl.gossip.exclusions import Retirement
from p2pfl.gossip.messages import (
    Ack,
    Bundle,
    Check,
    Fetch,
    Held,
    Masked,
    Part,
    Plan,
    Pledge,
    Proposal,
    Ready,
    Result,
    Reveal,
    Survivors,
)
from p2pfl.gossip.participant import MESSAGES
from p2pfl.gossip.revocations import Revocation, RevocationLine, revoke
from p2pfl.gossip.successions import succeed
from p2pfl.gossip.tickets import Credentials, issue
from p2pfl.gossip.wire import Limits, Message, decode_untrusted, digest, encode, signed

ALICE, BOB = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2))
ME: Final = ALICE.peer_id
_LIMITS: Final = Limits(max_dim=64)
_LENGTH_BYTES: Final = 2
_PAYLOAD_DIGESTS: Final = {Masked.TAG: labels.MASKED_DIGEST, Part.TAG: labels.PART_DIGEST}
"""What binds a payload, as the last field of the body."""


def _ready(identity: Identity) -> Ready:
    place = (b"f" * 32, b"e" * 32, 7, 1)
    ready = Ready(identity.peer_id, *place, "training", 6, b"m" * 32, b"b" * 32, b"c" * 32, b"s" * 32)
    return signed(identity, ready)


def _presence(identity: Identity, ticket: str, addresses: tuple[str, ...]) -> Presence:
    context = (b"f" * 32, 3, bytes(32), b"n" * 32, b"c" * 32)
    return signed(identity, Presence(identity.peer_id, *context, ticket, addresses))


def _examples() -> list[Message]:
    place = (7, 1, bytes(range(32)))
    masked = Masked.of(ME, place, 3, np.arange(6, dtype="<u4").tobytes())
    entries = ((0, masked.digest), (1, b"d" * 32))
    part = digest(labels.PART_DIGEST, b"a part")
    issued = issue(BOB, federation=b"f" * 32, peer=ME, expires=1 << 31)
    ticket = str(issued)
    presence = _presence(ALICE, ticket, (f"/ip4/192.0.2.1/tcp/4001/p2p/{ME}",))
    return [
        _ready(ALICE),
        signed(ALICE, Proposal(ME, 7, 1, (_ready(ALICE), _ready(BOB)))),
        signed(ALICE, Bundle(ME, *place, BOB.peer_id, b"sealed")),
        signed(ALICE, Ack(ME, *place)),
        signed(ALICE, masked),
        signed(ALICE, Pledge(ME, *place, (masked.digest, b"d" * 32))),
        signed(ALICE, Held(ME, *place, entries)),
        signed(ALICE, Plan(ME, *place, entries, (1,))),
        signed(ALICE, Part(ME, *place, b"p" * 32, 3, part, b"a part")),
        signed(ALICE, Check(ME, *place, b"p" * 32, (part, b"d" * 32), b"words")),
        signed(ALICE, Survivors(ME, *place, entries, b"s" * 32)),
        Fetch(ME, *place, Masked.TAG, BOB.peer_id, 3, b"d" * 32),
        signed(ALICE, Reveal(ME, *place, b"u" * 32, (b"x" * 33, b"y" * 33))),
        signed(ALICE, Result(ME, *place, b"u" * 32, b"r" * 32)),
        presence,
        Sync(ME, 3, b"d" * 32, True, bytes(32), 21),
        Wanted(ME, 3, b"d" * 32),
        Presences(ME, (presence, _presence(BOB, "", ()))),
        Accusation(ME, ticket, (_result(b"r" * 32), _result(b"s" * 32))),
        Revocation(ME, (_revoked(ALICE), _revoked(BOB))),
        Retirement(ME, Credentials((issued,), (succeed(BOB, ALICE, b"f" * 32),))),
    ]


def _revoked(by: Identity) -> RevocationLine:
    return revoke(by, federation=b"f" * 32, peer=BOB.peer_id, issued=1_800_000_000, reason="left")


def _result(digest: bytes) -> bytes:
    return without_payload(signed(ALICE, Result(ME, 7, 1, bytes(range(32)), b"u" * 32, digest)))


def _decode(data: bytes) -> None:
    try:
        message = decode_untrusted(ME, data, _LIMITS, MESSAGES)
    except RemoteProtocolError as error:
        if error.peer != ME:
            raise AssertionError("somebody else is blamed") from error
        raise
    require_same(encode(message), data)


def reshaped(data: bytes, random: Random) -> bytes:
    """The message with other fields or another payload, and in order again: signed by Alice, in her name most
    often, its payload bound by its digest. Messages inside it are changed in the same way.
    """
    try:
        tag, author, fields, payload = _opened(data)
    except ValueError:
        return mutated(data, (), random)
    author = ME if random.random() < 0.9 else mutated_value(author, random)
    if tag == Presences.TAG and random.random() < 0.9:
        wires = _some_reshaped(_split(payload), random)
        fields, payload = [len(wires)], _joined(wires)
    elif tag == Accusation.TAG and random.random() < 0.8:
        wires = [wire for wire in _listed(payload) if isinstance(wire, bytes)]
        payload = packed(_some_reshaped(wires, random))
    elif tag in (Revocation.TAG, Retirement.TAG) and fields and isinstance(fields[0], bytes):
        lines = fields[0].split(b" ")
        fields[0] = b" ".join(random.sample(lines, random.randint(1, len(lines))))
    elif tag in _PAYLOAD_DIGESTS and fields and random.random() < 0.5:
        payload = mutated(payload, (), random)
        fields[-1] = digest(_PAYLOAD_DIGESTS[tag], payload)
    elif tag == Proposal.TAG and fields and isinstance(fields[-1], list) and random.random() < 0.7:
        fields[-1] = _some_reshaped([wire for wire in fields[-1] if isinstance(wire, bytes)], random)
    else:
        changed = mutated_value(fields, random)
        fields = changed if isinstance(changed, list) else [changed]
    body, label = packed([author, *fields]), MESSAGES[tag].LABEL
    if random.random() < 0.1:
        body = mutated(body, (), random)
    return packed([tag, body, b"" if label is None else ALICE.sign(label, body), payload])


def _opened(data: bytes) -> tuple[str, object, list[object], bytes]:
    """Tag, author, other fields, payload. Raises ValueError for what does not look like a message."""
    match unpacked(data):
        case [str(tag), bytes(body), bytes(), bytes(payload)] if tag in MESSAGES:
            match unpacked(body):
                case [author, *fields]:
                    return tag, author, list(fields), payload
    raise ValueError("not a message")


def _listed(payload: bytes) -> list[object]:
    """What is in the payload of :class:`Accusation`, if it is a list."""
    try:
        found = unpacked(payload)
    except ValueError:
        return []
    return found if isinstance(found, list) else []


def _joined(wires: list[bytes]) -> bytes:
    """The payload of :class:`Presences`."""
    cut = [wire[: (1 << 8 * _LENGTH_BYTES) - 1] for wire in wires]
    return b"".join(len(wire).to_bytes(_LENGTH_BYTES, "big") + wire for wire in cut)


def _split(payload: bytes) -> list[bytes]:
    """The inverse, as far as the lengths are right."""
    wires, at = [], 0
    while at < len(payload):
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(payload[at:start], "big")
        wires.append(payload[start:at])
    return wires


def _some_reshaped(wires: list[bytes], random: Random) -> list[bytes]:
    """One of them changed, one left out or twice, or as many as there is room for."""
    if not wires:
        return [encode(_ready(ALICE))]
    at = random.randrange(len(wires))
    changed = [*wires[:at], reshaped(wires[at], random), *wires[at + 1 :]]
    return random.choice((changed, changed, changed, wires[:at], [*wires, wires[at]], [wires[at]] * 40))


MESSAGE_TARGETS: Final = tuple(
    Target(f"message-{message.TAG}", _decode, (RemoteProtocolError,), (encode(message),), reshaped)
    for message in _examples()
)
