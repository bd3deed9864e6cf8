"""The libp2p host, assembled from the hardened parts, with the library's traps around them disarmed.

Given through constructor options: transport, security, connection limits. Set on public attributes, because
no option exists: the multiplexer (the class in ``muxer_opt`` is ignored for /yamux/1.0.0), the stream
handler, and what would otherwise act on its own: the auto-connector dials everybody it has heard of, whatever
its watermarks say; the resource manager counts connections that are long gone; the identify observer opens a
stream to every stranger and keeps what he says; the tag store keeps a record of everyone who ever called.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

from libp2p import new_host
from libp2p.abc import IHost, IMuxedConn, ISecureConn
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.identity.identify.identify import ID as IDENTIFY_ID
from libp2p.network.config import ConnectionConfig
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream

from p2pfl.node.hardened.gate import Gate
from p2pfl.node.hardened.noise import NOISE_ID, Noise, NoiseSession
from p2pfl.node.hardened.tcp import Tcp
from p2pfl.node.hardened.yamux import YAMUX_ID, Yamux

MakeMuxer = Callable[[NoiseSession, ID], Yamux]
UPGRADE_SECONDS: Final = 10


class Muxers(MuxerMultistream):
    """Negotiates /yamux/1.0.0 and nothing else, and makes the connection with ``make``.

    With that the handshake is over, and ``tcp`` told so.
    """

    def __init__(self, make: MakeMuxer, tcp: Tcp) -> None:
        super().__init__({TProtocol(YAMUX_ID): Yamux}, UPGRADE_SECONDS)
        self._make = make
        self._tcp = tcp

    async def new_conn(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        protocol, _ = await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout)
        assert isinstance(conn, NoiseSession)
        muxer = self._make(conn, peer_id)
        self._tcp.confirmed(conn.tcp)
        return self._annotate_connection(muxer, conn, protocol)


class _NobodyToDial:
    """Stands where the swarm's auto-connector stood: this node dials whom it is told to."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def run_background_task(self, nursery: object) -> None: ...

    async def maybe_connect(self) -> None: ...

    def record_disconnect(self, peer_id: ID) -> None: ...


def make_host(
    seed: bytes,
    tcp: Tcp,
    refuse: Callable[[ID], str | None],
    make_muxer: MakeMuxer,
    handler: StreamHandlerFn,
    max_connections: int,
) -> IHost:
    """A host with the Ed25519 identity of ``seed`` that dials, listens and accepts with the given parts only.

    ``refuse`` is asked at the gate. The host's table of protocols holds identify and nothing else.
    """
    keys = create_new_key_pair(seed)
    host = new_host(
        key_pair=keys,
        sec_opt={NOISE_ID: Gate(Noise(keys), refuse)},
        transports=[tcp],
        connection_config=ConnectionConfig(
            min_connections=0,
            low_watermark=0,
            high_watermark=max_connections,
            max_connections=max_connections,
            max_connections_per_peer=max_connections,
            inbound_upgrade_timeout=UPGRADE_SECONDS,
            outbound_upgrade_timeout=UPGRADE_SECONDS,
        ),
        disable_identify_address_discovery=True,
    )
    swarm = cast(Swarm, host.get_network())
    swarm.upgrader.muxer_multistream = Muxers(make_muxer, tcp)
    swarm.set_resource_manager(None)
    swarm.auto_connector = cast(Any, _NobodyToDial())
    for notifee in list(swarm.notifees):
        swarm.remove_notifee(notifee)
    for protocol in host.get_mux().get_protocols():
        if protocol is not None and protocol != IDENTIFY_ID:
            host.get_mux().remove_handler(protocol)
    swarm.set_stream_handler(handler)
    return host


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the library's log lines off the operator's screen; what matters is logged by our own modules.

    It reports every failed dial as an error. It also logs through ``logging.debug`` itself, which would
    install a handler that prints to stderr if the root logger has none.
    """
    library = logging.getLogger("libp2p")
    library.setLevel(logging.CRITICAL)
    if not library.handlers:
        library.addHandler(logging.NullHandler())
    root, silence = logging.getLogger(), logging.NullHandler()
    if not root.handlers:
        root.addHandler(silence)
    try:
        yield
    finally:
        root.removeHandler(silence)
