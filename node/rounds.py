"""The node's side of every round: learner, ledger and status, called by the shell in the machine's order.

Torch and SQLite run on one other thread, one call at a time, so the event loop never waits for a disk or a
gradient.
"""

import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

import trio

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.events import (
    Agreed,
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
from p2pfl.gossip.evidence import Accusation, without_payload
from p2pfl.gossip.exclusions import Ground, Retirement
from p2pfl.gossip.manifest import Manifest
from p2pfl.node.accountant import Spent, epsilon, ladder
from p2pfl.node.evaluations import measured, why_over
from p2pfl.node.learner import Learner
from p2pfl.node.membership.catch_up import Ask, Summary, agreed_state, ask_everybody, ask_summaries
from p2pfl.node.monitoring.participation import Participation, missed_on_the_whole
from p2pfl.node.monitoring.status import Status
from p2pfl.node.outlook import holding, outlook
from p2pfl.node.released import MOST_ROUNDS, Released
from p2pfl.node.storage.last_signed import MAX_ANSWER_BYTES, REQUEST, LastSigned
from p2pfl.node.storage.store import Exclusion, Store

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_ASK_ISSUERS = "ask them; a way back is a new identity and a new ticket"
_NEW_IDENTITY = "find out who else has the key, and make a new identity (docs/own-servers.md)"


class OneThread:
    """Runs blocking calls off the event loop, one at a time and in the order asked."""

    def __init__(self) -> None:
        self._one = trio.CapacityLimiter(1)

    async def __call__(self, work: Callable[[], _T]) -> _T:
        # Not abandoned on cancel: a ledger entry is written whole or not at all.
        return await trio.to_thread.run_sync(work, limiter=self._one)


def status_at_start(peer: PeerId, federation: bytes, store: Store) -> Status:
    """The status of a node that has not begun, with all that its store knows from before a restart."""
    status = Status(peer=peer, federation=federation.hex())
    manifest = store.manifest()
    if manifest is not None:
        recall(status, manifest, store)
        recall_epsilon(status, manifest, store)
    return status


def recall(status: Status, manifest: Manifest, store: Store) -> None:
    """Put into ``status`` what ``manifest`` and ``store`` say, but for epsilon."""
    outcomes, privacy = store.rounds(), manifest.privacy
    status.rounds_total = manifest.training.rounds
    status.completed = sum(outcome.completed for outcome in outcomes)
    status.skipped = len(outcomes) - status.completed
    status.last_skip = next((outcome.reason for outcome in reversed(outcomes) if outcome.reason), "")
    status.training_completed = sum(outcome.completed and outcome.stage == "training" for outcome in outcomes)
    status.model = str(store.model_path or "")
    status.privacy_mode = privacy.mode
    if privacy.mode != "none":
        status.epsilon_budget, status.delta = privacy.epsilon, privacy.delta
    shares = participation(manifest, store, PeerId(status.peer)).shares()
    status.participation = [share.as_dict() for share in shares]
    recall_evaluations(status, manifest, store)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a ledger has cost, against how many colluders, and what it will have in the end."""

    spent: Spent
    ladder: Sequence[tuple[int, Spent]]
    at_the_end: float

    def show(self, status: Status) -> None:
        status.epsilon, status.epsilon_rdp = _finite(self.spent.pld), _finite(self.spent.rdp)
        status.ladder = [(colluders, _finite(rung.pld)) for colluders, rung in self.ladder]
        self.show_the_end(status)

    def show_the_end(self, status: Status) -> None:
        status.epsilon_at_the_end = _finite(self.at_the_end)


def cost_of(manifest: Manifest, store: Store) -> Callable[[], Cost]:
    """What computes, on any thread and for up to a few seconds, the cost of the ledger as it is now."""
    mechanisms, delta = holding(manifest, store), manifest.privacy.delta
    past = store.charges(), store.rounds(), store.place, store.carried()

    def compute() -> Cost:
        ahead = outlook(manifest, *past).mechanisms
        return Cost(epsilon(mechanisms, delta), ladder(mechanisms, delta), epsilon(ahead, delta).pld)

    return compute


def recall_epsilon(status: Status, manifest: Manifest, store: Store) -> None:
    """Put into ``status`` what the ledger in ``store`` has cost, and will."""
    if manifest.privacy.mode != "none":
        cost_of(manifest, store)().show(status)


def participation(manifest: Manifest, store: Store, own: PeerId) -> Participation:
    """Who took part in the rounds of this node, as its receipts say."""
    receipts = [kept.receipt for kept in store.receipts()]
    gone = {one.ground.against for one in store.exclusions()}
    gone |= {succession.author for succession in store.successions()}
    return Participation.of(own, manifest.members, receipts, store.populations(), gone)


def recall_evaluations(status: Status, manifest: Manifest, store: Store) -> None:
    """Put into ``status`` what the federation has measured of itself, and whether that was the end."""
    outcomes = store.rounds()
    history = measured(manifest, outcomes)
    known = [one.evaluation for one in history if one.evaluation is not None]
    status.evaluations = [one.as_dict(manifest) for one in history]
    status.evaluation = known[-1].as_dict() if known else {}
    status.ended = why_over(manifest, store.place, outcomes)
    if status.ended:
        status.phase = "done"


def _finite(epsilon: float) -> float | None:
    return epsilon if math.isfinite(epsilon) else None


class Rounds:
    """Carries out what the machine asks for; implements :class:`p2pfl.node.shell.Work`.

    ``exclude`` is called for what excludes somebody, once that is on disk; ``now`` are seconds since 1970.
    """

    def __init__(
        self,
        manifest: Manifest,
        learner: Learner,
        store: Store,
        status: Status,
        thread: OneThread,
        ask: Ask,
        connected: Callable[[], Collection[PeerId]],
        exclude: Callable[[Ground], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._manifest = manifest
        self._learner = learner
        self._store = store
        self._status = status
        self._thread = thread
        self._ask = ask
        self._connected = connected
        self._exclude = exclude
        self._now = now
        self._agreeing = max(2, manifest.groups.colluders + 1)
        self._skipped_last = False
        self._epoch: EpochBegan | None = None
        self._participation = participation(manifest, store, PeerId(status.peer))
        self._last_signed = LastSigned(store.receipts())
        self._compared = False  # our ledger, with what others hold of us
        self._missed = {share.peer for share in self._participation.shares() if share.low}
        self.done = False
        self._contributed = False
        self._one_serves = trio.Lock()
        self._served: tuple[bytes, bytes] | None = None
        self.begun = trio.Event()
        """A round of this process has ended."""

    def show(self, cost: Cost) -> None:
        """``cost`` was computed when this process began: what has been paid since is not in it."""
        if self._contributed:
            cost.show_the_end(self._status)
        else:
            cost.show(self._status)

    def summary(self) -> Summary:
        """What this node tells the members that ask."""
        return Summary(tuple((release.round, release.digest) for release in self._learner.recent), self.done)

    async def state(self, digest: bytes) -> bytes | None:
        """The release that ``digest`` names, if it is one of the two latest: of the one that was asked for
        last the bytes are kept until the model changes, so that many who catch up cost what one does.
        """
        async with self._one_serves:
            if self._served is None or self._served[0] != digest:
                release = next((each for each in self._learner.recent if each.digest == digest), None)
                if release is None:
                    return None
                self._served = None  # never two at a time
                self._served = digest, await trio.to_thread.run_sync(release.to_bytes)
            return self._served[1]

    async def prepare(self, effect: Begin) -> Prepared | None:
        if not self._compared:
            await self._require_newest_ledger()
        if self._learner.behind(effect.round):
            await self._catch_up(effect.round)
        if self._skipped_last and await self._others_ended():
            return None
        prepared = await self._thread(lambda: self._prepare(effect.round))
        self._enter("learning")  # again, if we were waiting for members within an epoch
        self._status.round, self._status.group = effect.round, list(effect.group)
        self._status.stage = "done" if prepared is None else prepared.stage
        self._status.ended = ""
        self._status.idle = self._learner.idle
        await self._write_status()
        return prepared

    def last_signed(self, peer: PeerId) -> bytes:
        """What ``peer`` has signed last, as far as this node knows."""
        return self._last_signed.of(peer)

    async def _require_newest_ledger(self) -> None:
        """Raises StorageError if members know of a later round of ours than our ledger."""
        answers = await ask_everybody(self._ask, self._connected(), REQUEST, MAX_ANSWER_BYTES)
        await self._thread(lambda: self._store.require_newest(answers.items()))
        self._compared = True

    def _prepare(self, round: int) -> Prepared | None:
        if self._epoch is not None:
            self._store.enter_epoch(self._epoch.first_round, self._epoch.roster)
        return self._learner.prepare(round)

    async def _catch_up(self, before: int | None) -> None:
        ours = -1 if self._learner.released is None else self._learner.released.round
        state = await agreed_state(
            self._ask,
            self._connected,
            self._fetch,
            (ours, MOST_ROUNDS if before is None else before),
            self._agreeing,
            lambda released: self._learner.plausible(released, before),
        )
        if state is not None:
            await self._thread(lambda: self._learner.adopt(state))
            self._served = None

    async def _fetch(self, peer: PeerId, digest: bytes) -> Released:
        dimensions = self._learner.dimensions
        data = await self._ask(peer, "state", digest, 8 * sum(dimensions) + 64)
        return await self._thread(lambda: Released.from_untrusted(data, *dimensions))

    async def over_without_us(self) -> bool:
        """Whether we wait in vain: enough neighbours, and most of them, say that the programme is over, and
        we hold the final model, or the one they ended with, or went on from it where they did not.
        """
        return self._status.phase != "learning" and await self._others_ended()

    async def _others_ended(self) -> bool:
        connected = self._connected()
        summaries = await ask_summaries(self._ask, connected, most_are_enough=True)
        done = [summary for summary in summaries.values() if summary.done]
        if len(done) < max(self._agreeing, len(connected) // 2 + 1):
            return False
        await self._catch_up(None)
        ours = self._learner.released
        if ours is None:
            return False
        alike = sum((ours.round, ours.digest) in summary.releases for summary in done)
        newer = any(round > ours.round for summary in done for round, _ in summary.releases)
        return self._learner.trained or alike >= self._agreeing or not newer

    async def contribute(self, effect: Contribute) -> Contribution:
        values = await self._thread(lambda: self._learner.contribute(effect))
        # Out of date from now on, and slow to compute: shown again when the programme is over.
        self._contributed = True
        self._status.epsilon = self._status.epsilon_rdp = None
        self._status.ladder = []
        return Contribution(effect.round, values)

    async def completed(self, effect: Completed) -> None:
        await self._thread(lambda: self._learner.completed(effect))
        self._served = None
        self._count_participation(effect)
        self._skipped_last = False
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
        if effect.stage == "evaluation":
            await self._thread(lambda: recall_evaluations(self._status, self._manifest, self._store))
        await self._write_status()
        self.begun.set()

    async def agreed(self, effect: Agreed) -> None:
        self._last_signed.note(effect.results)
        await self._thread(lambda: self._store.record_agreement(effect.round, effect.results))

    def _count_participation(self, effect: Completed) -> None:
        """Say so loudly if somebody has gone, once, and if it is here again."""
        self._participation.count(effect.course.group or effect.members, effect.survivors, self._now())
        shares = self._participation.shares()
        low = {share.peer: share for share in shares if share.low}
        for peer in low.keys() - self._missed:
            log.warning("missed: %s; find out whether that organisation still runs its node", low[peer])
        for peer in self._missed - low.keys():
            log.info("peer %s takes part again", peer)
        self._missed = set(low)
        self._status.participation = [share.as_dict() for share in shares]

    async def skipped(self, effect: Skipped) -> None:
        await self._thread(lambda: self._learner.skipped(effect))
        self._skipped_last = True
        self._status.skipped += 1
        self._status.last_skip = effect.reason
        stage = f" ({effect.stage})" if effect.stage else ""  # none if it was over before we had trained
        log.warning("round %d%s skipped: %s", effect.round, stage, effect.reason)
        await self._write_status()
        self.begun.set()

    async def evidence(self, effect: Evidence) -> None:
        match effect.messages:
            case (ground,) if isinstance(ground, Ground):
                await self._excluded(ground)
            case messages:
                log.error("peer %s broke the protocol (%s); what it signed is kept", effect.peer, effect.kind)
                wires = [without_payload(message) for message in messages]
                await self._thread(lambda: self._store.keep_evidence(effect.peer, effect.kind, wires))

    async def _excluded(self, ground: Ground) -> None:
        exclusion = Exclusion(int(self._now()), ground)
        await self._thread(lambda: self._store.exclude(exclusion))
        self._exclude(ground)
        self._participation.leave(ground.against)
        self._missed.discard(ground.against)
        self._status.participation = [share.as_dict() for share in self._participation.shares()]
        if isinstance(ground, Retirement):
            log.warning("peer %s takes part no more: %s", ground.against, ground.why)
        elif ground.against == self._status.peer:
            remedy = _NEW_IDENTITY if isinstance(ground, Accusation) else _ASK_ISSUERS
            log.error("this node is excluded: %s; %s", ground.why, remedy)
        else:
            log.error("peer %s is excluded: %s", ground.against, ground.why)

    def epoch_began(self, effect: EpochBegan) -> None:
        self._learner.population = len(effect.roster)
        self._participation.enter(effect.roster)
        self._epoch = effect
        self._status.epoch = effect.epoch
        self._enter("learning")
        log.info("epoch %d began with %d members", effect.epoch, len(effect.roster))

    def waiting(self, effect: Waiting) -> None:
        self._enter("waiting")
        log.info("waiting: %s", effect.reason)

    def _enter(self, phase: str) -> None:
        if not self.done:
            self._status.phase = phase

    async def finish(self) -> None:
        """The programme is over: work out what this node may show, and say so to the peers that ask."""
        await self._thread(self._summarise)
        self.done = True
        self._status.phase = "done"
        await self._write_status()
        log.info("the programme is over: %s; the model is %s", self._status.ended, self._status.model)
        missed = missed_on_the_whole(self._status.participation)
        if missed:
            log.warning("the federation ended without some of its members: %s", missed)

    def _summarise(self) -> None:
        recall(self._status, self._manifest, self._store)
        recall_epsilon(self._status, self._manifest, self._store)
        if not self._status.ended and self._learner.trained:
            self._status.ended = f"all {self._manifest.training.rounds} training rounds are over"
        self._status.ended = self._status.ended or "most of the members that are here say so"
        own = self._learner.own_evaluation()
        self._status.own_evaluation = {} if own is None else own.as_dict()

    async def _write_status(self) -> None:
        self._status.connected = len(self._connected())

        def write() -> None:
            self._status.model = str(self._store.model_path or "")
            self._status.write(self._store.directory)

        await self._thread(write)
