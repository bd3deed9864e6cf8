"""Dialling and listening: one session for two peers, and addresses that lead nowhere."""

import socket
from contextlib import AsyncExitStack

import pytest
import trio
import trio.testing
from libp2p.stream_muxer.exceptions import MuxedStreamReset
from multiaddr import Multiaddr
from transports import identity, next_of, pair, run, running, transport, until

from p2pfl.node.errors import NetworkError
from p2pfl.node.transport.network import (
    GuestRefused,
    MessageReceived,
    PeerConnected,
    PeerDisconnected,
    Unreachable,
)


def test_simultaneous_dials_end_in_one_usable_session() -> None:
    async def test() -> None:
        for number in range(10):
            a, b = transport(2 * number + 1), transport(2 * number + 2)
            left, right = identity(2 * number + 1).peer_id, identity(2 * number + 2).peer_id
            async with running(a, b):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(a.connect, b.addresses[0])
                    nursery.start_soon(b.connect, a.addresses[0])
                assert a.send(right, b"ping")
                assert b.send(left, b"pong")
                assert isinstance(await a.events.receive(), PeerConnected)
                assert await a.events.receive() == MessageReceived(right, b"pong")
                assert isinstance(await b.events.receive(), PeerConnected)
                assert await b.events.receive() == MessageReceived(left, b"ping")
                assert await a.request(right, "echo", b"x", max_response=1, seconds=5) == b"x"
                assert await b.request(left, "echo", b"y", max_response=1, seconds=5) == b"y"
                await a.disconnect(right, "enough")
                assert await a.events.receive() == PeerDisconnected(right, "enough")
                assert isinstance(await b.events.receive(), PeerDisconnected)
                assert not a.connected
                assert not b.connected

    run(test, 60)


def test_a_restarted_peer_replaces_what_is_left_of_it() -> None:
    """The old connection is still open here when the peer, restarted, comes in by a new one."""

    async def test() -> None:
        host, first, second = transport(1), transport(2), transport(2)
        async with running(host, first, second):
            await pair(first, host)
            await second.connect(host.addresses[0])
            assert await host.events.receive() == PeerDisconnected(
                identity(2).peer_id, "the peer started over"
            )
            assert isinstance(await host.events.receive(), PeerConnected)
            assert host.send(identity(2).peer_id, b"to the new one")
            assert (await next_of(second, MessageReceived)).data == b"to the new one"
            await next_of(first, PeerDisconnected)

    run(test)


def test_two_nodes_with_one_key_do_not_replace_each_other_without_end() -> None:
    async def test() -> None:
        host, twins = transport(1), [transport(2) for _ in range(7)]
        async with running(host, *twins):
            for twin in twins[:6]:
                await twin.connect(host.addresses[0])
            with pytest.raises(NetworkError):
                await twins[6].connect(host.addresses[0])
            assert host.send(identity(2).peer_id, b"to the last one let in")
            assert (await next_of(twins[5], MessageReceived)).data == b"to the last one let in"
            refused = await next_of(host, GuestRefused)
            assert "do two nodes use one key" in refused.reason
            await twins[5].disconnect(identity(1).peer_id, "enough")
            await until(lambda: identity(2).peer_id not in host.connected)
            await twins[6].connect(host.addresses[0])

    run(test)


def test_connecting_again_is_the_same_connection() -> None:
    async def test() -> None:
        a, b = transport(1), transport(2)
        async with running(a, b):
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(a.connect, b.addresses[0])
            await a.connect(b.addresses[0])
            assert len(a._links) == 1
            for each in (a, b):
                await next_of(each, PeerConnected)
            await b.disconnect(identity(1).peer_id, "bye")
            await next_of(a, PeerDisconnected)
            await pair(a, b)

    run(test)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("nonsense", "it is not a multiaddress"),
        ("/ip4/127.0.0.1/tcp/1", "the peer id is missing"),
        ("/ip4/127.0.0.1/tcp/65536/p2p/{peer}", "no port is 65536: the largest is 65535"),
        ("/ip4/127.0.0.1/udp/1/quic-v1/p2p/{peer}", "it is not of the form"),
        ("/ip4/127.0.0.1/tcp/{closed}/p2p/{peer}", "connection refused"),
        ("/ip4/127.0.0.1/tcp/{open}/p2p/{other}", "a node with another peer id answers there"),
        ("/ip4/127.0.0.1/tcp/{open}/p2p/{self}", "that is this node itself"),
        ("/dns4/no-such-host.invalid/tcp/1/p2p/{peer}", "cannot reach"),
    ],
)
def test_addresses_that_lead_nowhere(address: str, reason: str, capfd: pytest.CaptureFixture[str]) -> None:
    async def test() -> None:
        a, b = transport(1), transport(2)
        async with running(a, b):
            where = address.format(
                closed=_free_port(),
                open=Multiaddr(b.addresses[0]).value_for_protocol("tcp"),
                peer=identity(2).peer_id,
                other=identity(3).peer_id,
                self=identity(1).peer_id,
            )
            with pytest.raises(NetworkError, match=reason):
                await a.connect(where)

    run(test)
    assert capfd.readouterr().err == ""


def test_a_port_where_something_else_answers_or_nothing_does() -> None:
    async def test() -> None:
        a = transport(1, dial_seconds=0.5)
        async with running(a) as nursery:

            async def garbage(stream: trio.SocketStream) -> None:
                await stream.send_all(b"220 ftp ready\r\n" * 100)
                await trio.sleep_forever()

            async def silence(stream: trio.SocketStream) -> None:
                await trio.sleep_forever()

            for handler in (garbage, silence):
                listeners = await nursery.start(trio.serve_tcp, handler, 0)
                port = listeners[0].socket.getsockname()[1]
                with pytest.raises(Unreachable):
                    await a.connect(f"/ip4/127.0.0.1/tcp/{port}/p2p/{identity(2).peer_id}")

    run(test)


def test_a_port_in_use_is_named() -> None:
    async def test() -> None:
        a = transport(1)
        async with running(a):
            address = a.addresses[0].rpartition("/p2p/")[0]
            with pytest.raises(NetworkError, match=f"cannot listen on {address}: address already in use"):
                await transport(2, listen=(address,)).run()

    run(test)


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("nonsense", "write it as"),
        ("/ip4/127.0.0.1/udp/1/quic-v1", "write it as"),
        ("/ip4/192.0.2.7/tcp/0", "not an address of this machine"),
    ],
)
def test_addresses_that_cannot_be_listened_on(address: str, hint: str) -> None:
    async def test() -> None:
        with pytest.raises(NetworkError, match=f"cannot listen on {address}") as caught:
            await transport(1, listen=(address,)).run()
        assert hint in caught.value.hint

    run(test)


def test_listening_everywhere_shows_addresses_one_can_dial() -> None:
    async def test() -> None:
        a, b = transport(1, listen=("/ip4/0.0.0.0/tcp/0",)), transport(2)
        async with running(a, b):
            assert a.addresses
            assert not any("0.0.0.0" in address for address in a.addresses)
            assert all(address.endswith(f"/p2p/{identity(1).peer_id}") for address in a.addresses)
            await b.connect(a.addresses[-1])

    run(test)


def test_stalled_handshakes_do_not_keep_peers_out() -> None:
    """Of those who open sockets and say nothing, the oldest are hung up on when they are too many."""

    async def test() -> None:
        host, peer = transport(1, max_guests=2), transport(2)
        async with running(host, peer), AsyncExitStack() as stack:
            port = int(Multiaddr(host.addresses[0]).value_for_protocol("tcp"))
            for _ in range(20):
                await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
            await peer.connect(host.addresses[0])
            assert len(host._tcp._handshakes) <= 4

    run(test)


@pytest.mark.parametrize("line", [b"\xff\xff\xff\xff\x7f" + bytes(10 << 20), b"\x03ls\n" * (4 << 20)])
def test_before_the_handshake_nobody_may_send_much(line: bytes) -> None:
    async def test() -> None:
        host = transport(1)
        async with running(host):
            port = int(Multiaddr(host.addresses[0]).value_for_protocol("tcp"))
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            with pytest.raises(trio.BrokenResourceError):
                await stream.send_all(b"\x13/multistream/1.0.0\n" + line)

    run(test, 5)


@pytest.mark.parametrize("line", [b"\xff\xff\xff\xff\x7f" + bytes(1 << 16), b"\x03ls\n" * 5000])
def test_a_negotiation_without_end_is_ended(line: bytes) -> None:
    async def test() -> None:
        a, b = transport(1), transport(2)
        async with running(a, b):
            await pair(a, b)
            stream = await a._sessions[identity(2).peer_id].link.muxer.open_stream()

            async def negotiate() -> None:
                await stream.write(b"\x13/multistream/1.0.0\n" + line)
                while True:
                    await stream.read()

            with pytest.raises(MuxedStreamReset):
                await negotiate()
            assert a.connected == {identity(2).peer_id}

    run(test, 5)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("name", ["\u05d01", "\u0627\u0661", "é" * 30, "a b", ""])
def test_a_name_that_is_none_is_only_unreachable(name: str) -> None:
    async def test() -> None:
        a = transport(1)
        async with running(a) as nursery:
            with pytest.raises(Unreachable):
                await a.connect(f"/dns/{name}/tcp/1/p2p/{identity(2).peer_id}")
            nursery.cancel_scope.cancel()

    run(test)
