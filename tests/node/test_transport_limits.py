"""What admitted peers may cost, each and together."""

import logging
from typing import cast

import pytest
import trio
import trio.testing
from libp2p.stream_muxer.exceptions import MuxedStreamReset
from transports import identity, next_of, pair, run, run_in_virtual_time, running, transport

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.manifest import MAX_PARAMETERS
from p2pfl.node.hardened.guard import open_stream
from p2pfl.node.hardened.tcp import TcpStream
from p2pfl.node.hardened.yamux import Yamux
from p2pfl.node.transport.network import Limits, MessageReceived, PeerDisconnected, RequestFailed
from p2pfl.node.transport.session import EventQueue, Link, Room, Session
from p2pfl.node.transport.types import OUTBOX_SPARE

HUB, SECOND, THIRD = (identity(number).peer_id for number in (1, 2, 3))


# -- what is to be sent


def test_so_many_messages_wait_for_one_peer_and_no_more() -> None:
    async def test() -> None:
        hub, stuck = transport(1, outbox_messages=50), transport(2, inbox_messages=1)
        async with running(hub, stuck):
            await pair(stuck, hub)
            sent = 0
            while hub.send(SECOND, b"small"):
                sent += 1
            assert sent == 50
            assert await next_of(hub, PeerDisconnected) == PeerDisconnected(
                SECOND, "it does not take what is sent to it"
            )

    run(test)


def test_the_queues_together_are_bounded_and_the_fullest_is_given_up() -> None:
    async def test() -> None:
        hub = transport(1, max_message=1 << 20, outbox_bytes=8 << 20, outboxes_bytes=9 << 20)
        stuck, other = (transport(number, inbox_messages=1) for number in (2, 3))
        async with running(hub, stuck, other):
            for each in (stuck, other):
                await pair(each, hub)
            for _ in range(6):
                assert hub.send(SECOND, bytes(1 << 20))
            for _ in range(3):
                assert hub.send(THIRD, bytes(1 << 20))
            assert hub._room.used == 9 << 20
            assert hub.send(THIRD, b"one more")  # nobody's queue is full, and all of them together are
            assert hub.connected == {THIRD}
            assert hub._room.used == (3 << 20) + 8
            lost = await next_of(hub, PeerDisconnected)
            assert lost.peer == SECOND
            assert "of all peers" in lost.reason

    run(test)


def test_a_queue_that_was_sent_or_dropped_takes_no_room() -> None:
    async def test() -> None:
        hub, peer = transport(1), transport(2)
        async with running(hub, peer):
            await pair(peer, hub)
            sizes = [1, 70_000, 3, 0, 1 << 20, 5, 6]
            for size in sizes:
                assert hub.send(SECOND, bytes(size))
            assert hub._room.used == sum(sizes)
            for size in sizes:
                assert len((await next_of(peer, MessageReceived)).data) == size
            await trio.testing.wait_all_tasks_blocked()
            assert hub._room.used == hub._sessions[SECOND].queued == 0
            assert hub.send(SECOND, bytes(1 << 20))
            await hub.disconnect(SECOND, "enough")
            assert hub._room.used == 0

    run(test)


def test_what_was_sent_while_the_session_ended_is_not_counted_twice() -> None:
    room = Room(10, 100, 100)

    async def test() -> None:
        link = Link(SECOND, cast(Yamux, None), cast(TcpStream, None), dialled=False)
        session = Session(link, Limits(), room)
        assert session.put(b"1")
        assert session.put(b"22")
        messages = await session.next()
        session.over = True
        session.drop_outbox()
        session.done(messages)
        assert room.used == session.queued == session.sent == 0

    trio.run(test)


@pytest.mark.parametrize("parameters", [10, 100_000, 10_000_000, MAX_PARAMETERS])
def test_the_queues_follow_the_model(parameters: int) -> None:
    """A round's chunks fit twice; and a small model makes no large queue."""
    vector = 4 * parameters
    each, together = Limits().outboxes_for(vector)
    assert min(2 * vector, Limits().outbox_bytes) <= each <= 2 * vector + OUTBOX_SPARE
    assert each <= together <= 4 * vector + 4 * OUTBOX_SPARE
    assert together <= Limits().outboxes_bytes

    async def test() -> None:
        hub, stuck = transport(1), transport(2, inbox_messages=1)
        hub.limit_outboxes(vector)
        async with running(hub, stuck):
            await pair(stuck, hub)
            chunk, sent = bytes(1 << 20), 0
            while hub.send(SECOND, chunk):
                sent += 1
            assert sent == each // len(chunk)

    run(test)


# -- what came


def test_unread_messages_are_bounded_in_bytes() -> None:
    async def test() -> None:
        hub, peer = transport(1, inbox_bytes=3 << 20), transport(2)
        async with running(hub, peer):
            await pair(peer, hub)
            for number in range(20):
                assert peer.send(HUB, bytes([number]) * (1 << 20))
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert hub._queue._bytes == 3 << 20
            for number in range(20):
                assert (await next_of(hub, MessageReceived)).data[0] == number
                assert hub._queue._bytes <= 3 << 20

    run(test)


def test_a_message_longer_than_the_inbox_is_taken_alone() -> None:
    async def test() -> None:
        queue = EventQueue(10, 100)
        await queue.put_message(MessageReceived(SECOND, bytes(1000)))
        assert queue._messages == 1

    trio.run(test)


def test_messages_enter_in_the_order_in_which_they_came_to_wait() -> None:
    """Else many small ones of one peer would keep out a long one of another for ever."""

    async def test() -> None:
        queue, entered = EventQueue(100, 100), []
        async with trio.open_nursery() as nursery:

            async def put(size: int) -> None:
                await queue.put_message(MessageReceived(SECOND, bytes(size)))
                entered.append(size)

            sizes = [90, 100, 1, 2, 3, 50]
            for size in sizes:
                nursery.start_soon(put, size)
                await trio.testing.wait_all_tasks_blocked()
            assert entered == [90]
            for size in sizes:
                event = await queue.receive()
                assert isinstance(event, MessageReceived)
                assert len(event.data) == size
            assert entered == sizes
            nursery.cancel_scope.cancel()

    trio.run(test)


def test_a_second_stream_of_messages_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        hub, peer = transport(1), transport(2)
        async with running(hub, peer):
            await pair(peer, hub)
            assert peer.send(HUB, b"first")
            await next_of(hub, MessageReceived)
            second = await open_stream(peer._sessions[HUB].link.muxer, peer._protocol("messages"))
            with pytest.raises(MuxedStreamReset):
                await second.read()
            assert peer.send(HUB, b"unharmed")
            assert (await next_of(hub, MessageReceived)).data == b"unharmed"

    run(test)
    loud = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not loud  # it is the peer's doing, and no bug of ours


# -- requests


def test_so_many_requests_of_a_peer_are_answered_at_a_time() -> None:
    running_now, most = 0, 0

    async def think(peer: PeerId, body: bytes) -> bytes:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        await trio.sleep(1)
        running_now -= 1
        return body

    async def test() -> None:
        hub, peer, other = transport(1, requests={"think": think}), transport(2), transport(3)
        async with running(hub, peer, other):
            for each in (peer, other):
                await pair(each, hub)
            start = trio.current_time()
            async with trio.open_nursery() as nursery:

                async def ask() -> None:
                    assert await peer.request(HUB, "think", b"x", max_response=1, seconds=30) == b"x"

                for _ in range(9):
                    nursery.start_soon(ask)
                await trio.sleep(0.5)
                assert most == 4
                assert await other.request(HUB, "think", b"y", max_response=1, seconds=30) == b"y"
                assert trio.current_time() - start < 2  # the others' requests do not wait for this one's
            assert 2.5 < trio.current_time() - start < 4

    run_in_virtual_time(test)


def test_the_body_of_a_request_is_bounded() -> None:
    async def test() -> None:
        hub, peer = transport(1, max_request=100), transport(2)
        async with running(hub, peer):
            await pair(peer, hub)
            body = bytes(100)
            assert await peer.request(HUB, "echo", body, max_response=100, seconds=5) == body
            with pytest.raises(RequestFailed, match="reset by the peer"):
                await peer.request(HUB, "echo", bytes(101), max_response=200, seconds=5)

    run(test)
