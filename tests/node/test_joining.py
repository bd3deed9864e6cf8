"""How a node comes by its manifest, and that it takes no other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.gossip.manifest import MAX_BYTES, Manifest, canonical_bytes, from_toml
from p2pfl.node.config import NodeConfig, load_config
from p2pfl.node.errors import ConfigError, NetworkError
from p2pfl.node.membership.joining import JOIN_SECONDS, known_federation, obtain_manifest
from p2pfl.node.storage.store import Store
from p2pfl.node.transport.network import Transport

A, B = PeerId("A"), PeerId("B")
IDENTITY = Identity.from_seed(bytes(32))


def manifest(name: str = "hearts") -> Manifest:
    return from_toml(
        f"""
        name = "{name}"
        issuers = ["{IDENTITY.peer_id}"]
        task.label = "y"
        task.positive = ["1"]
        task.columns = [{{ name = "x", kind = "numeric", low = 0, high = 1 }}]
        model.kind = "logistic"
        training = {{ rounds = 1, learning_rate = 1, sampling_rate = 1, expected_batch = 1 }}
        privacy.mode = "none"
        """
    )


OURS, ANOTHER = manifest(), manifest("lungs")


def config(
    directory: Path, federation: str | Path | None = None, bootstrap: tuple[str, ...] = ()
) -> NodeConfig:
    files = {"identity": "identity.key", "state": "state", "data_train": "train.csv"}
    usual = load_config(None, {}, {field: str(directory / name) for field, name in files.items()})
    return replace(usual, federation=federation, bootstrap=bootstrap)


@dataclass
class Members:
    """Plays the transport: who is connected from when on, and what each answers."""

    answers: Mapping[PeerId, bytes | Exception]
    here_at: float = 0.0
    asked: list[PeerId] = field(default_factory=list)
    stalling: frozenset[PeerId] = frozenset()
    gone: set[PeerId] = field(default_factory=set)

    @property
    def connected(self) -> frozenset[PeerId]:
        return frozenset(self.answers) - self.gone if trio.current_time() >= self.here_at else frozenset()

    async def disconnect(self, peer: PeerId, reason: str) -> None:
        self.gone.add(peer)

    async def request(self, peer: PeerId, name: str, body: bytes, **limits: Any) -> bytes:
        assert (name, body, limits["max_response"]) == ("manifest", b"", MAX_BYTES)
        self.asked.append(peer)
        if peer in self.stalling:
            await trio.sleep(limits["seconds"])
            raise NetworkError("no answer", "ask another member")
        answer = self.answers[peer]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store.open(tmp_path / "state", IDENTITY) as opened:
        yield opened


def obtain(members: Members, has_place: Callable[[PeerId], bool] = lambda peer: True) -> Manifest:
    async def main() -> Manifest:
        transport = cast(Transport, members)
        return await obtain_manifest(transport, OURS.digest, ["/ip4/10.0.0.1/tcp/1/p2p/A"], has_place)

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# -- which federation


def test_the_federation_is_named_by_file_by_id_or_by_what_is_stored(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "hearts.manifest"
    path.write_bytes(canonical_bytes(OURS))
    assert known_federation(config(tmp_path, path), store) == (OURS.digest, OURS)
    assert known_federation(config(tmp_path, OURS.federation_id), store) == (OURS.digest, None)
    with pytest.raises(ConfigError, match="not set"):
        known_federation(config(tmp_path), store)
    store.bind_manifest(canonical_bytes(OURS))
    assert known_federation(config(tmp_path), store) == (OURS.digest, OURS)
    assert known_federation(config(tmp_path, OURS.federation_id), store) == (OURS.digest, OURS)


@pytest.mark.parametrize("by_file", [False, True])
def test_state_of_another_federation_is_left_alone(tmp_path: Path, store: Store, by_file: bool) -> None:
    store.bind_manifest(canonical_bytes(ANOTHER))
    path = tmp_path / "hearts.manifest"
    path.write_bytes(canonical_bytes(OURS))
    with pytest.raises(ConfigError, match="holds the state of federation"):
        known_federation(config(tmp_path, path if by_file else OURS.federation_id), store)


# -- the manifest


def test_a_newcomer_takes_the_manifest_with_the_right_digest_only() -> None:
    members = Members({A: canonical_bytes(ANOTHER), B: canonical_bytes(OURS)}, here_at=20)
    assert obtain(members) == OURS
    refusing = Members({A: NetworkError("this node has no manifest yet itself", "wait"), B: b"\xff"})
    with pytest.raises(NetworkError, match="let this node in within"):
        obtain(refusing)
    assert {A, B} == set(refusing.asked)


def test_nobody_there_is_said_after_a_while() -> None:
    late = Members({B: canonical_bytes(OURS)}, here_at=JOIN_SECONDS + 1)
    with pytest.raises(NetworkError, match="tried /ip4/10"):
        obtain(late)


def test_strangers_that_stall_do_not_keep_a_newcomer_out() -> None:
    crowd = frozenset(PeerId(f"S{number}") for number in range(200))
    answers = dict.fromkeys(crowd, b"") | {A: canonical_bytes(OURS)}
    assert obtain(Members(answers, here_at=JOIN_SECONDS - 5, stalling=crowd)) == OURS


def test_who_lost_its_place_is_hung_up_on_and_not_asked() -> None:
    members = Members({A: canonical_bytes(OURS), B: b""})
    with pytest.raises(NetworkError):
        obtain(members, lambda peer: peer == B)
    assert members.gone == {A}
    assert set(members.asked) == {B}
