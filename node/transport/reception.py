"""What happens to a connection between its handshake and its admission, on both sides of it."""

import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.errors import LocalProtocolError
from p2pfl.node.hardened.guard import ProtocolRefusedError, open_stream
from p2pfl.node.hardened.wire import WireError
from p2pfl.node.hardened.yamux_stream import YamuxStream
from p2pfl.node.transport.exchange import (
    TOKEN_BYTES,
    Introduction,
    read_introduction,
    read_verdict,
    write_introduction,
    write_verdict,
)
from p2pfl.node.transport.session import Link
from p2pfl.node.transport.types import MAX_GREETING, Admission, AdmissionRefused, GuestRefused

log = logging.getLogger(__name__)

ADMISSION: Final = TProtocol("/p2pfl/admission/1")
_PARTING_SECONDS: Final = 1.0


class Reception:
    """Receives guests: ``admit`` is called for those that both sides accept, ``refused`` told of the others.

    A guest has ``guest_seconds`` to become a peer. Refusals are logged on both sides, with the reason.
    """

    def __init__(
        self,
        admission: Admission,
        guest_seconds: float,
        refused: Callable[[GuestRefused], None],
        admit: Callable[[Link], None],
    ) -> None:
        self._admission = admission
        self._guest_seconds = guest_seconds
        self._refused = refused
        self._admit = admit
        self._tokens: dict[PeerId, bytes] = {}  # ours, for peers with a link

    def refuse_at_handshake(self, peer_id: ID) -> str | None:
        """Asked by the gate."""
        peer = PeerId(str(peer_id))
        reason = self._admission.at_handshake(peer)
        if reason is not None:
            self.report(peer, reason)
        return reason

    def report(self, peer: PeerId, reason: str) -> None:
        """``peer`` is refused for ``reason``."""
        log.warning("refused peer %s: %s", peer, reason)
        self._refused(GuestRefused(peer, reason))

    def forget(self, peer: PeerId) -> None:
        """The session with ``peer`` is over, or there never was one: the next has another token."""
        self._tokens.pop(peer, None)

    async def watch(self, link: Link) -> None:
        """Turn a guest out that does not become a peer in time."""
        with trio.move_on_after(self._guest_seconds):
            await link.settled.wait()
        if not link.settled.is_set():
            await self._turn_away(link, f"admission was not complete within {self._guest_seconds:g} s")

    async def dismiss(self, link: Link) -> None:
        """Turn a guest out for another one."""
        if not link.settled.is_set():
            await self._turn_away(link, "too many guests, and this one was the slowest")

    async def introduce(self, link: Link) -> None:
        """Admission, the dialler's side. Raises AdmissionRefused, WireError or ProtocolRefusedError."""
        stream = await open_stream(link.muxer, ADMISSION)
        await write_introduction(stream, self._introduction(link.peer))
        await self._hear(link, stream)
        link.admission = stream
        reason = await self._judge(link, stream)
        if reason is not None:
            await self._turn_away(link, reason)
            raise AdmissionRefused(link.peer, reason)
        await write_verdict(stream, None)
        await self._hear(link, stream)
        self._settle(link)
        await stream.close()

    async def receive(self, link: Link, stream: YamuxStream) -> None:
        """Admission, the side that was dialled. Raises ProtocolRefusedError if it is not the time for it."""
        if link.dialled or link.admission is not None:
            raise ProtocolRefusedError("admission begins once, and with the dialler")
        link.admission = stream
        try:
            await self._receive(link, stream)
        except WireError as error:
            if not link.muxer.is_closed:
                await self._turn_away(link, str(error))

    async def _receive(self, link: Link, stream: YamuxStream) -> None:
        reason = await self._judge(link, stream)
        if reason is not None:
            await self._turn_away(link, reason)
            return
        await write_verdict(stream, None)
        await write_introduction(stream, self._introduction(link.peer))
        try:
            await self._hear(link, stream)
        except AdmissionRefused:
            await link.muxer.close()
            return
        self._settle(link)  # before saying so: the peer's next stream may use any protocol
        await write_verdict(stream, None)

    def _settle(self, link: Link) -> None:
        if link.settled.is_set():
            raise WireError("admission came too late")
        link.admitted = True
        link.muxer.lift_limit()
        link.settled.set()
        self._admit(link)

    def _introduction(self, peer: PeerId) -> Introduction:
        greeting = self._admission.greeting()
        if len(greeting) > MAX_GREETING:
            raise LocalProtocolError(f"a greeting of {len(greeting)} bytes where {MAX_GREETING} are allowed")
        return Introduction(self._tokens.setdefault(peer, secrets.token_bytes(TOKEN_BYTES)), greeting)

    async def _judge(self, link: Link, stream: YamuxStream) -> str | None:
        """Read what the peer presents; the reason to refuse it, or None."""
        theirs = await read_introduction(stream, self._guest_seconds)
        link.token = theirs.token
        return self._admission.judge(link.peer, theirs.greeting)

    async def _hear(self, link: Link, stream: YamuxStream) -> None:
        """Read the peer's verdict. Raises AdmissionRefused."""
        reason = await read_verdict(stream, self._guest_seconds)
        if reason is not None:
            log.warning("peer %s does not admit this node: %s", link.peer, reason)
            link.settled.set()
            raise AdmissionRefused(link.peer, reason)

    async def _turn_away(self, link: Link, reason: str) -> None:
        """Say why, give the peer a moment to read it and hang up, and end the connection."""
        self.report(link.peer, reason)
        link.settled.set()
        if link.admission is not None:
            with trio.move_on_after(_PARTING_SECONDS), suppress(WireError):
                await write_verdict(link.admission, reason)
                await link.muxer.ended.wait()
        await link.muxer.close()
