"""The node's side of every round: learner, ledger and status, called by the shell in the machine's order.

Torch and SQLite run on one worker thread, one call at a time, so the event loop never waits for a disk or a
gradient.
"""

import logging
from collections.abc import Callable, Collection
from typing import TypeVar

import trio

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.events import (
    Begin,
    Completed,
    Contribute,
    Contribution,
    EpochBegan,
    Evidence,
    Prepared,
    Skipped,
    Waiting,
)
from p2pfl.gossip.manifest import Manifest
from p2pfl.gossip.messages import encode
from p2pfl.node.accountant import epsilon, ladder
from p2pfl.node.catch_up import Ask, Summary, agreed_state, ask_summaries
from p2pfl.node.learner import Learner
from p2pfl.node.status import Status
from p2pfl.node.store import Store

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class WorkerThread:
    """Runs blocking calls off the event loop, one at a time and in the order asked."""

    def __init__(self) -> None:
        self._one = trio.CapacityLimiter(1)

    async def __call__(self, work: Callable[[], _T]) -> _T:
        # Not abandoned on cancel: a ledger entry is written whole or not at all.
        return await trio.to_thread.run_sync(work, limiter=self._one)


class Rounds:
    """Carries out what the machine asks for; implements :class:`p2pfl.node.shell.Work`."""

    def __init__(
        self,
        manifest: Manifest,
        learner: Learner,
        store: Store,
        status: Status,
        thread: WorkerThread,
        ask: Ask,
        connected: Callable[[], Collection[PeerId]],
    ) -> None:
        self._manifest = manifest
        self._learner = learner
        self._store = store
        self._status = status
        self._thread = thread
        self._ask = ask
        self._connected = connected
        self._agreeing = max(2, manifest.groups.colluders + 1)
        self.done = False

    def summary(self) -> Summary:
        """What this node tells the members that ask."""
        return Summary(tuple((release.round, release.digest) for release in self._learner.recent), self.done)

    def state(self, digest: bytes) -> bytes | None:
        """The release that ``digest`` names, if it is one of the two latest."""
        return next(
            (release.to_bytes() for release in self._learner.recent if release.digest == digest), None
        )

    async def prepare(self, effect: Begin) -> Prepared | None:
        if self._learner.behind(effect.round):
            await self._catch_up()
        prepared = await self._thread(lambda: self._learner.prepare(effect.round))
        self._status.round, self._status.group = effect.round, list(effect.group)
        self._status.stage = "done" if prepared is None else prepared.stage
        await self._write_status()
        return prepared

    async def _catch_up(self) -> None:
        ours = -1 if self._learner.released is None else self._learner.released.round
        dimensions = self._learner.dimensions
        state = await agreed_state(
            self._ask, self._connected, dimensions, ours, self._agreeing, self._learner.plausible
        )
        if state is not None:
            await self._thread(lambda: self._learner.adopt(state))

    async def over_without_us(self) -> bool:
        """Whether we wait in vain: neighbours enough say that the programme is over, and we hold the final
        model.
        """
        if self._status.phase == "learning":
            return False
        summaries = await ask_summaries(self._ask, self._connected())
        if sum(summary.done for summary in summaries.values()) < self._agreeing:
            return False
        await self._catch_up()
        return self._learner.trained

    async def contribute(self, effect: Contribute) -> Contribution:
        values = await self._thread(lambda: self._learner.contribute(effect.round, effect.thresholds))
        return Contribution(effect.round, values)

    async def completed(self, effect: Completed) -> None:
        await self._thread(lambda: self._learner.completed(effect))
        self._status.completed += 1
        self._status.training_completed += effect.stage == "training"
        dropped = sorted(set(effect.members) - set(effect.survivors))
        log.info(
            "round %d (%s) completed with %d members%s",
            effect.round,
            effect.stage,
            len(effect.survivors),
            f"; dropped: {', '.join(dropped)}" if dropped else "",
        )
        await self._write_status()

    async def skipped(self, effect: Skipped) -> None:
        await self._thread(lambda: self._learner.skipped(effect))
        self._status.skipped += 1
        self._status.last_skip = effect.reason
        log.warning("round %d (%s) skipped: %s", effect.round, effect.stage, effect.reason)
        await self._write_status()

    async def evidence(self, effect: Evidence) -> None:
        log.error("peer %s broke the protocol (%s); what it signed is kept", effect.peer, effect.kind)
        messages = [encode(message) for message in effect.messages]
        await self._thread(lambda: self._store.keep_evidence(effect.peer, effect.kind, messages))

    def epoch_began(self, effect: EpochBegan) -> None:
        self._learner.population = len(effect.roster)
        self._status.phase, self._status.epoch = "learning", effect.epoch
        log.info("epoch %d began with %d members", effect.epoch, len(effect.roster))

    def waiting(self, effect: Waiting) -> None:
        self._status.phase = "waiting"
        log.info("waiting: %s", effect.reason)

    async def finish(self) -> None:
        """The programme is over: work out what this node may show, and say so to the peers that ask."""
        await self._thread(self._summarise)
        self.done = True
        self._status.phase = "done"
        await self._write_status()
        log.info("the programme is over; the model is %s", self._status.model)

    def _summarise(self) -> None:
        status, privacy = self._status, self._manifest.privacy
        status.model = str(self._store.model_path or "")
        if self._learner.federation_evaluation is not None:
            status.evaluation = self._learner.federation_evaluation.as_dict()
        own = self._learner.own_evaluation()
        status.own_evaluation = {} if own is None else own.as_dict()
        if privacy.mode != "none":
            mechanisms = self._store.mechanisms()
            spent = epsilon(mechanisms, privacy.delta)
            status.epsilon, status.epsilon_rdp = spent.pld, spent.rdp
            status.ladder = [(colluders, rung.pld) for colluders, rung in ladder(mechanisms, privacy.delta)]

    async def _write_status(self) -> None:
        self._status.connected = len(self._connected())
        await self._thread(lambda: self._status.write(self._store.directory))
