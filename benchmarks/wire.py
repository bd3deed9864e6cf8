"""How fast a model crosses loopback between two processes, how late that makes the event loop, and what a
connection costs.

    python benchmarks/wire.py [--json]

A body of 16 MiB, best of five. One limit is trio's own TCP in the same run; the other yardstick is one write
over py-libp2p as it comes. Ours is a whole request (negotiation, length, SHA-256 on both sides), and the same
bytes as messages of 1 MiB, which is how the chunks of a model travel. A stock peer that asks a node of ours
is measured, too: it knows nothing but what docs/protocol.md says. Delays are those of a task that sleeps for
2 ms in the process that receives, while bodies arrive, without a thread that trains beside it and with one;
other processes delay it, too, so run it with `chrt --fifo 1` where the machine has other work.
"""

import argparse
import functools
import hashlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping

import trio
from _rows import Row, Rows, row, show
from _secure_sum_member import Everybody
from event_loop import SLEEP, digits, training
from libp2p import new_host
from libp2p.abc import INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as new_x25519
from libp2p.custom_types import TProtocol
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as StockNoise
from multiaddr import Multiaddr

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.node.monitoring.watchdog import SWITCH_SECONDS, spare_the_collector
from p2pfl.node.transport.network import Limits, MessageReceived, Transport
from p2pfl.node.transport.reception import ADMISSION

SIZE = 16 << 20
TIMES = 5
STALL_SECONDS = 3.0
STALL_MS = 30.0
PREFIX = "/p2pfl/bench"
CHUNK = hashlib.shake_128(b"body").digest(1 << 20)
BODY = CHUNK * (SIZE >> 20)
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
BULK = TProtocol("/bulk/1")
MODEL, MESSAGES = "model", "messages"
MLP = 'kind = "mlp"\nhidden = [256]'


def transport(seed: int) -> Transport:
    async def model(peer: PeerId, body: bytes) -> bytes:
        return BODY

    async def messages(peer: PeerId, body: bytes) -> bytes:
        for _ in range(SIZE // len(CHUNK)):
            assert node.send(peer, CHUNK)
        return b""

    identity = Identity.from_seed(seed.to_bytes(32, "big"))
    requests = {MODEL: model, MESSAGES: messages}
    node = Transport(identity, [LOOPBACK], Everybody(), PREFIX, Limits(), requests)
    return node


def stock(seed: int):  # type: ignore[no-untyped-def]
    keys = create_new_key_pair(seed.to_bytes(32, "big"))
    noise = StockNoise(keys, noise_privkey=new_x25519().private_key)
    return new_host(key_pair=keys, sec_opt={NOISE_ID: noise}, listen_addrs=[Multiaddr(LOOPBACK)])


# -- the serving process: each sends BODY to whoever asks with one byte


async def serve_raw() -> None:
    async def send(stream: trio.SocketStream) -> None:
        while await stream.receive_some(1):
            await stream.send_all(BODY)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, send, 0)
        print(listeners[0].socket.getsockname()[1], flush=True)


async def serve_stock() -> None:
    async def send(stream: INetStream) -> None:
        await stream.read(1)
        await stream.write(BODY)
        await stream.close()

    host = stock(1)
    async with host.run([Multiaddr(LOOPBACK)]):
        host.set_stream_handler(BULK, send)
        print(host.get_addrs()[0], flush=True)
        await trio.sleep_forever()


async def serve_ours() -> None:
    node = transport(1)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        print(node.addresses[0], flush=True)


# -- the asking process


async def ask_raw(address: str) -> float:
    stream = await trio.open_tcp_stream("127.0.0.1", int(address))

    async def once() -> None:
        await stream.send_all(b"x")
        left = SIZE
        while left:
            left -= len(await stream.receive_some(1 << 18))

    return await best(once)


async def ask_stock(address: str) -> float:
    host = stock(2)
    info = info_from_p2p_addr(Multiaddr(address))
    async with host.run([]):
        await host.connect(info)

        async def once() -> None:
            stream = await host.new_stream(info.peer_id, [BULK])
            await stream.write(b"x")
            left = SIZE
            while left:
                left -= len(await stream.read(1 << 20))
            await stream.close()

        return await best(once)


async def ask_ours(address: str) -> float:
    node = transport(2)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        peer = await node.connect(address)

        async def once() -> None:
            await node.request(peer, MODEL, b"", max_response=SIZE, seconds=60)

        seconds = await best(once)
        nursery.cancel_scope.cancel()
    return seconds


async def ask_as_stock(address: str) -> float:
    """A stock host asks a node of ours, with the words of docs/protocol.md."""
    host = stock(2)
    info = info_from_p2p_addr(Multiaddr(address))

    async def exactly(stream: INetStream, count: int) -> bytes:
        pieces = []
        while count:
            pieces.append(await stream.read(min(count, 1 << 20)))
            count -= len(pieces[-1])
        return b"".join(pieces)

    async def messages(stream: INetStream) -> None:
        await trio.sleep_forever()

    async with host.run([]):
        host.set_stream_handler(TProtocol(f"{PREFIX}/messages/1"), messages)
        await host.connect(info)
        stream = await host.new_stream(info.peer_id, [TProtocol(ADMISSION)])
        await stream.write((16).to_bytes(4, "big") + bytes(16))
        assert await exactly(stream, 5) == b"\0\0\0\1\0", "accepted"
        await exactly(stream, int.from_bytes(await exactly(stream, 4), "big"))
        await stream.write(b"\0\0\0\1\0")
        assert await exactly(stream, 5) == b"\0\0\0\1\0", "accepted again"

        async def once() -> None:
            stream = await host.new_stream(info.peer_id, [TProtocol(f"{PREFIX}/request/{MODEL}/1")])
            await stream.write(bytes(8) + hashlib.sha256().digest())
            head = await exactly(stream, 9)
            body = await exactly(stream, int.from_bytes(head[1:], "big"))
            assert hashlib.sha256(body).digest() == await exactly(stream, 32)

        return await best(once)


async def ask_messages(address: str) -> float:
    node = transport(2)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        peer = await node.connect(address)

        async def once() -> None:
            await node.request(peer, MESSAGES, b"", max_response=0, seconds=60)
            left = SIZE
            while left:
                event = await node.events.receive()
                left -= len(event.data) if isinstance(event, MessageReceived) else 0

        seconds = await best(once)
        nursery.cancel_scope.cancel()
    return seconds


async def stall(address: str, *, trains: bool) -> float:
    """In milliseconds, the latest wake-up of a loop that receives bodies, with a thread that ``trains``."""
    node, late, stop = transport(2), [0.0], threading.Event()
    work = training(*digits(MLP)) if trains else None
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        peer = await node.connect(address)

        async def receive() -> None:
            while True:
                await node.request(peer, MODEL, b"", max_response=SIZE, seconds=60)

        if work is not None:
            nursery.start_soon(functools.partial(trio.to_thread.run_sync, work, stop))
        nursery.start_soon(receive)
        end = trio.current_time() + STALL_SECONDS
        while (asleep := trio.current_time()) < end:
            await trio.sleep(SLEEP)
            late.append((trio.current_time() - asleep - SLEEP) * 1000)
        stop.set()
        nursery.cancel_scope.cancel()
    return max(late)


async def best(once: Callable[[], Awaitable[None]]) -> float:
    seconds = []
    for _ in range(TIMES):
        start = time.perf_counter()
        await once()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


async def connections(count: int) -> float:
    """KiB of resident memory for one connection, both ends of it in this process."""
    hub, nodes = transport(100), [transport(101 + number) for number in range(count)]
    async with trio.open_nursery() as nursery:
        for node in (hub, *nodes):
            await nursery.start(node.run)
        before = resident()
        for node in nodes:
            await node.connect(hub.addresses[0])
        await trio.sleep(0.5)
        after = resident()
        nursery.cancel_scope.cancel()
    return (after - before) / count


def resident() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


ASKING: Mapping[str, Callable[[str], Awaitable[float]]] = {
    "raw": ask_raw,
    "stock": ask_stock,
    "ours": ask_ours,
    "messages": ask_messages,
    "as stock": ask_as_stock,
}


def served(serving: str, asking: Callable[[str], Awaitable[float]]) -> float:
    """What ``asking`` finds of another process that serves."""
    server = subprocess.Popen([sys.executable, __file__, serving], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        return trio.run(asking, server.stdout.readline().strip())
    finally:
        server.kill()
        server.wait()


def rows() -> Rows:
    """What is measured, with its yardstick and target."""
    rate = {
        kind: SIZE / 1e6 / served(kind if kind in SERVING else "ours", asking)
        for kind, asking in ASKING.items()
    }
    size = {"mebibytes": SIZE >> 20}
    found = [
        _rate("raw trio TCP", size, rate["raw"]),
        _rate("stock libp2p write", size, rate["stock"], "raw", rate["raw"]),
        _rate("our request", size, rate["ours"], "raw", rate["raw"], 0.2),
        _rate("our request", size, rate["ours"], "stock", rate["stock"], 2.0),
        _rate("our messages", size, rate["messages"], "raw", rate["raw"], 0.2),
        _rate("our messages", size, rate["messages"], "stock", rate["stock"], 2.0),
        _rate("a stock peer asks us", size, rate["as stock"], "stock", rate["stock"]),
    ]
    sys.setswitchinterval(SWITCH_SECONDS)
    spare_the_collector()
    for name, trains in (("worst stall, receiving", False), ("worst stall, also training", True)):
        late = served("ours", functools.partial(stall, trains=trains))
        found.append(row(name, size, late, "ms", target=STALL_MS, met=late < STALL_MS))
    memory = trio.run(connections, 100)
    return [*found, row("connection, both ends", {"connections": 100}, memory, "KiB")]


def _rate(
    name: str,
    params: Mapping[str, object],
    value: float,
    baseline: str = "",
    yardstick: float | None = None,
    target: float | None = None,
) -> Row:
    ratio = None if yardstick is None else value / yardstick
    met = None if target is None or ratio is None else ratio >= target
    return row(name, params, value, "MB/s", baseline, ratio, target, met=met)


SERVING = {"raw": serve_raw, "stock": serve_stock, "ours": serve_ours}


if __name__ == "__main__":
    logging.getLogger().addHandler(logging.NullHandler())
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    arguments.add_argument("--json", action="store_true", help="print JSON rows instead of a table")
    arguments.add_argument("serve", nargs="?", choices=tuple(SERVING), help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.serve is not None:
        trio.run(SERVING[options.serve])
    else:
        show(rows(), as_json=options.json)
