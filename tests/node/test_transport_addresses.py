"""Where a node listens and how it is dialled: families, names, several addresses, dead beside live ones."""

import socket
from typing import Any

import pytest
import trio
import trio.testing
from transports import ANYWHERE, identity, run, running, transport

from p2pfl.node.finding.discovery import Dialler
from p2pfl.node.transport.address import first_allowed
from p2pfl.node.transport.network import Transport, Unreachable

PEER = identity(1).peer_id


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as made:
            made.bind(("::1", 0))
    except OSError:
        return False
    return True


class Names(trio.abc.HostnameResolver):
    """What names lead to, for this test alone."""

    def __init__(self, **names: list[str]) -> None:
        self._names = names

    async def getaddrinfo(self, host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        family = rest[0] if rest else options.get("family", 0)
        found = []
        for ip in self._names.get(host.decode().partition(".")[0], []):
            version = socket.AF_INET6 if ":" in ip else socket.AF_INET
            if family in (0, version):
                found.append((version, socket.SOCK_STREAM, 6, "", (ip, port)))
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "name or service not known")
        return found

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


def port_of(node: Transport, start: str = "/ip4/") -> str:
    return next(address.split("/")[4] for address in node.addresses if address.startswith(start))


def test_one_node_listens_on_several_addresses_of_both_families() -> None:
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")

    async def main() -> None:
        node = transport(1, listen=(ANYWHERE, "/ip6/::1/tcp/0", ANYWHERE))
        async with running(node):
            assert [address.split("/")[1] for address in node.addresses] == ["ip4", "ip6", "ip4"]
            for number, address in enumerate(node.addresses, 2):
                caller = transport(number)
                async with running(caller):
                    assert await caller.connect(address) == PEER

    run(main)


@pytest.mark.parametrize("kind", ["dns", "dns4", "dns6"])
def test_a_name_is_dialled_in_the_family_that_it_says(kind: str) -> None:
    if kind != "dns4" and not has_ipv6():
        pytest.skip("this machine has no IPv6")

    async def main() -> None:
        trio.socket.set_custom_hostname_resolver(Names(both=["::1", "127.0.0.1"]))
        node, caller = transport(1, listen=("/ip6/::1/tcp/0", ANYWHERE)), transport(2)
        async with running(node, caller):
            port = port_of(node, "/ip4/" if kind == "dns4" else "/ip6/")
            assert await caller.connect(f"/{kind}/both.example/tcp/{port}/p2p/{PEER}") == PEER
            assert (node.observed(identity(2).peer_id) == "127.0.0.1") == (kind == "dns4")

    run(main)


def test_a_name_that_leads_to_a_dead_machine_and_a_live_one() -> None:
    async def main() -> None:
        trio.socket.set_custom_hostname_resolver(Names(both=["127.0.0.9", "127.0.0.1"]))
        node, caller = transport(1), transport(2)
        async with running(node, caller):
            assert await caller.connect(f"/dns4/both.example/tcp/{port_of(node)}/p2p/{PEER}") == PEER

    run(main)


def test_a_name_that_leads_nowhere_is_said_to() -> None:
    async def main() -> None:
        trio.socket.set_custom_hostname_resolver(Names())
        caller = transport(2)
        async with running(caller):
            with pytest.raises(Unreachable, match="name or service not known"):
                await caller.connect(f"/dns4/nobody.example/tcp/4001/p2p/{PEER}")

    run(main)


def test_only_what_may_be_dialled_of_a_name_is() -> None:
    from libp2p.transport.exceptions import OpenConnectionError
    from multiaddr import Multiaddr

    async def main() -> None:
        trio.socket.set_custom_hostname_resolver(Names(both=["10.0.0.5", "8.8.8.8"]))
        where = Multiaddr("/dns4/both.example/tcp/4001")
        assert str(await first_allowed(where, lambda ip: ip == "8.8.8.8")) == "/ip4/8.8.8.8/tcp/4001"
        with pytest.raises(OpenConnectionError, match="may be dialled"):
            await first_allowed(where, lambda _: False)

    run(main)


def test_a_port_that_accepts_and_says_nothing_does_not_delay_the_next_address() -> None:
    """The handshake of one stalls while that of the other is done; the first is then given up."""

    async def main() -> None:
        node, caller = transport(1), transport(2)
        mute = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = mute[0].socket.getsockname()[1]
        dialler = Dialler(identity(2).peer_id, caller.connect, lambda: caller.direct)
        async with running(node, caller) as nursery:
            taken = trio.Event()

            async def take(stream: trio.SocketStream) -> None:
                taken.set()
                assert await stream.receive_some()
                await trio.sleep_forever()

            nursery.start_soon(trio.serve_listeners, take, mute)
            dialler.want([f"/ip4/127.0.0.1/tcp/{port}/p2p/{PEER}", *node.addresses])
            nursery.start_soon(dialler.run)
            with trio.fail_after(5):
                await taken.wait()
                async for event in caller.events:
                    assert event.peer == PEER
                    break
            assert len(caller._links) == 1

    run(main)
