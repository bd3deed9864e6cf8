"""What the code makes of the examples of records: manifests, credentials, presences, and of groups."""

from collections.abc import Callable, Mapping

from given import Given

from p2pfl.crypto import labels
from p2pfl.crypto.identity import Identity, parse_peer_id, public_key_of
from p2pfl.gossip.canonical import pack
from p2pfl.gossip.epoch_messages import commitment_to
from p2pfl.gossip.manifest import (
    canonical_bytes,
    from_toml,
)
from p2pfl.gossip.presences import Author, PresenceSet
from p2pfl.gossip.records import plain
from p2pfl.gossip.revocations import revoke
from p2pfl.gossip.successions import succeed
from p2pfl.gossip.tickets import issue
from p2pfl.gossip.wire import digest, encode
from p2pfl.node.membership.admission import Greeting
from p2pfl.node.storage.receipts import Receipt
from p2pfl.topologies import graphs, schedule
from p2pfl.topologies.draws import Draws


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


RECORD_EXAMPLES: Mapping[str, Callable[[Given], dict[str, str]]] = {
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
}
