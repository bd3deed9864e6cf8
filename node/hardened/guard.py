"""Inbound streams: which protocols a connection may use, and a wall around whatever handles them.

In the library an exception in one stream's handler, or one protocol name that is not UTF-8, tears down the
whole host; a handler that returns without closing leaves the other side waiting for ever; and a negotiation
may announce and send any number of bytes. Here every stream is negotiated under a deadline and a budget,
handled inside the wall, and closed or reset when its handler is done.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.abc import ReadWriteCloser
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamError
from libp2p.utils import encode_delim

from p2pfl.node.hardened.wire import WireError
from p2pfl.node.hardened.yamux import Yamux
from p2pfl.node.hardened.yamux_stream import YamuxStream

log = logging.getLogger(__name__)

NEGOTIATION_SECONDS: Final = 10
NEGOTIATION_BYTES: Final = 4096
_MAX_LINE: Final = 1023
_MULTISTREAM: Final = b"/multistream/1.0.0\n"


class ProtocolRefusedError(Exception):
    """The peer does not speak the protocol asked for, or not now, or not with us."""


_PEERS_DOING: Final = (BaseLibp2pError, ProtocolRefusedError, WireError, UnicodeDecodeError)


def guarded(protocols: Callable[[INetStream], Awaitable[Multiselect]]) -> StreamHandlerFn:
    """The handler to give to a network. ``protocols`` says which ones a stream may choose from."""

    async def handle(stream: INetStream) -> None:
        try:
            offered = await protocols(stream)
            communicator = MultiselectCommunicator(_Budgeted(stream))
            protocol, handler = await offered.negotiate(communicator, NEGOTIATION_SECONDS)
            if protocol is None or handler is None:
                raise ProtocolRefusedError("no protocol was selected")
            stream.set_protocol(protocol)
            await handler(stream)
            await stream.close()
        except _PEERS_DOING as error:
            log.debug("stream of %s ended: %s", stream.muxed_conn.peer_id, error)
            await stream.reset()
        except Exception:  # a bug of ours; this is the wall
            log.exception("stream of %s", stream.muxed_conn.peer_id)
            await stream.reset()

    return handle


class _Budgeted(ReadWriteCloser):
    """A stream during negotiation: the names of protocols are short."""

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream
        self._left = NEGOTIATION_BYTES

    async def read(self, n: int | None = None) -> bytes:
        if self._left <= 0:
            raise ProtocolRefusedError("the negotiation never ends")
        data = await self._stream.read(self._left if n is None else min(n, self._left))
        self._left -= len(data)
        return data

    async def write(self, data: bytes) -> None:
        await self._stream.write(data)

    async def close(self) -> None:
        await self._stream.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        return self._stream.get_remote_address()


async def open_stream(muxer: Yamux, protocol: TProtocol) -> YamuxStream:
    """A stream of our own that speaks ``protocol``, in one round trip.

    Raises ProtocolRefusedError or WireError.
    """
    try:
        stream = await muxer.open_stream()
    except MuxedConnUnavailable as error:
        raise WireError(str(error)) from error
    try:
        await _negotiate(stream, protocol)
    except BaseException:
        stream.abort("the negotiation failed")
        raise
    return stream


async def _negotiate(stream: YamuxStream, protocol: TProtocol) -> None:
    try:
        with trio.fail_after(NEGOTIATION_SECONDS):
            await stream.write(encode_delim(_MULTISTREAM[:-1]) + encode_delim(protocol.encode()))
            agreed = [await _line(stream), await _line(stream)]
    except MuxedStreamError as error:
        raise WireError(f"the stream ended early: {error}") from error
    except trio.TooSlowError:
        raise WireError(f"no answer within {NEGOTIATION_SECONDS} s") from None
    if agreed != [_MULTISTREAM, protocol.encode() + b"\n"]:
        raise ProtocolRefusedError(f"the peer does not offer {protocol}")


async def _line(stream: YamuxStream) -> bytes:
    """One line of multistream-select, with its end: a length below 2^14 as a varint, and that many bytes."""
    size = (await stream.read(1))[0]
    if size & 0x80:
        size = size & 0x7F | (await stream.read(1))[0] << 7
    if size > _MAX_LINE:
        raise ProtocolRefusedError("not an answer of multistream-select")
    line = b""
    while len(line) < size:
        line += await stream.read(size - len(line))
    return line
