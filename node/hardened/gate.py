"""Admission by peer id, at the first moment a peer id is known to be true: right after the handshake.

The library's own gate knows IP addresses only. A peer refused here never gets a multiplexer, so it costs one
handshake and no state.
"""

from collections.abc import Callable

from libp2p.abc import IRawConnection, ISecureConn, ISecureTransport
from libp2p.peer.id import ID
from libp2p.security.exceptions import HandshakeFailure


class RefusedAtGateError(HandshakeFailure):
    """This side does not talk to that peer; the message is the reason."""


class Gate(ISecureTransport):
    """Wraps a secure transport. ``refuse`` gives the reason to turn a peer away, or None."""

    def __init__(self, inner: ISecureTransport, refuse: Callable[[ID], str | None]) -> None:
        self._inner = inner
        self._refuse = refuse

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        return await self._judge(await self._inner.secure_inbound(conn))

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        return await self._judge(await self._inner.secure_outbound(conn, peer_id))

    async def _judge(self, session: ISecureConn) -> ISecureConn:
        reason = self._refuse(session.get_remote_peer())
        if reason is not None:
            await session.close()
            raise RefusedAtGateError(reason)
        return session
