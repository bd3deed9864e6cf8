"""Meeting at Kademlia nodes: our own and py-libp2p's, what they keep, and what nobody can make them do."""

import contextlib
import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest
import trio
import trio.testing
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr
from transports import ANYWHERE, identity, run

from p2pfl.crypto.identity import PeerId
from p2pfl.node.errors import NetworkError
from p2pfl.node.finding.rendezvous import ANNOUNCE_SECONDS, keep_meeting
from p2pfl.node.hardened.guard import ProtocolRefusedError, open_stream
from p2pfl.node.hardened.wire import WireError, read_delimited, write_delimited
from p2pfl.node.transport import open_host, rendezvous
from p2pfl.node.transport.kademlia import (
    KADEMLIA,
    Search,
    described,
    is_inside,
    meet,
    parse_message,
    rendezvous_key,
)
from p2pfl.node.transport.open_host import VISIT_BYTES, OpenHost
from p2pfl.node.transport.rendezvous import MAX_RECORDS_OF_A_HOST, RECORD_SECONDS, Records, RendezvousPoint

FEDERATION, ANOTHER = bytes(range(32)), bytes(32)
KEY = rendezvous_key(FEDERATION)
NORTH, SOUTH, THIRD = (identity(number) for number in (1, 2, 3))


def at(port: int) -> str:
    return f"/ip4/192.0.2.1/tcp/{port}"


@asynccontextmanager
async def points(count: int) -> AsyncIterator[list[RendezvousPoint]]:
    made = [RendezvousPoint(identity(100 + number), [ANYWHERE]) for number in range(count)]
    async with trio.open_nursery() as nursery:
        for point in made:
            await nursery.start(point.run)
        yield made
        nursery.cancel_scope.cancel()


def test_the_key_is_a_multihash_that_does_not_give_the_federation_away() -> None:
    assert KEY[:2] == b"\x12\x20"
    assert len(KEY) == 34
    assert FEDERATION not in KEY
    assert rendezvous_key(ANOTHER) != KEY


def test_members_meet_at_several_of_which_some_are_dead() -> None:
    async def main() -> None:
        async with points(2) as (one, two):
            dead = f"/ip4/127.0.0.1/tcp/1/p2p/{identity(99).peer_id}"
            found, told = await meet(NORTH, FEDERATION, [dead, one.addresses[0]], [at(1)])
            assert (found, told) == ([], 1)
            found, told = await meet(
                SOUTH, FEDERATION, [*two.addresses, dead, *one.addresses], [at(2), at(3)]
            )
            assert (found, told) == ([f"{at(1)}/p2p/{NORTH.peer_id}"], 2)
            found, _ = await meet(NORTH, FEDERATION, two.addresses, [at(1)])
            assert found == [f"{at(2)}/p2p/{SOUTH.peer_id}", f"{at(3)}/p2p/{SOUTH.peer_id}"]
            assert await meet(THIRD, ANOTHER, one.addresses, [at(4)]) == ([], 1)

    run(main)


def test_nobody_answering_is_said_with_what_to_do() -> None:
    dead = f"/ip4/127.0.0.1/tcp/1/p2p/{identity(99).peer_id}"
    with pytest.raises(NetworkError, match="none of the rendezvous nodes answers") as caught:
        run(lambda: meet(NORTH, FEDERATION, [dead], [at(1)]))  # type: ignore[arg-type, return-value]
    assert "network.rendezvous" in caught.value.hint


def test_members_meet_at_any_kademlia_node_of_libp2p() -> None:
    """Two of py-libp2p's own: north asks one, south the other, which is found through the first."""

    async def main() -> None:
        async with stock() as one, stock(one) as two:
            found, told = await meet(NORTH, FEDERATION, [one], [at(1)])
            assert (found, told) == ([], 2)
            found, told = await meet(SOUTH, FEDERATION, [two], [at(2)])
            assert found == [f"{at(1)}/p2p/{NORTH.peer_id}"]

    run(main)


_numbers = iter(range(200, 300))


@asynccontextmanager
async def stock(known: str | None = None) -> AsyncIterator[str]:
    """A Kademlia node of py-libp2p's, on a host of its own; its address."""
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    host = new_host(key_pair=create_new_key_pair(identity(next(_numbers)).seed))
    async with host.run([Multiaddr(ANYWHERE)]):
        dht = KadDHT(host, DHTMode.SERVER)
        async with background_trio_service(dht):
            if known is not None:
                info = info_from_p2p_addr(Multiaddr(known))
                await host.connect(info)
                await dht.routing_table.add_peer(info)
            address = str(host.get_addrs()[0])
            yield address


def test_who_announces_somebody_else_is_not_believed() -> None:
    async def main() -> None:
        async with points(1) as (point,), trio.open_nursery() as nursery:
            host = OpenHost(NORTH, (), {})
            await nursery.start(host.run)
            stream = await open_stream(await host.dial(point.addresses[0]), KADEMLIA)
            request = Message(type=Message.ADD_PROVIDER, key=KEY)
            request.providerPeers.append(described(SOUTH.peer_id, [at(1)]))
            await write_delimited(stream, request.SerializeToString())
            await write_delimited(stream, Message(type=Message.GET_PROVIDERS, key=KEY).SerializeToString())
            reply = parse_message(await read_delimited(stream, 1 << 16, 5))
            assert not reply.providerPeers
            assert not len(point.records)
            nursery.cancel_scope.cancel()

    run(main)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 9,
        b"\xff\xff\x01",
        b"\x03\xff\xff\xff",
        b"\x02\x08\x00",  # PUT_VALUE
        bytes([4]) + Message(type=Message.GET_VALUE, key=b"").SerializeToString() + b"\x12\x00",
    ],
)
def test_nonsense_costs_the_visitor_its_stream_and_nobody_else(data: bytes) -> None:
    async def main() -> None:
        async with points(1) as (point,), trio.open_nursery() as nursery:
            host = OpenHost(NORTH, (), {})
            await nursery.start(host.run)
            stream = await open_stream(await host.dial(point.addresses[0]), KADEMLIA)
            await stream.write(data)
            with pytest.raises(WireError, match="reset by the peer"):
                await read_delimited(stream, 1 << 16, 5)
            assert await meet(SOUTH, FEDERATION, point.addresses, [at(2)]) == ([], 1)
            nursery.cancel_scope.cancel()

    run(main)


def test_records_end_and_one_host_cannot_crowd_the_others_out() -> None:
    async def main() -> None:
        records = Records()
        records.keep(KEY, NORTH.peer_id, [at(1)], "192.0.2.1")
        for number in range(2 * MAX_RECORDS_OF_A_HOST):
            records.keep(KEY, PeerId(f"stranger {number}"), [at(2)], "192.0.2.2")
        assert len(records) == 1 + MAX_RECORDS_OF_A_HOST
        assert NORTH.peer_id in records.of(KEY)  # though many have come since, of one address
        records.keep(KEY, NORTH.peer_id, [at(3)], "192.0.2.1")
        told = records.of(KEY)
        assert len(told) == 64
        assert next(iter(told.items())) == (NORTH.peer_id, (at(3),))
        await trio.sleep(RECORD_SECONDS)
        assert records.of(KEY) == {}
        records.keep(KEY, SOUTH.peer_id, [at(4)], "192.0.2.3")
        assert len(records) == 1

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_one_network_is_one_host_however_many_addresses_it_has() -> None:
    """An IPv6 host has more of its own than there could be records."""

    async def main() -> None:
        records = Records()
        records.keep(KEY, NORTH.peer_id, [at(1)], "2001:db8:1::1")
        for number in range(2 * MAX_RECORDS_OF_A_HOST):
            records.keep(KEY, PeerId(f"stranger {number}"), [at(2)], f"2001:db8:2::{number:x}")
        assert len(records) == 1 + MAX_RECORDS_OF_A_HOST
        assert NORTH.peer_id in records.of(KEY)

    trio.run(main)


def test_whatever_is_left_the_bounds_hold_and_nothing_stays_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfl.node.transport.rendezvous.MAX_RECORDS", 40)
    monkeypatch.setattr("p2pfl.node.transport.rendezvous.MAX_RECORDS_OF_A_HOST", 8)

    async def main() -> None:
        records, draw = Records(), Random(1)
        for _ in range(2000):
            key, peer, host = bytes([draw.randrange(5)]), PeerId(str(draw.randrange(90))), draw.randrange(12)
            records.keep(key, peer, [at(1)], f"192.0.2.{host}")
            assert next(iter(records.of(key))) == peer
            assert len(records) <= 40
            assert sum(len(records.of(bytes([each]))) for each in range(5)) == len(records)
            await trio.sleep(RECORD_SECONDS / 30)
        await trio.sleep(RECORD_SECONDS)
        records.keep(KEY, NORTH.peer_id, [at(1)], "192.0.2.1")
        assert (len(records._kept), len(records._at), len(records._from)) == (1, 1, 1)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_where_public_nodes_send_us_is_public() -> None:
    """Or a node of a public network could make us call what only we can reach."""
    reply = Message(type=Message.GET_PROVIDERS, key=KEY)
    for number, address in enumerate(["/ip4/10.0.0.1/tcp/22", "/ip4/8.8.8.8/tcp/4001", "/dns4/x/tcp/1"]):
        reply.closerPeers.append(described(identity(number).peer_id, [address]))
    search = Search(KEY, {})
    search.learn(reply, inside=False)
    assert [contact.addresses for contact in search.contacts.values()] == [("/ip4/8.8.8.8/tcp/4001",)]
    search.learn(reply, inside=True)
    assert len(search.contacts) == 3
    for ip, inside in (("10.0.0.1", True), ("127.0.0.1", True), ("fe80::1%eth0", True), ("8.8.8.8", False)):
        assert is_inside((ip, 4001)) is inside


def test_a_search_is_bounded_however_many_a_node_names() -> None:
    search = Search(KEY, {})
    for page in range(20):
        reply = Message(type=Message.GET_PROVIDERS, key=KEY)
        for number in range(300):
            somebody = identity(1000 * page + number + 1).peer_id if number < 30 else NORTH.peer_id
            reply.closerPeers.append(described(somebody, [at(1)]))
            reply.providerPeers.append(described(somebody, [at(number + 1)]))
        search.learn(reply, inside=True)
    asked = 0
    while contacts := search.next():
        asked += len(contacts)
        search.asked.update(contact.peer for contact in contacts)
    assert asked <= 32
    assert len(search.contacts) <= 64
    assert len(search.providers) <= 256
    assert all(len(addresses) <= 8 for addresses in search.providers.values())


def test_meetings_are_frequent_only_while_somebody_is_missing() -> None:
    times: list[float] = []

    async def meeting() -> tuple[list[str], int]:
        times.append(trio.current_time())
        if len(times) == 2:
            raise NetworkError("nobody answers", "none")
        return ["somebody"], 1

    async def main() -> None:
        heard: list[str] = []
        with trio.move_on_after(4 * 3600):
            await keep_meeting(meeting, lambda: trio.current_time() - times[0] > 3600, heard.extend)
        assert len(heard) == len(times) - 1

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps[0] <= 10
    assert max(gap for gap, at in zip(gaps, times, strict=False) if at - times[0] < 3600) <= 300
    assert (
        min(gap for gap, at in zip(gaps, times, strict=False) if at - times[0] > 3600) >= ANNOUNCE_SECONDS / 2
    )


def test_a_visitor_that_sends_too_much_is_cut_off() -> None:
    async def main() -> None:
        async with points(1) as (point,), trio.open_nursery() as nursery:
            host = OpenHost(NORTH, (), {})
            await nursery.start(host.run)
            muxer = await host.dial(point.addresses[0])
            ping = Message(type=Message.PING, key=bytes(4000)).SerializeToString()
            while not muxer.is_closed:
                with contextlib.suppress(WireError, ProtocolRefusedError):
                    stream = await open_stream(muxer, KADEMLIA)
                    for _ in range(20):
                        await write_delimited(stream, ping)
            assert VISIT_BYTES / 2 < muxer.secured.tcp.sent < 4 * VISIT_BYTES  # type: ignore[attr-defined]
            nursery.cancel_scope.cancel()

    run(main)


def test_visits_are_few_and_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new visitor turns out the oldest; a silent stream and an old connection end."""
    monkeypatch.setattr(open_host, "MAX_VISITS", 2)
    monkeypatch.setattr(open_host, "VISIT_SECONDS", 1.0)
    monkeypatch.setattr(rendezvous, "VISIT_IDLE_SECONDS", 0.2)

    async def main() -> None:
        async with points(1) as (point,), trio.open_nursery() as nursery:
            visitors = [OpenHost(identity(number), (), {}) for number in (1, 2, 3)]
            for each in visitors:
                await nursery.start(each.run)
            first, second, third = [await each.dial(point.addresses[0]) for each in visitors]
            await first.ended.wait()
            stream = await open_stream(third, KADEMLIA)
            with pytest.raises(WireError, match="the stream ended early"):
                await read_delimited(stream, 1, 5)
            assert not third.is_closed
            await second.ended.wait()
            await third.ended.wait()
            nursery.cancel_scope.cancel()

    run(main)
