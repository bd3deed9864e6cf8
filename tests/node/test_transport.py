"""The transport as the daemon sees it: real sockets on loopback, admission by fakes."""

import hashlib
import logging
import os
import random
import signal
import socket
import subprocess
import sys
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.host.ping import PingService
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.stream_muxer.exceptions import MuxedStreamReset
from multiaddr import Multiaddr
from transports import Club, drain, echo, identity, next_of, pair, run, running, transport, until

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.errors import LocalProtocolError
from p2pfl.node.errors import NetworkError
from p2pfl.node.hardened.guard import ProtocolRefusedError, open_stream
from p2pfl.node.hardened.wire import WireError, write_frame
from p2pfl.node.hardened.yamux_stream import YamuxStream
from p2pfl.node.transport import reception
from p2pfl.node.transport.exchange import write_verdict
from p2pfl.node.transport.network import (
    AdmissionRefused,
    GuestRefused,
    Limits,
    MessageReceived,
    PeerConnected,
    PeerDisconnected,
    RequestFailed,
    RequestRefused,
    Unreachable,
)
from p2pfl.node.transport.reception import ADMISSION

# -- messages


def test_messages_arrive_whole_and_in_order_both_ways() -> None:
    async def test() -> None:
        a, b = transport(1), transport(2)
        async with running(a, b):
            peer = await a.connect(b.addresses[0])
            assert peer == identity(2).peer_id
            connected = await a.events.receive()
            assert connected == PeerConnected(peer, b.addresses[0].rpartition("/p2p/")[0])
            assert (await b.events.receive()).peer == identity(1).peer_id
            rng = random.Random(0)
            sizes = [0, 1, 65_535, 65_536, 1 << 20, *(rng.randrange(1 << 12) for _ in range(50))]
            sent = [rng.randbytes(size) for size in sizes]
            for message in sent:
                assert a.send(identity(2).peer_id, message)
                assert b.send(identity(1).peer_id, message[::-1])
            for message in sent:
                assert await b.events.receive() == MessageReceived(identity(1).peer_id, message)
            for message in sent:
                assert await a.events.receive() == MessageReceived(identity(2).peer_id, message[::-1])
            assert a.connected == {identity(2).peer_id}
            traffic = a.traffic(identity(2).peer_id)
            assert traffic.received == sum(sizes)
            assert traffic.sent == sum(sizes)
            assert sum(sizes) < traffic.wire_sent < sum(sizes) * 1.1

    run(test)


def test_sending_to_a_stranger_or_too_much_at_once() -> None:
    async def test() -> None:
        a, b = transport(1, max_message=1000), transport(2)
        async with running(a, b):
            assert not a.send(identity(2).peer_id, b"x")
            with pytest.raises(LocalProtocolError, match="1001 bytes"):
                a.send(identity(2).peer_id, bytes(1001))
            await pair(a, b)
            assert a.send(identity(2).peer_id, bytes(1000))

    run(test)


def test_a_peer_that_does_not_take_its_messages_is_dropped_and_nobody_waits() -> None:
    async def test() -> None:
        a = transport(1, max_message=1 << 20, outbox_bytes=4 << 20)
        b, c = transport(2, inbox_messages=1), transport(3)
        async with running(a, b, c) as nursery:
            await pair(a, b)
            await pair(a, c)
            nursery.start_soon(drain, c)
            sent = 0
            while a.send(identity(2).peer_id, bytes(1 << 20)):  # b's daemon consumes nothing
                sent += 1
                assert a.send(identity(3).peer_id, b"to another peer")
                await trio.lowlevel.checkpoint()
            assert 4 <= sent < 64
            lost = await next_of(a, PeerDisconnected)
            assert lost == PeerDisconnected(identity(2).peer_id, "it does not take what is sent to it")
            assert a.connected == {identity(3).peer_id}

    run(test)


def test_a_lagging_consumer_stops_the_reading_and_loses_nothing() -> None:
    async def test() -> None:
        a, b = transport(1), transport(2, inbox_messages=2)
        async with running(a, b):
            await pair(a, b)
            for number in range(300):
                assert a.send(identity(2).peer_id, number.to_bytes(4, "big") + bytes(1 << 14))
            await until(lambda: b._queue._messages == 2)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert b._queue._messages == 2
            for number in range(300):
                message = await next_of(b, MessageReceived)
                assert message.data[:4] == number.to_bytes(4, "big")

    run(test)


@pytest.mark.parametrize("limited_later", [False, True])
def test_oversized_message_costs_the_sender_its_connection(limited_later: bool) -> None:
    async def test() -> None:
        a, b, c = transport(1), transport(2, max_message=2000 if limited_later else 1000), transport(3)
        if limited_later:
            b.limit_messages(1000)
        async with running(a, b, c):
            await pair(a, b)
            await pair(c, b)
            assert a.send(identity(2).peer_id, bytes(1001))
            lost = await next_of(b, PeerDisconnected)
            assert lost == PeerDisconnected(
                identity(1).peer_id, "a frame of 1001 bytes where 1000 are allowed"
            )
            await next_of(a, PeerDisconnected)
            assert b.connected == {identity(3).peer_id}
            assert c.send(identity(2).peer_id, b"still here")
            assert (await next_of(b, MessageReceived)).data == b"still here"

    run(test)


def test_everything_sent_before_a_peer_died_is_reported_before_its_end() -> None:
    async def test() -> None:
        a, b = transport(1), transport(2, inbox_messages=1)
        async with running(b):
            async with running(a):
                await pair(a, b)
                for number in range(20):
                    assert a.send(identity(2).peer_id, bytes([number]))
                await until(lambda: a.traffic().sent == 20)
                await trio.testing.wait_all_tasks_blocked(0.05)
            seen = [(await next_of(b, MessageReceived)).data[0] for _ in range(20)]
            assert seen == list(range(20))
            assert isinstance(await b.events.receive(), PeerDisconnected)

    run(test)


# -- requests


def test_a_model_of_100_megabytes() -> None:
    model = random.Random(1).randbytes(100 << 20)

    async def send_model(peer: PeerId, body: bytes) -> bytes:
        return model

    async def test() -> None:
        a, b = transport(1), transport(2, requests={"model": send_model})
        async with running(a, b):
            await pair(a, b)
            got = await a.request(identity(2).peer_id, "model", b"", max_response=len(model), seconds=30)
            assert hashlib.sha256(got).digest() == hashlib.sha256(model).digest()
            with pytest.raises(RequestFailed, match="a body of 104857600 bytes where 1000 are allowed"):
                await a.request(identity(2).peer_id, "model", b"", max_response=1000, seconds=30)

    run(test, 60)


def test_requests_that_fail_say_why_and_cost_nothing_else() -> None:
    async def refuse(peer: PeerId, body: bytes) -> bytes:
        raise RequestRefused("not before noon")

    async def fail(peer: PeerId, body: bytes) -> bytes:
        raise ValueError("a bug")

    async def hang(peer: PeerId, body: bytes) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async def flood(peer: PeerId, body: bytes) -> bytes:
        return bytes(2000)

    requests = {"echo": echo, "refuse": refuse, "fail": fail, "hang": hang, "flood": flood}

    async def test() -> None:
        a, b = transport(1), transport(2, requests=requests, max_response=1000)
        peer = identity(2).peer_id
        async with running(a, b):
            with pytest.raises(RequestFailed, match="it is not connected"):
                await a.request(peer, "echo", b"", max_response=10, seconds=5)
            await pair(a, b)
            for name, reason, seconds in (
                ("refuse", "refused: not before noon", 5),
                ("fail", "refused: it could not be answered", 5),
                ("hang", "no answer within 0.1 s", 0.1),
                ("flood", "2000 bytes, more than may be sent", 5),
                ("unheard of", "does not offer", 5),
            ):
                with pytest.raises(RequestFailed, match=reason):
                    await a.request(peer, name, b"", max_response=10, seconds=seconds)
            assert await a.request(peer, "echo", b"fine", max_response=10, seconds=5) == b"fine"

    run(test)


def test_a_slow_request_does_not_stall_others() -> None:
    async def test() -> None:
        a, b = transport(1), transport(2, max_request=16 << 20)
        peer = identity(2).peer_id
        async with running(a, b) as nursery:
            await pair(a, b)
            link = a._sessions[peer].link
            stuck = await open_stream(link.muxer, a._protocol("request/echo"))
            await stuck.write((8 << 20).to_bytes(8, "big") + bytes(8 << 20))  # sends all and never reads
            body = bytes(4 << 20)
            for _ in range(3):
                assert await a.request(peer, "echo", body, max_response=len(body), seconds=10) == body
            nursery.cancel_scope.cancel()

    run(test)


# -- admission


def test_admission_is_mutual_and_the_reason_reaches_both_logs(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        host, stranger = transport(1), transport(2, Club(password=b"hello", says=b"hallo"))
        async with running(host, stranger):
            with pytest.raises(AdmissionRefused, match="'hallo' is not the password"):
                await stranger.connect(host.addresses[0])
            refused = await next_of(host, GuestRefused)
            assert refused == GuestRefused(identity(2).peer_id, "'hallo' is not the password")
            with pytest.raises(AdmissionRefused, match="'hallo' is not the password"):
                await host.connect(stranger.addresses[0])  # and in the other direction the dialler judges
            assert not host.connected
            assert not stranger.connected

    with caplog.at_level(logging.WARNING):
        run(test)
    lines = [record.getMessage() for record in caplog.records]
    ours, theirs = identity(1).peer_id, identity(2).peer_id
    assert lines.count(f"refused peer {theirs}: 'hallo' is not the password") == 2
    assert lines.count(f"peer {ours} does not admit this node: 'hallo' is not the password") == 2


def test_the_gate_refuses_before_any_multiplexer() -> None:
    async def test() -> None:
        host = transport(1, Club(banned={identity(2).peer_id}))
        banned = transport(2)
        async with running(host, banned):
            with pytest.raises(Unreachable, match="it may refuse this peer id"):
                await banned.connect(host.addresses[0])
            assert await next_of(host, GuestRefused) == GuestRefused(identity(2).peer_id, "banned")
            assert not host._links
            with pytest.raises(AdmissionRefused, match="banned"):
                await host.connect(banned.addresses[0])

    run(test)


def test_a_guest_may_use_nothing_of_the_federation() -> None:
    """Without admission there are neither messages nor requests, and in time the guest is turned out."""

    async def test() -> None:
        host, guest = transport(1, guest_seconds=0.5), transport(2, guest_seconds=60)
        async with running(host, guest) as nursery:
            real = guest._reception.introduce

            async def improper(link: Any) -> None:
                for name in ("messages", "request/echo"):
                    with pytest.raises(ProtocolRefusedError):
                        await open_stream(link.muxer, guest._protocol(name))
                await link.muxer.ended.wait()
                raise WireError(link.muxer.reason)

            guest._reception.introduce = improper  # type: ignore[method-assign]
            with pytest.raises(Unreachable):
                await guest.connect(host.addresses[0])
            refused = await next_of(host, GuestRefused)
            assert refused.reason == "admission was not complete within 0.5 s"
            guest._reception.introduce = real  # type: ignore[method-assign]
            await guest.connect(host.addresses[0])
            nursery.cancel_scope.cancel()

    run(test)


def test_a_guest_may_not_send_much_and_not_be_many() -> None:
    async def test() -> None:
        host = transport(1, max_guests=2, guest_bytes=64 << 10)
        flooder, idler, another, third = (transport(number) for number in (2, 3, 4, 5))
        async with running(host, flooder, idler, another, third) as nursery:

            async def flood(link: Any) -> None:
                stream = await link.muxer.open_stream()
                await stream.write(bytes(200 << 10))
                await link.muxer.ended.wait()
                raise WireError("turned out")

            async def idle(link: Any) -> None:
                await trio.sleep_forever()

            flooder._reception.introduce = flood  # type: ignore[method-assign]
            with pytest.raises(Unreachable):
                await flooder.connect(host.addresses[0])
            for each in (idler, another):
                each._reception.introduce = idle  # type: ignore[method-assign]
                nursery.start_soon(each.connect, host.addresses[0])
            await until(lambda: len(host._links) == 2)
            await third.connect(host.addresses[0])
            refused = await next_of(host, GuestRefused)
            while "too many guests" not in refused.reason:  # the flooder was first
                refused = await next_of(host, GuestRefused)
            assert host.connected == {identity(5).peer_id}
            await until(lambda: len(host._links) == 2)
            nursery.cancel_scope.cancel()

    run(test)


def test_an_enormous_or_garbled_greeting_is_the_guests_problem() -> None:
    async def test() -> None:
        host, guest = transport(1, guest_seconds=2), transport(2)
        async with running(host, guest):

            async def shout(link: Any) -> None:
                stream = await open_stream(link.muxer, ADMISSION)
                await write_frame(stream, bytes(100_000))
                with trio.fail_after(1.5):
                    await link.muxer.ended.wait()
                raise WireError("turned out")

            real = guest._reception.introduce
            guest._reception.introduce = shout  # type: ignore[method-assign]
            with pytest.raises(Unreachable):
                await guest.connect(host.addresses[0])
            guest._reception.introduce = real  # type: ignore[method-assign]
            await guest.connect(host.addresses[0])
            assert (await next_of(host, PeerConnected)).peer == identity(2).peer_id

    run(test)


def test_admission_happens_once() -> None:
    async def test() -> None:
        a, b = transport(1), transport(2)
        async with running(a, b):
            await pair(a, b)
            link = a._sessions[identity(2).peer_id].link
            again = await open_stream(link.muxer, ADMISSION)
            with suppress(WireError):  # it may be refused before that
                await write_frame(again, bytes(16) + b"hello")
            with pytest.raises(MuxedStreamReset):
                await again.read()
            assert a.send(identity(2).peer_id, b"unharmed")
            assert (await next_of(b, MessageReceived)).data == b"unharmed"

    run(test)


def test_a_peer_may_speak_before_the_last_word_of_admission_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dialled side is done first; what it opens then must wait for the dialler, not be refused."""
    verdicts = 0

    async def delayed(stream: YamuxStream, reason: str | None) -> None:
        nonlocal verdicts
        verdicts += 1
        if verdicts == 3:
            await trio.testing.wait_all_tasks_blocked(0.1)
        await write_verdict(stream, reason)

    monkeypatch.setattr(reception, "write_verdict", delayed)

    async def test() -> None:
        a, b = transport(1), transport(2)
        async with running(a, b) as nursery:
            nursery.start_soon(a.connect, b.addresses[0])
            await next_of(b, PeerConnected)
            assert b.send(identity(1).peer_id, b"early")
            assert (await next_of(a, MessageReceived)).data == b"early"
            assert b.connected

    run(test)


# -- connecting


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


# -- many, foreign, killed


def test_a_hundred_nodes_in_one_process() -> None:
    count = 100

    async def test() -> None:
        nodes = [transport(number + 1) for number in range(count)]
        async with running(*nodes) as nursery:
            received: list[int] = [0] * count

            async def listen(number: int) -> None:
                async for event in nodes[number].events:
                    received[number] += isinstance(event, MessageReceived)

            for number in range(count):
                nursery.start_soon(listen, number)
            for number, node in enumerate(nodes):
                for step in (1, 10):
                    await node.connect(nodes[(number + step) % count].addresses[0])
            for node in nodes:
                assert len(node.connected) == 4
                for peer in node.connected:
                    assert node.send(peer, b"x" * 1000)
            await until(lambda: min(received) == 4)
            assert received == [4] * count

    run(test, 60)


def test_a_foreign_libp2p_peer_may_identify_and_ping_and_is_then_turned_out() -> None:
    async def test() -> None:
        host = transport(1, guest_seconds=1.0)
        async with running(host):
            foreign = new_host(key_pair=create_new_key_pair(bytes(31) + b"9"))
            async with foreign.run([]):
                info = info_from_p2p_addr(Multiaddr(host.addresses[0]))
                await foreign.connect(info)
                await PingService(foreign).ping(info.peer_id, 2)
                protocols = foreign.get_peerstore().get_protocols(info.peer_id)
                assert sorted(protocols) == ["/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", "/p2pfl/admission/1"]
                refused = await next_of(host, GuestRefused)
                assert refused.reason == "admission was not complete within 1 s"
                await until(lambda: not foreign.get_network().get_connections(info.peer_id))

    run(test)


SERVER = """
import sys, trio
sys.path.insert(0, {folder!r})
import transports as t

async def slow(peer, body):
    return bytes(200 << 20)

async def main():
    async with t.running(node := t.transport(9, requests={{"model": slow}})) as nursery:
        nursery.start_soon(t.drain, node)
        print(node.addresses[0], flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_peer_killed_or_frozen_in_the_middle_of_a_transfer_is_an_error(how: signal.Signals) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER.format(folder=os.path.dirname(__file__))],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()

        async def test() -> None:
            a = transport(1, idle_seconds=1.0)
            async with running(a):
                peer = await a.connect(address)

                async def strike() -> None:
                    await until(lambda: a.traffic(peer).received > 1 << 20)
                    server.send_signal(how)

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(strike)
                    start = trio.current_time()
                    with pytest.raises(RequestFailed, match=r"ended early|sent too little for"):
                        await a.request(peer, "model", b"", max_response=1 << 30, seconds=15)
                assert trio.current_time() - start < (2 if how is signal.SIGKILL else 6)
                lost = await next_of(a, PeerDisconnected)
                assert lost.peer == peer
                assert not a.connected

        run(test)
    finally:
        server.kill()
        server.wait()


# -- limits


def test_limits_that_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="max_guests is not positive"):
        Limits(max_guests=0)
    with pytest.raises(ValueError, match="outbox_bytes is below max_message"):
        Limits(max_message=2000, outbox_bytes=1000)
    with pytest.raises(ValueError, match="guest_bytes is below"):
        replace(Limits(), guest_bytes=1000)


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
