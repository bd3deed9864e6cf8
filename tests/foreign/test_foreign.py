"""Another implementation, js-libp2p from npm with a client written from docs/protocol.md, meets real ones."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from real_federation import Federation, p2pfl, wait_until

from p2pfl.node.storage.identity_file import load_identity

HERE = Path(__file__).parent
SECONDS = 180

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed"),
    pytest.mark.skipif(
        not (HERE / "node_modules").is_dir(), reason="js-libp2p is not installed (make foreign does)"
    ),
]


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path, 3, rounds=3)
    yield made
    made.stop()


def client(federation: Federation, directory: Path) -> dict[str, Any]:
    """What the foreign peer found at the first member, invited as the identity in ``directory``."""
    peer = p2pfl("init", directory).stdout.strip()
    ticket = directory / "ticket.txt"
    p2pfl(
        "federation", "invite", peer, "--federation", federation.manifest,
        "--identity", federation.directory / "issuer" / "identity.key", "--out", ticket,
    )  # fmt: skip
    asked = {
        "address": federation.members[0].address,
        "federation": federation.id,
        "seed": load_identity(directory / "identity.key").seed.hex(),
        "ticket": ticket.read_text().strip(),
    }
    command = ["node", "client.mjs", json.dumps(asked)]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found | {"peer": peer}


def test_a_foreign_peer_speaks_the_protocol_from_the_document(three: Federation, tmp_path: Path) -> None:
    first = three.members[0]
    for member in three.members:
        three.start(member)
    wait_until(lambda: first.status.get("phase") == "done", SECONDS, f"the end: {first.log}")
    found = client(three, tmp_path / "foreign")

    stranger = found["stranger"]
    assert "/p2pfl/admission/1" in stranger["protocols"]
    assert stranger["milliseconds"] < 10_000
    assert "UnsupportedProtocolError" in stranger["early"], "nothing of the federation's before admission"
    assert "sent no ticket" in stranger["reason"]

    member = found["member"]
    assert member["reason"] is None
    assert member["peer"] == found["peer"]
    assert member["federation"] == three.id
    assert member["manifest"]["training"]["rounds"] == 3
    assert member["done"]
    assert member["state"] == member["promised"]
    assert member["released"] == member["rounds"][0]
    assert member["signed"] == 0
    assert "refused" in member["unknown"]
    heard = {(message["tag"], message["author"]) for message in member["heard"]}
    assert ("sync", first.peer) in heard, heard

    assert "model" in found["altered"]
    assert found["alike"] is None
    assert "Traceback" not in first.log
