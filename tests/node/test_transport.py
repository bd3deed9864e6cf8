"""The transport as the daemon sees it: real sockets on loopback, admission by fakes."""

import hashlib
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import trio
import trio.testing
from transports import drain, echo, identity, next_of, pair, run, running, transport, until

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.errors import LocalProtocolError
from p2pfl.node.hardened.guard import open_stream
from p2pfl.node.transport.network import (
    Limits,
    MessageReceived,
    PeerConnected,
    PeerDisconnected,
    RequestFailed,
    RequestRefused,
)

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


# -- many, killed


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
