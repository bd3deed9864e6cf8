"""What others say about where somebody is: circuits, Kademlia, dialling back, multicast DNS."""

from random import Random
from typing import Final

from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb import circuit_pb2 as circuit
from message_targets import ALICE, BOB
from mutations import mutated
from target import Target

from p2pfl.gossip.canonical import pack
from p2pfl.node.finding.address_book import Met
from p2pfl.node.finding.dialback import addresses_asked_untrusted, report_untrusted
from p2pfl.node.finding.mdns import MOST_SAID, addresses_untrusted
from p2pfl.node.hardened.wire import WireError
from p2pfl.node.transport.kademlia import Search, described, parse_message, rendezvous_key
from p2pfl.node.transport.relay import named, parsed
from p2pfl.node.transport.types import RequestRefused

_WHERE: Final = ("/ip4/192.0.2.1/tcp/4001", "/ip6/2001:db8::1/tcp/4001", "/dns4/a.example/tcp/1")


def _circuit(data: bytes) -> None:
    message = parsed(circuit.HopMessage, data)
    if named(message) is None:
        raise WireError("nobody is named")


def _hop() -> bytes:
    message = circuit.HopMessage(type=circuit.HopMessage.CONNECT)
    message.peer.id = ID.from_string(ALICE.peer_id).to_bytes()
    return bytes(message.SerializeToString())


def _kademlia(data: bytes) -> None:
    search = Search(rendezvous_key(bytes(32)), {})
    search.learn(parse_message(data), inside=True)
    search.next()


def _reply() -> bytes:
    message = Message(type=Message.GET_PROVIDERS, key=rendezvous_key(bytes(32)))
    message.closerPeers.append(described(ALICE.peer_id, _WHERE))
    message.providerPeers.append(described(BOB.peer_id, _WHERE))
    return bytes(message.SerializeToString())


def _report(data: bytes) -> None:
    report_untrusted(BOB.peer_id, _WHERE, data)


def _announcement(data: bytes) -> None:
    found = addresses_untrusted({str(number).encode(): data for number in range(2 * MOST_SAID)})
    if not found:
        raise ValueError("no address")
    assert len(found) <= MOST_SAID


def _bytes(data: bytes, random: Random) -> bytes:
    return mutated(data, (), random)


_RESULTS: Final = [["reached", ""], ["failed", "connection refused"], ["untried", ""]]

FINDING_TARGETS: Final = (
    Target("circuit", _circuit, (WireError,), (_hop(),), _bytes),
    Target("kademlia", _kademlia, (WireError,), (_reply(),), _bytes),
    Target("dialback-asked", addresses_asked_untrusted, (RequestRefused,), (pack(list(_WHERE)),)),
    Target(
        "dialback-answered",
        _report,
        (ValueError,),
        (pack({"observed": "192.0.2.1", "results": _RESULTS}),),
        printable=False,
    ),
    Target("mdns", _announcement, (ValueError,), (f"{_WHERE[0]}/p2p/{ALICE.peer_id}".encode(),), _bytes),
    Target("address-book", Met.from_bytes, (ValueError,), (Met(_WHERE, 17).to_bytes(),)),
)
