"""Addresses as people paste them, and in words why one could not be reached."""

import errno
import re
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from libp2p.transport.exceptions import OpenConnectionError
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError
from multiaddr.utils import get_network_addrs

from p2pfl.crypto.identity import PeerId, parse_peer_id
from p2pfl.node.config import LARGEST_PORT
from p2pfl.node.errors import NetworkError, reason_of
from p2pfl.node.hardened.gate import RefusedAtGateError
from p2pfl.node.hardened.guard import ProtocolRefusedError
from p2pfl.node.hardened.tcp import expand_wildcard, resolve
from p2pfl.node.transport.types import AdmissionRefused, Unreachable

_PORT = re.compile(r"/tcp/([0-9]{1,9})(?:/|$)")
_T = TypeVar("_T", bound=BaseException)
_PORT_HINT: Final = (
    "stop the program that uses the port (this node, already running?), or choose another port"
)
_LISTEN_HINTS: Final = {
    errno.EADDRNOTAVAIL: "it is not an address of this machine: listen on /ip4/0.0.0.0/tcp/<port>, and put"
    " the address that others dial under network.announce",
    errno.EACCES: "choose a port above 1023",
}


def listen_problem(address: str, error: Exception) -> NetworkError:
    """What to tell the operator who wants to listen on ``address``."""
    if isinstance(error, OSError):
        what = f"cannot listen on {address}: {reason_of(error)}"
        return NetworkError(what, _LISTEN_HINTS.get(error.errno or 0, _PORT_HINT))
    return NetworkError(
        f"cannot listen on {address}: {error}",
        "write it as /ip4/0.0.0.0/tcp/4001, with an address of this machine",
    )


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


async def first_allowed(where: Multiaddr, may_dial: Callable[[str], bool]) -> Multiaddr:
    """The first IP address of ``where`` that ``may_dial``, with its port. Raises OpenConnectionError."""
    try:
        ips = [ip for ip in await resolve(where) if may_dial(ip)]
    except OSError as error:
        raise OpenConnectionError("the name has no address") from error
    if not ips:
        raise OpenConnectionError("it leads to no address that may be dialled")
    return Multiaddr(f"/ip{6 if ':' in ips[0] else 4}/{ips[0]}/tcp/{where.value_for_protocol('tcp')}")


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


def why_unreachable(address: str, peer: PeerId, error: Exception) -> NetworkError:
    """What to tell the operator of a dial to ``peer`` that failed with ``error``."""
    if isinstance(error, UnicodeError):  # of the codec for names, before anything is looked up
        return Unreachable(address, f"not a name: {error}")
    if isinstance(error, ProtocolRefusedError):
        return Unreachable(address, f"it is not a node that would admit this one: {error}")
    refused = cause_of_kind(error, RefusedAtGateError)
    return (
        Unreachable(address, dial_reason(error)) if refused is None else AdmissionRefused(peer, str(refused))
    )


def dial_reason(error: Exception) -> str:
    """One sentence for the operator."""
    if cause_of_kind(error, PeerIDMismatchesPubkey) is not None:
        return "a node with another peer id answers there"
    if isinstance(error, OpenConnectionError):
        return str(error)
    return "the node there hung up during the handshake; it may refuse this peer id"
