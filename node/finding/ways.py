"""How a node finds members and is found: bootstrap addresses, those it met before, the local network, a
rendezvous, relays; and whether others reach it.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

import trio

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.node.config import NodeConfig
from p2pfl.node.finding.dialback import DIALBACK_SECONDS, Dialback, Reachability, Report
from p2pfl.node.finding.discovery import Dialler
from p2pfl.node.finding.relaying import reach_through
from p2pfl.node.finding.rendezvous import keep_meeting

if TYPE_CHECKING:
    from p2pfl.node.transport.network import Transport

log = logging.getLogger(__name__)


class Finding:
    """Part of the daemon: looks for members over ``transport``.

    ``refused``   who would be turned away, and so is not called
    ``expected``  everybody known to be a member
    ``reached``   is told of a peer whenever one of its addresses worked
    ``reported``  is told what members say of whether they reach this node
    """

    def __init__(
        self,
        config: NodeConfig,
        identity: Identity,
        federation: bytes,
        transport: "Transport",
        *,
        refused: Callable[[], Collection[PeerId]],
        expected: Callable[[], Collection[PeerId]],
        reached: Callable[[PeerId], None],
        reported: Callable[[Report], None],
    ) -> None:
        self._config = config
        self._identity = identity
        self._federation = federation
        self._transport = transport
        self._refused = refused
        self._expected = expected
        self._own: tuple[str, ...] = ()
        self._rendezvous = config.rendezvous
        self._meetings = trio.CancelScope()
        self.dialler = Dialler(
            identity.peer_id,
            transport.connect,
            lambda: {*transport.direct, *refused()},
            partial(reach_through, transport),
            reached,
        )
        self.dialback = Dialback(transport)
        self.reachability = Reachability(
            self._ask_to_dial_back, lambda: transport.direct, lambda: self._own, reported
        )

    @property
    def places(self) -> tuple[str, ...]:
        """Where members are looked for without their addresses, in words."""
        local = ("the local network",) if self._config.mdns else ()
        return (*local, *self._rendezvous)

    def meet_at(self, rendezvous: Sequence[str]) -> None:
        """From now on members leave their addresses at these places, and at no others."""
        self._rendezvous = tuple(rendezvous)
        self._meetings.cancel()

    async def run(self, own: Sequence[str]) -> None:
        """Until cancelled; ``own``: where this node says it is."""
        self._own = tuple(own)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.dialler.run)
            nursery.start_soon(self.reachability.run)
            if self._config.mdns:
                from p2pfl.node.finding.mdns import LocalNetwork

                local = LocalNetwork(self._federation, self._config.listen, self.dialler.hint)
                nursery.start_soon(local.run, self._transport.addresses)
            nursery.start_soon(self._keep_meeting)

    async def _keep_meeting(self) -> None:
        while True:
            with trio.CancelScope() as self._meetings:
                if self._rendezvous:
                    await keep_meeting(self._meet, self._is_complete, self.dialler.hint)
                await trio.sleep_forever()

    async def _meet(self) -> tuple[list[str], int]:
        from p2pfl.node.transport.kademlia import meet

        return await meet(self._identity, self._federation, self._rendezvous, self._own)

    def _is_complete(self) -> bool:
        """Whether everybody who is expected is here, and anybody is."""
        missing = {*self._expected()} - self._transport.connected - {self._identity.peer_id}
        return bool(self._transport.connected) and missing <= {*self._refused()}

    async def _ask_to_dial_back(self, peer: PeerId, name: str, body: bytes, most: int) -> bytes:
        return await self._transport.request(peer, name, body, max_response=most, seconds=DIALBACK_SECONDS)
