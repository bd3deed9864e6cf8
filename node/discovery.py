"""Who to dial and when: bootstrap addresses, members met before, and whoever presences speak of.

Bootstrap addresses and peers met before are never given up, each retried with jittered back-off: a federation
that comes back after a power cut must not be met by a storm of reconnects. What others merely speak of is
tried a few times and forgotten, and there is a bound on how much of it is tried at once: a member can make us
call addresses that lead nowhere, but not for ever and not without end.
"""

import logging
import math
import random
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass

import trio

from p2pfl.crypto.identity import PeerId, parse_peer_id
from p2pfl.node.errors import UserError

log = logging.getLogger(__name__)

FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
HEARSAY_TRIES = 6
MOST_HEARSAY = 256
MOST_ADDRESSES = 8


def peer_of(address: str) -> PeerId | None:
    """The peer id at the end of a multiaddress, None if it names none."""
    try:
        return parse_peer_id(address.rpartition("/p2p/")[2])
    except ValueError:
        return None


@dataclass
class _Target:
    addresses: tuple[str, ...] = ()
    lasting: bool = False
    failures: int = 0
    next_try: float = -math.inf
    delay: float = FIRST_DELAY


class Dialler:
    """Keeps connections to everybody it was told of. ``connect`` dials one address, ``connected`` says who is
    here.
    """

    def __init__(
        self,
        own: PeerId,
        connect: Callable[[str], Awaitable[PeerId]],
        connected: Callable[[], Collection[PeerId]],
    ) -> None:
        self._own = own
        self._connect = connect
        self._connected = connected
        self._targets: dict[PeerId, _Target] = {}
        self._changed = trio.Event()
        self._jitter = random.Random()

    def want(self, addresses: Iterable[str]) -> None:
        """Stay connected to the peers that these end in; addresses without a peer id are ignored."""
        for address in addresses:
            self._add(address, lasting=True)

    def try_reaching(self, addresses: Iterable[str]) -> None:
        """Try these a few times; a peer that was reached once is kept like a wanted one."""
        for address in addresses:
            if len(self._targets) < MOST_HEARSAY or peer_of(address) in self._targets:
                self._add(address, lasting=False)

    def _add(self, address: str, *, lasting: bool) -> None:
        peer = peer_of(address)
        if peer is None or peer == self._own:
            return
        target = self._targets.setdefault(peer, _Target())
        target.lasting |= lasting
        if address not in target.addresses:
            target.addresses = (*target.addresses, address)[-MOST_ADDRESSES:]
            target.next_try, target.failures = -math.inf, 0
            self._changed.set()

    def lost(self, peer: PeerId) -> None:
        """A connection ended: try again soon, but not at once and not all at the same moment."""
        if peer in self._targets:
            self._targets[peer].delay = FIRST_DELAY
            self._put_off(self._targets[peer])

    async def run(self) -> None:
        """Dial until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                now, here = trio.current_time(), self._connected()
                missing = {peer: target for peer, target in self._targets.items() if peer not in here}
                for peer, target in missing.items():
                    if target.next_try <= now:
                        target.next_try = math.inf
                        nursery.start_soon(self._dial, peer, target)
                wake = min((target.next_try for target in missing.values()), default=math.inf)
                with trio.move_on_at(min(wake, now + LONGEST_DELAY)):
                    await self._changed.wait()

    async def _dial(self, peer: PeerId, target: _Target) -> None:
        for address in target.addresses:
            try:
                await self._connect(address)
            except UserError as error:
                log.info("%s", error)
                continue
            target.delay, target.failures, target.lasting = FIRST_DELAY, 0, True
            break
        else:
            target.delay = min(2 * target.delay, LONGEST_DELAY)
            target.failures += 1
            if target.failures >= HEARSAY_TRIES and not target.lasting:
                self._targets.pop(peer, None)
                return
        self._put_off(target)

    def _put_off(self, target: _Target) -> None:
        target.next_try = trio.current_time() + self._jitter.uniform(0.5, 1.5) * target.delay
        self._changed.set()
