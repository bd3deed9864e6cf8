"""tests/vectors is what the code does now, and what docs/protocol.md says, done again without the code.

The second half is another implementation of the end of a round, from the document: plain integers, hashlib,
hmac and the two ciphers, nothing of the project. From what is in a transcript, and nothing secret, it comes
to the same sum.
"""

import hashlib
import hmac
import json
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]  # ships no type information
import nacl.bindings
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from nacl.signing import VerifyKey

ROOT = Path(__file__).parent.parent
VECTORS = ROOT / "tests" / "vectors"
PRIME = 2**256 + 297
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
WRITTEN = ("cryptography", "encoding", "groups", "linear-check", "round-broadcast", "round-reduce-scatter")


def test_the_files_are_what_the_code_does(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "vectors.py", tmp_path], check=True, cwd=tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == set(WRITTEN)
    for path in tmp_path.iterdir():
        kept = (VECTORS / path.name).read_text(encoding="utf-8")
        assert path.read_text(encoding="utf-8") == kept, f"{path.name}: see CONTRIBUTING.md"


# Another implementation.


def read(name: str) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    return kept


def hkdf(secret: bytes, label: str, context: bytes) -> bytes:
    extracted = hmac.digest(label.encode(), secret, "sha256")
    return hmac.digest(extracted, context + b"\x01", "sha256")


def keystream(key: bytes, size: int) -> bytes:
    return Cipher(AES(key), CTR(bytes(16))).encryptor().update(bytes(size))


def words(data: bytes) -> list[int]:
    return [word for (word,) in struct.iter_unpack("<I", data)]


def interpolated(shares: dict[int, int]) -> bytes:
    """The value at 0 of the polynomial through these points."""
    secret = 0
    for x, y in shares.items():
        weight = 1
        for other in shares:
            if other != x:
                weight = weight * other * pow(other - x, -1, PRIME) % PRIME
        secret += weight * y
    return (secret % PRIME).to_bytes(32, "big")


def verify_key(peer: str) -> VerifyKey:
    number = 0
    for letter in peer:
        number = 58 * number + BASE58.index(letter)
    return VerifyKey(number.to_bytes(38, "big")[-32:])


class Transcript:
    """What a round's messages say, each looked at by itself."""

    def __init__(self, name: str) -> None:
        self.told = read(name)
        self.dim = len(words(bytes.fromhex(self.told["total"])))
        self.bodies: dict[str, list[list[Any]]] = {}
        self.payloads: list[tuple[str, list[Any], bytes]] = []
        for message in self.told["messages"]:
            tag, body, signature, payload = msgpack.unpackb(bytes.fromhex(message["wire"]))
            fields = msgpack.unpackb(body)
            assert (tag, fields[0]) == (message["tag"], message["author"])
            if signature:
                signed = f"p2pfl/{tag}/v1".encode() + b"\0" + body
                verify_key(fields[0]).verify(signed, signature)
            self.bodies.setdefault(tag, []).append(fields)
            self.payloads.append((tag, fields, payload))
        proposal = msgpack.unpackb(
            msgpack.unpackb(
                bytes.fromhex(next(m["wire"] for m in self.told["messages"] if m["tag"] == "proposal"))
            )[1]
        )
        wires = [msgpack.unpackb(wire) for wire in proposal[3]]
        readies = [body for _, body, _, _ in wires]
        packed = msgpack.packb(readies)
        self.roster = hashlib.sha256(b"p2pfl/roster-digest/v1\0" + packed).digest()
        self.readies = [msgpack.unpackb(body) for body in readies]
        self.members = [ready[0] for ready in self.readies]

    def masked_total(self) -> list[int]:
        """The sum of the survivors' masked vectors."""
        total = [0] * self.dim
        parts: dict[int, bytes] = {}
        for tag, fields, payload in self.payloads:
            if tag == "part":
                parts[fields[5]] = payload
                digest = hashlib.sha256(b"p2pfl/part-digest/v1\0" + payload).digest()
                assert digest == fields[6]
        if parts:
            return words(b"".join(parts[chunk] for chunk in sorted(parts)))
        for tag, fields, payload in self.payloads:
            if tag == "masked" and fields[0] in self.told["survivors"]:
                total = [(one + other) % 2**32 for one, other in zip(total, words(payload), strict=True)]
        return total

    def recovered(self, owner: int) -> bytes:
        shares = {
            self.members.index(reveal[0]) + 1: int.from_bytes(reveal[5][owner], "big")
            for reveal in self.bodies["reveal"]
        }
        return interpolated(shares)

    def masks(self) -> Iterable[tuple[int, bytes]]:
        """What is left in the masked total: sign and seed of every mask."""
        survivors = [self.members.index(peer) for peer in self.told["survivors"]]
        for owner in range(len(self.members)):
            secret = self.recovered(owner)
            if owner in survivors:
                commitment = hashlib.sha256(b"p2pfl/self-mask-commitment/v1\0" + secret).digest()
                assert commitment == self.readies[owner][9]
                yield 1, hkdf(secret, "p2pfl/self-mask/v1", self.roster)
                continue
            own = nacl.bindings.crypto_scalarmult_base(secret)
            assert own == self.readies[owner][7]
            for survivor in survivors:
                public = self.readies[survivor][7]
                shared = nacl.bindings.crypto_scalarmult(secret, public)
                context = b"".join(sorted((own, public))) + self.roster + bytes(sorted((owner, survivor)))
                yield (1 if survivor < owner else -1), hkdf(shared, "p2pfl/pairwise-mask/v1", context)

    def total(self) -> list[int]:
        total = self.masked_total()
        for sign, seed in self.masks():
            mask = words(keystream(seed, 4 * self.dim))
            total = [(one - sign * other) % 2**32 for one, other in zip(total, mask, strict=True)]
        return total


@pytest.mark.parametrize("name", ["round-broadcast", "round-reduce-scatter"])
def test_another_implementation_comes_to_the_same_sum(name: str) -> None:
    transcript = Transcript(name)
    told = transcript.told
    assert len(told["survivors"]) == 3, "the fourth has died, and its key is recovered"
    added = [0] * transcript.dim
    for member in told["members"]:
        if member["peer"] in told["survivors"]:
            own = words(bytes.fromhex(member["contributes"]))
            added = [(one + other) % 2**32 for one, other in zip(added, own, strict=True)]
    assert words(bytes.fromhex(told["total"])) == added
    assert transcript.total() == added


def test_masks_and_keys_by_another_implementation() -> None:
    told = read("cryptography")
    assert told["masks"]["32 bits"] == keystream(bytes.fromhex(told["masks"]["seed"]), 20).hex()
    assert told["masks"]["16 bits"] == keystream(bytes.fromhex(told["masks"]["seed"]), 10).hex()
    one, other = told["one-time keys"]
    shared = nacl.bindings.crypto_scalarmult(bytes.fromhex(one["secret"]), bytes.fromhex(other["public"]))
    publics = sorted(bytes.fromhex(key["public"]) for key in (one, other))
    context = b"".join(publics) + bytes.fromhex(told["agree"]["context"])
    assert told["agree"]["key"] == hkdf(shared, told["labels"]["PAIRWISE_MASK"], context).hex()


def test_the_linear_check_by_another_implementation() -> None:
    """With Python's integers, 32-bit words, one element after the other."""
    told = read("linear-check")
    seed, checks, width = bytes.fromhex(told["seed"]), 40, 256
    data = keystream(hashlib.sha256(b"chunks").digest(), 4 * 1000)

    def coins(purpose: str, count: int) -> list[int]:
        key = hashlib.sha256(b"p2pfl/check-seed/v1\0" + seed + purpose.encode()).digest()
        return [byte >> bit & 1 for byte in keystream(key, count // 8) for bit in range(7, -1, -1)]

    narrow, last = coins("right", checks * width), coins("last", checks * checks * checks)
    for number, chunk in enumerate((words(data[:2800]), words(data[2800:]))):
        first = coins(f"chunk {number}", checks * 256)
        rows = [
            [
                sum(first[c * 256 + at // width] * chunk[at] for at in range(x, len(chunk), width))
                for x in range(width)
            ]
            for c in range(checks)
        ]
        square = [
            sum(narrow[j * width + x] * rows[i][x] for x in range(width))
            for j in range(checks)
            for i in range(checks)
        ]
        made = [sum(last[c * checks**2 + at] * square[at] for at in range(checks**2)) for c in range(checks)]
        kept = next(case for case in told["cases"] if case["ring"] == 32)["words"][str(number)]
        assert words(bytes.fromhex(kept)) == [word % 2**32 for word in made]
