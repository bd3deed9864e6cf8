"""Scenarios that py-libp2p 0.8.1 does not survive, run by test_transport_stock.py in a process of their own.

    python stock_faults.py SCENARIO stock|ours

Each is the same code over two hosts that differ in nothing but their parts; the last line is the outcome.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, NoReturn, cast

import trio
from libp2p import new_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as new_x25519
from libp2p.custom_types import TProtocol
from libp2p.network.config import ConnectionConfig
from libp2p.network.swarm import Swarm
from libp2p.peer.peerinfo import PeerInfo
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.request_response import BytesCodec, RequestResponse, RequestResponseConfig
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as StockNoise
from libp2p.stream_muxer.yamux.yamux import Yamux as StockYamux
from multiaddr import Multiaddr

from p2pfl.node.hardened.guard import guarded
from p2pfl.node.hardened.host import make_host
from p2pfl.node.hardened.tcp import Tcp
from p2pfl.node.hardened.yamux import Yamux, YamuxLimits

SINK, ECHO, CRASH = TProtocol("/sink/1"), TProtocol("/echo/1"), TProtocol("/crash/1")
MIB = 1 << 20
LOOPBACK = Multiaddr("/ip4/127.0.0.1/tcp/0")


def outcome(text: str) -> NoReturn:
    """Say how it ended, and end: some of what the library leaves behind cannot even be cancelled."""
    print(text, flush=True)
    os._exit(0)


def config(max_connections: int) -> ConnectionConfig:
    return ConnectionConfig(
        min_connections=0, low_watermark=0, high_watermark=max_connections, max_connections=max_connections
    )


def stock_host(number: int, max_connections: int = 100, **options: Any) -> IHost:
    keys = create_new_key_pair(number.to_bytes(32, "big"))
    return new_host(
        key_pair=keys,
        sec_opt={NOISE_ID: StockNoise(keys, noise_privkey=new_x25519().private_key)},
        listen_addrs=[LOOPBACK],
        connection_config=config(max_connections),
        **options,
    )


@asynccontextmanager
async def running(
    stack: str, number: int, max_connections: int = 100
) -> AsyncIterator[tuple[IHost, PeerInfo]]:
    """A host of the given stack, and how to reach it."""
    if stack == "stock":
        host = stock_host(number, max_connections)
        async with host.run([LOOPBACK]):
            yield host, PeerInfo(host.get_id(), [_bare(host)])
        return
    limits = YamuxLimits(max_streams=64, spare_window=32 * MIB, idle_seconds=30)
    tcp = Tcp(max_handshakes=64)
    bound = await tcp.bind(LOOPBACK)
    async with trio.open_nursery() as nursery:
        tcp.serve_in(nursery)

        async def offered(stream: INetStream) -> Multiselect:
            return host.get_mux()

        host = make_host(
            number.to_bytes(32, "big"),
            tcp,
            lambda peer: None,
            lambda conn, peer: Yamux(conn, peer, limits),
            guarded(offered),
            max_connections,
        )
        async with host.run([bound]):
            yield host, PeerInfo(host.get_id(), [bound])
        nursery.cancel_scope.cancel()


def _bare(host: IHost) -> Multiaddr:
    return host.get_addrs()[0].decapsulate(Multiaddr(f"/p2p/{host.get_id()}"))


async def sink(stream: INetStream) -> None:
    size = int.from_bytes(await read_exactly(stream, 4), "big")
    await read_exactly(stream, size)
    await stream.write(b"K")
    await stream.close()


async def echo(stream: INetStream) -> None:
    await stream.write(await read_exactly(stream, 5))
    await stream.close()


async def read_exactly(stream: INetStream, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        data += await stream.read(min(MIB, size - len(data)))
    return bytes(data)


async def echoes(client: IHost, server: PeerInfo) -> bool:
    """Whether the server still answers."""
    answer = b""
    with trio.move_on_after(3):
        stream = await client.new_stream(server.peer_id, [ECHO])
        await stream.write(b"hello")
        answer = await read_exactly(stream, 5)
    return answer == b"hello"


# -- scenarios


async def two_way_bulk(stack: str) -> None:
    """Both sides push 8 MiB twice at a time, and open small streams meanwhile; four times over."""

    def give_up() -> None:
        time.sleep(8)
        outcome("dead-locked")

    threading.Thread(target=give_up, daemon=True).start()
    async with running(stack, 1) as (left, left_info), running(stack, 2) as (right, right_info):
        for host in (left, right):
            host.set_stream_handler(SINK, sink)
        await left.connect(right_info)

        async def push(host: IHost, peer: PeerInfo, size: int) -> None:
            stream = await host.new_stream(peer.peer_id, [SINK])
            await stream.write(size.to_bytes(4, "big") + bytes(size))
            await read_exactly(stream, 1)
            await stream.close()

        async def push_small(host: IHost, peer: PeerInfo) -> None:
            while True:
                await push(host, peer, 10)

        for _ in range(4):
            async with trio.open_nursery() as small, trio.open_nursery() as big:
                for host, peer in ((left, right_info), (right, left_info)):
                    for _ in range(2):
                        big.start_soon(push, host, peer, 8 * MIB)
                    for _ in range(4):
                        small.start_soon(push_small, host, peer)
                while big.child_tasks:  # noqa: ASYNC110
                    await trio.sleep(0.01)
                small.cancel_scope.cancel()
        outcome("finished")


async def handler_exception(stack: str) -> None:
    async def crash(stream: INetStream) -> None:
        raise ValueError("a bug in a handler")

    async def provoke(client: IHost, server: PeerInfo) -> None:
        with suppress(Exception):  # its own stream is lost to it, and that is all that may be
            stream = await client.new_stream(server.peer_id, [CRASH])
            await stream.write(b"x")

    await _survives(stack, {CRASH: crash}, provoke)


async def garbled_protocol_name(stack: str) -> None:
    async def provoke(client: IHost, server: PeerInfo) -> None:
        (connection,) = client.get_network().get_connections(server.peer_id)
        stream = await connection.muxed_conn.open_stream()
        await stream.write(b"\x13/multistream/1.0.0\n" + b"\x04\xff\xfe\xfd\n")

    await _survives(stack, {}, provoke)


async def _survives(stack: str, handlers: dict[TProtocol, Any], provoke: Callable[..., Any]) -> None:
    try:
        async with running(stack, 1) as (server, info):
            for protocol, handler in {ECHO: echo, **handlers}.items():
                server.set_stream_handler(protocol, handler)
            async with running("stock", 2) as (client, _):
                await client.connect(info)
                assert await echoes(client, info)
                await provoke(client, info)
                await trio.sleep(0.5)
                outcome("answers" if await echoes(client, info) else "hangs")
    except BaseException:  # noqa: BLE001 - the crash of the host is what is looked for
        outcome("died")


async def many_connections(stack: str, at_a_time: int = 8, count: int = 12) -> None:
    """One connection after another, each closed before the next. ``at_a_time`` is the server's limit."""
    async with running(stack, 1, at_a_time) as (server, info):
        server.set_stream_handler(ECHO, echo)
        for number in range(count):
            accepted = False
            with trio.move_on_after(3):
                try:
                    async with running("ours", 2 + number) as (client, _):
                        swarm = cast(Swarm, client.get_network())
                        await swarm.dial_addr(info.addrs[0], info.peer_id)
                        accepted = await echoes(client, info)
                except Exception:  # noqa: BLE001 - the refusal has many faces
                    accepted = False
            if not accepted:
                outcome(f"refused after {number}")
            while server.get_network().get_connections():  # noqa: ASYNC110
                await trio.sleep(0.01)
        outcome(f"accepted {count}")


async def many_connections_by_default(stack: str) -> None:
    await many_connections(stack, 250, 260)


async def big_request(stack: str) -> None:
    """The library's request helper with 8 MiB, over either stack: the fault is in the helper."""
    protocol = TProtocol("/request/1")
    settings = RequestResponseConfig(
        max_request_size=64 * MIB, max_response_size=64 * MIB, timeout=10, max_concurrent_inbound=4
    )
    async with AsyncExitStack() as stack_of:
        server, info = await stack_of.enter_async_context(running(stack, 1))
        client, _ = await stack_of.enter_async_context(running(stack, 2))

        async def answer(request: bytes, context: object) -> bytes:
            return str(len(request)).encode()

        RequestResponse(server).set_handler(protocol, answer, BytesCodec(), settings)
        await client.connect(info)
        try:
            got = await RequestResponse(client).send_request(
                info.peer_id, [protocol], bytes(8 * MIB), BytesCodec(), settings
            )
        except Exception as error:  # noqa: BLE001
            outcome(f"failed: {type(error).__name__}")
        outcome(got.decode())


async def ignored_window(stack: str) -> None:
    """A peer that ignores the window sends 64 MiB to a handler that reads nothing."""
    async with running(stack, 1) as (server, info), running("stock", 2) as (client, _):

        async def never_read(stream: INetStream) -> None:
            await trio.sleep_forever()

        server.set_stream_handler(SINK, never_read)
        await client.connect(info)
        stream = cast(Any, await client.new_stream(info.peer_id, [SINK])).muxed_stream
        (connection,) = server.get_network().get_connections()
        muxer = cast(Any, connection).muxed_conn
        stream.send_window = 1 << 40
        with trio.move_on_after(8):
            try:
                await stream.write(bytes(64 * MIB))
                await trio.sleep(1)
            except Exception as error:  # noqa: BLE001
                print("sender:", type(error).__name__)
        if isinstance(muxer, StockYamux):
            outcome(f"buffered {sum(map(len, muxer.stream_buffers.values())) // MIB} MiB")
        with trio.move_on_after(3):
            await muxer.ended.wait()
        outcome(f"disconnected: {muxer.reason}")


async def interoperation(stack: str) -> None:
    """A host of ours and one of the library's, dialled from either side, echo 4 MiB to each other."""
    size = 4 * MIB

    async def echo_all(stream: INetStream) -> None:
        left = size
        while left:
            data = await stream.read(65536)
            await stream.write(data)
            left -= len(data)
        await stream.close()

    async with running("ours", 1) as (ours, ours_info), running("stock", 2) as (theirs, theirs_info):
        for host in (ours, theirs):
            host.set_stream_handler(ECHO, echo_all)
        if stack == "stock":
            await theirs.connect(ours_info)
        else:
            swarm = cast(Swarm, ours.get_network())
            await swarm.dial_addr(theirs_info.addrs[0], theirs_info.peer_id)
        data = os.urandom(size)

        async def exchange(host: IHost, peer: PeerInfo) -> None:
            stream = await host.new_stream(peer.peer_id, [ECHO])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.write, data)
                assert await read_exactly(stream, size) == data

        await exchange(ours, theirs_info)
        await exchange(theirs, ours_info)
        outcome("the same bytes")


async def muxer_option(stack: str) -> None:
    """Which class multiplexes when the option names another for /yamux/1.0.0."""

    class Named(StockYamux):
        pass

    if stack == "stock":
        host = stock_host(1, muxer_opt={TProtocol("/yamux/1.0.0"): Named})
        async with host.run([LOOPBACK]), running("stock", 2) as (client, _):
            await client.connect(PeerInfo(host.get_id(), [_bare(host)]))
            (connection,) = host.get_network().get_connections()
            outcome("used" if isinstance(cast(Any, connection).muxed_conn, Named) else "ignored")
    async with running("ours", 1) as (host, info), running("stock", 2) as (client, _):
        await client.connect(info)
        (connection,) = host.get_network().get_connections()
        outcome("used" if isinstance(cast(Any, connection).muxed_conn, Yamux) else "ignored")


async def shared_port(stack: str) -> None:
    async with running(stack, 1) as (_, info):
        address = info.addrs[0]
        if stack == "stock":
            async with stock_host(2).run([address]):
                second = stock_host(3)
                async with second.run([address]):
                    outcome("both listen" if second.get_addrs() else "second does not listen")
        try:
            await Tcp(4).bind(address)
        except OSError as error:
            outcome(f"refused: {error.strerror}")
        outcome("both listen")


if __name__ == "__main__":
    logging.getLogger().addHandler(logging.NullHandler())
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    trio.run(globals()[sys.argv[1]], sys.argv[2])
