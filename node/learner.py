"""What a round does at this node: local work before it, the released model after it.

Which stage a round is, members agree on without a word (:mod:`p2pfl.node.programme`).

It is synchronous and slow (torch, SQLite): the daemon calls it on a thread of its own. Nothing it returns
leaves the node before :meth:`Learner.contribute` has written the ledger.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.randomness import RandomBytes
from p2pfl.crypto.ring import decode
from p2pfl.gossip.errors import LocalProtocolError
from p2pfl.gossip.events import Completed, Contribute, Prepared, Skipped
from p2pfl.gossip.manifest import Manifest
from p2pfl.gossip.messages import Limits, result_digest
from p2pfl.node.contribution import LazyContribution
from p2pfl.node.evaluations import Measured, counts, measured, vote
from p2pfl.node.privacy import Budget, StagePlan, stage_plan
from p2pfl.node.programme import (
    Programme,
    Stage,
    in_programme,
    mixing_rounds,
    stage_of,
    vote_rounds,
    voted_to_end,
)
from p2pfl.node.released import Released
from p2pfl.node.storage.receipts import RoundOutcome
from p2pfl.node.storage.store import Store
from p2pfl.node.training.metrics import Evaluation
from p2pfl.node.training.trainer import Trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Pending:
    """What this node would add to the sum of ``round``, before encoding."""

    round: int
    stage: str
    values: NDArray[np.float64]
    charged: bool


class Learner:
    """One node's learning. Not thread safe: call from one thread at a time."""

    def __init__(
        self, manifest: Manifest, trainer: Trainer, store: Store, budget: Budget, random: RandomBytes
    ) -> None:
        self._manifest = manifest
        self._trainer = trainer
        self._store = store
        self._budget = budget
        self._random = random
        self._pending: _Pending | None = None
        self._contributed: LazyContribution | None = None
        self._left_out = 0
        self.population = 1
        lost = store.lacks_model
        if lost:
            log.warning("%s is missing: the model of a neighbour is taken over", store.model_path)
        self.released = None if lost else store.released()
        self.recent: tuple[Released, ...] = () if self.released is None else (self.released,)
        self._before: NDArray[np.float64] | None = None  # what the last training round here began with
        self._learnt: NDArray[np.float64] | None = None  # private layers, kept only if the round completes
        self._recall_private()
        self.evaluations = measured(manifest, store.rounds())
        self._hollow = -1  # the last round of which our records stayed out because too little noise hid them

    # -- which stage
    @property
    def trained(self) -> bool:
        """Whether we hold the model of the last training round, or of the one that a vote made the last."""
        if self.released is None:
            return False
        return self.released.round >= self._last_training or voted_to_end(self._manifest, self.released.place)

    def stage(self, round: int) -> Stage | None:
        """The stage of ``round``; None when there is nothing left to do."""
        stage = stage_of(self._manifest, None if self.released is None else self.released.place, round)
        if stage != "evaluation" or round <= self._last_training:
            return stage
        return stage if not self._evaluated and self._budget.allows(self._plan(stage)) else None

    @property
    def _last_training(self) -> int | float:
        """The last training round, if no vote ends the federation before."""
        if self.released is None:
            return math.inf
        return Programme.of(self._manifest, self.released.place).last_training

    @property
    def _evaluated(self) -> bool:
        """Whether the evaluation after the last training round is over."""
        return bool(self.evaluations) and self.evaluations[-1].round > self._last_training

    @property
    def federation_evaluation(self) -> Evaluation | None:
        """The last one that counts."""
        known = (one.evaluation for one in reversed(self.evaluations) if one.evaluation is not None)
        return next(known, None)

    @property
    def done(self) -> bool:
        """Whether the programme was over for this node before it started: evaluated, or with nothing left to
        evaluate with, or ended by a vote.
        """
        return self._evaluated or (self.trained and self.stage(self.next_round) is None)

    @property
    def next_round(self) -> int:
        """The first round that this node may contribute to: never one it may have sent masked data in."""
        released = -1 if self.released is None else self.released.round
        return 1 + max(released, self._store.last_contribution())

    def behind(self, round: int) -> bool:
        """Whether others must have released a model that we lack, so that it is worth asking for."""
        if self.released is None:
            return round > 0
        return self.released.round < Programme.of(self._manifest, self.released.place).last_release(round)

    @property
    def dimensions(self) -> tuple[int, int]:
        """Of the statistics and of the parameters."""
        return self._trainer.dimension("statistics"), self._trainer.dimension("training")

    @property
    def message_limits(self) -> Limits:
        """What a masked vector of this federation may weigh."""
        return Limits(max(map(self._trainer.dimension, ("statistics", "training", "evaluation"))))

    def plausible(self, released: Released, before: int | None) -> bool:
        """Whether a federation of this manifest can have released this: nobody can make us hold nonsense.

        ``before``: the round that we are in, and nobody can have released later ones than the one before it;
        None if there is none, because the programme is over.
        """
        if not in_programme(self._manifest, released.place) or (
            before is not None and released.round >= before
        ):
            return False
        return self._decodable("statistics", released.statistics) and self._decodable(
            "training", released.parameters
        )

    def _decodable(self, stage: str, values: NDArray[np.float64]) -> bool:
        """Whether a sum of ``stage`` can be as large, in either direction."""
        encoding = self._plan(stage).encoding
        most = math.ldexp(1.0, encoding.ring.bits - 1 - encoding.fraction_bits)
        return bool(np.abs(values).max() <= most)

    def adopt(self, released: Released) -> None:
        """Take over a model that neighbours agree on, if it is newer than ours."""
        if self.released is None or released.round > self.released.round:
            self._release(released)
            log.info("took over the model of round %d from neighbours", released.round)

    @property
    def idle(self) -> str:
        """Why the last training round had no training here, though it was to have some; mostly empty."""
        return self._trainer.idle

    def warm_up(self) -> Callable[[], None]:
        """What does the slow arithmetic of the first rounds, while the federation gathers: to be called on
        any thread, because rounds must not wait for it.

        The accountant remembers what it computed, so asking about the ledger as it is, and as it will be
        after the statistics, is enough.
        """
        ledger, statistics = self._store.mechanisms(), self._plan("statistics")
        asked = [(ledger, self._plan("training"))]
        if self.released is None and statistics.charged:
            after = [*ledger, statistics.mechanism(self._manifest.groups.thresholds)]
            asked = [(ledger, statistics), (after, self._plan("training"))]

        def ask() -> None:
            for mechanisms, plan in asked:
                Budget(self._manifest.privacy, mechanisms).allows(plan)

        return ask

    # -- before the sum
    def prepare(self, round: int) -> Prepared | None:
        """Do the local work of ``round``; None when the program is finished."""
        stage = self.stage(round)
        if stage is None:
            return None
        self._left_out, self._learnt = 0, None
        self._trainer.round = round
        self._pending = _Pending(round, stage, *self._local_work(round, stage))
        digest = b"\0" * 32 if self.released is None else self.released.digest
        plan = self._plan(stage)
        spent = plan.charged and stage != "mixing" and not self._pending.charged
        return Prepared(round, stage, len(self._pending.values), digest, plan.encoding.ring, spent)

    def _local_work(self, round: int, stage: Stage) -> tuple[NDArray[np.float64], bool]:
        """The vector this node would contribute, and whether it touches records (and so costs epsilon)."""
        released = self.released
        if stage == "statistics":
            if self._budget.allows(self._plan(stage)):
                return self._trainer.statistics(), True
            log.warning("privacy budget spent: our records do not enter the statistics")
            return np.zeros(self._trainer.dimension(stage)), False
        if released is None:
            raise LocalProtocolError(f"no released state in stage {stage}")
        if stage == "mixing":
            return released.statistics, False
        if stage == "vote":
            own = vote(self._manifest, released.place, self.evaluations, round, self.population)
            return np.array([own]), False
        if stage == "evaluation":
            if self._budget.allows(self._plan(stage)):
                return self._trainer.evaluation(released.parameters, released.statistics), True
            log.warning("privacy budget spent: our test records do not enter this evaluation")
            return np.zeros(self._trainer.dimension(stage)), False
        if not self._budget.allows(self._plan(stage)):
            log.warning("privacy budget spent: this round adds no training on our records")
            return self._with_momentum(released.parameters), False
        trained = self._trainer.contribution(released.parameters, released.statistics)
        self._left_out, self._learnt = self._trainer.left_out, self._trainer.learnt_private
        return self._with_momentum(trained), True

    def _with_momentum(self, parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        """``parameters`` further on the way that the last training round led: what others know already, so it
        costs nothing. As they are after a restart or a model from neighbours, when that way is not known.
        """
        momentum = self._manifest.training.momentum
        if momentum == 0 or self._before is None or self.released is None:
            return parameters
        return parameters + momentum * (self.released.parameters - self._before)

    def _plan(self, stage: str) -> StagePlan:
        known = "statistics" if stage == "mixing" else stage
        return stage_plan(self._manifest, known, self._trainer.dimension(known))

    def contribute(self, effect: Contribute) -> LazyContribution:
        """Charge the ledger for the pending vector, and only then hand it out, to be encoded and noised as it
        is taken.

        Without our records if too few members of the roster have a budget to hide them.
        """
        pending, group, spent = self._pending, effect.thresholds, effect.spent
        if pending is None or pending.round != effect.round:
            raise LocalProtocolError(f"round {effect.round} asks for a contribution that was not prepared")
        self._pending = None
        plan = self._plan(pending.stage)
        if not plan.hides(group, spent):
            pending, spent = self._without_records(pending, spent), 0
        shared = None if pending.stage == "mixing" else group
        contribution = LazyContribution(pending.values, plan, shared, self._random, spent)
        mechanism = plan.mechanism(group, spent) if pending.charged and plan.charged else None
        self._store.charge(effect.round, mechanism, effect.members)
        if mechanism is not None:
            self._budget.spend(mechanism)
        self._contributed = contribution
        return contribution

    def _without_records(self, pending: _Pending, spent: int) -> _Pending:
        """``pending`` for a sum in which too few members have a budget for their noise to hide a record."""
        if not pending.charged:
            return pending
        log.warning(
            "round %d: our records stay out; the privacy budgets of %d members are spent, too many",
            pending.round,
            spent,
        )
        values, self._hollow = np.zeros(len(pending.values)), pending.round
        if pending.stage == "training" and self.released is not None:
            values = self._with_momentum(self.released.parameters)
        self._learnt = None
        return replace(pending, values=values, charged=False)

    # -- after the sum
    def completed(self, effect: Completed) -> None:
        """Apply the sum of a round: a new released state, or the federation's evaluation."""
        plan = self._plan(effect.stage)
        total = decode(effect.total, plan.encoding)
        members = len(effect.survivors)
        sums: tuple[float, ...] | None = None
        if effect.stage == "evaluation":
            sums = self._count_evaluation(effect, total)
        elif effect.stage == "statistics":
            start = effect.round + 1 + mixing_rounds(self.population, self._manifest.groups.size)
            mean, length = total / members, vote_rounds(self._manifest, self.population)
            model = self._trainer.initial_parameters(mean)
            self._release(Released(effect.round, start, mean, model, length))
        elif self.released is None:
            raise LocalProtocolError(f"a {effect.stage} round completed before the statistics")
        elif effect.stage == "mixing":
            self._release(self._mixed(self.released, effect.round, total / members))
        elif effect.stage == "vote":
            before, votes = self._before, min(max(float(total[0]) / members, 0.0), 1.0)
            self._release(replace(self.released, round=effect.round, votes=votes))
            self._before = before
        else:
            mean, before = self._trainer.mean(total, members), self.released.parameters
            self._release(replace(self.released, round=effect.round, parameters=mean, votes=0.0))
            self._before = before
            self._keep_private()
        group = (effect.members, effect.survivors)
        cut, left_out = self._count_cut(effect.round), self._count_left_out(effect.round)
        outcome = RoundOutcome(effect.round, effect.stage, *group, "", True, cut, sums, left_out)
        settled = effect.course.settled
        self._store.record_round(outcome, effect.course, settled and result_digest(settled, effect.total))

    def _mixed(self, released: Released, round: int, statistics: NDArray[np.float64]) -> Released:
        """``released`` with these statistics; values from a file are restated for the scales that follow."""
        parameters = released.parameters
        if self._manifest.model.initial:
            parameters = self._trainer.initial_parameters(statistics)
        return replace(released, round=round, statistics=statistics, parameters=parameters)

    def _count_evaluation(self, effect: Completed, total: NDArray[np.float64]) -> tuple[float, ...] | None:
        """The sums of an evaluation; None if too little is in them to say anything."""
        evaluation = Evaluation.of(self._manifest, total)
        enough = self._hollow != effect.round and counts(self._manifest, evaluation)
        if not enough:
            log.warning("round %d: the evaluation does not count: too few records in it", effect.round)
        kept = evaluation if enough else None
        self.evaluations.append(Measured(effect.round, len(effect.survivors), kept))
        return evaluation.sums if enough else None

    def _recall_private(self) -> None:
        size = len(self._trainer.private)
        kept = self._store.private(size) if size else None
        if kept is not None:
            self._trainer.private = kept

    def _keep_private(self) -> None:
        """What the private layers learnt in a round that has completed, and so has been charged."""
        learnt, self._learnt = self._learnt, None
        if learnt is not None:
            self._trainer.private = learnt
            self._store.save_private(learnt)

    def _release(self, released: Released) -> None:
        self.released, self._before = released, None
        self.recent = (released, *self.recent)[:2]
        self._store.save_released(released)

    def skipped(self, effect: Skipped) -> None:
        """A skipped round leaves the model as it is; what was charged stays charged."""
        self._pending = None
        how = (effect.reason, effect.sent_masked, self._count_cut(effect.round))
        left_out = self._count_left_out(effect.round)
        outcome = RoundOutcome(effect.round, effect.stage, (), (), *how, left_out=left_out)
        self._store.record_round(outcome, effect.course)

    def _count_cut(self, round: int) -> int:
        """How many values of what we contributed to ``round``, which is over, were beyond the limit."""
        contribution, self._contributed = self._contributed, None
        if contribution is None or contribution.saturated == 0:
            return 0
        log.warning(
            "round %d: %d of our %d parameters were beyond %g and were cut, so the average lacks part of what"
            " this node learnt; if it goes on, found a federation with a larger training.parameter_limit or a"
            " lower training.learning_rate",
            round,
            contribution.saturated,
            len(contribution),
            self._manifest.training.parameter_limit,
        )
        return contribution.saturated

    def _count_left_out(self, round: int) -> int:
        """How often in ``round``, which is over, a record of ours had a gradient that was not finite."""
        left_out, self._left_out = self._left_out, 0
        if left_out:
            log.warning(
                "round %d: %d gradients of our records were not finite and counted as zero: these records"
                " taught nothing; look for absurd values among them, and if it goes on, found a federation"
                " with a lower training.learning_rate",
                round,
                left_out,
            )
        return left_out

    def own_evaluation(self) -> Evaluation | None:
        """How the model does on this node's own test records: printed here, never sent."""
        return (
            None
            if self.released is None
            else self._trainer.evaluate(self.released.parameters, self.released.statistics)
        )
