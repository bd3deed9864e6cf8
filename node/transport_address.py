"""Addresses as people paste them, and in words why one could not be reached."""

import re
from collections.abc import Iterable
from typing import TypeVar

from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from libp2p.transport.exceptions import OpenConnectionError
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError
from multiaddr.utils import get_network_addrs

from p2pfl.crypto.identity import PeerId, parse_peer_id
from p2pfl.node.config import LARGEST_PORT
from p2pfl.node.hardened.tcp import expand_wildcard
from p2pfl.node.transport_types import Unreachable

_PORT = re.compile(r"/tcp/([0-9]{1,9})(?:/|$)")
_T = TypeVar("_T", bound=BaseException)


def parse_dialable(address: str) -> tuple[Multiaddr, PeerId]:
    """Where to dial and who is expected there. Raises Unreachable."""
    if not address.isascii():
        raise Unreachable(ascii(address), "names with other than ASCII letters are written in punycode")
    port = _PORT.search(address)
    if port is not None and int(port[1]) > LARGEST_PORT:
        raise Unreachable(address, f"no port is {port[1]}: the largest is {LARGEST_PORT}")
    try:
        where = Multiaddr(address)
        names = [protocol.name for protocol in where.protocols()]
        peer = where.get_peer_id()
    except (ValueError, MultiaddrError) as error:
        raise Unreachable(address, f"it is not a multiaddress: {error}") from None
    if peer is None or names[-1] != "p2p":
        raise Unreachable(address, "the peer id is missing: the address ends in /p2p/12D3Koo…")
    if names[1:] != ["tcp", "p2p"] or names[0] not in ("ip4", "ip6", "dns", "dns4", "dns6"):
        raise Unreachable(address, "it is not of the form /ip4/<address>/tcp/<port>/p2p/<peer id>")
    try:
        return where, parse_peer_id(peer)
    except ValueError as error:
        raise Unreachable(address, f"not a peer id of this network: {error}") from None


def dialable(bound: Iterable[Multiaddr], peer: PeerId) -> tuple[str, ...]:
    """What others can dial to reach ``peer`` where it listens; local addresses come last."""
    interfaces = [ip for version in (4, 6) for ip in get_network_addrs(version) if not ip.startswith("fe80")]
    interfaces.sort(key=lambda ip: ip.startswith("127.") or ip == "::1")
    return tuple(f"{each}/p2p/{peer}" for address in bound for each in expand_wildcard(address, interfaces))


def cause_of_kind(error: BaseException | None, kind: type[_T]) -> _T | None:
    """The first exception of ``kind`` in the chain of causes of ``error``."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def dial_reason(error: Exception) -> str:
    """One sentence for the operator."""
    if cause_of_kind(error, PeerIDMismatchesPubkey) is not None:
        return "a node with another peer id answers there"
    if isinstance(error, OpenConnectionError):
        return str(error)
    return "the node there hung up during the handshake; it may refuse this peer id"
