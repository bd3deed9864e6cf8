"""A connection that a relay carries: one of its streams, in the form of a socket's.

What runs over it is what runs over TCP, with the same limits: noise first, so that the relay sees ciphertext.
"""

import trio
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError

from p2pfl.node.hardened.tcp import TcpStream
from p2pfl.node.hardened.yamux_stream import YamuxStream


class CircuitStream(TcpStream):
    """The connection inside ``stream``, which the peer ``relay`` passes on."""

    def __init__(self, stream: YamuxStream, relay: str) -> None:
        self._prepare(_Carried(stream))
        self._carrier = stream
        self._remote = stream.get_remote_address() or ("0.0.0.0", 0)  # noqa: S104 - nobody's
        self.relay = relay

    def abort(self) -> None:
        self._carrier.abort("the connection inside was given up")
        self.closed.set()


class _Carried(trio.abc.Stream):
    def __init__(self, stream: YamuxStream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.write(bytes(data))
        except MuxedStreamError as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            return await self._stream.read(max_bytes)
        except MuxedStreamEOF:
            return b""
        except MuxedStreamError as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def aclose(self) -> None:
        """Both directions end: what was written and not sent yet is dropped with the connection's records."""
        self._stream.abort("the connection inside was closed")
        await trio.lowlevel.checkpoint()
