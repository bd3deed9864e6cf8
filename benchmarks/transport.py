"""How fast a body of 32 MiB crosses loopback between two processes, and what a connection costs.

    python benchmarks/transport.py [--json]

Each row is the best of five. The limit is raw TCP of the same run; the other yardstick is one write over
py-libp2p as it comes. Ours is a whole request (negotiation, length, SHA-256 on both sides), and the same
bytes as messages of 1 MiB, which is how the chunks of a model travel.
"""

import argparse
import hashlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import trio
from _rows import Row, Rows, row, show
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
from p2pfl.node.transport import Limits, MessageReceived, Transport

SIZE = 32 << 20
TIMES = 5
CHUNK = hashlib.shake_128(b"body").digest(1 << 20)
BODY = CHUNK * (SIZE >> 20)
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
BULK = TProtocol("/bulk/1")
MODEL, MESSAGES = "model", "messages"


class Everybody:
    """Admits everybody."""

    def at_handshake(self, peer: PeerId) -> str | None:
        return None

    def greeting(self) -> bytes:
        return b""

    def judge(self, peer: PeerId, greeting: bytes) -> str | None:
        return None


def transport(seed: int) -> Transport:
    async def model(peer: PeerId, body: bytes) -> bytes:
        return BODY

    async def messages(peer: PeerId, body: bytes) -> bytes:
        for _ in range(SIZE // len(CHUNK)):
            assert node.send(peer, CHUNK)
        return b""

    identity = Identity.from_seed(seed.to_bytes(32, "big"))
    requests = {MODEL: model, MESSAGES: messages}
    node = Transport(identity, [LOOPBACK], Everybody(), "/p2pfl/bench", Limits(), requests)
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


def measure(kind: str) -> float:
    serving = "ours" if kind == "messages" else kind
    server = subprocess.Popen([sys.executable, __file__, serving], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        asking = {"raw": ask_raw, "stock": ask_stock, "ours": ask_ours, "messages": ask_messages}[kind]
        return SIZE / 1e6 / trio.run(asking, address)
    finally:
        server.kill()
        server.wait()


def rows() -> Rows:
    """What is measured, with its yardstick and target."""
    rates = {kind: measure(kind) for kind in ("raw", "stock", "ours", "messages")}
    memory = trio.run(connections, 100)
    size = {"mebibytes": SIZE >> 20}
    return [
        _row("raw TCP", size, rates["raw"], "MB/s", "raw TCP", 1.0, None),
        _row(
            "stock libp2p write", size, rates["stock"], "MB/s", "raw TCP", rates["stock"] / rates["raw"], None
        ),
        _row("our request", size, rates["ours"], "MB/s", "raw TCP", rates["ours"] / rates["raw"], None),
        _row("our request", size, rates["ours"], "MB/s", "stock", rates["ours"] / rates["stock"], 1.0),
        _row(
            "our messages", size, rates["messages"], "MB/s", "raw TCP", rates["messages"] / rates["raw"], None
        ),
        _row("connection, both ends", {"connections": 100}, memory, "KiB", "", None, None),
    ]


def _row(
    name: str,
    params: dict[str, int],
    value: float,
    unit: str,
    baseline: str,
    ratio: float | None,
    target: float | None,
) -> Row:
    met = None if target is None or ratio is None else ratio >= target
    return row(name, params, value, unit, baseline, ratio, target, met=met)


def main(*, as_json: bool) -> None:
    show(rows(), as_json=as_json)


if __name__ == "__main__":
    logging.getLogger().addHandler(logging.NullHandler())
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    arguments.add_argument("--json", action="store_true", help="print JSON rows instead of a table")
    arguments.add_argument("serve", nargs="?", choices=("raw", "stock", "ours"), help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.serve is not None:
        trio.run({"raw": serve_raw, "stock": serve_stock, "ours": serve_ours}[options.serve])
    else:
        main(as_json=options.json)
