"""The trio driver of one participant machine: one task owns the machine, everything else talks to it through
one channel.

Transport events, timers and finished work go in; effects come out and are carried out in order. Nothing here
decides anything: what to say and when is the machine's, what to contribute is the learner's.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import trio

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.errors import RemoteProtocolError
from p2pfl.gossip.events import (
    Agreed,
    Begin,
    Completed,
    Compute,
    Computed,
    Connect,
    Contribute,
    Contribution,
    Effect,
    EpochBegan,
    Event,
    Evidence,
    Prepared,
    Received,
    Send,
    SetTimer,
    Skipped,
    TimerExpired,
    Waiting,
)
from p2pfl.gossip.messages import encode
from p2pfl.gossip.participant import Participant
from p2pfl.gossip.wire import Message

log = logging.getLogger(__name__)

EVENT_BACKLOG = 256
_COMPUTING_THREADS = 2
"""One masks or unmasks while the other adds up; more of them wait for each other."""


class Work(Protocol):
    """What the shell asks of the node around it. The first six are awaited one at a time, in the machine's
    order.
    """

    async def prepare(self, effect: Begin) -> Prepared | None:
        """Do the local work of a round; None when there is nothing left to do."""

    async def contribute(self, effect: Contribute) -> Contribution:
        """Encode, add noise, charge the ledger, and only then hand out."""

    async def completed(self, effect: Completed) -> None:
        """Apply the sum."""

    async def agreed(self, effect: Agreed) -> None:
        """Keep who signed the same sum."""

    async def skipped(self, effect: Skipped) -> None:
        """The model stays as it is."""

    async def evidence(self, effect: Evidence) -> None:
        """Keep what a peer signed against itself."""

    def epoch_began(self, effect: EpochBegan) -> None:
        """A roster is settled."""

    def waiting(self, effect: Waiting) -> None:
        """Rounds cannot go on, for a reason in words."""


Job = Begin | Contribute | Completed | Agreed | Skipped | Evidence


@dataclass
class Shell:
    """Runs ``participant`` until cancelled. :attr:`finished` is set once :meth:`Work.prepare` has nothing
    left to do.
    """

    participant: Participant
    send: Callable[[PeerId, bytes], bool]
    connect: Callable[[PeerId, tuple[str, ...]], None]
    disconnect: Callable[[PeerId, str], None]
    work: Work
    finished: trio.Event = field(default_factory=trio.Event)
    _timers: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._put, self._events = trio.open_memory_channel[Event](EVENT_BACKLOG)
        # The machine asks for one thing at a time and waits for the answer, so this never holds more than a
        # few.
        self._ask, self._jobs = trio.open_memory_channel[Job](math.inf)
        # Nor does this: a round computes one chunk of each kind at a time.
        self._calculate, self._sums = trio.open_memory_channel[Compute](math.inf)
        self._encoded: tuple[Message, bytes] | None = None
        self._over = -1  # the latest round that was skipped

    @property
    def backlog(self) -> int:
        """How many events wait for the machine."""
        return self._events.statistics().current_buffer_used

    async def feed(self, event: Event) -> None:
        """Hand an event to the machine; waits while the machine is behind (that is the back-pressure on
        whoever reads).
        """
        await self._put.send(event)

    async def run(self) -> None:
        """Drive the machine until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._do_jobs)
            for _ in range(_COMPUTING_THREADS):
                nursery.start_soon(self._compute)
            self._perform(self.participant.start(trio.current_time()))
            while True:
                event: Event | None = None
                with trio.move_on_at(min(self._timers.values(), default=math.inf)):
                    event = await self._events.receive()
                if event is not None:
                    self._handle(event)
                for key in [key for key, at in self._timers.items() if at <= trio.current_time()]:
                    del self._timers[key]
                    self._handle(TimerExpired(key))

    def _handle(self, event: Event) -> None:
        if isinstance(event, Received):
            log.debug("from %s: %s", event.peer, event.message.TAG)
        try:
            effects = self.participant.handle(event, trio.current_time())
        except RemoteProtocolError as error:
            log.warning("%s", error)
            self.disconnect(error.peer, error.reason)
            return
        self._perform(effects)

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(peer, message):
                    log.debug("to %s: %s", peer, message.TAG)
                    self.send(peer, self._encode(message))
                case SetTimer(key, at):
                    self._timers[key] = at
                case Connect(peer, addresses):
                    self.connect(peer, addresses)
                case EpochBegan():
                    self.work.epoch_began(effect)
                case Waiting():
                    self.work.waiting(effect)
                case Compute():
                    self._calculate.send_nowait(effect)
                case Skipped(round):
                    self._over = max(self._over, round)
                    self._ask.send_nowait(effect)
                case _:
                    self._ask.send_nowait(effect)

    def _encode(self, message: Message) -> bytes:
        """What goes to several peers in a row is encoded once, and held once while it waits for them."""
        if self._encoded is None or self._encoded[0] is not message:
            self._encoded = message, encode(message)
        return self._encoded[1]

    async def _compute(self) -> None:
        """Take the machine's arithmetic off the event loop."""
        async for effect in self._sums:
            value = await trio.to_thread.run_sync(effect.work)
            await self.feed(Computed(effect.round, effect.key, value))

    async def _do_jobs(self) -> None:
        """Do what the machine asked for, one after the other and in its order: a round's outcome before the
        next one's training.
        """
        async for job in self._jobs:
            match job:
                case Begin(round) if round <= self._over:
                    pass  # the machine gave it up; who works it off all the same never catches up
                case Begin():
                    prepared = await self.work.prepare(job)
                    if prepared is None:
                        self.finished.set()
                    else:
                        await self.feed(prepared)
                case Contribute():
                    await self.feed(await self.work.contribute(job))
                case Completed():
                    await self.work.completed(job)
                case Agreed():
                    await self.work.agreed(job)
                case Skipped():
                    await self.work.skipped(job)
                case Evidence():
                    await self.work.evidence(job)
