"""The daemon's network: admitted peers, messages to and from them, requests and answers. libp2p ends here.

    dial or accept ─ noise ─ gate ─ yamux ─ guest ─ /p2pfl/admission/1 ─ peer ─┬─ <prefix>/messages/1
                              │                 └── refused, with the reason   └─ <prefix>/request/<name>/1
                              └── refused, without a word

A connection begins as a *guest*: it may use identify, ping and the admission protocol, for a few seconds and
a few bytes. Admission is mutual (:mod:`.exchange` has the words). Only then do the federation's
protocols exist for the peer, and its connecting is reported.

Each side sends messages on one long-lived stream, as frames of four bytes of length and the message. Sending
never waits: a peer that does not take what is queued for it is disconnected. Requests and answers, up to
hundreds of megabytes, have a stream each, and a length and a SHA-256 with every body. What all of this may
cost, before and after admission, is in docs/transport.md.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import trio
from libp2p.abc import IHost, INetStream
from libp2p.custom_types import TProtocol
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect import Multiselect
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.gossip.errors import LocalProtocolError
from p2pfl.node.hardened.gate import RefusedAtGateError
from p2pfl.node.hardened.guard import ProtocolRefusedError, guarded, open_stream
from p2pfl.node.hardened.host import make_host, quiet
from p2pfl.node.hardened.keyed import keyed
from p2pfl.node.hardened.noise import NoiseSession
from p2pfl.node.hardened.tcp import Tcp
from p2pfl.node.hardened.wire import WireError, read_frame, write_frames
from p2pfl.node.hardened.yamux import Yamux, YamuxLimits
from p2pfl.node.hardened.yamux_stream import YamuxStream
from p2pfl.node.transport.address import dialable, listen_problem
from p2pfl.node.transport.dialling import Calls
from p2pfl.node.transport.exchange import Responder, answer, answer_pings, ask
from p2pfl.node.transport.reception import ADMISSION, Reception
from p2pfl.node.transport.relay import HOP, STOP, Circuits, accept_circuit
from p2pfl.node.transport.session import MOST_REPLACED, EventQueue, Link, Room, Session
from p2pfl.node.transport.types import (
    Admission,
    AdmissionRefused,
    GuestRefused,
    Limits,
    MessageReceived,
    PeerConnected,
    PeerDisconnected,
    RequestFailed,
    RequestRefused,
    Traffic,
    TransportEvent,
    Unreachable,
)

if TYPE_CHECKING:  # libp2p's requirements bring stubs of trio that do not know trio.TaskStatus
    from trio_typing import TaskStatus

__all__ = [
    "Admission",
    "AdmissionRefused",
    "GuestRefused",
    "Limits",
    "MessageReceived",
    "PeerConnected",
    "PeerDisconnected",
    "RequestFailed",
    "RequestRefused",
    "Responder",
    "Traffic",
    "Transport",
    "TransportEvent",
    "Unreachable",
]

log = logging.getLogger(__name__)

PING: Final = TProtocol("/ipfs/ping/1.0.0")
_MAX_LINKS_PER_PEER: Final = 4
_SPARE_WINDOW: Final = 16 << 20
_PEERSTORE_CLEANUP_SECONDS: Final = 300


class Transport:
    """Connections of the node ``identity`` to the peers that ``admission`` lets in.

    ``listen``           multiaddresses /ip4|ip6/<address>/tcp/<port>; port 0 takes a free one
    ``protocol_prefix``  begins every protocol that only peers may speak; names the federation
    ``requests``         what peers may ask, by name; a responder may raise RequestRefused
    ``relay``            carry connections between peers that cannot reach each other
    ``network_key``      32 bytes: talk only to who has it, too (:mod:`p2pfl.node.hardened.keyed`)
    ``is_proved``        whether an admitted peer is one for certain; the others come as strangers come

    One object runs once. All methods are for the thread of :meth:`run`.
    """

    def __init__(
        self,
        identity: Identity,
        listen: Sequence[str],
        admission: Admission,
        protocol_prefix: str,
        limits: Limits,
        requests: Mapping[str, Responder],
        *,
        relay: bool = False,
        network_key: bytes | None = None,
        is_proved: Callable[[PeerId], bool] = lambda _: True,
    ) -> None:
        self._identity = identity
        self._listen = tuple(listen)
        self._prefix = protocol_prefix
        self._limits = limits
        self._longest = limits.max_message
        self._requests = dict(requests)
        self._relay = relay
        self._is_proved = is_proved
        handshakes = 2 * limits.max_guests
        self._tcp = Tcp(handshakes) if network_key is None else Tcp(handshakes, **keyed(network_key))
        self._host: IHost | None = None
        self._nursery: trio.Nursery | None = None
        self._addresses: tuple[str, ...] = ()
        self._links: dict[Yamux, Link] = {}
        self._sessions: dict[PeerId, Session] = {}
        self._circuits = Circuits()
        self._past: dict[PeerId, Traffic] = {}  # of everybody ever admitted
        self._room = Room(limits.outbox_messages, limits.outbox_bytes, limits.outboxes_bytes)
        self._queue = EventQueue(limits.inbox_messages, limits.inbox_bytes)
        self._reception = Reception(admission, limits.guest_seconds, self._queue.put, self._admit)
        self._calls = Calls(
            self._tcp,
            limits.dial_seconds,
            lambda: cast(Swarm, self._running()[0].get_network()),
            self._links.__getitem__,
            self._reception,
        )
        self._for_peers = Multiselect()

    # -- running
    async def run(self, *, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started once it listens.

        Raises NetworkError, naming the address, if it cannot listen.
        """
        try:
            bound = [await self._bind(address) for address in self._listen]
            with quiet():
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    self._tcp.serve_in(nursery)
                    host = self._host = self._make_host()
                    async with host.run(bound):
                        self._addresses = dialable(bound, self._identity.peer_id)
                        forget = cast(Any, host.get_peerstore()).start_cleanup_task
                        nursery.start_soon(forget, _PEERSTORE_CLEANUP_SECONDS)
                        task_status.started()
                        await trio.sleep_forever()
        finally:
            self._queue.close()
            with trio.CancelScope(shield=True):
                await self._tcp.close()

    async def _bind(self, address: str) -> Multiaddr:
        try:
            return await self._tcp.bind(Multiaddr(address))
        except (OSError, ValueError, MultiaddrError) as error:
            raise listen_problem(address, error) from error

    def _make_host(self) -> IHost:
        host = make_host(
            self._identity.seed,
            self._tcp,
            self._reception.refuse_at_handshake,
            self._make_muxer,
            guarded(self._protocols_for),
            self._limits.max_peers + 2 * self._limits.max_guests,
        )
        # The host's own table is for guests, and what identify shows to strangers; peers are offered more.
        for_guests = host.get_mux()
        for_guests.add_handler(ADMISSION, self._on_admission)
        for_guests.add_handler(PING, self._on_ping)
        for protocol, handler in for_guests.handlers.items():
            self._for_peers.add_handler(protocol, handler)
        self._for_peers.add_handler(self._protocol("messages"), self._on_messages)
        self._for_peers.add_handler(STOP, self._on_circuit)
        if self._relay:
            self._for_peers.add_handler(HOP, self._on_relaying)
        for name, responder in self._requests.items():
            self._for_peers.add_handler(self._protocol(f"request/{name}"), self._answering(name, responder))
        return host

    def _protocol(self, name: str) -> TProtocol:
        return TProtocol(f"{self._prefix}/{name}/1")

    def _running(self) -> tuple[IHost, trio.Nursery]:
        if self._host is None or self._nursery is None:
            raise LocalProtocolError("the transport is not running")
        return self._host, self._nursery

    # -- what the daemon sees
    @property
    def addresses(self) -> tuple[str, ...]:
        """Where others can dial this node, each with its peer id; 0.0.0.0 and :: appear as what they mean."""
        return self._addresses

    @property
    def connected(self) -> frozenset[PeerId]:
        """The peers here at this moment."""
        return frozenset(peer for peer, session in self._sessions.items() if not session.lost)

    @property
    def direct(self) -> frozenset[PeerId]:
        """Those of :attr:`connected` that are here without a relay."""
        return frozenset(peer for peer in self.connected if not self._sessions[peer].link.relayed)

    @property
    def relays(self) -> frozenset[PeerId]:
        """Those of :attr:`direct` that have not said that they do not relay."""
        return frozenset(peer for peer in self.direct if self._sessions[peer].relays)

    def observed(self, peer: PeerId) -> str | None:
        """The IP address that ``peer`` comes from; None if it is not here, or only through a relay."""
        return self._sessions[peer].link.tcp.get_remote_address()[0] if peer in self.direct else None

    @property
    def events(self) -> trio.abc.ReceiveChannel[TransportEvent]:
        """What happened, in order.

        While nobody receives, peers' messages wait and, in the end, so do the peers.
        """
        return self._queue

    @property
    def waiting(self) -> int:
        """How many :attr:`events` wait to be received."""
        return self._queue.waiting

    @property
    def standstill(self) -> float:
        """For how many seconds nobody has come back for the events that wait; 0 if none does."""
        return self._queue.standstill

    def traffic(self, peer: PeerId | None = None) -> Traffic:
        """Bytes exchanged since the start with ``peer``, or with everybody ever admitted."""
        total = Traffic()
        for each in self._past if peer is None else (peer,):
            total += self._past.get(each, Traffic())
            if each in self._sessions:
                total += self._sessions[each].traffic
        return total

    def send(self, peer: PeerId, message: bytes) -> bool:
        """Queue ``message`` for ``peer``; never waits. False if it is not connected, or was just given up as
        too slow.

        Raises LocalProtocolError for a message longer than any peer would accept.
        """
        self._check_size("message", message)
        session = self._sessions.get(peer)
        if session is None or session.lost:
            return False
        if not session.put(message):
            self._end(session, "it does not take what is sent to it")
        while self._room.used > self._room.together:
            slowest = max(self._sessions.values(), key=lambda each: each.queued)
            self._end(slowest, "of all peers it takes what is sent to it most slowly, and it is too much")
        return not session.over

    @property
    def queued(self) -> int:
        """Bytes of messages that wait to be sent."""
        return self._room.used

    def limit_messages(self, longest: int) -> None:
        """Read no message of more bytes than this from now on, and never more than ``Limits.max_message``."""
        self._longest = min(longest, self._limits.max_message)

    def limit_outboxes(self, vector: int) -> None:
        """Queue from now on what rounds over vectors of ``vector`` bytes may need, and no more."""
        self._room.each, self._room.together = self._limits.outboxes_for(vector)

    async def disconnect(self, peer: PeerId, reason: str) -> None:
        """End every connection to ``peer``; what is queued is dropped. To keep it out is Admission's part."""
        links = [link for link in self._links.values() if link.peer == peer]
        if peer in self._sessions:
            self._end(self._sessions[peer], reason)
        for link in links:
            await link.muxer.close()

    async def request(
        self, peer: PeerId, name: str, body: bytes, *, max_response: int, seconds: float
    ) -> bytes:
        """Ask ``peer`` and return its answer of at most ``max_response`` bytes, whole and as it was sent.

        Raises RequestFailed (a NetworkError) after ``seconds``, or if the peer is not connected, refuses, or
        breaks off.
        """
        self._check_size("request", body)
        session = self._sessions.get(peer)
        if session is None or session.lost:
            raise RequestFailed(peer, name, "it is not connected")
        try:
            with trio.fail_after(seconds):
                return await self._ask(session, name, body, max_response)
        except trio.TooSlowError:
            raise RequestFailed(peer, name, f"no answer within {seconds:g} s") from None
        except (WireError, ProtocolRefusedError) as error:
            raise RequestFailed(peer, name, str(error)) from None

    def _check_size(self, what: str, data: bytes) -> None:
        if len(data) > self._limits.max_message:
            raise LocalProtocolError(
                f"a {what} of {len(data)} bytes where {self._limits.max_message} are allowed"
            )

    # -- dialling
    async def connect(self, address: str) -> PeerId:
        """Dial ``address``, which ends in /p2p/<id>, and complete admission; at once if that peer is
        connected, and not only through a relay.

        Raises Unreachable or AdmissionRefused, both NetworkError.
        """
        if address.endswith(f"/p2p/{self._identity.peer_id}"):
            raise Unreachable(address, "that is this node itself")
        return await self._calls.call(address, lambda peer: peer in self.direct)

    async def connect_through(self, relay: PeerId, peer: PeerId) -> None:
        """Complete admission with ``peer`` over a connection that ``relay``, which is here, carries.

        Raises Unreachable or AdmissionRefused, both NetworkError.
        """
        if relay not in self.direct:
            raise Unreachable(f"/p2p/{relay}/p2p-circuit/p2p/{peer}", "the relay is not connected")
        await self._calls.call_through(self._sessions[relay], peer)

    async def probe(self, address: str, may_dial: Callable[[str], bool]) -> None:
        """Whether the peer that ``address`` ends in answers there, over a connection of its own that ends
        with the handshake. Only an IP address that it ``may_dial`` is dialled. Raises Unreachable.
        """
        await self._calls.probe(address, may_dial)

    # -- links and sessions
    def _make_muxer(self, conn: NoiseSession, peer_id: ID) -> Yamux:
        """Called for every connection that passed the gate; refuses what would be too many."""
        peer, dialled = PeerId(str(peer_id)), conn.is_initiator
        reason = self._too_many(peer)
        if reason is not None:
            self._reception.report(peer, reason)
            raise RefusedAtGateError(reason)
        if not dialled and not self._is_acquainted(peer):
            self._make_room()
        limits = YamuxLimits(self._limits.max_streams, _SPARE_WINDOW, self._limits.idle_seconds)
        muxer = Yamux(conn, peer_id, limits, self._link_ended)
        muxer.limit_received(self._limits.guest_bytes)
        link = self._links[muxer] = Link(peer, muxer, conn.tcp, dialled)
        self._running()[1].start_soon(self._reception.watch, link)
        return muxer

    def _too_many(self, peer: PeerId) -> str | None:
        if sum(link.peer == peer for link in self._links.values()) >= _MAX_LINKS_PER_PEER:
            return "too many connections of this peer"
        session = self._sessions.get(peer)
        if session is not None and session.keeps_its_place(trio.current_time()):
            return (
                f"it is here, and started over {MOST_REPLACED} times in a minute: do two nodes use one key?"
            )
        if session is None and len(self._sessions) >= self._limits.max_peers:
            return "this node has as many peers as it may"
        return "this node does not keep up with who comes and goes" if self._queue.crowded else None

    def _make_room(self) -> None:
        """Turn out the guest that has been here longest: an admission takes milliseconds, so it stalls."""
        guests = [
            link
            for link in self._links.values()
            if not link.settled.is_set() and not link.dialled and not self._is_acquainted(link.peer)
        ]
        if len(guests) >= self._limits.max_guests:
            self._running()[1].start_soon(self._reception.dismiss, guests[0])

    def _is_acquainted(self, peer: PeerId) -> bool:
        return peer in self._past and self._is_proved(peer)

    async def _on_admission(self, net_stream: INetStream) -> None:
        await self._reception.receive(self._link_of(net_stream), _muxed(net_stream))

    async def _on_ping(self, net_stream: INetStream) -> None:
        await answer_pings(_muxed(net_stream), self._limits.idle_seconds)

    def _admit(self, link: Link) -> None:
        if self._is_proved(link.peer):
            self._tcp.admitted(link.tcp)
        session = self._sessions.get(link.peer)
        replaced: tuple[float, ...] = ()
        if session is not None and session.link.relayed and not link.relayed:
            self._end(session, "it is here directly now, no longer through a relay", for_good=False)
        elif session is not None and session.token == link.token:
            session.links.add(link)
            return
        elif session is not None:
            self._end(session, "the peer started over")
            replaced = (*session.replaced, trio.current_time())
        session = self._sessions[link.peer] = Session(link, self._limits, self._room, replaced)
        self._past.setdefault(link.peer, Traffic())
        log.info("peer %s connected at %s", link.peer, link.address)
        self._queue.put(PeerConnected(link.peer, link.address))
        self._running()[1].start_soon(self._write_messages, session)

    def _link_of(self, stream: INetStream) -> Link:
        link = self._links.get(cast(Yamux, stream.muxed_conn))
        if link is None:
            raise ProtocolRefusedError("the connection is over")
        return link

    def _session_of(self, stream: INetStream) -> tuple[Link, Session]:
        link = self._link_of(stream)
        session = self._sessions.get(link.peer)
        if session is None or link not in session.links:
            raise ProtocolRefusedError("the session is over")
        return link, session

    async def _protocols_for(self, stream: INetStream) -> Multiselect:
        link = self._link_of(stream)
        if link.dialled:
            await link.settled.wait()  # the peer may act on our admission before we have read its last word
        return self._for_peers if link.admitted else self._running()[0].get_mux()

    def _link_ended(self, muxer: Yamux) -> None:
        link = self._links.pop(muxer)
        link.settled.set()
        if link.admitted:
            on_the_wire = Traffic(wire_sent=link.tcp.sent, wire_received=link.tcp.received)
            self._past[link.peer] = self._past.get(link.peer, Traffic()) + on_the_wire
        session = self._sessions.get(link.peer)
        if session is not None and link in session.links:
            session.links.discard(link)
            if link is session.reading:
                session.lost = True  # the reader ends it, when it has reported what arrived
            elif link is session.link:
                self._end(session, muxer.reason)
        if link.peer not in self._sessions and all(other.peer != link.peer for other in self._links.values()):
            self._reception.forget(link.peer)

    def _end(self, session: Session, reason: str, *, for_good: bool = True) -> None:
        """``for_good``: the next session with the peer is a new one, by another token."""
        if session.over:
            return
        session.over = session.lost = True
        session.drop_outbox()
        self._past[session.peer] += Traffic(session.sent, session.received)
        del self._sessions[session.peer]
        if for_good:
            self._reception.forget(session.peer)
        session.writing_scope.cancel()
        session.reading_scope.cancel()
        log.info("peer %s disconnected: %s", session.peer, reason)
        self._queue.put(PeerDisconnected(session.peer, reason))
        for link in session.links:
            self._running()[1].start_soon(link.muxer.close)

    # -- relaying
    async def _on_relaying(self, net_stream: INetStream) -> None:
        _, session = self._session_of(net_stream)
        muxers = {peer: self._sessions[peer].link.muxer for peer in self.direct}
        await self._circuits.answer(_muxed(net_stream), session.peer, muxers)

    async def _on_circuit(self, net_stream: INetStream) -> None:
        _, session = self._session_of(net_stream)
        await self._tcp.serve_carried(await accept_circuit(_muxed(net_stream), session.peer))

    # -- messages
    async def _write_messages(self, session: Session) -> None:
        with session.writing_scope:
            try:
                stream = await open_stream(session.link.muxer, self._protocol("messages"))
                while True:
                    messages = await session.next()
                    await write_frames(stream, messages)
                    session.done(messages)
            except (WireError, ProtocolRefusedError) as error:
                if not session.lost:
                    self._end(session, str(error))

    async def _on_messages(self, net_stream: INetStream) -> None:
        link, session = self._session_of(net_stream)
        if session.reading is not None:
            raise ProtocolRefusedError("a second stream of messages")
        session.reading, stream = link, _muxed(net_stream)
        with session.reading_scope:
            try:
                while True:
                    await stream.wait_for_more()
                    data = await read_frame(stream, self._longest, self._limits.idle_seconds)
                    session.count_received(len(data))
                    if (pause := session.reads_on_after(len(data), trio.current_time())) > 0:
                        await trio.sleep(pause)
                    await self._queue.put_message(MessageReceived(session.peer, data))
            except WireError as error:
                self._end(session, str(error))

    # -- requests
    async def _ask(self, session: Session, name: str, body: bytes, max_response: int) -> bytes:
        stream = await open_stream(session.link.muxer, self._protocol(f"request/{name}"))
        try:
            response = await ask(stream, session, body, max_response, self._limits.idle_seconds)
            await stream.close()
        except BaseException:
            stream.abort("the request was given up")
            raise
        return response

    def _answering(self, name: str, responder: Responder) -> Callable[[INetStream], Awaitable[None]]:
        async def handle(net_stream: INetStream) -> None:
            _, session = self._session_of(net_stream)
            async with session.answering:
                await answer(_muxed(net_stream), session, name, responder, self._limits)

        return handle


def _muxed(stream: INetStream) -> YamuxStream:
    """Below the library's wrapper, whose locks every read and write would pay for, is our own stream."""
    return cast(YamuxStream, cast(Any, stream).muxed_stream)
