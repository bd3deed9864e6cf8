"""Who has not been admitted: how much it may send, make us send, hold open, and for how long."""

from contextlib import AsyncExitStack, suppress
from typing import Any, cast

import pytest
import trio
import trio.testing
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.stream_muxer.exceptions import MuxedStreamReset
from multiaddr import Multiaddr
from transports import (
    Club,
    drain,
    identity,
    next_of,
    pair,
    run,
    run_in_virtual_time,
    running,
    transport,
    until,
)

from p2pfl.node.hardened import host as hardened_host
from p2pfl.node.hardened import tcp as hardened_tcp
from p2pfl.node.hardened.guard import open_stream
from p2pfl.node.hardened.tcp import HANDSHAKE_BYTES, HANDSHAKE_READ_AHEAD, READ_AHEAD, TcpStream
from p2pfl.node.hardened.wire import WireError
from p2pfl.node.transport import session
from p2pfl.node.transport.network import (
    AdmissionRefused,
    GuestRefused,
    PeerConnected,
    PeerDisconnected,
    Transport,
    Unreachable,
)
from p2pfl.node.transport.reception import ADMISSION
from p2pfl.node.transport.session import EventQueue

HELLO = b"\x13/multistream/1.0.0\n\x07/noise\n"


def port_of(node: Transport) -> int:
    return int(Multiaddr(node.addresses[0]).value_for_protocol("tcp"))


async def call(node: Transport) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", port_of(node))


async def until_hung_up(stream: trio.SocketStream, data: bytes = b"") -> None:
    """Send ``data``, a byte a second, and then wait."""
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            for byte in data:
                try:
                    await stream.send_all(bytes((byte,)))
                except trio.BrokenResourceError:
                    return
                await trio.sleep(1)

        nursery.start_soon(send)
        try:
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass
        nursery.cancel_scope.cancel()


# -- before the handshake


@pytest.mark.parametrize("said", [b"", HELLO[:1], HELLO, HELLO + b"\x00\x20"], ids=range(4))
@pytest.mark.parametrize("guarded_by", ["upgrade", "handshake"])
def test_a_handshake_a_byte_a_second_is_cut_off(
    said: bytes, guarded_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clocks run, the library's and our own, in case it gets stuck in its own; each is enough."""
    if guarded_by == "upgrade":
        monkeypatch.setattr(hardened_tcp, "HANDSHAKE_SECONDS", 500)
    else:
        monkeypatch.setattr(hardened_host, "UPGRADE_SECONDS", 500)
    seconds = {"upgrade": 10, "handshake": 15}[guarded_by]

    async def test() -> None:
        host, peer = transport(1), transport(2)
        async with running(host, peer):
            start = trio.current_time()
            stream = await call(host)
            await stream.send_all(said)
            await until_hung_up(stream, bytes(100))
            assert trio.current_time() - start <= seconds + 1
            await trio.testing.wait_all_tasks_blocked()
            assert not host._tcp._handshakes
            await peer.connect(host.addresses[0])

    run_in_virtual_time(test)


def test_many_slow_handshakes_keep_nobody_out() -> None:
    async def test() -> None:
        host, peer = transport(1, max_guests=2), transport(2)
        async with running(host, peer) as nursery, AsyncExitStack() as stack:
            for _ in range(12):
                stream = await stack.enter_async_context(await call(host))
                nursery.start_soon(until_hung_up, stream, HELLO + bytes(100))
            await trio.sleep(3)
            start = trio.current_time()
            await peer.connect(host.addresses[0])
            assert trio.current_time() - start < 1
            assert len(host._tcp._handshakes) <= 4
            nursery.cancel_scope.cancel()

    run_in_virtual_time(test)


def test_until_the_handshake_is_done_little_is_received() -> None:
    async def test() -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, lambda stream: stream.send_all(bytes(1 << 20)), 0)
            port = listeners[0].socket.getsockname()[1]
            stream, got = TcpStream(await trio.open_tcp_stream("127.0.0.1", port)), 0
            with pytest.raises(ConnectionClosedError, match="before the handshake was done"):  # noqa: PT012
                while True:
                    got += len(await stream.read())
            assert got <= HANDSHAKE_BYTES
            nursery.cancel_scope.cancel()

    run(test)


def test_until_the_handshake_is_done_little_is_read_ahead_and_little_is_sent() -> None:
    async def test() -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, lambda stream: stream.send_all(bytes(1 << 20)), 0)
            port = listeners[0].socket.getsockname()[1]
            stream = TcpStream(await trio.open_tcp_stream("127.0.0.1", port))
            assert 0 < len(await stream.read()) <= HANDSHAKE_READ_AHEAD
            await stream.write(bytes(HANDSHAKE_BYTES))
            with pytest.raises(ConnectionClosedError, match="before the handshake was done"):
                await stream.write(b"x")
            stream.confirm()
            await stream.write(b"x")
            longest = 0
            while longest <= HANDSHAKE_READ_AHEAD:
                longest = max(longest, len(await stream.read()))
            assert longest <= READ_AHEAD
            nursery.cancel_scope.cancel()

    run(test)


def test_what_a_stranger_makes_us_send_counts_too() -> None:
    """Each "ls" is answered with more than was asked: the bound on what we send is reached first."""

    async def test() -> None:
        host = transport(1)
        async with running(host):
            stream = await call(host)
            await stream.send_all(HELLO[:20])
            answers = 0
            with pytest.raises(trio.BrokenResourceError):  # noqa: PT012 - whichever notices
                for _ in range(HANDSHAKE_BYTES // 4 - 100):
                    await stream.send_all(b"\x03ls\n")
                    answers += len(await stream.receive_some())
            assert answers <= HANDSHAKE_BYTES

    run(test)


# -- between handshake and admission


def test_a_guest_that_sends_too_much_is_cut_off_at_once() -> None:
    async def test() -> None:
        host, guest, reasons = transport(1), transport(2), []

        async def flood(link: Any) -> None:
            theirs = next(iter(host._links.values()))
            stream = await open_stream(link.muxer, ADMISSION)
            with suppress(MuxedStreamReset):
                await stream.write((1 << 30).to_bytes(4, "big"), bytes(1 << 20))
            await link.muxer.ended.wait()
            reasons.append(theirs.muxer.reason)
            raise WireError("turned out")

        guest._reception.introduce = flood  # type: ignore[method-assign]
        async with running(host, guest):
            start = trio.current_time()
            with pytest.raises(Unreachable):
                await guest.connect(host.addresses[0])
            assert reasons == ["more bytes than a guest may send"]
            assert trio.current_time() - start < 1

    run_in_virtual_time(test)


def test_an_admission_a_byte_a_second_is_cut_off() -> None:
    async def test() -> None:
        host, guest = transport(1), transport(2, guest_seconds=100, dial_seconds=100)

        async def trickle(link: Any) -> None:
            stream = await open_stream(link.muxer, ADMISSION)
            for byte in (21).to_bytes(4, "big") + bytes(16) + b"hello":
                await stream.write(bytes((byte,)))
                await trio.sleep(1)

        guest._reception.introduce = trickle  # type: ignore[method-assign]
        async with running(host, guest) as nursery:
            start = trio.current_time()
            nursery.start_soon(_try, guest, host)
            refused = await next_of(host, GuestRefused)
            assert refused.reason == "admission was not complete within 10 s"
            await until(lambda: not host._links, 0.5)
            assert trio.current_time() - start < 13
            nursery.cancel_scope.cancel()

    run_in_virtual_time(test)


async def _try(guest: Transport, host: Transport) -> None:
    try:
        await guest.connect(host.addresses[0])
    except (AdmissionRefused, Unreachable):
        pass


def test_a_guest_that_is_refused_and_stays_is_hung_up_on() -> None:
    async def test() -> None:
        host, guest = transport(1), transport(2, guest_seconds=100, dial_seconds=100)

        async def stay(link: Any) -> None:
            stream = await open_stream(link.muxer, ADMISSION)
            await stream.write((20).to_bytes(4, "big") + bytes(16) + b"what")
            await trio.sleep_forever()

        guest._reception.introduce = stay  # type: ignore[method-assign]
        async with running(host, guest) as nursery:
            start = trio.current_time()
            nursery.start_soon(_try, guest, host)
            await next_of(host, GuestRefused)
            await until(lambda: not host._links, 0.5)
            assert trio.current_time() - start < 3
            nursery.cancel_scope.cancel()

    run_in_virtual_time(test)


def test_a_refused_guest_leaves_nothing_behind() -> None:
    async def test() -> None:
        host = transport(1)
        refused = [transport(number, Club(says=b"no")) for number in range(2, 8)]
        refusing = [transport(number, Club(b"sesame", says=b"hello")) for number in range(8, 14)]
        strangers = refused + refusing
        async with running(host, *strangers):
            store = cast(Any, host._host).get_peerstore()
            known = len(store.peer_ids())
            for each in strangers:
                with pytest.raises(AdmissionRefused):
                    await each.connect(host.addresses[0])
            await until(lambda: not host._links)
            assert len(store.peer_ids()) == known
            assert not any((host._sessions, host._past, host._reception._tokens, host._tcp._handshakes))

    run(test)


async def _idle(link: Any) -> None:
    await trio.sleep_forever()


def test_one_identity_has_few_connections() -> None:
    async def test() -> None:
        host = transport(1)
        copies = [transport(2, guest_seconds=100, dial_seconds=100) for _ in range(5)]
        async with running(host, *copies) as nursery:
            for each in copies[:4]:
                each._reception.introduce = _idle  # type: ignore[method-assign]
                nursery.start_soon(_try, each, host)
            await until(lambda: len(host._links) == 4, 0.5)
            with pytest.raises(Unreachable):
                await copies[4].connect(host.addresses[0])
            refused = await next_of(host, GuestRefused)
            assert refused.reason == "too many connections of this peer"
            assert len(host._links) == 4
            nursery.cancel_scope.cancel()

    run_in_virtual_time(test)


def test_there_are_no_more_peers_than_agreed() -> None:
    async def test() -> None:
        host, first, second = transport(1, max_peers=1), transport(2), transport(3)
        async with running(host, first, second):
            await pair(first, host)
            with pytest.raises(Unreachable):
                await second.connect(host.addresses[0])
            refused = await next_of(host, GuestRefused)
            assert refused == GuestRefused(identity(3).peer_id, "this node has as many peers as it may")
            await host.disconnect(identity(2).peer_id, "to make room")
            await second.connect(host.addresses[0])

    run(test)


def test_long_reasons_are_cut_and_unprintable_ones_replaced() -> None:
    class Wordy(Club):
        def judge(self, peer: str, greeting: bytes) -> str | None:
            return "\x1b[2J" + "no" * 10_000

    async def test() -> None:
        host, guest = transport(1, Wordy()), transport(2)
        async with running(host, guest):
            with pytest.raises(AdmissionRefused) as caught:
                await guest.connect(host.addresses[0])
            assert len(caught.value.reason) == 500
            assert caught.value.reason.startswith("?[2Jno")

    run(test)


# -- nobody looks


def test_refusals_that_nobody_sees_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_REFUSALS_QUEUED", 3)
    queue, stranger = EventQueue(1, 1), identity(2).peer_id
    for number in range(10):
        queue.put(GuestRefused(stranger, str(number)))
    queue.put(PeerDisconnected(stranger, "and what is no refusal is kept"))
    assert len(queue._events) == 4


def test_who_comes_and_goes_unseen_is_let_in_so_many_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_COMINGS_QUEUED", 5)

    async def test() -> None:
        host, peer = transport(1), transport(2)
        async with running(host, peer) as nursery:
            nursery.start_soon(drain, peer)
            for _ in range(3):
                await peer.connect(host.addresses[0])
                await peer.disconnect(identity(1).peer_id, "back soon")
                await until(lambda: not host.connected)
            with pytest.raises(Unreachable):
                await peer.connect(host.addresses[0])
            for _ in range(6):
                await next_of(host, PeerConnected | PeerDisconnected)  # type: ignore[arg-type]
            await peer.connect(host.addresses[0])
            nursery.cancel_scope.cancel()

    run(test)
