"""docs/protocol.md against the code: its examples are recomputed. Its tables: test_protocol_tables.py.

An example is a fenced block ``example <name>`` of lines ``key = value``; a line that begins with a space goes
on with the one before. Some of the values are what the example starts from, the code computes the others, and
no line may be neither.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from p2pfl.crypto import labels, linear_check, shamir
from p2pfl.crypto.agreement import OneTimeKey, agree, derive, seal
from p2pfl.crypto.identity import Identity, PeerId, parse_peer_id, public_key_of
from p2pfl.crypto.masks import Mask
from p2pfl.crypto.randomness import Keystream
from p2pfl.crypto.ring import Encoding, decode, largest_fraction_bits
from p2pfl.gossip.canonical import pack
from p2pfl.gossip.chunks import Chunks
from p2pfl.gossip.epoch_messages import commitment_to
from p2pfl.gossip.manifest import (
    ConvolutionalModel,
    DenseModel,
    Manifest,
    ModelSpec,
    SequenceModel,
    canonical_bytes,
    from_toml,
)
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
from p2pfl.gossip.presences import Author, PresenceSet
from p2pfl.gossip.records import plain
from p2pfl.gossip.revocations import revoke
from p2pfl.gossip.successions import succeed
from p2pfl.gossip.suite import SUITE
from p2pfl.gossip.thresholds import thresholds
from p2pfl.gossip.tickets import issue
from p2pfl.gossip.wire import digest, encode, signed
from p2pfl.node import privacy
from p2pfl.node.membership.admission import Greeting
from p2pfl.node.privacy import stage_plan
from p2pfl.node.released import Released
from p2pfl.node.storage.receipts import Receipt
from p2pfl.node.training.models import Model
from p2pfl.topologies import graphs, schedule
from p2pfl.topologies.draws import Draws

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "protocol.md").read_text(encoding="utf-8")


class Given:
    """The lines of one example; remembers which were read."""

    def __init__(self, lines: Mapping[str, str]) -> None:
        self.lines = lines
        self.read: set[str] = set()

    def text(self, key: str) -> str:
        self.read.add(key)
        return self.lines[key]

    def number(self, key: str) -> int:
        return int(self.text(key))

    def numbers(self, key: str) -> list[int]:
        return [int(word) for word in self.text(key).split()]

    def blob(self, key: str) -> bytes:
        return bytes.fromhex(self.text(key))

    def identity(self, key: str) -> Identity:
        return Identity.from_seed(self.blob(key))


def examples() -> dict[str, dict[str, str]]:
    found = {}
    for name, block in re.findall(r"^```example ([a-z ]+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE):
        assert name not in found, name
        lines = re.sub(r"\n +", "", block).splitlines()
        found[name] = dict(line.split(" = ", 1) for line in lines)
        assert len(found[name]) == len(lines), name
    return found


EXAMPLES = examples()


def canonical_example(_given: Given) -> dict[str, str]:
    value = {"b": [1, -1, 255, 1 << 32, True, None], "a": ["é", b"\x00\xff"]}
    packed = pack(value)
    return {
        "packed": packed.hex(),
        "digest under p2pfl/manifest-digest/v1": digest(labels.MANIFEST_DIGEST, packed).hex(),
    }


def identity_example(given: Given) -> dict[str, str]:
    identity = given.identity("seed")
    return {
        "public key": public_key_of(identity.peer_id).hex(),
        "peer id": identity.peer_id,
        "signature of 00ff under p2pfl/ack/v1": identity.sign(labels.ACK, b"\x00\xff").hex(),
    }


def manifest_example(given: Given) -> dict[str, str]:
    member = parse_peer_id(given.text("member"))
    manifest = from_toml(MANIFEST.format(members=f'["{member}"]', issuers=f'["{member}"]'))
    return {"canonical bytes": canonical_bytes(manifest).hex(), "federation id": manifest.federation_id}


MANIFEST = """
name = "t"
issuers = {issuers}
members = {members}
[task]
label = "y"
positive = ["1"]
[[task.columns]]
name = "x"
kind = "numeric"
low = -1
high = 1
[model]
kind = "logistic"
[training]
rounds = 1
learning_rate = 0.5
sampling_rate = 1
expected_batch = 10
[privacy]
mode = "none"
"""


def other_manifest_example(task_and_model: str) -> Callable[[Given], dict[str, str]]:
    """The manifest above with another task and model."""

    def computed(given: Given) -> dict[str, str]:
        member = parse_peer_id(given.text("member"))
        before, rest = MANIFEST.split("[task]")
        toml = before + task_and_model + "[training]" + rest.split("[training]")[1]
        manifest = from_toml(toml.format(members=f'["{member}"]', issuers=f'["{member}"]'))
        return {
            "task": pack(plain(manifest.task)).hex(),
            "model": pack(plain(manifest.model)).hex(),
            "federation id": manifest.federation_id,
        }

    return computed


IMAGES = """
[task]
kind = "images"
height = 4
width = 3
classes = ["a", "b"]
class_weights = [1, 2.5]
[model]
kind = "cnn"
channels = [2]
kernel = 3
norm_groups = 1
"""
TEXT = """
[task]
kind = "text"
alphabet = "ab\\n"
window = 3
record = "line"
unknown = "skip"
[model]
kind = "gru"
width = 2
"""


def ticket_example(given: Given) -> dict[str, str]:
    ticket = issue(
        given.identity("issuer seed"),
        federation=given.blob("federation"),
        peer=parse_peer_id(given.text("peer")),
        expires=given.number("expires"),
    )
    return {"ticket": str(ticket)}


def succession_example(given: Given) -> dict[str, str]:
    old, new = given.identity("old seed"), given.identity("new seed")
    return {"succession": str(succeed(old, new, given.blob("federation")))}


def revocation_example(given: Given) -> dict[str, str]:
    line = revoke(
        given.identity("issuer seed"),
        federation=given.blob("federation"),
        peer=parse_peer_id(given.text("peer")),
        issued=given.number("issued"),
        reason=given.text("reason"),
    )
    return {"line": str(line)}


def receipt_example(given: Given) -> dict[str, str]:
    identities = [Identity.from_seed(bytes([number]) * 32) for number in given.numbers("seeds of the group")]
    group = tuple(identity.peer_id for identity in identities)
    receipt = Receipt(
        group[0],
        given.blob("federation"),
        given.number("round"),
        0,
        "training",
        given.number("ended"),
        "",
        True,
        group,
        group,
        group[:3],
        ((group[3], "masked"),),
        given.blob("roster"),
        given.blob("settled"),
        given.blob("result"),
        given.text("epsilon"),
    )
    written = receipt.to_bytes()
    return {"receipt": written.hex(), "signature": identities[0].sign(labels.RECEIPT, written).hex()}


def greeting_example(given: Given) -> dict[str, str]:
    greeting = Greeting((1,), given.blob("federation"), given.number("clock"), "")
    body = given.blob("token") + greeting.to_bytes()
    return {"greeting": greeting.to_bytes().hex(), "frame": (len(body).to_bytes(4, "big") + body).hex()}


def presence_example(given: Given) -> dict[str, str]:
    author = Author(given.identity("seed"), given.blob("federation"), (given.text("address"),))
    number = given.number("epoch")
    presence = author.presence(number, given.blob("previous"))
    nonce = author.presence(number + 1, given.blob("previous")).nonce
    assert presence.commitment == commitment_to(author.federation, number + 1, presence.author, nonce)
    roster = PresenceSet(author.federation, number, [presence])
    return {
        "nonce": presence.nonce.hex(),
        "commitment": presence.commitment.hex(),
        "substance": presence.substance.hex(),
        "message": encode(presence).hex(),
        "epoch roster digest": roster.digest.hex(),
        "beacon without reveals": roster.beacon(None).hex(),
    }


def draws_example(given: Given) -> dict[str, str]:
    words = Draws(schedule.LABEL, given.blob("key"), given.number("tweak"))
    order = Draws(schedule.LABEL, given.blob("key"), given.number("tweak")).permutation(list(range(8)))
    return {
        "first words": " ".join(f"{words.word():016x}" for _ in range(2)),
        "permutation of 0 to 7": " ".join(map(str, order)),
    }


def schedule_example(given: Given) -> dict[str, str]:
    nodes, beacon = list(given.text("nodes")), given.blob("beacon")
    grid = list(given.text("grid nodes"))
    ring = graphs.ring(nodes, beacon)

    def shown(kind: str, graph_nodes: list[str], number: int) -> str:
        graph = graphs.complete(graph_nodes, beacon)
        return _shown(schedule.groups(graph, 4, 3, beacon, number, kind))

    neighbours = min(" ".join(sorted(ring[node])) for node in ring if node == "a")
    return {
        "random, round 0": shown("random", nodes, 0),
        "random, round 1": shown("random", nodes, 1),
        "grid, round 0": shown("grid", grid, 0),
        "grid, round 1": shown("grid", grid, 1),
        "neighbours of a in the ring": neighbours,
        "groups of 3 on the ring, round 0": _shown(schedule.groups(ring, 3, 3, beacon, 0)),
    }


def _shown(groups: schedule.Groups) -> str:
    return " ".join("".join(group) for group in groups)


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


def plan_example(given: Given) -> dict[str, str]:
    manifest: Manifest = from_toml(
        MANIFEST.format(members="[]", issuers=f'["{Identity.from_seed(bytes(32)).peer_id}"]').replace(
            'mode = "none"',
            'mode = "distributed"\nepsilon = 4\ndelta = 1e-4\n'
            + "".join(f"{name} = {given.text(name)}\n" for name in _MULTIPLIERS),
        )
    )
    found = {}
    for stage in ("statistics", "training", "evaluation"):
        plan = stage_plan(manifest, stage, privacy.dimension(manifest, stage))
        found[f"fraction bits of {stage}"] = str(plan.encoding.fraction_bits)
        found[f"sigma of {stage}, four members"] = f"{plan.sigma(thresholds(4, 1)):.6f}"
    return found


_MULTIPLIERS = ("noise_multiplier", "statistics_noise_multiplier", "evaluation_noise_multiplier")


def model_example(given: Given) -> dict[str, str]:
    model = Model(DenseModel("mlp", (2,)), 3)
    parameters = model.initial(given.blob("federation"))
    layout = " ".join(f"{slot.name}:{slot.start}" for slot in model.layout)
    return {"layout": layout, "initial parameters": parameters.astype("<f8").tobytes().hex()}


def network_example(
    spec: ModelSpec, features: int, inputs: NDArray[np.generic]
) -> Callable[[Given], dict[str, str]]:
    """Where parameters lie, what they start from, and what the model makes of ``inputs`` with given ones."""

    def computed(given: Given) -> dict[str, str]:
        model = Model(spec, features)
        initial = model.initial(given.blob("federation")).astype("<f8")
        outputs = model.outputs((np.arange(model.dimension) % 7 - 3) / 8, inputs[None])[0]
        return {
            "layout": ",".join(f"{slot.name}:{slot.start}" for slot in model.layout),
            "parameters": str(model.dimension),
            "SHA-256 of the initial parameters": hashlib.sha256(initial.tobytes()).hexdigest(),
            "outputs": " / ".join(
                " ".join(f"{value:.6f}" for value in place) for place in np.atleast_2d(outputs)
            ),
        }

    return computed


PICTURE = np.arange(9).reshape(1, 3, 3) / 8
CHARACTERS = np.array([2, 0, 1])


def released_example(given: Given) -> dict[str, str]:
    statistics, parameters = (
        np.array([float(word) for word in given.text(name).split()]) for name in ("statistics", "parameters")
    )
    rounds = (given.number("round"), given.number("training start"))
    votes = (given.number("rounds of a vote"), float(given.text("votes")))
    state = Released(*rounds, statistics, parameters, *votes)
    return {"state": state.to_bytes().hex(), "state digest": state.digest.hex()}


COMPUTED: Mapping[str, Callable[[Given], dict[str, str]]] = {
    "canonical": canonical_example,
    "identity": identity_example,
    "manifest": manifest_example,
    "image manifest": other_manifest_example(IMAGES),
    "text manifest": other_manifest_example(TEXT),
    "ticket": ticket_example,
    "succession": succession_example,
    "revocation": revocation_example,
    "greeting": greeting_example,
    "receipt": receipt_example,
    "presence": presence_example,
    "draws": draws_example,
    "schedule": schedule_example,
    "ready": ready_example,
    "agreement": agreement_example,
    "shares": shares_example,
    "sum": sum_example,
    "chunks": chunks_example,
    "gathering": gathering_example,
    "linear map": linear_map_example,
    "encoding": encoding_example,
    "plan": plan_example,
    "model": model_example,
    "cnn": network_example(
        ConvolutionalModel("cnn", (2, 4), (1, 3, 3), 2, kernel=3, norm_groups=2), 9, PICTURE
    ),
    "gru": network_example(SequenceModel("gru", 2, (3,), 3, layers=2), 3, CHARACTERS),
    "transformer": network_example(SequenceModel("transformer", 4, (3,), 3, heads=2), 3, CHARACTERS),
    "released": released_example,
}


@pytest.mark.parametrize("name", COMPUTED)
def test_an_example_is_what_the_code_computes(name: str) -> None:
    given = Given(EXAMPLES[name])
    computed = COMPUTED[name](given)
    assert {key: given.lines.get(key) for key in computed} == computed
    assert set(given.lines) == given.read | set(computed)


def test_every_example_is_checked() -> None:
    assert set(EXAMPLES) == set(COMPUTED)


def test_the_readies_signature_verifies_without_this_code() -> None:
    """Straight from the page and libsodium: what an implementation elsewhere would do first."""
    from nacl.signing import VerifyKey

    ready, identity = EXAMPLES["ready"], EXAMPLES["identity"]
    signed_bytes = b"p2pfl/ready/v1\x00" + bytes.fromhex(ready["body"])
    VerifyKey(bytes.fromhex(identity["public key"])).verify(signed_bytes, bytes.fromhex(ready["signature"]))


def test_peer_ids_in_the_examples_are_the_identity_of_the_first_example() -> None:
    assert EXAMPLES["ticket"]["peer"] == PeerId(EXAMPLES["identity"]["peer id"])
