"""Who to dial and when: bootstrap addresses, members met before, and whoever presences speak of.

Bootstrap addresses and peers met before are never given up, each retried with jittered back-off: a federation
that comes back after a power cut must not be met by a storm of reconnects. What others merely speak of is
tried a few times and forgotten, and there is a bound on how much of it is tried at once: a member can make us
call addresses that lead nowhere, but not for ever and not without end.

A peer's addresses are tried one beside the other, the one that worked last first, so that a dead one delays
nobody. A peer that no address leads to is sought through members that relay
(:mod:`p2pfl.node.transport.relay`), and its addresses are tried on, more and more rarely: a direct connection
takes the place of a relayed one.
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
LONGEST_RELAYED_DELAY = 300.0
"""Between attempts to reach a peer directly that is here through a relay."""
STAGGER_SECONDS = 0.5
"""Until the next address of a peer is tried beside one that has not answered."""
HEARSAY_TRIES = 6
MOST_HEARSAY = 256
MOST_HINTED = 128
"""Targets up to which somebody new is called whom only strangers speak of."""
MOST_ADDRESSES = 8
MOST_CALLS = 2
"""Rounds of calls to the addresses of one peer at a time: one, and another if new ones are heard of. Whoever
keeps naming others does not have them called faster.
"""
MOST_HINTS = 2


def peer_of(address: str) -> PeerId | None:
    """The peer id at the end of a multiaddress, None if it names none."""
    try:
        return parse_peer_id(address.rpartition("/p2p/")[2])
    except ValueError:
        return None


@dataclass
class _Target:
    addresses: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    lasting: bool = False
    calls: int = 0  # under way
    failures: int = 0
    next_try: float = -math.inf
    delay: float = FIRST_DELAY


async def nowhere(_peer: PeerId) -> bool:
    """Reaches nobody through anybody."""
    return False


class Dialler:
    """Keeps connections to everybody it was told of.

    ``connect``    dials one address
    ``connected``  who need not be dialled: who is here, and not only through a relay
    ``through``    whether a peer is here through a relay, or could be brought here through one
    ``reached``    is told of a peer whenever one of its addresses worked
    """

    def __init__(
        self,
        own: PeerId,
        connect: Callable[[str], Awaitable[PeerId]],
        connected: Callable[[], Collection[PeerId]],
        through: Callable[[PeerId], Awaitable[bool]] = nowhere,
        reached: Callable[[PeerId], None] = lambda _: None,
    ) -> None:
        self._own = own
        self._connect = connect
        self._connected = connected
        self._through = through
        self._reached = reached
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

    def hint(self, addresses: Iterable[str]) -> None:
        """Try these too, which anybody may have written: never instead of what members say, nor sooner."""
        for address in addresses:
            peer = peer_of(address)
            target = None if peer is None else self._targets.get(peer)
            if target is None and len(self._targets) < MOST_HINTED:
                self._add(address, lasting=False)
            elif target is not None and address not in (*target.addresses, *target.hints):
                target.hints = (*target.hints, address)[-MOST_HINTS:]

    def addresses(self, peer: PeerId) -> tuple[str, ...]:
        """Where ``peer`` may be, what worked last first; nothing if it is not sought."""
        target = self._targets.get(peer)
        return () if target is None else target.addresses

    def _add(self, address: str, *, lasting: bool) -> None:
        peer = peer_of(address)
        if peer is None or peer == self._own:
            return
        target = self._targets.setdefault(peer, _Target())
        target.lasting |= lasting
        if address not in target.addresses:
            best, others = target.addresses[:1], target.addresses[1:]
            target.addresses = (*best, *(*others, address)[1 - MOST_ADDRESSES :])
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
                missing = {
                    peer: target
                    for peer, target in self._targets.items()
                    if peer not in here and target.calls < MOST_CALLS
                }
                for peer, target in missing.items():
                    if target.next_try <= now:
                        target.calls, target.next_try = target.calls + 1, math.inf
                        nursery.start_soon(self._dial, peer, target)
                wake = min((target.next_try for target in missing.values()), default=math.inf)
                with trio.move_on_at(min(wake, now + LONGEST_DELAY)):
                    await self._changed.wait()

    async def _dial(self, peer: PeerId, target: _Target) -> None:
        worked = await self._first_to_answer((*target.addresses, *target.hints))
        target.calls -= 1
        if worked is not None:
            others = (address for address in target.addresses if address != worked)
            target.addresses = (worked, *others)[:MOST_ADDRESSES]
            target.hints = ()
            target.delay, target.failures, target.lasting = FIRST_DELAY, 0, True
            self._reached(peer)
            self._put_off(target)
            return
        longest = LONGEST_DELAY
        if await self._through(peer):
            longest, target.failures, target.lasting = LONGEST_RELAYED_DELAY, 0, True
        else:
            target.failures += 1
            if target.failures >= HEARSAY_TRIES and not target.lasting:
                self._targets.pop(peer, None)
                return
        self._put_off(target)
        target.delay = min(2 * target.delay, longest)

    async def _first_to_answer(self, addresses: Iterable[str]) -> str | None:
        """The first address at which somebody answered; the next one is tried when one fails, or does not
        answer soon.
        """
        answered: list[str] = []

        async def attempt(address: str, over: trio.Event) -> None:
            try:
                await self._connect(address)
                answered.append(address)
                nursery.cancel_scope.cancel()
            except UserError as error:
                log.info("%s", error)
            over.set()

        async with trio.open_nursery() as nursery:
            for address in addresses:
                over = trio.Event()
                nursery.start_soon(attempt, address, over)
                with trio.move_on_after(STAGGER_SECONDS):
                    await over.wait()
        return answered[0] if answered else None

    def _put_off(self, target: _Target) -> None:
        target.next_try = trio.current_time() + self._jitter.uniform(0.5, 1.5) * target.delay
        self._changed.set()
