"""Finding members on the local network: names, what is believed, and two real nodes over multicast."""

import contextlib
import socket

import pytest
import trio
from transports import until

from p2pfl.crypto.identity import Identity
from p2pfl.node.finding.mdns import MOST_SAID, LocalNetwork, addresses_untrusted, interfaces_of, service_name

ONE, TWO = (Identity.from_seed(bytes([i]) * 32).peer_id for i in (1, 2))
FEDERATION = bytes(range(32))


def address(peer: str, port: int = 4001) -> str:
    return f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer}"


def test_the_name_does_not_give_the_federation_away() -> None:
    name = service_name(FEDERATION)
    assert name == "_p2pfl-bc7ea482._tcp.local."
    assert FEDERATION.hex()[:8] not in name
    assert service_name(bytes(32)) != name


def test_it_speaks_where_the_node_listens() -> None:
    assert interfaces_of(["/ip4/192.0.2.1/tcp/1", "/ip6/::1/tcp/2"]) == ["192.0.2.1", "::1"]
    assert interfaces_of(["/ip4/192.0.2.1/tcp/1", "/ip6/::/tcp/2"]) is None


@pytest.mark.parametrize(
    "value",
    [None, b"", b"nonsense", b"\xff", b"/ip4/127.0.0.1/tcp/1", b"/ip4/1.2.3.4/tcp/1/p2p/x" + b"y" * 999],
)
def test_what_is_no_address_is_ignored(value: bytes | None) -> None:
    good = address(ONE)
    assert addresses_untrusted({b"0": value, b"1": good.encode(), b"z": b"more"}) == [good]


def test_a_long_announcement_is_cut() -> None:
    assert (
        len(addresses_untrusted({str(n).encode(): address(ONE, n + 1).encode() for n in range(99)}))
        == MOST_SAID
    )


def multicast_works() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("", 0))
        group = socket.inet_aton("224.0.0.251") + socket.inet_aton("127.0.0.1")
        listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        listener.settimeout(1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
            sender.sendto(b"?", ("224.0.0.251", listener.getsockname()[1]))
        return listener.recv(9) == b"?"
    return False


def test_two_nodes_of_one_federation_find_each_other_and_a_third_of_another_does_not() -> None:
    if not multicast_works():
        pytest.skip("multicast does not work on this machine's loopback")
    heard: dict[str, set[str]] = {"one": set(), "two": set(), "other": set()}

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for name, federation, peer in (
                ("one", FEDERATION, ONE), ("two", FEDERATION, TWO), ("other", bytes(32), ONE)
            ):  # fmt: skip
                local = LocalNetwork(federation, ["/ip4/127.0.0.1/tcp/4001"], heard[name].update)
                nursery.start_soon(local.run, [address(peer)])
            with trio.fail_after(15):
                await until(lambda: address(TWO) in heard["one"] and address(ONE) in heard["two"], 0.05)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert address(TWO) not in heard["other"]


def test_a_network_that_does_not_allow_it_is_no_reason_to_stop(caplog: pytest.LogCaptureFixture) -> None:
    local = LocalNetwork(FEDERATION, ["/ip4/203.0.113.99/tcp/4001"], lambda _: None)
    trio.run(local.run, [address(ONE)])
    assert "no search on the local network" in caplog.text
