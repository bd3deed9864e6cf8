"""Connections through a member that relays: who may, what it carries, what it costs, and how they end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb import circuit_pb2 as pb
from transports import Club, identity, next_of, run, running, transport, until

from p2pfl.node.finding.relaying import reach_through
from p2pfl.node.hardened.guard import open_stream
from p2pfl.node.hardened.wire import WireError, read_delimited, write_delimited
from p2pfl.node.hardened.yamux_stream import YamuxStream
from p2pfl.node.transport import relay
from p2pfl.node.transport.network import (
    AdmissionRefused,
    MessageReceived,
    PeerConnected,
    PeerDisconnected,
    Transport,
    Unreachable,
)
from p2pfl.node.transport.relay import HOP, MAX_CIRCUITS_PER_PAIR, STOP

NORTH, SOUTH, MIDDLE = (identity(number).peer_id for number in (1, 2, 3))


@asynccontextmanager
async def apart(
    *, relay: bool = True, south: Club | None = None, south_relays: bool = False
) -> AsyncIterator[tuple[Transport, Transport, Transport]]:
    """North, south, and one in the middle that both are connected to."""
    nodes = transport(1), transport(2, south, relay=south_relays), transport(3, relay=relay)
    async with running(*nodes):
        for each in nodes[:2]:
            await each.connect(nodes[2].addresses[0])
            await next_of(each, PeerConnected)
            await next_of(nodes[2], PeerConnected)
        yield nodes


def test_two_who_cannot_reach_each_other_meet_through_a_third() -> None:
    async def main() -> None:
        async with apart() as (north, south, middle):
            assert await reach_through(north, SOUTH)
            event = await next_of(south, PeerConnected)
            assert event == PeerConnected(NORTH, f"/p2p/{MIDDLE}/p2p-circuit")
            assert north.direct == {MIDDLE}
            assert north.connected == {MIDDLE, SOUTH}
            assert south.observed(NORTH) is None
            model = bytes(range(256)) * (1 << 14)
            assert north.send(SOUTH, model)
            assert (await next_of(south, MessageReceived)).data == model
            answer = await south.request(NORTH, "echo", model[:999], max_response=999, seconds=5)
            assert answer == model[:999]
            assert len(middle._circuits) == 1

    run(main)


def test_the_one_in_the_middle_sees_ciphertext_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = bytearray()
    of_the_middle: list[object] = []
    write = YamuxStream.write

    async def watched(self: YamuxStream, *data: bytes | memoryview) -> None:
        if self.muxer in of_the_middle:
            seen.extend(b"".join(data))
        await write(self, *data)

    async def main() -> None:
        async with apart() as (north, south, middle):
            of_the_middle.extend(middle._sessions[peer].link.muxer for peer in (NORTH, SOUTH))
            monkeypatch.setattr(YamuxStream, "write", watched)
            assert await reach_through(north, SOUTH)
            assert north.send(SOUTH, b"for south alone " * 99)
            await next_of(south, MessageReceived)

    run(main)
    assert len(seen) > 16 * 99
    assert b"for south alone" not in seen


def test_admission_is_between_the_two_ends() -> None:
    async def main() -> None:
        async with apart(south=(club := Club())) as (north, _, _):
            club.password = b"another"
            with pytest.raises(AdmissionRefused, match="not the password"):
                await north.connect_through(MIDDLE, SOUTH)
            assert SOUTH not in north.connected

    run(main)


def test_who_does_not_allow_it_relays_nothing_and_is_not_asked_again() -> None:
    async def main() -> None:
        async with apart(relay=False) as (north, _, _):
            assert north.relays == {MIDDLE}
            with pytest.raises(Unreachable, match="does not relay"):
                await north.connect_through(MIDDLE, SOUTH)
            assert north.relays == set()
            assert not await reach_through(north, SOUTH)

    run(main)


def test_a_direct_connection_takes_the_place_of_a_relayed_one() -> None:
    async def main() -> None:
        async with apart() as (north, south, middle):
            assert await reach_through(north, SOUTH)
            await next_of(south, PeerConnected)
            await north.connect(south.addresses[0])
            await next_of(north, PeerDisconnected)
            assert (await next_of(north, PeerConnected)).peer == SOUTH
            await next_of(south, PeerDisconnected)
            await next_of(south, PeerConnected)
            await until(lambda: not middle._circuits)
            assert north.direct == {MIDDLE, SOUTH}
            assert south.direct == {MIDDLE, NORTH}
            assert north.send(SOUTH, b"direct")
            assert (await next_of(south, MessageReceived)).data == b"direct"

    run(main)


def test_a_circuit_ends_with_either_end_and_with_the_relay() -> None:
    async def main() -> None:
        async with apart() as (north, south, middle):
            assert await reach_through(north, SOUTH)
            await next_of(south, PeerConnected)
            await south.disconnect(NORTH, "enough")
            await next_of(north, PeerDisconnected)
            await until(lambda: not middle._circuits)
            assert await reach_through(north, SOUTH)
            await next_of(south, PeerConnected)
            await middle.disconnect(SOUTH, "enough")
            assert (await next_of(north, PeerDisconnected)).peer == SOUTH
            await until(lambda: not middle._circuits)

    run(main)


def test_circuits_bytes_and_time_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "MAX_CIRCUITS_PER_PEER", 1)
    monkeypatch.setattr(relay, "CIRCUIT_BYTES", 1 << 16)

    async def main() -> None:
        async with apart() as (north, south, middle):
            assert await reach_through(north, SOUTH)
            await next_of(south, PeerConnected)
            with pytest.raises(Unreachable, match="RESOURCE_LIMIT_EXCEEDED"):
                await south.connect_through(MIDDLE, NORTH)
            north.send(SOUTH, bytes(1 << 17))
            assert (await next_of(north, PeerDisconnected)).peer == SOUTH
            monkeypatch.setattr(relay, "CIRCUIT_SECONDS", 1)
            assert await reach_through(north, SOUTH)
            assert (await next_of(north, PeerDisconnected)).peer == SOUTH
            await until(lambda: not middle._circuits)

    run(main)


def test_one_peer_leaves_another_s_circuits_to_others() -> None:
    """Without them nobody would reach one that is behind a NAT."""

    async def main() -> None:
        async with apart() as (north, _, middle):
            connect = pb.HopMessage(type=pb.HopMessage.CONNECT)
            connect.peer.id = ID.from_string(SOUTH).to_bytes()
            statuses = []
            for _ in range(MAX_CIRCUITS_PER_PAIR + 1):
                stream = await open_stream(north._sessions[MIDDLE].link.muxer, HOP)
                await write_delimited(stream, connect.SerializeToString())
                statuses.append(pb.HopMessage.FromString(await read_delimited(stream, 4096, 5)).status)
            assert statuses == MAX_CIRCUITS_PER_PAIR * [pb.OK] + [pb.RESOURCE_LIMIT_EXCEEDED]
            other = transport(4)
            async with running(other):
                await other.connect(middle.addresses[0])
                assert await reach_through(other, SOUTH)

    run(main)


@pytest.mark.parametrize(
    ("request_of", "status"),
    [
        (pb.HopMessage(type=pb.HopMessage.RESERVE), pb.OK),
        (pb.HopMessage(type=pb.HopMessage.CONNECT), pb.MALFORMED_MESSAGE),
        (pb.HopMessage(type=pb.HopMessage.STATUS), pb.MALFORMED_MESSAGE),
        (pb.HopMessage(type=pb.HopMessage.CONNECT, peer=pb.PeerId(id=b"nobody")), pb.NO_RESERVATION),
    ],
)
def test_what_a_relay_answers(request_of: pb.HopMessage, status: int) -> None:
    async def main() -> None:
        async with apart() as (north, _, _):
            stream = await open_stream(north._sessions[MIDDLE].link.muxer, HOP)
            await write_delimited(stream, request_of.SerializeToString())
            reply = pb.HopMessage.FromString(await read_delimited(stream, 4096, 5))
            assert (reply.type, reply.status) == (pb.HopMessage.STATUS, status)

    run(main)


@pytest.mark.parametrize("protocol", [HOP, STOP])
@pytest.mark.parametrize("data", [b"\xff" * 5, b"\xff\xff\x7f", b"\x05" + b"\xff" * 5])
def test_garbage_costs_its_sender_the_stream(protocol: TProtocol, data: bytes) -> None:
    async def main() -> None:
        async with apart() as (north, _, middle):
            stream = await open_stream(north._sessions[MIDDLE].link.muxer, protocol)
            await stream.write(data)
            with pytest.raises(WireError, match="reset by the peer"):
                await read_delimited(stream, 4096, 5)
            assert north.send(MIDDLE, b"still here")
            await next_of(middle, MessageReceived)

    run(main)


def test_nothing_is_relayed_over_a_relayed_connection() -> None:
    async def main() -> None:
        far = transport(4)
        async with apart(south_relays=True) as (north, south, _), running(far):
            await south.connect(far.addresses[0])
            assert await reach_through(north, SOUTH)
            await next_of(south, PeerConnected)
            stream = await open_stream(north._sessions[SOUTH].link.muxer, HOP)
            request = pb.HopMessage(type=pb.HopMessage.CONNECT)
            request.peer.id = ID.from_string(identity(4).peer_id).to_bytes()
            await write_delimited(stream, request.SerializeToString())
            reply = pb.HopMessage.FromString(await read_delimited(stream, 4096, 5))
            assert reply.status == pb.PERMISSION_DENIED

    run(main)
