"""What a round is for, at this node: local training before it, the released model after it.

The learner decides the stage of every round from the released state alone, so members with the same state
agree without a word:

    statistics   nothing released yet: the sum of every record's preprocessing statistics
    mixing       if one group cannot hold everybody: average these until all groups agree
    training     the manifest's number of rounds from ``training_start`` on
    evaluation   after the last training round, until one completed (EVALUATION_TRIES rounds at most)

It is synchronous and slow (torch, SQLite): the daemon calls it on a thread of its own. Nothing it returns
leaves the node before :meth:`Learner.contribute` has written the ledger.
"""

import logging
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.randomness import RandomBytes
from p2pfl.crypto.ring import decode
from p2pfl.gossip.errors import LocalProtocolError
from p2pfl.gossip.events import Completed, Contribute, Prepared, Skipped
from p2pfl.gossip.manifest import Manifest
from p2pfl.gossip.messages import Limits
from p2pfl.node.contribution import LazyContribution
from p2pfl.node.privacy import Budget, StagePlan, stage_plan
from p2pfl.node.released import Released
from p2pfl.node.store import RoundOutcome, Store
from p2pfl.node.training.trainer import Evaluation, Trainer

log = logging.getLogger(__name__)

EVALUATION_TRIES = 3
_CONSENSUS = 1e-4  # of their size; the ring's grid is hardly finer for sums of record counts


@dataclass(frozen=True, slots=True)
class _Pending:
    """What this node would add to the sum of ``round``, before encoding."""

    round: int
    stage: str
    values: NDArray[np.float64]
    charged: bool


def mixing_rounds(population: int, size: int) -> int:
    """Rounds of group averaging until the groups' statistics agree to one part in ten thousand.

    0 if one group holds everybody.

    A round of random groups contracts the variance by (n - k) / (k (n - 1)) (Moshpit SGD, Ryabinin
    et al. 2021).
    """
    if population < 2 * size:
        return 0
    contraction = (population - size) / (size * (population - 1))
    return math.ceil(math.log(_CONSENSUS**2) / math.log(contraction))


def most_mixing_rounds(size: int) -> int:
    """What :func:`mixing_rounds` is at most, whatever the population: the limit of many nodes."""
    return math.ceil(math.log(_CONSENSUS**2) / math.log(1 / size))


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
        self.population = 1
        self.released = store.released()
        self.recent: tuple[Released, ...] = () if self.released is None else (self.released,)
        evaluation = store.evaluation()
        self.federation_evaluation = None if evaluation is None else Evaluation(*evaluation)

    # -- which stage
    @property
    def last_training_round(self) -> int | None:
        if self.released is None:
            return None
        return self.released.training_start + self._manifest.training.rounds - 1

    @property
    def trained(self) -> bool:
        """Whether we hold the model of the last training round."""
        last = self.last_training_round
        return self.released is not None and last is not None and self.released.round >= last

    def stage(self, round: int) -> str | None:
        """The stage of ``round``; None when there is nothing left to do."""
        last = self.last_training_round
        if self.released is None or last is None:
            return "statistics"
        if round < self.released.training_start:
            return "mixing"
        if round <= last:
            return "training"
        wanted = self.federation_evaluation is None and round <= last + EVALUATION_TRIES
        return "evaluation" if wanted and self._budget.allows(self._plan("evaluation")) else None

    @property
    def done(self) -> bool:
        """Whether the programme was over for this node before it started: evaluated, or with nothing left to
        evaluate with.
        """
        evaluated = self.federation_evaluation is not None
        return evaluated or (self.trained and self.stage(self.next_round) is None)

    @property
    def next_round(self) -> int:
        """The first round that this node may contribute to: never one it may have sent masked data in."""
        released = -1 if self.released is None else self.released.round
        return 1 + max(released, self._store.last_contribution())

    def behind(self, round: int) -> bool:
        """Whether others must have released a model that we lack, so that it is worth asking for."""
        if self.released is None:
            return round > 0
        return self.released.round < round - 1

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
        start, size = released.training_start, self._manifest.groups.size
        last = start + self._manifest.training.rounds - 1
        if not (1 <= start <= released.round + 1 + most_mixing_rounds(size) and released.round <= last):
            return False
        if before is not None and released.round >= before:
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

    def warm_up(self) -> None:
        """Do the slow arithmetic of the first training round now, while the federation gathers.

        The accountant remembers what it computed, so asking about the ledger that there will be after the
        statistics is enough.
        """
        if self._manifest.privacy.mode == "none":
            return
        charges = self._store.mechanisms()
        if self.released is None:
            charges.append(self._plan("statistics").mechanism(self._manifest.groups.thresholds))
        Budget(self._manifest.privacy, charges).allows(self._plan("training"))

    # -- before the sum
    def prepare(self, round: int) -> Prepared | None:
        """Do the local work of ``round``; None when the program is finished."""
        stage = self.stage(round)
        if stage is None:
            return None
        self._pending = _Pending(round, stage, *self._local_work(stage))
        digest = b"\0" * 32 if self.released is None else self.released.digest
        plan = self._plan(stage)
        spent = plan.charged and stage != "mixing" and not self._pending.charged
        return Prepared(round, stage, len(self._pending.values), digest, plan.encoding.ring, spent)

    def _local_work(self, stage: str) -> tuple[NDArray[np.float64], bool]:
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
        if stage == "evaluation":
            return self._trainer.evaluation(released.parameters, released.statistics), True
        if not self._budget.allows(self._plan(stage)):
            log.warning("privacy budget spent: this round adds no training on our records")
            return self._trainer.contribution(released.parameters, released.statistics, train=False), False
        return self._trainer.contribution(released.parameters, released.statistics), True

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
        values = np.zeros(len(pending.values))
        if pending.stage == "training" and self.released is not None:
            values = self.released.parameters.copy()
        return replace(pending, values=values, charged=False)

    # -- after the sum
    def completed(self, effect: Completed) -> None:
        """Apply the sum of a round: a new released state, or the federation's evaluation."""
        plan = self._plan(effect.stage)
        total = decode(effect.total, plan.encoding)
        members = len(effect.survivors)
        sums: tuple[float, float, float] | None = None
        if effect.stage == "evaluation":
            correct, count, loss = map(float, total)
            sums = (correct, count, loss)
            self.federation_evaluation = Evaluation(*sums)
        elif effect.stage == "statistics":
            start = effect.round + 1 + mixing_rounds(self.population, self._manifest.groups.size)
            self._release(Released(effect.round, start, total / members, self._trainer.initial_parameters()))
        elif self.released is None:
            raise LocalProtocolError(f"a {effect.stage} round completed before the statistics")
        elif effect.stage == "mixing":
            self._release(replace(self.released, round=effect.round, statistics=total / members))
        else:
            mean = self._trainer.mean(total, members)
            self._release(replace(self.released, round=effect.round, parameters=mean))
        group = (effect.members, effect.survivors)
        cut = self._count_cut(effect.round)
        self._store.record_round(
            RoundOutcome(effect.round, effect.stage, *group, "", True, cut, evaluation=sums)
        )

    def _release(self, released: Released) -> None:
        self.released = released
        self.recent = (released, *self.recent)[:2]
        self._store.save_released(released)

    def skipped(self, effect: Skipped) -> None:
        """A skipped round leaves the model as it is; what was charged stays charged."""
        self._pending = None
        how = (effect.reason, effect.sent_masked, self._count_cut(effect.round))
        self._store.record_round(RoundOutcome(effect.round, effect.stage, (), (), *how))

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

    def own_evaluation(self) -> Evaluation | None:
        """This node's accuracy on its own test records: printed here, never sent."""
        return (
            None
            if self.released is None
            else self._trainer.evaluate(self.released.parameters, self.released.statistics)
        )
