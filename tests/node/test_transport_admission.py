"""Admission: who is let in, what a guest may do before, and what it is told."""

import logging
from contextlib import suppress
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
from transports import Club, identity, next_of, pair, run, running, transport, until

from p2pfl.node.hardened.guard import ProtocolRefusedError, open_stream
from p2pfl.node.hardened.wire import WireError, write_frame
from p2pfl.node.hardened.yamux_stream import YamuxStream
from p2pfl.node.transport import reception
from p2pfl.node.transport.exchange import write_verdict
from p2pfl.node.transport.network import (
    AdmissionRefused,
    GuestRefused,
    MessageReceived,
    PeerConnected,
    Unreachable,
)
from p2pfl.node.transport.reception import ADMISSION


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
