"""What very many connections and transfers leave behind: nothing. Both ends are in this process."""

import os
from functools import partial

import pytest
import trio
import trio.testing
from transports import drain, run, running, transport, until

from p2pfl.crypto.identity import PeerId
from p2pfl.node.transport.network import Transport

PIECE = bytes(range(256)) * 1024
EVERY = 50
"""So many connections of a guest, one is used for a request."""


async def piece(peer: PeerId, body: bytes) -> bytes:
    return PIECE


def node(number: int) -> Transport:
    return transport(number, requests={"piece": piece})


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def held() -> tuple[int, int]:
    """Tasks and open files of this process."""
    return trio.lowlevel.current_statistics().tasks_living, open_files()


async def visit(hub: Transport, guest: Transport, times: int) -> None:
    for number in range(times):
        peer = await guest.connect(hub.addresses[0])
        if number % EVERY == 0:
            assert await guest.request(peer, "piece", b"", max_response=len(PIECE), seconds=60) == PIECE
        await guest.disconnect(peer, "until the next time")
        await until(lambda: not guest.connected)


async def settled(*nodes: Transport) -> None:
    await until(lambda: not any(node._links or node._sessions for node in nodes))


@pytest.mark.parametrize("connections", [40, pytest.param(10_000, marks=pytest.mark.slow)])
def test_connections_leave_no_links_tasks_or_files(connections: int) -> None:
    async def main() -> None:
        nodes = hub, *guests = [node(number) for number in range(1, 6)]
        async with running(*nodes) as nursery:
            for each in nodes:
                nursery.start_soon(drain, each)
            await visit(hub, guests[0], 1)
            await settled(*nodes)
            await trio.testing.wait_all_tasks_blocked(0.05)
            before = held()
            async with trio.open_nursery() as visits:
                for guest in guests:
                    visits.start_soon(visit, hub, guest, connections // len(guests))
            await settled(*nodes)
            await until(lambda: held() <= before)

    run(main, 30 + connections / 5)


@pytest.mark.parametrize("peers", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_parallel_transfers_all_end_and_leave_nothing(peers: int) -> None:
    """Fifty with each peer at a time, half of them each way: a thousand with twenty."""

    async def main() -> None:
        nodes = hub, *guests = [node(number) for number in range(1, peers + 2)]
        done = 0

        async def ask(asker: Transport, peer: PeerId) -> None:
            nonlocal done
            assert await asker.request(peer, "piece", b"", max_response=len(PIECE), seconds=300) == PIECE
            done += 1

        async with running(*nodes) as nursery:
            for each in nodes:
                nursery.start_soon(drain, each)
            for guest in guests:
                peer = await guest.connect(hub.addresses[0])
            await until(lambda: len(hub.connected) == peers)
            await trio.testing.wait_all_tasks_blocked(0.05)
            before = held()
            async with trio.open_nursery() as transfers:
                for guest in guests:
                    (peer,) = guest.connected
                    for _ in range(25):
                        transfers.start_soon(ask, guest, peer)
                for peer in hub.connected:
                    for _ in range(25):
                        transfers.start_soon(partial(ask, hub, peer))
            assert done == 50 * peers
            await until(lambda: held() <= before)
            links = [link for node in nodes for link in node._links.values()]
            await until(lambda: all(len(link.muxer._streams) == 2 for link in links))  # of messages

    run(main, 60 + 30 * peers)
