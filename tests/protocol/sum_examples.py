"""What the code makes of the examples of a secure sum: from a ready to the decoded total."""

import hashlib
from collections.abc import Callable, Mapping

import numpy as np
from given import Given
from numpy.typing import NDArray

from p2pfl.crypto import labels, linear_check, shamir
from p2pfl.crypto.agreement import OneTimeKey, agree, derive, seal
from p2pfl.crypto.identity import Identity
from p2pfl.crypto.masks import Mask
from p2pfl.crypto.randomness import Keystream
from p2pfl.crypto.ring import Encoding, decode, largest_fraction_bits
from p2pfl.gossip.canonical import pack
from p2pfl.gossip.chunks import Chunks
from p2pfl.gossip.messages import (
    Masked,
    Plan,
    Pledge,
    Ready,
    parts_digest,
    result_digest,
    roster_digest,
    survivors_digest,
)
from p2pfl.gossip.suite import SUITE
from p2pfl.gossip.wire import digest, encode, signed


def ready_of(given: Given) -> tuple[Identity, Ready]:
    identity = given.identity("seed")
    mask, bundle = (OneTimeKey.from_secret(given.blob(f"{name} secret")) for name in ("mask", "bundle"))
    ready = Ready(
        identity.peer_id,
        given.blob("federation"),
        given.blob("epoch roster"),
        given.number("round"),
        given.number("attempt"),
        given.text("stage"),
        given.number("dim"),
        mask.public,
        bundle.public,
        SUITE.commit(given.blob("self-mask seed")),
        given.blob("state digest"),
    )
    return identity, signed(identity, ready)


def ready_example(given: Given) -> dict[str, str]:
    _, ready = ready_of(given)
    return {
        "mask_key": ready.mask_key.hex(),
        "bundle_key": ready.bundle_key.hex(),
        "commitment": ready.commitment.hex(),
        "body": ready.signed_bytes().hex(),
        "signature": ready.signature.hex(),
        "message": encode(ready).hex(),
        "digest of a roster of this alone": roster_digest((ready,)).hex(),
    }


def agreement_example(given: Given) -> dict[str, str]:
    one, other = (OneTimeKey.from_secret(given.blob(f"secret {name}")) for name in ("i", "j"))
    roster = given.blob("roster digest")
    members = roster + bytes((0, 1))
    pair = agree(one.secret, other.public, labels.PAIRWISE_MASK, members)
    assert pair == agree(other.secret, one.public, labels.PAIRWISE_MASK, members)
    mask = np.zeros(4, np.uint32)
    Mask(pair).add_to(mask)
    own = np.zeros(4, np.uint32)
    self_mask = derive(given.blob("self-mask seed"), labels.SELF_MASK, roster)
    Mask(self_mask).add_to(own)
    key = agree(one.secret, other.public, labels.BUNDLE_KEY, roster + bytes((0, 1)))
    values = np.array(given.numbers("values of i"), np.uint32)
    return {
        "pairwise seed": pair.hex(),
        "pairwise mask, 4 elements": " ".join(map(str, mask)),
        "self-mask key": self_mask.hex(),
        "self-mask, 4 elements": " ".join(map(str, own)),
        "masked values of i": " ".join(map(str, values + mask + own)),
        "bundle key, dealer 0, recipient 1": key.hex(),
        "sealed": seal(key, given.blob("plaintext"), roster).hex(),
    }


def shares_example(given: Given) -> dict[str, str]:
    secret, slope = given.blob("secret"), given.number("coefficient of x")
    shares = {
        holder: ((int.from_bytes(secret, "big") + slope * (holder + 1)) % shamir.PRIME).to_bytes(33, "big")
        for holder in range(3)
    }
    assert shamir.combine({0: shares[0], 2: shares[2]}, 2) == secret
    assert shamir.combine({1: shares[1], 2: shares[2]}, 2) == secret
    return {f"share of holder {holder}": share.hex() for holder, share in shares.items()}


def sum_example(given: Given) -> dict[str, str]:
    identity, roster = given.identity("seed"), given.blob("roster digest")
    values = np.array(given.numbers("values"), np.uint32)
    masked = signed(identity, Masked.of(identity.peer_id, (7, 0, roster), 0, values.tobytes()))
    survivors = survivors_digest(roster, ((0, masked.digest),))
    total = np.array(given.numbers("total"), np.uint32)
    return {
        "message": encode(masked).hex(),
        "survivors digest": survivors.hex(),
        "result digest": result_digest(survivors, total).hex(),
    }


def chunks_example(given: Given) -> dict[str, str]:
    cut = Chunks.of(given.number("d"), given.number("k"), given.number("w"))
    where = cut.where(27)
    everybody, plan = range(cut.members), (0, 3, 4)
    lengths = (dim for dim in range(340_000, 360_000) if Chunks.of(dim, 4, 4).scattered)
    return {
        "chunks": str(cut.count),
        "words of chunk 27": f"{where.start}-{where.stop - 1}",
        "first owners of chunks 0 to 9": " ".join(str(cut.owner(c, everybody)) for c in range(10)),
        "owners of chunks 0 to 9 in a plan of the owners 0, 3 and 4": " ".join(
            str(cut.owner(c, plan)) for c in range(10)
        ),
        "longest broadcast, four members, w 4": str(next(lengths) - 1),
    }


ANYBODY = Identity.from_seed(bytes(32)).peer_id


def gathering_example(given: Given) -> dict[str, str]:
    roster = given.blob("roster digest")
    vectors = [
        [bytes.fromhex(word) for word in given.text(f"chunks of the {name}").split()]
        for name in ("first", "second")
    ]
    pledges = [
        Pledge(ANYBODY, 7, 0, roster, tuple(digest(labels.MASKED_DIGEST, chunk) for chunk in chunks))
        for chunks in vectors
    ]
    entries = tuple((number, pledge.mark) for number, pledge in enumerate(pledges))
    plan = Plan(ANYBODY, 7, 0, roster, entries, (1,))
    sums = [
        np.frombuffer(one, "<u4") + np.frombuffer(other, "<u4") for one, other in zip(*vectors, strict=True)
    ]
    parts = [digest(labels.PART_DIGEST, added.tobytes()) for added in sums]
    survivors = survivors_digest(roster, entries)
    return {
        "digests of the first's": " ".join(each.hex() for each in pledges[0].digests),
        "mark of the first": pledges[0].mark.hex(),
        "mark of the second": pledges[1].mark.hex(),
        "entries, packed": pack(entries).hex(),
        "mark of the plan": plan.mark.hex(),
        "digests of the parts": " ".join(part.hex() for part in parts),
        "digest of the set": survivors.hex(),
        "parts of survivors": parts_digest(survivors, parts).hex(),
        "seed of the map": digest(labels.CHALLENGE, pack([plan.mark, parts])).hex(),
    }


def linear_map_example(given: Given) -> dict[str, str]:
    """The words by the code, and the steps to them by what the page says of this example."""
    seed, owners = given.blob("seed"), [0] * 6
    vectors = {
        name: {c: np.array(given.numbers(f"chunk {c} of {name}"), "<u4") for c in (1, 5)}
        for name in ("i", "j", "the sum")
    }
    words = {name: linear_check.check_values(seed, chunks, owners)[0] for name, chunks in vectors.items()}

    def key(name: str) -> bytes:
        return digest(labels.CHECK_SEED, seed + name.encode())

    def bits(name: str, columns: int) -> NDArray[np.uint32]:
        stream = np.frombuffer(Keystream(key(name)).read(40 * columns // 8), np.uint8)
        return np.unpackbits(stream).astype("<u4").reshape(40, columns)

    columns = {c: bits(f"chunk {c}", 256)[:, 0] for c in (1, 5)}
    a = np.outer(columns[1], vectors["i"][1])
    a[:, 0] += columns[5] * vectors["i"][5]
    b = bits("right", 256)[:, :3] @ a.T
    assert np.array_equal(bits("last", 1600) @ b.reshape(-1), words["i"])
    assert np.array_equal(words["i"] + words["j"], words["the sum"])
    return {
        "key of chunk 1": key("chunk 1").hex(),
        "first bytes of its stream": Keystream(key("chunk 1")).read(8).hex(),
        "bits 0, 256, 512 … of chunk 1": "".join(map(str, columns[1])),
        "bits 0, 256, 512 … of chunk 5": "".join(map(str, columns[5])),
        "A of i, three columns, rows 0 to 7": " / ".join(" ".join(map(str, row)) for row in a[:8]),
        "first bits of right": "".join(map(str, bits("right", 256)[0, :16])),
        "B of i, row 0": " ".join(map(str, b[0])),
        "first bits of last": "".join(map(str, bits("last", 1600)[0, :16])),
        **{
            f"words of {name}, the first four": " ".join(map(str, found[:4])) for name, found in words.items()
        },
        "SHA-256 of all 40 of the sum, as in a check": hashlib.sha256(words["the sum"].tobytes()).hexdigest(),
    }


def encoding_example(given: Given) -> dict[str, str]:
    bits = largest_fraction_bits(given.number("members"), float(given.number("limit")))
    total = np.array(given.numbers("total"), np.uint32)
    reals = decode(total, Encoding(given.number("fraction bits"), 1.0))
    return {"largest fraction bits": str(bits), "decoded": " ".join(map(repr, map(float, reals)))}


SUM_EXAMPLES: Mapping[str, Callable[[Given], dict[str, str]]] = {
    "ready": ready_example,
    "agreement": agreement_example,
    "shares": shares_example,
    "sum": sum_example,
    "chunks": chunks_example,
    "gathering": gathering_example,
    "linear map": linear_map_example,
    "encoding": encoding_example,
}
