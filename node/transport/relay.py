"""Connections through members that relay: circuit relay v2 of libp2p, between admitted members only.

    dialler ──hop: CONNECT target──▶ relay ──stop: CONNECT source──▶ target
            ◀────────── OK ─────────       ◀───────── OK ───────────
    dialler ◀═══════ noise, yamux, admission, everything else ═════▶ target

The relay passes bytes on; what it carries is encrypted between the two ends, which prove their identities to
each other and admit each other as over any connection. Who is connected to a relay needs no reservation.
What a relay carries is bounded: circuits, bytes and time of each. It never relays over a relayed connection.
"""

import logging
from collections import Counter
from typing import Any, Final, TypeVar, cast

import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb import circuit_pb2 as pb
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError

from p2pfl.crypto.identity import PeerId
from p2pfl.node.hardened.circuit import CircuitStream
from p2pfl.node.hardened.guard import ProtocolRefusedError, open_stream
from p2pfl.node.hardened.wire import WireError, read_delimited, write_delimited
from p2pfl.node.hardened.yamux import Yamux
from p2pfl.node.hardened.yamux_stream import YamuxStream

log = logging.getLogger(__name__)

HOP: Final = TProtocol("/libp2p/circuit/relay/0.2.0/hop")
STOP: Final = TProtocol("/libp2p/circuit/relay/0.2.0/stop")
MAX_CIRCUIT_MESSAGE: Final = 4096
MAX_CIRCUITS: Final = 32
MAX_CIRCUITS_PER_PEER: Final = 8
"""Of those, that one peer has, as either end."""
MAX_CIRCUITS_PER_PAIR: Final = 2
"""Of those, between the same two: one, and another if both call. So one peer leaves room for others."""
CIRCUIT_BYTES: Final = 16 << 30
CIRCUIT_SECONDS: Final = 43_200
CIRCUIT_REPLY_SECONDS: Final = 10
_PASSED_ON: Final = 1 << 18

_M = TypeVar("_M", bound=Any)


class Circuits:
    """The circuits that go through this node."""

    def __init__(self) -> None:
        self._of: Counter[PeerId] = Counter()
        self._between: Counter[frozenset[PeerId]] = Counter()

    def __len__(self) -> int:
        return self._of.total() // 2

    async def answer(self, stream: YamuxStream, source: PeerId, muxers: dict[PeerId, Yamux]) -> None:
        """Serve a hop stream of ``source`` until its circuit ends. ``muxers``: of those connected directly.

        Raises WireError if the peer breaks off, ProtocolRefusedError if it breaks the protocol.
        """
        message = await _read(stream, pb.HopMessage)
        if message.HasField("type") and message.type == pb.HopMessage.RESERVE:
            await _write(stream, _hop_status(pb.OK))
            return
        target = named(message)
        if message.type != pb.HopMessage.CONNECT or target is None:
            await _write(stream, _hop_status(pb.MALFORMED_MESSAGE))
            return
        status = self._refusal(source, target, muxers)
        if status != pb.OK:
            await _write(stream, _hop_status(status))
            return
        both, pair = Counter((source, target)), Counter((frozenset((source, target)),))
        self._of += both
        self._between += pair
        try:
            await self._connect(stream, source, target, muxers[target])
        finally:
            self._of -= both
            self._between -= pair

    def _refusal(self, source: PeerId, target: PeerId, muxers: dict[PeerId, Yamux]) -> int:
        if source not in muxers or source == target:
            return pb.PERMISSION_DENIED
        if target not in muxers:
            return pb.NO_RESERVATION
        of_these = self._between[frozenset((source, target))] < MAX_CIRCUITS_PER_PAIR
        of_each = max(self._of[source], self._of[target]) < MAX_CIRCUITS_PER_PEER
        few = of_these and of_each and len(self) < MAX_CIRCUITS
        return pb.OK if few else pb.RESOURCE_LIMIT_EXCEEDED

    async def _connect(self, stream: YamuxStream, source: PeerId, target: PeerId, muxer: Yamux) -> None:
        try:
            onward = await open_stream(muxer, STOP)
            request = pb.StopMessage(type=pb.StopMessage.CONNECT, limit=_limit())
            request.peer.id = ID.from_string(source).to_bytes()
            await _write(onward, request)
            reply = await _read(onward, pb.StopMessage)
            if reply.type != pb.StopMessage.STATUS or reply.status != pb.OK:
                raise WireError("the target refuses")
        except (WireError, ProtocolRefusedError) as error:
            log.debug("no circuit from %s to %s: %s", source, target, error)
            await _write(stream, _hop_status(pb.CONNECTION_FAILED))
            return
        log.info("relaying between %s and %s", source, target)
        try:
            await _write(stream, _hop_status(pb.OK))
            await _pass_on(stream, onward)
        finally:
            stream.abort("the circuit is over")
            onward.abort("the circuit is over")


async def _pass_on(one: YamuxStream, other: YamuxStream) -> None:
    """Copy both ways until either direction ends, or there has been enough of it."""
    async with trio.open_nursery() as nursery:

        async def copy(source: YamuxStream, sink: YamuxStream) -> None:
            left = CIRCUIT_BYTES
            try:
                while left > 0:
                    parts = await source.read_parts(min(_PASSED_ON, left))
                    left -= sum(map(len, parts))
                    await sink.write(*parts)
            except MuxedStreamError as error:
                if not isinstance(error, MuxedStreamEOF):
                    log.debug("a circuit ended: %s", error)
            nursery.cancel_scope.cancel()

        nursery.cancel_scope.deadline = trio.current_time() + CIRCUIT_SECONDS
        nursery.start_soon(copy, one, other)
        nursery.start_soon(copy, other, one)


async def open_circuit(muxer: Yamux, relay: PeerId, peer: PeerId) -> CircuitStream:
    """A connection to ``peer`` through ``relay``, which ``muxer`` leads to.

    Raises ProtocolRefusedError if it does not relay, WireError if it cannot to that peer.
    """
    stream = await open_stream(muxer, HOP)
    try:
        request = pb.HopMessage(type=pb.HopMessage.CONNECT)
        request.peer.id = ID.from_string(peer).to_bytes()
        await _write(stream, request)
        reply = await _read(stream, pb.HopMessage)
        if reply.type != pb.HopMessage.STATUS or reply.status != pb.OK:
            raise WireError(f"the relay refuses: {_status_name(reply.status)}")
    except BaseException:
        stream.abort("no circuit")
        raise
    return CircuitStream(stream, relay)


async def accept_circuit(stream: YamuxStream, relay: PeerId) -> CircuitStream:
    """The connection that ``relay`` brings on a stop stream. Raises WireError or ProtocolRefusedError."""
    message = await _read(stream, pb.StopMessage)
    if message.type != pb.StopMessage.CONNECT or named(message) is None:
        raise ProtocolRefusedError("not a request to connect")
    await _write(stream, pb.StopMessage(type=pb.StopMessage.STATUS, status=pb.OK))
    return CircuitStream(stream, relay)


def _limit() -> Any:
    return pb.Limit(duration=CIRCUIT_SECONDS, data=CIRCUIT_BYTES)


def _hop_status(status: int) -> Any:
    reply = pb.HopMessage(type=pb.HopMessage.STATUS, status=status)  # type: ignore[arg-type]  # an open enum
    if status == pb.OK:
        reply.limit.CopyFrom(_limit())
    return reply


def _status_name(status: int) -> str:
    return pb.Status.Name(status) if status in pb.Status.values() else str(status)  # type: ignore[arg-type]


def named(message: Any) -> PeerId | None:
    """Whom ``message`` names, if that is somebody."""
    try:
        return PeerId(str(ID(message.peer.id))) if 0 < len(message.peer.id) <= 64 else None
    except ValueError:
        return None


async def _read(stream: YamuxStream, kind: type[_M]) -> _M:
    return parsed(kind, await read_delimited(stream, MAX_CIRCUIT_MESSAGE, CIRCUIT_REPLY_SECONDS))


def parsed(kind: type[_M], data: bytes) -> _M:
    """Raises WireError unless ``data`` is a message of this ``kind``."""
    try:
        return cast(_M, kind.FromString(data))
    except Exception as error:  # protobuf's own, which is no dependency of ours
        raise WireError("not a message of the circuit protocol") from error


async def _write(stream: YamuxStream, message: Any) -> None:
    await write_delimited(stream, message.SerializeToString())
