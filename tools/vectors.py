"""Write tests/vectors: inputs and outputs by which another implementation of docs/protocol.md can check
itself.

    python tools/vectors.py [DIRECTORY]

Everything follows from fixed seeds, so a run changes nothing unless the protocol has changed. Byte strings
are hexadecimal; vectors over a ring are their bytes on the wire. ``keystream(text)`` means AES-256-CTR under
SHA-256(text), as :func:`p2pfl.crypto.randomness.seeded_random` has it.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import numpy as np

from p2pfl.crypto import labels
from p2pfl.crypto.agreement import OneTimeKey, agree, derive, open_sealed, seal
from p2pfl.crypto.identity import Identity
from p2pfl.crypto.linear_check import check_values
from p2pfl.crypto.masks import Mask
from p2pfl.crypto.randomness import seeded_random
from p2pfl.crypto.ring import RING_16, RING_32, RING_64, Encoding, encode, largest_fraction_bits
from p2pfl.crypto.shamir import combine, split
from p2pfl.gossip.chunks import Chunks
from p2pfl.gossip.messages import Message
from p2pfl.gossip.rehearsal import EPOCH_ROSTER, FEDERATION, Rehearsal
from p2pfl.gossip.suite import SUITE
from p2pfl.gossip.thresholds import thresholds
from p2pfl.gossip.vector_messages import on_the_wire
from p2pfl.gossip.wire import digest
from p2pfl.gossip.wire import encode as wire_of

DIRECTORY: Final = Path(__file__).parent.parent / "tests" / "vectors"
Json = Any
RINGS: Final = (RING_16, RING_32, RING_64)


def plain(value: object) -> Json:
    """``value`` in JSON: bytes as hexadecimal, arrays as their bytes."""
    match value:
        case bytes() | memoryview():
            return bytes(value).hex()
        case np.ndarray():
            return bytes(on_the_wire(value)).hex()
        case Mapping():
            return {str(key): plain(each) for key, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
        case _:
            return value


def cryptography() -> Json:
    """Labels, digests, key agreement, seals, masks, sharing."""
    one, other = (OneTimeKey.generate(seeded_random(name)) for name in (b"one", b"other"))
    context, seed = bytes(range(34)), bytes(range(32))
    sealed = seal(seed, b"two shares", context)
    shares = split(seed, 5, 3, seeded_random(b"shares"))
    masks = {}
    for ring in RINGS:
        values = np.zeros(5, ring.dtype)
        Mask(seed).add_to(values)
        masks[f"{ring.bits} bits"] = values
    purposes = {name: value for name, value in vars(labels).items() if name.isupper()}
    return {
        "labels": {name: value.decode() for name, value in purposes.items()},
        "digest": {"label": "MASKED_DIGEST", "data": b"abc", "digest": digest(labels.MASKED_DIGEST, b"abc")},
        "one-time keys": [{"secret": key.secret, "public": key.public} for key in (one, other)],
        "agree": {
            "label": "PAIRWISE_MASK",
            "context": context,
            "key": agree(one.secret, other.public, labels.PAIRWISE_MASK, context),
        },
        "derive": {
            "secret": seed,
            "label": "SELF_MASK",
            "context": context,
            "key": derive(seed, labels.SELF_MASK, context),
        },
        "self-mask commitment": {"seed": seed, "commitment": SUITE.commit(seed)},
        "seal": {
            "key": seed,
            "context": context,
            "plain": open_sealed(seed, sealed, context),
            "sealed": sealed,
        },
        "masks": {"seed": seed, **masks},
        "shamir": {
            "secret": seed,
            "threshold": 3,
            "randomness": "keystream(shares)",
            "shares": shares,
            "from holders 4, 1 and 2": combine({4: shares[4], 1: shares[1], 2: shares[2]}, 3),
        },
        "identity": {"seed": seed, "peer": Identity.from_seed(seed).peer_id},
    }


def encoding() -> Json:
    """Stochastic rounding into each ring."""
    values = np.array([0.0, 1.0, -1.0, 0.1, -0.7, 3.0, -3.0, 1e-9])
    cases = []
    for ring in RINGS:
        bits = largest_fraction_bits(4, 1.0, ring)
        encoded, saturated = encode(values, Encoding(bits, 1.0, ring), seeded_random(b"coins"))
        cases.append(
            {
                "ring": ring.bits,
                "members": 4,
                "limit": 1,
                "fraction bits": bits,
                "encoded": encoded,
                "saturated": saturated,
            }
        )
    return {"values": [float(value).hex() for value in values], "coins": "keystream(coins)", "cases": cases}


def groups() -> Json:
    """Thresholds, cuts, and owners of chunks."""
    sizes = [(k, c) for k in range(3, 17) for c in range(1, k) if k + c < 2 * k - 1]
    table = []
    for members, colluders in sizes:
        try:
            found = thresholds(members, colluders)
        except ValueError:
            continue
        table.append({field.name: getattr(found, field.name) for field in fields(found)})
    cuts = []
    for dim, members, size in ((10**5, 4, 4), (349_526, 4, 4), (10**6, 5, 4), (10**6, 8, 8), (10**9, 16, 2)):
        chunks = Chunks.of(dim, members, size)
        starts = [chunks.where(chunk).start for chunk in range(min(chunks.count, 20))]
        case = {"dim": dim, "members": members, "element bytes": size, "chunks": chunks.count}
        cuts.append({**case, "first chunks start at": starts})
    few = Chunks(100, 5, 10)
    owners = {str(s): [few.owner(chunk, s) for chunk in range(10)] for s in ([0, 1, 2, 3, 4], [0, 2, 3], [4])}
    return {"thresholds": table, "cuts": cuts, "owners of 10 chunks among": owners}


def linear_check() -> Json:
    """Words of one vector, in each ring."""
    cases = []
    for ring in RINGS:
        random = seeded_random(b"chunks")
        chunks = {
            c: np.frombuffer(random(ring.bytes * size), ring.dtype) for c, size in enumerate((700, 300))
        }
        words = check_values(bytes(range(32)), chunks, [0, 1])
        cases.append({"ring": ring.bits, "words": words})
    return {
        "seed": bytes(range(32)),
        "chunks": "700 and 300 elements, one after the other in keystream(chunks)",
        "owners": [0, 1],
        "cases": cases,
    }


def transcript(*, scattered: bool) -> Json:
    """One round of four members, message by message; the last of them dies before it has sent anything that
    is masked.
    """
    values = np.frombuffer(seeded_random(b"values")(4 * 4 * 9), "<u4").reshape(4, 9)

    def cut(dim: int, members: int, element_bytes: int) -> Chunks:
        return Chunks(dim, members, members) if scattered else Chunks(dim, members, 1)

    rehearsal = Rehearsal(values, cut=cut, crashes={3: 27}).run()
    end = rehearsal.completed[rehearsal.group[0]]
    return {
        "federation": FEDERATION,
        "epoch roster": EPOCH_ROSTER,
        "round": rehearsal.round,
        "colluders": 1,
        "chunks": 4 if scattered else 1,
        "members": [
            {
                "peer": identity.peer_id,
                "identity seed": identity.seed,
                "randomness": f"keystream(0/{number})",
                "contributes": values[number],
            }
            for number, identity in enumerate(rehearsal.identities)
        ],
        "messages": _messages(rehearsal),
        "survivors": list(end.survivors),
        "total": end.total,
    }


def _messages(rehearsal: Rehearsal) -> Json:
    """Each once, with all that it was sent to."""
    receivers: dict[bytes, list[str]] = {}
    kinds: dict[bytes, Message] = {}
    for sent in rehearsal.net.sent:
        wire = wire_of(sent.message)
        kinds[wire] = sent.message
        receivers.setdefault(wire, []).append(sent.receiver)
    return [
        {"tag": kinds[wire].TAG, "author": kinds[wire].author, "to": to, "wire": wire}
        for wire, to in receivers.items()
    ]


def vectors() -> dict[str, Json]:
    """By file name."""
    return {
        "cryptography": plain(cryptography()),
        "encoding": plain(encoding()),
        "groups": plain(groups()),
        "linear-check": plain(linear_check()),
        "round-broadcast": plain(transcript(scattered=False)),
        "round-reduce-scatter": plain(transcript(scattered=True)),
    }


def text_of(value: Json) -> str:
    return json.dumps(value, indent=1) + "\n"


def main(arguments: Sequence[str]) -> None:
    directory = Path(arguments[0]) if arguments else DIRECTORY
    directory.mkdir(parents=True, exist_ok=True)
    for name, value in vectors().items():
        (directory / f"{name}.json").write_text(text_of(value), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
