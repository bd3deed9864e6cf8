"""Transports over real sockets on loopback, with admission by fakes."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import trio
import trio.testing

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.node.hardened.guard import open_stream
from p2pfl.node.hardened.yamux_stream import YamuxStream
from p2pfl.node.transport.network import Limits, PeerConnected, Responder, Transport, TransportEvent
from p2pfl.node.transport.session import Session

ANYWHERE = "/ip4/127.0.0.1/tcp/0"
PREFIX = "/p2pfl/test"
T = TypeVar("T", bound=TransportEvent)


def identity(number: int) -> Identity:
    return Identity.from_seed(number.to_bytes(32, "big"))


@dataclass
class Club:
    """Admits those who say the password; ``banned`` are not even listened to."""

    password: bytes = b"hello"
    banned: set[PeerId] = field(default_factory=set)
    says: bytes | None = None

    def at_handshake(self, peer: PeerId) -> str | None:
        return "banned" if peer in self.banned else None

    def greeting(self) -> bytes:
        return self.password if self.says is None else self.says

    def judge(self, peer: PeerId, greeting: bytes) -> str | None:
        return None if greeting == self.password else f"{greeting.decode()!r} is not the password"


async def echo(peer: PeerId, body: bytes) -> bytes:
    return body


def transport(
    number: int,
    club: Club | None = None,
    requests: Mapping[str, Responder] | None = None,
    listen: tuple[str, ...] = (ANYWHERE,),
    *,
    relay: bool = False,
    network_key: bytes | None = None,
    is_proved: Callable[[PeerId], bool] = lambda _: True,
    **limits: Any,
) -> Transport:
    return Transport(
        identity(number),
        listen,
        club or Club(),
        PREFIX,
        Limits(**limits),
        requests or {"echo": echo},
        relay=relay,
        network_key=network_key,
        is_proved=is_proved,
    )


@asynccontextmanager
async def running(*transports: Transport) -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        for each in transports:
            await nursery.start(each.run)
        yield nursery
        nursery.cancel_scope.cancel()


async def next_of(node: Transport, kind: type[T]) -> T:
    """The next event of ``kind``; what comes before it is dropped."""
    while True:
        event = await node.events.receive()
        if isinstance(event, kind):
            return event


async def until(condition: Callable[[], bool], every: float = 0.001) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for lies inside, and has no event of its own
        await trio.sleep(every)


async def drain(node: Transport) -> None:
    async for _ in node.events:
        pass


def run(test: Callable[[], Awaitable[None]], seconds: float = 20) -> None:
    async def bounded() -> None:
        with trio.fail_after(seconds):
            await test()

    trio.run(bounded)


def run_in_virtual_time(test: Callable[[], Awaitable[None]]) -> None:
    """Time passes only when everybody waits, and no bytes are on their way."""

    async def bounded() -> None:
        with trio.fail_after(600):
            await test()

    trio.run(bounded, clock=trio.testing.MockClock(autojump_threshold=0.03))


def read_slowly(node: Transport, peer: PeerId, most: int, seconds: float) -> None:
    """From now on ``node`` takes ``most`` bytes of its socket to ``peer`` every ``seconds``."""
    stream: Any = node._sessions[peer].link.tcp._stream
    receive_some = stream.receive_some

    async def slowly(_: int) -> bytes | bytearray:
        await trio.sleep(seconds)
        data: bytes | bytearray = await receive_some(most)
        return data

    stream.receive_some = slowly


class Rough(Transport):
    """A peer whose messages the test itself writes."""

    _opened: YamuxStream | None = None

    async def _write_messages(self, session: Session) -> None:
        self._opened = await open_stream(session.link.muxer, self._protocol("messages"))

    async def stream(self) -> YamuxStream:
        """Where it writes them."""
        await until(lambda: self._opened is not None)
        assert self._opened is not None
        return self._opened


def rough_transport(number: int) -> Rough:
    return Rough(identity(number), (ANYWHERE,), Club(), PREFIX, Limits(), {})


async def pair(*transports: Transport) -> None:
    await transports[0].connect(transports[1].addresses[0])
    for each in transports:
        await next_of(each, PeerConnected)
