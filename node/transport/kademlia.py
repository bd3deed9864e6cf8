"""/ipfs/kad/1.0.0, as much of it as a rendezvous needs: who says to be a provider of a key, and where.

py-libp2p's own KadDHT dials everybody it hears of, keeps a routing table, and answers a search early and
incompletely; this speaks the same words on the hardened parts, asks a bounded number of nodes for a bounded
time, and keeps nothing. Any Kademlia node of libp2p answers it: public ones, or `p2pfl rendezvous`.
"""

import hashlib
import ipaddress
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import trio
from libp2p.custom_types import TProtocol
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from p2pfl.crypto import labels
from p2pfl.crypto.identity import Identity, PeerId, parse_peer_id
from p2pfl.gossip.wire import digest
from p2pfl.node.config import is_tcp_address
from p2pfl.node.errors import NetworkError
from p2pfl.node.finding.discovery import peer_of
from p2pfl.node.hardened.guard import ProtocolRefusedError, open_stream
from p2pfl.node.hardened.wire import WireError, read_delimited, write_delimited
from p2pfl.node.hardened.yamux import Yamux
from p2pfl.node.transport.open_host import OpenHost

log = logging.getLogger(__name__)

KADEMLIA: Final = TProtocol("/ipfs/kad/1.0.0")
MAX_KADEMLIA_MESSAGE: Final = 1 << 16
QUERY_SECONDS: Final = 8.0
MEETING_SECONDS: Final = 45.0
"""For a whole search, and for announcing this node where it ended."""
MOST_QUERIED: Final = 32
AT_ONCE: Final = 3
CLOSEST: Final = 20
ANNOUNCED_TO: Final = 8
MOST_PROVIDERS: Final = 256
MOST_ADDRESSES_OF_A_PEER: Final = 8


def rendezvous_key(federation: bytes) -> bytes:
    """The key, a SHA-256 multihash, at which members of ``federation`` meet. It does not tell its id."""
    return b"\x12\x20" + digest(labels.RENDEZVOUS_KEY, federation)


@dataclass(frozen=True, slots=True)
class Contact:
    """A Kademlia node, and where it is said to be."""

    peer: PeerId
    addresses: tuple[str, ...]

    def distance(self, key: bytes) -> int:
        """Kademlia's, from ``key``."""
        own = hashlib.sha256(ID.from_string(self.peer).to_bytes()).digest()
        return int.from_bytes(own, "big") ^ int.from_bytes(hashlib.sha256(key).digest(), "big")


@dataclass
class Search:
    """What is known in the course of one search for the providers of ``key``."""

    key: bytes
    contacts: dict[PeerId, Contact]
    asked: set[PeerId] = field(default_factory=set)
    answered: dict[PeerId, Yamux] = field(default_factory=dict)
    providers: dict[PeerId, tuple[str, ...]] = field(default_factory=dict)

    def closest(self) -> list[Contact]:
        """The closest known, of those that have not failed."""
        alive = [
            contact
            for peer, contact in self.contacts.items()
            if peer in self.answered or peer not in self.asked
        ]
        return sorted(alive, key=lambda contact: contact.distance(self.key))[:CLOSEST]

    def next(self) -> list[Contact]:
        """Whom to ask now; nobody once the closest have all answered."""
        room = min(AT_ONCE, MOST_QUERIED - len(self.asked))
        return [contact for contact in self.closest() if contact.peer not in self.asked][: max(room, 0)]

    def learn(self, reply: Message, *, inside: bool) -> None:
        """Take over what a node says. ``inside``: it has a private address, and may tell of more of them."""
        for peer in reply.closerPeers[:CLOSEST]:
            contact = _contact_untrusted(peer)
            if contact is None or contact.peer in self.contacts or len(self.contacts) >= 2 * MOST_QUERIED:
                continue
            where = tuple(a for a in contact.addresses if inside or _is_public(a))
            if where:
                self.contacts[contact.peer] = Contact(contact.peer, where)
        for peer in reply.providerPeers[:MOST_PROVIDERS]:
            provider = _contact_untrusted(peer)
            if provider is not None and len(self.providers) < MOST_PROVIDERS:
                known = self.providers.get(provider.peer, ())
                both = dict.fromkeys((*known, *provider.addresses))
                self.providers[provider.peer] = tuple(both)[:MOST_ADDRESSES_OF_A_PEER]


async def meet(
    identity: Identity, federation: bytes, start: Sequence[str], own: Sequence[str]
) -> tuple[list[str], int]:
    """Search for members of ``federation`` from the Kademlia nodes at ``start`` on, and say there that this
    node is at the addresses ``own``. Returns the members' addresses, each with a peer id, and how many nodes
    were told.

    Raises NetworkError if none of ``start`` answers.
    """
    host = OpenHost(identity, (), {})
    found: list[str] = []
    told = 0
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        search = Search(rendezvous_key(federation), _contacts(start))
        with trio.move_on_after(MEETING_SECONDS):
            await _run_search(host, search)
            told = await _announce(search, identity.peer_id, own)
        nursery.cancel_scope.cancel()
    for peer, addresses in search.providers.items():
        if peer != identity.peer_id:
            found += [f"{address}/p2p/{peer}" for address in addresses]
    if not search.answered:
        raise NetworkError(
            f"none of the rendezvous nodes answers ({', '.join(start)})",
            "check network.rendezvous, and that a program that speaks /ipfs/kad/1.0.0 runs there",
        )
    return found, told


def _contacts(addresses: Sequence[str]) -> dict[PeerId, Contact]:
    """Those that the operator named."""
    found: dict[PeerId, Contact] = {}
    for address in addresses:
        peer = peer_of(address)
        if peer is not None:
            before = found[peer].addresses if peer in found else ()
            found[peer] = Contact(peer, (*before, address.partition("/p2p/")[0]))
    return found


async def _run_search(host: OpenHost, search: Search) -> None:
    while contacts := search.next():
        search.asked.update(contact.peer for contact in contacts)
        async with trio.open_nursery() as nursery:
            for contact in contacts:
                nursery.start_soon(_ask, host, search, contact)


async def _ask(host: OpenHost, search: Search, contact: Contact) -> None:
    """Ask ``contact`` for providers, at the first of its addresses that answers."""
    for address in contact.addresses[:2]:
        try:
            with trio.fail_after(QUERY_SECONDS):
                muxer = await host.dial(f"{address}/p2p/{contact.peer}")
                request = Message(type=Message.GET_PROVIDERS, key=search.key)
                reply = await _exchange(muxer, request)
        except (NetworkError, WireError, ProtocolRefusedError, trio.TooSlowError) as error:
            log.debug("rendezvous: %s does not answer: %s", contact.peer, error)
            continue
        search.answered[contact.peer] = muxer
        search.learn(reply, inside=is_inside(muxer.get_remote_address()))
        return


async def _exchange(muxer: Yamux, request: Message) -> Message:
    stream = await open_stream(muxer, KADEMLIA)
    try:
        await write_delimited(stream, request.SerializeToString())
        return parse_message(await read_delimited(stream, MAX_KADEMLIA_MESSAGE, QUERY_SECONDS))
    finally:
        stream.abort("it was answered")


async def _announce(search: Search, own: PeerId, addresses: Sequence[str]) -> int:
    """Tell the closest nodes that answered; how many were."""
    request = Message(type=Message.ADD_PROVIDER, key=search.key)
    request.providerPeers.append(described(own, addresses))
    told = 0
    for contact in [each for each in search.closest() if each.peer in search.answered][:ANNOUNCED_TO]:
        try:
            with trio.fail_after(QUERY_SECONDS):
                stream = await open_stream(search.answered[contact.peer], KADEMLIA)
                await write_delimited(stream, request.SerializeToString())
                await stream.close()
                await stream.wait_for_more()  # an answer, or that it was taken: nodes differ
                told += 1
        except (WireError, ProtocolRefusedError, trio.TooSlowError) as error:
            log.debug("rendezvous: %s was not told: %s", contact.peer, error)
    return told


def described(peer: PeerId, addresses: Iterable[str]) -> Message.Peer:
    """``peer`` at ``addresses``, with or without its id, as a message names it."""
    where = [Multiaddr(address.partition("/p2p/")[0]).to_bytes() for address in addresses]
    return Message.Peer(id=ID.from_string(peer).to_bytes(), addrs=where[:MOST_ADDRESSES_OF_A_PEER])


def parse_message(data: bytes) -> Message:
    """Raises WireError unless ``data`` is a message of Kademlia's."""
    try:
        return Message.FromString(data)
    except Exception as error:  # protobuf's own, which is no dependency of ours
        raise WireError("not a message of /ipfs/kad/1.0.0") from error


def _contact_untrusted(peer: Any) -> Contact | None:
    """What a message says of a peer: its TCP addresses, without its id."""
    name = peer_named(peer)
    return None if name is None else Contact(name, tuple(addresses_untrusted(peer.addrs)))


def peer_named(peer: Any) -> PeerId | None:
    """Whom a message means; None if its key is of another kind than ours."""
    try:
        return parse_peer_id(str(ID(peer.id))) if len(peer.id) <= 64 else None
    except ValueError:
        return None


def addresses_untrusted(encoded: Sequence[bytes]) -> list[str]:
    """The TCP addresses among the first few of ``encoded``, without peer ids."""
    found = []
    for each in encoded[:MOST_ADDRESSES_OF_A_PEER]:
        try:
            address = str(Multiaddr(each)).partition("/p2p/")[0] if len(each) <= 256 else ""
        except Exception:  # noqa: BLE001, S112 - the library raises whatever its codecs do
            continue
        if is_tcp_address(address):
            found.append(address)
    return found


def is_inside(remote: tuple[str, int] | None) -> bool:
    """Whether a node that answered is where not everybody reaches it, whatever name led there."""
    return remote is not None and not ipaddress.ip_address(remote[0].partition("%")[0]).is_global


def _is_public(address: str) -> bool:
    """Whether ``address`` is an IP address that is reached from everywhere. Names count as not."""
    _, family, host = address.split("/")[:3]
    try:
        return family.startswith("ip") and ipaddress.ip_address(host).is_global
    except ValueError:
        return False
