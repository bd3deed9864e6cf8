"""Reaching a peer through those that are here."""

import logging
import random
from typing import TYPE_CHECKING

from p2pfl.crypto.identity import PeerId
from p2pfl.node.errors import NetworkError

if TYPE_CHECKING:
    from p2pfl.node.transport.network import Transport

log = logging.getLogger(__name__)

MOST_RELAYS = 4
"""That are asked for one peer at a time."""


async def reach_through(transport: "Transport", peer: PeerId) -> bool:
    """Whether ``peer`` is here, if need be now through a peer that relays."""
    if peer in transport.connected:
        return True
    relays = sorted(transport.relays - {peer})
    for relay in random.sample(relays, min(len(relays), MOST_RELAYS)):
        try:
            await transport.connect_through(relay, peer)
        except NetworkError as error:
            log.debug("%s", error)
        else:
            log.info("peer %s is here through %s, which sees ciphertext only", peer, relay)
            return True
    return False
