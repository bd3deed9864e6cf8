"""One stream of :mod:`.yamux`: its windows, its buffer, its two ends.

A stream never touches the socket. It puts headers into the muxer's queue, stands in the muxer's queue of
senders while it has something to send and leave to send it, and is fed by the muxer's reader.
"""

from collections import deque
from types import TracebackType
from typing import Final, Protocol

import trio
from libp2p.abc import IMuxedConn, IMuxedStream
from libp2p.stream_muxer.exceptions import MuxedStreamClosed, MuxedStreamEOF, MuxedStreamReset

from p2pfl.node.hardened.noise import MAX_PLAINTEXT

HEADER_SIZE: Final = 12
DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8

INITIAL_WINDOW: Final = 256 << 10  # fixed by the specification
MAX_WINDOW: Final = 16 << 20  # what go-yamux allows itself
MAX_CREDIT: Final = 1 << 30
MAX_RENEWAL: Final = 1 << 20
"""What is read before the peer may send as much again, if not less: else a wide window would look stalled."""
_KEEPS_UP_SECONDS: Final = 1.0
BATCH: Final = 4 * MAX_PLAINTEXT
FRAME: Final = BATCH - HEADER_SIZE
"""Payload of a full frame: with its header exactly four noise records, none of them half empty."""
PIECE: Final = 64 << 10
"""What a peer must take of a write, or send of what it announced, within the idle seconds, again and again:
some kilobytes a second, so that nobody keeps something busy with a byte now and then."""
_WORTH_KEEPING: Final = 4096


class YamuxError(Exception):
    """The peer broke the protocol of the multiplexer; the connection ends."""


class Muxer(Protocol):
    """What a stream needs of its connection; :class:`.yamux.Yamux` says what each does."""

    def answer(self, kind: int, flags: int, stream_id: int, value: int) -> None: ...
    def wants_to_send(self, stream: "YamuxStream") -> None: ...
    def borrow(self, wanted: int) -> int: ...
    def forget(self, stream: "YamuxStream") -> None: ...
    def get_remote_address(self) -> tuple[str, int] | None: ...


class Arrived:
    """Bytes in the order in which they came, each copied once, when they are taken out together.

    Large parts are kept as they are; small ones are put together, so that what is held is never much more
    than what the window allows, however the peer cuts it.
    """

    def __init__(self) -> None:
        self._parts: deque[memoryview | bytearray] = deque()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, part: memoryview) -> None:
        self._size += len(part)
        tail = self._parts[-1] if self._parts else None
        kept = memoryview(part.obj).nbytes  # by a view of any part of it
        if len(part) >= _WORTH_KEEPING and 2 * len(part) >= kept:
            self._parts.append(part)
        elif isinstance(tail, bytearray):
            tail += part
        else:
            self._parts.append(bytearray(part))

    def take(self, most: int) -> list[memoryview]:
        """The first ``most`` bytes, or all there are."""
        taken: list[memoryview] = []
        while most and self._parts:
            part = memoryview(self._parts.popleft())
            if len(part) > most:
                part, rest = part[:most], part[most:]
                self._parts.appendleft(rest)
            taken.append(part)
            most -= len(part)
            self._size -= len(part)
        return taken

    def clear(self) -> None:
        self._parts.clear()
        self._size = 0


class YamuxStream(IMuxedStream):
    """One stream.

    Reads and writes are whole-or-error; closing closes our direction only, as everywhere in libp2p.
    """

    def __init__(self, muxer: Muxer, muxed_conn: IMuxedConn, stream_id: int, *, ours: bool) -> None:
        self.muxed_conn = muxed_conn
        self.muxer = muxer
        self.stream_id = stream_id
        self.ours = ours
        self._closed_at = 0.0
        self._received = Arrived()
        self._window = INITIAL_WINDOW  # what the peer may have on its way or in our buffer
        self._granted = INITIAL_WINDOW  # what of it the peer has not used
        self._consumed = 0  # read here and not given back to the peer yet
        self._renewed_at = trio.current_time()
        self._credit = INITIAL_WINDOW  # what we may send
        self._outgoing: deque[memoryview] = deque()
        self._taken = 0  # of it, since the time below
        self._moved_at = 0.0
        self._queued = False  # stands in the muxer's queue of senders
        self._sent_fin = False
        self._got_fin = False
        self._failure: str | None = None
        self._readers = trio.lowlevel.ParkingLot()
        self._writers = trio.lowlevel.ParkingLot()
        self._write_lock = trio.Lock()

    # -- for the application
    async def read(self, n: int | None = None) -> bytes:
        """What has arrived, at least one byte and at most ``n``. What came before a reset can still be read.

        Raises MuxedStreamEOF after the peer's FIN, MuxedStreamReset if the stream or its connection broke.
        """
        await trio.lowlevel.checkpoint()
        return b"" if n == 0 else b"".join(await self.read_parts(n))

    async def read_parts(self, n: int | None = None) -> list[memoryview]:
        """:meth:`read`, ``n`` above 0, in the parts in which it is held, so that all are joined once. No
        checkpoint if something is there.
        """
        await self.wait_for_more()
        if not self._received:
            if self._failure is not None:
                raise MuxedStreamReset(self._failure)
            raise MuxedStreamEOF("the peer closed the stream")
        before = len(self._received)
        parts = self._received.take(before if n is None else n)
        self._give_back(before - len(self._received))
        return parts

    async def wait_for_more(self) -> None:
        """Until there is something to read, or never will be."""
        while not (self._received or self._got_fin or self._failure is not None):
            await self._readers.park()

    @property
    def at_end(self) -> bool:
        """Whether everything that will ever come was read."""
        return not self._received and (self._got_fin or self._failure is not None)

    async def write(self, *data: bytes | memoryview) -> None:
        """Hand all of ``data`` to the connection; waits for the peer's window.

        A cancelled write sends whole frames only; what it sent of ``data`` is unknown, so reset the stream
        then. Raises MuxedStreamClosed after :meth:`close`, MuxedStreamReset if the stream or its connection
        broke, or if for idle_seconds the peer took less than :data:`PIECE`.
        """
        async with self._write_lock:
            self._check_writable()
            self._outgoing.extend(memoryview(part) for part in data if part)
            self._taken, self._moved_at = 0, trio.current_time()
            self.muxer.wants_to_send(self)
            try:
                while self._outgoing:
                    await self._writers.park()
                    self._check_writable()
            finally:
                self._outgoing.clear()

    async def close(self) -> None:
        """No more will be written. Reading goes on."""
        await trio.lowlevel.checkpoint()
        if self._failure is None and not self._sent_fin:
            self._sent_fin = True
            self._closed_at = trio.current_time()
            self._writers.unpark_all()
            self.muxer.answer(DATA, FIN, self.stream_id, 0)
            self._forget_if_done()

    async def reset(self) -> None:
        """Drop the stream in both directions and tell the peer."""
        await trio.lowlevel.checkpoint()
        self.abort("reset by this side")

    def abort(self, reason: str) -> None:
        """:meth:`reset` without a checkpoint."""
        if self._failure is not None:
            return  # what arrived before the stream broke stays readable
        if not (self._sent_fin and self._got_fin):
            self.muxer.answer(DATA, RST, self.stream_id, 0)
        self._received.clear()
        self.fail(reason)

    def abandoned_for(self, now: float) -> float:
        """Seconds since this side closed it, if the peer has not and nobody reads it; else 0."""
        waiting = self._sent_fin and not self._got_fin and not len(self._readers)
        return now - self._closed_at if waiting else 0.0

    def stalled_for(self, now: float) -> float:
        """Seconds since the peer took :data:`PIECE` of a write that waits; 0 if none does."""
        return now - self._moved_at if self._outgoing else 0.0

    def set_deadline(self, ttl: int) -> None:
        """Not offered: deadlines are trio's, around the call."""
        raise NotImplementedError("use trio.fail_after")

    def get_remote_address(self) -> tuple[str, int] | None:
        return self.muxer.get_remote_address()

    async def __aenter__(self) -> "YamuxStream":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _check_writable(self) -> None:
        if self._failure is not None:
            raise MuxedStreamReset(self._failure)
        if self._sent_fin:
            raise MuxedStreamClosed("this side closed the stream")

    def _give_back(self, count: int) -> None:
        """Renew the peer's window once half of it was read, and widen it if that took no time."""
        self._consumed += count
        over = self._got_fin or self._failure is not None
        if over or self._consumed < min(self._window // 2, MAX_RENEWAL):
            return
        now = trio.current_time()
        keeps_up, self._renewed_at = now - self._renewed_at < _KEEPS_UP_SECONDS, now
        wider = self.muxer.borrow(min(self._window, MAX_WINDOW - self._window)) if keeps_up else 0
        increment, self._consumed = self._consumed + wider, 0
        self._window += wider
        self._granted += increment
        self.muxer.answer(WINDOW_UPDATE, 0, self.stream_id, increment)

    def _forget_if_done(self) -> None:
        if self._sent_fin and self._got_fin:
            self.muxer.forget(self)

    # -- for the muxer
    @property
    def widened(self) -> int:
        """What of the connection's spare window this stream holds."""
        return self._window - INITIAL_WINDOW

    def expect(self, length: int) -> None:
        """A data frame of ``length`` begins."""
        if length and self._got_fin:
            raise YamuxError("data after the end of a stream")
        if length > self._granted:
            raise YamuxError(f"{length} bytes where the window has {self._granted} left")
        self._granted -= length

    def feed(self, part: memoryview) -> None:
        if self._failure is None:
            self._received.add(part)
            self._readers.unpark_all()

    def credit(self, increment: int) -> None:
        self._credit += increment
        if self._credit > MAX_CREDIT:
            raise YamuxError("a window beyond reason")
        self.muxer.wants_to_send(self)

    def finish(self) -> None:
        """The peer's FIN."""
        self._got_fin = True
        self._readers.unpark_all()
        self._forget_if_done()

    def fail(self, reason: str) -> None:
        """The stream is over in both directions: every wait on it ends."""
        if self._failure is None:
            self._failure = reason
            self.muxer.forget(self)
            self._readers.unpark_all()
            self._writers.unpark_all()

    def enqueue(self) -> bool:
        """Whether to put the stream into the queue of senders, where it stands at most once."""
        over = self._sent_fin or self._failure is not None  # the writer is about to notice
        if self._queued or over or not self._outgoing or self._credit <= 0:
            return False
        self._queued = True
        return True

    def take(self) -> list[memoryview]:
        """The payload of its next frame, empty if it was closed meanwhile; the stream has left the queue."""
        self._queued = False
        if self._sent_fin or self._failure is not None:
            return []
        parts: list[memoryview] = []
        room = min(self._credit, FRAME)
        while room and self._outgoing:
            part = self._outgoing[0][:room]
            parts.append(part)
            room -= len(part)
            if len(part) < len(self._outgoing[0]):
                self._outgoing[0] = self._outgoing[0][len(part) :]
            else:
                self._outgoing.popleft()
        self._count_taken(sum(map(len, parts)))
        return parts

    def _count_taken(self, size: int) -> None:
        self._credit -= size
        self._taken += size
        if self._taken >= PIECE:
            self._taken, self._moved_at = 0, trio.current_time()
        if not self._outgoing:
            self._writers.unpark_all()
