"""/yamux/1.0.0, written anew from its specification (github.com/hashicorp/yamux, spec.md).

Why not the library's: there the reader of a connection waits for the lock its writers hold, so two peers that
push at each other stop for ever; a cancelled write leaves half a frame on the wire; a receive window is
announced and not enforced. Here

- everything the reader does is synchronous: it puts bytes into streams and answers into a queue, and never
  waits for the writer;
- one task writes whole frames, taking turns among the streams that have something to send;
- a peer that sends more than its window, or answers faster than it reads, or takes nothing while something
  waits for it, loses the connection; of a stream that it does not read, it loses the stream;
- a stream that ends because the connection broke says so: only a FIN is a clean end.

Memory per connection is at most ``max_streams`` initial windows plus ``spare_window``.
"""

import logging
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import trio
from libp2p.abc import IMuxedConn, ISecureConn
from libp2p.connection_types import ConnectionType
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable
from multiaddr import Multiaddr

from p2pfl.node.hardened.yamux_stream import (
    ACK,
    DATA,
    FIN,
    FRAME,
    GO_AWAY,
    HEADER_SIZE,
    MAX_WINDOW,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    YamuxError,
    YamuxStream,
)

log = logging.getLogger(__name__)

YAMUX_ID: Final = "/yamux/1.0.0"
HEADER: Final = struct.Struct(
    ">BBHII"
)  # version, type, flags, stream, length (or increment, or opaque value)
assert HEADER.size == HEADER_SIZE
MAX_ANSWERS: Final = 4096
"""Queued header-only frames. Only a peer that makes us answer and does not read comes near it."""
_LINGER_SECONDS: Final = 60.0
_CLOSE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class YamuxLimits:
    """What a connection may cost.

    ``max_streams``   that the peer may have open at a time
    ``spare_window``  bytes to widen receive windows with, over all streams
    ``idle_seconds``  without a sign of life, answers to pings included, until the peer counts as dead; for
                      what is sent to it to make progress
    """

    max_streams: int
    spare_window: int
    idle_seconds: float


class Yamux(IMuxedConn):
    """The multiplexer of one secured connection.

    ``ended`` is set, and ``on_ended`` called, when it is over, with ``reason``.
    """

    def __init__(
        self,
        conn: ISecureConn,
        peer_id: ID,
        limits: YamuxLimits,
        on_ended: Callable[["Yamux"], None] | None = None,
    ) -> None:
        self.secured = conn
        self.peer_id = peer_id
        self.limits = limits
        self.event_started = trio.Event()
        self.ended = trio.Event()
        self.reason = ""
        self._on_ended = on_ended
        self._streams: dict[int, YamuxStream] = {}
        self._next_id = 1 if conn.is_initiator else 2
        self._spare = limits.spare_window
        self._allowance: int | None = None
        self._accept_in, self._accept_out = trio.open_memory_channel[YamuxStream](limits.max_streams)
        self._answers: deque[bytes] = deque()
        self._senders: deque[YamuxStream] = deque()
        self._wake_writer = trio.lowlevel.ParkingLot()
        self._closing = False
        self._remote_leaves = False
        self._heard = trio.current_time()
        self._scope: trio.CancelScope | None = None
        self._header = bytearray()
        self._body_left = 0
        self._body_stream: YamuxStream | None = None
        self._body_flags = 0

    # -- what libp2p asks of a multiplexer
    @property
    def is_initiator(self) -> bool:
        return self.secured.is_initiator

    @property
    def is_established(self) -> bool:
        return not self.ended.is_set()

    @property
    def is_closed(self) -> bool:
        return self.ended.is_set()

    def get_transport_addresses(self) -> list[Multiaddr]:
        return self.secured.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        return self.secured.get_connection_type()

    def get_remote_address(self) -> tuple[str, int] | None:
        return self.secured.get_remote_address()

    async def open_stream(self) -> YamuxStream:
        """Raises MuxedConnUnavailable if the connection is over or the peer said it is leaving."""
        await trio.lowlevel.checkpoint()
        if self.ended.is_set() or self._closing or self._remote_leaves:
            raise MuxedConnUnavailable(self.reason or "the connection is closing")
        stream = YamuxStream(self, self, self._next_id, ours=True)
        self._next_id += 2
        self._streams[stream.stream_id] = stream
        self.answer(WINDOW_UPDATE, SYN, stream.stream_id, 0)
        return stream

    async def accept_stream(self) -> YamuxStream:
        """The next stream that the peer opened. Raises MuxedConnUnavailable once the connection is over."""
        try:
            return await self._accept_out.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise MuxedConnUnavailable(self.reason) from None

    async def start(self) -> None:
        """Run the connection until it ends.

        Never raises but when cancelled: the swarm's nursery holds every connection.
        """
        self.event_started.set()
        try:
            if not self.ended.is_set():
                async with trio.open_nursery() as nursery:
                    self._scope = nursery.cancel_scope
                    for task in (self._read, self._write, self._watch):
                        nursery.start_soon(self._until_it_ends, task)
        finally:
            with trio.CancelScope(shield=True):
                await self._end("closed by this side")

    async def close(self) -> None:
        """Send what is queued and GO_AWAY, wait for that a moment, and end the connection."""
        if self.ended.is_set():
            return
        if self._scope is None:
            await self._end("closed by this side")
            return
        self._note("closed by this side")
        try:
            with trio.move_on_after(_CLOSE_SECONDS):
                self._closing = True
                self.answer(GO_AWAY, 0, 0, 0)
                await self.ended.wait()
        finally:
            self._scope.cancel()

    # -- admission
    def limit_received(self, allowance: int) -> None:
        """From now on the peer may send ``allowance`` bytes and no more, until :meth:`lift_limit`."""
        self._allowance = allowance

    def lift_limit(self) -> None:
        self._allowance = None

    # -- for streams
    def answer(self, kind: int, flags: int, stream_id: int, value: int) -> None:
        """Queue a frame without payload. Never waits."""
        if self.ended.is_set():
            return
        if len(self._answers) >= MAX_ANSWERS:
            self._note("the peer makes us answer and does not read the answers")
            self._stop()
            return
        self._answers.append(HEADER.pack(0, kind, flags, stream_id, value))
        self._wake_writer.unpark_all()

    def wants_to_send(self, stream: YamuxStream) -> None:
        """``stream`` got something to send, or leave to send it."""
        if stream.enqueue():
            self._senders.append(stream)
            self._wake_writer.unpark_all()

    def borrow(self, wanted: int) -> int:
        """Up to ``wanted`` bytes of the connection's spare window; :meth:`forget` returns them."""
        given = min(wanted, self._spare)
        self._spare -= given
        return given

    def forget(self, stream: YamuxStream) -> None:
        if self._streams.pop(stream.stream_id, None) is not None:
            self._spare += stream.widened

    # -- the three tasks of a connection
    async def _until_it_ends(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except Exception as error:  # whatever a peer provokes ends its connection, never the swarm
            self._note(str(error) or type(error).__name__)
            if not isinstance(error, YamuxError):
                log.debug("connection of %s ended", self.peer_id, exc_info=True)
        self._stop()

    async def _read(self) -> None:
        while True:
            data = await self.secured.read()
            if not data:
                self._note(
                    "the peer closed the connection" if self._remote_leaves else "the connection ended"
                )
                return
            self._heard = trio.current_time()
            if self._allowance is not None:
                self._allowance -= len(data)
                if self._allowance < 0:
                    raise YamuxError("more bytes than a guest may send")
            self._parse(memoryview(data))

    async def _write(self) -> None:
        while True:
            while not (self._answers or self._senders):
                if self._closing:
                    return
                await self._wake_writer.park()
            try:
                with trio.fail_after(self.limits.idle_seconds):
                    await self.secured.write(self._batch())
            except trio.TooSlowError:
                raise YamuxError(f"it took too little for {self.limits.idle_seconds:g} s") from None

    def _batch(self) -> bytes:
        """Every queued answer, then frames of the streams in turn until the batch is full."""
        parts: list[bytes | memoryview] = list(self._answers)
        self._answers.clear()
        size = 0
        while self._senders and size < FRAME:
            stream = self._senders.popleft()
            payload = stream.take()
            if payload:
                length = sum(map(len, payload))
                parts += (HEADER.pack(0, DATA, 0, stream.stream_id, length), *payload)
                size += HEADER.size + length
                self.wants_to_send(stream)
        return b"".join(parts)

    async def _watch(self) -> None:
        """Ping a silent peer, give up a dead one, and drop streams that only the peer keeps open, or does not
        read.
        """
        idle = self.limits.idle_seconds
        while True:
            await trio.sleep(idle / 4)
            now = trio.current_time()
            if now - self._heard >= idle:
                self._note(f"no sign of life for {idle:g} s")
                return
            if now - self._heard >= idle / 4:
                self.answer(PING, SYN, 0, 0)
            for stream in list(self._streams.values()):
                if stream.abandoned_for(now) > _LINGER_SECONDS:
                    stream.abort("abandoned")
                elif stream.stalled_for(now) >= idle:
                    stream.abort(f"the peer took too little of it for {idle:g} s")

    # -- parsing: synchronous, any split of the input, raises YamuxError only
    def _parse(self, data: memoryview) -> None:
        while data:
            if self._body_left:
                part = data[: self._body_left]
                self._body_left -= len(part)
                if self._body_stream is not None:
                    self._body_stream.feed(part)
                if not self._body_left:
                    self._finish_frame()
            else:
                part = data[: HEADER.size - len(self._header)]
                self._header += part
                if len(self._header) == HEADER.size:
                    version, kind, flags, stream_id, value = HEADER.unpack(self._header)
                    self._header.clear()
                    if version != 0:
                        raise YamuxError(f"version {version} of yamux")
                    self._begin_frame(kind, flags, stream_id, value)
            data = data[len(part) :]

    def _begin_frame(self, kind: int, flags: int, stream_id: int, value: int) -> None:
        if kind == PING:
            if flags & SYN:
                self.answer(PING, ACK, 0, value)
        elif kind == GO_AWAY:
            self._remote_leaves = True
            if value:
                self._note(f"the peer left with error {value}")
        elif kind in (DATA, WINDOW_UPDATE):
            stream = self._accept(stream_id) if flags & SYN else self._streams.get(stream_id)
            self._body_stream, self._body_flags = stream, flags
            if kind == DATA:
                if stream is not None:
                    stream.expect(value)
                elif value > MAX_WINDOW:  # on its way while we reset the stream, so no longer than a window
                    raise YamuxError(f"a frame of {value} bytes")
                self._body_left = value
            elif stream is not None:
                stream.credit(value)
            if not self._body_left:
                self._finish_frame()
        else:
            raise YamuxError(f"frame type {kind}")

    def _finish_frame(self) -> None:
        """The flags that close a stream count from the end of their frame."""
        stream, flags = self._body_stream, self._body_flags
        self._body_stream = None
        if stream is not None and flags & FIN:
            stream.finish()
        if stream is not None and flags & RST:
            stream.fail("reset by the peer")

    def _accept(self, stream_id: int) -> YamuxStream | None:
        """A SYN. None if the peer has too many streams: the new one is reset."""
        if stream_id == 0 or stream_id % 2 == self._next_id % 2 or stream_id in self._streams:
            raise YamuxError(f"stream {stream_id} cannot be opened by the peer")
        if sum(not stream.ours for stream in self._streams.values()) >= self.limits.max_streams:
            self.answer(WINDOW_UPDATE, RST, stream_id, 0)
            return None
        stream = YamuxStream(self, self, stream_id, ours=False)
        try:
            self._accept_in.send_nowait(stream)
        except trio.WouldBlock:
            self.answer(WINDOW_UPDATE, RST, stream_id, 0)
            return None
        self._streams[stream_id] = stream
        self.answer(WINDOW_UPDATE, ACK, stream_id, 0)
        return stream

    # -- the end
    def _note(self, reason: str) -> None:
        """The first reason is the one that counts."""
        self.reason = self.reason or reason

    def _stop(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    async def _end(self, reason: str) -> None:
        if self.ended.is_set():
            return
        self._note(reason)
        self.ended.set()
        self._accept_in.close()
        for stream in list(self._streams.values()):
            stream.fail(self.reason)
        await self.secured.close()
        if self._on_ended is not None:
            self._on_ended(self)
