"""A libp2p host that talks to anybody, a little and for a short time: for rendezvous, beside the node's own.

The node's transport admits members and nobody else, and that stays so. Here nobody is admitted and nothing is
kept of a connection but what a protocol's handler keeps.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, cast

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.transport.exceptions import OpenConnectionError
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.node.hardened.guard import ProtocolRefusedError, guarded
from p2pfl.node.hardened.host import make_host, quiet
from p2pfl.node.hardened.noise import NoiseSession
from p2pfl.node.hardened.tcp import Tcp
from p2pfl.node.hardened.wire import WireError
from p2pfl.node.hardened.yamux import Yamux, YamuxLimits
from p2pfl.node.hardened.yamux_stream import YamuxStream
from p2pfl.node.transport.address import dialable, listen_problem, parse_dialable, why_unreachable

if TYPE_CHECKING:  # libp2p's requirements bring stubs of trio that do not know trio.TaskStatus
    from trio_typing import TaskStatus

log = logging.getLogger(__name__)

VISIT_SECONDS: Final = 60.0
"""A connection's whole life."""
VISIT_BYTES: Final = 1 << 18
"""That a visitor may send in it."""
VISIT_STREAMS: Final = 8
MAX_VISITS: Final = 256
"""Connections at a time; one more ends the oldest."""
VISIT_IDLE_SECONDS: Final = 10.0
DIAL_SECONDS: Final = 8.0

Serve = Callable[[PeerId, str, YamuxStream], Awaitable[None]]
"""What a protocol does with a stream: of which peer, from which IP address."""


class OpenHost:
    """Runs once. ``protocols``: what visitors may speak, beside identify."""

    def __init__(
        self, identity: Identity, listen: Sequence[str], protocols: Mapping[TProtocol, Serve]
    ) -> None:
        self._identity = identity
        self._listen = tuple(listen)
        self._protocols = protocols
        self._tcp = Tcp(max_handshakes=MAX_VISITS)
        self._visits: dict[Yamux, None] = {}
        self.addresses: tuple[str, ...] = ()

    async def run(self, *, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started once it listens, if anywhere. Raises NetworkError if it cannot."""
        try:
            bound = [await self._bind(address) for address in self._listen]
            with quiet():
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    self._tcp.serve_in(nursery)
                    host = make_host(
                        self._identity.seed,
                        self._tcp,
                        lambda _: None,
                        self._make_muxer,
                        guarded(self._offered),
                        2 * MAX_VISITS,
                    )
                    self._mux = host.get_mux()
                    for protocol, serve in self._protocols.items():
                        self._mux.add_handler(protocol, _serving(serve))
                    self._swarm = cast(Swarm, host.get_network())
                    async with host.run(bound):
                        self.addresses = dialable(bound, self._identity.peer_id)
                        task_status.started()
                        await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await self._tcp.close()

    async def dial(self, address: str) -> Yamux:
        """A connection to the peer that ``address`` ends in. Raises NetworkError."""
        where, peer = parse_dialable(address)
        try:
            with trio.fail_after(DIAL_SECONDS):
                raw = await self._tcp.dial(where)
                conn = await self._upgraded(raw, peer)
                return cast(Yamux, conn.muxed_conn)
        except trio.TooSlowError:
            error: Exception = OpenConnectionError(f"no answer within {DIAL_SECONDS:g} s")
        except (OpenConnectionError, WireError, ProtocolRefusedError, UnicodeError) as failure:
            error = failure
        raise why_unreachable(address, peer, error)

    async def _upgraded(self, raw: object, peer: PeerId) -> INetStream:
        try:
            return await self._swarm.upgrade_outbound_raw_conn(raw, ID.from_string(peer))  # type: ignore[arg-type, return-value]
        except Exception as error:  # the library lets through what protobuf, cipher and peer make of it
            raise WireError("the handshake failed") from error

    async def _bind(self, address: str) -> Multiaddr:
        try:
            return await self._tcp.bind(Multiaddr(address))
        except (OSError, ValueError, MultiaddrError) as error:
            raise listen_problem(address, error) from error

    async def _offered(self, _stream: INetStream) -> Multiselect:
        return self._mux

    def _make_muxer(self, conn: NoiseSession, peer_id: ID) -> Yamux:
        if len(self._visits) >= MAX_VISITS:
            self._nursery.start_soon(next(iter(self._visits)).close)
        limits = YamuxLimits(VISIT_STREAMS, 0, VISIT_IDLE_SECONDS)
        muxer = Yamux(conn, peer_id, limits, self._ended)
        muxer.limit_received(VISIT_BYTES)
        self._visits[muxer] = None
        self._nursery.start_soon(_end_in_time, muxer)
        return muxer

    def _ended(self, muxer: Yamux) -> None:
        self._visits.pop(muxer, None)


async def _end_in_time(muxer: Yamux) -> None:
    with trio.move_on_after(VISIT_SECONDS):
        await muxer.ended.wait()
    await muxer.close()


def _serving(serve: Serve) -> Callable[[INetStream], Awaitable[None]]:
    async def handle(stream: INetStream) -> None:
        muxed = cast(YamuxStream, stream.muxed_stream)  # type: ignore[attr-defined]  # our own, below the library's
        host, _ = muxed.get_remote_address() or ("", 0)
        await serve(PeerId(str(stream.muxed_conn.peer_id)), host, muxed)

    return handle
