"""Opening connections: over TCP or through a relay, up to admission; and to see whether somebody answers."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import trio
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.transport.exceptions import OpenConnectionError

from p2pfl.crypto.identity import PeerId
from p2pfl.node.hardened.guard import ProtocolRefusedError
from p2pfl.node.hardened.tcp import Tcp
from p2pfl.node.hardened.wire import WireError
from p2pfl.node.hardened.yamux import Yamux
from p2pfl.node.transport.address import first_allowed, parse_dialable, why_unreachable
from p2pfl.node.transport.reception import Reception
from p2pfl.node.transport.relay import open_circuit
from p2pfl.node.transport.session import Link, Session
from p2pfl.node.transport.types import Unreachable


class Calls:
    """Dials for the transport, each address once at a time and for at most ``seconds``.

    ``network``    libp2p's, once it runs; ``link_of`` is the link of a multiplexer that it made
    ``reception``  goes through admission on a new link
    """

    def __init__(
        self,
        tcp: Tcp,
        seconds: float,
        network: Callable[[], Swarm],
        link_of: Callable[[Yamux], Link],
        reception: Reception,
    ) -> None:
        self._tcp = tcp
        self._seconds = seconds
        self._network = network
        self._link_of = link_of
        self._reception = reception
        self._dialling: dict[str, trio.Event] = {}

    async def call(self, address: str, is_here: Callable[[PeerId], bool]) -> PeerId:
        """Be admitted at ``address``, unless its peer ``is_here``. Raises Unreachable or AdmissionRefused."""
        where, peer = parse_dialable(address)
        while address in self._dialling:
            await self._dialling[address].wait()
        if is_here(peer):
            return peer
        done = self._dialling[address] = trio.Event()
        try:
            await self._connect(address, peer, lambda: self._tcp.dial(where))
        finally:
            del self._dialling[address]
            done.set()
        return peer

    async def call_through(self, relay: Session, peer: PeerId) -> None:
        """Be admitted by ``peer`` on a circuit through ``relay``. Raises Unreachable or AdmissionRefused."""

        async def dial() -> RawConnection:
            try:
                return RawConnection(await open_circuit(relay.link.muxer, relay.peer, peer), True)
            except ProtocolRefusedError as error:
                relay.relays = False
                raise OpenConnectionError("that peer does not relay") from error
            except WireError as error:
                raise OpenConnectionError(str(error)) from error

        await self._connect(f"/p2p/{relay.peer}/p2p-circuit/p2p/{peer}", peer, dial)

    async def probe(self, address: str, may_dial: Callable[[str], bool]) -> None:
        """A handshake at ``address`` and no more, with an IP address that it ``may_dial``.

        Raises Unreachable.
        """
        where, peer = parse_dialable(address)
        with self._explaining(address, peer):
            raw = await self._tcp.dial(await first_allowed(where, may_dial))
            try:
                await self._network().upgrader.upgrade_security(raw, True, ID.from_string(peer))
            except Exception as error:
                raise WireError("the handshake failed") from error
            finally:
                with trio.CancelScope(shield=True):
                    await raw.close()

    async def _connect(self, address: str, peer: PeerId, dial: Callable[[], Awaitable[Any]]) -> None:
        link: Link | None = None
        with self._explaining(address, peer):
            raw = await dial()
            try:
                link = await self._upgrade(raw, peer)
                await self._reception.introduce(link)
            finally:
                if link is None or not link.admitted:
                    with trio.CancelScope(shield=True):
                        await raw.close()

    @contextmanager
    def _explaining(self, address: str, peer: PeerId) -> Iterator[None]:
        """Bound the time of a dial, and put its failure into words."""
        try:
            with trio.fail_after(self._seconds):
                yield
        except trio.TooSlowError:
            raise Unreachable(address, f"no answer within {self._seconds:g} s") from None
        except (OpenConnectionError, WireError, ProtocolRefusedError, UnicodeError) as error:
            raise why_unreachable(address, peer, error) from None

    async def _upgrade(self, raw: Any, peer: PeerId) -> Link:
        try:
            conn = await self._network().upgrade_outbound_raw_conn(raw, ID.from_string(peer))
            return self._link_of(cast(Yamux, conn.muxed_conn))
        except Exception as error:  # the library lets through what protobuf, cipher and peer make of it
            raise WireError("the handshake failed") from error
