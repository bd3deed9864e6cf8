"""TCP below libp2p: sockets nobody else can share, buffered reads, a bound on half-open connections.

The library binds with SO_REUSEPORT, so a second daemon on the same port starts without a word and takes half
of the first one's connections; it issues one system call for every two-byte length; and it keeps the slot of
an inbound connection for ever, so that none is accepted after the 250th. None of that is inherited here.
"""

import errno
import ipaddress
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from math import inf
from typing import Final

import trio
from libp2p.abc import IListener, IRawConnection, ITransport
from libp2p.custom_types import THandler
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.transport.exceptions import OpenConnectionError
from multiaddr import Multiaddr

from p2pfl.node.hardened.allowance import Arrivals

log = logging.getLogger(__name__)

READ_AHEAD: Final = 1 << 18
HANDSHAKE_READ_AHEAD: Final = 1 << 12
HANDSHAKE_BYTES: Final = 1 << 16
"""What a peer may send, and make us send, before it has proved who it is: negotiation and noise messages fit
many times."""
HANDSHAKE_SECONDS: Final = 15
UNSENT: Final = 1 << 18
"""Bytes that the kernel holds for a peer and has not begun to send: little, so that on a slow line an answer,
or the ping that finds out whether the peer lives, does not wait behind megabytes."""

_NOTHING: Final = memoryview(b"")
_QUIET_SECONDS: Final = 10.0
_MOST_OF_A_NAME: Final = 8
_NEXT_SECONDS: Final = 4.0
_HOSTS: Final = ("ip4", "ip6", "dns", "dns4", "dns6")


class TcpStream(ReadWriteCloser):
    """One connection. Reads are buffered; ``sent`` and ``received`` count bytes on the wire.

    Until :meth:`confirm` each side may send no more than :data:`HANDSHAKE_BYTES`: a peer that asks for many
    answers and reads none of them would otherwise hold a blocked write.

    ``relay`` is the peer id of the member that carries it, if it is not a socket (:mod:`.circuit`).
    """

    relay: str | None = None
    accepted: bool = False  # as a stranger's, see Tcp.admitted

    def __init__(self, stream: trio.SocketStream) -> None:
        self._prepare(stream)
        stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NOTSENT_LOWAT, UNSENT)
        name = stream.socket.getpeername()
        self._remote = (str(name[0]), int(name[1]))

    def _prepare(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._buffer = _NOTHING
        self.confirmed = False
        self.closed = trio.Event()
        self.sent = 0
        self.received = 0

    def confirm(self) -> None:
        """The peer is who it should be: lift the limit of the handshake."""
        self.confirmed = True

    async def read(self, n: int | None = None) -> bytes:
        """Up to ``n`` bytes (what is there, if None), b"" at the end.

        Raises ConnectionClosedError if it broke.
        """
        return bytes(await self._read(n))

    async def _read(self, n: int | None) -> memoryview:
        if n == 0:
            return self._buffer[:0]
        if not self._buffer:
            self._buffer = memoryview(await self._receive())
        data = self._buffer[:n]
        self._buffer = self._buffer[len(data) :] or _NOTHING  # an empty view would keep what it looks at
        return data

    async def read_exactly(self, n: int) -> bytes | memoryview:
        """``n`` bytes, or none if the stream ended before the first; in place, if they lie in one piece.

        Raises ConnectionClosedError if it broke in between.
        """
        data = await self._read(n)
        if len(data) == n or not data:
            return data
        parts, missing = [data], n - len(data)
        while missing:
            data = await self._read(missing)
            if not data:
                raise ConnectionClosedError("the connection ended inside a record", transport="tcp")
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)

    async def _receive(self) -> bytes:
        try:
            data = await self._stream.receive_some(READ_AHEAD if self.confirmed else HANDSHAKE_READ_AHEAD)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError(_sentence(error), transport="tcp") from error
        self.received += len(data)
        self._check_handshake(self.received)
        return bytes(data)

    def _check_handshake(self, total: int) -> None:
        if not self.confirmed and total > HANDSHAKE_BYTES:
            raise ConnectionClosedError(
                f"more than {HANDSHAKE_BYTES} bytes before the handshake was done", transport="tcp"
            )

    async def write(self, data: bytes | memoryview) -> None:
        """Send all of ``data``.

        A cancelled write leaves the connection unusable: only the muxer's writer may be cancelled.
        """
        self._check_handshake(self.sent + len(data))
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError(_sentence(error), transport="tcp") from error
        self.sent += len(data)

    async def close(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self.closed.set()

    def abort(self) -> None:
        """Close at once, from outside the tasks that use the stream; they see ConnectionClosedError."""
        assert isinstance(self._stream, trio.SocketStream)
        self._stream.socket.close()
        self.closed.set()

    def get_remote_address(self) -> tuple[str, int]:
        return self._remote


def _sentence(error: Exception) -> str:
    """The operating system's reason if there is one."""
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else None
    return (cause.strerror or str(cause)).lower() if cause is not None else "the connection is closed"


class Tcp(ITransport):
    """Dials and listens. :meth:`bind` opens the sockets before libp2p starts: its errors are the operator's.

    ``max_handshakes`` bounds the accepted connections that have not finished their handshake. ``wrap`` makes
    a connection of a socket, and ``welcome`` is awaited before an accepted one is spoken to; it may raise
    ConnectionClosedError, whose reason is then logged.
    """

    def __init__(
        self,
        max_handshakes: int,
        wrap: Callable[[trio.SocketStream], "TcpStream"] = TcpStream,
        welcome: Callable[["TcpStream"], Awaitable[None]] | None = None,
    ) -> None:
        self._wrap, self._welcome = wrap, welcome
        self._said_at = -inf
        self._nursery: trio.Nursery | None = None
        self._max_handshakes = max_handshakes
        self._bound: dict[str, list[trio.SocketListener]] = {}
        self._handshakes: dict[TcpStream, None] = {}
        self._handler: THandler | None = None

    async def bind(self, address: Multiaddr) -> Multiaddr:
        """Open the listening socket of ``/ip4|ip6/…/tcp/…``; return the address with its real port.

        Raises OSError if the operating system refuses, ValueError if the address is not of that form.
        """
        names = [protocol.name for protocol in address.protocols()]
        if names not in (["ip4", "tcp"], ["ip6", "tcp"]):
            raise ValueError("not of the form /ip4/<address>/tcp/<port>")
        host, port = host_and_port(address)
        listeners = await trio.open_tcp_listeners(port, host=host)
        port = listeners[0].socket.getsockname()[1]
        bound = Multiaddr(f"/{names[0]}/{host}/tcp/{port}")
        self._bound[str(bound)] = list(listeners)
        return bound

    def serve_in(self, nursery: trio.Nursery) -> None:
        """Where the accepted connections live. To be said before libp2p listens."""
        self._nursery = nursery
        self._arrivals = Arrivals(trio.current_time())

    async def close(self) -> None:
        """Close the listening sockets."""
        for listeners in self._bound.values():
            for listener in listeners:
                await listener.aclose()
        self._bound.clear()

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        """Connect. Names are resolved by the operating system. Raises OpenConnectionError with its reason."""
        try:
            stream = await _connected(maddr)
        except OSError as error:
            raise OpenConnectionError(_dial_reason(error)) from error
        return RawConnection(self._wrap(stream), True)

    def create_listener(self, handler_function: THandler) -> IListener:
        self._handler = handler_function
        return _Listener(self, handler_function)

    async def serve_carried(self, stream: TcpStream) -> None:
        """Treat ``stream``, which a relay carries, like a connection accepted here, until it ends."""
        if self._handler is None:
            await stream.close()
        else:
            await self._serve_stream(stream, self._handler)

    def can_dial(self, maddr: Multiaddr) -> bool:
        names = [protocol.name for protocol in maddr.protocols() if protocol.name != "p2p"]
        return len(names) == 2 and names[0] in _HOSTS and names[1] == "tcp"

    def can_listen(self, maddr: Multiaddr) -> bool:
        return str(maddr) in self._bound

    def protocols(self) -> list[str]:
        return ["tcp"]

    def start_accepting(self, maddr: Multiaddr, handler: THandler) -> trio.CancelScope:
        """Accept at ``maddr``, which :meth:`bind` opened, until what is returned is cancelled."""
        assert self._nursery is not None
        listeners = self._bound[str(maddr)]

        async def serve(stream: trio.SocketStream) -> None:
            await self._serve(stream, handler)

        async def accept() -> None:
            with scope:
                await trio.serve_listeners(serve, listeners, handler_nursery=self._nursery)

        scope = trio.CancelScope()
        self._nursery.start_soon(accept)
        return scope

    def admitted(self, stream: TcpStream) -> None:
        """Who is behind ``stream`` is a member."""
        if stream.accepted:
            stream.accepted = False  # it is counted once
            self._arrivals.admitted(stream.get_remote_address()[0], trio.current_time())

    def confirmed(self, stream: TcpStream) -> None:
        """The handshake of ``stream`` is done."""
        stream.confirm()
        self._handshakes.pop(stream, None)

    async def _serve(self, socket: trio.SocketStream, handler: THandler) -> None:
        try:
            stream = self._wrap(socket)
        except OSError:
            await trio.aclose_forcefully(socket)
            return
        if not self._arrivals.may_come(stream.get_remote_address()[0], trio.current_time()):
            await trio.aclose_forcefully(socket)
            return
        stream.accepted = True
        await self._serve_stream(stream, handler)

    async def _serve_stream(self, stream: TcpStream, handler: THandler) -> None:
        """Run the swarm's handler while the connection is open; by itself it would wait for ever."""
        self._handshakes[stream] = None
        if len(self._handshakes) > self._max_handshakes:
            oldest = next(iter(self._handshakes))  # a handshake takes milliseconds: this one stalls
            del self._handshakes[oldest]
            oldest.abort()

        async def handle() -> None:
            try:
                if await self._is_welcome(stream):
                    await handler(stream)
            except Exception as error:  # noqa: BLE001 - whatever it is, it must end this connection only
                log.debug("connection from %s failed: %r", stream.get_remote_address()[0], error)
            with suppress(ConnectionClosedError):
                await stream.close()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(handle)
                with trio.move_on_after(HANDSHAKE_SECONDS):
                    await stream.closed.wait()
                if stream.confirmed:
                    await stream.closed.wait()
                else:
                    stream.abort()
                nursery.cancel_scope.cancel()
        finally:
            self._handshakes.pop(stream, None)

    async def _is_welcome(self, stream: TcpStream) -> bool:
        if self._welcome is None or stream.relay is not None:
            return True
        try:
            await self._welcome(stream)
        except ConnectionClosedError as error:
            if trio.current_time() >= self._said_at + _QUIET_SECONDS:  # scans of ports do not fill logs
                self._said_at = trio.current_time()
                log.warning("hung up on %s: %s", stream.get_remote_address()[0], error)
            return False
        return True


class _Listener(IListener):
    def __init__(self, tcp: Tcp, handler: THandler) -> None:
        self._tcp = tcp
        self._handler = handler
        self._accepting: list[trio.CancelScope] = []
        self._addresses: list[Multiaddr] = []

    async def listen(self, maddr: Multiaddr) -> None:
        self._accepting.append(self._tcp.start_accepting(maddr, self._handler))
        self._addresses.append(maddr)

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        return tuple(self._addresses)

    async def close(self) -> None:
        for scope in self._accepting:
            scope.cancel()


async def resolve(address: Multiaddr) -> list[str]:
    """The IP addresses that ``address`` leads to: itself, or those of its name, of the family that it says.

    Raises OSError if a name has none, UnicodeError if it cannot be one.
    """
    host, port = host_and_port(address)
    name = next(iter(address.protocols())).name
    if name in ("ip4", "ip6"):
        return [host]
    family = {"dns4": trio.socket.AF_INET, "dns6": trio.socket.AF_INET6}.get(name, trio.socket.AF_UNSPEC)
    found = await trio.socket.getaddrinfo(host, port, family, trio.socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))[:_MOST_OF_A_NAME]


async def _connected(address: Multiaddr) -> trio.SocketStream:
    """A connection to the first IP address of ``address`` that answers; a silent one delays the next little.

    Raises OSError with what the first one said.
    """
    host, port = host_and_port(address)
    if not str(address).startswith(("/dns4/", "/dns6/")):
        return await trio.open_tcp_stream(host, port)
    failures: list[OSError] = []
    for ip in await resolve(address):
        try:
            with trio.fail_after(_NEXT_SECONDS):
                return await trio.open_tcp_stream(ip, port)
        except trio.TooSlowError:
            failures.append(OSError(errno.ETIMEDOUT, "it does not answer"))
        except OSError as error:
            failures.append(error)
    raise failures[0] if failures else OSError(errno.EADDRNOTAVAIL, "the name has no address")


def host_and_port(address: Multiaddr) -> tuple[str, int]:
    """What to connect to or bind. Raises ValueError if the address names no host or no TCP port."""
    names = {protocol.name for protocol in address.protocols()}
    host_name = next((name for name in _HOSTS if name in names), None)
    if host_name is None or "tcp" not in names:
        raise ValueError("names no host and TCP port")
    return str(address.value_for_protocol(host_name)), int(str(address.value_for_protocol("tcp")))


def expand_wildcard(address: Multiaddr, interfaces: Sequence[str]) -> list[Multiaddr]:
    """What others can dial: 0.0.0.0 and :: stand for those of ``interfaces`` (IP texts) of their family."""
    host, port = host_and_port(address)
    try:
        wildcard = ipaddress.ip_address(host)
    except ValueError:
        return [address]
    if not wildcard.is_unspecified:
        return [address]
    family = [ip for ip in interfaces if ipaddress.ip_address(ip).version == wildcard.version]
    return [Multiaddr(f"/ip{wildcard.version}/{ip}/tcp/{port}") for ip in family] or [address]


def _dial_reason(error: OSError) -> str:
    """The operating system's words.

    trio puts its own around them, and bundles one error for each address it tried; the first says enough.
    """
    cause: BaseException = error
    while isinstance(cause.__cause__, OSError | BaseExceptionGroup):
        cause = cause.__cause__
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
    if isinstance(cause, OSError) and (cause.errno or 0) > 0:
        return os.strerror(cause.errno or 0).lower()
    return (getattr(cause, "strerror", None) or str(cause)).lower()
