"""Whom a newcomer let in before it had the manifest, once it has it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import trio
from test_admission import MANIFEST, MEMBER, OWN, STRANGER

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.events import PeerFound, PeerLost
from p2pfl.gossip.messages import Limits
from p2pfl.node.config import load_config
from p2pfl.node.daemon import Node
from p2pfl.node.epsilon_process import EpsilonProcess
from p2pfl.node.membership.admission import FederationAdmission, Greeting
from p2pfl.node.start import Prepared
from p2pfl.node.storage.store import Store
from p2pfl.node.transport.network import PeerConnected, PeerDisconnected, Traffic, TransportEvent


@dataclass
class Network:
    """Has seen who came while nobody looked; says who goes."""

    events: trio.MemoryReceiveChannel[TransportEvent]
    gone: list[PeerId] = field(default_factory=list)

    async def disconnect(self, peer: PeerId, reason: str) -> None:
        self.gone.append(peer)

    def traffic(self) -> Traffic:
        return Traffic()

    @property
    def connected(self) -> frozenset[PeerId]:
        return frozenset()


@dataclass
class Heard:
    """Plays the shell."""

    events: list[Any] = field(default_factory=list)

    async def feed(self, event: Any) -> None:
        self.events.append(event)


def test_strangers_go_and_the_machine_never_hears_of_them(tmp_path: Path) -> None:
    member, stranger, heard = MEMBER.peer_id, STRANGER.peer_id, Heard()
    admission = FederationAdmission(MANIFEST.digest, OWN.peer_id)

    async def main(store: Store) -> None:
        config = load_config(None, {}, {"data_train": "train.csv", "state": str(tmp_path)})
        opened = Prepared(config, OWN, store, MANIFEST.digest, admission, None, None)
        node = Node(opened, EpsilonProcess(), until_done=False, reread=lambda: config)
        for peer in (member, stranger):
            greeting = Greeting((1,), MANIFEST.digest, 0, "").to_bytes()
            assert admission.judge(peer, greeting) is None
        admission.adopt(MANIFEST)
        send, receive = trio.open_memory_channel[TransportEvent](9)
        network = node._transport = cast(Any, Network(receive))
        for peer in (stranger, member):
            await send.send(PeerConnected(peer, "/ip4/127.0.0.1/tcp/1"))
        await send.send(PeerDisconnected(stranger, "gone"))
        send.close()
        await node._feed(cast(Any, heard), Limits(max_dim=0))
        assert network.gone == [stranger]

    with Store.open(tmp_path, OWN) as store:
        trio.run(main, store)
    assert heard.events == [PeerFound(member), PeerLost(stranger)]
