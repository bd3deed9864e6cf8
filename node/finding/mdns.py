"""Members on one local network find each other by multicast DNS (RFC 6762, 6763), if both ask for it.

The service's name is derived from the federation's id by a hash, so that who listens learns that there is a
federation and which addresses and peer ids take part here, and not which federation it is. What is heard is a
hint: anybody on the network may have said it, and admission judges who answers there.

zeroconf, which libp2p brings along, runs in threads of its own; what it hears crosses to trio's.
"""

import ipaddress
import logging
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from p2pfl.crypto import labels
from p2pfl.gossip.wire import digest
from p2pfl.node.config import is_tcp_address
from p2pfl.node.finding.discovery import peer_of

if TYPE_CHECKING:
    from zeroconf import ServiceInfo, Zeroconf

log = logging.getLogger(__name__)

MOST_SAID: Final = 4
"""Addresses in one announcement, made and read."""
_MAX_ADDRESS = 240
_RESOLVE_MILLISECONDS = 2000
_CLOSE_SECONDS = 3.0


def service_name(federation: bytes) -> str:
    """What members of ``federation`` announce themselves as."""
    return f"_p2pfl-{digest(labels.LOCAL_NAME, federation)[:4].hex()}._tcp.local."


def interfaces_of(listen: Sequence[str]) -> list[str] | None:
    """The IP addresses whose networks are spoken on: where the node listens; None means on all."""
    hosts = [address.split("/")[2] for address in listen]
    return None if any(ipaddress.ip_address(host).is_unspecified for host in hosts) else hosts


class LocalNetwork:
    """Announces this node on the local network and calls ``found`` with the addresses of others."""

    def __init__(
        self, federation: bytes, listen: Sequence[str], found: Callable[[Sequence[str]], None]
    ) -> None:
        self._service = service_name(federation)
        self._interfaces = interfaces_of(listen)
        self._found = found
        self._trio: trio.lowlevel.TrioToken | None = None

    async def run(self, addresses: Sequence[str]) -> None:
        """Until cancelled; ``addresses``, with peer ids, are those of this node. If the network does not
        allow it the log says so, and nothing else happens.
        """
        self._trio = trio.lowlevel.current_trio_token()
        zeroconf: Zeroconf | None = None
        try:
            zeroconf = await trio.to_thread.run_sync(self._open)
            await trio.to_thread.run_sync(partial(self._announce, zeroconf, addresses))
            log.info("looking for members on the local network as %s", self._service)
            await trio.sleep_forever()
        except Exception as error:  # noqa: BLE001 - of a library, an operating system and a network
            log.warning("no search on the local network: %s; network.mdns asks for it", error)
        finally:
            if zeroconf is not None:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_SECONDS):
                    await trio.to_thread.run_sync(zeroconf.close, abandon_on_cancel=True)  # type: ignore[call-arg]

    def _open(self) -> "Zeroconf":
        from zeroconf import InterfaceChoice, Zeroconf

        return Zeroconf(interfaces=InterfaceChoice.All if self._interfaces is None else self._interfaces)

    def _announce(self, zeroconf: "Zeroconf", addresses: Sequence[str]) -> None:
        from zeroconf import ServiceBrowser

        zeroconf.register_service(self._described(addresses))
        ServiceBrowser(zeroconf, self._service, listener=self)  # type: ignore[arg-type]  # it is one, by name

    def _described(self, addresses: Sequence[str]) -> "ServiceInfo":
        from zeroconf import ServiceInfo

        name = secrets.token_hex(8)
        said = [address for address in addresses if len(address) <= _MAX_ADDRESS][:MOST_SAID]
        hosts = [address.split("/")[2] for address in said if address.startswith(("/ip4/", "/ip6/"))]
        return ServiceInfo(
            self._service,
            f"{name}.{self._service}",
            port=int(addresses[0].split("/")[4]),
            parsed_addresses=hosts[:1],
            properties={str(number): address for number, address in enumerate(said)},
            server=f"{name}.local.",
        )

    # -- called by zeroconf, in its thread
    def add_service(self, zeroconf: "Zeroconf", kind: str, name: str) -> None:
        """Somebody announces itself."""
        info = zeroconf.get_service_info(kind, name, _RESOLVE_MILLISECONDS)
        heard = [] if info is None else addresses_untrusted(info.properties)
        if heard and self._trio is not None:
            try:
                trio.from_thread.run_sync(self._found, heard, trio_token=self._trio)
            except trio.RunFinishedError:
                pass

    update_service = add_service

    def remove_service(self, zeroconf: "Zeroconf", kind: str, name: str) -> None:
        """Nothing follows from it: who is here says so itself."""


def addresses_untrusted(properties: "dict[bytes, bytes | None] | Any") -> list[str]:
    """The addresses in what somebody announced; whatever else is there is ignored."""
    found = []
    for number in range(MOST_SAID):
        value = properties.get(str(number).encode()) or b""
        if not value.isascii() or len(value) > _MAX_ADDRESS:
            continue
        address = value.decode("ascii")
        where, _, _ = address.partition("/p2p/")
        if is_tcp_address(where) and peer_of(address) is not None:
            found.append(address)
    return found
