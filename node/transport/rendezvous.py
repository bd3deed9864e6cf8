"""A rendezvous: the place where members of federations leave their addresses for each other.

It is a Kademlia node that keeps what providers say of themselves, for some hours, in memory, and tells
whoever asks by the same key. It knows no federation: a key is a hash. Anybody may run one, and anybody may
use it, so everything is bounded, and one visitor's records make room before anybody else's do.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio
from libp2p.kad_dht.pb.kademlia_pb2 import Message

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.node.errors import UserError
from p2pfl.node.hardened.allowance import place_of
from p2pfl.node.hardened.wire import WireError, read_delimited, write_delimited
from p2pfl.node.hardened.yamux_stream import YamuxStream
from p2pfl.node.stop_signals import stop_signals
from p2pfl.node.transport.kademlia import KADEMLIA, addresses_untrusted, described, parse_message, peer_named
from p2pfl.node.transport.open_host import VISIT_IDLE_SECONDS, OpenHost

if TYPE_CHECKING:  # libp2p's requirements bring stubs of trio that do not know trio.TaskStatus
    from trio_typing import TaskStatus

log = logging.getLogger(__name__)

RECORD_SECONDS: Final = 86_400.0
MAX_RECORDS: Final = 8192
MAX_RECORDS_OF_A_HOST: Final = 128
"""Left from one IPv4 address or IPv6 /64; one more replaces the oldest of them."""
MAX_RECORDS_TOLD: Final = 64
MAX_REQUEST: Final = 8192
MAX_KEY: Final = 128
REQUESTS_OF_A_STREAM: Final = 16


@dataclass(frozen=True, slots=True)
class _Record:
    addresses: tuple[str, ...]
    host: str
    until: float


class Records:
    """Who said to be where; the oldest first. What a request costs does not grow with what is kept: anybody
    may send thousands.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[bytes, PeerId], _Record] = {}
        self._at: dict[bytes, dict[PeerId, _Record]] = {}  # the same, by key
        self._from: dict[str, dict[tuple[bytes, PeerId], None]] = {}  # and by who left them

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, key: bytes, peer: PeerId, addresses: Sequence[str], host: str) -> None:
        """``peer``, which calls from the IP address ``host``, is at ``addresses``, in the place of what it
        said before.
        """
        now, host = trio.current_time(), place_of(host)
        while self._kept and next(iter(self._kept.values())).until <= now:
            self._drop(*next(iter(self._kept)))
        if (key, peer) in self._kept:
            self._drop(key, peer)
        if len(own := self._from.get(host, {})) >= MAX_RECORDS_OF_A_HOST:
            self._drop(*next(iter(own)))
        if len(self._kept) >= MAX_RECORDS:
            crowd = max(self._from.values(), key=len)
            self._drop(*next(iter(crowd)))
        record = _Record(tuple(addresses), host, now + RECORD_SECONDS)
        self._kept[key, peer] = self._at.setdefault(key, {})[peer] = record
        self._from.setdefault(host, {})[key, peer] = None

    def _drop(self, key: bytes, peer: PeerId) -> None:
        host = self._kept.pop((key, peer)).host
        del self._at[key][peer], self._from[host][key, peer]
        if not self._at[key]:
            del self._at[key]
        if not self._from[host]:
            del self._from[host]

    def of(self, key: bytes) -> dict[PeerId, tuple[str, ...]]:
        """Those who are at ``key``, so many as fit an answer: the latest from each place, then the one before
        from each, so that nobody hides the others behind many names of its own.
        """
        now, turns = trio.current_time(), Counter[str]()
        found: list[tuple[int, PeerId, tuple[str, ...]]] = []
        for peer, record in reversed(self._at.get(key, {}).items()):
            if record.until > now:
                found.append((turns[record.host], peer, record.addresses))
                turns[record.host] += 1
        found.sort(key=lambda each: each[0])
        return {peer: addresses for _, peer, addresses in found[:MAX_RECORDS_TOLD]}


class RendezvousPoint:
    """Runs once; :attr:`addresses` is where others find it."""

    def __init__(self, identity: Identity, listen: Sequence[str]) -> None:
        self.records = Records()
        self._host = OpenHost(identity, listen, {KADEMLIA: self._serve})

    async def run(self, *, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started once it listens. Raises NetworkError if it cannot."""
        await self._host.run(task_status=task_status)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its own, each with its peer id."""
        return self._host.addresses

    async def _serve(self, peer: PeerId, host: str, stream: YamuxStream) -> None:
        for _ in range(REQUESTS_OF_A_STREAM):
            with trio.move_on_after(VISIT_IDLE_SECONDS) as waiting:
                await stream.wait_for_more()
            if waiting.cancelled_caught or stream.at_end:
                return
            request = parse_message(await read_delimited(stream, MAX_REQUEST, VISIT_IDLE_SECONDS))
            reply = self._answer(peer, host, request)
            if reply is not None:
                await write_delimited(stream, reply.SerializeToString())

    def _answer(self, peer: PeerId, host: str, request: Message) -> Message | None:
        """Raises WireError for what nobody asks a rendezvous."""
        key = request.key
        if request.type == Message.PING:
            return Message(type=Message.PING)
        if not 0 < len(key) <= MAX_KEY:
            raise WireError("a key of no or too many bytes")
        if request.type == Message.ADD_PROVIDER:
            self._keep(peer, host, request)
            return None
        if request.type not in (Message.GET_PROVIDERS, Message.FIND_NODE):
            raise WireError("nothing that a rendezvous does")
        reply = Message(type=request.type, key=key)
        if request.type == Message.GET_PROVIDERS:
            reply.providerPeers.extend(described(*each) for each in self.records.of(key).items())
        return reply

    def _keep(self, peer: PeerId, host: str, request: Message) -> None:
        for provider in request.providerPeers[:1]:
            addresses = addresses_untrusted(provider.addrs)
            if peer_named(provider) == peer and addresses:
                self.records.keep(request.key, peer, addresses, host)
                log.info("%s is at a key; %d records", peer, len(self.records))


def run_rendezvous(identity: Identity, listen: Sequence[str], listening: Callable[[str], object]) -> int:
    """Serve until a signal ends it; how many records there were then. ``listening`` is told every address.

    Raises NetworkError if it cannot listen.
    """
    point = RendezvousPoint(identity, listen)

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            with trio.open_signal_receiver(*stop_signals()) as signals:
                await nursery.start(point.run)
                for address in point.addresses:
                    listening(address)
                await signals.__anext__()
                nursery.cancel_scope.cancel()

    try:
        trio.run(serve)
    except* UserError as errors:
        error: BaseException = errors
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
    return len(point.records)
