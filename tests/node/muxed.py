"""Multiplexers over a wire made of memory."""

import contextlib
from collections.abc import Awaitable, Callable

import trio
import trio.testing
from libp2p.connection_types import ConnectionType
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamReset

from p2pfl.node.hardened.yamux import HEADER, Yamux, YamuxLimits
from p2pfl.node.hardened.yamux_stream import YamuxStream

LIMITS = YamuxLimits(max_streams=8, spare_window=1 << 20, idle_seconds=20.0)
PEER = ID(b"\x00\x01peer")


class Wire:
    """One end of a secured connection in memory, with a bounded pipe like a socket's."""

    def __init__(self, stream: trio.StapledStream, *, is_initiator: bool) -> None:
        self._stream = stream
        self.is_initiator = is_initiator

    async def read(self, n: int | None = None) -> bytes:
        try:
            return bytes(await self._stream.receive_some(65519 if n is None else n))
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            return b""

    async def write(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def close(self) -> None:
        await self._stream.aclose()

    def get_remote_address(self) -> tuple[str, int]:
        return ("192.0.2.1", 1)

    def get_connection_type(self) -> ConnectionType:
        return ConnectionType.DIRECT


def wires() -> tuple[Wire, Wire]:
    """Two ends of a connection where each write waits until the other side has read it."""
    left, right = trio.testing.lockstep_stream_pair()
    return Wire(left, is_initiator=True), Wire(right, is_initiator=False)


def muxers(nursery: trio.Nursery, limits: YamuxLimits = LIMITS) -> tuple[Yamux, Yamux]:
    pair = [Yamux(wire, PEER, limits) for wire in wires()]  # type: ignore[arg-type]
    for muxer in pair:
        nursery.start_soon(muxer.start)
    return pair[0], pair[1]


def run(test: Callable[[trio.Nursery], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with trio.fail_after(20):
            await _in_a_nursery(test)

    trio.run(bounded)


def run_in_virtual_time(test: Callable[[trio.Nursery], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with trio.fail_after(20_000):
            await _in_a_nursery(test)

    trio.run(bounded, clock=trio.testing.MockClock(autojump_threshold=0))


async def _in_a_nursery(test: Callable[[trio.Nursery], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        await test(nursery)
        nursery.cancel_scope.cancel()


async def read_all(stream: YamuxStream) -> bytes:
    data = bytearray()
    while True:
        try:
            data += await stream.read()
        except MuxedStreamEOF:
            return bytes(data)


async def write_until_reset(stream: YamuxStream) -> None:
    with contextlib.suppress(MuxedStreamReset):
        await stream.write(bytes(64 << 20))


async def read_until_reset(stream: YamuxStream) -> None:
    with contextlib.suppress(MuxedStreamReset):
        while True:
            await stream.read()


async def opened(left: Yamux, right: Yamux) -> tuple[YamuxStream, YamuxStream]:
    ours = await left.open_stream()
    return ours, await right.accept_stream()


def frame(kind: int, flags: int, stream_id: int, value: int, body: bytes = b"") -> bytes:
    return HEADER.pack(0, kind, flags, stream_id, value) + body
